"""`dynfocus train demo`: makes the embedded checkpoint from nothing but a seed."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from dynfocus.checkpoint_files import new_directory
from dynfocus.demo.build import build
from dynfocus.demo.tower_training import train_tower
from dynfocus.demo.training_data import labelled_images, write_training_data
from dynfocus.errors import DynFocusError
from dynfocus.training.recipe import Recipe, load_recipe
from dynfocus.training.run import train as run_recipe

STAGES = (  # shipped recipes
    "demo-1-images",
    "demo-2-clips",
    "demo-3-clips",
    "demo-4-clips",
    "demo-5-videos",
    "demo-6-questions",
)


@dataclass(frozen=True)
class TrainingSettings:
    """How much is trained; the defaults made the embedded checkpoint.

    changes: of all recipes, as `load_recipe` takes them.
    """

    num_videos: int = 2400
    num_clips: int = 6000
    conversations: int = 3
    tower_steps: int = 2000
    threads: int = 2
    changes: tuple[str, ...] = ()


def train(
    output: str | Path,
    seed: int = 0,
    settings: TrainingSettings | None = None,
    overwrite: bool = False,
) -> None:
    """Trains the demo model and saves it with its processor in the directory `output`.

    The directory appears whole at the end, or not at all; until then data and features, 7 GB, are beside it. The same
    seed and settings give the same weights.

    Raises:
        DynFocusError: `output` exists and is not empty (without `overwrite`) or no DynFocus model (with it), or cannot
            be written.
    """
    settings = settings or TrainingSettings()
    output = Path(output)
    started = time.monotonic()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DynFocusError(f"{output} cannot be written: {error.strerror}") from error
    with (
        new_directory(output, overwrite) as folder,
        tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as scratch,
        _threads(settings.threads),
    ):
        work = Path(scratch)
        prepare(work, seed, settings, before=STAGES[-1])
        recipe = stage(STAGES[-1], work, (*settings.changes, f"seed={seed}"))
        shutil.copytree(run_recipe(recipe, work / STAGES[-1]), folder, dirs_exist_ok=True)
        (folder / "README.md").write_text(_model_card(settings, seed))
    print(f"{output}: trained in {(time.monotonic() - started) / 60:.1f} minutes")


def prepare(work: Path, seed: int, settings: TrainingSettings, before: str) -> None:
    """All that comes before a stage, each part made where `work` lacks it: `data`, `tower`, a model untrained but for
    its vision tower, and the runs of earlier stages."""
    if not (work / "data").exists():
        write_training_data(
            work / "data",
            settings.num_videos,
            settings.num_clips,
            settings.conversations,
            seed=seed,
            threads=settings.threads,
        )
    if not (work / "tower").exists():
        model, processor = build(seed)
        side = model.config.vision_config.image_size // model.config.vision_config.patch_size
        frames = labelled_images(work / "data", side, "train", seed)
        train_tower(model, frames, processor.video_processor, settings.tower_steps, seed)
        with new_directory(work / "tower") as folder:
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
    for name in STAGES[: STAGES.index(before)]:
        if not (work / name / "model").exists():
            run_recipe(stage(name, work, (*settings.changes, f"seed={seed}")), work / name, resume=True)


def stage(name: str, work: Path, changes: tuple[str, ...] = ()) -> Recipe:
    """The recipe of one of STAGES, on what `prepare` made in `work`."""
    before = STAGES.index(name) - 1
    annotations = name.rpartition("-")[2]
    return load_recipe(
        name,
        (
            f"model={work / STAGES[before] / 'model' if before >= 0 else work / 'tower'}",
            f"data.sources[0].path={work / 'data' / annotations}.jsonl",
            f"data.sources[0].media={work / 'data'}",
            f"data.features={work / 'features'}",
            *changes,
        ),
    )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _model_card(settings: TrainingSettings, seed: int) -> str:
    return f"""# DynFocus demo checkpoint

A small DynFocus model that answers questions about synthetic videos: the colour, shape, order and duration of moving
shapes, and numbers and dots that are shown for little more than half a second. All components are the real ones
(InstructBLIP vision tower and Q-Former, DynFocus connector, Llama), with random initial weights and nothing downloaded.
It knows nothing of the real world.

Made by

    dynfocus train demo --seed {seed} --output DIR

from {settings.num_videos} videos and {settings.num_clips} clips rendered by `dynfocus.demo` as H.264:
{settings.tower_steps} steps of the vision tower on single frames, then the six recipes `demo-1-images` to
`demo-6-questions`.

`dynfocus eval demo` measures its accuracy on videos it has never seen.
"""
