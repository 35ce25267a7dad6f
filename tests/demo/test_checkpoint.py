"""The embedded checkpoint: small, complete, and right about videos it has never seen."""

import numpy as np
import pytest

from dynfocus.demo.questions import ABILITIES
from dynfocus.demo.rendering import encode, render
from dynfocus.demo.scenes import Shape, random_scene
from dynfocus.evaluation.demo import encoded_videos, evaluate
from dynfocus.loading import embedded_model, load_model

# Of its answers to questions of all kinds, and of how much more than the question alone those get that ask for an eye
# on detail or on time.
ACCURACY = 0.65
ABOVE_BLIND = {"detail": 0.2, "time": 0.2}
# How many times as often as events drawn at random its key events show something small.
CLOSER_LOOK = 1.5


def test_it_fits_into_the_package():
    files = [path for path in embedded_model().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 6e6
    assert "dynfocus train demo --seed" in (embedded_model() / "README.md").read_text()


def test_it_is_a_whole_model_of_real_components():
    model, processor = load_model()
    names = [type(part).__name__ for part in (model.vision_tower, model.qformer, model.connector, model.language_model)]
    assert names == ["InstructBlipVisionModel", "InstructBlipQFormerModel", "DynFocusConnector", "LlamaForCausalLM"]
    assert processor.video_processor.num_frames == 64
    assert (model.config.vision_config.image_size, model.config.vision_config.patch_size) == (96, 8)
    assert processor.plan(64).num_key_frames < 16  # detail is scarce: the scorer has to choose


@pytest.mark.slow
def test_it_answers_unseen_videos():
    result = evaluate(videos=50, seed=12, show=False)
    assert result.num_frames == 64
    assert result.accuracy() >= ACCURACY
    for ability, margin in ABOVE_BLIND.items():
        kinds = [kind for kind, each in ABILITIES.items() if each == ability]
        assert result.accuracy(*kinds) >= result.blind_accuracy(*kinds) + margin, ability


def test_it_looks_closely_where_something_small_is_shown():
    """The scorer learnt it from the answers alone."""
    model, processor = load_model()
    scenes = [random_scene("test", 1, index) for index in range(16)]
    chosen, events = [], []
    for video, scene in zip(encoded_videos(model, processor, scenes), scenes, strict=True):
        frames = (video["frame_timestamps"] * scene.fps).round().long()
        small = np.array([_shows_something_small(scene, int(frame)) for frame in frames])
        inputs = processor(text="<video>", videos=[video], questions="How many dots are there?")
        visual = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
        found = model.get_video_features(**visual)
        assert set(found.key_frames[0].tolist()) < set(found.event_frames[0].tolist())
        chosen += small[found.key_frames[0]].tolist()
        events += small[found.event_frames[0]].tolist()
    assert np.mean(events) > 0.1  # small things are events of their own at all
    assert np.mean(chosen) >= CLOSER_LOOK * np.mean(events)


def _shows_something_small(scene, frame):
    event = scene.event_at(frame)
    return event is not None and not isinstance(event, Shape)


@pytest.mark.parametrize("question", ["What colour is the zebra, 日?", "Describe this video in detail please."])
def test_other_questions_get_some_answer(question, tmp_path):
    encode(render(random_scene("test", 0, 0)), tmp_path / "scene.mp4")
    model, processor = load_model()
    content = [{"type": "video", "video": str(tmp_path / "scene.mp4")}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    output = model.generate(**inputs, max_new_tokens=16)
    assert processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
