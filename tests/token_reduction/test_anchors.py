"""Assignment to anchors and the three merges, against plain loops in float64."""

import pytest
import torch

from dynfocus_ops.token_reduction import assign_to_anchors, merge_into_anchors

RULES = ["fastvid", "visionzip", "scissor"]


def plain(x, anchors, assignment, rule, beta):
    rows = []
    for j, anchor in enumerate(anchors):
        members = x[assignment == j]
        n = len(members)
        mean = members.sum(0) / max(n, 1)
        if rule == "visionzip":
            rows.append(anchor + mean)
        elif rule == "scissor":
            rows.append((anchor + members.sum(0)) / (n + 1))
        else:
            w = max(1 / (n + 1), beta) if n else 1.0
            rows.append(w * anchor + (1 - w) * mean)
    return torch.stack(rows)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 30, 6, 8), (1, 3, 9, 4), (2, 1, 1, 2)])
def test_assignment_and_merge(rule, dtype, shape):
    b, n, m, c = shape
    x, anchors = torch.randn(b, n, c).to(dtype), torch.randn(b, m, c).to(dtype)
    assignment = assign_to_anchors(x, anchors)
    merged = merge_into_anchors(x, anchors, assignment, rule, beta=0.4)
    assert merged.dtype == dtype and merged.shape == (b, m, c)
    for sample in range(b):
        points, centers = x[sample].double(), anchors[sample].double()
        cosine = torch.nn.functional.cosine_similarity(points[:, None], centers, dim=-1)
        assert torch.equal(assignment[sample], cosine.argmax(-1))
        expected = plain(points, centers, assignment[sample], rule, 0.4)
        rounding = 4 * torch.finfo(dtype).eps
        torch.testing.assert_close(merged[sample].double(), expected, rtol=rounding, atol=rounding)


def test_equals_go_to_the_lower_index_and_nobody_s_tokens_count_nowhere():
    x = torch.ones(1, 4, 3)
    assert assign_to_anchors(x, torch.ones(1, 3, 3)).tolist() == [[0, 0, 0, 0]]
    for rule in RULES:
        merged = merge_into_anchors(x, 2 * torch.ones(1, 2, 3), torch.tensor([[-1, 1, -1, -1]]), rule)
        alone = merge_into_anchors(x[:, 1:2], 2 * torch.ones(1, 2, 3), torch.tensor([[1]]), rule)
        assert torch.equal(merged, alone) and merged[0, 0].tolist() == [2, 2, 2]


@pytest.mark.parametrize("rule", RULES)
def test_differentiable_in_tokens_and_anchors(rule):
    x = torch.randn(1, 7, 3, dtype=torch.float64, requires_grad=True)
    anchors = torch.randn(1, 3, 3, dtype=torch.float64, requires_grad=True)
    assignment = assign_to_anchors(x, anchors)
    assert not assignment.requires_grad
    assert torch.autograd.gradcheck(lambda x, anchors: merge_into_anchors(x, anchors, assignment, rule), (x, anchors))


def test_errors():
    x, anchors = torch.randn(1, 6, 4), torch.randn(1, 2, 4)
    with pytest.raises(ValueError, match=r"anchors has shape \[1, 2, 3\], it must be \[B, M, C\] with B, C of x"):
        assign_to_anchors(x, anchors[..., :3])
    with pytest.raises(ValueError, match=r"x has NaN or infinity at \[0, 0\]"):
        assign_to_anchors(x.index_fill(1, torch.tensor(0), torch.inf), anchors)
    with pytest.raises(ValueError, match="rule is 'tome', it must be 'fastvid', 'visionzip' or 'scissor'"):
        merge_into_anchors(x, anchors, assign_to_anchors(x, anchors), "tome")
    with pytest.raises(ValueError, match="beta is 2"):
        merge_into_anchors(x, anchors, assign_to_anchors(x, anchors), beta=2)
    with pytest.raises(ValueError, match="assignment has values"):
        merge_into_anchors(x, anchors, torch.full((1, 6), 2))
