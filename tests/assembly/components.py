"""Tiny random components, written in the exact layouts of their pretrained counterparts."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BertTokenizer,
    CLIPConfig,
    CLIPModel,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipQFormerConfig,
    InstructBlipQFormerModel,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

WIDTH, GRID, PATCH = 32, 4, 8
SENTENCE = "a chat between user and assistant what color is the circle square red blue first : ? . , video"
WORDS = SENTENCE.split()
VISION = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": GRID * PATCH,
    "patch_size": PATCH,
    "initializer_range": 0.02,
}
LANGUAGE = {
    "vocab_size": len(WORDS) + 3,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONNECTOR = {
    "num_events": 4,
    "pool_size": 2,
    "temporal_neighbors": 3,
    "spatial_levels": [[4, 3], [2, 2]],
    "num_samples": 8,
    "max_visual_tokens": 128,
}


def save_language_tokenizer(directory: Path, chatml: bool = False) -> None:
    """Word-level, with an unknown but no pad token, as Vicuna's; with ChatML's marks, as Qwen's."""
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    if chatml:
        fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    fast.save_pretrained(directory)


def qformer_tokenizer() -> BertTokenizer:
    """BERT's, without the [DEC] that LAVIS adds."""
    return BertTokenizer(
        vocab={word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    )


def qformer_config(**changes) -> InstructBlipQFormerConfig:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 1}
    sizes |= {"vocab_size": len(WORDS) + 6, "max_position_embeddings": 40, "encoder_hidden_size": WIDTH}
    return InstructBlipQFormerConfig(**{**sizes, **changes})


def randomised(model: nn.Module) -> nn.Module:
    """Random values everywhere, since zero biases and unit norms would hide that two were exchanged."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.1 + (parameter == 1))
    return model.eval()


def save_instructblip(directory: Path, **language) -> InstructBlipForConditionalGeneration:
    """As transformers 5 saves it, with both tokenizers."""
    config = InstructBlipConfig(
        vision_config=VISION,
        qformer_config=qformer_config().to_dict(),
        text_config={"model_type": "llama", **LANGUAGE, **language},
        num_query_tokens=4,
    )
    model = randomised(InstructBlipForConditionalGeneration(config))
    model.save_pretrained(directory)
    save_language_tokenizer(directory)
    tokenizer = qformer_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.save_pretrained(directory / "qformer_tokenizer")
    image_settings = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "size": {"height": 32, "width": 32}}
    (directory / "preprocessor_config.json").write_text(json.dumps(image_settings))
    return model


def as_version_4(directory: Path) -> None:
    """Rewrites a saved InstructBLIP as its hub repositories are: .bin shards with an index and the stored buffers."""
    state = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    state["qformer.embeddings.position_ids"] = torch.arange(40)[None]
    for layer in range(LANGUAGE["num_hidden_layers"]):
        state[f"language_model.model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_bin_shards(directory, state)


def save_bin_shards(directory: Path, state: dict[str, Tensor], shards: int = 2) -> None:
    names = sorted(state)
    weight_map = {name: f"pytorch_model-{i % shards + 1:05}-of-{shards:05}.bin" for i, name in enumerate(names)}
    for file in set(weight_map.values()):
        torch.save({name: state[name] for name in names if weight_map[name] == file}, directory / file)
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def save_language_model(directory: Path, model_type: str = "llama", **changes) -> nn.Module:
    chatml = model_type != "llama"
    settings = {**LANGUAGE, "vocab_size": LANGUAGE["vocab_size"] + 2 * chatml, **changes}
    model = randomised(AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**settings)))
    model.save_pretrained(directory)
    save_language_tokenizer(directory, chatml)
    return model


def save_clip(directory: Path) -> nn.Module:
    text = {**VISION, "vocab_size": 10, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1}
    model = randomised(CLIPModel(CLIPConfig(vision_config=VISION, text_config=text)))
    model.save_pretrained(directory)
    return model.vision_model


def save_siglip(directory: Path) -> nn.Module:
    model = randomised(SiglipVisionModel(SiglipVisionConfig(**VISION)))
    model.save_pretrained(directory)
    return model


def lavis_qformer(directory: Path, file: Path, **changes) -> tuple[InstructBlipQFormerModel, dict[str, Tensor]]:
    """A LAVIS InstructBLIP .pth, BERT's tokenizer beside it in `directory`, and the Q-Former and the rest it holds."""
    model = randomised(InstructBlipQFormerModel(qformer_config(**changes)))
    extra = {
        "query_tokens": torch.randn(1, 4, 64),
        "ln_vision.weight": torch.randn(WIDTH),
        "ln_vision.bias": torch.randn(WIDTH),
        "llm_proj.weight": torch.randn(32, 64),
        "llm_proj.bias": torch.randn(32),
        "Qformer.bert.embeddings.position_ids": torch.arange(40)[None],
        "Qformer.cls.predictions.bias": torch.randn(26),
    }
    state = {}
    for name, tensor in model.state_dict().items():
        name = name.replace("embeddings.layernorm", "embeddings.LayerNorm").replace(
            "attention.attention.", "attention.self."
        )
        state[f"Qformer.bert.{name}"] = tensor
    torch.save({"model": {**state, **extra}, "epoch": 3, "config": {"run": {"seed": 42}}}, file)
    qformer_tokenizer().save_pretrained(directory)
    return model, extra


