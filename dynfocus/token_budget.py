"""How many visual tokens a video costs, and how many key frames a budget pays for."""

import math
import sys
from dataclasses import dataclass

RODS_TOKENS = 2  # one text-modulated, one average: the two outputs of `dynfocus_ops.rods_pool`


@dataclass(frozen=True)
class TokenPlan:
    """The token counts of one video: a pure function of its length, the settings and the budget.

    A key frame costs `fine_tokens` (cones) besides the `frame_rods_tokens` that every frame costs, so a video costs
    ``num_key_frames * fine_tokens + num_frames * frame_rods_tokens`` tokens.
    """

    num_frames: int
    num_events: int
    num_key_frames: int
    fine_tokens: int
    frame_rods_tokens: int = RODS_TOKENS

    @property
    def cones_tokens(self) -> int:
        return self.num_key_frames * self.fine_tokens

    @property
    def rods_tokens(self) -> int:
        return self.num_frames * self.frame_rods_tokens

    @property
    def num_tokens(self) -> int:
        return self.cones_tokens + self.rods_tokens


def plan_tokens(
    num_frames: int,
    *,
    num_events: int,
    key_ratio: float,
    fine_tokens: int,
    budget: int,
    rods_tokens: int = RODS_TOKENS,
) -> TokenPlan:
    """Solves the number of events L and of key frames K of a video of `num_frames` frames.

    Without pressure L = min(num_events, num_frames) and K = ceil(key_ratio * L). Where that would pass the
    budget, K is what is left after the rods of all frames, and L shrinks with it so that K / L stays at `key_ratio`.
    Without cones (`fine_tokens` 0) key frames cost nothing, and without rods (`rods_tokens` 0) all others.

    Raises:
        ValueError: `num_frames` < 1, or so many frames that the budget does not hold one key frame; the message
            gives the largest number of frames that fits.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames is {num_frames} but must be at least 1")
    longest = max_frames_within(budget, fine_tokens, rods_tokens)
    if longest < 1:
        raise ValueError(
            f"budget is {budget} visual tokens but must be at least {fine_tokens + rods_tokens}, the cost of one frame"
        )
    if num_frames > longest:
        raise ValueError(
            f"num_frames is {num_frames} but must be at most {longest}: every frame costs {rods_tokens} tokens and a "
            f"key frame {fine_tokens} more, and the budget is {budget} visual tokens"
        )
    events = min(num_events, num_frames)
    key_frames = _ceil(key_ratio * events)
    left = budget - num_frames * rods_tokens
    if key_frames * fine_tokens > left:
        key_frames = left // fine_tokens
        events = min(events, max(key_frames, math.floor(key_frames / key_ratio + _ROUNDING)))
    return TokenPlan(num_frames, events, key_frames, fine_tokens, rods_tokens)


def max_frames_within(budget: int, fine_tokens: int, rods_tokens: int = RODS_TOKENS) -> int:
    """The longest video, in sampled frames, that leaves room for one key frame in `budget` tokens.

    `sys.maxsize` where frames without detail cost nothing.
    """
    left = budget - fine_tokens
    if rods_tokens == 0:
        return sys.maxsize if left >= 0 else 0
    return max(0, left // rods_tokens)


def max_frames_to_sample(
    budget: int, *, num_events: int, key_ratio: float, fine_tokens: int, rods_tokens: int = RODS_TOKENS
) -> int:
    """How many frames of a long video to look at: more would leave too little of the budget for detail.

    All that the full number of key frames leaves over, or half the budget where that is more; 0 where not even
    one frame fits, `sys.maxsize` where frames without detail cost nothing.
    """
    longest = max_frames_within(budget, fine_tokens, rods_tokens)
    if rods_tokens == 0:
        return longest
    beside_all_key_frames = (budget - _ceil(key_ratio * num_events) * fine_tokens) // rods_tokens
    half = budget // 2 // rods_tokens
    return min(longest, max(1, beside_all_key_frames, half))


_ROUNDING = 1e-9  # keeps 0.8 * 25 = 20.000000000000004 from becoming 21


def _ceil(value: float) -> int:
    return max(1, math.ceil(value - _ROUNDING))
