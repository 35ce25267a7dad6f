"""`patch` on the stand-ins: same outputs and gradients before and after, and what it must leave alone."""

import subprocess
import sys
import types
from importlib import import_module
from textwrap import dedent

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from dynfocus_ops.dropin import dialects, patch, prunevid, tcformer

from .forms import peer
from .peers import tcformer as peer_tcformer
from .peers import tcformer_layers
from .peers.formula import centers_and_labels, scaled_distance
from .peers.tcformer_layers import first_tokens


def with_layer(layer, tokens):
    return lambda x: layer(tokens(x))


def masked_tokens(x):
    n = x.shape[1]
    return {**first_tokens(x), "mask": (torch.arange(n) < n - 9).int().expand(len(x), -1)}


# What a project does with its copy, as a function of x; made anew for each test.
PROJECTS = {
    "tcformer": lambda: with_layer(tcformer_layers.Block(16, 6), first_tokens),
    "chat_univi": lambda: with_layer(peer("chat_univi").CTM(0.2), lambda x: {**first_tokens(x), "mask": None}),
    "hbi": lambda: with_layer(peer("hbi").CTM(16, 6), masked_tokens),
    "prunevid": lambda: peer("prunevid").merge_frame,
    "ermvp": lambda: lambda x: peer("ermvp").compress(x, x[..., :1].exp(), 6),
    "hot": lambda: lambda x: (peer("hot").prune(x, 9, 3), peer("hot").prune_but_center(x, 9, 3, 20)),
    "flashvid": lambda: lambda x: peer("flashvid").compress([x[0], x[1, :31], x[0, 5:]], 0.2),
    "sparsevlm": lambda: lambda x: peer("sparsevlm").cluster_and_merge(x, 6),
    "lightcompress": lambda: lambda x: peer("lightcompress").cluster_and_merge(x, 6),
    "missrec": lambda: lambda x: peer("missrec").cluster_dpc_knn(x[0], 6),
    "dynfocus": lambda: peer("dynfocus").Merger(16),
    "holitom": lambda: peer("holitom").Model(),
}
NOT_DIFFERENTIABLE = {"missrec"}


def run(project, x):
    """(what it returns, gradients of x) with its noise after a seed."""
    leaf = x.clone().requires_grad_()
    torch.manual_seed(11)
    result = project(leaf)
    outputs = [y for y in tree_leaves(result) if isinstance(y, torch.Tensor) and y.requires_grad]
    if not outputs:
        return result, ()
    loss = sum((y * torch.arange(1, y.numel() + 1).view_as(y)).sum() for y in outputs)
    return result, torch.autograd.grad(loss, leaf)


@pytest.mark.parametrize("dialect", PROJECTS)
def test_a_project_gives_the_same_forward_and_backward(dialect):
    project, x = PROJECTS[dialect](), torch.randn(2, 40, 16)
    before, grads = run(project, x)
    with patch(peer(dialect)) as patched:
        after, grads_after = run(project, x)
        assert patched.replaced and not patched.refused
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grads_after, grads, rtol=1e-5, atol=1e-4)
    assert bool(grads) == (dialect not in NOT_DIFFERENTIABLE)


def replaced_functions(module):
    holders = [module, *(value for value in vars(module).values() if isinstance(value, type))]
    return {
        name
        for holder in holders
        for name, value in vars(holder).items()
        if getattr(value, "__module__", "").startswith("dynfocus_ops")
    }


@pytest.mark.parametrize("dialect", PROJECTS)
def test_every_function_of_the_dialect_is_replaced_and_put_back(dialect):
    module = peer(dialect)
    names = {replacement.name for replacement in dialects.REPLACEMENTS if replacement.dialect == dialect}
    with patch(module):
        assert replaced_functions(module) == names
    assert replaced_functions(module) == set()


@pytest.mark.parametrize(
    "dialect", ["chat_univi", "tcformer", "prunevid", "ermvp", "flashvid", "dynfocus", "holitom", "hot"]
)
def test_the_dialect_is_told_by_what_a_copy_does(dialect):
    with patch(peer(dialect)) as patched:
        assert {replaced.dialect for replaced in patched.replaced} == {dialect}


