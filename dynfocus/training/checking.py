"""`dynfocus data check`: what a recipe's data is like, and what in it is broken, before a run."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch.utils.data import DataLoader, Dataset

from dynfocus.loading import check_model_directory, load_processor
from dynfocus.training.dataset import BROKEN
from dynfocus.training.encoding import IGNORED, SampleEncoder
from dynfocus.training.mixture import Mixture, Source, open_source
from dynfocus.training.recipe import Recipe
from dynfocus.training.run import model_config, model_directory
from dynfocus.training.samples import BrokenSample, checked

COUNTS = ("tokens", "visual tokens", "answer tokens", "frames", "turns cut")


@dataclass
class SourceReport:
    """What was found in one source.

    kinds: samples with a video, an image, or text alone. broken: (what, reason). counts: per sample that was made
    ready, by the names of COUNTS.
    """

    name: str
    samples: int
    per_epoch: int
    kinds: Counter[str] = field(default_factory=Counter)
    turns: int = 0
    broken: list[tuple[str, str]] = field(default_factory=list)
    counts: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in COUNTS})

    def statistics(self) -> dict[str, list[float]]:
        """Mean, median, 95th percentile and maximum of each count."""
        return {
            name: [float(np.mean(values)), *np.quantile(values, [0.5, 0.95, 1]).tolist()]
            for name, values in self.counts.items()
            if values
        }


def check_data(recipe: Recipe, samples: int | None = 200) -> list[SourceReport]:
    """Reads every annotation and looks for every file; decodes and tokenises `samples` of each source (None: all), with
    the recipe's workers.

    Raises:
        DynFocusError: an annotation file or the model's directory cannot be read.
    """
    directory = model_directory(recipe)
    check_model_directory(directory)
    encoder = SampleEncoder(load_processor(directory, model_config(recipe)), recipe.data)
    sources = [open_source(settings) for settings in recipe.data.sources]
    return [_check(source, encoder, recipe, samples) for source in sources]


def _check(source: Source, encoder: SampleEncoder, recipe: Recipe, samples: int | None) -> SourceReport:
    report = SourceReport(source.name, len(source.samples), len(Mixture([source])))
    report.broken += [(f"entry {entry}", reason) for entry, reason in source.broken]
    sound = []
    for number, sample in enumerate(source.samples):
        report.kinds[next((visual.kind for visual in sample.visuals), "text")] += 1
        report.turns += len(sample.turns)
        try:
            for visual in checked(sample).visuals:
                source.media_file(visual.path)
            sound.append(number)
        except BrokenSample as error:
            report.broken.append((sample.id, str(error)))
    order = np.random.default_rng(recipe.seed).permutation(sound)[:samples].tolist()
    encoded = DataLoader(
        _Counted(source, encoder, order), batch_size=None, num_workers=min(recipe.data.workers, len(order))
    )
    for number, counts in zip(order, encoded, strict=True):
        if isinstance(counts, str):
            report.broken.append((source.samples[number].id, counts))
        else:
            for name, count in zip(COUNTS, counts, strict=True):
                report.counts[name].append(count)
    return report


class _Counted(Dataset):
    """The counts of samples, or why one is broken."""

    def __init__(self, source: Source, encoder: SampleEncoder, order: Sequence[int]):
        self.source = source
        self.encoder = encoder
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> list[int] | str:
        sample = self.source.samples[self.order[index]]
        try:
            example = self.encoder(sample, self.source)
        except BROKEN as error:
            return " ".join(str(error).split()) or type(error).__name__
        ids, answered = example["input_ids"], example["labels"] != IGNORED
        placeholder = self.encoder.processor.tokenizer.convert_tokens_to_ids(self.encoder.processor.video_token)
        answers = int((answered[1:] & ~answered[:-1]).sum() + answered[0])
        frames = int(example["num_frames"].sum()) if "num_frames" in example else 0
        cut = len(sample.turns) - answers
        return [len(ids), int((ids == placeholder).sum()), int(answered.sum()), frames, cut]
