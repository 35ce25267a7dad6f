"""Processor and video processor: placeholders, budgets, questions, sampling, saving."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, BatchFeature

from dynfocus import DynFocusVideoProcessor
from dynfocus.chat_templates import CHATML
from dynfocus.errors import DynFocusError
from dynfocus.video_reading import VideoClip
from tests.model import tiny

VIDEO_TOKEN = tiny.config().video_token_id


def video(num_frames, height=40, width=48):
    ramp = np.arange(num_frames, dtype=np.uint8)[:, None, None, None]
    return np.broadcast_to(ramp, (num_frames, height, width, 3)).copy()


def clip(num_frames):
    return VideoClip(
        frames=video(num_frames),
        timestamps=np.arange(num_frames) / 4,
        frame_indices=np.arange(num_frames),
        duration=num_frames / 4,
        total_frames=num_frames,
        fps=4.0,
        frames_lost=0,
        frames_damaged=0,
        path="clip",
    )


def user(*parts):
    return [{"role": "user", "content": list(parts)}]


def text_part(text):
    return {"type": "text", "text": text}


def test_chat_template_makes_model_inputs():
    processor = tiny.processor()
    conversation = user({"type": "video", "video": clip(12)}, text_part("What color is the circle?"))
    inputs = processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=True, return_dict=True)
    plan = processor.plan(12)
    assert int((inputs["input_ids"] == VIDEO_TOKEN).sum()) == plan.num_tokens
    assert inputs["num_frames"].tolist() == [12]
    question = processor.qformer_tokenizer.decode(inputs["qformer_input_ids"][0], skip_special_tokens=True)
    assert question == "what color is the circle?"
    rendered = processor.apply_chat_template(conversation, add_generation_prompt=True)
    assert rendered.endswith("USER: <video>\nWhat color is the circle? ASSISTANT:")


def test_the_question_is_the_users_last_turn():
    processor = tiny.processor()
    conversation = [
        *user({"type": "video", "video": clip(4)}, text_part("what shape?")),
        {"role": "assistant", "content": "square"},
        {"role": "user", "content": "what color?"},
    ]
    inputs = processor.apply_chat_template(conversation, tokenize=True, return_dict=True)
    assert processor.qformer_tokenizer.decode(inputs["qformer_input_ids"][0], skip_special_tokens=True) == "what color?"
    assert "square</s>" in processor.apply_chat_template(conversation)


def test_chatml_template():
    processor = tiny.processor()
    rendered = processor.apply_chat_template(
        user({"type": "image", "image": "x"}, text_part("shape?")), chat_template=CHATML, add_generation_prompt=True
    )
    assert rendered == "<|im_start|>user\n<image>\nshape?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("auto", [False, True])
def test_save_and_load(tmp_path, auto):
    processor = tiny.processor(max_frames=17, num_frames=11)
    processor.save_pretrained(tmp_path)
    loaded = (AutoProcessor if auto else type(processor)).from_pretrained(tmp_path)
    assert type(loaded) is type(processor)
    arguments = {"text": "USER: <video> what? ASSISTANT:", "videos": clip(30), "questions": "what?"}
    first, second = processor(**arguments), loaded(**arguments)
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    assert loaded.plan(11) == processor.plan(11) and loaded.chat_template == processor.chat_template


def test_a_processor_saved_before_rods_could_be_left_out_counts_them(tmp_path):
    processor = tiny.processor()
    processor.save_pretrained(tmp_path)
    file = tmp_path / "processor_config.json"
    saved = json.loads(file.read_text())
    assert saved.pop("rods_tokens") == 2
    file.write_text(json.dumps(saved))
    assert type(processor).from_pretrained(tmp_path).plan(11) == processor.plan(11)


@pytest.mark.parametrize(
    "variant, frames, tokens",
    [
        ({"rods": False}, [40, 40], 60),
        ({"rods": False, "cones": "average"}, [40, 40], 12),
        ({"cones": "none"}, [15] * 2, 60),
    ],
)
def test_placeholders_without_rods_or_cones(variant, frames, tokens):
    """30 tokens for each of two videos: three key frames of ten or two tokens, or fifteen frames' rods."""
    processor = tiny.processor(tiny.config(max_visual_tokens=60, **variant), fps=None, max_frames=40)
    inputs = processor(text="<video> <video> what?", videos=[clip(200), clip(200)], questions="what?")
    assert inputs["num_frames"].tolist() == frames
    assert int((inputs["input_ids"] == VIDEO_TOKEN).sum()) == tokens


@pytest.mark.parametrize("variant, least", [({}, 12), ({"rods": False}, 10), ({"cones": "none"}, 2)])
def test_a_budget_below_one_frame(variant, least):
    processor = tiny.processor(tiny.config(max_visual_tokens=2 * least - 1, **variant))
    with pytest.raises(DynFocusError, match=f"must be at least {least} for each"):
        processor(text="<video> <video> what?", videos=[clip(9), clip(9)], questions="what?")


