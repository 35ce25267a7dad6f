"""cluster_mean: native, oracle and the one-hot matrix product."""

import pytest
import torch

from benchmarks import research_formula
from dynfocus_ops import cluster_mean

SHAPES = {  # B, N, C, num_clusters
    "patches of 16 frames": (16, 256, 1408, 16),
    "events of 512 frames": (1, 512, 1408, 25),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("provider", ["cpu", "reference", "research"])
@pytest.mark.parametrize("shape", SHAPES)
def test_cluster_mean(benchmark, shape: str, provider: str, dtype: torch.dtype) -> None:
    b, n, c, num_clusters = SHAPES[shape]
    x = torch.randn(b, n, c).to(dtype)
    assignment = torch.randint(num_clusters, (b, n))
    if provider == "research":
        result = benchmark(research_formula.cluster_mean, x, assignment, num_clusters)
    else:
        result = benchmark(cluster_mean, x, assignment, num_clusters, backend=provider)
    expected = cluster_mean(x.double(), assignment, num_clusters)
    torch.testing.assert_close(result.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps)
