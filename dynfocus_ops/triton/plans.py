"""How distances are computed: a function of the number of points and channels, the dtype and the GPU alone."""

from dataclasses import dataclass, replace

import torch
import triton

from dynfocus_ops.triton.launch import compute_capability
from dynfocus_ops.triton.samples import Samples

# Programs that keep a GPU of some 132 multiprocessors busy: one of them waits for little while the last ones run.
PROGRAMS = 1024

# Up to so many points products are kept, [N, N] float32, of so many samples at a time as fit WORKSPACE.
STORED_POINTS = 8192
WORKSPACE = 256 << 20  # bytes

# A stored product costs 4 bytes of L2 in each stage that reads it; a computed one 2 C operations. On tensor cores these
# take as long at some 150 channels of 16 bits, and at a sixth of that for float32, as three tf32 products.
STORED_CHANNELS = {torch.bfloat16: 256, torch.float16: 256, torch.float32: 64}

# Channels of a part: fewer would leave more to add than is gained.
PART_CHANNELS = 1024


@dataclass(frozen=True)
class Tile:
    """So many rows and columns of distances, from block_c channels at a time."""

    rows: int
    columns: int
    block_c: int
    num_warps: int
    num_stages: int

    @property
    def constants(self) -> dict[str, int]:
        warps = {"num_warps": self.num_warps, "num_stages": self.num_stages}
        return {"ROWS": self.rows, "BLOCK_C": self.block_c, **warps}


@dataclass(frozen=True)
class Plan:
    """Products in so many stored parts, 0 for none; the tiles they are computed in, and read again."""

    parts: int
    computing: Tile
    reading: Tile

    def scanning(self, slots: int) -> Tile:
        """The tile in which lists of so many slots are kept: long ones in fewer rows, for the registers they take."""
        tile = self.reading if self.parts else self.computing
        return replace(tile, rows=tile.rows // 2) if slots > 32 else tile


def plan(samples: Samples, keep_products: bool = True) -> Plan:
    """Ragged segments are never stored: their bits then depend neither on the other segments nor on max_seqlen."""
    x, N = samples.x, samples.longest
    C = x.shape[-1]
    single = x.dtype == torch.float32
    size, warps = (64, 4) if single or N <= 64 else (128, 8)
    block_c = 32 if single else 64
    stages = 3 if compute_capability(x) < 90 else 4
    stored = keep_products and samples.cu_seqlens is None and N <= STORED_POINTS and STORED_CHANNELS[x.dtype] <= C
    parts = num_parts(triton.cdiv(N, size), N, C) if stored else 0
    return Plan(parts, Tile(size, size, block_c, warps, stages), Tile(16, 128, block_c, 4, 2))


def num_parts(blocks: int, N: int, C: int) -> int:
    """Parts that fill a GPU with the blocks on and below the diagonal."""
    wanted = PROGRAMS // 4 // (blocks * (blocks + 1) // 2)  # each part is written and read: no more than needed
    fitting = WORKSPACE // (4 * N * N)
    return max(1, min(wanted, fitting, C // PART_CHANNELS))


def samples_at_once(plan: Plan, N: int) -> int | None:
    """How many samples fit the workspace; None if there is no limit."""
    return max(1, WORKSPACE // (4 * N * N * plan.parts)) if plan.parts else None
