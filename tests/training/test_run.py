"""Whole runs on tiny components: what trains, what is saved, going on, and stopping at trouble."""

import json
import os
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer

from dynfocus import DynFocusForConditionalGeneration
from dynfocus.errors import DynFocusError
from dynfocus.loading import load_model
from dynfocus.training.collation import TrainingCollator
from dynfocus.training.encoding import SampleEncoder
from dynfocus.training.mixture import open_source
from dynfocus.training.run import load_for_training, prepare_model, train
from dynfocus.training.trainable import optimizer_groups, rate_of, unused_parameters
from tests.model import tiny
from tests.training import material

CONNECTOR = {"learning_rates": {"connector": 1e-2}}


def weights(directory):
    return load_file(directory / "model.safetensors")


def first_batch(recipe, processor):
    source = open_source(recipe.data.sources[0])
    encoder = SampleEncoder(processor, recipe.data)
    return TrainingCollator(processor)([encoder(sample, source) for sample in list(source.samples)[:4]])


@pytest.fixture(scope="module")
def unbroken(model_directory, media, tmp_path_factory):
    """Six steps, a checkpoint after every second; recipe and output."""
    recipe = material.recipe(model_directory, media / "data.json", save_every=2, selection={"sigma_end": 0.05})
    output = tmp_path_factory.mktemp("runs") / "unbroken"
    train(recipe, output)
    return recipe, output


def test_the_loss_falls_and_everything_is_logged(unbroken):
    _, output = unbroken
    losses = material.logged(output)
    assert list(losses) == [1, 2, 3, 4, 5, 6]
    assert losses[6] < 0.7 * losses[1]
    sigmas = material.logged(output, "sigma")
    assert [round(sigmas[step], 4) for step in (1, 4)] == [0.1, 0.075]
    assert sorted(path.name for path in output.iterdir()) == ["checkpoint-4", "checkpoint-6", "log.jsonl", "model"]


def test_the_saved_model_gives_the_same_loss(unbroken):
    recipe, output = unbroken
    model, processor = load_model(output / "model")
    batch = first_batch(recipe, processor)
    checkpoint = DynFocusForConditionalGeneration.from_pretrained(output / "checkpoint-6").eval()
    with torch.no_grad():
        assert torch.equal(model(**batch).loss, checkpoint(**batch).loss)
    assert model(**batch).loss < load_model(recipe.model)[0](**batch).loss


def test_going_on_equals_an_unbroken_run(unbroken, tmp_path):
    recipe, output = unbroken
    shutil.copytree(output / "checkpoint-4", tmp_path / "checkpoint-4")
    (tmp_path / "log.jsonl").write_text((output / "log.jsonl").read_text() + '{"step": 5, "lo')
    train(recipe, tmp_path, resume=True)
    material.assert_same_run(tmp_path, output)


def test_frozen_means_bit_unchanged_and_the_rest_learns(model_directory, media, tmp_path):
    recipe = material.recipe(model_directory, media / "data.json", **CONNECTOR, schedule={"steps": 2})
    before, after = weights(model_directory), weights(train(recipe, tmp_path / "run"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("connector.")}


def test_a_run_in_bfloat16_with_checkpointing(model_directory, media, tmp_path):
    """Frozen weights are held in bfloat16 while it runs; what it saves has the dtype it was given."""
    changes = {"precision": "bf16", "gradient_checkpointing": True, "schedule": {"steps": 3}}
    recipe = material.recipe(model_directory, media / "data.json", **CONNECTOR, **changes)
    base, _ = load_for_training(recipe)
    prepare_model(base, recipe)
    dtypes = {name.partition(".")[0]: parameter.dtype for name, parameter in base.named_parameters()}
    assert dtypes["connector"] == torch.float32
    assert dtypes["language_model"] == dtypes["vision_tower"] == torch.bfloat16
    model = train(recipe, tmp_path / "run")
    losses = material.logged(tmp_path / "run")
    assert losses[3] < losses[1]
    assert {tensor.dtype for tensor in weights(model).values()} == {torch.float32}


def test_accumulated_batches_equal_one(model_directory, media, tmp_path, same_noise):
    saved = {}
    for size in (4, 1):
        recipe = material.recipe(
            model_directory, media / "data.json", schedule={"batch_size": size, "steps": 2, "weight_decay": 0.1}
        )
        saved[size] = weights(train(recipe, tmp_path / str(size)))
    for name, weight in saved[4].items():
        torch.testing.assert_close(saved[1][name], weight, atol=2e-3, rtol=1e-3)


def test_decoding_in_workers_changes_nothing(unbroken, tmp_path):
    recipe, output = unbroken
    source = recipe.data.sources[0]
    other = material.recipe(recipe.model, source.path, save_every=2, selection={"sigma_end": 0.05}, data={"workers": 1})
    train(other, tmp_path / "run")
    material.assert_same_run(tmp_path / "run", output)


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rates": {"connector": 1e-2, "qformer": 1e-3, "query_tokens": 1e-3, "vision_tower": 1e-3}},
        {"learning_rates": {"connector": 1e-2, "qformer": 1e-3, "language_model": 1e-2}, "lora": {"rank": 4}},
    ],
    ids=["tower", "lora"],
)
def test_queries_per_frame_with_checkpointing_in_bfloat16(media, tmp_path, changes):
    model = material.write_model(tmp_path / "model", text_queries="frame")
    half = {"precision": "bf16", "gradient_checkpointing": True, "schedule": {"batch_size": 2, "steps": 3}}
    train(material.recipe(model, media / "data.json", **half, **changes), tmp_path / "run")
    assert material.logged(tmp_path / "run")[3] < material.logged(tmp_path / "run")[1]


