"""Training data: noisy/clean pairs from one HDF5 file in the tutorial's layout.

The file may lie here, or at a URL from which it is fetched once into a cache.
"""

from __future__ import annotations

import functools
import hashlib
import http.client
import math
import queue
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from snowmelt import children, hdf5file, limits
from snowmelt.errors import UserError, printable

NAMES = ("train_ns", "train_gt", "test_ns", "test_gt")
LAYOUT = (
    "expected one HDF5 file with the arrays train_ns, train_gt (noisy and clean, number x height x "
    "width) and test_ns, test_gt"
)
BLOCK = 2**24  # bytes that are read at once, unless one chunk has more
# Where a signature may stand, and how much of a file is looked at for it.
_PLACES = (0, *(2**power for power in range(9, 16)))
_HEAD_BYTES = _PLACES[-1] + len(hdf5file.SIGNATURE)


@dataclass(frozen=True)
class Pairs:
    """Noisy and clean pictures, each (N, H, W) float32; clean within [0, 1]."""

    noisy: NDArray[np.float32]
    clean: NDArray[np.float32]


@dataclass(frozen=True)
class Dataset:
    """Pairs to train on and held-out pairs to test on, with the file's name and SHA-256.

    ``dtypes`` are the number types of the four arrays as they are stored.
    """

    train: Pairs
    test: Pairs
    name: str
    sha256: str
    dtypes: Mapping[str, np.dtype[Any]] = field(default_factory=dict)


