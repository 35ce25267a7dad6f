"""What a run's directory holds: checkpoints, and the description they must agree with to go on."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynfocus.checkpoint_files import read_json
from dynfocus.errors import DynFocusError

RUN_FILE = "run.json"
# Keys that may differ between the parts of an interrupted run.
_FREE = ("output", "data.workers", "data.prefetch", "data.max_broken", "data.features", "schedule.batch_size")
_FREE_TOP = ("save_every", "keep", "log_every", "report_to", "gradient_checkpointing")


def last_checkpoint(output: Path) -> Path | None:
    """The checkpoint with the highest step; they are renamed to their place when whole."""
    found = [path for path in output.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def where_to_go_on(output: Path) -> str:
    """The last checkpoint, in words."""
    checkpoint = last_checkpoint(output)
    return "there is no checkpoint yet" if checkpoint is None else f"the last checkpoint is {checkpoint}"


def check_same_run(checkpoint: Path, description: Mapping[str, Any]) -> None:
    """Raises DynFocusError unless `checkpoint` is of a run with this recipe and model configuration."""
    saved = _flat(read_json(checkpoint / RUN_FILE))
    wanted = _flat(description)
    for key in sorted(saved.keys() | wanted.keys()):
        inner = key.partition(".")[2]
        if inner in _FREE or inner in _FREE_TOP:
            continue
        if saved.get(key) != wanted.get(key):
            raise DynFocusError(
                f"{checkpoint} is of another run: its {key} is {saved.get(key)!r} but must be {wanted.get(key)!r}"
            )


def _flat(values: Any, where: str = "") -> dict[str, Any]:
    if isinstance(values, Mapping):
        entries = {f"{where}.{key}" if where else str(key): value for key, value in values.items()}
    elif isinstance(values, list) and any(isinstance(value, Mapping) for value in values):
        entries = {f"{where}[{number}]": value for number, value in enumerate(values)}
    else:
        return {where: values}
    return {key: value for path, inner in entries.items() for key, value in _flat(inner, path).items()}
