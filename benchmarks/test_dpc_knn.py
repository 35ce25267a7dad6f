"""dpc_knn: native, oracle and the research formula. Each result is compared with float64, and ours must equal it."""

import pytest
import torch

from benchmarks import research_formula
from dynfocus_ops import dpc_knn

SHAPES = {  # B, N, C, num_clusters, k
    "patches of 4 frames": (4, 256, 1408, 16, 8),
    "patches of 64 frames, level 2": (64, 16, 1408, 6, 3),
    "events of 512 frames": (1, 512, 1408, 25, 8),
    "2048 points": (1, 2048, 256, 64, 8),
}


@pytest.mark.parametrize("provider", ["cpu", "reference", "research"])
@pytest.mark.parametrize("shape", SHAPES)
def test_dpc_knn(benchmark, shape: str, provider: str) -> None:
    b, n, c, num_clusters, k = SHAPES[shape]
    x = torch.randn(b, n, c)
    if provider == "research":
        result = benchmark(research_formula.dpc_knn, x, num_clusters, k)
    else:
        result = benchmark(dpc_knn, x, num_clusters, k, backend=provider)
    expected = dpc_knn(x.double(), num_clusters, k)
    same = (result[0] == expected.assignment).all(1).float().mean().item()
    benchmark.extra_info["samples equal to float64"] = same
    if provider != "research":  # float32 through cdist's matrix product is not held to this
        assert same == 1.0
