"""TGA (Targa): new pixels in the place of the old ones. RLE becomes plain, which loses nothing.

Such a file has no mark at its beginning, so that its suffix counts.

Source: Truevision TGA File Format Specification, version 2.0.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snowmelt.images.base import MAX_PIXELS, Array, Layout
from snowmelt.images.bmp import RUN, Field
from snowmelt.images.codecs import check_claim
from snowmelt.images.palette import Palette
from snowmelt.images.raster import RasterImage, picture_layout

_HEADER = struct.Struct("<BBBHHBHHHHBB")
_PALETTE, _COLOURS, _GREYS, _RLE = 1, 2, 3, 8
_RIGHT, _TOP, _INTERLEAVED, _OPACITY = 0x10, 0x20, 0xC0, 15
_FOOTER, _FOOTER_SIZE = b"TRUEVISION-XFILE.\0", 26
# Places within the extension area where it says other places: colour correction, stamp, lines.
_PLACES = (482, 486)
_LINES = 490
_DEPTHS = {_PALETTE: (8,), _COLOURS: (15, 16, 24, 32), _GREYS: (8, 16)}
_WORD = tuple(map(Field.of, (0x7C00, 0x3E0, 0x1F)))


class TgaImage(RasterImage):
    """TGA of a palette, grey (with opacity of 16 bits), or of 15 to 32 bits in colour."""

    suffixes = (".tga",)
    kind = "TGA"
    unsigned = True

    def __init__(
        self, path: str | Path, *, axes: str | None = None, max_pixels: int | None = MAX_PIXELS
    ) -> None:
        super().__init__(path, axes=axes, max_pixels=max_pixels)
        check_claim(self.path, self.layout.height * self.layout.width, max_pixels, RUN)

    def _header(self, data: bytes) -> Layout:
        fields = _HEADER.unpack_from(data)
        name, mapped, kind, first, length, entry, _, _, width, height, self._depth, marks = fields
        self._kind, self._rle = kind & ~_RLE, bool(kind & _RLE)
        if mapped > 1 or self._depth not in _DEPTHS.get(self._kind, ()) or marks & _INTERLEAVED:
            raise ValueError(f"type {kind}, {self._depth} bits a pixel, marks {marks:#x}")
        self._start = _HEADER.size + name + length * ((entry + 7) // 8) * mapped
        self._marks = marks
        opacity = bool(marks & _OPACITY) and self._depth in (16, 32)
        self._palette = None
        if self._kind == _PALETTE:
            self._palette = Palette(_colour_map(data, _HEADER.size + name, first, length, entry))
        if self._kind == _PALETTE or (self._depth < 24 and self._kind == _COLOURS):
            return self._of_few(height, width)
        self._channels = (1 if self._kind == _GREYS else 3) + opacity
        return picture_layout(height, width, self._channels, alpha=opacity)

    def _of_few(self, height: int, width: int) -> Layout:
        few = f"{len(self._palette.colours)} colours" if self._palette else "15 bits a pixel"
        self.rounding = f"the result is rounded to its {few}; --to png keeps more"
        self._channels = 3
        return picture_layout(height, width, 3)

    @property
    def _size(self) -> int:
        """Bytes of a pixel."""
        return (self._depth + 7) // 8

    def _decode(self, data: bytes) -> Array:
        """(H, W, bytes of a pixel), the first row that is seen first."""
        height, width = self.layout.height, self.layout.width
        count = height * width * self._size
        stored = data[self._start :]
        raw = _unrolled(stored, count, self._size)[0] if self._rle else stored[:count]
        if len(raw) < count:
            raise ValueError("it is cut off")
        levels = self._turned(np.frombuffer(raw, np.uint8).reshape(height, width, self._size))
        return levels if self._palette is None else self._palette.checked(levels)

    def _turned(self, pixels: Array) -> Array:
        """Between the order in the file and that in which rows and columns are seen."""
        rows = pixels if self._marks & _TOP else pixels[::-1]
        return rows[:, ::-1] if self._marks & _RIGHT else rows

    def _shown(self, levels: Array) -> Array:
        if self._palette is not None:
            return self._palette.shown(levels)
        if self._kind == _GREYS:
            return levels[..., : self._channels]
        if self._depth < 24:
            words = np.ascontiguousarray(levels).view("<u2")[..., 0]
            return np.stack([field.get(words, self.layout.dtype) for field in _WORD], axis=-1)
        return levels[..., [2, 1, 0, 3][: self._channels]]  # stored as blue, green, red

    def _exchanged(self, data: bytes, levels: Array, pixels: Array) -> bytes:
        shown = self._shown(levels)
        if np.array_equal(shown, pixels):
            return data
        new = self._turned(self._stored(levels, shown, pixels)).tobytes()
        head = bytearray(data[: self._start])
        rest = data[self._start :]
        used = len(new)
        if self._rle:
            used = _unrolled(rest, len(new), self._size)[1]
            head[2] &= ~_RLE
        return bytes(head) + new + _moved(data, self._start + used, len(new) - used)

    def _stored(self, levels: Array, shown: Array, pixels: Array) -> Array:
        if self._palette is not None:
            return self._palette.nearest(levels, pixels)
        stored = levels.copy()
        if self._kind == _GREYS:
            stored[..., : self._channels] = pixels
        elif self._depth < 24:
            words = np.ascontiguousarray(levels).view("<u2")[..., 0]
            new = words
            for channel, field in enumerate(_WORD):
                new = field.put(new, pixels[..., channel])
            new = np.where(np.any(shown != pixels, axis=-1), new, words)
            stored = new.astype("<u2")[..., None].view(np.uint8)
        else:
            stored[..., [2, 1, 0, 3][: self._channels]] = pixels
        return stored


def _colour_map(data: bytes, start: int, first: int, length: int, bits: int) -> NDArray[np.uint8]:
    size = (bits + 7) // 8
    entries = np.frombuffer(data[start : start + length * size], np.uint8).reshape(length, size)
    if size == 2:
        words = np.ascontiguousarray(entries).view("<u2")[..., 0]
        colours = np.stack([field.get(words, np.dtype(np.uint8)) for field in _WORD], axis=-1)
    elif size in (3, 4):
        colours = entries[:, 2::-1]
    else:
        raise ValueError(f"a palette of {bits} bits an entry")
    return np.concatenate([np.zeros((first, 3), np.uint8), colours]).astype(np.uint8)


def _unrolled(codes: bytes, count: int, size: int) -> tuple[bytes, int]:
    """Pixels of so many bytes altogether, and how many bytes of codes hold them."""
    parts = []
    place = done = 0
    while done < count and place < len(codes):
        number = (codes[place] & 127) + 1
        place += 1
        if codes[place - 1] & 128:
            part = codes[place : place + size] * number
            place += size
        else:
            part = codes[place : place + size * number]
            place += size * number
        parts.append(part)
        done += len(part)
    return b"".join(parts)[:count], place


def _moved(data: bytes, start: int, shift: int) -> bytes:
    """What follows the pixels, with the places that it says moved as far as itself."""
    rest = bytearray(data[start:])
    if not shift or not rest.endswith(_FOOTER) or len(rest) < _FOOTER_SIZE:
        return bytes(rest)

    def move(place: int, *, lost: bool = False) -> int:
        (old,) = struct.unpack_from("<I", rest, place)
        if old >= start:
            struct.pack_into("<I", rest, place, 0 if lost else old + shift)
            return int(old) - start
        return -1

    extension = move(len(rest) - _FOOTER_SIZE)
    developer = move(len(rest) - _FOOTER_SIZE + 4)
    if 0 <= extension <= len(rest) - _LINES - 4:
        for place in _PLACES:
            move(extension + place)
        move(extension + _LINES, lost=True)  # lines of RLE that are no more
    if 0 <= developer <= len(rest) - 2:
        (tags,) = struct.unpack_from("<H", rest, developer)
        for number in range(tags):
            place = developer + 2 + 10 * number + 2
            if place + 4 <= len(rest):
                move(place)
    return bytes(rest)
