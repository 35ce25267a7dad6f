import pytest

from dynfocus_ops import native


@pytest.fixture(scope="session", autouse=True)
def library() -> None:
    """Loads it. An install that chose to come without one skips; a library that is lost or does not load fails."""
    if native.NOT_BUILT.is_file():
        pytest.skip(f"no native library: {native.NOT_BUILT.read_text().strip()}")
    native.load()


@pytest.fixture(scope="session")
def runnable_capabilities() -> list[str]:
    """The names DYNFOCUS_CPU_CAPABILITY takes here, from the refusal of a wrong one: needs no module _C."""
    import os

    import torch

    os.environ["DYNFOCUS_CPU_CAPABILITY"] = "?"
    try:
        torch.ops.dynfocus_native.dpc_knn(torch.zeros(1, 1, 1), 1, 1, None, 1.0, None)
    except RuntimeError as refusal:
        return str(refusal).splitlines()[0].split(": ")[-1].split(", ")
    finally:
        del os.environ["DYNFOCUS_CPU_CAPABILITY"]
    raise AssertionError("DYNFOCUS_CPU_CAPABILITY=? was accepted")
