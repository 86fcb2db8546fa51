"""The items of an AVIF file: images, opacity and metadata, with their properties and references.

A file is read into these and written from them anew, so that items of one file can join another.

Sources: ISO/IEC 14496-12, 8.11 (meta, iinf, iloc, iref, pitm) and ISO/IEC 23008-12, 9.3 (iprp, ipco, ipma).
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from snowmelt.images.boxes import Box, box, boxes, only, packed

_MOST = 2**28  # bytes of all items together, as their places may overlap
_MOST_PARTS = 2**18  # of all items together (a grid has up to 2**16); empty ones cost time too
_HEADER = struct.Struct(">B3s")  # version and flags of a full box


@dataclass(frozen=True)
class Item:
    """One item: its number, type, further words of its entry (content type), data, and properties.

    Each property is a whole box, with whether a reader must understand it.
    """

    number: int
    kind: bytes
    words: bytes
    data: bytes
    properties: tuple[tuple[bool, Box], ...] = ()

    def get(self, name: bytes) -> bytes | None:
        """The content of its first property of a name."""
        return next((each.content for _, each in self.properties if each.name == name), None)


@dataclass(frozen=True)
class Items:
    """All items of a file; references are (type, from, to)."""

    brands: bytes
    primary: int
    items: dict[int, Item]
    references: tuple[tuple[bytes, int, tuple[int, ...]], ...] = ()
    others: tuple[Box, ...] = field(default=(), repr=False)

    @property
    def image(self) -> Item:
        """The primary item."""
        return self.items[self.primary]

    def about(self, kind: bytes, number: int) -> list[Item]:
        """The items that refer to another one by a reference of this type."""
        return [self.items[a] for name, a, to in self.references if name == kind and number in to]


def read(data: bytes) -> Items:
    """The items of a file; ValueError where it is damaged."""
    outer = list(boxes(data))
    meta = only(outer, b"meta").content
    inner = list(boxes(meta[4:]))
    found = {each.name: each.content for each in reversed(inner)}
    version = _version(found[b"pitm"])
    (primary,) = struct.unpack_from(">H" if version == 0 else ">I", found[b"pitm"], 4)
    entries = dict(_entries(found[b"iinf"]))
    places = dict(_places(found[b"iloc"], data, found.get(b"idat", b"")))
    owned = _properties(found[b"iprp"])
    items = {
        number: Item(number, kind, words, places.get(number, b""), owned.get(number, ()))
        for number, (kind, words) in entries.items()
    }
    if primary not in items:
        raise ValueError("it has no primary image")
    references = tuple(_references(found[b"iref"])) if b"iref" in found else ()
    known = tuple(each for each in references if {each[1], *each[2]} <= set(items))
    return Items(only(outer, b"ftyp").content, primary, items, known)


def write(items: Items) -> bytes:
    """A file of these items."""
    listed = list(items.items.values())
    pool = list(dict.fromkeys(each for item in listed for _, each in item.properties))
    start = 0
    for _ in range(
        2
    ):  # the places have a fixed width, so that the second round knows where data begin
        meta = _meta(items, listed, pool, start)
        head = box(b"ftyp", items.brands) + meta
        start = len(head) + 8
    body = box(b"mdat", *(item.data for item in listed))
    assert len(body) < 2**32
    return head + body


def with_metadata(encoded: Items, source: Items, kept: tuple[bytes, ...]) -> Items:
    """An encoded image with EXIF and XMP of the source, and those properties of its image that are kept."""
    old = source.image
    joined = tuple((essential, each) for essential, each in old.properties if _is_kept(each, kept))
    new = dict(encoded.items)
    for number, item in encoded.items.items():
        whole = item.properties + (joined if number == encoded.primary else _turns(joined))
        new[number] = replace(item, properties=whole)
    references = list(encoded.references)
    for item in source.about(b"cdsc", source.primary):
        if item.kind in (b"Exif", b"mime"):
            number = max(new) + 1
            new[number] = replace(item, number=number, properties=())
            references.append((b"cdsc", number, (encoded.primary,)))
    return replace(encoded, items=new, references=tuple(references))


def _is_kept(each: Box, kept: tuple[bytes, ...]) -> bool:
    """Of colours only a profile: the encoder says the numbers (nclx) itself."""
    return each.name in kept and (each.name != b"colr" or each.content[:4] in (b"prof", b"rICC"))


def _turns(properties: tuple[tuple[bool, Box], ...]) -> tuple[tuple[bool, Box], ...]:
    """What opacity shares with its image."""
    return tuple(each for each in properties if each[1].name in (b"irot", b"imir", b"clap"))


def _version(content: bytes) -> int:
    return content[0]


def _entries(content: bytes) -> Iterator[tuple[int, tuple[bytes, bytes]]]:
    start = 6 if _version(content) == 0 else 8
    for each in boxes(content[start:]):
        if each.name == b"infe":
            form = ">HH4s" if _version(each.content) == 2 else ">IH4s"
            number, _, kind = struct.unpack_from(form, each.content, 4)
            yield number, (kind, each.content[4 + struct.calcsize(form) :])


def _places(content: bytes, file: bytes, idat: bytes) -> Iterator[tuple[int, bytes]]:
    """The data of each item, from where it lies in the file or in ``idat``."""
    version, sizes = _version(content), int.from_bytes(content[4:6], "big")
    of_offset, of_length, of_base, of_index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    cursor = _Cursor(content, 6)
    wide = 4 if version == 2 else 2
    left, parts_left = _MOST, _MOST_PARTS
    for _ in range(cursor.take(wide)):
        number = cursor.take(wide)
        method = cursor.take(2) & 15 if version else 0
        cursor.take(2)
        base = cursor.take(of_base)
        parts = []
        count = cursor.take(2)
        parts_left -= count
        if parts_left < 0:
            raise ValueError(f"its items lie in more than {_MOST_PARTS:,} parts")
        for _ in range(count):
            if version:
                cursor.take(of_index)
            start, length = base + cursor.take(of_offset), cursor.take(of_length)
            source = (file, idat)[method] if method < 2 else b""
            part = source[start : start + length] if length else source[start:]
            left -= len(part)
            if len(part) < length or left < 0:
                raise ValueError("it is cut off")
            parts.append(part)
        yield number, b"".join(parts)


class _Cursor:
    def __init__(self, data: bytes, place: int) -> None:
        self._data, self._place = data, place

    def take(self, size: int) -> int:
        if self._place + size > len(self._data):
            raise ValueError("its index of items is damaged")
        self._place += size
        return int.from_bytes(self._data[self._place - size : self._place], "big")


def _properties(content: bytes) -> dict[int, tuple[tuple[bool, Box], ...]]:
    inner = list(boxes(content))
    pool = [replace(each, start=0) for each in boxes(only(inner, b"ipco").content)]
    owned: dict[int, tuple[tuple[bool, Box], ...]] = {}
    for each in inner:
        if each.name == b"ipma":
            wide = each.content[3] & 1
            cursor = _Cursor(each.content, 4)
            for _ in range(cursor.take(4)):
                number = cursor.take(4 if _version(each.content) else 2)
                marks = [cursor.take(2 if wide else 1) for _ in range(cursor.take(1))]
                high = 0x8000 if wide else 0x80
                owned[number] = tuple(
                    (bool(mark & high), pool[(mark & ~high) - 1])
                    for mark in marks
                    if 0 < mark & ~high <= len(pool)
                )
    return owned


def _references(content: bytes) -> Iterator[tuple[bytes, int, tuple[int, ...]]]:
    wide = 4 if _version(content) else 2
    for each in boxes(content[4:]):
        cursor = _Cursor(each.content, 0)
        source = cursor.take(wide)
        yield each.name, source, tuple(cursor.take(wide) for _ in range(cursor.take(2)))


def _meta(items: Items, listed: list[Item], pool: list[Box], start: int) -> bytes:
    full, none = _HEADER.pack(0, b"\0\0\0"), b"\0\0\0"
    handler = box(b"hdlr", full, b"\0\0\0\0pict" + bytes(13))
    primary = box(b"pitm", full, struct.pack(">H", items.primary))
    entries = [
        box(b"infe", _HEADER.pack(2, none), struct.pack(">HH4s", item.number, 0, item.kind), item.words)
        for item in listed
    ]  # fmt: skip
    information = box(b"iinf", full, struct.pack(">H", len(listed)), *entries)
    starts = itertools.accumulate((len(item.data) for item in listed), initial=start)
    places = [
        struct.pack(">HHHII", item.number, 0, 1, place, len(item.data))
        for item, place in zip(listed, starts, strict=False)
    ]
    located = box(b"iloc", full, b"\x44\0", struct.pack(">H", len(listed)), *places)
    links = [
        box(name, struct.pack(f">HH{len(to)}H", source, len(to), *to))
        for name, source, to in items.references
    ]
    references = box(b"iref", full, *links) if links else b""
    owned = box(b"iprp", box(b"ipco", packed(pool)), _associations(listed, pool))
    return box(b"meta", full, handler, primary, located, information, references, owned)


def _associations(listed: list[Item], pool: list[Box]) -> bytes:
    entries = []
    for item in listed:
        if item.properties:
            marks = [0x8000 * must | 1 + pool.index(each) for must, each in item.properties]
            entries.append(struct.pack(f">HB{len(marks)}H", item.number, len(marks), *marks))
    return box(b"ipma", _HEADER.pack(0, b"\0\0\1"), struct.pack(">I", len(entries)), *entries)
