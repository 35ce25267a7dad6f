"""Components of a model as they lie in their checkpoints, and the place of each of their tensors in a DynFocus."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from dynfocus.checkpoint_files import read_json
from dynfocus.errors import DynFocusError


@dataclass(frozen=True)
class Drop:
    """A tensor that is left out on purpose, and why."""

    reason: str


# (regular expression of the whole name, our name or why there is none); the first match counts.
Rules = tuple[tuple[str, str | Drop], ...]


class TensorFiles(Protocol):
    """What is read of a checkpoint: see `CheckpointFiles`."""

    path: Path

    def __iter__(self) -> Iterator[str]: ...
    def __contains__(self, name: str) -> bool: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def read(self, name: str) -> Tensor: ...


RECOMPUTED = "a buffer that the model computes itself"
_OTHER_COMPONENT = "another component of this checkpoint"
_PROJECTION = "InstructBLIP's projection, whose place the connector takes"

_INSTRUCTBLIP_TOWER: Rules = (
    (r"vision_model\.post_layernorm\..*", Drop("the Q-Former's input LayerNorm, which comes with the Q-Former")),
    (r"vision_model\.(.*)", r"vision_tower.\1"),
    (r"(?:qformer|language_model)\..*|query_tokens", Drop(_OTHER_COMPONENT)),
    (r"language_projection\..*", Drop(_PROJECTION)),
)
_INSTRUCTBLIP_QFORMER: Rules = (
    (r"query_tokens", "query_tokens"),
    (r"qformer\.embeddings\.position_ids", Drop(RECOMPUTED)),
    (r"(qformer\..*)", r"\1"),
    (r"(?:vision_model|language_model)\..*", Drop(_OTHER_COMPONENT)),
    (r"language_projection\..*", Drop(_PROJECTION)),
)
_INSTRUCTBLIP_LANGUAGE_MODEL: Rules = (
    (r"(language_model\..*)", r"\1"),
    (r"(?:vision_model|qformer)\..*|query_tokens", Drop(_OTHER_COMPONENT)),
    (r"language_projection\..*", Drop(_PROJECTION)),
)
_CLIP_TOWER: Rules = (
    (r"(?:vision_model\.)?embeddings\.position_ids", Drop(RECOMPUTED)),
    (r"text_model\..*|(?:text|visual)_projection\..*|logit_scale|logit_bias", Drop("not of the vision tower")),
    (r"(?:vision_model\.)?(.*)", r"vision_tower.\1"),
)
_LANGUAGE_MODEL: Rules = ((r"(.*)", r"language_model.\1"),)


@dataclass
class Component:
    """One component: its configuration, and from which tensor of its checkpoint each of the model's is made.

    name: of the argument that gives it.
    sources: name in the checkpoint by name in the model.
    changes: what is done to a tensor once it is read, by name in the model.
    dropped: names in the checkpoint by reason. unknown: names in the checkpoint without a place.
    """

    name: str
    files: TensorFiles
    config: PreTrainedConfig
    rules: Rules
    sources: dict[str, str] = field(default_factory=dict)
    changes: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    def place(self, settle: Callable[[str], str | Drop | None]) -> None:
        """Finds the place of every tensor. `settle` has the last word on the name that the rules give: a name of the
        model, a reason to drop the tensor, or None where the model has no such tensor."""
        for name in self.files:
            target = _by_rules(self.rules, name)
            if isinstance(target, str):
                target = settle(target)
            if isinstance(target, Drop):
                self.dropped.setdefault(target.reason, []).append(name)
            elif target is None or target in self.sources:
                self.unknown.append(name)
            else:
                self.sources[target] = name

    def drop(self, target: str, reason: str) -> None:
        """Leaves out a tensor that has a place."""
        self.dropped.setdefault(reason, []).append(self.sources.pop(target))

    def shape(self, target: str) -> tuple[int, ...]:
        """As in the checkpoint, before any change."""
        return self.files.shape(self.sources[target])

    def read(self, target: str) -> Tensor:
        tensor = self.files.read(self.sources[target])
        return self.changes[target](tensor) if target in self.changes else tensor

    def check(self, expected: dict[str, tuple[int, ...]]) -> None:
        """Every tensor of the checkpoint is known, none of the model's is missing, and the shapes are `expected`.

        Raises:
            DynFocusError: names the first few that are not, and says how many.
        """
        missing = [target for target in expected if target not in self.sources]
        misshapen = [
            f"{self.sources[target]} is {list(self.shape(target))} but must be {list(shape)}"
            for target, shape in expected.items()
            if target in self.sources and target not in self.changes and self.shape(target) != shape
        ]
        problems = (("unknown", self.unknown), ("missing", missing), ("of the wrong shape", misshapen))
        if found := [f"{len(names)} {kind}: {_first(names)}" for kind, names in problems if names]:
            raise DynFocusError(f"the tensors of {self.files.path} do not fit ({self.name}): {'; '.join(found)}")


def tower_layout(config: PreTrainedConfig, path: Path) -> tuple[PreTrainedConfig, Rules]:
    """The vision tower of a transformers directory."""
    if config.model_type == "instructblip":
        return config.vision_config, _INSTRUCTBLIP_TOWER
    if config.model_type in ("clip", "siglip"):
        return config.vision_config, _CLIP_TOWER
    if config.model_type in ("clip_vision_model", "siglip_vision_model"):
        return config, _CLIP_TOWER
    raise DynFocusError(
        f"{path} is a {config.model_type} model, but vision must be InstructBLIP, CLIP, SigLIP or a LAVIS .pth"
    )


def qformer_layout(config: PreTrainedConfig, path: Path, eva_tower: bool) -> tuple[PreTrainedConfig, Rules]:
    """The Q-Former of an InstructBLIP directory, with the LayerNorm before it where the tower is EVA."""
    if config.model_type != "instructblip":
        raise DynFocusError(f"{path} is a {config.model_type} model, but qformer must be InstructBLIP or a LAVIS .pth")
    if not eva_tower:
        return config.qformer_config, _INSTRUCTBLIP_QFORMER
    norm = (r"vision_model\.(post_layernorm\..*)", r"vision_tower.\1")
    return config.qformer_config, (norm, *_INSTRUCTBLIP_QFORMER)


def language_model_layout(config: PreTrainedConfig, path: Path) -> tuple[PreTrainedConfig, Rules]:
    """A causal language model, alone or inside InstructBLIP."""
    rules = _LANGUAGE_MODEL
    if config.model_type == "instructblip":
        config, rules = config.text_config, _INSTRUCTBLIP_LANGUAGE_MODEL
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise DynFocusError(f"{path} has a {config.model_type} model, but language_model must be a causal one")
    return config, rules


def read_config(directory: Path) -> PreTrainedConfig:
    """The configuration of a transformers directory.

    Raises:
        DynFocusError: there is none, or transformers cannot read it.
    """
    if not directory.exists():
        raise DynFocusError(f"{directory} does not exist")
    if "model_type" not in read_json(directory / "config.json"):
        raise DynFocusError(f"{directory / 'config.json'} names no model_type, so it is not a transformers model")
    try:
        return AutoConfig.from_pretrained(directory)
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise DynFocusError(f"{directory / 'config.json'} cannot be read: {reason}") from error


def _by_rules(rules: Rules, name: str) -> str | Drop | None:
    for pattern, target in rules:
        if match := re.fullmatch(pattern, name):
            return target if isinstance(target, Drop) else match.expand(target)
    return None


def _first(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
