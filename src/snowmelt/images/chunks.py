"""Chunks of Zarr arrays, version 2 and 3: bytes to values and back, never more of them than a chunk holds.

A store is a stranger's. A codec that unpacks is therefore bounded before it begins, or stopped when it gives
more than the chunk has; data that end early, and buffers that claim more than there is, are errors. Blosc
would go on reading behind the buffer's end.

Sources: the Zarr specifications v2 and v3 with their codecs (zarr-specs.readthedocs.io); Blosc's header
(README_CHUNK_FORMAT.rst of c-blosc); the codecs of numcodecs.
"""

from __future__ import annotations

import functools
import itertools
import json
import lzma
import math
import os
import re
import struct
import zlib
from bz2 import BZ2Decompressor
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from snowmelt.images.base import Array
from snowmelt.images.slabs import Box

# Codecs of numbers, and of the bytes that they make. Others run code of the file's choice (pickle), or make
# no numbers.
_FILTERS = frozenset(("delta", "fixedscaleoffset", "quantize", "bitround", "astype"))
_PACKERS = frozenset(("blosc", "zlib", "gzip", "bz2", "lzma", "lz4", "zstd"))
_SUMS = frozenset(("crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3"))
# Settings of filters that name number types, and the types that there may be: none of up to any width.
_TYPED = ("dtype", "astype", "encode_dtype", "decode_dtype")
_NUMBER = re.compile("[<>|=]?(?:[ui][1248]|f[248])|u?int(?:8|16|32|64)|float(?:16|32|64)")
KNOWN = _FILTERS | _PACKERS | _SUMS | {"shuffle", "bytes", "transpose", "sharding_indexed"}

# Room for what codecs add to values that cannot be packed, and for values that a filter made wider.
_MARGIN = 2**16
_WIDER = 8
_LZMA_BYTES = 2**28
_MISSING = 2**64 - 1
_THREADS = 8
_BLOSC_HEADER = struct.Struct("<BBBBIII")
_BLOSC_COPIED = 2
_BLOSC_SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}


@dataclass(frozen=True)
class Coder:
    """What turns the values of one chunk into bytes: a row of codecs, or a shard of smaller chunks.

    ``turn`` is the order in which the axes are stored, ``stored`` the number type in front of ``steps``.
    These are the settings of codecs from the values to the file, as numcodecs names them.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: Any
    turn: tuple[int, ...]
    stored: np.dtype[Any]
    steps: tuple[dict[str, Any], ...]
    shard: Shard | None = None

    def __post_init__(self) -> None:
        for step in self.steps:
            _check_types(step)

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize

    @functools.cached_property
    def bound(self) -> int:
        """Bytes that no step may exceed."""
        wider = any(step["id"] in _FILTERS for step in self.steps)
        return self.size * (_WIDER if wider else 1) + _MARGIN

    def decode(self, data: bytes) -> Array:
        """The values of a chunk, of the chunk's shape; ValueError where they are not all there."""
        assert self.shard is None
        buffer: Any = data
        for step in reversed(self.steps):
            buffer = _decoded(step, buffer, self.bound)
        found = _as_bytes(buffer)
        if found.size != self.size:
            raise ValueError(
                f"it unpacks to {found.size:,} bytes where {self.size:,} were announced"
            )
        turned = found.view(self.stored).reshape([self.shape[axis] for axis in self.turn])
        return turned.transpose(np.argsort(self.turn)).astype(self.dtype, copy=False)

    def check_packed(self, size: int) -> None:
        """Refuse to read far more bytes than the values can need."""
        if self.shard is None and size > 2 * self.bound:
            raise ValueError(f"its {size:,} bytes are far more than its values need")

    def encode(self, values: Array) -> bytes:
        """The bytes of a chunk."""
        if self.shard is not None:
            return self.shard.encode(values)
        turned = values.transpose(self.turn)
        buffer: Any = np.ascontiguousarray(turned, self.stored).reshape(-1)
        for step in self.steps:
            buffer = _encoded(step, buffer)
        return _as_bytes(buffer).tobytes()

    def empty(self) -> Array:
        """A chunk that nobody has written."""
        return np.full(self.shape, self.fill, self.dtype)

    def is_empty(self, values: Array) -> bool:
        """Whether the values are those of a chunk that nobody has written, bit for bit."""
        bits = np.ascontiguousarray(values).view(f"u{self.dtype.itemsize}")
        return bool((bits == np.full(1, self.fill, self.dtype).view(bits.dtype)).all())


