"""The drop-in functions against the copies they replace, at each project's shapes, on one core: `docs/dropin`.

Both draw their noise. Labels are held against float64 by who is together with whom: two scores a rounding apart may
swap places. Where densities tie (k below 3) the noise chooses, and a clustering need only be as tight.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import copies, counts, oracle
from benchmarks.cases import Case, clustered
from benchmarks.contest import Contest
from benchmarks.floors import Work, gram
from dynfocus_ops import cluster_mean, dpc_knn_varlen
from dynfocus_ops.dropin import (
    chat_univi,
    dynfocus,
    ermvp,
    flashvid,
    hbi,
    holitom,
    hot,
    missrec,
    prunevid,
    sparsevlm,
    tcformer,
)

pytestmark = pytest.mark.usefixtures("one_core")
HALF = torch.bfloat16
TOGETHER = 0.98  # of the tokens, with exactly those that float64 puts there
TOGETHER_OF_PAIRS = 0.9  # with k = 2 mutual nearest neighbours have one density, and the noise decides
TIGHTNESS = 1.02  # of float64's mean squared distance to a cluster's mean


@dataclass(frozen=True, kw_only=True)
class DropinCase(Case):
    page: str  # of docs/dropin
    b: int = 1
    n: int
    c: int
    clusters: int
    k: int
    fewest: int | None = None  # valid tokens of a sample; none are masked unless given

    @property
    def shape(self) -> str:
        masked = "" if self.fewest is None else f"-masked{self.fewest}"
        return f"{self.page}-{self.b}x{self.n}x{self.c}-{self.clusters}-k{self.k}{masked}"

    def inputs(self) -> tuple[Tensor, Tensor | None]:
        x = clustered((self.b, self.n, self.c), self.clusters, self.dtype)
        if self.fewest is None:
            return x, None
        lengths = torch.randint(min(self.fewest, self.n), self.n + 1, (self.b, 1))
        return x, torch.arange(self.n) < lengths


def of(page: str, project: str, *shape: int, dtype: torch.dtype = torch.float32, **other: Any) -> DropinCase:
    b, n, c, clusters, k = shape
    return DropinCase(page=page, used_by=project, b=b, n=n, c=c, clusters=clusters, k=k, dtype=dtype, **other)


# TCFormer classifies 128 images a process, in training and evaluation; poses (256 x 192 pixels) it learns from 64 and
# finds in 32. Of 128 images the copy's first stage would take 26 GB.
CASES = [
    of("tcformer", "TCFormer, stage 1", 1, 3136, 128, 784, 5, depth="quick"),
    of("tcformer", "TCFormer, stage 1", 8, 3136, 128, 784, 5),
    of("tcformer", "TCFormer, stage 2", 8, 784, 320, 196, 5, depth="quick"),
    of("tcformer", "TCFormer, stage 2", 128, 784, 320, 196, 5),
    of("tcformer", "TCFormer, stage 3", 1, 196, 512, 49, 5),
    of("tcformer", "TCFormer, stage 3", 8, 196, 512, 49, 5),
    of("tcformer", "TCFormer, stage 3", 128, 196, 512, 49, 5),
    of("tcformer", "TCFormer, poses, stage 3", 32, 192, 512, 48, 5),
    of("tcformer", "TCFormer, poses, stage 3", 64, 192, 512, 48, 5),
    of("chat_univi", "Chat-UniVi, image", 1, 256, 1024, 64, 5, dtype=HALF, depth="quick"),
    of("chat_univi", "Chat-UniVi, image", 1, 64, 1024, 32, 3, dtype=HALF),
    of("chat_univi", "Chat-UniVi, image", 1, 32, 1024, 16, 3, dtype=HALF),
    of("chat_univi", "Chat-UniVi, video", 64, 256, 1024, 64, 5, dtype=HALF),
    of("chat_univi", "Chat-UniVi, frames", 1, 64, 1024, 4, 2, dtype=HALF),
    of("chat_univi", "Chat-UniVi, event", 1, 4096, 1024, 64, 5, dtype=HALF),
    of("hbi", "HBI, frames", 128, 32, 512, 8, 3, fewest=16, depth="quick"),
    of("hbi", "HBI, captions", 128, 32, 512, 8, 3, fewest=2),
    of("hbi", "HBI, level 2", 128, 12, 512, 4, 3),
    of("prunevid", "PruneVid, events", 1, 16, 4096, 4, 7, dtype=HALF),
    of("prunevid", "PruneVid, frame", 1, 36, 4096, 18, 7, dtype=HALF),
    of("prunevid", "PruneVid, window", 1, 144, 4096, 72, 7, dtype=HALF, depth="quick"),
    of("ermvp", "ERMVP", 2, 2160, 256, 432, 10),
    of("dynfocus", "DynFocus, level 1", 64, 256, 1408, 16, 8),
    of("dynfocus", "DynFocus, level 2", 64, 16, 1408, 6, 3),
    of("holitom", "HoliTom, distances", 1, 196, 3584, 49, 7, dtype=HALF, depth="quick"),
    of("hot", "HoT", 64, 243, 512, 81, 2),
    of("flashvid", "FlashVID, frame", 1, 35, 3584, 4, 4, dtype=HALF, depth="quick"),
    of("flashvid", "FlashVID, frame", 1, 178, 3584, 41, 7, dtype=HALF),
    of("missrec", "MISSRec", 1, 3000, 300, 300, 5),
]
# The dialects' functions, each as (x, clusters, k, mask) to what holds its labels or centres.
OURS: dict[str, Callable[[Tensor, int, int, Tensor | None], Any]] = {
    "tcformer": lambda x, *rest: tcformer.cluster_dpc_knn({"x": x}, *rest)[0],
    "chat_univi": lambda x, *rest: chat_univi.cluster_dpc_knn({"x": x}, *rest)[0],
    "hbi": lambda x, *rest: hbi.cluster_dpc_knn({"x": x}, *rest)[0],
    "prunevid": lambda *args: prunevid.cluster_dpc_knn(*args)[0],
    "ermvp": lambda *args: ermvp.cluster_dpc_knn(*args)[0],
    "dynfocus": lambda *args: dynfocus.cluster_dpc_knn(None, *args)[0],
    "hot": lambda *args: hot.cluster_dpc_knn(*args)[1],
    "flashvid": lambda *args: flashvid.dpc_knn(*args)[0],
    "holitom": lambda x, clusters, k, _: holitom.cluster_dpc_knn(None, x, clusters, k),
    "missrec": lambda x, clusters, k, _: missrec.cluster_dpc_knn(x[0], clusters, k)[0].unsqueeze(0),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_dropin(case: DropinCase, contest: Contest, depth: str) -> None:
    small = case.at(depth)
    x, mask = small.inputs()
    num, k = small.clusters, small.k
    noise = 0 if case.page == "missrec" else 1e-6

    def copied() -> Any:
        found = copies.cluster(x, num, k, mask, noise)
        if case.page == "holitom":
            return found.centers, found.distance
        if case.page == "missrec":
            copies.merge(x, found.labels, num, torch.ones_like(x[..., :1]))  # its function returns centroids, too
        return found.labels

    share = right_share(x, num, k, mask)
    contenders: dict[str, Callable[[], Any]] = {"ours": partial(OURS[case.page], x, num, k, mask), "research": copied}
    own_share = TOGETHER if k > 2 else TOGETHER_OF_PAIRS
    contest(case, contenders, share, work_of(x), own_share=own_share, repeatable=False)


SPARSEVLM = [
    of("sparsevlm", "SparseVLM", 1, n, 4096, num, num, dtype=dtype, depth="quick" if n == 33 else "full")
    for n, num in ((29, 3), (33, 4), (83, 9))
    for dtype in (torch.float16, torch.float32)
]


@pytest.mark.parametrize("case", SPARSEVLM, ids=str)
def test_dropin_cluster_and_merge(case: DropinCase, contest: Contest, depth: str) -> None:
    small = case.at(depth)
    x, _ = small.inputs()
    labels = copies.cluster_and_merge(x, small.clusters).labels  # in half precision its noise is lost: always the same
    expected = oracle.cluster_means(x, labels, small.clusters)

    contenders = {
        "ours": lambda: sparsevlm.cluster_and_merge(x, small.clusters),
        "research": lambda: copies.cluster_and_merge(x, small.clusters).distance,
    }
    contest(case, contenders, as_a_set(expected), work_of(x), own_share=TOGETHER, repeatable=False)


MERGES = [
    of("tcformer", "TCFormer, stage 1, both ways", 8, 3136, 128, 784, 0),
    of("chat_univi", "Chat-UniVi, video, both ways", 64, 256, 1024, 64, 0, dtype=HALF),
    of("ermvp", "ERMVP, both ways", 2, 2160, 256, 432, 0),
]


@pytest.mark.parametrize("case", MERGES, ids=str)
def test_dropin_merge(case: DropinCase, contest: Contest, depth: str) -> None:
    small = case.at(depth)
    x = torch.randn(small.b, small.n, small.c).to(small.dtype).requires_grad_()
    labels = torch.randint(small.clusters, (small.b, small.n))
    weight = torch.randn(small.b, small.n, 1).exp().to(small.dtype).requires_grad_()
    grad = torch.randn(small.b, small.clusters, small.c).to(small.dtype)

    def both_ways(merge: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
        means = merge(inputs[0], labels, small.clusters, inputs[1])
        return means.detach(), *torch.autograd.grad(means, inputs, grad.to(means.dtype))

    exact = both_ways(copies.merge, x.detach().double().requires_grad_(), weight.detach().double().requires_grad_())

    def share(name: str, result: tuple[Tensor, ...]) -> float:
        return min(near(name, *pair) for pair in zip(result, exact, strict=True))

    contenders = {
        "ours": lambda: both_ways(lambda *args: ermvp.merge_tokens(*args)[0], x, weight),
        "research": lambda: both_ways(copies.merge, x, weight),
    }
    sizes = (small.b, small.n, small.c, small.clusters, x.itemsize)
    contest(case, contenders, share, Work(counts.cluster_mean(*sizes) + counts.cluster_mean_backward(*sizes)))


DENSITY = of("holitom", "HoliTom, window to tokens", 1, 196, 3584, 49, 7, dtype=HALF)


@pytest.mark.parametrize("case", [DENSITY, replace(DENSITY, clusters=20)], ids=str)
def test_dropin_merge_by_density(case: DropinCase, contest: Contest, depth: str) -> None:
    small = case.at(depth)
    x, _ = small.inputs()
    position = torch.arange(small.n).expand(small.b, -1)
    expected, _ = copies.merge_by_density(x.double(), position, small.clusters, small.k, 0.6)

    def share(name: str, result: tuple[Tensor, Tensor]) -> float:
        return near(name, result[0], expected)

    contenders = {
        "ours": lambda: holitom.merge_tokens_by_density(None, x, position, small.clusters / small.n, 0.6, small.k),
        "research": lambda: copies.merge_by_density(x, position, small.clusters, small.k, 0.6),
    }
    contest(case, contenders, share, work_of(x), own_share=TOGETHER, repeatable=False)


@dataclass(frozen=True, kw_only=True)
class FramesCase(Case):
    segments: int
    shortest: int
    n: int  # of the longest
    c: int
    ratio: float  # clusters a token
    k: int

    @property
    def shape(self) -> str:
        return f"varlen-{self.segments}x{self.shortest}..{self.n}x{self.c}"


FRAMES = [
    FramesCase(used_by="FlashVID", segments=32, shortest=35, n=178, c=3584, ratio=0.1, k=7, dtype=HALF, depth="quick"),
    FramesCase(used_by="PruneVid", segments=21, shortest=15, n=144, c=4096, ratio=0.5, k=7, dtype=HALF),
    FramesCase(used_by="HoliTom", segments=16, shortest=40, n=196, c=3584, ratio=0.25, k=7, dtype=HALF),
]


@pytest.mark.parametrize("case", FRAMES, ids=str)
def test_dropin_frames(case: FramesCase, contest: Contest, depth: str) -> None:
    """From frames of ragged lengths to the means of their clusters, as docs/dropin/varlen.md has it."""
    small = case.at(depth)
    lengths = torch.linspace(min(small.shortest, small.n), small.n, small.segments).int().tolist()
    clusters = [max(small.k, round(small.ratio * length)) for length in lengths]
    frames = [clustered((n, small.c), num, small.dtype) for n, num in zip(lengths, clusters, strict=True)]
    neighbors = [small.k] * len(frames)

    def one_call() -> Tensor:
        x, bounds = torch.cat(frames), torch.tensor([0, *accumulate(lengths)])
        noise = 1e-6 * torch.rand(len(x))
        found = dpc_knn_varlen(x, bounds, clusters, neighbors, max_seqlen=max(lengths), noise=noise)
        first = found.cu_clusters[:-1].repeat_interleave(bounds.diff())
        return cluster_mean(x[None], (found.assignment + first)[None], sum(clusters))

    def a_call_each() -> Tensor:
        means = []
        for frame, num, k in zip(frames, clusters, neighbors, strict=True):
            labels, _ = flashvid.dpc_knn(frame[None], num, k)
            means.append(cluster_mean(frame[None], labels, num)[0])
        return torch.cat(means)[None]

    exact = torch.cat(copies.frame_by_frame([frame.double() for frame in frames], clusters, neighbors))
    contenders = {
        "ours": one_call,
        "ours, a call each": a_call_each,
        "research, a call each": lambda: torch.cat(copies.frame_by_frame(frames, clusters, neighbors))[None],
    }
    work = Work(counts.dpc_knn_varlen(lengths, small.c, clusters, frames[0].itemsize))
    contest(case, contenders, as_a_set(exact[None]), work, own_share=TOGETHER, repeatable=False)


def as_a_set(expected: Tensor) -> Callable[[str, Any], float]:
    """Of means [B, M, C] in any order: each expected one is compared with the nearest that there is."""

    def share(name: str, result: Any) -> float:
        nearest = torch.cdist(expected, result.double()).argmin(-1, keepdim=True)
        return near(name, result.gather(1, nearest.expand_as(expected)), expected)

    return share


def near(name: str, result: Tensor, expected: Tensor) -> float:
    """Of the copies, which add up in half precision, no more is asked than a hundredth of the largest number."""
    if name.startswith("ours") or result.dtype == torch.float32:
        return oracle.close_share(result, expected)
    return ((result.double() - expected).abs() <= expected.abs().max() / 100).double().mean().item()


def work_of(x: Tensor) -> Work:
    b, n, c = x.shape
    return Work(counts.dpc_knn(b, n, c, 0, x.itemsize), gram(x), share=0.5)


def right_share(x: Tensor, num: int, k: int, mask: Tensor | None) -> Callable[[str, Any], float]:
    """Of labels [B, N], or of HoliTom's centres and distances, against float64 without noise."""
    points = [sample if mask is None else sample[mask[b]] for b, sample in enumerate(x)]
    exact = [oracle.labels(sample[None], num, k) if len(sample) >= max(num, k) else None for sample in points]

    def share(_: str, result: Any) -> float:
        if isinstance(result, tuple):
            centers = torch.stack([right.centers[0] for right in exact if right is not None])
            return (result[0].sort().values == centers.sort().values).double().mean().item()
        shares = []
        for b, (sample, right) in enumerate(zip(points, exact, strict=True)):
            labels = result[b] if mask is None else result[b, mask[b]]
            if right is None:  # all tokens are centres: each is alone
                shares.append(float(len(labels.unique()) == len(labels)))
            elif k < 3:
                shares.append(float(spread(sample, labels) <= TIGHTNESS * spread(sample, right.assignment[0])))
            else:
                shares.append(companions(labels, right.assignment[0]))
        return sum(shares) / len(shares)

    return share


def companions(labels: Tensor, others: Tensor) -> float:
    """Share of the tokens that are together with exactly the same tokens under both."""
    together, also = (one[:, None] == one for one in (labels, others))
    return (together == also).all(-1).double().mean().item()


def spread(points: Tensor, labels: Tensor) -> float:
    """Mean squared distance of the points [N, C] to the means of their clusters."""
    means = oracle.cluster_means(points[None], labels[None], int(labels.max()) + 1)[0]
    return (points.double() - means[labels]).square().sum(-1).mean().item()
