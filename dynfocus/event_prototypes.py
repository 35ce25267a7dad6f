"""Dynamic Event Prototype estimation (DPE): which frames get fine detail. Imports torch and dynfocus_ops only."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dynfocus_ops
from dynfocus.scorers import SCORERS, min_max_scaled
from dynfocus.temporal_clustering import TemporalEvents, dpc_knn_events, kmeans_events
from dynfocus.token_budget import TokenPlan
from dynfocus_ops.transfer import to_device


class KeyEvents(NamedTuple):
    """What DPE finds in a batch of videos packed along dim 0, every part in the order of time."""

    key_index: Tensor  # [ΣK] int64, rows of the packed frames
    event_tokens: Tensor  # [ΣK, P, C], the key frames' event prototypes h_t, or own pooled patches
    assignment: Tensor  # [ΣT] int64, event of each frame, numbered through the batch
    event_frames: Tensor  # [ΣL] int64, the frame that stands for each event
    scores: Tensor  # [ΣL] fp32, on [0, 1] within each video


class EventPrototypes(nn.Module):
    """Spatial pooling → temporal DPC-KNN → L event prototypes → scores → top-K (DPE of DynFocus, arXiv 2411.12355).

    In training the event tokens are the perturbed maximum's mixtures, P_σ m with
    P_σ = E[argmax_P ⟨P, s + σZ⟩], through which the scorer learns from the language loss; whatever is indexed by
    frame uses the hard top-K of the clean scores, the same as in evaluation.

    Key frames that are not chosen by their scores stand for no event: their tokens are their own pooled patches, and
    events and scores are reported alone.

    Args:
        channels: C of the patch features.
        pool_size: frames are average-pooled to P = pool_size² patches before clustering.
        neighbors: k of the density, clamped to the number of frames.
        temporal: "dpc_knn" or "kmeans".
        temporal_scale: squared frame distances are divided by "patches" (P, the paper's) or "channels" (P · C).
        scorer: "mlp" or "predictor_lg".
        sigma, num_samples, gradient, antithetic: of `dynfocus_ops.perturbed_topk`. `sigma` may be changed during
            training. With gradient "none" training uses the hard top-K too.
        selection: key frames by "scores", or "uniform" or "random" ones.
    """

    def __init__(
        self,
        channels: int,
        *,
        pool_size: int = 4,
        neighbors: int = 8,
        temporal: str = "dpc_knn",
        temporal_scale: str = "patches",
        scorer: str = "mlp",
        sigma: float = 0.1,
        num_samples: int = 500,
        gradient: str = "full",
        antithetic: bool = False,
        selection: str = "scores",
    ):
        super().__init__()
        self.pool_size = pool_size
        self.neighbors = neighbors
        self.temporal = temporal
        self.temporal_scale = temporal_scale
        self.sigma = sigma
        self.num_samples = num_samples
        self.gradient = gradient
        self.antithetic = antithetic
        self.selection = selection
        self.scorer = SCORERS[scorer](channels)

    def forward(self, patches: Tensor, plans: Sequence[TokenPlan]) -> KeyEvents:
        """Args:
        patches: [ΣT, N, C] patch features of all videos' frames, N a square.
        plans: one per video, their num_frames adding up to ΣT.
        """
        frames = self._pool(patches)
        events = self._cluster(frames.flatten(1), plans)
        prototypes = events.prototypes.unflatten(1, frames.shape[1:])
        scores = prototypes.new_empty(len(prototypes), dtype=torch.float32)
        selected, event_tokens = [], []
        for rows, num_key_frames in _same_shaped(plans, patches.device):
            group_scores = min_max_scaled(self.scorer(prototypes[rows]))
            scores = scores.index_put((rows,), group_scores)
            if self.selection == "scores":
                chosen = _hard_topk(group_scores, num_key_frames)
                selected.append(rows.gather(1, chosen).flatten())
                event_tokens.append(self._select(prototypes[rows], group_scores, chosen).flatten(0, 1))
        if self.selection != "scores":
            key_index = _frames_without_scores(self.selection, plans, patches.device)
            return KeyEvents(key_index, frames[key_index], events.assignment, events.centers, scores)
        # Events are numbered by video and time, so sorting the groups' choices puts the batch in order.
        key_events, order = torch.cat(selected).sort()
        return KeyEvents(
            events.centers[key_events], torch.cat(event_tokens)[order], events.assignment, events.centers, scores
        )

    def _pool(self, patches: Tensor) -> Tensor:
        side = round(patches.shape[1] ** 0.5)
        grid = patches.transpose(1, 2).unflatten(2, (side, side))
        return F.adaptive_avg_pool2d(grid, self.pool_size).flatten(2).transpose(1, 2)

    def _cluster(self, frames: Tensor, plans: Sequence[TokenPlan]) -> TemporalEvents:
        num_frames = [plan.num_frames for plan in plans]
        num_events = [plan.num_events for plan in plans]
        if self.temporal == "kmeans":
            return kmeans_events(frames, num_frames, num_events)
        scale = float(self.pool_size**2) if self.temporal_scale == "patches" else None
        return dpc_knn_events(frames, num_frames, num_events, self.neighbors, scale)

    def _select(self, prototypes: Tensor, scores: Tensor, chosen: Tensor) -> Tensor:
        """Event tokens [V, K, P, C] of the chosen [V, K] among prototypes [V, L, P, C]."""
        if not self.training or self.gradient == "none":
            return prototypes[torch.arange(len(chosen), device=chosen.device).unsqueeze(1), chosen]
        indicators = dynfocus_ops.perturbed_topk(
            scores,
            chosen.shape[1],
            num_samples=self.num_samples,
            sigma=self.sigma,
            antithetic=self.antithetic,
            grad=self.gradient,
        )
        return torch.einsum("vkl,vlpc->vkpc", indicators.to(prototypes.dtype), prototypes)


def _same_shaped(plans: Sequence[TokenPlan], device: torch.device) -> Iterator[tuple[Tensor, int]]:
    """Videos with as many events and key frames go together: their events' rows [V, L], and K."""
    groups: dict[tuple[int, int], list[int]] = {}
    first_event = 0
    for plan in plans:
        groups.setdefault((plan.num_events, plan.num_key_frames), []).append(first_event)
        first_event += plan.num_events
    for (num_events, num_key_frames), first_events in groups.items():
        first = to_device(first_events, device).unsqueeze(1)
        yield first + torch.arange(num_events, device=device), num_key_frames


def _frames_without_scores(selection: str, plans: Sequence[TokenPlan], device: torch.device) -> Tensor:
    """[ΣK] int64: rows of K frames of each video, "uniform" (the middles of K equal stretches) or "random" ones."""
    chosen, first_frame = [], 0
    for plan in plans:
        length, count = plan.num_frames, plan.num_key_frames
        if selection == "uniform":
            frames = (2 * torch.arange(count, device=device) + 1) * length // (2 * count)
        else:
            frames = torch.randperm(length, device=device)[:count].sort().values
        chosen.append(frames + first_frame)
        first_frame += length
    return torch.cat(chosen)


def _hard_topk(scores: Tensor, k: int) -> Tensor:
    """Indices of each row's k highest scores [V, L], ascending; of equal scores the lower index wins."""
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :k].sort(dim=1).values
