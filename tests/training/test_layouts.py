"""Published layouts, each from a tiny file made here in its form."""

import csv
import json

import pytest

from dynfocus.errors import DynFocusError
from dynfocus.training.encoding import SampleEncoder
from dynfocus.training.mixture import open_source
from dynfocus.training.recipe import DataSettings, SourceSettings
from dynfocus.training.samples import Sample, Turn, Visual
from tests.model import tiny
from tests.training import material


def write_csv(file, columns, *rows):
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerows([columns, *rows])
    return file


def write_json(file, content):
    file.write_text(json.dumps(content))
    return file


def read(file, layout, media=None, videos=None):
    settings = SourceSettings(str(file), layout, str(media or file.parent), videos=videos and str(videos))
    return open_source(settings)


def test_llava_filter_cc3m(tmp_path):
    entry = {
        "id": "GCC_train_002582585",
        "image": "GCC_train_002582585.jpg",
        "conversations": [
            {"from": "human", "value": "Provide a brief description of the given image.\n<image>"},
            {"from": "gpt", "value": "olive oil is a healthy ingredient used liberally ."},
        ],
    }
    (sample,) = read(write_json(tmp_path / "chat.json", [entry]), "llava-filter-cc3m").samples
    question = "Provide a brief description of the given image.\n<image>"
    turns = (Turn(question, "olive oil is a healthy ingredient used liberally ."),)
    assert sample == Sample("GCC_train_002582585", (Visual("image", "GCC_train_002582585.jpg"),), turns)


def test_llava_665k_with_text_alone(tmp_path):
    said = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    picture = {"id": "000000033471", "image": "coco/train2017/000000033471.jpg", "conversations": said * 2}
    text = {"id": "wgByO4Y_0", "model": "", "conversations": said}
    wrong = {"id": "x", "conversations": said[:1]}
    source = read(write_json(tmp_path / "mix.json", [picture, text, wrong, {"id": "y"}]), "llava-665k")
    first, second = source.samples
    assert first.visuals == (Visual("image", "coco/train2017/000000033471.jpg"),) and len(first.turns) == 2
    assert second == Sample("wgByO4Y_0", (), (Turn("Hi", "Hello"),))
    assert source.broken == (
        (2, "its speakers are human but must be human and gpt in turn"),
        (3, "it has no 'conversations'"),
    )


def test_webvid(tmp_path):
    columns = ["videoid", "contentUrl", "duration", "page_dir", "name"]
    row = ["1058234725", "https://example/x.mp4", "PT00H00M16S", "006001_006050", "Aerial view of a lake"]
    (sample,) = read(write_csv(tmp_path / "results_2M_train.csv", columns, row), "webvid").samples
    assert sample.visuals == (Visual("video", "006001_006050/1058234725.mp4"),)
    assert sample.turns[0].answer == "Aerial view of a lake"


def test_scienceqa(tmp_path):
    problem = {
        "question": "Which is a mammal?",
        "choices": ["trout", "bat"],
        "answer": 1,
        "hint": "Look.",
        "image": "image.png",
    }
    problems = {
        "1": {**problem, "split": "train"},
        "2": {**problem, "split": "test"},
        "3": {**problem, "split": "train", "image": None, "hint": ""},
        "4": {**problem, "split": "train", "answer": 7},
    }
    source = read(write_json(tmp_path / "problems.json", problems), "scienceqa")
    first, second = source.samples
    assert first.visuals == (Visual("image", "train/1/image.png"),)
    assert first.turns == (Turn("Context: Look.\nWhich is a mammal?\nOptions: (A) trout (B) bat", "B"),)
    assert second.visuals == () and second.turns[0].question.startswith("Which")
    assert "index of one of 2 choices" in source.broken[0][1]


def test_videochatgpt(tmp_path, media):
    entry = {"q": "What happens?", "a": "A man runs.", "video_id": "one"}
    source = read(write_json(tmp_path / "VideoInstruct100K.json", [entry]), "videochatgpt", media)
    (sample,) = source.samples
    assert sample == Sample("one", (Visual("video", "one"),), (Turn("What happens?", "A man runs."),))
    assert source.media_file("one") == media / "one.mp4"  # ActivityNet's videos have several extensions


