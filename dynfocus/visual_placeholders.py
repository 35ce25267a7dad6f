"""Where videos and images stand in a prompt, and what takes their place there."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

VIDEO, IMAGE = "<video>", "<image>"
_PLACEHOLDER = re.compile(f"{VIDEO}|{IMAGE}")


def find_placeholders(prompt: str) -> list[str]:
    """The placeholders in the prompt, in order."""
    return _PLACEHOLDER.findall(prompt)


def without_placeholders(prompt: str) -> str:
    return " ".join(_PLACEHOLDER.sub(" ", prompt).split())


def split_at_placeholders(prompt: str) -> list[str | None]:
    """The texts between placeholders, without the space around them, and None for each placeholder."""
    parts: list[str | None] = []
    for text in _PLACEHOLDER.split(prompt):
        parts += [text.strip(), None]
    return parts[:-1]


def expand_placeholders(prompt: str, num_tokens: Iterator[int]) -> tuple[str, list[dict[str, Any]]]:
    """Writes `<video>` as often as each visual has tokens, and says what went where, as transformers'
    `ProcessorMixin._adjust_assistant_masks_indices` wants to know it."""
    parts: list[str] = []
    replacements: list[dict[str, Any]] = []
    last = gained = 0
    for match in _PLACEHOLDER.finditer(prompt):
        start, end = match.span()
        tokens = VIDEO * next(num_tokens)
        new_span = (start + gained, start + gained + len(tokens))
        replacements.append(
            {
                "type": match.group()[1:-1],
                "span": (start, end),
                "new_span": new_span,
                "text": match.group(),
                "replacement": tokens,
            }
        )
        parts += [prompt[last:start], tokens]
        gained += len(tokens) - (end - start)
        last = end
    return "".join([*parts, prompt[last:]]), replacements


def flat_videos(videos: Any) -> list[Any]:
    """A flat list from one video, a list of them, or one list per prompt; a video may be a list of frames."""
    if videos is None:
        return []
    if not isinstance(videos, list | tuple) or _is_frame(videos[:1]):
        return [videos]
    return [video for entry in videos for video in (entry if _is_list_of_videos(entry) else [entry])]


def flat(items: Any) -> list[Any]:
    """A flat list from one item, a list of them, or one list per prompt."""
    if items is None:
        return []
    if not isinstance(items, list | tuple):
        return [items]
    return [item for entry in items for item in (entry if isinstance(entry, list | tuple) else [entry])]


def _is_list_of_videos(entry: Any) -> bool:
    return isinstance(entry, list | tuple) and not _is_frame(entry[:1])


def _is_frame(first: Sequence[Any]) -> bool:
    """Whether a list that begins with this is one video's frames: pictures [H, W, 3]."""
    return len(first) == 1 and not isinstance(first[0], str | list | tuple) and np.ndim(first[0]) == 3
