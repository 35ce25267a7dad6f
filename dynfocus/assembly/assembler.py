"""Turns component checkpoints into one DynFocus directory, with every tensor accounted for."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import InstructBlipVisionConfig, PreTrainedConfig, PreTrainedTokenizerBase

from dynfocus.assembly.fitting import fit_components, initialise
from dynfocus.assembly.lavis_checkpoints import FusedBiases, eva_layout, lavis_qformer_layout
from dynfocus.assembly.layouts import (
    Component,
    TensorFiles,
    language_model_layout,
    qformer_layout,
    read_config,
    tower_layout,
)
from dynfocus.assembly.processor import (
    build_processor,
    load_generation_config,
    load_language_tokenizer,
    load_qformer_tokenizer,
)
from dynfocus.checkpoint_files import CheckpointFiles, check_new_directory, locate, new_directory, write_weights
from dynfocus.configuration_dynfocus import DynFocusConfig
from dynfocus.errors import DynFocusError
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration
from dynfocus.processing_dynfocus import DynFocusProcessor

_EMBEDDING_ROWS = 64  # grown vocabularies are a multiple of this, which matrix units like
_TEXT_SHARE = 4  # a quarter of the language model's positions is kept for text
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ComponentReport:
    """What became of a checkpoint's tensors: `used` of them, `renamed` of those, the rest `dropped`, by reason.

    EVA's `q_bias` and `v_bias`, which become one tensor, count as one.
    """

    name: str
    source: Path
    used: int
    renamed: int
    dropped: dict[str, list[str]]


@dataclass(frozen=True)
class AssembleReport:
    """What was assembled: from where, what is new in it, and what was changed to fit."""

    output: Path
    components: tuple[ComponentReport, ...]
    initialised: tuple[str, ...]
    changed: tuple[str, ...]
    dtype: torch.dtype
    parameters: int
    files: tuple[str, ...]

    def __str__(self) -> str:
        lines = []
        for part in self.components:
            lines.append(f"{part.name}: {part.used} tensors of {part.source}, {part.renamed} of them renamed")
            lines += [f"  left out {len(names)}: {reason}" for reason, names in part.dropped.items()]
        lines += [f"freshly initialised: {what}" for what in self.initialised]
        lines += [f"changed: {what}" for what in self.changed]
        dtype = str(self.dtype).removeprefix("torch.")
        lines.append(f"{self.output}: {self.parameters:,} parameters in {dtype}, weight files: {len(self.files)}")
        return "\n".join(lines)


def assemble(
    output: Path | str,
    *,
    vision: Path | str,
    qformer: Path | str,
    language_model: Path | str,
    tokenizer: Path | str | None = None,
    qformer_tokenizer: Path | str | None = None,
    config_overrides: dict[str, Any] | None = None,
    dtype: torch.dtype | str | None = None,
    max_shard_size: int | str = "5GB",
    seed: int = 0,
) -> AssembleReport:
    """Writes a DynFocus directory (configuration, weights, processor, generation defaults) from pretrained components.

    Sources are local paths or hub names. Tensors stream from the sources to the shards: at most one shard
    (`max_shard_size`) is held in memory, plus one component in a pickle from before torch 1.6. Everything is checked
    before anything is written, and `output` appears whole or not at all.

    Args:
        output: a directory that does not exist or is empty; its parent must exist.
        vision: InstructBLIP, CLIP or SigLIP directory, or LAVIS `.pth` with an EVA ViT.
        qformer: InstructBLIP directory, or LAVIS InstructBLIP `.pth`.
        language_model: directory of a causal language model, or InstructBLIP around one (Vicuna). A mixture of experts,
            whose tensors transformers converts as it loads them, is refused: its files' names are unknown here.
        tokenizer, qformer_tokenizer: directories; default those in `language_model` and `qformer`. A `.pth` has none.
        config_overrides: fields of `DynFocusConfig`, and dictionaries for its vision_config, qformer_config and
            text_config, e.g. `{"num_events": 40, "vision_config": {"image_size": 336}}`.
        dtype: of all weights; default the language model's.
        max_shard_size: bytes, or e.g. "5GB".
        seed: of what no checkpoint has: the connector.

    Raises:
        DynFocusError: a source is missing, unreadable or of another kind, has tensors that are unknown, missing or
            of the wrong shape, or `output` cannot be written.
    """
    output = Path(output)
    check_new_directory(output)
    if not output.absolute().parent.is_dir():
        raise DynFocusError(f"{output} cannot be written: {output.absolute().parent} is not a directory")
    overrides = _known_overrides(config_overrides or {})
    tower = _open_tower(locate(vision), overrides)
    eva_tower = isinstance(tower.config, InstructBlipVisionConfig)
    text_encoder = _open_qformer(locate(qformer), overrides, eva_tower)
    language = _open_language_model(locate(language_model), overrides)
    components = (tower, text_encoder, language)
    language_tokenizer = load_language_tokenizer(_tokenizer_directory(tokenizer, language))
    text_tokenizer = load_qformer_tokenizer(
        _tokenizer_directory(qformer_tokenizer, text_encoder), text_encoder.config.vocab_size
    )
    config, changed = _build_config(components, overrides, language_tokenizer)
    with torch.device("meta"):
        model = DynFocusForConditionalGeneration(config)
    fitting = fit_components(model, components)
    weight_dtype = _resolve_dtype(dtype) or language.read(fitting.input_embeddings).dtype
    for part in (config, *(getattr(config, name) for name in DynFocusConfig.sub_configs_defaults)):
        part.dtype = weight_dtype
    processor = build_processor(config, tower.config, language_tokenizer, text_tokenizer, tower.files.path)
    generation = load_generation_config(
        language.files.path, config.text_config, language_tokenizer, config.video_token_id
    )

    readers: dict[str, Callable[[], Tensor]] = {
        target: partial(component.read, target) for component in components for target in component.sources
    }
    readers |= {name: tensor.clone for name, tensor in initialise(model, fitting.fresh, seed).items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name in readers}
    with new_directory(output) as directory:
        files = write_weights(directory, readers, shapes, weight_dtype, max_shard_size)
        config.architectures = [type(model).__name__]
        config.save_pretrained(directory)
        processor.save_pretrained(directory)
        generation.save_pretrained(directory)
    return AssembleReport(
        output=output,
        components=tuple(map(_report, components)),
        initialised=tuple(f"{what} (seed {seed})" for what in fitting.initialised),
        changed=(*changed, *fitting.changed),
        dtype=weight_dtype,
        parameters=sum(math.prod(shape) for shape in shapes.values()),
        files=tuple(files),
    )


def _known_overrides(overrides: dict[str, Any]) -> dict[str, Any]:
    known = set(DynFocusConfig.__annotations__) - {"video_token_id", "num_query_tokens"}  # those the components settle
    known -= {"model_type", "sub_configs_defaults"}
    if unknown := sorted(set(overrides) - known):
        raise DynFocusError(f"config_overrides has {', '.join(unknown)}, but must be of {', '.join(sorted(known))}")
    return overrides


def _open_tower(path: Path, overrides: dict[str, Any]) -> Component:
    files: TensorFiles
    if path.is_dir():
        config, rules = tower_layout(read_config(path), path)
        files = CheckpointFiles(path)
    else:
        files = FusedBiases(CheckpointFiles(path))
        config, rules = eva_layout(files, overrides.get("vision_config", {}))
    return Component("vision", files, _overridden(config, overrides, "vision_config"), rules)


def _open_qformer(path: Path, overrides: dict[str, Any], eva_tower: bool) -> Component:
    if path.is_dir():
        config, rules = qformer_layout(read_config(path), path, eva_tower)
        files = CheckpointFiles(path)
    else:
        files = CheckpointFiles(path)
        config, rules = lavis_qformer_layout(files, eva_tower)
    return Component("qformer", files, _overridden(config, overrides, "qformer_config"), rules)


def _open_language_model(path: Path, overrides: dict[str, Any]) -> Component:
    if not path.is_dir():
        raise DynFocusError(f"{path} is a file, but language_model must be a directory")
    config, rules = language_model_layout(read_config(path), path)
    return Component("language_model", CheckpointFiles(path), _overridden(config, overrides, "text_config"), rules)


def _overridden(config: PreTrainedConfig, overrides: dict[str, Any], name: str) -> PreTrainedConfig:
    values = overrides.get(name, {})
    if unknown := sorted(key for key in values if not hasattr(config, key)):
        raise DynFocusError(f'config_overrides["{name}"] has {", ".join(unknown)}, unknown to {type(config).__name__}')
    return _checked(name, lambda: type(config).from_dict({**config.to_dict(), **values}))


def _build_config(
    components: tuple[Component, ...], overrides: dict[str, Any], tokenizer: PreTrainedTokenizerBase
) -> tuple[DynFocusConfig, list[str]]:
    """The model's configuration, and what in it is not as the components or the defaults have it."""
    tower, text_encoder, language = components
    changed = [f"{name} is {value!r}, as asked" for name, value in overrides.items()]
    text_config = language.config.to_dict()
    if len(tokenizer) > language.config.vocab_size:
        rows = math.ceil(len(tokenizer) / _EMBEDDING_ROWS) * _EMBEDDING_ROWS
        changed.append(f"{language.config.vocab_size} embeddings became {rows}: new ones are the mean of the old")
        text_config["vocab_size"] = rows
    text_config["pad_token_id"] = tokenizer.pad_token_id
    fields = {name: value for name, value in overrides.items() if not name.endswith("_config")}
    positions = getattr(language.config, "max_position_embeddings", None)
    if positions and "max_visual_tokens" not in fields:
        most = positions - positions // _TEXT_SHARE
        if most < DynFocusConfig.max_visual_tokens:
            fields["max_visual_tokens"] = most
            changed.append(f"max_visual_tokens is {most}, since the language model has {positions} positions")
    config = _checked(
        "config_overrides",
        lambda: DynFocusConfig(
            vision_config=tower.config.to_dict(),
            qformer_config=text_encoder.config.to_dict(),
            text_config=text_config,
            num_query_tokens=_query_count(text_encoder),
            video_token_id=tokenizer.get_vocab()[DynFocusProcessor.video_token],
            **fields,
        ),
    )
    if positions and config.max_visual_tokens >= positions:
        raise DynFocusError(
            f"max_visual_tokens is {config.max_visual_tokens} but must be less than the {positions} positions "
            f"of the language model in {language.files.path}"
        )
    return config, changed


def _query_count(text_encoder: Component) -> int:
    if "query_tokens" not in text_encoder.files or len(shape := text_encoder.files.shape("query_tokens")) != 3:
        raise DynFocusError(f"{text_encoder.files.path} has no query_tokens [1, queries, width]")
    return shape[1]


def _checked(what: str, build: Callable[[], Any]) -> Any:
    try:
        return build()
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise DynFocusError(f"{what} does not fit: {' '.join(str(error).split())}") from error


def _resolve_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if not isinstance(dtype, str):
        return dtype
    if dtype not in _DTYPES:
        raise DynFocusError(f"dtype is {dtype!r} but must be one of {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


def _tokenizer_directory(given: Path | str | None, component: Component) -> Path:
    if given is not None:
        return locate(given)
    if not component.files.path.is_dir():
        raise DynFocusError(
            f"{component.files.path} has no tokenizer: give qformer_tokenizer, google-bert/bert-base-uncased for LAVIS"
        )
    return component.files.path


def _report(component: Component) -> ComponentReport:
    renamed = sum(target != source for target, source in component.sources.items())
    return ComponentReport(component.name, component.files.path, len(component.sources), renamed, component.dropped)
