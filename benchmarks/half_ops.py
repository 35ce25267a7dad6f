"""The density half of dpc_knn by libraries that find nearest neighbours; none of them has the other half.

Each is optional: what cannot be imported is left out, and the report says why.
"""

import importlib
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

MODULES = {"FAISS": "faiss", "scikit-learn": "sklearn.neighbors", "KeOps": "pykeops.torch"}
WIDEST_KEOPS = 256  # channels: it unrolls them, and takes seconds a call beyond this


def knn_log_density_by(x: Tensor, k: int) -> dict[str, Callable[[], Tensor]]:
    """The libraries that are here and can do x [B, N, C], each to its log density [B, N]."""
    points = x.float()
    nearest = {"FAISS": _by_faiss, "scikit-learn": _by_sklearn, "KeOps": _by_keops}
    if x.shape[2] > WIDEST_KEOPS:
        del nearest["KeOps"]
    return {
        library: partial(_density, search, points, k)
        for library, search in nearest.items()
        if library not in left_out()
    }


def _density(search: Callable[[Tensor, int], Tensor], points: Tensor, k: int) -> Tensor:
    return -search(points, k).mean(-1) / points.shape[-1]


@cache
def left_out() -> dict[str, str]:
    """Why a library is not here, by library."""
    reasons = {}
    for library, module in MODULES.items():
        try:
            importlib.import_module(module)
        except Exception as error:  # one that is broken here must not stop the others
            reasons[library] = f"{type(error).__name__}: {error}"
    return reasons


def _by_faiss(points: Tensor, k: int) -> Tensor:
    """Squared distances [B, N, k] to the nearest, as the next two."""
    faiss: Any = importlib.import_module(MODULES["FAISS"])
    found = []
    for sample in points.numpy():
        index = faiss.IndexFlatL2(sample.shape[1])
        index.add(sample)
        found.append(torch.from_numpy(index.search(sample, k)[0]))
    return torch.stack(found)


def _by_sklearn(points: Tensor, k: int) -> Tensor:
    neighbors: Any = importlib.import_module(MODULES["scikit-learn"])
    search = neighbors.NearestNeighbors(n_neighbors=k, algorithm="brute", metric="sqeuclidean")
    return torch.stack([torch.from_numpy(search.fit(sample).kneighbors(sample)[0]) for sample in points.numpy()])


def _by_keops(points: Tensor, k: int) -> Tensor:
    pykeops: Any = importlib.import_module("pykeops")
    pykeops.set_verbose(False)
    rows, columns = (pykeops.torch.LazyTensor(points.unsqueeze(dim).contiguous()) for dim in (2, 1))
    squared: Tensor = ((rows - columns) ** 2).sum(-1).Kmin(k, dim=2)
    return squared
