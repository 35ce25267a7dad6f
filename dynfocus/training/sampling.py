"""`dynfocus data sample`: a small data set in LLaVA's form, for a first run and as an example."""

import json
from pathlib import Path

import numpy as np

from dynfocus.checkpoint_files import new_directory
from dynfocus.demo.questions import random_question
from dynfocus.demo.rendering import encode, render
from dynfocus.demo.scenes import random_scene


def write_sample(output: Path | str, videos: int, seed: int = 0) -> None:
    """Writes `videos` synthetic videos and conversations.jsonl, a conversation of two turns about each.

    Raises:
        DynFocusError: `output` exists and is not empty, or cannot be written.
    """
    with new_directory(Path(output)) as folder, (folder / "conversations.jsonl").open("w", encoding="utf-8") as lines:
        for number in range(videos):
            scene = random_scene("train", seed, number)
            name, random = f"video-{number:04}.mp4", np.random.default_rng((seed, number))
            encode(render(scene), folder / name)
            said = []
            for turn, kind in enumerate(("color", "order")):
                question = random_question(scene, random, kind)
                said.append({"from": "human", "value": question.text if turn else f"<video>\n{question.text}"})
                said.append({"from": "gpt", "value": question.answer})
            lines.write(json.dumps({"id": name, "video": name, "conversations": said}) + "\n")
