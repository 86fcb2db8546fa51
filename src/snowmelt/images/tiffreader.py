"""Rows of a TIFF: where each strip and tile lies, and the values in them.

Rows asked for in sequence decode each strip or tile once; no more is held than one row of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from snowmelt.images import tiffcodec, tiffpage
from snowmelt.images.base import Array, Layout
from snowmelt.images.ifd import Directory, Format
from snowmelt.images.tiffaxes import Axes
from snowmelt.images.tiffpage import Page, UnsupportedError, strips


@dataclass(frozen=True)
class Stored:
    """Where everything lies that is denoised.

    Attributes:
        layout: Of the values as stored: where a palette is used, of the numbers of its colours.
        sheets: The sheets of each plane, (planes, channels or 1); sheet = page * sheets in a page + sample.
        offsets, counts: Where each part lies and how many bytes it has, (sheets, parts of a sheet).
        virtual: Whether there is one directory for many pages, as ImageJ writes beyond 4 GiB.
    """

    format: Format
    page: Page
    directories: tuple[Directory, ...]
    layout: Layout
    sheets: NDArray[np.int64]
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    virtual: bool


class Rows:
    """The values as the file holds them, in native byte order; ``empty`` where it leaves out a part."""

    def __init__(self, stored: Stored, empty: float) -> None:
        self._stored, self._empty = stored, empty
        self._cache: dict[int, tuple[int, Array]] = {}

    def read(self, file: BinaryIO, plane: int, start: int, stop: int) -> Array:
        """Rows ``start:stop`` of a plane as (stop - start, W, channels); ValueError names a damaged part."""
        sheets = self._stored.sheets[plane].tolist()
        self._cache = {sheet: kept for sheet, kept in self._cache.items() if sheet in sheets}
        rows = self._plain_rows if self._stored.page.plain else self._decoded_rows
        parts = [rows(file, sheet, start, stop) for sheet in sheets]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    def _plain_rows(self, file: BinaryIO, sheet: int, start: int, stop: int) -> Array:
        stored, page = self._stored, self._stored.page
        dtype = page.dtype.newbyteorder(stored.format.order)
        shape = (stop - start, page.image_width, page.sheet_samples)
        out = np.full(shape, self._empty, page.dtype)
        for strip, first, last in strips(start, stop, page.height):
            if offset := int(stored.offsets[sheet, strip]):
                file.seek(offset + (first - strip * page.height) * page.row_bytes)
                data = np.frombuffer(file.read((last - first) * page.row_bytes), dtype)
                out[first - start : last - start] = data.reshape(last - first, *shape[1:])
        return out

    def _decoded_rows(self, file: BinaryIO, sheet: int, start: int, stop: int) -> Array:
        page = self._stored.page
        out = np.empty((stop - start, page.image_width, page.sheet_samples), page.dtype)
        for row, first, last in strips(start, stop, page.height):
            if sheet not in self._cache or self._cache[sheet][0] != row:
                self._cache[sheet] = (row, self._decode(file, sheet, row))
            top = row * page.height
            out[first - start : last - start] = self._cache[sheet][1][first - top : last - top]
        return out

    def _decode(self, file: BinaryIO, sheet: int, row: int) -> Array:
        """One strip or one row of tiles, as (rows, W, samples)."""
        page, width = self._stored.page, self._stored.page.image_width
        rows = min(page.height, page.image_height - row * page.height)
        out = np.full((rows, width, page.sheet_samples), self._empty, page.dtype)
        for column in range(page.across):
            number = row * page.across + column
            if size := int(self._stored.counts[sheet, number]):  # none: left out, as GDAL does
                file.seek(int(self._stored.offsets[sheet, number]))
                left = column * page.width
                part = self._part(file.read(size), sheet, number)
                wanted = out[:, left : left + page.width]
                wanted[...] = part[: wanted.shape[0], : wanted.shape[1]]
        return out

    def _part(self, data: bytes, sheet: int, number: int) -> Array:
        """A strip or tile, decoded; ValueError names it where it is damaged."""
        stored, page = self._stored, self._stored.page
        directory = stored.directories[0 if stored.virtual else sheet // page.sheets]
        tables = next((tag.raw for tag in directory if tag.code == tiffpage.JPEG_TABLES), None)
        row, column = divmod(number, page.across)
        needed = (
            min(page.height, page.image_height - row * page.height),
            min(page.width, page.image_width - column * page.width),
        )
        try:
            part = tiffcodec.decode(page, data, page.part_rows(row), stored.format.order, tables)
            if part.shape[0] < needed[0] or part.shape[1] < needed[1]:
                raise ValueError(
                    f"it holds {part.shape[1]} x {part.shape[0]} of {needed[1]} x {needed[0]} pixels"
                )
        except ValueError as error:
            raise ValueError(f"{_name(stored, sheet, number)} is damaged: {error}") from error
        return part


def located(
    form: Format,
    page: Page,
    directories: tuple[Directory, ...],
    layout: Layout,
    found: Axes,
    size: int,
) -> Stored:
    """Find each part of each plane; ValueError names the first that is missing."""
    leading = layout.shape[: layout.axes.index("Y")]
    held = (found.order[:, None] * page.sheets + np.arange(page.sheets)).reshape(-1)
    # ImageJ describes a large stack by its first page; the other planes just follow.
    virtual = math.prod(leading) > 1 and held.size == 1 and page.plain
    if virtual:
        _check_following(page, math.prod(leading), size)
        held = np.arange(math.prod(leading))
    if math.prod(leading) != held.size:
        raise UnsupportedError(
            f"describes {math.prod(leading)} planes and holds {held.size}; export it again"
        )
    channel = layout.channel_axis
    if channel is None or channel >= len(leading):
        sheets = held.reshape(-1, 1)
    else:
        sheets = np.moveaxis(held.reshape(leading), channel, -1).reshape(-1, leading[channel])
    offsets, counts = _places(form, page, directories)
    if virtual:
        offsets, counts = _followed(page, offsets, counts, sheets.size)
    stored = Stored(form, page, directories, layout, sheets, offsets, counts, virtual)
    _check_complete(stored, size)
    return stored


def _check_following(page: Page, planes: int, size: int) -> None:
    """Lists of planes are as long as the notes say: first they must be there."""
    needed = planes * page.image_height * page.row_bytes
    if needed > size:
        raise ValueError(
            f"it is cut off: {planes:,} planes need {needed:,} bytes, and it has {size:,}"
        )


def _places(
    form: Format, page: Page, directories: tuple[Directory, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each part lies and how many bytes it has: (sheets, parts of a sheet)."""
    offsets, counts = [], []
    for directory in directories:
        found = tiffpage.places(form, page, directory)
        offsets.append(found[0].reshape(page.sheets, -1))
        counts.append(found[1].reshape(page.sheets, -1))
    return np.concatenate(offsets), np.concatenate(counts)


def _followed(
    page: Page, offsets: NDArray[np.int64], counts: NDArray[np.int64], planes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places of planes that follow the first without a directory of their own."""
    if np.any(np.diff(offsets[0]) != counts[0, :-1]):
        raise ValueError("its planes do not follow one another")
    steps = np.arange(planes)[:, None] * page.image_height * page.row_bytes
    return offsets + steps, np.repeat(counts, planes, axis=0)


def _check_complete(stored: Stored, size: int) -> None:
    ends = stored.offsets + stored.counts
    if ends.max() > size:
        sheet, number = np.argwhere(ends > size)[0].tolist()
        raise ValueError(
            f"it is cut off: it ends at byte {size:,}, and {_name(stored, sheet, number)} at byte "
            f"{ends[sheet, number]:,}"
        )


def _name(stored: Stored, sheet: int, number: int) -> str:
    """A strip or tile as a person would find it."""
    page = stored.page
    what = "tile" if page.tiled else "strip"
    text = f"{what} {number + 1} of {page.parts}"
    if page.sheets > 1:
        text += f" of channel {sheet % page.sheets + 1}"
    pages = len(stored.offsets) // page.sheets
    return f"{text} of page {sheet // page.sheets + 1}" if pages > 1 else text
