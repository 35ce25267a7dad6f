"""`python -m benchmarks.roofline [RUN.json] [--out docs]`: what GPUs allow the ops, beside what was measured.

Prints a table and writes a Markdown page with its plots. RUN.json is of a GPU run (`make gpu`): an object with "rows",
of which those with "median_us" count; copy bandwidth and products that it measured replace the datasheet's.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.gpus import GPU, GPUS, measured
from benchmarks.roofline_lines import DTYPES, FRAMES, LONGEST, TILE, Line, lines
from benchmarks.roofline_plots import draw_all
from benchmarks.tables import NONE, duration, significant, table

Row = Mapping[str, Any]

WIDTH = 180  # of the printed tables where there is no terminal


@dataclass(frozen=True)
class Run:
    """A GPU run, or none: `gpu` is then None and nothing is measured."""

    gpu: str | None = None  # the name of one of GPUS
    device: str = ""  # as its driver calls it
    rows: Sequence[Row] = ()

    def own(self, devices: Sequence[GPU]) -> GPU:
        """The one that was measured, else the last."""
        return next((gpu for gpu in devices if gpu.name == self.gpu), devices[-1])

    def seconds(self, line: Line) -> float | None:
        """Of ours on the backend that is chosen by itself, or on its fastest."""
        own = [
            row
            for row in self.rows
            if line.measured_as and row.get("median_us") and row.get("contender", "ours") == "ours"
            if all(row.get(key) == value for key, value in line.measured_as.items())
        ]
        chosen = [row for row in own if row.get("chosen")] or own
        return min((row["median_us"] * 1e-6 for row in chosen), default=None)


def load(path: Path) -> Run:
    """Raises:
    ValueError: it is not the JSON of a GPU run, or of a rehearsal, or of a GPU that is not in GPUS.
    """
    document = json.loads(path.read_text())
    rows = document.get("rows") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise ValueError(f"{path} must be the JSON of a GPU run (make gpu): an object with rows")
    if document.get("rehearsed"):
        raise ValueError(f"{path} is a rehearsal, it must be of a run on a GPU")
    device = next((str(row["device"]) for row in rows if row.get("device")), "")
    names = [gpu.name for gpu in GPUS if gpu.name in device]
    if not names:
        raise ValueError(f"{path} is of {device or 'no device'}, it must be of one of {[gpu.name for gpu in GPUS]}")
    return Run(names[0], device, rows)


def gpus(run: Run) -> list[GPU]:
    return [measured(gpu, run.rows) if gpu.name == run.gpu else gpu for gpu in GPUS]


def head(devices: Sequence[GPU]) -> list[str]:
    return ["op", "T", "GFLOP", "MB", "launches", *(gpu.name for gpu in devices), "measured", "of the floor"]


def row(line: Line, devices: Sequence[GPU], run: Run) -> list[str]:
    seconds = run.seconds(line)
    share = run.own(devices).floor(line.parts, line.dtype) / seconds if seconds else None
    return [
        line.op,
        f"{line.frames:,}" if line.frames else NONE,
        significant(line.cost.flops / 1e9) if line.cost.flops else NONE,
        significant(line.cost.nbytes / 1e6),
        NONE if line.launches is None else str(line.launches),
        *(floor_of(line, gpu) for gpu in devices),
        NONE if seconds is None else duration(seconds),
        NONE if share is None else f"{share:.0%}",
    ]


def floor_of(line: Line, gpu: GPU) -> str:
    """And what bounds it: what its launches take, if that is longer."""
    floor = gpu.floor(line.parts, line.dtype)
    bound = "memory" if gpu.is_memory_bound(line.parts, line.dtype) else "matrix"
    if line.launches and line.launches * gpu.launch_seconds > floor:
        bound = "launches"
    return f"{'< 0.1 µs' if floor < 1e-7 else duration(floor)} {bound}"


def page(every: Sequence[Line], devices: Sequence[GPU], run: Run) -> str:
    measurements = f"Measured on {run.device}." if run.gpu else "**Nothing here was measured on a GPU.**"
    rates = [
        [gpu.name, f"{gpu.bytes_per_s / 1e9:,.0f}", *(f"{gpu.flops_per_s[dtype] / 1e12:,.0f}" for dtype in DTYPES),
         gpu.source]
        for gpu in devices
    ]  # fmt: skip
    parts = [
        "# What the ops cannot go below on a GPU",
        "<!-- Made by python -m benchmarks.roofline: change that, not this. -->",
        f"A cost model of the connector's ops at the paper's shapes. {measurements}",
        "**Floor**: the longer of two times, that of moving the bytes (each input read once, each output written once) "
        "and that of computing the matrix products. Products of points with themselves count as the "
        f"{TILE} × {TILE} tiles on and below the diagonal (frames: {2 * TILE} × {2 * TILE}); fp32 is three products in "
        "tf32. *stored* keeps the T × T distances and goes over them twice, *streamed* keeps none and computes the "
        "whole square, and on top the product of the peaks, whose number is the input's and which is left out here. "
        "The connector's floor is the sum of its parts', as each is launched on its own.",
        f"**Launches** count our Triton kernels and torch's calls around them ({NONE}: not counted, or not all of it "
        f"runs on Triton). In a CUDA graph one takes about {duration(run.own(devices).launch_seconds)} "
        "(assumed, unless measured). Beside each floor stands what bounds the op: *memory*, *matrix*, or *launches* "
        "where those take longer than the floor.",
        "![Floors of each op over the number of frames](roofline-floors.png)",
        "![Work of each op for a byte, under the roofs of three GPUs](roofline-intensity.png)",
        "## Rates",
        table(["GPU", "GB/s", *(f"{dtype} TFLOP/s" for dtype in DTYPES), "source"], rates),
    ]
    for dtype in DTYPES:
        rows = [row(line, devices, run) for line in every if line.dtype == dtype]
        parts += [f"## {dtype}", table(head(devices), rows)]
    return "\n\n".join(parts) + "\n"


def show(every: Sequence[Line], devices: Sequence[GPU], run: Run) -> None:
    for dtype in DTYPES:
        shown = Table(title=dtype, title_justify="left")
        for i, name in enumerate(head(devices)):
            shown.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
        for line in every:
            if line.dtype == dtype:
                shown.add_row(*row(line, devices, run))
        Console(width=None if sys.stdout.isatty() else WIDTH).print(shown)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.roofline", description=__doc__)
    parser.add_argument("json", type=Path, nargs="?", help="of a GPU run (make gpu)")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the page and its plots (docs)")
    parser.add_argument("--frames", type=int, nargs="*", default=FRAMES, help="numbers of frames")
    options = parser.parse_args(arguments)
    try:
        run = load(options.json) if options.json else Run()
    except (OSError, ValueError) as error:
        sys.exit(f"benchmarks.roofline: {error}")
    every, devices = list(lines(options.frames, LONGEST)), gpus(run)
    options.out.mkdir(parents=True, exist_ok=True)
    draw_all(every, devices, run.own(devices), run.seconds, options.out)
    (options.out / "roofline.md").write_text(page(every, devices, run))
    show(every, devices, run)
    print(f"The page is {options.out / 'roofline.md'}.")


if __name__ == "__main__":
    main()
