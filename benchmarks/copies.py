"""What the projects run that `dynfocus_ops.dropin` replaces, from their formulas: noise, masks, N x N, loops."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot


class Found(NamedTuple):
    labels: Tensor
    centers: Tensor
    distance: Tensor


def cluster(x: Tensor, num_clusters: int, k: int, mask: Tensor | None = None, noise: float = 1e-6) -> Found:
    """Most copies: distances of x [B, N, C] in float32, and one draw of noise."""
    points = x if x.dtype == torch.float64 else x.float()
    return choose(torch.cdist(points, points) / x.shape[-1] ** 0.5, num_clusters, k, mask, noise)


def choose(distance: Tensor, num_clusters: int, k: int, mask: Tensor | None = None, noise: float = 1e-6) -> Found:
    if mask is not None:
        distance = distance * mask[:, None, :] + (distance.max() + 1) * ~mask[:, None, :]
    nearest, _ = torch.topk(distance, k=k, dim=-1, largest=False)
    density = (-(nearest**2).mean(-1)).exp()
    if noise > 0:
        density = density + torch.rand(density.shape, dtype=density.dtype) * noise
    if mask is not None:
        density = density * mask
    denser = (density[:, None, :] > density[:, :, None]).to(distance.dtype)
    farthest = distance.flatten(1).max(-1).values[:, None, None]
    delta, _ = (distance * denser + farthest * (1 - denser)).min(-1)
    _, centers = torch.topk(delta * density, k=num_clusters, dim=-1)
    rows = torch.arange(len(distance))[:, None]
    labels = distance[rows, centers].argmin(1)
    labels[rows, centers] = torch.arange(num_clusters).expand_as(centers)
    return Found(labels, centers, distance)


def merge(x: Tensor, labels: Tensor, num_clusters: int, weight: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Adds up x_i w_i / W_c in x.dtype, with weight [B, N, 1]."""
    batch, _, channels = x.shape
    slot = labels + num_clusters * torch.arange(batch)[:, None]
    total = weight.new_zeros(batch * num_clusters, 1).index_add(0, slot.flatten(), weight.flatten(0, 1)) + epsilon
    scaled = (x * (weight / total[slot])).to(x.dtype)
    sums = x.new_zeros(batch * num_clusters, channels).index_add(0, slot.flatten(), scaled.flatten(0, 1))
    return sums.view(batch, num_clusters, channels)


def cluster_and_merge(x: Tensor, num_clusters: int) -> Found:
    """SparseVLM: N x N x C differences in x.dtype; in the place of the distances, the means."""
    distance = (x.unsqueeze(2) - x.unsqueeze(1)).norm(dim=-1, p=2) / x.shape[-1] ** 0.5
    found = choose(distance, num_clusters, num_clusters)
    return Found(found.labels, found.centers, merge(x, found.labels, num_clusters, torch.ones_like(x[..., :1])))


def merge_by_density(x: Tensor, position: Tensor, num_clusters: int, k: int, beta: float) -> tuple[Tensor, Tensor]:
    """HoliTom: centres in order, each mixed with the mean of its other tokens, in loops."""
    found = cluster(x, num_clusters, k)
    centers = found.centers.sort(-1).values
    samples = []
    for tokens, own, distance in zip(x, centers, found.distance, strict=True):
        others = torch.arange(len(tokens))[~torch.isin(torch.arange(len(tokens)), own)]
        nearest = distance[others][:, own].argmin(-1)
        merged = []
        for cluster_number in range(num_clusters):
            center, members = tokens[own[cluster_number]], nearest == cluster_number
            if members.any():
                center = beta * center + (1 - beta) * tokens[others][members].mean(0)
            merged.append(center)
        samples.append(torch.stack(merged))
    return torch.stack(samples), torch.stack([p[own] for p, own in zip(position, centers, strict=True)])


def frame_by_frame(frames: Sequence[Tensor], num_clusters: Sequence[int], k: Sequence[int]) -> list[Tensor]:
    """FlashVID, PruneVid: a call a frame, and a one-hot product for its means."""
    means = []
    for frame, clusters, neighbors in zip(frames, num_clusters, k, strict=True):
        labels = cluster(frame[None], clusters, neighbors).labels[0]
        members = one_hot(labels, clusters).to(frame.dtype)
        means.append(members.T @ frame / members.sum(0)[:, None])
    return means


def tome(metric: Tensor, x: Tensor, size: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """ToMe: r of the even tokens go into odd ones; x [B, N, C] is weighted by size [B, N, 1]."""
    metric = metric / metric.norm(dim=-1, keepdim=True)
    best, partner = (metric[:, ::2] @ metric[:, 1::2].mT).max(-1)
    order = best.argsort(dim=-1, descending=True)[..., None]
    source, stay = order[:, :r], order[:, r:]
    into = partner[..., None].gather(1, source)

    def summed(value: Tensor) -> Tensor:
        even, odd = value[:, ::2], value[:, 1::2]
        width = value.shape[-1]
        moved = even.gather(1, source.expand(-1, -1, width))
        odd = odd.scatter_reduce(1, into.expand(-1, -1, width), moved, reduce="sum")
        return torch.cat([even.gather(1, stay.expand(-1, -1, width)), odd], 1)

    sizes = summed(size)
    return summed(x * size) / sizes, sizes


def merge_into_anchors(x: Tensor, anchors: Tensor, beta: float = 0.6) -> Tensor:
    """FastVID: cosines, a one-hot product for the means."""
    unit, unit_anchors = (points / points.norm(dim=-1, keepdim=True) for points in (x, anchors))
    members = one_hot((unit @ unit_anchors.mT).argmax(-1), anchors.shape[1]).to(x.dtype)
    count = members.sum(1)[..., None]
    weight = (1 / (count + 1)).clamp(min=beta)
    return weight * anchors + (1 - weight) * (members.mT @ x / count.clamp(min=1))


def max_min_diversity(x: Tensor, num_tokens: int, weight: Tensor) -> Tensor:
    """DivPrune, FlashVID: all rows of those chosen are gathered again at every step."""
    unit = x.float() / x.float().norm(dim=-1, keepdim=True)
    distance = (1 - unit @ unit.mT) * weight[:, None, :]
    chosen = torch.zeros(len(x), num_tokens, dtype=torch.int64)
    chosen[:, 0] = distance.topk(2, dim=1, largest=False).values[:, 1].argmax(-1)
    for step in range(1, num_tokens):
        rows = distance.gather(1, chosen[:, :step, None].expand(-1, -1, x.shape[1]))
        nearest = rows.min(1).values.scatter(1, chosen[:, :step], -1)
        chosen[:, step] = nearest.argmax(-1)
    return chosen


def segment_boundaries(frames: Tensor, threshold: float, min_segments: int) -> Tensor:
    """FlashVID: cuts below the threshold, then the smallest of the rest."""
    unit = frames / frames.norm(dim=-1, keepdim=True)
    similarity = (unit[:-1] * unit[1:]).sum(-1)
    cuts = (similarity < threshold).nonzero()[:, 0]
    if len(cuts) + 1 < min_segments:
        rest = similarity.masked_fill(similarity < threshold, 1)
        cuts = torch.cat([cuts, rest.topk(min_segments - 1 - len(cuts), largest=False).indices]).sort().values
    return torch.cat([cuts.new_zeros(1), cuts + 1, cuts.new_full((1,), len(frames))])
