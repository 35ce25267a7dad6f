"""Which weights train, and how fast: module names of a recipe become frozen sets, dtypes and optimiser groups."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from dynfocus.connector import ConnectorSettings
from dynfocus.errors import DynFocusError
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration
from dynfocus.training.recipe import LoraSettings, Recipe
from dynfocus.training.typed_yaml import unknown_key

_PEFT_PREFIX, _PEFT_COPY = "base_model.model.", ".modules_to_save.default"


def freeze(model: DynFocusForConditionalGeneration, learning_rates: Mapping[str, float]) -> None:
    """Leaves `requires_grad` to what has a rate and can have a gradient.

    Raises:
        DynFocusError: a name that is no module or parameter of the model, or nothing is left to train.
    """
    known = {name for name, _ in model.named_modules() if name} | {name for name, _ in model.named_parameters()}
    for name in learning_rates:
        if name not in known:
            raise unknown_key(f"learning_rates.{name}", name, sorted(known, key=lambda each: (each.count("."), each)))
    unused = tuple(unused_parameters(model))
    for name, parameter in model.named_parameters():
        # Four-bit weights, which are bytes, have no gradient: their adapters do.
        trains = bool(rate_of(name, learning_rates)) and name not in unused and parameter.is_floating_point()
        parameter.requires_grad_(trains)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise DynFocusError(f"learning_rates trains nothing: {', '.join(learning_rates)} are unused by this model")


def rate_of(name: str, learning_rates: Mapping[str, float]) -> float:
    """The rate of a parameter: that of the longest module name it lies in, 0 without one."""
    name = name.removeprefix(_PEFT_PREFIX).replace(_PEFT_COPY, "")
    modules = [module for module in learning_rates if name == module or name.startswith(f"{module}.")]
    return learning_rates[max(modules, key=len)] if modules else 0.0


def unused_parameters(model: DynFocusForConditionalGeneration) -> Iterator[str]:
    """Names of the parameters that get no gradient in this configuration: distributed training would wait for it.

    Between the tower's patches and the connector lie neither a last norm nor a pooling head; questions alone pass only
    the Q-Former's text branch, and nothing but the rods reads them.
    """
    settings = model.config.connector_settings()
    by_frame = settings.rods and model.config.text_queries == "frame"
    idle = tuple(_idle_modules(settings))
    for name, _ in model.named_parameters():
        module, _, inner = name.partition(".")
        if module == "vision_tower":
            read = inner.startswith(("embeddings.", "encoder.", "pre_layrnorm."))
            unused = not read and not (by_frame and inner.startswith("post_layernorm."))
        else:
            parts = ("query_tokens", "crossattention", "intermediate_query", "output_query")
            unused = not by_frame and any(part in name.split(".") for part in parts)
        if unused or name.startswith(idle):
            yield name


def _idle_modules(settings: ConnectorSettings) -> Iterator[str]:
    """Beginnings of the names of what these settings leave out, the Q-Former included."""
    if not settings.scorer_learns:
        yield "connector.events.scorer."
    if not settings.rods:
        yield from ("qformer.", "connector.rods.", "connector.projectors.coarse.", "connector.projectors.text.")
    if settings.cones == "none":
        if not settings.share_projector:
            yield "connector.projectors.fine."
        if settings.rods_source == "patches":
            yield "connector.spatial."


def set_precision(model: nn.Module, precision: str) -> None:
    """Trained weights in float32, for small steps to count; with "bf16" frozen ones in bfloat16."""
    for parameter in model.parameters():
        if parameter.is_floating_point():  # four-bit weights are not
            single = parameter.requires_grad or precision == "fp32"
            parameter.data = parameter.data.float() if single else parameter.data.bfloat16()


def optimizer_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """One group per rate; vectors (biases, norms) do not decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = recipe.schedule.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate_of(name, recipe.learning_rates), decay), []).append(parameter)
    return [{"params": weights, "lr": rate, "weight_decay": decay} for (rate, decay), weights in groups.items()]


def add_lora(model: DynFocusForConditionalGeneration, recipe: Recipe, lora: LoraSettings) -> nn.Module:
    """A peft model: adapters in the language model, other trained modules in full and saved with them.

    Raises:
        DynFocusError: peft is not installed, or the language model has none of the layers that `lora.targets` names.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise DynFocusError("lora needs the package peft: pip install 'dynfocus[train]'") from error
    language_modules = model.language_model.named_modules()
    linears = {name.rpartition(".")[2] for name, module in language_modules if isinstance(module, nn.Linear)}
    targets = linears - {"lm_head"} if "all-linear" in lora.targets else set(lora.targets)
    if missing := sorted(targets - linears):
        raise unknown_key(f"lora.targets: {missing[0]}", missing[0], sorted(linears))
    modules = dict(model.named_modules())
    in_full = [name for name, rate in recipe.learning_rates.items() if rate and name != "language_model"]
    in_full = [name for name in in_full if not any(name.startswith(f"{other}.") for other in in_full)]
    for name in set(in_full) - set(modules):
        if model.get_parameter(name).requires_grad:
            raise DynFocusError(
                f"learning_rates.{name} is no module, and beside lora only those train; give it the rate 0"
            )
        in_full.remove(name)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=rf"language_model\..*\.({'|'.join(sorted(targets))})",
        modules_to_save=in_full or None,
    )
    adapted = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():  # modules saved in full keep their frozen parts frozen
        if _PEFT_COPY in name:
            parameter.requires_grad_(name.removeprefix(_PEFT_PREFIX).replace(_PEFT_COPY, "") in trained)
    return adapted


def quantization() -> Any:
    """How QLoRA loads the language model: 4 bits (NF4), everything else as it is.

    Raises:
        DynFocusError: bitsandbytes is not installed.
    """
    from transformers import BitsAndBytesConfig
    from transformers.utils import is_bitsandbytes_available

    if not is_bitsandbytes_available():
        raise DynFocusError("lora.quantize is true but needs the package bitsandbytes: pip install bitsandbytes")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=["vision_tower", "qformer", "connector", "lm_head"],
    )
