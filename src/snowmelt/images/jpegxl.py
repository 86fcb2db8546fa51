"""JPEG XL: a still image, losslessly encoded anew at its own depth, with the old file's EXIF and XMP.

The encoder at hand writes sRGB of 8 bits, and calls all that is deeper linear. Without loss the pixels do not
depend on the colour space, so the bits that say it are exchanged for those of the old file. An ICC profile,
which is compressed, cannot come along: such an image is read, and says so when it shall be written.

Source: ISO/IEC 18181-1, annex D (headers) and 18181-2 (boxes).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from snowmelt.errors import UserError
from snowmelt.images.base import Array, Layout
from snowmelt.images.boxes import Box, boxes, packed
from snowmelt.images.codecs import OTHER_SPACE, CodecImage
from snowmelt.images.raster import picture_layout

_CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
_CODESTREAM = b"\xff\x0a"
_KIND = Box(b"ftyp", b"jxl \0\0\0\0jxl ")
# Exif, XMP, JUMBF, and any of them compressed by Brotli. Left out: jbrd, by which the JPEG that the file was
# made of comes back, and the index of frames.
_METADATA = (b"Exif", b"xml ", b"jumb", b"brob")
_NOT_METADATA = (b"jbrd", b"jxl")  # compressed in brob
# 1 to 9: 1 Mpx of a photograph in 0.5 s, 2 % larger than at the usual 5, which takes 1.7 s.
_EFFORT = 3
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
# Kind of colours, white D65, primaries if there are, curve: colour and grey.
_SRGB, _LINEAR = ((0,), (1, 1, 13)), ((0, 1, 1, 8), (1, 1, 8))
_HEAD = 600  # bytes, more than any header without a profile takes
_ALPHA, _SPOT, _CFA = 0, 2, 5
_GREY, _XYB, _CUSTOM = 1, 2, 2


@dataclass(frozen=True)
class Header:
    """Of a codestream; ``space`` are the numbers that say the colours, None an ICC profile.

    ``place`` are the bits behind the signature that say the colours, and where the header ends; None where it
    is left out or has more than `with_space` knows.
    """

    width: int
    height: int
    bits: int
    floats: bool
    grey: bool
    extra: tuple[int, ...]
    animated: bool
    turned: bool
    space: tuple[int, ...] | None
    place: tuple[int, int, int] | None = None


class JpegXlImage(CodecImage):
    """A still JPEG XL: grey or RGB, with or without opacity, 8 to 16 bits or floats."""

    suffixes = (".jxl",)
    signatures = ((0, _CONTAINER), (0, _CODESTREAM))
    kind = "JPEG XL"

    def _header(self, data: bytes) -> Layout:
        self._boxes = _boxes(data)
        stream = _start_of_stream(data)
        head = read_header(stream)
        self._space = None
        if head.place and head.space is not None:
            self._space = _bits_of(stream)[head.place[0] : head.place[1]]
        if head.animated:
            raise UserError(
                f"{self.path}: an animated JPEG XL; extract its frames first: djxl FILE %d.png"
            )
        if set(head.extra) - {_ALPHA} or len(head.extra) > 1:
            raise UserError(
                f"{self.path}: a JPEG XL of further channels (depth, spot colours); convert it: "
                "djxl FILE FILE.png"
            )
        if head.bits > 16 + 16 * head.floats:
            raise UserError(f"{self.path}: a JPEG XL of {head.bits} bits; up to 16 are read")
        self._head = head
        if head.space not in (*_SRGB, *_LINEAR * head.floats):
            self.notes_elsewhere += (OTHER_SPACE,)
        if head.floats:
            dtype = f"float{16 if head.bits <= 16 else 32}"
        else:
            dtype = f"uint{8 if head.bits <= 8 else 16}"
            if head.bits not in (8, 16):
                self.value_range = 0, 2**head.bits - 1
        height, width = (head.width, head.height) if head.turned else (head.height, head.width)
        channels = (1 if head.grey else 3) + len(head.extra)
        return picture_layout(height, width, channels, dtype, alpha=bool(head.extra))

    def check_target(self, target: Path) -> None:
        """Refuse another suffix, and colours that the encoder cannot write."""
        super().check_target(target)
        trial = np.zeros((8, 8, self.layout.channels), self.layout.dtype)
        if read_header(_start_of_stream(self._encoded(trial))).space != self._head.space:
            raise UserError(
                f"{self.path}: its colour space, such as that of an ICC profile, cannot be written as JPEG "
                "XL here; convert it first: djxl FILE FILE.png"
            )

    def _decode(self, data: bytes) -> Array:
        return self._decoded_by("jpegxl", data, numthreads=1)

    def _encoded(self, pixels: Array) -> bytes:
        """A codestream, or a container with a level, of the old file's colour space if that can be."""
        import imagecodecs

        encoded = bytes(
            imagecodecs.jpegxl_encode(
                pixels.squeeze(-1) if pixels.shape[2] == 1 else np.ascontiguousarray(pixels),
                lossless=True,
                effort=_EFFORT,
                bitspersample=None if self._head.floats else self._head.bits,
                usecontainer=False,
            )
        )
        if self._space is None:
            return encoded
        found = _boxes(encoded)
        if not found:
            return with_space(encoded, self._space)
        return packed(
            Box(each.name, with_space(each.content, self._space)) if each.name == b"jxlc" else each
            for each in found
        )

    def _exchanged(self, data: bytes, levels: Array, pixels: Array) -> bytes:
        if np.array_equal(levels, pixels):
            return data
        encoded = self._encoded(pixels)
        self._check_encoded("jpegxl", encoded, pixels)
        kept = [each for each in self._boxes if _is_metadata(each)]
        if not kept:
            return encoded
        # A box with the level, which large and deep images need, comes before the others.
        new = _boxes(encoded) or [*_boxes(_CONTAINER + packed([_KIND])), Box(b"jxlc", encoded)]
        place = next(at for at, each in enumerate(new) if each.name in (b"jxlc", b"jxlp"))
        return packed([*new[:place], *kept, *new[place:]])


