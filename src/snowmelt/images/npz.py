"""NPZ: one array of several in a NumPy archive; the others stay as they are.

An array is held whole, as NumPy itself does: it lies compressed in the archive.
"""

from __future__ import annotations

import io
import math
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from snowmelt.errors import UserError
from snowmelt.images.arrays import ArrayImage, layout_of, offer
from snowmelt.images.base import MAX_PIXELS, Array, check_pixels, reading, split, writing
from snowmelt.images.slabs import pour, unchunked
from snowmelt.limits import EXPANSION

_HARMLESS = 2**26  # bytes that an archive may hold however small it is
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_HEADER = (
    10_000  # characters that Python's parser may get from a stranger; numpy has the same limit
)


@dataclass(frozen=True)
class _Member:
    """An array in the archive: its entry, shape, type, order, and the bytes before its values."""

    entry: zipfile.ZipInfo
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    head: bytes

    @property
    def name(self) -> str:
        return self.entry.filename.removesuffix(".npy")

    @property
    def is_image(self) -> bool:
        return self.dtype.kind in "uif" and len(self.shape) >= 2 and 0 not in self.shape


class NpzImage(ArrayImage):
    """The only array of two dimensions or more in an NPZ file, or the one that ``file.npz:name`` means."""

    suffixes = (".npz",)
    has_parts = True
    kind = "NPZ"

    def __init__(
        self, path: str | Path, *, axes: str | None = None, max_pixels: int | None = MAX_PIXELS
    ) -> None:
        self.path, name = split(path)
        with reading(self.path, self.kind), zipfile.ZipFile(self.path) as archive:
            _check_methods(self.path, archive)
            members = [_member(archive, entry) for entry in archive.infolist()]
            size = self.path.stat().st_size
        self._member = _chosen(self.path, [each for each in members if each is not None], name)
        member = self._member
        where = f"{self.path}: {member.name}"
        self.layout = layout_of(where, member.shape, member.dtype, axes, None)
        self._most = None if max_pixels is None else max(_HARMLESS, EXPANSION * size)
        if self._most is not None and max_pixels == MAX_PIXELS:  # else somebody trusts the file
            values = self._most // member.dtype.itemsize
            check_pixels(self.path, math.prod(member.shape), values)
        self._grid = unchunked(self.layout, fortran=member.fortran)
        self._array: Array | None = None

    @classmethod
    def recognises(cls, head: bytes) -> bool:
        """A ZIP whose first entry is an array."""
        length = int.from_bytes(head[26:28], "little")
        return head.startswith(b"PK\3\4") and head[30 : 30 + length].endswith(b".npy")

    def write_like(self, target: Path, bands: Iterator[Array]) -> None:
        """Write an archive with other values in this array; atomic."""
        self.check_target(target)
        old = self._open()
        new = np.empty(old.shape, old.dtype, order="F" if self._member.fortran else "C")
        pour(bands, new, self._grid, target.parent)
        with reading(self.path, self.kind), writing(target) as part:
            if old.tobytes() == new.tobytes():
                shutil.copyfile(self.path, part)
            else:
                self._copy(part, new)

    def _copy(self, part: Path, values: Array) -> None:
        name = self._member.entry.filename
        with zipfile.ZipFile(self.path) as old, zipfile.ZipFile(part, "w") as new:
            claimed = sum(entry.file_size for entry in old.infolist() if entry.filename != name)
            if self._most is not None and claimed > self._most:
                raise UserError(
                    f"{self.path}: its other arrays claim {claimed:,} bytes, more than {self._most:,}; save "
                    "the one alone as NPY"
                )
            for entry in old.infolist():
                with new.open(_like(entry), "w", force_zip64=entry.file_size >= 2**31) as sink:
                    if entry.filename == name:
                        sink.write(self._member.head)
                        stored = values.T if self._member.fortran else values
                        sink.write(stored.astype(self._member.dtype).tobytes())
                    else:
                        with old.open(entry) as source:
                            shutil.copyfileobj(source, sink)

    def _open(self) -> Array:
        if self._array is None:
            member = self._member
            count = math.prod(member.shape) * member.dtype.itemsize
            with zipfile.ZipFile(self.path) as archive, archive.open(member.entry) as file:
                file.read(len(member.head))
                data = file.read(count)
                if len(data) < count or file.read(1):  # reading to the end checks the sum
                    raise ValueError(f"it holds other than the {count:,} bytes that it announces")
            shape = member.shape[::-1] if member.fortran else member.shape
            found = np.frombuffer(data, member.dtype).reshape(shape)
            found = found.T if member.fortran else found
            self._array = found.astype(member.dtype.newbyteorder("="), copy=False)
        return self._array


def _check_methods(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse what NumPy never writes: of bzip2 and LZMA, ``zipfile`` unpacks all before it gives one byte."""
    if any(entry.compress_type not in _METHODS for entry in archive.infolist()):
        raise UserError(
            f"{path}: compressed in a way that NumPy does not use; save it with numpy.savez_compressed"
        )


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> _Member | None:
    if not entry.filename.endswith(".npy"):
        return None
    with archive.open(entry) as file:
        head = file.read(_HEADER + 12)
    stream = io.BytesIO(head)
    version = np.lib.format.read_magic(stream)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read(stream, max_header_size=_HEADER)
    return _Member(entry, shape, fortran, dtype, head[: stream.tell()])


def _chosen(path: Path, members: list[_Member], name: str | None) -> _Member:
    images = [each for each in members if each.is_image]
    wanted = [each for each in images if name in (None, each.name)]
    if len(wanted) == 1:
        return wanted[0]
    said = f"has no image {name!r}" if name else "does not say which array is meant"
    raise UserError(f"{path}: {said}; {offer(path, [each.name for each in images])}")


def _like(entry: zipfile.ZipInfo) -> zipfile.ZipInfo:
    new = zipfile.ZipInfo(entry.filename, entry.date_time)
    new.compress_type, new.external_attr = entry.compress_type, entry.external_attr
    new.comment, new.create_system = entry.comment, entry.create_system
    return new
