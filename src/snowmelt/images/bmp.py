"""BMP: new pixels in the place of the old ones, everything around them byte for byte.

All that Windows and OS/2 wrote and browsers show: 1 to 8 bits of a palette, plain or RLE, 16 bits and bit
fields of any widths, 24 and 32 bits, either way up. RLE becomes plain, which loses nothing.

Sources: BITMAPFILEHEADER to BITMAPV5HEADER and "Bitmap Compression" of the Windows documentation;
BITMAPCOREHEADER and BITMAPINFOHEADER2 of OS/2.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snowmelt.errors import UserError
from snowmelt.images.base import MAX_PIXELS, Array, Layout
from snowmelt.images.codecs import check_claim
from snowmelt.images.palette import Palette, packed, unpacked
from snowmelt.images.raster import RasterImage, picture_layout

# Pixels for a byte of runs that are taken unasked; plain files have 8 at most.
RUN = 16
_INFO = 14  # where the second header begins
_MASKS = _INFO + 40  # in or behind the second header: the same place
_RGB, _RLE8, _RLE4, _BITFIELDS, _ALPHA_BITFIELDS = 0, 1, 2, 3, 6
_RLE = {_RLE8: 8, _RLE4: 4}
_CORE, _V3, _V4_WITH_ALPHA, _LONGEST = 12, 40, 56, 124
_WINDOWS = (40, 52, 56, 108, 124)
_USUAL = {16: (0x7C00, 0x3E0, 0x1F), 32: (0xFF0000, 0xFF00, 0xFF)}
_PALETTES, _COLOURS = (1, 2, 4, 8), (16, 24, 32)


@dataclass(frozen=True)
class Field:
    """One channel's bits in the word that is a pixel, spread over 8 or 16 bits when shown."""

    shift: int
    bits: int

    @classmethod
    def of(cls, mask: int) -> Field:
        """By the mask of its bits."""
        shift = (mask & -mask).bit_length() - 1
        return cls(shift, (mask >> shift).bit_length())

    @property
    def most(self) -> int:
        """Its greatest value."""
        return 2**self.bits - 1

    def get(self, words: Array, dtype: np.dtype[Any]) -> Array:
        """The channel of pixels, spread over all values of a type."""
        if self.bits == 8 * dtype.itemsize:  # the usual case, without large intermediate values
            return (words.astype(np.uint32) >> self.shift).astype(dtype)
        levels = words.astype(np.int64) >> self.shift & self.most
        full = 2 ** (8 * dtype.itemsize) - 1
        return ((levels * full + self.most // 2) // self.most).astype(dtype)

    def put(self, words: Array, values: Array) -> Array:
        """The pixels with other values in this channel, rounded to its bits."""
        full = 2 ** (8 * values.dtype.itemsize) - 1
        levels = (values.astype(np.int64) * self.most + full // 2) // full
        others = words.astype(np.int64) & ~(self.most << self.shift)
        return (others | levels << self.shift).astype(words.dtype)


class BmpImage(RasterImage):
    """BMP of every kind but those that hold a JPEG, a PNG, Huffman codes or RLE of 24 bits."""

    suffixes = (".bmp", ".dib")
    signatures = ((0, b"BM"),)
    kind = "BMP"

    def __init__(
        self, path: str | Path, *, axes: str | None = None, max_pixels: int | None = MAX_PIXELS
    ) -> None:
        super().__init__(path, axes=axes, max_pixels=max_pixels)
        check_claim(self.path, self.layout.height * self.layout.width, max_pixels, RUN)

    def _header(self, data: bytes) -> Layout:
        self._start, self._size = struct.unpack_from("<II", data, 10)
        if not (self._size == _CORE or 16 <= self._size <= _LONGEST):
            raise ValueError(f"a header of {self._size} bytes; expected 12 to {_LONGEST}")
        head = _part(data, _INFO, _INFO + self._size).ljust(_LONGEST, b"\0")
        if self._size == _CORE:
            width, height, _, self._bits = struct.unpack_from("<HHHH", head, 4)
            self._compression = used = 0
        else:
            width, height, _, self._bits, self._compression = struct.unpack_from("<iiHHI", head, 4)
            (used,) = struct.unpack_from("<I", head, 32)
        self._upwards, height, width = height > 0, abs(height), max(width, 0)
        self._check_kind()
        self._stride = (self._bits * width + 31) // 32 * 4
        self._palette: Palette | None = None
        if self._bits in _PALETTES:
            return self._of_palette(data, height, width, used)
        return self._of_fields(data, height, width)

    def _check_kind(self) -> None:
        bits, compression = self._bits, self._compression
        plain = compression == _RGB and bits in (*_PALETTES, *_COLOURS)
        fields = compression in (_BITFIELDS, _ALPHA_BITFIELDS) and bits in (16, 32)
        if not (plain or fields or _RLE.get(compression) == bits):
            raise UserError(
                f"{self.path}: a BMP of {bits} bits a pixel in compression {compression}, which is not read; "
                "save it as PNG"
            )

    def _of_palette(self, data: bytes, height: int, width: int, used: int) -> Layout:
        entry = 3 if self._size == _CORE else 4
        place = _INFO + self._size
        count = min(used or 2**self._bits, 2**self._bits)
        if self._start > place:  # writers store fewer than they announce
            count = min(count, (self._start - place) // entry)
        entries = np.frombuffer(_part(data, place, place + entry * count), np.uint8)
        colours = entries.reshape(-1, entry)[:, 2::-1].copy()  # stored as blue, green, red
        self._start = self._start or place + entries.size
        if _is_grey(colours):
            return picture_layout(height, width, 1)
        self._palette = Palette(colours)
        self.rounding = f"the result takes the nearest of its {count} colours; --to png keeps more"
        return picture_layout(height, width, 3)

    def _of_fields(self, data: bytes, height: int, width: int) -> Layout:
        self._fields: tuple[Field, ...] = ()
        self._start = self._start or _INFO + self._size
        if self._bits == 24:
            return picture_layout(height, width, 3)
        masks, opacity = _USUAL[self._bits], 0
        if self._compression != _RGB:
            masks = struct.unpack_from("<III", data, _MASKS)
            if self._size >= _V4_WITH_ALPHA or self._compression == _ALPHA_BITFIELDS:
                (opacity,) = struct.unpack_from("<I", data, _MASKS + 12)
        self._fields = tuple(map(Field.of, self._checked(masks + (opacity,) * bool(opacity))))
        depths = [field.bits for field in self._fields]
        dtype = "uint8" if max(depths) <= 8 else "uint16"
        finest = 8 if dtype == "uint8" else 16
        if min(depths[:3]) < finest:
            widths = "-".join(map(str, depths[:3]))
            self.rounding = f"the result is rounded to {widths} bits; --to png keeps {finest}"
        return picture_layout(height, width, len(depths), dtype, alpha=bool(opacity))

    def _checked(self, masks: tuple[int, ...]) -> tuple[int, ...]:
        apart = all(not a & b for a, b in itertools.combinations(masks, 2))
        whole = all(mask and Field.of(mask).most << Field.of(mask).shift == mask for mask in masks)
        inside = all(mask < 2**self._bits and Field.of(mask).bits <= 16 for mask in masks)
        if not (apart and whole and inside):
            found = ", ".join(f"{mask:#x}" for mask in masks)
            raise UserError(f"{self.path}: a BMP with the bit fields {found}; save it as PNG")
        return masks

    def _decode(self, data: bytes) -> Array:
        width = self.layout.width
        if self._bits in _PALETTES:
            levels = self._numbers(data)[..., None]
            return levels if self._palette is None else self._palette.checked(levels)
        rows = self._rows(data)[:, : self._bits // 8 * width]
        if self._bits == 24:
            return rows.reshape(len(rows), width, 3)[..., ::-1]  # stored as blue, green, red
        return np.ascontiguousarray(rows).view(f"<u{self._bits // 8}")[..., None]

    def _numbers(self, data: bytes) -> NDArray[np.uint8]:
        """(H, W) of a palette."""
        height, width = self.layout.height, self.layout.width
        if self._compression == _RGB:
            return unpacked(self._rows(data), self._bits)[:, :width]
        numbers = _unrolled(data[self._start :], height, width, self._bits)
        return numbers[::-1] if self._upwards else numbers

    def _rows(self, data: bytes) -> NDArray[np.uint8]:
        """(H, bytes of a row), top to bottom."""
        height = self.layout.height
        stored = _part(data, self._start, self._start + height * self._stride)
        rows = np.frombuffer(stored, np.uint8).reshape(height, self._stride)
        return rows[::-1] if self._upwards else rows

    def _shown(self, levels: Array) -> Array:
        if self._bits in _PALETTES:
            return levels if self._palette is None else self._palette.shown(levels)
        if self._bits == 24:
            return levels
        dtype = self.layout.dtype
        return np.stack([field.get(levels[..., 0], dtype) for field in self._fields], axis=-1)

    def _exchanged(self, data: bytes, levels: Array, pixels: Array) -> bytes:
        shown = self._shown(levels)
        if np.array_equal(shown, pixels):
            return data
        if self._bits in _PALETTES:
            if self._palette is not None:
                pixels = self._palette.nearest(levels, pixels)
            return self._with_numbers(data, pixels[..., 0])
        if self._bits == 24:
            content = np.ascontiguousarray(pixels[..., ::-1])
        else:
            words = levels[..., 0]
            for channel, field in enumerate(self._fields):
                words = field.put(words, pixels[..., channel])
            content = np.where(np.any(shown != pixels, axis=-1), words, levels[..., 0])
        stored = content.reshape(len(content), -1).view(np.uint8)
        rows = self._rows(data).copy()
        rows[:, : stored.shape[1]] = stored
        return self._with_rows(data, rows)

    def _with_numbers(self, data: bytes, numbers: Array) -> bytes:
        if self._compression == _RGB:
            old = unpacked(self._rows(data), self._bits)
        else:
            old = np.zeros((len(numbers), self._stride * 8 // self._bits), np.uint8)
        old[:, : self.layout.width] = numbers
        rows = packed(old, self._bits)
        return self._with_rows(data, rows) if self._compression == _RGB else self._plain(data, rows)

    def _with_rows(self, data: bytes, rows: NDArray[np.uint8]) -> bytes:
        rows = rows[::-1] if self._upwards else rows
        return data[: self._start] + rows.tobytes() + data[self._start + rows.size :]

    def _plain(self, data: bytes, rows: NDArray[np.uint8]) -> bytes:
        """A file that was RLE without compression; a colour profile behind its pixels comes along."""
        rows = rows[::-1] if self._upwards else rows
        new = bytearray(data[: self._start] + rows.tobytes())
        if self._size == _LONGEST:
            place, length = struct.unpack_from("<II", data, _INFO + 112)
            if _INFO + place >= self._start and length:
                profile = _part(data, _INFO + place, _INFO + place + length)
                struct.pack_into("<I", new, _INFO + 112, len(new) - _INFO)
                new += profile
        struct.pack_into("<I", new, 2, len(new))
        struct.pack_into("<I", new, _INFO + 16, _RGB)
        if self._size >= 24:
            struct.pack_into("<I", new, _INFO + 20, rows.size)
        return bytes(new)


def _unrolled(codes: bytes, height: int, width: int, bits: int) -> NDArray[np.uint8]:
    """RLE4 or RLE8 as numbers (H, W), the first row of the file first; what it skips is 0.

    ValueError where the codes end before the last pixel, and without an end mark.
    """
    numbers = bytearray(height * width)
    place = row = column = 0
    while row < height and place + 2 <= len(codes):
        count, value = codes[place], codes[place + 1]
        place += 2
        if count:
            run = bytes([value]) if bits == 8 else bytes([value >> 4, value & 15])
            new = (run * count)[:count]
        elif value == 0:
            row, column = row + 1, 0
            continue
        elif value == 1:
            return np.frombuffer(numbers, np.uint8).reshape(height, width)
        elif value == 2:
            column, row = column + _part(codes, place, place + 2)[0], row + codes[place + 1]
            place += 2
            continue
        else:
            size = (value * bits + 7) // 8
            new = _literal(_part(codes, place, place + size), bits)[:value]
            place += size + size % 2
        new = new[: max(0, width - column)]
        numbers[row * width + column : row * width + column + len(new)] = new
        column += len(new)
    whole = row >= height or (row == height - 1 and column >= width)
    if not whole:  # only an end mark may leave pixels out
        raise ValueError(f"it is cut off in row {row} of {height}")
    return np.frombuffer(numbers, np.uint8).reshape(height, width)


def _literal(codes: bytes, bits: int) -> bytes:
    return codes if bits == 8 else unpacked(np.frombuffer(codes, np.uint8)[None], bits).tobytes()


def _part(data: bytes, start: int, stop: int) -> bytes:
    if stop > len(data):
        raise ValueError("it is cut off")
    return data[start:stop]


def _is_grey(palette: NDArray[np.uint8]) -> bool:
    """Whether each of 256 indices is its own grey."""
    return len(palette) == 256 and bool((palette == np.arange(256)[:, None]).all())
