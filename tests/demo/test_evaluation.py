"""`dynfocus eval demo`: what is asked, how answers are counted, and that videos are read as any user's."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import dynfocus.evaluation.demo as evaluation
from dynfocus.asking import VideoAsker
from dynfocus.demo.build import build
from dynfocus.demo.questions import COUNT_TEMPLATES, KINDS, Question, all_questions
from dynfocus.demo.rendering import encode, render
from dynfocus.demo.scenes import random_scene
from dynfocus.evaluation.demo import blind_answers, encoded_videos, evaluate, examine
from tests.demo.reading import answer_by_reading

SCENES = [random_scene("evaluation", 3, index) for index in range(20)]


@pytest.fixture(scope="module")
def untrained():
    model, processor = build(seed=0)
    return model.eval(), processor


def examined(monkeypatch, answer, seed=3):
    """The examination of a model that gives `answer(question, scene)`."""
    scenes = iter(SCENES)

    def answers(model, processor, video, questions):
        scene = next(scenes)
        return [answer(question, scene) for question in questions]

    monkeypatch.setattr(evaluation, "_answers", answers)
    videos = [{"num_frames": torch.tensor([64])}] * len(SCENES)
    return examine(None, None, videos, SCENES, seed)


def test_each_video_is_asked_a_question_of_each_kind(monkeypatch):
    result = examined(monkeypatch, answer_by_reading)
    assert [question.kind for question in result.questions] == list(KINDS) * len(SCENES)
    assert result.accuracy() == 1
    assert examined(monkeypatch, answer_by_reading).questions == result.questions
    assert examined(monkeypatch, answer_by_reading, seed=4).questions != result.questions


def test_accuracy_is_the_share_of_exactly_right_answers(monkeypatch):
    about_numbers = {*(question for question in all_questions() if "number" in question)} - {*COUNT_TEMPLATES}

    def half_blind(question, scene):
        return "47" if question in about_numbers else answer_by_reading(question, scene)

    result = examined(monkeypatch, half_blind)
    assert result.accuracy("order", "duration", "color", "shape", "count") == 1
    right = [answer == question.answer for question, answer in zip(result.questions, result.answers, strict=True)]
    assert result.accuracy() == np.mean(right)
    assert result.accuracy("number", "number order") <= 0.1 and result.accuracy("place") == 0
    assert examined(monkeypatch, lambda question, scene: "").accuracy() == 0
    assert np.isnan(result.accuracy("taste"))


def test_the_blind_choose_among_the_options(monkeypatch):
    result = examined(monkeypatch, answer_by_reading)
    assert result.blind_answers == blind_answers(result.questions)
    assert all(answer in q.options for q, answer in zip(result.questions, result.blind_answers, strict=True))
    assert result.blind_accuracy() < 0.4 < result.accuracy()
    # The same question gets the same answer: nothing of the video is seen.
    known = {(q.text, q.options): answer for q, answer in zip(result.questions, result.blind_answers, strict=True)}
    assert [known[q.text, q.options] for q in result.questions] == result.blind_answers


def test_the_blind_know_what_was_answered_most_often(monkeypatch):
    asked = Question("color", "What color is the circle?", "green", ("red", "green", "blue"))
    answers = iter(["red", "blue", "blue"] * len(KINDS))
    monkeypatch.setattr(evaluation, "random_question", lambda *given: replace(asked, answer=next(answers)))
    never_heard = replace(asked, text="What color is the cross?")
    assert blind_answers([asked, never_heard], num_scenes=3) == ["blue", "red"]


def test_a_video_is_encoded_as_the_processor_and_model_do(untrained, tmp_path):
    """And so each question is answered as from the file."""
    model, processor = untrained
    (encoded,) = encoded_videos(model, processor, SCENES[:1])
    encode(render(SCENES[0]), tmp_path / "scene.mp4", SCENES[0].fps)
    frames = processor.video_processor([str(tmp_path / "scene.mp4")])
    with torch.inference_mode():
        features = model.encode_patches(frames.pop("pixel_values_videos"))
    torch.testing.assert_close(encoded["video_features"], features)
    assert encoded["video_features"].shape == (64, 145, 64)
    for name, value in frames.items():
        torch.testing.assert_close(encoded[name], value)
    result = examine(model, processor, [encoded], SCENES[:1], seed=0)
    assert result.num_frames == 64
    asked = [question.text for question in result.questions]
    answers = VideoAsker(model, processor).ask(tmp_path / "scene.mp4", asked, max_new_tokens=8)
    assert [answer.strip() for answer in result.answers] == [answer.answer for answer in answers]


def test_a_saved_model_is_evaluated_and_the_result_printed(untrained, tmp_path, capsys):
    for part in untrained:
        part.save_pretrained(tmp_path)
    result = evaluate(tmp_path, videos=2)
    assert len(result.answers) == len(result.questions) == 2 * len(KINDS)
    printed = capsys.readouterr().out
    assert "2 unseen videos, 64 of 128 frames of each" in printed
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line.count("│") == 5]
    assert [row[0] for row in rows] == [*KINDS, "all"]
    assert rows[0][1] == "detail" and rows[-1][2] == f"{result.accuracy():.1%}"
    assert [row[3] for row in rows[:-1]] == [f"{result.blind_accuracy(kind):.1%}" for kind in KINDS]


def test_a_quiet_evaluation_prints_nothing(untrained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluation, "load_model", lambda directory: untrained)
    evaluate(tmp_path, videos=1, show=False)
    assert capsys.readouterr().out == ""


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="videos must be at least 1, got 0"):
        evaluate(videos=0)
