"""The command `snowmelt`: reads arguments, calls the package, prints what it says.

argparse, because options that take several values (`--widths 16 32 16`, `--photos a.jpg b.png`) are part of
it and because it is there at once: `snowmelt --help` imports neither numpy nor torch.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tomllib
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snowmelt import __version__
from snowmelt.errors import UserError
from snowmelt.recipe import Recipe, from_dict, read, shipped

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130

# flag -> key of the recipe, what it means; the type is that of the key
RECIPE_FLAGS = {
    "--data": (
        "data.source",
        "'shapes', or path or URL of an HDF5 file with train_ns, train_gt, test_ns, test_gt",
    ),
    "--sha256": ("data.sha256", "SHA-256 that the data file must have"),
    "--widths": ("network.widths", "channels of each hidden layer"),
    "--kernel-size": ("network.kernel_size", "side of the kernels, odd"),
    "--activation": ("network.activation", "relu, sigmoid or linear"),
    "--from": ("network.start", "model file to go on from"),
    "--optimizer": ("optimizer.name", "adam, adamw or sgd"),
    "--lr": ("optimizer.lr", "learning rate"),
    "--schedule": ("optimizer.schedule", "constant or one-cycle"),
    "--warmup": ("optimizer.warmup", "part of all steps over which the rate rises"),
    "--epochs": ("training.epochs", "passes over the training pictures"),
    "--batch": ("training.batch", "pictures in a step"),
    "--patch": ("training.patch", "side in pixels of the squares cut from them; 0: whole"),
    "--loss": ("training.loss", "mse or l1"),
    "--precision": ("training.precision", "auto, bf16 or f32"),
    "--seed": ("training.seed", "of the first weights and of the order of the pictures"),
    "--every": ("pictures.every", "epochs between pictures"),
    "--photos": ("pictures.photos", "your own photos, to be noised and denoised along the way"),
    "--photo-variance": (
        "pictures.noise_variance",
        "of the noise put on them, in units of [0, 1]; clipped",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 some failed, 2 wrong input, 130 Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except UserError as error:
        return _complain(str(error))
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "onnx", "matplotlib"):
            raise
        return _complain(f'training needs {error.name}: pip install "snowmelt[train]"')
    except OSError as error:
        return _complain(f"{error.filename or 'a file'}: {error.strerror or error}")
    except KeyboardInterrupt:
        print("snowmelt: stopped", file=sys.stderr)
        return INTERRUPTED


def _complain(message: str) -> int:
    print(f"snowmelt: error: {message}", file=sys.stderr)
    return WRONG_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="snowmelt", description="Remove noise from images.")
    parser.add_argument("--version", action="version", version=f"snowmelt {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_train(commands)
    recipes = commands.add_parser("recipes", help="list the recipes that ship")
    recipes.set_defaults(run=_list_recipes)
    return parser


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="make the tutorial's data, train its network, show what it learns",
        description="The tutorial from beginning to end. Called again, it goes on where it was stopped.",
    )
    _add_recipe_flags(demo)
    _add_output(demo, "runs/demo")
    demo.set_defaults(run=_demo)


def _add_train(commands: Any) -> None:
    train = commands.add_parser("train", help="train a network by a recipe")
    train.add_argument(
        "recipe",
        nargs="?",
        default="tutorial",
        help="TOML file, or a name that `snowmelt recipes` lists",
    )
    _add_recipe_flags(train)
    _add_output(train, None)
    train.add_argument(
        "--resume", action="store_true", help="go on with the run in the output folder"
    )
    train.set_defaults(run=_train)


def _add_recipe_flags(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("recipe", "each of these replaces a key of the recipe")
    for flag, (key, meaning) in RECIPE_FLAGS.items():
        kind = _kind(key)
        several = typing.get_origin(kind) is tuple
        group.add_argument(
            flag,
            dest=key,
            type=typing.get_args(kind)[0] if several else kind,
            nargs="+" if several else None,
            metavar=key.partition(".")[2].upper(),
            help=meaning,
        )
    group.add_argument(
        "--set", dest="sets", action="append", default=[], metavar="TABLE.KEY=VALUE",
        help="any key of the recipe, such as optimizer.lr=1e-3",
    )  # fmt: skip


def _kind(key: str) -> Any:
    """Type of a recipe's key such as "training.epochs"."""
    table, _, name = key.partition(".")
    return typing.get_type_hints(typing.get_type_hints(Recipe)[table])[name]


