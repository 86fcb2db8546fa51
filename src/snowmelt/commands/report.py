"""`snowmelt report`: a run or an evaluation as one HTML file."""

from __future__ import annotations

import argparse
from pathlib import Path

from snowmelt.commands import DONE, Commands


def add(commands: Commands) -> None:
    """Describe the arguments."""
    parser = commands.add_parser(
        "report",
        help="show a run or an evaluation as one HTML file",
        description="Pictures before and after, curves and scores in one HTML file that needs no network.",
    )
    parser.add_argument(
        "source", type=Path, metavar="FOLDER",
        help="of a run (`snowmelt train -o`) or of results (`snowmelt evaluate -o`)",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE.html", help="default: report.html in FOLDER"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write it and say where it is."""
    from snowmelt import report

    folder = options.source if options.source.is_dir() else options.source.parent
    output = options.output or folder / "report.html"
    report.write(options.source, output)
    print(f"report: {output}")
    return DONE
