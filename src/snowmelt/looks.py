"""The pictures behind a report, as numbers: what was noisy, what is true, what was made of it.

`pictures.npz` holds pictures: their names, noisy, clean where that is known, and what each denoiser of an
evaluation made of them. What a network made of them while it was trained is in `epoch-NNN.npz`.
All are (H, W) or (H, W, C), 0 black and 1 white.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snowmelt import saved
from snowmelt.cases import Picture, middle
from snowmelt.errors import UserError, printable
from snowmelt.files import replacing
from snowmelt.photos import ORIGINAL

PICTURES = "pictures.npz"
LARGEST = 1e6  # far more than any noise makes
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
    try:
        return [*_seen(saved.read_arrays(path))]
    except (KeyError, TypeError, ValueError) as error:
        raise _foreign(path, error) from error


def _seen(arrays: Mapping[str, Any]) -> Iterator[Seen]:
    names, labels = arrays["names"], arrays["labels"]
    references = arrays.get("references", np.array([ORIGINAL] * len(names), dtype=str))
    for texts in (names, labels, references):
        if texts.ndim != 1 or (texts.dtype.kind != "U" and texts.size):
            raise ValueError("its names are no texts")
    for i, (name, reference) in enumerate(zip(names, references, strict=True)):
        noisy = _picture(arrays[f"noisy_{i}"])
        clean = arrays.get(f"clean_{i}")
        yield Seen(
            str(name),
            noisy,
            None if clean is None else _picture(clean, like=noisy),
            {
                str(label): _picture(arrays[f"take_{i}_{j}"], noisy)
                for j, label in enumerate(labels)
            },
            str(reference),
        )


def _picture(array: NDArray[Any], like: Picture | None = None) -> Picture:
    """An array that can be a picture, of the size of another; black is 0 and white 1, no value is large."""
    if array.ndim not in (2, 3) or 0 in array.shape or array.dtype.kind != "f":
        raise ValueError(f"a picture of shape {array.shape} and type {array.dtype}")
    if like is not None and array.shape != like.shape:
        raise ValueError(f"pictures of shapes {array.shape} and {like.shape} together")
    picture = array.astype(np.float32) if array.dtype == np.float16 else array
    if not np.abs(picture).max() <= LARGEST:  # nor is it where one is NaN
        raise ValueError(f"a picture with values that are not finite, or beyond {LARGEST:g}")
    return picture


def read_looks(folder: Path, *, most: int) -> list[Seen]:
    """The pictures of a run, with what the network made of them: "After 50 epochs" and so on, in order.

    Of more than ``most`` looks so many are taken, evenly spread.
    """
    paths = {
        int(number[1]): path
        for path in folder.glob("epoch-[0-9]*.npz")
        if (number := re.fullmatch(r"epoch-(\d{1,9})", path.stem, re.ASCII))
    }
    epochs = sorted(paths)
    seen = read_pictures(folder)
    for epoch in (epochs[place] for place in spread(len(epochs), most)):
        label = f"After {epoch} epoch{'' if epoch == 1 else 's'}"
        try:
            denoised = [*saved.read_arrays(paths[epoch]).values()]
            if len(denoised) != len(seen):
                raise ValueError(f"{len(denoised)} pictures, expected {len(seen)}")
            takes = [_picture(take, each.noisy) for take, each in zip(denoised, seen, strict=True)]
        except ValueError as error:
            raise _foreign(paths[epoch], error) from error
        seen = [
            replace(each, takes={**each.takes, label: take})
            for each, take in zip(seen, takes, strict=True)
        ]
    return seen


def _foreign(path: Path, error: object) -> UserError:
    return UserError(
        f"{path}: not pictures that Snowmelt kept ({printable(str(error))}); make them anew"
    )
