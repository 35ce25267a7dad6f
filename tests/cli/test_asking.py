"""Answers, and what is said about where they come from, against the model and the file."""

import json

import numpy as np
import pytest
import torch

from dynfocus.asking import STAGES, VideoAsker
from dynfocus.errors import DynFocusError
from dynfocus.loading import load_model
from dynfocus.plotting import plot_answers
from tests.model import tiny
from tests.video.watermark import number_of, write_video


@pytest.fixture(scope="module")
def asker(model_directory):
    return VideoAsker(*load_model(model_directory, device="cpu"))


def test_answer_is_the_models_own(asker, video):
    """The same words as from the processor and `generate` alone."""
    question = "what color is the circle?"
    answer = asker.ask(video, question, max_new_tokens=6)[0].answer
    content = [{"type": "video", "video": str(video)}, {"type": "text", "text": question}]
    inputs = asker.processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    output = asker.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    expected = asker.processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer == expected.strip() != ""


def test_what_is_said_about_the_frames(asker, video):
    answer = asker.ask(video, "which came first", max_new_tokens=2)[0]
    assert answer.clip.frame_indices.tolist() == [int((i + 0.5) * 40 / 12) for i in range(12)]
    assert len(answer.assignment) == answer.plan.num_frames == 12
    assert len(answer.events) == answer.plan.num_events == 6
    assert len(answer.key_frames) == answer.plan.num_key_frames == 3
    for number, event in enumerate(answer.events):
        place = answer.clip.frame_indices.tolist().index(event.frame)
        assert answer.assignment[place] == number
        assert number_of(answer.clip.frames[place]) == event.frame
        assert event.seconds == pytest.approx(event.frame / 30)
        assert any(start <= event.seconds < end for start, end in event.spans)
    # The events' spans tile the time from the first sampled frame to the end.
    spans = sorted(span for event in answer.events for span in event.spans)
    assert spans[0][0] == answer.clip.timestamps[0]
    assert spans[-1][1] == answer.clip.duration
    assert [end for _, end in spans[:-1]] == [start for start, _ in spans[1:]]
    # The key events are those that the model scores best.
    scores = sorted((event.score for event in answer.events), reverse=True)
    key_events = [answer.events[key.event] for key in answer.key_frames]
    assert [event for event in answer.events if event.is_key] == key_events
    assert [event.frame for event in key_events] == [key.frame for key in answer.key_frames]
    assert sorted((event.score for event in key_events), reverse=True) == scores[:3]


