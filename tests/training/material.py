"""A tiny model on disk, data of every kind for it, and recipes over both."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import dynfocus_ops
from dynfocus.demo.rendering import encode
from dynfocus.training.recipe import Recipe
from dynfocus.training.typed_yaml import from_mapping
from tests.model import tiny


def write_model(directory: Path, **fields) -> Path:
    model = tiny.model(**fields)
    model.save_pretrained(directory)
    tiny.processor(model.config, num_frames=8).save_pretrained(directory)
    return directory


def write_media(directory: Path) -> Path:
    """red.png, blue.jpg, one.mp4, two.mp4, and no-video.mp4, which is none."""
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(directory / "red.png")
    Image.fromarray(random.integers(0, 255, (30, 30, 3), dtype=np.uint8)).save(directory / "blue.jpg")
    for name, length in (("one", 20), ("two", 13)):
        encode(random.integers(0, 255, (length, 48, 48, 3), dtype=np.uint8), directory / f"{name}.mp4")
    (directory / "no-video.mp4").write_bytes(b"nonsense")
    return directory


def conversation(*turns, **visual) -> dict:
    """An entry of a LLaVA file; `turns` are (question, answer)."""
    said = [{"from": who, "value": text} for turn in turns for who, text in zip(("human", "gpt"), turn, strict=True)]
    return {"id": " ".join(visual.values()) or "text", **visual, "conversations": said}


TEXT = conversation(("what shape is a square?", "square"))
IMAGE = conversation(("<image>\nwhat color is this?", "red"), ("which shape?", "circle"), image="red.png")
VIDEO = conversation(("what came first? <image>", "the red circle"), video="one.mp4")
OTHER_VIDEO = conversation(("which object came first?", "blue square"), video="two.mp4")
BROKEN = conversation(("what is this?", "red"), video="no-video.mp4")


def write_annotations(directory: Path, entries: list[dict], name: str = "data.json") -> Path:
    (directory / name).write_text(json.dumps(entries))
    return directory / name


def recipe(model: Path, annotations: Path, **changes) -> Recipe:
    """Four samples a step, six steps; changes are {"schedule": {"steps": 2}}-like, merged into it."""
    settings = {
        "model": str(model),
        "learning_rates": {"connector": 1e-2, "language_model": 1e-2, "qformer": 1e-2},
        "data": {
            "sources": [{"path": str(annotations), "media": str(Path(annotations).parent)}],
            "max_tokens": 200,
            "workers": 0,
        },
        "schedule": {"global_batch_size": 4, "batch_size": 4, "steps": 6, "warmup": 0},
        "precision": "fp32",
        "gradient_checkpointing": False,
        "save_every": 100,
        "log_every": 1,
    }
    return from_mapping(Recipe, _merged(settings, changes))


def _merged(settings: dict, changes: dict) -> dict:
    settings = copy.deepcopy(settings)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(settings.get(key), dict) and key != "learning_rates"
        settings[key] = _merged(settings[key], value) if both else value
    return settings


def logged(output: Path, key: str = "loss") -> dict[int, float]:
    """Step → what was logged."""
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line[key] for line in lines if key in line}


def assert_same_run(ours: Path, theirs: Path, keys=("loss", "grad_norm"), weights="model/model.safetensors") -> None:
    """Equal but for the order of sums: of several processes, or of a matrix product, which follows memory alignment."""
    for key in keys:
        assert logged(ours, key) == pytest.approx(logged(theirs, key), rel=1e-4)
    first, second = load_file(ours / weights), load_file(theirs / weights)
    assert set(first) == set(second)
    differences = torch.cat([(first[name] - second[name]).abs().flatten() for name in second])
    # AdamW's steps have the size of the rate, 0.01, even where a gradient is but rounding.
    assert differences.max() < 1e-3 and (differences > 1e-5).float().mean() < 1e-3


def use_the_same_noise(setattr=setattr) -> None:
    draw, noise = dynfocus_ops.perturbed_topk, torch.randn(64, 8, generator=torch.Generator().manual_seed(0))

    def perturbed_topk(scores, k, **options):
        rows = noise[: options["num_samples"], : scores.shape[1]].expand(len(scores), -1, -1)
        return draw(scores, k, **options, noise=rows.contiguous())

    setattr(dynfocus_ops, "perturbed_topk", perturbed_topk)
