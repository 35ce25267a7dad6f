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
    silent = {"id": "z", "conversations": [said[0], {"from": "gpt", "value": None}]}
    source = read(write_json(tmp_path / "mix.json", [picture, text, wrong, {"id": "y"}, silent]), "llava-665k")
    first, second = source.samples
    assert first.visuals == (Visual("image", "coco/train2017/000000033471.jpg"),) and len(first.turns) == 2
    assert second == Sample("wgByO4Y_0", (), (Turn("Hi", "Hello"),))
    assert source.broken == (
        (2, "its speakers are human but must be human and gpt in turn"),
        (3, "it has no 'conversations'"),
        (4, "what gpt says is no text"),
    )


def test_webvid(tmp_path):
    (tmp_path / "results_2M_train.csv").write_text(
        "videoid,name,page_idx,page_dir,duration,contentUrl\n"
        '1058234725,"Aerial view of a lake, autumn",6023,006001_006050,PT00H00M16S,https://example/lake.mp4\n'
        "6251156,A red heart,,,PT00H00M05S,https://example/heart.mp4\n"
    )
    source = read(tmp_path / "results_2M_train.csv", "webvid")
    (sample,) = source.samples
    assert sample.visuals == (Visual("video", "006001_006050/1058234725.mp4"),)
    assert sample.turns[0].answer == "Aerial view of a lake, autumn"
    assert source.broken == ((1, "it has no page_dir: WebVid itself has no video of it"),)


def test_scienceqa(tmp_path):
    problem = {
        "question": "Which is a mammal?",
        "choices": ["trout", "bat"],
        "answer": 1,
        "hint": "Look.",
        "image": "image.png",
        "task": "closed choice",
        "grade": "grade3",
        "subject": "natural science",
        "topic": "biology",
        "category": "Classification",
        "skill": "Identify mammals",
        "lecture": "Mammals have fur.",
        "solution": "A bat has fur.",
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


@pytest.mark.parametrize("extension", ["mp4", "mkv", "webm"])
def test_an_activitynet_id_finds_its_video_of_any_extension(tmp_path, extension):
    entry = {"q": "What happens?", "a": "A man runs.", "video_id": "v_-h3NbdE8N9M"}
    source = read(write_json(tmp_path / "VideoInstruct100K.json", [entry]), "videochatgpt")
    (tmp_path / f"v_-h3NbdE8N9M.{extension}").touch()
    assert source.media_file(source.samples[0].visuals[0].path).suffix == f".{extension}"


NEXT_QA = "video,frame_count,width,height,question,answer,qid,type"


def test_nextqa_multiple_choice(tmp_path):
    """The answer counts from 0, the map's places have no extension."""
    (tmp_path / "train.csv").write_text(
        f"{NEXT_QA},a0,a1,a2,a3,a4\n"
        "3098368505,2694,640,480,why did the boy jump,0,6,CW,cold,happy,sad,hot,wet\n"
        "3098368505,2694,640,480,how many boys are there,4,7,DC,one,two,three,four,five\n"
        "3098368505,2694,640,480,where is this,2,8,DL,park,,lake,room,road\n"
        "99,2694,640,480,where is this,2,8,DL,park,sea,lake,room,road\n"
        "3098368505,2694,640,480,where is this,lake,8,DL,park,sea,lake,room,road\n"
    )
    places = write_json(tmp_path / "map_vid_vidorID.json", {"3098368505": "0093/3098368505"})
    source = read(tmp_path / "train.csv", "nextqa", videos=places)
    first, second = source.samples
    asked = "why did the boy jump?\nOptions: (A) cold (B) happy (C) sad (D) hot (E) wet"
    assert first == Sample("3098368505/6", (Visual("video", "0093/3098368505.mp4"),), (Turn(asked, "A"),))
    assert second.turns[0].answer == "E"
    assert source.broken[:2] == ((2, "one of its choices is empty"), (3, "the map of videos has no 99"))
    assert source.broken[2][0] == 4 and "it is not written as this layout is" in source.broken[2][1]


def test_nextqa_open_ended(tmp_path):
    (tmp_path / "train.csv").write_text(f"{NEXT_QA}\n3098368505,2694,640,480,what did he do?,jump,6,CW\n")
    (sample,) = read(tmp_path / "train.csv", "nextqa").samples
    assert (sample.visuals[0].path, sample.turns) == ("3098368505.mp4", (Turn("what did he do?", "jump"),))


def clevrer_choices(*answers):
    """A multiple-choice question of CLEVRER about a cube and a ball."""
    choices = [
        {"choice_id": number, "choice": choice, "program": ["objects"], "answer": answer}
        for number, (choice, answer) in enumerate(zip(["the cube", "the ball"], answers, strict=True))
    ]
    return {"question": "Which?", "question_type": "counterfactual", "program": ["events"], "choices": choices}


def test_clevrer(tmp_path):
    """Its README: a multiple-choice question may have more than one or no correct choice."""
    questions = [
        {
            "question_id": 0,
            "question": "What shape enters?",
            "question_type": "descriptive",
            "question_subtype": "query_shape",
            "program": ["objects", "unique", "query_shape"],
            "answer": "cube",
        },
        clevrer_choices("wrong", "correct"),
        clevrer_choices("correct", "correct"),
        clevrer_choices("wrong", "wrong"),
    ]
    entry = {"scene_index": 1000, "video_filename": "video_01000.mp4", "questions": questions}
    samples = read(write_json(tmp_path / "train.json", [entry]), "clevrer").samples
    assert {sample.visuals for sample in samples} == {(Visual("video", "video_01000-02000/video_01000.mp4"),)}
    assert [sample.id for sample in samples] == [f"video_01000/{number}" for number in range(4)]
    asked = "Which?\nOptions: (A) the cube (B) the ball\nName all that are right."
    turns = [Turn("What shape enters?", "cube"), Turn(asked, "B"), Turn(asked, "A, B"), Turn(asked, "None")]
    assert [sample.turns for sample in samples] == [(turn,) for turn in turns]


def test_a_published_sample_becomes_tokens(tmp_path, media):
    """From CSV to labels."""
    columns = ["videoid", "page_dir", "name"]
    source = read(write_csv(tmp_path / "w.csv", columns, ["one", media.name, "red circle"]), "webvid", media.parent)
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
