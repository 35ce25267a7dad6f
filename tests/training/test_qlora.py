"""QLoRA: the language model in four bits, adapters in float32 beside it."""

import bitsandbytes
import torch

from dynfocus.loading import load_model
from dynfocus.training.merging import merge
from dynfocus.training.run import load_for_training, train
from tests.training import material
from tests.training.test_lora import LORA, RATES
from tests.training.test_run import first_batch


def test_four_bit_weights_stay_and_their_adapters_train(model_directory, media, tmp_path):
    quantized = {**LORA, "quantize": True}
    recipe = material.recipe(model_directory, media / "data.json", learning_rates=RATES, lora=quantized)
    base, processor = load_for_training(recipe)
    four_bit = {name for name, module in base.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)}
    assert len(four_bit) == 2 * 7 and all(name.startswith("language_model.model.layers.") for name in four_bit)
    assert base.get_submodule(min(four_bit)).weight.dtype == torch.uint8

    adapter = train(recipe, tmp_path / "run")
    merge(adapter, tmp_path / "merged")
    batch = first_batch(recipe, processor)
    with torch.no_grad():
        before, after = (load_model(folder)[0](**batch).loss for folder in (recipe.model, tmp_path / "merged"))
    assert after < before - 0.05
