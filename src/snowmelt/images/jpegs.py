"""JPEG streams: their segments, what they claim before anything is decoded, and pixels that are all there.

libjpeg fills what is missing from a picture with grey, and only warns. So the decoder here is one that takes
a warning for an error; where it cannot read a stream, the stream is decoded twice with other bytes behind
each of its parts: pixels that differ were made from those.

Sources: ITU-T T.81 (the stream), T.872 (JFIF and Adobe's segment), the warnings of libjpeg-turbo's jerror.h.
"""

from __future__ import annotations

import io
import itertools
import math
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from snowmelt.images.base import Array

EOI, SOS, APP0, APP2, APP14, COM = 0xD9, 0xDA, 0xE0, 0xE2, 0xEE, 0xFE
METADATA = frozenset({*range(APP0, 0xF0), COM})
PROGRESSIVE = frozenset({0xC2, 0xCA})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_LS = 0xF7
_HUFFMAN, _LOSSLESS = frozenset({0xC0, 0xC1}), 0xC3
_ARITHMETIC = frozenset({0xC9, 0xCA})
# What is decoded here, arithmetic coding included (libjpeg-turbo in Pillow).
DECODED = _HUFFMAN | PROGRESSIVE | _ARITHMETIC
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_RESTART = re.compile(rb"\xff*(?=\xff[\xd0-\xd7])")
_JFIF = b"JFIF\0\1\1\0\0\1\0\1\0\0"
_ADOBE = b"Adobe\0\x64\0\0\0\0"
# 6 seconds of a decoder that finds nothing in them: 30 scans of the largest picture, where 10 are usual. Two
# more decodes, to say which row is missing, are made of less.
_MOST_BLOCKS, _MOST_BLOCKS_SOUGHT = 2**27, 2**25
_MOST_SEGMENTS = 2**16
# Bytes that encoders leave between a picture and its end mark, besides zeros and 0xff. More are the rest of a
# picture that was lost track of: of 583 damaged photographs 327 had 3 or more.
_STRAY_BYTES = 2
_STRAY = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
FILLS = (b"\0" * 64, bytes(range(37, 229, 3)))


class Segment(NamedTuple):
    """A marker, what follows it, and where in the file that lies."""

    marker: int
    body: bytes
    place: int


Segments = list[Segment]


class Frame(NamedTuple):
    """What a frame header says: the kind of coding, the size, and how often each component is sampled."""

    marker: int
    depth: int
    height: int
    width: int
    sampling: dict[int, tuple[int, int]]


@dataclass(frozen=True)
class Stream:
    """A JPEG without its pixels. ``end`` is the place after its end mark; without one, that after all."""

    data: bytes
    segments: Segments
    end: int

    @property
    def complete(self) -> bool:
        """Whether there is an end mark."""
        return self.data[self.end - 2 : self.end] == b"\xff\xd9"

    @property
    def says_colours(self) -> bool:
        """Whether Adobe's segment, or the names of the components, tell RGB from YCbCr."""
        adobe = any(_is_adobe(marker, body) for marker, body, _ in self.segments)
        return adobe or bytes(self.frame().sampling) == b"RGB"

    @property
    def is_jfif(self) -> bool:
        """Whether it is a JFIF file, whose three components are always YCbCr."""
        return any(_is_jfif(marker, body) for marker, body, _ in self.segments)

    def frame(self) -> Frame:
        """The frame header; ValueError where there is none."""
        for marker, body, _ in self.segments:
            if marker in _FRAMES or marker == _JPEG_LS:
                depth, height, width, count = struct.unpack_from(">BHHB", body)
                parts = [body[6 + 3 * n : 9 + 3 * n] for n in range(count)]
                if any(len(part) < 3 for part in parts):
                    raise ValueError("its frame header is cut off")
                sampling = {part[0]: (part[1] >> 4, part[1] & 15) for part in parts}
                if len(sampling) < count or not all(min(pair) > 0 for pair in sampling.values()):
                    raise ValueError("its frame header names a component twice, or without samples")
                return Frame(marker, depth, height, width, sampling)
        raise ValueError("it has no picture")

    def scans(self) -> Iterator[tuple[bytes, int, int]]:
        """Of each scan: its header, and where its data begin and end."""
        for number, (marker, body, place) in enumerate(self.segments):
            if marker == SOS:
                start = place + len(body)
                later = self.segments[number + 1 : number + 2]
                stop = later[0].place - 4 if later else self.end - 2 * self.complete
                yield body, start, max(start, stop)


def parse(data: bytes, *, until_scan: bool = False) -> Stream:
    """Find the segments of the first picture in a file, or those before its first scan."""
    found: Segments = []
    place = 2
    while match := _MARKER.search(data, place):
        place, marker = match.start(), match.group()[1]
        if marker == EOI:
            return Stream(data, found, place + 2)
        if marker == SOS and until_scan:
            return Stream(data, found, place)
        size = int.from_bytes(data[place + 2 : place + 4], "big")
        if size < 2 or place + 2 + size > len(data):
            break
        found.append(Segment(marker, data[place + 4 : place + 2 + size], place + 4))
        if len(found) > _MOST_SEGMENTS:
            raise ValueError(f"more than {_MOST_SEGMENTS:,} segments")
        place += 2 + size
    return Stream(data, found, len(data))