def _is_metadata(box: Box) -> bool:
    return box.name in _METADATA and not (
        box.name == b"brob" and box.content.startswith(_NOT_METADATA)
    )


def _boxes(data: bytes) -> list[Box]:
    """Of a container; none of a bare codestream."""
    return list(boxes(data)) if data.startswith(_CONTAINER) else []


def _start_of_stream(data: bytes) -> bytes:
    if not data.startswith(_CONTAINER):
        return data
    for box in boxes(data):
        if box.name == b"jxlc":
            return box.content
        if box.name == b"jxlp":
            return box.content[4:]
    raise ValueError("it has no picture")


class _Bits:
    """Numbers as a codestream has them: the lowest bit first."""

    def __init__(self, data: bytes) -> None:
        self._number, self._left = int.from_bytes(data, "little"), 8 * len(data)
        self.place = 0

    def take(self, count: int) -> int:
        if count > self._left:
            raise ValueError("it is cut off")
        value = self._number & (1 << count) - 1
        self._number >>= count
        self._left -= count
        self.place += count
        return value

    def choice(self, *ways: tuple[int, int]) -> int:
        """U32: two bits choose an offset and how many bits come on top."""
        offset, count = ways[self.take(2)]
        return offset + self.take(count)

    def name(self) -> int:
        """Enum."""
        return self.choice((0, 0), (1, 0), (2, 4), (18, 6))


def read_header(stream: bytes) -> Header:
    """The header of a codestream; ValueError where it is damaged."""
    if not stream.startswith(_CODESTREAM):
        raise ValueError("its codestream does not begin as one")
    bits = _Bits(stream[2:_HEAD])
    width, height = _size(bits)
    default = bits.take(1)
    orientation, animated, grey, depth = 0, False, False, (8, False)
    extra: tuple[int, ...] = ()
    space: tuple[int, ...] | None = (0,)
    place = None
    if not default:
        more = bits.take(1)
        if more:
            orientation = bits.take(3)
            if bits.take(1):
                _size(bits)
            if bits.take(1):
                _preview_size(bits)
            animated = bool(bits.take(1))
            if animated:
                return Header(width, height, 8, False, False, (), True, False, None)
        depth = _depth(bits)
        bits.take(1)
        count = bits.choice((0, 0), (1, 0), (2, 4), (1, 12))
        extra = tuple(_extra_channel(bits) for _ in range(count))
        bits.take(1)
        start = bits.place
        grey, space = _space(bits)
        middle = bits.place
        if _ends(bits, tones=bool(more)):
            place = (start, middle, bits.place)
    return Header(width, height, *depth, grey, extra, animated, orientation >= 4, space, place)


