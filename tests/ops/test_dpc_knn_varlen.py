"""Ragged clustering: the same, bit for bit, as dpc_knn of each segment on its own."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from dynfocus_ops import dpc_knn, dpc_knn_varlen

from .support import assert_same_bits, backends

every_backend = pytest.mark.parametrize("backend", backends("dpc_knn_varlen"))
LENGTHS = [7, 1, 20, 7, 64, 7]
CU_SEQLENS = torch.tensor([0, *LENGTHS]).cumsum(0)
TOTAL = sum(LENGTHS)


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
def test_equals_each_segment_on_its_own(backend: str, dtype: torch.dtype, index_dtype: torch.dtype) -> None:
    x = torch.randn(TOTAL, 11).to(dtype)
    mask, noise = torch.rand(TOTAL) > 0.2, torch.rand(TOTAL) * 1e-4
    mask[CU_SEQLENS[:-1]] = True
    clusters, k = [3, 1, 5, 2, 9, 3], [2, 1, 4, 2, 8, 2]
    valid = [int(part.sum()) for part in mask.split(LENGTHS)]
    clusters, k = ([min(n, v) for n, v in zip(numbers, valid, strict=True)] for numbers in (clusters, k))
    result = dpc_knn_varlen(
        x,
        CU_SEQLENS.to(index_dtype),
        clusters,
        k,
        max_seqlen=64,
        mask=mask,
        distance_scale=2.0,
        noise=noise,
        backend=backend,
    )
    assert result.cu_clusters.tolist() == [0, *torch.tensor(clusters).cumsum(0).tolist()]
    for s, (start, stop) in enumerate(zip(CU_SEQLENS[:-1].tolist(), CU_SEQLENS[1:].tolist(), strict=True)):
        rows = slice(start, stop)
        settings = {"distance_scale": 2.0, "backend": backend}
        alone = dpc_knn_varlen(
            x[rows],
            torch.tensor([0, stop - start]),
            clusters[s],
            k[s],
            max_seqlen=stop - start,
            mask=mask[rows],
            noise=noise[rows],
            **settings,
        )
        batch = dpc_knn(x[None, rows], clusters[s], k[s], mask=mask[None, rows], noise=noise[None, rows], **settings)
        centers = result.centers[result.cu_clusters[s] : result.cu_clusters[s + 1]] - start
        found = (result.assignment[rows], centers, result.log_density[rows], result.delta[rows])
        assert_same_bits(found, (alone.assignment, alone.centers, alone.log_density, alone.delta))
        rounding = 1e-6 if backend == "triton" else 0.0  # where a batch has another plan
        for ragged, part in zip(found, batch, strict=True):
            torch.testing.assert_close(ragged, part[0], rtol=rounding, atol=rounding)


@every_backend
def test_one_number_stands_for_all_segments(backend: str) -> None:
    x, cu_seqlens = torch.randn(30, 4), torch.tensor([0, 5, 20, 30])
    assert_same_bits(
        dpc_knn_varlen(x, cu_seqlens, 3, 2, max_seqlen=15, backend=backend),
        dpc_knn_varlen(x, cu_seqlens, [3, 3, 3], [2, 2, 2], max_seqlen=15, backend=backend),
    )


def test_number_of_segments_does_not_recompile_each_time() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, cu: dpc_knn_varlen(x, cu, 2, 2, max_seqlen=9), fullgraph=True, backend=counter)
    for segments in (2, 3, 5, 8):
        x, cu_seqlens = torch.randn(9 * segments, 4), torch.arange(segments + 1) * 9
        assert_same_bits(compiled(x, cu_seqlens), dpc_knn_varlen(x, cu_seqlens, 2, 2, max_seqlen=9))
    assert counter.frame_count <= 2


@every_backend
@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        (r"x has shape \[1, 30, 4\], it must be \[total, C\]", {"x": torch.zeros(1, 30, 4)}),
        (r"cu_seqlens runs from 0 to 29, it must run from 0 to 30", {"cu_seqlens": torch.tensor([0, 29])}),
        (r"cu_seqlens runs from 1 to 30", {"cu_seqlens": torch.tensor([1, 30])}),
        (r"segment 1 of cu_seqlens has 0 rows", {"cu_seqlens": torch.tensor([0, 15, 15, 30])}),
        (r"segment 1 of cu_seqlens has -5 rows", {"cu_seqlens": torch.tensor([0, 15, 10, 30]), "max_seqlen": 20}),
        (
            r"segment 0 of cu_seqlens has 16 rows, it must have 1 to max_seqlen",
            {"cu_seqlens": torch.tensor([0, 16, 30])},
        ),
        (r"cu_seqlens has shape \[1\]", {"cu_seqlens": torch.tensor([0])}),
        (r"num_clusters has 3 numbers, it must be an int or have one per segment, 2", {"num_clusters": [1, 2, 3]}),
        (
            r"k of segment 1 is 15, .* number of valid points, 10",
            {"k": 15, "cu_seqlens": torch.tensor([0, 15, 25, 30])},
        ),
        (r"num_clusters of segment 0 is 3, .* valid points, 2", {"mask": torch.arange(30) > 12}),
        (r"k is 16, it must be at most 15, max_seqlen", {"k": [2, 16]}),
        (r"x has NaN or infinity at \[9\]", {"x": torch.zeros(30, 4).index_fill(0, torch.tensor(9), torch.nan)}),
    ],
)
def test_errors_name_the_argument(backend: str, message: str, arguments: dict) -> None:
    ordinary = {"x": torch.zeros(30, 4), "cu_seqlens": torch.tensor([0, 15, 30]), "num_clusters": 3, "k": 2}
    with pytest.raises(ValueError, match=message):
        dpc_knn_varlen(**{**ordinary, "max_seqlen": 15, "backend": backend, **arguments})
