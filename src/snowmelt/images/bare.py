"""PGM, PPM, PFM and BMP: files in which the pixels lie bare; new ones are put in their place.

What stands before and behind the pixels (comments, palette, resolution, colour profile) stays byte for byte.

Sources: the pages pgm, ppm and pfm of the Netpbm manual; BITMAPFILEHEADER to BITMAPV5HEADER of the Windows
documentation.
"""

from __future__ import annotations

import re
import struct
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from snowmelt.errors import UserError
from snowmelt.images.base import Array, Layout
from snowmelt.images.palette import Palette, packed, unpacked
from snowmelt.images.raster import RasterImage, picture_layout

_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_PNM = re.compile(
    rb"P([2356fF])" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})" + _GAP + rb"([-+.\deE]+)\s"
)
_COMMENT = re.compile(rb"#[^\r\n]*")
Content = TypeVar("Content", bytes, list[bytes])
_LINE = 70  # characters that a line of text may have


class PnmImage(RasterImage):
    """PGM and PPM of 1 to 16 bits, as text or in bytes, and PFM, which holds float32."""

    suffixes = (".pgm", ".ppm", ".pnm", ".pfm")
    kind = "PNM"

    def _header(self, data: bytes) -> Layout:
        found = _PNM.match(data)
        if not found:
            raise ValueError("it begins with neither of P2, P3, P5, P6, Pf, PF and three numbers")
        kind, width, height, most = found.groups()
        self._start, self._text = found.end(), kind in b"23"
        channels = 3 if kind in b"36F" else 1
        if kind in b"fF":
            self._stored: np.dtype[Any] = np.dtype("<f4" if float(most) < 0 else ">f4")
        else:
            greatest = int(most)
            if not 0 < greatest < 2**16:
                raise ValueError(f"{greatest} is said to be its greatest value; it is 1 to 65535")
            self.value_range = 0, greatest
            self._stored = np.dtype("u1" if greatest < 256 else ">u2")
        dtype = self._stored.newbyteorder("=")
        return picture_layout(int(height), int(width), channels, dtype.name)

    @property
    def _upwards(self) -> bool:
        """Whether the last row comes first."""
        return self._stored.kind == "f"

    @property
    def _end(self) -> int:
        """Where pixels in bytes end."""
        return self._start + self._count * self._stored.itemsize

    @property
    def _count(self) -> int:
        return self.layout.height * self.layout.width * self.layout.channels

    def _decode(self, data: bytes) -> Array:
        if self._text:
            words = _COMMENT.sub(b"", data[self._start :]).split()
            values: Array = np.array(_part(words, 0, self._count)).astype(np.int64)
            more = len(words) > self._count
        else:
            values = np.frombuffer(_part(data, self._start, self._end), self._stored)
            more = data[self._end :].lstrip()[:1] == b"P"
        if more:
            raise UserError(f"{self.path}: several pictures in one file; take them apart first")
        if self.value_range and not 0 <= values.min() <= values.max() <= self.value_range[1]:
            raise ValueError(f"it has values outside of {self.value_range}, which it announces")
        picture = values.astype(self.layout.dtype).reshape(*self.layout.shape[:2], -1)
        return picture[::-1] if self._upwards else picture

    def _exchanged(self, data: bytes, levels: Array, pixels: Array) -> bytes:
        if np.array_equal(levels, pixels):
            return data  # text keeps its lines and comments
        if self.value_range and pixels.max() > self.value_range[1]:
            raise UserError(
                f"{self.path}: its header says that no value is above {self.value_range[1]}"
            )
        values = pixels[::-1] if self._upwards else pixels
        if self._text:
            return data[: self._start] + _as_text(values)
        return data[: self._start] + values.astype(self._stored).tobytes() + data[self._end :]


def _part(data: Content, start: int, stop: int) -> Content:
    if stop > len(data):
        raise ValueError("it is cut off")
    return data[start:stop]


def _as_text(values: Array) -> bytes:
    words = [str(value) for value in values.reshape(-1).tolist()]
    most = _LINE // (max(map(len, words)) + 1)
    lines = (" ".join(words[place : place + most]) for place in range(0, len(words), most))
    return ("\n".join(lines) + "\n").encode()


