"""Strips and tiles of TIFF, decoded and encoded: no more is made of one than the tags say it holds.

A part that ends early, or holds something else than it should, is an error: what a decoder makes of the
missing rest (zeros, grey, whatever lay in memory) must not pass for pixels.

Shapes: a part is (rows, width, samples).
"""

from __future__ import annotations

import contextlib
import lzma
import math
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from snowmelt import children, limits
from snowmelt.errors import printable
from snowmelt.images import jpegs, tiffpage
from snowmelt.images.base import Array
from snowmelt.images.raster import jpeg_size
from snowmelt.images.tiffpage import Page

Order = Literal["<", ">"]

# xz asks for 1.1 times the dictionary: 64 MB at its strongest setting, up to 1.5 GB if a file says so.
_LZMA_MEMORY = 2**28
# Scans times pixels of a JPEG, for each of its bytes and at least: each scan goes over all pixels, however
# short it is. libjpeg does about 100 million a second. Progressive files of the usual programs have 10 scans.
_SCANNED, _SCANNED_UNASKED = 200, 2**28
_SCAN = b"\xff\xda"
# What cannot be part of a scan: a restart mark, or what follows it.
_ARITHMETIC = re.compile(rb"\xff[\xc9-\xcb\xcd-\xcf]")
_SCAN_END = re.compile(rb"\xff+[^\x00\xff]")
# Where a scan lacks something, these bits become pixels; where it is whole, decoders skip them.
_PROBE = np.random.default_rng(0).integers(1, 255, 64, dtype=np.uint8).tobytes()
# Of a fax, the mark that ends a line, and several of them all (T.4 4.1.2, T.6 2.4.1.1); how many zeros a code
# may end with; bits that are codes in any of its kinds; so many bits are cut off its end, in turn; bytes in
# which all of this is sought.
_FAX_MARK = "0" * 11 + "1"
_FAX_ZEROS = 4
_FAX_FILLS = ("1" * 96, "0011010110011010" * 6, "00100110101010" * 8, "00110101010" * 9)
_FAX_CUTS = (1, 2, 4, 6, 9, 13, 20, 28, 48)
_FAX_TAIL = 256


def decode(page: Page, data: bytes, rows: int, order: Order, tables: bytes | None) -> Array:
    """The values of one strip or tile of which ``rows`` rows are stored.

    Args:
        page: How it is stored.
        data: Its bytes.
        rows: A JPEG and its like may have more (they are left out) or, at the edges, less.
        order: Byte order, ``<`` or ``>``.
        tables: Of JPEG, what all parts have in common.

    Raises:
        ValueError: It is damaged, or not what the tags say.
    """
    if page.compression in tiffpage.PICTURES:
        return _picture(page, data, rows, tables)
    if page.reversed_bits:
        data = bytes(_codec("bitorder_decode")(data))
    if page.compression in tiffpage.CCITT:
        return _fax(page, data, rows)
    size = rows * page.row_bytes
    raw = _decompressed(page.compression, data, size, page.height * page.row_bytes)
    if len(raw) < size:
        raise ValueError(f"it holds {len(raw):,} of {size:,} bytes")
    return _values(page, raw[:size], rows, order)


def encode(page: Page, part: Array, order: Order) -> bytes:
    """A part as it is stored; ``page`` is one that is written, see ``Page.output``."""
    if page.predictor == 3:
        data = _codec("floatpred_encode")(np.ascontiguousarray(part), axis=-2).tobytes()
    else:
        if page.predictor == 2:
            part = _codec("delta_encode")(np.ascontiguousarray(part), axis=-2)
        data = (
            part.astype(page.dtype.newbyteorder(order)).tobytes()
            if page.whole_bytes
            else _packed(page, part)
        )
    if page.compression == tiffpage.PACKBITS:  # row by row, says the specification
        lines = np.frombuffer(data, np.uint8).reshape(len(part), -1)
        return bytes(_codec("packbits_encode")(lines, axis=-1))
    if page.compression == tiffpage.NONE:
        return data
    return bytes(_codec(_ENCODERS[page.compression])(data))


_ENCODERS = {
    tiffpage.LZW: "lzw_encode",
    tiffpage.DEFLATE: "deflate_encode",
    tiffpage.OLD_DEFLATE: "deflate_encode",
    tiffpage.LZMA: "lzma_encode",
    tiffpage.ZSTD: "zstd_encode",
}


def _codec(name: str) -> Callable[..., Any]:
    import imagecodecs

    found: Callable[..., Any] = getattr(imagecodecs, name)
    return found


def _values(page: Page, raw: bytes, rows: int, order: Order) -> Array:
    shape = (rows, page.width, page.sheet_samples)
    if not page.whole_bytes:
        return _unpacked(page, raw, rows).reshape(shape)
    native = page.dtype
    if page.predictor == 3:  # has a byte order of its own
        return np.asarray(
            _codec("floatpred_decode")(np.frombuffer(raw, native).reshape(shape), axis=-2)
        )
    values = (
        np.frombuffer(raw, native.newbyteorder(order)).reshape(shape).astype(native, copy=False)
    )
    return np.asarray(_codec("delta_decode")(values, axis=-2)) if page.predictor == 2 else values


