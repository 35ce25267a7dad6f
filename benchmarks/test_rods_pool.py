"""rods_pool: two tokens a frame, one of them by the attention of the text."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks import counts, oracle, research, vectorised
from benchmarks.cases import Case, clustered
from benchmarks.contest import Contest
from benchmarks.floors import Work
from dynfocus_ops import rods_pool


@dataclass(frozen=True, kw_only=True)
class RodsCase(Case):
    t: int
    m: int
    c: int
    q: int = 32

    @property
    def shape(self) -> str:
        return f"{self.t}x{self.m}x{self.c}-q{self.q}"


PATCHES = RodsCase(used_by="DynFocus, patches", t=64, m=256, c=1408, depth="quick")
PROTOTYPES = RodsCase(used_by="DynFocus, prototypes", t=64, m=22, c=1408, depth="quick")
CASES = [
    PATCHES,
    replace(PATCHES, dtype=torch.bfloat16),
    PROTOTYPES,
    replace(PROTOTYPES, t=1000, depth="full"),
    replace(PROTOTYPES, dtype=torch.bfloat16, depth="full"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rods_pool(case: RodsCase, contest: Contest, depth: str) -> None:
    small = case.at(depth)
    tokens = clustered((small.t, small.m, small.c), 8, small.dtype)
    text = torch.randn(small.q, small.c)
    key_weight = torch.randn(small.c, small.c) * small.c**-0.5
    queries = (text @ key_weight).to(small.dtype)  # softmax(text (W x)ᵀ) = softmax((text W) xᵀ): the projection folds
    text, key_weight = text.to(small.dtype), key_weight.to(small.dtype)
    compiled = vectorised.compiled(vectorised.rods_pool, depth)
    contenders = {
        "ours": lambda: rods_pool(tokens, queries),
        "research": lambda: research.rods_pool(tokens, text, key_weight),
        "vectorised": lambda: vectorised.rods_pool(tokens, queries),
        "compiled": lambda: compiled(tokens, queries),
        "SDPA + mean": lambda: attention_and_mean(tokens, queries),
    }
    folded = vectorised.rods_pool(tokens.double(), queries.double())
    projected = research.rods_pool(tokens.double(), text.double(), key_weight.double())
    flat, columns = tokens.float().flatten(0, 1), queries.float().T
    out = flat.new_empty(len(flat), small.q)
    cost = counts.rods_pool(small.t, small.m, small.c, small.q, tokens.itemsize)
    work = Work(cost, product=lambda: torch.mm(flat, columns, out=out))

    def share(name: str, result: Tensor) -> float:
        return oracle.close_share(result, projected if name == "research" else folded)

    contest(case, contenders, share, work)


def attention_and_mean(tokens: Tensor, queries: Tensor) -> Tensor:
    attended = scaled_dot_product_attention(queries.expand(len(tokens), -1, -1), tokens, tokens)
    return torch.stack((attended.mean(1), tokens.mean(1)), 1)
