"""A run's curves and pictures for TensorBoard, where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from snowmelt.errors import UserError

FOLDER = "tensorboard"  # in the run's folder
TAGS = {
    "loss": "loss/training",
    "psnr": "PSNR/held out, dB",
    "seconds": "time/epoch, s",
    "lr": "learning rate",
}


class Board(Protocol):
    """What is told of each epoch, by its number."""

    def numbers(self, epoch: int, row: Mapping[str, float]) -> None:
        """Those of TAGS that the row has."""

    def picture(self, epoch: int, path: Path) -> None:
        """A PNG or JPEG file."""

    def close(self) -> None:
        """Write what is left."""


class NoBoard:
    """Nobody asked for one."""

    def numbers(self, epoch: int, row: Mapping[str, float]) -> None:
        """See `Board`."""

    def picture(self, epoch: int, path: Path) -> None:
        """See `Board`."""

    def close(self) -> None:
        """See `Board`."""


class TensorBoard:
    """Event files in the folder TENSORBOARD of a run.

    Args:
        run: The run's folder.
        after: The last epoch that counts; what a run that was cut off told of later ones is hidden.
    """

    def __init__(self, run: Path, *, after: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / FOLDER), purge_step=after + 1 if after else 0)

    def numbers(self, epoch: int, row: Mapping[str, float]) -> None:
        """See `Board`."""
        for name in row.keys() & TAGS.keys():
            self._writer.add_scalar(TAGS[name], row[name], epoch)
        self._writer.flush()

    def picture(self, epoch: int, path: Path) -> None:
        """See `Board`."""
        from PIL import Image

        with Image.open(path) as file:
            pixels = np.asarray(file.convert("RGB"))
        self._writer.add_image("pictures", pixels, epoch, dataformats="HWC")

    def close(self) -> None:
        """See `Board`."""
        self._writer.close()


def need_tensorboard() -> None:
    """Raise UserError where TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "--tensorboard needs the package tensorboard: pip install tensorboard; or leave the flag out: "
            "log.jsonl in the run folder has the same numbers"
        )
