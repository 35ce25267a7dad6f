"""`dynfocus train demo` on a few videos and steps: whole, reproducible, and all or nothing."""

import pytest
import torch
from safetensors.torch import load_file

import dynfocus.demo.train as training
from dynfocus.checkpoint_files import new_directory
from dynfocus.demo.build import build
from dynfocus.demo.train import TrainingSettings, train
from dynfocus.errors import DynFocusError
from dynfocus.evaluation.demo import evaluate

TINY = TrainingSettings(num_videos=3, tower_steps=3, rods_steps=2, steps=2, batch_size=2, threads=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "model"
    train(folder, seed=5, settings=TINY)
    return folder


def test_all_parts_are_trained_and_saved(trained):
    before = build(seed=5)[0].state_dict()
    after = load_file(trained / "model.safetensors")
    assert set(after) == set(before)
    connector = [f"connector.{part}." for part in ("events.scorer", "projectors.fine", "projectors.text", "rods")]
    for part in ("vision_tower.", "qformer.", *connector, "language_model."):
        assert any(not torch.equal(after[name], before[name]) for name in after if name.startswith(part)), part


def test_only_the_language_stage_leaves_the_tower_alone():
    model, processor = build(seed=5)
    scenes = [training.random_scene("train", 5, index) for index in range(TINY.num_videos)]
    features, _ = training._train_vision(model, processor, scenes, TINY, 5)
    tower = {name: value.clone() for name, value in model.vision_tower.state_dict().items()}
    assert not any(parameter.requires_grad for parameter in model.vision_tower.parameters())
    training._train_rods_then_all(model, processor, scenes, features, TINY, 5)
    assert all(torch.equal(value, tower[name]) for name, value in model.vision_tower.state_dict().items())


def test_the_same_seed_gives_the_same_weights(trained, tmp_path):
    train(tmp_path / "again", seed=5, settings=TINY)
    first, again = load_file(trained / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in first.items())


def test_the_saved_model_can_be_evaluated(trained, capsys):
    result = evaluate(trained, pairs=4)
    assert len(result.answers) == len(result.questions) == 4
    assert result.num_frames == 32
    printed = capsys.readouterr().out
    assert "4 unseen videos" in printed and f"{result.accuracy():.1%}" in printed


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(training, "_train_rods_then_all", fail)
    with pytest.raises(RuntimeError, match="out of luck"):
        train(tmp_path / "model", settings=TINY)
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_replaced_only_when_asked(tmp_path, monkeypatch):
    output = tmp_path / "model"
    output.mkdir()
    (output / "old").write_text("precious")
    (output / "config.json").write_text('{"model_type": "dynfocus"}')
    with pytest.raises(DynFocusError, match="exists and is not an empty directory"):
        train(output, settings=TINY)
    assert (output / "old").read_text() == "precious"
    train(output, settings=TINY, overwrite=True)
    assert not (output / "old").exists() and (output / "model.safetensors").exists()
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
    monkeypatch.setattr(training, "build", lambda seed: pytest.fail("training began"))
    for output in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(DynFocusError, match=r"is not a DynFocus model|is not a JSON object"):
            train(output, settings=TINY, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_an_unwritable_output_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(training, "build", lambda seed: pytest.fail("training began"))
    with pytest.raises(DynFocusError, match="cannot be written"):
        train(tmp_path / "file" / "model", settings=TINY)
