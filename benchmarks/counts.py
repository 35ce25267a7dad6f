"""What any way of computing an op has to do at the least: FLOPs, bytes read, bytes written.

FLOPs are those of matrix products and of means, a multiplication and an addition each one; what is done to a product's
results is left out. Each input is read once and each output written once; what a kernel keeps or reads again is its own
affair. `itemsize` is that of tokens and features: scores are float32, indices int64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from dynfocus.connector import ConnectorSettings
from dynfocus.token_budget import TokenPlan

INDEX, SCORE = 8, 4  # bytes


@dataclass(frozen=True)
class Cost:
    flops: int
    read: int  # bytes
    written: int  # bytes

    @property
    def nbytes(self) -> int:
        return self.read + self.written

    def __add__(self, other: Self) -> "Cost":
        return Cost(self.flops + other.flops, self.read + other.read, self.written + other.written)


NOTHING = Cost(0, 0, 0)


def gram_flops(n: int, c: int, tile: int = 0) -> int:
    """FLOPs of the symmetric n x n product of n points: half of it, or all square tiles that meet that half."""
    return min(n * (n + tile), 2 * n * n) * c


def dpc_knn(b: int, n: int, c: int, clusters: int, itemsize: int, tile: int = 0) -> Cost:
    """Assignment, centres, log-density and distance of x [B, N, C]."""
    return Cost(b * gram_flops(n, c, tile), b * n * c * itemsize, b * (n * (INDEX + 2 * SCORE) + clusters * INDEX))


def dpc_knn_varlen(lengths: Sequence[int], c: int, clusters: Sequence[int], itemsize: int, tile: int = 0) -> Cost:
    costs = (dpc_knn(1, n, c, own, itemsize, tile) for n, own in zip(lengths, clusters, strict=True))
    return sum(costs, NOTHING)


def dpc_knn_stored(n: int, c: int, clusters: int, itemsize: int, tile: int) -> Cost:
    """One sample, its distances [N, N] written once and read twice: for the densities and for the rest."""
    distances = n * n * SCORE
    return dpc_knn(1, n, c, clusters, itemsize, tile) + Cost(0, 2 * distances, distances)


def dpc_knn_streamed(n: int, c: int, clusters: int, itemsize: int) -> Cost:
    """One sample, no distance kept: all of the product for the densities, and once more of all points with the centres.

    The product of the peaks (points denser than their neighbours) comes on top: how many there are is the input's.
    """
    once = dpc_knn(1, n, c, clusters, itemsize, tile=n)
    return once + Cost(2 * n * clusters * c, 0, 0)


def cluster_mean(b: int, n: int, c: int, clusters: int, itemsize: int) -> Cost:
    return Cost(b * n * c, b * n * (c * itemsize + INDEX), b * clusters * c * itemsize)


def cluster_mean_backward(b: int, n: int, c: int, clusters: int, itemsize: int) -> Cost:
    """Each point's gradient is a mean's, divided."""
    return Cost(b * clusters * c, b * (clusters * c * itemsize + n * INDEX), b * n * c * itemsize)


def spatial_prototypes(t: int, n: int, c: int, levels: Sequence[Sequence[int]], itemsize: int, tile: int = 0) -> Cost:
    """levels: (num_clusters, k) of each. What a level passes to the next is not read again."""
    flops = means = indices = 0
    points = n
    for clusters, _ in levels:
        flops += gram_flops(points, c, tile) + points * c
        means += clusters
        indices += points
        points = clusters
    return Cost(t * flops, t * n * c * itemsize, t * (means * c * itemsize + indices * INDEX))


def rods_pool(t: int, m: int, c: int, q: int, itemsize: int, rows: int = 1) -> Cost:
    """tokens [T, M, C], queries [rows, Q, C]: the logits, the mean weights times the tokens, the tokens' mean."""
    flops = t * m * c * (2 * q + 2 + 1)
    return Cost(flops, (t * m + rows * q) * c * itemsize, 2 * t * c * itemsize)


def rods_pool_backward(t: int, m: int, c: int, q: int, itemsize: int, rows: int = 1) -> Cost:
    """The logits again; dp = G dE; dG = p dE^T + dS^T Q + dmean; dQ = dS G."""
    flops = t * m * c * (2 * q + 2 + (2 + 2 * q + 1) + 2 * q)
    queries = rows * q * c * itemsize
    return Cost(flops, t * (m + 2) * c * itemsize + queries, t * m * c * itemsize + queries)


def perturbed_topk(b: int, length: int, k: int) -> Cost:
    """No product: integer work in registers."""
    return Cost(0, b * length * SCORE, b * k * length * SCORE)


def perturbed_topk_backward(b: int, length: int, k: int) -> Cost:
    return Cost(0, b * (k + 1) * length * SCORE, b * length * SCORE)


def pack_frame_tokens(t: int, k: int, fine: int, d: int, itemsize: int, coarse: int = 2) -> Cost:
    tokens = (k * fine + t * coarse) * d * itemsize
    return Cost(0, tokens + k * INDEX, tokens + (t + 1) * INDEX)


def pack_frame_tokens_backward(t: int, k: int, fine: int, d: int, itemsize: int, coarse: int = 2) -> Cost:
    tokens = (k * fine + t * coarse) * d * itemsize
    return Cost(0, tokens + k * INDEX, tokens)


def linear(rows: int, width_in: int, width_out: int, itemsize: int) -> Cost:
    """rows x width_in times a weight; biases and what follows elementwise are left out."""
    read = (rows + width_out) * width_in * itemsize
    return Cost(2 * rows * width_in * width_out, read, rows * width_out * itemsize)


def pooling(t: int, n: int, c: int, pooled: int, itemsize: int) -> Cost:
    """Means over the patches [T, N, C] of each of `pooled` squares."""
    return Cost(t * n * c, t * n * c * itemsize, t * pooled * c * itemsize)


def connector(
    settings: ConnectorSettings,
    plan: TokenPlan,
    patches: tuple[int, int],
    text: tuple[int, int],
    d: int,
    itemsize: int,
    tile: int = 0,
) -> dict[str, Cost]:
    """The parts of the connector's forward pass for one video: patches [T, N, C] and text [Q, width] to tokens [., D].

    Temporal clustering by distances, prototypes as the rods' tokens, two projectors: the settings' defaults.
    """
    (n, c), (q, text_width) = patches, text
    t, events, pooled = plan.num_frames, plan.num_events, settings.pool_size**2
    prototypes = sum(clusters for clusters, _ in settings.spatial_levels)

    def projector(rows: int) -> Cost:
        return linear(rows, c, d, itemsize) + linear(rows, d, d, itemsize)

    return {
        "pooling": pooling(t, n, c, pooled, itemsize),
        "temporal clustering": dpc_knn(1, t, pooled * c, events, itemsize, 2 * tile),
        "event prototypes": cluster_mean(1, t, pooled * c, events, itemsize),
        "spatial prototypes": spatial_prototypes(t, n, c, settings.spatial_levels, itemsize, tile),
        "queries": linear(q, text_width, c, itemsize) + linear(q, c, c, itemsize),
        "rods": rods_pool(t, prototypes, c, q, itemsize),
        "projector of cones": projector(plan.cones_tokens),
        "projector of rods": projector(plan.rods_tokens),
        "packing": pack_frame_tokens(t, plan.num_key_frames, settings.fine_tokens, d, itemsize),
    }