def test_also_where_it_was_imported_by_name():
    originals = peer_tcformer.cluster_dpc_knn, peer_tcformer.merge_tokens
    patched = patch(peer_tcformer)
    assert tcformer_layers.cluster_dpc_knn is tcformer.cluster_dpc_knn
    assert tcformer_layers.merge_tokens is tcformer.merge_tokens
    assert any(place.endswith("tcformer_layers.merge_tokens") for place in patched.replaced[1].places)
    assert "tcformer_layers.cluster_dpc_knn" in str(patched)
    patched.restore()
    assert (tcformer_layers.cluster_dpc_knn, tcformer_layers.merge_tokens) == originals
    patched.restore()  # a second time changes nothing
    assert (peer_tcformer.cluster_dpc_knn, peer_tcformer.merge_tokens) == originals


@pytest.mark.parametrize(
    "target", [tcformer_layers, tcformer_layers.Block, nn.Sequential(nn.Identity(), tcformer_layers.Block(4, 2))]
)
def test_a_module_a_class_or_a_model_that_uses_it(target):
    with patch(target):
        assert tcformer_layers.cluster_dpc_knn is tcformer.cluster_dpc_knn
        assert peer_tcformer.merge_tokens is tcformer.merge_tokens
    assert peer_tcformer.merge_tokens is not tcformer.merge_tokens


def test_a_package_with_its_submodules():
    with patch(import_module("tests.dropin.peers")) as patched:
        assert len(patched.replaced) >= 15


def test_methods_through_a_subclass_and_an_instance():
    merger = peer("dynfocus").Merger
    for target in (merger, type("Special", (merger,), {}), merger(4)):
        original = merger.cluster_dpc_knn
        with patch(target):
            assert merger.cluster_dpc_knn.__module__ == "dynfocus_ops.dropin.dynfocus"
        assert merger.cluster_dpc_knn is original


def test_also_where_it_was_given_to_another_class(monkeypatch):
    """As projects that compress tokens graft their methods on a model's class."""
    holitom, grafted = peer("holitom"), type("Grafted", (), {})
    grafted.cluster_dpc_knn = original = holitom.Holistic.cluster_dpc_knn
    monkeypatch.setattr(holitom, "Grafted", grafted, raising=False)
    for target in (holitom, holitom.Holistic, grafted):
        with patch(target):
            assert grafted.cluster_dpc_knn is holitom.Holistic.cluster_dpc_knn is not original
        assert grafted.cluster_dpc_knn is holitom.Holistic.cluster_dpc_knn is original


def test_restored_when_the_block_raises():
    original = peer_tcformer.cluster_dpc_knn
    with pytest.raises(KeyError), patch(peer_tcformer):
        raise KeyError
    assert peer_tcformer.cluster_dpc_knn is original


def test_restoring_leaves_what_others_put_in_place():
    original = peer_tcformer.cluster_dpc_knn
    patched = patch(peer_tcformer)
    tcformer_layers.cluster_dpc_knn = len
    try:
        with pytest.raises(RuntimeError, match=r"tcformer_layers.cluster_dpc_knn changed after patch"):
            patched.restore()
        assert tcformer_layers.cluster_dpc_knn is len and peer_tcformer.cluster_dpc_knn is original
    finally:
        tcformer_layers.cluster_dpc_knn = original


def test_a_second_patch_says_that_the_first_is_there():
    with patch(peer_tcformer), pytest.raises(ValueError, match="one of ours already"):
        patch(peer_tcformer)


def test_the_generator_is_left_alone():
    state = torch.get_rng_state()
    with patch(peer_tcformer):
        assert torch.equal(torch.get_rng_state(), state)


def project(function, name="cluster_dpc_knn"):
    """A module of someone else's with one function."""
    module = types.ModuleType("someone.elses")
    function.__name__, function.__module__ = name, "someone.elses"
    setattr(module, name, function)
    return module


def labels(x, num, k, scale=1.0, noise=1.0, **kw):
    draw = (lambda shape, dtype: noise * torch.rand(shape, dtype=dtype)) if noise else None
    return centers_and_labels(scaled_distance(x.float()) * scale, num, k, draw=draw, **kw)[1]


