"""data.features: a run on kept features is the run on frames, and nothing stale, half or broken is read."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from dynfocus import DynFocusForConditionalGeneration
from dynfocus.errors import DynFocusError
from dynfocus.loading import load_model
from dynfocus.training import precomputing
from dynfocus.training.collation import TrainingCollator
from dynfocus.training.encoding import SampleEncoder
from dynfocus.training.features import FeatureFiles, SampledVisual, fingerprint, write_features
from dynfocus.training.mixture import Mixture, open_source
from dynfocus.training.planning import plan
from dynfocus.training.run import data_pipeline, load_for_training, train, training_arguments
from dynfocus.training.samples import checked
from tests.model import tiny
from tests.training import material

SHORT = {"schedule": {"steps": 3}}


def files_in(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def pipeline(recipe, tmp_path):
    base, processor = load_for_training(recipe)
    mixture = Mixture([open_source(source) for source in recipe.data.sources])
    return data_pipeline(base, processor, mixture, recipe, training_arguments(recipe, tmp_path)), mixture


@pytest.fixture
def own_media(media, tmp_path):
    """Media of this test alone, and its annotations of an image and two videos."""
    folder = tmp_path / "media"
    shutil.copytree(media, folder)
    return folder


@pytest.mark.parametrize(
    "data, queries, entries",
    [
        ({}, "text", "data.json"),
        ({"prompt": "caption", "visual_turns": "first", "max_turns": 1}, "frame", "data.json"),
        ({}, "frame", "text.json"),
    ],
    ids=["chat", "caption", "text alone"],
)
def test_the_run_is_the_same(media, tmp_path, monkeypatch, same_noise, data, queries, entries):
    encode = DynFocusForConditionalGeneration.encode_patches
    rounded = lambda self, pixels: encode(self, pixels).half().float()  # noqa: E731 - what float16 holds
    monkeypatch.setattr(DynFocusForConditionalGeneration, "encode_patches", rounded)
    model = material.write_model(tmp_path / "model", text_queries=queries)
    plain = material.recipe(model, media / entries, **SHORT, data=data)
    train(plain, tmp_path / "plain")
    kept = material.recipe(model, media / entries, **SHORT, data={**data, "features": str(tmp_path / "features")})
    train(kept, tmp_path / "kept")
    material.assert_same_run(tmp_path / "kept", tmp_path / "plain")


def test_rounding_to_float16_is_all_that_differs(model_directory, media, tmp_path, same_noise):
    losses = []
    for name, data in (("plain", {}), ("kept", {"features": str(tmp_path / "features"), "workers": 1})):
        half = {"precision": "bf16", "gradient_checkpointing": True}
        train(material.recipe(model_directory, media / "data.json", **SHORT, **half, data=data), tmp_path / name)
        losses.append(material.logged(tmp_path / name))
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)


def test_the_second_run_decodes_nothing_and_leaves_the_tower_alone(model_directory, media, tmp_path, monkeypatch):
    def decode(*args):
        raise AssertionError("decoded")

    tower_states = DynFocusForConditionalGeneration._tower_states

    def only_blank(self, pixels):
        assert len(pixels) == 1 and pixels.std((2, 3)).max() < 1e-5, "the tower has run"
        return tower_states(self, pixels)

    data = {"features": str(tmp_path / "features")}
    recipe = material.recipe(model_directory, media / "data.json", **SHORT, data=data)
    train(recipe, tmp_path / "first")
    kept = files_in(tmp_path / "features")
    assert len(kept) == 3 and not any(path.name.startswith(".") for path in kept)
    monkeypatch.setattr(SampleEncoder, "decoded", decode)
    monkeypatch.setattr(DynFocusForConditionalGeneration, "_tower_states", only_blank)
    train(recipe, tmp_path / "second")
    assert files_in(tmp_path / "features") == kept


def test_what_a_sample_is_made_of(model_directory, media, tmp_path):
    data = {"features": str(tmp_path / "features")}
    recipe = material.recipe(model_directory, media / "data.json", data=data)
    (encoder, collate), mixture = pipeline(recipe, tmp_path)
    plain = SampleEncoder(encoder.processor, recipe.data)
    source = mixture.sources[0]
    base, _ = load_model(model_directory, device="cpu")
    for sample in list(source.samples)[:4]:
        kept, made = encoder(sample, source), plain(sample, source)
        pixels = made.pop("pixel_values_videos", None)
        features = kept.pop("video_features", None)
        assert kept.keys() == made.keys()
        for name in kept:  # an image has no clock
            torch.testing.assert_close(kept[name], made[name], rtol=0, atol=0, equal_nan=True)
        if pixels is not None:
            assert features.dtype == torch.float16
            torch.testing.assert_close(features.float(), base.encode_patches(pixels), rtol=1e-3, atol=1e-3)
    blank = collate([encoder(source.samples[0], source)])  # text alone
    assert "pixel_values_videos" not in blank and blank["video_features"].dtype == torch.float16
    black = base.encode_patches(TrainingCollator(encoder.processor).blank["pixel_values_videos"])
    torch.testing.assert_close(blank["video_features"].float(), black, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("change", ["video", "touched", "sampling", "tower", "processor"])
def test_nothing_stale_is_read(own_media, tmp_path, change):
    model = material.write_model(tmp_path / "model")
    material.write_annotations(own_media, [material.VIDEO])
    data = {"features": str(tmp_path / "features"), "max_frames": 8}
    recipe = material.recipe(model, own_media / "data.json", data=data)
    pipeline(recipe, tmp_path)
    pipeline(recipe, tmp_path)
    assert len(files_in(tmp_path / "features")) == 1
    video = own_media / "one.mp4"
    if change == "video":
        shutil.copy(own_media / "two.mp4", video)
    elif change == "touched":
        os.utime(video, ns=(0, 1))
    elif change == "sampling":
        recipe = material.recipe(model, own_media / "data.json", data={**data, "max_frames": 7})
    elif change == "tower":
        other = tiny.model()
        other.vision_tower.encoder.layers[1].mlp.fc2.bias.data[0] += 1e-3
        other.save_pretrained(model)
    else:
        tiny.processor(num_frames=8, image_mean=[0.5, 0.5, 0.5]).save_pretrained(model)
    (encoder, _), mixture = pipeline(recipe, tmp_path)
    assert len(files_in(tmp_path / "features")) == 2
    source = mixture.sources[0]
    made = SampleEncoder(encoder.processor, recipe.data)(source.samples[0], source)
    found = encoder(source.samples[0], source)
    encoded = load_model(model, device="cpu")[0].encode_patches(made["pixel_values_videos"])
    torch.testing.assert_close(found["video_features"].float(), encoded, rtol=1e-3, atol=1e-3)


def test_a_broken_video_is_named_and_what_takes_its_place_has_features(model_directory, own_media, tmp_path):
    """Of each source a part is seen; the sample after a broken one may not be in it."""
    entries = [material.BROKEN, material.VIDEO, material.BROKEN, material.IMAGE, material.BROKEN, material.OTHER_VIDEO]
    missing = material.conversation(("what is this?", "red"), video="nowhere.mp4")
    file = material.write_annotations(own_media, [*entries, missing])
    source = {"path": str(file), "media": str(own_media), "weight": 3 / 7}
    data = {"sources": [source], "features": str(tmp_path / "features")}
    for number in range(2):
        run = tmp_path / f"run{number}"
        train(material.recipe(model_directory, file, data=data, **SHORT), run)
        broken = [json.loads(line) for line in (run / "broken.jsonl").read_text().splitlines()]
        assert broken and {record["id"] for record in broken} <= {"no-video.mp4", "nowhere.mp4"}
        assert all("no-video.mp4" in each["reason"] or "no such file" in each["reason"] for each in broken)


def test_a_video_that_changes_while_the_run_is_on(model_directory, own_media, tmp_path):
    material.write_annotations(own_media, [material.VIDEO])
    recipe = material.recipe(model_directory, own_media / "data.json", data={"features": str(tmp_path / "features")})
    (encoder, _), mixture = pipeline(recipe, tmp_path)
    os.utime(own_media / "one.mp4", ns=(0, 1))
    with pytest.raises(DynFocusError, match=r"one.mp4 has no features in .*features: it changed after the run began"):
        encoder(mixture.sources[0].samples[0], mixture.sources[0])


def test_a_damaged_file_is_named(tmp_path, media):
    files, visual = FeatureFiles(tmp_path, "a tower"), SampledVisual(media / "one.mp4", "video", {"max_frames": 8})
    assert files.read(visual) is None
    write_features(files.place(visual), {"video_features": torch.zeros(2, 3, 4).half()})
    assert files.read(visual)["video_features"].shape == (2, 3, 4)
    files.place(visual).write_bytes(b"half of")
    with pytest.raises(DynFocusError, match=r"safetensors: cannot be read .*without it, the next run computes it"):
        files.read(visual)


def test_a_fingerprint_is_of_weights_and_dtype():
    tower, video_processor = tiny.model().vision_tower, tiny.processor().video_processor
    prints = {fingerprint(tower, video_processor), fingerprint(tiny.model(1).vision_tower, video_processor)}
    assert fingerprint(tiny.model().vision_tower, tiny.processor().video_processor) in prints
    prints.add(fingerprint(tower.bfloat16(), video_processor))
    assert len(prints) == 3


@pytest.mark.parametrize("module", ["vision_tower", "vision_tower.encoder.layers.1"])
def test_a_tower_that_trains_is_refused(model_directory, media, module):
    rates = {"connector": 1e-3, "vision_tower": 0, module: 1e-4}
    with pytest.raises(DynFocusError, match=rf"learning_rates.{module} trains the vision tower but data.features"):
        material.recipe(model_directory, media / "data.json", learning_rates=rates, data={"features": "x"})
    rates = {"connector": 1e-3, "vision_tower": 0}
    material.recipe(model_directory, media / "data.json", learning_rates=rates, data={"features": "x"})


def test_features_beyond_float16_are_refused(media, tmp_path):
    model = tiny.model()
    model.vision_tower.encoder.layers[1].mlp.fc2.bias.data[:] = 1e5
    model.save_pretrained(tmp_path / "model")
    tiny.processor().save_pretrained(tmp_path / "model")
    recipe = material.recipe(tmp_path / "model", media / "data.json", data={"features": str(tmp_path / "features")})
    with pytest.raises(DynFocusError, match=r"data.features: the vision tower's features are beyond float16"):
        train(recipe, tmp_path / "run")
    assert not files_in(tmp_path / "features")


def test_a_tower_that_other_processes_hold_is_refused(model_directory, media, tmp_path, monkeypatch):
    recipe = material.recipe(model_directory, media / "data.json", data={"features": str(tmp_path / "features")})
    monkeypatch.setattr(precomputing, "is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(DynFocusError, match=r"data.features needs the whole vision tower in every process"):
        train(recipe, tmp_path / "run")


def test_a_folder_that_cannot_be_written(model_directory, media, tmp_path):
    (tmp_path / "features").write_text("precious")
    recipe = material.recipe(model_directory, media / "data.json", data={"features": str(tmp_path / "features")})
    with pytest.raises(DynFocusError, match=r"features.*cannot be written"):
        train(recipe, tmp_path / "run")


def test_a_plan_without_the_tower(model_directory, media):
    plain, kept = (
        plan(material.recipe(model_directory, media / "data.json", data=data), 1) for data in ({}, {"features": "x"})
    )
    assert kept.flops < plain.flops and kept.memory[0].activations < plain.memory[0].activations


KILLED_WHILE_WRITING = """
import os, signal, sys
from dynfocus.training import features
write, written = features.save_file, []
def killed(tensors, path):
    if written:
        with open(path, "wb") as file:
            file.write(b"half of ")
        os.kill(os.getpid(), signal.SIGKILL)
    write(tensors, path)
    written.append(path)
