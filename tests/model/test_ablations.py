"""The connector with parts left out or replaced, against a direct computation from the parts that stay."""

import pytest
import torch

import dynfocus_ops
from dynfocus import DynFocusConfig, DynFocusForConditionalGeneration, DynFocusProcessor
from dynfocus.connector import ConnectorSettings
from dynfocus.loading import load_model
from dynfocus.training.trainable import freeze
from tests.model import tiny
from tests.model.test_connector import connector, inputs

VARIANTS = [
    {"rods": False},
    {"rods": False, "cones": "average"},
    {"rods": False, "selection": "uniform", "share_projector": True},
    {"rods": False, "text_queries": "frame"},
    {"cones": "average"},
    {"cones": "none"},
    {"cones": "none", "share_projector": True},
    {"cones": "none", "rods_source": "patches", "spatial_gate": "softmax"},
    {"selection": "uniform"},
    {"selection": "random", "text_queries": "frame"},
    {"selection_gradient": "none"},
    {"antithetic": True},
]
CONNECTOR_VARIANTS = [variant for variant in VARIANTS if "text_queries" not in variant]


def run(lengths=(11,), mode="eval", **fields):
    """A connector, its inputs with plans of its own, and its output."""
    model = connector(**fields).train(mode == "train")
    patches, _, text, frame_text = inputs(lengths)
    plans = [model.settings.plan(length) for length in lengths]
    return model, (patches, plans, text, frame_text), model(patches, plans, text, frame_text)


def pooled(patches):
    return patches.unflatten(1, (2, 2, 2, 2)).mean((2, 4)).flatten(1, 2)


def test_without_rods_a_video_is_its_key_frames_cones():
    model, (patches, plans, *_), output = run((11, 4), rods=False)
    events = model.events(patches, plans)
    spatial = dynfocus_ops.spatial_prototypes(patches, ((4, 3), (2, 2)))[0][output.key_index]
    torch.testing.assert_close(
        output.tokens, model.projectors.fine(torch.cat([events.event_tokens, spatial], 1)).flatten(0, 1)
    )
    with_rods = run((11, 4))[2]
    kept = torch.isin(with_rods.tokens[:, 0], output.tokens[:, 0])
    assert torch.equal(with_rods.tokens[kept], output.tokens) and torch.equal(with_rods.key_index, output.key_index)


def test_average_cones_are_two_means():
    model, (patches, plans, text, frame_text), output = run(cones="average")
    events = model.events(patches, plans)
    spatial, _ = model.spatial(patches)
    rods = model.projectors.rods(model.rods(spatial, text, frame_text, None))
    expected = []
    for frame in range(11):
        for key in (events.key_index == frame).nonzero().flatten():
            expected += [model.projectors.fine(events.event_tokens[key].mean(0))[None]]
            expected += [model.projectors.fine(spatial[frame].mean(0))[None]]
        expected.append(rods[frame])
    torch.testing.assert_close(output.tokens, torch.cat(expected))


def test_without_cones_every_frame_has_its_rods_alone():
    model, (patches, _, text, frame_text), output = run((11, 4), cones="none")
    rods = model.projectors.rods(model.rods(model.spatial(patches)[0], text, frame_text, None))
    torch.testing.assert_close(output.tokens, rods.flatten(0, 1))
    assert torch.equal(output.key_index, run((11, 4))[2].key_index)


@pytest.mark.parametrize("lengths, keys", [((11,), [1, 5, 9]), ((2, 40), [1, 2 + 6, 2 + 20, 2 + 33])])
def test_uniform_key_frames_are_the_middles_of_equal_stretches(lengths, keys):
    """⌊(i + ½) T / K⌋, with K = 3 of 6 events, and of two frames one."""
    for mode in ("eval", "train"):
        model, (patches, plans, *_), output = run(lengths, mode, selection="uniform")
        assert output.key_index.tolist() == keys
        events, by_scores = model.events(patches, plans), connector().events(patches, plans)
        torch.testing.assert_close(events.event_tokens, pooled(patches)[keys])
        for found, expected in zip(events[2:], by_scores[2:], strict=True):  # events and scores are reported as ever
            assert torch.equal(found, expected)


def test_random_key_frames_are_distinct_in_order_and_follow_the_seed():
    model, arguments, _ = run((30, 9), selection="random")
    patches = arguments[0]
    torch.manual_seed(5)
    drawn = [model(*arguments).key_index for _ in range(40)]
    for keys in drawn:
        assert (keys.diff() > 0).all() and (keys < 30).sum() == 3 and keys[-1] < 39
    assert len({tuple(keys.tolist()) for keys in drawn}) > 30
    assert torch.cat(drawn).unique().numel() == 39
    torch.manual_seed(5)
    assert torch.equal(model(*arguments).key_index, drawn[0])
    torch.manual_seed(5)
    torch.testing.assert_close(model.events(*arguments[:2]).event_tokens, pooled(patches)[drawn[0]])


