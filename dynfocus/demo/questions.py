"""Questions about a scene, with their answers: on colour, on shape, on the order of events, and on all of it at once.

Colours and shapes are drawn independently and do not repeat within a scene, and alternatives are named in random order,
so a question alone says next to nothing about its answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from dynfocus.demo.scenes import COLORS, SHAPES, Event, Scene

KINDS = ("color", "shape", "order")
ORDINALS = ("first", "second", "third", "last")

COLOR_TEMPLATES = (
    "What color is the {shape}?",
    "What is the color of the {shape}?",
    "Which color does the {shape} have?",
)
SHAPE_TEMPLATES = (
    "What shape is the {color} object?",
    "What is the shape of the {color} object?",
    "Which shape does the {color} object have?",
)
CHOICE_TEMPLATES = (
    "Which came {ordinal}, the {one} or the {other}?",
    "Which appeared {ordinal}, the {one} or the {other}?",
)
ORDINAL_TEMPLATES = (
    "What {attribute} was the {ordinal} object?",
    "What {attribute} is the {ordinal} object?",
    "What was the {attribute} of the {ordinal} object?",
)
# With the form in which each event is told: finding an object by its shape is to be learned as much as by its colour.
DESCRIPTION_TEMPLATES = {
    "What happens in the video?": "{color} {shape}",
    "Describe the video.": "{color} {shape}",
    "Which shapes appear, and in which colors?": "{shape} {color}",
    "List the shapes with their colors.": "{shape} {color}",
}


@dataclass(frozen=True)
class Question:
    """``answer`` is one word, two ("red circle"), or in a description all events ("red circle, blue square").

    ``options`` are the answers that someone who has not seen the video may choose from; a description has too many.
    """

    kind: str
    text: str
    answer: str
    options: tuple[str, ...] = ()


def random_question(scene: Scene, rng: np.random.Generator, kind: str | None = None) -> Question:
    """A question about the scene, of the given kind ("description" is one too) or (None) of any of KINDS.

    Raises ValueError for an unknown kind.
    """
    if kind is None:
        kind = str(rng.choice(KINDS))
    if kind in ("color", "shape"):
        return _attribute_question(scene.events[rng.integers(len(scene.events))], kind, rng)
    if kind == "order":
        return _choice_question(scene, rng) if rng.random() < 0.5 else _ordinal_question(scene, rng)
    if kind == "description":
        text = str(rng.choice(list(DESCRIPTION_TEMPLATES)))
        told = [DESCRIPTION_TEMPLATES[text].format(color=event.color, shape=event.shape) for event in scene.events]
        return Question(kind, text, ", ".join(told))
    raise ValueError(f"kind must be one of {', '.join(KINDS)}, description, got {kind!r}")


def all_questions() -> Iterator[str]:
    """Every question there is, for the tokenizers' vocabularies."""
    yield from (template.format(shape=shape) for template in COLOR_TEMPLATES for shape in SHAPES)
    yield from (template.format(color=color) for template in SHAPE_TEMPLATES for color in COLORS)
    names = [f"{color} {shape}" for color, shape in product(COLORS, SHAPES)]
    for template, ordinal, one, other in product(CHOICE_TEMPLATES, ("first", "last"), names, names):
        if not set(one.split()) & set(other.split()):
            yield template.format(ordinal=ordinal, one=one, other=other)
    for template, attribute, ordinal in product(ORDINAL_TEMPLATES, ("color", "shape"), ORDINALS):
        yield template.format(attribute=attribute, ordinal=ordinal)
    yield from DESCRIPTION_TEMPLATES


def _attribute_question(event: Event, kind: str, rng: np.random.Generator) -> Question:
    if kind == "color":
        return Question(kind, str(rng.choice(COLOR_TEMPLATES)).format(shape=event.shape), event.color, tuple(COLORS))
    return Question(kind, str(rng.choice(SHAPE_TEMPLATES)).format(color=event.color), event.shape, SHAPES)


def _choice_question(scene: Scene, rng: np.random.Generator) -> Question:
    ordinal = str(rng.choice(("first", "last")))
    events = list(scene.events if ordinal == "first" else reversed(scene.events))
    if len(events) == 3:
        del events[rng.integers(3)]
    one, other = (events[i].name for i in rng.permutation(2))
    text = str(rng.choice(CHOICE_TEMPLATES)).format(ordinal=ordinal, one=one, other=other)
    return Question("order", text, events[0].name, (one, other))


def _ordinal_question(scene: Scene, rng: np.random.Generator) -> Question:
    position = int(rng.integers(len(scene.events)))
    names = [ORDINALS[position]] + (["last"] if position == len(scene.events) - 1 else [])
    attribute = str(rng.choice(("color", "shape")))
    text = str(rng.choice(ORDINAL_TEMPLATES)).format(attribute=attribute, ordinal=rng.choice(names))
    options = tuple(COLORS) if attribute == "color" else SHAPES
    return Question("order", text, getattr(scene.events[position], attribute), options)
