"""`snowmelt recipes`: what ships."""

from __future__ import annotations

import argparse

from snowmelt.commands import DONE, Commands
from snowmelt.recipe import shipped


def add(commands: Commands) -> None:
    """Describe the arguments."""
    commands.add_parser("recipes", help="list the recipes that ship").set_defaults(run=run)


def run(_: argparse.Namespace) -> int:
    """Print a line for each."""
    for name, purpose in shipped().items():
        print(f"{name:12} {purpose}")
    return DONE
