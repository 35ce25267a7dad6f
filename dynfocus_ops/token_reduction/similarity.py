import torch
from torch import Tensor

BLOCK = 1 << 20  # numbers of x at a time: what a cache holds


def products(x: Tensor, others: Tensor) -> Tensor:
    """Products [B, M, N] of others [B, M, C] with x [B, N, C], in the dtype of others, also under autocast.

    What is in another dtype is converted block by block, into the same memory: fresh memory takes longer than products.
    """
    b, n, c = x.shape
    tokens = min(n, max(1, BLOCK // c))
    samples = min(b, max(1, BLOCK // (n * c)))
    converts = x.dtype != others.dtype
    block = others.new_empty(samples * tokens * c if converts else 0)
    result = others.new_empty(b, others.shape[1], n)
    with torch.autocast(x.device.type, enabled=False):
        for i in range(0, b, samples):
            for j in range(0, n, tokens):
                part = x[i : i + samples, j : j + tokens]
                if converts:
                    part = block[: part.numel()].view(part.shape).copy_(part)
                result[i : i + samples, :, j : j + tokens] = others[i : i + samples] @ part.mT
    return result
