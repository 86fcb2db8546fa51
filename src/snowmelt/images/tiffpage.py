"""What the tags of a TIFF page say about its pixels, as one frozen value; everything else relies on it alone.

Sources: TIFF 6.0; the TIFF Technical Notes 1 and 2 of Adobe; the Adobe Photoshop TIFF Technical Notes.

A *sheet* is one channel of a page, or all of them where they are interleaved; sheets are cut into *parts*,
which are strips or tiles.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snowmelt.images.ifd import Directory, Format, Tag
from snowmelt.images.palette import Palette

# Tags by number, see the TIFF 6.0 specification.
SUBFILE, OLD_SUBFILE, WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC = (
    254,
    255,
    256,
    257,
    258,
    259,
    262,
)
FILL_ORDER, DESCRIPTION, STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES = (
    266,
    270,
    273,
    277,
    278,
    279,
)
PLANAR, FREE_OFFSETS, FREE_BYTES, T4_OPTIONS, T6_OPTIONS, PREDICTOR = 284, 288, 289, 292, 293, 317
COLOUR_MAP, TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_BYTES = 320, 322, 323, 324, 325
SUB_IFDS, EXTRA_SAMPLES, SAMPLE_FORMAT, JPEG_TABLES = 330, 338, 339, 347
DEPTH, TILE_DEPTH, PHOTOSHOP_LAYERS, NODATA, LERC_PARAMETERS = 32997, 32998, 37724, 42113, 50674
YCBCR_TAGS = (529, 530, 531, 532)
PLACES = (STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES)
_STRUCTURE = frozenset(
    (
        *(
            WIDTH,
            LENGTH,
            BITS,
            COMPRESSION,
            PHOTOMETRIC,
            FILL_ORDER,
            SAMPLES,
            ROWS_PER_STRIP,
            PLANAR,
        ),
        *(
            PREDICTOR,
            COLOUR_MAP,
            TILE_WIDTH,
            TILE_LENGTH,
            EXTRA_SAMPLES,
            SAMPLE_FORMAT,
            DEPTH,
            TILE_DEPTH,
        ),
    )
)

NONE, CCITT_RLE, CCITT_3, CCITT_4, LZW, OLD_JPEG, JPEG, DEFLATE = 1, 2, 3, 4, 5, 6, 7, 8
OLD_DEFLATE, PACKBITS, JPEG_2000, LERC, LZMA = 32946, 32773, 34712, 34887, 34925
OLD_WEBP, PNG, ZSTD, WEBP, JPEG_XL, JPEG_XL_DNG = 34927, 34933, 50000, 50001, 50002, 52546
CCITT = (CCITT_RLE, CCITT_3, CCITT_4)
# Whole pictures in a part, which know their own size, type and colours.
PICTURES = (JPEG, JPEG_2000, LERC, OLD_WEBP, WEBP, PNG, JPEG_XL, JPEG_XL_DNG)
WRITTEN = (NONE, LZW, DEFLATE, OLD_DEFLATE, PACKBITS, LZMA, ZSTD)
_METHODS = {
    OLD_JPEG: "JPEG of the kind before 1995",
    32771: "32-bit words",
    32809: "ThunderScan",
    34676: "SGI LogLuv",
    34677: "SGI LogLuv of 24 bits",
    33003: "JPEG 2000 of Aperio",
    33005: "JPEG 2000 of Aperio",
    34713: "Nikon's raw data",
    34892: "lossy DNG",
    34934: "JPEG XR",
    22610: "JPEG XR of NDPI",
}
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
_COLOURS = {
    4: "a mask",
    YCBCR: "YCbCr outside of JPEG",
    8: "CIE L*a*b*",
    9: "ICC L*a*b*",
    10: "ITU L*a*b*",
    32803: "a camera's raw data",
    32844: "SGI LogL",
    32845: "SGI LogLuv",
    34892: "a camera's linear raw data",
    51177: "a map of depths",
}
SEPARATE = 2
ASSOCIATED_ALPHA, ALPHA = 1, 2
UNSIGNED, SIGNED, FLOAT, UNKNOWN = 1, 2, 3, 4
_KINDS = {UNSIGNED: "u", SIGNED: "i", FLOAT: "f", UNKNOWN: "u"}

# What a decoded part gives, but no longer the file that is written.
_OF_COMPRESSION = (JPEG_TABLES, T4_OPTIONS, T6_OPTIONS, LERC_PARAMETERS, *YCBCR_TAGS)


class UnsupportedError(ValueError):
    """A sound file of a kind that is not read; the message says the remedy."""


@dataclass(frozen=True)
class Page:
    """How the pixels of a page are stored.

    Attributes:
        bits: Of each value.
        kind: ``u``, ``i`` or ``f``.
        samples: Values of a pixel, in all sheets together.
        separate: Whether each sample is a sheet of its own.
        reversed_bits: Whether the first pixel is in the lowest bit of a byte (FillOrder 2).
        opacity: Whether the last sample is marked as opacity, or has to be, since RGB has but three.
        misplaced_opacity: Whether another one is.
        height, width: Of a strip or tile; a strip is as wide as the image.
    """

    image_height: int
    image_width: int
    bits: int
    kind: str
    samples: int
    separate: bool
    compression: int
    predictor: int
    photometric: int
    reversed_bits: bool
    opacity: bool
    misplaced_opacity: bool
    tiled: bool
    height: int
    width: int

    @property
    def sheet_samples(self) -> int:
        """Values beside each other for one pixel of a sheet."""
        return 1 if self.separate else self.samples

    @property
    def sheets(self) -> int:
        """Sheets in a page."""
        return self.samples if self.separate else 1

    @property
    def down(self) -> int:
        """Parts below each other."""
        return -(-self.image_height // self.height)

    @property
    def across(self) -> int:
        """Parts beside each other."""
        return -(-self.image_width // self.width)

    @property
    def parts(self) -> int:
        """Strips or tiles of a sheet."""
        return self.down * self.across

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest number type that holds the values."""
        size = next(size for size in (1, 2, 4, 8) if 8 * size >= self.bits)
        return np.dtype(f"{self.kind}{size}")

    @property
    def whole_bytes(self) -> bool:
        """Whether values are stored as the number type is."""
        return self.bits == 8 * self.dtype.itemsize

    @property
    def limits(self) -> tuple[int, int] | None:
        """Least and greatest value where these are not those of the number type."""
        return None if self.whole_bytes else (0, 2**self.bits - 1)

    @property
    def row_bytes(self) -> int:
        """Of a row of a part: each begins with a whole byte."""
        return (self.width * self.sheet_samples * self.bits + 7) // 8

    def part_rows(self, row: int) -> int:
        """Rows stored in a part of the given row of parts: the last strip has fewer, tiles are padded."""
        if self.tiled:
            return self.height
        return min(self.height, self.image_height - row * self.height)

    @property
    def plain(self) -> bool:
        """Whether rows lie in the file as numbers, so that any of them can be read alone."""
        coded = self.compression != NONE or self.predictor != 1 or self.reversed_bits
        return not coded and not self.tiled and self.whole_bytes

    @property
    def output(self) -> Page:
        """The page that is written: as this one, but compressed without loss and bits in the usual order."""
        page = replace(self, reversed_bits=False)
        if self.compression not in WRITTEN:
            page = replace(page, compression=DEFLATE, predictor=1)
        return replace(page, photometric=RGB) if self.photometric == YCBCR else page

    def coloured(self, colours: NDArray[Any]) -> Page:
        """The page that is written where the colours of a palette (N, 3) are the values themselves."""
        return replace(
            self.output,
            bits=8 * colours.dtype.itemsize,
            samples=3,
            separate=False,
            photometric=RGB,
            predictor=2 if self.output.predictor == 2 else 1,
        )