features.save_file = killed
from dynfocus.cli import main
sys.argv[1:] = ["train", *sys.argv[1:]]
main()
"""


def test_a_killed_run_leaves_no_half_file(model_directory, media, tmp_path):
    data = {"features": str(tmp_path / "features")}
    recipe = material.recipe(model_directory, media / "data.json", **SHORT, data=data)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.to_dict()))
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, tmp_path / "recipe.yaml", "--output", tmp_path / "run"]
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert result.returncode == -signal.SIGKILL, result.stderr
    whole = [path for path in files_in(tmp_path / "features") if not path.name.startswith(".")]
    assert len(whole) == 1
    train(recipe, tmp_path / "run")
    assert list(material.logged(tmp_path / "run")) == [1, 2, 3]


def test_other_token_settings_find_the_same_features(model_directory, media, tmp_path):
    """What the settings leave of the frames is what counts, not how many they would have allowed."""
    places = []
    for connector in ({}, {"rods": False}, {"cones": "average"}):
        recipe = material.recipe(model_directory, media / "data.json", data={"num_frames": 3}, connector=connector)
        (encoder, _), mixture = pipeline(recipe, tmp_path)
        [source] = mixture.sources
        sampled = [visual for sample in source.samples for visual in encoder.sampled(checked(sample), source)]
        places.append([FeatureFiles(tmp_path, "tower").place(visual) for visual in sampled])
    assert places[0] == places[1] == places[2]
