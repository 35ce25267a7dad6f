"""One ordinary call of each op: what every op must do is tested on all of them in test_all_ops.py."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import dynfocus_ops
from dynfocus_ops.backends import interpreted

SEED = torch.tensor(-1234567890123)


SAMPLES = 20 if interpreted() else 70  # of a row, one tile's or more than the reference takes at a time


@dataclass(frozen=True)
class Case:
    name: str
    inputs: Callable[[int], tuple[Tensor, ...]]  # for T samples; the first dimension of each is T
    call: Callable[..., Any]  # the public function on them
    op_args: Callable[..., tuple[Any, ...]]  # the arguments of torch.ops.dynfocus.<name>, but for the backend
    differentiable: tuple[bool, ...]  # which of the inputs
    independent: bool = True  # whether each sample's result stands alone


def points(T: int, N: int = 21, C: int = 12) -> Tensor:
    return torch.randn(T, N, C)


def points_mask_noise(T: int) -> tuple[Tensor, ...]:
    mask = torch.rand(T, 21) > 0.3
    mask[:, :8] = True
    return points(T), mask, torch.rand(T, 21) * 1e-3


def ragged_points(T: int) -> tuple[Tensor, ...]:
    x, mask, _ = points_mask_noise(T)
    return x.flatten(0, 1), torch.arange(T + 1) * 21, mask.flatten()


def assigned(T: int) -> tuple[Tensor, ...]:
    return points(T), torch.randint(-1, 6, (T, 21)), torch.rand(T, 21) + 0.1


def centered(T: int) -> tuple[Tensor, ...]:
    return points(T), torch.stack([torch.randperm(21)[:5] for _ in range(T)])


def frames_and_queries(T: int) -> tuple[Tensor, ...]:
    mask = torch.rand(T, 7) > 0.4
    mask[:, 3] = True
    return points(T), torch.randn(T, 7, 12), torch.randperm(T), mask


def key_frames(T: int) -> tuple[Tensor, ...]:
    key = torch.randperm(T)[: max(1, T // 2)]
    return torch.randn(len(key), 3, 5), torch.randn(T, 2, 5), key


CASES = [
    Case(
        "dpc_knn",
        points_mask_noise,
        lambda x, mask, noise, **kw: dynfocus_ops.dpc_knn(x, 5, 4, mask=mask, noise=noise, **kw),
        lambda x, mask, noise: (x, 5, 4, mask, None, noise),
        (True, False, True),
    ),
    Case(
        "knn_log_density",
        points_mask_noise,
        lambda x, mask, noise, **kw: dynfocus_ops.knn_log_density(x, 4, mask=mask, noise=noise, **kw),
        lambda x, mask, noise: (x, 4, mask, 3.0, noise),
        (True, False, True),
    ),
    Case(
        "density_peak_distance",
        lambda T: (points(T), torch.randn(T, 21)),
        lambda x, log_density, **kw: dynfocus_ops.density_peak_distance(x, log_density, **kw),
        lambda x, log_density: (x, log_density, None, None),
        (True, True),
    ),
    Case(
        "nearest_center",
        centered,
        lambda x, centers, **kw: dynfocus_ops.nearest_center(x, centers, **kw),
        lambda x, centers: (x, centers, None),
        (True, False),
    ),
    Case(
        "dpc_knn_varlen",
        ragged_points,
        lambda x, cu, mask, **kw: dynfocus_ops.dpc_knn_varlen(x, cu, 5, 4, max_seqlen=21, mask=mask, **kw),
        lambda x, cu, mask: (x, cu, [5], [4], 21, mask, None, None),
        (True, False, False),
        independent=False,
    ),
    Case(
        "cluster_mean",
        assigned,
        lambda x, assignment, weight, **kw: dynfocus_ops.cluster_mean(x, assignment, 6, weight, **kw),
        lambda x, assignment, weight: (x, assignment, 6, weight, 0.0),
        (True, False, True),
    ),
    Case(
        "spatial_prototypes",
        lambda T: (points(T),),
        lambda x, **kw: dynfocus_ops.spatial_prototypes(x, ((8, 4), (3, 3)), **kw),
        lambda x: (x, [8, 3], [4, 3]),
        (True,),
    ),
    Case(
        "rods_pool",
        frames_and_queries,
        lambda x, q, frame, mask, **kw: dynfocus_ops.rods_pool(x, q, frame_query=frame, query_mask=mask, **kw),
        lambda x, q, frame, mask: (x, q, frame, mask, None),
        (True, True, False, False),
        independent=False,
    ),
    Case(
        "perturbed_topk",
        lambda T: (torch.rand(T, 11),),
        lambda scores, **kw: dynfocus_ops.perturbed_topk(scores, 4, num_samples=SAMPLES, seed=SEED, **kw),
        lambda scores: (scores, 4, SAMPLES, 0.1, SEED, None, False, "full"),
        (True,),
        independent=False,  # sample b draws the numbers of place b
    ),
    Case(
        "pack_frame_tokens",
        key_frames,
        lambda fine, coarse, key, **kw: dynfocus_ops.pack_frame_tokens(fine, coarse, key, **kw),
        lambda fine, coarse, key: (fine, coarse, key),
        (True, True, False),
        independent=False,
    ),
]
