"""The picture: valid, complete, and with nothing drawn over anything else, for videos of any length and shape."""

import io
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from PIL import Image

from dynfocus.asking import KeyFrame, VideoAnswer, VideoEvent
from dynfocus.plotting import draw_answers, plot_answers
from dynfocus.token_budget import TokenPlan
from dynfocus.video_reading import VideoClip


def answers(
    num_frames=32, size=(90, 160), seconds=None, questions=("What color is the circle?",), path="a.mp4", lost=0
):
    """Made-up answers; the frames turn from black to white, and event l is the l-th part of the video."""
    rng = np.random.default_rng(0)
    duration = num_frames / 8 if seconds is None else seconds
    frames = np.repeat(np.linspace(0, 255, num_frames).astype(np.uint8), size[0] * size[1] * 3)
    clip = VideoClip(
        frames=frames.reshape(num_frames, *size, 3),
        timestamps=np.arange(num_frames) * duration / num_frames,
        frame_indices=np.arange(num_frames),
        duration=duration,
        total_frames=num_frames + lost,
        fps=8.0,
        frames_lost=lost,
        frames_damaged=min(lost, 1),
        path=path,
    )
    num_events = min(25, num_frames)
    assignment = np.arange(num_frames) * num_events // num_frames
    num_keys = max(1, round(0.8 * num_events))
    events = []
    for number in range(num_events):
        members = np.flatnonzero(assignment == number)
        start, end = clip.timestamps[members[0]], np.append(clip.timestamps, duration)[members[-1] + 1]
        frame = int(members[len(members) // 2])
        events.append(
            VideoEvent(frame, float(clip.timestamps[frame]), float(rng.random()), number < num_keys, [(start, end)])
        )
    attention = rng.dirichlet(np.full(64, 0.3), num_frames).reshape(num_frames, 8, 8).astype(np.float32)
    plan = TokenPlan(num_frames, num_events, num_keys, 38)
    keys = [KeyFrame(event.frame, event.seconds, number) for number, event in enumerate(events) if event.is_key]
    return [
        VideoAnswer(question, "yellow", events, keys, plan, 64, {}, clip, assignment, attention)
        for question in questions
    ]


LONG_QUESTION = "What does the person in the red coat pick up after the dog has left the room for good? " * 12
CASES = {
    "one frame": dict(num_frames=1),
    "five frames": dict(num_frames=5),
    "32 frames": dict(),
    "500 frames": dict(num_frames=500),
    "upright": dict(size=(160, 90)),
    "panorama": dict(size=(40, 400)),
    "tower": dict(size=(400, 40)),
    "square": dict(size=(96, 96)),
    "one hour": dict(num_frames=360, seconds=3600.0),
    "a day": dict(num_frames=360, seconds=86400.0),
    "a flash": dict(num_frames=3, seconds=0.1),
    "no length": dict(num_frames=1, seconds=0.0),
    "long words": dict(questions=(LONG_QUESTION, "W" * 700, "Who?"), path="W" * 200 + ".mp4"),
    "broken": dict(lost=1234567, num_frames=500),
}


@pytest.mark.parametrize("case", CASES)
def test_nothing_overlaps_or_leaves_the_page(case):
    figure = draw_answers(answers(**CASES[case]))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, page = canvas.get_renderer(), figure.bbox
    labels = [*figure.texts]
    for axes in figure.axes:
        labels += [axes.title, *axes.texts, *(axes.get_xticklabels() if axes.axison else [])]
    boxes = [(label.get_text(), label.get_window_extent(renderer)) for label in labels if label.get_text()]
    for text, box in boxes:
        assert page.x0 <= box.x0 <= box.x1 <= page.x1 and page.y0 <= box.y0 <= box.y1 <= page.y1, text
    for (one, first), (other, second) in combinations(boxes, 2):
        assert not _overlap(first, second), f"{one!r} is over {other!r}"
    for first, second in combinations([axes.get_window_extent() for axes in figure.axes], 2):
        assert not _overlap(first, second)
    outside = [(text, box) for text, box in boxes if text in {label.get_text() for label in figure.texts}]
    for axes in figure.axes:
        for text, box in outside:
            assert not _overlap(box, axes.get_window_extent()), text


def _overlap(first, second, slack=1.0):
    return (
        min(first.x1, second.x1) - max(first.x0, second.x0) > slack
        and min(first.y1, second.y1) - max(first.y0, second.y0) > slack
    )


@pytest.mark.parametrize("case", ["one frame", "long words", "broken"])
def test_png(case):
    made = answers(**CASES[case])
    picture = Image.open(io.BytesIO(plot_answers(made)))
    picture.verify()
    assert picture.format == "PNG"
    assert picture.width == 1320


def test_one_strip_more_for_every_question():
    heights = [draw_answers(answers(questions=["Who?"] * count)).get_figheight() for count in (1, 2, 3)]
    assert heights[2] - heights[1] == pytest.approx(heights[1] - heights[0])
    assert heights[1] - heights[0] > 1


def test_no_attention_no_strip():
    attended = answers(questions=["Who?", "Where?"])
    plain = [replace(answer, rods_attention=None) for answer in attended]
    figure, other = draw_answers(plain), draw_answers(attended)
    assert len(other.axes) - len(figure.axes) == 3  # two strips and the legend's scale
    assert other.get_figheight() - figure.get_figheight() > 0.5
    assert not any("rods looked" in label.get_text() for label in figure.texts)


def test_what_is_written():
    figure = draw_answers(answers(lost=7, questions=["What costs $5 and $6?"]))
    text = "\n".join(label.get_text() for label in figure.texts)
    for expected in (
        "a.mp4",
        "4.00 s",
        "32 of 39 frames seen",
        "25 events",
        "20 key frames, 6 shown",
        "7 broken frames lost",
        "1 seen frame may be damaged",
        "824, where 32 frames × 64 patches would take 2,048 (40.2%)",
        "cones: 760 for 20 key frames",
        "rods: 64 for 32 frames",
        "What costs $5 and $6?",
        "yellow",
    ):
        assert expected in text


def test_pixels_show_events_and_budget():
    """The cones' and rods' shares of the budget bar are as wide as the numbers say."""
    picture = np.asarray(Image.open(io.BytesIO(plot_answers(answers()))).convert("RGB")).astype(float) / 255
    inner = 1320 * 11 / 12
    for color, share in (("#D55E00", 760 / 2048), ("#0072B2", 64 / 2048)):
        near = np.abs(picture - to_rgb(color)).max(-1) < 0.02
        rows = near.sum(1)
        assert (np.abs(rows - share * inner) < 3).sum() >= 15, color


def test_attention_is_drawn_where_it_is():
    made = answers(num_frames=1, size=(96, 96))
    attention = np.zeros((1, 8, 8), np.float32)
    attention[0, 1, 6] = 1
    made[0].rods_attention[:] = attention
    figure = draw_answers(made)
    heats = [image for axes in figure.axes for image in axes.images if image.get_array().shape == (8, 8)]
    assert len(heats) == 1
    assert np.unravel_index(heats[0].get_array().argmax(), (8, 8)) == (1, 6)
    assert heats[0].get_alpha()[1, 6] == pytest.approx(0.75)
    assert heats[0].get_alpha()[0, 0] == 0


def test_scripts_without_a_font_make_no_noise(recwarn):
    plot_answers(answers(questions=["红色的圆在哪里?"], path="видео \udcff.mp4"))
    assert not recwarn.list


def test_answers_about_different_videos():
    with pytest.raises(ValueError, match="different videos"):
        plot_answers([*answers(), *answers()])
    with pytest.raises(ValueError, match="different key frames"):
        first, second = answers(questions=["Who?", "Where?"])
        plot_answers([first, replace(second, key_frames=second.key_frames[:3])])
    with pytest.raises(ValueError, match="empty"):
        plot_answers([])
