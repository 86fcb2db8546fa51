"""`snowmelt demo`: the tutorial from beginning to end."""

from __future__ import annotations

import argparse
import dataclasses

from snowmelt.commands import Commands
from snowmelt.commands.recipe_flags import add_output, add_recipe, conclude, read_recipe
from snowmelt.recipe import read


def add(commands: Commands) -> None:
    """Describe the arguments."""
    parser = commands.add_parser(
        "demo",
        help="make the tutorial's data, train its network, show what it learns",
        description="The tutorial from beginning to end. Called again, it goes on where it was stopped.",
    )
    add_recipe(parser)
    add_output(parser, "runs/demo")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train from the beginning, or go on with what is in the folder."""
    from snowmelt import photos, training

    recipe = read("tutorial")
    pictures = dataclasses.replace(recipe.pictures, photos=photos.default_photos())
    recipe = read_recipe(options, dataclasses.replace(recipe, pictures=pictures))
    folder = options.output
    if training.holds_run(folder) and not options.force:
        training.check_same(recipe, folder)
        finished = training.resume(folder, quiet=options.quiet)
    else:
        finished = training.train(recipe, folder, quiet=options.quiet, force=options.force)
    return conclude(folder, finished)
