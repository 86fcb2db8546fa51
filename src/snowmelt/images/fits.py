"""FITS: the values of one image in a copy of the file; headers, tables and other images byte for byte.

Written for what denoising needs instead of depending on astropy (75 MB installed): cards are read here, never
composed, but for the two checksums where a file has them.

Source: Definition of the Flexible Image Transport System, version 4.0; appendix J for the checksums.
"""

from __future__ import annotations

import itertools
import math
import re
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from snowmelt.errors import UserError
from snowmelt.images.arrays import ArrayImage, layout_of, offer
from snowmelt.images.base import MAX_PIXELS, Array, reading, split, writing
from snowmelt.images.slabs import Box, Boxes, RawFile, pour, unchunked

_BLOCK, _CARD = 2880, 80
_LONGEST_HEADER, _MANY = 2**22, 10_000
_MOST_AXES = 999  # the standard's own limit (4.4.1.1)
_TYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_LETTERS = "AVPMLRHQYX"  # Q and others: what an axis means is not in its place
_VALUE = re.compile(r"\s*(?:'((?:[^']|'')*)'|([^/]*))")
_DATASUM = re.compile(rb"(DATASUM = *')([0-9 ]*)")
_DIGITS, _OTHERS = 48, (*range(0x3A, 0x41), *range(0x5B, 0x61))


