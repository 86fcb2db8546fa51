"""Arrays in HDF5, NPY and Zarr: new values in a copy of the container.

Writing copies the container as it is and then exchanges the values of one array in place. So filters, fill
values, attributes, links and whatever else lies beside the array cannot get lost.

A container is a stranger's: nothing that it names outside itself is opened, nothing in it is executed.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import json
import math
import os
import posixpath
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from snowmelt.errors import UserError, nearest
from snowmelt.images.base import (
    MAX_PIXELS,
    Array,
    Image,
    Layout,
    check_pixels,
    reading,
    split,
    writing,
)
from snowmelt.images.slabs import Boxes, Grid, RawFile, Reader, pour, unchunked

# A file may claim this many bytes for each of its own before it counts as a bomb.
_EXPANSION = 100
_MANY = 20
_LINKS = 16
_JSON_BYTES = 2**24
_ATTRIBUTE_BYTES = 2**16
_WORDS = 32
_CHECKSUM_BYTES = 4
_CHUNK_MARGIN = 2**16

# Names of dimensions as programs write them (lower case), and the letters they stand for.
_LETTERS = {
    **{letter.lower(): letter for letter in "XYZTCS"},
    **dict.fromkeys(("width", "column", "columns", "col"), "X"),
    **dict.fromkeys(("height", "row", "rows"), "Y"),
    **{"depth": "Z", "time": "T", "channel": "C", "channels": "C", "sample": "S", "samples": "S"},
}

_HEADERS = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")

# What may decode a Zarr chunk. Others run code of the file's choice (pickle) or make no numbers.
_CODECS = frozenset(
    (
        *("blosc", "zlib", "gzip", "bz2", "lzma", "lz4", "zstd", "bytes", "transpose"),
        *("sharding_indexed", "delta", "shuffle", "fixedscaleoffset", "quantize", "bitround"),
        *("astype", "crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3"),
    )
)


class _ArrayImage(Image):
    """An array that rows are read from, slab by slab."""

    kind: ClassVar[str]

    _grid: Grid
    _reader: Reader | None = None

    def read_rows(self, plane: int, start: int, stop: int) -> Array:
        """Rows ``start:stop`` of a plane as (stop - start, W, channels), in native byte order.

        Rows asked for in sequence decode each chunk once.
        """
        with reading(self.path, self.kind):
            if self._reader is None:
                self._reader = Reader(self._open(), self._grid)
            return self._reader.rows(plane, start, stop)

    def _open(self) -> Boxes:
        raise NotImplementedError


class NpyImage(_ArrayImage):
    """A NumPy ``.npy`` file of any version, byte order and memory order; pickled objects are refused."""

    suffixes = (".npy",)
    kind = "NPY"

    def __init__(
        self, path: str | Path, *, axes: str | None = None, max_pixels: int | None = MAX_PIXELS
    ) -> None:
        del max_pixels  # such a file is as long as it claims to be
        self.path = Path(path)
        with reading(self.path, self.kind), self.path.open("rb") as file:
            shape, self._fortran, self._stored = self._header(file)
            self._start = file.tell()
            self.layout = _layout(f"{self.path}", shape, self._stored, axes, None)
            found = file.seek(0, os.SEEK_END) - self._start
            needed = math.prod(shape) * self._stored.itemsize
            if found < needed:
                raise ValueError(f"it is cut off: {found:,} bytes of {needed:,} are there")
        self._grid = unchunked(self.layout, fortran=self._fortran)

    def write_like(self, target: Path, bands: Iterator[Array]) -> None:
        """Write a file with the same header and other values; atomic."""
        self.check_target(target)
        with writing(target) as part:
            shutil.copyfile(self.path, part)
            with FileIO(part, "r+") as file:
                pour(bands, self._raw(file), self._grid, target.parent)
            self._reader = None

    def _open(self) -> Boxes:
        return self._raw(FileIO(self.path, "r"))

    def _raw(self, file: FileIO) -> RawFile:
        return RawFile(file, self._start, self.layout.shape, self._stored, fortran=self._fortran)

    def _header(self, file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
        """Shape, whether in Fortran order, and number type; the file then stands at the first value."""
        magic = file.read(8)
        if magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2, 3):
            raise ValueError("it does not begin as NPY of version 1, 2 or 3")
        length = int.from_bytes(file.read(2 if magic[6] == 1 else 4), "little")
        # Python's parser must not get more from a stranger; numpy has the same limit.
        if length > 10_000:
            raise ValueError(f"a header of {length:,} bytes")
        found = ast.literal_eval(
            file.read(length).decode("utf-8" if magic[6] == 3 else "latin-1").strip()
        )
        shape, fortran = found["shape"], found["fortran_order"]
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"the shape {shape}")
        if not isinstance(fortran, bool):
            raise ValueError(f"the order {fortran}")
        if not isinstance(found["descr"], str):
            raise UserError(
                f"{self.path}: its values are records of several fields; save one field as an array"
            )
        return shape, fortran, np.dtype(found["descr"])


class Hdf5Image(_ArrayImage):
    """A dataset in an HDF5 file: ``file.h5:/group/dataset``, or the only one that can be a picture."""

    suffixes = (".h5", ".hdf5")
    kind = "HDF5"

    def __init__(
        self, path: str | Path, *, axes: str | None = None, max_pixels: int | None = MAX_PIXELS
    ) -> None:
        self.path, self.inner = split(path)
        with reading(self.path, self.kind):
            self.path.stat()
            dataset = self._open()
            self._check_stored(dataset)
            self.layout = _layout(
                f"{self.path}:{self.inner}", dataset.shape, dataset.dtype, axes, _hdf5_axes(dataset)
            )
            self.value_range = _precision(dataset)
            self._grid = (
                Grid(self.layout, dataset.chunks, tuple(range(dataset.ndim)))
                if dataset.chunks
                else unchunked(self.layout)
            )
            if dataset.chunks:
                _check_chunks(dataset, self.path.stat().st_size)
            _check_size(self.path, self._grid, dataset.id.get_storage_size(), max_pixels)

    def write_like(self, target: Path, bands: Iterator[Array]) -> None:
        """Write a copy of the file with other values in this dataset; atomic."""
        import h5py

        self.check_target(target)
        with writing(target) as part:
            shutil.copyfile(self.path, part)
            with _as_os_error(), h5py.File(part, "r+") as file:
                pour(bands, file[self.inner], self._grid, target.parent)
            self._reader = None

    def _open(self) -> Any:
        """The dataset; the file is closed when nobody holds it any more."""
        import h5py

        file = h5py.File(self.path, "r", locking="best-effort")
        self.inner = self._follow(file, self.inner) if self.inner else self._only(file)
        return file[self.inner]

    def _follow(self, file: Any, name: str) -> str:
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
            elif isinstance(link, h5py.SoftLink) and links < _LINKS:
                links += 1
                here = "/" if link.path.startswith("/") else here
                todo = [*link.path.split("/"), *todo]
            elif link is None:
                raise self._refusal(
                    f"has no dataset {name!r}; {_offer(self.path, _pictures(file), name)}"
                )
            else:
                raise self._refusal(
                    f"{name!r} is a link to another file or to itself; give the file that holds the data"
                )
        if isinstance(file[here], h5py.Group):
            raise self._refusal(f"{name!r} is a group; {_offer(self.path, _pictures(file))}")
        return here

    def _only(self, file: Any) -> str:
        names = _pictures(file)
        if len(names) != 1:
            raise self._refusal(f"does not say which dataset is meant; {_offer(self.path, names)}")
        return "/" + names[0]

    def _check_stored(self, dataset: Any) -> None:
        """Before anything is read: values that lie elsewhere, or that this computer cannot decode."""
        import h5py

        where = f"{self.inner!r} is"
        if _is_enum(dataset.dtype):
            raise self._refusal(
                f"{where} an enumeration: its values are names; convert it to uint8"
            )
        if dataset.is_virtual:  # asking for its shape would already open other files
            raise self._refusal(
                f"{where} a virtual dataset, a view of others; give those, or repack it"
            )
        if dataset.external:
            raise self._refusal(f"{where} stored in other files; repack it: h5repack")
        plist = dataset.id.get_create_plist()
        for number in range(plist.get_nfilters()):
            code, _, _, name = plist.get_filter(number)
            if not h5py.h5z.filter_avail(code):
                with contextlib.suppress(ImportError):
                    importlib.import_module("hdf5plugin")
            if not h5py.h5z.filter_avail(code):
                raise self._refusal(
                    f"{where} compressed by filter {code} ({name.decode(errors='replace')}), which is not "
                    "installed: pip install hdf5plugin, or h5repack -f GZIP=4"
                )
            if not h5py.h5z.get_filter_info(code) & h5py.h5z.FILTER_CONFIG_ENCODE_ENABLED:
                raise self._refusal(
                    f"{where} compressed by filter {code}, which can only be read here; h5repack -f GZIP=4"
                )

    def _refusal(self, why: str) -> UserError:
        return UserError(f"{self.path}: {why}")


class ZarrImage(_ArrayImage):
    """An array in a Zarr store, version 2 or 3: ``store.zarr``, ``store.zarr/array``, ``store.zarr:/array``.

    Of an OME-Zarr picture the full resolution is taken. The written store has that scale alone: the smaller
    ones would show the noise that was removed.
    """

    suffixes = (".zarr",)
    kind = "Zarr"

    def __init__(
        self, path: str | Path, *, axes: str | None = None, max_pixels: int | None = MAX_PIXELS
    ) -> None:
        outer, inner = split(path)
        with reading(path, self.kind):
            self.path, self.inner = _store(outer, inner)
            self._node = self._choose()
            _check_header(self._node)
            array = self._open()
            self._scales = _scales(self.path, self.inner)
            found = self._node.axes() or (self._scales.axes if self._scales else None)
            self.layout = _layout(f"{self._node.folder}", array.shape, array.dtype, axes, found)
            order = tuple(range(array.ndim))
            self._grid = Grid(self.layout, array.chunks, order)
            self._written = Grid(self.layout, array.shards or array.chunks, order)
            _check_size(self.path, self._written, _measure(self._node.folder), max_pixels)

    def write_like(self, target: Path, bands: Iterator[Array]) -> None:
        """Write a copy of the store with other values in this array; atomic."""
        self.check_target(target)
        if self.path.resolve() in target.resolve().parents:
            raise UserError(
                f"{target}: lies inside the store that it is made from; write it beside it"
            )
        with writing(target, folder=True) as part:
            _measure(self.path)
            shutil.copytree(self.path, part, ignore=self._left_out, dirs_exist_ok=True)
            if self._scales and self._scales.others:
                self._scales.keep(self.path, part)
            pour(bands, self._array(part, "r+"), self._written, target.parent)
            self._reader = None

    def _open(self) -> Any:
        return self._array(self.path, "r")

    def _array(self, root: Path, mode: Any) -> Any:
        import zarr
        from zarr.storage import LocalStore

        store = LocalStore(root, read_only=mode == "r")
        return zarr.open_array(store, path=self.inner, mode=mode, zarr_format=self._node.version)

    def _left_out(self, folder: str, names: list[str]) -> Iterable[str]:
        """What the copy does without: the array's old chunks, and the smaller scales."""
        here = Path(folder)
        if here == self._node.folder:
            return [name for name in names if name not in _HEADERS]
        others = self._scales.others if self._scales else ()
        return [name for name in names if here / name in others]

    def _choose(self) -> _Node:
        """The array's own metadata; where a group is named, ``inner`` is completed by its only picture."""
        node = _node(_inside(self.path, self.inner))
        if node is not None and node.is_array:
            return node
        names = (_first_scale(node) or _zarr_arrays(node.folder)) if node else []
        if len(names) == 1:
            self.inner = posixpath.join(self.inner, _plain(names[0]))
            node = _node(_inside(self.path, self.inner))
        if node is None or not node.is_array:
            known = _zarr_arrays(self.path)
            raise UserError(
                f"{self.path}: {self.inner!r} is not an array in a Zarr store; "
                f"{_offer(self.path, known, self.inner)}"
            )
        return node


