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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from snowmelt.errors import UserError, printable
from snowmelt.images import tiffaxes, tiffcodec, tiffpage
from snowmelt.images.base import MAX_PIXELS, Array, Image, Layout, check_pixels, reading, writing
from snowmelt.images.ifd import POINTERS, Directory, Format, Reader
from snowmelt.images.palette import Palette
from snowmelt.images.tiffpage import Page, UnsupportedError
from snowmelt.images.tiffwriter import Plan, Writer, placed, strips
from snowmelt.limits import EXPANSION

# ScanImage writes what holds for all frames behind the header of a BigTIFF: this number, a version and
# two sizes.
_SCANIMAGE = 117637889


@dataclass(frozen=True)
class Stored:
    """Where everything lies that is denoised.

    Attributes:
        layout: Of the values as stored: where a palette is used, of the numbers of its colours.
        sheets: The sheets of each plane, (planes, channels or 1); sheet = page * sheets in a page + sample.
        offsets, counts: Where each part lies and how many bytes it has, (sheets, parts of a sheet).
        virtual: Whether there is one directory for many pages, as ImageJ writes beyond 4 GiB.
    """

    format: Format
    page: Page
    directories: tuple[Directory, ...]
    layout: Layout
    sheets: NDArray[np.int64]
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    virtual: bool


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
        self._cache: dict[int, tuple[int, Array]] = {}
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
        directories, self._chain, self.notes = _chosen(reader)
        page = _common_page(form, directories)
        _check_size(self.path, page, len(directories), reader.size, max_pixels)
        described = tiffaxes.read_axes(file, reader.size, form, directories, page)
        letters = _letters(described, page, axes)
        # To ImageJ and OME a palette is only the look of grey values.
        coloured = page.photometric == tiffpage.PALETTE and described.kind not in ("imagej", "ome")
        self._palette = tiffpage.read_palette(form, directories[0], page) if coloured else None
        layout = Layout(
            described.shape, letters, page.dtype, alpha=_has_opacity(page, described, letters)
        )
        self.layout = _shown_layout(layout, self._palette)
        self.value_range = None if self._palette else page.limits
        self.nodata = tiffpage.read_nodata(directories[0], self.layout.dtype)
        self._empty = tiffpage.read_nodata(directories[0], page.dtype)
        _check_pixels(self.path, layout, page, reader.size, max_pixels)
        self._stored = _located(reader, form, page, directories, layout, described)
        self._front = _scanimage_front(file, reader.size, described, form)

    def _stored_rows(self, plane: int, start: int, stop: int) -> Array:
        """Rows as the file holds them: where there is a palette, numbers of colours."""
        sheets = self._stored.sheets[plane].tolist()
        self._cache = {sheet: kept for sheet, kept in self._cache.items() if sheet in sheets}
        rows = self._plain_rows if self._stored.page.plain else self._decoded_rows
        with reading(self.path, "TIFF"), self.path.open("rb") as file:
            parts = [rows(file, sheet, start, stop) for sheet in sheets]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    def _plain_rows(self, file: BinaryIO, sheet: int, start: int, stop: int) -> Array:
        stored, page = self._stored, self._stored.page
        dtype = page.dtype.newbyteorder(stored.format.order)
        shape = (stop - start, page.image_width, page.sheet_samples)
        out = np.full(shape, self._empty or 0, page.dtype)
        for strip, first, last in strips(start, stop, page.height):
            if offset := int(stored.offsets[sheet, strip]):
                file.seek(offset + (first - strip * page.height) * page.row_bytes)
                data = np.frombuffer(file.read((last - first) * page.row_bytes), dtype)
                out[first - start : last - start] = data.reshape(last - first, *shape[1:])
        return out

    def _decoded_rows(self, file: BinaryIO, sheet: int, start: int, stop: int) -> Array:
        page = self._stored.page
        out = np.empty((stop - start, page.image_width, page.sheet_samples), page.dtype)
        for row, first, last in strips(start, stop, page.height):
            if sheet not in self._cache or self._cache[sheet][0] != row:
                self._cache[sheet] = (row, self._decode(file, sheet, row))
            top = row * page.height
            out[first - start : last - start] = self._cache[sheet][1][first - top : last - top]
        return out

    def _decode(self, file: BinaryIO, sheet: int, row: int) -> Array:
        """One strip or one row of tiles, as (rows, W, samples)."""
        page, width = self._stored.page, self._stored.page.image_width
        rows = min(page.height, page.image_height - row * page.height)
        out = np.full((rows, width, page.sheet_samples), self._empty or 0, page.dtype)
        for column in range(page.across):
            number = row * page.across + column
            if size := int(self._stored.counts[sheet, number]):  # none: left out, as GDAL does
                file.seek(int(self._stored.offsets[sheet, number]))
                left = column * page.width
                part = self._part(file.read(size), sheet, number)
                wanted = out[:, left : left + page.width]
                wanted[...] = part[: wanted.shape[0], : wanted.shape[1]]
        return out

    def _part(self, data: bytes, sheet: int, number: int) -> Array:
        """A strip or tile, decoded; ValueError names it where it is damaged."""
        stored, page = self._stored, self._stored.page
        directory = stored.directories[0 if stored.virtual else sheet // page.sheets]
        tables = next((tag.raw for tag in directory if tag.code == tiffpage.JPEG_TABLES), None)
        row, column = divmod(number, page.across)
        needed = (
            min(page.height, page.image_height - row * page.height),
            min(page.width, page.image_width - column * page.width),
        )
        try:
            part = tiffcodec.decode(page, data, page.part_rows(row), stored.format.order, tables)
            if part.shape[0] < needed[0] or part.shape[1] < needed[1]:
                raise ValueError(
                    f"it holds {part.shape[1]} x {part.shape[0]} of {needed[1]} x {needed[0]} pixels"
                )
        except ValueError as error:
            raise ValueError(f"{_name(stored, sheet, number)} is damaged: {error}") from error
        return part

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


def _chosen(
    reader: Reader,
) -> tuple[tuple[Directory, ...], tuple[tuple[Directory, bool], ...], tuple[str, ...]]:
    """The pages to denoise; all that are written, and whether each is one of these; notes on the others."""
    form = reader.format
    chain = list(reader.chain())
    if not chain:
        raise ValueError("it has no picture")
    reduced = [tiffpage.is_reduced(form, each) for each in chain]
    if all(reduced):
        reduced = [False] * len(chain)
    pages = [each for each, small in zip(chain, reduced, strict=True) if not small]
    left_out = sum(reduced)
    for page in pages:
        left_out += _reduced_inside(reader, page)
        if tiffpage.has_layers(page):
            raise UnsupportedError(
                "holds Photoshop layers, which would stay noisy; save it flattened"
            )
    notes = []
    if left_out:
        these = "1 smaller version" if left_out == 1 else f"{left_out} smaller versions"
        notes.append(
            f"{these} of the image (previews, a pyramid) left out of the result, since they show the noise"
        )
    kept, pointers = zip(*(_without_pointers(page) for page in pages), strict=True)
    if found := sorted(set().union(*pointers)):
        notes.append(
            f"records elsewhere in the file that private tags point to left out of the result: {found}"
        )
    masks = [tiffpage.is_mask(form, each) for each in kept]
    if all(masks):
        masks = [False] * len(kept)
    for page in (page for page, mask in zip(kept, masks, strict=True) if mask):
        offsets, counts = tiffpage.copied_places(form, page)
        if max(map(sum, zip(offsets, counts, strict=True))) > reader.size:
            raise ValueError("it is cut off: a mask lies behind its end")
    written = tuple((page, not mask) for page, mask in zip(kept, masks, strict=True))
    return tuple(page for page, image in written if image), written, tuple(notes)


def _reduced_inside(reader: Reader, page: Directory) -> int:
    """How many smaller versions a page holds inside; UnsupportedError where it holds anything else."""
    form = reader.format
    places = tiffpage.sub_directories(form, page)
    size = tiffpage.image_size(form, page)
    for place in places:
        inside = reader.directory(place)
        height, width = tiffpage.image_size(form, inside)
        smaller = (height, width) != size and height <= size[0] and width <= size[1]
        if not (smaller or tiffpage.is_reduced(form, inside)):
            raise UnsupportedError(
                "holds further images inside its pages (SubIFDs) that are not smaller versions of these and "
                "would stay noisy; save the image alone"
            )
    return len(places)


def _without_pointers(page: Directory) -> tuple[Directory, set[int]]:
    """A page without what leads to directories that are not copied; the tags of those that nobody knows."""
    lead = {tag.code for tag in page if tag.type in POINTERS and isinstance(tag.value, bytes)}
    kept = tuple(tag for tag in page if tag.code not in lead | {tiffpage.SUB_IFDS})
    return kept, lead - {tiffpage.SUB_IFDS}


def _common_page(form: Format, directories: tuple[Directory, ...]) -> Page:
    first = tiffpage.read_page(form, directories[0])
    colours = [tag for tag in directories[0] if tag.code == tiffpage.COLOUR_MAP]
    for number, directory in enumerate(directories[1:], start=2):
        page = tiffpage.read_page(form, directory)
        if page != first:
            raise UnsupportedError(
                f"its pages are not alike: page {number} has {tiffpage.described(page)}, and the first has "
                f"{tiffpage.described(first)}, and neither is marked as a preview; save pages of one kind in "
                "a file"
            )
        if first.photometric == tiffpage.PALETTE and colours != [
            tag for tag in directory if tag.code == tiffpage.COLOUR_MAP
        ]:
            raise UnsupportedError(
                f"page {number} has other colours in its palette than the first; save it as RGB"
            )
    return first


def _letters(found: tiffaxes.Axes, page: Page, given: str | None) -> str:
    """The axes, as given or else as found."""
    shape, count = found.shape, 3 if page.sheet_samples > 1 else 2
    letters = found.letters if given is None else given.upper()
    last = letters[-count:]
    fits = len(letters) == len(shape) and last in ("YX", "YXS", "YXC") and len(last) == count
    unique = letters.isalpha() and len(set(letters)) == len(letters)
    if given is not None and not (fits and unique):
        raise UnsupportedError(
            f"has the shape {shape}, axes {printable(found.letters)}; --axes {given} does not fit"
        )
    size = (page.image_height, page.image_width)
    if not fits or shape[len(shape) - count :][:2] != size:
        raise UnsupportedError(
            f"stores the axes {printable(found.letters)} {shape} not page by page; save it as pages of Y "
            "and X"
        )
    return letters


def _has_opacity(page: Page, found: tiffaxes.Axes, letters: str) -> bool:
    """Whether the last channel is opacity.

    tifffile marks the last of four channels as opacity whatever they are. So the mark counts for the samples
    of a colour (S) alone: where the file calls them channels (C), or the user does, all are channels.
    """
    if "S" not in letters and not letters.endswith("C"):
        return False
    channel = letters.index("S") if "S" in letters else len(letters) - 1
    if found.letters[channel] == "C" and letters[channel] == "C":
        return False
    if found.letters[channel] == "Q" or page.samples != found.shape[channel]:
        return False
    if page.misplaced_opacity:
        raise UnsupportedError(
            "its opacity is not the last channel; save it as RGBA, or say that all are channels of a "
            "microscope: --axes CYX"
        )
    return page.opacity


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
    check_pixels(
        path, pages * page.image_height * page.image_width, _allowed(page, size, max_pixels)
    )
    width = max(page.image_width, page.width)
    row = page.height * width * page.samples * page.dtype.itemsize
    # Half, since a decoder needs about as much again: 128 MB where a file of less than 1.3 MB claims them.
    limit = max(max_pixels // 2, size * EXPANSION)
    if not page.plain and row > limit:
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
        check_pixels(path, pixels, _allowed(page, size, max_pixels))


def _allowed(page: Page, size: int, max_pixels: int) -> int:
    return max(max_pixels, size * EXPANSION // page.dtype.itemsize)


def _located(
    reader: Reader,
    form: Format,
    page: Page,
    directories: tuple[Directory, ...],
    layout: Layout,
    found: tiffaxes.Axes,
) -> Stored:
    """Find each part of each plane; ValueError names the first that is missing."""
    leading = layout.shape[: layout.axes.index("Y")]
    held = (found.order[:, None] * page.sheets + np.arange(page.sheets)).reshape(-1)
    # ImageJ describes a large stack by its first page; the other planes just follow.
    virtual = math.prod(leading) > 1 and held.size == 1 and page.plain
    if virtual:
        held = np.arange(math.prod(leading))
    if math.prod(leading) != held.size:
        raise UnsupportedError(
            f"describes {math.prod(leading)} planes and holds {held.size}; export it again"
        )
    channel = layout.channel_axis
    if channel is None or channel >= len(leading):
        sheets = held.reshape(-1, 1)
    else:
        sheets = np.moveaxis(held.reshape(leading), channel, -1).reshape(-1, leading[channel])
    offsets, counts = _places(form, page, directories)
    if virtual:
        offsets, counts = _followed(page, offsets, counts, sheets.size)
    stored = Stored(form, page, directories, layout, sheets, offsets, counts, virtual)
    _check_complete(stored, reader.size)
    return stored


def _places(
    form: Format, page: Page, directories: tuple[Directory, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each part lies and how many bytes it has: (sheets, parts of a sheet)."""
    offsets, counts = [], []
    for directory in directories:
        found = tiffpage.places(form, page, directory)
        offsets.append(found[0].reshape(page.sheets, -1))
        counts.append(found[1].reshape(page.sheets, -1))
    return np.concatenate(offsets), np.concatenate(counts)


def _followed(
    page: Page, offsets: NDArray[np.int64], counts: NDArray[np.int64], planes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places of planes that follow the first without a directory of their own."""
    if np.any(np.diff(offsets[0]) != counts[0, :-1]):
        raise ValueError("its planes do not follow one another")
    steps = np.arange(planes)[:, None] * page.image_height * page.row_bytes
    return offsets + steps, np.repeat(counts, planes, axis=0)


def _check_complete(stored: Stored, size: int) -> None:
    ends = stored.offsets + stored.counts
    if ends.max() > size:
        sheet, number = np.argwhere(ends > size)[0].tolist()
        raise ValueError(
            f"it is cut off: it ends at byte {size:,}, and {_name(stored, sheet, number)} at byte "
            f"{ends[sheet, number]:,}"
        )


def _name(stored: Stored, sheet: int, number: int) -> str:
    """A strip or tile as a person would find it."""
    page = stored.page
    what = "tile" if page.tiled else "strip"
    text = f"{what} {number + 1} of {page.parts}"
    if page.sheets > 1:
        text += f" of channel {sheet % page.sheets + 1}"
    pages = len(stored.offsets) // page.sheets
    return f"{text} of page {sheet // page.sheets + 1}" if pages > 1 else text


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
