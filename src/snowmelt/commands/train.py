"""`snowmelt train`: a network by a recipe."""

from __future__ import annotations

import argparse
import sys
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
from snowmelt.recipe import Recipe, read


def add(commands: Commands) -> None:
    """Describe the arguments."""
    parser = commands.add_parser("train", help="train a network by a recipe")
    parser.add_argument(
        "recipe",
        nargs="?",
        help="TOML file, or a name that `snowmelt recipes` lists (default: the one that suits the data)",
    )
    add_recipe(parser)
    add_output(parser, None)
    parser.add_argument(
        "--budget", metavar="TIME",
        help="choose network and steps so that training ends in this time here: 90s, 10m, 2h",
    )  # fmt: skip
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in the output folder; with --epochs to that many",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train from the beginning, or resume."""
    from snowmelt import training

    name = options.recipe or _suitable(options)
    folder = options.output or Path("runs") / Path(name).stem
    if options.resume:
        epochs = vars(options)["training.epochs"]
        if options.force or options.budget or gives_recipe(options, but="training.epochs"):
            raise UserError(
                "--resume goes on with the recipe in the run folder; leave --force and the recipe's flags "
                "out, but for --epochs"
            )
        return conclude(folder, training.resume(folder, epochs=epochs, quiet=options.quiet))
    recipe = read_recipe(options, read(name))
    if options.budget:
        recipe = _within(options, recipe)
    return conclude(
        folder, training.train(recipe, folder, quiet=options.quiet, force=options.force)
    )


def _suitable(options: argparse.Namespace) -> str:
    """The recipe for what is named: nothing, noisy pictures alone, or any with a target."""
    given = vars(options)
    if given["network.start"]:
        return "finetune"
    if given["data.noisy"] and not (given["data.clean"] or given["data.noisy_too"]):
        return "blindspot"
    return "pairs" if given["data.noisy"] or given["data.clean"] else "tutorial"


def _within(options: argparse.Namespace, recipe: Recipe) -> Recipe:
    """The recipe with network and steps for the budget, which are told."""
    from snowmelt import budget

    given = vars(options)
    for key in ("training.epochs", "training.steps"):
        if given[key] is not None:
            raise UserError(f"--budget chooses {key}; leave one of the two out")
    chosen = ("network.architecture", "network.widths")
    free = all(given[key] is None for key in chosen)
    fitted, said = budget.fit(recipe, budget.parse(options.budget), free_network=free)
    if not options.quiet:
        print(f"budget {said}", file=sys.stderr)
    return fitted
