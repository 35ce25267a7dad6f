"""What every op promises: it is a proper torch op, it compiles, and its result depends on its input alone."""

from functools import partial
from importlib import import_module

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.library import opcheck
from torch.utils._pytree import tree_map

import dynfocus_ops
from dynfocus_ops.backends import interpreted

from .cases import CASES, SEED, Case
from .support import NATIVE, assert_same_bits, backends, gradients, on_device, poisoned_memory, threads

RUNS = [pytest.param(case, backend, id=f"{case.name}-{backend}") for case in CASES for backend in backends(case.name)]
every_run = pytest.mark.parametrize(("case", "backend"), RUNS)


def on(case: Case, backend: str):
    return lambda *inputs: case.call(*inputs, backend=backend)


def test_every_op_has_a_case() -> None:
    functions = {name for name in dynfocus_ops.__all__ if name != "use_backend"}
    assert {case.name for case in CASES} == functions


def test_the_native_library_is_tested_too() -> None:
    if not NATIVE:
        pytest.skip("this install has no native library: the backend cpu is left out of all these tests")
    assert backends("dpc_knn") == (["triton"] if interpreted() else ["reference", "cpu"])


@every_run
def test_opcheck(case: Case, backend: str) -> None:
    inputs = [
        on_device(x).detach().requires_grad_() if differentiable else on_device(x)
        for x, differentiable in zip(case.inputs(3), case.differentiable, strict=True)
    ]
    opcheck(getattr(torch.ops.dynfocus, case.name).default, (*case.op_args(*inputs), backend))


@every_run
def test_fake_tensors_of_half_precision(case: Case, backend: str) -> None:
    first, *rest = case.inputs(3)
    rest = [x.bfloat16() if x.is_floating_point() and x.dim() == 3 else x for x in rest]  # scores stay float32
    inputs = tuple(map(on_device, (first.bfloat16(), *rest)))
    op = getattr(torch.ops.dynfocus, case.name).default
    opcheck(op, (*case.op_args(*inputs), backend), test_utils=("test_schema", "test_faketensor"))


@every_run
def test_compiles_to_one_graph_with_the_same_result_for_any_length(case: Case, backend: str) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    compiled = torch.compile(on(case, backend), fullgraph=True, backend=counter)
    for T in (4, 6, 9) if interpreted() else (4, 6, 9, 13):
        inputs = case.inputs(T)
        assert_same_bits(compiled(*inputs), on(case, backend)(*inputs))
        assert_same_bits(gradients(compiled, inputs), gradients(on(case, backend), inputs))
    # each of the two kinds of call, with and without gradients: once for the first length, once for all others
    assert counter.frame_count <= 4