def jpeg_size(data: bytes) -> tuple[int, int, int]:
    """Height, width and components of a JPEG of 8 bits, from its frame header."""
    frame = parse(data, until_scan=True).frame()
    if frame.depth != 8:
        raise ValueError(f"a JPEG of {frame.depth} bits a value; only 8 can be read")
    return frame.height, frame.width, len(frame.sampling)


def coding(frame: Frame) -> str:
    """The kind of coding in a word."""
    if frame.marker in (_LOSSLESS, 0xCB, _JPEG_LS):
        return "lossless"
    if frame.marker in DECODED:
        return "progressive" if frame.marker in PROGRESSIVE else "sequential"
    return "hierarchical"


def check(stream: Stream) -> int:
    """Refuse, before it is decoded, a stream with less data than its size needs, or with endless scans.

    Returns how many blocks all scans have.

    A block of 8 x 8 values takes two bits at least (T.81 F.1.2), in a progressive picture's first scan one
    (G.1.2); a sample of a lossless one takes one.
    """
    frame = stream.frame()
    sampled: set[int] = set()
    # Lowest bit so far of each coefficient (T.81 G.1.1.1); one that no scan has is at bit 16.
    lowest = {name: [16] * 64 for name in frame.sampling}
    blocks = 0
    for header, start, stop in stream.scans():
        names, first, last, refined, bit = _scan(header)
        if not set(names) <= set(frame.sampling):
            raise ValueError("a scan of components that its frame header does not name")
        count = _blocks(frame, names)
        blocks += count
        bits = 8 * (stop - start)
        needed = _least_bits(frame.marker, first, refined) * count
        if bits < needed:
            raise ValueError(
                f"it is cut off: a scan of {stop - start:,} bytes where {-(-needed // 8):,} are the least"
            )
        sampled |= set(names) if first == 0 or frame.marker not in PROGRESSIVE else set()
        for name, place in itertools.product(names, range(first, min(last, 63) + 1)):
            lowest[name][place] = bit
    if blocks > _MOST_BLOCKS:
        raise ValueError(
            f"its scans go over {blocks:,} blocks of 8 x 8 values, more than the limit of {_MOST_BLOCKS:,} "
            "that guards against endless work; save it anew, as baseline JPEG or PNG"
        )
    if sampled != set(frame.sampling):
        raise ValueError("it is cut off: not every colour component has a scan")
    if frame.marker in PROGRESSIVE and any(map(any, lowest.values())):
        raise ValueError(
            "it is cut off: its scans end before all coefficients have all of their bits, so it is a coarse "
            "version of a picture; get the whole file, or save it anew with another program"
        )
    return blocks


def _scan(header: bytes) -> tuple[bytes, int, int, bool, int]:
    """The components of a scan, its first and last coefficient, whether it refines them, its lowest bit."""
    count = header[0] if header else 0
    if not 1 <= count <= 4 or len(header) < 4 + 2 * count:
        raise ValueError("a damaged scan header")
    first, last, bits = header[1 + 2 * count : 4 + 2 * count]
    return header[1 : 1 + 2 * count : 2], first, last, bits >> 4 > 0, bits & 15


def _least_bits(marker: int, first: int, refined: bool) -> int:
    if marker in _HUFFMAN:
        return 2
    if marker == 0xC2:
        return int(first == 0)
    return int(marker == _LOSSLESS and not refined)


def _blocks(frame: Frame, names: bytes) -> int:
    """Blocks of one scan: 8 x 8 values, in a lossless picture one."""
    side = 1 if frame.marker in (_LOSSLESS, _JPEG_LS) else 8
    most = [max(pair[axis] for pair in frame.sampling.values()) for axis in (0, 1)]
    if len(names) == 1:
        across, down = frame.sampling[names[0]]
        width = math.ceil(frame.width * across / most[0])
        height = math.ceil(frame.height * down / most[1])
        return math.ceil(width / side) * math.ceil(height / side)
    units = math.ceil(frame.width / side / most[0]) * math.ceil(frame.height / side / most[1])
    return units * sum(math.prod(frame.sampling[name]) for name in names)


def decode(data: bytes, *, untransformed: bool = False) -> Array:
    """The pixels of a JPEG of 8 bits as (H, W, components); CMYK with 0 for no ink.

    ``untransformed`` gives three components as they are stored, without a change from YCbCr to RGB.

    Raises:
        ValueError: A part of the picture is missing or damaged; it says from which row on.
    """
    import simplejpeg

    stream = parse(data)
    blocks = check(stream)
    frame = stream.frame()
    if frame.marker not in DECODED or frame.depth != 8 or len(frame.sampling) not in (1, 3, 4):
        raise ValueError(f"a JPEG of {frame.depth} bits, {coding(frame)}, is not read")
    plain = _plain(stream, untransformed=untransformed)
    colours = {1: "GRAY", 3: "RGB", 4: "CMYK"}[len(frame.sampling)]
    try:
        if frame.marker in _ARITHMETIC:
            return _with_axis(_decoded_twice(plain))
        pixels = simplejpeg.decode_jpeg(plain, colours)
    except ValueError as error:
        if "Could not determine subsampling" in str(error):
            return _with_axis(_decoded_twice(plain))
        if not _is_harmless(str(error), stream):
            sought = blocks <= _MOST_BLOCKS_SOUGHT
            raise ValueError(_where_damaged(str(error), plain) if sought else str(error)) from error
        pixels = simplejpeg.decode_jpeg(plain, colours, strict=False)
    return np.invert(pixels) if colours == "CMYK" else np.asarray(pixels)


