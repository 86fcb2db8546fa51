"""Arrays in Zarr stores, version 2 and 3, and OME-Zarr: new values in a copy of the store.

A store is a stranger's: its metadata are checked before Zarr sees them, links out of it are refused, and of
codecs only those that decode numbers are let through.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import posixpath
import re
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from snowmelt.errors import UserError, printable
from snowmelt.images.arrays import ArrayImage, check_size, layout_of, letters_of, offer
from snowmelt.images.base import MAX_PIXELS, Array, check_bytes, reading, split, writing
from snowmelt.images.chunks import KNOWN, ChunkedArray, array_of
from snowmelt.images.slabs import Grid, pour
from snowmelt.limits import EXPANSION

_JSON_BYTES = 2**24
_HEADERS = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")

# What --max-pixels means for chunks that nobody has written, of which each is a look into the folder: 2**18.
_PIXELS_OF_A_CHUNK = 2**10
_NAMES = ("_FillValue", "missing_value")


class ZarrImage(ArrayImage):
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
            kind = array.coder.dtype
            self.layout = layout_of(f"{self._node.folder}", array.shape, kind, axes, found)
            self.nodata = _nodata(self._node, kind)
            order = tuple(range(len(array.shape)))
            self._grid = Grid(self.layout, array.chunks, order)
            self._written = Grid(self.layout, array.coder.shape, order)
            stored, files = _measure(self._node.folder)
            check_size(self.path, self._written, stored, max_pixels)
            if max_pixels is not None:
                _check_chunks(self.path, array, stored, files, max_pixels)

    def write_like(self, target: Path, bands: Iterator[Array]) -> None:
        """Write a copy of the store with other values in this array; atomic."""
        self.check_target(target)
        if self.path.resolve() in target.resolve().parents:
            raise UserError(
                f"{target}: lies inside the store that it is made from; write it beside it"
            )
        with writing(target, folder=True) as part:
            _measure(self.path)
            _copy(self.path, part, self._left_out)
            if self._scales and self._scales.others:
                self._scales.keep(self.path, part)
            folder = part / self._node.folder.relative_to(self.path)
            array = array_of(folder, self._node.version, self._node.header)
            pour(bands, array, self._written, target.parent)
            self._reader = None

    def _open(self) -> ChunkedArray:
        return array_of(self._node.folder, self._node.version, self._node.header)

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
            self.inner = posixpath.join(self.inner, _plain(self.path, names[0]))
            node = _node(_inside(self.path, self.inner))
        if node is None or not node.is_array:
            known = _zarr_arrays(self.path)
            raise UserError(
                f"{self.path}: {self.inner!r} is not an array in a Zarr store; "
                f"{offer(self.path, known)}"
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
        return letters_of(self.header.get("dimension_names") or self.attributes.get(key))

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


def _store(outer: Path, inner: str | None) -> tuple[Path, str]:
    """A Zarr store, which is the outermost group, and the path of a node in it."""
    outer.stat()
    if not outer.is_dir():
        raise UserError(f"{outer}: is a file; a Zarr store is a folder: unpack it")
    if inner is not None:
        return outer, _plain(outer, inner)
    root = outer
    for parent in outer.parents:
        if parent == Path() or _node(parent) is None:
            break
        root = parent
    return root, outer.relative_to(root).as_posix().removeprefix(".")


def _plain(store: Path, name: Any) -> str:
    """A path inside a store that does not lead out of it."""
    parts = str(name).strip("/").split("/")
    if any(part in ("..", ".") or "\\" in part or ":" in part for part in parts):
        raise UserError(f"{store}: {name!r} is not the name of an array inside the store")
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


def _measure(folder: Path) -> tuple[int, int]:
    """Bytes and number of the files in a folder. Links and devices, which lead out of it, are refused."""
    total = count = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                size, number = _measure(Path(entry))
            elif entry.is_file(follow_symlinks=False):
                size, number = entry.stat(follow_symlinks=False).st_size, 1
            else:
                raise UserError(
                    f"{entry.path}: is a link or a device, and a Zarr store is read only where it lies; "
                    "copy the store with the files that it links to: cp -rL"
                )
            total, count = total + size, count + number
    return total, count


def _copy(source: Path, target: Path, left_out: Callable[[str, list[str]], Iterable[str]]) -> None:
    """Copy a folder's files, not its modes: in the copy of a read-only store nothing could be written."""
    names = sorted(each.name for each in source.iterdir())
    for name in sorted({*names} - {*left_out(str(source), names)}):
        if (source / name).is_dir():
            (target / name).mkdir()
            _copy(source / name, target / name, left_out)
        else:
            shutil.copyfile(source / name, target / name)


def _check_chunks(
    path: Path, array: ChunkedArray, stored: int, files: int, max_pixels: int
) -> None:
    """Refuse an array of chunks too many, or too large, for what its folder holds."""
    pairs = list(zip(array.shape, array.coder.shape, strict=True))
    chunks = math.prod(-(-size // step) for size, step in pairs)
    if chunks > max(max_pixels // _PIXELS_OF_A_CHUNK, EXPANSION * files):
        raise UserError(
            f"{path}: claims {chunks:,} chunks, of which at most {files:,} are there; if you trust it: "
            f"--max-pixels {chunks * _PIXELS_OF_A_CHUNK}"
        )
    check_bytes(path, array.coder.size, stored, max_pixels)


def _nodata(node: _Node, dtype: np.dtype[Any]) -> float | None:
    """The value that stands for none: by the CF conventions, or that of chunks that nobody has written.

    xarray takes the latter for it. Zarr itself writes 0 unasked, so that one says nothing.
    """
    for found in (node.attributes.get(name) for name in _NAMES):
        if isinstance(found, list) and len(found) == 1:
            found = found[0]
        if isinstance(found, str) and dtype.kind == "f":  # xarray in version 3: base64 of a double
            with contextlib.suppress(ValueError, struct.error):
                (found,) = struct.unpack("<d", base64.b64decode(found, validate=True))
        if isinstance(found, (int, float)) and not isinstance(found, bool):
            return float(found)
    fill = float(array_of(node.folder, node.version, node.header).coder.fill)
    return fill if fill else None


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
    foreign = sorted({str(name) for name in codecs} - KNOWN)
    if foreign:
        raise UserError(
            f"{node.folder}: its chunks are coded by {printable(', '.join(foreign))}, which is not on the "
            "list of known and harmless codecs; save it with blosc, zstd or gzip"
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
            paths = [_plain(root, scale["path"]) for scale in picture["datasets"]]
            if kept in paths:
                others = frozenset(group / path for path in paths if path != kept)
                return _Scales(groups[: depth + 1], _ome_axes(picture), kept, others)
    return None


def _ome_axes(picture: dict[str, Any]) -> str | None:
    if "axes" not in picture:  # before version 0.3 they were always these
        return "TCZYX" if picture.get("version") in ("0.1", "0.2") else None
    return letters_of(
        [axis["name"] if isinstance(axis, dict) else axis for axis in picture["axes"]]
    )