# Those with nothing to check, or that leave it to the ops they call.
WITHOUT_VALUE_CHECKS = {"perturbed_topk", "spatial_prototypes"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_looks_at_values_only_on_the_cpu_or_where_asked_to(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The body of the op runs on the meta device, where to look at a value is an error."""

    def run() -> None:
        inputs = tuple(x if index == on_host else x.to("meta") for index, x in enumerate(case.inputs(3)))
        body = getattr(import_module(f"dynfocus_ops.ops.{case.name}"), f"_{case.name}")._init_fn
        body(*case.op_args(*inputs), "reference")

    on_host = 1 if case.name == "dpc_knn_varlen" else None  # cu_seqlens, which the reference copies to the host
    monkeypatch.delenv("DYNFOCUS_CHECK_VALUES", raising=False)
    run()
    monkeypatch.setenv("DYNFOCUS_CHECK_VALUES", "1")
    if case.name in WITHOUT_VALUE_CHECKS:
        run()
    else:
        with pytest.raises((RuntimeError, NotImplementedError), match="meta tensor"):  # torch has one for each reader
            run()


@every_run
def test_exports(case: Case, backend: str) -> None:
    class Module(torch.nn.Module):
        def forward(self, *inputs):
            return on(case, backend)(*inputs)

    inputs = case.inputs(4)
    program = torch.export.export(Module(), inputs)
    assert f"dynfocus.{case.name}.default" in program.graph_module.code
    assert_same_bits(program.module()(*inputs), on(case, backend)(*inputs))


@pytest.mark.skipif(interpreted(), reason="the interpreter has one thread")
@every_run
def test_same_bits_on_any_number_of_threads(case: Case, backend: str) -> None:
    inputs = case.inputs(37)
    with threads(1):
        expected = on(case, backend)(*inputs), gradients(on(case, backend), inputs)
    for number in (1, 2, 4):
        with threads(number):
            assert_same_bits(on(case, backend)(*inputs), expected[0])
            assert_same_bits(gradients(on(case, backend), inputs), expected[1])


# Of one sample, and large: where a sum split among threads would show.
ONE_LARGE_SAMPLE = {
    "dpc_knn": lambda x, **kw: dynfocus_ops.dpc_knn(x, 16, 8, **kw),
    "cluster_mean": lambda x, **kw: dynfocus_ops.cluster_mean(x, torch.arange(600).view(1, -1) % 7, 7, **kw),
    "spatial_prototypes": lambda x, **kw: dynfocus_ops.spatial_prototypes(x, **kw),
    "rods_pool": lambda x, **kw: dynfocus_ops.rods_pool(x, 0.1 * x[0, :32].detach(), **kw),
    "perturbed_topk": lambda x, **kw: dynfocus_ops.perturbed_topk(x[0, :1], 40, seed=SEED, **kw),
}


@pytest.mark.skipif(interpreted(), reason="the interpreter has one thread")
@pytest.mark.parametrize(("op", "backend"), [(op, backend) for op in ONE_LARGE_SAMPLE for backend in backends(op)])
def test_same_bits_on_any_number_of_threads_of_one_large_sample(op: str, backend: str) -> None:
    x = torch.randn(1, 600, 512)
    results = []
    for number in (1, 2, 4):
        with threads(number):
            function = partial(ONE_LARGE_SAMPLE[op], backend=backend)
            results.append((function(x), gradients(function, (x,))))
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


@pytest.mark.parametrize(("case", "backend"), [run for run in RUNS if run.values[0].independent])
def test_batch_mates_change_no_bit(case: Case, backend: str) -> None:
    inputs = case.inputs(5)
    together = on(case, backend)(*inputs)
    for b in range(5):
        alone = on(case, backend)(*(x[b : b + 1] for x in inputs))
        assert_same_bits(alone, tree_map(lambda y, b=b: y[b : b + 1], together))


@every_run
def test_writes_all_of_its_output(case: Case, backend: str) -> None:
    inputs = case.inputs(5)
    expected = on(case, backend)(*inputs), gradients(on(case, backend), inputs)
    with poisoned_memory():
        assert_same_bits(on(case, backend)(*inputs), expected[0])
        assert_same_bits(gradients(on(case, backend), inputs), expected[1])


@every_run
def test_strides_change_no_bit(case: Case, backend: str) -> None:
    inputs = case.inputs(5)
    strided = []
    for x in inputs:  # every second number, last dimension first
        wide = torch.full((*reversed(x.shape), 2), 7 if not x.is_floating_point() else torch.nan).to(x.dtype)
        wide[..., 0] = x.permute(*reversed(range(x.dim())))
        strided.append(wide[..., 0].permute(*reversed(range(x.dim()))))
    assert all(torch.equal(a, b) and not a.is_contiguous() for a, b in zip(strided, inputs, strict=True))
    assert_same_bits(on(case, backend)(*strided), on(case, backend)(*inputs))
    assert_same_bits(gradients(on(case, backend), tuple(strided)), gradients(on(case, backend), inputs))


# The second level of spatial_prototypes starts from rounded averages: tested as the composition it is.
@pytest.mark.parametrize(("case", "backend"), [run for run in RUNS if run.values[0].name != "spatial_prototypes"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_float32_rounded_at_the_end(case: Case, backend: str, dtype: torch.dtype) -> None:
    halves = tuple(x.to(dtype) if x.is_floating_point() else x for x in case.inputs(5))
    singles = tuple(x.float() if x.is_floating_point() else x for x in halves)

    def rounded(expected, actual):
        return expected.to(actual.dtype)

    result = on(case, backend)(*halves)
    assert_same_bits(result, tree_map(rounded, on(case, backend)(*singles), result))
    for actual, expected in zip(
        gradients(on(case, backend), halves), gradients(on(case, backend), singles), strict=True
    ):
        if expected is not None:
            assert actual.dtype == dtype
            torch.testing.assert_close(actual.float(), expected, rtol=0.05, atol=0.02)


@every_run
def test_nothing_is_changed_in_place(case: Case, backend: str) -> None:
    inputs = case.inputs(5)
    before = [x.clone() for x in inputs]
    on(case, backend)(*inputs)
    gradients(on(case, backend), inputs)
    assert_same_bits(list(inputs), before)


def test_all_ops_in_one_graph_through_inductor() -> None:
    inputs = [case.inputs(4) for case in CASES]

    def everything(inputs):
        return [case.call(*x) for case, x in zip(CASES, inputs, strict=True)]

    torch._dynamo.reset()
    assert_same_bits(torch.compile(everything, fullgraph=True)(inputs), everything(inputs))
