"""The command `snowmelt`: reads arguments, calls the package, prints what it says.

Each command is a module of `snowmelt.commands` with two functions: `add` describes its arguments, `run`
does it.
argparse, because options that take several values (`--widths 16 32 16`, `--photos a.jpg b.png`) are part of
it and because it is there at once: `snowmelt --help` imports neither numpy nor torch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from snowmelt import __version__
from snowmelt.commands import (
    INTERRUPTED,
    WRONG_INPUT,
    convert,
    demo,
    denoise,
    evaluate,
    inspect,
    models,
    recipes,
    report,
    train,
)
from snowmelt.errors import UserError

COMMANDS = (demo, train, denoise, evaluate, inspect, models, report, recipes, convert)


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
    for command in COMMANDS:
        command.add(commands)
    return parser
