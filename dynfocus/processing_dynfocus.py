"""Processor of DynFocus: conversations about videos and images in, model inputs out."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoProcessor, BatchFeature, ProcessorMixin
from transformers.image_utils import load_image
from transformers.processing_utils import TextKwargs
from transformers.video_processing_utils import VideoProcessorMixin

from dynfocus.configuration_dynfocus import DynFocusConfig
from dynfocus.errors import DynFocusError
from dynfocus.token_budget import RODS_TOKENS, TokenPlan, max_frames_to_sample, plan_tokens
from dynfocus.video_processing_dynfocus import DynFocusVideoProcessor
from dynfocus.visual_placeholders import (
    IMAGE,
    VIDEO,
    expand_placeholders,
    find_placeholders,
    flat,
    flat_videos,
    without_placeholders,
)


class DynFocusBatch(BatchFeature):
    """Model inputs. Casting them to half precision spares the timestamps, which it would round to seconds."""

    def to(self, *args: Any, **kwargs: Any) -> "DynFocusBatch":
        timestamps = self.get("frame_timestamps")
        super().to(*args, **kwargs)
        if timestamps is not None:
            self["frame_timestamps"] = timestamps.to(self["input_ids"].device)
        return self


class DynFocusProcessor(ProcessorMixin):
    """Samples videos, and writes as many placeholders into the text as the model will make visual tokens.

    `<video>` and `<image>` in the text stand for the videos and images in their order; an image is a video of one
    frame. The Q-Former reads the bare question, with a tokenizer of its own.

    Args:
        video_processor, tokenizer, qformer_tokenizer: a `DynFocusVideoProcessor`, the language model's tokenizer
            (gets the token `<video>` if it has none) and the Q-Former's.
        chat_template: of the language model, see `dynfocus.chat_templates`.
        num_events, key_ratio, fine_tokens, rods_tokens, max_visual_tokens: must be those of the model's
            configuration, see `ConnectorSettings`; `from_components` copies them. max_visual_tokens holds per
            sample: its videos share it evenly.
        max_question_tokens: the longest question the Q-Former takes.
    """

    video_token = VIDEO
    image_token = IMAGE

    def __init__(
        self,
        video_processor=None,
        tokenizer=None,
        qformer_tokenizer=None,
        chat_template=None,
        num_events: int = 25,
        key_ratio: float = 0.8,
        fine_tokens: int = 38,
        max_visual_tokens: int = 2048,
        max_question_tokens: int = 256,
        rods_tokens: int = RODS_TOKENS,
    ):
        if rods_tokens not in (0, RODS_TOKENS):
            raise ValueError(f"rods_tokens is {rods_tokens} but must be {RODS_TOKENS}, or 0 without rods")
        super().__init__(video_processor, tokenizer, qformer_tokenizer, chat_template=chat_template)
        if self.video_token not in tokenizer.get_vocab():
            tokenizer.add_tokens([self.video_token], special_tokens=True)
        self.num_events = num_events
        self.key_ratio = key_ratio
        self.fine_tokens = fine_tokens
        self.rods_tokens = rods_tokens
        self.max_visual_tokens = max_visual_tokens
        self.max_question_tokens = max_question_tokens

    @classmethod
    def from_components(
        cls, config: DynFocusConfig, video_processor, tokenizer, qformer_tokenizer, chat_template: str | None = None
    ) -> "DynFocusProcessor":
        """A processor whose token counts are those of a model with this configuration."""
        longest = min(256, config.qformer_config.max_position_embeddings)
        processor = cls(video_processor, tokenizer, qformer_tokenizer, chat_template, max_question_tokens=longest)
        processor.count_tokens_as(config)
        return processor

    def count_tokens_as(self, config: DynFocusConfig) -> None:
        """Takes the token settings of a model with this configuration."""
        settings = config.connector_settings()
        for name in _TOKEN_SETTINGS:
            setattr(self, name, getattr(settings, name))

    def plan(self, num_frames: int, budget: int | None = None) -> TokenPlan:
        """The token counts of a video of `num_frames` frames."""
        budget = self.max_visual_tokens if budget is None else budget
        return plan_tokens(
            num_frames,
            num_events=self.num_events,
            key_ratio=self.key_ratio,
            fine_tokens=self.fine_tokens,
            budget=budget,
            rods_tokens=self.rods_tokens,
        )

    def max_sampled_frames(self, num_videos: int = 1) -> int:
        """The most frames to sample from each of `num_videos` videos that share `max_visual_tokens`; without rods,
        whose number grows with the frames, `sys.maxsize`.

        Raises:
            DynFocusError: the budget does not pay for one frame of each.
        """
        budget = self.max_visual_tokens // num_videos
        most = max_frames_to_sample(
            budget,
            num_events=self.num_events,
            key_ratio=self.key_ratio,
            fine_tokens=self.fine_tokens,
            rods_tokens=self.rods_tokens,
        )
        if most < 1:
            raise DynFocusError(
                f"max_visual_tokens is {self.max_visual_tokens}, shared by {num_videos} visuals of a sample, "
                f"but must be at least {self.fine_tokens + self.rods_tokens} for each"
            )
        return most

    def __call__(
        self,
        images=None,
        text: str | Sequence[str] | None = None,
        videos=None,
        audio=None,
        questions: str | Sequence[str | Sequence[str]] | None = None,
        video_metadata=None,
        padding: bool | str = True,
        padding_side: str = "left",
        truncate_questions: bool = False,
        return_tensors: str | None = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """Args:
            images, videos: flat in the order of their placeholders, or one list per prompt; what transformers'
                `load_image` and `DynFocusVideoProcessor.preprocess` take. A video may also be what the video
                processor returned for it, to prepare it once for many questions; with video_features in place of its
                pixels, or with neither, the batch has what it has.
            text: one or a batch of prompts with `<video>` / `<image>` where the visuals stand.
            audio: must be None; transformers passes it.
            questions: what the Q-Former reads: one per prompt, or one per visual of each prompt. The prompt without
                its placeholders unless given; `apply_chat_template` gives the user's last words.
            truncate_questions: cut a question longer than `max_question_tokens` at its start (training on found
                data) instead of raising.
            return_tensors: "pt", or None for lists of tokens; what belongs to visuals is tensors in any case.
            kwargs: video sampling settings (fps, num_frames, min_frames, max_frames, decode_size) and tokenizer
                arguments, also as `videos_kwargs` and `text_kwargs`.

        Returns:
            A `DynFocusBatch`: input_ids, attention_mask [B, S]; with visuals pixel_values_videos [ΣT, 3, H, W],
            num_frames [V], frame_timestamps [ΣT] s, visual_token_budget [V], qformer_input_ids,
            qformer_attention_mask [V, L].

        Raises:
            ValueError: placeholders and visuals do not match, an empty or over-long question, a budget
                too small for a sample's videos.
            TypeError: an argument that neither the videos nor the tokenizer know.
        """
        if text is None:
            raise ValueError("text must be given, with <video> and <image> where the visuals stand")
        if audio is not None:
            raise ValueError("audio was given but DynFocus does not hear; it must be None")
        texts = [text] if isinstance(text, str) else list(text)
        return_replacements = kwargs.pop("return_text_replacement_offsets", False)
        sampling, tokenizing = _sorted_out(kwargs)
        samples = [find_placeholders(prompt) for prompt in texts]
        visuals, is_image = self._in_text_order(samples, videos, images)
        features: dict[str, Any] = {}
        num_tokens: Iterator[int] = iter(())
        if visuals:
            features = self._encode_visuals(samples, visuals, is_image, video_metadata, sampling)
            frames, budgets = features["num_frames"].tolist(), features["visual_token_budget"].tolist()
            num_tokens = (self.plan(count, budget).num_tokens for count, budget in zip(frames, budgets, strict=True))
            asked = self._questions_of_visuals(texts, samples, questions)
            features |= self._encode_questions(asked, truncate_questions)
        expanded, replacements = zip(*(expand_placeholders(prompt, num_tokens) for prompt in texts), strict=True)
        tokens = self.tokenizer(
            list(expanded), padding=padding, padding_side=padding_side, return_tensors=return_tensors, **tokenizing
        )
        if return_replacements:
            features["text_replacement_offsets"] = list(replacements)
        return DynFocusBatch({**tokens, **features})

    def _in_text_order(self, samples: list[list[str]], videos, images) -> tuple[list, list[bool]]:
        """All visuals in the order of their placeholders, and which of them are images."""
        queues = {VIDEO: flat_videos(videos), IMAGE: [_one_frame(image) for image in flat(images)]}
        kinds = [kind for sample in samples for kind in sample]
        for kind, queue in queues.items():
            if kinds.count(kind) != len(queue):
                raise ValueError(f"text has {kinds.count(kind)} {kind} but {len(queue)} {kind[1:-1]}s were given")
        iterators = {kind: iter(queue) for kind, queue in queues.items()}
        return [next(iterators[kind]) for kind in kinds], [kind == IMAGE for kind in kinds]

    def _encode_visuals(self, samples, visuals, is_image, video_metadata, sampling) -> dict[str, torch.Tensor]:
        metadata = flat(video_metadata) or [None] * is_image.count(False)
        if len(metadata) != is_image.count(False):
            raise ValueError(f"video_metadata has {len(metadata)} entries but there are {is_image.count(False)} videos")
        next_metadata = iter(metadata)
        sharing = [len(sample) for sample in samples for _ in sample]
        encoded = [
            self._encode_visual(visual, None if image else next(next_metadata), num_visuals, sampling)
            for visual, image, num_visuals in zip(visuals, is_image, sharing, strict=True)
        ]
        if any(one.keys() != encoded[0].keys() for one in encoded):
            raise ValueError(f"videos have {[sorted(one) for one in encoded]} but must have the same entries")
        features = {name: joined([one[name] for one in encoded]) for name in encoded[0]}
        return {**features, "visual_token_budget": torch.tensor([self.max_visual_tokens // n for n in sharing])}

    def _encode_visual(self, visual, metadata, num_visuals: int, sampling: dict[str, Any]) -> BatchFeature:
        """One visual of `num_visuals` that share a budget; what the video processor returned already stays as it is."""
        if isinstance(visual, BatchFeature):
            return visual
        most = self.max_sampled_frames(num_visuals)
        limits = {**sampling, "max_frames": min(most, sampling.get("max_frames") or self.video_processor.max_frames)}
        if (count := limits.get("num_frames") or self.video_processor.num_frames) is not None:
            limits["num_frames"] = min(count, most)
        return self.video_processor([visual], video_metadata=[metadata], **limits)

    def _questions_of_visuals(self, texts: list[str], samples: list[list[str]], questions) -> list[str]:
        """One question per visual, in the order of the visuals."""
        if questions is None:
            questions = [without_placeholders(prompt) for prompt in texts]
        questions = [questions] if isinstance(questions, str) else list(questions)
        if len(questions) != len(texts):
            raise ValueError(f"questions has {len(questions)} entries but must have one per text, {len(texts)}")
        asked: list[str] = []
        for sample, question in zip(samples, questions, strict=True):
            per_visual = [question] * len(sample) if isinstance(question, str) else list(question)
            if len(per_visual) != len(sample):
                raise ValueError(
                    f"questions has {len(per_visual)} for a text with {len(sample)} visuals; it must have one each"
                )
            asked += per_visual
        for question in asked:
            if not question.strip():
                raise ValueError("questions holds an empty question; the rods need something to look for")
        return asked

    def _encode_questions(self, questions: list[str], truncate: bool) -> dict[str, torch.Tensor]:
        tokenizer = self.qformer_tokenizer
        longest = max(len(ids) for ids in tokenizer(questions)["input_ids"])
        if longest > self.max_question_tokens and not truncate:
            raise ValueError(
                f"the question has {longest} tokens but must have at most {self.max_question_tokens} for the Q-Former"
            )
        side, tokenizer.truncation_side = tokenizer.truncation_side, "left"
        try:
            encoded = tokenizer(
                questions,
                padding=True,
                padding_side="right",
                truncation=True,
                max_length=self.max_question_tokens,
                return_tensors="pt",
            )
        finally:
            tokenizer.truncation_side = side
        return {"qformer_input_ids": encoded["input_ids"], "qformer_attention_mask": encoded["attention_mask"]}

    def apply_chat_template(self, conversation, chat_template=None, processor_kwargs=None, tokenize=False, **kwargs):
        """As in transformers; the Q-Former's question is the text of the user's last turn, unless
        `processor_kwargs={"questions": …}` says otherwise."""
        processor_kwargs = dict(processor_kwargs or {})
        if tokenize and "questions" not in processor_kwargs:
            batched = not isinstance(conversation[0], Mapping)
            processor_kwargs["questions"] = [_last_question(c) for c in (conversation if batched else [conversation])]
        return super().apply_chat_template(
            conversation, chat_template=chat_template, processor_kwargs=processor_kwargs, tokenize=tokenize, **kwargs
        )

    @property
    def model_input_names(self) -> list[str]:
        return [
            *self.tokenizer.model_input_names,
            *self.video_processor.model_input_names,
            "visual_token_budget",
            "qformer_input_ids",
            "qformer_attention_mask",
        ]

    # The two methods below replace look-ups that end in transformers' AutoVideoProcessor, which needs torchvision.
    def check_argument_for_proper_class(self, argument_name, argument):
        if argument_name != "video_processor":
            return super().check_argument_for_proper_class(argument_name, argument)
        if not isinstance(argument, VideoProcessorMixin):
            raise TypeError(f"video_processor is a {type(argument).__name__} but must be a DynFocusVideoProcessor")
        return VideoProcessorMixin

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):
        return [
            DynFocusVideoProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs),
            cls._load_tokenizer_from_pretrained("tokenizer", pretrained_model_name_or_path, **kwargs),
            cls._load_tokenizer_from_pretrained("qformer_tokenizer", pretrained_model_name_or_path, **kwargs),
        ]


# Of `ConnectorSettings`: how many tokens a video becomes.
_TOKEN_SETTINGS = ("num_events", "key_ratio", "fine_tokens", "rods_tokens", "max_visual_tokens")
_SAMPLING = ("fps", "num_frames", "min_frames", "max_frames", "decode_size")


def _sorted_out(kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is for the videos, and what is for the tokenizer."""
    nested = {**kwargs.pop("videos_kwargs", {}), **kwargs.pop("text_kwargs", {})}
    kwargs = {**kwargs, **nested}
    sampling = {name: kwargs.pop(name) for name in _SAMPLING if name in kwargs}
    if unknown := set(kwargs) - set(TextKwargs.__annotations__):
        raise TypeError(f"unknown arguments {sorted(unknown)}; videos know {', '.join(_SAMPLING)}")
    return sampling, kwargs


def joined(tensors: list[torch.Tensor]) -> torch.Tensor:
    """torch.cat, which would copy a tensor that is alone."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _one_frame(image) -> np.ndarray:
    """Anything transformers' `load_image` takes, or uint8 [H, W, 3], as a video of one frame."""
    if isinstance(image, str | os.PathLike):
        image = load_image(os.fspath(image))
    if not isinstance(image, np.ndarray | torch.Tensor):
        image = np.asarray(image.convert("RGB"))
    return np.asarray(image)[None]


def _last_question(conversation: Sequence[Mapping]) -> str:
    asked = [message["content"] for message in conversation if message["role"] == "user"]
    if not asked:
        raise ValueError("the conversation has no turn of the role 'user' but must have one, which is the question")
    content = asked[-1]
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part["type"] == "text")


AutoProcessor.register(DynFocusConfig, DynFocusProcessor, exist_ok=True)

__all__ = ["DynFocusProcessor"]