def read_page(form: Format, directory: Directory) -> Page:
    """The structure that a directory describes.

    Raises UnsupportedError for what is not read, ValueError for what contradicts itself.
    """
    tags = _Tags(form, directory)
    _check_depth(tags)
    samples, separate = tags.number(SAMPLES, 1), tags.number(PLANAR, 1) == SEPARATE
    height, width = tags.number(LENGTH), tags.number(WIDTH)
    tiled = TILE_WIDTH in tags or TILE_LENGTH in tags
    extra = tags.numbers(EXTRA_SAMPLES) if EXTRA_SAMPLES in tags else []
    photometric = tags.number(PHOTOMETRIC, BLACK_IS_ZERO)
    marked = [mark in (ASSOCIATED_ALPHA, ALPHA) for mark in extra] if samples > 1 else []
    # Panotools, Hugin and others write RGBA without the mark; Pillow and GIMP take it for that, too.
    unmarked = not extra and photometric == RGB and samples == 4
    page = Page(
        image_height=height,
        image_width=width,
        bits=tags.number(BITS, 1),
        kind=_KINDS.get(tags.number(SAMPLE_FORMAT, UNSIGNED), "c"),
        samples=samples,
        separate=separate and samples > 1,
        compression=tags.number(COMPRESSION, NONE),
        predictor=tags.number(PREDICTOR, 1),
        photometric=photometric,
        reversed_bits=tags.number(FILL_ORDER, 1) == 2,
        opacity=unmarked or any(marked[-1:]),
        misplaced_opacity=any(marked[:-1]),
        tiled=tiled,
        height=tags.number(TILE_LENGTH)
        if tiled
        else min(tags.number(ROWS_PER_STRIP, height), height),
        width=tags.number(TILE_WIDTH) if tiled else width,
    )
    if min(height, width, samples, page.height, page.width) < 1:
        raise ValueError(
            f"an image of {width} x {height} pixels of {samples} values, in parts of {page.width} x "
            f"{page.height}"
        )
    _check_values(page, tags.number(SAMPLE_FORMAT, UNSIGNED))
    _check_compression(page)
    _check_colours(page)
    return page


