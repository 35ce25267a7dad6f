"""From annotation files to batches: labels, truncation, questions per turn, mixtures, broken samples."""

import json

import numpy as np
import pytest
import torch

from dynfocus.errors import DynFocusError
from dynfocus.training.collation import TrainingCollator
from dynfocus.training.dataset import BrokenSamples, TrainingDataset
from dynfocus.training.encoding import IGNORED, SampleEncoder
from dynfocus.training.mixture import Mixture, Source, open_source
from dynfocus.training.recipe import DataSettings, SourceSettings
from dynfocus.training.samples import BrokenSample, PackedSamples, Sample, Turn, Visual, checked
from dynfocus.training.trainer import tower_calls, where_labelled, with_tower_calls
from tests.model import tiny
from tests.training import material

TURNS = (
    ("<image> what color is this?", "red circle"),
    ("which shape?", "circle"),
    ("what came first, the blue square or the red circle?", "the blue square"),
)


def settings(**changes):
    return DataSettings(sources=(SourceSettings("data.json"),), **{"max_tokens": 400, **changes})


def encode(media, *turns, visual="red.png", kind="image", processor=None, **changes):
    source = open_source(SourceSettings(str(media / "data.json"), media=str(media)))
    visuals = (Visual(kind, visual),) if visual else ()
    processor = processor or tiny.processor(num_frames=8)
    return SampleEncoder(processor, settings(**changes))(Sample("x", visuals, tuple(Turn(*t) for t in turns)), source)


def words(ids):
    return tiny.processor().tokenizer.decode(ids)


def learned(example):
    return words(example["labels"][example["labels"] != IGNORED])


def visual_tokens(example):
    return int((example["input_ids"] == tiny.config().video_token_id).sum())


def test_labels_are_the_answers_and_their_ends(media):
    example = encode(media, *TURNS)
    assert learned(example) == "red circle </s> circle </s> the blue square </s>"
    marked = example["labels"] != IGNORED
    assert torch.equal(example["labels"][marked], example["input_ids"][marked])


