"""The compressor: counts that follow from shapes, what each token stands for, a model of transformers end to end."""

import pytest
import torch

from dynfocus_ops import dpc_knn, reference
from dynfocus_ops.token_reduction import compress_video_tokens

SHAPES = [  # frames, tokens of a frame, budget, tokens of other frames
    (12, 16, 90, 2),
    (12, 16, 24, 2),
    (12, 16, 25, 1),
    (12, 16, 12 * 16, 2),
    (12, 16, 10_000, 3),
    (1, 5, 5, 2),
    (1, 5, 4, 2),
    (7, 2, 14, 2),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("T", "N", "budget", "m"), SHAPES)
def test_counts_and_order(T, N, budget, m, dtype):
    features, times = torch.randn(T, N, 32).to(dtype), torch.arange(T) * 0.5
    video = compress_video_tokens(features, budget, tokens_per_frame=m, timestamps=times)
    K = T if m == N else min(T, (budget - T * m) // (N - m))
    assert len(video.key_frames) == K and len(video.tokens) == K * N + (T - K) * m <= budget
    assert video.tokens.dtype == dtype
    assert (video.frames.diff() >= 0).all() and torch.equal(video.timestamps, times[video.frames])
    for frame in range(T):
        own = video.frames == frame
        places = video.positions[own]
        assert len(places) == (N if frame in video.key_frames else m)
        assert (places.diff() > 0).all()
        if frame in video.key_frames:
            assert torch.equal(video.tokens[own], features[frame])
    assert torch.equal(video.events[video.key_frames], torch.arange(K))
    assert video.events.shape == (T,) and (video.events < max(K, 1)).all()


def test_other_frames_are_means_of_their_clusters():
    features = torch.randn(6, 20, 16)
    video = compress_video_tokens(features, 6 * 3, tokens_per_frame=3)
    for frame in range(6):
        assignment, centers, _, _ = reference.dpc_knn(features[frame : frame + 1].double(), 3, 8, None, 16.0, None)
        own = video.frames == frame
        assert video.positions[own].tolist() == sorted(centers[0].tolist())
        for token, place in zip(video.tokens[own], video.positions[own], strict=True):
            members = features[frame][assignment[0] == assignment[0, place]]
            torch.testing.assert_close(token, members.mean(0))


def test_key_frames_are_the_centres_of_events():
    scenes = torch.randn(4, 1, 1, 32) + 0.05 * torch.randn(4, 8, 10, 32)
    features = scenes.flatten(0, 1)
    video = compress_video_tokens(features, 4 * 10 + 28 * 2)
    assert (video.key_frames // 8).tolist() == [0, 1, 2, 3]
    assert torch.equal(video.events, torch.arange(4).repeat_interleave(8))
    centers = dpc_knn(features.mean(1)[None], 4, 8).centers[0].sort().values
    assert torch.equal(video.key_frames, centers)


def test_differentiable_in_every_frame():
    features = torch.randn(8, 10, 16, requires_grad=True)
    compress_video_tokens(features, 40).tokens.sum().backward()
    torch.testing.assert_close(features.grad.sum((1, 2)).gt(0).all(), torch.tensor(True))


def test_errors():
    features = torch.randn(8, 10, 16)
    with pytest.raises(
        ValueError, match=r"budget is 15, it must be at least 16: tokens_per_frame = 2 for each of 8 frames"
    ):
        compress_video_tokens(features, 15)
    with pytest.raises(ValueError, match="tokens_per_frame is 11, it must be at most 10"):
        compress_video_tokens(features, 100, tokens_per_frame=11)
    with pytest.raises(ValueError, match="timestamps has shape"):
        compress_video_tokens(features, 100, timestamps=torch.zeros(7))
    with pytest.raises(ValueError, match=r"features has shape \[8, 10\]"):
        compress_video_tokens(features[..., 0], 100)
    with pytest.raises(ValueError, match="NaN or infinity"):
        compress_video_tokens(features.fill_(torch.nan), 100)


def tiny_llava_onevision():
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        Qwen2Config,
        SiglipVisionConfig,
    )

    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=48,
        patch_size=6,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    config = LlavaOnevisionConfig(vision_config=vision, text_config=text, image_token_index=60, video_token_index=61)
    return LlavaOnevisionForConditionalGeneration(config).eval()


@torch.no_grad()
def test_llava_onevision_generates_from_compressed_video():
    model, T = tiny_llava_onevision(), 10
    pixels = torch.randn(1, T, 3, 48, 48)
    encoded = model.get_video_features(pixels)
    features = encoded.pooler_output[0, :-1].unflatten(0, (T, -1))  # without the newline after the video
    assert features.shape == (T, 16, 32)

    def answer(tokens):
        encoded.pooler_output = torch.cat([tokens, model.model.image_newline[None]])[None]
        prompt = torch.tensor([[1, *[61] * (len(tokens) + 1), 5, 6, 7]])
        given = model.generate(
            input_ids=prompt,
            mm_encoder_outputs={"video": encoded},
            max_new_tokens=6,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        return given.sequences[:, prompt.shape[1] :], torch.stack(given.logits)

    uncompressed = torch.tensor([[1, *[61] * (T * 16 + 1), 5, 6, 7]])
    whole = model.generate(
        input_ids=uncompressed,
        pixel_values_videos=pixels,
        max_new_tokens=6,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    everything = compress_video_tokens(features, T * 16)
    sequence, logits = answer(everything.tokens)
    assert torch.equal(sequence, whole.sequences[:, uncompressed.shape[1] :])
    torch.testing.assert_close(logits, torch.stack(whole.logits), rtol=1e-4, atol=1e-5)

    few = compress_video_tokens(features, 64)
    assert len(few.tokens) == 62 and len(few.key_frames) == 3
    sequence, logits = answer(few.tokens)
    assert 1 <= sequence.shape[1] <= 6 and logits.isfinite().all()
