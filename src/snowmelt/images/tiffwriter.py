"""A TIFF like another one, with other pixels: pixels as they come, then the directories.

The directories come last because only then is it known whether the file must be a BigTIFF.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from snowmelt.errors import UserError
from snowmelt.images import tiffcodec, tiffpage
from snowmelt.images.base import Array
from snowmelt.images.ifd import Directory, Format, Tag
from snowmelt.images.tiffaxes import packed_chain
from snowmelt.images.tiffpage import Page, strips
from snowmelt.images.tiffpages import in_place, released

_CLASSIC_END = 2**32
_HEADER = 16
_BATCH = 2**24


@dataclass(frozen=True)
class Plan:
    """What is to be written.

    Attributes:
        format: Byte order, and whether it is a BigTIFF; it becomes one where it must.
        was, page: The pages of the original, and those that are written.
        chain: All directories in their order, and whether each is a page of the image; masks are copied.
        sheets: The sheets of each plane, (planes, channels or 1).
        virtual: Whether one directory stands for all pages.
        front: Bytes that follow the header.
    """

    format: Format
    was: Page
    page: Page
    chain: tuple[tuple[Directory, bool], ...]
    sheets: NDArray[np.int64]
    virtual: bool
    front: bytes


class Writer:
    """Writes one file; ``samples`` are the first and the last rows of it: (plane, row, rows)."""

    def __init__(self, plan: Plan, source: BinaryIO, file: BinaryIO) -> None:
        self._plan, self._source, self._file, self._page = plan, source, file, plan.page
        self.samples: list[tuple[int, int, Array]] = []
        self._offsets = np.zeros((plan.sheets.size, plan.page.parts), np.int64)
        self._counts = np.zeros_like(self._offsets)
        self._fixed = [] if plan.virtual else sorted(set(_fixed(plan.chain)))

    def write(self, bands: Iterator[Array]) -> None:
        """Take all bands and leave a whole file."""
        self._file.write(bytes(_HEADER) + self._plan.front)
        start = _HEADER + len(self._plan.front)
        if self._plan.virtual:  # ImageJ finds planes beyond 4 GiB by one directory before them
            start += len(self._packed(self._plan.format, _HEADER, {}))
        for place, data in self._fixed:
            self._file.seek(place)
            self._file.write(data)
        watched = self._remembered(bands)
        if self._page.plain:
            self._write_plain(watched, start)
        else:
            self._write_encoded(watched, start)
        copies = self._copied()
        end = self._file.seek(0, 2)
        self._write_directories(_HEADER if self._plan.virtual else end + end % 2, copies)

    def _remembered(self, bands: Iterator[Array]) -> Iterator[Array]:
        """The bands; the first and the last rows are noted, and values that do not fit refused."""
        last = None
        for plane, top, rows in placed(bands, self._page.image_height):
            last = plane, top, rows
            if not self.samples:
                self.samples.append(last)
            if (limits := self._page.limits) and rows.size and rows.max() > limits[1]:
                raise UserError(
                    f"value {rows.max()}: the file has {self._page.bits} bits for each, up to {limits[1]}"
                )
            yield rows
        if last is not None:
            self.samples.append(last)

    def _write_plain(self, bands: Iterator[Array], start: int) -> None:
        """Each row has its place from the outset, so planar colours need no buffer."""
        page = self._page
        rows = np.array([page.part_rows(row) for row in range(page.down)])
        self._counts[:] = rows * page.row_bytes
        self._offsets = _clear_of(self._counts, start, self._fixed)
        for plane, top, band in placed(bands, page.image_height):
            for sheet, data in self._split(plane, band):
                for strip, first, last in strips(top, top + len(band), page.height):
                    row = first - strip * page.height
                    self._file.seek(int(self._offsets[sheet, strip]) + row * page.row_bytes)
                    self._file.write(
                        tiffcodec.encode(
                            page, data[first - top : last - top], self._plan.format.order
                        )
                    )

    def _write_encoded(self, bands: Iterator[Array], start: int) -> None:
        """Strips or tiles in the order of the bands, a few at a time compressed on all cores."""
        place = start
        with ThreadPoolExecutor() as pool:
            for batch in _batches(self._parts(bands)):
                encoded = pool.map(self._encode, [part for _, _, part in batch])
                for (sheet, number, _), data in zip(batch, encoded, strict=True):
                    place = self._append(data, place)
                    self._offsets[sheet, number], self._counts[sheet, number] = place, len(data)
                    place += len(data)

    def _append(self, data: bytes, place: int) -> int:
        """Write behind what was written; where that is."""
        place = int(_clear_of(np.array([len(data)]), place, self._fixed)[0])
        self._file.seek(place)
        self._file.write(data)
        return place

    def _parts(self, bands: Iterator[Array]) -> Iterator[tuple[int, int, Array]]:
        """Each strip or tile with its sheet and its number in the sheet."""
        page = self._page
        for plane, top, rows in _grouped(bands, page.image_height, page.height):
            for sheet, data in self._split(plane, rows):
                for column in range(page.across):
                    part = data[:, column * page.width : (column + 1) * page.width]
                    yield sheet, top // page.height * page.across + column, part

    def _split(self, plane: int, rows: Array) -> Iterator[tuple[int, Array]]:
        """Each sheet of a plane with its share of the channels."""
        sheets = self._plan.sheets[plane]
        return zip(sheets.tolist(), np.split(rows, len(sheets), axis=-1), strict=True)

    def _encode(self, part: Array) -> bytes:
        page = self._page
        if page.tiled:
            missing = (page.height - part.shape[0], page.width - part.shape[1])
            part = np.pad(part, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="edge")
        return tiffcodec.encode(page, part, self._plan.format.order)

    def _copied(self) -> dict[int, tuple[list[int], list[int]]]:
        """Copy what belongs to directories that are no pages of the image; their new places."""
        form, copies = self._plan.format, {}
        end = self._file.seek(0, 2)
        for number, (directory, image) in enumerate(self._plan.chain):
            if not image:
                offsets, counts = tiffpage.copied_places(form, directory)
                new = []
                for offset, count in zip(offsets, counts, strict=True):
                    self._source.seek(offset)
                    end = self._append(self._source.read(count), end)
                    new.append(end)
                    end += count
                copies[number] = new, counts
        return copies

    def _write_directories(
        self, place: int, copies: dict[int, tuple[list[int], list[int]]]
    ) -> None:
        form = self._plan.format
        packed = self._packed(form, place, copies)
        if place + len(packed) > _CLASSIC_END and not form.big and not self._plan.virtual:
            form = Format(form.order, big=True)
            packed = self._packed(form, place, copies)
        self._file.seek(place)
        self._file.write(packed)
        self._file.seek(0)
        self._file.write(form.header(place))

    def _packed(
        self, form: Format, place: int, copies: dict[int, tuple[list[int], list[int]]]
    ) -> bytes:
        directories, page = [], 0
        for number, (directory, image) in enumerate(self._plan.chain):
            if image:
                directories.append(self._page_directory(form, directory, page))
                page += 1
            else:
                offsets, counts = copies[number]
                directories.append(_moved(form, directory, offsets, counts))
        return packed_chain(form, directories, place)

    def _page_directory(self, form: Format, directory: Directory, number: int) -> Directory:
        """The tags of a page with the places of its new strips or tiles."""
        page = self._page
        gone, new = tiffpage.written_tags(form, self._plan.was, page)
        codes = (tiffpage.TILE_OFFSETS, tiffpage.TILE_BYTES)
        if not page.tiled:
            codes = (tiffpage.STRIP_OFFSETS, tiffpage.STRIP_BYTES)
        sheets = slice(number * page.sheets, (number + 1) * page.sheets)
        new += [form.tag(codes[0], self._offsets[sheets]), form.tag(codes[1], self._counts[sheets])]
        kept = [tag for tag in directory if tag.code not in gone]
        if self._plan.virtual:
            kept = [released(tag) for tag in kept]
        if page.samples != self._plan.was.samples:
            kept = [_with_samples(tag, page.samples) for tag in kept]
        return tuple(sorted([*kept, *new], key=lambda tag: tag.code))


def _with_samples(tag: Tag, samples: int) -> Tag:
    """tifffile's note on the shape, where each pixel has become several values."""
    if tag.code != tiffpage.DESCRIPTION or not tag.raw.startswith(b'{"shape"'):
        return tag
    try:
        note = json.loads(tag.raw.rstrip(b"\0"))
        note["shape"] = [*note["shape"], samples]
        if "axes" in note:
            note["axes"] += "S"
    except (ValueError, TypeError):
        return tag
    return Tag(tag.code, tag.type, json.dumps(note).encode() + b"\0")