CHOICES = ["a0", "a1", "a2", "a3", "a4"]


def test_nextqa_multiple_choice(tmp_path):
    columns = ["video", "frame_count", "width", "height", "question", "answer", "qid", "type", *CHOICES]
    row = [
        "4882821564",
        "800",
        "640",
        "480",
        "why did the boy jump",
        "1",
        "6",
        "CW",
        "cold",
        "happy",
        "sad",
        "hot",
        "wet",
    ]
    places = write_json(tmp_path / "map_vid_vidorID.json", {"4882821564": "1164/4882821564"})
    (sample,) = read(write_csv(tmp_path / "train.csv", columns, row), "nextqa", videos=places).samples
    asked = "why did the boy jump?\nOptions: (A) cold (B) happy (C) sad (D) hot (E) wet"
    visuals = (Visual("video", "1164/4882821564.mp4"),)
    assert sample == Sample("4882821564/6", visuals, (Turn(asked, "B"),))


def test_nextqa_open_ended(tmp_path):
    columns = ["video", "question", "answer", "qid", "type"]
    file = write_csv(tmp_path / "train.csv", columns, ["4882821564", "what did he do?", "jump", "6", "CW"])
    (sample,) = read(file, "nextqa").samples
    assert (sample.visuals[0].path, sample.turns) == ("4882821564.mp4", (Turn("what did he do?", "jump"),))


def test_clevrer(tmp_path):
    questions = [
        {"question_id": 0, "question": "What shape enters?", "question_type": "descriptive", "answer": "cube"},
        {
            "question_id": 1,
            "question": "Which is responsible?",
            "question_type": "explanatory",
            "choices": [
                {"choice_id": 0, "choice": "the cube", "answer": "wrong"},
                {"choice_id": 1, "choice": "the ball", "answer": "correct"},
            ],
        },
    ]
    entry = {"scene_index": 10123, "video_filename": "video_10123.mp4", "questions": questions}
    first, second = read(write_json(tmp_path / "train.json", [entry]), "clevrer").samples
    assert first.visuals == second.visuals == (Visual("video", "video_10000-11000/video_10123.mp4"),)
    assert (first.id, second.id) == ("video_10123/0", "video_10123/1")
    options = "Which is responsible?\nOptions: (A) the cube (B) the ball\nName all that are right."
    assert (*first.turns, *second.turns) == (Turn("What shape enters?", "cube"), Turn(options, "B"))


def test_a_published_sample_becomes_tokens(tmp_path, media):
    """From CSV to labels."""
    columns = ["videoid", "page_dir", "name"]
    source = read(write_csv(tmp_path / "w.csv", columns, ["one", "", "red circle"]), "webvid", media)
    settings = DataSettings(sources=(SourceSettings("w.csv"),), max_tokens=300, prompt="caption")
    example = SampleEncoder(tiny.processor(num_frames=8), settings)(source.samples[0], source)
    assert example["num_frames"].tolist() == [8]
    assert (example["labels"] >= 0).sum() == 3  # two words and their end


@pytest.mark.parametrize("layout", ["webvid", "nextqa"])
def test_a_missing_column_is_named(tmp_path, layout):
    with pytest.raises(DynFocusError, match="has no column"):
        read(write_csv(tmp_path / "a.csv", ["x"], ["y"]), layout)


@pytest.mark.parametrize("layout", ["scienceqa", "clevrer", "videochatgpt", "llava"])
def test_another_layouts_file_is_refused(tmp_path, layout):
    content = [{"other": 1}] if layout != "scienceqa" else {"1": {"other": 1}}
    with pytest.raises(DynFocusError, match=rf"no sample that layout '{layout}' can read; entry 0: it has no"):
        read(write_json(tmp_path / "a.json", content), layout)


def test_a_media_file_that_is_missing_is_named(media):
    source = read(media / "data.json", "llava")
    with pytest.raises(DynFocusError, match=r"three: no such file"):
        source.media_file("three")
    assert material.IMAGE["image"] == "red.png" and source.media_file("red.png").exists()
