"""DynFocus model: vision tower, text encoder, dynamic cooperative connector and language model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    GenerationMixin,
    InstructBlipQFormerModel,
    InstructBlipVisionConfig,
    InstructBlipVisionModel,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutputWithPast

from dynfocus.configuration_dynfocus import DynFocusConfig
from dynfocus.connector import ConnectorOutput, DynFocusConnector, frame_rows
from dynfocus.token_budget import TokenPlan


@dataclass
class VideoEncoding:
    """Visual tokens of a batch of videos, and per video what was found on the way.

    tokens: [ΣN, D], video after video; what `video_embeds` of `forward` and `generate` takes.
    plans: token counts of each video.
    key_frames: [K] int64 each, indices among the video's sampled frames, in time order.
    key_timestamps: [K] seconds each (NaN where the source had no clock), or None without `frame_timestamps`.
    assignment: [T] int64 each, the event of every sampled frame; events are numbered in the order of time.
    event_frames: [L] int64 each, the sampled frame that stands for each event.
    scores: [L] fp32 each, on [0, 1].
    rods_attention: [T, patches] each, where the rods looked (sums to 1 per frame), or None unless asked for.
    """

    tokens: Tensor
    plans: list[TokenPlan]
    key_frames: list[Tensor]
    key_timestamps: list[Tensor] | None
    assignment: list[Tensor]
    event_frames: list[Tensor]
    scores: list[Tensor]
    rods_attention: list[Tensor] | None


class DynFocusPreTrainedModel(PreTrainedModel):
    config: DynFocusConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("video", "image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar = ["DynFocusConnector"]  # the towers and language models add theirs
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, DynFocusForConditionalGeneration):
            init.normal_(module.query_tokens, std=self.config.initializer_range)


class DynFocusForConditionalGeneration(DynFocusPreTrainedModel, GenerationMixin):
    """Answers questions about videos and images (DynFocus, CVPR 2025, arXiv 2411.12355).

    Videos of a batch are packed along dim 0, `num_frames` tells them apart; an image is a video of one frame. The
    processor repeats `config.video_token_id` once per visual token in `input_ids`, and those embeddings are replaced.

    Attributes: `vision_tower`, `qformer`, `connector`, `language_model`; any may be swapped through the configuration.
    """

    def __init__(self, config: DynFocusConfig):
        super().__init__(config)
        # transformers knows this tower's configuration but has no AutoModel entry for it.
        is_eva = isinstance(config.vision_config, InstructBlipVisionConfig)
        build_tower = InstructBlipVisionModel._from_config if is_eva else AutoModel.from_config
        self.vision_tower = build_tower(config.vision_config)
        self.qformer = InstructBlipQFormerModel._from_config(config.qformer_config)
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_query_tokens, config.qformer_config.hidden_size))
        self.connector = DynFocusConnector(
            config.vision_config.hidden_size,
            config.qformer_config.hidden_size,
            config.text_config.hidden_size,
            config.connector_settings(),
        )
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()
        # A placeholder is no word: one in the answer would be taken for a visual token.
        self.generation_config.suppress_tokens = [config.video_token_id]

    def get_input_embeddings(self):
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self):
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings):
        self.language_model.set_output_embeddings(new_embeddings)

    def encode_patches(self, pixel_values_videos: Tensor) -> Tensor:
        """Features of frames [ΣT, 3, H, W] before the tower's last LayerNorm: [ΣT, patches (+ 1 class token), C].

        They are what `video_features` takes, so that a video is encoded once for many questions or epochs.
        """
        return _in_chunks(self._tower_states, self.config.vision_chunk_size, pixel_values_videos)

    def _tower_states(self, pixel_values: Tensor) -> Tensor:
        tower = self.vision_tower
        states = tower.embeddings(pixel_values)
        if hasattr(tower, "pre_layrnorm"):  # CLIP's own spelling
            states = tower.pre_layrnorm(states)
        return tower.encoder(inputs_embeds=states).last_hidden_state

    def get_video_features(
        self,
        pixel_values_videos: Tensor | None = None,
        num_frames: Tensor | None = None,
        qformer_input_ids: Tensor | None = None,
        qformer_attention_mask: Tensor | None = None,
        frame_timestamps: Tensor | None = None,
        visual_token_budget: Tensor | None = None,
        video_features: Tensor | None = None,
        frame_index: Tensor | None = None,
        output_attentions: bool = False,
    ) -> VideoEncoding:
        """Args:
            pixel_values_videos: [ΣT, 3, H, W], the frames of all videos.
            num_frames: [V] int64, T of each video.
            qformer_input_ids, qformer_attention_mask: [V, L], the question each video is asked.
            frame_timestamps: [ΣT] seconds.
            visual_token_budget: [V] int64, in place of `config.max_visual_tokens`.
            video_features: what `encode_patches` returned, in place of the pixels; of any dtype, such as float16 that
                was kept on disk.
            frame_index: [ΣT] int64, the row of the pixels or features that each frame is, where several videos (or
                questions about one) share frames: those pass the tower once.
            output_attentions: also return where the rods looked.

        Raises:
            ValueError: a missing or mismatched input, or a video too long for its budget.
        """
        if num_frames is None or qformer_input_ids is None:
            raise ValueError("num_frames and qformer_input_ids must be given with a video")
        # Numbers are read before the tower has anything to do: a GPU would have to be waited for until it is done.
        lengths = num_frames.tolist()
        budgets = [None] * len(lengths) if visual_token_budget is None else visual_token_budget.tolist()
        if pixel_values_videos is not None and video_features is None:
            video_features = self.encode_patches(pixel_values_videos)
        elif video_features is None or pixel_values_videos is not None:
            raise ValueError("exactly one of pixel_values_videos and video_features must be given")
        else:
            video_features = video_features.to(self.vision_tower.dtype)
        if frame_index is not None:
            video_features = video_features[frame_index]
        if sum(lengths) != video_features.shape[0]:
            raise ValueError(f"num_frames adds up to {sum(lengths)} but there are {video_features.shape[0]} frames")
        if qformer_input_ids.shape[0] != len(lengths):
            raise ValueError(
                f"qformer_input_ids has {qformer_input_ids.shape[0]} rows but must have one per video, {len(lengths)}"
            )
        settings = self.connector.settings
        plans = [settings.plan(length, budget) for length, budget in zip(lengths, budgets, strict=True)]
        text, frame_text, text_mask = self._text_features(
            video_features, lengths, qformer_input_ids, qformer_attention_mask
        )
        output = self.connector(
            self._without_class_token(video_features),
            plans,
            text,
            frame_text,
            text_mask,
            output_attention=output_attentions,
        )
        return _per_video(output, plans, frame_timestamps)

    def _text_features(
        self, video_features: Tensor, num_frames: list[int], input_ids: Tensor, attention_mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the rods ask with: text [B, Q, dq], each frame's row of it [ΣT], and its mask [B, Q]."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        video_of_frame = frame_rows(num_frames, input_ids.device)
        if self.config.text_queries == "text":
            text = self.qformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return text, video_of_frame, attention_mask.bool()
        num_queries = self.query_tokens.shape[1]

        def queries_of_frames(features: Tensor, video: Tensor) -> Tensor:
            query_mask = attention_mask.new_ones(len(video), num_queries)
            return self.qformer(
                input_ids=input_ids[video],
                attention_mask=torch.cat([query_mask, attention_mask[video]], 1),
                query_embeds=self.query_tokens.expand(len(video), -1, -1),
                # InstructBLIP's Q-Former was trained behind post_layernorm; the connector reads the state before it.
                encoder_hidden_states=self.vision_tower.post_layernorm(features),
            ).last_hidden_state[:, :num_queries]

        text = _in_chunks(queries_of_frames, self.config.vision_chunk_size, video_features, video_of_frame)
        return text, torch.arange(len(text), device=text.device), None

    def _without_class_token(self, video_features: Tensor) -> Tensor:
        return video_features[:, 1:] if hasattr(self.vision_tower.embeddings, "class_embedding") else video_features

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values=None,
        inputs_embeds: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        num_frames: Tensor | None = None,
        frame_timestamps: Tensor | None = None,
        visual_token_budget: Tensor | None = None,
        qformer_input_ids: Tensor | None = None,
        qformer_attention_mask: Tensor | None = None,
        video_features: Tensor | None = None,
        frame_index: Tensor | None = None,
        video_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """Visual inputs are those of `get_video_features`, or its tokens as `video_embeds` [ΣN, D].

        labels: [B, S] int64, −100 where no loss is taken, visual placeholders included.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds must be given")
        encodes = pixel_values_videos is not None or video_features is not None
        # Counted before the tower is busy, as in get_video_features.
        num_placeholders = self._count_placeholders(input_ids) if encodes or video_embeds is not None else 0
        if encodes:
            if video_embeds is not None:
                raise ValueError("video_embeds replaces pixel_values_videos and video_features: give one of them")
            video_embeds = self.get_video_features(
                pixel_values_videos,
                num_frames,
                qformer_input_ids,
                qformer_attention_mask,
                visual_token_budget=visual_token_budget,
                video_features=video_features,
                frame_index=frame_index,
            ).tokens
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if video_embeds is not None:
            if num_placeholders != video_embeds.shape[0]:
                raise ValueError(
                    f"input_ids has {num_placeholders} visual placeholders but the videos gave {video_embeds.shape[0]} "
                    "tokens; the processor's token settings must be those of the model's configuration"
                )
            placeholders = input_ids.eq(self.config.video_token_id)[..., None]
            inputs_embeds = inputs_embeds.masked_scatter(placeholders, video_embeds.to(inputs_embeds.dtype))
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    def _count_placeholders(self, input_ids: Tensor | None) -> int:
        if input_ids is None:
            raise ValueError("visual inputs need input_ids, which say where the visual tokens go")
        return int((input_ids == self.config.video_token_id).sum())

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Tensor | None = None, **model_kwargs
    ):
        """Encodes the videos once, before beams and return sequences multiply the samples."""
        visual = {name: model_kwargs.pop(name, None) for name in _VISUAL_INPUTS}
        video_embeds = model_kwargs.pop("video_embeds", None)
        if visual["pixel_values_videos"] is not None or visual["video_features"] is not None:
            video_embeds = self.get_video_features(**visual).tokens
        if video_embeds is not None and expand_size > 1:
            per_sample = (input_ids == self.config.video_token_id).sum(1).tolist()
            video_embeds = torch.cat([tokens for tokens in video_embeds.split(per_sample) for _ in range(expand_size)])
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        return input_ids, {**model_kwargs, "video_embeds": video_embeds}

    def prepare_inputs_for_generation(self, input_ids, is_first_iteration=False, video_embeds=None, **kwargs):
        model_inputs = super().prepare_inputs_for_generation(input_ids, is_first_iteration=is_first_iteration, **kwargs)
        if is_first_iteration or not kwargs.get("use_cache", True):
            model_inputs["video_embeds"] = video_embeds
        return model_inputs


