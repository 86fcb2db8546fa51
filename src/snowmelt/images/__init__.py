"""Images of any kind: open by content, read whole, write whole.

``open_image`` gives what the engine works on (see ``base.Image``); ``read`` and ``write`` are for arrays that
fit in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from snowmelt.errors import UserError
from snowmelt.files import what_it_is
from snowmelt.images import arrays, bare, dicom, hdf5, raster, tiff, zarrs
from snowmelt.images.base import MAX_PIXELS, Array, Image, Layout, reading, split, writing

_READERS = {
    "PNG": raster.PngImage,
    "JPEG": raster.JpegImage,
    "WebP": raster.WebpImage,
    "PNM": bare.PnmImage,
    "BMP": bare.BmpImage,
    "TIFF": tiff.TiffImage,
    "HDF5": hdf5.Hdf5Image,
    "NPY": arrays.NpyImage,
    "Zarr": zarrs.ZarrImage,
    "DICOM": dicom.DicomImage,
}

SUFFIXES = {suffix: kind for kind, reader in _READERS.items() for suffix in reader.suffixes}

_SIGNATURES = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (8, b"WEBP", "WebP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (0, b"BM", "BMP"),
    *((0, b"P" + kind.encode(), "PNM") for kind in "2356fF"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5"),
    (0, b"\x93NUMPY", "NPY"),
    (128, b"DICM", "DICOM"),
)
UNREAD = {  # what to do with pictures of other kinds
    suffix: remedy
    for remedy, suffixes in {
        "a camera's raw picture; develop it to a 16-bit TIFF first":
            ".arw .cr2 .cr3 .dng .nef .orf .pef .raf .rw2 .srw",
        "a picture of a kind that is not read; export it as PNG, TIFF or JPEG":
            ".avif .exr .gif .heic .heif .jp2 .jxl .pbm .psd",
        "a microscope's own kind; export it as OME-TIFF or OME-Zarr, as Fiji does":
            ".czi .lif .nd2 .oib .oif .vsi",
    }.items()
    for suffix in suffixes.split()
}  # fmt: skip
_BAND = 256


def open_image(
    path: str | Path, *, axes: str | None = None, max_pixels: int | None = MAX_PIXELS
) -> Image:
    """Open an image of any known kind; only its header is read.

    ``axes`` names the dimensions where the file is silent. ``max_pixels`` guards against files that
    claim to be huge; None lifts it. A file that cannot be used is a UserError that names it.
    """
    return _READERS[_kind(path)](path, axes=axes, max_pixels=max_pixels)


def read(
    path: str | Path, axes: str | None = None, *, max_pixels: int | None = MAX_PIXELS
) -> Array:
    """The whole image as it is stored: shape, order of axes and number type of the file."""
    image = open_image(path, axes=axes, max_pixels=max_pixels)
    layout = image.layout
    with reading(image.path, "an image"):
        whole = np.empty(layout.shape, layout.dtype)
    planes = _planes(whole, layout)
    for plane, index in enumerate(np.ndindex(planes.shape[:-3])):
        for start in range(0, layout.height, _BAND):
            stop = min(layout.height, start + _BAND)
            planes[index][start:stop] = image.read_rows(plane, start, stop)
    return whole


def write(
    path: str | Path,
    array: Array,
    like: Image | str | Path | None = None,
    *,
    axes: str | None = None,
) -> None:
    """Write an array as a new file; it appears whole or not at all.

    With ``like``, an image or its path, the file is of that one's kind and carries its metadata.
    Without it the suffix decides: 8 or 16-bit PNG, JPEG (quality 95, 4:4:4), lossless WebP, TIFF
    (deflate), NPY. A TIFF of more than a picture (H, W) or (H, W, 3 or 4) needs ``axes``, such as ``ZYX``.
    """
    path, array = Path(path), np.asarray(array)
    if not array.size:
        raise UserError(f"{path}: an image of shape {array.shape} is empty")
    if like is not None:
        image = like if isinstance(like, Image) else open_image(like, axes=axes)
        _write_like(image, path, array)
        return
    kind = SUFFIXES.get(path.suffix.lower())
    if kind in ("PNG", "JPEG", "WebP"):
        content = raster.create(path, array)
        with writing(path) as part:
            part.write_bytes(content)
    elif kind == "TIFF":
        axes = tiff.check_new(path, array, axes)
        with writing(path) as part:
            tiff.create(part, array, axes)
    elif kind == "NPY":
        with writing(path) as part, part.open("wb") as file:
            np.save(file, array, allow_pickle=False)
    else:
        raise UserError(
            f"{path}: a new file can be .png, .jpg, .webp, .tif or .npy; "
            "for another kind give the image that it shall be like"
        )


def _write_like(image: Image, path: Path, array: Array) -> None:
    layout = image.layout
    if array.shape != layout.shape or array.dtype != layout.dtype:
        raise UserError(
            f"{path}: {image.path.name} has the shape {layout.shape} and type {layout.dtype}; the array has "
            f"{array.shape} and {array.dtype}"
        )
    image.write_like(path, _bands(_planes(array, layout)))


def _bands(planes: Array) -> Iterator[Array]:
    for index in np.ndindex(planes.shape[:-3]):
        for start in range(0, planes.shape[-3], _BAND):
            yield planes[index][start : start + _BAND]


def _planes(array: Array, layout: Layout) -> Array:
    """A view of an array in the order of its planes: (..., H, W, channels)."""
    channel = layout.channel_axis
    if channel is None:
        array, channel = array[..., None], array.ndim
    picture = (layout.axes.index("Y"), layout.axes.index("X"), channel)
    return np.moveaxis(array, picture, (-3, -2, -1))


def _kind(path: str | Path) -> str:
    """The kind of image by its content; where the content says nothing, by the name."""
    path, inner = split(path)
    if inner is not None and path.is_file():
        return "HDF5"
    if path.is_dir() or any(part.lower().endswith(".zarr") for part in path.parts):
        return _kind_of_folder(path)
    if kind := what_it_is(path):  # to open it may wait for ever
        raise UserError(f"{path}: is {kind}; expected a file")
    with reading(path, "an image"), path.open("rb") as file:
        head = file.read(132)
    if not head:
        raise UserError(f"{path}: the file is empty")
    suffix = path.suffix.lower()
    if suffix in UNREAD:
        raise UserError(f"{path}: {UNREAD[suffix]}")
    named = SUFFIXES.get(suffix)
    found = next((kind for at, sign, kind in _SIGNATURES if head[at:].startswith(sign)), None)
    if found is None and named in ("HDF5", "DICOM"):  # both may begin with something else
        return named
    if found is None and named is None:
        raise UserError(f"{path}: not an image of a known kind: {', '.join(SUFFIXES)}")
    if found is None or named not in (found, None):
        raise UserError(
            f"{path}: named like {named}, but it holds {found or 'something else'}; "
            "give it the name of what it is"
        )
    return found


def is_store(path: Path) -> bool:
    """Whether a folder is a Zarr store or a part of one, and so an image rather than a folder of images."""
    marks = ("zarr.json", ".zarray", ".zgroup")
    return path.suffix.lower() == ".zarr" or any((path / mark).is_file() for mark in marks)


def _kind_of_folder(path: Path) -> str:
    if is_store(path):
        return "Zarr"
    if path.is_dir():
        raise UserError(f"{path}: a folder, not an image")
    raise UserError(f"{path}: no such array in the Zarr store")
