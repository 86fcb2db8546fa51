"""The one guarded reader for everything that is HDF5: images, training data, Keras models.

A file of HDF5 may point out of itself: datasets stored in other files (external storage), links to other
files, virtual datasets; whoever followed them would read any file of this computer for a stranger. It may
also claim any size, and filters one over the other may make gigabytes of a few bytes. So every file is opened
by `opened`, every name is looked up by `find`, and what is found there has passed `check`.

All this calls HDF5's C library, so it is called in child processes alone (see `children`).
"""

from __future__ import annotations

import contextlib
import importlib
import math
import posixpath
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from snowmelt import limits
from snowmelt.errors import UserError, printable

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SOFT_LINKS = 16
_CHECKSUM_BYTES = 4
# A chunk may be so much longer than its values: headers of filters, padding of tiny chunks.
_CHUNK_MARGIN = 4096


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """A file, open for reading. One that is being written by another process is refused."""
    import h5py

    with h5py.File(path, "r", locking="best-effort") as file:
        yield file


def find(group: Any, name: str) -> tuple[str, Any]:
    """What lies at a path, and its path without links on it; links within the file are followed.

    Raises:
        KeyError: Nothing is there.
        UserError: The way leads out of the file, or in a circle.
    """
    import h5py

    here, todo, links = group.name, name.split("/"), 0
    while todo:
        part = todo.pop(0)
        if part in ("", "."):
            continue
        item = group.file[here]
        link = item.get(part, getlink=True) if isinstance(item, h5py.Group) else None
        if isinstance(link, h5py.HardLink):
            here = posixpath.join(here, part)
        elif isinstance(link, h5py.SoftLink) and links < _SOFT_LINKS:
            links += 1
            here = "/" if link.path.startswith("/") else here
            todo = [*link.path.split("/"), *todo]
        elif link is None:
            raise KeyError(name)
        else:
            raise UserError(
                f"{printable(name)!r} is a link to another file or to itself; give the file that holds the "
                "data"
            )
    return here, group.file[here]


def names(group: Any) -> list[str]:
    """The names in a group, as they can be shown."""
    return [printable(name) for name in group]


def check(dataset: Any, name: str, *, written: bool = False, trusted: bool = False) -> None:
    """Before anything is read: values that lie elsewhere, cannot be decoded here or claim too much.

    Args:
        dataset: An ``h5py.Dataset``.
        name: For messages.
        written: Whether values will be written, too, for which the filters are needed in both directions.
        trusted: Whether the file may have chunks of any size.
    """
    where = f"{printable(name)!r} is"
    check_inside(dataset, name)
    if is_enum(dataset.dtype):
        raise UserError(f"{where} an enumeration: its values are names; convert it to uint8")
    _check_filters(dataset, where, written)
    if dataset.chunks:
        size = Path(dataset.file.filename).stat().st_size
        if not trusted:
            _check_chunk_shape(dataset, where, size)
        _check_chunks(dataset, size)


def check_inside(dataset: Any, name: str) -> None:
    """Raise UserError where values lie in other files."""
    where = f"{printable(name)!r} is"
    if dataset.is_virtual:  # asking for its shape would already open other files
        raise UserError(f"{where} a virtual dataset, a view of others; give those, or repack it")
    if dataset.external:
        raise UserError(f"{where} stored in other files; repack it: h5repack")


def check_claim(claimed: int, stored: int, most: int) -> None:
    """Refuse data that claim far more bytes than ``stored`` ones can hold, unless it is little anyway."""
    if claimed > max(most, stored * limits.EXPANSION):
        raise UserError(
            f"it claims {claimed:,} bytes of numbers and holds {stored:,}; expected at most "
            f"{limits.EXPANSION} times as many; it is damaged, or made to fill the memory"
        )


def attribute(item: Any, name: str, *, most: int = limits.ATTRIBUTE_BYTES) -> Any:
    """An attribute, None where there is none; a damaged one can claim to be endless."""
    if name not in item.attrs:
        return None
    handle = item.attrs.get_id(name)
    words = math.prod(handle.shape)
    if words > limits.ATTRIBUTE_WORDS or (words and handle.get_storage_size() > most):
        raise ValueError(f"the attribute {name} is too long")
    return item.attrs[name]


def is_enum(dtype: np.dtype[Any]) -> bool:
    """Whether numbers stand for names."""
    import h5py

    return h5py.check_enum_dtype(dtype) is not None


def _check_filters(dataset: Any, where: str, written: bool) -> None:
    import h5py

    plist = dataset.id.get_create_plist()
    codes: Counter[int] = Counter()
    for number in range(plist.get_nfilters()):
        code, _, _, label = plist.get_filter(number)
        codes[code] += 1
        if not h5py.h5z.filter_avail(code):
            with contextlib.suppress(ImportError):
                importlib.import_module("hdf5plugin")
        if not h5py.h5z.filter_avail(code):
            raise UserError(
                f"{where} compressed by filter {code} ({printable(label.decode(errors='replace'))}), which "
                "is not installed: pip install hdf5plugin, or h5repack -f GZIP=4"
            )
        if written and not h5py.h5z.get_filter_info(code) & h5py.h5z.FILTER_CONFIG_ENCODE_ENABLED:
            raise UserError(
                f"{where} compressed by filter {code}, which can only be read here; h5repack -f GZIP=4"
            )
    for code, times in codes.items():
        if times > 1:  # nobody gains by it but who wants to make gigabytes of a few bytes
            raise UserError(
                f"{where} compressed {times} times over by filter {code}; expected once: h5repack -f GZIP=4"
            )


def _check_chunk_shape(dataset: Any, where: str, size: int) -> None:
    """A chunk is decoded as a whole, however little of it is needed."""
    whole = math.prod(dataset.chunks) * dataset.dtype.itemsize
    most = max(limits.CHUNK_BYTES, size * limits.EXPANSION)
    if whole > most:
        raise UserError(
            f"{where} in chunks of {whole:,} bytes, and the whole file has {size:,}; expected chunks of at "
            f"most {most:,}; if you trust the file, h5repack -l CHUNK=... makes them smaller"
        )


def _check_chunks(dataset: Any, size: int) -> None:
    """The chunks' places and sizes must be possible: HDF5's filters trust them, and crash the process.

    A chunk that skipped its filters is as long as its values. Together the chunks are no longer than the
    file, or some lie on others, and little would be decoded many times.
    """
    whole = math.prod(dataset.chunks) * dataset.dtype.itemsize
    total = 0

    def look(chunk: Any) -> None:
        nonlocal total
        total += chunk.size
        inside = chunk.byte_offset is not None and chunk.byte_offset + chunk.size <= size
        least = whole if chunk.filter_mask else _CHECKSUM_BYTES
        if not inside or not least <= chunk.size <= 2 * whole + _CHUNK_MARGIN or total > size:
            raise ValueError(f"the chunk at {chunk.chunk_offset} claims {chunk.size} bytes")

    dataset.id.chunk_iter(look)
