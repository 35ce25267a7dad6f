"""What cannot be assembled is refused in one clear line, and leaves nothing behind."""

import json
import shutil

import pytest
import torch

from dynfocus import checkpoint_files
from dynfocus.assembly import assemble
from dynfocus.errors import DynFocusError
from tests.assembly import components

EVA = {"config_overrides": {"vision_config": {"num_attention_heads": 4}}}


@pytest.fixture
def copy(tmp_path, instructblip):
    """An InstructBLIP directory to spoil."""
    return shutil.copytree(instructblip, tmp_path / "source")


@pytest.fixture
def refused(tmp_path, instructblip):
    """Assembles into a fresh folder, where nothing may appear, and gives the message."""
    folder = tmp_path / "outputs"
    folder.mkdir()

    def run(**arguments) -> str:
        arguments = {name: instructblip for name in ("vision", "qformer", "language_model")} | arguments
        with pytest.raises(DynFocusError) as caught:
            assemble(folder / "out", **arguments)
        assert not list(folder.iterdir())
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return run


def spoil(directory, edit) -> None:
    components.edit_weights(directory / "model.safetensors", edit)


def test_unknown_tensors(refused, copy):
    spoil(copy, lambda state: state.update({f"vision_model.lora.{i}": torch.ones(1) for i in range(6)}))
    message = refused(vision=copy)
    assert str(copy) in message
    assert "6 unknown: vision_model.lora.0, vision_model.lora.1, " in message
    assert message.endswith("and 2 more")


@pytest.mark.parametrize(
    ("argument", "name"),
    [
        ("vision", "vision_model.encoder.layers.1.mlp.fc1.weight"),
        ("qformer", "vision_model.post_layernorm.bias"),
        ("qformer", "qformer.encoder.layer.2.output_query.dense.bias"),
        ("language_model", "language_model.lm_head.weight"),
    ],
)
def test_missing_tensors(refused, copy, argument, name):
    spoil(copy, lambda state: state.pop(name))
    ours = name.replace("vision_model", "vision_tower")
    assert f"({argument}): 1 missing: {ours}" in refused(**{argument: copy})


def test_misshapen_tensors(refused, copy):
    name = "language_model.model.layers.0.mlp.up_proj.weight"
    spoil(copy, lambda state: state.update({name: torch.zeros(64, 31)}))
    assert f"1 of the wrong shape: {name} is [64, 31] but must be [64, 32]" in refused(language_model=copy)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blocks.1.norm2.bias", "1 missing: vision_tower.encoder.layers.1.layer_norm2.bias"),
        ("blocks.2.attn.v_bias", "lacks 1 attention biases, first blocks.2.attn.v_bias"),
        ("cls_token", "is no LAVIS EVA checkpoint: it lacks cls_token"),
    ],
)
def test_missing_tensors_of_an_eva_file(refused, tmp_path, name, message):
    state = components.EvaTransformer().checkpoint()
    del state[name]
    torch.save(state, tmp_path / "eva.pth")
    assert message in refused(vision=tmp_path / "eva.pth", **EVA)


def test_unknown_tensors_of_an_eva_file(refused, tmp_path):
    torch.save({**components.EvaTransformer().checkpoint(), "blocks.0.gamma_1": torch.ones(32)}, tmp_path / "eva.pth")
    assert "1 unknown: blocks.0.gamma_1" in refused(vision=tmp_path / "eva.pth", **EVA)


def test_an_eva_file_with_other_heads(refused, tmp_path):
    torch.save(components.EvaTransformer().checkpoint(), tmp_path / "eva.pth")
    assert "width 32, no multiple of EVA's 88 per head" in refused(vision=tmp_path / "eva.pth")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda state: state.pop("ln_vision.weight"), "1 missing: vision_tower.post_layernorm.weight"),
        (
            lambda state: state.update({"Qformer.bert.pooler.bias": torch.ones(1)}),
            "1 unknown: Qformer.bert.pooler.bias",
        ),
        (
            lambda state: state.update({"query_tokens": torch.ones(1, 4, 63)}),
            "query_tokens is [1, 4, 63] but must be [1, 4, 64]",
        ),
        (lambda state: state.pop("query_tokens"), "is no LAVIS InstructBLIP checkpoint: it lacks query_tokens"),
    ],
)
def test_a_spoilt_lavis_qformer(refused, tmp_path, edit, message):
    components.lavis_qformer(tmp_path, tmp_path / "qformer.pth")
    components.edit_weights(tmp_path / "qformer.pth", edit)
    assert message in refused(qformer=tmp_path / "qformer.pth", qformer_tokenizer=tmp_path)


def test_a_lavis_qformer_needs_its_tokenizer(refused, tmp_path, instructblip):
    components.lavis_qformer(tmp_path, tmp_path / "qformer.pth")
    assert "has no tokenizer: give qformer_tokenizer" in refused(qformer=tmp_path / "qformer.pth")
    components.save_language_tokenizer(tmp_path / "other")
    message = refused(qformer=tmp_path / "qformer.pth", qformer_tokenizer=tmp_path / "other")
    assert "has 23 tokens, but must have 26" in message