_VISUAL_INPUTS = (
    "pixel_values_videos",
    "num_frames",
    "qformer_input_ids",
    "qformer_attention_mask",
    "frame_timestamps",
    "visual_token_budget",
    "video_features",
    "frame_index",
)


def _in_chunks(function: Callable[..., Tensor], chunk_size: int, *tensors: Tensor) -> Tensor:
    """function over chunks of the tensors' dim 0, concatenated: memory of one chunk's activations at inference."""
    return torch.cat(
        [function(*chunk) for chunk in zip(*(tensor.split(chunk_size) for tensor in tensors), strict=True)]
    )


def _per_video(output: ConnectorOutput, plans: list[TokenPlan], frame_timestamps: Tensor | None) -> VideoEncoding:
    """Splits the packed output by video and makes its indices count within each."""
    frames = [plan.num_frames for plan in plans]
    events = [plan.num_events for plan in plans]
    key_index = output.key_index.split([plan.num_key_frames for plan in plans])
    first_frame = [sum(frames[:i]) for i in range(len(plans))]
    first_event = [sum(events[:i]) for i in range(len(plans))]

    def relative(parts, first):
        return [part - start for part, start in zip(parts, first, strict=True)]

    return VideoEncoding(
        tokens=output.tokens,
        plans=plans,
        key_frames=relative(key_index, first_frame),
        key_timestamps=None if frame_timestamps is None else [frame_timestamps[index] for index in key_index],
        assignment=relative(output.assignment.split(frames), first_event),
        event_frames=relative(output.event_frames.split(events), first_frame),
        scores=list(output.scores.split(events)),
        rods_attention=None if output.rods_attention is None else list(output.rods_attention.split(frames)),
    )


for auto_class in (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    auto_class.register(DynFocusConfig, DynFocusForConditionalGeneration, exist_ok=True)

__all__ = ["DynFocusForConditionalGeneration", "DynFocusPreTrainedModel", "VideoEncoding"]
