"""What containers of arrays (HDF5, NPY, Zarr) have in common; NPY itself.

Writing copies the container as it is and then exchanges the values of one array in place. So filters, fill
values, attributes, links and whatever else lies beside the array cannot get lost.

A container is a stranger's: nothing that it names outside itself is opened, nothing in it is executed.
"""

from __future__ import annotations

import ast
import math
import os
import re
import shutil
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from snowmelt.errors import UserError
from snowmelt.images.base import (
    MAX_PIXELS,
    Array,
    Image,
    Layout,
    check_bytes,
    check_pixels,
    check_values,
    reading,
    writing,
)
from snowmelt.images.slabs import Boxes, Grid, RawFile, Reader, pour, unchunked
from snowmelt.limits import EXPANSION

MANY = 20

# Names of dimensions as programs write them (lower case), and the letters they stand for.
_LETTERS = {
    **{letter.lower(): letter for letter in "XYZTCS"},
    **dict.fromkeys(("width", "column", "columns", "col"), "X"),
    **dict.fromkeys(("height", "row", "rows"), "Y"),
    **{"depth": "Z", "time": "T", "channel": "C", "channels": "C", "sample": "S", "samples": "S"},
}


class ArrayImage(Image):
    """An array that rows are read from, slab by slab."""

    kind: ClassVar[str]

    _grid: Grid
    _reader: Reader | None = None

    def read_rows(self, plane: int, start: int, stop: int) -> Array:
        """Rows ``start:stop`` of a plane as (stop - start, W, channels), in native byte order.

        Rows asked for in sequence decode each chunk once.
        """
        with reading(self.path, self.kind):
            if self._reader is None:
                self._reader = Reader(self._open(), self._grid)
            return self._reader.rows(plane, start, stop)

    def _open(self) -> Boxes:
        raise NotImplementedError


class NpyImage(ArrayImage):
    """A NumPy ``.npy`` file of any version, byte order and memory order; pickled objects are refused."""

    suffixes = (".npy",)
    signatures = ((0, b"\x93NUMPY"),)
    kind = "NPY"

    def __init__(
        self, path: str | Path, *, axes: str | None = None, max_pixels: int | None = MAX_PIXELS
    ) -> None:
        del max_pixels  # such a file is as long as it claims to be
        self.path = Path(path)
        with reading(self.path, self.kind), self.path.open("rb") as file:
            shape, self._fortran, self._stored = self._header(file)
            self._start = file.tell()
            self.layout = layout_of(f"{self.path}", shape, self._stored, axes, None)
            found = file.seek(0, os.SEEK_END) - self._start
            needed = math.prod(shape) * self._stored.itemsize
            if found < needed:
                raise ValueError(f"it is cut off: {found:,} bytes of {needed:,} are there")
        self._grid = unchunked(self.layout, fortran=self._fortran)

    def write_like(self, target: Path, bands: Iterator[Array]) -> None:
        """Write a file with the same header and other values; atomic."""
        self.check_target(target)
        with writing(target) as part:
            shutil.copyfile(self.path, part)
            with FileIO(part, "r+") as file:
                pour(bands, self._raw(file), self._grid, target.parent)
            self._reader = None

    def _open(self) -> Boxes:
        return self._raw(FileIO(self.path, "r"))

    def _raw(self, file: FileIO) -> RawFile:
        return RawFile(file, self._start, self.layout.shape, self._stored, fortran=self._fortran)

    def _header(self, file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
        """Shape, whether in Fortran order, and number type; the file then stands at the first value."""
        magic = file.read(8)
        if magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2, 3):
            raise ValueError("it does not begin as NPY of version 1, 2 or 3")
        length = int.from_bytes(file.read(2 if magic[6] == 1 else 4), "little")
        # Python's parser must not get more from a stranger; numpy has the same limit.
        if length > 10_000:
            raise ValueError(f"a header of {length:,} bytes")
        text = file.read(length).decode("utf-8" if magic[6] == 3 else "latin-1").strip()
        try:
            found = ast.literal_eval(text)
        except (MemoryError, RecursionError) as error:  # too many brackets or signs for the parser
            raise ValueError("its header is damaged") from error
        shape, fortran = found["shape"], found["fortran_order"]
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"the shape {shape}")
        if not isinstance(fortran, bool):
            raise ValueError(f"the order {fortran}")
        if not isinstance(found["descr"], str):
            raise UserError(
                f"{self.path}: its values are records of several fields; save one field as an array"
            )
        return shape, fortran, np.dtype(found["descr"])


