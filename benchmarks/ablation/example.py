"""A picture of what is asked about: the events of one video over its time."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from benchmarks.plots import BLUE, FAINT, INK, ORANGE, STYLE
from dynfocus.demo.questions import told
from dynfocus.demo.rendering import render
from dynfocus.demo.scenes import Shape, random_scene


def draw_example(file: Path, index: int = 0) -> None:
    """Writes a PNG of one evaluation video: a frame of each event, and when it is seen."""
    scene = random_scene("evaluation", 0, index)
    frames = render(scene)
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(1.4 * len(scene.events), 2.3), layout="constrained")
        grid = figure.add_gridspec(2, len(scene.events), height_ratios=(4, 1))
        for place, event in enumerate(scene.events):
            axes = figure.add_subplot(grid[0, place])
            axes.imshow(frames[(event.start + event.end) // 2])
            axes.set_title(told(event), fontsize=9, color=BLUE if isinstance(event, Shape) else ORANGE)
            axes.axis("off")
        time = figure.add_subplot(grid[1, :])
        for event in scene.events:
            color = BLUE if isinstance(event, Shape) else ORANGE
            time.axvspan(event.start / scene.fps, event.end / scene.fps, color=color, linewidth=0)
        time.set_xlim(0, scene.num_frames / scene.fps)
        time.set_yticks([])
        time.spines["left"].set_visible(False)
        time.set_xlabel("seconds (blue: shapes, orange: small things, white: nothing)", color=INK, fontsize=9)
        time.tick_params(colors=FAINT)
        figure.savefig(file)
