"""Who chooses the backend, in which order, and what is said about it."""

import logging
import threading

import pytest
import torch

from dynfocus_ops import backends, native
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
    with pytest.raises(ValueError, match=r"backend= is 'gpu', it must be one of \['auto', 'cpu', 'reference'\]"):
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
    assert first == "dpc_knn on cpu torch.float32 runs on backend 'cpu' (the fastest)"
    assert "runs on backend 'reference' (not cpu: x is torch.float64" in second


def test_without_the_library_it_warns_once_and_runs_the_reference(caplog, no_library) -> None:
    assert select_backend("dpc_knn", "auto", X) == "reference"
    assert select_backend("cluster_mean", "auto", X) == "reference"
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["the ops run in plain torch: no library here"]


def test_without_the_library_the_native_backend_raises(no_library) -> None:
    with pytest.raises(RuntimeError, match="cannot run dpc_knn: no library here"):
        select_backend("dpc_knn", "cpu", X)