def test_without_a_selection_gradient_training_uses_the_hard_top_k():
    model, arguments, hard = run((12, 8), selection_gradient="none")
    soft = model.train()(*arguments)
    torch.testing.assert_close(soft.tokens, hard.tokens)
    soft.tokens.square().sum().backward()
    assert all(weight.grad is None for weight in model.events.scorer.parameters())
    assert not torch.equal(connector().train()(*arguments).tokens, hard.tokens)


@pytest.mark.parametrize("antithetic", [True, False])
def test_antithetic_reaches_the_op(monkeypatch, antithetic):
    given, perturbed_topk = [], dynfocus_ops.perturbed_topk

    def recorded(*arguments, **options):
        given.append(options["antithetic"])
        return perturbed_topk(*arguments, **options)

    monkeypatch.setattr(dynfocus_ops, "perturbed_topk", recorded)
    run(mode="train", antithetic=antithetic)
    for unperturbed in ({"cones": "none"}, {"selection": "uniform"}, {"selection_gradient": "none"}):
        run(mode="train", **unperturbed)
    assert given == [antithetic]


@pytest.mark.parametrize("variant", CONNECTOR_VARIANTS, ids=str)
@pytest.mark.parametrize("budget", [24, 60, 2048])
def test_plans_count_the_tokens_there_are(variant, budget):
    model = connector(max_visual_tokens=budget, **variant)
    for length in (1, 2, 3, 5, 8, 11, 12, 29, 200):
        try:
            plans = [model.settings.plan(length)]
        except ValueError:
            assert model.settings.rods and length * 2 + model.settings.fine_tokens > budget
            continue
        patches, _, text, frame_text = inputs([length])
        output = model(patches, plans, text, frame_text)
        assert len(output.tokens) == plans[0].num_tokens == plans[0].cones_tokens + plans[0].rods_tokens <= budget
        assert len(output.key_index) == plans[0].num_key_frames


@pytest.mark.parametrize("variant", CONNECTOR_VARIANTS, ids=str)
def test_variants_share_their_weights(variant):
    shape = {name: variant[name] for name in ("share_projector", "spatial_gate") if name in variant}
    connector(1, **variant).load_state_dict(connector(**shape).state_dict())


def test_attention_needs_rods():
    model, arguments, output = run(rods=False)
    assert output.rods_attention is None
    with pytest.raises(ValueError, match="output_attention is True but must be False with rods=False"):
        model(*arguments, output_attention=True)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"rods": False, "cones": "none"}, "cones is 'none' but must be 'prototypes' or 'average' with rods=False"),
        ({"cones": "mean"}, "cones is 'mean' but must be one of 'prototypes', 'average', 'none'"),
        ({"selection": "first"}, "selection is 'first' but must be one of 'scores', 'uniform', 'random'"),
        ({"selection_gradient": "half"}, "must be one of 'full', 'diagonal', 'none'"),
        ({"antithetic": True, "num_samples": 501}, "num_samples is 501 but must be even with antithetic=True"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        ConnectorSettings(**settings)
    with pytest.raises(ValueError, match=message):
        tiny.config(**settings)


def sample(processor, num_frames=9):
    video = torch.randint(0, 255, (num_frames, 32, 32, 3), dtype=torch.uint8).numpy()
    inputs = processor(text="<video> what color is the circle ? red", videos=[video], video_metadata=[{"fps": 2.0}])
    return {**inputs, "labels": inputs["input_ids"]}


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_all_that_trains_gets_a_gradient(variant):
    """Unlike what freezes: distributed training waits for the gradient of everything that does not."""
    model = tiny.model(**variant).train()
    batch = sample(tiny.processor(model.config, num_frames=9))
    model(**batch).loss.backward()
    with_gradient = {name for name, weight in model.named_parameters() if weight.grad is not None}
    freeze(model, dict.fromkeys(("vision_tower", "qformer", "query_tokens", "connector", "language_model"), 1e-3))
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == with_gradient
    model.zero_grad()
    model(**batch).loss.backward()
    assert all((weight.grad is not None) == weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_configuration_and_processor_are_saved_whole(tmp_path, variant):
    config = tiny.config(**variant)
    config.save_pretrained(tmp_path)
    tiny.processor(config).save_pretrained(tmp_path)
    loaded, processor = DynFocusConfig.from_pretrained(tmp_path), DynFocusProcessor.from_pretrained(tmp_path)
    assert loaded.connector_settings() == config.connector_settings()
    assert processor.plan(7) == loaded.connector_settings().plan(7)


def test_a_checkpoint_with_rods_loads_without_them(tmp_path):
    model = tiny.model()
    model.save_pretrained(tmp_path)
    config = tiny.config(rods=False)
    config.save_pretrained(tmp_path)
    tiny.processor(config, num_frames=9).save_pretrained(tmp_path)
    loaded, processor = load_model(tmp_path, device="cpu")
    assert isinstance(loaded, DynFocusForConditionalGeneration) and not loaded.connector.settings.rods
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in model.state_dict().items())
    assert loaded(**sample(processor)).loss.isfinite()
