"""OpenEXR: new pixels of half or float; the header stays byte for byte but for the way of compression.

OpenEXR itself decodes, in a guarded child. What is written are lines compressed by ZIP, which loses nothing;
channels other than the colours (depth, masks, layers) stay as they are.

Source: Technical Introduction to OpenEXR and "OpenEXR File Layout".
"""

from __future__ import annotations

import importlib.util
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snowmelt import children
from snowmelt.errors import UserError
from snowmelt.images.base import MAX_PIXELS, Array, Layout
from snowmelt.images.codecs import BYTES_PER_VALUE, SECONDS_PER_VALUE, CodecImage
from snowmelt.images.raster import picture_layout
from snowmelt.limits import CHILD_BYTES, CHILD_SECONDS

_MAGIC = b"v/1\x01"
_TILED, _DEEP, _PARTS = 0x200, 0x800, 0x1000
_TYPES: dict[int, np.dtype[Any]] = {0: np.dtype("<u4"), 1: np.dtype("<f2"), 2: np.dtype("<f4")}
_ZIP, _LINES = 3, 16  # the number of that compression, and how many lines it takes at once
_ONLY_TILED = (b"tiles", b"chunkCount", b"preview")

Attributes = list[tuple[bytes, bytes, bytes]]
Channels = dict[str, tuple[np.dtype[Any], tuple[int, int]]]


class ExrImage(CodecImage):
    """OpenEXR of one part: RGB or Y, with or without A, half or float, in lines or tiles."""

    suffixes = (".exr",)
    signatures = ((0, _MAGIC),)
    kind = "OpenEXR"

    def __init__(
        self, path: str | Path, *, axes: str | None = None, max_pixels: int | None = MAX_PIXELS
    ) -> None:
        if importlib.util.find_spec("OpenEXR") is None:
            raise UserError(f'{path}: OpenEXR needs its package: pip install "snowmelt[exr]"')
        self._planes: dict[str, Array] = {}
        super().__init__(path, axes=axes, max_pixels=max_pixels)

    def _count_channels(self) -> int:
        return len(self._channels)

    def _header(self, data: bytes) -> Layout:
        (version,) = struct.unpack_from("<I", data, 4)
        if version & (_DEEP | _PARTS):
            raise UserError(
                f"{self.path}: an OpenEXR of several parts or of deep pixels; export one flat part"
            )
        self._version = version
        self._attributes = list(_attributes(data))
        found = {name: content for name, _, content in self._attributes}
        left, top, right, bottom = struct.unpack("<4i", found[b"dataWindow"])
        self._top = top
        self._channels = _channels(found[b"channels"])
        self._colours = self._find_colours()
        types = {self._channels[name][0] for name in self._colours}
        if len(types) != 1 or types == {_TYPES[0]}:
            raise UserError(
                f"{self.path}: its colours are of the types {_names(types)}; expected half or float"
            )
        if any(sampling != (1, 1) for _, sampling in self._channels.values()):
            raise UserError(
                f"{self.path}: its channels differ in size (luminance, chroma); export it as RGB"
            )
        others = [name for name in self._channels if name not in self._colours]
        if others:
            self.notes += (f"its channels {', '.join(others)} come back unchanged",)
        size = (bottom - top + 1, right - left + 1)
        alpha = self._colours[-1].rpartition(".")[2] == "A"
        dtype = types.pop().newbyteorder("=").name
        return picture_layout(*size, len(self._colours), dtype, alpha=alpha)

    def _find_colours(self) -> list[str]:
        """The names of R, G, B (or Y), then A; of the only layer, where the image itself has none."""
        layers = {name.rpartition(".")[0] for name in self._channels}
        for layer in ("", *sorted(layers)):
            for wanted in ("RGB", "Y"):
                names = [f"{layer}.{letter}".removeprefix(".") for letter in wanted]
                if set(names) <= set(self._channels) and (not layer or len(layers) == 1):
                    opacity = f"{layer}.A".removeprefix(".")
                    return names + [opacity] * (opacity in self._channels)
        if len(self._channels) == 1:
            return list(self._channels)
        raise UserError(
            f"{self.path}: which of its channels are the image is not clear: {', '.join(self._channels)}; "
            "export R, G, B or Y"
        )

    def _decode(self, data: bytes) -> Array:
        del data
        layout = self.layout
        values = layout.height * layout.width * len(self._channels)
        found, raw = children.call(
            decode,
            os.fspath(self.path.absolute()),
            memory=CHILD_BYTES + BYTES_PER_VALUE * values,
            seconds=CHILD_SECONDS + SECONDS_PER_VALUE * values,
        )
        start = 0
        for name, kind, shape in found:
            plane = np.frombuffer(raw, kind, int(np.prod(shape)), start).reshape(shape)
            start += plane.nbytes
            self._planes[name] = plane
        announced = {name: np.dtype(kind) for name, (kind, _) in self._channels.items()}
        if {name: plane.dtype for name, plane in self._planes.items()} != announced or any(
            plane.shape != (layout.height, layout.width) for plane in self._planes.values()
        ):
            raise ValueError("it has other channels than announced")
        return np.stack([self._planes[name] for name in self._colours], axis=-1)

    def _exchanged(self, data: bytes, levels: Array, pixels: Array) -> bytes:
        if levels.tobytes() == np.ascontiguousarray(pixels).tobytes():
            return data
        planes = {**self._planes, **{n: pixels[..., i] for i, n in enumerate(self._colours)}}
        # Line by line, in each the channels one behind the other, in the order of the header.
        rows = np.concatenate(
            [
                np.ascontiguousarray(planes[name], kind).view(np.uint8)
                for name, (kind, _) in self._channels.items()
            ],
            axis=1,
        )
        head = self._new_header()
        blocks = [_compressed(rows[at : at + _LINES]) for at in range(0, len(rows), _LINES)]
        chunks = [
            struct.pack("<iI", self._top + _LINES * number, len(block)) + block
            for number, block in enumerate(blocks)
        ]
        starts = np.cumsum([len(head) + 8 * len(chunks), *map(len, chunks[:-1])])
        return b"".join([head, starts.astype("<u8").tobytes(), *chunks])

    def _new_header(self) -> bytes:
        new = {b"compression": bytes([_ZIP]), b"lineOrder": b"\0", b"type": b"scanlineimage"}
        parts = [_MAGIC, struct.pack("<I", self._version & ~_TILED)]
        for name, kind, old in self._attributes:
            if name not in _ONLY_TILED:
                content = new.get(name, old)
                parts += [name, b"\0", kind, b"\0", struct.pack("<I", len(content)), content]
        return b"".join([*parts, b"\0"])


