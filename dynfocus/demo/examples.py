"""Training examples of the language stage: cached features of a video, and questions about it with their answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from dynfocus import DynFocusProcessor
from dynfocus.demo.questions import Question, random_question
from dynfocus.demo.scenes import Scene

IGNORED = -100  # the label of a token that the loss leaves out


class Example(NamedTuple):
    """A conversation about one video.

    features: [T, N, C], what `encode_patches` gave. turns: asked one after the other; the Q-Former reads the first.
    """

    features: Tensor
    turns: list[Question]


class QuestionDataset(Dataset):
    """`length` conversations about the videos in turn: a random question, then the description of the whole video.

    Both share the cost of the video's tokens. The description, a caption, is what events and their order are learned
    from; it comes last, for it answers everything, and a fifth of the conversations are that alone.
    features: [V, T, N, C], one row per scene.
    """

    def __init__(self, scenes: Sequence[Scene], features: Tensor, length: int, seed: int):
        self.scenes = scenes
        self.features = features
        self.length = length
        self.seed = seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        rng = np.random.default_rng((self.seed, index))
        video = index % len(self.scenes)
        # Order is the hardest to learn and is asked about twice as often as colour and shape.
        asked = str(rng.choice(("color", "shape", "order", "order")))
        kinds = ["description"] if rng.random() < 0.2 else [asked, "description"]
        return Example(self.features[video], [random_question(self.scenes[video], rng, kind) for kind in kinds])


class QuestionCollator:
    """Batches of examples as the model takes them; answers and their end tokens are labelled."""

    def __init__(self, processor: DynFocusProcessor):
        self.processor = processor

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        pad = self.processor.tokenizer.pad_token_id
        rows = [self._tokens(example) for example in examples]
        input_ids = pad_sequence([ids for ids, _ in rows], True, pad, padding_side="left")
        labels = pad_sequence([labels for _, labels in rows], True, IGNORED, padding_side="left")
        asked = self.processor.qformer_tokenizer(
            [example.turns[0].text for example in examples], padding=True, return_tensors="pt"
        )
        return {
            "input_ids": input_ids,
            "attention_mask": (input_ids != pad).long(),
            "labels": labels,
            "video_features": torch.cat([example.features for example in examples]).float(),
            "num_frames": torch.tensor([len(example.features) for example in examples]),
            "qformer_input_ids": asked.input_ids,
            "qformer_attention_mask": asked.attention_mask,
        }

    def _tokens(self, example: Example) -> tuple[Tensor, Tensor]:
        """input_ids [S] and labels [S] of the whole conversation, one placeholder per visual token."""
        tokenizer, placeholder = self.processor.tokenizer, self.processor.video_token
        visual_tokens = self.processor.plan(len(example.features)).num_tokens
        input_ids, labels = [tokenizer.bos_token_id], [IGNORED]
        for number, question in enumerate(example.turns):
            content = [{"type": "text", "text": question.text}]
            if number == 0:
                content.insert(0, {"type": "video"})
            message = {"role": "user", "content": content}
            chat = self.processor.apply_chat_template([message], add_generation_prompt=True)
            chat = chat.replace(placeholder, placeholder * visual_tokens)
            prompt = tokenizer(chat, add_special_tokens=False).input_ids
            answer = tokenizer(f" {question.answer}{tokenizer.eos_token}", add_special_tokens=False).input_ids
            input_ids += prompt + answer
            labels += [IGNORED] * len(prompt) + answer
        return torch.tensor(input_ids), torch.tensor(labels)
