"""Encoded samples become a batch that passes every part of the model, whatever is in it."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dynfocus.processing_dynfocus import DynFocusProcessor
from dynfocus.training.encoding import IGNORED

_PER_FRAME_OR_VISUAL = ("num_frames", "frame_timestamps", "visual_token_budget")
_PER_QUESTION = ("qformer_input_ids", "qformer_attention_mask")


class TrainingCollator:
    """Pads on the right and packs the visuals.

    There is no attention mask: what stands behind a row's end is seen by no token before it, and has no loss. A batch
    of text alone gets a black image there in its first row: all processes then run the same modules, and every trained
    weight has a gradient (here zero), without which processes that have a video in their batch would wait for those
    that have none.

    Args:
        encode: the vision tower, where samples have its features in place of pixels: the black image then has too.
    """

    def __init__(self, processor: DynFocusProcessor, encode: Callable[[Tensor], Tensor] | None = None):
        self.pad = processor.tokenizer.pad_token_id
        self.question_pad = processor.qformer_tokenizer.pad_token_id
        size = processor.video_processor.size
        black = np.zeros((size["height"], size["width"], 3), np.uint8)
        self.blank = {**processor(text="<image>", images=[black], questions=["image"]), "frame_index": torch.arange(1)}
        self.frames = "pixel_values_videos" if encode is None else "video_features"
        if encode is not None:
            self.blank["video_features"] = encode(self.blank.pop("pixel_values_videos"))
        placeholder = processor.tokenizer.convert_tokens_to_ids(processor.video_token)
        self.blank_ids = self.blank["input_ids"][self.blank["input_ids"] == placeholder]

    def __call__(self, examples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Samples of `SampleEncoder` → input_ids, labels [B, S] and the visual inputs of the model."""
        rows = [example["input_ids"] for example in examples]
        labels = [example["labels"] for example in examples]
        visuals = [example for example in examples if "num_frames" in example]
        if not visuals:
            visuals = [self.blank]
            rows[0] = torch.cat([rows[0], self.blank_ids])
        lengths = [len(visual[self.frames]) for visual in visuals]
        first_row = [sum(lengths[:number]) for number in range(len(visuals))]
        frame_index = [visual["frame_index"] + row for visual, row in zip(visuals, first_row, strict=True)]
        return {
            "input_ids": pad_sequence(rows, True, self.pad),
            "labels": _padded(labels, max(map(len, rows)), IGNORED),
            "frame_index": torch.cat(frame_index),
            **{name: torch.cat([visual[name] for visual in visuals]) for name in (self.frames, *_PER_FRAME_OR_VISUAL)},
            **{name: self._questions(name, visuals) for name in _PER_QUESTION},
        }

    def _questions(self, name: str, visuals: Sequence[dict[str, Tensor]]) -> Tensor:
        questions = [question for visual in visuals for question in visual[name]]
        return pad_sequence(questions, True, self.question_pad if name == "qformer_input_ids" else 0)


def _padded(rows: Sequence[Tensor], length: int, value: int) -> Tensor:
    return torch.stack([torch.nn.functional.pad(row, (0, length - len(row)), value=value) for row in rows])
