"""What is said about the demo's images and videos to train on."""

import json
from collections import Counter

import numpy as np
import pytest

import dynfocus.demo.conversations as conversations
from dynfocus.demo.conversations import (
    CAPTION_TEMPLATES,
    DESCRIBED_ALONE,
    KEPT_IN_MIND,
    QUESTIONS,
    as_llava,
    image_conversation,
    questions_conversation,
    video_conversation,
)
from dynfocus.demo.questions import DESCRIPTION_TEMPLATES, KINDS, all_questions, random_question
from dynfocus.demo.scenes import Dots, Number, Scene, Shape, random_clip, random_scene
from dynfocus.training.layouts import LAYOUTS
from dynfocus.training.samples import Turn, Visual, checked
from tests.demo.reading import answer_by_reading


@pytest.mark.parametrize("make", [random_scene, random_clip])
def test_videos_are_asked_about_and_then_described(make):
    """The description comes last, for it answers most others."""
    rng = np.random.default_rng(0)
    lengths = Counter()
    for index in range(600):
        scene = make("test", 3, index)
        turns = video_conversation(scene, rng)
        assert [answer_by_reading(question, scene) for question, _ in turns] == [answer for _, answer in turns]
        described = [question in DESCRIPTION_TEMPLATES for question, _ in turns]
        assert described == [False] * (len(turns) - 1) + [True]
        lengths[len(turns)] += 1
    assert max(lengths) == 1 + QUESTIONS
    assert lengths[1] / 600 == pytest.approx(DESCRIBED_ALONE, abs=0.04)
    if make is random_scene:  # a clip may have too little to ask three kinds of questions about
        assert set(lengths) == {1, 1 + QUESTIONS}


def test_a_conversation_asks_no_kind_twice_and_every_kind_first(monkeypatch):
    """What the Q-Former reads is the first question: each kind must be among them."""
    scene = random_scene("test", 3, 0)
    rng = np.random.default_rng(1)
    asked = []

    def recorded(scene, rng, kind):
        asked[-1].append(kind)
        return random_question(scene, rng, kind)

    monkeypatch.setattr(conversations, "random_question", recorded)
    for _ in range(200):
        asked.append([])
        video_conversation(scene, rng)
    assert all(len(set(kinds)) == len(kinds) for kinds in asked)
    assert {kinds[0] for kinds in asked} == {*KINDS, "description"}


def test_questions_of_every_kind_alone_and_now_and_then_the_description():
    rng = np.random.default_rng(3)
    described = 0
    for index in range(300):
        scene = random_scene("test", 3, index)
        turns = questions_conversation(scene, rng)
        assert [answer_by_reading(question, scene) for question, _ in turns] == [answer for _, answer in turns]
        if turns[0][0] in DESCRIPTION_TEMPLATES:
            described += 1
        else:
            assert len(turns) == len(KINDS) and not {question for question, _ in turns} & set(DESCRIPTION_TEMPLATES)
    assert described / 300 == pytest.approx(KEPT_IN_MIND, abs=0.05)


def test_images_are_asked_everything_about_one_frame():
    rng = np.random.default_rng(2)
    listed, captions_last = set(all_questions()), 0
    for index in range(100):
        for event in random_scene("test", 4, index).events:
            turns = image_conversation(event, rng)
            assert len(turns) == {Shape: 3, Number: 3, Dots: 2}[type(event)]
            captions = [answer for question, answer in turns if question in CAPTION_TEMPLATES]
            asked = [(question, answer) for question, answer in turns if question not in CAPTION_TEMPLATES]
            alone = Scene((event,), (0,))
            assert captions == [answer_by_reading("Describe the video.", alone)]
            assert [answer_by_reading(question, alone) for question, _ in asked] == [answer for _, answer in asked]
            assert {question for question, _ in asked} <= listed
            captions_last += turns[-1][0] in CAPTION_TEMPLATES
    assert 0.25 < captions_last / 650 < 0.5  # any order: a third or a half of the turns


def test_an_empty_image_shows_nothing():
    ((question, answer),) = image_conversation(None, np.random.default_rng(0))
    assert question in CAPTION_TEMPLATES and answer == "nothing"


@pytest.mark.parametrize("kind", ["image", "video"])
def test_the_form_is_llavas(kind, tmp_path):
    turns = [("What color is the circle?", "red"), ("Describe the video.", "red circle, two dots")]
    line = as_llava("a.mp4", kind, turns)
    assert line["conversations"][0] == {"from": "human", "value": f"<{kind}>\nWhat color is the circle?"}
    (tmp_path / "data.jsonl").write_text(json.dumps(line) + "\n")
    (sample,) = LAYOUTS["llava"](tmp_path / "data.jsonl", None)
    assert sample == checked(sample)  # the visual stands in the first question, and nowhere else
    assert (sample.id, sample.visuals) == ("a.mp4", (Visual(kind, "a.mp4"),))
    assert sample.turns == (Turn(f"<{kind}>\n{turns[0][0]}", "red"), Turn(*turns[1]))
