"""Radiance HDR (RGBE): new pixels behind the old header, which stays byte for byte.

A pixel is three mantissas of 8 bits with one exponent, to which the result is rounded. It is written without
run lengths, which every reader takes.

Source: the page "picture" of the Radiance reference manual (file formats).
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from snowmelt.errors import UserError
from snowmelt.images.base import Array, Layout
from snowmelt.images.codecs import CodecImage
from snowmelt.images.raster import picture_layout

_SIZE = re.compile(rb"([-+][XY]) (\d{1,7}) ([-+][XY]) (\d{1,7})\n")
_LONGEST_HEADER = 2**16


class RadianceImage(CodecImage):
    """Radiance HDR of three floats a pixel."""

    suffixes = (".hdr",)
    signatures = ((0, b"#?RADIANCE"), (0, b"#?RGBE"))
    kind = "Radiance HDR"

    def _header(self, data: bytes) -> Layout:
        end = data.find(b"\n\n", 0, _LONGEST_HEADER)
        found = _SIZE.match(data, end + 2) if end >= 0 else None
        if found is None:
            raise ValueError("its header does not end in the size, such as -Y 480 +X 640")
        down, height, across, width = found.groups()
        if b"FORMAT=32-bit_rle_xyze" in data[:end]:
            raise UserError(
                f"{self.path}: its colours are XYZ; convert it to RGB: ra_xyze -r FILE FILE.hdr"
            )
        if (down, across) != (b"-Y", b"+X"):
            raise UserError(
                f"{self.path}: its rows are turned ({down!r} {across!r}); convert it: pflip, protate"
            )
        self._start = found.end()
        return picture_layout(int(height), int(width), 3, "float32")

    def _decode(self, data: bytes) -> Array:
        # The decoder knows one spelling of the first lines.
        size = f"-Y {self.layout.height} +X {self.layout.width}\n"
        plain = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n" + size.encode() + data[self._start :]
        return self._decoded_by("rgbe", plain, header=True)

    def _exchanged(self, data: bytes, levels: Array, pixels: Array) -> bytes:
        if np.array_equal(levels, pixels):
            return data
        return data[: self._start] + _packed(pixels).tobytes()


def _packed(pixels: Array) -> NDArray[np.uint8]:
    """Mantissas and exponent (H, W, 4), rounded; the largest mantissa is 128 or more, or all are 0."""
    values = np.clip(np.nan_to_num(pixels.astype(np.float64)), 0, None)
    most = values.max(axis=-1)
    exponent = np.frexp(most)[1]
    exponent += np.rint(np.ldexp(most, 8 - exponent)) > 255
    exponent = np.clip(exponent, -127, 127)
    mantissas = np.rint(np.ldexp(values, (8 - exponent)[..., None])).clip(0, 255).astype(np.uint8)
    packed = np.dstack([mantissas, (exponent + 128).astype(np.uint8)])
    packed[mantissas.max(axis=-1) < 128] = 0
    return packed
