"""`dynfocus train demo`: makes the embedded checkpoint from nothing but a seed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments

from dynfocus import DynFocusForConditionalGeneration, DynFocusProcessor
from dynfocus.checkpoint_files import new_directory
from dynfocus.demo.build import build
from dynfocus.demo.examples import QuestionCollator, QuestionDataset
from dynfocus.demo.scenes import Scene, random_scene
from dynfocus.demo.tower_training import train_tower
from dynfocus.demo.training_videos import encode_features, read_back
from dynfocus.errors import DynFocusError


@dataclass(frozen=True)
class TrainingSettings:
    """How much is trained; the defaults made the embedded checkpoint."""

    num_videos: int = 3000
    tower_steps: int = 1200
    rods_steps: int = 1500
    steps: int = 900
    batch_size: int = 24
    rods_learning_rate: float = 2e-3
    learning_rate: float = 1e-3
    threads: int = 2


def train(
    output: str | Path,
    seed: int = 0,
    settings: TrainingSettings | None = None,
    overwrite: bool = False,
) -> None:
    """Trains the demo model and saves it with its processor in the directory `output`.

    The directory appears whole at the end, or not at all. The same seed and settings give the same weights.

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
    with new_directory(output, overwrite) as folder, _threads(settings.threads):
        model, processor = build(seed)
        scenes = [random_scene("train", seed, index) for index in range(settings.num_videos)]
        features, tower_loss = _train_vision(model, processor, scenes, settings, seed)
        language_loss = _train_rods_then_all(model, processor, scenes, features, settings, seed)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        (folder / "README.md").write_text(_model_card(settings, seed))
    minutes = (time.monotonic() - started) / 60
    losses = f"tower {tower_loss:.4f}, language {language_loss:.4f}"
    print(f"{output}: trained in {minutes:.1f} minutes; last losses: {losses}")


def _train_vision(
    model: DynFocusForConditionalGeneration,
    processor: DynFocusProcessor,
    scenes: Sequence[Scene],
    settings: TrainingSettings,
    seed: int,
) -> tuple[Tensor, float]:
    """Stage 0; returns the frozen tower's features of every video [V, T, N, C] and the last loss."""
    videos = read_back(scenes, processor.video_processor, settings.threads)
    loss = train_tower(model, videos, processor.video_processor, settings.tower_steps, seed)
    return encode_features(model, videos, processor.video_processor), loss


def _train_rods_then_all(
    model: DynFocusForConditionalGeneration,
    processor: DynFocusProcessor,
    scenes: Sequence[Scene],
    features: Tensor,
    settings: TrainingSettings,
    seed: int,
) -> float:
    """Stage 1: connector, Q-Former and language model learn together from the answers; returns the last logged loss.

    At first from the rods: with squared distances over patches alone the events of these features are stretches of
    empty background, so that cones say nothing. Once the language model reads the rods, events become what they are
    in use, and it learns within a few hundred steps what it takes thousands to learn of both at once.
    """
    events = model.connector.events
    in_use, events.temporal_scale = events.temporal_scale, "patches"
    _train_language(
        model, processor, scenes, features, settings, settings.rods_steps, settings.rods_learning_rate, seed
    )
    events.temporal_scale = in_use
    return _train_language(
        model, processor, scenes, features, settings, settings.steps, settings.learning_rate, seed + 1
    )


def _train_language(
    model: DynFocusForConditionalGeneration,
    processor: DynFocusProcessor,
    scenes: Sequence[Scene],
    features: Tensor,
    settings: TrainingSettings,
    steps: int,
    learning_rate: float,
    seed: int,
) -> float:
    """One run of the trainer from the model's present weights; returns the last logged loss."""
    conversations = QuestionDataset(scenes, features, length=steps * settings.batch_size, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=min(100, steps // 10),
            adam_beta2=0.98,
            weight_decay=0.01,
            max_grad_norm=1.0,
            logging_steps=max(1, steps // 30),
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,
            use_cpu=True,
            seed=seed,
        )
        trainer = Trainer(model, arguments, data_collator=QuestionCollator(processor), train_dataset=conversations)
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry][-1]


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

A small DynFocus model that answers questions about the colour, the shape and the order of moving shapes in short
synthetic videos. All components are the real ones (InstructBLIP vision tower and Q-Former, DynFocus connector, Llama),
with random initial weights and nothing downloaded. It knows nothing of the real world.

Made by

    dynfocus train demo --seed {seed} --output DIR

from {settings.num_videos} videos rendered by `dynfocus.demo.scenes` as H.264, on {settings.threads} threads:
{settings.tower_steps} steps of the vision tower on single frames, {settings.rods_steps} of everything else with
cones that say nothing, {settings.steps} with cones of events, on {settings.batch_size} conversations each
(`dynfocus.demo.questions`).

`dynfocus eval demo` measures its accuracy on videos it has never seen.
"""
