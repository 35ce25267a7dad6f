"""`dynfocus merge`: an adapter and the model it was trained on become one DynFocus directory."""

from pathlib import Path

from dynfocus.checkpoint_files import check_new_directory, new_directory, read_json
from dynfocus.errors import DynFocusError
from dynfocus.loading import check_model_directory, load_model, read_config
from dynfocus.training.connector_changes import CHANGES_FILE, with_changes


def merge(adapter: Path | str, output: Path | str, model: Path | str | None = None) -> Path:
    """Writes the directory `output`, which any DynFocus command takes.

    Args:
        adapter: what `dynfocus train` wrote for a recipe with lora.
        output: must not exist or be empty.
        model: the model below it; where it lay in training unless given.

    Raises:
        DynFocusError: one of them cannot be read, or `output` cannot be written.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise DynFocusError("merging needs the package peft: pip install 'dynfocus[train]'") from error
    adapter, output = Path(adapter), Path(output)
    check_new_directory(output)
    settings = read_json(adapter / "adapter_config.json")
    directory = Path(model or settings["base_model_name_or_path"])
    check_model_directory(directory)
    config = with_changes(read_config(directory), read_json(adapter / CHANGES_FILE))
    base, processor = load_model(directory, device="cpu", config=config)
    try:
        merged = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    except (OSError, RuntimeError, ValueError) as error:
        raise DynFocusError(f"{adapter}: does not fit its model: {' '.join(str(error).split())[:300]}") from error
    with new_directory(output) as folder:
        merged.save_pretrained(folder)
        processor.save_pretrained(folder)
    return output
