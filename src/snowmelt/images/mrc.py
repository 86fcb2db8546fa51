"""MRC and CCP4 maps of electron microscopy: new values in a copy of the file.

The header stays byte for byte, but for the least, greatest and mean value and the deviation, which it holds.

Source: Cheng et al. 2015, "MRC2014", https://www.ccpem.ac.uk/mrc-format/mrc2014/
"""

from __future__ import annotations

import math
import os
import shutil
import struct
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from snowmelt.errors import UserError
from snowmelt.images.arrays import ArrayImage, layout_of
from snowmelt.images.base import MAX_PIXELS, Array, reading, writing
from snowmelt.images.slabs import Boxes, RawFile, Reader, pour, unchunked

_HEADER = 1024
_MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_NAMES = {3: "complex integers", 4: "complex floats", 101: "4 bits a value"}
_SPACE_GROUP, _EXTENDED, _LEAST, _DEVIATION = 88, 92, 76, 216
_LITTLE, _BIG = (b"\x44\x44", b"\x44\x41", b"\x44\x00"), (b"\x11\x11",)


class MrcImage(ArrayImage):
    """An image, a stack of images or a volume, of 8 or 16-bit integers or floats."""

    suffixes = (".mrc", ".mrcs", ".ccp4")
    signatures = ((208, b"MAP "), (208, b"MAP\0"))
    unsigned = True  # files from before the year 2000 have no mark
    kind = "MRC"

    def __init__(
        self, path: str | Path, *, axes: str | None = None, max_pixels: int | None = MAX_PIXELS
    ) -> None:
        del max_pixels  # such a file is as long as it claims to be
        self.path = Path(path)
        with reading(self.path, self.kind), self.path.open("rb") as file:
            head = file.read(_HEADER)
            if len(head) < _HEADER:
                raise ValueError("it is cut off")
            shape = self._read(head)
            letters = "ZYX"[3 - len(shape) :]
            self.layout = layout_of(f"{self.path}", shape, self._stored, axes, letters)
            found = file.seek(0, os.SEEK_END) - self._start
            needed = math.prod(shape) * self._stored.itemsize
            if found < needed:
                raise ValueError(f"it is cut off: {found:,} bytes of {needed:,} are there")
        self._grid = unchunked(self.layout)

    def _read(self, head: bytes) -> tuple[int, ...]:
        self._order = _order(head)
        columns, rows, sections, mode = struct.unpack_from(f"{self._order}4i", head)
        (extended,) = struct.unpack_from(f"{self._order}i", head, _EXTENDED)
        if mode in _NAMES:
            raise UserError(
                f"{self.path}: an MRC of {_NAMES[mode]} (mode {mode}); convert it to floats"
            )
        if mode not in _MODES or min(columns, rows, sections) < 1 or extended < 0:
            raise ValueError(
                f"mode {mode}, {columns} x {rows} x {sections}, {extended} bytes of header"
            )
        self._stored: np.dtype[Any] = np.dtype(self._order + _MODES[mode])
        self._start = _HEADER + extended
        return (sections, rows, columns) if sections > 1 else (rows, columns)

    def write_like(self, target: Path, bands: Iterator[Array]) -> None:
        """Write a file of the same header, its statistics set anew, and other values; atomic."""
        self.check_target(target)
        statistics = _Statistics()
        with writing(target) as part:
            shutil.copyfile(self.path, part)
            with FileIO(part, "r+") as file:
                pour(
                    statistics.seen(self._counted(bands)),
                    self._raw(file),
                    self._grid,
                    target.parent,
                )
            if self._differ:
                with FileIO(part, "r+") as file:
                    statistics.write(file, self._order)
            self._reader = None

    def _counted(self, bands: Iterator[Array]) -> Iterator[Array]:
        """The bands, while it is noticed whether any value differs from the file's."""
        self._differ = False
        reader = Reader(
            self._open(), self._grid
        )  # its own: the denoiser reads other rows meanwhile
        plane = row = 0
        for band in bands:
            if not self._differ:
                old = reader.rows(plane, row, row + len(band))
                self._differ = not np.array_equal(old, band, equal_nan=band.dtype.kind == "f")
            row += len(band)
            if row == self.layout.height:
                plane, row = plane + 1, 0
            yield band

    def _open(self) -> Boxes:
        return self._raw(FileIO(self.path, "r"))

    def _raw(self, file: FileIO) -> RawFile:
        return RawFile(file, self._start, self.layout.shape, self._stored)


def _order(head: bytes) -> str:
    """Byte order by the machine stamp; old files have none, but their width is a small number."""
    stamp = head[212:214]
    if stamp in _LITTLE:
        return "<"
    if stamp in _BIG:
        return ">"
    little, big = (abs(struct.unpack_from(f"{order}i", head)[0]) for order in "<>")
    return "<" if little <= big else ">"


class _Statistics:
    """Of all values that go by."""

    def __init__(self) -> None:
        self._least, self._greatest = math.inf, -math.inf
        self._count = 0
        self._sum = self._squares = 0.0

    def seen(self, bands: Iterator[Array]) -> Iterator[Array]:
        for band in bands:
            values = band[np.isfinite(band)].astype(np.float64)
            if values.size:
                self._least = min(self._least, float(values.min()))
                self._greatest = max(self._greatest, float(values.max()))
                self._count += values.size
                self._sum += float(values.sum())
                self._squares += float(np.square(values).sum())
            yield band

    def write(self, file: FileIO, order: str) -> None:
        if not self._count:
            return
        mean = self._sum / self._count
        deviation = math.sqrt(max(0.0, self._squares / self._count - mean**2))
        file.seek(_LEAST)
        file.write(struct.pack(f"{order}3f", self._least, self._greatest, mean))
        file.seek(_DEVIATION)
        file.write(struct.pack(f"{order}f", deviation))