def _attributes(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    place = 8
    while True:
        words = []
        for _ in range(2):
            end = data.index(b"\0", place, place + 256)
            words.append(data[place:end])
            place = end + 1
            if not words[0]:
                return
        (size,) = struct.unpack_from("<I", data, place)
        content = data[place + 4 : place + 4 + size]
        if len(content) < size:
            raise ValueError("it is cut off")
        yield words[0], words[1], content
        place += 4 + size


def _channels(content: bytes) -> Channels:
    """Type and sampling of each channel, in the order of the file."""
    found: Channels = {}
    place = 0
    while content[place : place + 1] != b"\0":
        end = content.index(b"\0", place)
        kind, _, across, down = struct.unpack_from("<iIii", content, end + 1)
        found[content[place:end].decode("utf-8")] = (_TYPES[kind], (across, down))
        place = end + 17
    return found


def _names(types: set[np.dtype[Any]]) -> str:
    return ", ".join(sorted(kind.name for kind in types))


def _compressed(rows: NDArray[np.uint8]) -> bytes:
    """Lines by ZIP: even bytes before odd ones, differences, deflate; plain where that is no longer."""
    raw = rows.reshape(-1)
    parted = np.concatenate([raw[::2], raw[1::2]])
    differences = parted.copy()
    differences[1:] = parted[1:] - parted[:-1] + np.uint8(128)
    packed = zlib.compress(differences.tobytes(), 4)
    return packed if len(packed) < raw.size else raw.tobytes()


@children.served
def decode(path: str, payload: bytearray) -> tuple[Any, Any]:
    """Name, type and shape of each channel, and all their bytes; runs in the child."""
    import OpenEXR

    del payload
    with OpenEXR.File(path, separate_channels=True) as file:
        planes = {name: each.pixels for name, each in file.channels().items()}
    found = [(name, plane.dtype.str, plane.shape) for name, plane in planes.items()]
    return found, b"".join(np.ascontiguousarray(plane).tobytes() for plane in planes.values())
