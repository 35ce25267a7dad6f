"""Seeded inputs on which an original and its replacement must agree: ordinary ones, and those where copies differ.

The positions are those of the function's parameters, without `self`.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map


class Probe(NamedTuple):
    name: str
    args: tuple[Any, ...]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def points() -> Iterator[tuple[str, Tensor, int, int]]:
    """(name, x [B, N, C], clusters, neighbours)."""
    yield "tokens", draw(2, 40, 16), 6, 5
    yield "few tokens", draw(3, 9, 8, seed=1), 3, 4
    yield "tokens so far apart that the noise ranks them", 40 * draw(2, 40, 16, seed=2), 6, 5
    yield "tokens about as dense as the noise", 5 * draw(2, 40, 16, seed=12), 6, 5
    yield "as many clusters as tokens", draw(1, 7, 8, seed=3), 7, 3


def masked_points() -> Iterator[tuple[str, Tensor, int, int, Tensor]]:
    x, place = draw(3, 40, 16, seed=4), torch.arange(40)
    yield "empty tokens", x, 6, 5, torch.stack([place < 33, place % 3 > 0, place >= 8])
    yield "more clusters and neighbours than tokens", x, 6, 5, torch.stack([place < 3, place == 7, place < 0])


def clustering(
    parameters: set[str], mask_name: str, first: Callable[[Tensor], Any], mask_dtype: torch.dtype, *between: Any
) -> list[Probe]:
    probes = [Probe(name, (first(x), num, k, *between)) for name, x, num, k in points()]
    if mask_name in parameters:
        probes += [
            Probe(name, (first(x), num, k, *between, mask.to(mask_dtype))) for name, x, num, k, mask in masked_points()
        ]
    return probes


def also_in_bfloat16(make: Callable[[set[str]], list[Probe]]) -> Callable[[set[str]], list[Probe]]:
    """For dialects that compute in float32 whatever comes."""

    def both(parameters: set[str]) -> list[Probe]:
        halves = [Probe(f"{name}, in bfloat16", tree_map(to_bfloat16, args)) for name, args in make(parameters)]
        return make(parameters) + halves

    return both


def to_bfloat16(value: Any) -> Any:
    return value.bfloat16() if isinstance(value, Tensor) and value.is_floating_point() else value


def cluster_dict(parameters: set[str]) -> list[Probe]:
    return clustering(parameters, "token_mask", lambda x: {"x": x}, torch.int32)


def cluster_tensor(parameters: set[str]) -> list[Probe]:
    return clustering(parameters, "token_mask", lambda x: x, torch.int32)


def cluster_tensor_bool(parameters: set[str]) -> list[Probe]:
    return clustering(parameters, "valid_token_mask", lambda x: x, torch.bool)


def cluster_without_center(parameters: set[str]) -> list[Probe]:
    return [
        *(probe for probe in clustering(parameters, "token_mask", lambda x: x, torch.int32, 4)),
        Probe("an excluded centre", (draw(2, 40, 16), 6, 5, densest(draw(2, 40, 16)))),
    ]


def densest(x: Tensor) -> int:
    """A point that is a centre unless it is excluded."""
    return int(torch.cdist(x[:1], x[:1]).topk(5, largest=False).values.sum(-1).argmin())


def cluster_points(parameters: set[str]) -> list[Probe]:
    probes = [Probe(name, (x[0], num, k)) for name, x, num, k in points() if "noise" not in name]
    doubled = draw(20, 16, seed=5).repeat(2, 1)
    return [
        *probes,
        Probe("duplicates", (doubled, 6, 5)),
        Probe("weights", (draw(40, 16), 6, 5, draw(40, seed=6).exp())),
    ]


def cluster_and_merge(parameters: set[str]) -> list[Probe]:
    return [Probe(name, (x.requires_grad_(), num)) for name, x, num, _ in points()]


def labels(b: int, n: int, num: int) -> Tensor:
    return draw(b, n, seed=7).mul(100).long().remainder(num)


def merge_dict(parameters: set[str]) -> list[Probe]:
    def tokens() -> dict[str, Any]:
        return {
            "x": draw(2, 20, 6).requires_grad_(),
            "token_num": 20,
            "map_size": [5, 4],
            "init_grid_size": [10, 4],
            "idx_token": labels(2, 40, 20),
            "agg_weight": draw(2, 40, 1, seed=8).exp(),
            "mask": None,
        }

    weight = draw(2, 20, 1, seed=9)
    return [
        Probe("equal weights", (tokens(), labels(2, 20, 5), 5, None)),
        Probe("weights", (tokens(), labels(2, 20, 5), 5, weight.exp().requires_grad_())),
        Probe("weights near epsilon", (tokens(), labels(2, 20, 5), 5, (weight - 14).exp().requires_grad_())),
        Probe("an empty cluster", (tokens(), labels(2, 20, 5), 7, None)),
    ]


def merge_tensor(parameters: set[str]) -> list[Probe]:
    return [Probe(name, (args[0]["x"], *args[1:])) for name, args in merge_dict(parameters)]


def distance_and_targets(x: Tensor, num: int) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        distance = torch.cdist(x, x) / x.shape[-1] ** 0.5
    targets = torch.stack([draw(x.shape[1], seed=10 + b).argsort()[:num] for b in range(len(x))])
    return targets.sort(-1).values, distance


def merge_by_clustering(parameters: set[str]) -> list[Probe]:
    x, crowded = draw(2, 30, 8), draw(1, 6, 8, seed=1)
    return [
        Probe("tokens", (x.requires_grad_(), *distance_and_targets(x, 5), 5, 0.6)),
        Probe("clusters of one", (crowded.requires_grad_(), *distance_and_targets(crowded, 5), 5, 0.6)),
    ]


def merge_by_density(parameters: set[str]) -> list[Probe]:
    probes = [("tokens", 0.15, 7), ("few neighbours", 0.1, 3), ("none left", 0.01, 7)]
    position = torch.arange(40).expand(2, -1) * 3
    return [Probe(name, (draw(2, 40, 16), position, ratio, 0.6, neighbors)) for name, ratio, neighbors in probes]
