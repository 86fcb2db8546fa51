"""Boxes, of which JPEG 2000, AVIF and JPEG XL files are made: a length, a name of four bytes, the content.

Source: ISO/IEC 14496-12, 4.2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_MANY = 10_000


@dataclass(frozen=True)
class Box:
    """A box; ``start`` is where its content begins in the bytes that it was found in."""

    name: bytes
    content: bytes
    start: int = 0


def boxes(data: bytes) -> Iterator[Box]:
    """The boxes of a file, or in another box; ValueError where one is cut off."""
    place = 0
    for _ in range(_MANY):
        if place == len(data):
            return
        if place + 8 > len(data):
            raise ValueError("it is cut off")
        size, name = struct.unpack_from(">I4s", data, place)
        start = place + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data.ljust(start + 8, b"\0"), start)
            start += 8
        end = len(data) if size == 0 else place + size
        if not start <= end <= len(data):
            raise ValueError(f"it is cut off or its box {name!r} is damaged")
        yield Box(name, data[start:end], start)
        place = end
    raise ValueError(f"it has more than {_MANY:,} boxes")


def only(found: Iterable[Box], name: bytes) -> Box:
    """The one box of a name; ValueError unless there is exactly one."""
    wanted = [box for box in found if box.name == name]
    if len(wanted) != 1:
        raise ValueError(
            f"it has {len(wanted)} boxes {name.decode(errors='replace')!r}; expected one"
        )
    return wanted[0]


def packed(content: Iterable[Box]) -> bytes:
    """Boxes one behind the other."""
    return b"".join(box(each.name, each.content) for each in content)


def box(name: bytes, *parts: bytes) -> bytes:
    """One box as bytes."""
    content = b"".join(parts)
    if len(content) + 8 < 2**32:
        return struct.pack(">I4s", len(content) + 8, name) + content
    return struct.pack(">I4sQ", 1, name, len(content) + 16) + content
