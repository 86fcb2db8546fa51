"""Bands of rows out of, and into, arrays of any order of axes, cut into chunks of any shape.

A *slab* is the least part of an array that holds whole chunks and whole rows: some rows of one plane, or all
of several planes where a chunk spans them. Rows that are asked for in sequence, or given in sequence, move
each chunk once. A slab too large for memory lies in a temporary file, so memory stays bounded by a chunk.
"""

from __future__ import annotations

import errno
import functools
import itertools
import math
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from snowmelt.images.base import Array, Layout

# Bytes moved at once, unless a single chunk has more.
BLOCK = 2**24
# Bytes of a slab that are held in memory; more go to a temporary file.
HELD = 2**28

Box = tuple[slice, ...]


class Boxes(Protocol):
    """An array, wherever it lies: numpy, h5py, Zarr and ``RawFile`` all give and take boxes."""

    def __getitem__(self, box: Box, /) -> Any: ...

    def __setitem__(self, box: Box, values: Any, /) -> None: ...


class RawFile:
    """An array in a file, in C or Fortran order from a byte on.

    Boxes are read and written by seeking: the pages of a memory map would count as this process's memory.
    """

    def __init__(
        self, file: FileIO, start: int, shape: Sequence[int], dtype: Any, *, fortran: bool = False
    ) -> None:
        self._file, self._start, self._fortran = file, start, fortran
        self._shape = tuple(reversed(shape)) if fortran else tuple(shape)
        self._dtype = np.dtype(dtype)
        weakref.finalize(self, file.close)

    def __getitem__(self, box: Box) -> Array:
        stored = box[::-1] if self._fortran else box
        values = np.empty(_extents(stored), self._dtype)
        starts, length = self._runs(stored)
        target = values.reshape(-1).view(np.uint8).data
        for number, place in enumerate(starts.tolist()):
            self._read(place, target[number * length : (number + 1) * length])
        return values.T if self._fortran else values

    def __setitem__(self, box: Box, values: Array) -> None:
        stored = box[::-1] if self._fortran else box
        turned = values.T if self._fortran else values
        starts, length = self._runs(stored)
        flat = np.ascontiguousarray(turned, self._dtype).reshape(-1)
        source = flat.view(np.uint8).data
        for number, place in enumerate(starts.tolist()):
            self._write(place, source[number * length : (number + 1) * length])

    def _runs(self, box: Box) -> tuple[NDArray[np.int64], int]:
        """Where in the file the box's contiguous pieces begin, and how many bytes each has."""
        sizes = _extents(box)
        last = len(sizes) - 1
        while last > 0 and sizes[last] == self._shape[last]:
            last -= 1
        strides = [self._dtype.itemsize * math.prod(self._shape[i + 1 :]) for i in range(last + 1)]
        starts = np.array([self._start + box[last].start * strides[last]], np.int64)
        for axis in reversed(range(last)):
            steps = np.arange(box[axis].start, box[axis].stop) * strides[axis]
            starts = np.add.outer(steps, starts).reshape(-1)
        return starts, sizes[last] * strides[last]

    def _read(self, place: int, target: memoryview) -> None:
        self._file.seek(place)
        while target:
            count = self._file.readinto(target)
            if not count:
                raise ValueError("the file became shorter while it was read")
            target = target[count:]

    def _write(self, place: int, source: memoryview) -> None:
        self._file.seek(place)
        while source:
            source = source[self._file.write(source) :]


