"""The merges: values and gradients are compared with the stand-ins' in test_patch; here what is special."""

import pytest
import torch

from .forms import ours, peer
from .peers.tcformer_layers import first_tokens


def labels(b, n, num):
    return torch.randint(num, (b, n))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dialect", ["tcformer", "chat_univi", "hbi"])
def test_merged_tokens(dialect, dtype):
    tokens, assigned = first_tokens(torch.randn(3, 30, 8).to(dtype)), labels(3, 30, 6)
    weight = torch.randn(3, 30, 1).exp().to(dtype)
    merged = ours(dialect).merge_tokens(tokens, assigned, 6, weight)
    expected = peer(dialect).merge_tokens(tokens, assigned, 6, weight)
    assert list(merged) == list(expected)
    rounding = 8 * torch.finfo(dtype).eps  # the original adds up in x.dtype
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert merged[name].dtype == value.dtype
            torch.testing.assert_close(merged[name], value, rtol=rounding, atol=rounding)
        else:
            assert merged[name] == value


def test_merging_twice_follows_the_original_tokens():
    tokens = first_tokens(torch.randn(2, 30, 8))
    first, second = labels(2, 30, 10), labels(2, 10, 4)
    ours_, theirs = tokens, tokens
    for assigned, num in ((first, 10), (second, 4)):
        ours_ = ours("tcformer").merge_tokens(ours_, assigned, num)
        theirs = peer("tcformer").merge_tokens(theirs, assigned, num)
    assert torch.equal(ours_["idx_token"], second.gather(1, first))
    assert torch.equal(ours_["idx_token"], theirs["idx_token"])
    torch.testing.assert_close(ours_["agg_weight"], theirs["agg_weight"])
    torch.testing.assert_close(ours_["x"], theirs["x"])


def test_one_index_for_the_whole_batch():
    tokens = first_tokens(torch.randn(2, 30, 8))
    tokens["idx_token"] = torch.arange(30)[None]
    merged = ours("tcformer").merge_tokens(tokens, labels(2, 30, 4), 4)
    assert merged["idx_token"].shape == (2, 30)


def test_weights_without_which_a_token_counts_nothing():
    tokens, assigned = first_tokens(torch.randn(1, 30, 8)), labels(1, 30, 4)
    weight = (torch.arange(30).view(1, 30, 1) < 20).float()
    merged = ours("hbi").merge_tokens(tokens, assigned, 4, weight)["x"]
    alone = first_tokens(tokens["x"][:, :20])
    torch.testing.assert_close(merged, ours("hbi").merge_tokens(alone, assigned[:, :20], 4)["x"])


@pytest.mark.parametrize("bad", [-torch.inf, torch.nan, torch.inf])
def test_weights_that_would_make_whole_clusters_nan_are_refused(bad):
    weight = torch.ones(1, 30, 1)
    weight[0, 4] = bad
    with pytest.raises(ValueError, match=r"token_weight has NaN or infinity at \[0, 4\]"):
        ours("chat_univi").merge_tokens(first_tokens(torch.randn(1, 30, 8)), labels(1, 30, 4), 4, weight)


def test_weights_in_half_precision_may_add_up_to_infinity():
    tokens, assigned = first_tokens(torch.randn(1, 30, 8)), labels(1, 30, 4)
    weight = torch.full((1, 30, 1), 60_000, dtype=torch.float16)
    assert weight.sum() == torch.inf
    merged = ours("tcformer").merge_tokens(tokens, assigned, 4, weight)["x"]
    torch.testing.assert_close(merged, ours("tcformer").merge_tokens(tokens, assigned, 4)["x"])


def test_the_number_of_tokens_is_the_one_given():
    tokens, number = first_tokens(torch.randn(1, 30, 8)), torch.tensor(4)
    assert ours("hbi").merge_tokens(tokens, labels(1, 30, 4), number)["token_num"] is number


@pytest.mark.parametrize("no_beta", ["0", "1"])
def test_holitom_mix_with_and_without_beta(no_beta, monkeypatch):
    monkeypatch.setenv("NO_BETA", no_beta)
    x = torch.randn(2, 20, 8)
    centers, distance = ours("holitom").cluster_dpc_knn(None, x, 6, 3)
    args = (x, centers.sort(-1).values, distance, 6, 0.6)
    merged = ours("holitom").merge_tokens_by_clustering(None, *args)
    torch.testing.assert_close(merged, peer("holitom").Model.merge_tokens_by_clustering(None, *args))


def test_the_gradient_of_half_precision_weights_has_one_rounding():
    x, weight = torch.randn(2, 256, 512).bfloat16(), torch.randn(2, 256, 1).exp().bfloat16().requires_grad_()
    assigned, grad = labels(2, 256, 64), torch.randn(2, 64, 512).bfloat16()
    merged = ours("ermvp").merge_tokens(x, assigned, 64, weight)[0]
    (found,) = torch.autograd.grad(merged, weight, grad)
    exact_weight = weight.detach().double().requires_grad_()
    exact = peer("ermvp").merge_tokens(x.double(), assigned, 64, exact_weight)[0]
    (expected,) = torch.autograd.grad(exact, exact_weight, grad.double())
    torch.testing.assert_close(found.double(), expected, rtol=2**-7, atol=1e-5 * expected.abs().max().item())
