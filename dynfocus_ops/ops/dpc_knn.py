from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynfocus_ops.backends import kernel_of, select_kernel
from dynfocus_ops.checks import (
    check_enough_points,
    check_int,
    check_noise,
    check_points,
    check_scores,
    promote,
    score_dtype,
)


class DPCKNN(NamedTuple):
    assignment: Tensor
    centers: Tensor
    log_density: Tensor
    delta: Tensor


def dpc_knn(
    x: Tensor,
    num_clusters: int,
    k: int,
    *,
    mask: Tensor | None = None,
    distance_scale: float | None = None,
    noise: Tensor | None = None,
    backend: str = "auto",
) -> DPCKNN:
    """Density-peaks clustering with k nearest neighbours (DPC-KNN).

    With d2(i, j) = |x_i - x_j|^2 / distance_scale:
      log rho_i = -mean of the k smallest d2(i, j), point i itself among them; with noise, log(rho_i + noise_i);
      delta_i = distance to the nearest denser point (of equals: the lower index);
                for the densest, the sample's largest distance;
      centres = the num_clusters highest log rho + log delta, highest first (of equals: the lower index).
    The lower index is the denser of equally dense points. Every point joins its nearest centre (of equals: the earlier
    one), a centre itself. Masked-out points are no one's neighbour, parent or centre.

    Args:
        x: points [B, N, C], float; float64 on the reference backend only.
        num_clusters: at most the number of valid points of each sample.
        k: neighbours, likewise.
        mask: bool [B, N], False for points to leave out.
        distance_scale: divides squared distances; C unless given.
        noise: [B, N], finite and >= 0, added to the density (not to its logarithm), as the published code does to break
            ties.
        backend: "auto" or a backend's name.

    Returns:
        assignment: int64 [B, N], numbered in the order of the centres; -1 where masked out.
        centers: int64 [B, num_clusters], indices into N.
        log_density: float32 (float64 if x or noise is) [B, N]; -inf where masked out.
        delta: like log_density; 0 where masked out.
        None of them is differentiable.

    Memory: O(N k) a sample and fixed tiles: natively up to 4 MiB of distances a thread for at most 1,024 points, near
    neighbours and a few tiles beyond; the reference holds a few rows of differences at a time (on a GPU 256 MiB).
    Where the CPU multiplies bytes (AVX-512 VNNI), float32 samples with channels side by side are screened: distances of
    points rounded to bytes bound all others, and tell which few are worth computing. Of 128 channels or more and 128
    to 1,024 points, 16 k at least (k up to 16), with 2^16 to 2^22 numbers, all bounds are kept: 4 MiB and a byte a
    channel, unless on eight rows more than one in 5 (10 beyond 2^19 numbers) is worth it. Of 33 channels or more and
    512 points (4,096 beyond 2^23 numbers), 64 k at least, a byte a channel, at most 64 MiB a thread, and up to 25 MiB,
    unless on sixteen rows more than one in 12 (64 beyond 2^23 numbers) is. A thread keeps its bytes till the end.
    The CUDA kernel (bfloat16 and float16, at most 256 points, 64 clusters and 16 neighbours, C a multiple of 8) takes
    nothing but a copy of x where its points do not lie in 16-byte pieces: distances stay in shared memory.
    Triton keeps 8 bytes for each neighbour of at most 256 points; beyond, all products of up to 8,192 points of many
    channels, of as many samples at a time as fit 256 MiB.

    Precision: squared distances to some 2^-18 of themselves in float32 (products of channels, computed anew from
    differences where they cancel; of screened samples from differences alone, so that copies in another layout, and the
    parts of this op alone, may differ in last bits), bfloat16 and float16 exactly read.
    Triton: float32 in products of three tf32, k up to 61.

    Raises:
        TypeError, ValueError: wrong types, shapes, dtypes or ranges. On the CPU also: NaN or infinity in a valid point,
            or squared distances that overflow; noise of a valid point that is negative or not finite; more clusters or
            neighbours than valid points.

    Source: Du, Ding & Jia, "Study on density peaks clustering based on k-nearest neighbors", 2016; DynFocus (CVPR 2025,
    arXiv 2411.12355).
    """
    x, noise = _checked(x, num_clusters, k, mask, distance_scale, noise)
    return DPCKNN(*_dpc_knn(x, num_clusters, k, mask, distance_scale, noise, backend))


def dpc_knn_eagerly(
    x: Tensor,
    num_clusters: int,
    k: int,
    *,
    mask: Tensor | None = None,
    noise: Tensor | None = None,
    backend: str,
) -> DPCKNN:
    """`dpc_knn` past torch's dispatcher, which takes longer than a small sample: for callers under no_grad, who have
    chosen a backend that can run it and drawn the noise themselves: neither is checked.

    Under torch.compile, or of a subclass of Tensor, the op itself.
    """
    if torch.compiler.is_compiling() or type(x) is not Tensor:
        return dpc_knn(x, num_clusters, k, mask=mask, noise=noise, backend=backend)
    x, noise = _checked(x, num_clusters, k, mask, None, noise)
    return DPCKNN(*_run(kernel_of("dpc_knn", backend), x, num_clusters, k, mask, None, noise))


def _checked(
    x: Tensor, num_clusters: int, k: int, mask: Tensor | None, distance_scale: float | None, noise: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """x and noise as they are computed with, once the static properties of all arguments are checked."""
    check_points(x, "[B, N, C]", mask, noise, distance_scale)
    check_int("num_clusters", num_clusters, 1, x.shape[1], "the number of points")
    check_int("k", k, 1, x.shape[1], "the number of points")
    return (x, None) if noise is None else promote(x, noise)


def _compute(
    x: Tensor,
    num_clusters: int,
    k: int,
    mask: Tensor | None,
    distance_scale: float | None,
    noise: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_noise(noise, mask)
    kernel = select_kernel("dpc_knn", backend, x, num_clusters=num_clusters, k=k)
    return _run(kernel, x, num_clusters, k, mask, distance_scale, noise)


def _run(
    kernel: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]],
    x: Tensor,
    num_clusters: int,
    k: int,
    mask: Tensor | None,
    distance_scale: float | None,
    noise: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_enough_points("num_clusters", num_clusters, mask)
    check_enough_points("k", k, mask)
    result = kernel(x, num_clusters, k, mask, float(distance_scale or x.shape[-1]), noise)
    check_scores(result[2], x, mask)
    check_scores(result[3], x, mask)
    return result


_dpc_knn = torch.library.custom_op("dynfocus::dpc_knn", _compute, mutates_args=())


@_dpc_knn.register_fake
def _(
    x: Tensor,
    num_clusters: int,
    k: int,
    mask: Tensor | None,
    distance_scale: float | None,
    noise: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    log_density = x.new_empty(x.shape[:2], dtype=score_dtype(x))
    assignment = x.new_empty(x.shape[:2], dtype=torch.int64)
    return (
        assignment,
        x.new_empty((x.shape[0], num_clusters), dtype=torch.int64),
        log_density,
        torch.empty_like(log_density),
    )


def mark_outputs_non_differentiable(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.mark_non_differentiable(*(output if isinstance(output, tuple) else (output,)))
    ctx.num_inputs = len(inputs)


def no_gradients(ctx: Any, *grads: Tensor | None) -> tuple[None, ...]:
    return (None,) * ctx.num_inputs


_dpc_knn.register_autograd(no_gradients, setup_context=mark_outputs_non_differentiable)