def _plain(stream: Stream, *, untransformed: bool = False) -> bytes:
    """The stream without metadata, but for what says how colours are stored; with an end mark.

    So whatever the decoder warns of concerns the picture.
    """
    parts = [b"\xff\xd8"]
    place = 2
    for marker, body, start in stream.segments:
        if marker in METADATA:
            parts.append(stream.data[place : start - 4])
            if not untransformed:
                parts.append(_colours(marker, body, stream))
            place = start + len(body)
    if untransformed:
        parts.insert(1, _segment(APP14, _ADOBE + b"\0"))
    parts.append(stream.data[place : stream.end])
    if not stream.complete:
        parts.append(b"\xff\xd9")
    return b"".join(parts)


def _is_jfif(marker: int, body: bytes) -> bool:
    return marker == APP0 and body.startswith(b"JFIF\0")


def _is_adobe(marker: int, body: bytes) -> bool:
    return marker == APP14 and body.startswith(b"Adobe") and len(body) >= 12


def _colours(marker: int, body: bytes, stream: Stream) -> bytes:
    if _is_jfif(marker, body):
        return _segment(APP0, _JFIF)
    if _is_adobe(marker, body):
        unknown = 2 if len(stream.frame().sampling) == 4 else 1
        return _segment(APP14, _ADOBE + bytes([body[11] if body[11] <= 2 else unknown]))
    return b""


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def joined(segments: Segments) -> bytes:
    """The segments as a file begins with them."""
    return b"\xff\xd8" + b"".join(_segment(marker, body) for marker, body, _ in segments)


def _is_harmless(warning: str, stream: Stream) -> bool:
    """Whether all that the decoder found are some bytes too many right before the end mark."""
    found = _STRAY.search(warning)
    if not found:
        return False
    count = int(found[1])
    stop = stream.end - 2 * stream.complete
    stray = stream.data[max(0, stop - count) : stop]
    return count <= _STRAY_BYTES or not stray.strip(b"\0\xff")


def _where_damaged(warning: str, plain: bytes) -> str:
    """What the decoder said of a damaged picture, and from which row on pixels are missing."""
    try:
        first, second = (_with_pillow(filled(plain, fill)) for fill in FILLS)
    except Exception:  # the stream is damaged, and any decoder may give up on it
        return warning
    row = _first_difference(first, second)
    return warning if row is None else f"{warning}: its pixels are missing from row {row} on"


def decode_any(data: bytes) -> Array:
    """The samples of a JPEG of any depth, lossless too, as they are stored: (H, W) or (H, W, components).

    Raises:
        ValueError: A part of the picture is missing; it says from which row on.
    """
    import imagecodecs

    stream = parse(data)
    check(stream)
    plain = _plain(stream, untransformed=len(stream.frame().sampling) == 3)
    return _decoded_twice(plain, imagecodecs.jpeg8_decode)


def _decoded_twice(plain: bytes, decoder: Callable[[bytes], Array] | None = None) -> Array:
    """Pixels by a decoder that only warns; ValueError where they depend on bytes that are not the file's."""
    first, second = ((decoder or _with_pillow)(filled(plain, fill)) for fill in FILLS)
    row = _first_difference(first, second)
    if row is not None:
        raise ValueError(f"it is cut off: its pixels are missing from row {row} on")
    return first


def _with_axis(pixels: Array) -> Array:
    return pixels.reshape(*pixels.shape[:2], -1)


def _first_difference(first: Array, second: Array) -> int | None:
    if first.shape != second.shape:
        return 0
    rows = np.flatnonzero((first != second).reshape(len(first), -1).any(axis=1))
    return int(rows[0]) if rows.size else None


def _with_pillow(data: bytes) -> Array:
    from PIL import JpegImagePlugin

    # The class itself, not PIL.Image.open: the limit of pixels is ours, not Pillow's global one.
    with JpegImagePlugin.JpegImageFile(io.BytesIO(data)) as image:
        return np.asarray(image)


def filled(plain: bytes, fill: bytes) -> bytes:
    """The stream with other bytes behind each of its parts. A decoder that needs no more skips them."""
    stream = parse(plain)
    parts, place = [], 0
    for _, start, stop in stream.scans():
        scan = plain[start:stop].rstrip(b"\xff")  # with what follows, one would be a marker
        parts += [plain[place:start], _RESTART.sub(lambda _: fill, scan), fill]
        place = stop
    return b"".join([*parts, plain[place:]])
