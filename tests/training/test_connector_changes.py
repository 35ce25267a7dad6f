"""A recipe's `connector`: the run, what is saved, and every other command follow it, or it is refused."""

import shutil

import pytest
import torch

from dynfocus.errors import DynFocusError
from dynfocus.loading import load_model
from dynfocus.training.checking import check_data
from dynfocus.training.merging import merge
from dynfocus.training.planning import plan
from dynfocus.training.run import load_for_training, train
from tests.training import material

CONNECTOR = {"learning_rates": {"connector": 1e-2}, "schedule": {"steps": 2}}
CHANGES = {"num_events": 4, "key_ratio": 1.0, "spatial_levels": [[6, 3], [2, 2]], "temporal": "kmeans"}


def changed(model, media, changes=None, **others):
    return material.recipe(model, media / "data.json", **{**CONNECTOR, **others}, connector=changes or CHANGES)


def assert_follows(model, processor):
    settings = model.connector.settings
    assert (settings.num_events, settings.key_ratio, settings.temporal) == (4, 1.0, "kmeans")
    assert (processor.num_events, processor.key_ratio, processor.fine_tokens) == (4, 1.0, 4 + 8)
    assert model.config.connector_settings() == settings


def test_the_model_and_its_processor_follow_and_weights_stay(model_directory, media):
    model, processor = load_for_training(changed(model_directory, media))
    assert_follows(model, processor)
    for name, weight in load_model(model_directory, device="cpu")[0].state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]), name


def test_the_run_trains_and_saves_it(model_directory, media, tmp_path):
    recipe = changed(model_directory, media, save_every=1)
    assert_follows(*load_model(train(recipe, tmp_path / "run")))
    shutil.rmtree(tmp_path / "run" / "model")
    other = changed(model_directory, media, {**CHANGES, "temporal": "dpc_knn"}, save_every=1)
    with pytest.raises(DynFocusError, match=r"temporal is 'kmeans' but must be 'dpc_knn'"):
        train(other, tmp_path / "run", resume=True)
    shutil.rmtree(tmp_path / "run" / "checkpoint-2")
    assert_follows(*load_model(train(recipe, tmp_path / "run", resume=True)))


def test_an_adapter_is_merged_into_what_it_was_trained_on(model_directory, media, tmp_path):
    recipe = changed(
        model_directory, media, learning_rates={"language_model": 1e-2}, lora={"rank": 2, "targets": ["q_proj"]}
    )
    assert_follows(*load_model(merge(train(recipe, tmp_path / "run"), tmp_path / "merged")))


def test_other_commands_follow(model_directory, media):
    recipe, own = changed(model_directory, media), material.recipe(model_directory, media / "data.json", **CONNECTOR)
    assert plan(recipe, 1).frames == 40  # (128 - 4 * 12) / 2, where the model's own give 49
    visual = [check_data(each)[0].counts["visual tokens"] for each in (recipe, own)]
    assert max(visual[0]) == 8 * 2 + 4 * 12 != max(visual[1])


@pytest.mark.parametrize(
    "changes, complaint",
    [
        (
            {"scorer": "predictor_lg"},
            r"connector.scorer is 'predictor_lg' but must stay 'mlp'.*events.scorer",
        ),
        ({"num_events": 4, "share_projector": True}, r"^connector.share_projector is True but must stay False"),
        ({"spatial_gate": "softmax", "temporal": "kmeans"}, r"^connector.spatial_gate is 'softmax' but must stay None"),
        ({"spatial_levels": [[17, 3], [2, 2]]}, r"connector \(spatial_levels\) does not fit the model: .*16 patches"),
    ],
)
def test_what_does_not_fit_the_weights_is_refused(model_directory, media, tmp_path, changes, complaint):
    recipe = changed(model_directory, media, changes)
    for command in (load_for_training, check_data, lambda recipe: plan(recipe, 1)):
        with pytest.raises(DynFocusError, match=complaint):
            command(recipe)
