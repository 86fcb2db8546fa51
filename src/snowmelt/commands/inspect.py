"""`snowmelt inspect`: what noise an image has, and what to do about it; what a model file says of itself."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from snowmelt.commands import DONE, FAILED, Commands
from snowmelt.errors import UserError


def add(commands: Commands) -> None:
    """Describe the arguments."""
    parser = commands.add_parser(
        "inspect",
        help="noise of an image and advice on it; contents of a model file",
        description="A file called NAME.onnx: what the model says about itself. Any other: the noise of the "
        "image, measured on it alone, and advice. Of a stack, the plane in the middle.",
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="images, folders and patterns of them, and model files",
    )
    parser.add_argument("--json", action="store_true", help="a list of one JSON object per file")
    parser.add_argument(
        "--axes",
        metavar="LETTERS",
        help="axes, such as ZYX or YXC, of files that do not state them",
    )
    parser.add_argument(
        "--range", dest="value_range", nargs=2, type=float, metavar=("LOW", "HIGH"),
        help="values of black and white (default: 0 to 255 of 8 bits, else what is found)",
    )  # fmt: skip
    parser.add_argument(
        "--max-pixels",
        type=int,
        metavar="N",
        help="largest number of pixels that an image may claim",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Inspect all; a file that fails is reported and the others go on."""
    from snowmelt.finding import find_all

    if options.value_range is not None and not options.value_range[0] < options.value_range[1]:
        low, high = options.value_range
        raise UserError(f"--range {low:g} {high:g}: expected two numbers, black first")
    results, files = [], [each.source for each in find_all(options.files)]
    for index, path in enumerate(files):
        try:
            facts, text = _inspect(path, options)
        except (UserError, OSError, MemoryError) as error:
            _complain(path, error)
            continue
        results.append(facts)
        if not options.json:
            print(text if index == 0 else f"\n{text}", flush=True)
    if options.json:
        print(json.dumps(results, indent=1))  # In ASCII: names in it must not steer a terminal.
    return DONE if len(results) == len(files) else FAILED


def _complain(path: str, error: Exception) -> None:
    message = str(error) or "not enough memory"
    named = message if Path(path).name in message else f"{path}: {message}"
    print(f"snowmelt: error: {named}", file=sys.stderr)


def _inspect(path: str, options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from snowmelt import inspection, modelfile
    from snowmelt.images.base import MAX_PIXELS

    if path.lower().endswith(".onnx"):
        model = modelfile.read(path)
        facts = {"file": path, "model": dataclasses.asdict(model.header), "sha256": model.sha256}
        return facts, modelfile.inspect_text(path)
    found = inspection.inspect(
        path,
        value_range=options.value_range,
        axes=options.axes,
        max_pixels=options.max_pixels or MAX_PIXELS,
    )
    return found.json(), found.text()
