"""A run killed while it writes a checkpoint goes on from the one before."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import yaml

from dynfocus.training.run import train
from tests.training import material

KILLED_WHILE_WRITING = """
import os, signal, sys, torch
write = torch.save
def killed(content, path, **options):
    if "checkpoint-4" in str(path) and "scheduler" in str(path):
        with open(path, "wb") as file:
            file.write(b"half of ")
        os.kill(os.getpid(), signal.SIGKILL)
    write(content, path, **options)
torch.save = killed
from dynfocus.cli import main
sys.argv[1:] = ["train", *sys.argv[1:]]
main()
"""


def test_a_killed_run_goes_on_from_its_last_checkpoint(model_directory, media, tmp_path):
    recipe = material.recipe(model_directory, media / "data.json", save_every=2)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.to_dict()))
    output = tmp_path / "run"
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, str(tmp_path / "recipe.yaml"), "--output", str(output)]
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert (output / ".partial" / "checkpoint-4" / "model.safetensors").exists()
    assert [checkpoint.name for checkpoint in output.glob("checkpoint-*")] == ["checkpoint-2"]
    train(recipe, output, resume=True)
    assert not (output / ".partial").exists()
    train(recipe, tmp_path / "unbroken")
    material.assert_same_run(output, tmp_path / "unbroken")