@dataclass(frozen=True)
class _Node:
    """The metadata of a Zarr array or group, as they lie on disk."""

    folder: Path
    version: int
    header: dict[str, Any]
    attributes: dict[str, Any]
    is_array: bool

    def axes(self) -> str | None:
        """The letters of the dimensions, if all of them have known names."""
        key = "_ARRAY_DIMENSIONS"  # how xarray names dimensions in version 2
        return _letters(self.header.get("dimension_names") or self.attributes.get(key))

    def pictures(self) -> list[dict[str, Any]]:
        """The OME-Zarr pictures of a group, each a list of scales."""
        attributes = self.attributes.get("ome", self.attributes)
        found = attributes.get("multiscales", []) if isinstance(attributes, dict) else []
        return [picture for picture in found if isinstance(picture, dict)]


@dataclass(frozen=True)
class _Scales:
    """The OME-Zarr picture that an array is one scale of: its group, and its other scales."""

    groups: tuple[Path, ...]
    axes: str | None
    kept: str
    others: frozenset[Path]

    def keep(self, source: Path, target: Path) -> None:
        """In the copy of a store: name the kept scale alone. Consolidated metadata would contradict it."""
        for group in self.groups:
            copy = target / group.relative_to(source)
            (copy / ".zmetadata").unlink(missing_ok=True)
            for file in (copy / "zarr.json", copy / ".zattrs"):
                if file.exists():
                    header = _json(file)
                    header.pop("consolidated_metadata", None)
                    if group == self.groups[-1]:
                        self._shorten(header)
                    file.write_text(json.dumps(header, indent=2), encoding="utf-8")

    def _shorten(self, header: dict[str, Any]) -> None:
        attributes = header.get("attributes", header)
        for picture in attributes.get("ome", attributes).get("multiscales", ()):
            scales = picture["datasets"]
            if any(scale["path"] == self.kept for scale in scales):
                picture["datasets"] = [scale for scale in scales if scale["path"] == self.kept]


