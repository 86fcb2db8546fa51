"""JPEG 2000, as JP2 file or bare codestream: new pixels, reversibly encoded, among the old boxes.

Colour profile, resolution, georeference, EXIF and XMP are boxes, which stay byte for byte.

Source: ISO/IEC 15444-1, A.5.1 (SIZ) and annex I (JP2).
"""

from __future__ import annotations

import struct

import numpy as np

from snowmelt.errors import UserError
from snowmelt.images.base import Array, Layout
from snowmelt.images.boxes import Box, boxes, only, packed
from snowmelt.images.codecs import CodecImage
from snowmelt.images.raster import picture_layout

_JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"
_CODESTREAM = b"\xff\x4f\xff\x51"
_OPACITY, _PREMULTIPLIED = 1, 2
_CMYK, _SRGB, _GREY, _SYCC = 12, 16, 17, 18


class Jpeg2000Image(CodecImage):
    """JPEG 2000 of 1 to 16 bits, signed or not."""

    suffixes = (".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc")
    signatures = ((0, _JP2), (0, _CODESTREAM))
    kind = "JPEG 2000"

    def _header(self, data: bytes) -> Layout:
        self._boxes = list(boxes(data)) if data.startswith(_JP2) else None
        stream = self._codestream(data)
        if not stream.startswith(_CODESTREAM):
            raise ValueError("its codestream does not begin with the size")
        right, bottom, left, top = struct.unpack_from(">IIII", stream, 8)
        (components,) = struct.unpack_from(">H", stream, 40)
        each = {struct.unpack_from(">BBB", stream, 42 + 3 * i) for i in range(components)}
        if len(each) != 1 or not {(1, 1)} >= {found[1:] for found in each}:
            raise UserError(
                f"{self.path}: its channels differ in size or depth; convert it: "
                "opj_decompress -i FILE -o FILE.tif"
            )
        ((depth, _, _),) = each
        signed, self._bits = depth >> 7, (depth & 127) + 1
        if self._bits > 16:
            raise UserError(f"{self.path}: a JPEG 2000 of {self._bits} bits; up to 16 are read")
        if self._bits not in (8, 16):
            half = 2 ** (self._bits - 1)
            self.value_range = (-half, half - 1) if signed else (0, 2 * half - 1)
        alpha = self._has_opacity(components)
        dtype = f"{'' if signed else 'u'}int{8 if self._bits <= 8 else 16}"
        return picture_layout(bottom - top, right - left, components, dtype, alpha=alpha)

    def _codestream(self, data: bytes) -> bytes:
        return data if self._boxes is None else only(self._boxes, b"jp2c").content

    def _has_opacity(self, components: int) -> bool:
        """Whether the last channel is opacity; where the file is silent, the second and the fourth are."""
        space, meanings = None, None
        for box in boxes(only(self._boxes or [], b"jp2h").content) if self._boxes else ():
            if box.name == b"colr" and box.content[:1] == b"\1" and space is None:
                (space,) = struct.unpack_from(">I", box.content, 3)
            if box.name == b"colr" and box.content[:1] == b"\2":
                self.profile = box.content[3:]
            if box.name == b"cdef":
                count = struct.unpack_from(">H", box.content)[0]
                meanings = [
                    struct.unpack_from(">HHH", box.content, 2 + 6 * i) for i in range(count)
                ]
            if box.name == b"pclr":
                raise UserError(f"{self.path}: a JPEG 2000 of a palette; convert it to PNG first")
        if space == _SYCC:
            raise UserError(
                f"{self.path}: its colours are YCbCr; convert it to RGB: opj_decompress -i FILE -o FILE.png"
            )
        if meanings is None:
            return components == 2 or (components == 4 and space != _CMYK)
        clear = [number for number, kind, _ in meanings if kind in (_OPACITY, _PREMULTIPLIED)]
        if clear and clear != [components - 1]:
            raise UserError(
                f"{self.path}: its opacity is not the last channel; convert it to PNG first"
            )
        return bool(clear)

    def _decode(self, data: bytes) -> Array:
        return self._decoded_by("jpeg2k", self._codestream(data), planar=False)

    def _exchanged(self, data: bytes, levels: Array, pixels: Array) -> bytes:
        if np.array_equal(levels, pixels):
            return data
        import imagecodecs

        colours = pixels.shape[2] - self.layout.alpha
        stream = bytes(
            imagecodecs.jpeg2k_encode(
                pixels.squeeze(-1) if pixels.shape[2] == 1 else np.ascontiguousarray(pixels),
                level=0,
                codecformat="J2K",
                reversible=True,
                bitspersample=self._bits,
                mct=colours == 3,
                planar=False,
            )
        )
        self._check_encoded("jpeg2k", stream, pixels, planar=False)
        if self._boxes is None:
            return stream
        return packed(Box(box.name, stream) if box.name == b"jp2c" else box for box in self._boxes)
