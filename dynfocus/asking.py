"""Ask a DynFocus model questions about a video file, and learn where it looked for the answers."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BatchFeature

from dynfocus.errors import DynFocusError
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration, VideoEncoding
from dynfocus.processing_dynfocus import DynFocusProcessor
from dynfocus.token_budget import TokenPlan
from dynfocus.video_reading import VideoClip

STAGES = ("decode", "preprocess", "vision_tower", "connector", "language_model")


@dataclass(frozen=True)
class VideoEvent:
    """A group of frames that look alike.

    Attributes:
        frame: the frame that stands for it, by its place in the file.
        seconds: when that frame is shown.
        score: how much the model wants to look closely at it, on [0, 1].
        is_key: whether it does, that is, whether one of its frames is a key frame.
        spans: (start, end) seconds of each unbroken run of its frames.
    """

    frame: int
    seconds: float
    score: float
    is_key: bool
    spans: list[tuple[float, float]]


@dataclass(frozen=True)
class KeyFrame:
    """A frame that the model looked closely at: the one that stands for its event, where the scores choose.

    Attributes:
        frame: its place in the file.
        seconds: when it is shown.
        event: the number of its event.
    """

    frame: int
    seconds: float
    event: int


@dataclass(frozen=True)
class VideoAnswer:
    """An answer, and what it was drawn from.

    Attributes:
        answer: the language model's words.
        events, key_frames: in the order of time.
        plan: the visual tokens, by kind.
        patches_per_frame: what every frame would cost if each patch of the vision tower were a token.
        seconds: wall time of each of `STAGES`; the first three are shared by all questions about the video.
        clip: the frames the model saw.
        assignment: int64 [T], the event of each of them.
        rods_attention: fp32 [T, rows, columns], how much the rods looked at each patch (sums to 1 per frame); None of
            a model without rods.
    """

    question: str
    answer: str
    events: list[VideoEvent]
    key_frames: list[KeyFrame]
    plan: TokenPlan
    patches_per_frame: int
    seconds: dict[str, float]
    clip: VideoClip = field(repr=False)
    assignment: NDArray[np.int64] = field(repr=False)
    rods_attention: NDArray[np.float32] | None = field(repr=False)

    @property
    def dense_tokens(self) -> int:
        """Frames × patches: what the video would cost without the connector."""
        return self.plan.num_frames * self.patches_per_frame

    def to_dict(self) -> dict[str, Any]:
        """The answer in types that JSON has; without pixels and attention."""
        return {
            "video": self.clip.path,
            "question": self.question,
            "answer": self.answer,
            "key_frames": [{"frame": key.frame, "seconds": key.seconds} for key in self.key_frames],
            "events": [
                {
                    "frame": event.frame,
                    "seconds": event.seconds,
                    "score": event.score,
                    "is_key": event.is_key,
                    "spans": [list(span) for span in event.spans],
                }
                for event in self.events
            ],
            "tokens": {
                "used": self.plan.num_tokens,
                "cones": self.plan.cones_tokens,
                "rods": self.plan.rods_tokens,
                "dense": self.dense_tokens,
                "patches_per_frame": self.patches_per_frame,
            },
            "frames": {
                "sampled": self.plan.num_frames,
                "in_file": self.clip.total_frames,
                "lost": self.clip.frames_lost,
                "damaged": self.clip.frames_damaged,
                "duration_seconds": self.clip.duration,
            },
            "seconds": self.seconds,
        }


class VideoAsker:
    """Asks `model` about videos, with `processor` to prepare them (see `dynfocus.loading.load_model`)."""

    def __init__(self, model: DynFocusForConditionalGeneration, processor: DynFocusProcessor):
        self.model = model
        self.processor = processor

    @torch.inference_mode()
    def ask(
        self,
        video: str | os.PathLike,
        questions: str | Sequence[str],
        *,
        max_new_tokens: int = 64,
        progress: Callable[[str], None] = lambda stage: None,
    ) -> list[VideoAnswer]:
        """Answers each question, greedily; the video is decoded and passes the vision tower once. Key frames that are
        chosen at random are the same for all questions.

        Args:
            video: what `dynfocus.video_reading.read_video` reads.
            max_new_tokens: the longest answer.
            progress: called with the name of every stage as it starts.

        Raises:
            VideoError: the video cannot be read.
            DynFocusError: a question is empty, is no Unicode text, holds a placeholder such as `<video>`, or does not
                fit the Q-Former's or the language model's positions.
        """
        questions = [questions] if isinstance(questions, str) else list(questions)
        if not questions:
            raise DynFocusError("there is no question")
        for question in questions:
            self._check_question(question)
        seconds = dict.fromkeys(STAGES, 0.0)

        @contextmanager
        def stage(name: str) -> Iterator[None]:
            progress(name)
            start = self._now()
            yield
            seconds[name] += self._now() - start

        with stage("decode"):
            clip = self._read(video)
        with stage("preprocess"):
            prepared = self.processor.video_processor(clip)
            inputs = [self._inputs(prepared, question, max_new_tokens) for question in questions]
        with stage("vision_tower"):
            pixels = prepared.pop("pixel_values_videos").to(self.model.device, self.model.dtype)
            features = self.model.encode_patches(pixels)
        answers = []
        seed = int(torch.randint(2**63 - 1, ()))
        for question, encoded in zip(questions, inputs, strict=True):
            seconds["connector"] = seconds["language_model"] = 0.0
            with stage("connector"), self._random_numbers(seed):
                encoding = self._encode(features, encoded)
            with stage("language_model"):
                answer = self._generate(encoded, encoding, max_new_tokens)
            answers.append(self._explain(question, answer, clip, encoding, dict(seconds)))
        return answers

    def _check_question(self, question: str) -> None:
        if not question.strip():
            raise DynFocusError("the question is empty")
        try:
            question.encode()
        except UnicodeEncodeError:
            raise DynFocusError(f"the question {question!r} is not Unicode text") from None
        for placeholder in (self.processor.video_token, self.processor.image_token):
            if placeholder in question:
                raise DynFocusError(f"the question holds {placeholder!r}, which in a prompt stands for the pictures")
        length, limit = len(self.processor.qformer_tokenizer(question)["input_ids"]), self.processor.max_question_tokens
        if length > limit:
            raise DynFocusError(f"the question has {length} tokens but the model's Q-Former takes at most {limit}")

    def _read(self, video: str | os.PathLike) -> VideoClip:
        """The frames that the processor samples, and no more than the token budget pays for."""
        settings, processor = self.processor.video_processor, self.processor
        most = processor.max_sampled_frames()
        limits = {"max_frames": min(most, settings.max_frames)}
        if settings.num_frames is not None:
            limits["num_frames"] = min(most, settings.num_frames)
        return settings.read(video, **limits)

    def _inputs(self, prepared: BatchFeature, question: str, max_new_tokens: int) -> dict[str, torch.Tensor]:
        """Model inputs of one question, but for the pixels, which are those of `prepared`."""
        content = [{"type": "video", "video": prepared}, {"type": "text", "text": question}]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
        )
        limit = getattr(self.model.config.text_config, "max_position_embeddings", None)
        length = inputs["input_ids"].shape[1]
        if limit is not None and length + max_new_tokens > limit:
            visual = int((inputs["input_ids"] == self.model.config.video_token_id).sum())
            raise DynFocusError(
                f"the question is too long: with {visual} tokens of video and {max_new_tokens} kept for the answer it "
                f"makes {length + max_new_tokens} tokens, but the language model takes at most {limit}"
            )
        del inputs["pixel_values_videos"]
        return inputs

    def _encode(self, features: torch.Tensor, inputs: dict[str, torch.Tensor]) -> VideoEncoding:
        in_text = self.processor.tokenizer.model_input_names
        visual = {name: value.to(self.model.device) for name, value in inputs.items() if name not in in_text}
        return self.model.get_video_features(
            video_features=features, output_attentions=self.model.config.rods, **visual
        )

    @contextmanager
    def _random_numbers(self, seed: int) -> Iterator[None]:
        """Those that follow from `seed`; what comes after goes on where it was."""
        device = self.model.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield

    def _generate(self, inputs: dict[str, torch.Tensor], encoding: VideoEncoding, max_new_tokens: int) -> str:
        input_ids = inputs["input_ids"].to(self.model.device)
        output = self.model.generate(
            input_ids=input_ids,
            attention_mask=inputs["attention_mask"].to(self.model.device),
            video_embeds=encoding.tokens,
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
        return self.processor.tokenizer.decode(output[0, input_ids.shape[1] :], skip_special_tokens=True).strip()

    def _explain(
        self, question: str, answer: str, clip: VideoClip, encoding: VideoEncoding, seconds: dict[str, float]
    ) -> VideoAnswer:
        assignment = encoding.assignment[0].cpu().numpy()
        key_frames = [
            KeyFrame(int(clip.frame_indices[frame]), float(clip.timestamps[frame]), int(assignment[frame]))
            for frame in encoding.key_frames[0].tolist()
        ]
        key_events = {key.event for key in key_frames}
        events = [
            VideoEvent(
                frame=int(clip.frame_indices[frame]),
                seconds=float(clip.timestamps[frame]),
                score=score,
                is_key=number in key_events,
                spans=_spans(assignment == number, clip),
            )
            for number, (frame, score) in enumerate(
                zip(encoding.event_frames[0].tolist(), encoding.scores[0].tolist(), strict=True)
            )
        ]
        return VideoAnswer(
            question=question,
            answer=answer,
            events=events,
            key_frames=key_frames,
            plan=encoding.plans[0],
            patches_per_frame=self.model.config.patches_per_frame,
            seconds=seconds,
            clip=clip,
            assignment=assignment,
            rods_attention=None if encoding.rods_attention is None else self._map(encoding.rods_attention[0]),
        )

    def _map(self, attention: torch.Tensor) -> NDArray[np.float32]:
        """[T, patches] → [T, rows, columns]."""
        size = self.processor.video_processor.size
        columns = round((attention.shape[1] * size["width"] / size["height"]) ** 0.5)
        return attention.float().cpu().numpy().reshape(len(attention), -1, columns)

    def _now(self) -> float:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return time.perf_counter()


def _spans(is_member: NDArray[np.bool_], clip: VideoClip) -> list[tuple[float, float]]:
    """(start, end) seconds of each run of members; a frame lasts until the next sampled one."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_member, [False]])))
    times = np.append(clip.timestamps, clip.duration)
    return [(float(times[start]), float(times[end])) for start, end in edges.reshape(-1, 2)]
