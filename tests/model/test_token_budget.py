import sys

import pytest

from dynfocus.connector import ConnectorSettings
from dynfocus.token_budget import max_frames_to_sample, max_frames_within, plan_tokens


def plan(num_frames, budget=2048, **settings):
    return ConnectorSettings(max_visual_tokens=budget, **settings).plan(num_frames)


def test_the_papers_example():
    example = plan(200)
    assert (example.num_events, example.num_key_frames, example.num_tokens) == (25, 20, 20 * 40 + 180 * 2)


def test_one_image_is_one_event_in_full():
    image = plan(1)
    assert (image.num_events, image.num_key_frames, image.num_tokens) == (1, 1, 40)


@pytest.mark.parametrize("budget", [40, 41, 64, 128, 1000, 2048])
def test_budget_holds_for_every_length(budget):
    longest = max_frames_within(budget, 38)
    for num_frames in range(1, longest + 1):
        result = plan(num_frames, budget)
        assert result.num_tokens <= budget
        assert 1 <= result.num_key_frames <= result.num_events <= min(25, num_frames)
    with pytest.raises(ValueError, match=f"num_frames is {longest + 1} but must be at most {longest}"):
        plan(longest + 1, budget)


def test_the_budget_is_used_and_the_ratio_kept():
    tight = plan(400, 1200)
    assert tight.num_key_frames == (1200 - 800) // 38 == 10
    assert tight.num_events == 12  # floor(10 / 0.8)
    assert tight.num_tokens + 38 > 1200


def test_without_rods_any_number_of_frames_fits():
    for num_frames in (1, 2, 25, 10**6):
        assert plan(num_frames, 100, rods=False).num_tokens == min(38 * min(num_frames, 20), 38 * 2)
    assert plan(10**6, rods=False).num_tokens == 20 * 38
    options = {"num_events": 25, "key_ratio": 0.8, "fine_tokens": 38, "rods_tokens": 0}
    assert max_frames_to_sample(38, **options) == max_frames_within(38, 38, 0) == sys.maxsize
    assert max_frames_to_sample(37, **options) == max_frames_within(37, 38, 0) == 0
    with pytest.raises(ValueError, match="budget is 37 visual tokens but must be at least 38, the cost of one frame"):
        plan(1, 37, rods=False)


def test_without_cones_key_frames_cost_nothing():
    for num_frames in (1, 30, 50):
        result, free = plan(num_frames, 100, cones="none"), plan(num_frames)
        assert result.num_tokens == 2 * num_frames
        assert (result.num_events, result.num_key_frames) == (free.num_events, free.num_key_frames)
    with pytest.raises(ValueError, match="num_frames is 51 but must be at most 50"):
        plan(51, 100, cones="none")
    assert max_frames_to_sample(101, num_events=25, key_ratio=0.8, fine_tokens=0) == 50


@pytest.mark.parametrize("ratio, expected", [(0.8, 20), (0.45, 12), (1.0, 25), (0.01, 1)])
def test_key_ratio_rounds_up(ratio, expected):
    assert plan(100, key_ratio=ratio).num_key_frames == expected


def test_no_frames():
    with pytest.raises(ValueError, match="num_frames is 0"):
        plan_tokens(0, num_events=25, key_ratio=0.8, fine_tokens=38, budget=2048)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"temporal": "dbscan"}, "temporal is 'dbscan' but must be one of 'dpc_knn', 'kmeans'"),
        ({"key_ratio": 0.0}, "key_ratio is 0.0"),
        ({"key_ratio": 1.5}, "key_ratio is 1.5"),
        ({"num_events": 0}, "num_events is 0"),
        ({"num_events": 2.5}, "num_events is 2.5"),
        ({"max_visual_tokens": -1}, "max_visual_tokens is -1"),
        ({"spatial_levels": ((16, 8), (6, 17))}, r"the level \(6, 17\) over 16 tokens"),
        ({"sigma": 0.0}, "sigma is 0.0"),
        ({"spatial_levels": ()}, "spatial_levels is"),
        ({"spatial_levels": ((16, 0),)}, "spatial_levels is"),
        ({"spatial_gate": "softmax", "spatial_levels": ((16, 8),)}, "exactly two levels"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        ConnectorSettings(**settings)


@pytest.mark.parametrize("budget, frames", [(2048, 644), (1024, 256), (1160, 290), (100, 25), (40, 1), (39, 0)])
def test_sampling_leaves_room_for_detail(budget, frames):
    """All that 20 key frames of 38 tokens leave, or half the budget."""
    assert max_frames_to_sample(budget, num_events=25, key_ratio=0.8, fine_tokens=38) == frames
    if frames:
        assert plan(frames, budget).num_tokens <= budget
        assert plan(frames, budget).num_key_frames >= min(20, max(1, (budget // 2) // 38))
