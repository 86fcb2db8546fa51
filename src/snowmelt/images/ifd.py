"""TIFF directories as raw tags, copied from file to file without being understood.

A tag's value stays the bytes that were read, so whatever a microscope or a map program put into a file
is still there in the copy. Only directories inside directories (EXIF, GPS) are followed, since their
places change. A camera's own record (MakerNote) may count places from the start of the file, in ways
that only its maker knows: it keeps its place.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

EXIF, GPS, INTEROPERABILITY, MAKER_NOTE = 34665, 34853, 40965, 37500
NESTED = {EXIF, GPS, INTEROPERABILITY}

# Bytes in one value of each TIFF type, and numpy's letter for those that are whole numbers.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIZES |= {16: 8, 17: 8, 18: 8}
_INTEGERS = {
    1: "u1",
    3: "u2",
    4: "u4",
    6: "i1",
    8: "i2",
    9: "i4",
    13: "u4",
    16: "u8",
    17: "i8",
    18: "u8",
}
SHORT, LONG, LONG8 = 3, 4, 16
POINTERS = (13, 18)  # types of values that are places of directories
_HEADER = 16

# Sharing a value between pages is allowed, but a small file must not unfold into gigabytes of tags.
_SHARED = 2**26
_MOST_TAGS = 4096


@dataclass(frozen=True)
class Tag:
    """One entry of a directory: raw bytes, or the directory that it points to.

    ``place`` is where the bytes lie and have to stay, 0 where they may move.
    """

    code: int
    type: int
    value: bytes | Directory
    place: int = field(default=0, compare=False)

    @property
    def raw(self) -> bytes:
        """The bytes of a tag that is no directory."""
        return self.value if isinstance(self.value, bytes) else b""


Directory = tuple[Tag, ...]


@dataclass(frozen=True)
class Format:
    """Byte order (``<`` or ``>``) and whether offsets have 8 bytes (BigTIFF)."""

    order: Literal["<", ">"]
    big: bool

    @property
    def _count(self) -> str:
        return self.order + ("Q" if self.big else "H")

    @property
    def _offset(self) -> str:
        return self.order + ("Q" if self.big else "I")

    @property
    def _entry(self) -> str:
        return self.order + ("HHQ8s" if self.big else "HHI4s")

    def header(self, first: int) -> bytes:
        """The first 8 or 16 bytes of the file: where the first directory lies."""
        mark = b"II" if self.order == "<" else b"MM"
        if self.big:
            return mark + struct.pack(self.order + "HHHQ", 43, 8, 0, first)
        return mark + struct.pack(self.order + "HI", 42, first)

    def numbers(self, tag: Tag) -> NDArray[np.int64]:
        """The value of a tag of whole numbers; ValueError where it holds something else."""
        if tag.type not in _INTEGERS:
            raise ValueError(f"tag {tag.code} should hold whole numbers, not TIFF type {tag.type}")
        values = np.frombuffer(tag.raw, self.order + _INTEGERS[tag.type])
        numbers = values.astype(np.int64)
        if not numbers.size or np.any((numbers < 0) | (numbers >= 2**62)):
            raise ValueError(f"tag {tag.code} holds no usable numbers")
        return numbers

    def tag(
        self, code: int, values: Sequence[int] | NDArray[np.int64], *, short: bool = False
    ) -> Tag:
        """A tag of whole numbers, as wide as offsets are unless ``short``."""
        kind = SHORT if short else LONG8 if self.big else LONG
        return Tag(code, kind, np.asarray(values).astype(self.order + _INTEGERS[kind]).tobytes())

    def pack(self, directory: Directory, offset: int, *, last: bool) -> bytes:
        """The bytes of a directory that will lie at ``offset``; unless ``last``, the next one follows it."""
        width = struct.calcsize(self._offset)
        entry = struct.calcsize(self._entry)
        place = offset + struct.calcsize(self._count) + entry * len(directory) + width
        entries, blocks = [], []
        for tag in directory:
            kind, count, value = self._value(tag, place)
            if tag.place and len(value) > width:
                value = struct.pack(self._offset, tag.place)
            elif len(value) > width or tag.code in NESTED:
                blocks.append(value + b"\0" * (len(value) % 2))
                value = struct.pack(self._offset, place)
                place += len(blocks[-1])
            entries.append(struct.pack(self._entry, tag.code, kind, count, value))
        following = struct.pack(self._offset, 0 if last else place)
        return b"".join([struct.pack(self._count, len(directory)), *entries, following, *blocks])

    def _value(self, tag: Tag, place: int) -> tuple[int, int, bytes]:
        """Type, count and bytes of a tag; those of a directory inside are packed for ``place``."""
        if isinstance(tag.value, bytes):
            return tag.type, len(tag.value) // _SIZES[tag.type], tag.value
        return LONG8 if self.big else LONG, 1, self.pack(tag.value, place, last=True)


_HEADERS = {
    b"II*\0": Format("<", big=False),
    b"MM\0*": Format(">", big=False),
    b"II+\0": Format("<", big=True),
    b"MM\0+": Format(">", big=True),
}


class Reader:
    """Reads the chain of directories of an open TIFF file, and distrusts each number in it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, 2)
        head = self._bytes(0, 8)
        if head[:4] not in _HEADERS:
            raise ValueError("it has no TIFF header")
        self.format = _HEADERS[head[:4]]
        if self.format.big and head[4:] != struct.pack(self.format.order + "HH", 8, 0):
            width, zero = struct.unpack(self.format.order + "HH", head[4:])
            raise ValueError(
                f"a BigTIFF with offsets of {width} bytes (then {zero}), not of 8 (then 0)"
            )
        self._budget = self.size + _SHARED
        self._seen: set[int] = set()
        self._inside: dict[int, Directory] = {}

    def chain(self) -> Iterator[Directory]:
        """The directories one after another, as the file links them."""
        width = 8 if self.format.big else 4
        offset = self._number(width, width)
        while offset:
            directory, offset = self._directory(offset)
            yield directory

    def directory(self, offset: int) -> Directory:
        """One that a tag points to; none is read twice."""
        return self._directory(offset)[0]

    def _directory(self, offset: int) -> tuple[Directory, int]:
        """The directory at ``offset`` and the place of the next."""
        if offset in self._seen:
            raise ValueError(f"its directories form a circle at byte {offset}")
        self._seen.add(offset)
        big = self.format.big
        head, width, entry = (8, 8, 20) if big else (2, 4, 12)
        count = self._number(offset, head)
        if not 0 < count <= _MOST_TAGS:
            raise ValueError(f"a directory with {count} tags at byte {offset}")
        table = self._bytes(offset + head, count * entry)
        rows = struct.iter_unpack(self.format._entry, table)
        tags = tuple(self._tag(*row) for row in rows)
        return tags, self._number(offset + head + count * entry, width)

    def _tag(self, code: int, kind: int, count: int, inline: bytes) -> Tag:
        if kind not in _SIZES:
            raise ValueError(f"tag {code} has the unknown type {kind}")
        if code in NESTED:
            return Tag(code, kind, self._shared(self._pointer(inline)))
        size = count * _SIZES[kind]
        self._budget -= size
        if size > self.size or self._budget < 0:
            raise ValueError(f"tag {code} claims {size} bytes in a file of {self.size}")
        if size <= len(inline):
            return Tag(code, kind, inline[:size])
        place = self._pointer(inline)
        keeps = code == MAKER_NOTE and place >= _HEADER
        return Tag(code, kind, self._bytes(place, size), place if keeps else 0)

    def _shared(self, place: int) -> Directory:
        """A directory inside, which several pages may have in common; it counts as often as it is copied."""
        if place not in self._inside:
            self._inside[place] = self.directory(place)
        else:
            self._budget -= _weight(self._inside[place])
            if self._budget < 0:
                raise ValueError(f"too many pages share the directory at byte {place}")
        return self._inside[place]

    def _pointer(self, inline: bytes) -> int:
        return int(struct.unpack(self.format._offset, inline)[0])

    def _number(self, offset: int, width: int) -> int:
        letter = {2: "H", 4: "I", 8: "Q"}[width]
        return int(struct.unpack(self.format.order + letter, self._bytes(offset, width))[0])

    def _bytes(self, offset: int, size: int) -> bytes:
        if offset + size > self.size:
            raise ValueError(f"it ends at byte {self.size}, and byte {offset + size} is needed")
        self._file.seek(offset)
        return self._file.read(size)


def _weight(directory: Directory) -> int:
    """About the bytes that a directory takes."""
    return sum(
        20 + (len(tag.raw) if isinstance(tag.value, bytes) else _weight(tag.value))
        for tag in directory
    )
