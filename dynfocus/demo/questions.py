"""Questions about a scene, with their answers: on small things shown briefly, on the whole of time, and on both.

What is asked about is drawn independently of everything the question says, and alternatives are named in random order,
so a question alone says next to nothing about its answer. What they call objects are the large shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from dynfocus.demo.scenes import COLORS, MAX_DOTS, SHAPES, Dots, Event, Scene, Shape

# What each kind asks an eye for: fine detail at the right moment, all of time, or both.
ABILITIES = {
    "number": "detail",
    "count": "detail",
    "place": "detail",
    "color": "time",
    "shape": "time",
    "order": "time",
    "duration": "time",
    "number order": "both",
}
KINDS = tuple(ABILITIES)
ORDINALS = ("first", "second", "third", "last")
COUNTS = ("one", "two", "three", "four", "five")[:MAX_DOTS]
PLACES = ("top left", "top right", "bottom left", "bottom right")
DIGITS = tuple(str(number) for number in range(10, 100))

NUMBER_TEMPLATES = ("What is the {color} number?", "Which number is {color}?", "What number is shown in {color}?")
COUNT_TEMPLATES = ("How many dots are there?", "How many dots appear?", "What is the number of dots?")
PLACE_TEMPLATES = ("Where is the {color} number?", "Where was the {color} number shown?")
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
CHOICE_TEMPLATES = {
    "order": ("Which came {end}, the {one} or the {other}?", "Which appeared {end}, the {one} or the {other}?"),
    "duration": ("Which stayed {end}, the {one} or the {other}?", "Which was seen {end}, the {one} or the {other}?"),
}
ENDS = {"order": ("first", "last"), "duration": ("longer", "shorter")}
ORDINAL_TEMPLATES = (
    "What {attribute} was the {ordinal} object?",
    "What {attribute} is the {ordinal} object?",
    "What was the {attribute} of the {ordinal} object?",
)
LONGEST_TEMPLATES = ("What {attribute} was the object that stayed {end}?", "What {attribute} stayed {end}?")
NUMBER_ORDER_TEMPLATES = ("What is the {ordinal} number?", "Which number came {ordinal}?")
# Descriptions are where most is learned. What they say first is what the rest is found by, so each tells its events in
# another form: with colours first alone, nothing would be found by its shape.
DESCRIPTION_TEMPLATES = {
    "What happens in the video?": "color",
    "Describe the video.": "color",
    "Which shapes and numbers appear, and in which colors?": "shape",
    "List the shapes and numbers with their colors.": "shape",
    "Where are the numbers?": "place",
    "List the objects from the longest to the shortest.": "duration",
}


@dataclass(frozen=True)
class Question:
    """``answer`` is a word or two, or in a description all events ("red circle, number 47, four dots").

    ``options`` are the answers that someone who has not seen the video may choose from; a description has too many.
    """

    kind: str
    text: str
    answer: str
    options: tuple[str, ...] = ()


def random_question(scene: Scene, rng: np.random.Generator, kind: str | None = None) -> Question:
    """A question about the scene, of the given kind ("description" is one too) or (None) of any that it has.

    Raises ValueError for a scene without events, and for a kind that is unknown or that the scene has nothing for.
    """
    if not scene.events:
        raise ValueError("scene has no events to ask about")
    if kind is None:
        kind = str(rng.choice(kinds_of(scene)))
    if kind == "description":
        text = str(rng.choice([text for text, form in DESCRIPTION_TEMPLATES.items() if _described(scene, form)]))
        return Question(kind, text, ", ".join(_described(scene, DESCRIPTION_TEMPLATES[text])))
    if kind not in kinds_of(scene):
        raise ValueError(f"kind must be one of {', '.join(kinds_of(scene))}, description, got {kind!r}")
    template, words, answer, options = _ASK[kind](scene, rng)
    return Question(kind, str(rng.choice(template)).format(**words), answer, tuple(options))


def kinds_of(scene: Scene) -> list[str]:
    """The kinds of questions that can be asked about the scene."""
    has = {
        "number": len(scene.numbers) >= 1,
        "count": scene.dots is not None,
        "place": len(scene.numbers) >= 1,
        "color": len(scene.shapes) >= 1,
        "shape": len(scene.shapes) >= 1,
        "order": len(scene.shapes) >= 2,
        "duration": len(scene.shapes) >= 2,
        "number order": len(scene.numbers) == 2,
    }
    return [kind for kind in KINDS if has[kind]]


def _described(scene: Scene, form: str) -> list[str]:
    """The events in the order of time, told with their "color" or "shape" first; the numbers alone, with their "place";
    or the shapes in the order of their "duration"."""
    if form == "place":
        return [f"{number.color} {number.place}" for number in scene.numbers]
    if form == "duration":
        return [shape.name for shape in sorted(scene.shapes, key=lambda shape: shape.start - shape.end)]
    return [told(event, color_first=form == "color") for event in scene.events]


def told(event: Event, color_first: bool = True) -> str:
    """What an event shows: "red circle", "white number 47" or "four dots"; or "circle red", "number 47 white"."""
    if isinstance(event, Dots):
        count = len(event.centers)
        return f"{COUNTS[count - 1]} {'dot' if count == 1 else 'dots'}"
    name = event.shape if isinstance(event, Shape) else f"number {event.digits}"
    return f"{event.color} {name}" if color_first else f"{name} {event.color}"


def all_questions() -> Iterator[str]:
    """Every question there is, for the tokenizers' vocabularies."""
    for templates in (NUMBER_TEMPLATES, PLACE_TEMPLATES, SHAPE_TEMPLATES):
        yield from (template.format(color=color) for template, color in product(templates, COLORS))
    yield from (template.format(shape=shape) for template, shape in product(COLOR_TEMPLATES, SHAPES))
    names = [f"{color} {shape}" for color, shape in product(COLORS, SHAPES)]
    for kind, templates in CHOICE_TEMPLATES.items():
        for template, end, one, other in product(templates, ENDS[kind], names, names):
            if not set(one.split()) & set(other.split()):
                yield template.format(end=end, one=one, other=other)
    for template, attribute, ordinal in product(ORDINAL_TEMPLATES, ("color", "shape"), ORDINALS):
        yield template.format(attribute=attribute, ordinal=ordinal)
    for template, attribute, end in product(LONGEST_TEMPLATES, ("color", "shape"), ("longest", "shortest")):
        yield template.format(attribute=attribute, end=end)
    yield from (template.format(ordinal=end) for template, end in product(NUMBER_ORDER_TEMPLATES, ENDS["order"]))
    yield from COUNT_TEMPLATES
    yield from DESCRIPTION_TEMPLATES


