from pathlib import Path

import pytest

from .emulation import SOURCE, Emulator, build, find_compiler


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    if not SOURCE.is_dir():
        pytest.skip("DYNFOCUS_SOURCE is not set: the kernels' source is not here")
    compiler = find_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler (no CXX, and no c++, g++ or clang++ on the path)")
    library: Path = tmp_path_factory.mktemp("emulator") / "libdynfocus_emulated.so"
    build(library, compiler)
    return Emulator(library)
