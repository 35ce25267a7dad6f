"""`dynfocus plan`: memory and arithmetic of a recipe from its model's configuration alone, on the meta device."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AttentionInterface

from dynfocus.errors import DynFocusError
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration
from dynfocus.token_budget import max_frames_to_sample
from dynfocus.training.recipe import Recipe
from dynfocus.training.run import model_config
from dynfocus.training.trainable import add_lora, freeze
from dynfocus.video_processing_dynfocus import DynFocusVideoProcessor

GIB = 2**30
_ATTENTION = "dynfocus_plan"
_FOUR_BITS = 0.5 + 1 / 16  # NF4: half a byte, and its scales


@dataclass(frozen=True)
class Memory:
    """Bytes on each GPU under one way to share the model."""

    strategy: str
    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class Plan:
    """What a step costs when every sample has `frames` frames and `tokens` tokens, the most the recipe allows.

    parameters, trained: of all weights. flops: of a step, over all GPUs, recomputation included. accumulation: batches
    of `batch_size` that each GPU takes one after the other.
    """

    parameters: int
    trained: int
    frames: int
    tokens: int
    accumulation: int
    flops: float
    memory: tuple[Memory, ...]


def plan(recipe: Recipe, gpus: int) -> Plan:
    """Estimates; the framework's own buffers and fragmentation (one to a few GiB) come on top. Nothing is downloaded,
    and no weight is read.

    Weights and their copies: frozen ones in bfloat16; trained ones in float32 with a bfloat16 copy while they are
    used (with "fp32" precision float32 alone). AdamW keeps two float32 numbers, ZeRO a third. Activations are what
    autograd would keep of the language model's layers, found by running them on the meta device; of the vision
    tower, its frames, their features, and a chunk's widest layer.

    Raises:
        DynFocusError: there is no configuration, or the recipe does not fit the model or the GPUs.
    """
    schedule = recipe.schedule
    if schedule.global_batch_size % (schedule.batch_size * gpus):
        raise DynFocusError(
            f"schedule.global_batch_size is {schedule.global_batch_size} but must be a multiple of "
            f"{schedule.batch_size * gpus}: {gpus} GPUs with schedule.batch_size {schedule.batch_size}"
        )
    config = model_config(recipe)
    with torch.device("meta"):
        base = DynFocusForConditionalGeneration(config)
    freeze(base, recipe.learning_rates)
    model: nn.Module = base if recipe.lora is None else add_lora(base, recipe, recipe.lora)
    frames = _frames(recipe, base)
    batch = schedule.batch_size
    work = _work(base, recipe, batch, frames)
    accumulation = schedule.global_batch_size // (batch * gpus)
    return Plan(
        parameters=sum(weight.numel() for weight in model.parameters()),
        trained=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        frames=frames,
        tokens=recipe.data.max_tokens,
        accumulation=accumulation,
        flops=work.flops * accumulation * gpus,
        memory=tuple(_memory(model, recipe, gpus, work.activations)),
    )


def _frames(recipe: Recipe, model: DynFocusForConditionalGeneration) -> int:
    settings, data = model.connector.settings, recipe.data
    budget = data.max_visual_tokens or settings.max_visual_tokens
    most = max_frames_to_sample(
        budget,
        num_events=settings.num_events,
        key_ratio=settings.key_ratio,
        fine_tokens=settings.fine_tokens,
        rods_tokens=settings.rods_tokens,
    )
    if not settings.rods:  # only the sampling bounds them; the processor's own settings are not read here
        most = min(most, DynFocusVideoProcessor.max_frames)
    return max(1, min(most, data.num_frames or most, data.max_frames or most))


def _memory(model: nn.Module, recipe: Recipe, gpus: int, activations: float) -> Iterator[Memory]:
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    frozen = sum(weight.numel() for weight in model.parameters()) - trained
    half = 2 if recipe.precision == "bf16" else 4
    held = float(frozen * half)
    if recipe.lora is not None and recipe.lora.quantize:
        quantized = sum(
            weight.numel()
            for name, weight in model.named_parameters()
            if "language_model.model.layers" in name and weight.ndim == 2 and not weight.requires_grad
        )
        held -= quantized * (half - _FOUR_BITS)
    copies = trained * half if half == 2 else 0
    layer = _largest_unit(model) * half
    yield Memory("DDP", held + trained * 4 + copies, trained * 4, trained * 8, activations)
    if recipe.lora is not None and recipe.lora.quantize:
        return  # four-bit weights are not sharded
    yield Memory("ZeRO-2", (frozen + trained) * half, trained * half / gpus, trained * 12 / gpus, activations)
    yield Memory(
        "FSDP2", (held + trained * 4) / gpus + 2 * layer, trained * 4 / gpus + layer, trained * 8 / gpus, activations
    )
    yield Memory(
        "ZeRO-3",
        (frozen + trained) * half / gpus + 2 * layer,
        trained * half / gpus + layer,
        trained * 12 / gpus,
        activations,
    )


def _largest_unit(model: nn.Module) -> int:
    """Weights that are gathered together: of the largest layer, or all that lie in none."""
    sizes: dict[str, int] = {}
    for name, weight in model.named_parameters():
        parts = name.split(".")
        number = next((place for place, part in enumerate(parts) if part.isdigit()), None)
        unit = ".".join(parts[: number + 1]) if number is not None and "layer" in parts[number - 1] else ""
        sizes[unit] = sizes.get(unit, 0) + weight.numel()
    return max(sizes.values())


@dataclass(frozen=True)
class _Work:
    flops: float
    activations: float


def _work(base: DynFocusForConditionalGeneration, recipe: Recipe, batch: int, frames: int) -> _Work:
    """One forward and backward pass of `batch` samples on one GPU."""
    dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
    base.to(dtype)
    language = _language_model(base, batch, recipe.data.max_tokens, dtype, recipe.gradient_checkpointing)
    vision: Any = base.config.vision_config
    pixels = torch.empty(1, 3, vision.image_size, vision.image_size, device="meta", dtype=dtype)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        features = base.encode_patches(pixels)
    trains_tower = any(weight.requires_grad for weight in base.vision_tower.parameters())
    cached = recipe.data.features is not None
    tower_flops = 0 if cached else counter.get_total_flops() * batch * frames * (3 if trains_tower else 1)
    per_frame = (features.numel() * 2 if cached else pixels.numel() * 4) + 3 * features.numel() * dtype.itemsize
    chunk = min(base.config.vision_chunk_size, batch * frames)
    layers_kept = vision.num_hidden_layers if trains_tower else 0 if cached else 1
    widest = chunk * features.shape[1] * (vision.intermediate_size * 2 + vision.hidden_size * 8) * dtype.itemsize
    return _Work(
        tower_flops + language.flops + _connector_flops(base, batch, frames),
        language.activations + batch * frames * per_frame + widest * layers_kept,
    )


def _connector_flops(base: DynFocusForConditionalGeneration, batch: int, frames: int) -> float:
    """The projectors', forward and backward; clustering and pooling are small beside them."""
    tokens = base.connector.settings.plan(frames).num_tokens
    weights = sum(weight.numel() for weight in base.connector.projectors.fine.parameters())
    return 6.0 * weights * tokens * batch


