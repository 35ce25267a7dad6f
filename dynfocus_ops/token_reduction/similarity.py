from contextlib import nullcontext

import torch
from torch import Tensor

BLOCK = 1 << 20  # numbers that a CPU's cache holds


def products(x: Tensor, others: Tensor) -> Tensor:
    """Products [B, M, N] of others [B, M, C] with x [B, N, C], in the dtype of others, also under autocast.

    What is in another dtype is converted block by block, into the same memory: fresh memory takes longer than products.
    """
    device = x.device.type
    with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
        if x.dtype == others.dtype:
            return others @ x.mT
        b, n, c = x.shape
        block = BLOCK if device == "cpu" else 16 * BLOCK
        tokens, samples = min(n, max(1, block // c)), min(b, max(1, block // (n * c)))
        converted = others.new_empty(samples * tokens * c)
        result = others.new_empty(b, others.shape[1], n)
        for i in range(0, b, samples):
            for j in range(0, n, tokens):
                part = x[i : i + samples, j : j + tokens]
                part = converted[: part.numel()].view(part.shape).copy_(part)
                result[i : i + samples, :, j : j + tokens] = others[i : i + samples] @ part.mT
        return result
