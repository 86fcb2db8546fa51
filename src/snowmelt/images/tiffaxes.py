"""What the pages of a TIFF are: depth, time, channels, as OME, ImageJ, tifffile and ScanImage note it.

tifffile understands these notes. It is shown the directories as Snowmelt read them and will write them, not
those of the file: so there is one reading of the tags, and what it makes of the copy is what it makes of the
original.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from snowmelt.errors import printable
from snowmelt.images.ifd import Directory, Format
from snowmelt.images.tiffpage import Page, UnsupportedError

# Files that hold places of further records in private tags or in front of the first page.
_PRIVATE = ("lsm", "ndtiff", "fluoview", "stk", "sis", "ndpi", "eer")
_NOTED = ("shaped", "ome", "imagej", "scanimage")
_OME_COUNTS = (
    *("SizeZ", "SizeC", "SizeT", "FirstZ", "FirstC", "FirstT"),
    *("IFD", "NumPlanes", "PlaneCount", "SamplesPerPixel"),
)
_OME_SIZES = ("SizeX", "SizeY", "SizeZ", "SizeC", "SizeT")
_HEADER = 16
# Pages as narrow as this are hardly images; rows of (H, W, channels) are, which tifffile makes to pages.
_NARROW = 8
_CLASSIC_END = 2**32


@dataclass(frozen=True)
class Axes:
    """Shape and letters of the whole image, and the page of each step along them.

    ``kind`` is ome, imagej, shaped (by tifffile), scanimage, or pages: nothing but one page after another.
    """

    shape: tuple[int, ...]
    letters: str
    order: NDArray[np.int64]
    kind: str


def read_axes(
    file: BinaryIO, size: int, form: Format, directories: Sequence[Directory], page: Page
) -> Axes:
    """What the pages are; ``size`` is that of the file in bytes.

    Raises UnsupportedError where the notes or private records cannot be kept, ValueError for damaged ones.
    """
    from tifffile import TiffFile

    log = logging.getLogger("tifffile")
    if not log.handlers:  # else Python prints what tifffile logs
        log.addHandler(logging.NullHandler())
    seen = _Seen(file, size, form, directories)
    try:
        # Without _multifile an OME-XML could make tifffile open any file that it names.
        with TiffFile(seen, name="image.tif", _multifile=False) as tiff:
            private = next((kind for kind in _PRIVATE if getattr(tiff, f"is_{kind}")), None)
            if private:
                raise UnsupportedError(
                    f"a TIFF of the kind {private!r}, whose private records would not survive a copy; "
                    "export it as OME-TIFF"
                )
            if tiff.is_ome:
                _check_ome(tiff.ome_metadata or "", len(directories), page)
            found = tiff.series if any(getattr(tiff, f"is_{kind}") for kind in _NOTED) else []
            return _combined(found, len(directories), page)
    except UnsupportedError:
        raise
    except Exception as error:  # whatever tifffile raises on notes that are damaged
        raise ValueError(printable(str(error).strip() or type(error).__name__)[:300]) from error


def _combined(found: Sequence[object], pages: int, page: Page) -> Axes:
    order = np.arange(pages)
    if len(found) != 1 or found[0].kind not in _NOTED:  # type: ignore[attr-defined]
        return _pages(pages, page)
    series = found[0]
    if series.kind == "ome":  # type: ignore[attr-defined]
        order = np.array([-1 if each is None else each.index for each in series])  # type: ignore[attr-defined]
    if not np.array_equal(np.sort(order), np.arange(pages)):
        raise UnsupportedError("its OME-XML does not name each page once; export it again")
    return Axes(tuple(series.shape), str(series.axes), order, str(series.kind))  # type: ignore[attr-defined]


def _pages(pages: int, page: Page) -> Axes:
    """One page after another, of which nothing is said; Q is tifffile's letter for that."""
    size = (page.image_height, page.image_width)
    shape, letters = size, "YX"
    if page.samples > 1:
        shape = (page.samples, *size) if page.separate else (*size, page.samples)  # type: ignore[assignment]
        letters = "SYX" if page.separate else "YXS"
    if pages > 1:
        shape, letters = (pages, *shape), f"Q{letters}"  # type: ignore[assignment]
    return Axes(shape, letters, np.arange(pages), "pages")


def _check_ome(xml: str, pages: int, page: Page) -> None:
    """tifffile makes lists as long as the OME-XML claims: it must not claim more than there is."""
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return  # tifffile reads it in the same way, and then does without
    planes = pages * page.samples
    pixels = planes * page.image_height * page.image_width
    for element in root.iter():
        named = element.attrib
        count = max((int(named[name]) for name in _OME_COUNTS if name in named), default=0)
        size = math.prod(int(named[name]) for name in _OME_SIZES if name in named)
        span = abs(float(named.get("End", 0)) - float(named.get("Start", 0)))
        if count > planes or size > pixels or not span <= planes * abs(float(named.get("Step", 1))):
            raise UnsupportedError(
                "its OME-XML describes more planes than the file holds; if it is one of several files, "
                "export them as one"
            )


def letters_of(found: Axes, page: Page, given: str | None) -> str:
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
    if given is None and letters[0] in "QI" and page.image_width <= _NARROW < len(found.order):
        raise UnsupportedError(
            f"has {len(found.order)} pages of {page.image_width} x {page.image_height} pixels and does not "
            "say what they are: rows of one image, its channels as columns? Save it as pages of whole "
            f"images, or name the axes, e.g. --axes {'TCZ'[-(len(shape) - count) :]}{last}"
        )
    return letters


def has_opacity(page: Page, found: Axes, letters: str) -> bool:
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


class _Seen(io.RawIOBase):
    """A file with new directories behind its end, and a header that leads to them."""

    def __init__(
        self, file: BinaryIO, size: int, form: Format, directories: Sequence[Directory]
    ) -> None:
        self._file, self._size, self._place = file, size, 0
        start = max(size, _HEADER)
        start += start % 2
        packed = packed_chain(form, directories, start)
        if start + len(packed) > _CLASSIC_END and not form.big:
            form = Format(form.order, big=True)
            packed = packed_chain(form, directories, start)
        self._head = form.header(start).ljust(_HEADER, b"\0")
        self._start, self._packed = start, packed

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The place of the next byte."""
        return self._place

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place, counted from the start, from here or from the end."""
        base = (0, self._place, self._start + len(self._packed))[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: object) -> int:
        """Fill a buffer as far as the region goes in which the place lies."""
        target = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self._at(self._place, len(target))
        target[: len(data)] = data
        self._place += len(data)
        return len(data)

    def _at(self, place: int, count: int) -> bytes:
        if place < _HEADER:
            return self._head[place : place + count]
        if place < self._size:
            self._file.seek(place)
            return self._file.read(min(count, self._size - place))
        if place < self._start:
            return bytes(min(count, self._start - place))
        return self._packed[place - self._start : place - self._start + count]


def packed_chain(form: Format, directories: Sequence[Directory], start: int) -> bytes:
    """Directories one after another, the first at ``start``, each of which leads to the next."""
    packed = bytearray()
    for number, directory in enumerate(directories, start=1):
        last = number == len(directories)
        packed += form.pack(directory, start + len(packed), last=last)
    return bytes(packed)
