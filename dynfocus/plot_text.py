"""The words of a plot, and how many of them fit a line. Lengths are inches, font sizes points."""

import textwrap
from pathlib import Path

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

from dynfocus.asking import VideoAnswer

TEXT_SIZE, TITLE_SIZE = 11, 13


def file_line(answer: VideoAnswer, line_width: float) -> str:
    """The file's name, shortened in its middle to fit a line."""
    name = Path(answer.clip.path).name.encode(errors="replace").decode()  # Bytes that are no UTF-8 cannot be drawn.
    shortened = name
    while width(shortened, TITLE_SIZE, "bold") > line_width:
        name = name[: len(name) * 2 // 3 - 2] + name[len(name) * 2 // 3 + 2 :]
        shortened = f"{name[: len(name) * 2 // 3]} … {name[len(name) * 2 // 3 :]}"
    return shortened


def facts_line(answer: VideoAnswer, num_shown: int) -> str:
    """What is known about the video; `num_shown` of its key frames are in the picture."""
    clip, plan = answer.clip, answer.plan
    facts = [
        clock(clip.duration, clip.duration),
        f"{plan.num_frames:,} of {count(clip.total_frames, 'frame')} seen",
        count(plan.num_events, "event"),
        count(plan.num_key_frames, "key frame") + (f", {num_shown} shown" if num_shown < plan.num_key_frames else ""),
    ]
    if clip.frames_lost:
        facts.append(f"{count(clip.frames_lost, 'broken frame')} lost")
    if clip.frames_damaged:
        facts.append(f"{count(clip.frames_damaged, 'seen frame')} may be damaged")
    return "   ·   ".join(facts)


def clock(seconds: float, duration: float, decimals: int | None = None) -> str:
    """4.25 s, 1:05.5, 1:02:03; with as many decimals as the length of the video asks for, unless told."""
    if decimals is None:
        decimals = 2 if duration < 10 else 1 if duration < 600 else 0
    if duration < 60:
        return f"{seconds:.{decimals}f} s"
    minutes, rest = divmod(round(seconds, decimals), 60)
    rest_text = f"{rest:0{decimals + 3 if decimals else 2}.{decimals}f}"
    if duration < 3600:
        return f"{minutes:.0f}:{rest_text}"
    return f"{minutes // 60:.0f}:{minutes % 60:02.0f}:{rest_text}"


def count(number: int, noun: str) -> str:
    """1 frame, 1,024 frames."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def wrap(mark: str, text: str, line_width: float, *, weight: str = "normal", most_lines: int = 4) -> list[str]:
    """Lines that fit the page, the first behind `mark`; what is left of a very long text is cut."""
    for characters in range(130, 20, -5):
        lines = textwrap.wrap(" ".join(text.split()), characters, max_lines=most_lines, placeholder=" …")
        lines = [(mark if place == 0 else " " * len(mark)) + line for place, line in enumerate(lines)]
        if all(width(line, TEXT_SIZE, weight) <= line_width for line in lines):
            break
    return lines


def width(text: str, size: float, weight: str) -> float:
    """Inches that a line of text takes."""
    font = FontProperties(size=size, weight=weight)
    return TextToPath().get_text_width_height_descent(text, font, ismath=False)[0] / 72
