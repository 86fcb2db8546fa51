"""The commands of the command line, one module each; none imports a heavy package at its top."""

from __future__ import annotations

import argparse
from typing import TypeAlias

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130  # exit codes

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
