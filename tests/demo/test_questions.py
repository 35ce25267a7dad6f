"""The questions: right answers, and nothing to gain from the question alone."""

from collections import Counter

import numpy as np
import pytest

from dynfocus.demo.questions import (
    ABILITIES,
    COUNTS,
    DESCRIPTION_TEMPLATES,
    DIGITS,
    KINDS,
    PLACES,
    Question,
    all_answers,
    all_questions,
    kinds_of,
    random_question,
)
from dynfocus.demo.scenes import COLORS, SHAPES, Dots, Number, Scene, Shape, random_clip, random_scene
from dynfocus.evaluation.demo import blind_answers
from tests.demo.reading import answer_by_reading


@pytest.fixture(scope="module")
def asked() -> list[tuple[Scene, Question]]:
    """A question of each kind about each of 600 scenes, and whatever can be asked about 300 clips."""
    rng = np.random.default_rng(0)
    scenes = [random_scene("test", 0, index) for index in range(600)]
    clips = [random_clip("test", 0, index) for index in range(300)]
    about_scenes = [(scene, random_question(scene, rng, kind)) for scene in scenes for kind in (*KINDS, "description")]
    return about_scenes + [(clip, random_question(clip, rng, kind)) for clip in clips for kind in kinds_of(clip)]


def test_answers_are_right(asked):
    for scene, question in asked:
        assert question.answer == answer_by_reading(question.text, scene), (question, scene.events)
        assert question.kind == "description" or question.answer in question.options


def test_options_are_all_that_could_be_answered(asked):
    options = {kind: Counter(question.options for _, question in asked if question.kind == kind) for kind in KINDS}
    for kind, expected in (("number", DIGITS), ("number order", DIGITS), ("count", COUNTS), ("place", PLACES)):
        assert set(options[kind]) == {expected}
    assert set(options["color"]) == {tuple(COLORS)} and set(options["shape"]) == {SHAPES}
    for kind in ("order", "duration"):
        named = {each for each in options[kind] if len(each) == 2}
        assert set(options[kind]) - named == {tuple(COLORS), SHAPES}
        assert all(set(each) <= {f"{color} {shape}" for color in COLORS for shape in SHAPES} for each in named)


def test_every_question_and_answer_is_listed_for_the_tokenizers(asked):
    listed = list(all_questions())
    assert len(set(listed)) == len(listed)
    assert {question.text for _, question in asked} <= set(listed)
    known = {word for text in all_answers() for word in text.replace(",", "").split()}
    said = {word for _, question in asked for word in question.answer.replace(",", "").split()}
    assert said <= known
    # All of them can come up: no word is there for nothing.
    assert known - said <= set(DIGITS)


def test_kinds_are_asked_equally_often_and_on_demand():
    rng = np.random.default_rng(2)
    scene = random_scene("test", 2, 0)
    counts = Counter(random_question(scene, rng).kind for _ in range(4000))
    assert [counts[kind] / 4000 for kind in KINDS] == pytest.approx([1 / 8] * 8, abs=0.02)
    assert {random_question(scene, rng, kind).kind for kind in KINDS} == set(KINDS)


def test_abilities():
    assert {ability: sum(each == ability for each in ABILITIES.values()) for ability in ABILITIES.values()} == {
        "detail": 3,
        "time": 4,
        "both": 1,
    }


CIRCLE = Shape(0, 5, "red", "circle", (0.5, 0.5), (0.0, 0.0), 0.2)
SQUARE = Shape(8, 12, "blue", "square", (0.5, 0.5), (0.0, 0.0), 0.2)
FIRST, SECOND = Number(15, 19, "red", "47", (0.2, 0.7)), Number(22, 26, "white", "10", (0.7, 0.7))
DOTS = Dots(28, 32, "green", ((0.1, 0.1),))


@pytest.mark.parametrize(
    "events, kinds",
    [
        ((), []),
        ((CIRCLE,), ["color", "shape"]),
        ((CIRCLE, SQUARE), ["color", "shape", "order", "duration"]),
        ((FIRST,), ["number", "place"]),
        ((FIRST, SECOND), ["number", "place", "number order"]),
        ((SQUARE, FIRST, DOTS), ["number", "count", "place", "color", "shape"]),
    ],
)
def test_only_what_a_scene_has_is_asked_about(events, kinds):
    scene, rng = Scene(events, (0,)), np.random.default_rng(0)
    assert kinds_of(scene) == kinds
    assert {random_question(scene, rng).kind for _ in range(100 if kinds else 0)} == set(kinds)
    if not events:
        for kind in (None, "description"):
            with pytest.raises(ValueError, match="scene has no events"):
                random_question(scene, rng, kind)
    for kind in {*KINDS, "taste"} - set(kinds) if events else ():
        with pytest.raises(ValueError, match=f"kind must be one of .*description, got '{kind}'"):
            random_question(scene, rng, kind)


def test_what_is_told():
    scene = Scene((CIRCLE, SQUARE, FIRST, SECOND, DOTS), (0,))
    rng = np.random.default_rng(0)
    questions = [random_question(scene, rng, "description") for _ in range(100)]
    one, other = (f"{number.color} {number.place}" for number in (FIRST, SECOND))
    first, second = FIRST.color, SECOND.color
    assert {DESCRIPTION_TEMPLATES[question.text]: question.answer for question in questions} == {
        "color": f"red circle, blue square, {first} number 47, {second} number 10, one dot",
        "shape": f"circle red, square blue, number 47 {first}, number 10 {second}, one dot",
        "place": f"{one}, {other}",
        "duration": "red circle, blue square",
    }
    assert {question.options for question in questions} == {()}


def test_descriptions_are_of_what_is_there():
    dots = Scene((DOTS,), (0,))
    asked = {random_question(dots, np.random.default_rng(seed), "description").text for seed in range(50)}
    assert {DESCRIPTION_TEMPLATES[text] for text in asked} == {"color", "shape"}


# What a guess among a question's options gets; half of the questions about order and duration name two shapes, and the
# others ask for a colour or a shape.
CHANCE = {
    "number": 1 / 90,
    "count": 1 / 5,
    "place": 1 / 4,
    "color": 1 / 5,
    "shape": 1 / 4,
    "order": (1 / 2 + (1 / 5 + 1 / 4) / 2) / 2,
    "duration": (1 / 2 + (1 / 5 + 1 / 4) / 2) / 2,
    "number order": 1 / 90,
}


def test_the_question_alone_tells_next_to_nothing(asked):
    questions = [question for scene, question in asked[: 600 * 9] if question.kind != "description"]
    answers = blind_answers(questions)
    for kind, chance in CHANCE.items():
        right = [q.answer == answer for q, answer in zip(questions, answers, strict=True) if q.kind == kind]
        assert len(right) == 600
        assert np.mean(right) < chance + 0.06, kind
        assert np.mean(right) > chance - 0.06, kind  # or the bound is not the best blind answer's
    named = [(q, answer) for q, answer in zip(questions, answers, strict=True) if " or " in q.text]
    assert np.mean([q.answer == answer for q, answer in named]) == pytest.approx(0.5, abs=0.06)
    assert {answer in q.options for q, answer in named} == {True}
