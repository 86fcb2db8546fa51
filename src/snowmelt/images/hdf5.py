"""Datasets in HDF5 files, read and written by a child process.

HDF5's C library crashes, or never comes to an end, on some damaged files, and would take this process along.
So a child speaks HDF5 (see `children`). It serves all files, one after another; if it dies, the file at hand
is damaged and the next gets a new child.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import posixpath
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from snowmelt import children
from snowmelt.errors import UserError, nearest
from snowmelt.images.arrays import MANY, ArrayImage, check_size, layout_of, letters_of, offer
from snowmelt.images.base import MAX_PIXELS, Array, reading, split, writing
from snowmelt.images.slabs import Box, Boxes, Grid, pour, unchunked

_SOFT_LINKS = 16
_ATTRIBUTE_BYTES = 2**16
_ATTRIBUTE_WORDS = 32
_CHECKSUM_BYTES = 4
_CHUNK_MARGIN = 2**16


class Hdf5Image(ArrayImage):
    """A dataset in an HDF5 file: ``file.h5:/group/dataset``, or the only one that can be a picture."""

    suffixes = (".h5", ".hdf5")
    kind = "HDF5"

    def __init__(
        self, path: str | Path, *, axes: str | None = None, max_pixels: int | None = MAX_PIXELS
    ) -> None:
        self.path, name = split(path)
        with reading(self.path, self.kind):
            self._file = str(self.path.resolve(strict=True))
            try:
                found, _ = children.call(_describe, self._file, name)
            except UserError as error:
                raise UserError(f"{self.path}: {error}") from error
            self.inner: str = found["name"]
            shape = None if found["shape"] is None else tuple(found["shape"])
            where = f"{self.path}:{self.inner}"
            self.layout = layout_of(where, shape, np.dtype(found["dtype"]), axes, found["axes"])
            if found["range"]:
                self.value_range = (found["range"][0], found["range"][1])
            self._grid = unchunked(self.layout)
            if found["chunks"]:
                order = tuple(range(len(self.layout.shape)))
                self._grid = Grid(self.layout, tuple(found["chunks"]), order)
            check_size(self.path, self._grid, found["stored"], max_pixels)

    def write_like(self, target: Path, bands: Iterator[Array]) -> None:
        """Write a copy of the file with other values in this dataset; atomic."""
        self.check_target(target)
        with writing(target) as part:
            shutil.copyfile(self.path, part)
            try:
                pour(bands, self._remote(str(part.resolve()), "r+"), self._grid, target.parent)
                children.call(_close)
            except children.ChildError as error:
                raise UserError(f"{self.path}: cannot be written anew: {error}") from error
            except BaseException:
                children.stop(__name__)  # it still holds the unfinished file
                raise
            self._reader = None

    def _open(self) -> Boxes:
        return self._remote(self._file, "r")

    def _remote(self, file: str, mode: str) -> Boxes:
        return _Remote((file, mode, self.inner), self.layout.dtype)


class _Remote:
    """A dataset in the child's hands."""

    def __init__(self, address: tuple[str, str, str], dtype: np.dtype[Any]) -> None:
        self._address, self._dtype = address, dtype

    def __getitem__(self, box: Box) -> Array:
        places = [(part.start, part.stop) for part in box]
        _, data = children.call(_read, *self._address, places, str(self._dtype))
        return np.frombuffer(data, self._dtype).reshape([stop - start for start, stop in places])

    def __setitem__(self, box: Box, values: Array) -> None:
        places = [(part.start, part.stop) for part in box]
        data = np.ascontiguousarray(values, self._dtype)
        children.call(_write, *self._address, places, str(self._dtype), payload=data)


# In the child: by mode ("r", "r+") the one file that is open in it, and its path.
_open_files: dict[str, tuple[str, Any]] = {}


