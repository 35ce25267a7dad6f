"""The mixture as a dataset of encoded samples. A broken one is named in a file and another takes its place."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from dynfocus.errors import DynFocusError
from dynfocus.training.encoding import SampleEncoder
from dynfocus.training.mixture import Mixture

# What reading a sample of a file from the internet may end in; PIL raises SyntaxError for a broken PNG.
BROKEN = (DynFocusError, ValueError, OSError, SyntaxError, Image.DecompressionBombError)


class BrokenSamples:
    """A file of JSON lines, {source, entry, id, reason}; processes append to it as they meet broken samples."""

    def __init__(self, file: Path):
        self.file = file
        self._named: set[tuple[str, int]] = set()  # by this process

    def add(self, source: str, entry: int, id: str | None, reason: str) -> None:
        if (source, entry) in self._named:
            return
        self._named.add((source, entry))
        record = {"source": source, "entry": entry, "id": id, "reason": " ".join(reason.split())}
        line = json.dumps(record) + "\n"
        descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, line.encode())  # one write, so that lines of several processes do not mix
        finally:
            os.close(descriptor)

    def count(self) -> int:
        """How many different samples are named so far."""
        return len({(record["source"], record["entry"]) for record in self})

    def __iter__(self) -> Iterator[dict]:
        if self.file.exists():
            whole, _, _ = self.file.read_text(encoding="utf-8").rpartition("\n")  # another process may be writing
            for line in whole.splitlines():
                yield json.loads(line)


class TrainingDataset(Dataset):
    """Encoded samples of a mixture; the same index gives the same sample.

    In place of a broken sample comes the next of its source, so that every process has as many batches as the others.
    """

    def __init__(self, mixture: Mixture, encoder: SampleEncoder, broken: BrokenSamples, max_broken: int = 50):
        self.mixture = mixture
        self.encoder = encoder
        self.broken = broken
        self.max_broken = max_broken

    def __len__(self) -> int:
        return len(self.mixture)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        number, entry = self.mixture.locate(index)
        source = self.mixture.sources[number]
        attempts = min(self.max_broken, len(source.samples))
        for attempt in range(attempts):
            chosen = (entry + attempt) % len(source.samples)
            sample = source.samples[chosen]
            try:
                return self.encoder(sample, source)
            except BROKEN as error:
                reason = str(error) or type(error).__name__
                self.broken.add(source.name, chosen, sample.id, reason)
        raise DynFocusError(
            f"{attempts} samples of {source.name} in a row are broken, the last since {reason}; "
            f"{self.broken.file} names them"
        )
