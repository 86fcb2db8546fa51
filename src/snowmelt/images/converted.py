"""An image that is written as a TIFF or a PNG, whatever it was: ``snowmelt denoise --to``.

Pixels, colour profile, orientation and no-data value come along; other metadata stays behind, as it belongs
to the old kind of file.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from snowmelt.errors import UserError
from snowmelt.images.base import Array, Image, writing
from snowmelt.images.raster import PNG_LEVEL, PngImage, png_metadata, webp_metadata
from snowmelt.images.tiff import TiffImage

KINDS = ("tif", "png")
_ORIENTATION, _NODATA = 274, 42113
_EXIF = struct.Struct(">2sHIHHHIHHI")  # one directory of one entry, as in TIFF
_STRIP = 2**18  # bytes, about
_CLASSIC = 2**32 - 2**25  # bytes of pixels that a TIFF of 32-bit places can hold
# Kinds whose profile and orientation Pillow reads from the header, and of PNG from a copy without pixels,
# since it would decode them.
_BY_PILLOW = ("PNG", "JPEG", "TIFF", "GIF", "AVIF")


class Converted(Image):
    """Another image, written as another kind of file."""

    def __init__(self, image: Image, to: str) -> None:
        self._image, self._to = image, to
        self.path, self.layout = image.path, image.layout
        self.value_range, self.nodata = image.value_range, image.nodata
        self.notes = (
            *image.notes,
            *image.notes_elsewhere,
            f"written as {to.upper()}: colour profile and orientation come along, other metadata does not",
        )
        if why := _obstacle(image, to):
            raise UserError(f"{image.path}: {why}")

    def read_rows(self, plane: int, start: int, stop: int) -> Array:
        """Rows of the other image."""
        return self._image.read_rows(plane, start, stop)

    def check_target(self, target: Path) -> None:
        """Refuse a suffix of another kind than the one chosen."""
        suffixes = (TiffImage if self._to == "tif" else PngImage).suffixes
        if target.suffix.lower() not in suffixes:
            raise UserError(f"{target}: with --to {self._to} its name ends in {suffixes[0]}")

    def write_like(self, target: Path, bands: Iterator[Array]) -> None:
        """Write the new kind of file; atomic."""
        self.check_target(target)
        with writing(target) as part:
            if self._to == "tif":
                _write_tiff(part, self._image, bands)
            else:
                part.write_bytes(_png(self._image, bands))


def converted(image: Image, to: str | None) -> Image:
    """The image as one that is written as ``to`` ("tif", "png"); itself for None, or if it is of that kind.

    Raises:
        UserError: There is no such kind, or it cannot hold this image without loss.
    """
    if to is None:
        return image
    if to not in KINDS:
        raise UserError(f"--to {to}: expected one of {', '.join(KINDS)}")
    same = image.kind == {"tif": TiffImage, "png": PngImage}[to].kind
    return image if same and image.rounding is None else Converted(image, to)


def _obstacle(image: Image, to: str) -> str | None:
    """Why an image cannot be written so, None if it can."""
    layout = image.layout
    colours = layout.channels - layout.alpha
    if image.kind == "JPEG" and colours == 4:
        return f"CMYK is not written as {to.upper()}; convert it to RGB first"
    if to == "tif":
        return None
    if layout.dtype.name not in ("uint8", "uint16") or layout.planes > 1 or colours not in (1, 3):
        return (
            f"PNG holds one image of 8 or 16 bits, grey or RGB, not {layout.dtype} of shape {layout.shape} "
            f"({layout.axes}); --to tif holds it"
        )
    return None


def _write_tiff(part: Path, image: Image, bands: Iterator[Array]) -> None:
    import tifffile

    layout = image.layout
    leading = [axis for axis in range(len(layout.shape)) if layout.axes[axis] not in "YX"]
    if layout.channel_axis is not None:
        leading.remove(layout.channel_axis)
    several = layout.channels > 1
    shape = (layout.height, layout.width, *(layout.channels,) * several)
    row = layout.width * layout.channels * layout.dtype.itemsize
    rows = min(layout.height, max(1, _STRIP // row))
    colour = layout.channels - layout.alpha == 3
    profile, orientation = _metadata(image)
    tags: list[Any] = []
    if orientation > 1:
        tags.append((_ORIENTATION, 3, 1, orientation, True))
    if image.nodata is not None:
        tags.append((_NODATA, 2, 0, f"{image.nodata:.17g}", True))
    with tifffile.TiffWriter(part, bigtiff=layout.planes * layout.height * row > _CLASSIC) as file:
        file.write(
            _strips(bands, layout.height, rows),
            shape=(*(layout.shape[axis] for axis in leading), *shape),
            dtype=layout.dtype,
            rowsperstrip=rows,
            compression="zlib",
            predictor=1,
            photometric="rgb" if colour else "minisblack",
            planarconfig="contig" if several else None,
            extrasamples=["unassalpha"] if layout.alpha else None,
            metadata={"axes": "".join(layout.axes[axis] for axis in leading) + "YXS"[: len(shape)]},
            iccprofile=profile,
            extratags=tags,
        )


def _strips(bands: Iterator[Array], height: int, rows: int) -> Iterator[bytes]:
    """Compressed strips of so many rows, plane by plane; the last of a plane has fewer."""
    import imagecodecs

    held: list[Array] = []
    done = 0
    for band in bands:
        while len(band):
            wanted = min(rows, height - done % height) - sum(map(len, held))
            held.append(band[:wanted])
            band = band[wanted:]
            count = sum(map(len, held))
            if count == min(rows, height - done % height):
                yield bytes(imagecodecs.zlib_encode(np.concatenate(held).tobytes(), 6))
                held, done = [], done + count
    assert not held


def _png(image: Image, bands: Iterator[Array]) -> bytes:
    import imagecodecs

    pixels = np.concatenate([_stretched(image)(band) for band in bands])
    encoded = bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels), level=PNG_LEVEL))
    profile, orientation = _metadata(image)
    chunks = b""
    if profile:
        chunks += _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(profile))
    if orientation > 1:
        chunks += _chunk(
            b"eXIf", _EXIF.pack(b"MM", 42, 8, 1, _ORIENTATION, 3, 1, orientation, 0, 0)
        )
    end = encoded.index(b"IHDR") + 4 + 13 + 4
    return encoded[:end] + chunks + encoded[end:]


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _stretched(image: Image) -> Callable[[Array], Array]:
    """From what an image can store to all of 8 or 16 bits, as PNG asks for: 1023 of 10 bits becomes 65535."""
    full = 2 ** (8 * image.layout.dtype.itemsize) - 1
    low, most = image.value_range or (0, full)
    if low != 0 or most == full:
        return lambda band: band
    return lambda band: ((band.astype(np.int64) * full + most // 2) // most).astype(band.dtype)


def _metadata(image: Image) -> tuple[bytes | None, int]:
    """ICC profile and orientation (1 to 8) of the file that an image came from."""
    profile, orientation = image.profile, 1
    with contextlib.suppress(Exception):
        known, exif = _read_metadata(image)
        profile = profile or known
        found = exif.get(_ORIENTATION, 1)
        orientation = found if isinstance(found, int) and 1 <= found <= 8 else 1
    return profile, orientation


def _read_metadata(image: Image) -> tuple[bytes | None, Any]:
    """ICC profile and EXIF.

    The classes of Pillow are used as ``Image.open`` would, but for its own limit of pixels, beyond which it
    gives nothing: pixels are checked already, and none is decoded.
    """
    from PIL import Image as Pillow

    if image.kind == "WebP":
        profile, raw = webp_metadata(image.path.read_bytes())
        exif = Pillow.Exif()
        exif.load(raw or b"")
        return profile, exif
    if image.kind not in _BY_PILLOW:
        return None, {}
    Pillow.init()
    factory, _ = Pillow.OPEN[image.kind]
    with image.path.open("rb") as plain:
        file = io.BytesIO(png_metadata(plain.read())) if image.kind == "PNG" else plain
        opened: Any = factory(file, "")
        return opened.info.get("icc_profile"), opened.getexif()
