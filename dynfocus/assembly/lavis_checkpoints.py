"""What the `.pth` files of LAVIS hold, in our names: the EVA vision tower and the InstructBLIP Q-Former."""

import math
import re
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import InstructBlipQFormerConfig, InstructBlipVisionConfig

from dynfocus.assembly.layouts import RECOMPUTED, Drop, Rules, TensorFiles
from dynfocus.errors import DynFocusError

_EVA_DEPTH = 39  # LAVIS builds 39 blocks of EVA ViT-g's 40, since the Q-Former reads the last but one layer
_EVA_HEAD_WIDTH = 88
_BERT_HEAD_WIDTH = 64

_EVA_RULES: Rules = (
    (r"cls_token", "vision_tower.embeddings.class_embedding"),
    (r"pos_embed", "vision_tower.embeddings.position_embedding"),
    (r"patch_embed\.proj\.(weight|bias)", r"vision_tower.embeddings.patch_embedding.\1"),
    (r"blocks\.(\d+)\.norm([12])\.(weight|bias)", r"vision_tower.encoder.layers.\1.layer_norm\2.\3"),
    (r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)", r"vision_tower.encoder.layers.\1.self_attn.qkv.\2"),
    (r"blocks\.(\d+)\.attn\.proj\.(weight|bias)", r"vision_tower.encoder.layers.\1.self_attn.projection.\2"),
    (r"blocks\.(\d+)\.mlp\.fc([12])\.(weight|bias)", r"vision_tower.encoder.layers.\1.mlp.fc\2.\3"),
    (r"(?:norm|fc_norm|head)\..*|mask_token", Drop("EVA's own head, which LAVIS does not build")),
)
_OTHER_PARTS_OF_INSTRUCT_BLIP: Rules = (
    (r"(?:llm|t5)_proj\..*", Drop("InstructBLIP's projection, whose place the connector takes")),
    (r"(?:llm|t5)_model\..*", Drop("a language model, which comes from its own checkpoint")),
)
_QFORMER_RULES: Rules = (
    (r"query_tokens", "query_tokens"),
    (r"Qformer\.bert\.embeddings\.position_ids", Drop(RECOMPUTED)),
    (r"Qformer\.bert\.embeddings\.LayerNorm\.(weight|bias)", r"qformer.embeddings.layernorm.\1"),
    (r"Qformer\.bert\.(encoder\.layer\.\d+\.(?:cross)?attention)\.self\.(.*)", r"qformer.\1.attention.\2"),
    (r"Qformer\.bert\.((?:embeddings|encoder)\..*)", r"qformer.\1"),
    (r"Qformer\.cls\..*", Drop("the Q-Former's head, which only its pre-training uses")),
    (r"visual_encoder\..*", Drop("a vision tower, which comes from the vision checkpoint")),
)


