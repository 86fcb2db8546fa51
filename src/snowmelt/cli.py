"""The command `snowmelt`: reads arguments, calls the package, prints what it says.

Each command is a module of `snowmelt.commands` with two functions: `add` describes its arguments, `run`
does it.
argparse, because options that take several values (`--widths 16 32 16`, `--photos a.jpg b.png`) are part of
it and because it is there at once: `snowmelt --help` imports neither numpy nor torch.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from snowmelt import __version__
from snowmelt.commands import (
    DONE,
    FAILED,
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
from snowmelt.errors import UserError, did_you_mean, printable

COMMANDS = (demo, train, denoise, evaluate, inspect, models, report, recipes, convert)

# What may reach the terminal beside text: line ends, and what tqdm moves the cursor up with.
_MOVES = re.compile(r"([\n\r\t]|\x1b\[A)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 some failed, 2 wrong input, 130 Ctrl-C.

    Output that nobody reads any more (`snowmelt models | head -1`) stops no work and changes no exit code.
    """
    with _safe_streams() as output:
        code = _run(arguments)
        output.flush()
        if output.failure is not None:
            print(f"snowmelt: error: standard output: {output.failure}", file=sys.stderr)
            return code or FAILED
        return code


def _run(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if not hasattr(options, "run"):
        parser.print_help()
        return DONE
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
    lines = map(printable, message.split("\n"))
    print("snowmelt: error: " + "\n".join(lines), file=sys.stderr)
    return WRONG_INPUT


class _Parser(argparse.ArgumentParser):
    """One that names what was probably meant, and prints no control characters of its arguments."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, but what a command does not know is its own error, with a hint."""
        found, extras = super().parse_known_args(args, namespace)
        if extras:
            options = [name for action in self._actions for name in action.option_strings]
            hints = [
                did_you_mean(each.split("=")[0], options) for each in extras if each[:1] == "-"
            ]
            hint = next(filter(None, hints), "")
            self.error(
                f"unrecognized arguments: {' '.join(extras)}" + (f"; {hint}" if hint else "")
            )
        return found, extras

    def error(self, message: str) -> NoReturn:
        """Print usage and what is wrong; exit with 2."""
        wrong = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if wrong:
            known = re.split(r", ", wrong[2].replace("'", ""))
            hint = did_you_mean(wrong[1], known).strip()
            message += f"; {hint}" if hint else ""
        super().error(printable(message.strip()))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="snowmelt", description="Remove noise from images.")
    parser.add_argument("--version", action="version", version=f"snowmelt {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


@contextlib.contextmanager
def _safe_streams() -> Iterator[_Safe]:
    """Have standard output (yielded) and error take everything, be they closed, broken, full or ASCII."""
    _open_missing()
    before: Any = sys.stdout, sys.stderr
    output, errors = map(_Safe, before)
    streams: Any = sys
    streams.stdout, streams.stderr = output, errors
    try:
        yield output
    finally:
        output.flush()  # help is printed by an exit
        errors.flush()
        streams.stdout, streams.stderr = before


def _open_missing() -> None:
    """Open what is closed to nowhere; else the next file that is opened would be standard output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115


class _Safe:
    """A text stream whose reader may be gone; what it cannot show is written as an escape.

    Attributes:
        failure: Why what was written is lost, such as a full disk; not where a reader simply left.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.failure: str | None = None
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write text without control characters."""
        parts = _MOVES.split(text)
        parts[::2] = map(printable, parts[::2])
        with self._or_nowhere():
            self._stream.write("".join(parts))
        return len(text)

    def flush(self) -> None:
        """Flush, as far as anybody reads."""
        with self._or_nowhere():
            self._stream.flush()

    @contextlib.contextmanager
    def _or_nowhere(self) -> Iterator[None]:
        """After an error all goes nowhere, also what is still in the stream's buffer."""
        try:
            yield
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self.failure = error.strerror or str(error)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
