"""Training data: noisy/clean pairs from one HDF5 file in the tutorial's layout.

The file may lie here, or at a URL from which it is fetched once into a cache.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from snowmelt.errors import UserError

if TYPE_CHECKING:
    import h5py

NAMES = ("train_ns", "train_gt", "test_ns", "test_gt")
LAYOUT = (
    "expected one HDF5 file with the arrays train_ns, train_gt (noisy and clean, number x height x "
    "width) and test_ns, test_gt"
)


@dataclass(frozen=True)
class Pairs:
    """Noisy and clean pictures, each (N, H, W) float32; clean within [0, 1]."""

    noisy: NDArray[np.float32]
    clean: NDArray[np.float32]


@dataclass(frozen=True)
class Dataset:
    """Pairs to train on and held-out pairs to test on, with the file's name and SHA-256."""

    train: Pairs
    test: Pairs
    name: str
    sha256: str


def read_dataset(path: Path) -> Dataset:
    """Read the four arrays: uint8 and uint16 are divided by their span, floats are taken as they are.

    Raises:
        UserError: Not HDF5, truncated, or an array is missing, empty, not a number or mismatched.
    """
    import h5py

    if not path.is_file():
        raise UserError(f"{path}: no such file; {LAYOUT}")
    try:
        with h5py.File(path, "r") as file:
            _check_names(path, file)
            arrays = {name: _read_array(path, name, file[name]) for name in NAMES}
    except OSError as error:
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
    )


def _check_names(path: Path, file: h5py.File) -> None:
    for name in NAMES:
        if name not in file:
            found = ", ".join(file) or "nothing"
            raise UserError(f"{path}: no array {name!r}; found {found}; {LAYOUT}")


def _read_array(path: Path, name: str, item: Any) -> NDArray[np.float32]:
    import h5py

    if not isinstance(item, h5py.Dataset) or item.ndim != 3 or 0 in item.shape:
        found = f"shape {item.shape}" if isinstance(item, h5py.Dataset) else type(item).__name__
        raise UserError(
            f"{path}: {name} has {found}; expected (number, height, width), none of them zero"
        )
    if item.dtype.newbyteorder("=") not in (np.uint8, np.uint16, np.float32, np.float64):
        raise UserError(
            f"{path}: {name} holds {item.dtype}; expected uint8, uint16, float32 or float64"
        )
    stored = item[...]
    if stored.dtype.kind == "u":
        return np.divide(stored, np.float32(np.iinfo(stored.dtype).max), dtype=np.float32)
    array = stored.astype(np.float32)
    if not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))
        raise UserError(
            f"{path}: {name} has {len(bad)} NaN or infinite values, the first in picture {bad[0][0]} at "
            f"row {bad[0][1]}, column {bad[0][2]}; replace them or leave those pictures out"
        )
    return array


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
    return urlsplit(source).scheme in ("http", "https")


def fetch(url: str, *, sha256: str | None = None, quiet: bool = False) -> Path:
    """Fetch a file once into the user's cache (``SNOWMELT_CACHE``, else the system's) and say where.

    A later call finds it there. It appears only when whole and, if ``sha256`` is given, only when it matches.

    Raises:
        UserError: No connection, an error from the server, a broken-off transfer, another hash.
    """
    import logging
    import os

    import pooch
    import requests

    pooch.get_logger().setLevel(logging.WARNING)
    folder = os.environ.get("SNOWMELT_CACHE") or pooch.os_cache("snowmelt")
    try:
        return Path(
            pooch.retrieve(
                url,
                known_hash=f"sha256:{sha256}" if sha256 else None,
                path=folder,
                downloader=pooch.HTTPDownloader(progressbar=not quiet, timeout=30),
            )
        )
    except ValueError as error:
        raise UserError(
            f"{url}: what came has another SHA-256 than the one given, {sha256}; nothing was kept. Check "
            f"both with whoever published the file ({error})"
        ) from error
    except (requests.RequestException, OSError) as error:
        raise UserError(
            f"{url}: could not be fetched whole ({error}); nothing was kept. Try again, or fetch it by "
            "other means and give its path to --data"
        ) from error


def check_sha256(path: Path, expected: str, found: str) -> None:
    """Refuse a data file that is not the one a recipe names."""
    if found != expected.lower():
        raise UserError(
            f"{path}: its SHA-256 is {found}, the recipe expects {expected}; it is another file. Give the "
            "right one, or leave the hash out"
        )