@dataclass(frozen=True)
class Grid:
    """How an array is cut: its chunks, and its axes from the slowest to the fastest in the file."""

    layout: Layout
    chunks: tuple[int, ...]
    order: tuple[int, ...]

    @functools.cached_property
    def picture(self) -> tuple[int, ...]:
        """The axes of one plane: Y, X and that of the channels where there is one."""
        axes, channel = self.layout.axes, self.layout.channel_axis
        return (axes.index("Y"), axes.index("X"), *(() if channel is None else (channel,)))

    @functools.cached_property
    def stack(self) -> tuple[int, ...]:
        """The other axes: together they count the planes."""
        return tuple(i for i in range(len(self.layout.shape)) if i not in self.picture)

    @functools.cached_property
    def turned(self) -> tuple[int, ...]:
        """All axes in the order of a slab: stack, Y, X, channels."""
        return self.stack + self.picture

    def index(self, plane: int) -> dict[int, int]:
        """Where a plane lies along each axis of the stack."""
        counts = [self.layout.shape[axis] for axis in self.stack]
        return dict(zip(self.stack, map(int, np.unravel_index(plane, counts)), strict=True))

    def slab(self, plane: int, row: int) -> Box:
        """The slab in which a row lies."""
        box = [slice(0, size) for size in self.layout.shape]
        if self._deep is None:
            down = self.picture[0]
            box[down] = self._step(down, row, self._rows)
        for axis, place in self.index(plane).items():
            if self._deep is None or axis < self._deep:
                box[axis] = slice(place, place + 1)
            elif axis == self._deep:
                box[axis] = self._step(axis, place, self.chunks[axis])
        return tuple(box)

    def blocks(self, box: Box) -> Iterator[Box]:
        """A slab in pieces of whole chunks, of about ``BLOCK`` bytes."""
        step = [min(chunk, size) for chunk, size in zip(self.chunks, _extents(box), strict=True)]
        for axis in reversed(self.order):
            room = BLOCK // (math.prod(step) * self.layout.dtype.itemsize)
            step[axis] = min(box[axis].stop - box[axis].start, step[axis] * max(1, room))
        yield from itertools.product(
            *(
                [slice(at, min(at + size, part.stop)) for at in range(part.start, part.stop, size)]
                for part, size in zip(box, step, strict=True)
            )
        )

    @functools.cached_property
    def _deep(self) -> int | None:
        """The first axis of the stack along which a chunk spans several planes."""
        shape = self.layout.shape
        return next((i for i in self.stack if min(self.chunks[i], shape[i]) > 1), None)

    @functools.cached_property
    def _rows(self) -> int:
        layout = self.layout
        rows = min(self.chunks[self.picture[0]], layout.height)
        row_of_chunks = rows * layout.width * layout.channels * layout.dtype.itemsize
        return rows * max(1, BLOCK // row_of_chunks)

    def _step(self, axis: int, place: int, size: int) -> slice:
        start = place // size * size
        return slice(start, min(start + size, self.layout.shape[axis]))


def unchunked(layout: Layout, *, fortran: bool = False) -> Grid:
    """The grid of an array that lies in one piece.

    Where planes interleave (``YXZ``), reading one of them would pick single values out of the whole file:
    then all planes count as one chunk.
    """
    axes = range(len(layout.shape))
    order = tuple(reversed(axes) if fortran else axes)
    rank = {axis: number for number, axis in enumerate(order)}
    picture = max(rank[layout.axes.index(letter)] for letter in "YX")
    chunks = tuple(
        layout.shape[i] if rank[i] > picture and i != layout.channel_axis else 1 for i in axes
    )
    return Grid(layout, chunks, order)


class Reader:
    """Rows out of an array; each chunk is read once if the rows are asked for in sequence."""

    def __init__(self, source: Boxes, grid: Grid) -> None:
        self._source, self._grid = source, grid
        self._slab: _Slab | None = None

    def rows(self, plane: int, start: int, stop: int) -> Array:
        """Rows ``start:stop`` of a plane as (rows, W, channels), in native byte order."""
        layout = self._grid.layout
        parts = [np.empty((0, layout.width, layout.channels), layout.dtype)]
        while start < stop:
            slab = self._load(plane, start)
            end = min(stop, slab.bottom)
            parts.append(slab.get(plane, start, end))
            start = end
        return np.concatenate(parts)

    def _load(self, plane: int, row: int) -> _Slab:
        box = self._grid.slab(plane, row)
        if self._slab is None or self._slab.box != box:
            self._slab = None  # frees it before the next one needs the room
            slab = _Slab(self._grid, box, None)
            slab.fill(self._source)
            self._slab = slab
        return self._slab


def pour(bands: Iterator[Array], target: Boxes, grid: Grid, folder: Path) -> None:
    """Write bands (see ``base.Image``) into an array, each chunk once; ``folder`` has room for a slab."""
    layout = grid.layout
    slab: _Slab | None = None
    plane = row = 0
    for band in bands:
        left = band
        while len(left):
            assert plane < layout.planes
            if slab is None or slab.box != grid.slab(plane, row):
                if slab is not None:
                    slab.drain(target)
                    slab = None
                slab = _Slab(grid, grid.slab(plane, row), folder)
            rows = left[: slab.bottom - row]
            slab.put(plane, row, rows)
            left, row = left[len(rows) :], row + len(rows)
            if row == layout.height:
                plane, row = plane + 1, 0
    assert slab is not None
    assert (plane, row) == (layout.planes, 0)
    slab.drain(target)


class _Slab:
    """A part of an array, turned to (stack, Y, X, channels)."""

    def __init__(self, grid: Grid, box: Box, folder: Path | None) -> None:
        self.box = box
        self._grid = grid
        shape = tuple(box[axis].stop - box[axis].start for axis in grid.turned)
        self._values = _room(shape, grid.layout.dtype, folder)

    @property
    def bottom(self) -> int:
        """The row after its last one."""
        return int(self.box[self._grid.picture[0]].stop)

    def fill(self, source: Boxes) -> None:
        for block in self._grid.blocks(self.box):
            self._values[self._inside(block)] = np.transpose(source[block], self._grid.turned)

    def drain(self, target: Boxes) -> None:
        back = np.argsort(self._grid.turned)
        for block in self._grid.blocks(self.box):
            target[block] = np.transpose(self._values[self._inside(block)], back)

    def get(self, plane: int, start: int, stop: int) -> Array:
        layout = self._grid.layout
        values: Array = self._values[self._rows(plane, start, stop)]
        return values.reshape(stop - start, layout.width, layout.channels)

    def put(self, plane: int, start: int, rows: Array) -> None:
        box = self._rows(plane, start, start + len(rows))
        self._values[box] = rows.reshape(_extents(box))

    def _rows(self, plane: int, start: int, stop: int) -> Box:
        place = self._grid.index(plane)
        box = [*self.box]
        for axis in self._grid.stack:
            box[axis] = slice(place[axis], place[axis] + 1)
        box[self._grid.picture[0]] = slice(start, stop)
        return self._inside(tuple(box))

    def _inside(self, box: Box) -> Box:
        first = [part.start for part in self.box]
        return tuple(
            slice(box[axis].start - first[axis], box[axis].stop - first[axis])
            for axis in self._grid.turned
        )


def _extents(box: Box) -> tuple[int, ...]:
    return tuple(part.stop - part.start for part in box)


def _room(shape: tuple[int, ...], dtype: np.dtype[Any], folder: Path | None) -> Boxes:
    size = math.prod(shape) * dtype.itemsize
    if size <= HELD:
        return np.empty(shape, dtype)
    place = tempfile.gettempdir() if folder is None else str(folder)
    free = shutil.disk_usage(place).free
    if free < size:
        raise OSError(
            errno.ENOSPC,
            f"its chunks span {size / 2**30:.1f} GiB of planes, which need temporary room in {place}, where "
            f"{free / 2**30:.1f} GiB are free; free some, or set TMPDIR to a larger disk",
        )
    return RawFile(tempfile.TemporaryFile(dir=place, buffering=0), 0, shape, dtype)
