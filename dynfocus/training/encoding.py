"""A conversation becomes tokens, labels and frames, cut to length after its visuals have their tokens."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature
from transformers.image_utils import load_image

from dynfocus.errors import DynFocusError
from dynfocus.processing_dynfocus import DynFocusProcessor, joined
from dynfocus.training.features import FeatureFiles, SampledVisual
from dynfocus.training.mixture import Source
from dynfocus.training.recipe import DataSettings
from dynfocus.training.samples import BrokenSample, Sample, Turn, Visual, checked
from dynfocus.visual_placeholders import split_at_placeholders, without_placeholders

IGNORED = -100  # the label of a token that the loss leaves out

# The language model sees the visual tokens and is to say the answer; the question reaches the Q-Former alone.
CAPTION_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}"
    "{%- for part in message['content'] if part['type'] in ('video', 'image') -%}"
    "{{ '<' + part['type'] + '>\n' }}{%- endfor -%}"
    "{%- else -%}{% generation %}{{ message['content'] + eos_token + '\n' }}{% endgeneration %}{%- endif -%}"
    "{%- endfor -%}"
)


class SampleEncoder:
    """Samples of `source` as model inputs of one row.

    Each visual takes its share of the processor's `max_visual_tokens`. Where every question has visual tokens of its
    own, a video is decoded once for all of them.

    Args:
        features: where the vision tower's features of every visual are, in place of its frames.
    """

    def __init__(self, processor: DynFocusProcessor, settings: DataSettings, features: FeatureFiles | None = None):
        self.processor = copy.copy(processor)
        self.processor.max_visual_tokens = settings.max_visual_tokens or processor.max_visual_tokens
        if (most := self.processor.max_visual_tokens) >= settings.max_tokens:
            raise DynFocusError(
                f"data.max_tokens is {settings.max_tokens} but must be more than the visual tokens of a sample, or a "
                f"video could leave no room for words; set data.max_visual_tokens, now {most}"
            )
        self.settings = settings
        self.features = features

    def __call__(self, sample: Sample, source: Source) -> dict[str, Tensor]:
        """input_ids, labels [S]; with visuals also what the processor returns for them, and frame_index.

        Labels are the answers' own tokens and their ends, found by where they lie in the text; nothing is tokenised
        twice.

        Raises:
            BrokenSample: malformed, a file is missing, or the first question leaves no room for an answer.
            DynFocusError: an image or video cannot be read.
        """
        sample = checked(sample)
        turns = sample.turns[: self._most_turns(sample)]
        frames = [self._frames(visual) for visual in self.sampled(sample, source)]
        while True:
            inputs = self._inputs(turns, frames)
            ids, marked = (torch.tensor(inputs.pop(name)[0]) for name in ("input_ids", "assistant_masks"))
            marked = marked.bool()
            fitting = _whole_answers(marked, self.settings.max_tokens)
            if len(ids) <= self.settings.max_tokens or len(turns) == 1:
                break
            turns = turns[: max(1, min(fitting, len(turns) - 1))]
        ids, marked = ids[: self.settings.max_tokens], marked[: self.settings.max_tokens]
        if not marked.any():
            raise BrokenSample(f"its first question leaves no room for an answer in {self.settings.max_tokens} tokens")
        inputs.pop("attention_mask")
        if frames:
            inputs |= _without_repeats(frames, len(inputs["num_frames"]) // len(frames))
        return {**inputs, "input_ids": ids, "labels": ids.where(marked, IGNORED)}

    def _most_turns(self, sample: Sample) -> int:
        most = min(self.settings.max_turns or len(sample.turns), len(sample.turns))
        if self.settings.visual_turns == "each" and sample.visuals:
            cheapest = self.processor.fine_tokens + self.processor.rods_tokens
            payable = self.processor.max_visual_tokens // cheapest // len(sample.visuals)
            most = min(most, max(1, payable))
        return most

    def sampled(self, sample: Sample, source: Source) -> list[SampledVisual]:
        """The visuals of a checked sample, each with as many frames as its share of the budget is worth.

        Raises:
            BrokenSample: a file is missing.
        """
        repeats = self._most_turns(sample) if self.settings.visual_turns == "each" else 1
        num_visuals = len(sample.visuals) * repeats
        return [self._sampled(visual, source, num_visuals) for visual in sample.visuals]

    def _sampled(self, visual: Visual, source: Source, num_visuals: int) -> SampledVisual:
        processor, settings = self.processor.video_processor, self.settings
        most = min(self.processor.max_sampled_frames(num_visuals), settings.max_frames or processor.max_frames)
        file = source.media_file(visual.path)
        if visual.kind == "image":
            return SampledVisual(file, visual.kind)
        limits: dict[str, Any] = {"max_frames": most}
        if settings.fps is not None:
            limits |= {"fps": settings.fps, "num_frames": None}
        elif (count := settings.num_frames or processor.num_frames) is not None:
            # Frames kept on disk are found by these numbers: none may differ where the frames do not.
            limits = {"num_frames": min(count, most), "max_frames": min(count, most)}
        return SampledVisual(file, visual.kind, limits)

    def decoded(self, visual: SampledVisual) -> BatchFeature:
        """Its frames, as the video processor makes them ready."""
        if visual.kind == "image":
            return self.processor.video_processor([[load_image(str(visual.file)).convert("RGB")]])
        return self.processor.video_processor([str(visual.file)], **visual.sampling)

    def _frames(self, visual: SampledVisual) -> BatchFeature:
        """Its frames, or their features."""
        if self.features is None:
            return self.decoded(visual)
        if (features := self.features.read(visual)) is not None:
            return features
        self.decoded(visual)  # if that is why it has none, this says what is wrong with it
        raise BrokenSample(f"{visual.file} has no features in {self.features.folder}: it changed after the run began")

    def _inputs(self, turns: Sequence[Turn], frames: Sequence[BatchFeature]) -> BatchFeature:
        """The conversation as the processor returns it; a visual is a video here, an image one of a single frame."""
        # Without their pixels, which the processor would copy for every repetition.
        counts = [BatchFeature({name: one[name] for name in ("num_frames", "frame_timestamps")}) for one in frames]
        visuals = [{"type": "video", "video": one} for one in counts]
        conversation, questions = [], []
        for number, turn in enumerate(turns):
            upcoming = iter(visuals)
            parts = visuals if number and self.settings.visual_turns == "each" else []
            parts = [*parts, *(_part(text, upcoming) for text in split_at_placeholders(turn.question) if text != "")]
            questions += [without_placeholders(turn.question)] * sum(part["type"] == "video" for part in parts)
            conversation += [{"role": "user", "content": parts}, {"role": "assistant", "content": turn.answer.strip()}]
        return self.processor.apply_chat_template(
            conversation,
            chat_template=CAPTION_TEMPLATE if self.settings.prompt == "caption" else None,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            # transformers goes through tokens one by one to mark answers, which in a tensor takes long.
            processor_kwargs={"questions": [questions], "truncate_questions": True, "return_tensors": None},
        )


def _without_repeats(frames: Sequence[BatchFeature], repeats: int) -> dict[str, Tensor]:
    """Pixels or features of each visual once, and frame_index: which of them the frames of all its repetitions are."""
    name = "pixel_values_videos" if "pixel_values_videos" in frames[0] else "video_features"
    content = joined([one[name] for one in frames])
    return {name: content, "frame_index": torch.arange(len(content)).repeat(repeats)}


def _part(text: str | None, visuals: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """A part of a message: the next visual for a placeholder, else its text."""
    return next(visuals) if text is None else {"type": "text", "text": text}


def _whole_answers(marked: Tensor, max_tokens: int) -> int:
    """How many answers end within `max_tokens`; an answer is a run of marked tokens."""
    following = torch.cat([marked[1:], marked.new_zeros(1)])
    ends = (marked & ~following).nonzero().flatten() + 1
    return int((ends <= max_tokens).sum())
