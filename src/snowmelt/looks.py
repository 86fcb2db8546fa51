"""The pictures behind a report, as numbers: what was noisy, what is true, what was made of it.

`pictures.npz` holds pictures: their names, noisy, clean where that is known, and what each denoiser of an
evaluation made of them. What a network made of them while it was trained is in `epoch-NNN.npz`.
All are (H, W) or (H, W, C), 0 black and 1 white.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snowmelt.cases import Picture, middle
from snowmelt.errors import UserError
from snowmelt.files import replacing
from snowmelt.photos import ORIGINAL

PICTURES = "pictures.npz"
ALBUM, SIDE = 4, 320  # images of an evaluation that are kept, and how much of each


@dataclass(frozen=True)
class Seen:
    """A noisy picture, the truth where it is known, and by name what was made of it.

    ``reference`` says what ``clean`` is: the original, or a second take.
    """

    name: str
    noisy: Picture
    clean: Picture | None = None
    takes: Mapping[str, Picture] = field(default_factory=dict)
    reference: str = ORIGINAL


def spread(count: int, most: int) -> list[int]:
    """At most so many places among ``count``, evenly spread, the first and the last among them."""
    return [int(place) for place in np.linspace(0, count - 1, min(most, count)).round()]


def view(picture: NDArray[Any]) -> NDArray[Any]:
    """A copy of the middle of a picture in float16, whose steps are 1/2048 or finer below white."""
    return np.asarray(middle(picture, SIDE), np.float16)


def write_pictures(folder: Path, seen: Sequence[Seen]) -> None:
    """Keep pictures; all of them have takes of the same names."""
    labels = [*seen[0].takes] if seen else []
    arrays: dict[str, NDArray[Any]] = {
        "names": np.array([each.name for each in seen], dtype=str),
        "labels": np.array(labels, dtype=str),
        "references": np.array([each.reference for each in seen], dtype=str),
    }
    for i, each in enumerate(seen):
        arrays[f"noisy_{i}"] = each.noisy
        if each.clean is not None:
            arrays[f"clean_{i}"] = each.clean
        arrays |= {f"take_{i}_{j}": each.takes[label] for j, label in enumerate(labels)}
    with replacing(folder / PICTURES) as part:
        np.savez_compressed(part, **arrays)  # type: ignore[arg-type]


def write_look(folder: Path, epoch: int, denoised: Iterable[Picture]) -> None:
    """Keep what the network makes of the pictures after ``epoch`` epochs."""
    with replacing(folder / f"epoch-{epoch:03d}.npz") as part:
        np.savez_compressed(part, *denoised)


def read_pictures(folder: Path) -> list[Seen]:
    """Read what `write_pictures` kept; none where there is no such file."""
    path = folder / PICTURES
    if not path.exists():
        return []
    arrays = _read(path)
    try:
        names = arrays["names"]
        references = arrays.get("references", [ORIGINAL] * len(names))
        return [
            Seen(
                str(name),
                arrays[f"noisy_{i}"],
                arrays.get(f"clean_{i}"),
                {str(label): arrays[f"take_{i}_{j}"] for j, label in enumerate(arrays["labels"])},
                str(reference),
            )
            for i, (name, reference) in enumerate(zip(names, references, strict=True))
        ]
    except (KeyError, TypeError) as error:
        raise _foreign(path, error) from error


def read_looks(folder: Path, *, most: int) -> list[Seen]:
    """The pictures of a run, with what the network made of them: "After 50 epochs" and so on, in order.

    Of more than ``most`` looks so many are taken, evenly spread.
    """
    paths = {
        int(path.stem.removeprefix("epoch-")): path for path in folder.glob("epoch-[0-9]*.npz")
    }
    epochs = sorted(paths)
    seen = read_pictures(folder)
    for epoch in (epochs[place] for place in spread(len(epochs), most)):
        denoised = _read(paths[epoch]).values()
        label = f"After {epoch} epoch{'' if epoch == 1 else 's'}"
        if len(denoised) != len(seen):
            raise _foreign(paths[epoch], f"{len(denoised)} pictures, expected {len(seen)}")
        seen = [
            replace(each, takes={**each.takes, label: take})
            for each, take in zip(seen, denoised, strict=True)
        ]
    return seen


def _read(path: Path) -> dict[str, Picture]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {
                name: each.astype(np.float32) if each.dtype == np.float16 else each
                for name, each in arrays.items()
            }
    except (ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise _foreign(path, error) from error


def _foreign(path: Path, error: object) -> UserError:
    return UserError(f"{path}: not pictures that Snowmelt kept ({error}); make them anew")
