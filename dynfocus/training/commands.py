"""`dynfocus train`, `data` and `plan`. Heavy imports are where they are used, so that --help is quick."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dynfocus.console import quiet_transformers
from dynfocus.errors import DynFocusError


class _RecipeOrCommand(TyperGroup):
    """`train RECIPE` beside `train demo`: what is no command is a recipe."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["recipe", *args]
        return super().parse_args(ctx, args)


train_app = typer.Typer(cls=_RecipeOrCommand, rich_markup_mode=None)
data_app = typer.Typer(rich_markup_mode=None)

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or a shipped recipe's name.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key, as in schedule.batch_size=2; may be repeated."),
]


@train_app.command("recipe")
def train_recipe(
    recipe: RecipeArgument,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Gets checkpoints, log and model; the recipe's if not given."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the directory.")] = False,
    changes: SetOption = None,
) -> None:
    """Train by a recipe: `dynfocus train RECIPE`, on one device; on several through torchrun or accelerate launch."""
    from dynfocus.training.recipe import load_recipe

    settings = load_recipe(recipe, changes or ())
    quiet_transformers()
    _need_accelerate()
    from dynfocus.training.run import train

    print(train(settings, output, resume))


@train_app.command("demo")
def train_demo(
    output: Annotated[Path, typer.Option(metavar="DIR", help="Gets the model; must not exist or be empty.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same model.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace what is in the directory.")] = False,
) -> None:
    """Train the demo model from nothing, on synthetic videos: about an hour on two cores, 7 GB of scratch."""
    quiet_transformers()
    _need_accelerate()
    from dynfocus.demo.train import train

    train(output, seed=seed, overwrite=overwrite)


def _need_accelerate() -> None:
    from transformers.utils import is_accelerate_available

    if not is_accelerate_available():
        raise DynFocusError("training needs the package accelerate: pip install 'dynfocus[train]'")


@data_app.command("check")
def data_check(
    recipe: RecipeArgument,
    samples: Annotated[int, typer.Option(min=1, help="How many of each source to decode and tokenise.")] = 200,
    all_samples: Annotated[bool, typer.Option("--all", help="Decode and tokenise all of them.")] = False,
    changes: SetOption = None,
) -> None:
    """Count a recipe's samples, name those that are broken (exit code 1), and say how long they are in tokens."""
    from dynfocus.training.recipe import load_recipe

    settings = load_recipe(recipe, changes or ())
    quiet_transformers()
    from dynfocus.training.checking import check_data
    from dynfocus.training.reporting import print_data

    reports = check_data(settings, None if all_samples else samples)
    print_data(reports)
    if any(report.broken for report in reports):
        raise typer.Exit(1)


@data_app.command("sample")
def data_sample(
    output: Annotated[Path, typer.Argument(help="Gets conversations.jsonl and videos; must not exist or be empty.")],
    videos: Annotated[int, typer.Option(min=1, help="How many.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Which.")] = 0,
) -> None:
    """Render synthetic videos with questions and answers, to try a recipe on or to copy the form of."""
    from dynfocus.training.sampling import write_sample

    write_sample(output, videos, seed)
    print(output / "conversations.jsonl")


def plan(
    recipe: RecipeArgument,
    gpus: Annotated[int, typer.Option(min=1, help="How many, over all machines.")] = 8,
    memory: Annotated[float, typer.Option(min=0.1, help="GiB of each.")] = 80,
    changes: SetOption = None,
) -> None:
    """Estimate a recipe's memory and arithmetic from the model's configuration; exit code 1 if nothing fits."""
    from dynfocus.training.recipe import load_recipe

    settings = load_recipe(recipe, changes or ())
    quiet_transformers()
    from dynfocus.training.planning import GIB
    from dynfocus.training.planning import plan as estimate
    from dynfocus.training.reporting import print_plan

    result = estimate(settings, gpus)
    print_plan(result, gpus, memory)
    if all(row.total > memory * GIB for row in result.memory):
        raise typer.Exit(1)


def merge(
    adapter: Annotated[Path, typer.Argument(help="What a recipe with lora wrote.")],
    output: Annotated[Path, typer.Argument(help="The new DynFocus directory; must not exist or be empty.")],
    model: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The model it was trained on, if that has moved.")
    ] = None,
) -> None:
    """Put an adapter into the model it was trained on: one DynFocus directory for every other command."""
    quiet_transformers()
    from dynfocus.training.merging import merge

    print(merge(adapter, output, model))
