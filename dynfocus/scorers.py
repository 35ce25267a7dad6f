"""Scorers of event prototypes: which events matter. Imports torch only."""

import torch
from torch import Tensor, nn


class MLPScorer(nn.Module):
    """s_l = U(Max(m_l) ‖ Avg(m_l)), an MLP on each event alone (DynFocus, CVPR 2025, arXiv 2411.12355)."""

    def __init__(self, channels: int):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.LayerNorm(2 * channels),
            nn.Linear(2 * channels, channels),
            nn.GELU(),
            nn.Linear(channels, 1, bias=False),  # min-max scaling would cancel a bias
        )

    def forward(self, prototypes: Tensor) -> Tensor:
        """prototypes [V, L, P, C] → scores [V, L]."""
        return self.mlp(torch.cat([prototypes.amax(2), prototypes.mean(2)], -1)).squeeze(-1)


class LocalGlobalScorer(nn.Module):
    """The released code's predictor: Avg ‖ Max, then half of the features see the whole video's mean."""

    def __init__(self, channels: int):
        super().__init__()
        width = 2 * channels
        self.in_conv = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.out_conv = nn.Sequential(
            nn.Linear(width, channels),
            nn.GELU(),
            nn.Linear(channels, channels // 2),
            nn.GELU(),
            nn.Linear(channels // 2, 1),
        )

    def forward(self, prototypes: Tensor) -> Tensor:
        """prototypes [V, L, P, C] → scores [V, L]."""
        features = self.in_conv(torch.cat([prototypes.mean(2), prototypes.amax(2)], -1))
        local, context = features.chunk(2, -1)
        return self.out_conv(torch.cat([local, context.mean(1, keepdim=True).expand_as(local)], -1)).squeeze(-1)


SCORERS = {"mlp": MLPScorer, "predictor_lg": LocalGlobalScorer}


def min_max_scaled(scores: Tensor) -> Tensor:
    """Each video's scores [V, L] on [0, 1] in fp32, so that the perturbation's σ has a meaning.

    Scores equal up to rounding, as a still picture's are, all become 0 without a gradient: that of 0 / 0 would be
    of the order 1e20 and drown all others.
    """
    rounding = 8 * torch.finfo(scores.dtype).eps
    scores = scores.float()
    low, high = scores.amin(1, keepdim=True), scores.amax(1, keepdim=True)
    spread = high - low
    equal = spread <= rounding * torch.maximum(low.abs(), high.abs())
    return (scores - low) / spread.masked_fill(equal, torch.inf)
