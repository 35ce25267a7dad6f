"""Answers worked out from the words of a question and the events of a scene, by rules of the tests' own."""

import re
from operator import attrgetter

from dynfocus.demo.scenes import Dots, Number, Scene, Shape

NUMBER_WORDS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}
ORDINALS = {"first": 0, "second": 1, "third": 2, "last": -1}


def answer_by_reading(text: str, scene: Scene) -> str:
    events = sorted(scene.events, key=attrgetter("start"))
    shapes = [event for event in events if isinstance(event, Shape)]
    numbers = [event for event in events if isinstance(event, Number)]
    words = set(re.findall(r"[a-z]+", text.lower()))
    if words & {"video", "list", "shapes"}:
        return _description(words, events)
    if "numbers" in words:
        return ", ".join(f"{number.color} {_place(number)}" for number in numbers)
    if "dots" in words:
        return NUMBER_WORDS[sum(len(event.centers) for event in events if isinstance(event, Dots))]
    if "number" in words:
        return _about_numbers(words, numbers)
    if " or " in text:
        shapes = [shape for shape in shapes if f"the {shape.color} {shape.shape}" in text]
        assert len(shapes) == 2
        return " ".join(_chosen(words, shapes, "color", "shape"))
    (attribute,) = words & {"color", "shape"}
    if words & {*ORDINALS, "longest", "shortest"}:
        return _chosen(words, shapes, attribute)[0]
    (value,) = {getattr(shape, attribute) for shape in shapes if words & {shape.color, shape.shape}}
    return value


def _about_numbers(words: set[str], numbers: list[Number]) -> str:
    for ordinal in words & set(ORDINALS):
        return numbers[ORDINALS[ordinal]].digits
    (number,) = [number for number in numbers if number.color in words]
    if "where" not in words:
        return number.digits
    return _place(number)


def _place(number: Number) -> str:
    x, y = number.center
    return ("top" if y < 0.5 else "bottom") + (" left" if x < 0.5 else " right")


def _chosen(words: set[str], shapes: list[Shape], *attributes: str) -> list[str]:
    """Of the shape that the question's ordinal or superlative picks."""
    (word,) = words & {*ORDINALS, "longer", "longest", "shorter", "shortest"}
    if word in ORDINALS:
        shape = shapes[ORDINALS[word]]
    else:
        shape = (max if word.startswith("long") else min)(shapes, key=lambda shape: shape.end - shape.start)
    return [getattr(shape, attribute) for attribute in attributes]


def _description(words: set[str], events: list[Shape | Number | Dots]) -> str:
    if "longest" in words:
        shapes = [event for event in events if isinstance(event, Shape)]
        by_duration = sorted(shapes, key=lambda shape: shape.end - shape.start, reverse=True)
        return ", ".join(f"{shape.color} {shape.shape}" for shape in by_duration)
    return ", ".join(_told(event, color_last="colors" in words) for event in events)


def _told(event: Shape | Number | Dots, color_last: bool) -> str:
    if isinstance(event, Dots):
        count = len(event.centers)
        return f"{NUMBER_WORDS[count]} {'dot' if count == 1 else 'dots'}"
    name = event.shape if isinstance(event, Shape) else f"number {event.digits}"
    return f"{name} {event.color}" if color_last else f"{event.color} {name}"