def _layout(
    where: str,
    shape: tuple[int, ...] | None,
    dtype: np.dtype[Any],
    given: str | None,
    found: str | None,
) -> Layout:
    """``given`` are the letters of the caller, ``found`` those of the file; neither: only Y, X is plain."""
    if dtype.kind not in "uif" or dtype.itemsize > 8:
        raise UserError(
            f"{where}: its values are of the type {dtype}; expected whole numbers or floats of up to 64 "
            "bits; convert it, e.g. to uint16 or float32"
        )
    if shape is None or len(shape) < 2:
        raise UserError(f"{where}: has the shape {shape}; a picture has two dimensions or more")
    if given is None and found is not None and len(found) == len(shape):
        letters = found
    elif given is None and len(shape) == 2:
        letters = "YX"
    else:
        letters = _given(where, shape, given)
    if 0 in shape:
        raise UserError(f"{where}: the picture is empty: its shape is {shape}")
    return Layout(tuple(map(int, shape)), letters, dtype.newbyteorder("="))


def _given(where: str, shape: tuple[int, ...], given: str | None) -> str:
    letters = (given or "").upper()
    plain = letters.isascii() and letters.isalpha() and len(set(letters)) == len(letters)
    if plain and len(letters) == len(shape) and {"Y", "X"} <= set(letters):
        return letters
    said = (
        "and does not say what its dimensions are; name them"
        if given is None
        else f"; --axes {given} does not fit it: expected {len(shape)} different letters, Y and X among them"
    )
    raise UserError(
        f"{where}: has the shape {shape} {said}, e.g. --axes {'QRTCZYX'[-len(shape) :]} "
        "(Y, X rows and columns, Z depth, T time, C channels, S samples of one colour)"
    )


