"""Two processes train what one does. In every step one of them may have text alone, and neither waits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from dynfocus.training.run import train
from tests.training import distributed, material

STEPS = 3


@pytest.fixture(scope="module")
def two_processes(model_directory, media, tmp_path_factory):
    """The recipe, and what torchrun left behind."""
    folder = tmp_path_factory.mktemp("two")
    recipe = material.recipe(model_directory, media / "data.json", schedule={"batch_size": 1, "steps": STEPS})
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.to_dict()))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    root = Path(__file__).parents[2]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    command = [*launcher, "-m", "tests.training.distributed", folder / "recipe.yaml", folder]
    with (folder / "output").open("w") as printed:
        launched = subprocess.Popen(command, stdout=printed, stderr=printed, env=environment, cwd=root)
        try:
            code = launched.wait(timeout=200)
        finally:
            if launched.poll() is None:  # one waits for the other; terminated, torchrun ends both
                launched.terminate()
                launched.wait(timeout=60)
    assert code == 0, (folder / "output").read_text()[-3000:]
    return recipe, folder


@pytest.mark.slow
def test_ddp_equals_one_process(two_processes, tmp_path, same_noise):
    recipe, folder = two_processes
    alone = material.recipe(recipe.model, recipe.data.sources[0].path, schedule={"steps": STEPS})
    train(alone, tmp_path / "alone")
    material.assert_same_run(folder / "ddp", tmp_path / "alone")


@pytest.mark.slow
def test_processes_share_the_work_of_keeping_features(two_processes):
    _, folder = two_processes
    assert len(list((folder / "features").rglob("*.safetensors"))) == 3
    assert "features of 3 images and videos" in (folder / "output").read_text()
    assert material.logged(folder / "kept") == pytest.approx(material.logged(folder / "ddp"), rel=2e-3)


@pytest.mark.slow
def test_fsdp2_equals_one_process(two_processes, same_noise):
    recipe, folder = two_processes
    sharded = torch.load(folder / "fsdp.pt")
    losses, weights = distributed.raw_steps(recipe)
    assert losses[1] < losses[0]
    assert sharded["losses"] == pytest.approx(losses, rel=1e-5)
    assert set(sharded["weights"]) == set(weights)
    for name, weight in weights.items():
        torch.testing.assert_close(sharded["weights"][name], weight, atol=1e-6, rtol=1e-5)
