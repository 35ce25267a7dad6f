"""The estimate of memory and arithmetic, against what the same model does on the CPU."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dynfocus.errors import DynFocusError
from dynfocus.training import planning
from dynfocus.training.planning import plan
from dynfocus.training.run import load_for_training, prepare_model
from tests.model import tiny
from tests.training import material

CONNECTOR = {"learning_rates": {"connector": 1e-3}}
LORA = {"rank": 4, "targets": ["q_proj", "down_proj"]}


@pytest.fixture(scope="module")
def configuration(tmp_path_factory):
    """A directory with a configuration alone."""
    directory = tmp_path_factory.mktemp("configuration")
    tiny.config().save_pretrained(directory)
    return directory


@pytest.mark.parametrize("changes", [CONNECTOR, {}, {"lora": LORA, "learning_rates": {"language_model": 1e-3}}])
def test_parameters_are_counted_without_weights(configuration, model_directory, media, changes):
    recipe = material.recipe(model_directory, media / "data.json", **changes)
    base, _ = load_for_training(recipe)
    weights = list(prepare_model(base, recipe).parameters())
    found = plan(material.recipe(configuration, media / "data.json", **changes), gpus=1)
    assert found.parameters == sum(weight.numel() for weight in weights)
    assert found.trained == sum(weight.numel() for weight in weights if weight.requires_grad)
    alone = found.memory[0]
    assert alone.weights == sum(weight.numel() * weight.element_size() for weight in weights)
    assert (alone.gradients, alone.optimizer) == (found.trained * 4, found.trained * 8)


def kept_and_flops(model, batch, tokens):
    """What the language model's layers and head really do, in float32."""
    body, head = model.language_model.model, model.language_model.lm_head
    inputs = torch.randn(batch, tokens, 64, requires_grad=True)
    with planning._kept(model) as kept, FlopCounterMode(display=False) as counter:
        states = body(inputs_embeds=inputs, use_cache=False).last_hidden_state
    forward = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        head(states).sum().backward()
    # The counter does not know the CPU's attention: two products forward, five backward, of 4 heads in 2 layers.
    attention = 2 * 7 * (2 * batch * 4 * tokens**2 * 16)
    return sum(kept.values()), forward + counter.get_total_flops() + attention


@pytest.mark.parametrize("rates", [{"connector": 1e-3}, {"connector": 1e-3, "language_model": 1e-3}])
def test_the_language_model_does_what_was_planned(rates):
    model = tiny.model().train()
    for weight in model.parameters():
        weight.requires_grad_("language_model" in rates)
    kept, flops = kept_and_flops(model, 3, 60)
    with torch.device("meta"):
        base = tiny.model()
    for weight in base.parameters():
        weight.requires_grad_("language_model" in rates)
    planned = planning._language_model(base, 3, 60, torch.float32, checkpointing=False)
    assert planned.flops == pytest.approx(flops, rel=0.02)
    logits = 3 * 60 * 80 * (4 + 8)
    assert planned.activations - logits == pytest.approx(kept, rel=0.1)


def test_checkpointing_trades_memory_for_arithmetic(configuration, media):
    plain = plan(material.recipe(configuration, media / "data.json"), 1)
    checkpointed = plan(material.recipe(configuration, media / "data.json", gradient_checkpointing=True), 1)
    assert checkpointed.memory[0].activations < plain.memory[0].activations
    assert 1.1 < checkpointed.flops / plain.flops < 1.4


def test_sharing_saves_memory_and_not_arithmetic(configuration, media):
    schedule = {"global_batch_size": 16, "batch_size": 2}
    one, four = (plan(material.recipe(configuration, media / "data.json", schedule=schedule), n) for n in (1, 4))
    assert (one.accumulation, four.accumulation) == (8, 2)
    assert one.flops == four.flops
    ddp, zero2, fsdp, zero3 = four.memory
    assert [row.strategy for row in four.memory] == ["DDP", "ZeRO-2", "FSDP2", "ZeRO-3"]
    assert fsdp.optimizer == ddp.optimizer / 4 == zero2.optimizer * 8 / 12
    assert zero3.weights < zero2.weights
    assert ddp.total == one.memory[0].total


def test_bfloat16_halves_what_is_frozen(configuration, media):
    single, half = (
        plan(material.recipe(configuration, media / "data.json", **CONNECTOR, precision=name), 1).memory[0]
        for name in ("fp32", "bf16")
    )
    assert half.weights < 0.7 * single.weights and half.activations < 0.7 * single.activations
    assert half.optimizer == single.optimizer


def test_the_longest_sample_is_planned(configuration, media):
    assert plan(material.recipe(configuration, media / "data.json"), 1).frames == 49  # (128 − 3 · 10) / 2
    assert plan(material.recipe(configuration, media / "data.json", data={"max_frames": 9}), 1).frames == 9


@pytest.mark.parametrize("variant, frames", [({"rods": False}, 512), ({"cones": "none"}, 64), ({}, 49)])
def test_frames_without_rods_or_cones(media, tmp_path, variant, frames):
    """128 tokens: rods alone pay for 64 frames; without rods only the sampling bounds them."""
    tiny.config(**variant).save_pretrained(tmp_path)
    assert plan(material.recipe(tmp_path, media / "data.json"), 1).frames == frames


def test_what_cannot_be_planned_is_refused(configuration, media, tmp_path):
    with pytest.raises(DynFocusError, match="no such model directory"):
        plan(material.recipe(tmp_path, media / "data.json"), 1)
    with pytest.raises(DynFocusError, match="global_batch_size is 4 but must be a multiple of 12"):
        plan(material.recipe(configuration, media / "data.json"), 3)
