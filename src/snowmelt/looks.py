"""What a run saw at each look, exactly: the numbers behind its PNG files, for the report.

`pictures.npz` holds the pictures (their names, noisy, clean), `epoch-NNN.npz` what the network made of
them then; (H, W) float32 in [0, 1].
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snowmelt.errors import UserError
from snowmelt.files import replacing
from snowmelt.photos import NoisyPhoto

Picture = NDArray[np.float32]


def write_pictures(folder: Path, pictures: Sequence[NoisyPhoto]) -> None:
    """Keep the pictures of a run."""
    arrays = {"names": np.array([each.name for each in pictures])}
    for index, each in enumerate(pictures):
        arrays |= {f"noisy_{index}": each.noisy, f"clean_{index}": each.clean}
    with replacing(folder / "pictures.npz") as part:
        np.savez_compressed(part, **arrays)  # type: ignore[arg-type]


def write_look(folder: Path, epoch: int, denoised: Sequence[Picture]) -> None:
    """Keep what the network makes of the pictures after ``epoch`` epochs."""
    with replacing(folder / f"epoch-{epoch:03d}.npz") as part:
        np.savez_compressed(part, *denoised)


def read_pictures(folder: Path) -> list[NoisyPhoto]:
    """The pictures of a run."""
    arrays = _read(folder / "pictures.npz")
    try:
        return [
            NoisyPhoto(str(name), arrays[f"noisy_{index}"], arrays[f"clean_{index}"])
            for index, name in enumerate(arrays["names"])
        ]
    except (KeyError, TypeError) as error:
        raise _foreign(folder / "pictures.npz", error) from error


def read_looks(folder: Path) -> dict[int, list[Picture]]:
    """What the network made of the pictures, by the number of epochs, in order."""
    paths = {
        int(path.stem.removeprefix("epoch-")): path for path in folder.glob("epoch-[0-9]*.npz")
    }
    return {epoch: [*_read(paths[epoch]).values()] for epoch in sorted(paths)}


def _read(path: Path) -> dict[str, Picture]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise _foreign(path, error) from error


def _foreign(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: not pictures that a run of Snowmelt kept ({error}); train anew with --force"
    )