def _moved(form: Format, directory: Directory, offsets: list[int], counts: list[int]) -> Directory:
    """A directory whose strips or tiles lie elsewhere."""
    tiled = any(tag.code == tiffpage.TILE_OFFSETS for tag in directory)
    codes = tiffpage.PLACES[2:] if tiled else tiffpage.PLACES[:2]
    kept = [tag for tag in directory if tag.code not in tiffpage.PLACES]
    new = [form.tag(codes[0], offsets), form.tag(codes[1], counts)]
    return tuple(sorted([*kept, *new], key=lambda tag: tag.code))


def _fixed(chain: tuple[tuple[Directory, bool], ...]) -> Iterator[tuple[int, bytes]]:
    """What has to keep its place: (place, bytes)."""
    return ((tag.place, tag.raw) for directory, _ in chain for tag in in_place(directory))


def _clear_of(
    counts: NDArray[np.int64], start: int, fixed: list[tuple[int, bytes]]
) -> NDArray[np.int64]:
    """Places one after another from ``start`` on for parts of so many bytes, none on what is fixed."""
    flat = counts.reshape(-1)
    places = start + np.cumsum(flat) - flat
    for place, data in fixed:
        behind = place + len(data)
        hit = np.flatnonzero((places < behind) & (places + flat > place))
        if hit.size:
            places[hit[0] :] += behind - places[hit[0]]
    return places.reshape(counts.shape)


def placed(bands: Iterator[Array], height: int) -> Iterator[tuple[int, int, Array]]:
    """Say of each band where it lies: (plane, first row, rows), cut where a plane ends."""
    plane, top = 0, 0
    for band in bands:
        left = band
        while len(left):
            rows = left[: height - top]
            yield plane, top, rows
            left, top = left[len(rows) :], top + len(rows)
            if top == height:
                plane, top = plane + 1, 0
    assert top == 0


def _grouped(bands: Iterator[Array], height: int, step: int) -> Iterator[tuple[int, int, Array]]:
    """The same in groups of ``step`` rows, fewer at the end of a plane."""
    waiting: list[Array] = []
    for plane, first, rows in placed(bands, height):
        for group, start, stop in strips(first, first + len(rows), step):
            waiting.append(rows[start - first : stop - first])
            if stop in ((group + 1) * step, height):
                whole = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
                yield plane, group * step, whole
                waiting = []


def _batches(
    parts: Iterator[tuple[int, int, Array]],
) -> Iterator[list[tuple[int, int, Array]]]:
    """Lists of some megabytes."""
    batch, size = [], 0
    for part in parts:
        batch.append(part)
        size += part[2].nbytes
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
