"""DPE and CCE: the golden numbers of the research code, and what the paper asks of the whole."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dynfocus.connector import ConnectorSettings, DynFocusConnector, frame_rows
from dynfocus.cooperative_encoding import Projectors, Rods, SpatialPrototypes
from dynfocus.event_prototypes import EventPrototypes
from dynfocus.scorers import LocalGlobalScorer, min_max_scaled
from dynfocus.temporal_clustering import dpc_knn_events, kmeans_events

GOLDEN = Path(__file__).parents[1] / "golden"
CHANNELS, TEXT, HIDDEN = 24, 12, 20
SMALL = {
    "num_events": 6,
    "key_ratio": 0.5,
    "pool_size": 2,
    "temporal_neighbors": 3,
    "spatial_levels": ((4, 3), (2, 2)),
    "num_samples": 200,
}


def connector(seed=0, **fields):
    torch.manual_seed(seed)
    return DynFocusConnector(CHANNELS, TEXT, HIDDEN, ConnectorSettings(**SMALL | fields)).eval()


def inputs(num_frames, seed=0, questions=None):
    """patches [ΣT, 16, C], plans, text [V, 5, TEXT], frame_text [ΣT]."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(sum(num_frames), 16, CHANNELS, generator=generator)
    text = torch.randn(len(num_frames), 5, TEXT, generator=generator)
    plans = [ConnectorSettings(**SMALL).plan(length, 2 * length + 200) for length in num_frames]
    return patches, plans, text, frame_rows(num_frames)


def test_predictor_gives_the_golden_scores():
    golden = load_file(GOLDEN / "score_small.safetensors")
    scorer = LocalGlobalScorer(golden["prototypes"].shape[-1])
    scorer.load_state_dict({k.removeprefix("net."): v for k, v in golden.items() if k.startswith("net.")})
    # The research code divides by range + 1e-5, so its highest score is a little below 1.
    golden_scores = min_max_scaled(golden["scores"][None])
    torch.testing.assert_close(min_max_scaled(scorer(golden["prototypes"][None])), golden_scores, atol=1e-5, rtol=1e-4)


def test_tree_with_softmax_gate_gives_the_golden_tokens():
    golden = load_file(GOLDEN / "spatial_frame.safetensors")
    spatial = SpatialPrototypes(((16, 8), (6, 3)), group="tree", gate="softmax")
    spatial.gate_weights.load_state_dict({"weight": golden["gate.weight"], "bias": golden["gate.bias"]})
    tokens, _ = spatial(golden["x"])
    torch.testing.assert_close(tokens, golden["grouped"], atol=1e-5, rtol=1e-4)


