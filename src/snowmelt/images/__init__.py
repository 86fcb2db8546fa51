"""Images of any kind: open by content, read whole, write whole.

``open_image`` gives what the engine works on (see ``base.Image``); ``read`` and ``write`` are for arrays that
fit in memory.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from snowmelt.errors import UserError
from snowmelt.images.base import Array, Image, reading

MAX_PIXELS = 2**28

SUFFIXES = {
    ".png": "raster.PngImage",
    ".jpg": "raster.JpegImage",
    ".jpeg": "raster.JpegImage",
    ".webp": "raster.WebpImage",
    ".tif": "tiff.TiffImage",
    ".tiff": "tiff.TiffImage",
    ".h5": "arrays.Hdf5Image",
    ".hdf5": "arrays.Hdf5Image",
    ".npy": "arrays.NpyImage",
    ".zarr": "arrays.ZarrImage",
    ".dcm": "dicom.DicomImage",
}

_SIGNATURES = (
    (0, b"\x89PNG\r\n\x1a\n", "raster.PngImage"),
    (0, b"\xff\xd8\xff", "raster.JpegImage"),
    (8, b"WEBP", "raster.WebpImage"),
    (0, b"II*\0", "tiff.TiffImage"),
    (0, b"MM\0*", "tiff.TiffImage"),
    (0, b"II+\0", "tiff.TiffImage"),
    (0, b"MM\0+", "tiff.TiffImage"),
    (0, b"\x89HDF\r\n\x1a\n", "arrays.Hdf5Image"),
    (0, b"\x93NUMPY", "arrays.NpyImage"),
    (128, b"DICM", "dicom.DicomImage"),
)


def open_image(
    path: str | Path, *, axes: str | None = None, max_pixels: int | None = MAX_PIXELS
) -> Image:
    """Open an image of any known kind; only its header is read.

    ``axes`` names the dimensions where the file is silent. ``max_pixels`` guards against files that
    claim to be huge; None lifts it.
    """
    kind = _kind(path)
    module, name = kind.split(".")
    reader = getattr(importlib.import_module(f"snowmelt.images.{module}"), name)
    limit: dict[str, Any] = {"max_pixels": max_pixels} if module in ("raster", "tiff") else {}
    image: Image = reader(path, axes=axes, **limit)
    return image


def read(path: str | Path, axes: str | None = None) -> Array:
    """The whole image as it is stored: shape, axes order and number type of the file."""
    image = open_image(path, axes=axes)
    layout = image.layout
    whole = np.empty(layout.shape, layout.dtype)
    last = [layout.axes.index(letter) for letter in "YX"]
    if layout.channel_axis is not None:
        last.append(layout.channel_axis)
    planes = np.moveaxis(whole, last, range(-len(last), 0))
    for plane, index in enumerate(np.ndindex(planes.shape[: -len(last)])):
        rows = image.read_rows(plane, 0, layout.height)
        planes[index] = rows if layout.channel_axis is not None else rows[..., 0]
    return whole


def _kind(path: str | Path) -> str:
    name = str(path).lower()
    if ".h5:" in name or ".hdf5:" in name:
        return SUFFIXES[".h5"]
    file = Path(path)
    if file.is_dir():
        return SUFFIXES[".zarr"]
    with reading(path, "an image"), file.open("rb") as opened:
        head = opened.read(132)
    for offset, signature, kind in _SIGNATURES:
        if head[offset:].startswith(signature):
            return kind
    if file.suffix.lower() in (".h5", ".hdf5", ".dcm"):
        return SUFFIXES[file.suffix.lower()]
    raise UserError(f"{path}: not an image of a known kind: {', '.join(SUFFIXES)}")
