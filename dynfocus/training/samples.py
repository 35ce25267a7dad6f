"""One training sample, and many of them in little memory."""

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from dynfocus.errors import DynFocusError
from dynfocus.visual_placeholders import find_placeholders, without_placeholders


class BrokenSample(DynFocusError):
    """This sample cannot be trained on; the message says why, the run skips it."""


class Visual(NamedTuple):
    kind: str  # "image" or "video"
    path: str  # below the source's media folder


class Turn(NamedTuple):
    question: str  # with <image> or <video> where visuals stand
    answer: str


class Sample(NamedTuple):
    """A conversation about `visuals`, which its first turn shows in the order of its placeholders."""

    id: str
    visuals: tuple[Visual, ...]
    turns: tuple[Turn, ...]


def checked(sample: Sample) -> Sample:
    """`sample`, its first question showing every visual: LLaMA-VID writes `<image>` for a video, and some files leave
    the placeholder out.

    Raises:
        BrokenSample: an empty question or answer, or placeholders that do not match the visuals.
    """
    if not sample.turns:
        raise BrokenSample("it has no question with an answer")
    for number, (question, answer) in enumerate(sample.turns, 1):
        if not without_placeholders(question):
            raise BrokenSample(f"question {number} is empty")
        if not answer.strip():
            raise BrokenSample(f"answer {number} is empty")
        if find_placeholders(answer):
            raise BrokenSample(f"answer {number} holds {find_placeholders(answer)[0]}")
        if number > 1 and find_placeholders(question):
            raise BrokenSample(f"question {number} holds {find_placeholders(question)[0]}; only the first may")
    first = sample.turns[0].question
    shown = len(find_placeholders(first))
    if not shown and sample.visuals:
        first = "".join(f"<{visual.kind}>\n" for visual in sample.visuals) + first
    elif shown != len(sample.visuals):
        raise BrokenSample(f"its text shows {shown} visuals but it has {len(sample.visuals)}")
    return sample._replace(turns=(Turn(first, sample.turns[0].answer), *sample.turns[1:]))


class PackedSamples(Sequence[Sample]):
    """Samples as JSON in one buffer: a million Python objects would be copied into every worker as they are counted."""

    def __init__(self, samples: Iterable[Sample]):
        rows = [json.dumps(sample).encode() for sample in samples]
        self._ends = np.cumsum([0, *map(len, rows)])
        self._buffer = np.frombuffer(b"".join(rows), np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        start, end = self._ends[index], self._ends[index + 1]
        id, visuals, turns = json.loads(self._buffer[start:end].tobytes())
        return Sample(id, tuple(Visual(*visual) for visual in visuals), tuple(Turn(*turn) for turn in turns))
