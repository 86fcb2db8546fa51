"""What every image format offers: rows of a plane to read, and a file of the same kind to write.

A *plane* is one H x W picture with all its channels; a stack has many, in the order of its leading axes.
Reading and writing go through bands of rows, top to bottom, plane by plane, so that an image larger
than memory passes through.

Axis letters are tifffile's: Y and X rows and columns, Z depth, T time, C channels, S the interleaved
samples of a colour (RGB, RGBA), Q unknown.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from snowmelt.errors import UserError, printable
from snowmelt.files import replacing, replacing_folder
from snowmelt.limits import CHANNELS_OF_A_PIXEL, EXPANSION, MAX_CHANNELS
from snowmelt.limits import MAX_PIXELS as MAX_PIXELS

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Layout:
    """Shape, axis letters and number type of an image as it is stored.

    ``alpha`` says that the last channel is opacity, which no denoiser may touch.
    """

    shape: tuple[int, ...]
    axes: str
    dtype: np.dtype[np.generic]
    alpha: bool = False

    @property
    def channel_axis(self) -> int | None:
        """Index of the axis that holds the values of one pixel, None where a pixel is one value.

        It is S, or C where C is the last axis. A C before Y and X (separate pages, as microscopes
        store them) counts among the planes.
        """
        if "S" in self.axes:
            return self.axes.index("S")
        return len(self.axes) - 1 if self.axes.endswith("C") else None

    @property
    def height(self) -> int:
        """Rows."""
        return self.shape[self.axes.index("Y")]

    @property
    def width(self) -> int:
        """Columns."""
        return self.shape[self.axes.index("X")]

    @property
    def channels(self) -> int:
        """Values in a pixel, opacity counted."""
        return 1 if self.channel_axis is None else self.shape[self.channel_axis]

    @property
    def planes(self) -> int:
        """Pictures of H x W x channels, in C order of the remaining axes."""
        return math.prod(self.shape) // max(1, self.height * self.width * self.channels)


class Image:
    """An image in a file, of which so far only the header was read.

    A format derives from it and fills in ``read_rows`` and ``write_like``. ``bands`` given to
    ``write_like`` are arrays (rows, W, channels) of ``layout.dtype``: plane 0 from the top to the
    bottom, then plane 1; together they hold every pixel once. The number of rows in a band is the
    caller's choice and may vary. ``value_range`` holds the least and the greatest value that the file can
    store, both included; None: those of the number type. ``nodata`` is the value of pixels that hold none.
    ``notes`` are sentences for the user on what was found in the file and what becomes of it,
    ``notes_elsewhere`` those that concern only a result of another kind of file. ``rounding``
    says what the result is rounded to where that is coarser than it could be, such as the colours of a
    palette. ``profile`` is the ICC profile, for a format that only its own class can read.

    A format is known by its ``signatures``: bytes and the place at which its files have them.
    ``unsigned`` formats may begin with anything, so that the suffix alone counts; ``has_parts`` are
    containers, in which ``file:name`` means one array.
    """

    kind: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]] = ()
    signatures: ClassVar[tuple[tuple[int, bytes], ...]] = ()
    unsigned: ClassVar[bool] = False
    has_parts: ClassVar[bool] = False

    path: Path
    layout: Layout
    value_range: tuple[int, int] | None = None
    nodata: float | None = None
    notes: tuple[str, ...] = ()
    notes_elsewhere: tuple[str, ...] = ()
    rounding: str | None = None
    profile: bytes | None = None

    def __init__(
        self, path: str | Path, *, axes: str | None = None, max_pixels: int | None = MAX_PIXELS
    ) -> None:
        raise NotImplementedError

    @classmethod
    def recognises(cls, head: bytes) -> bool:
        """Whether a file that begins so (512 bytes) is of this format."""
        return any(head.startswith(sign, place) for place, sign in cls.signatures)

    def read_rows(self, plane: int, start: int, stop: int) -> Array:
        """Rows ``start:stop`` of a plane as (stop - start, W, channels), in the stored number type."""
        raise NotImplementedError

    def write_like(self, target: Path, bands: Iterator[Array]) -> None:
        """Write a file of this one's kind, depth and metadata with other pixels; atomic."""
        raise NotImplementedError

    def check_target(self, target: Path) -> None:
        """Refuse a name that promises another kind of file than this one."""
        suffix = target.suffix.lower()
        if suffix not in (*self.suffixes, self.path.suffix.lower()):
            other = suffix.strip(".") if suffix in (".tif", ".png") else None
            raise UserError(
                f"{target}: what is made from {self.path.name} is a file of its kind, and {suffix!r} is not; "
                f"end the name in {self.suffixes[0]}" + (f", or say --to {other}" if other else "")
            )


