"""Bipartite soft matching against its definition in plain loops, in float64."""

import pytest
import torch

from dynfocus_ops.token_reduction import bipartite_soft_matching, merge_matched

from ..ops.support import gradients


def plain(metric, r, class_token, distill_token, split):
    """(groups of tokens, in the order in which they come out)."""
    n = len(metric)
    r = min(r, (n - class_token - distill_token) // 2)
    if r <= 0:
        return [[i] for i in range(n)]
    a = list(range(0, n, 2)) if split == "alternating" else list(range(n // 2))
    b = [i for i in range(n) if i not in a]
    unit = metric / metric.norm(dim=-1, keepdim=True)
    best = []
    for i in a:
        scores = [-torch.inf if distill_token and j == 1 else float(unit[i] @ unit[j]) for j in b]
        top = max(range(len(b)), key=lambda j: (scores[j], -j))
        best.append((-torch.inf if class_token and i == 0 else scores[top], b[top]))
    order = sorted(range(len(a)), key=lambda place: (-best[place][0], place))
    source, stay = order[:r], order[r:]
    stay = sorted(stay) if class_token else stay
    into = {j: [j, *(a[place] for place in sorted(source) if best[place][1] == j)] for j in b}
    kept, groups = [[a[place]] for place in stay], [into[j] for j in b]
    return [*kept[:1], groups[0], *kept[1:], *groups[1:]] if distill_token else [*kept, *groups]


CASES = [  # N, r, class token, distill token, split
    (20, 6, False, False, "alternating"),
    (21, 6, False, False, "alternating"),
    (21, 10, False, False, "halves"),
    (20, 40, False, False, "alternating"),
    (21, 5, True, False, "alternating"),
    (22, 40, True, True, "alternating"),
    (23, 7, True, True, "alternating"),
    (20, 4, True, False, "halves"),
    (5, 0, False, False, "alternating"),
    (2, 1, True, False, "alternating"),
    (1, 3, False, False, "alternating"),
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_matching_and_merge(case, dtype):
    n, r, class_token, distill_token, split = case
    metric, x, size = torch.randn(3, n, 8, dtype=dtype), torch.randn(3, n, 5, dtype=dtype), torch.rand(3, n).to(dtype)
    matching = bipartite_soft_matching(metric, r, class_token=class_token, distill_token=distill_token, split=split)
    merged, sizes = merge_matched(x, matching, size)
    for b in range(3):
        groups = plain(metric[b].double(), r, class_token, distill_token, split)
        assert matching.num_tokens == len(groups)
        for place, group in enumerate(groups):
            assert (matching.assignment[b, group] == place).all()
            weight = size[b, group].double()
            expected = (x[b, group].double() * weight[:, None]).sum(0) / weight.sum()
            torch.testing.assert_close(merged[b, place].double(), expected, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(sizes[b, place].double(), weight.sum(), rtol=1e-5, atol=0)


def test_equals_go_to_the_lower_index():
    metric = torch.ones(1, 8, 4)
    assert bipartite_soft_matching(metric, 2).assignment.tolist() == [[2, 2, 2, 3, 0, 4, 1, 5]]


def test_without_sizes_each_token_counts_once_and_merges_add_up():
    x = torch.randn(2, 16, 4)
    first = bipartite_soft_matching(x, 6)
    merged, sizes = merge_matched(x, first)
    assert sizes.sum(1).tolist() == [16, 16] and merged.shape == (2, 10, 4)
    again, sizes = merge_matched(merged, bipartite_soft_matching(merged, 4), sizes)
    assert sizes.sum(1).tolist() == [16, 16]
    torch.testing.assert_close((again * sizes[..., None]).sum(1), x.sum(1), rtol=1e-4, atol=1e-5)


def test_differentiable_in_x_but_not_through_the_matching():
    x = torch.randn(1, 12, 4, dtype=torch.float64, requires_grad=True)
    matching = bipartite_soft_matching(x, 3)
    assert torch.autograd.gradcheck(lambda x: merge_matched(x, matching)[0], x)
    (grad,) = gradients(lambda x: merge_matched(x, bipartite_soft_matching(x, 3))[0], (x,))
    (fixed,) = gradients(lambda x: merge_matched(x, matching)[0], (x,))
    assert torch.equal(grad, fixed)


def test_half_precision_matches_in_float32():
    metric = torch.randn(2, 20, 8).bfloat16()
    half, single = bipartite_soft_matching(metric, 6), bipartite_soft_matching(metric.float(), 6)
    assert torch.equal(half.assignment, single.assignment)
    assert merge_matched(metric, half)[0].dtype == torch.bfloat16


def test_errors():
    x = torch.randn(1, 6, 4)
    with pytest.raises(ValueError, match=r"metric has shape \[6, 4\], it must be \[B, N, C\]"):
        bipartite_soft_matching(x[0], 2)
    with pytest.raises(ValueError, match="r is -1, it must be at least 0"):
        bipartite_soft_matching(x, -1)
    with pytest.raises(ValueError, match="split is 'thirds'"):
        bipartite_soft_matching(x, 2, split="thirds")
    with pytest.raises(ValueError, match="split is 'halves', it must be 'alternating' with a distill_token"):
        bipartite_soft_matching(x, 2, split="halves", distill_token=True)
    with pytest.raises(ValueError, match=r"metric has NaN or infinity at \[0, 2\]"):
        bipartite_soft_matching(x.index_fill(1, torch.tensor(2), torch.nan), 2)
    with pytest.raises(ValueError, match="x has shape"):
        merge_matched(x[:, :5], bipartite_soft_matching(x, 2))