def test_rods_have_two_tokens_or_none():
    processor = tiny.processor()
    with pytest.raises(ValueError, match="rods_tokens is 1 but must be 2, or 0 without rods"):
        type(processor)(processor.video_processor, processor.tokenizer, processor.qformer_tokenizer, rods_tokens=1)


def test_budget_is_shared_by_the_videos_of_a_sample():
    processor = tiny.processor(tiny.config(max_visual_tokens=60), fps=None)
    inputs = processor(text="<video> <video> what?", videos=[clip(200), clip(200)], questions="what?")
    assert inputs["num_frames"].tolist() == [7, 7]  # half of 30 tokens each, two a frame
    assert int((inputs["input_ids"] == VIDEO_TOKEN).sum()) <= 60
    assert inputs["visual_token_budget"].tolist() == [30, 30]


def test_images_and_videos_keep_the_order_of_their_placeholders():
    processor = tiny.processor()
    image = Image.fromarray(video(9)[8])
    inputs = processor(
        text=["<video> <image> what?", "<image> what?"],
        videos=[[clip(3)], []],
        images=[[image], [np.asarray(image)]],
        questions=["what?", "what?"],
    )
    assert inputs["num_frames"].tolist() == [3, 1, 1]
    assert torch.equal(inputs["pixel_values_videos"][3], inputs["pixel_values_videos"][4])


def test_a_question_per_visual():
    processor = tiny.processor()
    inputs = processor(text="<video> <video>", videos=[clip(3), clip(3)], questions=[["what color?", "what shape?"]])
    decoded = processor.qformer_tokenizer.batch_decode(inputs["qformer_input_ids"], skip_special_tokens=True)
    assert decoded == ["what color?", "what shape?"]


def test_without_questions_the_prompt_is_asked():
    processor = tiny.processor()
    inputs = processor(text="<video>\nwhat color?", videos=clip(3))
    assert processor.qformer_tokenizer.decode(inputs["qformer_input_ids"][0], skip_special_tokens=True) == "what color?"


def test_overlong_question():
    processor = tiny.processor()
    long = " ".join(["red"] * 50 + ["blue"])
    with pytest.raises(ValueError, match="the question has 53 tokens but must have at most 40"):
        processor(text="<video> what?", videos=clip(3), questions=long)
    ids = processor(text="<video> what?", videos=clip(3), questions=long, truncate_questions=True)["qformer_input_ids"]
    assert ids.shape[1] == 40
    assert processor.qformer_tokenizer.decode(ids[0], skip_special_tokens=True).endswith("red blue"), "its end is kept"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"text": "what?", "videos": "a.mp4"}, "text has 0 <video> but 1 videos were given"),
        ({"text": "<video> <video>", "videos": "a.mp4"}, "text has 2 <video> but 1 videos"),
        ({"text": "<image>"}, "text has 1 <image> but 0 images"),
        ({"text": "<video>", "videos": clip(2), "questions": "  "}, "empty question"),
        ({"text": "<video>", "videos": clip(2)}, "empty question"),
        ({"text": "<video>", "videos": clip(2), "questions": ["a", "b"]}, "questions has 2 entries"),
        ({"text": "<video>", "videos": clip(2), "questions": [["a", "b"]]}, "it must have one each"),
        ({"text": "<video>" * 11, "videos": [clip(2)] * 11, "questions": "a"}, "must be at least 12 for each"),
        ({"text": "<video>", "videos": clip(2), "questions": "a", "video_metadata": [{}, {}]}, "video_metadata has 2"),
        ({"text": "what?", "audio": "a.wav"}, "does not hear"),
        ({"videos": "a.mp4"}, "text must be given"),
    ],
    ids=str,
)
def test_mismatches_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny.processor()(**arguments)


def test_pixels_are_normalised_and_whole():
    processor = DynFocusVideoProcessor(size={"height": 8, "width": 8}, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    frames = np.full((2, 20, 30, 3), 51, dtype=np.uint8)
    pixels = processor(frames)["pixel_values_videos"]
    assert pixels.shape == (2, 3, 8, 8)
    torch.testing.assert_close(pixels, torch.full_like(pixels, (51 / 255 - 0.5) / 0.25))


def test_downscaling_does_not_alias():
    """A one-pixel chequerboard becomes its mean, which only an antialiased resize gives."""
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[None, :, :, None].repeat(3, -1)
    processor = DynFocusVideoProcessor(size={"height": 16, "width": 16}, image_mean=[0.5] * 3, image_std=[1.0] * 3)
    assert processor(board)["pixel_values_videos"].abs().max() < 0.05


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"num_frames": 4}, [1.25, 3.75, 6.25, 8.75]),
        ({"fps": 1.0, "min_frames": 1}, list(range(10))),
        ({"fps": 1.0, "max_frames": 5}, [1.0, 3.0, 5.0, 7.0, 9.0]),
        ({"fps": 0.1, "min_frames": 2}, [2.5, 7.5]),
    ],
    ids=str,
)
def test_arrays_are_sampled_by_their_clock(settings, expected):
    processor = DynFocusVideoProcessor(size={"height": 8, "width": 8})
    result = processor(video(40), video_metadata={"fps": 4.0}, **settings)
    assert result["frame_timestamps"].tolist() == expected
    level = result["pixel_values_videos"][:, 0, 0, 0] * processor.image_std[0] + processor.image_mean[0]
    torch.testing.assert_close((level * 255).round(), torch.tensor(expected).float() * 4)


