"""DynFocus model configuration."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, InstructBlipQFormerConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from dynfocus.connector import ConnectorSettings


@strict
class DynFocusConfig(PreTrainedConfig):
    r"""
    Configuration of [`DynFocusForConditionalGeneration`]. The defaults describe the paper's model: EVA-CLIP
    ViT-g/14, the InstructBLIP Q-Former and Vicuna-7B.

    Args:
        vision_config: the vision tower; `instructblip_vision_model` (EVA ViT-g/14) unless its `model_type` says
            `clip_vision_model` or `siglip_vision_model`.
        qformer_config: the text encoder, an `InstructBlipQFormerConfig`.
        text_config: any causal language model's; `llama` unless its `model_type` says otherwise.
        text_queries: what the rods ask with: `"text"`, the question's own features, shared by all frames, or
            `"frame"`, the Q-Former's query outputs on each frame.
        num_query_tokens: learned queries of the Q-Former, used with `text_queries="frame"`.
        video_token_id: the placeholder that visual tokens replace.
        vision_chunk_size: frames that pass the vision tower at once, which bounds memory on long videos.
        max_visual_tokens and the other fields: see [`ConnectorSettings`].
    """

    model_type = "dynfocus"
    sub_configs_defaults: ClassVar = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="instructblip_vision_model"),
        "qformer_config": InstructBlipQFormerConfig,
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    vision_config: dict | PreTrainedConfig | None = None
    qformer_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    text_queries: str = "text"
    num_query_tokens: int = 32
    video_token_id: int = 32000
    vision_chunk_size: int = 64
    num_events: int = 25
    key_ratio: float = 0.8
    pool_size: int = 4
    temporal_neighbors: int = 8
    temporal: str = "dpc_knn"
    temporal_scale: str = "patches"
    spatial_levels: list[list[int]] | tuple[tuple[int, int], ...] = ((16, 8), (6, 3))
    spatial_group: str = "level"
    spatial_gate: str | None = None
    rods_source: str = "prototypes"
    rods: bool = True
    cones: str = "prototypes"
    selection: str = "scores"
    scorer: str = "mlp"
    share_projector: bool = False
    sigma: float = 0.1
    num_samples: int = 500
    selection_gradient: str = "full"
    antithetic: bool = False
    max_visual_tokens: int = 2048
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.text_queries not in ("text", "frame"):
            raise ValueError(f"text_queries is {self.text_queries!r} but must be 'text' or 'frame'")
        self.qformer_config.encoder_hidden_size = self.vision_config.hidden_size
        self._check_tower_fits(self.connector_settings())

    def _check_tower_fits(self, settings: ConnectorSettings):
        image, patch = self.vision_config.image_size, self.vision_config.patch_size
        if not isinstance(image, int) or not isinstance(patch, int):
            raise ValueError(f"vision_config has image_size {image} and patch_size {patch} but frames must be square")
        patches, (num_clusters, k) = self.patches_per_frame, settings.spatial_levels[0]
        if max(num_clusters, k) > patches:
            raise ValueError(
                f"spatial_levels begins with ({num_clusters}, {k}) but may ask for no more than "
                f"the tower's {patches} patches"
            )

    @property
    def patches_per_frame(self) -> int:
        """Patches of the vision tower, without a class token."""
        return (self.vision_config.image_size // self.vision_config.patch_size) ** 2

    def connector_settings(self) -> ConnectorSettings:
        """The connector's share of this configuration, checked."""
        return ConnectorSettings(**{name: getattr(self, name) for name in ConnectorSettings.__dataclass_fields__})


AutoConfig.register(DynFocusConfig.model_type, DynFocusConfig, exist_ok=True)

__all__ = ["DynFocusConfig"]
