"""The composite model: what transformers promises of a model, and what DynFocus promises of its videos."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

import dynfocus.auto  # noqa: F401  (registers the Auto classes)
from dynfocus import DynFocusForConditionalGeneration
from tests.model import tiny

QUESTION = "What color is the circle?"


def video(num_frames, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (num_frames, 40, 48, 3), dtype=np.uint8)


def prompt(question=QUESTION, visuals="<video>"):
    return f"USER: {visuals} {question} ASSISTANT:"


def batch(*lengths, questions=None, **kwargs):
    processor = tiny.processor(tiny.config(), num_frames=None, fps=None, max_frames=50)
    questions = questions or [QUESTION] * len(lengths)
    texts = [prompt(q) for q in questions]
    return processor(text=texts, videos=[video(n, n) for n in lengths], questions=questions, **kwargs)


def test_generate_with_cache_without_and_greedy_by_hand_agree():
    model, inputs = tiny.model(), batch(9, 4)
    cached = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    uncached = model.generate(**inputs, max_new_tokens=6, do_sample=False, use_cache=False)
    assert torch.equal(cached, uncached)
    logits = model(**inputs).logits[:, -1]
    logits[:, model.config.video_token_id] = -torch.inf  # a placeholder is never an answer
    assert torch.equal(logits.argmax(-1), cached[:, inputs["input_ids"].shape[1]])


def test_a_padded_batch_answers_like_single_samples():
    model = tiny.model()
    questions = [QUESTION, "What came first, the red circle or the blue square?", "shape?"]
    together = model(**batch(9, 1, 17, questions=questions)).logits[:, -1]
    for i, length in enumerate((9, 1, 17)):
        alone = model(**batch(length, questions=questions[i : i + 1])).logits[:, -1]
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}], ids=str)
def test_beams_and_return_sequences_multiply_samples_not_frames(options, monkeypatch):
    model, inputs = tiny.model(), batch(9, 4)
    calls = []
    encode = model.encode_patches
    monkeypatch.setattr(model, "encode_patches", lambda pixels: calls.append(len(pixels)) or encode(pixels))
    generated = model.generate(**inputs, max_new_tokens=3, **options)
    assert generated.shape[0] == 2 * options.get("num_return_sequences", 1)
    assert calls == [13], "each frame passes the tower once"


def test_expanded_samples_see_their_own_videos():
    model, inputs = tiny.model(), batch(9, 4)
    ids, kwargs = model._expand_inputs_for_generation(expand_size=3, **inputs)
    expanded = model(input_ids=ids, **kwargs).logits
    torch.testing.assert_close(expanded, model(**inputs).logits.repeat_interleave(3, 0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("given", ["video_features", "video_embeds"])
def test_encoding_once_and_asking_many_times(given):
    model, inputs = tiny.model(), batch(9, 4)
    expected = model(**inputs).logits
    features = model.encode_patches(inputs.pop("pixel_values_videos"))
    if given == "video_features":
        inputs["video_features"] = features
    else:
        visual = {k: inputs.pop(k) for k in list(inputs) if k not in ("input_ids", "attention_mask")}
        inputs["video_embeds"] = model.get_video_features(video_features=features, **visual).tokens
    assert torch.equal(model(**inputs).logits, expected)
    assert model.generate(**inputs, max_new_tokens=2).shape[0] == 2


def test_chunked_tower_equals_whole():
    pixels = batch(13)["pixel_values_videos"]
    small, large = tiny.model(vision_chunk_size=3), tiny.model(vision_chunk_size=64)
    torch.testing.assert_close(small.encode_patches(pixels), large.encode_patches(pixels))


def test_the_tower_output_is_the_state_before_its_last_layernorm():
    model, pixels = tiny.model(), batch(3)["pixel_values_videos"]
    hidden = model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(model.encode_patches(pixels), hidden)


def test_reported_key_frames_timestamps_and_plans():
    model = tiny.model()
    processor = tiny.processor(tiny.config(), num_frames=None, fps=None, max_frames=50)
    inputs = processor(
        text=[prompt(), prompt()],
        videos=[video(9), video(20)],
        questions=[QUESTION, QUESTION],
        video_metadata=[{"fps": 2.0}, {"fps": 10.0}],
    )
    visual = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
    encoding = model.get_video_features(**visual, output_attentions=True)
    assert [plan.num_frames for plan in encoding.plans] == [9, 20]
    assert sum(plan.num_tokens for plan in encoding.plans) == len(encoding.tokens)
    assert int((inputs["input_ids"] == model.config.video_token_id).sum()) == len(encoding.tokens)
    for i, rate in enumerate((2.0, 10.0)):
        plan, keys = encoding.plans[i], encoding.key_frames[i]
        assert len(keys) == plan.num_key_frames and set(keys.tolist()) <= set(encoding.event_frames[i].tolist())
        torch.testing.assert_close(encoding.key_timestamps[i], keys / rate, check_dtype=False)
        assert encoding.assignment[i].unique().tolist() == list(range(plan.num_events))
        best = encoding.scores[i].sort(descending=True, stable=True).indices[: plan.num_key_frames].sort().values
        assert torch.equal(encoding.event_frames[i][best], keys)
        assert encoding.rods_attention[i].shape == (plan.num_frames, 16)


def test_several_videos_and_images_in_one_sample():
    model, processor = tiny.model(), tiny.processor(tiny.config(), fps=None, max_frames=50)
    image = video(1)[0]
    inputs = processor(
        text=[prompt(visuals="<image> <video>"), prompt(), "USER: hello ASSISTANT:"],
        videos=[[video(8)], [video(5)]],
        images=[[image]],
        questions=[QUESTION, QUESTION, QUESTION],
    )
    assert inputs["num_frames"].tolist() == [1, 8, 5]
    assert inputs["visual_token_budget"].tolist() == [64, 64, 128]
    torch.testing.assert_close(
        inputs["pixel_values_videos"][:1], processor.video_processor(image[None])["pixel_values_videos"]
    )
    assert model(**inputs).logits.isfinite().all()


def test_text_only():
    model, processor = tiny.model(), tiny.processor()
    inputs = processor(text=["USER: what is red? ASSISTANT:"])
    assert "pixel_values_videos" not in inputs
    assert model.generate(**inputs, max_new_tokens=2).shape[0] == 1


def test_save_and_load_through_the_auto_classes(tmp_path):
    model, inputs = tiny.model(), batch(7)
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    for auto in (DynFocusForConditionalGeneration, AutoModel, AutoModelForImageTextToText):
        loaded = auto.from_pretrained(tmp_path).eval()
        assert type(loaded) is DynFocusForConditionalGeneration
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.connector_settings() == model.config.connector_settings()
    assert type(config.vision_config) is type(model.config.vision_config)
    assert loaded.generation_config.suppress_tokens == [config.video_token_id]


def labelled(*lengths):
    inputs = batch(*lengths)
    return {
        **inputs,
        "labels": inputs["input_ids"].masked_fill(inputs["input_ids"] == tiny.config().video_token_id, -100),
    }


def test_gradients_reach_every_trained_part_and_checkpointing_changes_nothing():
    torch.manual_seed(0)
    inputs, gradients = labelled(9, 4), []
    for checkpointing in (False, True):
        model = tiny.model(text_queries="frame").train()
        model.connector.events.sigma = 1.0  # else noise changes no choice between so few events, and its gradient is 0
        if checkpointing:
            model.activation_checkpointing_enable()
        torch.manual_seed(5)  # the perturbed maximum draws its seed from torch's generator
        loss = model(**inputs).loss
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], atol=1e-6, rtol=1e-4)
    for part in (
        "vision_tower",
        "qformer",
        "query_tokens",
        "connector.events.scorer",
        "connector.projectors",
        "language_model",
    ):
        assert any(grad.abs().sum() > 0 for name, grad in gradients[0].items() if name.startswith(part)), part


def test_training_lowers_the_loss():
    model, inputs = tiny.model().train(), labelled(9, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(40):
        loss = model(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


VISION = {
    "clip": {"model_type": "clip_vision_model"},
    "siglip": {"model_type": "siglip_vision_model", "vision_use_head": False},
}
LANGUAGE = {"qwen2": {"model_type": "qwen2"}, "qwen3": {"model_type": "qwen3", "head_dim": 16}}


@pytest.mark.parametrize("vision", VISION)
def test_other_vision_towers(vision):
    model, inputs = tiny.model(vision=VISION[vision], text_queries="frame"), batch(6, 3)
    assert model.encode_patches(inputs["pixel_values_videos"]).shape[1] == (17 if vision == "clip" else 16)
    if vision == "clip":
        hidden = model.vision_tower(inputs["pixel_values_videos"]).last_hidden_state
        torch.testing.assert_close(model.encode_patches(inputs["pixel_values_videos"]), hidden)
    assert model(**inputs).logits.isfinite().all()


@pytest.mark.parametrize("language", LANGUAGE)
def test_other_language_models(language, tmp_path):
    model, inputs = tiny.model(language=LANGUAGE[language]), batch(6, 3)
    model.save_pretrained(tmp_path)
    loaded = DynFocusForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert loaded.config.text_config.model_type == language
    assert torch.equal(loaded.generate(**inputs, max_new_tokens=4), model.generate(**inputs, max_new_tokens=4))


@pytest.mark.parametrize("text_queries", ["text", "frame"])
def test_the_question_changes_the_visual_tokens(text_queries):
    model = tiny.model(text_queries=text_queries)
    first, second = (
        model.get_video_features(
            **{k: v for k, v in batch(6, questions=[q]).items() if k not in ("input_ids", "attention_mask")}
        )
        for q in (QUESTION, "shape?")
    )
    assert not torch.equal(first.tokens, second.tokens)
    assert torch.equal(first.key_frames[0], second.key_frames[0]), "the paper's selection does not read the question"


def test_sdpa_equals_eager():
    inputs = batch(6, 3)
    model = tiny.model(text_queries="frame")
    logits = {}
    for attention in ("sdpa", "eager"):
        model.set_attn_implementation(attention)
        logits[attention] = model(**inputs).logits[inputs["attention_mask"].bool()]
    torch.testing.assert_close(logits["sdpa"], logits["eager"], atol=1e-5, rtol=1e-4)


def test_resized_embeddings():
    model = tiny.model()
    model.resize_token_embeddings(90)
    assert model(**batch(4)).logits.shape[-1] == model.config.text_config.vocab_size == 90


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_frames": torch.tensor([5])}, "num_frames adds up to 5 but there are 6 frames"),
        ({"num_frames": None}, "num_frames and qformer_input_ids must be given"),
        ({"video_embeds": torch.zeros(3, 64)}, "give one of them"),
        ({"input_ids": torch.zeros(1, 20, dtype=torch.long)}, "input_ids has 0 visual placeholders"),
        ({"visual_token_budget": torch.tensor([20])}, "num_frames is 6 but must be at most 5"),
    ],
    ids=str,
)
def test_mismatched_inputs_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        tiny.model()(**{**batch(6), **change})


def test_a_tower_with_too_few_patches_is_refused():
    with pytest.raises(Exception, match="spatial_levels"):
        tiny.config(spatial_levels=[[40, 3], [2, 2]])