@dataclass(frozen=True)
class Unit:
    """A header with its data (HDU): where they begin, and what the cards say."""

    number: int
    start: int
    data: int
    cards: dict[str, str] = field(repr=False)

    def whole(self, name: str, default: int = 0) -> int:
        """A whole number in the header; ValueError where the card holds none."""
        found = self.cards.get(name, default)
        try:
            return int(found)
        except ValueError as error:
            raise ValueError(f"{name} is {found!r}; expected a whole number") from error

    def real(self, name: str, default: float) -> float:
        """A number in the header; ValueError where the card holds none."""
        found = self.cards.get(name, str(default))
        try:
            return float(found.upper().replace("D", "E"))
        except ValueError as error:
            raise ValueError(f"{name} is {found!r}; expected a number") from error

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its array, the slowest axis first; ValueError for more axes than FITS has."""
        count = self.whole("NAXIS")
        if not 0 <= count <= _MOST_AXES:
            raise ValueError(f"NAXIS is {count:,}; FITS has 0 to {_MOST_AXES} axes")
        return tuple(self.whole(f"NAXIS{n}") for n in range(count, 0, -1))

    @property
    def size(self) -> int:
        """Bytes of data without padding."""
        shape = self.shape
        if self.cards.get("GROUPS") == "T" and shape and shape[-1] == 0:
            shape = shape[:-1]
        values = math.prod(shape) if shape else 0
        each = self.whole("GCOUNT", 1) * (self.whole("PCOUNT") + values)
        return abs(self.whole("BITPIX")) // 8 * each

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.data + (self.size + _BLOCK - 1) // _BLOCK * _BLOCK

    @property
    def is_image(self) -> bool:
        """Whether it holds an array of two dimensions or more, not compressed."""
        kind = self.cards.get("XTENSION", "IMAGE").strip()
        return kind == "IMAGE" and len(self.shape) >= 2 and min(self.shape) > 0

    @property
    def name(self) -> str:
        """By which it is asked for."""
        return self.cards.get("EXTNAME", "").strip() or str(self.number)


class FitsImage(ArrayImage):
    """An image or cube of any number type; ``file.fits:SCI`` or ``file.fits:1`` names one of several."""

    suffixes = (".fits", ".fit", ".fts")
    signatures = ((0, b"SIMPLE  ="),)
    has_parts = True
    kind = "FITS"

    def __init__(
        self, path: str | Path, *, axes: str | None = None, max_pixels: int | None = MAX_PIXELS
    ) -> None:
        del max_pixels  # such a file is as long as it claims to be
        self.path, name = split(path)
        with reading(self.path, self.kind), self.path.open("rb") as file:
            units = list(_units(file, self.path.stat().st_size))
            self._unit = _chosen(self.path, units, name)
            self._find_type(self._unit)
            shape = self._unit.shape
            if len(shape) > len(_LETTERS):
                raise ValueError(f"an array of {len(shape)} dimensions")
            letters = _LETTERS[len(_LETTERS) - len(shape) :]
            self.layout = layout_of(f"{self.path}", shape, self._seen, axes, letters)
        self._grid = unchunked(self.layout)

    def _find_type(self, unit: Unit) -> None:
        """How values are stored, and seen: unsigned integers are signed ones with an offset."""
        bits = unit.whole("BITPIX")
        self._stored = np.dtype(_TYPES[bits])
        zero, scale = unit.real("BZERO", 0), unit.real("BSCALE", 1)
        self._flips = scale == 1 and zero == {8: -128, 16: 2**15, 32: 2**31, 64: 2**63}.get(bits)
        self._seen = self._stored.newbyteorder("=")
        if self._flips:
            self._seen = np.dtype(f"{'i' if bits == 8 else 'u'}{bits // 8}")
        elif (zero, scale) != (0, 1):
            self.notes += (f"values are those stored, before BSCALE {scale:g} and BZERO {zero:g}",)
        if "BLANK" in unit.cards and bits > 0:
            self.nodata = float(unit.whole("BLANK") + (int(zero) if self._flips else 0))

    def write_like(self, target: Path, bands: Iterator[Array]) -> None:
        """Write the file with other values in this image, and its checksums set anew; atomic."""
        self.check_target(target)
        with writing(target) as part:
            shutil.copyfile(self.path, part)
            with FileIO(part, "r+") as file:
                pour(bands, self._raw(file), self._grid, target.parent)
            self._reader = None
            if {"DATASUM", "CHECKSUM"} & set(self._unit.cards):
                with self.path.open("rb") as old, part.open("r+b") as new:
                    before, after = _sum_of_data(old, self._unit), _sum_of_data(new, self._unit)
                    if before != after:
                        _set_checksums(new, self._unit, after)

    def _open(self) -> Boxes:
        return self._raw(FileIO(self.path, "r"))

    def _raw(self, file: FileIO) -> Boxes:
        raw = RawFile(file, self._unit.data, self.layout.shape, self._stored)
        return _Flipped(raw, self._seen) if self._flips else raw


class _Flipped:
    """Signed integers that stand for unsigned ones, or the other way round: the top bit differs."""

    def __init__(self, raw: RawFile, dtype: np.dtype[Any]) -> None:
        self._raw, self._dtype = raw, dtype
        self._plain = np.dtype(f"u{dtype.itemsize}")
        self._top = self._plain.type(2 ** (8 * dtype.itemsize - 1))

    def __getitem__(self, box: Box) -> Array:
        values = np.ascontiguousarray(self._raw[box])
        native = values.astype(values.dtype.newbyteorder("="))
        return (native.view(self._plain) ^ self._top).view(self._dtype)

    def __setitem__(self, box: Box, values: Array) -> None:
        flipped = np.ascontiguousarray(values).view(self._plain) ^ self._top
        stored = f"{'u' if self._dtype.kind == 'i' else 'i'}{self._dtype.itemsize}"
        self._raw[box] = flipped.view(stored)


def _units(file: BinaryIO, length: int) -> Iterator[Unit]:
    place = 0
    for number in range(_MANY):
        if length - place < _BLOCK:  # what follows the last one may be anything
            return
        file.seek(place)
        cards = _cards(file)
        if cards is None:
            return
        unit = Unit(number, place, file.tell(), cards)
        if unit.size < 0 or unit.data + unit.size > length:
            raise ValueError(f"it is cut off: its HDU {number} claims {unit.size:,} bytes of data")
        yield unit
        place = unit.end


def _cards(file: BinaryIO) -> dict[str, str] | None:
    """Keywords with their values up to END; None where there is no header."""
    found: dict[str, str] = {}
    for first in itertools.count():
        block = file.read(_BLOCK)
        if not first and not block.startswith((b"SIMPLE", b"XTENSION")):
            return None
        if len(block) < _BLOCK or first * _BLOCK > _LONGEST_HEADER:
            raise ValueError("a header without end")
        text = block.decode("latin-1")
        for place in range(0, _BLOCK, _CARD):
            name, rest = text[place : place + 8].rstrip(), text[place + 8 : place + _CARD]
            if name == "END":
                return found
            if rest.startswith("= ") and (match := _VALUE.match(rest, 2)):
                quoted, plain = match.groups()
                found.setdefault(
                    name, plain.strip() if quoted is None else quoted.replace("''", "'")
                )
    return None


def _chosen(path: Path, units: list[Unit], name: str | None) -> Unit:
    """The image that is meant: of a name or number, or the only one."""
    images = [unit for unit in units if unit.is_image]
    if name is not None:
        wanted = name.upper().partition(",")
        for unit in images:
            if name == str(unit.number):
                return unit
            if unit.name.upper() == wanted[0] and (
                not wanted[2] or wanted[2] == str(unit.whole("EXTVER", 1))
            ):
                return unit
        raise UserError(f"{path}: has no image {name!r}; {offer(path, _names(images))}")
    if len(images) == 1:
        return images[0]
    if not images and any(unit.cards.get("ZIMAGE") == "T" for unit in units):
        raise UserError(
            f"{path}: its image is compressed in tiles; unpack it first: funpack {path.name}"
        )
    if not images:
        raise UserError(f"{path}: it holds no image of two dimensions or more")
    raise UserError(f"{path}: holds several images; {offer(path, _names(images))}")


def _names(images: list[Unit]) -> list[str]:
    names = [unit.name for unit in images]
    return names if len(set(names)) == len(names) else [str(unit.number) for unit in images]


def _sum_of_data(file: BinaryIO, unit: Unit) -> int:
    file.seek(unit.data)
    total = 0
    for _ in range((unit.end - unit.data) // _BLOCK):
        total = _sum(file.read(_BLOCK).ljust(_BLOCK, b"\0"), total)
    return total


def _set_checksums(file: BinaryIO, unit: Unit, total: int) -> None:
    """Set DATASUM and CHECKSUM, where there are such cards, to what the new data add up to."""
    file.seek(unit.start)
    head = bytearray(file.read(unit.data - unit.start))
    for place in range(0, len(head), _CARD):
        if found := _DATASUM.match(head, place):
            width = len(found[2])
            new = str(total).encode().ljust(width)
            rest = head[found.end() : place + _CARD]
            head[place : place + _CARD] = (found[1] + new + rest)[:_CARD].ljust(_CARD)
    for place in range(0, len(head), _CARD):
        if head.startswith(b"CHECKSUM= '", place):
            head[place + 11 : place + 27] = b"0" * 16
            head[place + 11 : place + 27] = _encoded(_sum(bytes(head), total))
            break
    file.seek(unit.start)
    file.write(head)


def _sum(data: bytes, total: int) -> int:
    """The sum of 32-bit words in ones' complement."""
    total += int(np.frombuffer(data, ">u4").sum(dtype=np.uint64))
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def _encoded(total: int) -> bytes:
    """The complement in 16 letters and digits (appendix J.2)."""
    quads = []
    for byte in struct.pack(">I", total ^ 0xFFFFFFFF):
        letters = [byte // 4 + _DIGITS] * 4
        letters[0] += byte % 4
        while any(letter in _OTHERS for letter in letters):
            for at in (0, 2):
                if letters[at] in _OTHERS or letters[at + 1] in _OTHERS:
                    letters[at] += 1
                    letters[at + 1] -= 1
        quads.append(letters)
    text = bytes(quads[i][j] for j in range(4) for i in range(4))
    return text[-1:] + text[:-1]
