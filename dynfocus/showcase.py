"""Render videos, ask a model about them, and put questions, answers and plots on one page."""

import base64
import html
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dynfocus.asking import VideoAnswer, VideoAsker
from dynfocus.demo.questions import KINDS, Question, random_question
from dynfocus.demo.rendering import encode, render
from dynfocus.demo.scenes import random_scene
from dynfocus.output_files import whole_file
from dynfocus.plotting import plot_answers

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>DynFocus demo</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 1100px; margin: 2em auto; padding: 0 1em; }}
  section {{ border-top: 1px solid #ddd; padding: 1.5em 0; }}
  video {{ width: 192px; float: right; margin-left: 1.5em; }}
  img {{ width: 100%; clear: both; }}
  td, th {{ text-align: left; padding: .2em 1.5em .2em 0; }}
  .wrong {{ color: #b33c00; font-weight: bold; }}
</style>
<h1>DynFocus demo</h1>
<p>{summary} The model saw {frames} frames of each video, and got {used:,} visual tokens in place of {dense:,}.</p>
{sections}
</html>
"""
_SECTION = """<section>
<video controls loop muted src="data:video/mp4;base64,{video}"></video>
<h2>{name}</h2>
<table>
<tr><th>question</th><th>answer</th><th></th></tr>
{rows}
</table>
<img alt="Key frames, events, token budget and attention of {name}" src="data:image/png;base64,{plot}">
</section>"""


@dataclass(frozen=True)
class ShowcaseVideo:
    """A rendered video, the questions about it with their known answers, and what the model answered."""

    path: Path
    questions: list[Question]
    answers: list[VideoAnswer]

    def is_right(self, number: int) -> bool:
        return self.answers[number].answer.lower() == self.questions[number].answer.lower()

    @property
    def num_right(self) -> int:
        return sum(self.is_right(number) for number in range(len(self.questions)))


def show(
    asker: VideoAsker,
    output: Path,
    *,
    num_videos: int = 3,
    seed: int = 0,
    progress: Callable[[str], None] = lambda stage: None,
) -> list[ShowcaseVideo]:
    """Fills `output` with `video-1.mp4`, `video-1.png`, … and `index.html`, which holds all of them.

    Every video gets one question of each kind. Scenes and questions follow from the seed; none was trained on.
    """
    output.mkdir(parents=True, exist_ok=True)
    videos, sections = [], []
    for number in range(num_videos):
        scene = random_scene("showcase", seed, number)
        rng = np.random.default_rng((seed, number))
        questions = [random_question(scene, rng, kind) for kind in KINDS]
        path = output / f"video-{number + 1}.mp4"
        progress(f"rendering {path.name}")
        with whole_file(path) as temporary:
            encode(render(scene), temporary, scene.fps)
        progress(f"asking about {path.name}")
        answers = asker.ask(path, [question.text for question in questions])
        progress(f"drawing {path.name}")
        plot = plot_answers(answers)
        with whole_file(path.with_suffix(".png")) as temporary:
            temporary.write_bytes(plot)
        videos.append(ShowcaseVideo(path, questions, answers))
        sections.append(_section(videos[-1], plot))
    with whole_file(output / "index.html") as temporary:
        temporary.write_text(_page(videos, sections), encoding="utf-8")
    return videos


def _page(videos: list[ShowcaseVideo], sections: list[str]) -> str:
    right, asked = sum(video.num_right for video in videos), sum(len(video.questions) for video in videos)
    first = videos[0].answers[0]
    return _PAGE.format(
        summary=f"{right} of {asked} answers are right.",
        frames=first.plan.num_frames,
        used=first.plan.num_tokens,
        dense=first.dense_tokens,
        sections="\n".join(sections),
    )


def _section(video: ShowcaseVideo, plot: bytes) -> str:
    rows = []
    for number, (question, answer) in enumerate(zip(video.questions, video.answers, strict=True)):
        verdict = (
            "right" if video.is_right(number) else f'<span class="wrong">wrong: {html.escape(question.answer)}</span>'
        )
        rows.append(
            f"<tr><td>{html.escape(question.text)}</td><td>{html.escape(answer.answer)}</td><td>{verdict}</td></tr>"
        )
    return _SECTION.format(
        name=video.path.name,
        video=base64.b64encode(video.path.read_bytes()).decode(),
        plot=base64.b64encode(plot).decode(),
        rows="\n".join(rows),
    )
