"""TIFF of any size: rows in, rows out, and every tag of every page kept.

tifffile says what the axes are and decodes strips and tiles; directories are read and written raw (``ifd``).
A band of rows costs the memory of that band and of one row of tiles: nothing is mapped or held whole. Pixels
are written as they come and the directories after them, when it is known whether the file must be a BigTIFF.

A *sheet* is one channel of a page, or all of them where they are interleaved.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from snowmelt.errors import UserError
from snowmelt.images.base import MAX_PIXELS, Array, Image, Layout, check_pixels, reading, writing
from snowmelt.images.ifd import Directory, Format, Reader, Tag
from snowmelt.images.raster import jpeg_size
from snowmelt.limits import EXPANSION

# Tags by number, see the TIFF 6.0 specification.
WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
DESCRIPTION, STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES = 270, 273, 277, 278, 279
PLANAR, PREDICTOR, TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_BYTES = 284, 317, 322, 323, 324, 325
SUB_IFDS, EXTRA_SAMPLES, SAMPLE_FORMAT, JPEG_TABLES = 330, 338, 339, 347
DEPTH, TILE_DEPTH, PHOTOSHOP_LAYERS = 32997, 32998, 37724
YCBCR_TAGS = (529, 530, 531, 532)
STRUCTURE = (
    *(WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, SAMPLES, ROWS_PER_STRIP, PLANAR),
    *(PREDICTOR, TILE_WIDTH, TILE_LENGTH, EXTRA_SAMPLES, SAMPLE_FORMAT),
)
REPLACED = (STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES, FILL_ORDER, JPEG_TABLES)

NONE, LZW, JPEG, DEFLATE, OLD_DEFLATE, PACKBITS, LZMA, ZSTD = 1, 5, 7, 8, 32946, 32773, 34925, 50000
COMPRESSIONS = (NONE, LZW, JPEG, DEFLATE, OLD_DEFLATE, PACKBITS, LZMA, ZSTD)
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6

# Files that tifffile recognizes and whose tags mean the same in a copy.
KINDS = ("ome", "imagej", "shaped", "uniform", "generic")
OME_COUNTS = (
    *("SizeZ", "SizeC", "SizeT", "FirstZ", "FirstC", "FirstT"),
    *("IFD", "NumPlanes", "PlaneCount", "SamplesPerPixel"),
)
OME_SIZES = ("SizeX", "SizeY", "SizeZ", "SizeC", "SizeT")

_CLASSIC_END = 2**32
_ENCODERS = {
    LZW: "lzw_encode",
    DEFLATE: "deflate_encode",
    OLD_DEFLATE: "deflate_encode",
    LZMA: "lzma_encode",
    ZSTD: "zstd_encode",
}
_HEADER = 16
_BATCH = 2**24


@dataclass(frozen=True)
class _Grid:
    """How a sheet is cut into strips or tiles; a strip is a tile as wide as the picture."""

    height: int
    width: int
    down: int
    across: int
    tiled: bool


class TiffImage(Image):
    """TIFF, BigTIFF, OME-TIFF, ImageJ: stacks, channels, integers and floats of 8 to 64 bits.

    Compression, tiling, byte order and all tags are kept. JPEG alone is not written again, since it would
    lose: such a file comes back with deflate.
    """

    suffixes = (".tif", ".tiff", ".btf", ".tf8")
    kind = "TIFF"
    signatures = tuple((0, sign) for sign in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))

    def __init__(
        self, path: str | Path, *, axes: str | None = None, max_pixels: int | None = MAX_PIXELS
    ) -> None:
        self.path = Path(path)
        self._cache: dict[int, tuple[int, Array]] = {}
        with reading(self.path, "TIFF"):
            with self.path.open("rb") as file:
                reader = Reader(file)
                self._directories = tuple(reader.chain())
            self._format, self._size = reader.format, reader.size
            self._check_directories()
            shape, letters, order = self._describe()
            self._check_page()
            letters = self._axes(shape, letters, axes)
            self.layout = Layout(shape, letters, np.dtype(self._page.dtype), alpha=self._alpha())
            self._grid = self._cut(max_pixels)
            self._sheets = self._arrange(order)
            self._offsets, self._counts = self._places()

    def read_rows(self, plane: int, start: int, stop: int) -> Array:
        """Rows ``start:stop`` of a plane as (stop - start, W, channels), in native byte order.

        Rows asked for in sequence decode each strip or tile once.
        """
        sheets = self._sheets[plane].tolist()
        self._cache = {sheet: kept for sheet, kept in self._cache.items() if sheet in sheets}
        rows = self._plain_rows if self._is_plain else self._decoded_rows
        with reading(self.path, "TIFF"), self.path.open("rb") as file:
            parts = [rows(file, sheet, start, stop) for sheet in sheets]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    def write_like(self, target: Path, bands: Iterator[Array]) -> None:
        """Write a TIFF with the same tags and other pixels; BigTIFF beyond 4 GiB; atomic."""
        self.check_target(target)
        with writing(target) as part, part.open("wb") as file:
            _Writer(self, file).write(bands)

    @functools.cached_property
    def _tags(self) -> dict[int, Tag]:
        """Those of the first page; the others have the same structure."""
        return {tag.code: tag for tag in reversed(self._directories[0])}

    def _number(self, code: int, default: int) -> int:
        return int(self._format.numbers(self._tags[code])[0]) if code in self._tags else default

    def _refusal(self, why: str) -> UserError:
        return UserError(f"{self.path}: {why}")

    def _check_directories(self) -> None:
        """Before tifffile sees the file: what it would misread, or what would not survive the copy."""
        if not self._directories:
            raise ValueError("it has no picture")
        first = {code: tag.raw for code, tag in self._tags.items()}
        for number, directory in enumerate(self._directories, start=1):
            tags = {tag.code: tag.raw for tag in reversed(directory)}
            if SUB_IFDS in tags:
                raise self._refusal(
                    "holds further pictures inside its pages (SubIFDs: a pyramid or previews), which "
                    "would stay noisy; save the full picture alone"
                )
            if PHOTOSHOP_LAYERS in tags:
                raise self._refusal(
                    "holds Photoshop layers, which would stay noisy; save it flattened"
                )
            if any(tags.get(code) != first.get(code) for code in STRUCTURE):
                raise self._refusal(
                    f"its pages are not alike: page {number} differs from the first in size, depth or "
                    "compression (a preview, a pyramid?); save pages of one kind in a file"
                )
        if DESCRIPTION in self._tags and b"OME>" in self._tags[DESCRIPTION].raw[-16:]:
            self._check_ome(self._tags[DESCRIPTION].raw.rstrip(b"\0"))

    def _check_ome(self, xml: bytes) -> None:
        """tifffile makes lists as long as the OME-XML claims: it must not claim more than there is."""
        from xml.etree import ElementTree

        planes = len(self._directories) * self._number(SAMPLES, 1)
        pixels = planes * self._number(WIDTH, 0) * self._number(LENGTH, 0)
        for element in ElementTree.fromstring(xml).iter():
            named = element.attrib
            count = max((int(named[name]) for name in OME_COUNTS if name in named), default=0)
            size = math.prod(int(named[name]) for name in OME_SIZES if name in named)
            span = abs(float(named.get("End", 0)) - float(named.get("Start", 0)))
            if (
                count > planes
                or size > max(1, pixels)
                or not span <= planes * float(named.get("Step", 1))
            ):
                raise self._refusal(
                    "its OME-XML describes more planes than the file holds; if it is one of several "
                    "files, export them as one"
                )

    def _describe(self) -> tuple[tuple[int, ...], str, NDArray[np.int64]]:
        """Shape, axes, and the page of each step along them, as tifffile sees them."""
        from tifffile import TiffFile

        log = logging.getLogger("tifffile")
        if not log.handlers:  # else Python prints what tifffile logs
            log.addHandler(logging.NullHandler())
        # Without _multifile an OME-XML could make tifffile open any file that it names.
        with TiffFile(self.path, _multifile=False) as file:
            if len(file.series) != 1:
                raise self._refusal(f"holds {len(file.series)} separate images; save one in a file")
            series = file.series[0]
            self._page, self._kind = series.keyframe, series.kind
            self._decoder = (
                series.keyframe.decode
            )  # made while the file is open: JPEG looks into it
            order = np.arange(len(self._directories))
            if series.kind == "ome":
                order = np.array([-1 if page is None else page.index for page in series])
        if series.kind not in KINDS:
            raise self._refusal(
                f"a TIFF of the kind {series.kind!r}, whose private records would not survive a copy; "
                "export it as OME-TIFF"
            )
        if not np.array_equal(np.sort(order), np.arange(len(self._directories))):
            raise self._refusal("its OME-XML does not name each page once; export it again")
        return series.shape, series.axes, order

    def _check_page(self) -> None:
        page = self._page
        known = page.dtype is not None and page.dtype.kind in "uif"
        if not known or page.bitspersample != 8 * page.dtype.itemsize:
            raise self._refusal(
                f"its values have {page.bitspersample} bits (sample format {page.sampleformat:d}); save it "
                "with 8, 16, 32 or 64 bits a value"
            )
        if page.compression not in COMPRESSIONS or page.predictor not in (1, 2, 3):
            raise self._refusal(
                f"compressed by method {page.compression:d}, predictor {page.predictor:d}; save it with "
                "deflate, LZW, zstd or uncompressed"
            )
        if not self._has_known_colours():
            raise self._refusal(
                f"its colours are of a kind that cannot be denoised (photometric {page.photometric:d}: a "
                "palette, a mask, Lab, raw sensor data?); save it as grey or RGB"
            )
        if self._number(DEPTH, 1) != 1 or self._number(TILE_DEPTH, 1) != 1:
            raise self._refusal("its tiles are volumes; save it with flat tiles or strips")

    def _has_known_colours(self) -> bool:
        page = self._page
        if page.photometric == PALETTE:  # to ImageJ a palette is only the look of grey values
            return bool(self._kind == "imagej")
        if page.photometric == YCBCR:
            return bool(page.compression == JPEG and page.planarconfig == 1)
        return page.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, CMYK)

    @property
    def _samples(self) -> int:
        """Values beside each other for one pixel of a sheet."""
        return int(self._page.samplesperpixel) if self._page.planarconfig == 1 else 1

    @property
    def _separate(self) -> int:
        """Sheets in a page."""
        return int(self._page.samplesperpixel) // self._samples

    def _axes(self, shape: tuple[int, ...], found: str, given: str | None) -> str:
        picture = 3 if self._samples > 1 else 2
        letters = found if given is None else given.upper()
        last = letters[-picture:]
        fits = len(letters) == len(shape) and last in ("YX", "YXS", "YXC") and len(last) == picture
        if given is not None and not (
            fits and letters.isalpha() and len(set(letters)) == len(letters)
        ):
            raise self._refusal(f"has the shape {shape}, axes {found}; --axes {given} does not fit")
        size = (self._page.imagelength, self._page.imagewidth)
        if not fits or shape[len(shape) - picture :][:2] != size:
            raise self._refusal(
                f"stores the axes {found} {shape} not page by page; save it as pages of Y and X"
            )
        if given is None and any(letters[i] in "QI" and n > 1 for i, n in enumerate(shape)):
            example = "TCZ"[-(len(shape) - picture) :] + last
            raise self._refusal(
                f"has the shape {shape} and does not say what its pages are; name the axes, e.g. --axes "
                f"{example} (Z depth, T time, C channels, S samples of one colour)"
            )
        return letters

    def _alpha(self) -> bool:
        if EXTRA_SAMPLES not in self._tags or self._page.samplesperpixel < 2:
            return False
        *others, last = self._format.numbers(self._tags[EXTRA_SAMPLES]).tolist()
        if {1, 2} & set(others):
            raise self._refusal("its opacity is not the last channel; save it as RGBA")
        return last in (1, 2)

    def _cut(self, max_pixels: int | None) -> _Grid:
        layout, page = self.layout, self._page
        if max_pixels is not None:
            max_pixels = max(max_pixels, self._size * EXPANSION // layout.dtype.itemsize)
        check_pixels(self.path, math.prod(layout.shape) // max(1, layout.channels), max_pixels)
        height = page.tilelength if page.is_tiled else page.rowsperstrip
        width = page.tilewidth if page.is_tiled else layout.width
        check_pixels(self.path, height * width, max_pixels)
        down, across = -(-layout.height // height), -(-layout.width // width)
        return _Grid(height, width, down, across, page.is_tiled)

    def _arrange(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sheets (planes, channels or 1); sheet = page * sheets in a page + sample."""
        layout = self.layout
        leading = layout.shape[: layout.axes.index("Y")]
        held = (order[:, None] * self._separate + np.arange(self._separate)).reshape(-1)
        # ImageJ describes a large stack by its first page; the other planes just follow.
        self._is_virtual = math.prod(leading) > 1 and held.size == 1 and self._is_plain
        if self._is_virtual:
            held = np.arange(math.prod(leading))
        if math.prod(leading) != held.size:
            raise self._refusal(f"describes {math.prod(leading)} planes and holds {held.size}")
        channel = layout.channel_axis
        if channel is None or channel >= len(leading):
            return held.reshape(-1, 1)
        return np.moveaxis(held.reshape(leading), channel, -1).reshape(-1, leading[channel])

    def _places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where each strip or tile lies and how many bytes it has: (sheets, down * across)."""
        codes = (TILE_OFFSETS, TILE_BYTES) if self._grid.tiled else (STRIP_OFFSETS, STRIP_BYTES)
        offsets, counts = (self._listed(code) for code in codes)
        if self._is_plain:  # ImageJ's byte counts are wrong beyond 4 GiB, and nobody needs them
            counts = np.where(offsets > 0, self._strip_rows() * self._row_bytes, 0)
        if self._is_virtual:
            if np.any(np.diff(offsets[0]) != counts[0, :-1]):
                raise ValueError("its planes do not follow one another")
            planes = np.arange(self._sheets.size)[:, None]
            offsets = offsets + planes * self.layout.height * self._row_bytes
            counts = np.repeat(counts, len(planes), axis=0)
        needed = int((offsets + counts).max())
        if needed > self._size:
            raise ValueError(
                f"it is cut off: it ends at byte {self._size}, and {needed} are needed"
            )
        return offsets, counts

    def _listed(self, code: int) -> NDArray[np.int64]:
        """The values of a tag of every page, (sheets, down * across)."""
        number = self._grid.down * self._grid.across
        rows = []
        for directory in self._directories:
            tag = next((tag for tag in directory if tag.code == code), None)
            if tag is None and code == STRIP_BYTES and self._is_plain:
                values = np.zeros(number * self._separate, np.int64)
            elif tag is None:
                raise ValueError(f"a page without tag {code}")
            else:
                values = self._format.numbers(tag)[: number * self._separate]
            if len(values) < number * self._separate:
                raise ValueError(
                    f"tag {code} has {len(values)} values, not {number * self._separate}"
                )
            rows.append(values)
        return np.concatenate(rows).reshape(-1, number)

    @functools.cached_property
    def _is_plain(self) -> bool:
        """Rows lie in the file as they are: any of them can be read alone."""
        page = self._page
        coded = (page.compression, page.predictor, self._number(FILL_ORDER, 1))
        return coded == (NONE, 1, 1) and not page.is_tiled

    @property
    def _row_bytes(self) -> int:
        return self.layout.width * self._samples * self.layout.dtype.itemsize

    def _strip_rows(self) -> NDArray[np.int64]:
        """The rows in each strip: fewer in the last one."""
        tops = np.arange(self._grid.down) * self._grid.height
        return np.minimum(self._grid.height, self.layout.height - tops)

    def _plain_rows(self, file: BinaryIO, sheet: int, start: int, stop: int) -> Array:
        stored = self.layout.dtype.newbyteorder(self._format.order)
        out = np.zeros((stop - start, self.layout.width, self._samples), self.layout.dtype)
        for strip, first, last in _strips(start, stop, self._grid.height):
            if offset := int(self._offsets[sheet, strip]):
                file.seek(offset + (first - strip * self._grid.height) * self._row_bytes)
                data = np.frombuffer(file.read((last - first) * self._row_bytes), stored)
                out[first - start : last - start] = data.reshape(last - first, *out.shape[1:])
        return out

    def _decoded_rows(self, file: BinaryIO, sheet: int, start: int, stop: int) -> Array:
        out = np.empty((stop - start, self.layout.width, self._samples), self.layout.dtype)
        for row, first, last in _strips(start, stop, self._grid.height):
            if sheet not in self._cache or self._cache[sheet][0] != row:
                self._cache[sheet] = (row, self._decode(file, sheet, row))
            top = row * self._grid.height
            out[first - start : last - start] = self._cache[sheet][1][first - top : last - top]
        return out

    def _decode(self, file: BinaryIO, sheet: int, row: int) -> Array:
        """One strip or one row of tiles, as (rows, W, samples)."""
        grid, width = self._grid, self.layout.width
        rows = min(grid.height, self.layout.height - row * grid.height)
        out = np.full((rows, width, self._samples), self._page.nodata, self.layout.dtype)
        for column in range(grid.across):
            number = row * grid.across + column
            if size := int(self._counts[sheet, number]):  # none: left out, as GDAL does
                file.seek(int(self._offsets[sheet, number]))
                left = column * grid.width
                tile = self._segment(file.read(size), sheet, number)
                out[:, left : left + grid.width] = tile[:rows, : width - left]
        return out

    def _segment(self, data: bytes, sheet: int, number: int) -> Array:
        """A strip or tile, decoded."""
        grid = self._grid
        tables = None
        if self._page.compression == JPEG:
            height, width, _ = jpeg_size(data)
            if height > grid.height or width > grid.width:
                raise ValueError(
                    f"a JPEG of {width} x {height} in a tile of {grid.width} x {grid.height}"
                )
            directory = self._directories[sheet // self._separate]
            tables = next((tag.raw for tag in directory if tag.code == JPEG_TABLES), None)
        index = sheet % self._separate * grid.down * grid.across + number
        tile = self._decoder(data, index, jpegtables=tables, _fullsize=grid.tiled)[0]
        if tile.dtype != self.layout.dtype:
            raise ValueError(f"a tile of {tile.dtype} in a picture of {self.layout.dtype}")
        return np.asarray(tile[0])


def _strips(start: int, stop: int, height: int) -> Iterator[tuple[int, int, int]]:
    """The strips that rows ``start:stop`` touch, and from which row to which."""
    for strip in range(start // height, -(-stop // height)):
        yield strip, max(start, strip * height), min(stop, (strip + 1) * height)


def _placed(bands: Iterator[Array], height: int) -> Iterator[tuple[int, int, Array]]:
    """Say of each band where it lies: (plane, first row, rows), cut where a plane ends."""
    plane, top = 0, 0
    for band in bands:
        left = band
        while len(left):
            rows = left[: height - top]
            yield plane, top, rows
            left, top = left[len(rows) :], top + len(rows)
            if top == height:
                plane, top = plane + 1, 0
    assert top == 0


def _grouped(bands: Iterator[Array], height: int, step: int) -> Iterator[tuple[int, int, Array]]:
    """The same in groups of ``step`` rows, fewer at the end of a plane."""
    waiting: list[Array] = []
    for plane, first, rows in _placed(bands, height):
        for group, start, stop in _strips(first, first + len(rows), step):
            waiting.append(rows[start - first : stop - first])
            if stop in ((group + 1) * step, height):
                whole = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
                yield plane, group * step, whole
                waiting = []


def _batches(
    tiles: Iterator[tuple[int, int, Array]],
) -> Iterator[list[tuple[int, int, Array]]]:
    """Lists of some megabytes."""
    batch, size = [], 0
    for tile in tiles:
        batch.append(tile)
        size += tile[2].nbytes
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Writer:
    """Writes one file like ``image``: pixels as they come, then the directories."""

    def __init__(self, image: TiffImage, file: BinaryIO) -> None:
        self._image, self._file, self._grid = image, file, image._grid
        page = image._page
        self._was_jpeg = page.compression == JPEG
        self._compression = DEFLATE if self._was_jpeg else int(page.compression)
        self._predictor = 1 if self._was_jpeg else int(page.predictor)
        self._stored = image.layout.dtype.newbyteorder(image._format.order)
        self._offsets = np.zeros_like(image._offsets)
        self._counts = np.zeros_like(image._offsets)

    def write(self, bands: Iterator[Array]) -> None:
        """Take all bands and leave a whole file."""
        image = self._image
        one_directory = image._format.pack(self._directory(0, image._format), 0, last=True)
        start = _HEADER + (len(one_directory) if image._is_virtual else 0)
        if (self._compression, self._predictor, self._grid.tiled) == (NONE, 1, False):
            self._write_plain(bands, start)
        else:
            self._file.seek(start)
            self._write_encoded(bands)
        # ImageJ finds planes beyond 4 GiB by one directory before them.
        end = self._file.seek(0, 2)
        self._write_directories(_HEADER if image._is_virtual else end + end % 2)

    def _write_plain(self, bands: Iterator[Array], start: int) -> None:
        """Each row has its place from the outset, so planar colours need no buffer."""
        image = self._image
        size = image._row_bytes
        strips = np.arange(self._grid.down) * self._grid.height * size
        sheets = np.arange(len(self._offsets))[:, None] * image.layout.height * size
        self._offsets = start + sheets + strips
        self._counts[:] = image._strip_rows() * size
        for plane, top, rows in _placed(bands, image.layout.height):
            for sheet, data in self._split(plane, rows):
                self._file.seek(int(self._offsets[sheet, 0]) + top * size)
                self._file.write(data.astype(self._stored).tobytes())

    def _write_encoded(self, bands: Iterator[Array]) -> None:
        """Strips or tiles in the order of the bands, a few at a time compressed on all cores."""
        with ThreadPoolExecutor() as pool:
            for batch in _batches(self._tiles(bands)):
                encoded = pool.map(self._encode, [tile for _, _, tile in batch])
                for (sheet, number, _), data in zip(batch, encoded, strict=True):
                    self._offsets[sheet, number] = self._file.tell()
                    self._counts[sheet, number] = len(data)
                    self._file.write(data)

    def _tiles(self, bands: Iterator[Array]) -> Iterator[tuple[int, int, Array]]:
        """Each strip or tile with its sheet and its number in the sheet."""
        grid = self._grid
        for plane, top, rows in _grouped(bands, self._image.layout.height, grid.height):
            for sheet, data in self._split(plane, rows):
                for column in range(grid.across):
                    tile = data[:, column * grid.width : (column + 1) * grid.width]
                    yield sheet, top // grid.height * grid.across + column, tile

    def _split(self, plane: int, rows: Array) -> Iterator[tuple[int, Array]]:
        """Each sheet of a plane with its share of the channels."""
        sheets = self._image._sheets[plane]
        parts = np.split(rows, len(sheets), axis=-1)
        return zip(sheets.tolist(), parts, strict=True)

    def _encode(self, tile: Array) -> bytes:
        import imagecodecs

        if self._grid.tiled:
            missing = (self._grid.height - tile.shape[0], self._grid.width - tile.shape[1])
            tile = np.pad(tile, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="edge")
        if self._predictor == 3:
            data = imagecodecs.floatpred_encode(np.ascontiguousarray(tile), axis=-2).tobytes()
        else:
            if self._predictor == 2:
                tile = imagecodecs.delta_encode(np.ascontiguousarray(tile), axis=-2)
            data = tile.astype(self._stored).tobytes()
        if self._compression == PACKBITS:  # row by row, says the specification
            rows = np.frombuffer(data, np.uint8).reshape(len(tile), -1)
            return bytes(imagecodecs.packbits_encode(rows, axis=-1))
        if self._compression == NONE:
            return data
        return bytes(getattr(imagecodecs, _ENCODERS[self._compression])(data))

    def _write_directories(self, place: int) -> None:
        form = self._image._format
        packed = self._packed(form, place)
        if place + len(packed) > _CLASSIC_END and not form.big:
            form = Format(form.order, big=True)
            packed = self._packed(form, place)
        self._file.seek(place)
        self._file.write(packed)
        self._file.seek(0)
        self._file.write(form.header(place))

    def _packed(self, form: Format, place: int) -> bytes:
        packed = bytearray()
        count = len(self._image._directories)
        for number in range(count):
            directory = self._directory(number, form)
            packed += form.pack(directory, place + len(packed), last=number == count - 1)
        return bytes(packed)

    def _directory(self, number: int, form: Format) -> Directory:
        """The tags of a page with the places of its new strips or tiles."""
        image = self._image
        replaced = {*REPLACED, *((COMPRESSION, PREDICTOR) if self._was_jpeg else ())}
        codes = (TILE_OFFSETS, TILE_BYTES) if self._grid.tiled else (STRIP_OFFSETS, STRIP_BYTES)
        sheets = slice(number * image._separate, (number + 1) * image._separate)
        new = [form.tag(codes[0], self._offsets[sheets]), form.tag(codes[1], self._counts[sheets])]
        if self._was_jpeg:
            new.append(form.tag(COMPRESSION, [DEFLATE], short=True))
        if image._page.photometric == YCBCR:  # decoded to RGB
            replaced |= {PHOTOMETRIC, *YCBCR_TAGS}
            new.append(form.tag(PHOTOMETRIC, [RGB], short=True))
        kept = [tag for tag in image._directories[number] if tag.code not in replaced]
        return tuple(sorted([*kept, *new], key=lambda tag: tag.code))


def check_new(path: Path, array: Array, axes: str | None) -> str:
    """The axes of a new TIFF; where the shape allows several readings they must be given."""
    colour = array.ndim == 3 and array.shape[-1] in (3, 4)
    letters = axes.upper() if axes else {2: "YX", 3: "YXS" if colour else ""}.get(array.ndim, "")
    if array.dtype.kind not in "uif":
        raise UserError(f"{path}: TIFF holds whole numbers and floats, not {array.dtype}")
    fits = len(letters) == len(set(letters)) == array.ndim and letters.isalpha()
    if not fits or not letters.removesuffix("S").endswith("YX"):
        raise UserError(
            f"{path}: name the axes of the shape {array.shape}, ending in YX or YXS, e.g. axes='ZYX'"
            + (f"; got {axes!r}" if axes else "")
        )
    return letters


def create(part: Path, array: Array, axes: str) -> None:
    """Write a new TIFF with deflate; its axes are noted in the way of tifffile."""
    import tifffile

    samples = array.shape[-1] if axes.endswith("S") else 1
    tifffile.imwrite(
        part,
        array,
        photometric="rgb" if samples in (3, 4) else "minisblack",
        planarconfig="contig" if samples > 1 else None,
        extrasamples=["unassalpha"] if samples in (2, 4) else None,
        compression="zlib",
        metadata={"axes": axes},
    )