def test_arrays_without_a_clock_have_no_timestamps():
    result = DynFocusVideoProcessor(size={"height": 8, "width": 8})(torch.from_numpy(video(20)))
    assert result["num_frames"].tolist() == [20] and result["frame_timestamps"].isnan().all()


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 8, 3), np.float32), np.zeros((0, 8, 8, 3), np.uint8)]
)
def test_wrong_frames_are_named(bad):
    with pytest.raises(ValueError, match=r"must be uint8 \[T, H, W, 3\]"):
        DynFocusVideoProcessor()([bad])


def test_settings_may_be_nested_as_in_transformers():
    arguments = {"text": "<video>", "videos": video(30), "questions": "a"}
    nested = tiny.processor()(**arguments, videos_kwargs={"num_frames": 3}, text_kwargs={"add_special_tokens": False})
    assert nested["num_frames"].tolist() == [3]


def test_unknown_arguments_are_named():
    with pytest.raises(TypeError, match=r"unknown arguments \['fpss'\]"):
        tiny.processor()(text="<video>", videos=video(3), questions="a", fpss=3)


@pytest.mark.parametrize(
    "asked, frames", [({}, 12), ({"num_frames": 4}, 4), ({"max_frames": 5}, 5), ({"fps": 2.0}, 6)], ids=str
)
def test_a_clip_keeps_its_frames_unless_the_call_asks_for_less(asked, frames):
    processor = DynFocusVideoProcessor(size={"height": 8, "width": 8}, min_frames=1)
    assert processor(clip(12), **asked)["num_frames"].tolist() == [frames]


def test_a_video_may_be_a_list_of_pictures():
    pictures = [Image.fromarray(frame) for frame in video(6)]
    for given in (pictures, [pictures], [[pictures]]):
        inputs = tiny.processor()(text="<video>", videos=given, questions="a")
        assert inputs["num_frames"].tolist() == [6]


def test_a_prepared_video_is_taken_as_it_is():
    processor = tiny.processor()
    prepared = processor.video_processor(clip(9))
    once = processor(text="<video>", videos=prepared, questions="what?")
    plain = processor(text="<video>", videos=clip(9), questions="what?")
    assert all(torch.equal(once[name], plain[name]) for name in plain)
    assert once["pixel_values_videos"] is prepared["pixel_values_videos"]


def test_casting_spares_the_timestamps():
    inputs = tiny.processor()(text="<video>", videos=clip(3), questions="a")
    inputs["frame_timestamps"] += 1234.5
    cast = inputs.to("cpu", torch.bfloat16)
    assert cast["pixel_values_videos"].dtype == torch.bfloat16
    assert cast["frame_timestamps"].tolist() == [1234.5, 1234.75, 1235.0]


def test_a_prepared_video_may_have_features_or_nothing_in_place_of_pixels():
    processor = tiny.processor(num_frames=8)
    pixels = processor.video_processor(clip(9))
    counts = BatchFeature({name: pixels[name] for name in ("num_frames", "frame_timestamps")})
    features = BatchFeature({**counts, "video_features": torch.zeros(8, 17, 48)})
    for prepared, others in ((counts, set()), (features, {"video_features"})):
        inputs = processor(text="<video>", videos=prepared, questions="what?")
        assert set(processor.model_input_names) - set(inputs) <= {"pixel_values_videos"}
        assert set(inputs) - set(processor.model_input_names) == others
    with pytest.raises(ValueError, match=r"videos have .* but must have the same entries"):
        processor(text="<video> <video>", videos=[pixels, features], questions="what?")


def test_assistant_mask_marks_the_answer():
    processor = tiny.processor()
    conversation = [
        *user({"type": "video", "video": clip(4)}, {"type": "image", "image": video(1)[0]}, text_part("what color?")),
        {"role": "assistant", "content": "red square"},
        {"role": "user", "content": "what shape?"},
        {"role": "assistant", "content": "circle"},
    ]
    inputs = processor.apply_chat_template(
        conversation, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    marked = inputs["input_ids"][0][torch.as_tensor(inputs["assistant_masks"][0]).bool()]
    assert processor.tokenizer.decode(marked) == "red square </s> circle </s>"


def test_a_conversation_needs_a_user():
    with pytest.raises(ValueError, match="no turn of the role 'user'"):
        tiny.processor().apply_chat_template([{"role": "assistant", "content": "red"}], tokenize=True)


def test_unknown_settings_are_named():
    with pytest.raises(TypeError, match=r"unknown video settings \['frames'\]"):
        DynFocusVideoProcessor()(video(2), frames=3)
