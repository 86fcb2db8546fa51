"""`snowmelt train`: a network by a recipe."""

from __future__ import annotations

import argparse
from pathlib import Path

from snowmelt.commands import Commands
from snowmelt.commands.recipe_flags import (
    add_output,
    add_recipe,
    conclude,
    gives_recipe,
    read_recipe,
)
from snowmelt.errors import UserError
from snowmelt.recipe import read


def add(commands: Commands) -> None:
    """Describe the arguments."""
    parser = commands.add_parser("train", help="train a network by a recipe")
    parser.add_argument(
        "recipe",
        nargs="?",
        default="tutorial",
        help="TOML file, or a name that `snowmelt recipes` lists",
    )
    add_recipe(parser)
    add_output(parser, None)
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run in the output folder"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train from the beginning, or resume."""
    from snowmelt import training

    folder = options.output or Path("runs") / Path(options.recipe).stem
    if options.resume:
        if options.force or gives_recipe(options):
            raise UserError(
                "--resume goes on with the recipe in the run folder; leave --force and the recipe's flags out"
            )
        return conclude(folder, training.resume(folder, quiet=options.quiet))
    recipe = read_recipe(options, read(options.recipe))
    return conclude(
        folder, training.train(recipe, folder, quiet=options.quiet, force=options.force)
    )
