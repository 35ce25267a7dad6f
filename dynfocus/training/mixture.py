"""The sources of a recipe as one indexed set of samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dynfocus.errors import DynFocusError
from dynfocus.training.layouts import LAYOUTS
from dynfocus.training.recipe import SourceSettings
from dynfocus.training.samples import BrokenSample, PackedSamples, Sample


@dataclass(frozen=True)
class Source:
    """One data set: its samples, where its files lie, and what in its annotations could not be read."""

    name: str
    media: Path
    samples: PackedSamples
    broken: tuple[tuple[int, str], ...]  # (entry of the file, reason)
    weight: float = 1.0

    def media_file(self, path: str) -> Path:
        """Where an image or video lies; a path without extension (ActivityNet's ids) takes the one that is there.

        Raises:
            BrokenSample: there is none.
        """
        file = self.media / path
        if file.is_file():
            return file
        for extension in _VIDEO_EXTENSIONS if not file.suffix or file.suffix not in _KNOWN_EXTENSIONS else ():
            if (found := file.with_name(file.name + extension)).is_file():
                return found
        raise BrokenSample(f"{file}: no such file")


_VIDEO_EXTENSIONS = (".mp4", ".mkv", ".webm", ".avi")
_KNOWN_EXTENSIONS = (*_VIDEO_EXTENSIONS, ".mov", ".gif", ".jpg", ".jpeg", ".png", ".webp", ".bmp")


def open_source(settings: SourceSettings) -> Source:
    """Reads a source's annotations.

    Raises:
        DynFocusError: a file or the media folder is missing, or nothing in it can be used.
    """
    file, media = Path(settings.path), Path(settings.media)
    if not file.is_file():
        raise DynFocusError(f"{file}: no such file; data.sources must name annotation files")
    if not media.is_dir():
        raise DynFocusError(f"{media}: no such folder; media of {file} must be where its images and videos lie")
    broken: list[tuple[int, str]] = []
    samples: list[Sample] = []
    videos = None if settings.videos is None else Path(settings.videos)
    for number, entry in enumerate(LAYOUTS[settings.layout](file, videos)):
        if isinstance(entry, BrokenSample):
            broken.append((number, str(entry)))
        else:
            samples.append(entry)
    if not samples:
        first = f"; entry {broken[0][0]}: {broken[0][1]}" if broken else ""
        raise DynFocusError(f"{file} has no sample that layout {settings.layout!r} can read{first}")
    return Source(str(file), media, PackedSamples(samples), tuple(broken), settings.weight)


class Mixture:
    """Every source `weight` times an epoch: whole rounds of it, and of the last, partial one a fixed random part."""

    def __init__(self, sources: Sequence[Source], seed: int = 0):
        self.sources = list(sources)
        self.seed = seed
        counts = [max(1, round(source.weight * len(source.samples))) for source in self.sources]
        self._ends = np.cumsum([0, *counts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, index: int) -> tuple[int, int]:
        """Which source, and which of its samples."""
        source = int(np.searchsorted(self._ends, index, side="right")) - 1
        offset = index - int(self._ends[source])
        order = self._orders[source]
        return source, int(order[offset % len(order)])

    @cached_property
    def _orders(self) -> list[np.ndarray]:
        return [
            np.random.default_rng((self.seed, number)).permutation(len(source.samples))
            for number, source in enumerate(self.sources)
        ]
