"""PNG, JPEG and WebP: new pixels in the old wrapping.

A file of these kinds is a row of chunks. Writing keeps the input's chunks as they are and in their
order, and exchanges only those that hold pixels; so colour profiles, EXIF, resolution and texts cannot
get lost. A picture is held whole: none of these codecs takes it in bands.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from snowmelt.errors import UserError
from snowmelt.images import jpegs
from snowmelt.images.base import (
    MAX_PIXELS,
    Array,
    Image,
    Layout,
    check_bytes,
    check_pixels,
    reading,
    writing,
)
from snowmelt.images.ifd import Reader
from snowmelt.images.jpegs import jpeg_size as jpeg_size
from snowmelt.images.palette import Palette, packed

Chunks = list[tuple[bytes, bytes]]

# On a photograph of 6 Mpx: 17 Mpx/s where zlib's usual 6 gives 4, for a file 7 percent larger.
PNG_LEVEL = 2
JPEG_QUALITY = 95
WEBP_QUALITY = 95
_IDAT = 2**20
# Bytes that deflate makes of one, at most: 258 of two bits.
_DEFLATE_MOST = 1032
# A chunk of nothing has 12 bytes, but 150 in this process. Of the 8 KiB that libpng writes, 8 GiB.
_MOST_CHUNKS = 2**20


class RasterImage(Image):
    """A picture that is decoded and encoded as a whole.

    ``_levels`` are the values as the file holds them (palette indices, 4-bit greys); ``_shown`` turns
    them into what a caller sees.
    """

    kind: ClassVar[str]

    def __init__(
        self, path: str | Path, *, axes: str | None = None, max_pixels: int | None = MAX_PIXELS
    ) -> None:
        self.path = Path(path)
        self._decoded: Array | None = None
        with reading(self.path, self.kind):
            data = self.path.read_bytes()
            self.layout = self._header(data)
        check_pixels(self.path, self.layout.height * self.layout.width, max_pixels)
        unpacked = math.prod(self.layout.shape) * self.layout.dtype.itemsize
        check_bytes(self.path, unpacked, len(data), max_pixels)
        known = self.layout.axes
        if axes is not None and axes.upper() not in (known, known.replace("S", "C")):
            raise UserError(f"{path}: a {self.kind} file has the axes {known}, not {axes}")

    def read_rows(self, plane: int, start: int, stop: int) -> Array:
        """Rows ``start:stop`` of the picture as (stop - start, W, channels)."""
        assert plane == 0
        return self._shown(self._levels()[start:stop].copy())

    def write_like(self, target: Path, bands: Iterator[Array]) -> None:
        """Write the picture with other pixels; atomic."""
        self.check_target(target)
        pixels = self._gather(bands)
        levels = self._levels()
        with reading(self.path, self.kind):
            data = self._exchanged(self.path.read_bytes(), levels, pixels)
        with writing(target) as part:
            part.write_bytes(data)

    def _gather(self, bands: Iterator[Array]) -> Array:
        layout = self.layout
        whole = np.empty((layout.height, layout.width, layout.channels), layout.dtype)
        row = 0
        for band in bands:
            whole[row : row + len(band)] = band
            row += len(band)
        assert row == layout.height
        return whole

    def _levels(self) -> Array:
        if self._decoded is None:
            shape = (self.layout.height, self.layout.width)
            with reading(self.path, self.kind):
                pixels = self._decode(self.path.read_bytes())
                if pixels.shape[:2] != shape:
                    raise ValueError(f"{pixels.shape[:2]} pixels where {shape} were announced")
            self._decoded = pixels.reshape(*shape, -1)
        return self._decoded

    def _shown(self, levels: Array) -> Array:
        return levels

    def _header(self, data: bytes) -> Layout:
        raise NotImplementedError

    def _decode(self, data: bytes) -> Array:
        raise NotImplementedError

    def _exchanged(self, data: bytes, levels: Array, pixels: Array) -> bytes:
        """The file ``data``, which holds ``levels``, with ``pixels`` in their place."""
        raise NotImplementedError


def picture_layout(
    height: int, width: int, channels: int, dtype: str = "uint8", *, alpha: bool = False
) -> Layout:
    """Of one picture, grey (H, W) or with channels last."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return Layout(shape, "YXS"[: len(shape)], np.dtype(dtype), alpha=alpha)


PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
_PNG_CHANNELS = {GREY: 1, RGB: 3, PALETTE: 3, GREY_ALPHA: 2, RGB_ALPHA: 4}
# First row and column, and steps down and across, of the passes of an interlaced picture (PNG 8.2).
_ADAM7 = (
    *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)),
    *((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)),
)
_PNG_SAMPLES = _PNG_CHANNELS | {PALETTE: 1}
_PNG_METADATA = (b"iCCP", b"eXIf", b"tEXt", b"zTXt", b"iTXt")
_PNG_DEPTHS = {GREY: (1, 2, 4, 8, 16), PALETTE: (1, 2, 4, 8)}


class PngImage(RasterImage):
    """PNG of every mode and depth. Written without interlacing."""

    suffixes = (".png",)
    signatures = ((0, PNG_SIGNATURE),)
    kind = "PNG"

    def _header(self, data: bytes) -> Layout:
        chunks = _png_chunks(data)
        found = dict(reversed(chunks))
        if chunks[0][0] != b"IHDR" or b"IDAT" not in found:
            raise ValueError("it has no picture")
        if b"acTL" in found:
            self._check_animation(chunks)
        header = struct.unpack(">IIBBBBB", found[b"IHDR"])
        width, height, self._depth, self._colour, *methods = header
        self._interlaced = methods[2] == 1
        if methods not in ([0, 0, 0], [0, 0, 1]):  # else libpng prints a warning
            raise ValueError(f"unknown methods {methods} of compression, filtering, interlacing")
        if self._colour not in _PNG_CHANNELS:
            raise ValueError(f"unknown colour type {self._colour}")
        if self._depth not in _PNG_DEPTHS.get(self._colour, (8, 16)):
            raise ValueError(f"{self._depth} bits do not go with colour type {self._colour}")
        self._palette, self._key = _png_colours(self._colour, found)
        channels = _PNG_CHANNELS[self._colour]
        if self._palette is not None:
            channels = self._palette.colours.shape[1]
        depth = "uint16" if self._depth == 16 else "uint8"
        return picture_layout(height, width, channels, depth, alpha=channels in (2, 4))

    def _check_animation(self, chunks: Chunks) -> None:
        """Refuse all animations but those of one frame, which is the picture (APNG: fcTL before IDAT)."""
        names = [name for name, _ in chunks]
        frames = names.count(b"fcTL")
        first = b"fcTL" in names[: names.index(b"IDAT")]
        if b"fdAT" in names or frames > 1 or not first:
            raise UserError(
                f"{self.path}: an animated PNG of {frames + (not first)} pictures; take its frames apart "
                "first"
            )

    @property
    def _step(self) -> int:
        """Between two neighbouring levels as shown: 255 for 1-bit grey, 1 from 8 bits on."""
        return 255 // (2**self._depth - 1) if self._depth < 8 else 1

    def _decode(self, data: bytes) -> Array:
        packed = b"".join(body for name, body in _png_chunks(data) if name == b"IDAT")
        self._check_length(len(packed))
        if self._interlaced:
            levels = self._deinterlaced(packed)
        else:
            levels = self._decoded_pass(self.layout.height, self.layout.width, packed)
        return levels if self._palette is None else self._palette.checked(levels)

    def _decoded_pass(self, height: int, width: int, packed: bytes) -> Array:
        """Levels of a picture that is not interlaced, (H, W) or (H, W, channels).

        Pillow cuts 16-bit colour to 8 bits, and libpng applies palette and transparency. So the decoder sees
        nothing but pixels, and palette indices as if they were greys.
        """
        import imagecodecs

        colour = GREY if self._colour == PALETTE else self._colour
        header = struct.pack(">IIBBBBB", width, height, self._depth, colour, 0, 0, 0)
        # libpng refuses a single chunk that is longer than pixels ought to be.
        parts = (packed[place : place + _IDAT] for place in range(0, len(packed), _IDAT))
        chunks = [(b"IHDR", header), *((b"IDAT", part) for part in parts), (b"IEND", b"")]
        return np.asarray(imagecodecs.png_decode(_png(chunks)) // self._step)

    def _deinterlaced(self, packed: bytes) -> Array:
        """The seven passes of an interlaced picture, each decoded as one of its own.

        The decoder would print a warning for each interlaced picture.
        """
        height, width = self.layout.height, self.layout.width
        passes = [
            (part, -(-(height - part[0]) // part[2]), -(-(width - part[1]) // part[3]))
            for part in _ADAM7
        ]
        strides = [self._stride(columns) for _, _, columns in passes]
        sizes = [
            rows * stride * (columns > 0)
            for (_, rows, columns), stride in zip(passes, strides, strict=True)
        ]
        stream = zlib.decompressobj()
        pixels = stream.decompress(packed, sum(sizes) + 1)
        if len(pixels) != sum(sizes) or not stream.eof:
            raise ValueError(f"it has not the {sum(sizes):,} bytes that its rows need")
        channels = _PNG_SAMPLES[self._colour]
        levels = np.empty((height, width, channels), self.layout.dtype)
        place = 0
        for ((top, left, down, across), rows, columns), size in zip(passes, sizes, strict=True):
            if size:
                part = zlib.compress(pixels[place : place + size], 0)
                found = self._decoded_pass(rows, columns, part)
                levels[top::down, left::across] = found.reshape(rows, columns, channels)
            place += size
        return levels

    def _stride(self, width: int) -> int:
        """Bytes of a row, with the number of its filter."""
        return 1 + -(-width * self._depth * _PNG_SAMPLES[self._colour] // 8)

    def _check_length(self, packed: int) -> None:
        needed = self.layout.height * self._stride(self.layout.width) // _DEFLATE_MOST
        if packed < needed:
            raise ValueError(
                f"it is cut off: {packed:,} bytes of pixels where {needed:,} are the least"
            )

    def _shown(self, levels: Array) -> Array:
        if self._palette is not None:
            return self._palette.shown(levels)
        return levels * np.asarray(self._step, levels.dtype) if self._step > 1 else levels

    def _exchanged(self, data: bytes, levels: Array, pixels: Array) -> bytes:
        pixels = self._to_levels(levels, pixels)
        new = [(b"IDAT", body) for body in self._compressed(pixels)]
        chunks: Chunks = []
        for name, body in _png_chunks(data):
            if name == b"IHDR":
                body = body[:12] + b"\0"
            if name != b"IDAT":
                chunks.append((name, body))
            elif new:
                chunks += new
                new = []
        return _png(chunks)

    def _to_levels(self, levels: Array, pixels: Array) -> Array:
        if self._palette is not None:
            return self._palette.nearest(levels, pixels)
        if self._step > 1:
            pixels = ((pixels.astype(np.uint16) + self._step // 2) // self._step).astype(np.uint8)
        return pixels if self._key is None else _keep_key(self._key, levels, pixels)

    def _compressed(self, levels: Array) -> Iterator[bytes]:
        import imagecodecs

        if self._depth < 8 or self._colour == PALETTE:
            rows = packed(levels[..., 0].astype(np.uint8), self._depth)
            yield zlib.compress(np.insert(rows, 0, 0, axis=-1).tobytes())  # 0: no filter
        else:
            encoded = imagecodecs.png_encode(np.ascontiguousarray(levels), level=PNG_LEVEL)
            yield from (body for name, body in _png_chunks(bytes(encoded)) if name == b"IDAT")


def _png_chunks(data: bytes) -> Chunks:
    chunks: Chunks = []
    place = len(PNG_SIGNATURE)
    while not chunks or chunks[-1][0] != b"IEND":
        if len(data) < place + 12:
            raise ValueError("it is cut off")
        size, name = struct.unpack_from(">I4s", data, place)
        body = data[place + 8 : place + 8 + size]
        if data[place + 8 + size : place + 12 + size] != _checksum(name, body):
            raise ValueError(f"it is cut off or its chunk {name!r} is damaged")
        chunks.append((name, body))
        if len(chunks) > _MOST_CHUNKS:
            raise ValueError(f"more than {_MOST_CHUNKS:,} chunks")
        place += 12 + size
    return chunks


def _png(chunks: Chunks) -> bytes:
    parts = (
        (struct.pack(">I", len(body)), name, body, _checksum(name, body)) for name, body in chunks
    )
    return b"".join([PNG_SIGNATURE, *itertools.chain.from_iterable(parts)])


def png_metadata(data: bytes) -> bytes:
    """A PNG of one pixel with profile, EXIF and texts of another; ValueError where that is damaged."""
    kept = [chunk for chunk in _png_chunks(data) if chunk[0] in _PNG_METADATA]
    header = (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, GREY, 0, 0, 0))
    return _png([header, *kept, (b"IDAT", zlib.compress(b"\0\0")), (b"IEND", b"")])


def _checksum(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))


def _png_colours(
    colour: int, found: dict[bytes, bytes]
) -> tuple[Palette | None, NDArray[np.uint16] | None]:
    """The palette of an indexed picture; of others the one colour that is transparent."""
    clear = found.get(b"tRNS")
    if colour != PALETTE:
        usable = clear is not None and len(clear) == 2 * _PNG_CHANNELS[colour]
        return None, np.frombuffer(clear or b"", ">u2").astype(np.uint16) if usable else None
    palette = np.frombuffer(found.get(b"PLTE", b""), np.uint8).reshape(-1, 3)
    if not 0 < len(palette) <= 256:
        raise ValueError(f"a palette of {len(palette)} colours")
    if clear is None:
        return Palette(palette), None
    opacity = np.full(len(palette), 255, np.uint8)
    opacity[: len(clear)] = np.frombuffer(clear, np.uint8)[: len(palette)]
    return Palette(np.column_stack([palette, opacity])), None


def _keep_key(key: NDArray[np.uint16], levels: Array, pixels: Array) -> Array:
    """One colour is transparent (tRNS): the same pixels have it afterwards, and no other."""
    clear = np.all(levels == key, axis=-1)
    kept = np.where(clear[..., None], levels, pixels)
    kept[np.all(kept == key, axis=-1) & ~clear, 0] ^= 1
    return kept


class JpegImage(RasterImage):
    """JPEG: grey, colour or CMYK, 8 bits; a picture of which a part is missing is an error.

    Written at quality 95 with full colour resolution (4:4:4). Pixels that nobody changed are not encoded
    again: the file is copied.
    """

    suffixes = (".jpg", ".jpeg", ".jpe", ".jfif")
    signatures = ((0, b"\xff\xd8\xff"),)
    kind = "JPEG"

    def _header(self, data: bytes) -> Layout:
        frame = jpegs.parse(data, until_scan=True).frame()
        if frame.depth != 8 or frame.marker not in jpegs.DECODED:
            raise UserError(
                f"{self.path}: a JPEG of {frame.depth} bits, {jpegs.coding(frame)}; expected 8 bits, "
                "baseline or progressive; save it as PNG or TIFF with the program that made it"
            )
        if len(frame.sampling) not in (1, 3, 4):
            raise ValueError(f"a JPEG of {len(frame.sampling)} components")
        if _points_behind(data):
            self.notes += (
                "its MakerNote may point to data behind the picture (a preview), which are copied to another "
                "place",
            )
        return picture_layout(frame.height, frame.width, len(frame.sampling))

    def _decode(self, data: bytes) -> Array:
        return jpegs.decode(data)

    def _exchanged(self, data: bytes, levels: Array, pixels: Array) -> bytes:
        if np.array_equal(levels, pixels):
            return data
        old = jpegs.parse(data)
        progressive = old.frame().marker in jpegs.PROGRESSIVE
        encoded = _jpeg(pixels, progressive=progressive)
        made = jpegs.parse(encoded, until_scan=True)
        # Metadata that came first stay at their place in the file: a MakerNote may count from its start.
        kept = [part for part in old.segments if _is_kept(part)]
        kept += [part for part in made.segments if not _is_kept(part)]
        picture = encoded[made.end :]
        return jpegs.joined(_relinked(kept, old, len(picture))) + picture + data[old.end :]


def _points_behind(data: bytes) -> bool:
    """Whether a camera's MakerNote and data behind the picture are there, and no index that is corrected."""
    metadata = jpegs.parse(data, until_scan=True).segments
    exif = [body for _, body, _ in metadata if body.startswith(b"Exif\0\0")]
    noted = any(code in body for body in exif for code in (b"\x92\x7c", b"\x7c\x92"))
    if not noted or any(body.startswith(b"MPF\0") for _, body, _ in metadata):
        return False
    return bool(data[jpegs.parse(data).end :].strip(b"\0"))


def _is_kept(part: jpegs.Segment) -> bool:
    return part.marker in jpegs.METADATA and part.marker != jpegs.APP14


def _relinked(segments: jpegs.Segments, old: jpegs.Stream, picture: int) -> jpegs.Segments:
    """Correct the index of further pictures (gain map, stereo pair), which follow the first one as they are.

    The index (Multi-Picture Format, CIPA DC-007) counts from its own place in the file. One that cannot be
    read stays as it is.
    """
    whole = len(jpegs.joined(segments)) + picture
    place = 2
    for number, part in enumerate(segments):
        if part.marker == jpegs.APP2 and part.body.startswith(b"MPF\0"):
            shift = (whole - place - 4) - (old.end - part.place)
            with contextlib.suppress(ValueError, struct.error):
                body = _shifted(part.body, shift, whole)
                return [*segments[:number], part._replace(body=body), *segments[number + 1 :]]
            break
        place += 4 + len(part.body)
    return segments


def _shifted(body: bytes, shift: int, size: int) -> bytes:
    index = Reader(io.BytesIO(body[4:]))
    for tag in itertools.chain.from_iterable(index.chain()):
        if tag.code == 0xB002 and len(tag.raw) >= 16 and body.count(tag.raw) == 1:
            # Each entry: attributes, size, place, dependants. Place 0 is the first picture.
            entries = np.frombuffer(tag.raw, index.format.order + "u4").reshape(-1, 4).copy()
            entries[0, 1] = size
            entries[entries[:, 2] > 0, 2] += np.array(shift).astype(np.uint32)
            return body.replace(tag.raw, entries.tobytes())
    return body


def _jpeg(pixels: Array, *, progressive: bool = False) -> bytes:
    image = _pillow(pixels, {1: "L", 3: "RGB", 4: "CMYK"}[pixels.shape[2]])
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4", progressive=progressive)
    return buffer.getvalue()


def _pillow(pixels: Array, mode: str) -> Any:
    from PIL import Image as Pillow

    height, width = pixels.shape[:2]
    return Pillow.frombytes(mode, (width, height), np.ascontiguousarray(pixels).tobytes())


_PICTURE = (b"VP8 ", b"VP8L", b"ALPH")
_FRAME_HEADER = 16
_OPACITY = 0x10


class WebpImage(RasterImage):
    """WebP, RGB or RGBA.

    A lossless file stays lossless; a lossy one is written at quality 95, its opacity without loss.
    Pixels that nobody changed are not encoded again: the file is copied.
    """

    suffixes = (".webp",)
    signatures = ((8, b"WEBP"),)
    kind = "WebP"

    def _header(self, data: bytes) -> Layout:
        chunks = _webp_chunks(data)
        size = _webp_size(dict(reversed(chunks)))
        found = dict(reversed(self._picture(chunks, size)))
        self._lossless = b"VP8L" in found
        width, height, opacity = size
        return picture_layout(height, width, 4 if opacity else 3, alpha=opacity)

    def _picture(self, chunks: Chunks, size: tuple[int, int, bool]) -> Chunks:
        """The chunks that hold the picture; in an animation of one frame they lie inside another chunk."""
        frames = [body for name, body in chunks if name == b"ANMF"]
        if not frames and b"ANIM" not in dict(chunks):
            return chunks
        inside = _parts(frames[0], _FRAME_HEADER, len(frames[0])) if len(frames) == 1 else []
        if len(frames) != 1 or _frame_size(frames[0], inside) != size[:2]:
            raise UserError(
                f"{self.path}: an animated WebP of {len(frames)} frames"
                + (", smaller than the picture" if len(frames) == 1 else "")
                + "; take its frames apart first"
            )
        return inside

    def _decode(self, data: bytes) -> Array:
        import imagecodecs

        chunks = _webp_chunks(data)
        if any(name == b"ANMF" for name, _ in chunks):
            size = self.layout.width, self.layout.height, self.layout.alpha
            data = _still(self._picture(chunks, size), *size)
        return np.asarray(imagecodecs.webp_decode(data, hasalpha=self.layout.alpha))

    def _exchanged(self, data: bytes, levels: Array, pixels: Array) -> bytes:
        if np.array_equal(levels, pixels):
            return data
        encoded = _webp(pixels, lossless=self._lossless, opacity=self.layout.alpha)
        new = [part for part in _webp_chunks(encoded) if part[0] in _PICTURE]
        chunks = _webp_chunks(data)
        for number, (name, body) in enumerate(chunks):
            if name == b"ANMF":
                inside = _parts(body, _FRAME_HEADER, len(body))
                content = _packed_chunks(_with_picture(inside, new))
                chunks[number] = (name, body[:_FRAME_HEADER] + content)
                return _riff(chunks)
        return _riff(_with_picture(chunks, new))


def _with_picture(chunks: Chunks, new: Chunks) -> Chunks:
    """The chunks with those of another picture in the place of the old ones."""
    first = next(number for number, (name, _) in enumerate(chunks) if name in _PICTURE)
    rest = [part for part in chunks[first:] if part[0] not in _PICTURE]
    return [*chunks[:first], *new, *rest]


def webp_metadata(data: bytes) -> tuple[bytes | None, bytes | None]:
    """ICC profile and EXIF of a WebP; ValueError where it is damaged."""
    found = dict(reversed(_webp_chunks(data)))
    return found.get(b"ICCP"), found.get(b"EXIF")


def _webp_chunks(data: bytes) -> Chunks:
    end = 8 + int.from_bytes(data[4:8], "little")
    if len(data) < end:
        raise ValueError("it is cut off")
    return _parts(data, 12, end)


def _parts(data: bytes, place: int, end: int) -> Chunks:
    chunks: Chunks = []
    while place + 8 <= end:
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        if place + 8 + size > end:
            raise ValueError("it is cut off")
        chunks.append((data[place : place + 4], data[place + 8 : place + 8 + size]))
        if len(chunks) > _MOST_CHUNKS:
            raise ValueError(f"more than {_MOST_CHUNKS:,} chunks")
        place += 8 + size + size % 2
    return chunks


def _frame_size(frame: bytes, inside: Chunks) -> tuple[int, int] | None:
    """Width and height of a frame, if it begins in the corner and holds a picture of that size."""
    places = [int.from_bytes(frame[at : at + 3], "little") for at in (0, 3, 6, 9)]
    size = places[2] + 1, places[3] + 1
    found = dict(reversed(inside))
    found.pop(b"VP8X", None)
    return size if places[:2] == [0, 0] and _webp_size(found)[:2] == size else None


def _still(picture: Chunks, width: int, height: int, opacity: bool) -> bytes:
    """A file of one picture alone."""
    sides = b"".join((side - 1).to_bytes(3, "little") for side in (width, height))
    head = bytes([_OPACITY * opacity, 0, 0, 0]) + sides
    return _riff([(b"VP8X", head), *(part for part in picture if part[0] in _PICTURE)])


def _riff(chunks: Chunks) -> bytes:
    content = b"WEBP" + _packed_chunks(chunks)
    return b"RIFF" + struct.pack("<I", len(content)) + content


def _packed_chunks(chunks: Chunks) -> bytes:
    return b"".join(
        name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
        for name, body in chunks
    )


def _webp_size(found: dict[bytes, bytes]) -> tuple[int, int, bool]:
    """Width, height and whether there is opacity, from the first chunk that says so."""
    if extended := found.get(b"VP8X"):
        width, height = (int.from_bytes(extended[at : at + 3], "little") for at in (4, 7))
        return width + 1, height + 1, bool(extended[0] & _OPACITY)
    if lossless := found.get(b"VP8L"):
        bits = int.from_bytes(lossless[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)
    if lossy := found.get(b"VP8 "):
        width, height = struct.unpack_from("<HH", lossy, 6)
        return width & 0x3FFF, height & 0x3FFF, False
    raise ValueError("it has no picture")


def _webp(pixels: Array, *, lossless: bool, opacity: bool) -> bytes:
    buffer = io.BytesIO()
    image = _pillow(pixels, "RGBA" if opacity else "RGB")
    image.save(buffer, "WEBP", quality=WEBP_QUALITY, lossless=lossless, exact=True)
    encoded = buffer.getvalue()
    if not (lossless and opacity):
        return encoded
    # libwebp forgets opacity that is full everywhere; the mark in the header keeps the file RGBA.
    chunks = [
        (name, body[:4] + bytes([body[4] | _OPACITY]) + body[5:] if name == b"VP8L" else body)
        for name, body in _webp_chunks(encoded)
    ]
    return _riff(chunks)


_ALLOWED = {
    ".png": ((1, 2, 3, 4), ("uint8", "uint16")),
    ".webp": ((3, 4), ("uint8",)),
} | dict.fromkeys(JpegImage.suffixes, ((1, 3), ("uint8",)))


def create(path: Path, array: Array) -> bytes:
    """The content of a new PNG, JPEG (quality 95) or WebP (lossless) file; the suffix decides."""
    suffix = path.suffix.lower()
    # not [..., None], whose stride of 0 the encoder refuses
    pixels = array.reshape(*array.shape, 1) if array.ndim == 2 else array
    channels, types = _ALLOWED[suffix]
    if pixels.ndim != 3 or pixels.shape[2] not in channels or pixels.dtype.name not in types:
        raise UserError(
            f"{path}: {suffix} holds {' or '.join(types)} of shape (H, W) or (H, W, channels), channels "
            f"{' or '.join(map(str, channels))}, not {array.dtype} {array.shape}; .tif and .npy hold more"
        )
    if suffix == ".png":
        import imagecodecs

        return bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels), level=PNG_LEVEL))
    if suffix == ".webp":
        return _webp(pixels, lossless=True, opacity=pixels.shape[2] == 4)
    return _jpeg(pixels)
