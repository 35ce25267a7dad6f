"""dynfocus_ops.token_reduction against the projects' own ways, on one core: docs/dropin/token_reduction.md."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import copies, oracle
from benchmarks.cases import Case, clustered
from benchmarks.contest import Contest
from benchmarks.counts import Cost
from benchmarks.floors import Work, nbytes
from dynfocus_ops.token_reduction import (
    assign_to_anchors,
    bipartite_soft_matching,
    compress_video_tokens,
    max_min_diversity,
    merge_into_anchors,
    merge_matched,
    segment_boundaries,
)

pytestmark = pytest.mark.usefixtures("one_core")
NEARLY = 0.98  # where two similarities a rounding apart may swap


@dataclass(frozen=True, kw_only=True)
class TokensCase(Case):
    page: str = "token_reduction"
    b: int
    n: int
    c: int
    m: int  # merged, chosen or anchors

    @property
    def shape(self) -> str:
        return f"{self.page}-{self.b}x{self.n}x{self.c}-{self.m}"


MATCHING = [
    TokensCase(used_by="ToMe, ViT-L", b=8, n=196, c=1024, m=16),
    TokensCase(used_by="DYTO, LLaVA", b=16, n=576, c=1024, m=144),
]


@pytest.mark.parametrize("case", MATCHING, ids=str)
def test_token_reduction_matching(case: TokensCase, contest: Contest, depth: str) -> None:
    small = case.at(depth)
    x = clustered((small.b, small.n, small.c), small.n // 4)
    metric, size = x[..., : max(12, small.c // 16)].contiguous(), torch.randint(1, 5, (small.b, small.n)).float()
    exact = copies.tome(metric.double(), x.double(), size.double().unsqueeze(-1), small.m)

    def share(_: str, result: tuple[Tensor, Tensor]) -> float:
        return min(oracle.close_share(result[0], exact[0]), oracle.close_share(result[1].view_as(exact[1]), exact[1]))

    contenders = {
        "ours": lambda: merge_matched(x, bipartite_soft_matching(metric, small.m), size),
        "research": lambda: copies.tome(metric, x, size.unsqueeze(-1), small.m),
    }
    contest(case, contenders, share, moved(x), own_share=NEARLY)


ANCHORS = [TokensCase(used_by="FastVID", b=8, n=732, c=3584, m=19, dtype=torch.bfloat16)]


@pytest.mark.parametrize("case", ANCHORS, ids=str)
def test_token_reduction_anchors(case: TokensCase, contest: Contest, depth: str) -> None:
    small = case.at(depth)
    anchors = torch.randn(small.b, small.m, small.c).to(small.dtype)
    near = torch.randint(small.m, (small.b, small.n, 1)).expand(-1, -1, small.c)
    x = anchors.gather(1, near) + 0.5 * torch.randn(small.b, small.n, small.c).to(small.dtype)
    exact = copies.merge_into_anchors(x.double(), anchors.double())

    def share(name: str, result: Tensor) -> float:
        if name == "ours":
            return oracle.close_share(result, exact)
        return ((result.double() - exact).abs() <= exact.abs().max() / 100).double().mean().item()

    contenders = {
        "ours": lambda: merge_into_anchors(x, anchors, assign_to_anchors(x, anchors)),
        "research": lambda: copies.merge_into_anchors(x, anchors),
    }
    contest(case, contenders, share, moved(x), own_share=NEARLY)


DIVERSITY = [
    TokensCase(used_by="FlashVID, ADTS", b=16, n=196, c=1152, m=35),
    TokensCase(used_by="DivPrune", b=1, n=576, c=4096, m=57),
]


@pytest.mark.parametrize("case", DIVERSITY, ids=str)
def test_token_reduction_diversity(case: TokensCase, contest: Contest, depth: str) -> None:
    small = case.at(depth)
    x, weight = clustered((small.b, small.n, small.c), small.m), torch.rand(small.b, small.n)
    exact = copies.max_min_diversity(x.double(), small.m, weight.double())

    def share(_: str, result: Tensor) -> float:
        return (result == exact).double().mean().item()

    contenders = {
        "ours": lambda: max_min_diversity(x, small.m, weight=weight),
        "research": lambda: copies.max_min_diversity(x, small.m, weight),
    }
    contest(case, contenders, share, moved(x), own_share=NEARLY)


SEGMENTS = [TokensCase(used_by="FlashVID", b=1, n=64, c=3584, m=8)]


@pytest.mark.parametrize("case", SEGMENTS, ids=str)
def test_token_reduction_segments(case: TokensCase, contest: Contest, depth: str) -> None:
    small = case.at(depth)
    frames = torch.randn(small.n, small.c).cumsum(0)
    exact = copies.segment_boundaries(frames.double(), 0.9, small.m)

    def share(_: str, result: Tensor) -> float:
        return float(torch.equal(result, exact))

    contenders = {
        "ours": lambda: segment_boundaries(frames, 0.9, min_segments=small.m),
        "research": lambda: copies.segment_boundaries(frames, 0.9, small.m),
    }
    contest(case, contenders, share, moved(frames))


VIDEOS = [
    TokensCase(page="compress_video_tokens", used_by="LLaVA-OneVision", b=32, n=196, c=3584, m=1024),
    TokensCase(page="compress_video_tokens", used_by="LLaVA-OneVision, long", b=256, n=196, c=896, m=2048),
]


@pytest.mark.parametrize("case", VIDEOS, ids=str)
def test_token_reduction_compressor(case: TokensCase, contest: Contest, depth: str) -> None:
    """Alone: no project has one to race."""
    small = case.at(depth)
    features = clustered((small.b, small.n, small.c), 8)
    budget = max(small.m, 3 * small.b)

    def share(_: str, result: Any) -> float:
        keys = torch.isin(result.frames, result.key_frames)
        as_they_were = (result.tokens == features[result.frames, result.positions]).all(-1)
        return float(len(result.tokens) <= budget and bool(as_they_were[keys].all()))

    contest(case, {"ours": lambda: compress_video_tokens(features, budget)}, share, moved(features))


def moved(x: Tensor) -> Work:
    return Work(Cost(flops=0, read=nbytes(x), written=0))
