"""Stage 0: the vision tower learns what each patch of single frames shows, before any question is asked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from dynfocus import DynFocusForConditionalGeneration, DynFocusVideoProcessor
from dynfocus.demo.rendering import covered_patches
from dynfocus.demo.scenes import COLORS, SHAPES, Dots, Scene, Shape

BATCH_SIZE = 64
LEARNING_RATE = 3e-3
WARMUP_STEPS = 50
NORM_WEIGHT = 0.01  # of the mean squared feature in the loss
LEAST_COVERED, MOST_BARE = 0.3, 0.02  # patches between are no clear case and are left out
UNCLEAR = -100
POSITION_RANGE = 2.0  # a patch's place is told as x and y from -2 to 2

# Classes of each attribute of a patch; 0 is "nothing".
ATTRIBUTES = {"color": 1 + len(COLORS), "form": 2 + len(SHAPES), "digit": 11}


@dataclass(frozen=True)
class LabelledFrames:
    """pixels: uint8 [F, H, W, 3]. labels: int64 [F, attributes, patches], UNCLEAR where a patch is half covered."""

    pixels: np.ndarray
    labels: np.ndarray


def patch_labels(scene: Scene, frame: int, side: int) -> np.ndarray:
    """Colour, form (a shape's, or that of dots) and digit each of side² patches shows: int64 [3, side²]."""
    labels = np.zeros((len(ATTRIBUTES), side * side), np.int64)
    event = scene.event_at(frame)
    if event is None:
        return labels
    color = 1 + list(COLORS).index(event.color)
    for digit, share in covered_patches(event, frame, side):
        form = 1 + SHAPES.index(event.shape) if isinstance(event, Shape) else 1 + len(SHAPES) * isinstance(event, Dots)
        classes = (color, form if digit is None else 0, 0 if digit is None else 1 + int(digit))
        for row, value in zip(labels, classes, strict=True):
            if value:
                row[(share > MOST_BARE) & (row == 0)] = UNCLEAR
                row[share > LEAST_COVERED] = value
    return labels


def train_tower(
    model: DynFocusForConditionalGeneration,
    frames: LabelledFrames,
    video_processor: DynFocusVideoProcessor,
    steps: int,
    seed: int,
) -> list[float]:
    """Trains `model.vision_tower` in place and freezes it; returns the losses.

    What a patch shows and where it is are read off its features by fixed orthonormal directions, and large features
    cost a little: so each attribute takes about the same room in the features, where a trained head would let the
    harder ones drown. Without being asked for it the tower would forget the place, which nothing else needs.
    """
    rng = np.random.default_rng((seed, 0))
    channels = model.config.vision_config.hidden_size
    torch.manual_seed(seed)
    directions = nn.init.orthogonal_(torch.empty(channels, sum(ATTRIBUTES.values()) + 2))
    parameters = list(model.vision_tower.parameters())
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.05)
    batch_size = min(BATCH_SIZE, len(frames.pixels))
    schedule = [LEARNING_RATE * min(1, (step + 1) / WARMUP_STEPS) * (1 - step / steps) for step in range(steps)]
    losses = []
    progress = tqdm(schedule, desc="tower")
    for learning_rate in progress:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        chosen = rng.choice(len(frames.pixels), batch_size, replace=False)
        patches = model.encode_patches(normalised(frames.pixels[chosen], video_processor))[:, 1:]
        attributes, position = (patches @ directions).tensor_split([-2], -1)
        loss = _balanced_loss(attributes, torch.from_numpy(frames.labels[chosen]))
        loss = loss + F.mse_loss(position, _positions(position.shape[1]).expand_as(position))
        loss = loss + NORM_WEIGHT * patches.square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
        progress.set_postfix(loss=f"{np.mean(losses[-20:]):.3f}")
    model.vision_tower.requires_grad_(False)
    return losses


def normalised(frames: np.ndarray, video_processor: DynFocusVideoProcessor) -> Tensor:
    """uint8 frames [T, H, W, 3] → what the tower takes, [T, 3, H, W]."""
    return video_processor.preprocess(frames, num_frames=len(frames), max_frames=len(frames))["pixel_values_videos"]


def _positions(patches: int) -> Tensor:
    """x and y of each patch, [patches, 2]."""
    axis = torch.linspace(-POSITION_RANGE, POSITION_RANGE, round(patches**0.5))
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).flatten(0, 1)


def _balanced_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Covered and bare patches count the same, however few are covered."""
    loss = logits.new_zeros(())
    for attribute, scores in enumerate(logits.split(list(ATTRIBUTES.values()), -1)):
        label = labels[:, attribute]
        each = F.cross_entropy(scores.flatten(0, 1), label.flatten(), ignore_index=UNCLEAR, reduction="none")
        covered, bare = (label > 0).flatten(), (label == 0).flatten()
        loss = loss + each[covered].sum() / covered.sum().clamp(min=1) + each[bare].mean()
    return loss
