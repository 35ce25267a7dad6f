"""The connector: patch features and a question in, a few visual tokens out. Imports torch and dynfocus_ops only."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

import dynfocus_ops
from dynfocus.cooperative_encoding import Projectors, Rods, SpatialPrototypes
from dynfocus.event_prototypes import EventPrototypes
from dynfocus.token_budget import RODS_TOKENS, TokenPlan, plan_tokens


@dataclass(frozen=True)
class ConnectorSettings:
    """What shapes the connector; defaults are the paper's where it says, our reading of it elsewhere.

    num_events, key_ratio: L and K / L.
    pool_size: an event prototype has pool_size² tokens.
    temporal_neighbors: k of the temporal density. temporal: "dpc_knn" | "kmeans".
    temporal_scale: squared frame distances over "patches" (the paper's) | "channels".
    spatial_levels: (num_clusters, k) of each level.
    spatial_group: "level" | "tree". spatial_gate: None | "softmax" | "sigmoid".
    rods_source: the rods look at the spatial "prototypes" G_t (the paper's) | at all "patches".
    rods: whether every frame has its two rods tokens; without them a video is the cones of its key frames.
    cones: a key frame's "prototypes" (the paper's) | the "average" of its event tokens and that of its spatial
    prototypes, two tokens | "none", then all frames have rods alone and key frames are only reported.
    selection: which K frames are key: by "scores" (the paper's) | "uniform", the middles of K equal stretches |
    "random", each time anew and in evaluation too, from torch's default generator. Of the latter two the event
    tokens are the frame's own pooled patches.
    scorer: "mlp" | "predictor_lg". share_projector: one projector for cones and the average token, and a linear
    layer for the text-modulated one, as in the released code.
    sigma, num_samples, antithetic: of the perturbed maximum. selection_gradient: "full" | "diagonal" | "none", the
    hard top-K in training too, of which the scorer learns nothing.
    max_visual_tokens: no video costs more; K, then L, shrink to keep it.
    """

    num_events: int = 25
    key_ratio: float = 0.8
    pool_size: int = 4
    temporal_neighbors: int = 8
    temporal: str = "dpc_knn"
    temporal_scale: str = "patches"
    spatial_levels: Sequence[Sequence[int]] = ((16, 8), (6, 3))
    spatial_group: str = "level"
    spatial_gate: str | None = None
    rods_source: str = "prototypes"
    rods: bool = True
    cones: str = "prototypes"
    selection: str = "scores"
    scorer: str = "mlp"
    share_projector: bool = False
    sigma: float = 0.1
    num_samples: int = 500
    selection_gradient: str = "full"
    antithetic: bool = False
    max_visual_tokens: int = 2048

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} is {value!r} but must be one of {', '.join(map(repr, allowed))}")
        for name in ("num_events", "pool_size", "temporal_neighbors", "num_samples", "max_visual_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r} but must be an int of at least 1")
        if not 0 < self.key_ratio <= 1:
            raise ValueError(f"key_ratio is {self.key_ratio} but must be in (0, 1]")
        if not self.sigma > 0:
            raise ValueError(f"sigma is {self.sigma} but must be positive")
        if self.antithetic and self.num_samples % 2:
            raise ValueError(f"num_samples is {self.num_samples} but must be even with antithetic=True")
        if self.cones == "none" and not self.rods:
            raise ValueError("cones is 'none' but must be 'prototypes' or 'average' with rods=False: no token is left")
        if not self.spatial_levels or any(len(level) != 2 or min(level) < 1 for level in self.spatial_levels):
            raise ValueError(
                f"spatial_levels is {self.spatial_levels} but must be pairs (num_clusters, k), each at least 1"
            )
        for (below, _), (num_clusters, k) in pairwise(self.spatial_levels):
            if max(num_clusters, k) > below:
                raise ValueError(
                    f"spatial_levels has the level ({num_clusters}, {k}) over {below} tokens "
                    "but may ask for no more than those"
                )
        if (self.spatial_group == "tree" or self.spatial_gate) and len(self.spatial_levels) != 2:
            raise ValueError(f"spatial_levels is {self.spatial_levels} but a tree or a gate needs exactly two levels")

    @property
    def fine_tokens(self) -> int:
        """Tokens a key frame costs besides its rods: event tokens and spatial prototypes, or an average of each."""
        if self.cones == "prototypes":
            return self.pool_size**2 + sum(num_clusters for num_clusters, _ in self.spatial_levels)
        return 2 if self.cones == "average" else 0

    @property
    def rods_tokens(self) -> int:
        """Tokens of every frame's rods."""
        return RODS_TOKENS if self.rods else 0

    @property
    def scorer_learns(self) -> bool:
        """Whether the visual tokens have a gradient with respect to the scores."""
        return self.cones != "none" and self.selection == "scores" and self.selection_gradient != "none"

    def plan(self, num_frames: int, budget: int | None = None) -> TokenPlan:
        """The token counts of a video of `num_frames` frames within `budget` (max_visual_tokens unless given)."""
        budget = self.max_visual_tokens if budget is None else budget
        return plan_tokens(
            num_frames,
            num_events=self.num_events,
            key_ratio=self.key_ratio,
            fine_tokens=self.fine_tokens,
            budget=budget,
            rods_tokens=self.rods_tokens,
        )


_CHOICES = {
    "temporal": ("dpc_knn", "kmeans"),
    "temporal_scale": ("patches", "channels"),
    "spatial_group": ("level", "tree"),
    "spatial_gate": (None, "softmax", "sigmoid"),
    "rods_source": ("prototypes", "patches"),
    "cones": ("prototypes", "average", "none"),
    "selection": ("scores", "uniform", "random"),
    "scorer": ("mlp", "predictor_lg"),
    "selection_gradient": ("full", "diagonal", "none"),
}


class ConnectorOutput(NamedTuple):
    """Visual tokens of a batch of videos packed along dim 0, and what was found on the way.

    A tuple, in which sharded training finds the tensors whose gradients tell it to gather the weights again.
    """

    tokens: Tensor  # [ΣN, D], video after video, frames in time order, a key frame's cones before its rods
    key_index: Tensor  # [ΣK] int64, rows of the packed frames
    assignment: Tensor  # [ΣT] int64, event of each frame, numbered through the batch in time order
    event_frames: Tensor  # [ΣL] int64, rows of the packed frames
    scores: Tensor  # [ΣL] fp32
    rods_attention: Tensor | None  # [ΣT, N], where the rods looked, only when asked for


class DynFocusConnector(nn.Module):
    """The dynamic cooperative network of DynFocus (CVPR 2025, arXiv 2411.12355): DPE, then CCE, without transformers.

    O_t = b_t (U_fine ‖ U_coarse) + (1 − b_t) U_coarse: every frame has its two rods tokens, key frames have
    their cones before them. Settings leave out either; all weights exist all the same, so that those of one variant
    load into any other.

    Token counts are Python ints, known before anything runs (`plans`), and every other number stays on its device: a
    forward pass does not wait for a GPU, and in a CUDA graph, which can capture the whole of it, copies nothing to it.
    The exceptions are temporal="kmeans", whose empty events are looked for, and whatever an op's reference does.

    Args:
        channels: C of the patch features.
        text_channels: width of the text features.
        hidden_size: D of the language model's embeddings.
        settings: see `ConnectorSettings`.
    """

    def __init__(self, channels: int, text_channels: int, hidden_size: int, settings: ConnectorSettings | None = None):
        super().__init__()
        self.settings = settings = settings or ConnectorSettings()
        self.events = EventPrototypes(
            channels,
            pool_size=settings.pool_size,
            neighbors=settings.temporal_neighbors,
            temporal=settings.temporal,
            temporal_scale=settings.temporal_scale,
            scorer=settings.scorer,
            sigma=settings.sigma,
            num_samples=settings.num_samples,
            gradient=settings.selection_gradient if settings.scorer_learns else "none",
            antithetic=settings.antithetic,
            selection=settings.selection,
        )
        self.spatial = SpatialPrototypes(settings.spatial_levels, settings.spatial_group, settings.spatial_gate)
        self.rods = Rods(channels, text_channels)
        self.projectors = Projectors(channels, hidden_size, settings.share_projector)

    def forward(
        self,
        patches: Tensor,
        plans: Sequence[TokenPlan],
        text: Tensor,
        frame_text: Tensor,
        text_mask: Tensor | None = None,
        output_attention: bool = False,
    ) -> ConnectorOutput:
        """Args:
        patches: [ΣT, N, C] patch features of all videos' frames, without class tokens; N a square.
        plans: one per video (`ConnectorSettings.plan`), their num_frames adding up to ΣT.
        text: [B, Q, text_channels] text features.
        frame_text: [ΣT] int64, the row of `text` each frame is asked about.
        text_mask: [B, Q] bool, False where `text` is padding.
        output_attention: also return where the rods looked.

        Raises:
            ValueError: the plans do not add up to ΣT, N is no square, or `output_attention` without rods.
        """
        if (total := sum(plan.num_frames for plan in plans)) != patches.shape[0]:
            raise ValueError(f"plans cover {total} frames but patches has {patches.shape[0]}")
        if round(patches.shape[1] ** 0.5) ** 2 != patches.shape[1]:
            raise ValueError(f"patches has {patches.shape[1]} patches a frame but must have a square number")
        settings = self.settings
        if output_attention and not settings.rods:
            raise ValueError("output_attention is True but must be False with rods=False: there are no rods to look")
        events = self.events(patches, plans)
        of_all_frames = settings.rods and settings.rods_source == "prototypes"
        visual, assignments = self.spatial(patches) if of_all_frames else (patches, [])
        parts = []
        if settings.cones != "none":
            key_frames = visual[events.key_index]
            parts.append(self._cones(events.event_tokens, key_frames if of_all_frames else self.spatial(key_frames)[0]))
        if settings.rods:
            parts.append(self.projectors.rods(self.rods(visual, text, frame_text, text_mask)))
        if len(parts) == 2:
            tokens, _ = dynfocus_ops.pack_frame_tokens(parts[0], parts[1], events.key_index)
        else:  # one kind, its frames in time order already
            tokens = parts[0].flatten(0, 1)
        attention = None
        if output_attention:
            weights = self.rods.attention(visual, text, frame_text, text_mask)
            attention = self.spatial.patch_weights(weights, assignments) if assignments else weights
        return ConnectorOutput(
            tokens, events.key_index, events.assignment, events.event_frames, events.scores, attention
        )

    def _cones(self, event_tokens: Tensor, spatial_tokens: Tensor) -> Tensor:
        """[K, P, C] and [K, M, C] → [K, fine_tokens, D]."""
        if self.settings.cones == "average":
            event_tokens, spatial_tokens = event_tokens.mean(1, keepdim=True), spatial_tokens.mean(1, keepdim=True)
        return self.projectors.cones(event_tokens, spatial_tokens)


def frame_rows(num_frames: Sequence[int], device: torch.device | None = None) -> Tensor:
    """[ΣT] int64: the video each packed frame belongs to."""
    return torch.cat([torch.full((length,), video, device=device) for video, length in enumerate(num_frames)])