def test_tokens_add_up(asker, video):
    answer = asker.ask(video, "which came first", max_new_tokens=2)[0]
    assert answer.patches_per_frame == (32 // 8) ** 2
    assert answer.dense_tokens == 12 * 16
    assert answer.plan.num_tokens == answer.plan.cones_tokens + answer.plan.rods_tokens
    assert answer.plan.rods_tokens == 2 * 12
    assert answer.rods_attention.shape == (12, 4, 4)
    np.testing.assert_allclose(answer.rods_attention.sum((1, 2)), 1, rtol=1e-4)


def test_the_video_is_read_and_encoded_once(asker, video, monkeypatch):
    calls = {"read": 0, "encode_patches": 0, "get_video_features": 0}

    def count(owner, name):
        original = getattr(owner, name)

        def counted(*args, **kwargs):
            calls[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted, raising=True)

    count(asker.processor.video_processor, "read")
    count(asker.model, "encode_patches")
    count(asker.model, "get_video_features")
    stages = []
    questions = ["what color is the circle?", "which came first", "what shape is this"]
    answers = asker.ask(video, questions, max_new_tokens=2, progress=stages.append)
    assert [answer.question for answer in answers] == questions
    assert calls == {"read": 1, "encode_patches": 1, "get_video_features": 3}
    assert stages == [*STAGES[:3], *STAGES[3:] * 3]
    for name in STAGES:
        assert all(answer.seconds[name] > 0 for answer in answers)
    assert answers[0].seconds["decode"] == answers[2].seconds["decode"]


def test_questions_do_not_depend_on_each_other(asker, video):
    alone = asker.ask(video, "which came first", max_new_tokens=6)[0]
    other, together = asker.ask(video, ["what color is the circle?", "which came first"], max_new_tokens=6)
    assert alone.answer == together.answer
    assert alone.events == together.events
    np.testing.assert_array_equal(alone.rods_attention, together.rods_attention)
    assert (other.rods_attention != together.rods_attention).any()


def test_without_rods_there_is_no_attention(video):
    model = tiny.model(rods=False)
    asker = VideoAsker(model, tiny.processor(model.config, num_frames=12))
    answer = asker.ask(video, "which came first", max_new_tokens=2)[0]
    assert answer.rods_attention is None
    assert (answer.plan.rods_tokens, answer.plan.num_tokens) == (0, 30)
    assert answer.patches_per_frame == 16
    assert plot_answers([answer])


def test_key_frames_that_stand_for_no_event(video):
    model = tiny.model(selection="uniform")
    asker = VideoAsker(model, tiny.processor(model.config, num_frames=12))
    answer = asker.ask(video, "which came first", max_new_tokens=2)[0]
    places = [2, 6, 10]  # middles of thirds of 12 frames
    assert [key.frame for key in answer.key_frames] == answer.clip.frame_indices[places].tolist()
    assert [key.seconds for key in answer.key_frames] == answer.clip.timestamps[places].tolist()
    assert [key.event for key in answer.key_frames] == answer.assignment[places].tolist()
    key_events = {number for number, event in enumerate(answer.events) if event.is_key}
    assert key_events == set(answer.assignment[places].tolist())


def test_questions_asked_together_share_random_key_frames(video):
    model = tiny.model(selection="random")
    asker = VideoAsker(model, tiny.processor(model.config, num_frames=12))
    torch.manual_seed(0)
    asked = [asker.ask(video, ["which came first", "what shape is this"], max_new_tokens=2) for _ in range(5)]
    for first, second in asked:
        assert first.key_frames == second.key_frames
    assert len({tuple(key.frame for key in first.key_frames) for first, _ in asked}) > 1
    assert plot_answers(asked[0])


def test_json_has_plain_types(asker, video):
    answer = asker.ask(video, "which came first", max_new_tokens=2)[0]
    assert json.loads(json.dumps(answer.to_dict(), allow_nan=False)) == answer.to_dict()


def test_long_videos_keep_to_the_budget(tmp_path):
    """More frames than the token budget pays for: fewer are read."""
    model = tiny.model(max_visual_tokens=60)
    asker = VideoAsker(model, tiny.processor(model.config, fps=30.0))
    answer = asker.ask(write_video(tmp_path / "a.mp4", 90), "which came first", max_new_tokens=2)[0]
    assert answer.plan.num_tokens <= 60
    assert answer.plan.num_frames == asker.processor.max_sampled_frames() == len(answer.clip.frames) < 90


@pytest.mark.parametrize(
    "questions, options, complaint",
    [
        ("", {}, "the question is empty"),
        (["which came first", " \n"], {}, "the question is empty"),
        ([], {}, "there is no question"),
        ("what is a <video> ?", {}, "the question holds '<video>', which in a prompt stands for the pictures"),
        (["circle", "an <image>"], {}, "the question holds '<image>', which in a prompt stands for the pictures"),
        ("circle \udcff", {}, r"the question 'circle \\udcff' is not Unicode text"),
        ("circle " * 50, {}, "the question has 52 tokens but the model's Q-Former takes at most 40"),
        ("circle", {"max_new_tokens": 450}, "the language model takes at most 512"),
    ],
)
def test_bad_questions(asker, video, questions, options, complaint):
    with pytest.raises(DynFocusError, match=complaint):
        asker.ask(video, questions, **options)


def test_dtype(model_directory, video):
    model, processor = load_model(model_directory, device="cpu", dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    answer = VideoAsker(model, processor).ask(video, "which came first", max_new_tokens=2)[0]
    assert answer.rods_attention.dtype == np.float32


def test_bad_device(model_directory):
    for device in ("tpu9", "cuda:99"):
        with pytest.raises(DynFocusError, match=f"device '{device}' cannot be used: ."):
            load_model(model_directory, device=device)