def valid(token_mask):
    return None if token_mask is None else token_mask > 0


def not_divided(x, cluster_num, k=5, token_mask=None):
    return labels(x, cluster_num, k, x.shape[-1] ** 0.5, valid=valid(token_mask)), cluster_num


def louder_noise(x, cluster_num, k=5, token_mask=None):
    return labels(x, cluster_num, k, noise=100.0, valid=valid(token_mask)), cluster_num


def no_noise(x, cluster_num, k=5, token_mask=None):
    return labels(x, cluster_num, k, noise=0, valid=valid(token_mask)), cluster_num


def mask_ignored(x, cluster_num, k=5, token_mask=None):
    return labels(x, cluster_num, k), cluster_num


def empty_tokens_to_the_nearest(x, cluster_num, k=5, token_mask=None):
    return labels(x, cluster_num, k, valid=valid(token_mask), by_column=True), cluster_num


def a_triple(x, cluster_num, k=5, token_mask=None):
    return labels(x, cluster_num, k, valid=valid(token_mask)), cluster_num, k


def other_dtype(x, cluster_num, k=5, token_mask=None):
    return labels(x, cluster_num, k, valid=valid(token_mask)).int(), cluster_num


def reversed_like_hot(x, cluster_num, k=5, token_mask=None):
    return cluster_num, labels(x, cluster_num, k, valid=valid(token_mask))


def needs_a_device_that_is_not_here(x, cluster_num, k=5, token_mask=None):
    raise AssertionError("no such device")


def other_default(x, cluster_num, k=3, token_mask=None):
    return labels(x, cluster_num, k, valid=valid(token_mask)), cluster_num


def other_parameter(x, cluster_num, k=5, threshold=None):
    return labels(x, cluster_num, k), cluster_num


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (not_divided, r"not prunevid: on the probe '.*' the result\[0\] has other values"),
        (louder_noise, r"as dense as the noise.* the result\[0\] has other values"),
        (no_noise, "draw differently from torch's generator"),
        (mask_ignored, r"on the probe 'empty tokens' the result\[0\] has other values"),
        (empty_tokens_to_the_nearest, r"on the probe 'empty tokens' the result\[0\] has other values"),
        (a_triple, "the result has 3 parts, ours 2"),
        (other_dtype, r"the result\[0\] is torch.int32 \[2, 40\], ours torch.int64"),
        (reversed_like_hot, r"the result\[0\] is a int, ours a Tensor"),
        (needs_a_device_that_is_not_here, "the original raised AssertionError: no such device"),
        (other_default, r"it takes \(x, cluster_num, k=3, token_mask=None\), not \(x, cluster_num, k=5"),
        (other_parameter, r"it takes \(x, cluster_num, k=5, threshold=None\), not"),
    ],
)
def test_what_differs_is_refused_with_the_reason(function, reason):
    module = project(function)
    with pytest.raises(ValueError, match=reason):
        patch(module)
    assert module.cluster_dpc_knn is function


def keeps_only_x(token_dict, idx_cluster, cluster_num, token_weight=None):
    return {"x": peer_tcformer.merge_tokens(token_dict, idx_cluster, cluster_num, token_weight)["x"]}


def no_gradient_to_the_weights(token_dict, idx_cluster, cluster_num, token_weight=None):
    weight = None if token_weight is None else token_weight.detach()
    return peer_tcformer.merge_tokens(token_dict, idx_cluster, cluster_num, weight)


def no_epsilon(token_dict, idx_cluster, cluster_num, token_weight=None):
    weight = None if token_weight is None else 1e6 * token_weight
    return peer_tcformer.merge_tokens(token_dict, idx_cluster, cluster_num, weight)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (keeps_only_x, "not tcformer: .* has keys"),
        (
            no_gradient_to_the_weights,
            r"not tcformer: .* is not differentiable, unlike ours|not tcformer: .* the gradients",
        ),
        (no_epsilon, "not tcformer: on the probe 'weights near epsilon'"),
    ],
)
def test_a_merge_that_differs_is_refused_with_the_reason(function, reason):
    with pytest.raises(ValueError, match=reason):
        patch(project(function, "merge_tokens"))


