"""The perturbed top-k indicator and its gradient, over chunks of samples: no tensor of samples x k x L.

The noise is drawn again in the backward pass, never kept. Z[b, s, l] is standard normal by Box-Muller, a float32 number
(in float64, rounded; other backends are within 4 units in its last place), from the first two output words r0, r1 of
Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
The counter's low two words are the 64-bit number (b * num_samples + s) * L + l, its high two words are 0, and the key
is the seed's low and high 32 bits:

    u1 = ((r0 >> 8) + 1) * 2^-24    u2 = (r1 >> 8) * 2^-24    Z = sqrt(-2 ln u1) cos(2 pi u2)
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from dynfocus_ops.reference.precision import upcast

CHUNK = 64  # samples at a time: fixed, so that sums over samples are the same whatever the batch
WORD = 0xFFFFFFFF


def perturbed_topk(
    scores: Tensor, k: int, num_samples: int, sigma: float, seed: Tensor | None, noise: Tensor | None, antithetic: bool
) -> Tensor:
    """Mean over the samples of the index-ordered one-hot top-k of scores [B, L] + sigma Z: [B, k, L]."""
    scores = upcast(scores)
    batch, length = scores.shape
    counts = torch.zeros(batch, k * length, dtype=torch.int64, device=scores.device)
    slot = torch.arange(k, device=scores.device) * length
    for _, z in noise_chunks(scores, num_samples, seed, noise, antithetic):
        chosen = (topk_in_order(scores.unsqueeze(1) + sigma * z, k) + slot).flatten(1)
        counts.scatter_add_(1, chosen, torch.ones_like(chosen))
    return (counts.to(scores.dtype) / num_samples).unflatten(1, (k, length))


def perturbed_topk_backward(
    grad: Tensor,
    scores: Tensor,
    num_samples: int,
    sigma: float,
    seed: Tensor | None,
    noise: Tensor | None,
    antithetic: bool,
    diagonal: bool,
) -> Tensor:
    """The gradient of the scores from grad G [B, k, L], for the samples' indicators P_s [k, L] and w_s = <G, P_s>.

    The full one is the vector-Jacobian product E[<G, P> Z] / sigma with the other samples' mean as baseline,
    1 / (n sigma) sum_s (w_s - mean_{r != s} w_r) Z_s; of an antithetic pair each is the other's baseline.
    The diagonal one is 1 / (n sigma) sum_s sum_j G[j, l] P_s[j, l] Z_s[l].
    """
    dtype, k = scores.dtype, grad.shape[1]
    scores = upcast(scores)
    grad = grad.to(scores.dtype).flatten(1)
    slot = torch.arange(k, device=scores.device) * scores.shape[1]
    total = torch.zeros_like(scores)
    sample_weights = []
    for _, z in noise_chunks(scores, num_samples, seed, noise, antithetic):
        chosen = topk_in_order(scores.unsqueeze(1) + sigma * z, k)
        picked = grad.gather(1, (chosen + slot).flatten(1)).view(chosen.shape)
        if diagonal:  # the k choices of a sample are distinct: at most one number in each place
            total += (torch.zeros_like(z).scatter(2, chosen, picked) * z).sum(1)
        else:
            sample_weights.append(picked.sum(-1))
    if not diagonal:
        weights = torch.cat(sample_weights, 1)
        for start, z in noise_chunks(scores, num_samples, seed, noise, antithetic):
            total += (z * baselined(weights, antithetic)[:, start : start + z.shape[1]].unsqueeze(-1)).sum(1)
    return (total / (num_samples * sigma)).to(dtype)


def topk_in_order(values: Tensor, k: int) -> Tensor:
    """Indices of the k largest, ascending; the lower index among equals."""
    return values.argsort(dim=-1, descending=True, stable=True)[..., :k].sort(-1).values


def baselined(weights: Tensor, antithetic: bool) -> Tensor:
    """w_s minus a baseline that does not depend on sample s, for all s: [B, n]."""
    num_samples = weights.shape[1]
    if antithetic:  # both of a pair count, with Z and -Z: half each
        return (weights - weights.roll(num_samples // 2, 1)) / 2
    if num_samples == 1:
        return weights
    return (weights - weights.mean(1, keepdim=True)) * (num_samples / (num_samples - 1))


def noise_chunks(
    scores: Tensor, num_samples: int, seed: Tensor | None, noise: Tensor | None, antithetic: bool
) -> Iterator[tuple[int, Tensor]]:
    """(first sample, Z [B, chunk, L]) for all samples in order; antithetic: sample s + n/2 has -Z of sample s."""
    batch, length = scores.shape
    distinct = num_samples // 2 if antithetic else num_samples
    for start in range(0, num_samples, CHUNK):
        samples = torch.arange(start, min(start + CHUNK, num_samples), device=scores.device)
        if noise is not None:
            yield start, noise[:, start : start + CHUNK].to(scores.dtype)
            continue
        if seed is None:
            raise ValueError("seed and noise are both None, one must be a tensor")
        rows = torch.arange(batch, device=scores.device).unsqueeze(1) * num_samples + samples % distinct
        z = philox_normal(rows.unsqueeze(-1) * length + torch.arange(length, device=scores.device), seed)
        yield start, torch.where((samples < distinct).view(1, -1, 1), z, -z).to(scores.dtype)


def philox_normal(counter: Tensor, seed: Tensor) -> Tensor:
    """Z of the module's docstring, float32, one for each int64 counter."""
    zero = torch.zeros_like(counter)
    r0, r1, _, _ = philox4x32((counter & WORD, counter >> 32 & WORD, zero, zero), (seed & WORD, seed >> 32 & WORD))
    u1 = ((r0 >> 8) + 1).double() * 2**-24
    u2 = (r1 >> 8).double() * 2**-24
    return ((-2 * u1.log()).sqrt() * (2 * math.pi * u2).cos()).float()


def philox4x32(counter: tuple[Tensor, ...], key: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Philox4x32-10: four output words for four counter words and two key words, each a 32-bit number held in int64."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # int64 products wrap modulo 2^64, so their 64 bits are those of the unsigned product
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32 & WORD) ^ c1 ^ k0, p1 & WORD, (p0 >> 32 & WORD) ^ c3 ^ k1, p0 & WORD
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return c0, c1, c2, c3
