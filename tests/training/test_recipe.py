"""Recipes: what is wrong in one is named before anything is loaded."""

import os
import re
import typing
from pathlib import Path

import pytest

from dynfocus.errors import DynFocusError
from dynfocus.training.layouts import LAYOUTS
from dynfocus.training.recipe import SourceSettings, load_recipe, shipped_recipes
from dynfocus.training.schedules import sigma_at

GOOD = """
model: somewhere
learning_rates: {connector: 1e-3}
data: {sources: [{path: a.json}], max_tokens: 512}
schedule: {global_batch_size: 8, batch_size: 2}
"""


def loaded(tmp_path, text, *changes):
    (tmp_path / "recipe.yaml").write_text(text)
    return load_recipe(tmp_path / "recipe.yaml", changes)


def test_types_and_defaults(tmp_path):
    recipe = loaded(tmp_path, GOOD)
    assert recipe.learning_rates == {"connector": 0.001}  # plain YAML would read 1e-3 as a text
    assert recipe.data.sources[0].layout == "llava"
    assert recipe.data.max_tokens == 512
    assert recipe.schedule.warmup == 0.03


def test_changes_on_the_command_line(tmp_path):
    changes = ["schedule.batch_size=4", "data.sources[0].media=/x y", "selection.sigma=2e-1", "lora=null"]
    recipe = loaded(tmp_path, GOOD, *changes)
    assert (recipe.schedule.batch_size, recipe.data.sources[0].media, recipe.selection.sigma) == (4, "/x y", 0.2)