def _add_output(command: argparse.ArgumentParser, default: str | None) -> None:
    where = default or "runs/ and the recipe's name"
    command.add_argument(
        "-o", "--output", type=Path, default=default and Path(default), metavar="FOLDER",
        help=f"run folder (default: {where})",
    )  # fmt: skip
    command.add_argument("--force", action="store_true", help="replace a run that is there")
    command.add_argument("--quiet", action="store_true", help="print results only")


def _recipe(options: argparse.Namespace, base: Recipe) -> Recipe:
    """The recipe with what the command line says of it."""
    given = vars(options)
    values = {key: given[key] for key, _ in RECIPE_FLAGS.values() if given[key] is not None}
    for text in options.sets:
        key, equals, value = text.partition("=")
        if not equals or "." not in key:
            raise UserError(f"--set {text}: expected TABLE.KEY=VALUE, such as optimizer.lr=1e-3")
        values[key.strip()] = _toml_value(value)
    tables: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        table, _, name = key.partition(".")
        tables.setdefault(table, {})[name] = value
    return _absolute(from_dict(tables, base=base, where="command line"))


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()  # a bare word, which TOML would want in quotes


def _absolute(recipe: Recipe) -> Recipe:
    """Make paths absolute, so that the recipe in the run folder works from anywhere."""
    source, start = recipe.data.source, recipe.network.start
    if source != "shapes" and "://" not in source:
        source = str(Path(source).resolve())
    photos = tuple(str(Path(photo).resolve()) for photo in recipe.pictures.photos)
    return dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, source=source),
        network=dataclasses.replace(recipe.network, start=start and str(Path(start).resolve())),
        pictures=dataclasses.replace(recipe.pictures, photos=photos),
    )


def _demo(options: argparse.Namespace) -> int:
    from snowmelt import photos, training

    recipe = read("tutorial")
    pictures = dataclasses.replace(recipe.pictures, photos=photos.default_photos())
    recipe = _recipe(options, dataclasses.replace(recipe, pictures=pictures))
    folder = options.output
    if training.holds_run(folder) and not options.force:
        training.check_same(recipe, folder)
        finished = training.resume(folder, quiet=options.quiet)
    else:
        finished = training.train(recipe, folder, quiet=options.quiet, force=options.force)
    return _conclude(folder, finished)


def _train(options: argparse.Namespace) -> int:
    from snowmelt import training

    folder = options.output or Path("runs") / Path(options.recipe).stem
    if options.resume:
        if options.force or _recipe(options, Recipe()) != _absolute(Recipe()):
            raise UserError(
                "--resume goes on with the recipe in the run folder; leave --force and the recipe's flags out"
            )
        return _conclude(folder, training.resume(folder, quiet=options.quiet))
    recipe = _recipe(options, read(options.recipe))
    return _conclude(
        folder, training.train(recipe, folder, quiet=options.quiet, force=options.force)
    )


def _conclude(folder: Path, finished: bool) -> int:
    if not finished:
        print(
            f"stopped; `snowmelt train --resume -o {folder}` goes on. {folder / 'model.onnx'} is usable"
        )
        return INTERRUPTED
    from snowmelt import evaluation

    scores = evaluation.judge(folder)
    print(evaluation.table(scores))
    print(evaluation.verdict(scores, evaluation.NETWORK))
    print(
        f"{folder}: model.onnx, pictures (epoch-*.png), curves.png, log.jsonl, scores.json, recipe.toml"
    )
    return DONE


def _list_recipes(_: argparse.Namespace) -> int:
    for name, purpose in shipped().items():
        print(f"{name:12} {purpose}")
    return DONE
