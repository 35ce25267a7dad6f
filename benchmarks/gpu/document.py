"""The JSON of a run: a head and rows. A rehearsal's cannot be mistaken for a measurement."""

import json
import os
from pathlib import Path
from typing import Any

Row = dict[str, Any]

RUN, REHEARSAL = "dynfocus gpu run", "dynfocus gpu rehearsal"
RESULTS = Path(__file__).parents[1] / "results"  # only measurements are kept there
STATUSES = ("measured", "passed", "failed", "skipped")


def path_in(out: Path, rehearsed: bool) -> Path:
    """The file of a run in the folder `out`.

    Raises:
        ValueError: if that is where measurements are kept, and this is a rehearsal.
    """
    if rehearsed and out.resolve().is_relative_to(RESULTS.resolve()):
        raise ValueError(f"out is {out}, it must not be in {RESULTS}: a rehearsal measures nothing")
    return out / ("rehearsal.json" if rehearsed else "gpu.json")


def write(path: Path, head: dict[str, Any], rows: list[Row], rehearsed: bool) -> None:
    """Replaces the file in one step: whoever is killed leaves a whole one."""
    lines = ",\n".join(json.dumps(row | {"rehearsed": True} if rehearsed else row) for row in rows)
    start = json.dumps({"kind": REHEARSAL if rehearsed else RUN, "rehearsed": rehearsed, **head})
    new = path.with_suffix(".new")
    new.write_text(f'{start[:-1]}, "rows": [\n{lines}\n]}}\n')
    os.replace(new, path)


def load(path: Path) -> dict[str, Any]:
    """A measured run.

    Raises:
        ValueError: if it is something else, a rehearsal above all.
    """
    document: dict[str, Any] = json.loads(path.read_text())
    if (
        document.get("kind") != RUN
        or document.get("rehearsed")
        or any(row.get("rehearsed") for row in document["rows"])
    ):
        raise ValueError(f"{path} is {document.get('kind', 'another JSON')!r}, it must be a {RUN!r} (make gpu)")
    return document


def failed(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["status"] == "failed"]


def found(rows: list[Row], **wanted: Any) -> Row | None:
    """The first row that has all of `wanted`."""
    return next((row for row in rows if all(row.get(key) == value for key, value in wanted.items())), None)