def structure(directory: Directory) -> tuple[Tag, ...]:
    """The tags that `read_page` and `read_palette` look at: where they are equal, so are the pages."""
    return tuple(tag for tag in directory if tag.code in _STRUCTURE)


class _Tags:
    """The tags of a directory by number; of several with one number, the first."""

    def __init__(self, form: Format, directory: Directory) -> None:
        self._form = form
        self._tags = {tag.code: tag for tag in reversed(directory)}

    def __contains__(self, code: int) -> bool:
        return code in self._tags

    def numbers(self, code: int) -> list[int]:
        found: list[int] = self._form.numbers(self._tags[code]).tolist()
        return found

    def listed(self, code: int, count: int) -> NDArray[np.int64]:
        """The first values of a tag, which must have so many."""
        if code not in self._tags:
            raise ValueError(f"a page without tag {code}")
        values = self._form.numbers(self._tags[code])
        if len(values) < count:
            raise ValueError(f"tag {code} has {len(values)} values, not {count}")
        return values[:count]

    def number(self, code: int, default: int | None = None) -> int:
        """The one value of a tag, or that of each sample if they agree."""
        if code not in self._tags:
            if default is None:
                raise ValueError(f"a page without tag {code}")
            return default
        values = self.numbers(code)
        if min(values) == max(values):
            return values[0]
        if code in (BITS, SAMPLE_FORMAT):
            raise UnsupportedError(
                f"its channels are stored in different ways (tag {code}: {values[:8]}); save it with 8 or 16 "
                "bits in each"
            )
        raise ValueError(f"tag {code} should hold one number and holds {values[:8]}")


def _check_depth(tags: _Tags) -> None:
    if tags.number(DEPTH, 1) != 1 or tags.number(TILE_DEPTH, 1) != 1:
        raise UnsupportedError("its tiles are volumes; save it with flat tiles or strips")


def _check_values(page: Page, form: int) -> None:
    whole = page.bits in (8, 16, 32, 64)
    # Of 24 bits and the like, programs disagree on the order of the bytes.
    packed = page.kind == "u" and 1 <= page.bits <= 16
    if page.kind not in "uif" or not (whole or packed) or (page.kind == "f" and page.bits == 8):
        raise UnsupportedError(
            f"its values have {page.bits} bits (sample format {form}), which is not read; save it with 8, "
            "16, 32 or 64 bits a value"
        )


def _check_compression(page: Page) -> None:
    known = (*WRITTEN, *CCITT, *PICTURES)
    if page.compression not in known:
        name = _METHODS.get(page.compression, "an unknown one")
        raise UnsupportedError(
            f"compressed by method {page.compression} ({name}), which is not read; save it with deflate, "
            "LZW, zstd or uncompressed"
        )
    if page.compression in CCITT and (page.bits, page.sheet_samples) != (1, 1):
        raise ValueError(f"compressed as a fax, and it has {page.bits} bits a value")
    if page.compression == JPEG and page.bits != 8:
        raise UnsupportedError(
            f"its JPEG has {page.bits} bits a value, and only 8 are read; save it with deflate"
        )
    if page.compression in (*PICTURES, *CCITT):
        return
    allowed = {1, *({2} if page.whole_bytes else ()), *({3} if page.kind == "f" else ())}
    if page.predictor not in allowed:
        raise UnsupportedError(
            f"compressed with predictor {page.predictor} of values of {page.bits} bits, which is not read; "
            "save it without a predictor"
        )