@dataclass(frozen=True)
class Shard:
    """Smaller chunks in one file, with an index of where each lies."""

    inner: Coder
    checked: bool
    first: bool

    def decode(self, file: BinaryIO, box: Box, outer: Coder) -> Array:
        """The values of a box of a shard; of its chunks only those are read that are needed."""
        values = np.full([part.stop - part.start for part in box], outer.fill, outer.dtype)
        length = file.seek(0, os.SEEK_END)
        index = self._index(file, outer.shape)
        _check_apart(index, length)
        for place in _places(box, self.inner.shape):
            start, size = index[place].tolist()
            if start == size == _MISSING:
                continue
            self.inner.check_packed(size)
            file.seek(start)
            inside, part = _shared(box, place, self.inner.shape)
            values[inside] = self.inner.decode(file.read(size))[part]
        return values

    def encode(self, values: Array) -> bytes:
        """The bytes of a shard; chunks without a value of their own are left out."""
        room = self._room(values.shape)
        place = room if self.first else 0
        parts, index = [], []
        for box in self._boxes(values.shape):
            part = values[box]
            if self.inner.is_empty(part):
                index.append((_MISSING, _MISSING))
                continue
            parts.append(self.inner.encode(part))
            index.append((place, len(parts[-1])))
            place += len(parts[-1])
        head = np.array(index, "<u8").tobytes()
        head += _crc32c(head) if self.checked else b""
        return b"".join([head, *parts] if self.first else [*parts, head])

    def _counts(self, shape: tuple[int, ...]) -> list[int]:
        return [size // step for size, step in zip(shape, self.inner.shape, strict=True)]

    def _room(self, shape: tuple[int, ...]) -> int:
        return 16 * math.prod(self._counts(shape)) + 4 * self.checked

    def _boxes(self, shape: tuple[int, ...]) -> Iterator[Box]:
        for place in np.ndindex(*self._counts(shape)):
            pairs = zip(place, self.inner.shape, strict=True)
            yield tuple(slice(at * step, (at + 1) * step) for at, step in pairs)

    def _index(self, file: BinaryIO, shape: tuple[int, ...]) -> NDArray[np.uint64]:
        """Where each chunk begins, and how long it is: (chunks along each axis ..., 2)."""
        room = self._room(shape)
        if file.seek(0, os.SEEK_END) < room:
            raise ValueError("it is cut off: its index is not all there")
        file.seek(0 if self.first else -room, os.SEEK_SET if self.first else os.SEEK_END)
        head = file.read(room)
        if self.checked and _crc32c(head[:-4]) != head[-4:]:
            raise ValueError("its index is damaged")
        entries = np.frombuffer(head[: room - 4 * self.checked], "<u8")
        return entries.reshape(*self._counts(shape), 2)


def _check_apart(index: NDArray[np.uint64], length: int) -> None:
    """Refuse parts that are cut off or overlap: a few bytes could stand for any number of them."""
    parts = index.reshape(-1, 2)
    parts = parts[(parts != _MISSING).any(1)]
    starts, sizes = parts.T
    cut = (starts > length) | (sizes > length - np.minimum(starts, length))
    if cut.any():
        start, size = parts[cut][0].tolist()
        raise ValueError(f"it is cut off: a part of {size:,} bytes begins at {start:,}")
    order = np.argsort(
        starts[sizes > 0], kind="stable"
    )  # most are in order already, and it is fast then
    starts, ends = starts[sizes > 0][order], (starts + sizes)[sizes > 0][order]
    if (starts[1:] < ends[:-1]).any():
        raise ValueError("its index is damaged: parts of it overlap")


def _places(box: Box, shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The chunks in which a box lies."""
    pairs = zip(box, shape, strict=True)
    return itertools.product(*(range(b.start // size, -(-b.stop // size)) for b, size in pairs))


def _shared(box: Box, place: tuple[int, ...], shape: tuple[int, ...]) -> tuple[Box, Box]:
    """What a box and a chunk have in common: its place in the box, and in the chunk."""
    inside, part = [], []
    for limits, at, size in zip(box, place, shape, strict=True):
        start, stop = max(limits.start, at * size), min(limits.stop, (at + 1) * size)
        inside.append(slice(start - limits.start, stop - limits.start))
        part.append(slice(start - at * size, stop - at * size))
    return tuple(inside), tuple(part)


def _check_types(step: dict[str, Any]) -> None:
    """Refuse a filter of other than numbers: texts and records have any width, whatever the chunk's size."""
    for key in _TYPED:
        found = step.get(key)
        if found is not None and not (isinstance(found, str) and _NUMBER.fullmatch(found)):
            raise ValueError(
                f"the {key} of its filter {step['id']} is {str(found)[:40]!r}; expected whole numbers or "
                "floats of up to 64 bits, such as <u2"
            )


def _as_bytes(buffer: Any) -> NDArray[np.uint8]:
    if isinstance(buffer, np.ndarray):
        return np.ascontiguousarray(buffer).reshape(-1).view(np.uint8)
    return np.frombuffer(buffer, np.uint8)


def _crc32c(data: bytes) -> bytes:
    import google_crc32c

    return struct.pack("<I", google_crc32c.value(bytes(data)))


@dataclass(frozen=True)
class ChunkedArray:
    """The values of a Zarr array in a folder: boxes to read, and boxes of whole files to write.

    ``coder`` is that of one file, which is a chunk or a shard; ``name`` gives the file of a chunk.
    """

    folder: Path
    shape: tuple[int, ...]
    coder: Coder
    name: Callable[[Sequence[int]], str]

    @property
    def chunks(self) -> tuple[int, ...]:
        """The least part that can be read: a chunk, in a shard or not."""
        return self.coder.shape if self.coder.shard is None else self.coder.shard.inner.shape

    def __getitem__(self, box: Box) -> Array:
        values = np.empty([part.stop - part.start for part in box], self.coder.dtype)

        def read(place: tuple[int, ...]) -> None:
            inside, part = _shared(box, place, self.coder.shape)
            values[inside] = self._read(place, part)

        self._each(read, box)
        return values

    def __setitem__(self, box: Box, values: Array) -> None:
        def write(place: tuple[int, ...]) -> None:
            inside, part = _shared(box, place, self.coder.shape)
            chunk = self.coder.empty()
            chunk[part] = values[inside]
            self._write(place, chunk)

        self._each(write, box)

    def _each(self, work: Callable[[tuple[int, ...]], None], box: Box) -> None:
        """Do something for each file of a box; after an error nothing goes on behind the caller's back."""
        places = list(_places(box, self.coder.shape))
        threads = min(len(places), os.cpu_count() or 1, _THREADS)
        if threads < 2:
            for place in places:
                work(place)
            return
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(work, places):
                pass

    def _read(self, place: tuple[int, ...], part: Box) -> Array:
        try:
            with (self.folder / self.name(place)).open("rb") as file:
                if self.coder.shard is not None:
                    return self.coder.shard.decode(file, part, self.coder)
                self.coder.check_packed(os.fstat(file.fileno()).st_size)
                return self.coder.decode(file.read())[part]
        except FileNotFoundError:
            return self.coder.empty()[part]
        except (OSError, MemoryError):
            raise
        except Exception as error:
            why = str(error) or type(error).__name__
            raise ValueError(f"chunk {self.name(place)}: {why}") from error

    def _write(self, place: tuple[int, ...], chunk: Array) -> None:
        if self.coder.is_empty(chunk):
            return
        path = self.folder / self.name(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.write_bytes(self.coder.encode(chunk))
        except (OSError, MemoryError):
            raise
        except Exception as error:
            raise OSError(f"chunk {self.name(place)}: {error or type(error).__name__}") from error


def array_of(folder: Path, version: int, header: dict[str, Any]) -> ChunkedArray:
    """The array that a header (``.zarray`` or ``zarr.json``) describes; ValueError where it cannot be."""
    shape = tuple(header["shape"])
    if header.get("zarr_format") != version:
        raise ValueError(f"metadata of Zarr version {header.get('zarr_format')!r}")
    if version == 3:
        return ChunkedArray(folder, shape, _coder_of_3(header), _names_of_3(header))
    separator = _separator(header.get("dimension_separator") or ".")
    return ChunkedArray(
        folder, shape, _coder_of_2(header), lambda place: separator.join(map(str, place)) or "0"
    )


def _coder_of_2(header: dict[str, Any]) -> Coder:
    if header["order"] not in ("C", "F"):
        raise ValueError(f"the order {header['order']!r}")
    shape, stored = tuple(header["chunks"]), np.dtype(header["dtype"])
    axes = range(len(shape))
    turn = tuple(axes if header["order"] == "C" else reversed(axes))
    steps = [*(header.get("filters") or ()), header.get("compressor")]
    fill = _fill(header.get("fill_value"), stored)
    dtype = stored.newbyteorder("=")
    return Coder(shape, dtype, fill, turn, stored, tuple(filter(None, steps)))


def _names_of_3(header: dict[str, Any]) -> Callable[[Sequence[int]], str]:
    if header.get("storage_transformers"):
        raise ValueError("it has storage transformers, which are not read")
    if header["chunk_grid"]["name"] != "regular":
        raise ValueError(f"its chunks are {header['chunk_grid']['name']!r}, not regular")
    named = header.get("chunk_key_encoding", {"name": "default"})
    kind = named if isinstance(named, str) else named["name"]
    settings = {} if isinstance(named, str) else named.get("configuration") or {}
    if kind not in ("default", "v2"):
        raise ValueError(f"its chunks are named in the way {kind!r}, which is not known")
    separator = _separator(settings.get("separator", "/" if kind == "default" else "."))
    start = ["c"] if kind == "default" else []
    return lambda place: separator.join([*start, *map(str, place)])


def _separator(found: Any) -> str:
    if found not in (".", "/"):
        raise ValueError(f"the separator {found!r} in the names of chunks")
    return str(found)


def _coder_of_3(header: dict[str, Any]) -> Coder:
    dtype = np.dtype(header["data_type"])
    shape = tuple(header["chunk_grid"]["configuration"]["chunk_shape"])
    return _chain(header["codecs"], shape, dtype, _fill(header["fill_value"], dtype))


def _chain(codecs: list[Any], shape: tuple[int, ...], dtype: np.dtype[Any], fill: Any) -> Coder:
    """The coder of a list of codecs of version 3, which may hold another such list."""
    turn = tuple(range(len(shape)))
    stored, shard = dtype, None
    steps: list[dict[str, Any]] = []
    for name, settings in map(_named, codecs):
        if name == "transpose":
            if steps:
                raise ValueError("axes that change places after another codec are not read")
            turn = tuple(turn[axis] for axis in _order(settings["order"], len(shape)))
        elif name == "bytes":
            stored = stored.newbyteorder(">" if settings.get("endian") == "big" else "<")
        elif name == "sharding_indexed":
            shard = _shard(settings, shape, dtype, fill)
        else:
            steps.append({"id": name, **_plain_settings(name, settings, dtype)})
    if shard is not None and (steps or turn != tuple(range(len(shape)))):
        raise ValueError("shards together with other codecs are not read")
    swapped = turn != tuple(range(len(shape))) or stored.byteorder == ">"
    if swapped and any(step["id"] in _FILTERS for step in steps):
        raise ValueError(
            "axes or bytes that change places together with other filters are not read"
        )
    return Coder(shape, dtype, fill, turn, stored, tuple(steps), shard)


def _named(codec: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(codec, str):
        return codec.removeprefix("numcodecs."), {}
    return codec["name"].removeprefix("numcodecs."), codec.get("configuration") or {}


def _order(found: Any, count: int) -> tuple[int, ...]:
    """The order of axes of a transpose codec; letters are those of an early draft."""
    if found in ("C", "F"):
        return tuple(range(count) if found == "C" else reversed(range(count)))
    if sorted(found) != list(range(count)):
        raise ValueError(f"the order of axes {found}")
    return tuple(found)


def _shard(
    settings: dict[str, Any], shape: tuple[int, ...], dtype: np.dtype[Any], fill: Any
) -> Shard:
    small = tuple(settings["chunk_shape"])
    whole = len(small) == len(shape) and all(
        type(step) is int and step > 0 and size % step == 0
        for size, step in zip(shape, small, strict=False)
    )
    if not whole:
        raise ValueError(f"shards {shape} of chunks {small}")
    index = [_named(codec) for codec in settings["index_codecs"]]
    names = [name for name, _ in index]
    if names not in (["bytes"], ["bytes", "crc32c"]) or index[0][1].get("endian") == "big":
        raise ValueError(f"an index of shards coded by {names}, which is not read")
    place = settings.get("index_location", "end")
    if place not in ("start", "end"):
        raise ValueError(f"an index of shards at {place!r}")
    inner = _chain(settings["codecs"], small, dtype, fill)
    if inner.shard is not None:
        raise ValueError(
            "shards inside shards are not read; save it with chunks or with one layer of shards"
        )
    return Shard(inner, len(names) == 2, place == "start")


def _plain_settings(name: str, settings: dict[str, Any], dtype: np.dtype[Any]) -> dict[str, Any]:
    """Settings as numcodecs takes them; what version 3 leaves open follows from the number type."""
    found = {key: value for key, value in settings.items() if key != "typesize"}
    if name == "blosc":
        shuffle = found.get("shuffle", 1)
        found["shuffle"] = _BLOSC_SHUFFLES.get(shuffle, 1) if isinstance(shuffle, str) else shuffle
        found["cname"] = str(found.get("cname", "lz4"))
    if name in ("delta", "fixedscaleoffset", "quantize"):
        found.setdefault("dtype", dtype.str)
    if name == "astype":
        found.setdefault("decode_dtype", dtype.str)
    if name == "shuffle":
        found.setdefault("elementsize", dtype.itemsize)
    return found


def _fill(found: Any, dtype: np.dtype[Any]) -> Any:
    """The value of chunks that nobody has written."""
    if found is None:
        return dtype.type(0)
    if isinstance(found, str) and found.startswith("0x"):
        return np.frombuffer(bytes.fromhex(found[2:]), dtype.newbyteorder(">"))[0]
    if isinstance(found, str) and found not in ("NaN", "Infinity", "-Infinity"):
        raise ValueError(f"the fill value {found!r}")
    number = float(found) if isinstance(found, str) or dtype.kind == "f" else int(found)
    if dtype.kind != "f" and number != found:
        raise ValueError(f"the fill value {found!r} for {dtype}")
    return np.array(number, dtype)[()]


def _numcodec(step: dict[str, Any]) -> Any:
    return _numcodec_of(json.dumps(step, sort_keys=True))


@functools.lru_cache(maxsize=64)
def _numcodec_of(step: str) -> Any:
    import numcodecs

    settings = json.loads(step)
    assert settings["id"] in KNOWN
    return numcodecs.get_codec(settings)


def _encoded(step: dict[str, Any], buffer: Any) -> Any:
    if step["id"] == "crc32c":
        data = _as_bytes(buffer).tobytes()
        found = _crc32c(data)
        return found + data if step.get("location") == "start" else data + found
    return _numcodec(step).encode(buffer)


def _decoded(step: dict[str, Any], buffer: Any, most: int) -> Any:
    """One step back; ValueError where the data end early or give more than ``most`` bytes."""
    name = step["id"]
    if name in _UNPACK or name == "crc32c":
        data = buffer if isinstance(buffer, bytes) else _as_bytes(buffer).tobytes()
        return _unsummed(step, data) if name == "crc32c" else _UNPACK[name](step, data, most)
    return _numcodec(step).decode(buffer)


def _unsummed(step: dict[str, Any], data: bytes) -> bytes:
    start = step.get("location") == "start"
    found, body = (data[:4], data[4:]) if start else (data[-4:], data[:-4])
    if _crc32c(body) != found:
        raise ValueError("its checksum says that it is damaged")
    return body


def _too_much(most: int) -> ValueError:
    return ValueError(f"it unpacks to more than the {most:,} bytes that a chunk may have")


def _inflated(step: dict[str, Any], data: bytes, most: int) -> bytes:
    make = functools.partial(zlib.decompressobj, 31 if step["id"] == "gzip" else 15)
    return _streamed(make, data, most)


def _unpacked_bz2(_: dict[str, Any], data: bytes, most: int) -> bytes:
    return _streamed(BZ2Decompressor, data, most)


def _unpacked_lzma(step: dict[str, Any], data: bytes, most: int) -> bytes:
    kind, filters = step.get("format", lzma.FORMAT_XZ), step.get("filters")
    if any(each.get("dict_size", 0) > _LZMA_BYTES for each in filters or ()):
        raise ValueError(f"LZMA with a dictionary of more than {_LZMA_BYTES:,} bytes")
    if kind == lzma.FORMAT_RAW:
        make = functools.partial(lzma.LZMADecompressor, format=kind, filters=filters)
    else:
        make = functools.partial(lzma.LZMADecompressor, format=kind, memlimit=_LZMA_BYTES)
    return _streamed(make, data, most)


def _streamed(make: Callable[[], Any], data: bytes, most: int) -> bytes:
    """All of one packed stream, or of several on end; zeros behind the last one are padding."""
    out = b""
    while True:
        stream = make()
        part = stream.decompress(data, most + 1 - len(out))
        out = out + part if out else part
        if len(out) > most:
            raise _too_much(most)
        if not stream.eof:
            raise ValueError("it is cut off")
        data = stream.unused_data.lstrip(b"\0")
        if not data:
            return out


def _unpacked_blosc(step: dict[str, Any], data: bytes, most: int) -> Any:
    if len(data) < _BLOSC_HEADER.size:
        raise ValueError("it is cut off")
    _, _, flags, _, size, _, packed = _BLOSC_HEADER.unpack_from(data)
    if packed != len(data):
        raise ValueError(f"it holds {len(data):,} bytes where its header says {packed:,}")
    if size > most:
        raise _too_much(most)
    if flags & _BLOSC_COPIED and packed != size + _BLOSC_HEADER.size:
        raise ValueError("its header contradicts itself")
    return _numcodec(step).decode(data)


def _unpacked_lz4(step: dict[str, Any], data: bytes, most: int) -> Any:
    if len(data) < 4:
        raise ValueError("it is cut off")
    if int.from_bytes(data[:4], "little") > most:
        raise _too_much(most)
    return _numcodec(step).decode(data)


def _unpacked_zstd(_: dict[str, Any], data: bytes, most: int) -> Any:
    import imagecodecs

    return imagecodecs.zstd_decode(data, out=most)


_UNPACK: dict[str, Callable[[dict[str, Any], bytes, int], Any]] = {
    "zlib": _inflated,
    "gzip": _inflated,
    "bz2": _unpacked_bz2,
    "lzma": _unpacked_lzma,
    "blosc": _unpacked_blosc,
    "lz4": _unpacked_lz4,
    "zstd": _unpacked_zstd,
}
