"""The demo's training data on disk: H.264 videos, images, and conversations about them in LLaVA's form."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from dynfocus.checkpoint_files import new_directory
from dynfocus.demo.conversations import as_llava, image_conversation, questions_conversation, video_conversation
from dynfocus.demo.rendering import encode, render
from dynfocus.demo.scenes import Scene, Shape, random_clip, random_scene
from dynfocus.demo.tower_training import LabelledFrames, patch_labels
from dynfocus.video_reading import read_video

Conversation = Callable[[Scene, np.random.Generator], list[tuple[str, str]]]

# Frames of each video that become images: of each shape, of each small thing, and of those that show nothing.
SHAPE_IMAGES, DETAIL_IMAGES, EMPTY_IMAGES = 1, 2, 1


def write_training_data(
    output: Path | str,
    videos: int,
    clips: int,
    conversations: int = 3,
    split: str = "train",
    seed: int = 0,
    threads: int = 2,
) -> None:
    """Fills the new directory `output` with video-00000.mp4, …, clip-00000.mp4, …, frames of the videos as PNG, and
    what is said of them: videos.jsonl and questions.jsonl, clips.jsonl, images.jsonl.

    Args:
        videos, clips: how many scenes and clips of the split.
        conversations: how many about each, their questions drawn anew.

    Raises:
        DynFocusError: `output` exists and is not empty, or cannot be written.
    """
    with new_directory(Path(output)) as folder, ThreadPoolExecutor(threads) as pool:

        def talk(talked: Conversation, scene: Scene, name: str, rng: np.random.Generator) -> list[dict]:
            return [
                as_llava(f"{name}.mp4", "video", talked(scene, rng)) | {"id": f"{name}-{number}"}
                for number in range(conversations)
            ]

        def write_clip(index: int) -> list[dict]:
            scene, name = random_clip(split, seed, index), f"clip-{index:05}"
            encode(render(scene), folder / f"{name}.mp4", scene.fps)
            return talk(video_conversation, scene, name, np.random.default_rng((seed, index, 2)))

        def write_video(index: int) -> tuple[list[dict], list[dict], list[dict]]:
            scene, name = random_scene(split, seed, index), f"video-{index:05}"
            encode(render(scene), folder / f"{name}.mp4", scene.fps)
            rng = np.random.default_rng((seed, index, 1))
            talked = talk(video_conversation, scene, name, rng)
            decoded = read_video(folder / f"{name}.mp4", fps=None).frames
            shown = []
            for frame in _image_frames(scene, rng):
                Image.fromarray(decoded[frame]).save(folder / (image := f"{name}-{frame:03}.png"))
                shown.append(as_llava(image, "image", image_conversation(scene.event_at(frame), rng)))
            asked = talk(questions_conversation, scene, name, np.random.default_rng((seed, index, 3)))
            return talked, asked, shown

        about_clips = list(tqdm(pool.map(write_clip, range(clips)), desc="clips", total=clips))
        about_videos = list(tqdm(pool.map(write_video, range(videos)), desc="videos", total=videos))
        _write_lines(folder / "clips.jsonl", about_clips)
        _write_lines(folder / "videos.jsonl", [talked for talked, _, _ in about_videos])
        _write_lines(folder / "questions.jsonl", [asked for _, asked, _ in about_videos])
        _write_lines(folder / "images.jsonl", [shown for _, _, shown in about_videos])


def labelled_images(folder: Path | str, side: int, split: str = "train", seed: int = 0) -> LabelledFrames:
    """The images of `write_training_data` with what each of their side² patches shows."""
    pixels, labels = [], []
    for file in sorted(Path(folder).glob("video-*.png")):
        _, video, frame = file.stem.split("-")
        pixels.append(np.asarray(Image.open(file)))
        labels.append(patch_labels(random_scene(split, seed, int(video)), int(frame), side))
    return LabelledFrames(np.stack(pixels), np.stack(labels))


def _write_lines(file: Path, lines: list[list[dict]]) -> None:
    file.write_text("".join(json.dumps(line) + "\n" for each in lines for line in each), encoding="utf-8")


def _image_frames(scene: Scene, rng: np.random.Generator) -> Iterator[int]:
    for event in scene.events:
        count = SHAPE_IMAGES if isinstance(event, Shape) else DETAIL_IMAGES
        yield from rng.choice(np.arange(event.start, event.end), count, replace=False).tolist()
    empty = [frame for frame in range(scene.num_frames) if scene.event_at(frame) is None]
    yield from rng.choice(empty, EMPTY_IMAGES, replace=False).tolist()
