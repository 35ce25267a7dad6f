"""python -m benchmarks.ablation WORK: trains and examines every variant, writes the page and the plot.

What is there already is not done again: an interrupted ablation goes on, and `--seeds 3` after `--seeds 1` adds two.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.ablation.examination import examined
from benchmarks.ablation.report import write_page
from benchmarks.ablation.variants import SCHEDULE, VARIANTS, variant
from dynfocus.demo.train import TrainingSettings, prepare, stage
from dynfocus.loading import load_model
from dynfocus.output_files import whole_file
from dynfocus.training.run import train

RESULTS = Path(__file__).parent.parent / "results" / "ablation"
STAGE = "demo-5-videos"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__)
    parser.add_argument("work", type=Path, help="folder for data, features and models: 7 GB")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of one JSON a run; another gets no page")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant of the first rank")
    parser.add_argument("--only", nargs="*", choices=[each.name for each in VARIANTS], help="these variants alone")
    parser.add_argument("--processes", type=int, default=2, help="runs at once, each on one thread")
    parser.add_argument("--videos", type=int, default=200, help="unseen videos a run is examined with")
    parser.add_argument("--one", nargs=2, metavar=("VARIANT", "SEED"), help="this run alone, in this process")
    arguments = parser.parse_args()
    if arguments.one:
        name, seed = arguments.one
        run(name, int(seed), arguments.work, arguments.results, arguments.videos)
        return
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.processes)
    prepare(arguments.work, 0, TrainingSettings(threads=arguments.processes), before=STAGE)
    first_rank = [(each.name, seed) for seed in range(arguments.seeds) for each in VARIANTS if each.first_rank]
    todo = [
        (name, seed)
        for name, seed in [*first_rank, *((each.name, 0) for each in VARIANTS if not each.first_rank)]
        if not arguments.only or name in arguments.only
        if not result_file(arguments.results, name, seed).exists()
    ]
    if todo:
        keep_features(arguments.work, {name for name, _ in todo})
    with ThreadPoolExecutor(arguments.processes) as pool:
        runs = [pool.submit(_in_own_process, name, seed, arguments) for name, seed in todo]
        try:
            for each in tqdm(as_completed(runs), desc="runs", total=len(runs)):
                each.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if arguments.results == RESULTS:
        write_page(arguments.results)


def keep_features(work: Path, names: Iterable[str]) -> None:
    """The frozen tower's features of all videos, which variants share, made once: by one step of training for each
    number of frames that the variants see."""
    recipes = [stage(STAGE, work, (*variant(name).changes, "schedule.steps=1")) for name in names]
    for recipe in {recipe.data.num_frames: recipe for recipe in recipes}.values():
        with tempfile.TemporaryDirectory() as folder:
            train(recipe, Path(folder) / "run")


def run(name: str, seed: int, work: Path, results: Path, videos: int, shorter: tuple[str, ...] = ()) -> None:
    """Trains one variant, unless that was done before, and writes what became of it.

    shorter: further changes of the recipe, for a try.
    """
    changes = variant(name).changes
    recipe = stage(STAGE, work, (*SCHEDULE, *changes, f"seed={seed}", *shorter))
    output = work / "runs" / result_file(results, name, seed).stem
    if not (output / "model").exists():
        train(recipe, output, resume=True)
    model, processor = load_model(output / "model")
    processor.video_processor.num_frames = recipe.data.num_frames or processor.video_processor.num_frames
    log = [json.loads(line) for line in (output / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    found = {
        "variant": name,
        "seed": seed,
        "changes": changes,
        "steps": recipe.schedule.steps,
        "batch": recipe.schedule.global_batch_size,
        "train_seconds": next(line["train_runtime"] for line in log if "train_runtime" in line),
        "threads": torch.get_num_threads(),
        **examined(model, processor, videos, work),
        "losses": [(line["step"], round(line["loss"], 4)) for line in log if "loss" in line],
    }
    results.mkdir(parents=True, exist_ok=True)
    with whole_file(result_file(results, name, seed)) as file:
        file.write_text(json.dumps(found) + "\n", encoding="utf-8")


def result_file(results: Path, name: str, seed: int) -> Path:
    return results / f"{name.replace('/', '-').replace(' ', '-').lower()}-seed-{seed}.json"


def _in_own_process(name: str, seed: int, arguments: argparse.Namespace) -> None:
    command = [sys.executable, "-m", "benchmarks.ablation", str(arguments.work), "--results", str(arguments.results)]
    command += ["--videos", str(arguments.videos), "--one", name, str(seed)]
    log = arguments.work / f"{result_file(arguments.results, name, seed).stem}.log"
    with log.open("w") as file:
        done = subprocess.run(command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise RuntimeError(f"{name}, seed {seed}, ended with exit code {done.returncode}; see {log}")


if __name__ == "__main__":
    main()
