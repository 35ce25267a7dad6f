"""Max-min diversity against the definition, which looks at every chosen token again at every step."""

import pytest
import torch

from dynfocus_ops.token_reduction import max_min_diversity


def plain(x, num, weight):
    unit = x / x.norm(dim=-1, keepdim=True)
    n = len(x)
    distance = [[(1 - float(unit[i] @ unit[j])) * float(weight[j]) for j in range(n)] for i in range(n)]
    smallest = [min((distance[i][j] for i in range(n) if i != j), default=0) for j in range(n)]
    chosen = [max(range(n), key=lambda j: (smallest[j], -j))]
    while len(chosen) < num:
        rest = [j for j in range(n) if j not in chosen]
        chosen.append(max(rest, key=lambda j: (min(distance[i][j] for i in chosen), -j)))
    return chosen


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(2, 25, 6, 8), (1, 9, 3, 9), (1, 1, 4, 1), (2, 12, 40, 1)])
def test_choice(shape, weighted):
    b, n, c, num = shape
    x, weight = torch.randn(b, n, c), torch.rand(b, n) if weighted else None
    chosen = max_min_diversity(x, num, weight=weight)
    expected = [plain(x[s].double(), num, torch.ones(n) if weight is None else weight[s].double()) for s in range(b)]
    assert chosen.tolist() == expected


def test_a_choice_begins_every_larger_one():
    x = torch.randn(2, 40, 8)
    assert torch.equal(max_min_diversity(x, 20)[:, :7], max_min_diversity(x, 7))


def test_equals_go_to_the_lower_index_and_none_comes_twice():
    assert max_min_diversity(torch.ones(1, 5, 3), 5).tolist() == [[0, 1, 2, 3, 4]]
    doubled = torch.randn(1, 8, 4).repeat(1, 2, 1)
    chosen = max_min_diversity(doubled, 16)[0].tolist()
    assert sorted(chosen) == list(range(16)) and len({place % 8 for place in chosen[:8]}) == 8


def test_half_precision_is_computed_in_float32():
    x = torch.randn(2, 30, 8).bfloat16()
    assert torch.equal(max_min_diversity(x, 9), max_min_diversity(x.float(), 9))


def test_errors():
    x = torch.randn(1, 6, 4)
    with pytest.raises(ValueError, match="num_tokens is 7, it must be at most 6, the number of tokens"):
        max_min_diversity(x, 7)
    with pytest.raises(ValueError, match=r"weight has shape \[1, 5\]"):
        max_min_diversity(x, 2, weight=torch.ones(1, 5))
    with pytest.raises(ValueError, match="x has NaN or infinity"):
        max_min_diversity(x.fill_(torch.nan), 2)
