"""The shipped accelerate configurations, as accelerate reads them."""

from importlib.resources import files

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from tests.model import tiny

FOLDER = files("dynfocus.training") / "accelerate"
KINDS = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}


def test_all_are_tested():
    assert {file.name.removesuffix(".yaml") for file in FOLDER.iterdir()} == set(KINDS)


@pytest.mark.parametrize("name, kind", KINDS.items())
def test_accelerate_parses_them(name, kind):
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert config.distributed_type == kind
    assert (config.mixed_precision, config.num_processes) == ("bf16", 8)


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_would_launch_with_them(name, monkeypatch):
    monkeypatch.setattr("accelerate.commands.launch.is_deepspeed_available", lambda: True)
    command = ["--config_file", str(FOLDER / f"{name}.yaml"), "-m", "dynfocus", "train", "recipe.yaml"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(command))
    assert (arguments.use_fsdp, arguments.use_deepspeed) == (name == "fsdp2", name.startswith("zero"))
    if name == "fsdp2":
        assert (str(arguments.fsdp_version), arguments.fsdp_state_dict_type) == ("2", "FULL_STATE_DICT")
    if name.startswith("zero"):
        leaf = "DynFocusConnector" if name == "zero3" else None
        assert arguments.deepspeed_moe_layer_cls_names == leaf
        assert (str(arguments.zero_stage), arguments.gradient_accumulation_steps) == (name[-1], "auto")


def test_the_model_names_the_layers_that_fsdp_wraps():
    model = tiny.model()
    assert {"DynFocusConnector", "LlamaDecoderLayer", "InstructBlipEncoderLayer"} <= set(model._no_split_modules)
