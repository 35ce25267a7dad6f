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
    """Train the demo model from nothing, on synthetic videos."""
    quiet_transformers()
    _need_accelerate()
    from dynfocus.demo.train import train

    train(output, seed=seed, overwrite=overwrite)


def _need_accelerate() -> None:
    from transformers.utils import is_accelerate_available

    if not is_accelerate_available():
        raise DynFocusError("training needs the package accelerate: pip install 'dynfocus[train]'")