def with_space(stream: bytes, space: str) -> bytes:
    """A codestream of which other bits say the colours; unchanged if its header has more than is known here.

    The frames begin at the next whole byte, and those without loss do not depend on the colours.
    """
    place = read_header(stream).place
    if place is None:
        return stream
    bits = _bits_of(stream)
    head = bits[: place[0]] + space + bits[place[1] : place[2]]
    head += "0" * (-len(head) % 8)
    new = int(head[::-1], 2).to_bytes(len(head) // 8, "little")
    return stream[:2] + new + stream[2 + -(-place[2] // 8) :]


def _bits_of(stream: bytes) -> str:
    """What stands behind the signature, as the digits 0 and 1, the lowest bit of a byte first."""
    return "".join(f"{byte:08b}"[::-1] for byte in stream[2:_HEAD])


def _ends(bits: _Bits, *, tones: bool) -> bool:
    """Go on to the end of the header; whether it is reached, without extensions and transforms before it."""
    if tones and not bits.take(1):
        bits.take(16 + 16 + 1 + 16)
    return not bits.take(2) and bool(bits.take(1))


def _size(bits: _Bits) -> tuple[int, int]:
    small = bits.take(1)

    def side() -> int:
        return 8 * (bits.take(5) + 1) if small else bits.choice((1, 9), (1, 13), (1, 18), (1, 30))

    height = side()
    ratio = bits.take(3)
    if not ratio:
        return side(), height
    over, under = _RATIOS[ratio - 1]
    return height * over // under, height


def _preview_size(bits: _Bits) -> None:
    ways = (
        ((16, 0), (32, 0), (1, 5), (33, 9))
        if bits.take(1)
        else ((1, 6), (65, 8), (321, 10), (1345, 12))
    )
    bits.choice(*ways)
    if not bits.take(3):
        bits.choice(*ways)


def _depth(bits: _Bits) -> tuple[int, bool]:
    if bits.take(1):
        depth = bits.choice((32, 0), (16, 0), (24, 0), (1, 6))
        bits.take(4)
        return depth, True
    return bits.choice((8, 0), (10, 0), (12, 0), (1, 6)), False


def _extra_channel(bits: _Bits) -> int:
    if bits.take(1):
        return _ALPHA
    kind = bits.name()
    _depth(bits)
    bits.choice((0, 0), (3, 0), (4, 0), (1, 3))
    for _ in range(bits.choice((0, 0), (0, 4), (16, 5), (48, 10))):
        bits.take(8)
    if kind == _ALPHA:
        bits.take(1)
    elif kind == _SPOT:
        bits.take(64)
    elif kind == _CFA:
        bits.choice((1, 0), (0, 2), (3, 4), (19, 8))
    return kind


def _space(bits: _Bits) -> tuple[bool, tuple[int, ...] | None]:
    """Whether it is grey, and the numbers that say its colours: sRGB is (0,)."""
    if bits.take(1):
        return False, (0,)
    profile, kind = bits.take(1), bits.name()
    if profile:
        return kind == _GREY, None
    numbers = [kind]
    if kind != _XYB:
        numbers.append(bits.name())
        if numbers[-1] == _CUSTOM:
            numbers += _coordinates(bits)
        if kind != _GREY:
            numbers.append(bits.name())
            if numbers[-1] == _CUSTOM:
                numbers += [*_coordinates(bits), *_coordinates(bits), *_coordinates(bits)]
    numbers.append(1000 + bits.take(24) if bits.take(1) else bits.name())  # gamma, or a named curve
    bits.name()  # how it is meant to be rendered
    return kind == _GREY, (0,) if numbers == [0, 1, 1, 13] else tuple(numbers)


def _coordinates(bits: _Bits) -> list[int]:
    ways = ((0, 19), (2**19, 19), (2**20, 20), (2**21, 21))
    return [bits.choice(*ways), bits.choice(*ways)]
