"""A recipe's `connector`: settings of the model's connector that a run changes, without touching a weight."""

from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from dynfocus.configuration_dynfocus import DynFocusConfig
from dynfocus.connector import DynFocusConnector
from dynfocus.errors import DynFocusError

CHANGES_FILE = "connector.json"  # beside an adapter: the changes it was trained with


def with_changes(config: DynFocusConfig, changes: Mapping[str, Any]) -> DynFocusConfig:
    """`config` with the fields in `changes`; weights made for the one fit the other.

    Raises:
        DynFocusError: the settings do not go together, do not fit the tower, or change the shapes of weights.
    """
    if not changes:
        return config
    changed = _changed(config, changes)
    if (ours := _weights(config)) != (theirs := _weights(changed)):
        names = [name for name, value in changes.items() if _reshapes(config, name, value)] or list(changes)
        weights = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        listed = ", ".join(f"connector.{name} is {changes[name]!r}" for name in names)
        own = ", ".join(repr(getattr(config, name)) for name in names)
        raise DynFocusError(
            f"{listed} but must stay {own}: the model's weights have no other shape, such as connector.{weights[0]}"
        )
    return changed


def _changed(config: DynFocusConfig, changes: Mapping[str, Any]) -> DynFocusConfig:
    try:
        return DynFocusConfig.from_dict({**config.to_dict(), **changes}, name_or_path=config.name_or_path)
    except (ValueError, TypeError, StrictDataclassError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise DynFocusError(f"connector ({', '.join(changes)}) does not fit the model: {reason}") from error


def _weights(config: DynFocusConfig) -> dict[str, tuple[int, ...]]:
    parts: list[Any] = [config.vision_config, config.qformer_config, config.text_config]
    vision, text, language = (part.hidden_size for part in parts)
    with torch.device("meta"):
        connector = DynFocusConnector(vision, text, language, config.connector_settings())
    return {name: tuple(weight.shape) for name, weight in connector.state_dict().items()}


def _reshapes(config: DynFocusConfig, name: str, value: Any) -> bool:
    """Whether this change alone gives other weights; one that cannot be made alone is no answer."""
    try:
        return _weights(_changed(config, {name: value})) != _weights(config)
    except DynFocusError:
        return False