def _language_model(
    base: DynFocusForConditionalGeneration, batch: int, tokens: int, dtype: torch.dtype, checkpointing: bool
) -> _Work:
    config: Any = base.config.text_config
    body = base.language_model.get_decoder()
    base.language_model.set_attn_implementation(_ATTENTION)
    inputs = torch.empty(batch, tokens, config.hidden_size, device="meta", dtype=dtype, requires_grad=True)
    base.language_model.train()
    with _kept(base) as kept, FlopCounterMode(display=False) as counter:
        states = body(inputs_embeds=inputs, use_cache=False).last_hidden_state
    forward = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        states.sum().backward()
    backward = counter.get_total_flops()
    activations = float(sum(kept.values()))
    if checkpointing:  # every layer's input, and one layer's activations at a time
        activations = (
            config.num_hidden_layers * inputs.numel() * dtype.itemsize + activations / config.num_hidden_layers
        )
        backward += forward
    # Logits in the model's dtype and in float32, and the gradient of those: at most, as if every token had a loss.
    head = config.vocab_size * config.hidden_size
    trains_head = any(weight.requires_grad for weight in base.language_model.get_output_embeddings().parameters())
    logits = batch * tokens * config.vocab_size * (dtype.itemsize + 8)
    return _Work(forward + backward + (6 if trains_head else 4) * head * batch * tokens, activations + logits)


@contextmanager
def _kept(model: nn.Module) -> Iterator[dict[int, int]]:
    """Bytes of what autograd keeps within the block, by storage; weights are not counted."""
    weights = {weight.untyped_storage()._cdata for weight in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def _flash_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """What runs on a GPU; the meta device would choose the attention that keeps every weight."""
    repeats = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(repeats, 1) for part in (key, value))
    scale = options.get("scaling")
    output = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, True, scale=scale)[0]
    return output.transpose(1, 2), None


AttentionInterface.register(_ATTENTION, _flash_attention)
