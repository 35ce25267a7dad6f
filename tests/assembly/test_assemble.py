"""What is assembled holds the components' tensors, computes what they compute, and answers."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, InstructBlipForConditionalGeneration

from dynfocus import DynFocusForConditionalGeneration, DynFocusProcessor
from dynfocus.assembly import assemble as assemble_components
from dynfocus.assembly.fitting import interpolate_positions
from tests.assembly import components

HEADS = {"vision_config": {"num_attention_heads": 4}}
PIXELS = torch.linspace(-2, 2, 3 * 3 * 32 * 32).sin().reshape(3, 3, 32, 32)


def assemble(output, overrides=None, **sources):
    report = assemble_components(output, config_overrides={**components.CONNECTOR, **(overrides or {})}, **sources)
    return DynFocusForConditionalGeneration.from_pretrained(output).eval(), report


def answer(directory, model=None) -> torch.Tensor:
    """Four new tokens about six frames."""
    model = model or DynFocusForConditionalGeneration.from_pretrained(directory)
    processor = DynFocusProcessor.from_pretrained(directory)
    frames = np.random.default_rng(0).integers(0, 256, (6, 40, 48, 3), dtype=np.uint8)
    content = [{"type": "video", "video": frames}, {"type": "text", "text": "what color is the circle ?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    assert (inputs["input_ids"] == model.config.video_token_id).sum() > 6
    output = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    return output[0, inputs["input_ids"].shape[1] :]


def assert_same_tensors(module: torch.nn.Module, expected: torch.nn.Module, grown: int | None = None) -> None:
    """Equal tensor by tensor; those of `grown` rows only in these."""
    state, other = module.state_dict(), expected.state_dict()
    assert state.keys() == other.keys()
    for name, tensor in other.items():
        rows = len(tensor) if grown and len(tensor) == grown else None
        assert torch.equal(state[name][:rows], tensor), name


@pytest.mark.parametrize("version", [4, 5])
def test_instructblip(tmp_path, instructblip, version):
    original = InstructBlipForConditionalGeneration.from_pretrained(instructblip)
    source = shutil.copytree(instructblip, tmp_path / "source")
    if version == 4:
        components.as_version_4(source)
    model, report = assemble(tmp_path / "out", vision=source, qformer=source, language_model=source)
    assert_same_tensors(model.vision_tower, original.vision_model)
    assert_same_tensors(model.qformer, original.qformer)
    assert_same_tensors(model.language_model, original.language_model, grown=components.LANGUAGE["vocab_size"])
    assert torch.equal(model.query_tokens, original.query_tokens)
    stored = len(original.state_dict()) + (1 + components.LANGUAGE["num_hidden_layers"]) * (version == 4)
    for part in report.components:
        assert part.used + sum(map(len, part.dropped.values())) == stored
    assert len(answer(tmp_path / "out", model)) == 4
    video_processor = DynFocusProcessor.from_pretrained(tmp_path / "out").video_processor
    assert video_processor.image_mean == [0.1, 0.2, 0.3]
    assert dict(video_processor.size) == {"height": 32, "width": 32}


def test_report_reads_well(tmp_path, sources):
    _, report = assemble(tmp_path / "out", **sources)
    text = str(report)
    assert "vision: 40 tensors" in text
    assert "left out 2: InstructBLIP's projection, whose place the connector takes" in text
    assert "freshly initialised: the connector (seed 0)" in text
    assert "23 embeddings became 64" in text


@pytest.mark.parametrize("packed", [False, True], ids=["alone", "in_instruct_blip"])
def test_eva_file_computes_what_lavis_does(tmp_path, sources, packed):
    eva = components.EvaTransformer()
    state = eva.checkpoint("visual_encoder." if packed else "")
    if packed:
        _, others = components.lavis_qformer(tmp_path, tmp_path / "unused.pth")
        state = {"model": {**state, **others}}
    else:
        state |= {"norm.weight": torch.ones(32), "head.weight": torch.zeros(7, 32), "mask_token": torch.zeros(1, 1, 32)}
    torch.save(state, tmp_path / "eva.pth")
    model, report = assemble(tmp_path / "out", HEADS, **{**sources, "vision": tmp_path / "eva.pth"})
    torch.testing.assert_close(model.encode_patches(PIXELS), eva(PIXELS), atol=1e-5, rtol=1e-5)
    norm = load_file(sources["qformer"] / "model.safetensors")["vision_model.post_layernorm.weight"]
    assert torch.equal(model.vision_tower.post_layernorm.weight, norm)
    assert sum(map(len, report.components[0].dropped.values())) == (7 if packed else 3)


def test_of_forty_eva_blocks_the_last_is_not_used(tmp_path, sources):
    eva = components.EvaTransformer(depth=40, heads=1, width=88)
    torch.save(eva.checkpoint(), tmp_path / "eva.pth")
    model, report = assemble(
        tmp_path / "out", **{**sources, "vision": tmp_path / "eva.pth"} | _lavis(tmp_path, width=88)
    )
    assert len(model.vision_tower.encoder.layers) == 39
    assert model.config.vision_config.num_attention_heads == 1
    torch.testing.assert_close(model.encode_patches(PIXELS[:1]), eva(PIXELS[:1], depth=39), atol=1e-4, rtol=1e-5)
    assert (
        len(report.components[0].dropped["a last block, which LAVIS does not use"]) == 12
    )  # the biases of queries and values as one


def _lavis(directory, width: int) -> dict:
    """A Q-Former file behind a tower of that width."""
    file = directory / "qformer.pth"
    components.lavis_qformer(directory, file, encoder_hidden_size=width)

    def widen(state):
        state |= {"ln_vision.weight": torch.randn(width), "ln_vision.bias": torch.randn(width)}

    components.edit_weights(file, widen)
    return {"qformer": file, "qformer_tokenizer": directory}


def test_positions_are_interpolated_to_another_image_size(tmp_path, sources):
    eva = components.EvaTransformer()
    torch.save(eva.checkpoint(), tmp_path / "eva.pth")
    overrides = {"vision_config": {"num_attention_heads": 4, "image_size": 48}}
    model, report = assemble(tmp_path / "out", overrides, **{**sources, "vision": tmp_path / "eva.pth"})
    old, new = eva.checkpoint()["pos_embed"], model.vision_tower.embeddings.position_embedding
    assert torch.equal(new[:, :1], old[:, :1])
    image = old[:, 1:].reshape(1, 4, 4, 32).permute(0, 3, 1, 2)
    expected = F.interpolate(image, (6, 6), mode="bicubic", align_corners=False).flatten(2).mT
    torch.testing.assert_close(new[:, 1:], expected)
    assert "position embeddings of 4 x 4 patches interpolated to 6 x 6" in report.changed
    assert dict(DynFocusProcessor.from_pretrained(tmp_path / "out").video_processor.size) == {"height": 48, "width": 48}
    assert len(answer(tmp_path / "out", model)) == 4


def test_interpolating_positions_to_their_own_grid_changes_nothing():
    embedding = torch.randn(1, 17, 8)
    torch.testing.assert_close(interpolate_positions(embedding, grid=4, class_token=1), embedding)


def test_lavis_qformer_computes_the_same(tmp_path, sources):
    qformer, extra = components.lavis_qformer(tmp_path, tmp_path / "qformer.pth")
    sources |= {"qformer": tmp_path / "qformer.pth", "qformer_tokenizer": tmp_path}
    model, report = assemble(tmp_path / "out", **sources)
    ids, mask, frames = torch.arange(5, 12)[None], torch.ones(1, 11), torch.randn(1, 17, 32)
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "query_embeds": extra["query_tokens"],
        "encoder_hidden_states": frames,
    }
    assert model.config.qformer_config.num_attention_heads == 1
    assert model.config.qformer_config.cross_attention_frequency == 2
    with torch.no_grad():
        torch.testing.assert_close(model.qformer(**inputs)[0], qformer(**inputs)[0], atol=1e-6, rtol=0)
    assert torch.equal(model.query_tokens, extra["query_tokens"])
    assert torch.equal(model.vision_tower.post_layernorm.weight, extra["ln_vision.weight"])
    assert torch.equal(model.vision_tower.post_layernorm.bias, extra["ln_vision.bias"])
    tokenizer = DynFocusProcessor.from_pretrained(tmp_path / "out").qformer_tokenizer
    assert tokenizer.get_vocab()["[DEC]"] == model.config.qformer_config.vocab_size - 1
    dropped = [name for names in report.components[1].dropped.values() for name in names]
    assert sorted(dropped) == sorted(extra.keys() - {"query_tokens", "ln_vision.weight", "ln_vision.bias"})
    assert len(answer(tmp_path / "out", model)) == 4


@pytest.mark.parametrize("layout", ["clip", "clip_vision_of_version_4", "siglip"])
def test_clip_and_siglip_towers(tmp_path, sources, layout):
    vision = tmp_path / "vision"
    original = components.save_siglip(vision) if layout == "siglip" else components.save_clip(vision)
    if layout == "clip_vision_of_version_4":
        original.save_pretrained(vision)
        components.edit_weights(vision / "model.safetensors", _as_clip_vision_of_version_4)
    model, _ = assemble(tmp_path / "out", **{**sources, "vision": vision})
    assert_same_tensors(model.vision_tower, original)
    with torch.no_grad():
        expected = original(PIXELS, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(model.encode_patches(PIXELS), expected)
    mean = DynFocusProcessor.from_pretrained(tmp_path / "out").video_processor.image_mean
    assert mean == ([0.5] * 3 if layout == "siglip" else [0.48145466, 0.4578275, 0.40821073])
    assert len(answer(tmp_path / "out", model)) == 4


def _as_clip_vision_of_version_4(state) -> None:
    for name in list(state):
        state[f"vision_model.{name.removeprefix('vision_model.')}"] = state.pop(name)
    state["vision_model.embeddings.position_ids"] = torch.arange(17)[None]


def test_a_qformer_of_another_width_serves_as_text_encoder(tmp_path, sources):
    sources |= _lavis(tmp_path, width=88)
    components.edit_weights(sources["qformer"], lambda state: state.update(_norm(32)))
    model, report = assemble(tmp_path / "out", **sources)
    dropped = report.components[1].dropped["it reads 88 channels, the tower has 32"]
    assert len(dropped) == 4  # keys and values of two layers
    assert 'the Q-Former\'s view of the tower, unused with text_queries="text" (seed 0)' in report.initialised
    assert model.qformer.encoder.layer[0].crossattention.attention.key.weight.shape == (64, 32)
    assert len(answer(tmp_path / "out", model)) == 4


def _norm(width: int) -> dict:
    return {"ln_vision.weight": torch.ones(width), "ln_vision.bias": torch.zeros(width)}


@pytest.mark.parametrize(
    ("model_type", "tied", "bin"), [("llama", False, True), ("qwen2", True, False), ("qwen3", False, False)]
)
def test_language_models(tmp_path, sources, model_type, tied, bin):
    source = tmp_path / "language"
    original = components.save_language_model(source, model_type, tie_word_embeddings=tied)
    if bin:
        state = load_file(source / "model.safetensors")
        (source / "model.safetensors").unlink()
        components.save_bin_shards(source, state)
    model, _ = assemble(tmp_path / "out", **{**sources, "language_model": source})
    old = original.config.vocab_size
    assert_same_tensors(model.language_model, original, grown=old)
    for head in (model.get_input_embeddings(), model.get_output_embeddings()):
        assert head.weight.shape[0] == 64
        torch.testing.assert_close(head.weight[old:], head.weight[:old].mean(0).expand(64 - old, -1))
    ids = torch.arange(8)[None]
    torch.testing.assert_close(model.language_model(ids).logits[..., :old], original(ids).logits)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied
    template = DynFocusProcessor.from_pretrained(tmp_path / "out").chat_template
    assert ("<|im_start|>" in template) == (model_type != "llama")
    assert len(answer(tmp_path / "out", model)) == 4


def test_a_tied_head_that_is_stored_twice_is_left_out(tmp_path, sources):
    source = tmp_path / "language"
    components.save_language_model(source, "qwen2", tie_word_embeddings=True)
    file = source / "model.safetensors"
    components.edit_weights(
        file, lambda state: state.update({"lm_head.weight": state["model.embed_tokens.weight"].clone()})
    )
    model, report = assemble(tmp_path / "out", **{**sources, "language_model": source})
    assert report.components[2].dropped == {"the same tensor as the input embeddings": ["lm_head.weight"]}
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_a_language_model_with_room_for_the_placeholder_keeps_its_size(tmp_path, sources):
    source = tmp_path / "language"
    original = components.save_language_model(source, vocab_size=40)
    model, _ = assemble(tmp_path / "out", **{**sources, "language_model": source})
    assert_same_tensors(model.language_model, original)
    assert model.config.video_token_id == len(components.WORDS) + 3


def test_language_model_saved_without_its_model_prefix(tmp_path, instructblip):
    source = shutil.copytree(instructblip, tmp_path / "source")
    original = load_file(source / "model.safetensors")

    def strip(state):
        for name in list(state):
            state[name.replace("language_model.model.", "language_model.")] = state.pop(name)

    components.edit_weights(source / "model.safetensors", strip)
    model, _ = assemble(tmp_path / "out", vision=source, qformer=source, language_model=source)
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(model.language_model.state_dict()[name], original[f"language_model.{name}"])


def test_shards_have_an_index_and_load(tmp_path, sources):
    whole, _ = assemble(tmp_path / "whole", **sources)
    model, report = assemble(tmp_path / "out", **sources, max_shard_size="100KB")
    assert len(report.files) > 5
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(report.files)
    assert index["metadata"]["total_size"] == 4 * report.parameters
    assert all((tmp_path / "out" / file).stat().st_size < 110_000 for file in report.files)
    assert_same_tensors(model, whole)


def test_dtype_is_the_language_models_unless_given(tmp_path, sources):
    source = tmp_path / "language"
    components.save_language_model(source)
    AutoModelForCausalLM.from_pretrained(source, dtype=torch.float16).save_pretrained(source)
    sources |= {"language_model": source}
    model, report = assemble(tmp_path / "half", **sources)
    assert report.dtype == torch.float16
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float16}
    model, _ = assemble(tmp_path / "brain", **sources, dtype="bfloat16")
    assert {tensor.dtype for tensor in load_file(tmp_path / "brain/model.safetensors").values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.bfloat16}


def test_the_connector_comes_from_the_seed(tmp_path, sources):
    one, _ = assemble(tmp_path / "one", **sources, seed=1)
    torch.manual_seed(7)
    same, _ = assemble(tmp_path / "same", **sources, seed=1)
    other, _ = assemble(tmp_path / "other", **sources, seed=2)
    assert_same_tensors(one, same)
    weight, other_weight = (model.connector.events.scorer.mlp[1].weight for model in (one, other))
    assert not torch.equal(weight, other_weight)
    assert abs(weight.std().item() - one.config.initializer_range) < 0.004


def test_generation_defaults_without_sampling_settings(tmp_path, sources):
    source = tmp_path / "language"
    components.save_language_model(source)
    vicuna = {"bos_token_id": 1, "eos_token_id": 2, "max_length": 4096, "temperature": 0.9, "top_p": 0.6}
    (source / "generation_config.json").write_text(json.dumps(vicuna))
    model, _ = assemble(tmp_path / "out", **{**sources, "language_model": source})
    generation = model.generation_config
    assert (generation.eos_token_id, generation.max_length, generation.pad_token_id) == (2, 4096, 0)
    assert generation.temperature in (None, 1.0)
    tokenizer = DynFocusProcessor.from_pretrained(tmp_path / "out").tokenizer
    without_meaning = range(len(tokenizer), model.config.text_config.vocab_size)
    assert generation.suppress_tokens == [model.config.video_token_id, *without_meaning]


def test_visual_tokens_leave_room_for_text(tmp_path, sources):
    overrides = {name: value for name, value in components.CONNECTOR.items() if name != "max_visual_tokens"}
    report = assemble_components(tmp_path / "out", config_overrides=overrides, **sources)
    config = DynFocusForConditionalGeneration.from_pretrained(tmp_path / "out").config
    assert config.max_visual_tokens == 384
    assert "max_visual_tokens is 384, since the language model has 512 positions" in report.changed


def test_an_empty_output_directory_is_filled(tmp_path, sources):
    (tmp_path / "out").mkdir()
    assemble(tmp_path / "out", **sources)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
