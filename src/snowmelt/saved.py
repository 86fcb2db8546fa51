"""What a run or an evaluation left in its folder, read with care: somebody may have edited it since.

The readers raise ValueError for everything that is not as it was written, so that each place needs one
``except`` and says itself what the file is.
"""

from __future__ import annotations

import io
import json
import math
import stat
import tomllib
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from snowmelt import limits

# All ways in which zipfile and numpy answer damage, but for ValueError itself.
# Of others (bzip2, LZMA) zipfile unpacks all before it gives one byte.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_FAILURES = (
    EOFError, KeyError, TypeError, NotImplementedError, RuntimeError, OverflowError, SyntaxError,
    MemoryError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read_text(path: Path) -> str:
    """A file as text; ValueError where it is no ordinary file, too long for what it should be, or no text."""
    _check_ordinary(path)
    size = path.stat().st_size
    if size > limits.SAVED_BYTES:
        raise ValueError(f"it has {size:,} bytes; expected at most {limits.SAVED_BYTES:,}")
    return path.read_text("utf-8")


def _check_ordinary(path: Path) -> None:
    """A pipe would be waited for without end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is not an ordinary file")


def from_json(text: str) -> Any:
    """JSON, with ValueError also where it is nested too deeply, or holds a number too large for any use."""
    try:
        return json.loads(text, parse_int=_whole)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _whole(text: str) -> int:
    number = int(text)
    if abs(number) > 2**63:
        raise ValueError("a whole number of more than 63 bits")
    return number


def from_toml(text: str) -> dict[str, Any]:
    """TOML, with ValueError also where it is nested too deeply."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def check_numbers(values: Iterable[Any]) -> None:
    """ValueError unless all are numbers or None; infinities and NaN are numbers."""
    for value in values:
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"{value!r} is no number")


def check_texts(values: Iterable[Any]) -> None:
    """ValueError unless all are texts."""
    for value in values:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is no text")


def read_arrays(path: Path) -> dict[str, Any]:
    """The arrays of a ``.npz`` file by name; nothing in it is executed, and a bomb is a ValueError."""
    arrays: dict[str, Any] = {}
    try:
        _check_ordinary(path)
        with zipfile.ZipFile(path) as file:
            entries = file.infolist()
            if any(each.compress_type not in _METHODS for each in entries):
                raise ValueError("an array is compressed in a way that NumPy does not use")
            claimed = sum(entry.file_size for entry in entries)
            size = path.stat().st_size
            if claimed > max(limits.SAVED_ARRAYS_BYTES, size * limits.EXPANSION):
                raise ValueError(f"its arrays claim {claimed:,} bytes, and it has {size:,}")
            for entry in entries:
                with file.open(entry) as stream:
                    # No longer than it claims, which zipfile itself does not promise.
                    data = stream.read(entry.file_size + 1)
                if len(data) > entry.file_size:
                    raise ValueError("an array is longer than it claims")
                arrays[entry.filename.removesuffix(".npy")] = _array(data)
    except _FAILURES as error:
        raise ValueError(str(error) or type(error).__name__) from error
    return arrays


def _array(data: bytes) -> Any:
    import numpy as np

    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    reader = np.lib.format.read_array_header_1_0
    shape, _, dtype = (reader if version == (1, 0) else np.lib.format.read_array_header_2_0)(stream)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise ValueError(f"an array of shape {shape} and type {dtype} in {len(data):,} bytes")
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)
