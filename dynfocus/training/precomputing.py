"""Before a run: the frozen vision tower's features of every image and video it will see, where they are missing."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import BatchFeature, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled, is_fsdp_enabled

from dynfocus.errors import DynFocusError
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration
from dynfocus.training.dataset import BROKEN
from dynfocus.training.encoding import SampleEncoder
from dynfocus.training.features import FeatureFiles, SampledVisual, write_features
from dynfocus.training.mixture import Mixture
from dynfocus.training.recipe import DataSettings, Recipe
from dynfocus.training.samples import checked

_Entry = tuple[int, int]  # source, sample
_Placed = tuple[Path, SampledVisual]


class FrozenTower:
    """A context in which the model's frozen tower is on `device` and gives features as it would in the run.

    Raises:
        DynFocusError: this process does not hold the whole tower.
    """

    def __init__(self, base: DynFocusForConditionalGeneration, precision: str, device: torch.device):
        if is_deepspeed_zero3_enabled() or is_fsdp_enabled():  # the latter: weights in the first process alone
            raise DynFocusError(
                "data.features needs the whole vision tower in every process before the run; use FSDP2 with "
                "fsdp_cpu_ram_efficient_loading: false, or ZeRO-2"
            )
        self.base = base
        self.chunk_size = base.config.vision_chunk_size
        self.precision = precision
        self.device = device
        self.home = next(base.vision_tower.parameters()).device

    def __enter__(self) -> "FrozenTower":
        self.base.vision_tower.to(self.device).eval()
        return self

    def __exit__(self, *exception: object) -> None:
        self.base.vision_tower.to(self.home)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Frames [T, 3, H, W] → features [T, patches (+ 1 class token), C] fp16, both on the CPU."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            chunks = [self.base.encode_patches(chunk.to(self.device)) for chunk in pixels.split(self.chunk_size)]
        features = torch.cat([chunk.half().cpu() for chunk in chunks])
        if not torch.isfinite(features).all():
            raise DynFocusError("data.features: the vision tower's features are beyond float16, in which they are kept")
        return features


def compute_missing(
    tower: FrozenTower, encoder: SampleEncoder, mixture: Mixture, recipe: Recipe, arguments: TrainingArguments
) -> None:
    """Writes the features that the mixture's samples need and `encoder.features` has not: each process its share, and
    returns when all have done theirs. For a sample that cannot be read, those of the ones that may take its place.

    Raises:
        DynFocusError: they cannot be written.
    """
    assert encoder.features is not None
    processes = _Processes(arguments)
    entries = {mixture.locate(index) for index in range(len(mixture))}
    failed: set[Path] = set()
    for _ in range(recipe.data.max_broken):
        missing, users, broken = _missing(encoder, encoder.features, mixture, entries)
        todo = {place: visual for place, visual in missing.items() if place not in failed}
        if todo and processes.rank == 0:
            print(f"computing features of {len(todo):,} images and videos", file=sys.stderr)
        ours = [(place, visual) for place, visual in todo.items() if processes.owns(place)]
        quiet = arguments.disable_tqdm or processes.rank > 0
        failed |= processes.united(_write(tower, encoder, ours, recipe.data, quiet))
        broken |= {entry for place in failed & users.keys() for entry in users[place]}
        if not broken:
            return
        entries = {(source, (entry + 1) % len(mixture.sources[source].samples)) for source, entry in broken}


def _missing(
    encoder: SampleEncoder, files: FeatureFiles, mixture: Mixture, entries: Iterable[_Entry]
) -> tuple[dict[Path, SampledVisual], dict[Path, list[_Entry]], set[_Entry]]:
    """Visuals without features by their places, the samples that need each, and samples that are broken already."""
    missing: dict[Path, SampledVisual] = {}
    users: dict[Path, list[_Entry]] = {}
    broken = set()
    for number, entry in sorted(entries):
        source = mixture.sources[number]
        try:
            for visual in encoder.sampled(checked(source.samples[entry]), source):
                place = files.place(visual)
                if place in missing or not place.exists():
                    missing[place] = visual
                    users.setdefault(place, []).append((number, entry))
        except BROKEN:
            broken.add((number, entry))
    return missing, users, broken


def _write(
    tower: FrozenTower, encoder: SampleEncoder, visuals: Sequence[_Placed], data: DataSettings, quiet: bool
) -> set[Path]:
    """Decodes in the recipe's workers, encodes and writes; gives the places of what cannot be decoded."""
    failed = set()
    workers = min(data.workers, len(visuals))
    decoded = DataLoader(
        _Decoded(encoder, [visual for _, visual in visuals]),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=data.prefetch if workers else None,
        collate_fn=_unchanged,
    )
    with tqdm(total=len(visuals), desc="features", disable=quiet) as bar:
        for together in _filling(tower.chunk_size, visuals, decoded):
            readable = {place: frames for place, frames in together if frames is not None}
            failed |= {place for place, frames in together if frames is None}
            _encode_and_write(tower, readable)
            bar.update(len(together))
    return failed


def _filling(
    chunk_size: int, visuals: Sequence[_Placed], decoded: Iterable[BatchFeature | None]
) -> Iterator[list[tuple[Path, BatchFeature | None]]]:
    """Visuals in groups of at least `chunk_size` frames: an image alone would leave the tower idle."""
    together, frames = [], 0
    for (place, _), one in zip(visuals, decoded, strict=True):
        together.append((place, one))
        frames += 0 if one is None else int(one["num_frames"])
        if frames >= chunk_size:
            yield together
            together, frames = [], 0
    if together:
        yield together


def _encode_and_write(tower: FrozenTower, frames: Mapping[Path, BatchFeature]) -> None:
    if not frames:
        return
    features = tower(torch.cat([one["pixel_values_videos"] for one in frames.values()]))
    lengths = [int(one["num_frames"]) for one in frames.values()]
    for (place, one), own in zip(frames.items(), features.split(lengths), strict=True):
        counts = {name: one[name] for name in ("num_frames", "frame_timestamps")}
        write_features(place, {**counts, "video_features": own})


class _Decoded(Dataset):
    """Visuals as the video processor makes them ready, or None where one cannot be read."""

    def __init__(self, encoder: SampleEncoder, visuals: Sequence[SampledVisual]):
        self.encoder = encoder
        self.visuals = visuals

    def __len__(self) -> int:
        return len(self.visuals)

    def __getitem__(self, index: int) -> BatchFeature | None:
        try:
            return self.encoder.decoded(self.visuals[index])
        except BROKEN:
            return None  # the run names it, with the reason, when its turn comes


def _unchanged(frames: BatchFeature | None) -> BatchFeature | None:
    return frames


class _Processes:
    """The processes of the run. They wait for one another as long as it takes, which the run's own group would not."""

    def __init__(self, arguments: TrainingArguments):
        self.rank, self.count = arguments.process_index, arguments.world_size
        self.group = dist.new_group(backend="gloo", timeout=timedelta(days=30)) if self.count > 1 else None

    def owns(self, place: Path) -> bool:
        """Whether this process computes it; all agree without asking, though some may already be at work."""
        return int(place.stem[:8], 16) % self.count == self.rank

    def united(self, places: set[Path]) -> set[Path]:
        """Those of all processes, once all are here."""
        if self.group is None:
            return places
        everyone: list[Any] = [None] * self.count
        dist.all_gather_object(everyone, places, group=self.group)
        return set().union(*everyone)
