"""Who chooses the backend, in which order, and what is said about it."""

import logging
import threading

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dynfocus_ops import backends, dpc_knn, native, spatial_prototypes
from dynfocus_ops.backends import select_backend, use_backend

X = torch.zeros(1, 2, 3)


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch) -> None:
    monkeypatch.setattr(backends, "_said", set())
    monkeypatch.delenv("DYNFOCUS_BACKEND", raising=False)


@pytest.fixture
def no_library(monkeypatch) -> None:
    def load() -> None:
        raise native.NativeUnavailable("no library here")

    monkeypatch.setattr(native, "load", load)


def test_auto_takes_the_native_kernel_for_what_it_covers() -> None:
    assert select_backend("dpc_knn", "auto", X) == "cpu"
    assert select_backend("dpc_knn", "auto", X.double()) == "reference"
    assert select_backend("dpc_knn", "auto", X.to("meta")) == "reference"


def test_argument_before_context_before_environment(monkeypatch) -> None:
    monkeypatch.setenv("DYNFOCUS_BACKEND", "reference")
    assert select_backend("dpc_knn", "auto", X) == "reference"
    with use_backend("cpu"):
        assert select_backend("dpc_knn", "auto", X) == "cpu"
        assert select_backend("dpc_knn", "reference", X) == "reference"
        with use_backend("auto"):
            assert select_backend("dpc_knn", "auto", X) == "reference"
    assert select_backend("dpc_knn", "auto", X) == "reference"


def test_context_ends_with_an_exception_and_stays_in_its_thread() -> None:
    found = []
    with pytest.raises(KeyError), use_backend("reference"):
        thread = threading.Thread(target=lambda: found.append(select_backend("dpc_knn", "auto", X)))
        thread.start()
        thread.join()
        raise KeyError
    assert found == ["cpu"]
    assert select_backend("dpc_knn", "auto", X) == "cpu"


def test_a_named_backend_runs_or_raises_its_reason() -> None:
    with pytest.raises(RuntimeError, match=r"'cpu' \(backend=\) cannot run no_op: no_op has no native CPU kernel"):
        select_backend("no_op", "cpu", X)
    with pytest.raises(RuntimeError, match=r"x is torch\.float64.* take float32, bfloat16 and float16"):
        select_backend("dpc_knn", "cpu", X.double())
    with pytest.raises(RuntimeError, match=r"\(use_backend\).*x is on meta"), use_backend("cpu"):
        select_backend("dpc_knn", "auto", X.to("meta"))


def test_names_are_checked_where_they_are_given(monkeypatch) -> None:
    names = r"\['auto', 'cuda', 'triton', 'cpu', 'reference'\]"
    with pytest.raises(ValueError, match=rf"backend= is 'gpu', it must be one of {names}"):
        select_backend("dpc_knn", "gpu", X)
    with pytest.raises(ValueError, match="name is 'gpu'"), use_backend("gpu"):
        pass
    monkeypatch.setenv("DYNFOCUS_BACKEND", "gpu")
    with pytest.raises(ValueError, match="DYNFOCUS_BACKEND is 'gpu'"):
        select_backend("dpc_knn", "auto", X)


def test_says_once_what_it_took_and_why(caplog) -> None:
    caplog.set_level(logging.INFO, "dynfocus_ops")
    for x in (X, X, X.double(), X.double()):
        select_backend("dpc_knn", "auto", x)
    first, second = caplog.messages
    assert first.startswith("dpc_knn on cpu torch.float32 runs on backend 'cpu' (not cuda: x is on cpu")
    assert "runs on backend 'reference' (not cuda: " in second and "; not cpu: x is torch.float64" in second


def test_without_the_library_it_warns_once_and_runs_the_reference(caplog, no_library) -> None:
    assert select_backend("dpc_knn", "auto", X) == "reference"
    assert select_backend("cluster_mean", "auto", X) == "reference"
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["the ops run in plain torch: no library here"]