def _letters(names: Any) -> str | None:
    """Letters for the names of dimensions, None unless every one is known and none comes twice."""
    if isinstance(names, bytes):
        names = names.decode(errors="replace")
    if isinstance(names, str):
        names = re.split("[:,]", names) if re.search("[:,]", names) else list(names)
    if not isinstance(names, (list, tuple, np.ndarray)):
        return None
    words = [
        name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in names
    ]
    letters = [_LETTERS.get(word.strip().lower(), "") for word in words]
    whole = all(letters) and len(set(letters)) == len(letters) and {"Y", "X"} <= set(letters)
    return "".join(letters) if whole else None


def _check_size(path: Path, grid: Grid, stored: int, max_pixels: int | None) -> None:
    """Refuse arrays, and chunks, that claim far more than ``stored`` bytes can hold."""
    layout = grid.layout
    if max_pixels is not None:
        max_pixels = max(max_pixels, stored * _EXPANSION // layout.dtype.itemsize)
    check_pixels(path, math.prod(layout.shape) // layout.channels, max_pixels)
    check_pixels(path, math.prod(grid.chunks), max_pixels)


def _offer(path: Path, names: list[str], wanted: str | None = None) -> str:
    """Say which arrays there are, and how to name one."""
    if not names:
        return "it holds no array that could be a picture (numbers, two dimensions or more)"
    more = f" and {len(names) - _MANY} more" if len(names) > _MANY else ""
    shown = names[:_MANY]
    hint = nearest(wanted, shown) if wanted else f"known: {', '.join(shown)}"
    return f"name one, e.g. {path.name}:/{names[0]} ({hint}{more})"


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    """h5py reports a disk that became full at the very end as a RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error)) from error


def _hdf5_axes(dataset: Any) -> str | None:
    """The letters that the dataset's attributes give its dimensions."""
    tags = _attribute(dataset, "axistags")  # written by ilastik and vigra, as JSON
    if tags is not None:
        return _letters([axis["key"] for axis in json.loads(tags)["axes"]])
    mode = _attribute(dataset, "INTERLACE_MODE")  # the HDF5 Image specification
    if mode is not None:
        word = mode if isinstance(mode, str) else bytes(mode).decode(errors="replace")
        return {"INTERLACE_PIXEL": "YXS", "INTERLACE_PLANE": "SYX"}.get(word)
    labels = ("DIMENSION_LABELS", "axes")
    return next(filter(None, (_letters(_attribute(dataset, name)) for name in labels)), None)


def _attribute(dataset: Any, name: str) -> Any:
    """A short attribute; a damaged one can claim to be endless."""
    if name not in dataset.attrs:
        return None
    handle = dataset.attrs.get_id(name)
    if math.prod(handle.shape) > _WORDS or handle.get_storage_size() > _ATTRIBUTE_BYTES:
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
    if dataset.dtype.kind == "f":
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


def _store(outer: Path, inner: str | None) -> tuple[Path, str]:
    """A Zarr store, which is the outermost group, and the path of a node in it."""
    outer.stat()
    if not outer.is_dir():
        raise UserError(f"{outer}: is a file; a Zarr store is a folder: unpack it")
    if inner is not None:
        return outer, _plain(inner)
    root = outer
    for parent in outer.parents:
        if parent == Path() or _node(parent) is None:
            break
        root = parent
    return root, outer.relative_to(root).as_posix().removeprefix(".")


def _plain(name: Any) -> str:
    """A path inside a store that does not lead out of it."""
    parts = str(name).strip("/").split("/")
    if any(part in ("..", ".") or "\\" in part or ":" in part for part in parts):
        raise UserError(f"{name!r} is not the name of an array inside a Zarr store")
    return "/".join(parts)


def _inside(root: Path, inner: str) -> Path:
    """The folder of a node; links on the way are refused."""
    folder = root
    for part in filter(None, inner.split("/")):
        folder = folder / part
        if folder.is_symlink():
            raise UserError(f"{folder}: is a link; name the store that it leads to")
    return folder


def _node(folder: Path) -> _Node | None:
    """The Zarr node in a folder, None where there is none."""
    if (folder / "zarr.json").exists():
        header = _json(folder / "zarr.json")
        attributes = header.get("attributes", {})
        return _Node(folder, 3, header, attributes, header.get("node_type") == "array")
    for name in (".zarray", ".zgroup"):
        if (folder / name).exists():
            extra = folder / ".zattrs"
            attributes = _json(extra) if extra.exists() else {}
            return _Node(folder, 2, _json(folder / name), attributes, name == ".zarray")
    return None


def _json(file: Path) -> dict[str, Any]:
    if file.is_symlink() or not file.is_file() or file.stat().st_size > _JSON_BYTES:
        raise UserError(f"{file}: is a link, no plain file, or too large for metadata")
    found = json.loads(file.read_bytes())
    if not isinstance(found, dict):
        raise ValueError(f"{file.name} is not a JSON object")
    return found


def _measure(folder: Path) -> int:
    """Bytes of the files in a folder. Links and devices are refused: they lead out of the store."""
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                total += _measure(Path(entry))
            elif entry.is_file(follow_symlinks=False):
                total += entry.stat(follow_symlinks=False).st_size
            else:
                raise UserError(
                    f"{entry.path}: is a link or a device, and a Zarr store is read only where it lies; "
                    "copy the store with the files that it links to: cp -rL"
                )
    return total


def _check_header(node: _Node) -> None:
    """Before Zarr sees it: sizes that are none, values that are no numbers, decoders that run code."""
    header = node.header
    if node.version == 3:
        kind, chunks = header["data_type"], header["chunk_grid"]["configuration"]["chunk_shape"]
        codecs = list(_codec_names(header["codecs"]))
    else:
        kind, chunks = header["dtype"], header["chunks"]
        steps = [header.get("compressor"), *(header.get("filters") or ())]
        codecs = [step["id"] for step in steps if step is not None]
    for sizes, least in ((header["shape"], 0), (chunks, 1)):
        if not all(type(size) is int and size >= least for size in sizes):
            raise ValueError(f"the sizes {sizes}")
    if len(chunks) != len(header["shape"]):
        raise ValueError(f"chunks {chunks} for the shape {header['shape']}")
    if not _is_number(kind):
        raise UserError(
            f"{node.folder}: its values are of the type {kind!r}; expected whole numbers or floats of up to "
            "64 bits; convert it, e.g. to uint16 or float32"
        )
    foreign = sorted({str(name) for name in codecs} - _CODECS)
    if foreign:
        raise UserError(
            f"{node.folder}: its chunks are coded by {', '.join(foreign)}, which is not on the list of known "
            "and harmless codecs; save it with blosc, zstd or gzip"
        )


def _is_number(kind: Any) -> bool:
    number = "[<>|][uif][1248]|u?int(8|16|32|64)|float(16|32|64)"
    return isinstance(kind, str) and re.fullmatch(number, kind) is not None


def _codec_names(codecs: list[Any]) -> Iterator[str]:
    """The names of all codecs of a version 3 array, those inside shards too."""
    for codec in codecs:
        if isinstance(codec, str):
            yield codec.removeprefix("numcodecs.")
            continue
        yield codec["name"].removeprefix("numcodecs.")
        inner = codec.get("configuration") or {}
        yield from _codec_names([*inner.get("codecs", ()), *inner.get("index_codecs", ())])


def _zarr_arrays(folder: Path, prefix: str = "") -> list[str]:
    """The names of all arrays in a group that could be a picture."""
    names = []
    for child in sorted(folder.iterdir()):
        node = None if child.is_symlink() or not child.is_dir() else _node(child)
        if node is None:
            continue
        if not node.is_array:
            names += _zarr_arrays(child, f"{prefix}{child.name}/")
        elif len(node.header.get("shape", ())) >= 2:
            names.append(prefix + child.name)
    return names


def _first_scale(node: _Node) -> list[str]:
    """The full resolution of a group that is one OME-Zarr picture."""
    pictures = node.pictures()
    return [pictures[0]["datasets"][0]["path"]] if len(pictures) == 1 else []


def _scales(root: Path, inner: str) -> _Scales | None:
    """The OME-Zarr picture in which an array is one of the scales."""
    parts = inner.split("/")
    groups = tuple(root.joinpath(*parts[:depth]) for depth in range(len(parts)))
    for depth, group in enumerate(groups):
        node = _node(group)
        for picture in node.pictures() if node else ():
            kept = "/".join(parts[depth:])
            paths = [_plain(scale["path"]) for scale in picture["datasets"]]
            if kept in paths:
                others = frozenset(group / path for path in paths if path != kept)
                return _Scales(groups[: depth + 1], _ome_axes(picture), kept, others)
    return None


def _ome_axes(picture: dict[str, Any]) -> str | None:
    if "axes" not in picture:  # before version 0.3 they were always these
        return "TCZYX" if picture.get("version") in ("0.1", "0.2") else None
    return _letters([axis["name"] if isinstance(axis, dict) else axis for axis in picture["axes"]])
