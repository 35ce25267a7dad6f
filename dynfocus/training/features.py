"""The frozen vision tower's features on disk: one file for each image or video as it is sampled."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import BatchFeature, PreTrainedModel

from dynfocus.errors import DynFocusError
from dynfocus.output_files import whole_file
from dynfocus.video_processing_dynfocus import DynFocusVideoProcessor

_FROM_ELSEWHERE = ("transformers_version", "_name_or_path")  # in a configuration, and nothing to do with features


@dataclass(frozen=True)
class SampledVisual:
    """An image or video file, and the sampling of its frames: arguments of the video processor."""

    file: Path
    kind: str
    sampling: Mapping[str, Any] = field(default_factory=dict)


class FeatureFiles:
    """Features of visuals in `folder`, float16. Whatever they depend on is in a file's name, so that those of another
    file, sampling or tower are never read.

    Args:
        encoding: the hash of all that turns frames into features, see `fingerprint`.
    """

    def __init__(self, folder: Path, encoding: str):
        self.folder = folder
        self.encoding = encoding

    def place(self, visual: SampledVisual) -> Path:
        """Where the visual's features are or would be.

        Raises:
            OSError: there is no such image or video.
        """
        state = visual.file.stat()
        path = os.path.abspath(visual.file)
        depends_on = [self.encoding, path, state.st_size, state.st_mtime_ns, visual.kind, dict(visual.sampling)]
        name = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def read(self, visual: SampledVisual) -> BatchFeature | None:
        """video_features [T, patches (+ 1 class token), C] fp16, num_frames [1], frame_timestamps [T] s; None where
        there are none."""
        place = self.place(visual)
        try:
            return BatchFeature(load_file(place))
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError) as error:
            raise DynFocusError(f"{place}: cannot be read ({error}); without it, the next run computes it") from error


def write_features(place: Path, features: Mapping[str, torch.Tensor]) -> None:
    """They appear whole, and on the disk.

    Raises:
        DynFocusError: they cannot be written.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(place) as partial:
            save_file(dict(features), partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
    except (SafetensorError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DynFocusError(f"data.features: {place.parent} cannot be written ({reason})") from error


def fingerprint(tower: PreTrainedModel, video_processor: DynFocusVideoProcessor) -> str:
    """A hash of the tower's configuration and weights, as they are held, and of the video processor's settings."""
    settings = [tower.config.to_dict(), video_processor.to_dict()]
    settings = [{name: value for name, value in each.items() if name not in _FROM_ELSEWHERE} for each in settings]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, weight in sorted(tower.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
