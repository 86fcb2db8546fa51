"""PGM, PPM and PFM: files in which the pixels lie bare; new ones are put in their place.

What stands before and behind the pixels (comments) stays byte for byte.

Source: the pages pgm, ppm and pfm of the Netpbm manual.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from snowmelt.errors import UserError
from snowmelt.images.base import Array, Layout
from snowmelt.images.raster import RasterImage, picture_layout

_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_PNM = re.compile(
    rb"P([2356fF])" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})" + _GAP + rb"([-+.\deE]{1,24})\s"
)
# Bytes before the pixels that are searched: the expression remembers 150 bytes for each blank in them.
_MOST_HEADER = 2**16
_COMMENT = re.compile(rb"#[^\r\n]*")
_DIGITS = b"0123456789 \t\n\v\f\r"
Content = TypeVar("Content", bytes, "NDArray[np.int64]")
_LINE = 70  # characters that a line of text may have


class PnmImage(RasterImage):
    """PGM and PPM of 1 to 16 bits, as text or in bytes, and PFM, which holds float32."""

    suffixes = (".pgm", ".ppm", ".pnm", ".pfm")
    signatures = tuple((0, b"P" + kind.encode()) for kind in "2356fF")
    kind = "PNM"

    def _header(self, data: bytes) -> Layout:
        found = _PNM.match(data, 0, _MOST_HEADER)
        if not found:
            raise ValueError(
                "its first 64 KB are no header: one of P2, P3, P5, P6, Pf, PF and three numbers"
            )
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
            text = _COMMENT.sub(b"", data[self._start :])
            words, _, others = text.partition(b"P")
            numbers = _from_text(words)
            more = bool(others) or len(numbers) > self._count
            values: Array = _part(numbers, 0, self._count)
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


def _from_text(text: bytes) -> NDArray[np.int64]:
    """The numbers in a text of nothing else; what is too large for any picture stays so."""
    if text.translate(None, _DIGITS):
        raise ValueError("it has other words than whole numbers")
    # numpy's own words, not Python's: one of 48,000 digits would make as long a cell for each of them.
    return np.fromstring(text, np.int64, sep=" ")


def _as_text(values: Array) -> bytes:
    words = [str(value) for value in values.reshape(-1).tolist()]
    most = _LINE // (max(map(len, words)) + 1)
    lines = (" ".join(words[place : place + most]) for place in range(0, len(words), most))
    return ("\n".join(lines) + "\n").encode()
