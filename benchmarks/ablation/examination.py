"""What a trained variant knows: its answers about unseen videos, and where it looked closely."""

from pathlib import Path
from typing import Any

import torch
from transformers import BatchFeature

from dynfocus import DynFocusForConditionalGeneration, DynFocusProcessor
from dynfocus.demo.questions import KINDS
from dynfocus.demo.scenes import Scene, Shape, random_scene
from dynfocus.evaluation.demo import encoded_videos, examine
from dynfocus.output_files import whole_file
from dynfocus.training.features import fingerprint

SEED = 0  # of the videos and questions, the same for all variants


def examined(
    model: DynFocusForConditionalGeneration, processor: DynFocusProcessor, videos: int, cache: Path
) -> dict[str, Any]:
    """Right answers and questions of each kind, tokens a video, and the share of small things that a key frame shows,
    None for a model that uses none.

    cache: where the frozen tower's features of the videos are kept, for all variants that sample the same frames.
    """
    scenes = [random_scene("evaluation", SEED, index) for index in range(videos)]
    encoded = _cached(model, processor, scenes, cache)
    torch.manual_seed(SEED)  # of key frames that are drawn at random
    result = examine(model, processor, encoded, scenes, SEED)
    return {
        "right": {kind: round(result.accuracy(kind) * videos) for kind in KINDS},
        "blind": {kind: round(result.blind_accuracy(kind) * videos) for kind in KINDS},
        "asked": videos,
        "frames": result.num_frames,
        "tokens": processor.plan(result.num_frames).num_tokens,
        "small_things_seen_closely": _seen_closely(model, processor, encoded, scenes),
    }


def _cached(
    model: DynFocusForConditionalGeneration, processor: DynFocusProcessor, scenes: list[Scene], cache: Path
) -> list[BatchFeature]:
    # The fingerprint is of all that features depend on but the videos.
    file = cache / f"evaluation-{len(scenes)}-{fingerprint(model.vision_tower, processor.video_processor)[:16]}.pt"
    if not file.exists():
        encoded = [dict(each) for each in encoded_videos(model, processor, scenes)]
        with whole_file(file) as partial:
            torch.save([{**each, "video_features": each["video_features"].half()} for each in encoded], partial)
    return [BatchFeature(each) for each in torch.load(file)]


@torch.inference_mode()
def _seen_closely(
    model: DynFocusForConditionalGeneration,
    processor: DynFocusProcessor,
    encoded: list[BatchFeature],
    scenes: list[Scene],
) -> float | None:
    if model.config.cones == "none":
        return None
    shown = []
    for video, scene in zip(encoded, scenes, strict=True):
        inputs = processor(text="<video>", videos=[video], questions="How many dots are there?").to(model.device)
        visual = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
        frames = (video["frame_timestamps"] * scene.fps).round().long()
        key_frames = frames[model.get_video_features(**visual).key_frames[0].cpu()].tolist()
        small = [event for event in scene.events if not isinstance(event, Shape)]
        shown += [any(event.start <= frame < event.end for frame in key_frames) for event in small]
    return sum(shown) / len(shown)
