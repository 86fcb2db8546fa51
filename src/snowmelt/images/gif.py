"""GIF of one frame: other numbers of the same palette in its place, all other blocks byte for byte.

Source: Graphics Interchange Format, version 89a.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snowmelt.errors import UserError
from snowmelt.images.base import Array, Layout
from snowmelt.images.codecs import CodecImage
from snowmelt.images.palette import Palette
from snowmelt.images.raster import picture_layout

_EXTENSION, _IMAGE, _END, _CONTROL = 0x21, 0x2C, 0x3B, 0xF9
_TABLE, _INTERLACED, _TRANSPARENT = 0x80, 0x40, 1


@dataclass(frozen=True)
class _Frame:
    """Where a frame's descriptor begins, its colours and its codes."""

    start: int
    table: int
    codes: int
    end: int
    clear: int | None


class GifImage(CodecImage):
    """A GIF of one frame, which is RGB, or RGBA where a colour is transparent."""

    suffixes = (".gif",)
    signatures = ((0, b"GIF87a"), (0, b"GIF89a"))
    kind = "GIF"

    def _header(self, data: bytes) -> Layout:
        try:
            frames = list(_frames(data))
        except IndexError as error:
            raise ValueError("it is cut off") from error
        if len(frames) != 1:
            raise UserError(
                f"{self.path}: a GIF of {len(frames)} frames; extract them first: ffmpeg -i FILE %05d.png"
            )
        (self._frame,) = frames
        width, height, marks = struct.unpack_from("<HHB", data, self._frame.start + 5)
        colours = _colours(data, self._frame.table)
        clear = self._frame.clear
        if clear is not None and clear < len(colours):
            opacity = np.where(np.arange(len(colours)) == clear, 0, 255).astype(np.uint8)
            colours = np.column_stack([colours, opacity])
        self._palette = Palette(colours)
        self._interlaced = bool(marks & _INTERLACED)
        count = len(colours)
        self.rounding = f"the result takes the nearest of its {count} colours; --to png keeps more"
        channels = colours.shape[1]
        return picture_layout(height, width, channels, alpha=channels == 4)

    def _decode(self, data: bytes) -> Array:
        # The frame as a file of its own: the canvas around it, transparency and disposal do not count.
        layout, frame = self.layout, self._frame
        size = struct.pack("<HH", layout.width, layout.height)
        table = bytes(3 * 256)
        head = b"GIF89a" + size + b"\xf7\0\0" + table
        place = bytes([_IMAGE]) + bytes(4) + size + bytes([_INTERLACED * self._interlaced])
        alone = head + place + data[frame.codes : frame.end] + bytes([_END])
        numbers = self._decoded_by("gif", alone, channels=1, index=0, asrgb=False)
        return self._palette.checked(numbers)

    def _shown(self, levels: Array) -> Array:
        return self._palette.shown(levels)

    def _exchanged(self, data: bytes, levels: Array, pixels: Array) -> bytes:
        numbers = self._palette.nearest(levels, pixels)
        if np.array_equal(numbers, levels):
            return data
        import imagecodecs

        numbers = np.ascontiguousarray(numbers[..., 0])
        encoded = bytes(imagecodecs.gif_encode(numbers, colormap=np.zeros((256, 3), np.uint8)))
        (new,) = _frames(encoded)
        self._check_encoded("gif", encoded, numbers, index=0, asrgb=False)
        frame = self._frame
        head = bytearray(data[: frame.codes])
        head[frame.start + 9] &= ~_INTERLACED
        return bytes(head) + encoded[new.codes : new.end] + data[frame.end :]


def _frames(data: bytes) -> Iterator[_Frame]:
    table = 13 if data[10] & _TABLE else 0
    place = 13 + (3 * _entries(data[10]) if table else 0)
    clear: int | None = None
    while place < len(data) and data[place] != _END:
        if data[place] == _EXTENSION:
            if data[place + 1] == _CONTROL:
                clear = data[place + 6] if data[place + 3] & _TRANSPARENT else None
            place = _after_blocks(data, place + 2)
        elif data[place] == _IMAGE:
            marks, codes = data[place + 9], place + 10
            own = codes if marks & _TABLE else table
            codes += 3 * _entries(marks) if marks & _TABLE else 0
            end = _after_blocks(data, codes + 1)
            yield _Frame(place, own, codes, end, clear)
            place, clear = end, None
        else:
            raise ValueError(f"a block of the unknown kind {data[place]:#x}")


def _entries(marks: int) -> int:
    return 2 ** ((marks & 7) + 1)


def _after_blocks(data: bytes, place: int) -> int:
    """Where a chain of blocks ends, each of which begins with its length."""
    while data[place]:
        place += 1 + data[place]
    return place + 1


def _colours(data: bytes, table: int) -> NDArray[np.uint8]:
    if not table:
        raise ValueError("it has no colours")
    # The byte with the table's length stands right before that of an image, three before the global one.
    count = _entries(data[10] if table == 13 else data[table - 1])
    found = np.frombuffer(data[table : table + 3 * count], np.uint8)
    return found.reshape(-1, 3)
