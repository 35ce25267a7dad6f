"""Readers of published annotation files. Each yields its samples, and a BrokenSample in place of one it cannot read.

Keys, columns and places are those of the published files; the words around captions and options are ours. Nothing is
downloaded.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dynfocus.errors import DynFocusError
from dynfocus.training.samples import BrokenSample, Sample, Turn, Visual

Entry = Sample | BrokenSample

_CAPTION_VIDEO = "Describe this video concisely."


def read_llava(file: Path, videos: Path | None = None) -> Iterator[Entry]:
    """LLaVA's JSON list or JSON lines: {id, image | video: path or list, conversations: [{from, value}, …]}.

    Also LLaVA-filter-CC3M (chat.json), LLaVA-665K (llava_v1_5_mix665k.json, text-only samples included) and what
    LLaMA-VID made of WebVid and VideoChatGPT.
    """
    for number, record in enumerate(_json_records(file)):
        yield _or_broken(_llava_sample, record, f"{number}")


def _llava_sample(record: Mapping, number: str) -> Sample:
    visuals = []
    for kind in ("image", "video"):
        paths = record.get(kind) or []
        visuals += [Visual(kind, path) for path in ([paths] if isinstance(paths, str) else paths)]
    conversation = record["conversations"]
    spoken = [message for message in conversation if message["from"] != "system"]
    speakers = [message["from"] for message in spoken]
    if speakers != ["human", "gpt"] * (len(spoken) // 2):
        raise BrokenSample(f"its speakers are {', '.join(speakers)} but must be human and gpt in turn")
    if silent := [message["from"] for message in spoken if not isinstance(message["value"], str)]:
        raise BrokenSample(f"what {silent[0]} says is no text")
    turns = [Turn(asked["value"], told["value"]) for asked, told in zip(spoken[::2], spoken[1::2], strict=True)]
    return Sample(str(record.get("id", number)), tuple(visuals), tuple(turns))


def read_webvid(file: Path, videos: Path | None = None) -> Iterator[Entry]:
    """WebVid's CSV (videoid, name, page_idx, page_dir, duration, contentUrl); a video lies at page_dir/videoid.mp4.

    Copies of it have fewer columns, in another order.
    """
    for row in _csv_rows(file, "videoid", "page_dir", "name"):
        yield _or_broken(_webvid_sample, row)


def _webvid_sample(row: Mapping) -> Sample:
    if not row["page_dir"]:  # a few hundred of the 2M rows; WebVid's author says to leave them out
        raise BrokenSample("it has no page_dir: WebVid itself has no video of it")
    path = f"{row['page_dir']}/{row['videoid']}.mp4"
    return Sample(row["videoid"], (Visual("video", path),), (Turn(_CAPTION_VIDEO, row["name"]),))


def read_scienceqa(file: Path, videos: Path | None = None) -> Iterator[Entry]:
    """ScienceQA's problems.json: id → {question, choices, answer, hint, image, split, …}; the training split alone.

    An image lies at split/id/image.
    """
    for id, problem in _json_object(file).items():
        if not isinstance(problem, Mapping) or problem.get("split", "train") == "train":
            yield _or_broken(_scienceqa_sample, problem, id)


def _scienceqa_sample(problem: Mapping, id: str) -> Sample:
    visuals = (Visual("image", f"{problem.get('split', 'train')}/{id}/{problem['image']}"),)
    context = f"Context: {problem['hint']}\n" if problem.get("hint") else ""
    question = f"{context}{problem['question']}\n{_options(problem['choices'])}"
    return Sample(id, visuals if problem.get("image") else (), (Turn(question, _letter(problem, "choices")),))


def read_videochatgpt(file: Path, videos: Path | None = None) -> Iterator[Entry]:
    """VideoChatGPT-100K's JSON list of {q, a, video_id}.

    Videos are ActivityNet's: v_ and YouTube's id, most of them .mp4, some .mkv and .webm; the file does not say which.
    """
    for record in _json_records(file):
        yield _or_broken(_videochatgpt_sample, record)


def _videochatgpt_sample(record: Mapping) -> Sample:
    return Sample(record["video_id"], (Visual("video", record["video_id"]),), (Turn(record["q"], record["a"]),))


def read_nextqa(file: Path, videos: Path | None = None) -> Iterator[Entry]:
    """NExT-QA's CSV: video, frame_count, width, height, question, answer, qid, type and, for multiple choice, a0 to a4.

    `answer` is then the index of a choice, from 0; in the open-ended file (NExT-OE) it is the text.
    `videos` is its map_vid_vidorID.json, video → its place in VidOR, 0093/3098368505; without it they lie at video.mp4.
    """
    places = None if videos is None else _json_object(videos)
    for row in _csv_rows(file, "video", "question", "answer", "qid"):
        yield _or_broken(_nextqa_sample, row, places)


def _nextqa_sample(row: Mapping, places: Mapping[str, str] | None) -> Sample:
    video, question, answer = row["video"], row["question"].strip().rstrip("?") + "?", row["answer"]
    if places is not None and video not in places:
        raise BrokenSample(f"the map of videos has no {video}")
    if "a0" in row:
        choices = [row[f"a{i}"] for i in range(5)]
        if not all(choices):
            raise BrokenSample("one of its choices is empty")
        answer = _letter({"choices": choices, "answer": int(answer)}, "choices")
        question = f"{question}\n{_options(choices)}"
    path = f"{video if places is None else places[video]}.mp4"
    return Sample(f"{video}/{row['qid']}", (Visual("video", path),), (Turn(question, answer),))


def read_clevrer(file: Path, videos: Path | None = None) -> Iterator[Entry]:
    """CLEVRER's JSON list of {video_filename, questions: [{question, answer | choices: [{choice, answer}]}]}.

    Videos lie as published, a thousand to a folder: video_00000-01000/video_00000.mp4. One sample a question: a video
    has fifteen on average, which would leave each few tokens. Of the choices, several or none may be right.
    """
    for record in _json_records(file):
        questions = record.get("questions") if isinstance(record, Mapping) else None
        for number in range(max(1, len(questions or ()))):
            yield _or_broken(_clevrer_sample, record, number)


def _clevrer_sample(record: Mapping, number: int) -> Sample:
    name = record["video_filename"]
    start = int(Path(name).stem.rpartition("_")[2]) // 1000 * 1000
    path = f"video_{start:05}-{start + 1000:05}/{name}"
    return Sample(
        f"{Path(name).stem}/{number}", (Visual("video", path),), (_clevrer_turn(record["questions"][number]),)
    )


def _clevrer_turn(question: Mapping) -> Turn:
    if "choices" not in question:
        return Turn(question["question"], question["answer"])
    choices = [choice["choice"] for choice in question["choices"]]
    right = [_LETTERS[i] for i, choice in enumerate(question["choices"]) if choice["answer"] == "correct"]
    asked = f"{question['question']}\n{_options(choices)}\nName all that are right."
    return Turn(asked, ", ".join(right) or "None")


LAYOUTS: dict[str, Callable[..., Iterator[Entry]]] = {
    "llava": read_llava,
    "llava-filter-cc3m": read_llava,
    "llava-665k": read_llava,
    "webvid": read_webvid,
    "scienceqa": read_scienceqa,
    "videochatgpt": read_videochatgpt,
    "nextqa": read_nextqa,
    "clevrer": read_clevrer,
}

_LETTERS = "ABCDEFGHIJ"


def _options(choices: list[str]) -> str:
    return "Options: " + " ".join(f"({letter}) {choice}" for letter, choice in zip(_LETTERS, choices, strict=False))


def _letter(record: Mapping, choices: str) -> str:
    answer = record["answer"]
    if not 0 <= answer < len(record[choices]):
        raise BrokenSample(f"its answer is {answer} but must be the index of one of {len(record[choices])} choices")
    return _LETTERS[answer]


def _or_broken(read: Callable[..., Sample], record: Any, *more: Any) -> Entry:
    """read(record, …), or why the record is none."""
    try:
        if not isinstance(record, Mapping):
            raise BrokenSample(f"it is {type(record).__name__} but must be an object")
        return read(record, *more)
    except BrokenSample as error:
        return error
    except KeyError as error:
        return BrokenSample(f"it has no {error}")
    except (TypeError, ValueError, AttributeError) as error:
        return BrokenSample(f"it is not written as this layout is: {error}")


def _json_records(file: Path) -> Iterator[Any]:
    """The entries of a JSON list, or the lines of a .jsonl file."""
    if file.suffix != ".jsonl":
        content = _json(file)
        if not isinstance(content, list):
            raise DynFocusError(f"{file} is not a JSON list")
        yield from content
        return
    with _opened(file) as lines:
        for line in lines:
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    yield f"no JSON: {error}"


def _json_object(file: Path) -> Mapping[str, Any]:
    content = _json(file)
    if not isinstance(content, Mapping):
        raise DynFocusError(f"{file} is not a JSON object")
    return content


def _json(file: Path) -> Any:
    with _opened(file) as opened:
        try:
            return json.load(opened)
        except ValueError as error:
            raise DynFocusError(f"{file} is not readable JSON: {error}") from error


def _csv_rows(file: Path, *columns: str) -> Iterator[Mapping[str, str]]:
    with _opened(file) as opened:
        rows = csv.DictReader(opened)
        if missing := [column for column in columns if column not in (rows.fieldnames or ())]:
            raise DynFocusError(f"{file} has no column {missing[0]}; it must have {', '.join(columns)}")
        yield from rows


def _opened(file: Path):  # type: ignore[no-untyped-def]
    try:
        return file.open(encoding="utf-8", newline="" if file.suffix == ".csv" else None)
    except OSError as error:
        raise DynFocusError(f"{file}: cannot be read ({error.strerror})") from error