def _check_colours(page: Page) -> None:
    colours = page.photometric
    known = (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK)
    if colours in known or (
        colours == YCBCR and page.compression in PICTURES and not page.separate
    ):
        return
    name = _COLOURS.get(colours, "an unknown kind")
    raise UnsupportedError(
        f"its colours are of a kind that cannot be denoised (photometric {colours}: {name}); save it as grey "
        "or RGB"
    )


def described(page: Page) -> str:
    """A page in words, to compare it with another one."""
    parts = (
        f"tiles of {page.width} x {page.height}" if page.tiled else f"strips of {page.height} rows"
    )
    return (
        f"{page.image_width} x {page.image_height} pixels of {page.samples} x {page.bits} bits, {parts}, "
        f"compression {page.compression}, photometric {page.photometric}"
    )


def image_size(form: Format, directory: Directory) -> tuple[int, int]:
    """Rows and columns."""
    tags = _Tags(form, directory)
    return tags.number(LENGTH), tags.number(WIDTH)


def places(
    form: Format, page: Page, directory: Directory
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each part of a page lies and how many bytes it has, sheet after sheet."""
    tags = _Tags(form, directory)
    number = page.parts * page.sheets
    # Some programs cut a page into tiles and say where the strips are.
    tiles = page.tiled and TILE_OFFSETS in tags
    codes = (TILE_OFFSETS, TILE_BYTES) if tiles else (STRIP_OFFSETS, STRIP_BYTES)
    offsets = tags.listed(codes[0], number)
    if not page.plain:
        return offsets, tags.listed(codes[1], number)
    # Where rows lie bare, ImageJ's byte counts are wrong beyond 4 GiB, and nobody needs them.
    rows = np.array([page.part_rows(row) for row in range(page.down)] * page.sheets)
    return offsets, np.where(offsets > 0, rows * page.row_bytes, 0)


def copied_places(form: Format, directory: Directory) -> tuple[list[int], list[int]]:
    """Where everything lies that belongs to a page that is copied without being understood, and its bytes."""
    tags = _Tags(form, directory)
    codes = PLACES[2:] if TILE_OFFSETS in tags else PLACES[:2]
    found = [tags.numbers(code) if code in tags else [] for code in codes]
    if not found[0] or len(found[0]) != len(found[1]):
        raise ValueError("a page does not say where its pixels are")
    return found[0], found[1]


def read_palette(form: Format, directory: Directory, page: Page) -> Palette | None:
    """The colours of a page whose values are numbers of colours; None if each number is its own grey.

    A colour map has 16 bits a value. Most programs that write one fill the upper 8 alone, or repeat
    them in the lower: then colours have 8 bits.
    """
    tag = next((tag for tag in directory if tag.code == COLOUR_MAP), None)
    if tag is None:
        raise ValueError("its values are numbers of colours, and it has no table of colours")
    if page.kind != "u" or page.samples != 1 or page.bits > 16:
        raise UnsupportedError(
            f"its values are numbers of colours with {page.samples} values of {page.bits} bits a pixel; "
            "save it as RGB"
        )
    values = form.numbers(tag)
    if len(values) != 3 * 2**page.bits:
        raise ValueError(f"a table of {len(values)} values for colours of {page.bits} bits")
    colours = values.reshape(3, -1).T
    high = colours >> 8
    if values.max() < 256:  # written by programs that mistook the tag
        colours, dtype = colours, np.uint8
    elif np.isin(colours - (high << 8), (0, 255)).all() or (colours == high * 257).all():
        colours, dtype = high, np.uint8
    else:
        dtype = np.uint16  # type: ignore[assignment]
    if _is_ramp(colours):
        return None
    return Palette(colours.astype(dtype))


def _is_ramp(colours: NDArray[np.int64]) -> bool:
    """Whether the colours are the greys from black to white or back: then the numbers are greys."""
    grey = colours[:, 0]
    even = np.linspace(0, 255, len(grey)).round()
    alike = (colours == grey[:, None]).all()
    return bool(alike) and any(np.array_equal(grey, each) for each in (even, even[::-1]))


def written_tags(form: Format, page: Page, output: Page) -> tuple[set[int], list[Tag]]:
    """Tags of a page that are left out of what is written, and those that come in their place."""
    gone = {*PLACES, FILL_ORDER, FREE_OFFSETS, FREE_BYTES}
    new: dict[int, list[int]] = {}
    if output.compression != page.compression:
        gone |= {*_OF_COMPRESSION, PREDICTOR}
        new[COMPRESSION] = [output.compression]
    if output.photometric != page.photometric:
        gone |= {*YCBCR_TAGS, COLOUR_MAP}
        new[PHOTOMETRIC] = [output.photometric]
    if (output.samples, output.bits) != (page.samples, page.bits):
        gone |= {SAMPLE_FORMAT, EXTRA_SAMPLES, PREDICTOR}
        new |= {SAMPLES: [output.samples], BITS: [output.bits] * output.samples, PLANAR: [1]}
        if output.predictor != 1:
            new[PREDICTOR] = [output.predictor]
    return gone | set(new), [form.tag(code, values, short=True) for code, values in new.items()]


def is_reduced(form: Format, directory: Directory) -> bool:
    """Whether a page says that it is a smaller version of another one."""
    return bool(_subfile(form, directory) & 1)


def is_mask(form: Format, directory: Directory) -> bool:
    """Whether a page says that it holds another one's opacity."""
    return bool(_subfile(form, directory) & 4)


def _subfile(form: Format, directory: Directory) -> int:
    tags = _Tags(form, directory)
    if SUBFILE in tags:
        return tags.number(SUBFILE)
    return int(OLD_SUBFILE in tags and tags.number(OLD_SUBFILE) == 2)


def sub_directories(form: Format, directory: Directory) -> list[int]:
    """Where a page says that further ones lie, which belong to it."""
    return [
        place
        for tag in directory
        if tag.code == SUB_IFDS
        for place in np.frombuffer(tag.raw, _pointers(form, tag)).tolist()
        if place
    ]


def _pointers(form: Format, tag: Tag) -> str:
    widths = {4: "u4", 13: "u4", 16: "u8", 18: "u8"}
    if tag.type not in widths:
        raise ValueError(
            f"tag {tag.code} should hold places of directories, not TIFF type {tag.type}"
        )
    return form.order + widths[tag.type]


_LAYERS = (b"Layr", b"Lr16", b"Lr32")


def has_layers(directory: Directory) -> bool:
    """Whether a page holds Photoshop's layers, and not merely what else Photoshop puts into the same tag.

    The tag is a title and blocks: a signature, a key, a length, the content, padded to 4 bytes. The order of
    bytes is that of the program's, so signature and key may be written backwards.
    """
    for tag in directory:
        if tag.code == PHOTOSHOP_LAYERS:
            start = tag.raw.find(b"\0") + 1
            return bool(tag.raw[start:].strip(b"\0")) and _has_layer_block(tag.raw[start:])
    return False


def _has_layer_block(data: bytes) -> bool:
    place = 0
    while data[place:].strip(b"\0"):
        head = data[place : place + 12]
        if head[:4] not in (b"8BIM", b"MIB8", b"8B64", b"46B8") or len(head) < 12:
            return any(key in data or key[::-1] in data for key in _LAYERS)  # not to be understood
        order = ">" if head[:2] == b"8B" else "<"
        key = head[4:8] if order == ">" else head[7:3:-1]
        size = struct.unpack(order + "I", head[8:])[0]
        if key in _LAYERS and data[place + 12 : place + 12 + size].strip(b"\0"):
            return True
        place += 12 + -(-size // 4) * 4
    return False


def read_nodata(directory: Directory, dtype: np.dtype[Any]) -> float | None:
    """The value of pixels that hold none, which GDAL writes as text; None where no pixel can have it."""
    tag = next((tag for tag in directory if tag.code == NODATA), None)
    if tag is None:
        return None
    try:
        value = float(tag.raw.strip(b"\0 \r\n\t"))
    except ValueError:
        return None
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            value = float(np.float64(value).astype(dtype))
        return value if np.isfinite(value) else None
    limits = np.iinfo(dtype)
    return value if value.is_integer() and limits.min <= value <= limits.max else None


def strips(start: int, stop: int, height: int) -> Iterator[tuple[int, int, int]]:
    """The strips that rows ``start:stop`` touch, and from which row to which."""
    for strip in range(start // height, -(-stop // height)):
        yield strip, max(start, strip * height), min(stop, (strip + 1) * height)
