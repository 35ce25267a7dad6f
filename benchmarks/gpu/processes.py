"""Several processes at once, each with its own log, none beyond the deadline."""

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.runner import SOURCE


@dataclass(frozen=True)
class Ended:
    name: str
    code: int | None  # None: killed at the deadline, or never begun
    log: Path

    def said(self, last: int = 1500) -> str:
        return self.log.read_text(errors="replace").strip()[-last:] if self.log.is_file() else ""


def together(
    commands: Mapping[str, Sequence[str]],
    environments: Mapping[str, Mapping[str, str]],
    logs: Path,
    deadline: float,
    jobs: int,
) -> Iterator[Ended]:
    """Runs all commands, `jobs` at a time in their order, and yields each as it ends."""
    waiting = list(commands)
    running: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
    while waiting or running:
        late = time.time() > deadline
        while waiting and (late or len(running) < jobs):
            name = waiting.pop(0)
            log = logs / f"{name.replace('/', '-')}.log"
            if late:
                yield Ended(name, None, log)
                continue
            with log.open("w") as file:
                process = subprocess.Popen(
                    commands[name],
                    cwd=SOURCE,
                    env=os.environ | environments[name],
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            running[name] = process, log
        for name, (process, log) in list(running.items()):
            if late and process.poll() is None:
                process.kill()
                process.wait()
                del running[name]
                yield Ended(name, None, log)
            elif process.poll() is not None:
                del running[name]
                yield Ended(name, process.returncode, log)
        time.sleep(0.05)
