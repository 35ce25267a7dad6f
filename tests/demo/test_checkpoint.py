"""The embedded checkpoint: small, complete, and right about videos it has never seen."""

import pytest

from dynfocus.demo.questions import KINDS
from dynfocus.demo.scenes import encode, random_scene, render
from dynfocus.demo.training_videos import read_back
from dynfocus.evaluation.demo import evaluate
from dynfocus.loading import embedded_model, load_model


def test_it_fits_into_the_package():
    files = [path for path in embedded_model().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 6e6
    assert "dynfocus train demo --seed" in (embedded_model() / "README.md").read_text()


def test_it_is_a_whole_model_of_real_components():
    model, processor = load_model()
    names = [type(part).__name__ for part in (model.vision_tower, model.qformer, model.connector, model.language_model)]
    assert names == ["InstructBlipVisionModel", "InstructBlipQFormerModel", "DynFocusConnector", "LlamaForCausalLM"]
    assert processor.video_processor.num_frames >= 32


def test_it_answers_unseen_videos():
    result = evaluate(pairs=200, seed=12, show=False)
    assert result.num_frames >= 32
    assert result.accuracy() >= 0.95
    for kind in KINDS:
        assert result.accuracy(kind) >= 0.9 > result.blind_accuracy(kind) + 0.3
    assert len(set(result.answers)) > len(set(result.blind_answers))


def test_it_looks_closely_where_something_happens():
    """The scorer learnt it from the answers alone: a third of the frames show an object, all key frames must."""
    model, processor = load_model()
    scenes = [random_scene("test", 1, index) for index in range(12)]
    videos = read_back(scenes, processor.video_processor, threads=1)
    shown = []
    for frames, color in zip(videos.pixels, videos.color, strict=True):
        inputs = processor(text="<video>", videos=frames, questions="What shape is the red object?")
        visual = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
        key_frames = model.get_video_features(**visual).key_frames[0]
        shown += (color[key_frames] > 0).tolist()
    assert sum(shown) >= 0.95 * len(shown)
    assert (videos.color > 0).mean() < 0.5


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
