"""Datasets in HDF5 files, read and written by a child process.

HDF5's C library crashes, or never comes to an end, on some damaged files, and would take this process along.
So a child speaks HDF5 (see `children`). It serves all files, one after another; if it dies, the file at hand
is damaged and the next gets a new child.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from snowmelt import children, limits
from snowmelt.errors import UserError, nearest, printable
from snowmelt.hdf5file import attribute, check, check_inside, find, is_enum, opened
from snowmelt.images.arrays import MANY, ArrayImage, check_size, layout_of, letters_of, offer
from snowmelt.images.base import MAX_PIXELS, Array, reading, split, writing
from snowmelt.images.slabs import Box, Boxes, Grid, pour, unchunked

# Memory for a request beyond what the values need: HDF5's own, and a few copies of them under way.
_SPARE_BYTES, _COPIES = 2**28, 4
# Writing also waits for the disk, and encoders are slow.
_WRITING = 10


class Hdf5Image(ArrayImage):
    """A dataset in an HDF5 file: ``file.h5:/group/dataset``, or the only one that can be a picture."""

    suffixes = (".h5", ".hdf5")
    signatures = ((0, b"\x89HDF\r\n\x1a\n"),)
    unsigned = has_parts = True  # a user block may precede the signature
    kind = "HDF5"

    def __init__(
        self, path: str | Path, *, axes: str | None = None, max_pixels: int | None = MAX_PIXELS
    ) -> None:
        self.path, name = split(path)
        with reading(self.path, self.kind):
            self._file = str(self.path.resolve(strict=True))
            try:
                # An index of chunks has more than 20 bytes for each; to look at one takes microseconds.
                found, _ = children.call(
                    _describe,
                    self._file,
                    name,
                    max_pixels is None or max_pixels > MAX_PIXELS,
                    seconds=_seconds(min(self.path.stat().st_size, limits.CHUNK_BYTES)),
                )
            except UserError as error:
                raise UserError(f"{self.path}: {error}") from error
            self.inner: str = found["name"]
            shape = None if found["shape"] is None else tuple(found["shape"])
            where = f"{self.path}:{printable(self.inner)}"
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
        return _Remote((file, mode, self.inner), self.layout.dtype, math.prod(self._grid.chunks))


class _Remote:
    """A dataset in the child's hands."""

    def __init__(self, address: tuple[str, str, str], dtype: np.dtype[Any], chunk: int) -> None:
        self._address, self._dtype, self._chunk = address, dtype, chunk

    def __getitem__(self, box: Box) -> Array:
        places = [(part.start, part.stop) for part in box]
        sizes = [stop - start for start, stop in places]
        size = max(self._chunk, math.prod(sizes)) * self._dtype.itemsize
        _, data = children.call(
            _read,
            *self._address,
            places,
            str(self._dtype),
            memory=_memory(size),
            seconds=_seconds(size),
        )
        return np.frombuffer(data, self._dtype).reshape(sizes)

    def __setitem__(self, box: Box, values: Array) -> None:
        places = [(part.start, part.stop) for part in box]
        data = np.ascontiguousarray(values, self._dtype)
        size = max(self._chunk * self._dtype.itemsize, data.nbytes)
        children.call(
            _write,
            *self._address,
            places,
            str(self._dtype),
            payload=data,
            memory=_memory(size),
            seconds=_seconds(size) * _WRITING,
        )


def _memory(size: int) -> int:
    return _SPARE_BYTES + _COPIES * size


def _seconds(size: int) -> float:
    """Time to decode so many bytes."""
    return limits.CHILD_SECONDS + size / limits.CHILD_BYTES_PER_SECOND


# In the child: by mode ("r", "r+") the one file that is open in it, and its path.
_open_files: dict[str, tuple[str, Any]] = {}


@children.served
def _describe(path: str, name: str | None, trusted: bool, _: Any) -> tuple[dict[str, Any], bytes]:
    """All that is known of a dataset before its values. A file that is being written is refused."""
    _shut("r")
    with opened(path) as file:
        name, dataset = _follow(file, name, path) if name else _only(file, path)
        check(dataset, name, written=True, trusted=trusted)
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
    return None, np.ascontiguousarray(_dataset(path, mode, name)[box], np.dtype(dtype))


@children.served
def _write(
    path: str, mode: str, name: str, places: Any, dtype: str, payload: Any
) -> tuple[None, bytes]:
    """Put values in a box."""
    box = tuple(slice(start, stop) for start, stop in places)
    sizes = [stop - start for start, stop in places]
    with _storing():
        dataset = _dataset(path, mode, name)
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


def _dataset(path: str, mode: str, name: str) -> Any:
    """A dataset in the file that is open, which is looked at again: another may lie there since."""
    import h5py

    if _open_files.get(mode, ("",))[0] != path:
        _shut(mode)
        # A lock would hinder others for as long as this process lives.
        _open_files[mode] = (path, h5py.File(path, mode, locking=False))
    _, dataset = find(_open_files[mode][1], name)
    check_inside(dataset, name)
    return dataset


def _shut(mode: str) -> None:
    _, file = _open_files.pop(mode, ("", None))
    if file is not None:
        file.close()


def _follow(file: Any, name: str, path: str) -> tuple[str, Any]:
    """A dataset, and its path without links on it; its name may have been typed as it was shown."""
    import h5py

    try:
        here, item = find(file, name)
    except KeyError:
        known = _pictures(file)
        typed = [each for each in known if printable(each) == name.strip("/")]
        if len(typed) != 1:
            shown = [printable(each) for each in known[:MANY]]
            words = nearest(name, shown) if shown else offer(path, shown)
            raise UserError(f"has no dataset {printable(name)!r}; {words}") from None
        here, item = find(file, typed[0])
    if isinstance(item, h5py.Group):
        shown = [printable(each) for each in _pictures(file)]
        raise UserError(f"{printable(name)!r} is a group; {offer(path, shown)}")
    return here, item


def _only(file: Any, path: str) -> tuple[str, Any]:
    names = _pictures(file)
    if len(names) != 1:
        shown = [printable(each) for each in names]
        raise UserError(f"does not say which dataset is meant; {offer(path, shown)}")
    return "/" + names[0], file[names[0]]


def _axes(dataset: Any) -> str | None:
    """The letters that the dataset's attributes give its dimensions."""
    tags = attribute(dataset, "axistags")  # written by ilastik and vigra, as JSON
    if tags is not None:
        return letters_of([axis["key"] for axis in json.loads(tags)["axes"]])
    mode = attribute(dataset, "INTERLACE_MODE")  # the HDF5 Image specification
    if mode is not None:
        word = mode if isinstance(mode, str) else bytes(mode).decode(errors="replace")
        return {"INTERLACE_PIXEL": "YXS", "INTERLACE_PLANE": "SYX"}.get(word)
    labels = ("DIMENSION_LABELS", "axes")
    return next(filter(None, (letters_of(attribute(dataset, name)) for name in labels)), None)


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
    return dtype.kind in "uif" and item.ndim >= 2 and 0 not in item.shape and not is_enum(dtype)
