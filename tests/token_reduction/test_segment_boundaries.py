"""Segment boundaries against the rules of FastVID and FlashVID in plain Python."""

import pytest
import torch

from dynfocus_ops import dpc_knn_varlen
from dynfocus_ops.token_reduction import segment_boundaries


def plain(frames, threshold, min_segments, num_smallest):
    unit = frames / frames.norm(dim=-1, keepdim=True)
    similarity = [float(unit[t] @ unit[t + 1]) for t in range(len(frames) - 1)]
    by_size = sorted(range(len(similarity)), key=lambda t: (similarity[t], t))
    cuts = {t for t in by_size if similarity[t] < threshold} | set(by_size[:num_smallest])
    for t in by_size:
        if len(cuts) + 1 < min_segments:
            cuts.add(t)
    return [0, *(t + 1 for t in sorted(cuts)), len(frames)]


@pytest.mark.parametrize("frames", [1, 2, 9, 32])
@pytest.mark.parametrize("threshold", [-2.0, 0.9, 2.0])
@pytest.mark.parametrize(("min_segments", "num_smallest"), [(1, 0), (8, 0), (1, 7), (5, 2), (100, 0)])
def test_boundaries(frames, threshold, min_segments, num_smallest):
    x = torch.randn(frames, 16).cumsum(0)
    bounds = segment_boundaries(x, threshold, min_segments=min_segments, num_smallest=num_smallest)
    assert bounds.dtype == torch.int64
    assert bounds.tolist() == plain(x.double(), threshold, min_segments, num_smallest)


def test_equals_cut_early():
    assert segment_boundaries(torch.ones(6, 3), min_segments=3).tolist() == [0, 1, 2, 6]


def test_they_are_what_varlen_takes():
    x = torch.randn(20, 16).cumsum(0)
    bounds = segment_boundaries(x, 0.8, min_segments=4)
    assert len(dpc_knn_varlen(x, bounds, 1, 1, max_seqlen=20).centers) == len(bounds) - 1


def test_errors():
    with pytest.raises(ValueError, match=r"frames has shape \[1, 2, 3\], it must be \[T, C\]"):
        segment_boundaries(torch.randn(1, 2, 3))
    with pytest.raises(ValueError, match="min_segments is 0, it must be at least 1"):
        segment_boundaries(torch.randn(2, 3), min_segments=0)
    with pytest.raises(ValueError, match=r"frames has NaN or infinity at \[1\]"):
        segment_boundaries(torch.tensor([[1.0], [torch.nan]]))
    with pytest.raises(ValueError, match="frames has vectors too long to be compared"):
        segment_boundaries(torch.full((2, 3), 1e20))


def test_the_threshold_is_as_rounded_as_cosines():
    frames = torch.tensor([[1.0, 0.0], [0.7, 0.714142843]])
    assert segment_boundaries(frames, 0.7).tolist() == [0, 2]
