"""Load a DynFocus directory, or say in one line why it cannot be loaded."""

import os
from importlib.resources import files
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from dynfocus.checkpoint_files import CheckpointFiles, read_json
from dynfocus.configuration_dynfocus import DynFocusConfig
from dynfocus.errors import DynFocusError
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration
from dynfocus.processing_dynfocus import DynFocusProcessor


def embedded_model() -> Path:
    """The directory of the small model that the package carries."""
    return Path(str(files("dynfocus") / "demo" / "checkpoint"))


def load_model(
    model: str | os.PathLike | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    config: DynFocusConfig | None = None,
) -> tuple[DynFocusForConditionalGeneration, DynFocusProcessor]:
    """Model, in evaluation mode, and processor.

    Args:
        model: a DynFocus directory; the embedded demo model unless given.
        device: as torch names them; the first GPU, if there is one, unless given.
        dtype: of the weights; as they were saved unless given.
        config: in place of the directory's own; the processor counts tokens as it says.

    Raises:
        DynFocusError: the directory is missing, incomplete, damaged or holds another kind of model, or there is no
            such device.
    """
    directory = embedded_model() if model is None else Path(model)
    place = _checked_device(device)
    check_model_directory(directory)
    try:
        processor = load_processor(directory, config)
        loaded, report = DynFocusForConditionalGeneration.from_pretrained(
            directory, config=config, dtype=dtype or "auto", output_loading_info=True
        )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise DynFocusError(f"{directory}: cannot be loaded: {_first_line(error)}") from error
    if missing := sorted(report["missing_keys"]):
        raise DynFocusError(f"{directory}: incomplete, {len(missing)} weights are missing, such as {_some(missing)}")
    if unexpected := sorted(report["unexpected_keys"]):
        raise DynFocusError(
            f"{directory}: {len(unexpected)} weights have no place in the model, such as {_some(unexpected)}"
        )
    return loaded.to(place).eval(), processor


def load_processor(directory: Path, config: DynFocusConfig | None = None) -> DynFocusProcessor:
    """The processor of a DynFocus directory, counting tokens as `config` says if that is given."""
    processor = DynFocusProcessor.from_pretrained(directory)
    if config is not None:
        processor.count_tokens_as(config)
    return processor


def read_config(directory: Path) -> DynFocusConfig:
    """The configuration of a DynFocus directory.

    Raises:
        DynFocusError: it is none.
    """
    try:
        return DynFocusConfig.from_pretrained(directory)
    except (OSError, ValueError, TypeError, StrictDataclassError) as error:
        raise DynFocusError(f"{directory}: cannot be read: {' '.join(str(error).split())[:300]}") from error


def check_model_directory(directory: Path) -> None:
    """Raises DynFocusError unless `directory` looks like a whole DynFocus directory; reads no weights."""
    if not directory.is_dir():
        raise DynFocusError(f"{directory}: {'not a directory' if directory.exists() else 'no such model directory'}")
    for name in ("config.json", "processor_config.json", "tokenizer_config.json", "qformer_tokenizer"):
        if not (directory / name).exists():
            raise DynFocusError(f"{directory}: not a whole DynFocus model, {name} is missing")
    model_type = read_json(directory / "config.json").get("model_type")
    if model_type != "dynfocus":
        raise DynFocusError(f"{directory}: its model type is {model_type!r}, must be 'dynfocus'")
    CheckpointFiles(directory)


def _checked_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (
        RuntimeError,
        AssertionError,
        NotImplementedError,
    ) as error:  # torch: unknown name, not compiled in, no kernels
        raise DynFocusError(f"device {str(device)!r} cannot be used: {_first_line(error)}") from error
    return device


def _some(names: list[str]) -> str:
    return ", ".join(names[:3])


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
