"""Reads and writes checkpoints tensor by tensor: names and shapes first, values only when they are needed."""

import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import snapshot_download, split_torch_state_dict_into_shards
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dynfocus.errors import DynFocusError

_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja")  # configuration and tokenizers, those in subfolders too


class CheckpointFiles:
    """The tensors of a checkpoint by name; nothing is read before `read`.

    `path` is a transformers directory (`.safetensors` before `.bin`, in shards or whole) or one `.pth` file whose
    tensors may lie under a "model" entry, as LAVIS writes them. Pickles are loaded with weights_only and mapped into
    memory rather than read, except for those in the old format from before torch 1.6, which cannot be mapped.

    Raises:
        DynFocusError: a missing, unreadable or foreign file.
    """

    def __init__(self, path: Path):
        self.path = path
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._safetensors: dict[str, safe_open] = {}  # by tensor name
        self._pickled: dict[str, Tensor] = {}
        for file in _weight_files(path) if path.is_dir() else [path]:
            if not file.is_file():
                raise DynFocusError(f"{file} is missing")
            if file.suffix == ".safetensors":
                self._open_safetensors(file)
            else:
                self._open_pickle(file)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def read(self, name: str) -> Tensor:
        return self._safetensors[name].get_tensor(name) if name in self._safetensors else self._pickled[name]

    def _open_safetensors(self, file: Path) -> None:
        try:
            tensors = safe_open(file, framework="pt")
        except (SafetensorError, OSError) as error:
            raise DynFocusError(f"{file} is not a readable safetensors file: {error}") from error
        for name in tensors.keys():  # noqa: SIM118 - not a mapping
            self._shapes[name] = tuple(tensors.get_slice(name).get_shape())
            self._safetensors[name] = tensors

    def _open_pickle(self, file: Path) -> None:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise DynFocusError(f"{file} is not a readable torch checkpoint: {reason}") from error
        if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
            content = content["model"]
        if not isinstance(content, Mapping) or not content or not all(isinstance(t, Tensor) for t in content.values()):
            raise DynFocusError(f"{file} holds no tensors by name, so it is not a checkpoint")
        self._pickled.update(content)
        self._shapes.update((name, tuple(tensor.shape)) for name, tensor in content.items())


def _weight_files(directory: Path) -> list[Path]:
    """The files with the weights of a transformers directory, those that its index names if it has one."""
    for name in _WEIGHT_FILES:
        if (index := directory / f"{name}.index.json").is_file():
            weight_map = read_json(index).get("weight_map")
            if not isinstance(weight_map, Mapping):
                raise DynFocusError(f"{index} has no weight_map")
            return [directory / file for file in sorted(set(weight_map.values()))]
        if (directory / name).is_file():
            return [directory / name]
    raise DynFocusError(f"{directory} has no weights: neither {' nor '.join(_WEIGHT_FILES)}, whole or in shards")


def locate(source: str | Path) -> Path:
    """A local file or directory as it is; a hub name ("owner/name") as its local snapshot, downloaded where needed.

    Raises:
        DynFocusError: neither exists.
    """
    path = Path(source)
    if path.exists():
        return path
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(source)):
        raise DynFocusError(f"{source} does not exist and is no hub name (owner/name)")
    try:
        snapshot = Path(snapshot_download(str(source), allow_patterns=[*_SMALL_FILES, "model*.safetensors*"]))
        if not any(snapshot.glob("model*.safetensors")):
            snapshot_download(str(source), allow_patterns=["pytorch_model*.bin*"])
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DynFocusError(f"{source} is neither a local path nor to be had from the hub: {reason}") from error
    return snapshot


def read_json(file: Path) -> dict:
    """A JSON object.

    Raises:
        DynFocusError: it is missing or no JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DynFocusError(f"{file} is missing") from error
    except (OSError, ValueError) as error:
        raise DynFocusError(f"{file} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise DynFocusError(f"{file} is not a JSON object")
    return content


def write_weights(
    directory: Path,
    readers: Mapping[str, Callable[[], Tensor]],
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    max_shard_size: int | str,
) -> list[str]:
    """Reads, casts and writes tensors into safetensors shards, one of them in memory at a time; gives file names.

    Raises:
        DynFocusError: `max_shard_size` is not a size.
    """
    planned = {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in shapes.items()}
    try:
        plan = split_torch_state_dict_into_shards(planned, max_shard_size=max_shard_size)
    except ValueError as error:
        raise DynFocusError(f"max_shard_size is {max_shard_size!r}, but must be bytes or e.g. '5GB'") from error
    for file, names in plan.filename_to_tensors.items():
        shard = {name: readers[name]().to(dtype).contiguous() for name in names}
        save_file(shard, directory / file, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return list(plan.filename_to_tensors)


def check_new_directory(output: Path, overwrite: bool = False) -> None:
    """Raises DynFocusError unless `output` is free (nothing, or an empty directory) or, to `overwrite`, a DynFocus."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not overwrite:
        raise DynFocusError(f"{output} exists and is not an empty directory")
    config = output / "config.json"
    if not config.is_file() or read_json(config).get("model_type") != "dynfocus":
        raise DynFocusError(f"{output} is not a DynFocus model, so it is not overwritten; choose another directory")


@contextmanager
def new_directory(output: Path, overwrite: bool = False) -> Iterator[Path]:
    """A directory to fill, which appears as `output` when the block ends and is gone when it fails.

    Raises:
        DynFocusError: as `check_new_directory`, before the block is entered; or `output` cannot be written.
    """
    check_new_directory(output, overwrite)
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        partial.mkdir()
        try:
            yield partial
            _take_place(partial, output)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except OSError as error:
        raise DynFocusError(f"{output} cannot be written: {error.strerror or error}") from error


def _take_place(directory: Path, output: Path) -> None:
    """Renames `directory` to `output`; what was there is deleted only once the new one has its place."""
    if not output.exists() or not any(output.iterdir()):
        directory.replace(output)
        return
    old = output.with_name(f".{output.name}.{os.getpid()}.old")
    output.rename(old)
    try:
        directory.rename(output)
    except OSError:
        old.rename(output)
        raise
    shutil.rmtree(old)
