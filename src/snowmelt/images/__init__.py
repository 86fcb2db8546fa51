"""Images of any kind: open by content, read whole, write whole.

``open_image`` gives what the engine works on (see ``base.Image``); ``read`` and ``write`` are for arrays that
fit in memory.

A new format is one file in this folder, with a class derived from ``base.Image`` that says its ``kind``, its
``suffixes`` and the ``signatures`` by which its files are known, and one line in ``_MODULES``.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from snowmelt.errors import UserError
from snowmelt.files import what_it_is
from snowmelt.images import hdf5, raster, refused, tiff, zarrs
from snowmelt.images.base import MAX_PIXELS, Array, Image, Layout, reading, split, writing

# One line a format (or family). Where the signatures of several are found in a file that is named like none
# of them, the first counts: DICOM's 128 bytes before its mark may begin like a TIFF.
_MODULES = (
    "raster",
    "dicom",
    "tiff",
    "bmp",
    "gif",
    "jpeg2000",
    "avif",
    "jpegxl",
    "fits",
    "mrc",
    "exr",
    "radiance",
    "tga",
    "bare",
    "arrays",
    "npz",
    "hdf5",
    "zarrs",
)


def _formats(name: str) -> list[type[Image]]:
    """The classes of a module that say by which suffixes their files are known."""
    module = importlib.import_module(f"snowmelt.images.{name}")
    classes = [each for each in vars(module).values() if isinstance(each, type)]
    own = [each for each in classes if each.__module__ == module.__name__]
    return [each for each in own if issubclass(each, Image) and each.suffixes]


FORMATS = tuple(format for name in _MODULES for format in _formats(name))
SUFFIXES = {suffix: format.kind for format in FORMATS for suffix in format.suffixes}
UNREAD = {suffix: why for suffix, why in refused.UNREAD.items() if suffix not in SUFFIXES}
_BY_SUFFIX = {suffix: format for format in FORMATS for suffix in format.suffixes}
_HEAD = 512
_BAND = 256


def open_image(
    path: str | Path, *, axes: str | None = None, max_pixels: int | None = MAX_PIXELS
) -> Image:
    """Open an image of any known kind; only its header is read.

    ``axes`` names the dimensions where the file is silent. ``max_pixels`` guards against files that
    claim to be huge; None lifts it. A file that cannot be used is a UserError that names it.
    """
    format = _format(path)
    image = format(path, axes=axes, max_pixels=max_pixels)
    named = _BY_SUFFIX.get(split(path)[0].suffix.lower(), format)
    if named is not format:
        image.notes += (
            f"named like {named.kind}, but its content is {format.kind}, and that is what counts",
        )
    return image


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


def _format(path: str | Path) -> type[Image]:
    """The format of an image by its content; where the content says nothing, by the name."""
    path, inner = split(path)
    if path.is_dir() or any(part.lower().endswith(".zarr") for part in path.parts):
        return _format_of_folder(path)
    if kind := what_it_is(path):  # to open it may wait for ever
        raise UserError(f"{path}: is {kind}; expected a file")
    with reading(path, "an image"), path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        raise UserError(f"{path}: the file is empty")
    found = _recognised(path, head)
    if inner is None:
        return found or _unknown(path, head)
    found = found or hdf5.Hdf5Image  # by any name, behind any user block
    if not found.has_parts:
        raise UserError(f"{path}: a {found.kind} file has no parts such as {inner!r}; leave it out")
    return found


def _recognised(path: Path, head: bytes) -> type[Image] | None:
    """By content. Where that fits several formats, or none but may be anything, the suffix counts."""
    suffix = path.suffix.lower()
    named = _BY_SUFFIX.get(suffix)
    found = [format for format in FORMATS if format.recognises(head)]
    if suffix in UNREAD and found[:1] == [tiff.TiffImage]:
        return None  # cameras and microscopes write TIFFs of which only a preview would be read
    if named in found:
        return named
    if not found and named is not None and named.unsigned and not refused.remedy(head, ""):
        return named
    return found[0] if found else None


def _unknown(path: Path, head: bytes) -> type[Image]:
    """Say what a file is that is not read, and the way out."""
    suffix = path.suffix.lower()
    if remedy := refused.remedy(head, suffix):
        raise UserError(f"{path}: {remedy}")
    if named := SUFFIXES.get(suffix):
        raise UserError(
            f"{path}: named like {named}, but it holds something else, of no known kind; download or export "
            "it again"
        )
    raise UserError(f"{path}: not an image of a known kind: {', '.join(SUFFIXES)}")


def is_store(path: Path) -> bool:
    """Whether a folder is a Zarr store or a part of one, and so an image rather than a folder of images."""
    marks = ("zarr.json", ".zarray", ".zgroup")
    return path.suffix.lower() == ".zarr" or any((path / mark).is_file() for mark in marks)


def _format_of_folder(path: Path) -> type[Image]:
    if is_store(path):
        return zarrs.ZarrImage
    if path.is_dir():
        raise UserError(f"{path}: a folder, not an image")
    raise UserError(f"{path}: no such array in the Zarr store")
