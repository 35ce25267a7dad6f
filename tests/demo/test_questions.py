"""The questions: right answers, and nothing to gain from the question alone."""

import re
from collections import Counter

import numpy as np
import pytest

from dynfocus.demo.questions import KINDS, all_questions, random_question
from dynfocus.demo.scenes import COLORS, SHAPES, Scene, random_scene
from dynfocus.evaluation.demo import blind_answers


def answer_by_reading(text: str, scene: Scene) -> str:
    """The answer worked out from the words of the question, by rules of this test's own."""
    words = re.findall(r"[a-z]+", text.lower())
    events = sorted(scene.events, key=lambda event: event.start)
    if "the video" in text:
        return ", ".join(f"{event.color} {event.shape}" for event in events)
    if "shapes" in words:
        return ", ".join(f"{event.shape} {event.color}" for event in events)
    if " or " in text:
        named = [event for event in events if f"{event.color} {event.shape}" in text]
        assert len(named) == 2
        chosen = named[0] if "first" in words else named[1]
        return f"{chosen.color} {chosen.shape}"
    attribute = "color" if "color" in words else "shape"
    for position, ordinal in enumerate(("first", "second", "third")):
        if ordinal in words:
            return getattr(events[position], attribute)
    if "last" in words:
        return getattr(events[-1], attribute)
    (event,) = [e for e in events if (e.shape if attribute == "color" else e.color) in words]
    return getattr(event, attribute)


def test_answers_are_right():
    rng = np.random.default_rng(0)
    for index in range(600):
        scene = random_scene("test", 0, index)
        question = random_question(scene, rng, "description" if index % 5 == 0 else None)
        assert question.answer == answer_by_reading(question.text, scene), (question, scene.events)
        assert question.kind == "description" or question.answer in question.options


def test_every_question_is_listed_for_the_tokenizers():
    rng = np.random.default_rng(1)
    listed = list(all_questions())
    assert len(set(listed)) == len(listed)
    asked = {random_question(random_scene("test", 1, index), rng).text for index in range(1500)}
    asked |= {random_question(random_scene("test", 1, 0), rng, "description").text for _ in range(50)}
    assert asked <= set(listed)


def test_kinds_are_asked_equally_often_and_on_demand():
    rng = np.random.default_rng(2)
    scene = random_scene("test", 2, 0)
    counts = Counter(random_question(scene, rng).kind for _ in range(2000))
    assert [counts[kind] / 2000 for kind in KINDS] == pytest.approx([1 / 3] * 3, abs=0.04)
    assert {random_question(scene, rng, kind).kind for kind in KINDS} == set(KINDS)
    with pytest.raises(ValueError, match="kind must be one of"):
        random_question(scene, rng, "taste")


def test_the_question_alone_tells_next_to_nothing():
    """The best blind answer is right about as often as a guess among colours, shapes, or two alternatives."""
    rng = np.random.default_rng(5)
    questions = [random_question(random_scene("test", 5, index), rng) for index in range(3000)]
    right = np.array([q.answer == a for q, a in zip(questions, blind_answers(questions), strict=True)])

    def share(wanted):
        return right[[bool(wanted(question)) for question in questions]].mean()

    tolerance = 0.06
    assert share(lambda q: q.kind == "color") < 1 / len(COLORS) + tolerance
    assert share(lambda q: q.kind == "shape") < 1 / len(SHAPES) + tolerance
    assert share(lambda q: " or " in q.text) < 1 / 2 + tolerance
    assert share(lambda q: q.kind == "order" and " or " not in q.text) < 1 / len(SHAPES) + tolerance
    assert share(lambda q: True) < 0.35