def eva_layout(files: TensorFiles, overrides: dict) -> tuple[InstructBlipVisionConfig, Rules]:
    """Configuration and names of an EVA ViT, alone (`eva_vit_g.pth`) or as `visual_encoder.*` of an InstructBLIP file.

    Sizes are read off the tensors; the number of heads is width / 88 and of a file's 40 blocks 39 are used, as LAVIS
    does, unless `overrides` (of the vision configuration) say otherwise.

    Raises:
        DynFocusError: the file is not an EVA ViT.
    """
    prefix = "visual_encoder." if any(name.startswith("visual_encoder.") for name in files) else ""
    needed = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight")
    if missing := [f"{prefix}{name}" for name in needed if f"{prefix}{name}" not in files]:
        raise DynFocusError(f"{files.path} is no LAVIS EVA checkpoint: it lacks {', '.join(missing)}")
    pattern = re.compile(re.escape(prefix) + r"blocks\.(\d+)\.")
    blocks = 1 + max(int(match[1]) for name in files if (match := pattern.match(name)))
    width, _, patch_size, _ = _shape(files, f"{prefix}patch_embed.proj.weight", 4)
    if width % _EVA_HEAD_WIDTH and "num_attention_heads" not in overrides:
        raise DynFocusError(
            f"{files.path} has width {width}, no multiple of EVA's {_EVA_HEAD_WIDTH} per head: "
            'give config_overrides["vision_config"]["num_attention_heads"]'
        )
    config = InstructBlipVisionConfig(
        hidden_size=width,
        intermediate_size=_shape(files, f"{prefix}blocks.0.mlp.fc1.weight", 2)[0],
        num_hidden_layers=min(overrides.get("num_hidden_layers", _EVA_DEPTH), blocks),
        num_attention_heads=overrides.get("num_attention_heads", width // _EVA_HEAD_WIDTH),
        image_size=math.isqrt(_shape(files, f"{prefix}pos_embed", 3)[1] - 1) * patch_size,
        patch_size=patch_size,
    )
    unused = [rf"blocks\.{block}\..*" for block in range(config.num_hidden_layers, blocks)]
    rules = (*((pattern, Drop("a last block, which LAVIS does not use")) for pattern in unused), *_EVA_RULES)
    if not prefix:
        return config, rules
    others = ((r"Qformer\..*|query_tokens|ln_vision\..*", Drop("the Q-Former, which comes from its own checkpoint")),)
    rules = tuple((re.escape(prefix) + f"(?:{pattern})", target) for pattern, target in rules)
    return config, (*rules, *others, *_OTHER_PARTS_OF_INSTRUCT_BLIP)


def lavis_qformer_layout(files: TensorFiles, eva_tower: bool) -> tuple[InstructBlipQFormerConfig, Rules]:
    """Configuration and names of an InstructBLIP Q-Former as LAVIS saves it, heads being 64 wide as in BERT.

    `ln_vision`, between tower and Q-Former, becomes the EVA tower's `post_layernorm`; other towers have their own.

    Raises:
        DynFocusError: the file is not such a Q-Former.
    """
    layer = "Qformer.bert.encoder.layer"
    needed = ["Qformer.bert.embeddings.word_embeddings.weight", "Qformer.bert.embeddings.position_embeddings.weight"]
    needed += ["query_tokens", f"{layer}.0.crossattention.self.key.weight", f"{layer}.0.intermediate.dense.weight"]
    if missing := [name for name in needed if name not in files]:
        raise DynFocusError(f"{files.path} is no LAVIS InstructBLIP checkpoint: it lacks {', '.join(missing)}")
    layers = {int(match[1]) for name in files if (match := re.match(re.escape(layer) + r"\.(\d+)\.", name))}
    crossing = [index for index in sorted(layers) if f"{layer}.{index}.crossattention.self.key.weight" in files]
    vocab_size, width = _shape(files, needed[0], 2)
    config = InstructBlipQFormerConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        num_hidden_layers=max(layers) + 1,
        num_attention_heads=max(1, width // _BERT_HEAD_WIDTH),
        intermediate_size=_shape(files, needed[4], 2)[0],
        max_position_embeddings=_shape(files, needed[1], 2)[0],
        cross_attention_frequency=crossing[1] if len(crossing) > 1 else max(layers) + 1,
        encoder_hidden_size=_shape(files, needed[3], 2)[1],
    )
    target = r"vision_tower.post_layernorm.\1" if eva_tower else Drop("EVA's LayerNorm; this tower has its own")
    return config, ((r"ln_vision\.(weight|bias)", target), *_QFORMER_RULES, *_OTHER_PARTS_OF_INSTRUCT_BLIP)


def _shape(files: TensorFiles, name: str, dimensions: int) -> tuple[int, ...]:
    if len(shape := files.shape(name)) != dimensions:
        raise DynFocusError(f"{files.path} has {name} of shape {list(shape)}, but it must have {dimensions} dimensions")
    return shape


class FusedBiases:
    """An EVA checkpoint whose `attn.q_bias` and `attn.v_bias` [C] appear as one `attn.qkv.bias` [3C]; keys have none.

    Raises:
        DynFocusError: one of a pair is missing.
    """

    def __init__(self, files: TensorFiles):
        self.path = files.path
        self._files = files
        pairs = {name[: -len("q_bias")] for name in files if name.endswith(("attn.q_bias", "attn.v_bias"))}
        if missing := [name for pair in sorted(pairs) for part in "qv" if (name := f"{pair}{part}_bias") not in files]:
            raise DynFocusError(f"{files.path} lacks {len(missing)} attention biases, first {missing[0]}")

    def __iter__(self) -> Iterator[str]:
        for name in self._files:
            if not name.endswith("attn.v_bias"):
                yield name.replace("attn.q_bias", "attn.qkv.bias")

    def __contains__(self, name: str) -> bool:
        return name.replace("attn.qkv.bias", "attn.q_bias") in self._files

    def shape(self, name: str) -> tuple[int, ...]:
        if not name.endswith("attn.qkv.bias"):
            return self._files.shape(name)
        return (3 * self._files.shape(name.replace("qkv.bias", "q_bias"))[0],)

    def read(self, name: str) -> Tensor:
        if not name.endswith("attn.qkv.bias"):
            return self._files.read(name)
        q_bias, v_bias = (self._files.read(name.replace("qkv.bias", f"{part}_bias")) for part in "qv")
        return torch.cat([q_bias, torch.zeros_like(q_bias), v_bias])
