"""pack_frame_tokens: the sequence the language model reads."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from benchmarks import counts, oracle, research, vectorised
from benchmarks.cases import Case
from benchmarks.contest import Contest
from benchmarks.floors import Work
from dynfocus_ops import pack_frame_tokens


@dataclass(frozen=True, kw_only=True)
class SequenceCase(Case):
    t: int
    k: int
    d: int
    fine: int = 38

    @property
    def shape(self) -> str:
        return f"t{self.t}-k{self.k}-d{self.d}"


VIDEO = SequenceCase(used_by="DynFocus", t=1000, k=20, d=4096, depth="quick")
CASES = [VIDEO, replace(VIDEO, dtype=torch.bfloat16, depth="full"), replace(VIDEO, t=64, depth="full")]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_pack_frame_tokens(case: SequenceCase, contest: Contest, depth: str) -> None:
    small = case.at(depth)
    fine = torch.randn(small.k, small.fine, small.d).to(small.dtype)
    coarse = torch.randn(small.t, 2, small.d).to(small.dtype)
    key_index = torch.randperm(small.t)[: small.k].sort().values
    compiled = vectorised.compiled(vectorised.pack_frame_tokens, depth)
    contenders = {
        "ours": lambda: pack_frame_tokens(fine, coarse, key_index)[0],
        "research": lambda: research.pack_frame_tokens(fine, coarse, key_index),
        "vectorised": lambda: vectorised.pack_frame_tokens(fine, coarse, key_index),
        "compiled": lambda: compiled(fine, coarse, key_index),
    }
    exact = in_order(fine.double(), coarse.double(), key_index.tolist())
    cost = counts.pack_frame_tokens(small.t, small.k, small.fine, small.d, fine.itemsize)
    contest(case, contenders, lambda _, result: oracle.close_share(result, exact), Work(cost))


def in_order(fine: Tensor, coarse: Tensor, key_frames: list[int]) -> Tensor:
    parts = []
    for frame, tokens in enumerate(coarse):
        parts += [fine[key_frames.index(frame)], tokens] if frame in key_frames else [tokens]
    return torch.cat(parts)
