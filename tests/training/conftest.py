from pathlib import Path

import pytest

from tests.training import material


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory) -> Path:
    return material.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def media(tmp_path_factory) -> Path:
    """A folder of images and videos with data.json: every kind of sample, twice, and a broken one."""
    folder = material.write_media(tmp_path_factory.mktemp("media"))
    kinds = [material.TEXT, material.IMAGE, material.VIDEO, material.OTHER_VIDEO]
    material.write_annotations(folder, [*kinds, *kinds])
    material.write_annotations(folder, [*kinds, material.BROKEN], "broken.json")
    material.write_annotations(folder, [material.TEXT] * 4, "text.json")
    return folder


@pytest.fixture
def same_noise(monkeypatch) -> None:
    """The perturbed maximum adds the same noise to every video, whatever batch or process it is in."""
    material.use_the_same_noise(monkeypatch.setattr)