def all_answers() -> Iterator[str]:
    """Every word of every answer."""
    yield from (*COLORS, *SHAPES, *COUNTS, *PLACES, *DIGITS, "number dot dots,")


# Templates, the words that fill them, the answer, and what it may be chosen from.
_Asked = tuple[Sequence[str], dict[str, str], str, Iterable[str]]


def _number(scene: Scene, rng: np.random.Generator) -> _Asked:
    number = scene.numbers[rng.integers(len(scene.numbers))]
    return NUMBER_TEMPLATES, {"color": number.color}, number.digits, DIGITS


def _count(scene: Scene, rng: np.random.Generator) -> _Asked:
    assert scene.dots is not None  # or `kinds_of` would not name this kind
    return COUNT_TEMPLATES, {}, COUNTS[len(scene.dots.centers) - 1], COUNTS


def _place(scene: Scene, rng: np.random.Generator) -> _Asked:
    number = scene.numbers[rng.integers(len(scene.numbers))]
    return PLACE_TEMPLATES, {"color": number.color}, number.place, PLACES


def _color(scene: Scene, rng: np.random.Generator) -> _Asked:
    shape = scene.shapes[rng.integers(len(scene.shapes))]
    return COLOR_TEMPLATES, {"shape": shape.shape}, shape.color, COLORS


def _shape(scene: Scene, rng: np.random.Generator) -> _Asked:
    shape = scene.shapes[rng.integers(len(scene.shapes))]
    return SHAPE_TEMPLATES, {"color": shape.color}, shape.shape, SHAPES


def _order(scene: Scene, rng: np.random.Generator) -> _Asked:
    if rng.random() < 0.5:
        return _choice("order", scene.shapes, rng)
    position = int(rng.integers(len(scene.shapes)))
    names = [ORDINALS[position]] * (position < 3) + ["last"] * (position == len(scene.shapes) - 1)
    return _attribute(ORDINAL_TEMPLATES, {"ordinal": str(rng.choice(names))}, scene.shapes[position], rng)


def _duration(scene: Scene, rng: np.random.Generator) -> _Asked:
    by_duration = sorted(scene.shapes, key=lambda shape: shape.start - shape.end)
    if rng.random() < 0.5:
        return _choice("duration", by_duration, rng)
    place, end = ((0, "longest"), (-1, "shortest"))[rng.integers(2)]
    return _attribute(LONGEST_TEMPLATES, {"end": end}, by_duration[place], rng)


def _number_order(scene: Scene, rng: np.random.Generator) -> _Asked:
    place = int(rng.integers(2))
    return NUMBER_ORDER_TEMPLATES, {"ordinal": ENDS["order"][place]}, scene.numbers[place].digits, DIGITS


def _choice(kind: str, ranked: Sequence[Shape], rng: np.random.Generator) -> _Asked:
    """Which of two shapes is nearer to one end of `ranked`."""
    end = int(rng.integers(2))
    places = sorted(rng.choice(len(ranked), 2, replace=False), reverse=bool(end))
    one, other = (ranked[places[i]].name for i in rng.permutation(2))
    words = {"end": ENDS[kind][end], "one": one, "other": other}
    return CHOICE_TEMPLATES[kind], words, ranked[places[0]].name, (one, other)


def _attribute(templates: Sequence[str], words: dict[str, str], shape: Shape, rng: np.random.Generator) -> _Asked:
    """Its colour or its shape."""
    attribute = str(rng.choice(("color", "shape")))
    options = COLORS if attribute == "color" else SHAPES
    return templates, {**words, "attribute": attribute}, getattr(shape, attribute), options


_ASK: dict[str, Callable[[Scene, np.random.Generator], _Asked]] = {
    "number": _number,
    "count": _count,
    "place": _place,
    "color": _color,
    "shape": _shape,
    "order": _order,
    "duration": _duration,
    "number order": _number_order,
}
