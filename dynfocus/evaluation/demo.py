"""`dynfocus eval demo`: accuracy of a demo model on videos it has never seen."""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm

from dynfocus import DynFocusForConditionalGeneration, DynFocusProcessor
from dynfocus.demo.questions import KINDS, Question, random_question
from dynfocus.demo.scenes import Scene, encode, random_scene, render
from dynfocus.loading import load_model


@dataclass(frozen=True)
class DemoEvaluation:
    """What was asked, what the model answered, and what someone who has not seen the videos would answer."""

    questions: list[Question]
    answers: list[str]
    blind_answers: list[str]
    num_frames: int
    total_frames: int

    def accuracy(self, kind: str | None = None) -> float:
        """Share of exactly right answers, of one kind of questions or (None) of all."""
        return self._share(self.answers, kind)

    def blind_accuracy(self, kind: str | None = None) -> float:
        """The same for the best answer to the question alone: the chance level."""
        return self._share(self.blind_answers, kind)

    def _share(self, answers: list[str], kind: str | None) -> float:
        right = [
            question.answer == answer
            for question, answer in zip(self.questions, answers, strict=True)
            if kind in (None, question.kind)
        ]
        return sum(right) / len(right) if right else float("nan")

    def table(self) -> Table:
        title = f"{len(self.questions)} unseen videos, {self.num_frames} of {self.total_frames} frames of each"
        table = Table("questions", "pairs", "accuracy", "question alone", title=title)
        for kind in (*KINDS, None):
            pairs = sum(kind in (None, question.kind) for question in self.questions)
            table.add_row(kind or "all", str(pairs), f"{self.accuracy(kind):.1%}", f"{self.blind_accuracy(kind):.1%}")
        return table


def evaluate(
    model_dir: str | Path | None = None, pairs: int = 1000, seed: int = 0, batch_size: int = 25, show: bool = True
) -> DemoEvaluation:
    """Asks one question about each of `pairs` fresh videos: H.264 files, read by the processor, answered by `generate`.

    Args:
        model_dir: a model trained by `dynfocus train demo`; the embedded one unless given.
        seed: of the videos and questions. Whatever it is, they are none of those trained on.
        show: print the table, and progress on stderr.
    """
    if pairs < 1:
        raise ValueError(f"pairs must be at least 1, got {pairs}")
    model, processor = load_model(model_dir)
    scenes = [random_scene("evaluation", seed, index) for index in range(pairs)]
    rng = np.random.default_rng(seed)
    questions = [random_question(scene, rng) for scene in scenes]
    answers: list[str] = []
    with tempfile.TemporaryDirectory() as videos, ThreadPoolExecutor(2) as pool:
        paths = [Path(videos) / f"{place}.mp4" for place in range(batch_size)]
        for start in tqdm(range(0, pairs, batch_size), desc="batches", disable=not show):
            batch = slice(start, start + batch_size)
            written = list(pool.map(_write, scenes[batch], paths))
            answers += _ask(model, processor, written, [question.text for question in questions[batch]])
    result = DemoEvaluation(
        questions,
        answers,
        blind_answers(questions),
        processor.video_processor.num_frames,
        scenes[0].num_frames,
    )
    if show:
        Console().print(result.table())
    return result


def _write(scene: Scene, path: Path) -> Path:
    encode(render(scene), path, scene.fps)
    return path


@torch.inference_mode()
def _ask(
    model: DynFocusForConditionalGeneration,
    processor: DynFocusProcessor,
    paths: Sequence[Path],
    questions: Sequence[str],
) -> list[str]:
    conversations = [
        [{"role": "user", "content": [{"type": "video", "video": str(path)}, {"type": "text", "text": question}]}]
        for path, question in zip(paths, questions, strict=True)
    ]
    inputs = processor.apply_chat_template(conversations, add_generation_prompt=True, tokenize=True, return_dict=True)
    output = model.generate(**inputs.to(model.device), max_new_tokens=8, do_sample=False)
    return processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def blind_answers(questions: Iterable[Question], num_scenes: int = 4000, seed: int = 0) -> list[str]:
    """The likeliest of each question's options without its video, by counting answers in scenes of the training split.

    Of equally likely ones the first: of two named alternatives, that which was named first.
    """
    rng = np.random.default_rng(seed)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for index in range(num_scenes):
        question = random_question(random_scene("train", seed, index), rng)
        counts[question.text][question.answer] += 1
    return [max(question.options, key=counts[question.text].__getitem__) for question in questions]