def test_without_the_library_the_native_backend_raises(no_library) -> None:
    with pytest.raises(RuntimeError, match="cannot run dpc_knn: no library here"):
        select_backend("dpc_knn", "cpu", X)


def on_a_gpu(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """A tensor that says it is on a GPU, where there is none."""
    with FakeTensorMode():
        return torch.empty(shape, dtype=dtype, device="cuda:0")


FRAMES = {"shape": (2, 256, 1408), "dtype": torch.float16}
SIZES = {"num_clusters": 64, "k": 16}


@pytest.fixture
def gpu(monkeypatch) -> None:
    """One of compute capability 8.0, and a library built for it."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(native, "has_kernel", lambda op, key: (op, key) != ("dpc_knn_varlen", "CUDA"))


def test_auto_takes_the_cuda_kernel_for_what_it_covers(gpu) -> None:
    for op in backends.CUDA_OPS:
        assert select_backend(op, "auto", on_a_gpu(2, 256, 1408), **SIZES) == "cuda"
    assert select_backend("dpc_knn", "auto", on_a_gpu(2, 257, 1408), **SIZES) != "cuda"


@pytest.mark.parametrize(
    ("reason", "op", "given", "sizes"),
    [
        ("rods_pool has no CUDA kernel", "rods_pool", {}, {}),
        (r"x is torch\.float32, the CUDA kernels take bfloat16 and float16", "dpc_knn", {"dtype": torch.float32}, {}),
        ("x has 12 channels, the CUDA kernels take a multiple of 8", "dpc_knn", {"shape": (2, 9, 12)}, {}),
        ("num_points is 257, the CUDA kernels take at most 256", "dpc_knn", {"shape": (2, 257, 8)}, {}),
        ("num_clusters is 65, the CUDA kernels take at most 64", "spatial_prototypes", {}, {"num_clusters": 65}),
        ("k is 17, the CUDA kernels take at most 16", "dpc_knn", {}, {"k": 17}),
    ],
)
def test_the_cuda_backend_says_what_it_cannot_take(gpu, reason: str, op: str, given: dict, sizes: dict) -> None:
    given = FRAMES | given
    with pytest.raises(RuntimeError, match=rf"'cuda' \(backend=\) cannot run {op}: {reason}"):
        select_backend(op, "cuda", on_a_gpu(*given["shape"], dtype=given["dtype"]), **(SIZES | sizes))


def test_the_cuda_backend_says_what_it_lacks(gpu, monkeypatch) -> None:
    monkeypatch.setattr(native, "has_kernel", lambda op, key: False)
    with pytest.raises(RuntimeError, match=r"library at .* was built without CUDA kernels .*DYNFOCUS_BUILD=cuda"):
        select_backend("dpc_knn", "cuda", on_a_gpu(2, 9, 8), **SIZES)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(RuntimeError, match=r"cuda:0 has compute capability 7\.5, the CUDA kernels need 8\.0 or later"):
        select_backend("dpc_knn", "cuda", on_a_gpu(2, 9, 8), **SIZES)


def test_the_cuda_backend_without_the_library_raises(gpu, no_library) -> None:
    with pytest.raises(RuntimeError, match="cannot run dpc_knn: no library here"):
        select_backend("dpc_knn", "cuda", on_a_gpu(2, 9, 8), **SIZES)


def test_the_cuda_backend_refuses_tensors_of_the_cpu() -> None:
    x = torch.randn(2, 9, 8).bfloat16()
    for call in (lambda: dpc_knn(x, 2, 3, backend="cuda"), lambda: spatial_prototypes(x, ((4, 2),), backend="cuda")):
        with pytest.raises(RuntimeError, match="x is on cpu, the CUDA kernels need a CUDA tensor"):
            call()


def test_native_has_the_kernels_it_was_built_with() -> None:
    native.load()
    assert native.has_kernel("dpc_knn", "CPU")
    assert not native.has_kernel("dpc_knn", "Meta")