def test_rods_give_the_golden_tokens_and_gradients():
    golden = load_file(GOLDEN / "rods_small.safetensors")
    channels, hidden = golden["visual"].shape[-1], golden["tokens"].shape[-1]
    projectors = Projectors(channels, hidden, shared=True)
    projectors.fine.load_state_dict(
        {k.removeprefix("coarse_avg."): v for k, v in golden.items() if k.startswith("coarse_avg.")}
    )
    projectors.text.load_state_dict(
        {k.removeprefix("coarse_text."): v for k, v in golden.items() if k.startswith("coarse_text.")}
    )
    rods = Rods(channels, channels)
    with torch.no_grad():  # the research code has no query projection, and its key bias drops out of the softmax
        rods.query.weight.copy_(torch.eye(channels))
        rods.query.bias.zero_()
        rods.key.weight.copy_(golden["key.weight"])
    visual, text = golden["visual"].requires_grad_(), golden["text"].requires_grad_()
    tokens = projectors.rods(rods(visual, text, torch.arange(len(visual)), None))
    torch.testing.assert_close(tokens.flip(1), golden["tokens"], atol=1e-5, rtol=1e-4)  # there the average comes first
    tokens.backward(golden["grad_tokens"].flip(1))
    torch.testing.assert_close(visual.grad, golden["grad_visual"], atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(text.grad, golden["grad_text"], atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(rods.key.weight.grad, golden["grad_key.weight"], atol=1e-5, rtol=1e-3)


def test_tokens_stand_in_time_order_with_cones_before_rods():
    model = connector()
    patches, plans, text, frame_text = inputs([11])
    output = model(patches, plans, text, frame_text)
    events = model.events(patches, plans)
    spatial, _ = model.spatial(patches)
    fine = model.projectors.cones(events.event_tokens, spatial[events.key_index])
    coarse = model.projectors.rods(model.rods(spatial, text, frame_text, None))
    expected = []
    for frame in range(11):
        expected += [*fine[output.key_index == frame], coarse[frame]]
    torch.testing.assert_close(output.tokens, torch.cat(expected))
    assert output.tokens.shape == (plans[0].num_tokens, HIDDEN)


def test_event_prototypes_are_the_means_of_their_frames():
    model = connector()
    patches, plans, *_ = inputs([13])
    events = model.events(patches, plans)
    assert (events.event_frames.diff() > 0).all() and (events.key_index.diff() > 0).all()
    assert torch.equal(events.assignment[events.event_frames], torch.arange(plans[0].num_events))
    pooled = patches.unflatten(1, (2, 2, 2, 2)).mean((2, 4)).flatten(1, 2)
    for token, key in zip(events.event_tokens, events.key_index, strict=True):
        event = events.assignment[key]
        torch.testing.assert_close(token, pooled[events.assignment == event].mean(0))


def test_a_video_does_not_see_its_batch_mates():
    model = connector()
    lengths = [1, 17, 5, 2]
    patches, plans, text, frame_text = inputs(lengths)
    together = model(patches, plans, text, frame_text).tokens.split([plan.num_tokens for plan in plans])
    for i, video in enumerate(patches.split(lengths)):
        alone = model(video, plans[i : i + 1], text[i : i + 1], frame_rows([lengths[i]])).tokens
        torch.testing.assert_close(together[i], alone, atol=1e-6, rtol=1e-5)


def test_padding_of_the_question_changes_nothing():
    model = connector()
    patches, plans, text, frame_text = inputs([9])
    plain = model(patches, plans, text[:, :3], frame_text).tokens
    mask = torch.tensor([[True, True, True, False, False]])
    poisoned = text.masked_fill(~mask[..., None], 1e4)
    torch.testing.assert_close(model(patches, plans, poisoned, frame_text, mask).tokens, plain)


def test_the_question_reaches_the_text_token_only():
    model = connector()
    patches, plans, text, frame_text = inputs([6])
    first = model(patches, plans, text, frame_text)
    second = model(patches, plans, text + 1, frame_text)
    changed = (first.tokens != second.tokens).any(-1)
    assert changed.sum() == 6 and torch.equal(first.key_index, second.key_index)


@pytest.mark.parametrize("gradient", ["full", "diagonal"])
def test_the_scorer_learns_from_the_tokens(gradient):
    model = connector(selection_gradient=gradient).train()
    patches, plans, text, frame_text = inputs([12, 8])
    model(patches, plans, text, frame_text).tokens.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_evaluation_is_the_limit_of_training_without_noise():
    model = connector(sigma=1e-6)
    patches, plans, text, frame_text = inputs([12])
    hard = model(patches, plans, text, frame_text)
    soft = model.train()(patches, plans, text, frame_text)
    assert torch.equal(hard.key_index, soft.key_index)
    torch.testing.assert_close(hard.tokens, soft.tokens)


@pytest.mark.parametrize(
    "option",
    [
        {"temporal": "kmeans"},
        {"temporal_scale": "channels"},
        {"scorer": "predictor_lg"},
        {"spatial_group": "tree"},
        {"spatial_group": "tree", "spatial_gate": "sigmoid"},
        {"spatial_gate": "softmax"},
        {"rods_source": "patches"},
        {"share_projector": True},
        {"spatial_levels": ((4, 3),)},
    ],
    ids=str,
)
def test_options_run_and_train(option):
    model = connector(**option).train()
    patches, _, text, frame_text = inputs([1, 9])
    plans = [model.settings.plan(length) for length in (1, 9)]
    output = model(patches, plans, text, frame_text, output_attention=True)
    assert output.tokens.shape[0] == sum(plan.num_tokens for plan in plans)
    torch.testing.assert_close(output.rods_attention.sum(1), torch.ones(10))
    output.tokens.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_attention_over_patches_is_the_weight_each_patch_gets():
    """E's mean is linear in the patches, so the weights must reproduce it: Σ_p w_p x_p = Avg(E)."""
    model = connector()
    patches, plans, text, frame_text = inputs([4])
    weights = model(patches, plans, text, frame_text, output_attention=True).rods_attention
    spatial, _ = model.spatial(patches)
    attended = torch.einsum("tm,tmc->tc", model.rods.attention(spatial, text, frame_text, None), spatial)
    torch.testing.assert_close(torch.einsum("tp,tpc->tc", weights, patches), attended, atol=1e-5, rtol=1e-4)


def test_tree_attention_reaches_the_same_patches():
    patches, plans, text, frame_text = inputs([4])
    by_level = connector()(patches, plans, text, frame_text, output_attention=True).rods_attention
    by_tree = connector(spatial_group="tree")(patches, plans, text, frame_text, output_attention=True).rods_attention
    torch.testing.assert_close(by_level, by_tree)


def test_equal_scores_select_the_earliest_events():
    events = EventPrototypes(CHANNELS, pool_size=2, neighbors=3).eval()
    torch.nn.init.zeros_(events.scorer.mlp[-1].weight)
    patches, plans, *_ = inputs([12])
    found = events(patches, plans)
    assert torch.equal(found.key_index, found.event_frames[: plans[0].num_key_frames])
    assert not found.scores.any()


def test_a_still_picture_gives_the_scorer_no_gradient():
    """Its scores differ by rounding at most; blown up to [0, 1] their gradient would be of the order 1e20."""
    events = EventPrototypes(8, pool_size=2, neighbors=3, num_samples=16)
    frame = torch.randn(1, 16, 8)
    plan = ConnectorSettings(num_events=4, pool_size=2).plan(6)
    tokens = events(frame.expand(6, -1, -1), [plan]).event_tokens
    (tokens * torch.randn_like(tokens)).sum().backward()
    assert all(not weight.grad.any() for weight in events.scorer.parameters())
    scores = torch.tensor([[1.0, 1.0 + 1e-7, 1.0 - 1e-7]], requires_grad=True)
    assert not min_max_scaled(scores).any()


def test_temporal_dpc_knn_finds_planted_events():
    generator = torch.Generator().manual_seed(3)
    scenes = torch.randn(4, 32, generator=generator) * 5
    planted = torch.tensor([0] * 7 + [1] * 5 + [2] * 9 + [3] * 6)
    frames = scenes[planted] + 0.1 * torch.randn(len(planted), 32, generator=generator)
    for found in (
        dpc_knn_events(frames, [len(planted)], [4], 4, None),
        kmeans_events(frames, [len(planted)], [4], iterations=20),
    ):
        assert torch.equal(found.assignment, planted)
        assert torch.equal(planted[found.centers], torch.arange(4))


def test_kmeans_of_identical_frames_keeps_every_event():
    found = kmeans_events(torch.ones(9, 4), [9], [5])
    assert torch.equal(found.assignment.bincount(minlength=5) > 0, torch.ones(5, dtype=torch.bool))
    assert torch.equal(found.assignment[found.centers], torch.arange(5))


def test_wrong_shapes_are_named():
    model = connector()
    patches, plans, text, frame_text = inputs([6])
    with pytest.raises(ValueError, match="plans cover 6 frames but patches has 5"):
        model(patches[:5], plans, text, frame_text[:5])
    with pytest.raises(ValueError, match="patches has 15 patches"):
        model(patches[:, :15], plans, text, frame_text)


def test_the_connector_needs_no_transformers():
    code = "import sys, dynfocus.connector; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    model = connector().to(dtype)
    patches, plans, text, frame_text = inputs([10])
    output = model(patches.to(dtype), plans, text.to(dtype), frame_text)
    assert output.tokens.dtype == dtype and output.tokens.isfinite().all()


def test_thousands_of_frames():
    model = connector()
    patches, plans, text, frame_text = inputs([3000])
    assert model(patches, plans, text, frame_text).tokens.shape == (plans[0].num_tokens, HIDDEN)
