"""What is said about the demo's images and videos: conversations to train on, in LLaVA's form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dynfocus.demo.questions import (
    COLOR_TEMPLATES,
    COUNT_TEMPLATES,
    NUMBER_TEMPLATES,
    PLACE_TEMPLATES,
    SHAPE_TEMPLATES,
    kinds_of,
    random_question,
    told,
)
from dynfocus.demo.scenes import Dots, Event, Number, Scene

CAPTION_TEMPLATES = ("What is shown?", "Describe the image.")
QUESTIONS = 3  # and the description; with more, too many answers are in what was said before
DESCRIBED_ALONE = 0.2  # share of these conversations that are the description alone
KEPT_IN_MIND = 0.1  # the same among those of questions alone


def image_conversation(event: Event | None, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Every question there is about one frame, in random order, and what it shows: (question, answer) pairs."""
    turns = []
    if isinstance(event, Number):
        turns = [(NUMBER_TEMPLATES, event.digits), (PLACE_TEMPLATES, event.place)]
    elif isinstance(event, Dots):
        turns = [(COUNT_TEMPLATES, told(event).split()[0])]
    elif event is not None:
        turns = [(COLOR_TEMPLATES, event.color), (SHAPE_TEMPLATES, event.shape)]
    turns.append((CAPTION_TEMPLATES, told(event) if event else "nothing"))
    words = {name: getattr(event, name, "") for name in ("color", "shape")}
    return [(str(rng.choice(turns[i][0])).format(**words), turns[i][1]) for i in rng.permutation(len(turns))]


def video_conversation(scene: Scene, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Questions of some kinds in random order, then the description of the video: (question, answer) pairs.

    They share the cost of the video's tokens, which the Q-Former makes for the first. The description comes last, for
    it answers most others.
    """
    kinds = rng.permutation(kinds_of(scene))[:QUESTIONS].tolist() if rng.random() > DESCRIBED_ALONE else []
    questions = [random_question(scene, rng, kind) for kind in (*kinds, "description")]
    return [(question.text, question.answer) for question in questions]


def questions_conversation(scene: Scene, rng: np.random.Generator) -> list[tuple[str, str]]:
    """A question of every kind in random order; or, lest it be forgotten, the description: (question, answer) pairs."""
    kinds = rng.permutation(kinds_of(scene)).tolist() if rng.random() > KEPT_IN_MIND else ["description"]
    questions = [random_question(scene, rng, kind) for kind in kinds]
    return [(question.text, question.answer) for question in questions]


def as_llava(name: str, kind: str, turns: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """One line of LLaVA's JSON; `kind` is "image" or "video", `name` its file below the media folder."""
    said = []
    for number, (question, answer) in enumerate(turns):
        said.append({"from": "human", "value": question if number else f"<{kind}>\n{question}"})
        said.append({"from": "gpt", "value": answer})
    return {"id": name, kind: name, "conversations": said}
