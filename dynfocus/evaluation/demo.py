"""`dynfocus eval demo`: accuracy of a demo model on videos it has never seen."""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm
from transformers import BatchFeature

from dynfocus import DynFocusForConditionalGeneration, DynFocusProcessor
from dynfocus.demo.questions import ABILITIES, KINDS, Question, random_question
from dynfocus.demo.rendering import encode, render
from dynfocus.demo.scenes import NUM_FRAMES, Scene, random_scene
from dynfocus.loading import load_model


@dataclass(frozen=True)
class DemoEvaluation:
    """What was asked, what the model answered, and what someone who has not seen the videos would answer."""

    questions: list[Question]
    answers: list[str]
    blind_answers: list[str]
    num_frames: int

    def accuracy(self, *kinds: str) -> float:
        """Share of exactly right answers, of some kinds of questions or (none given) of all."""
        return self._share(self.answers, kinds)

    def blind_accuracy(self, *kinds: str) -> float:
        """The same for the best answer to the question alone: the chance level."""
        return self._share(self.blind_answers, kinds)

    def _share(self, answers: list[str], kinds: Sequence[str]) -> float:
        right = [
            question.answer == answer
            for question, answer in zip(self.questions, answers, strict=True)
            if not kinds or question.kind in kinds
        ]
        return sum(right) / len(right) if right else float("nan")

    def table(self) -> Table:
        videos = len(self.questions) // len(KINDS)
        title = f"{videos} unseen videos, {self.num_frames} of {NUM_FRAMES} frames of each"
        table = Table("questions", "asks for an eye on", "accuracy", "question alone", title=title)
        for kind, ability in ABILITIES.items():
            table.add_row(kind, ability, f"{self.accuracy(kind):.1%}", f"{self.blind_accuracy(kind):.1%}")
        table.add_row("all", "", f"{self.accuracy():.1%}", f"{self.blind_accuracy():.1%}")
        return table


def evaluate(
    model_dir: str | Path | None = None, videos: int = 100, seed: int = 0, show: bool = True
) -> DemoEvaluation:
    """Asks a question of each kind about each of `videos` fresh videos: H.264 files, read as any user's.

    Args:
        model_dir: a model trained by `dynfocus train demo`; the embedded one unless given.
        seed: of the videos and questions. Whatever it is, they are none of those trained on.
        show: print the table, and progress on stderr.
    """
    if videos < 1:
        raise ValueError(f"videos must be at least 1, got {videos}")
    model, processor = load_model(model_dir)
    scenes = [random_scene("evaluation", seed, index) for index in range(videos)]
    encoded = tqdm(encoded_videos(model, processor, scenes), desc="videos", total=videos, disable=not show)
    result = examine(model, processor, encoded, scenes, seed)
    if show:
        Console().print(result.table())
    return result


def examine(
    model: DynFocusForConditionalGeneration,
    processor: DynFocusProcessor,
    encoded: Iterable[BatchFeature],
    scenes: Sequence[Scene],
    seed: int,
) -> DemoEvaluation:
    """The questions that follow from the seed, answered greedily. encoded: of each scene, as `encoded_videos` gives."""
    rng = np.random.default_rng(seed)
    questions = [[random_question(scene, rng, kind) for kind in KINDS] for scene in scenes]
    answers: list[str] = []
    num_frames = 0
    for video, asked in zip(encoded, questions, strict=True):
        answers += _answers(model, processor, video, [question.text for question in asked])
        num_frames = int(video["num_frames"])
    flat = [question for asked in questions for question in asked]
    return DemoEvaluation(flat, answers, blind_answers(flat), num_frames)


@torch.inference_mode()
def encoded_videos(
    model: DynFocusForConditionalGeneration, processor: DynFocusProcessor, scenes: Iterable[Scene]
) -> Iterator[BatchFeature]:
    """Each scene rendered, written as H.264, read back, and passed through the vision tower: what a processor takes for
    a video."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene.mp4"
        for scene in scenes:
            encode(render(scene), path, scene.fps)
            frames = processor.video_processor([str(path)])
            pixels = frames.pop("pixel_values_videos").to(model.device, model.dtype)
            yield BatchFeature({**frames, "video_features": model.encode_patches(pixels)})


@torch.inference_mode()
def _answers(
    model: DynFocusForConditionalGeneration, processor: DynFocusProcessor, video: BatchFeature, questions: Sequence[str]
) -> list[str]:
    conversations = [
        [{"role": "user", "content": [{"type": "video", "video": video}, {"type": "text", "text": question}]}]
        for question in questions
    ]
    inputs = processor.apply_chat_template(conversations, add_generation_prompt=True, tokenize=True, return_dict=True)
    output = model.generate(**inputs.to(model.device), max_new_tokens=8, do_sample=False)
    return processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def blind_answers(questions: Iterable[Question], num_scenes: int = 2000, seed: int = 0) -> list[str]:
    """The likeliest of each question's options without its video, by counting answers in scenes of the training split.

    Of equally likely ones the first: of two named alternatives, that which was named first.
    """
    rng = np.random.default_rng(seed)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for index in range(num_scenes):
        scene = random_scene("train", seed, index)
        for kind in KINDS:
            question = random_question(scene, rng, kind)
            counts[question.text][question.answer] += 1
    return [max(question.options, key=counts[question.text].__getitem__) for question in questions]
