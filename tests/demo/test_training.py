"""`dynfocus train demo` on a few videos and steps: whole, reproducible, and all or nothing."""

import tempfile
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import dynfocus.demo.train as training
from dynfocus.checkpoint_files import new_directory
from dynfocus.demo.build import build
from dynfocus.demo.train import STAGES, TrainingSettings, prepare, stage, train
from dynfocus.errors import DynFocusError
from dynfocus.loading import load_model, read_config

SEED = 5
TINY = TrainingSettings(
    num_videos=2,
    num_clips=2,
    conversations=1,
    tower_steps=2,
    threads=1,
    changes=("schedule.steps=2", "schedule.global_batch_size=2", "schedule.batch_size=2"),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "model"
    train(folder, seed=SEED, settings=TINY)
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    prepare(work, SEED, TINY, before=STAGES[-1])
    return work


def test_all_parts_are_trained_and_saved(trained):
    before = build(seed=SEED)[0].state_dict()
    after = load_file(trained / "model.safetensors")
    assert set(after) == set(before)
    connector = [f"connector.{part}." for part in ("events.scorer", "projectors.fine", "projectors.text", "rods")]
    for part in ("vision_tower.", "qformer.", *connector, "language_model."):
        assert any(not torch.equal(after[name], before[name]) for name in after if name.startswith(part)), part


def test_the_saved_model_is_whole_and_has_the_connector_it_was_built_with(trained):
    """Whatever the earlier stages left out of it."""
    model, processor = load_model(trained)
    built = build(SEED)[0].config
    for name, setting in asdict(built.connector_settings()).items():
        assert np.array_equal(getattr(model.config, name), setting), name
    assert processor.plan(64).num_tokens == 356
    card = (trained / "README.md").read_text()
    assert f"dynfocus train demo --seed {SEED}" in card and "2 videos" in card


def test_the_same_seed_gives_the_same_weights(trained, tmp_path):
    train(tmp_path / "again", seed=SEED, settings=TINY)
    first, again = load_file(trained / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    differences = torch.cat([(again[name] - value).abs().flatten() for name, value in first.items()])
    # But for the order of sums in a matrix product, which follows memory alignment.
    assert differences.max() < 1e-2 and (differences > 1e-5).float().mean() < 1e-3


def test_every_stage_goes_on_from_the_one_before_and_leaves_the_tower_alone(prepared):
    places = [prepared / "tower", *(prepared / name / "model" for name in STAGES[:-1])]
    weights = [load_file(place / "model.safetensors") for place in places]
    for before, after in pairwise(weights):
        for name, value in after.items():
            if name.startswith("vision_tower."):
                assert torch.equal(value, before[name])
        assert any(not torch.equal(value, before[name]) for name, value in after.items())
        # Two steps of at most the rate of a stage, from where the last one ended.
        assert max((value - before[name]).abs().max() for name, value in after.items()) < 2e-2
    untrained = build(SEED)[0].state_dict()
    assert not torch.equal(
        untrained["vision_tower.embeddings.patch_embedding.weight"],
        weights[0]["vision_tower.embeddings.patch_embedding.weight"],
    )
    assert torch.equal(untrained["query_tokens"], weights[0]["query_tokens"])
    assert [read_config(place).cones for place in places] == ["prototypes"] * 2 + ["none"] + ["prototypes"] * 3
    assert [read_config(place).rods for place in places] == [True, True, True, False, True, True]


def test_what_is_prepared_is_not_made_again(prepared, monkeypatch):
    for name in ("write_training_data", "build", "train_tower", "run_recipe"):
        monkeypatch.setattr(training, name, lambda *args, **kwargs: pytest.fail("done before"))
    prepare(prepared, SEED, TINY, before=STAGES[-1])


def test_a_stage_is_a_shipped_recipe_on_what_was_prepared(tmp_path):
    recipes = [stage(name, tmp_path, ("seed=3",)) for name in STAGES]
    made = [tmp_path / "tower", *(tmp_path / name / "model" for name in STAGES[:-1])]
    assert [Path(recipe.model) for recipe in recipes] == made
    data = [
        tmp_path / "data" / f"{name}.jsonl" for name in ("images", "clips", "clips", "clips", "videos", "questions")
    ]
    assert [Path(recipe.data.sources[0].path) for recipe in recipes] == data
    for recipe in recipes:
        assert (recipe.seed, recipe.precision) == (3, "fp32")
        assert set(recipe.learning_rates) - {"connector.events"} == {"connector", "qformer", "language_model"}
        assert recipe.data.features == str(tmp_path / "features")
        assert recipe.data.max_tokens > build(0)[0].config.max_visual_tokens


def test_threads_are_given_back(tmp_path, monkeypatch):
    before, seen = torch.get_num_threads(), []

    def fail(*args, **kwargs):
        seen.append(torch.get_num_threads())
        raise RuntimeError("out of luck")

    monkeypatch.setattr(training, "prepare", fail)
    with pytest.raises(RuntimeError, match="out of luck"):
        train(tmp_path / "model", settings=TrainingSettings(threads=before + 1))
    assert (seen, torch.get_num_threads()) == ([before + 1], before)


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(recipe, output, **options):
        assert any(tmp_path.rglob("videos.jsonl"))
        raise RuntimeError("out of luck")

    monkeypatch.setattr(training, "run_recipe", fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(RuntimeError, match="out of luck"):
        train(tmp_path / "model", settings=TINY)
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_replaced_only_when_asked(tmp_path, monkeypatch):
    def run_recipe(recipe, output, **options):
        output.mkdir()
        (output / "model.safetensors").write_text("new")
        return output

    monkeypatch.setattr(training, "prepare", lambda *args, **kwargs: None)
    monkeypatch.setattr(training, "run_recipe", run_recipe)
    output = tmp_path / "model"
    output.mkdir()
    (output / "old").write_text("precious")
    (output / "config.json").write_text('{"model_type": "dynfocus"}')
    with pytest.raises(DynFocusError, match="exists and is not an empty directory"):
        train(output, settings=TINY)
    assert (output / "old").read_text() == "precious"
    train(output, settings=TINY, overwrite=True)
    assert sorted(file.name for file in output.iterdir()) == ["README.md", "model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failure_at_the_last_step_keeps_what_was_there(tmp_path):
    output = tmp_path / "model"
    output.mkdir()
    (output / "config.json").write_text('{"model_type": "dynfocus"}')
    with pytest.raises(DynFocusError, match="cannot be written"), new_directory(output, overwrite=True) as folder:
        folder.rmdir()  # so that it cannot take its place
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (output / "config.json").exists()


@pytest.mark.parametrize("config", [None, '{"model_type": "llama"}', "[]"])
def test_only_a_model_is_overwritten(tmp_path, monkeypatch, config):
    (tmp_path / "thesis.txt").write_text("precious")
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    monkeypatch.setattr(training, "prepare", lambda *args, **kwargs: pytest.fail("training began"))
    for output in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(DynFocusError, match=r"is not a DynFocus model|is not a JSON object"):
            train(output, settings=TINY, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_an_unwritable_output_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(training, "prepare", lambda *args, **kwargs: pytest.fail("training began"))
    with pytest.raises(DynFocusError, match="cannot be written"):
        train(tmp_path / "file" / "model", settings=TINY)
