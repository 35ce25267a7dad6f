"""Stage 0: the vision tower learns to see colour and shape in single frames, before any question is asked."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from dynfocus import DynFocusForConditionalGeneration, DynFocusVideoProcessor
from dynfocus.demo.scenes import COLORS, SHAPES
from dynfocus.demo.training_videos import SampledVideos, normalised

BATCH_SIZE = 96
EMPTY_FRAMES = 16  # of a batch; most frames of a video are empty, and there is little to learn from them
LEARNING_RATE = 3e-3
WARMUP_STEPS = 50
NORM_WEIGHT = 0.01  # of the mean squared feature in the loss


def train_tower(
    model: DynFocusForConditionalGeneration,
    videos: SampledVideos,
    video_processor: DynFocusVideoProcessor,
    steps: int,
    seed: int,
) -> float:
    """Trains `model.vision_tower` in place and freezes it; returns the mean loss of the last tenth of the steps.

    Colour and shape are read off the mean of the patch features by fixed orthonormal directions, and large features
    cost a little: so each attribute takes about the same room in the features, where a trained head would let the
    harder one, shape, drown the other.
    """
    rng = np.random.default_rng((seed, 0))
    channels = model.config.vision_config.hidden_size
    directions = nn.init.orthogonal_(torch.empty(channels, len(COLORS) + len(SHAPES) + 2))
    parameters = list(model.vision_tower.parameters())
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = [LEARNING_RATE * min(1, (step + 1) / WARMUP_STEPS) * (1 - step / steps) for step in range(steps)]
    shown, empty = np.argwhere(videos.color > 0), np.argwhere(videos.color == 0)
    losses = []
    progress = tqdm(schedule, desc="tower")
    for learning_rate in progress:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        chosen = np.concatenate([rng.choice(shown, BATCH_SIZE - EMPTY_FRAMES), rng.choice(empty, EMPTY_FRAMES)])
        video, frame = chosen.T
        patches = model.encode_patches(normalised(videos.pixels[video, frame], video_processor))[:, 1:]
        color, shape = (patches.mean(1) @ directions).split([len(COLORS) + 1, len(SHAPES) + 1], 1)
        loss = F.cross_entropy(color, torch.from_numpy(videos.color[video, frame]))
        loss = loss + F.cross_entropy(shape, torch.from_numpy(videos.shape[video, frame]))
        loss = loss + NORM_WEIGHT * patches.square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
        progress.set_postfix(loss=f"{np.mean(losses[-20:]):.3f}")
    model.vision_tower.requires_grad_(False)
    return float(np.mean(losses[-max(1, steps // 10) :]))