def split(path: str | Path) -> tuple[Path, str | None]:
    """``file.h5:/group/dataset`` as the file (or Zarr store) and the name in it; None where none is given."""
    text = os.fspath(path)
    if not Path(text).exists():
        for colon in re.finditer(":", text):
            file = Path(text[: colon.start()])
            if colon.start() and file.exists():
                return file, text[colon.end() :].strip("/") or None
    return Path(text), None


def ftyp_brands(head: bytes) -> list[bytes]:
    """The brands of an ISO base media file (AVIF, HEIC, JPEG XL, MP4), the major one first; else none."""
    if head[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return [head[8:12], *(head[place : place + 4] for place in range(16, end - 3, 4))]


def check_pixels(path: Path, pixels: int, max_pixels: int | None) -> None:
    """Refuse a picture that claims more pixels than allowed, before anything is decoded."""
    if pixels < 1:
        raise UserError(f"{path}: the picture is empty")
    if max_pixels is not None and pixels > max_pixels:
        raise UserError(
            f"{path}: claims {pixels:,} pixels, more than the limit of {max_pixels:,} that guards against "
            f"decompression bombs; if you trust the file, raise it: --max-pixels {pixels}"
        )


def check_values(
    path: Path, pixels: int, channels: int, allowed: int | None, max_pixels: int | None
) -> None:
    """Refuse too many pixels, of which those of many channels count as several, and too many channels.

    ``allowed`` is the limit of pixels for this file; ``max_pixels``, what the caller allows for any, lifts
    that of channels where it is above the default.
    """
    counted = pixels * -(-channels // CHANNELS_OF_A_PIXEL)
    if channels > MAX_CHANNELS and max_pixels is not None and max_pixels <= MAX_PIXELS:
        raise UserError(
            f"{path}: claims {channels:,} values in each pixel, more than the limit of {MAX_CHANNELS:,} that "
            "guards against decompression bombs; if they are pictures of their own, call that axis Z: "
            f"--axes; if you trust the file: --max-pixels {max(counted, MAX_PIXELS + 1)}"
        )
    check_pixels(path, counted, allowed)


def check_bytes(path: Path, unpacked: int, stored: int, max_pixels: int | None) -> None:
    """Refuse to unpack far more bytes than a file has, once they are many: one for each allowed pixel."""
    if max_pixels is not None and unpacked > max(max_pixels, EXPANSION * stored):
        raise UserError(
            f"{path}: claims to unpack {stored:,} bytes to {unpacked:,}, more than a picture does; if you "
            f"trust the file: --max-pixels {unpacked}"
        )


@contextlib.contextmanager
def reading(path: str | Path, kind: str) -> Iterator[None]:
    """Turn whatever a library raises on a bad file into one UserError that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{path}: too large for the memory of this computer") from error
    except OSError as error:
        # Pillow raises OSError without errno for damaged pictures.
        why = error.strerror or f"damaged or not {kind}: {printable(str(error))}"
        raise UserError(f"{path}: cannot be read: {why}") from error
    except Exception as error:
        detail = printable(str(error).strip()) or type(error).__name__
        raise UserError(f"{path}: cannot be read: damaged or not {kind}: {detail}") from error


@contextlib.contextmanager
def writing(target: Path, *, folder: bool = False) -> Iterator[Path]:
    """``files.replacing``, where a full disk or a forbidden folder is a UserError that names the file."""
    try:
        with (replacing_folder if folder else replacing)(target) as part:
            yield part
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror or error}") from error
