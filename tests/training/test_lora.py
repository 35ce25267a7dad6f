"""LoRA through peft: what trains, what is saved, and that it is the same again when loaded."""

import builtins
import shutil

import pytest
import torch
from peft import PeftModel

from dynfocus.errors import DynFocusError
from dynfocus.loading import load_model
from dynfocus.training.merging import merge
from dynfocus.training.run import load_for_training, prepare_model, train
from tests.model import tiny
from tests.training import material
from tests.training.test_run import first_batch

RATES = {"connector": 1e-2, "language_model": 1e-2}
LORA = {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "down_proj"]}


@pytest.fixture(scope="module")
def trained(model_directory, media, tmp_path_factory):
    recipe = material.recipe(model_directory, media / "data.json", learning_rates=RATES, lora=LORA, save_every=2)
    output = tmp_path_factory.mktemp("lora") / "run"
    return recipe, train(recipe, output)


def test_adapters_and_the_connector_train_and_nothing_else(model_directory, media):
    recipe = material.recipe(
        model_directory, media / "data.json", learning_rates={**RATES, "qformer": 1e-3}, lora=LORA, precision="bf16"
    )
    base, _ = load_for_training(recipe)
    adapted = prepare_model(base, recipe)
    trained = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
    adapters = [name for name in trained if "lora_" in name]
    assert len(adapters) == 2 * 2 * 2  # layers, targets, A and B
    assert all(part in name for name in adapters for part in ("language_model",))
    others = {name for name in trained if "lora_" not in name}
    assert all(".connector." in name or ".qformer." in name for name in others)
    assert not any("crossattention" in name for name in others)  # with text_queries="text" it has no gradient
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    assert base.language_model.lm_head.weight.dtype == torch.bfloat16


def test_the_adapter_gives_the_same_loss_when_loaded_and_when_merged(trained, tmp_path):
    recipe, adapter = trained
    base, processor = load_model(recipe.model)
    batch = first_batch(recipe, processor)
    before = base(**batch).loss
    loaded = PeftModel.from_pretrained(base, adapter).eval()
    with torch.no_grad():
        loss = loaded(**batch).loss
        assert loss < before - 0.05
        merge(adapter, tmp_path / "merged")
        torch.testing.assert_close(load_model(tmp_path / "merged")[0](**batch).loss, loss)


def test_going_on_with_adapters_equals_an_unbroken_run(trained, tmp_path):
    recipe, adapter = trained
    shutil.copytree(adapter.parent / "checkpoint-4", tmp_path / "checkpoint-4")
    shutil.copy(adapter.parent / "log.jsonl", tmp_path)  # lines after step 4 are dropped when the run goes on
    train(recipe, tmp_path, resume=True)
    material.assert_same_run(tmp_path, adapter.parent, weights="adapter/adapter_model.safetensors")


def test_nested_modules_train_in_full_beside_adapters(model_directory, media):
    rates = {**RATES, "connector.events.scorer": 5e-3, "connector.rods": 0, "query_tokens": 1e-3}
    recipe = material.recipe(model_directory, media / "data.json", learning_rates=rates, lora=LORA)
    base, _ = load_for_training(recipe)
    trained = {name for name, weight in prepare_model(base, recipe).named_parameters() if weight.requires_grad}
    for part, trains in (("events.scorer", True), ("projectors.fine", True), ("rods.key", False)):
        assert any(part in name for name in trained) == trains
    base = tiny.model(text_queries="frame")
    with pytest.raises(DynFocusError, match=r"learning_rates\.query_tokens is no module"):
        prepare_model(base, recipe)


def test_merging_refuses_what_is_no_adapter(trained, tmp_path, model_directory):
    with pytest.raises(DynFocusError, match=r"adapter_config\.json is missing"):
        merge(model_directory, tmp_path / "out")
    with pytest.raises(DynFocusError, match="exists and is not an empty directory"):
        merge(trained[1], model_directory)


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"lora": {**LORA, "targets": ["q_prok"]}}, r"lora.targets: q_prok is not a known key; did you mean q_proj\?"),
        ({"lora": {**LORA, "quantize": True}}, "needs the package bitsandbytes"),
    ],
)
def test_adapters_that_cannot_be_are_refused(model_directory, media, tmp_path, monkeypatch, changes, complaint):
    monkeypatch.setattr("transformers.utils.is_bitsandbytes_available", lambda: False)
    recipe = material.recipe(model_directory, media / "data.json", **{"learning_rates": RATES, **changes})
    with pytest.raises(DynFocusError, match=complaint):
        train(recipe, tmp_path / "run")


def test_peft_is_asked_for_by_name(model_directory, media, tmp_path, monkeypatch):
    load = builtins.__import__

    def without_peft(name, *args, **kwargs):
        if name == "peft":
            raise ImportError(name)
        return load(name, *args, **kwargs)

    recipe = material.recipe(model_directory, media / "data.json", learning_rates=RATES, lora=LORA)
    base, _ = load_for_training(recipe)
    monkeypatch.setattr(builtins, "__import__", without_peft)
    with pytest.raises(DynFocusError, match=r"pip install 'dynfocus\[train\]'"):
        prepare_model(base, recipe)