@children.served
def _describe(path: str, name: str | None, _: Any) -> tuple[dict[str, Any], bytes]:
    """All that is known of a dataset before its values. A file that is being written is refused."""
    import h5py

    _shut("r")
    with h5py.File(path, "r", locking="best-effort") as file:
        name = _follow(file, name, path) if name else _only(file, path)
        dataset = file[name]
        _check_stored(dataset, name)
        if dataset.chunks:
            _check_chunks(dataset, Path(path).stat().st_size)
        return {
            "name": name,
            "shape": dataset.shape,
            "dtype": dataset.dtype.str,
            "chunks": dataset.chunks,
            "axes": _axes(dataset),
            "range": _precision(dataset),
            "stored": dataset.id.get_storage_size(),
        }, b""


@children.served
def _read(path: str, mode: str, name: str, places: Any, dtype: str, _: Any) -> tuple[None, Array]:
    """The values of a box."""
    box = tuple(slice(start, stop) for start, stop in places)
    return None, np.ascontiguousarray(_file(path, mode)[name][box], np.dtype(dtype))


@children.served
def _write(
    path: str, mode: str, name: str, places: Any, dtype: str, payload: Any
) -> tuple[None, bytes]:
    """Put values in a box."""
    box = tuple(slice(start, stop) for start, stop in places)
    sizes = [stop - start for start, stop in places]
    with _storing():
        dataset = _file(path, mode)[name]
        dataset[box] = np.frombuffer(payload, dtype).reshape(sizes)
        # Tells of a full disk. Without it the dataset's end would swallow the error, and closing the
        # file crash.
        dataset.flush()
        dataset.file.flush()
    return None, b""


@children.served
def _close(_: Any) -> tuple[None, bytes]:
    """Leave both files; what was written is in the file then."""
    with _storing():
        _shut("r")
        _shut("r+")
    return None, b""


@contextlib.contextmanager
def _storing() -> Iterator[None]:
    """Whatever fails in writing is the system's fault, not the file's."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(str(error)) from error


def _file(path: str, mode: str) -> Any:
    import h5py

    if _open_files.get(mode, ("",))[0] != path:
        _shut(mode)
        # A lock would hinder others for as long as this process lives.
        _open_files[mode] = (path, h5py.File(path, mode, locking=False))
    return _open_files[mode][1]


def _shut(mode: str) -> None:
    _, file = _open_files.pop(mode, ("", None))
    if file is not None:
        file.close()


def _follow(file: Any, name: str, path: str) -> str:
    """The path of a dataset without links on it."""
    import h5py

    here, todo, links = "/", name.split("/"), 0
    while todo:
        part = todo.pop(0)
        if part in ("", "."):
            continue
        group = file[here]
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
        if isinstance(link, h5py.HardLink):
            here = posixpath.join(here, part)
        elif isinstance(link, h5py.SoftLink) and links < _SOFT_LINKS:
            links += 1
            here = "/" if link.path.startswith("/") else here
            todo = [*link.path.split("/"), *todo]
        elif link is None:
            names = _pictures(file)[:MANY]
            known = nearest(name, names) if names else offer(path, names)
            raise UserError(f"has no dataset {name!r}; {known}")
        else:
            raise UserError(
                f"{name!r} is a link to another file or to itself; give the file that holds the data"
            )
    if isinstance(file[here], h5py.Group):
        raise UserError(f"{name!r} is a group; {offer(path, _pictures(file))}")
    return here


def _only(file: Any, path: str) -> str:
    names = _pictures(file)
    if len(names) != 1:
        raise UserError(f"does not say which dataset is meant; {offer(path, names)}")
    return "/" + names[0]


def _check_stored(dataset: Any, name: str) -> None:
    """Before anything is read: values that lie elsewhere, or that this computer cannot decode."""
    import h5py

    where = f"{name!r} is"
    if _is_enum(dataset.dtype):
        raise UserError(f"{where} an enumeration: its values are names; convert it to uint8")
    if dataset.is_virtual:  # asking for its shape would already open other files
        raise UserError(f"{where} a virtual dataset, a view of others; give those, or repack it")
    if dataset.external:
        raise UserError(f"{where} stored in other files; repack it: h5repack")
    plist = dataset.id.get_create_plist()
    for number in range(plist.get_nfilters()):
        code, _, _, label = plist.get_filter(number)
        if not h5py.h5z.filter_avail(code):
            with contextlib.suppress(ImportError):
                importlib.import_module("hdf5plugin")
        if not h5py.h5z.filter_avail(code):
            raise UserError(
                f"{where} compressed by filter {code} ({label.decode(errors='replace')}), which is not "
                "installed: pip install hdf5plugin, or h5repack -f GZIP=4"
            )
        if not h5py.h5z.get_filter_info(code) & h5py.h5z.FILTER_CONFIG_ENCODE_ENABLED:
            raise UserError(
                f"{where} compressed by filter {code}, which can only be read here; h5repack -f GZIP=4"
            )


def _axes(dataset: Any) -> str | None:
    """The letters that the dataset's attributes give its dimensions."""
    tags = _attribute(dataset, "axistags")  # written by ilastik and vigra, as JSON
    if tags is not None:
        return letters_of([axis["key"] for axis in json.loads(tags)["axes"]])
    mode = _attribute(dataset, "INTERLACE_MODE")  # the HDF5 Image specification
    if mode is not None:
        word = mode if isinstance(mode, str) else bytes(mode).decode(errors="replace")
        return {"INTERLACE_PIXEL": "YXS", "INTERLACE_PLANE": "SYX"}.get(word)
    labels = ("DIMENSION_LABELS", "axes")
    return next(filter(None, (letters_of(_attribute(dataset, name)) for name in labels)), None)


