"""Video processor of DynFocus: files or arrays in, normalised frames with their timestamps out, without torchvision."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.processing_utils import VideosKwargs
from transformers.video_processing_utils import VideoProcessorMixin

from dynfocus.frame_sampling import sample_indices
from dynfocus.video_reading import VideoClip, read_video


class DynFocusVideosKwargs(VideosKwargs, total=False):  # type: ignore[call-arg]  # a TypedDict
    min_frames: int
    max_frames: int
    decode_size: int


class DynFocusVideoProcessor(VideoProcessorMixin):
    """Samples, resizes and normalises videos and images.

    Args:
        fps: frames a second to sample, between `min_frames` and `max_frames` in all.
        num_frames: if set, this many frames evenly over the video, in place of `fps`.
        size: {"height", "width"} the vision tower takes; frames are squeezed to it whole, nothing is cropped.
        decode_size: the shorter side of decoded frames is at most this, which bounds memory on large videos.
        image_mean, image_std: per channel, on the scale [0, 1]; default EVA-CLIP's.
    """

    valid_kwargs = DynFocusVideosKwargs
    model_input_names = ("pixel_values_videos", "num_frames", "frame_timestamps")

    size: ClassVar = {"height": 224, "width": 224}
    image_mean: ClassVar = list(OPENAI_CLIP_MEAN)
    image_std: ClassVar = list(OPENAI_CLIP_STD)
    fps = 1.0
    num_frames = None
    min_frames = 8
    max_frames = 512
    decode_size = 256

    def read(self, video: "os.PathLike | str", **sampling: Any) -> VideoClip:
        """Decodes the frames of a file that these settings sample; `sampling` overrides fps, num_frames, ….

        Raises:
            VideoError: the file is missing or not a readable video.
        """
        settings = self._sampling(sampling)
        return read_video(video, size=settings.pop("decode_size"), **settings)

    def preprocess(
        self, videos, video_metadata=None, return_tensors: str | None = "pt", **sampling: Any
    ) -> BatchFeature:
        """Args:
            videos: one or a list of: a path, a `VideoClip`, or uint8 frames [T, H, W, 3] (array, tensor or list of
                images). Longer arrays than the settings allow are sampled down.
            video_metadata: one mapping or one per video, with `fps` (frames a second) for arrays; without it their
                timestamps are NaN and `fps` sampling takes every frame.
            sampling: fps, num_frames, min_frames, max_frames, decode_size for this call.

        Returns:
            pixel_values_videos [ΣT, 3, H, W] fp32, num_frames [V] int64, frame_timestamps [ΣT] fp32 seconds.

        Raises:
            ValueError: frames that are not uint8 [T, H, W, 3], or another `return_tensors` than "pt".
        """
        if return_tensors not in (None, "pt"):
            raise ValueError(f"return_tensors is {return_tensors!r} but must be 'pt'")
        if _is_one_video(videos):
            videos, video_metadata = [videos], [video_metadata]
        metadata = video_metadata or [None] * len(videos)
        if len(metadata) != len(videos):
            raise ValueError(f"video_metadata has {len(metadata)} entries but must have one per video, {len(videos)}")
        frames, timestamps = zip(
            *(self._frames(v, m, sampling) for v, m in zip(videos, metadata, strict=True)), strict=True
        )
        return BatchFeature(
            {
                "pixel_values_videos": torch.cat([self._normalise(clip) for clip in frames]),
                "num_frames": torch.tensor([len(clip) for clip in frames]),
                "frame_timestamps": torch.from_numpy(np.concatenate(timestamps)).float(),
            }
        )

    def _frames(self, video, metadata: Mapping | None, sampling: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """uint8 frames [T, H, W, 3] and their timestamps [T] of one video, sampled."""
        if isinstance(video, str | os.PathLike):
            clip = self.read(video, **sampling)
            return clip.frames, clip.timestamps
        settings = self._sampling(sampling)
        del settings["decode_size"]
        if isinstance(video, VideoClip):  # already sampled, but this call may ask for less
            settings |= {"fps": sampling.get("fps"), "num_frames": sampling.get("num_frames")}
            keep = sample_indices(video.timestamps, video.duration, **settings)
            return video.frames[keep], video.timestamps[keep]
        frames = np.stack([np.asarray(frame) for frame in video]) if isinstance(video, Sequence) else np.asarray(video)
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
            raise ValueError(
                f"a video is {frames.dtype} {list(frames.shape)} but must be uint8 [T, H, W, 3] with T at least 1"
            )
        rate = metadata.get("fps") if metadata else None
        if rate is None:
            settings["fps"] = None
        clock = np.arange(len(frames)) / (rate or 1.0)
        keep = sample_indices(clock, len(frames) / (rate or 1.0), **settings)
        return frames[keep], clock[keep] if rate else np.full(len(keep), np.nan)

    def _sampling(self, overrides: dict[str, Any]) -> dict[str, Any]:
        names = ("fps", "num_frames", "min_frames", "max_frames", "decode_size")
        if unknown := set(overrides) - set(names):
            raise TypeError(f"unknown video settings {sorted(unknown)}; known are {', '.join(names)}")
        settings = {name: getattr(self, name) for name in names} | overrides
        settings["min_frames"] = min(settings["min_frames"], settings["max_frames"])
        return settings

    def _normalise(self, frames: np.ndarray) -> Tensor:
        """uint8 [T, H, W, 3] → fp32 [T, 3, height, width]; in blocks, since fp32 of large frames is four times them."""
        height, width = self.size["height"], self.size["width"]
        mean, std = (torch.tensor(value).view(3, 1, 1) * 255 for value in (self.image_mean, self.image_std))
        pixels = torch.empty(len(frames), 3, height, width)
        for start in range(0, len(frames), _BLOCK):
            block = torch.from_numpy(np.ascontiguousarray(frames[start : start + _BLOCK])).permute(0, 3, 1, 2).float()
            if block.shape[-2:] != (height, width):
                block = F.interpolate(block, (height, width), mode="bicubic", antialias=True).clamp_(0, 255)
            pixels[start : start + _BLOCK] = (block - mean) / std
        return pixels


_BLOCK = 64


def _is_one_video(videos) -> bool:
    if isinstance(videos, str | os.PathLike | VideoClip):
        return True
    if isinstance(videos, np.ndarray | Tensor):
        return videos.ndim == 4
    return bool(videos) and not isinstance(videos[0], str | os.PathLike | VideoClip) and np.ndim(videos[0]) == 3


__all__ = ["DynFocusVideoProcessor"]
