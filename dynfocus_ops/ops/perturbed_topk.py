from typing import Any

import torch
from torch import Tensor

from dynfocus_ops.backends import select_kernel
from dynfocus_ops.checks import (
    check_int,
    check_not_empty,
    check_positive,
    check_same_device,
    check_shape,
    check_tensor,
    promote,
    score_dtype,
)


def perturbed_topk(
    scores: Tensor,
    k: int,
    *,
    num_samples: int = 500,
    sigma: float = 0.1,
    seed: Tensor | None = None,
    noise: Tensor | None = None,
    antithetic: bool = False,
    grad: str = "full",
    backend: str = "auto",
) -> Tensor:
    """Differentiable top-k (perturbed maximum): the mean over Gaussian Z of the one-hot top-k of scores + sigma Z.

    The indicators of a sample are in the order of the indices, not of the scores; the lower index wins among equals.
    Z[b, s, l] is Philox4x32-10 on counter (b num_samples + s) L + l with Box-Muller (`reference/perturbed_topk.py` has
    the formula): the same on every backend, never stored, drawn again in the backward pass.

    Args:
        scores: [B, L], float; differentiable.
        k: indicators, at most L.
        num_samples: n; even with `antithetic`.
        sigma: standard deviation of the noise, in the units of scores; positive.
        seed: int64 [] on the device of scores; drawn from torch's generator unless given.
        noise: float [B, n, L] to use in place of Z.
        antithetic: samples s and s + n / 2 use Z_s and -Z_s.
        grad: "full", the whole vector-Jacobian product E[<G, P> Z] / sigma with a leave-one-out baseline (none for one
            sample); or "diagonal", the released code's E[sum_j G_jl P_jl Z_l] / sigma.
        backend: "auto" or a backend's name.

    Returns:
        float32 (float64 if scores or noise are) [B, k, L]; each row sums to 1.

    Memory: the result, and for the reference O(chunk L) a row for a fixed chunk of samples. The CPU kernel adds 4 MiB
        (or the choices of one sample, 4 k bytes) and O(L) a thread; its backward pass the sums of at most 32 chunks of
        samples, 512 L bytes a row and for all rows together 32 MiB (or one row). The Triton kernels count in the memory
        of the result; their backward pass takes 256 L bytes a row for sums of at most 32 chunks and, for the full
        gradient, 8 n bytes a row for the samples' weights. Never samples x L, nor samples x k.

    Raises:
        TypeError, ValueError: wrong types, shapes, dtypes or ranges. NaN scores are not refused: they count as
            the highest.

    Source: Berthet et al., "Learning with differentiable perturbed optimizers", 2020; Cordonnier et al.,
    "Differentiable patch selection", 2021; the selection of DynFocus (CVPR 2025, arXiv 2411.12355).
    """
    check_tensor("scores", scores, "[B, L]")
    check_not_empty("scores", scores)
    check_int("k", k, 1, scores.shape[1], "the length of scores")
    check_int("num_samples", num_samples, 1)
    check_positive("sigma", sigma)
    if grad not in ("full", "diagonal"):
        raise ValueError(f"grad is {grad!r}, it must be 'full' or 'diagonal'")
    if antithetic and num_samples % 2:
        raise ValueError(f"num_samples is {num_samples}, it must be even with antithetic=True")
    if noise is not None:
        if antithetic or seed is not None:
            raise ValueError("noise is given together with seed or antithetic, it must come alone: it replaces them")
        check_tensor("noise", noise, "[B, n, L]")
        check_shape("noise", noise, (scores.shape[0], num_samples, scores.shape[1]), "[B, num_samples, L]")
        check_same_device("noise", noise, "scores", scores)
        scores, noise = promote(scores, noise)
    elif seed is None:
        seed = torch.randint(2**63 - 1, (), device=scores.device)
    else:
        check_seed(seed, scores)
    return _perturbed_topk(scores, k, num_samples, sigma, seed, noise, antithetic, grad, backend)


def check_seed(seed: object, scores: Tensor) -> None:
    if not isinstance(seed, Tensor) or seed.dtype != torch.int64:
        what = seed.dtype if isinstance(seed, Tensor) else type(seed).__name__
        raise TypeError(f"seed is {what}, it must be an int64 tensor of shape []")
    check_shape("seed", seed, (), "one number")
    check_same_device("seed", seed, "scores", scores)


@torch.library.custom_op("dynfocus::perturbed_topk", mutates_args=())
def _perturbed_topk(
    scores: Tensor,
    k: int,
    num_samples: int,
    sigma: float,
    seed: Tensor | None,
    noise: Tensor | None,
    antithetic: bool,
    grad: str,
    backend: str,
) -> Tensor:
    kernel = select_kernel("perturbed_topk", backend, scores)
    return kernel(scores, k, num_samples, sigma, seed, noise, antithetic)


@_perturbed_topk.register_fake
def _(
    scores: Tensor,
    k: int,
    num_samples: int,
    sigma: float,
    seed: Tensor | None,
    noise: Tensor | None,
    antithetic: bool,
    grad: str,
    backend: str,
) -> Tensor:
    return scores.new_empty((scores.shape[0], k, scores.shape[1]), dtype=score_dtype(scores))


@torch.library.custom_op("dynfocus::perturbed_topk_backward", mutates_args=())
def perturbed_topk_backward(
    grad_output: Tensor,
    scores: Tensor,
    num_samples: int,
    sigma: float,
    seed: Tensor | None,
    noise: Tensor | None,
    antithetic: bool,
    grad: str,
    backend: str,
) -> Tensor:
    """Gradient of the scores from grad_output [B, k, L]."""
    kernel = select_kernel("perturbed_topk", backend, scores, "perturbed_topk_backward")
    diagonal = grad == "diagonal"
    return kernel(grad_output, scores, num_samples, sigma, seed, noise, antithetic, diagonal).to(scores.dtype)


@perturbed_topk_backward.register_fake
def _(
    grad_output: Tensor,
    scores: Tensor,
    num_samples: int,
    sigma: float,
    seed: Tensor | None,
    noise: Tensor | None,
    antithetic: bool,
    grad: str,
    backend: str,
) -> Tensor:
    return scores.new_empty(scores.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    scores, _, ctx.num_samples, ctx.sigma, seed, noise, ctx.antithetic, ctx.grad, ctx.backend = inputs
    ctx.save_for_backward(scores, seed, noise)


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    scores, seed, noise = ctx.saved_tensors
    grad_scores = perturbed_topk_backward(
        grad_output, scores, ctx.num_samples, ctx.sigma, seed, noise, ctx.antithetic, ctx.grad, ctx.backend
    )
    return grad_scores, *(None,) * 8


_perturbed_topk.register_autograd(_backward, setup_context=_setup_context)