_INFO = 14  # where the second header begins
_RGB, _BITFIELDS = 0, 3
_MASKS = 0xFF0000, 0xFF00, 0xFF
_OPACITY = 0xFF000000


class BmpImage(RasterImage):
    """BMP without compression: of a palette of 1, 4 or 8 bits, or of 24 or 32 bits."""

    suffixes = (".bmp", ".dib")
    kind = "BMP"

    def _header(self, data: bytes) -> Layout:
        self._start, size, width, height = struct.unpack_from("<IIii", data, 10)
        self._bits, compression = struct.unpack_from("<HI", data, _INFO + 14)
        if size < 40:
            raise ValueError(f"a header of {size} bytes; those since Windows 3 can be read")
        self._upwards, height = height > 0, abs(height)
        opacity = _opacity(data, size) if compression == _BITFIELDS else 0
        plain = compression == _RGB and self._bits in (1, 4, 8, 24, 32)
        if not plain and not (compression == _BITFIELDS and self._bits == 32):
            raise ValueError(
                f"{self._bits} bits a pixel, compression {compression}; save it as PNG"
            )
        self._stride = (self._bits * max(width, 0) + 31) // 32 * 4
        self._palette = _palette(data, size, self._bits) if self._bits <= 8 else None
        channels = 4 if opacity else 3
        if self._palette is not None and _is_grey(self._palette.colours):
            self._palette, channels = None, 1
        return picture_layout(height, max(width, 0), channels, alpha=bool(opacity))

    def _decode(self, data: bytes) -> Array:
        rows = self._rows(data)
        width = self.layout.width
        if self._bits <= 8:
            levels = unpacked(rows, self._bits)[:, :width, None]
            return levels if self._palette is None else self._palette.checked(levels)
        pixels = rows[:, : self._bits // 8 * width].reshape(len(rows), width, -1)
        return pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]  # stored as blue, green, red

    def _rows(self, data: bytes) -> NDArray[np.uint8]:
        """(H, bytes of a row), top to bottom."""
        height = self.layout.height
        stored = _part(data, self._start, self._start + height * self._stride)
        rows = np.frombuffer(stored, np.uint8).reshape(height, self._stride)
        return rows[::-1] if self._upwards else rows

    def _shown(self, levels: Array) -> Array:
        if self._palette is not None:
            return self._palette.shown(levels)
        return levels[..., : self.layout.channels]

    def _exchanged(self, data: bytes, levels: Array, pixels: Array) -> bytes:
        rows = self._rows(data).copy()
        if self._bits <= 8:
            if self._palette is not None:
                pixels = self._palette.nearest(levels, pixels)
            numbers = unpacked(rows, self._bits)
            numbers[:, : self.layout.width] = pixels[..., 0]
            rows = packed(numbers, self._bits)
        else:
            changed = levels.copy()
            changed[..., : pixels.shape[2]] = pixels
            stored = changed[..., [2, 1, 0, 3][: changed.shape[2]]].reshape(len(rows), -1)
            rows[:, : stored.shape[1]] = stored
        rows = rows[::-1] if self._upwards else rows
        return data[: self._start] + rows.tobytes() + data[self._start + rows.size :]


def _opacity(data: bytes, size: int) -> int:
    """Mask of the opacity, 0 where there is none; the colours must lie as everywhere."""
    masks = struct.unpack_from("<III", data, _INFO + 40)
    opacity: int = struct.unpack_from("<I", data, _INFO + 52)[0] if size >= 56 else 0
    if masks != _MASKS or opacity not in (0, _OPACITY):
        raise ValueError("colours in unusual places of a pixel; save it as PNG")
    return opacity


def _palette(data: bytes, size: int, bits: int) -> Palette:
    used = struct.unpack_from("<I", data, _INFO + 32)[0] or 2**bits
    if used > 2**bits:
        raise ValueError(f"a palette of {used} colours for {bits} bits")
    entries = np.frombuffer(_part(data, _INFO + size, _INFO + size + 4 * used), np.uint8)
    return Palette(entries.reshape(-1, 4)[:, 2::-1].copy())  # stored as blue, green, red


def _is_grey(palette: NDArray[np.uint8]) -> bool:
    """Whether each of 256 indices is its own grey."""
    return len(palette) == 256 and bool((palette == np.arange(256)[:, None]).all())