def read_dataset(path: Path) -> Dataset:
    """Read the four arrays: uint8 and uint16 are divided by their span, floats are taken as they are.

    A child process reads the file (see `hdf5file`), so that a damaged one cannot end this process, take all
    memory or bring in what lies in other files.

    Raises:
        UserError: Not HDF5, truncated, or an array is missing, empty, not a number or mismatched, lies in
            another file, or claims more than the file or the memory can hold.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; {LAYOUT}")
    try:
        found = _describe(path)
        arrays = {name: _read_array(path, name, found[name]) for name in NAMES}
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not a readable HDF5 file ({error}); {LAYOUT}") from error
    for part in ("train", "test"):
        _check_pair(path, part, arrays[f"{part}_ns"], arrays[f"{part}_gt"])
    with path.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    return Dataset(
        train=Pairs(arrays["train_ns"], arrays["train_gt"]),
        test=Pairs(arrays["test_ns"], arrays["test_gt"]),
        name=path.name,
        sha256=sha256,
        dtypes={name: np.dtype(found[name]["dtype"]) for name in NAMES},
    )


def check_different(dataset: Dataset) -> None:
    """Refuse to train on pairs of which more than half are the same image twice.

    Raises:
        UserError: Noisy and clean are equal in so many of the training pairs.
    """
    train = dataset.train
    pairs = zip(train.noisy, train.clean, strict=True)
    equal = sum(np.array_equal(noisy, clean) for noisy, clean in pairs)
    if 2 * equal > len(train.noisy):
        raise UserError(
            f"{dataset.name}: in {equal} of {len(train.noisy)} training pairs the noisy image is the clean "
            "one, value by value, so there is no noise to learn from; give noisy images as train_ns, or "
            'clean ones to which noise is added: --clean FOLDER --noise "gaussian:25"'
        )


def _describe(path: Path) -> dict[str, dict[str, Any]]:
    """Shape, number type and chunks of the four arrays, after a look at whether all that can be true."""
    try:
        found, _ = children.call(_describe_arrays, str(path.resolve()))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    for name in NAMES:
        _check_array(path, name, found[name])
    numbers = sum(math.prod(found[name]["shape"]) for name in NAMES)
    needed, available = 4 * numbers, limits.available_memory()
    if available is not None and needed > available:
        raise UserError(
            f"{path}: its {numbers:,} values need {needed / 2**30:.1f} GiB of memory, and "
            f"{available / 2**30:.1f} GiB are available; train on fewer or smaller images, or on files and "
            "folders (--noisy, --clean), which need not fit in memory"
        )
    return found


@children.served
def _describe_arrays(path: str, _: Any) -> tuple[dict[str, Any], bytes]:
    """What the four arrays claim to be, in the child."""
    import h5py

    found: dict[str, Any] = {}
    with hdf5file.opened(path) as file:
        for name in NAMES:
            try:
                _, item = hdf5file.find(file, name)
            except KeyError:
                others = ", ".join(hdf5file.names(file)) or "nothing"
                raise UserError(f"no array {name!r}; found {others}; {LAYOUT}") from None
            if not isinstance(item, h5py.Dataset):
                found[name] = {"kind": type(item).__name__}
                continue
            hdf5file.check(item, name)
            found[name] = {
                "kind": "Dataset",
                "shape": item.shape,
                "dtype": item.dtype.str,
                "chunks": item.chunks,
            }
        claimed = sum(
            math.prod(each["shape"]) * np.dtype(each["dtype"]).itemsize
            for each in found.values()
            if each.get("shape")
        )
        hdf5file.check_claim(claimed, Path(path).stat().st_size, limits.DATA_BYTES)
    return found, b""


def _check_array(path: Path, name: str, found: dict[str, Any]) -> None:
    shape = tuple(found.get("shape") or ())
    if len(shape) != 3 or 0 in shape:
        said = f"shape {shape}" if found["kind"] == "Dataset" else found["kind"]
        raise UserError(
            f"{path}: {name} has {said}; expected (number, height, width), none of them zero"
        )
    dtype = np.dtype(found["dtype"])
    if dtype.newbyteorder("=") not in (np.uint8, np.uint16, np.float32, np.float64):
        raise UserError(f"{path}: {name} holds {dtype}; expected uint8, uint16, float32 or float64")


def _read_array(path: Path, name: str, found: dict[str, Any]) -> NDArray[np.float32]:
    shape, dtype = tuple(found["shape"]), np.dtype(found["dtype"])
    chunks = found["chunks"] or (1, *shape[1:])
    size = math.prod(shape[1:]) * dtype.itemsize
    step = min(shape[0], chunks[0] * max(1, BLOCK // (size * chunks[0])))  # every chunk once
    largest = max(step * size, math.prod(chunks) * dtype.itemsize)
    array = np.empty(shape, np.float32)
    for start in range(0, shape[0], step):
        stop = min(start + step, shape[0])
        _, data = children.call(
            _read_images,
            str(path.resolve()),
            name,
            start,
            stop,
            memory=limits.CHILD_BYTES + 4 * largest,
            seconds=limits.CHILD_SECONDS + largest / limits.CHILD_BYTES_PER_SECOND,
        )
        _put(array[start:stop], np.frombuffer(data, dtype).reshape(-1, *shape[1:]))
    if not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))
        raise UserError(
            f"{path}: {name} has {len(bad)} NaN or infinite values, the first in picture {bad[0][0]} at "
            f"row {bad[0][1]}, column {bad[0][2]}; replace them or leave those pictures out"
        )
    return array


def _put(target: NDArray[np.float32], stored: NDArray[Any]) -> None:
    """Stored values as float32, unsigned ones divided by their span."""
    if stored.dtype.kind == "u":
        np.divide(stored, np.float32(np.iinfo(stored.dtype).max), out=target, dtype=np.float32)
    else:
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused
            target[:] = stored


@children.served
def _read_images(path: str, name: str, start: int, stop: int, _: Any) -> tuple[None, NDArray[Any]]:
    """Some images of an array, in the child."""
    with hdf5file.opened(path) as file:
        _, dataset = hdf5file.find(file, name)
        hdf5file.check_inside(dataset, name)
        return None, np.ascontiguousarray(dataset[start:stop])


def _check_pair(
    path: Path, part: str, noisy: NDArray[np.float32], clean: NDArray[np.float32]
) -> None:
    if noisy.shape != clean.shape:
        raise UserError(
            f"{path}: {part}_ns is {noisy.shape} and {part}_gt is {clean.shape}; expected equal shapes, "
            "picture by picture"
        )
    low, high = float(clean.min()), float(clean.max())
    if low < 0 or high > 1:
        raise UserError(
            f"{path}: {part}_gt ranges from {low:.4g} to {high:.4g}; floating-point pictures are expected "
            "within [0, 1]; divide both arrays by their white level, or store them as uint8 or uint16"
        )


def is_url(source: str) -> bool:
    """Whether ``source`` is to be fetched and not a file here."""
    return re.match(r"[a-z][a-z0-9+.-]+://", source, re.IGNORECASE) is not None


def fetch(url: str, *, sha256: str | None = None, quiet: bool = False) -> Path:
    """Fetch a data file once into the user's cache (``SNOWMELT_CACHE``, else the system's) and say where.

    A later call finds it there. It appears only when it is whole, begins as HDF5 does and, if ``sha256`` is
    given, has that hash.

    Raises:
        UserError: Not a URL, no connection, an error from the server, something else than HDF5 (such as the
            page of a login), a transfer that is broken off, endless or too slow, another hash.
    """
    import logging
    import os

    import pooch
    import requests
    import urllib3

    _check_url(url)
    pooch.get_logger().setLevel(logging.WARNING)
    folder = Path(os.environ.get("SNOWMELT_CACHE") or pooch.os_cache("snowmelt"))
    kept = folder / pooch.utils.unique_file_name(url)
    if kept.is_file() and not _begins_as_hdf5(kept):
        kept.unlink()  # kept before what came was looked at
    try:
        return Path(
            pooch.retrieve(
                url,
                known_hash=f"sha256:{sha256}" if sha256 else None,
                path=folder,
                downloader=functools.partial(_download, quiet=quiet),
            )
        )
    except UserError as error:
        raise UserError(f"{url}: {error}; nothing was kept") from error
    except (
        requests.RequestException,
        urllib3.exceptions.HTTPError,
        http.client.HTTPException,
        OSError,
    ) as error:
        raise UserError(
            f"{url}: could not be fetched whole ({printable(str(error))}); nothing was kept. Try again, or "
            "fetch it by other means and give its path to --data"
        ) from error
    except ValueError as error:  # pooch's word for another hash
        raise UserError(
            f"{url}: what came has another SHA-256 than the one given, {sha256}; nothing was kept. Check "
            f"both with whoever published the file ({error})"
        ) from error


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        valid = valid and url.isprintable() and " " not in url
    except ValueError:
        valid = False
    if not valid:
        raise UserError(
            f"{printable(url)}: not a valid URL; expected one such as https://example.org/data.h5"
        )


def _download(url: str, target: str, _: Any, *, quiet: bool) -> None:
    """Fetch to a file within the bounds of `limits`; the content is looked at as soon as it begins."""
    import requests
    from tqdm.auto import tqdm

    with _answer(url) as response:
        response.raise_for_status()
        _check_response(url, response)
        length = response.headers.get("Content-Length", "")
        whole = int(length) if length.isdecimal() and len(length) < 20 else None
        room = shutil.disk_usage(Path(target).parent).free
        _check_room(whole or 0, room)
        bar = tqdm(total=whole, unit="B", unit_scale=True, disable=quiet, leave=True)
        got, looked = 0, False
        with Path(target).open("wb") as file, bar:
            for part in _pieces(response.raw):
                file.write(part)
                got += len(part)
                bar.update(len(part))
                _check_room(got, room)
                if not looked and got >= _HEAD_BYTES:
                    file.flush()
                    _check_content(Path(target))
                    looked = True
        _check_content(Path(target))
        if whole is not None and got != whole:
            raise requests.ConnectionError(f"{got:,} of {whole:,} bytes came")


def _answer(url: str) -> Any:
    """The server's answer, of which nothing but the headers was read; they may trickle, too."""
    import requests

    found: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found.put(
                requests.get(
                    url,
                    stream=True,
                    timeout=limits.FETCH_PATIENCE_SECONDS,
                    headers={
                        "Accept-Encoding": "identity"
                    },  # what is compressed could become any size
                )
            )
        except Exception as error:
            found.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = found.get(timeout=limits.FETCH_ANSWER_SECONDS)
    except queue.Empty:
        raise requests.ConnectionError(
            f"no answer within {limits.FETCH_ANSWER_SECONDS} seconds"
        ) from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _check_response(url: str, response: Any) -> None:
    coding = response.headers.get("Content-Encoding", "identity")
    if coding.lower() not in ("", "identity"):
        raise UserError(
            f"the server sends it compressed ({printable(coding)}), though it was asked not to; fetch it by "
            "other means and give its path to --data"
        )
    if urlsplit(url).scheme.lower() == "https" and not response.url.lower().startswith("https:"):
        raise UserError(
            f"the server passes on to {printable(response.url)}, which is not encrypted; if you trust that, "
            "give that URL"
        )


