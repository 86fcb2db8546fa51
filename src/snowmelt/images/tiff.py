"""TIFF of any size: rows in, rows out, and every tag of every page kept.

Directories are read and written raw (``ifd``); what they say about the pixels is a frozen ``Page``
(``tiffpage``), what the pages are comes from ``tiffaxes``, strips and tiles are coded by ``tiffcodec`` and
written by ``tiffwriter``. A band of rows costs the memory of that band and of one row of tiles: nothing is
mapped or held whole.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from snowmelt.errors import UserError
from snowmelt.images import tiffaxes, tiffpage, tiffpages, tiffreader
from snowmelt.images.base import MAX_PIXELS, Array, Image, Layout, check_values, reading, writing
from snowmelt.images.ifd import Format, Reader
from snowmelt.images.palette import Palette
from snowmelt.images.tiffpage import Page, UnsupportedError
from snowmelt.images.tiffwriter import Plan, Writer, placed
from snowmelt.limits import EXPANSION

# ScanImage writes what holds for all frames behind the header of a BigTIFF: this number, a version and
# two sizes.
_SCANIMAGE = 117637889


class TiffImage(Image):
    """TIFF, BigTIFF, OME-TIFF, ImageJ: stacks, channels; integers of 1 to 64 bits, floats, palettes.

    Compression, tiling, byte order and all tags are kept. What cannot be written without loss (JPEG) or not
    at all (CCITT fax) comes back with deflate; a palette comes back as RGB, unless no pixel has changed.
    """

    kind = "TIFF"
    suffixes = (".tif", ".tiff", ".btf", ".tf8")
    signatures = tuple((0, sign) for sign in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))

    def __init__(
        self, path: str | Path, *, axes: str | None = None, max_pixels: int | None = MAX_PIXELS
    ) -> None:
        self.path = Path(path)
        self._axes = axes
        with reading(self.path, "TIFF"), self.path.open("rb") as file:
            try:
                self._open(file, axes, max_pixels)
            except UnsupportedError as error:
                raise UserError(f"{self.path}: {error}") from error

    def read_rows(self, plane: int, start: int, stop: int) -> Array:
        """Rows ``start:stop`` of a plane as (stop - start, W, channels), in native byte order.

        Rows asked for in sequence decode each strip or tile once.
        """
        values = self._stored_rows(plane, start, stop)
        if self._palette is None:
            return values
        with reading(self.path, "TIFF"):
            return self._palette.shown(self._palette.checked(values))

    def write_like(self, target: Path, bands: Iterator[Array]) -> None:
        """Write a TIFF with the same tags and other pixels; BigTIFF beyond 4 GiB; atomic.

        What was written is opened again and compared before it appears under its name.
        """
        self.check_target(target)
        with writing(target) as part:
            if self._palette is None:
                self._write(part, bands, self._stored.page.output)
            else:
                self._write_colours(part, bands, self._palette)

    def _open(self, file: BinaryIO, axes: str | None, max_pixels: int | None) -> None:
        reader = Reader(file)
        form = reader.format
        pages = tiffpages.sorted_out(reader)
        directories, self._chain, self.notes = pages.image, pages.chain, pages.notes
        page = tiffpages.common_page(form, directories)
        _check_size(self.path, page, len(directories), reader.size, max_pixels)
        described = tiffaxes.read_axes(file, reader.size, form, directories, page)
        letters = tiffaxes.letters_of(described, page, axes)
        # To ImageJ and OME a palette is only the look of grey values.
        coloured = page.photometric == tiffpage.PALETTE and described.kind not in ("imagej", "ome")
        self._palette = tiffpage.read_palette(form, directories[0], page) if coloured else None
        layout = Layout(
            described.shape,
            letters,
            page.dtype,
            alpha=tiffaxes.has_opacity(page, described, letters),
        )
        self.layout = _shown_layout(layout, self._palette)
        if layout.alpha and page.separate:
            self.notes += (
                f"channel {page.samples} is marked as opacity and comes back unchanged; if it is a channel "
                "like the others, say --axes CYX",
            )
        self.value_range = None if self._palette else page.limits
        nodata = tiffpage.read_nodata(directories[0], page.dtype)
        self.nodata = None if self._palette else nodata
        _check_pixels(self.path, layout, page, reader.size, max_pixels)
        self._stored = tiffreader.located(form, page, directories, layout, described, reader.size)
        self._rows = tiffreader.Rows(self._stored, nodata or 0)
        self._front = _scanimage_front(file, reader.size, described, form)

    def _stored_rows(self, plane: int, start: int, stop: int) -> Array:
        """Rows as the file holds them: where there is a palette, numbers of colours."""
        with reading(self.path, "TIFF"), self.path.open("rb") as file:
            return self._rows.read(file, plane, start, stop)

    def _write_colours(self, part: Path, bands: Iterator[Array], palette: Palette) -> None:
        """As RGB, which loses nothing of new pixels; as numbers of colours again if none has changed."""
        twin = TiffImage(self.path, axes=self._axes, max_pixels=None)
        watched = _Watched(bands, twin)
        page = self._stored.page
        self._write(part, iter(watched), page.coloured(palette.colours))
        if not watched.changed:
            height, step = page.image_height, max(1, 2**22 // max(1, page.row_bytes))
            numbers = (
                twin._stored_rows(plane, start, min(height, start + step))
                for plane in range(self.layout.planes)
                for start in range(0, height, step)
            )
            self._write(part, numbers, page.output)

    def _write(self, part: Path, bands: Iterator[Array], page: Page) -> None:
        """Write the file, open it again, and compare."""
        stored = self._stored
        with self.path.open("rb") as source, part.open("wb") as file:
            plan = Plan(
                stored.format,
                stored.page,
                page,
                self._chain,
                stored.sheets,
                stored.virtual,
                self._front,
            )
            writer = Writer(plan, source, file)
            writer.write(bands)
        try:
            axes = self.layout.axes if self._axes else None
            found = TiffImage(part, axes=axes, max_pixels=None)
            self._compare(found, page, writer.samples)
        except UserError as error:
            why = str(error).removeprefix(f"{part}: ")
            raise UserError(
                f"{self.path}: its tags contradict each other, and a copy could not be read again ({why}); "
                "nothing was written. Save it with another program first"
            ) from error

    def _compare(self, found: TiffImage, page: Page, samples: list[tuple[int, int, Array]]) -> None:
        same = (
            found._stored.page == page
            and found._stored.sheets.tolist() == self._stored.sheets.tolist()
        )
        if not same or found.layout != self.layout:
            raise UserError(
                f"it would have the shape {found.layout.shape} and axes {found.layout.axes}"
            )
        for plane, top, rows in samples:
            again = found._stored_rows(plane, top, top + len(rows))
            if again.tobytes() != rows.astype(again.dtype).tobytes():
                raise UserError(f"rows {top} to {top + len(rows)} would differ")


class _Watched:
    """Bands on their way, compared with the pixels of the input."""

    def __init__(self, bands: Iterator[Array], image: TiffImage) -> None:
        self._bands, self._image = bands, image
        self.changed = False

    def __iter__(self) -> Iterator[Array]:
        for plane, top, rows in placed(self._bands, self._image.layout.height):
            self.changed = self.changed or not np.array_equal(
                rows, self._image.read_rows(plane, top, top + len(rows))
            )
            yield rows


def _shown_layout(stored: Layout, palette: Palette | None) -> Layout:
    if palette is None:
        return stored
    return replace(
        stored, shape=(*stored.shape, 3), axes=f"{stored.axes}S", dtype=palette.colours.dtype
    )


def _check_size(path: Path, page: Page, pages: int, size: int, max_pixels: int | None) -> None:
    """What all pages have, and what one row of parts is decoded to, before anything looks at them."""
    if max_pixels is None:
        return
    pixels = pages * page.image_height * page.image_width
    check_values(path, pixels, page.samples, _allowed(page, size, max_pixels), max_pixels)
    width = max(page.image_width, page.width)
    # What is not compressed is read by single rows; parts of it may be left out, so that it has any size.
    rows = 1 if page.plain else page.height
    row = rows * width * page.samples * page.dtype.itemsize
    # Half, since a decoder needs about as much again: 128 MB where a file of less than 1.3 MB claims them.
    limit = max(max_pixels // 2, size * EXPANSION)
    if row > limit:
        raise UserError(
            f"{path}: one row of its strips or tiles claims {row:,} bytes, more than the limit of {limit:,} "
            "that guards against decompression bombs; if you trust the file, raise it: "
            f"--max-pixels {2 * row}"
        )


def _check_pixels(
    path: Path, layout: Layout, page: Page, size: int, max_pixels: int | None
) -> None:
    """The pixels that notes in the file claim, which may be more than its pages have."""
    if max_pixels is not None:
        pixels = math.prod(layout.shape) // max(1, layout.channels)
        allowed = _allowed(page, size, max_pixels)
        check_values(path, pixels, layout.channels, allowed, max_pixels)


def _allowed(page: Page, size: int, max_pixels: int) -> int:
    return max(max_pixels, size * EXPANSION // page.dtype.itemsize)


def _scanimage_front(file: BinaryIO, size: int, found: tiffaxes.Axes, form: Format) -> bytes:
    """What ScanImage writes between the header of a BigTIFF and the first page, to stay there."""
    if found.kind != "scanimage" or not form.big:
        return b""
    file.seek(16)
    head = file.read(16)
    if len(head) < 16:
        return b""
    magic, _, frames, regions = struct.unpack("<4I", head)
    if magic != _SCANIMAGE or 32 + frames + regions > size:
        return b""
    return head + file.read(frames + regions)


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
