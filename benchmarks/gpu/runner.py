"""Runs the stages one after the other, each in a process of its own and within its time box; imports no torch."""

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu import document, goals
from benchmarks.gpu.document import Row
from benchmarks.gpu.stage import described, read_rows

SOURCE = Path(__file__).parents[2]
MARGIN = 3.0  # seconds between the deadline a stage is told and the one at which it is killed


@dataclass(frozen=True)
class Box:
    name: str  # of the stage, and of its module in this package
    share: float  # of the budget; what the stages before left over comes on top
    needed: bool = False  # without it the others have nothing to do


BOXES = (
    Box("facts", 25, needed=True),
    Box("build", 95),
    Box("correctness", 140),
    Box("sanitizer", 60),
    Box("benchmarks", 130),
    Box("connector", 35),
    Box("model", 55),
)


@dataclass(frozen=True)
class Settings:
    budget: float  # seconds, for all stages
    out: Path
    rehearsed: bool
    boxes: Sequence[Box] = BOXES
    paths: tuple[Path, ...] = ()  # for PYTHONPATH: packages that were carried along
    command: Callable[[str], list[str]] = lambda name: [sys.executable, "-m", "benchmarks.gpu", "--stage", name]


def run(settings: Settings) -> list[Row]:
    """All rows; also in the JSON in `settings.out`, which is whole after every stage.

    Raises:
        ValueError: as `document.path_in`.
    """
    target = document.path_in(settings.out, settings.rehearsed)
    settings.out.mkdir(parents=True, exist_ok=True)
    rows_file = settings.out.resolve() / "rows.jsonl"
    rows_file.unlink(missing_ok=True)
    start = time.time()
    head: dict[str, Any] = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(start)),
        "budget": settings.budget,
        "python": platform.python_version(),
        "commit": commit(),
    }
    deadlines = deadlines_of(settings.boxes, start, settings.budget)
    for box in settings.boxes:
        began = time.time()
        end = run_stage(settings, box.name, rows_file, deadlines[box.name])
        with rows_file.open("a") as file:
            file.write(json.dumps({"stage": box.name, "name": "stage", **end}) + "\n")
        rows = read_rows(rows_file)
        so_far = {**head, "seconds": round(time.time() - start, 1), "goals": goals.checked(rows)}
        document.write(target, so_far, rows, settings.rehearsed)
        print(f"{box.name}: {end['status']}, {time.time() - began:.0f} s{why(end)}", flush=True)
        if box.needed and document.failed([row for row in rows if row["stage"] == box.name]):
            break
    return read_rows(rows_file)


def deadlines_of(boxes: Sequence[Box], start: float, budget: float) -> dict[str, float]:
    """By the shares summed up, so that a stage may use what those before it left, and no more."""
    total, used = sum(box.share for box in boxes), 0.0
    deadlines = {}
    for box in boxes:
        used += box.share
        deadlines[box.name] = start + budget * used / total
    return deadlines


def run_stage(settings: Settings, name: str, rows_file: Path, deadline: float) -> dict[str, Any]:
    """The row that says how the stage ended."""
    if deadline - time.time() < MARGIN + 1:
        return {"status": "skipped", "why": "no time left for this stage"}
    environment = os.environ | described(rows_file, settings.out.resolve(), deadline - MARGIN, settings.rehearsed)
    environment |= {
        "PYTHONPATH": os.pathsep.join(filter(None, [*map(str, settings.paths), os.environ.get("PYTHONPATH")])),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    if settings.rehearsed:
        environment |= {"TRITON_INTERPRET": "1"}
    log = settings.out / f"{name}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            settings.command(name),
            cwd=SOURCE,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(timeout=max(0.0, deadline - time.time()))
        except subprocess.TimeoutExpired:
            return {"status": "failed", "why": f"still running at its deadline, killed; see {log.name}"}
        finally:
            with contextlib.suppress(ProcessLookupError):  # whatever it left running goes with it
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode != 0:
        return {"status": "failed", "why": f"ended with {process.returncode}: {last_line(log)}"}
    return {"status": "passed"}


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it printed nothing"


def why(end: dict[str, Any]) -> str:
    return f" ({end['why']})" if "why" in end else ""


def commit() -> str | None:
    """None outside a git checkout, as where only the files were carried."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip() + (" with changes on top" if changed.stdout.strip() else "")
