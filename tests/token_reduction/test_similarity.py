"""Products with tokens, block by block, against one float64 product; in full precision also under autocast."""

import pytest
import torch

from dynfocus_ops.token_reduction import assign_to_anchors, bipartite_soft_matching, max_min_diversity, similarity


@pytest.mark.parametrize("block", [1, 7, 40, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_blocks_make_one_product(block, dtype, monkeypatch):
    monkeypatch.setattr(similarity, "BLOCK", block)
    x, others = torch.randn(3, 11, 6).to(dtype).transpose(0, 1), torch.randn(11, 5, 6)
    expected = others.double() @ x.double().mT
    torch.testing.assert_close(similarity.products(x, others).double(), expected, rtol=1e-5, atol=1e-5)


def test_shapes_on_a_device_without_numbers():
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.empty(2, 7, 6, dtype=dtype, device="meta")
        assert similarity.products(x, torch.empty(2, 3, 6, device="meta")).shape == (2, 3, 7)


def close_tokens():
    """Tokens whose cosines differ by less than bfloat16 can tell."""
    return torch.randn(1, 1, 64) + 0.01 * torch.randn(2, 40, 64)


@pytest.mark.parametrize(
    "choose",
    [
        lambda x: assign_to_anchors(x, x[:, ::4].contiguous()),
        lambda x: bipartite_soft_matching(x, 15).assignment,
        lambda x: max_min_diversity(x, 12),
    ],
    ids=["anchors", "matching", "diversity"],
)
def test_autocast_takes_no_precision(choose):
    x = close_tokens()
    expected = choose(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(choose(x), expected)
