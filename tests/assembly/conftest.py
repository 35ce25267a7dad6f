from pathlib import Path

import pytest

from tests.assembly import components


@pytest.fixture(scope="package")
def instructblip(tmp_path_factory) -> Path:
    """A directory that no test changes."""
    directory = tmp_path_factory.mktemp("instructblip")
    components.torch.manual_seed(1)
    components.save_instructblip(directory)
    return directory


@pytest.fixture
def sources(instructblip) -> dict[str, Path]:
    return {"vision": instructblip, "qformer": instructblip, "language_model": instructblip}
