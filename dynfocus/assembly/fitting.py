"""Fits the components' tensors to the model: places them, grows what must grow, and makes what no checkpoint has."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import InstructBlipVisionConfig

from dynfocus.assembly.layouts import RECOMPUTED, Component, Drop
from dynfocus.errors import DynFocusError
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration

_TIED = "the same tensor as the input embeddings"
_CROSS_ATTENTION = re.compile(r"qformer\.encoder\.layer\.\d+\.crossattention\.attention\.(?:key|value)\.weight")


@dataclass
class Fitting:
    """input_embeddings: their name. fresh: names that no checkpoint has. initialised, changed: in words."""

    input_embeddings: str
    fresh: list[str]
    initialised: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)


def fit_components(model: DynFocusForConditionalGeneration, components: Sequence[Component]) -> Fitting:
    """Gives every tensor of the components its place in `model`, which may be on the meta device.

    Raises:
        DynFocusError: tensors are unknown, missing or of the wrong shape.
    """
    tower, text_encoder, language = components
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = model.all_tied_weights_keys
    embeddings, *outputs = _embedding_names(model)
    fitting = Fitting(embeddings, [name for name in shapes if name.startswith("connector.")], ["the connector"])

    def owner(name: str) -> Component | None:
        if isinstance(tower.config, InstructBlipVisionConfig) and name.startswith("vision_tower.post_layernorm."):
            return text_encoder  # it plays LAVIS's ln_vision, which belongs to the Q-Former behind it
        parts = {
            "vision_tower": tower,
            "qformer": text_encoder,
            "query_tokens": text_encoder,
            "language_model": language,
        }
        return parts.get(name.partition(".")[0])

    def settle(component: Component, name: str) -> str | Drop | None:
        if component is language:
            prefixed = name.replace("language_model.", f"language_model.{model.language_model.base_model_prefix}.", 1)
            name = prefixed if name not in shapes and prefixed in shapes else name
            if name not in shapes and _is_ignored(model.language_model, name.removeprefix("language_model.")):
                return Drop(RECOMPUTED)
            if name in tied:
                return Drop(_TIED)
        return name if name in shapes and owner(name) is component else None

    for component in components:
        component.place(partial(settle, component))
    _fit_cross_attention(model, tower, text_encoder, fitting)
    _fit_positions(tower, shapes, fitting)
    _fit_vocabulary(language, [embeddings, *outputs], shapes)
    fresh = set(fitting.fresh)
    for component in components:
        names = [name for name in shapes if owner(name) is component and name not in tied and name not in fresh]
        component.check({name: shapes[name] for name in names})
    _check_tied(language, embeddings)
    return fitting


def initialise(model: DynFocusForConditionalGeneration, names: Sequence[str], seed: int) -> dict[str, Tensor]:
    """Fresh fp32 values of the named tensors, by the model's own initialisation, each module's from `seed` in turn."""
    modules = {name.rpartition(".")[0]: model.get_submodule(name.rpartition(".")[0]) for name in names}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in modules.values():
            module.to_empty(device="cpu", recurse=False)
            model._init_weights(module)
    state = model.state_dict()
    return {name: state[name] for name in names}


def _embedding_names(model: DynFocusForConditionalGeneration) -> list[str]:
    """Names of the tensors with one row per token, the input embeddings first."""
    rows = [model.get_input_embeddings().weight]
    if (head := model.get_output_embeddings()) is not None:
        rows += [head.weight, getattr(head, "bias", None)]
    names = {id(tensor): name for name, tensor in reversed(list(model.named_parameters(remove_duplicate=False)))}
    return list(dict.fromkeys(names[id(tensor)] for tensor in rows if tensor is not None))


def _is_ignored(language_model: torch.nn.Module, name: str) -> bool:
    patterns: Sequence[str] = getattr(language_model, "_keys_to_ignore_on_load_unexpected", None) or ()
    return name.endswith("rotary_emb.inv_freq") or any(re.search(pattern, name) for pattern in patterns)


def _fit_cross_attention(
    model: DynFocusForConditionalGeneration, tower: Component, text_encoder: Component, fitting: Fitting
) -> None:
    """A Q-Former behind another tower than its own cannot read it, but as a mere text encoder need not."""
    own, width = text_encoder.config.encoder_hidden_size, tower.config.hidden_size
    if own == width:
        return
    if model.config.text_queries != "text":
        raise DynFocusError(
            f"the Q-Former in {text_encoder.files.path} reads {own} channels but the tower in {tower.files.path} "
            f'has {width}; only text_queries="text" can do without'
        )
    names = [name for name in text_encoder.sources if _CROSS_ATTENTION.fullmatch(name)]
    for name in names:
        text_encoder.drop(name, f"it reads {own} channels, the tower has {width}")
    fitting.fresh += names
    fitting.initialised.append('the Q-Former\'s view of the tower, unused with text_queries="text"')


def _fit_positions(tower: Component, shapes: dict[str, tuple[int, ...]], fitting: Fitting) -> None:
    for name in ("vision_tower.embeddings.position_embedding", "vision_tower.embeddings.position_embedding.weight"):
        if name not in tower.sources or (old := tower.shape(name)) == (new := shapes[name]):
            continue
        if len(old) != len(new) or old[-1] != new[-1]:
            continue  # of the wrong shape, which `check` reports
        class_token = 0 if tower.config.model_type == "siglip_vision_model" else 1
        before, after = math.isqrt(old[-2] - class_token), math.isqrt(new[-2] - class_token)
        tower.changes[name] = partial(interpolate_positions, grid=after, class_token=class_token)
        fitting.changed.append(f"position embeddings of {before} x {before} patches interpolated to {after} x {after}")


def _fit_vocabulary(language: Component, names: Sequence[str], shapes: dict[str, tuple[int, ...]]) -> None:
    rows = language.config.vocab_size
    for name in names:
        if name in language.sources and shapes[name][0] > rows and language.shape(name) == (rows, *shapes[name][1:]):
            language.changes[name] = partial(grow_rows, rows=shapes[name][0])


def _check_tied(language: Component, embeddings: str) -> None:
    for name in language.dropped.get(_TIED, ()):
        if not torch.equal(language.files.read(name), language.files.read(language.sources[embeddings])):
            raise DynFocusError(
                f"{name} in {language.files.path} is not the input embeddings, to which it should be tied"
            )


def interpolate_positions(embedding: Tensor, grid: int, class_token: int) -> Tensor:
    """Position embeddings [..., class_token + n², C] for grid² patches, bicubic as in LAVIS, the class token's kept."""
    head, patches = embedding[..., :class_token, :], embedding[..., class_token:, :]
    side, channels = math.isqrt(patches.shape[-2]), patches.shape[-1]
    image = patches.float().reshape(1, side, side, channels).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=(grid, grid), mode="bicubic", align_corners=False)
    patches = image.permute(0, 2, 3, 1).reshape(*embedding.shape[:-2], grid * grid, channels)
    return torch.cat([head, patches.to(embedding.dtype)], -2)


def grow_rows(tensor: Tensor, rows: int) -> Tensor:
    """[n, ...] → [rows, ...]; a new token is the mean of the old ones, so that it is as likely and as near as any."""
    mean = tensor.float().mean(0, keepdim=True).to(tensor.dtype)
    return torch.cat([tensor, mean.expand(rows - len(tensor), *tensor.shape[1:])])
