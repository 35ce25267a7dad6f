"""The demo's training videos: rendered, encoded to H.264, read back as any user's video is read."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from dynfocus import DynFocusForConditionalGeneration, DynFocusVideoProcessor
from dynfocus.demo.scenes import COLORS, SHAPES, Scene, encode, render


@dataclass(frozen=True)
class SampledVideos:
    """Frames of many videos as the model sees them, and what each shows.

    pixels: uint8 [V, T, H, W, 3]. color, shape: int64 [V, T], 0 where the frame is empty, else 1 + the place in COLORS
    or SHAPES.
    """

    pixels: np.ndarray
    color: np.ndarray
    shape: np.ndarray


def read_back(scenes: Sequence[Scene], video_processor: DynFocusVideoProcessor, threads: int) -> SampledVideos:
    """Renders each scene, writes it as H.264 to a temporary file, and reads the frames the processor samples."""
    with tempfile.TemporaryDirectory() as folder:

        def sample(index: int) -> tuple[np.ndarray, np.ndarray]:
            path = Path(folder) / f"{index}.mp4"
            encode(render(scenes[index]), path, scenes[index].fps)
            clip = video_processor.read(path)
            path.unlink()
            return clip.frames, clip.frame_indices

        with ThreadPoolExecutor(threads) as pool:
            clips = list(tqdm(pool.map(sample, range(len(scenes))), desc="videos", total=len(scenes)))
    shown = [[scene.event_at(int(frame)) for frame in frames] for scene, (_, frames) in zip(scenes, clips, strict=True)]
    colors, shapes = list(COLORS), list(SHAPES)
    return SampledVideos(
        np.stack([frames for frames, _ in clips]),
        np.array([[1 + colors.index(event.color) if event else 0 for event in video] for video in shown]),
        np.array([[1 + shapes.index(event.shape) if event else 0 for event in video] for video in shown]),
    )


def normalised(frames: np.ndarray, video_processor: DynFocusVideoProcessor) -> Tensor:
    """uint8 frames [T, H, W, 3] → what the tower takes, [T, 3, H, W]."""
    return video_processor.preprocess(frames, num_frames=len(frames), max_frames=len(frames))["pixel_values_videos"]


@torch.no_grad()
def encode_features(
    model: DynFocusForConditionalGeneration, videos: SampledVideos, video_processor: DynFocusVideoProcessor
) -> Tensor:
    """The vision tower's features of every frame, fp16 [V, T, 1 + patches, C]: it is frozen, so once is enough."""
    progress = tqdm(videos.pixels, desc="features")
    return torch.stack([model.encode_patches(normalised(frames, video_processor)).half() for frames in progress])