@pytest.mark.parametrize(
    "old, new, complaints",
    [
        ("learning_rates:", "learning_rate:", ["learning_rate is not a known key", "did you mean learning_rates?"]),
        ("batch_size: 2", "batchsize: 2", ["schedule.batchsize is not a known key", "did you mean batch_size?"]),
        ("batch_size: 2", "batch_size: two", ["schedule.batch_size is 'two' but must be a whole number"]),
        ("batch_size: 2", "batch_size: 2.5", ["schedule.batch_size is 2.5 but must be a whole number"]),
        ("batch_size: 2", "batch_size: true", ["schedule.batch_size is True but must be a whole number"]),
        ("batch_size: 2", "batch_size: 0", ["schedule.batch_size is 0 but must be positive"]),
        ("path: a.json", "media: b", ["data.sources[0].path is missing; it must be a text"]),
        ("path: a.json", "path: a.json, layout: lava", ["data.sources[0].layout is 'lava'", "llava-665k"]),
        ("[{path: a.json}]", "[]", ["data.sources is empty"]),
        ("[{path: a.json}]", "a.json", ["data.sources is 'a.json' but must be a list"]),
        ("model: somewhere", "model: [1]", ["model is [1] but must be a text"]),
        ("model: somewhere\n", "", ["model is missing"]),
        ("1e-3", "fast", ["learning_rates.connector is 'fast' but must be a number"]),
        ("1e-3", "-1", ["learning_rates.connector is -1.0 but must not be negative"]),
        ("1e-3", "0", ["learning_rates trains nothing"]),
        ("model:", "precision: fp16\nmodel:", ["precision is 'fp16' but must be one of bf16, fp32"]),
        ("model:", "selection: {sigma: 0}\nmodel:", ["selection.sigma is 0.0 but must be positive"]),
        ("model:", "schedule: {}\nmodel:", ["not YAML", "'schedule' is given twice"]),
        ("model:", "lora: {rank: 4}\nmodel:", ["lora is given but learning_rates.language_model"]),
        ("batch_size: 2", "batch_size: 2, warmup: 3", ["schedule.warmup is 3.0 but must be at least 0 and below 1"]),
        ("model: ", "model: [", ["is not YAML"]),
        ("model:", "connector: {event: 4}\nmodel:", ["connector.event is not a known key", "num_events"]),
        (
            "model:",
            "connector: {num_events: few}\nmodel:",
            ["connector.num_events is 'few' but must be a whole number"],
        ),
        (
            "model:",
            "connector: {num_events: 0}\nmodel:",
            ["connector.num_events is 0 but must be an int of at least 1"],
        ),
        ("model:", "connector: {temporal: mean}\nmodel:", ["connector.temporal is 'mean'", "'dpc_knn', 'kmeans'"]),
        ("model:", "connector: {text_queries: no}\nmodel:", ["connector.text_queries is False", "one of text, frame"]),
        ("model:", "connector: {spatial_levels: [[4, x]]}\nmodel:", ["connector.spatial_levels[0][1] is 'x'"]),
        ("model:", "connector: [temporal]\nmodel:", ["connector is ['temporal'] but must be a mapping of num_events"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_named(tmp_path, old, new, complaints):
    assert old in GOOD
    with pytest.raises(DynFocusError) as error:
        loaded(tmp_path, GOOD.replace(old, new, 1))
    for complaint in complaints:
        assert complaint in str(error.value)


def test_changes_of_the_connector(tmp_path):
    changes = ["connector.temporal=kmeans", "connector.key_ratio=1", "connector.spatial_levels=[[9, 4], [2, 2]]"]
    recipe = loaded(tmp_path, GOOD, *changes)
    assert recipe.connector == {"temporal": "kmeans", "key_ratio": 1.0, "spatial_levels": ((9, 4), (2, 2))}
    assert type(recipe.connector["key_ratio"]) is float
    assert recipe.to_dict()["connector"]["spatial_levels"] == [[9, 4], [2, 2]]
    assert loaded(tmp_path, GOOD).connector == {}


@pytest.mark.parametrize("change", ["seed", "data.sources[3].path=x", "model.path=x", "data.sources[a].path=x"])
def test_a_change_must_fit(tmp_path, change):
    with pytest.raises(DynFocusError, match=r"must have the form|names no entry"):
        loaded(tmp_path, GOOD, change)


def test_an_unknown_recipe_names_the_shipped_ones():
    with pytest.raises(DynFocusError, match=r"neither a file nor a shipped recipe.*stage1-7b-8xa100"):
        load_recipe("stage9")


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_good(name):
    assert load_recipe(name).schedule.epochs == 1


def test_shipped_recipes_have_the_values_of_the_lineage():
    first, second = load_recipe("stage1-7b-8xa100"), load_recipe("stage2-7b-8xa100")
    assert first.learning_rates == {"connector": 1e-3}
    assert set(second.learning_rates.items()) >= {("language_model", 2e-5), ("connector", 2e-5), ("qformer", 2e-5)}
    assert (first.schedule.global_batch_size, second.schedule.global_batch_size) == (256, 128)
    for recipe in (first, second):
        schedule = recipe.schedule
        assert (schedule.shape, schedule.warmup, schedule.weight_decay, recipe.data.max_tokens) == (
            *("cosine", 0.03, 0.0),
            2048,
        )
        assert (recipe.precision, recipe.gradient_checkpointing) == ("bf16", True)
        assert schedule.global_batch_size % (schedule.batch_size * 8) == 0


def test_the_recipe_of_the_documentation_is_good(tmp_path):
    source = Path(os.environ.get("DYNFOCUS_SOURCE", Path(__file__).parents[2]))
    (block,) = re.findall(r"```yaml\n(.*?)```", (source / "docs" / "training.md").read_text(), re.DOTALL)
    recipe = loaded(tmp_path, block)
    assert recipe.learning_rates == {"connector": 1e-3, "connector.rods": 2e-4}


def test_recipes_know_every_layout():
    assert set(typing.get_args(typing.get_type_hints(SourceSettings)["layout"])) == set(LAYOUTS)


def test_sigma_goes_from_its_start_to_its_end():
    from dynfocus.training.recipe import SelectionSettings

    linear, cosine = (SelectionSettings(0.4, 0.1, shape) for shape in ("linear", "cosine"))
    for settings in (linear, cosine):
        assert sigma_at(settings, 0.0) == pytest.approx(0.4)
        assert sigma_at(settings, 0.5) == pytest.approx(0.25)
        assert sigma_at(settings, 1.0) == pytest.approx(0.1)
    assert sigma_at(cosine, 0.25) > sigma_at(linear, 0.25)
    assert sigma_at(SelectionSettings(0.3), 0.7) == 0.3
