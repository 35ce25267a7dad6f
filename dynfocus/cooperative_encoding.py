"""Compact Cooperative Encoding (CCE): cones for key frames, rods for all. Imports torch and dynfocus_ops only."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import dynfocus_ops


class SpatialPrototypes(nn.Module):
    """Multi-level spatial DPC-KNN of each frame's patches: G_t, the tokens of its objects.

    Args:
        levels: (num_clusters, k) of each level; each clusters the averages of the one before.
        group: "level" gives the levels one after the other; "tree" (two levels) puts every parent before its
            children, parents in order.
        gate: None, or "softmax" / "sigmoid": each tree is scaled by the gate of its parent, a linear function
            of all the frame's parents' channel means.
    """

    def __init__(self, levels: Sequence[Sequence[int]], group: str = "level", gate: str | None = None):
        super().__init__()
        self.levels = tuple((int(num_clusters), int(k)) for num_clusters, k in levels)
        self.group = group
        self.gate = gate
        parents = self.levels[-1][0]
        self.gate_weights = nn.Linear(parents, parents) if gate else None

    def forward(self, patches: Tensor) -> tuple[Tensor, list[Tensor]]:
        """patches [T, N, C] → tokens [T, ΣM, C] and each level's assignment, of the tokens below to its clusters."""
        prototypes, assignments = dynfocus_ops.spatial_prototypes(patches, self.levels)
        if self.gate_weights is not None:
            prototypes = prototypes * self._gates(prototypes, assignments)[..., None]
        if self.group == "tree":
            prototypes = prototypes.gather(1, self._tree_order(assignments[-1])[..., None].expand_as(prototypes))
        return prototypes, assignments

    def _tree_order(self, parent_of: Tensor) -> Tensor:
        """parent_of [T, M] → the order [T, M + P] that puts each of the P parents before its children."""
        parents = torch.arange(self.levels[-1][0], device=parent_of.device).expand(parent_of.shape[0], -1)
        return torch.cat([2 * parent_of + 1, 2 * parents], 1).sort(dim=1, stable=True).indices

    def _gates(self, prototypes: Tensor, assignments: Sequence[Tensor]) -> Tensor:
        """[T, ΣM]: the gate of each token's own parent; parents come last among the levels."""
        assert self.gate_weights is not None
        logits = self.gate_weights(prototypes[:, -self.levels[-1][0] :].mean(-1))
        gates = logits.softmax(-1) if self.gate == "softmax" else logits.sigmoid()
        return torch.cat([gates.gather(1, assignments[-1]), gates], 1)

    def patch_weights(self, token_weights: Tensor, assignments: Sequence[Tensor]) -> Tensor:
        """Spreads weights of the tokens [T, ΣM] over the patches they average: [T, N], sums kept."""
        if self.group == "tree":
            token_weights = torch.zeros_like(token_weights).scatter(1, self._tree_order(assignments[-1]), token_weights)
        weights = token_weights.split([num_clusters for num_clusters, _ in self.levels], 1)
        below = torch.zeros_like(weights[-1])
        for own, assignment in zip(reversed(weights), reversed(assignments), strict=True):
            own = own + below
            members = torch.zeros_like(own).scatter_add(1, assignment, torch.ones_like(assignment, dtype=own.dtype))
            below = (own / members.clamp_min(1)).gather(1, assignment)
        return below


class Rods(nn.Module):
    """Two coarse features of every frame: Avg(E) ‖ Avg(G_t), E = Softmax(f_q(Q) f_k(G_t)ᵀ / √d) G_t.

    The softmax runs over the visual tokens (the reading in which the paper's shapes fit). The key projection folds
    into the queries, q · W_k g = (W_kᵀ q) · g, and its bias would be constant over visual tokens, so it has none.

    Args:
        channels: C of the visual tokens; also d.
        text_channels: width of the text features.
    """

    def __init__(self, channels: int, text_channels: int):
        super().__init__()
        self.query = nn.Linear(text_channels, channels)
        self.key = _FoldedKey(channels, channels, bias=False)

    def forward(self, tokens: Tensor, text: Tensor, frame_text: Tensor, text_mask: Tensor | None) -> Tensor:
        """Args:
            tokens: [T, M, C] visual tokens.
            text: [B, Q, text_channels].
            frame_text: [T] int64, each frame's row of `text`.
            text_mask: [B, Q] bool, or None.

        Returns:
            [T, 2, C], the text-modulated feature first.
        """
        return dynfocus_ops.rods_pool(tokens, self._queries(text), frame_query=frame_text, query_mask=text_mask)

    def attention(self, tokens: Tensor, text: Tensor, frame_text: Tensor, text_mask: Tensor | None) -> Tensor:
        """Where the rods looked: the mean attention weight of each visual token [T, M], for inspection."""
        queries = self._queries(text)
        keep = torch.ones(queries.shape[:2], device=queries.device) if text_mask is None else text_mask.float()
        logits = torch.einsum("tqc,tmc->tqm", queries[frame_text].float(), tokens.float()) * tokens.shape[-1] ** -0.5
        return torch.einsum("tq,tqm->tm", (keep / keep.sum(1, keepdim=True))[frame_text], logits.softmax(-1))

    def _queries(self, text: Tensor) -> Tensor:
        return self.key(self.query(text))


class _FoldedKey(nn.Linear):
    """W_k as the queries see it, q → W_kᵀ q. A module, for its weight may be elsewhere until it is called (ZeRO-3)."""

    def forward(self, input: Tensor) -> Tensor:
        return input @ self.weight


class Projectors(nn.Module):
    """F_fine and F_coarse, from vision features to the language model's embeddings.

    Args:
        shared: as in the released code, one projector for cones and the average feature, and a linear layer for
            the text-modulated one.
    """

    def __init__(self, channels: int, hidden_size: int, shared: bool = False):
        super().__init__()
        self.fine = _two_layer_mlp(channels, hidden_size)
        self.coarse = None if shared else _two_layer_mlp(channels, hidden_size)
        self.text = nn.Linear(channels, hidden_size) if shared else None

    def cones(self, event_tokens: Tensor, spatial_tokens: Tensor) -> Tensor:
        """F_fine(h_t ‖ G_t): [K, P, C] and [K, M, C] → [K, P + M, D]."""
        return self.fine(torch.cat([event_tokens, spatial_tokens], 1))

    def rods(self, pooled: Tensor) -> Tensor:
        """F_coarse(Avg(E) ‖ Avg(G_t)): [T, 2, C] → [T, 2, D]."""
        if self.coarse is not None:
            return self.coarse(pooled)
        assert self.text is not None
        return torch.stack([self.text(pooled[:, 0]), self.fine(pooled[:, 1])], 1)


def _two_layer_mlp(channels: int, hidden_size: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, hidden_size), nn.GELU(), nn.Linear(hidden_size, hidden_size))