def _attribute(dataset: Any, name: str) -> Any:
    """A short attribute; a damaged one can claim to be endless."""
    if name not in dataset.attrs:
        return None
    handle = dataset.attrs.get_id(name)
    if math.prod(handle.shape) > _ATTRIBUTE_WORDS or handle.get_storage_size() > _ATTRIBUTE_BYTES:
        raise ValueError(f"the attribute {name} is too long")
    return dataset.attrs[name]


def _check_chunks(dataset: Any, size: int) -> None:
    """The chunks' places and sizes must be possible: HDF5's filters trust them, and crash the process.

    A chunk that skipped its filters is as long as its values.
    """
    whole = math.prod(dataset.chunks) * dataset.dtype.itemsize

    def look(chunk: Any) -> None:
        inside = chunk.byte_offset is not None and chunk.byte_offset + chunk.size <= size
        least = whole if chunk.filter_mask else _CHECKSUM_BYTES
        if not inside or not least <= chunk.size <= 2 * whole + _CHUNK_MARGIN:
            raise ValueError(f"the chunk at {chunk.chunk_offset} claims {chunk.size} bytes")

    dataset.id.chunk_iter(look)


def _precision(dataset: Any) -> tuple[int, int] | None:
    """The range of whole numbers stored in fewer bits than their bytes have."""
    if dataset.dtype.kind not in "ui":
        return None
    kind = dataset.id.get_type()
    bits = kind.get_precision()
    if bits == 8 * kind.get_size():
        return None
    return (
        (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.dtype.kind == "i" else (0, 2**bits - 1)
    )


def _pictures(group: Any) -> list[str]:
    """The names of all datasets in a file that could be a picture; soft and external links are not followed.

    h5py's own walk, ``visititems``, crashes the process on some damaged files.
    """
    import h5py

    names: list[str] = []
    todo, seen = [("", group)], set()
    while todo:
        prefix, group = todo.pop()
        address = h5py.h5o.get_info(group.id).addr
        for name in group if address not in seen else ():
            if isinstance(group.get(name, getlink=True), h5py.HardLink):
                item = group[name]
                if isinstance(item, h5py.Group):
                    todo.append((f"{prefix}{name}/", item))
                elif _is_picture(item):
                    names.append(prefix + name)
        seen.add(address)
    return sorted(names)


def _is_picture(item: Any) -> bool:
    import h5py

    if not isinstance(item, h5py.Dataset) or item.is_virtual:
        return False
    try:
        dtype = item.dtype
    except TypeError:  # a type that numpy does not have
        return False
    return dtype.kind in "uif" and item.ndim >= 2 and 0 not in item.shape and not _is_enum(dtype)


def _is_enum(dtype: np.dtype[Any]) -> bool:
    import h5py

    return h5py.check_enum_dtype(dtype) is not None