def _unpacked(page: Page, raw: bytes, rows: int) -> Array:
    run = page.width * page.sheet_samples
    if page.bits == 1:
        return np.unpackbits(np.frombuffer(raw, np.uint8).reshape(rows, -1), axis=1)[:, :run]
    return np.asarray(_codec("packints_decode")(raw, page.dtype, page.bits, runlen=run))


def _packed(page: Page, part: Array) -> bytes:
    rows = np.ascontiguousarray(part.reshape(len(part), -1))
    if page.bits == 1:
        return np.packbits(rows.astype(np.uint8), axis=1).tobytes()
    return bytes(_codec("packints_encode")(rows, page.bits, runlen=rows.shape[1]))


def _decompressed(method: int, data: bytes, size: int, most: int) -> bytes:
    """About ``size`` bytes, or up to ``most`` from programs that fill up the last strip."""
    try:
        if method == tiffpage.NONE:
            return data
        if method in (tiffpage.DEFLATE, tiffpage.OLD_DEFLATE):
            return _inflated(data, size, most)
        if method == tiffpage.PACKBITS:  # some writers go on to the end of a run
            return bytes(_codec("packbits_decode")(data, out=most + 128))
        if method == tiffpage.LZMA:
            return lzma.LZMADecompressor(memlimit=_LZMA_MEMORY).decompress(data, size)
        if method == tiffpage.ZSTD:
            return bytes(_codec("zstd_decode")(data, out=most))
        return bytes(_codec("lzw_decode")(data, out=size))
    except (RuntimeError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(_plain(error)) from error


def _inflated(data: bytes, size: int, most: int) -> bytes:
    """libdeflate is three times as fast as zlib, but takes only what has exactly the size."""
    with contextlib.suppress(RuntimeError):
        exact = bytes(_codec("deflate_decode")(data, out=size))
        if len(exact) == size:
            return exact
    stream = zlib.decompressobj()
    found = stream.decompress(data, most)
    if not stream.eof and stream.decompress(
        stream.unconsumed_tail, 1
    ):  # at the end it compares the checksum
        raise ValueError(f"it holds more than {most:,} bytes")
    return found


def _plain(error: Exception) -> str:
    return printable(str(error).strip() or type(error).__name__)[:200]


def _fax(page: Page, data: bytes, rows: int) -> Array:
    names = {tiffpage.CCITT_RLE: "ccittrle_decode", tiffpage.CCITT_3: "ccittfax3_decode"}
    decoder = _codec(names.get(page.compression, "ccittfax4_decode"))

    def decoded(content: bytes) -> Array:
        try:
            return np.asarray(decoder(content, rows, page.width))
        except (RuntimeError, ValueError) as error:
            raise ValueError(_plain(error)) from error

    found = decoded(data)
    _check_fax(data, decoded)
    return found.reshape(rows, page.width, 1).astype(np.uint8)


def _check_fax(data: bytes, decoded: Callable[[bytes], Array]) -> None:
    """ValueError where a fax lacks rows, or its decoder stopped before the last of its codes.

    Decoders say neither, and leave the rest white. But what lies behind the codes becomes pixels only where
    rows are missing, and must become some once the last codes are cut off.
    """
    head, tail = data[:-_FAX_TAIL], data[-_FAX_TAIL:]
    bits = "".join(f"{byte:08b}" for byte in tail)
    codes = _without_end(bits)

    def lacks_rows(tail: str) -> bool:
        made = {_try(decoded, head + _bytes(tail + fill)) for fill in _FAX_FILLS}
        return len(made) > 1

    if lacks_rows(bits) or all(lacks_rows(codes + "0" * count) for count in range(_FAX_ZEROS + 1)):
        raise ValueError("its fax codes end before its last row")
    if not any(lacks_rows(codes[: max(0, len(codes) - count)]) for count in _FAX_CUTS):
        raise ValueError("its fax codes are damaged: they give all rows, or none, before their end")


def _without_end(bits: str) -> str:
    """The bits of a fax without marks and zeros at their end; a bit may follow a mark that names a kind."""
    while True:
        bits = bits.rstrip("0")
        mark = next((m for m in (_FAX_MARK, _FAX_MARK + "1") if bits.endswith(m)), None)
        if mark is None:
            return bits
        bits = bits.removesuffix(mark)


def _try(decoded: Callable[[bytes], Array], content: bytes) -> bytes | None:
    try:
        return decoded(content).tobytes()
    except ValueError:
        return None


def _bytes(bits: str) -> bytes:
    return np.packbits(np.frombuffer(bits.encode(), np.uint8) - ord("0")).tobytes()


def _picture(page: Page, data: bytes, rows: int, tables: bytes | None) -> Array:
    """A part that is a file of its own kind, with its own size and type."""
    if page.compression == tiffpage.JPEG:
        found: Array = _jpeg(page, data, tables)
    else:
        found = _whole_picture(page, data, rows)
    found = found.reshape(*found.shape[:2], -1)
    if found.shape[2] != page.sheet_samples or found.dtype != page.dtype:
        raise ValueError(
            f"it holds {found.shape[2]} channels of {found.dtype}, and the image has {page.sheet_samples} of "
            f"{page.dtype}"
        )
    return found


_PICTURES = {
    tiffpage.PNG: "png_decode",
    tiffpage.WEBP: "webp_decode",
    tiffpage.OLD_WEBP: "webp_decode",
    tiffpage.LERC: "lerc_decode",
    tiffpage.JPEG_2000: "jpeg2k_decode",
    tiffpage.JPEG_XL: "jpegxl_decode",
    tiffpage.JPEG_XL_DNG: "jpegxl_decode",
}
# What these take of memory and time is not bounded by the size of the picture.
_GUARDED = (tiffpage.LERC, tiffpage.JPEG_2000, tiffpage.JPEG_XL, tiffpage.JPEG_XL_DNG)


def _whole_picture(page: Page, data: bytes, rows: int) -> Array:
    shape: tuple[int, ...] = (rows, page.width, page.sheet_samples)
    if page.sheet_samples == 1:
        shape = shape[:2]
    name, dtype = _PICTURES[page.compression], page.dtype
    if page.compression in _GUARDED:
        memory = limits.CHILD_BYTES + 8 * math.prod(shape) * dtype.itemsize
        _, pixels = children.call(_decoded, name, shape, dtype.name, payload=data, memory=memory)
        return np.frombuffer(pixels, dtype).reshape(shape)
    return _decoded(name, shape, dtype.name, data)[1]


@children.served
def _decoded(name: str, shape: Sequence[int], dtype: str, data: Any) -> tuple[None, Array]:
    """A picture of a shape known beforehand; decoders refuse any other before they decode it."""
    try:
        return None, np.asarray(_codec(name)(bytes(data), out=np.empty(shape, dtype)))
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(_plain(error)) from error


def _jpeg(page: Page, data: bytes, tables: bytes | None) -> NDArray[np.uint8]:
    height, width, _ = jpeg_size(data)
    if height > page.height or width > page.width:
        raise ValueError(f"a JPEG of {width} x {height} in a tile of {page.width} x {page.height}")
    scans = data.count(_SCAN)
    if height * width * scans > max(_SCANNED_UNASKED, _SCANNED * len(data)):
        raise ValueError(
            f"a JPEG of {len(data):,} bytes goes over {width} x {height} pixels {scans} times"
        )
    colours = _jpeg_colours(page, data)

    def decoded(content: bytes) -> NDArray[np.uint8]:
        try:
            return np.asarray(_codec("jpeg8_decode")(content, tables=tables, **colours))
        except (RuntimeError, ValueError) as error:
            raise ValueError(_plain(error)) from error

    jpegs.check(jpegs.parse(data))
    found, again = map(decoded, _probed(data))
    if not np.array_equal(found, again):
        raise ValueError("its JPEG ends before its last pixel, or a part of it is missing")
    return found


def _jpeg_colours(page: Page, data: bytes) -> dict[str, Any]:
    """What the numbers in a JPEG stream are, and what shall be made of them, by the tags of the page."""
    if page.separate:
        return {"outcolorspace": "GRAYSCALE"}
    if page.opacity or page.misplaced_opacity:
        return {}
    if page.photometric == tiffpage.YCBCR:
        return {"outcolorspace": "RGB"}
    if page.photometric == tiffpage.RGB:
        # A JFIF header says YCbCr, whatever the tags say; without it they are right.
        jfif = data[6:10] == b"JFIF"
        return {"outcolorspace": "RGB"} | ({} if jfif else {"colorspace": "RGB"})
    return {"outcolorspace": "CMYK"} if page.photometric == tiffpage.CMYK else {}


def _probed(data: bytes) -> tuple[bytes, bytes]:
    """A JPEG, and the same with further bits at the end of each scan and before each restart mark.

    Of an arithmetic one both have further bits: libjpeg itself adds zeros to it.

    libjpeg fills with grey what is missing and only warns, of which its wrappers say nothing. A decoder that
    has all pixels of a scan skips to the next mark; one that has not takes what it finds for pixels.
    """
    parts: list[bytes] = []
    start, place = 0, data.find(_SCAN)
    if _ARITHMETIC.search(data, 0, max(place, 0)):  # where the end of a scan may be left out
        first, second = (jpegs.filled(data, fill) for fill in jpegs.FILLS)
        return first, second
    while place >= 0:
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        for mark in _SCAN_END.finditer(data, place):
            parts += [data[start : mark.start()], _PROBE]
            start = mark.start()
            if not 0xD0 <= data[mark.end() - 1] <= 0xD7:
                place = data.find(_SCAN, start)
                break
        else:  # the last scan ends with the data
            return data, b"".join([*parts, data[start:], _PROBE])
    return data, b"".join([*parts, data[start:]])