def test_a_qformer_of_another_width_cannot_see(refused, tmp_path):
    components.save_clip(tmp_path / "clip")
    components.lavis_qformer(tmp_path, tmp_path / "qformer.pth", encoder_hidden_size=88)
    sources = {"vision": tmp_path / "clip", "qformer": tmp_path / "qformer.pth", "qformer_tokenizer": tmp_path}
    message = refused(**sources, config_overrides={"text_queries": "frame"})
    assert "reads 88 channels but the tower" in message
    assert "has 32" in message


def test_a_head_that_is_not_tied_as_the_configuration_says(refused, tmp_path):
    components.save_language_model(tmp_path / "language", tie_word_embeddings=True)
    file = tmp_path / "language" / "model.safetensors"
    components.edit_weights(file, lambda state: state.update({"lm_head.weight": torch.zeros(23, 32)}))
    message = refused(language_model=tmp_path / "language")
    assert "lm_head.weight" in message
    assert "is not the input embeddings, to which it should be tied" in message


def test_not_a_checkpoint(refused, tmp_path, copy):
    (tmp_path / "text.pth").write_text("not weights")
    assert "text.pth is not a readable torch checkpoint" in refused(vision=tmp_path / "text.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    assert "holds no tensors by name" in refused(qformer=tmp_path / "list.pth")
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    assert "model.safetensors is not a readable safetensors file" in refused(language_model=copy)
    (copy / "config.json").write_text("{")
    assert "config.json is not readable JSON" in refused(vision=copy)
    assert "is a file, but language_model must be a directory" in refused(language_model=tmp_path / "list.pth")


def test_a_checkpoint_that_would_run_code(refused, tmp_path):
    torch.save({"weight": torch.nn.Linear(1, 1)}, tmp_path / "code.pth")
    assert "code.pth is not a readable torch checkpoint: Weights only load failed" in refused(
        vision=tmp_path / "code.pth"
    )


def test_missing_files(refused, tmp_path, copy):
    assert "does not exist and is no hub name" in refused(vision=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty' / 'config.json'} is missing" in refused(vision=tmp_path / "empty")
    components.as_version_4(copy)
    (copy / "pytorch_model-00002-of-00002.bin").unlink()
    assert "pytorch_model-00002-of-00002.bin is missing" in refused(vision=copy)
    (copy / "pytorch_model.bin.index.json").unlink()
    assert "has no weights: neither model.safetensors nor pytorch_model.bin" in refused(vision=copy)


def test_a_directory_without_tokenizer(refused, tmp_path):
    components.save_language_model(tmp_path / "language")
    for file in (tmp_path / "language").glob("*token*"):
        file.unlink()
    assert "has no tokenizer: give tokenizer" in refused(language_model=tmp_path / "language")


def test_a_model_of_another_type(refused, tmp_path):
    components.save_clip(tmp_path / "clip")
    components.save_language_model(tmp_path / "language")
    assert "is a llama model, but vision must be" in refused(vision=tmp_path / "language")
    assert "is a clip model, but qformer must be" in refused(qformer=tmp_path / "clip")
    assert "has a clip model, but language_model must be a causal one" in refused(language_model=tmp_path / "clip")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"config_overrides": {"events": 3}}, "config_overrides has events, but must be of"),
        ({"config_overrides": {"vision_config": {"sise": 3}}}, 'config_overrides["vision_config"] has sise'),
        ({"config_overrides": {"num_events": "many"}}, "config_overrides does not fit"),
        ({"config_overrides": {"key_ratio": 2.0}}, "key_ratio"),
        ({"config_overrides": {"max_visual_tokens": 600}}, "max_visual_tokens is 600 but must be less than the 512"),
        ({"dtype": "int8"}, "dtype is 'int8' but must be one of float32, float16, bfloat16"),
        ({"max_shard_size": "huge"}, "max_shard_size is 'huge'"),
    ],
)
def test_wrong_settings(refused, arguments, message):
    assert message in refused(**arguments)


def test_an_output_that_is_taken(tmp_path, sources):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("keep")
    with pytest.raises(DynFocusError, match="out exists and is not an empty directory"):
        assemble(tmp_path / "out", **sources)
    with pytest.raises(DynFocusError, match="nowhere is not a directory"):
        assemble(tmp_path / "nowhere" / "out", **sources)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["out", "out/precious.txt"]


def test_a_full_disk_leaves_nothing(refused, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_files, "save_file", full)
    assert refused().endswith("out cannot be written: No space left on device")


def test_an_interruption_leaves_nothing(tmp_path, sources, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_files, "save_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        assemble(tmp_path / "out", **sources)
    assert not list(tmp_path.iterdir())


def test_hub_names_become_snapshots(refused, monkeypatch, tmp_path, instructblip):
    asked = []

    def snapshot(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(instructblip)

    monkeypatch.setattr(checkpoint_files, "snapshot_download", snapshot)
    assemble(tmp_path / "out", vision="owner/blip", qformer=instructblip, language_model=instructblip)
    assert [name for name, _ in asked] == ["owner/blip"]
    assert "model*.safetensors*" in asked[0][1]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "dynfocus"

    def unreachable(*_, **__):
        raise OSError("no route to the hub")

    monkeypatch.setattr(checkpoint_files, "snapshot_download", unreachable)
    assert "owner/blip is neither a local path nor to be had from the hub: no route" in refused(vision="owner/blip")
