"""What a stage's process is given: where its rows go, how long it has, and whether it is the real thing."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.document import STATUSES, Row

VARIABLE = "DYNFOCUS_GPU_STAGE"


@dataclass(frozen=True)
class Stage:
    name: str
    rows: Path  # one JSON a line, that of each row written at once: what was found survives a crash
    out: Path
    deadline: float  # of time.time()
    rehearsed: bool

    @classmethod
    def given(cls, name: str) -> "Stage":
        """As the runner describes it to the stage's process, and that to its own."""
        given = json.loads(os.environ[VARIABLE])
        return cls(name, Path(given["rows"]), Path(given["out"]), given["deadline"], given["rehearsed"])

    def described(self) -> dict[str, str]:
        """For the environment of a process of this stage."""
        return described(self.rows, self.out, self.deadline, self.rehearsed)

    @property
    def device(self) -> str:
        return "cpu" if self.rehearsed else "cuda"

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.time()

    def add(self, name: str, status: str, **details: Any) -> Row:
        """One row: what was looked at, how it went ("measured", "passed", "failed" or "skipped"), and anything else."""
        if status not in STATUSES:
            raise ValueError(f"status is {status!r}, it must be one of {STATUSES}")
        row = {"stage": self.name, "name": name, "status": status, **details}
        with self.rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return row

    def enough_time(self, name: str, seconds: float, **details: Any) -> bool:
        """Whether `seconds` are left; if not, the row `name` says that it was not reached."""
        if self.left() >= seconds:
            return True
        self.add(name, "skipped", why=f"{self.left():.0f} s left, it needs {seconds:.0f}", **details)
        return False

    @contextmanager
    def failure_is_a_row(self, name: str, **details: Any) -> Iterator[None]:
        """What goes wrong inside becomes a failed row, and the stage goes on with the next."""
        try:
            yield
        except Exception as error:
            self.add(name, "failed", why=f"{type(error).__name__}: {error}"[:1000], **details)

    def earlier_rows(self) -> list[Row]:
        """Those of the stages before, and this one's so far."""
        return read_rows(self.rows)


def described(rows: Path, out: Path, deadline: float, rehearsed: bool) -> dict[str, str]:
    settings = {"rows": str(rows), "out": str(out), "deadline": deadline, "rehearsed": rehearsed}
    return {VARIABLE: json.dumps(settings)}


def read_rows(path: Path) -> list[Row]:
    """All whole rows: a process that is killed may leave half a line."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows
