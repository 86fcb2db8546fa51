"""The flags that `demo` and `train` share: the recipe's keys, the run folder, and what is said at the end."""

from __future__ import annotations

import argparse
import dataclasses
import tomllib
import typing
from pathlib import Path
from typing import Any

from snowmelt.commands import DONE, INTERRUPTED
from snowmelt.errors import UserError
from snowmelt.recipe import Recipe, from_dict

# flag -> key of the recipe, what it means; the type is that of the key
RECIPE_FLAGS = {
    "--data": (
        "data.source",
        "'shapes', or path or URL of an HDF5 file with train_ns, train_gt, test_ns, test_gt",
    ),
    "--noisy": ("data.noisy", "your noisy pictures: files, folders, stacks"),
    "--clean": ("data.clean", "clean ones: of each noisy one, or alone together with --noise"),
    "--noisy-too": ("data.noisy_too", "a second noisy take of each noisy one"),
    "--noise": ("data.noise", "noise to put on clean pictures, such as gaussian:0-55"),
    "--range": ("data.range", "values of black and white, where files do not say"),
    "--axes": ("data.axes", "names of the dimensions, where files do not say, such as ZYX"),
    "--sha256": ("data.sha256", "SHA-256 that the data file must have"),
    "--architecture": ("network.architecture", "recipe-cnn or unet"),
    "--widths": ("network.widths", "channels of each hidden layer"),
    "--kernel-size": ("network.kernel_size", "side of the kernels, odd"),
    "--activation": ("network.activation", "relu, sigmoid or linear"),
    "--from": ("network.start", "model to go on from, a name or a file"),
    "--teacher": (
        "training.teacher",
        "model to learn from in place of clean pictures, a name or a file",
    ),
    "--optimizer": ("optimizer.name", "adam, adamw, muon or sgd"),
    "--lr": ("optimizer.lr", "learning rate"),
    "--schedule": ("optimizer.schedule", "constant, one-cycle or trapezoid"),
    "--warmup": ("optimizer.warmup", "part of all steps over which the rate rises"),
    "--epochs": ("training.epochs", "passes over the training pictures"),
    "--steps": ("training.steps", "steps of an epoch; 0: as many as pass over all pictures"),
    "--batch": ("training.batch", "pictures in a step"),
    "--patch": ("training.patch", "side in pixels of the squares cut from them; 0: whole"),
    "--loss": ("training.loss", "mse or l1"),
    "--precision": ("training.precision", "auto, bf16 or f32"),
    "--device": ("training.device", "auto, cpu, cuda or mps"),
    "--seed": ("training.seed", "of the first weights and of the order of the pictures"),
    "--every": ("pictures.every", "epochs between pictures"),
    "--photos": ("pictures.photos", "your own photos, to be noised and denoised along the way"),
    "--photo-variance": (
        "pictures.noise_variance",
        "of the noise put on them, in units of [0, 1]; clipped",
    ),
    "--tensorboard": ("pictures.tensorboard", "write curves and pictures for TensorBoard too"),
}


def add_recipe(command: argparse.ArgumentParser) -> None:
    """A flag for each key that is often changed, and --set for all."""
    group = command.add_argument_group("recipe", "each of these replaces a key of the recipe")
    for flag, (key, meaning) in RECIPE_FLAGS.items():
        kind = _kind(key)
        if kind is bool:
            group.add_argument(flag, dest=key, action="store_true", default=None, help=meaning)
            continue
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


def gives_recipe(options: argparse.Namespace, *, but: str) -> bool:
    """Whether any key of the recipe ``but`` one is given."""
    keys = {key for key, _ in RECIPE_FLAGS.values()} - {but}
    return bool(options.sets) or any(vars(options)[key] is not None for key in keys)


def _kind(key: str) -> Any:
    """Type of a recipe's key such as "training.epochs"."""
    table, _, name = key.partition(".")
    return typing.get_type_hints(typing.get_type_hints(Recipe)[table])[name]


def add_output(command: argparse.ArgumentParser, default: str | None) -> None:
    """Where the run goes."""
    where = default or "runs/ and the recipe's name"
    command.add_argument(
        "-o", "--output", type=Path, default=default and Path(default), metavar="FOLDER",
        help=f"run folder (default: {where})",
    )  # fmt: skip
    command.add_argument("--force", action="store_true", help="replace a run that is there")
    command.add_argument("--quiet", action="store_true", help="print results only")


def read_recipe(options: argparse.Namespace, base: Recipe) -> Recipe:
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
    source = recipe.data.source
    if source != "shapes" and "://" not in source:
        source = str(Path(source).resolve())
    photos = tuple(str(Path(photo).resolve()) for photo in recipe.pictures.photos)
    own: dict[str, Any] = {
        name: tuple(str(Path(text).resolve()) for text in getattr(recipe.data, name))
        for name in ("noisy", "clean", "noisy_too")
    }
    return dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, source=source, **own),
        network=dataclasses.replace(recipe.network, start=_model(recipe.network.start)),
        training=dataclasses.replace(recipe.training, teacher=_model(recipe.training.teacher)),
        pictures=dataclasses.replace(recipe.pictures, photos=photos),
    )


def _model(text: str) -> str:
    """A model's file made absolute; the name of one that ships, or none, as it is."""
    is_file = text and (Path(text).suffix or Path(text).exists())
    return str(Path(text).resolve()) if is_file else text


def conclude(folder: Path, finished: bool) -> int:
    """Compare the finished run's model with the classical filters and say where everything is."""
    if not finished:
        print(
            f"stopped; `snowmelt train --resume -o {folder}` goes on. {folder / 'model.onnx'} is usable"
        )
        return INTERRUPTED
    from snowmelt import judgement, parallel, report

    if not parallel.leads():
        return DONE

    print(judgement.judge(folder))
    print(
        f"{folder}: model.onnx, pictures (epoch-*.png), curves.png, log.jsonl, scores.json, recipe.toml"
    )
    report.write(folder, folder / "report.html")
    print(f"report: {folder / 'report.html'}")
    return DONE
