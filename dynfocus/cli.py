"""The command line. Problems of the user end in one line on stderr and exit code 2; anything else is a bug of ours.

Everything heavy is imported where it is used, so that `dynfocus --help` is quick.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from dynfocus.console import quiet_transformers
from dynfocus.errors import DynFocusError
from dynfocus.training.commands import data_app, merge, plan, train_app

if TYPE_CHECKING:
    from dynfocus.asking import VideoAnswer, VideoAsker

# typer hands on only this one of its usage errors.
_UsageError: Any = typer.BadParameter.__mro__[1]


class _OneLineErrors(TyperGroup):
    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except _UsageError as error:
            _fail(error.format_message())
        except DynFocusError as error:
            _fail(str(error))
        sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> None:
    print(f"dynfocus: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


app = typer.Typer(cls=_OneLineErrors, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
eval_app = typer.Typer(rich_markup_mode=None)
app.add_typer(eval_app, name="eval", help="Measure a model.")
app.add_typer(train_app, name="train", help="Train a model.")
app.add_typer(data_app, name="data", help="Look at training data.")
app.command()(merge)
app.command()(plan)

ModelOption = Annotated[
    Path | None,
    typer.Option("--model", metavar="DIR", help="A DynFocus directory; the embedded demo model if not given."),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1, …; the first GPU, if there is one, if not given.")
]


@app.callback()
def _app() -> None:
    """Ask questions about videos with DynFocus (CVPR 2025, arXiv 2411.12355)."""


@app.command()
def ask(
    video: Annotated[Path, typer.Argument(help="Any video, animation or image that PyAV reads.")],
    questions: Annotated[list[str], typer.Argument(metavar="QUESTION", help="One or more questions about it.")],
    model: ModelOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list with one object per question.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw what the model saw into this file.")
    ] = None,
    device: DeviceOption = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The longest answer, in tokens.")] = 64,
) -> None:
    """Answer questions about a video, and tell where the answers come from."""
    from dynfocus.output_files import whole_file
    from dynfocus.video_timeline import check_file

    if plot is not None and plot.suffix.lower() != ".png":
        raise DynFocusError(f"{plot}: a plot is a PNG image, so the file's name must end in .png")
    check_file(os.fspath(video))
    if plot is not None and os.path.exists(plot) and os.path.samefile(plot, video):
        raise DynFocusError(f"{plot}: the plot would overwrite the video")
    with nullcontext() if plot is None else whole_file(plot) as plot_file, _progress() as progress:
        asker = _load(model, device, progress)
        answers = asker.ask(video, questions, max_new_tokens=max_new_tokens, progress=progress)
        if plot_file is not None:
            from dynfocus.plotting import plot_answers

            progress("plot")
            plot_file.write_bytes(plot_answers(answers))
    if as_json:
        print(json.dumps([answer.to_dict() for answer in answers], indent=2, allow_nan=False))
    else:
        print("\n\n".join(_describe(answer) for answer in answers))


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Gets the videos, their plots and a page, index.html.")
    ] = Path("dynfocus-demo"),
    model: ModelOption = None,
    videos: Annotated[int, typer.Option(min=1, help="How many videos to render.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Which videos and questions.")] = 0,
    device: DeviceOption = None,
) -> None:
    """Render videos, ask about them, and check the answers; exit code 1 if more than half are wrong."""
    from dynfocus.output_files import check_directory

    check_directory(output)
    with _progress() as progress:
        asker = _load(model, device, progress)
        from dynfocus.showcase import show

        shown = show(asker, output, num_videos=videos, seed=seed, progress=progress)
    for one in shown:
        print(one.path)
        for number, (question, answer) in enumerate(zip(one.questions, one.answers, strict=True)):
            verdict = "right" if one.is_right(number) else f"WRONG, it is {question.answer}"
            print(f"  {question.text}  {answer.answer}  ({verdict})")
    right, asked = sum(one.num_right for one in shown), sum(len(one.questions) for one in shown)
    print(f"{right} of {asked} answers are right. See {output / 'index.html'}")
    if right < asked / 2:
        raise typer.Exit(1)


@eval_app.command("demo")
def eval_demo(
    model: ModelOption = None,
    videos: Annotated[int, typer.Option(min=1, help="How many unseen videos, with a question of each kind.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Which videos and questions.")] = 0,
) -> None:
    """Print how many questions about unseen synthetic videos a demo model answers right."""
    quiet_transformers()
    from dynfocus.evaluation.demo import evaluate

    evaluate(model, videos=videos, seed=seed)


@app.command()
def assemble(
    output: Annotated[Path, typer.Argument(help="The new DynFocus directory; must not exist or be empty.")],
    vision: Annotated[
        str, typer.Option(help="InstructBLIP, CLIP or SigLIP directory or hub name, or LAVIS EVA .pth file.")
    ],
    qformer: Annotated[str, typer.Option(help="InstructBLIP directory or hub name, or LAVIS InstructBLIP .pth file.")],
    language_model: Annotated[str, typer.Option(help="Directory or hub name of a causal language model.")],
    tokenizer: Annotated[str | None, typer.Option(help="If it is not with the language model.")] = None,
    qformer_tokenizer: Annotated[str | None, typer.Option(help="If it is not with the Q-Former.")] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Fields of DynFocusConfig to change.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, float16 or bfloat16; as the language model's if not given.")
    ] = None,
    max_shard_size: Annotated[str, typer.Option(help="The largest weight file.")] = "5GB",
    seed: Annotated[int, typer.Option(min=0, help="Of the connector, which no checkpoint has.")] = 0,
) -> None:
    """Put a vision tower, a Q-Former and a language model together into a DynFocus directory."""
    quiet_transformers()
    from dynfocus.assembly import assemble
    from dynfocus.checkpoint_files import read_json

    report = assemble(
        output,
        vision=vision,
        qformer=qformer,
        language_model=language_model,
        tokenizer=tokenizer,
        qformer_tokenizer=qformer_tokenizer,
        config_overrides=None if config is None else read_json(config),
        dtype=dtype,
        max_shard_size=max_shard_size,
        seed=seed,
    )
    print(report)


def _load(model: Path | None, device: str | None, progress: Callable[[str], None]) -> "VideoAsker":
    progress("loading the model")
    quiet_transformers()
    from dynfocus.asking import VideoAsker
    from dynfocus.loading import load_model

    return VideoAsker(*load_model(model, device=device))


def _describe(answer: "VideoAnswer") -> str:
    plan, clip = answer.plan, answer.clip
    times = ", ".join(f"{key.seconds:.2f} s (frame {key.frame})" for key in answer.key_frames)
    stages = ", ".join(f"{name.replace('_', ' ')} {seconds:.2f} s" for name, seconds in answer.seconds.items())
    lines = [
        f"Q: {answer.question}",
        f"A: {answer.answer}",
        f"   key frames: {times}",
        f"   tokens: {plan.num_tokens:,} (cones {plan.cones_tokens:,}, rods {plan.rods_tokens:,}) in place of "
        f"{answer.dense_tokens:,} ({plan.num_frames:,} frames × {answer.patches_per_frame:,} patches)",
        f"   time: {stages}",
    ]
    if clip.frames_lost:
        lines.append(f"   broken video: {clip.frames_lost:,} of {clip.total_frames:,} frames are lost")
    if clip.frames_damaged:
        lines.append(f"   {clip.frames_damaged:,} of the {plan.num_frames:,} frames seen may be damaged")
    return "\n".join(lines)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Shows what is being done, on stderr, while it is a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda stage: None
        return
    with console.status("starting") as status:
        yield lambda stage: status.update(stage.replace("_", " "))


def main() -> None:
    """Entry point of the `dynfocus` command."""
    if isinstance(sys.stdout, TextIOWrapper):  # Not every terminal has every letter of an answer or a file's name.
        sys.stdout.reconfigure(errors="backslashreplace")
    app()