def test_what_agrees_is_replaced_though_other_parts_are_not():
    module = project(no_noise)
    good = peer("hot").cluster_dpc_knn_center
    module.cluster_dpc_knn_center = good
    with patch(module) as patched:
        assert [replaced.dialect for replaced in patched.replaced] == ["hot"]
        assert len(patched.refused) == 1 and "left as it is" in str(patched)
        assert peer("hot").cluster_dpc_knn_center is not good  # it is the same function
    assert peer("hot").cluster_dpc_knn_center is good and module.cluster_dpc_knn is no_noise


def test_only_the_dialect_asked_for():
    with patch(peer("hbi"), "hbi") as patched:
        assert {replaced.dialect for replaced in patched.replaced} == {"hbi"}
    with pytest.raises(ValueError, match=r"not hot: it takes \(x, cluster_num, k=5, token_mask=None\), not"):
        patch(peer("prunevid"), "hot")
    with pytest.raises(ValueError, match="dialect is 'tome', it must be one of"):
        patch(peer("prunevid"), "tome")


def test_wrong_targets():
    with pytest.raises(ValueError, match="target is math, there is nothing to replace in it: it has no function named"):
        patch(import_module("math"))
    with pytest.raises(TypeError, match="target is a str, it must be a module, a class or a model"):
        patch("tcformer")


def test_a_function_with_the_tail_of_its_parameters_left_out():
    def short(x, cluster_num, k=5):
        return labels(x, cluster_num, k), cluster_num

    module = project(short)
    with patch(module):
        assert module.cluster_dpc_knn is prunevid.cluster_dpc_knn


def test_in_a_fresh_process_without_transformers(tmp_path):
    """As a project would use it: its own files, a look at them, one line, the installed package."""
    (tmp_path / "cluster.py").write_text(
        dedent("""
        import torch

        def cluster_dpc_knn(x, cluster_num, k=5, token_mask=None):
            with torch.no_grad():
                d = torch.cdist(x.float(), x.float()) / x.shape[-1] ** 0.5
                if token_mask is not None:
                    empty = ~(token_mask > 0)
                    d = d.masked_fill(empty[:, None], d.max() + 1)
                rho = d.topk(k, largest=False).values.square().mean(-1).neg().exp()
                rho = rho + torch.rand(rho.shape, dtype=rho.dtype) * 1e-6
                if token_mask is not None:
                    rho = rho.masked_fill(empty, 0)
                higher = rho[:, None] > rho[:, :, None]
                far = d.amax((1, 2), keepdim=True)
                centers = (rho * d.where(higher, far).amin(-1)).topk(cluster_num).indices
                rows = torch.arange(len(x))[:, None]
                labels = d[rows, centers].argmin(1)
                labels[rows, centers] = torch.arange(cluster_num).expand_as(centers)
            return labels, cluster_num
        """)
    )
    (tmp_path / "model.py").write_text("from cluster import cluster_dpc_knn\n")
    script = """
        import runpy, sys, torch, cluster, model
        x = torch.randn(2, 50, 16)
        torch.manual_seed(0); before = model.cluster_dpc_knn(x, 7)
        import dynfocus_ops.dropin
        print(dynfocus_ops.dropin.patch(cluster))
        torch.manual_seed(0); after = model.cluster_dpc_knn(x, 7)
        assert model.cluster_dpc_knn.__module__ == "dynfocus_ops.dropin.prunevid"
        assert torch.equal(before[0], after[0])
        assert "transformers" not in sys.modules
        sys.argv[1:] = ["--dry-run", "."]
        runpy.run_module("dynfocus_ops.dropin", run_name="__main__")
    """
    done = subprocess.run([sys.executable, "-c", dedent(script)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "cluster.cluster_dpc_knn: prunevid, in cluster.cluster_dpc_knn, model.cluster_dpc_knn",
        "cluster.py:4: cluster_dpc_knn(x, cluster_num, k=5, token_mask=None): may be prunevid, lightcompress, ermvp",
        "model.py:1: imports cluster_dpc_knn from cluster",
    ]