@pytest.mark.parametrize("queries", ["text", "frame"])
@pytest.mark.parametrize("tower", ["instructblip_vision_model", "clip_vision_model", "siglip_vision_model"])
def test_unused_parameters_are_those_without_a_gradient(media, queries, tower):
    vision = {"model_type": tower} | ({} if tower.startswith("i") else {"projection_dim": 8})
    if tower.startswith("s"):
        del vision["projection_dim"]
    model = tiny.model(text_queries=queries, vision=vision).train()
    recipe = material.recipe("", media / "data.json")
    model(**first_batch(recipe, tiny.processor(num_frames=8))).loss.backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert set(unused_parameters(model)) == without


def test_a_rate_for_each_module(model_directory, media):
    rates = {"connector": 1e-3, "connector.rods": 0, "language_model": 2e-5, "connector.events.scorer": 5e-3}
    recipe = material.recipe(model_directory, media / "data.json", learning_rates=rates, schedule={"weight_decay": 0.1})
    base, _ = load_for_training(recipe)
    prepare_model(base, recipe)
    names = {id(parameter): name for name, parameter in base.named_parameters()}
    found = {}
    for group in optimizer_groups(base, recipe):
        for parameter in group["params"]:
            found[names[id(parameter)]] = group["lr"]
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)
    assert found["connector.events.scorer.mlp.0.weight"] == 5e-3
    assert found["connector.projectors.fine.0.weight"] == 1e-3
    assert found["language_model.lm_head.weight"] == 2e-5
    assert not any(name.startswith(("connector.rods", "vision_tower", "qformer")) for name in found)
    assert rate_of("base_model.model.connector.modules_to_save.default.rods.key.weight", rates) == 0


@pytest.mark.parametrize(
    "rates, complaint",
    [
        ({"conector": 1e-3}, r"learning_rates.conector is not a known key; did you mean connector\?"),
        ({"query_tokens": 1e-3}, "trains nothing: query_tokens are unused by this model"),
    ],
)
def test_modules_that_cannot_train_are_refused(model_directory, media, tmp_path, rates, complaint):
    recipe = material.recipe(model_directory, media / "data.json", learning_rates=rates)
    with pytest.raises(DynFocusError, match=complaint):
        train(recipe, tmp_path / "run")


def test_broken_samples_are_skipped_counted_and_named(model_directory, media, tmp_path):
    recipe = material.recipe(model_directory, media / "broken.json", **CONNECTOR, schedule={"steps": 3})
    train(recipe, tmp_path / "run")
    (record,) = [json.loads(line) for line in (tmp_path / "run" / "broken.jsonl").read_text().splitlines()]
    assert record["id"] == "no-video.mp4"
    assert material.logged(tmp_path / "run", "broken_samples")[3] == 1


def test_a_source_broken_throughout_stops_in_one_line(model_directory, media, tmp_path):
    material.write_annotations(tmp_path, [material.VIDEO] * 4)
    for workers in (0, 1):
        recipe = material.recipe(model_directory, tmp_path / "data.json", **CONNECTOR, data={"workers": workers})
        with pytest.raises(DynFocusError, match=r"^4 samples of .* in a row are broken") as error:
            train(recipe, tmp_path / f"run{workers}")
        assert "Traceback" not in str(error.value)


