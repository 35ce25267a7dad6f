"""Checks of arguments: each error names the argument, what it was and what it must be.

Static properties are checked in the public functions, where they trace. Values are checked in the bodies of the ops,
and only where that costs no synchronisation: on the CPU, or everywhere with DYNFOCUS_CHECK_VALUES=1.
"""

import math
import os

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def score_dtype(x: Tensor) -> torch.dtype:
    """The dtype of scores, and of sums: float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def promote(x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64 if one is; else x as it is and `other` in float32, which every other dtype is computed in."""
    if other.dtype == torch.float64:
        x = x.double()
    return x, other.to(score_dtype(x))


def check_tensor(name: str, x: object, shape: str, dtypes: tuple[torch.dtype, ...] = FLOATS) -> None:
    """`shape` names the dimensions, as "[B, N, C]"; it is only counted."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is a {type(x).__name__}, it must be a tensor {shape}")
    if x.dim() != shape.count(",") + 1:
        raise ValueError(f"{name} has shape {list(x.shape)}, it must be {shape}")
    if x.dtype not in dtypes:
        raise TypeError(f"{name} is {x.dtype}, it must be {' or '.join(str(dtype) for dtype in dtypes)}")


def check_shape(name: str, x: Tensor, shape: tuple[int, ...], meaning: str) -> None:
    if tuple(x.shape) != shape:
        raise ValueError(f"{name} has shape {list(x.shape)}, it must be {meaning} = {list(shape)}")


def check_not_empty(name: str, x: Tensor) -> None:
    if any(size == 0 for size in x.shape):
        raise ValueError(f"{name} has shape {list(x.shape)}, no dimension may be 0")


def check_same_device(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    if x.device != other.device:
        raise ValueError(f"{name} is on {x.device}, it must be on the device of {other_name}, {other.device}")


def check_int(name: str, value: object, low: int, high: int | None = None, limit: str = "") -> None:
    """low <= value <= high; `limit` says what `high` is."""
    if isinstance(value, bool) or not isinstance(value, int | torch.SymInt):
        raise TypeError(f"{name} is a {type(value).__name__}, it must be an int")
    if value < low:
        raise ValueError(f"{name} is {value}, it must be at least {low}")
    if high is not None and value > high:
        raise ValueError(f"{name} is {value}, it must be at most {high}, {limit}")


def check_float(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | torch.SymInt | torch.SymFloat):
        raise TypeError(f"{name} is a {type(value).__name__}, it must be a float")


def check_positive(name: str, value: float) -> None:
    check_float(name, value)
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is {value}, it must be a positive number")


def check_not_negative(name: str, value: float) -> None:
    check_float(name, value)
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} is {value}, it must be a number that is not negative")


def checks_values(x: Tensor) -> bool:
    """Whether the body of an op may look at the values of `x`."""
    return x.device.type == "cpu" or os.environ.get("DYNFOCUS_CHECK_VALUES") == "1"


def check_points(
    x: Tensor,
    shape: str,
    mask: Tensor | None = None,
    noise: Tensor | None = None,
    distance_scale: float | None = None,
) -> None:
    """The static properties of points x and of what comes with each of them."""
    check_tensor("x", x, shape)
    check_not_empty("x", x)
    for name, extra, dtypes in (("mask", mask, (torch.bool,)), ("noise", noise, FLOATS)):
        if extra is not None:
            check_tensor(name, extra, shape.replace(", C", ""), dtypes)
            check_shape(name, extra, tuple(x.shape[:-1]), shape.replace(", C", "") + " of x")
            check_same_device(name, extra, "x", x)
    if distance_scale is not None:
        check_positive("distance_scale", distance_scale)


def check_enough_points(name: str, wanted: int, mask: Tensor | None) -> None:
    """Value check: every sample of mask [B, N] has at least `wanted` valid points."""
    if mask is not None and checks_values(mask):
        fewest = int(mask.sum(-1).min())
        if wanted > fewest:
            raise ValueError(f"{name} is {wanted}, it must be at most the number of valid points, here {fewest} (mask)")


def check_noise(noise: Tensor | None, mask: Tensor | None) -> None:
    if noise is None or not checks_values(noise):
        return
    smallest, largest = (float(value) for value in noise.aminmax())  # NaN if any is
    if not 0 <= smallest <= largest < math.inf:
        where = first_valid(~noise.isfinite() | (noise < 0), mask)
        if where is not None:
            value = float(noise[tuple(where)])
            raise ValueError(f"noise is {value} at {where}, it must be finite and at least 0: it is added to a density")


def check_finite(name: str, values: Tensor, mask: Tensor | None) -> None:
    """Value check: the numbers of each valid point, the last dimension of `values`, are finite."""
    if not checks_values(values) or (mask is None and math.isfinite(float(values.detach().sum()))):
        return
    where = first_valid(~values.isfinite().all(-1), mask)
    if where is not None:
        raise ValueError(f"{name} has NaN or infinity at {where}, it must be finite")


def check_scores(scores: Tensor, x: Tensor, mask: Tensor | None) -> None:
    """Value check: NaN or infinity in a valid point of x shows in its log density or in the densest point's delta."""
    if not checks_values(scores) or (mask is None and math.isfinite(float(scores.sum()))):
        return
    if first_valid(~scores.isfinite(), mask) is not None:
        check_finite("x", x, mask)
        largest = float((x if mask is None else x[mask]).abs().max())
        raise ValueError(f"x has values up to {largest}, it must be small enough for squared distances to be finite")


def first_valid(points: Tensor, mask: Tensor | None) -> list[int] | None:
    """The index of the first of `points` (a bool for each) that mask does not leave out."""
    valid = points if mask is None else points & mask
    return valid.nonzero()[0].tolist() if bool(valid.any()) else None


def check_index(name: str, index: Tensor, low: int, high: int, meaning: str) -> None:
    """Value check: low <= index < high."""
    if checks_values(index) and index.numel() > 0:
        smallest, largest = (int(value) for value in index.aminmax())
        if smallest < low or largest >= high:
            raise ValueError(
                f"{name} has values from {smallest} to {largest}, they must be in [{low}, {high}), {meaning}"
            )
