"""One picture of what a model saw in a video: key frames, strip, events, token budget, and where the rods looked."""

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from dynfocus.asking import KeyFrame, VideoAnswer
from dynfocus.plot_text import TEXT_SIZE, TITLE_SIZE, clock, count, facts_line, file_line, wrap
from dynfocus.video_reading import VideoClip

# Okabe and Ito's colours, which colour-blind people can tell apart, without the palest and black.
_PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_INK, _FAINT, _PAPER = "#222222", "#8A8A8A", "#FFFFFF"
_CONES, _RODS, _DENSE = "#D55E00", "#0072B2", "#E8E8E8"
_HEAT = "inferno"

# All lengths are inches.
_WIDTH, _MARGIN = 12.0, 0.5
_INNER = _WIDTH - 2 * _MARGIN
_LINE = 0.22  # of text
_GAP, _CLOCK = 0.2, 0.7  # between key frames, and for the time above each
_DPI = 110

_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)  # seconds


def plot_answers(answers: Sequence[VideoAnswer]) -> bytes:
    """A PNG image of what `draw_answers` draws."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A script that the font lacks is drawn as boxes; the answer itself is not lost by that.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        draw_answers(answers).savefig(buffer, format="png")
    return buffer.getvalue()


def draw_answers(answers: Sequence[VideoAnswer]) -> Figure:
    """A figure of the answers to one or more questions about one video.

    Events and key frames follow from the pixels alone and are drawn once; the rods' attention follows from the
    question and has a strip for each, unless the model has no rods.

    Raises:
        ValueError: no answers, or answers about different videos.
    """
    if not answers:
        raise ValueError("answers is empty, must hold at least one")
    first = answers[0]
    if any(answer.clip is not first.clip or answer.events != first.events for answer in answers):
        raise ValueError("answers are about different videos, must be about one")
    if any(answer.key_frames != first.key_frames for answer in answers):
        raise ValueError("answers have different key frames, must have the same: ask the questions together")
    aspect = first.clip.frames.shape[2] / first.clip.frames.shape[1]
    strip = _Strip(first.clip.duration, first.clip.timestamps, aspect)
    shown, key_height = _key_frames_that_fit(first, aspect)
    texts = [
        (wrap("Q  ", answer.question, _INNER), wrap("A  ", answer.answer or "(no words)", _INNER, weight="bold"))
        for answer in answers
    ]

    below_keys, events_height, budget_height = 0.35, 0.75, 1.05
    upper = 0.75 + key_height + below_keys + strip.height + 0.1 + events_height + budget_height
    attended = [answer.rods_attention for answer in answers if answer.rods_attention is not None]
    lower = (
        sum((len(question) + len(answer)) * _LINE + 0.55 for question, answer in texts) + len(attended) * strip.height
    )
    page = _Page(upper + lower + 0.75)

    page.text(file_line(first, _INNER), size=TITLE_SIZE, weight="bold")
    page.text(facts_line(first, len(shown)), color=_FAINT)
    page.skip(0.31)
    key_axes = _draw_key_frames(page, first, shown, key_height, aspect)
    page.skip(below_keys)
    strip_axes = page.axes(strip.height)
    strip.draw(strip_axes, [first.clip.frames[index] for index in strip.frames])
    _connect(page, key_axes, strip_axes, first, shown)
    page.skip(0.1)
    _draw_events(page.axes(0.28), first)
    page.skip(events_height - 0.28)
    _draw_budget(page, first)
    strongest = max((float(attention.max()) for attention in attended), default=1.0)
    for answer, (question, reply) in zip(answers, texts, strict=True):
        page.skip(0.2)
        for line in question:
            page.text(line, size=TEXT_SIZE)
        for line in reply:
            page.text(line, size=TEXT_SIZE, weight="bold")
        page.skip(0.1)
        if answer.rods_attention is not None:
            strip.draw_attention(page.axes(strip.height), first.clip, answer.rods_attention / strongest)
        page.skip(0.25)
    _draw_legend(page, bool(attended))
    return page.figure


class _Page:
    """A figure filled from the top down."""

    def __init__(self, height: float) -> None:
        self.height = height
        self.top = _MARGIN / 2
        self.figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor=_PAPER)

    def skip(self, height: float) -> None:
        self.top += height

    def axes(self, height: float, left: float = 0.0, width: float = _INNER) -> Axes:
        """Axes of this height here, `left` from the margin; moves on below them only if they span the page."""
        bottom = self.height - self.top - height
        axes = self.figure.add_axes(
            ((_MARGIN + left) / _WIDTH, bottom / self.height, width / _WIDTH, height / self.height)
        )
        if width == _INNER:
            self.top += height
        return axes

    def text(
        self, line: str, *, size: float = 10, color: str = _INK, weight: str = "normal", left: float = 0.0
    ) -> None:
        self.top += _LINE
        x, y = (_MARGIN + left) / _WIDTH, 1 - self.top / self.height
        self.figure.text(x, y, line, fontsize=size, color=color, fontweight=weight, parse_math=False)


class _Strip:
    """The video from left to right: equal stretches of time, and in the middle of each the frame on screen there."""

    def __init__(self, duration: float, timestamps: NDArray[np.float64], aspect: float) -> None:
        count = min(len(timestamps), max(4, round(_INNER / (0.95 * aspect))), 24)
        self.duration = max(duration, 1e-3)
        self.middles = (np.arange(count) + 0.5) * self.duration / count
        self.frames = np.searchsorted(timestamps, self.middles, side="right").clip(1) - 1
        self.height = min(1.15, _INNER / count / aspect)
        # In seconds, since that is the strip's x axis; a hairline of white stays between neighbours.
        self.frame_width = min(self.duration / count, self.height * aspect * self.duration / _INNER) * 0.97

    def draw(self, axes: Axes, pictures: Sequence[NDArray], **style: Any) -> None:
        for middle, picture in zip(self.middles, pictures, strict=True):
            half = self.frame_width / 2
            axes.imshow(picture, extent=(middle - half, middle + half, 0, 1), aspect="auto", **style)
        axes.set(xlim=(0, self.duration), ylim=(0, 1))
        axes.axis("off")

    def draw_attention(self, axes: Axes, clip: VideoClip, attention: NDArray[np.float32]) -> None:
        """The frames in grey under the attention of the rods [T, rows, columns]; brightest where it is 1."""
        grey = [clip.frames[index].mean(-1) for index in self.frames]
        self.draw(axes, grey, cmap="gray", vmin=0, vmax=320)
        for middle, weights in zip(self.middles, attention[self.frames], strict=True):
            half = self.frame_width / 2
            extent = (middle - half, middle + half, 0, 1)
            # Weak attention is transparent: the frame must stay readable under it.
            alpha = 0.75 * np.sqrt(weights)
            axes.imshow(
                weights, extent=extent, aspect="auto", cmap=_HEAT, vmin=0, vmax=1, alpha=alpha, interpolation="nearest"
            )
        axes.set(xlim=(0, self.duration), ylim=(0, 1))


def _key_frames_that_fit(answer: VideoAnswer, aspect: float) -> tuple[list[KeyFrame], float]:
    """As many of the best-scored key frames as fit in one row, in the order of time, and the height to show them at."""
    wanted = min(len(answer.key_frames), 8)
    height = float(np.clip((_INNER / wanted - _GAP) / aspect, min(0.8, _INNER / aspect), 1.5))
    room = max(1, int((_INNER + _GAP) / _key_frame_step(height * aspect)))
    best = sorted(answer.key_frames, key=lambda key: -answer.events[key.event].score)[:room]
    return sorted(best, key=lambda key: key.seconds), height


def _key_frame_step(width: float) -> float:
    """From one key frame to the next."""
    return max(width + _GAP, _CLOCK)


def _draw_key_frames(
    page: _Page, answer: VideoAnswer, shown: list[KeyFrame], height: float, aspect: float
) -> list[Axes]:
    width = height * aspect
    # Each stands above its moment, or as near to it as its neighbours and the margins let it.
    left = [key.seconds / max(answer.clip.duration, 1e-3) * _INNER - width / 2 for key in shown]
    for place in range(len(left)):
        left[place] = max(left[place], left[place - 1] + _key_frame_step(width) if place else 0.0)
    for place in reversed(range(len(left))):
        limit = left[place + 1] - _key_frame_step(width) if place + 1 < len(left) else _INNER - width
        left[place] = min(left[place], limit)
    drawn = []
    for key, offset in zip(shown, left, strict=True):
        axes = page.axes(height, left=offset, width=width)
        index = int(np.searchsorted(answer.clip.frame_indices, key.frame))
        axes.imshow(answer.clip.frames[index], aspect="auto")
        axes.set(xticks=[], yticks=[])
        axes.set_title(clock(key.seconds, answer.clip.duration), fontsize=10, color=_INK, pad=4)
        for spine in axes.spines.values():
            spine.set(color=_color(key.event), linewidth=3)
        drawn.append(axes)
    page.skip(height)
    return drawn


def _connect(page: _Page, key_axes: list[Axes], strip: Axes, answer: VideoAnswer, shown: list[KeyFrame]) -> None:
    """A line from every enlarged key frame to its moment on the strip."""
    box = strip.get_position()
    for axes, key in zip(key_axes, shown, strict=True):
        frame = axes.get_position()
        x = [(frame.x0 + frame.x1) / 2, box.x0 + box.width * key.seconds / max(answer.clip.duration, 1e-3)]
        page.figure.add_artist(Line2D(x, [frame.y0, box.y1], color=_color(key.event), linewidth=1.3))


def _draw_events(axes: Axes, answer: VideoAnswer) -> None:
    """Runs of frames coloured and numbered by event, pale unless it is a key event; a triangle at each key frame."""
    duration = max(answer.clip.duration, 1e-3)
    for number, event in enumerate(answer.events):
        for start, end in event.spans:
            axes.axvspan(start, end, color=_color(number), alpha=0.9 if event.is_key else 0.3, linewidth=0)
            label = str(number + 1)
            if (end - start) / duration * _INNER > 0.12 * len(label) + 0.05:
                ink = _PAPER if event.is_key else _INK
                axes.text((start + end) / 2, 0.46, label, ha="center", va="center", fontsize=8, color=ink)
    keys = [key.seconds for key in answer.key_frames]
    axes.plot(keys, np.full(len(keys), 1.0), "v", color=_INK, markersize=6, clip_on=False)
    axes.set(xlim=(0, duration), ylim=(0, 1), yticks=[])
    step = next((step for step in _TICKS if duration / step <= 10), duration / 10)
    ticks = np.arange(0, duration, step)
    axes.set_xticks(ticks, [clock(tick, duration, 2 if step < 0.1 else 1 if step < 1 else 0) for tick in ticks])
    axes.tick_params(colors=_FAINT, labelsize=8.5, length=3)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_budget(page: _Page, answer: VideoAnswer) -> None:
    plan, dense = answer.plan, answer.dense_tokens
    page.text("Tokens", weight="bold", left=0.0)
    page.skip(-_LINE)
    page.text(
        f"{plan.num_tokens:,}, where {count(plan.num_frames, 'frame')} × {answer.patches_per_frame:,} patches"
        f" would take {dense:,} ({plan.num_tokens / dense:.1%})",
        left=0.75,
    )
    page.skip(0.08)
    axes = page.axes(0.2)
    whole = max(dense, plan.num_tokens)
    axes.barh(0, dense, color=_DENSE, height=1)
    axes.barh(0, plan.cones_tokens, color=_CONES, height=1)
    axes.barh(0, plan.rods_tokens, left=plan.cones_tokens, color=_RODS, height=1)
    axes.set(xlim=(0, whole), ylim=(-0.5, 0.5))
    axes.axis("off")
    page.skip(0.04)
    cones = f"■ cones: {plan.cones_tokens:,} for {count(plan.num_key_frames, 'key frame')}"
    page.text(cones, size=9, color=_CONES)
    page.skip(-_LINE)
    page.text(f"■ rods: {plan.rods_tokens:,} for {count(plan.num_frames, 'frame')}", size=9, color=_RODS, left=3.2)


def _draw_legend(page: _Page, has_attention: bool) -> None:
    if has_attention:
        page.text("Where the rods looked:  least", size=9, color=_FAINT)
        axes = page.axes(0.12, left=2.15, width=1.2)
        axes.set_position(_shifted(axes, page, -0.115))
        axes.imshow(np.linspace(0, 1, 64)[None], aspect="auto", cmap=_HEAT)
        axes.axis("off")
        page.skip(-_LINE)
        page.text("most", size=9, color=_FAINT, left=3.45)
        page.skip(-_LINE)
    key = "▼ key frame     pale: event without one     numbers: events in the order of time"
    page.text(key, size=9, color=_FAINT, left=4.6)


def _shifted(axes: Axes, page: _Page, down: float) -> tuple[float, float, float, float]:
    box = axes.get_position()
    return box.x0, box.y0 - down / page.height, box.width, box.height


def _color(event: int) -> str:
    return _PALETTE[event % len(_PALETTE)]
