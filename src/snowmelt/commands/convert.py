"""`snowmelt convert`: a Keras model of the tutorial's kind becomes a model file."""

from __future__ import annotations

import argparse
from pathlib import Path

from snowmelt.commands import DONE, Commands
from snowmelt.errors import UserError


def add(commands: Commands) -> None:
    """Describe the arguments."""
    parser = commands.add_parser("convert", help="turn a Keras .h5 model into a model file")
    parser.add_argument(
        "source", type=Path, metavar="MODEL.h5", help="a plain chain of Conv2D layers"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="MODEL.onnx", help="default: beside the source"
    )
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Convert, check against the network rebuilt, say how far the two differ."""
    from snowmelt import keras_import

    target = options.output or options.source.with_suffix(".onnx")
    if target.suffix != ".onnx":
        raise UserError(f"{target}: a model file is called NAME.onnx")
    if target.exists() and not options.force:
        raise UserError(
            f"{target} is there already; replace it with --force, or name another by -o"
        )
    difference = keras_import.convert(options.source, target)
    print(f"{target}: equals the network within {difference:.1e}")
    return DONE
