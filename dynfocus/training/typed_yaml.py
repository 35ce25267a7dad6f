"""YAML into dataclasses. What does not fit is a DynFocusError with the key, its value and what it must be."""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from dynfocus.errors import DynFocusError

T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 1e-3 is a number (PyYAML wants 1.0e-3), and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML mapping.

    Raises:
        DynFocusError: the file is missing, no YAML, or no mapping.
    """
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise DynFocusError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    except yaml.YAMLError as error:
        raise DynFocusError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise DynFocusError(f"{file} must be a mapping of keys to values")
    return content


def parse_value(text: str) -> Any:
    """A value as it would stand in a YAML file."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise DynFocusError(f"{text!r} is not YAML: {' '.join(str(error).split())}") from error


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """An instance of the dataclass `cls`; nested dataclasses, TypedDicts whose keys may all be missing, tuples, dicts,
    unions and literals included.

    Args:
        where: how `values` is called in messages, such as "data.sources[2]"; nothing for the whole file.

    Raises:
        DynFocusError: an unknown key (with the nearest known one), a missing one, or a value of a wrong type.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise unknown_key(_join(where, str(key)), str(key), fields)
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise DynFocusError(f"{_join(where, name)} is missing; it must be {_describe(_types(cls)[name])}")
    converted = {key: _convert(_types(cls)[key], value, _join(where, key)) for key, value in values.items()}
    return cls(**converted)


def unknown_key(where: str, key: str, known: typing.Iterable[str]) -> DynFocusError:
    """The error for a key that nobody knows."""
    known = list(known)
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(known)}"
    return DynFocusError(f"{where} is not a known key; {hint}")


def _types(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        present = [option for option in arguments if option is not type(None)]
        return _convert(present[0], value, where)
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return from_mapping(kind, value, where)  # type: ignore[arg-type]
    if typing.is_typeddict(kind) and isinstance(value, Mapping):
        kinds = typing.get_type_hints(kind)
        for key in value:
            if key not in kinds:
                raise unknown_key(_join(where, str(key)), str(key), kinds)
        return {key: _convert(kinds[key], entry, _join(where, key)) for key, entry in value.items()}
    if origin in (tuple, Sequence) and isinstance(value, list):
        return tuple(_convert(arguments[0], entry, f"{where}[{i}]") for i, entry in enumerate(value))
    if origin is dict and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _convert(arguments[1], entry, _join(where, key)) for key, entry in value.items()}
    if origin is Literal and value in arguments:
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind in (str, int, bool) and type(value) is kind:
        return value
    raise DynFocusError(f"{where} is {value!r} but must be {_describe(kind)}")


def _describe(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if option is type(None) else _describe(option) for option in arguments)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (tuple, Sequence):
        return f"a list, each entry {_describe(arguments[0])}"
    if origin is dict:
        return f"a mapping of names, each to {_describe(arguments[1])}"
    if dataclasses.is_dataclass(kind):
        return f"a mapping of {', '.join(field.name for field in dataclasses.fields(kind))}"
    if typing.is_typeddict(kind):
        return f"a mapping of {', '.join(typing.get_type_hints(kind))}"
    return {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}[kind]