def layout_of(
    where: str,
    shape: tuple[int, ...] | None,
    dtype: np.dtype[Any],
    given: str | None,
    found: str | None,
) -> Layout:
    """``given`` are the letters of the caller, ``found`` those of the file; neither: only Y, X is plain."""
    if dtype.kind not in "uif" or dtype.itemsize > 8:
        raise UserError(
            f"{where}: its values are of the type {dtype}; expected whole numbers or floats of up to 64 "
            "bits; convert it, e.g. to uint16 or float32"
        )
    if shape is None or len(shape) < 2:
        raise UserError(f"{where}: has the shape {shape}; a picture has two dimensions or more")
    if given is None and found is not None and len(found) == len(shape):
        letters = found
    elif given is None and len(shape) == 2:
        letters = "YX"
    else:
        letters = _given(where, shape, given)
    if 0 in shape:
        raise UserError(f"{where}: the picture is empty: its shape is {shape}")
    return Layout(tuple(map(int, shape)), letters, dtype.newbyteorder("="))


def _given(where: str, shape: tuple[int, ...], given: str | None) -> str:
    letters = (given or "").upper()
    plain = letters.isascii() and letters.isalpha() and len(set(letters)) == len(letters)
    if plain and len(letters) == len(shape) and {"Y", "X"} <= set(letters):
        return letters
    said = (
        "and does not say what its dimensions are; name them"
        if given is None
        else f"; --axes {given} does not fit it: expected {len(shape)} different letters, Y and X among them"
    )
    raise UserError(
        f"{where}: has the shape {shape} {said}, e.g. --axes {'QRTCZYX'[-len(shape) :]} "
        "(Y, X rows and columns, Z depth, T time, C channels, S samples of one colour)"
    )


def letters_of(names: Any) -> str | None:
    """Letters for the names of dimensions, None unless every one is known and none comes twice."""
    if isinstance(names, bytes):
        names = names.decode(errors="replace")
    if isinstance(names, str):
        names = re.split("[:,]", names) if re.search("[:,]", names) else list(names)
    if not isinstance(names, (list, tuple, np.ndarray)):
        return None
    words = [
        name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in names
    ]
    letters = [_LETTERS.get(word.strip().lower(), "") for word in words]
    whole = all(letters) and len(set(letters)) == len(letters) and {"Y", "X"} <= set(letters)
    return "".join(letters) if whole else None


def check_size(path: Path, grid: Grid, stored: int, max_pixels: int | None) -> None:
    """Refuse arrays, and chunks and rows of them, that claim far more than ``stored`` bytes can hold."""
    layout = grid.layout
    each, allowed = layout.dtype.itemsize, max_pixels
    if max_pixels is not None:
        allowed = max(max_pixels, stored * EXPANSION // each)
    pixels = math.prod(layout.shape) // layout.channels
    check_values(path, pixels, layout.channels, allowed, max_pixels)
    check_pixels(path, math.prod(grid.chunks), allowed)
    # The least that is ever read.
    check_bytes(path, layout.width * layout.channels * each, stored, max_pixels)


def offer(path: str | Path, names: list[str]) -> str:
    """Say which arrays there are, and how to name one."""
    if not names:
        return "it holds no array that could be a picture (numbers, two dimensions or more)"
    more = f" and {len(names) - MANY} more" if len(names) > MANY else ""
    known = ", ".join(names[:MANY])
    return f"name one, e.g. {Path(path).name}:/{names[0]} (known: {known}{more})"