class EvaTransformer(nn.Module):
    """The EVA ViT of LAVIS in plain torch: pre-norm blocks, keys without bias, no last norm, names as in its files."""

    def __init__(self, depth: int = 3, heads: int = 4, width: int = WIDTH):
        super().__init__()
        self.heads, self.depth = heads, depth
        self.weights = nn.ParameterDict()

        def add(name: str, *shape: int) -> None:
            self.weights[name.replace(".", "/")] = nn.Parameter(torch.randn(shape) * 0.2)

        add("cls_token", 1, 1, width)
        add("pos_embed", 1, GRID**2 + 1, width)
        add("patch_embed.proj.weight", width, 3, PATCH, PATCH)
        add("patch_embed.proj.bias", width)
        for block in range(depth):
            linears = {
                "attn.qkv": (3 * width, width),
                "attn.proj": (width, width),
                "mlp.fc1": (48, width),
                "mlp.fc2": (width, 48),
            }
            for name, shape in linears.items():
                add(f"blocks.{block}.{name}.weight", *shape)
                if name != "attn.qkv":
                    add(f"blocks.{block}.{name}.bias", shape[0])
            for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "attn.q_bias", "attn.v_bias"):
                add(f"blocks.{block}.{name}", width)

    def checkpoint(self, prefix: str = "") -> dict[str, Tensor]:
        return {prefix + name.replace("/", "."): weight.detach() for name, weight in self.weights.items()}

    @torch.no_grad()
    def forward(self, pixels: Tensor, depth: int | None = None) -> Tensor:
        """pixels [B, 3, H, W] → states [B, 1 + patches, C] after `depth` blocks."""
        w = self.checkpoint()
        x = nn.functional.conv2d(pixels, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=PATCH)
        x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x.flatten(2).mT], 1) + w["pos_embed"]
        for block in range(self.depth if depth is None else depth):
            b = {name.removeprefix(f"blocks.{block}."): weight for name, weight in w.items()}
            x = x + self._attention(
                nn.functional.layer_norm(x, x.shape[-1:], b["norm1.weight"], b["norm1.bias"], 1e-6), b
            )
            y = nn.functional.layer_norm(x, x.shape[-1:], b["norm2.weight"], b["norm2.bias"], 1e-6)
            y = nn.functional.gelu(nn.functional.linear(y, b["mlp.fc1.weight"], b["mlp.fc1.bias"]))
            x = x + nn.functional.linear(y, b["mlp.fc2.weight"], b["mlp.fc2.bias"])
        return x

    def _attention(self, x: Tensor, b: dict[str, Tensor]) -> Tensor:
        q, k, v = (x @ part.mT for part in b["attn.qkv.weight"].chunk(3))
        q, v = q + b["attn.q_bias"], v + b["attn.v_bias"]
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        x = (weights @ v).transpose(1, 2).flatten(2)
        return nn.functional.linear(x, b["attn.proj.weight"], b["attn.proj.bias"])


def edit_weights(file: Path, edit) -> None:
    """Applies `edit` to the name → tensor mapping of a .safetensors, .bin or .pth file."""
    if file.suffix == ".safetensors":
        state = load_file(file)
        edit(state)
        save_file(state, file, metadata={"format": "pt"})
    else:
        state = torch.load(file, weights_only=True)
        edit(state.get("model", state))
        torch.save(state, file)
