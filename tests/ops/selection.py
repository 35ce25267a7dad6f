"""The perturbed top-k in float64, and what may rightly differ from it: shared by the tests of the kernels."""

import math

import torch
from torch import Tensor

from dynfocus_ops.reference.perturbed_topk import noise_chunks, philox4x32, topk_in_order

# Seeds and Z of counter 0, where u1 or u2 is at an end or at a turn of the cosine.
NORMALS_AT_THE_ENDS = [
    (12121362, math.sqrt(48 * math.log(2)) * math.cos(2 * math.pi * 2713058 / 2**24)),  # the smallest u1
    (16390493, 0.0),  # u1 is 1
    (27283984, math.sqrt(-2 * math.log1p(-(2**-24))) * math.cos(2 * math.pi * 6920482 / 2**24)),
    (10710051, math.sqrt(-2 * math.log(971319 / 2**24))),  # u2 is 0
    (17845651, math.sqrt(-2 * math.log(7688447 / 2**24))),  # u2 is the largest, 2^-24 below 1
    (335182, -math.sqrt(-2 * math.log(1170799 / 2**24))),  # u2 is 1/2
    (10984164, 0.0),  # u2 is 1/4
    (22028758, 0.0),  # u2 is 3/4
    (21725921, -math.sqrt(-2 * math.log(8000307 / 2**24)) * math.sin(2 * math.pi * 2**-24)),  # just beyond 1/4
]


def draw(scores: Tensor, n: int, seed: Tensor, antithetic: bool = False) -> Tensor:
    """All of Z [B, n, L], by the oracle."""
    return torch.cat([z for _, z in noise_chunks(scores.float(), n, seed, None, antithetic)], 1)


def near_ties(scores: Tensor, k: int, sigma: float, z: Tensor) -> Tensor:
    """How many samples of each row could choose otherwise if Z were a few units in the last place off."""
    if k == scores.shape[1]:
        return torch.zeros(len(scores))
    ordered = (scores.double().unsqueeze(1) + sigma * z.double()).sort(-1, descending=True).values
    return (ordered[..., k - 1] - ordered[..., k] < 1e-5 * sigma).sum(1)


def exact_gradient(
    grad: Tensor, scores: Tensor, sigma: float, z: Tensor, antithetic: bool, diagonal: bool
) -> tuple[Tensor, Tensor]:
    """The formula in float64 for the choices made in float32, and the sum of the magnitudes of its terms."""
    B, n, L = z.shape
    k = grad.shape[1]
    chosen = topk_in_order(scores.float().unsqueeze(1) + sigma * z, k)
    picked = grad.double().flatten(1).gather(1, (chosen + torch.arange(k) * L).flatten(1)).view(B, n, k)
    z = z.double()
    if diagonal:
        terms = torch.zeros_like(z).scatter(2, chosen, picked) * z
    else:
        w = picked.sum(-1)
        if antithetic:
            baseline = w.roll(n // 2, 1)
            weight = (w - baseline) / 2
        else:
            weight = (w - (w.sum(1, keepdim=True) - w) / (n - 1)) if n > 1 else w
        terms = weight.unsqueeze(-1) * z
    return terms.sum(1) / (n * sigma), terms.abs().sum(1) / (n * sigma)


def exact_normals(counter: Tensor, seed: Tensor) -> Tensor:
    """Z in float64."""
    zero = torch.zeros_like(counter)
    words = (counter & 0xFFFFFFFF, counter >> 32 & 0xFFFFFFFF, zero, zero)
    r0, r1, _, _ = philox4x32(words, (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))
    u1, u2 = ((r0 >> 8) + 1).double() * 2**-24, (r1 >> 8).double() * 2**-24
    return (-2 * u1.log()).sqrt() * (2 * math.pi * u2).cos()


def units_off(found: Tensor, expected: Tensor) -> Tensor:
    """How many units in float32's last place found is away from expected, in float64."""
    unit = torch.ldexp(torch.ones_like(expected), torch.frexp(expected).exponent - 24)
    return (found.double() - expected).abs() / unit