def fail_at(monkeypatch, step, failure):
    """`failure(loss)` in place of the loss from this step on."""
    compute = Trainer.compute_loss

    def failing(self, *args, **kwargs):
        loss = compute(self, *args, **kwargs)
        return failure(loss) if self.state.global_step + 1 >= step else loss

    monkeypatch.setattr(Trainer, "compute_loss", failing)


def out_of_memory(loss):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def infinite_gradient(loss):
    return loss + (loss - loss.detach()) * 1e38 * 1e38


@pytest.mark.parametrize(
    "failure, complaint",
    [
        (lambda loss: loss * float("nan"), "step 4: the loss is nan"),
        (infinite_gradient, "step 4: the gradient's norm is (inf|nan)"),
        (out_of_memory, r"step 4: out of memory \(CUDA out of memory.*lower schedule.batch_size"),
    ],
)
def test_trouble_stops_at_once_and_keeps_the_last_checkpoint(
    model_directory, media, tmp_path, monkeypatch, failure, complaint
):
    recipe = material.recipe(model_directory, media / "data.json", **CONNECTOR, save_every=3)
    with monkeypatch.context() as patched, pytest.raises(DynFocusError, match=complaint) as error:
        fail_at(patched, 4, failure)
        train(recipe, tmp_path / "run")
    assert "the last checkpoint is " in str(error.value) and "checkpoint-3" in str(error.value)
    assert sorted(os.listdir(tmp_path / "run")) == ["checkpoint-3", "log.jsonl"]
    train(recipe, tmp_path / "run", resume=True)
    assert list(material.logged(tmp_path / "run")) == [1, 2, 3, 4, 5, 6]


def test_a_checkpoint_that_cannot_be_written_keeps_the_last(model_directory, media, tmp_path, monkeypatch):
    recipe = material.recipe(model_directory, media / "data.json", **CONNECTOR, save_every=2)
    write = torch.save

    def full(content, path, **options):
        if "scheduler" in str(path) and "checkpoint-4" in str(path):
            raise OSError(28, "No space left on device")
        write(content, path, **options)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(DynFocusError, match=r"step 4: the checkpoint cannot be written \(No space.*checkpoint-2"):
        train(recipe, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoint-2" / "run.json").exists()
    assert not (tmp_path / "run" / "checkpoint-4").exists()


def test_a_checkpoint_of_another_run_is_refused(unbroken, tmp_path, media):
    recipe, output = unbroken
    shutil.copytree(output / "checkpoint-4", tmp_path / "run" / "checkpoint-4")
    source = recipe.data.sources[0].path
    other = material.recipe(recipe.model, source, save_every=2, schedule={"max_grad_norm": 2.0})
    with pytest.raises(DynFocusError, match=r"its recipe.schedule.max_grad_norm is 1.0 but must be 2.0"):
        train(other, tmp_path / "run", resume=True)
    wider = material.write_model(tmp_path / "wider", num_events=5)
    other = material.recipe(wider, source, save_every=2, selection={"sigma_end": 0.05})
    run = json.loads((tmp_path / "run" / "checkpoint-4" / "run.json").read_text())
    run["recipe"]["model"] = str(wider)
    (tmp_path / "run" / "checkpoint-4" / "run.json").write_text(json.dumps(run))
    with pytest.raises(DynFocusError, match=r"its model.num_events is 6 but must be 5"):
        train(other, tmp_path / "run", resume=True)


def test_a_directory_in_use_is_refused(unbroken, tmp_path):
    recipe, output = unbroken
    with pytest.raises(DynFocusError, match="holds a finished run"):
        train(recipe, output, resume=True)
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(DynFocusError, match="exists and is not empty; --resume"):
        train(recipe, tmp_path)
    with pytest.raises(DynFocusError, match="output is missing"):
        train(recipe)


def test_text_alone_trains_the_language_model_alone(model_directory, media, tmp_path):
    recipe = material.recipe(model_directory, media / "text.json", schedule={"steps": 2})
    before, after = weights(model_directory), weights(train(recipe, tmp_path / "run"))
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"language_model"}


def test_a_logger_that_is_not_installed_is_refused(model_directory, media, tmp_path):
    recipe = material.recipe(model_directory, media / "data.json", report_to="abacus")
    with pytest.raises(DynFocusError, match="report_to is 'abacus' but must be of what is installed: none"):
        train(recipe, tmp_path / "run")


def test_batches_must_add_up(model_directory, media, tmp_path):
    recipe = material.recipe(model_directory, media / "data.json", schedule={"global_batch_size": 6})
    with pytest.raises(DynFocusError, match=re.escape("global_batch_size is 6 but must be a multiple of 4")):
        train(recipe, tmp_path / "run")