def test_every_question_has_visual_tokens_of_its_own_and_reaches_the_qformer(media):
    example = encode(media, *TURNS, visual="one.mp4", kind="video")
    assert example["num_frames"].tolist() == [8, 8, 8]
    assert len(example["pixel_values_videos"]) == 8  # the tower sees each frame once
    assert example["frame_index"].tolist() == [*range(8)] * 3
    plans = tiny.processor().plan(8, 128 // 3)
    assert visual_tokens(example) == 3 * plans.num_tokens
    asked = [tiny.qformer_tokenizer().decode(ids, skip_special_tokens=True) for ids in example["qformer_input_ids"]]
    assert asked == ["what color is this?", "which shape?", TURNS[2][0]]


def test_pixels_are_not_copied(media, monkeypatch):
    processor, pixels = tiny.processor(num_frames=8), []
    prepare = type(processor.video_processor).preprocess

    def preprocess(*args, **options):
        features = prepare(*args, **options)
        pixels.append(features["pixel_values_videos"].data_ptr())
        return features

    monkeypatch.setattr(type(processor.video_processor), "preprocess", preprocess)
    example = encode(media, *TURNS, visual="one.mp4", kind="video", processor=processor)
    assert pixels == [example["pixel_values_videos"].data_ptr()]


def test_visual_tokens_for_the_first_question_alone(media):
    example = encode(media, *TURNS, visual_turns="first")
    assert example["num_frames"].tolist() == [1]
    assert len(example["qformer_input_ids"]) == 1
    assert learned(example) == "red circle </s> circle </s> the blue square </s>"


def test_captions_hide_the_question_from_the_language_model(media):
    example = encode(media, TURNS[0], prompt="caption")
    placeholder = tiny.config().video_token_id
    assert words(example["input_ids"][example["input_ids"] != placeholder]) == "red circle </s>"
    assert example["input_ids"][: visual_tokens(example)].eq(placeholder).all()
    assert example["qformer_input_ids"].shape[0] == 1


def test_whole_turns_are_cut_after_the_visuals_have_their_tokens(media):
    whole = encode(media, *TURNS, max_visual_tokens=40)
    for length in (len(whole["input_ids"]) - 1, 80):
        cut = encode(media, *TURNS, max_visual_tokens=40, max_tokens=length)
        assert len(cut["input_ids"]) <= length < len(whole["input_ids"])
        assert len(cut["num_frames"]) < 3 and visual_tokens(cut) == 12 * len(cut["num_frames"])
        assert learned(cut).startswith("red circle </s>")


def test_the_last_turn_is_cut_within_its_answer(media):
    turn = (TURNS[0][0], "red circle " * 200)
    cut = encode(media, turn, max_tokens=150)
    assert len(cut["input_ids"]) == 150 and visual_tokens(cut) == 12
    assert set(learned(cut).split()) == {"red", "circle"}


def test_a_question_without_room_for_its_answer_is_broken(media):
    with pytest.raises(BrokenSample, match="no room for an answer in 150 tokens"):
        encode(media, (TURNS[0][0] + " what color is this?" * 60, "red"), max_tokens=150)


def test_more_turns_than_the_budget_pays_for_are_left_out(media):
    """128 visual tokens, at least 8 for each: with sixteen turns every visual has its least."""
    example = encode(media, *TURNS, *[("which shape?", "circle")] * 30, max_tokens=2000)
    assert len(example["num_frames"]) == 128 // 12
    assert visual_tokens(example) <= 128


@pytest.mark.parametrize("variant, cost", [({"rods": False}, 10), ({"cones": "none"}, 2), ({"cones": "average"}, 4)])
def test_as_many_questions_as_the_visual_tokens_pay_for(media, variant, cost):
    processor = tiny.processor(tiny.config(max_visual_tokens=80, **variant), num_frames=8)
    example = encode(
        media, *[("<image> which shape?", "circle")], *TURNS[1:] * 30, processor=processor, max_tokens=2000
    )
    assert len(example["num_frames"]) == 80 // cost
    assert visual_tokens(example) == 80


def test_max_turns(media):
    assert learned(encode(media, *TURNS, max_turns=2)) == "red circle </s> circle </s>"


def test_text_alone(media):
    example = encode(media, ("what is a square?", "this shape"), visual=None)
    assert set(example) == {"input_ids", "labels"}
    assert learned(example) == "this shape </s>"


def test_sampling_of_a_recipe(media):
    assert encode(media, TURNS[0], visual="one.mp4", kind="video", num_frames=5)["num_frames"].tolist() == [5]
    # twenty frames at eight a second
    assert encode(media, TURNS[0], visual="one.mp4", kind="video", fps=4.0)["num_frames"].tolist() == [10]
    assert encode(media, TURNS[0], visual="one.mp4", kind="video", fps=4.0, max_frames=7)["num_frames"].tolist() == [7]


def test_a_budget_that_leaves_no_room_for_words_is_refused():
    with pytest.raises(DynFocusError, match=r"max_tokens is 128 but must be more than .*max_visual_tokens, now 128"):
        SampleEncoder(tiny.processor(), settings(max_tokens=128))
    SampleEncoder(tiny.processor(), settings(max_tokens=128, max_visual_tokens=100))


@pytest.mark.parametrize(
    "sample, reason",
    [
        (Sample("a", (), ()), "no question"),
        (Sample("a", (), (Turn(" ", "x"),)), "question 1 is empty"),
        (Sample("a", (), (Turn("x", ""),)), "answer 1 is empty"),
        (Sample("a", (), (Turn("<image> x", "y"),)), "shows 1 visuals but it has 0"),
        (Sample("a", (Visual("image", "b"),), (Turn("x", "a <video>"),)), "answer 1 holds <video>"),
        (Sample("a", (Visual("image", "b"),), (Turn("x", "y"), Turn("<image> x", "y"))), "question 2 holds <image>"),
    ],
)
def test_malformed_samples(sample, reason):
    with pytest.raises(BrokenSample, match=reason):
        checked(sample)


def test_a_missing_placeholder_comes_first():
    turns = (Turn("x", "y"),)
    assert checked(Sample("a", (Visual("video", "b"),), turns)).turns[0].question == "<video>\nx"


def test_batches_pad_on_the_right_and_pack_visuals(media):
    collate = TrainingCollator(tiny.processor())
    examples = [encode(media, *TURNS[:2]), encode(media, ("which shape?", "circle"), visual=None)]
    batch = collate(examples)
    for row, example in enumerate(examples):
        length = len(example["input_ids"])
        assert torch.equal(batch["input_ids"][row, :length], example["input_ids"])
        assert torch.equal(batch["labels"][row, :length], example["labels"])
        assert (batch["labels"][row, length:] == IGNORED).all()
    assert batch["num_frames"].tolist() == [1, 1] and batch["frame_index"].tolist() == [0, 0]


def test_neither_a_mask_nor_logits_elsewhere_change_the_loss(media):
    examples = [encode(media, *TURNS), encode(media, ("which shape?", "circle"), visual=None)]
    batch, model = TrainingCollator(tiny.processor())(examples), tiny.model()
    kept = where_labelled(batch["labels"])
    lean = model(**batch, **kept)
    lengths = torch.tensor([[len(example["input_ids"])] for example in examples])
    mask = torch.arange(batch["labels"].shape[1]) < lengths
    full = model(**batch, attention_mask=mask.long())
    torch.testing.assert_close(lean.loss, full.loss)
    torch.testing.assert_close(lean.logits[0], full.logits[0, kept["logits_to_keep"]])
    learned = [int((example["labels"] != IGNORED).sum()) for example in examples]
    assert (kept["shift_labels"] != IGNORED).sum(1).tolist() == learned
    assert lean.logits.shape[1] <= sum(learned) < full.logits.shape[1]


def test_shared_frames_give_what_copies_give(media):
    collate = TrainingCollator(tiny.processor())
    examples = [encode(media, *TURNS), encode(media, *TURNS[:2], visual="one.mp4", kind="video")]
    batch, model = collate(examples), tiny.model()
    assert len(batch["pixel_values_videos"]) == 1 + 8
    copied = dict(batch)
    copied["pixel_values_videos"] = batch["pixel_values_videos"][copied.pop("frame_index")]
    assert len(copied["pixel_values_videos"]) == 3 + 16
    torch.testing.assert_close(model(**batch).loss, model(**copied).loss)


def test_more_calls_of_the_tower_change_nothing(media):
    """Chunks of 5 frames: 1 image is one call, and becomes three."""
    model = tiny.model()
    batch = TrainingCollator(tiny.processor())([encode(media, *TURNS)])
    assert tower_calls(model, batch) == 1
    more = with_tower_calls(model, batch, 3)
    assert tower_calls(model, more) == 3 and len(more["pixel_values_videos"]) == 11
    torch.testing.assert_close(model(**more).loss, model(**batch).loss)
    assert with_tower_calls(model, batch, 1) is batch


def test_a_batch_of_text_gives_every_module_a_gradient_of_zero(media):
    model = tiny.model().train()
    example = encode(media, ("which shape?", "circle"), visual=None)
    batch = TrainingCollator(tiny.processor())([example])
    loss = model(**batch).loss
    loss.backward()
    text = {name: example[name][None] for name in ("input_ids", "labels")}
    torch.testing.assert_close(loss, model(**text).loss)
    for name, parameter in model.connector.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name
    assert any(parameter.grad.any() for parameter in model.language_model.parameters())


def source(size, name="a", weight=1.0):
    samples = PackedSamples(Sample(f"{name}{i}", (), (Turn("which shape?", "circle"),)) for i in range(size))
    return Source(name, None, samples, (), weight)


def test_packed_samples_are_what_went_in():
    samples = [Sample("ä", (Visual("image", "b"),), (Turn("x\n", "y"), Turn("z", "ß"))), Sample("b", (), ())]
    packed = PackedSamples(samples)
    assert list(packed) == samples
    assert packed[1] == samples[1]


def test_weights_say_how_often_a_sample_is_seen():
    mixture = Mixture([source(10), source(8, "b", 0.5), source(4, "c", 2.5)])
    seen = [mixture.locate(index) for index in range(len(mixture))]
    times = [np.bincount([entry for number, entry in seen if number == wanted]) for wanted in range(3)]
    assert sorted(times[0]) == [1] * 10
    assert times[1].sum() == 4 and times[1].max() == 1
    assert sorted(times[2]) == [2, 2, 3, 3]
    again = Mixture(mixture.sources)
    assert [again.locate(index) for index in range(len(mixture))] == seen


def broken_dataset(media, tmp_path):
    opened = open_source(SourceSettings(str(media / "broken.json"), media=str(media)))
    broken = BrokenSamples(tmp_path / "broken.jsonl")
    return TrainingDataset(Mixture([opened]), SampleEncoder(tiny.processor(num_frames=8), settings()), broken)


def test_a_broken_sample_is_replaced_counted_and_named(media, tmp_path):
    dataset = broken_dataset(media, tmp_path)
    for _ in range(2):
        assert all("labels" in dataset[index] for index in range(len(dataset)))
    assert dataset.broken.count() == 1
    (record,) = dataset.broken
    assert (record["source"], record["entry"], record["id"]) == (str(media / "broken.json"), 4, "no-video.mp4")
    assert "no-video.mp4" in record["reason"]


def test_workers_name_broken_samples_too(media, tmp_path):
    dataset = broken_dataset(media, tmp_path)
    loader = torch.utils.data.DataLoader(dataset, 1, num_workers=2, collate_fn=TrainingCollator(tiny.processor()))
    assert len(list(loader)) == len(dataset)
    assert dataset.broken.count() == 1


def test_a_source_that_is_broken_throughout_ends_the_run(media, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    material.write_annotations(folder, [material.IMAGE] * 5)
    opened = open_source(SourceSettings(str(folder / "data.json"), media=str(folder)))
    broken = BrokenSamples(tmp_path / "broken.jsonl")
    dataset = TrainingDataset(Mixture([opened]), SampleEncoder(tiny.processor(), settings()), broken, max_broken=3)
    with pytest.raises(DynFocusError, match=r"3 samples of .* in a row are broken, .*red.png: no such file"):
        dataset[0]
    assert broken.count() == 3


@pytest.mark.parametrize("written", ["", "{", "{}", "[]", '["x"]'])
def test_unusable_annotations_are_refused(tmp_path, written):
    (tmp_path / "data.json").write_text(written)
    with pytest.raises(DynFocusError, match=r"data\.json"):
        open_source(SourceSettings(str(tmp_path / "data.json"), media=str(tmp_path)))


def test_missing_files_are_named(tmp_path, media):
    with pytest.raises(DynFocusError, match=r"missing\.json: no such file"):
        open_source(SourceSettings(str(tmp_path / "missing.json")))
    with pytest.raises(DynFocusError, match="nowhere: no such folder"):
        open_source(SourceSettings(str(media / "data.json"), media=str(tmp_path / "nowhere")))


def test_json_lines_with_a_broken_line(tmp_path):
    lines = [json.dumps(material.TEXT), "{", json.dumps(material.TEXT)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    opened = open_source(SourceSettings(str(tmp_path / "data.jsonl"), media=str(tmp_path)))
    assert len(opened.samples) == 2
    assert [entry for entry, _ in opened.broken] == [1]