def _check_room(size: int, room: int) -> None:
    """Bytes that are expected, or came, against those that were free on the disk."""
    if size > room - limits.FETCH_SPARE_BYTES:
        raise UserError(
            f"it has {size:,} bytes or more, and the cache's disk has {room:,} free; SNOWMELT_CACHE names a "
            "folder on another disk"
        )


def _pieces(stream: Any) -> Iterator[bytes]:
    """What comes, as it comes; a transfer that stalls or trickles is given up."""
    began, came = time.monotonic(), 0
    # "read" waits for as much as it is asked for; "read1" came with urllib3 2.
    read, size = (stream.read1, 2**20) if hasattr(stream, "read1") else (stream.read, 2**10)
    while part := read(size):
        yield part
        came += len(part)
        took = time.monotonic() - began
        if took > limits.FETCH_PATIENCE_SECONDS:
            if came < took * limits.FETCH_SLOWEST:
                raise UserError(
                    f"it comes too slowly, {came:,} bytes in {took:.0f} seconds; expected "
                    f"{limits.FETCH_SLOWEST:,} a second or more. Try again, or fetch it by other means and "
                    "give its path to --data"
                )
            began, came = time.monotonic(), 0


def _check_content(path: Path) -> None:
    if not _begins_as_hdf5(path):
        with path.open("rb") as file:
            start = file.read(512)
        text = start.lstrip().lower()
        page = text.startswith((b"<!doctype", b"<html", b"<?xml"))
        what = "a web page, perhaps one to log in or to agree" if page else f"{start[:16]!r}..."
        raise UserError(f"what came is not HDF5 but {what}; expected a file of the data itself")


def _begins_as_hdf5(path: Path) -> bool:
    """Whether HDF5's signature is at the start, or behind a user's block, where the format allows it."""
    with path.open("rb") as file:
        start = file.read(_HEAD_BYTES)
    return any(start[place:].startswith(hdf5file.SIGNATURE) for place in _PLACES)


def check_sha256(path: Path, expected: str, found: str) -> None:
    """Refuse a data file that is not the one a recipe names."""
    if found != expected.lower():
        raise UserError(
            f"{path}: its SHA-256 is {found}, the recipe expects {expected}; it is another file. Give the "
            "right one, or leave the hash out"
        )
