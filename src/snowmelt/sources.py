"""Pictures to learn from, as people have them: files, folders, stacks; pairs of them, and a part held out.

Everything is decoded once, into memory or, where it is too much for that, into a temporary file that is
mapped; what a step of training takes is then cut out without decoding anything.
"""

from __future__ import annotations

import hashlib
import random
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snowmelt import diagnosis
from snowmelt.errors import UserError
from snowmelt.finding import Found, find_all, without_ending
from snowmelt.images import open_image
from snowmelt.images.base import Image, split

Picture = NDArray[np.float32]
Stored = NDArray[Any]

MEMORY = 2**30  # bytes; more than that goes into a temporary file
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
LISTED = 20  # of many faults, so many are told
USED = 0.25  # part of 16 bits; of a camera's 12 bits in 16 the rest stays empty
MIDDLE = 512  # pixels of the middle of a picture that pairs are compared on


@dataclass(frozen=True)
class Pictures:
    """An ordered set of pictures of any sizes and one number of channels.

    Attributes:
        names: For messages and for the split: "scene_01.png", "stack.tif[3]".
        keys: By which they are paired, see `finding.Found`: "scene_01", "stack[3]".
        stored: The pixels as they are stored, each (H, W, C).
        value_range: The values that stand for 0 and 1.
        grey: Whether colours are given as grey.
        single: Whether all are of one file, a stack or a movie.
    """

    names: tuple[str, ...]
    keys: tuple[str, ...]
    stored: tuple[Stored, ...]
    value_range: tuple[float, float]
    grey: bool = False
    single: bool = False

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def title(self) -> str:
        """The first name, and how many more there are."""
        more = len(self) - 1
        return f"{self.names[0]} and {more} more" if more else self.names[0]

    @cached_property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each."""
        return tuple((array.shape[0], array.shape[1]) for array in self.stored)

    @property
    def channels(self) -> int:
        """Of all of them."""
        return 1 if self.grey else int(self.stored[0].shape[2])

    @property
    def spans_type(self) -> bool:
        """Whether black and white are the ends of an integer type, as nobody has to be told."""
        if self.dtype.kind not in "ui":
            return False
        limits = np.iinfo(self.dtype)
        return self.value_range == (limits.min, limits.max)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Number type they are stored in."""
        return self.stored[0].dtype

    @cached_property
    def sha256(self) -> str:
        """Of number type, sizes and pixels, in order."""
        digest = hashlib.sha256()
        for array in self.stored:
            digest.update(f"{array.dtype.str} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
        return digest.hexdigest()

    def crop(self, index: int, rows: slice, columns: slice) -> Picture:
        """A part of a picture, (H, W, C), 0 black and 1 white."""
        low, high = self.value_range
        part = self.stored[index][rows, columns]
        work: Any = np.float32 if np.can_cast(part.dtype, np.float32) else np.float64
        scaled: Picture = ((part.astype(work) - work(low)) / work(high - low)).astype(np.float32)
        if self.grey and scaled.shape[2] == 3:
            scaled = (scaled @ np.array(LUMA, np.float32))[..., None]
        return scaled

    def whole(self, index: int) -> Picture:
        """A picture, (H, W, C)."""
        return self.crop(index, slice(None), slice(None))

    def select(self, indices: Sequence[int]) -> Pictures:
        """Some of them."""
        return replace(
            self,
            names=tuple(self.names[index] for index in indices),
            keys=tuple(self.keys[index] for index in indices),
            stored=tuple(self.stored[index] for index in indices),
        )

    def rows(self, rows: slice) -> Pictures:
        """The same rows of each."""
        return replace(self, stored=tuple(array[rows] for array in self.stored))


@dataclass(frozen=True)
class Paired:
    """Noisy pictures, and for each its target: the clean one, or another noisy take."""

    noisy: Pictures
    target: Pictures

    def select(self, indices: Sequence[int]) -> Paired:
        """Some of them."""
        return Paired(self.noisy.select(indices), self.target.select(indices))

    def rows(self, rows: slice) -> Paired:
        """The same rows of each."""
        return Paired(self.noisy.rows(rows), self.target.rows(rows))


def open_pictures(
    texts: Sequence[str],
    *,
    axes: str | None = None,
    value_range: tuple[float, float] | None = None,
    grey: bool = False,
    memory: int = MEMORY,
) -> Pictures:
    """Read files, folders (and all below), patterns, stacks (``file.h5:/name``); every plane is a picture.

    Args:
        texts: What to read, in this order; within a folder by name.
        axes: Names of the dimensions, where files are silent.
        value_range: Values that stand for black and white. Where it is not given: what the file can store,
            for 8 bits and for 16 bits that are made use of; for floats within [0, 1] just that; else the
            least and the greatest value of all.
        grey: Whether to turn colours to grey.
        memory: Bytes of pixels that are kept in memory; more go into a temporary file that is mapped.

    Raises:
        UserError: Nothing is found, a file cannot be read, they are of several number types or numbers of
            channels, or hold values that are not finite; ``value_range`` does not rise.
    """
    if value_range and not -np.inf < value_range[0] < value_range[1] < np.inf:
        raise UserError(
            f"value range {value_range[0]:g} to {value_range[1]:g}: expected black below white"
        )
    found = find_all(texts)
    opened = [open_image(entry.source, axes=axes) for entry in found]
    labels = [_label(entry) for entry in found]
    _check_alike(list(zip(labels, opened, strict=True)), grey)
    stored = _decode(opened, memory)
    names = _of_each_plane(labels, opened)
    _check_finite(names, stored)
    return Pictures(
        names,
        _of_each_plane([entry.key for entry in found], opened),
        stored,
        value_range or _value_range(opened[0], stored),
        grey,
        single=len(opened) == 1,
    )


def _label(found: Found) -> str:
    """The place of a file, and what in it is meant: "scene_01.png", "stack.h5:/noisy"."""
    _, inside = split(found.source)
    return f"{found.place.as_posix()}:/{inside}" if inside else found.place.as_posix()


def _of_each_plane(names: Sequence[str], images: Sequence[Image]) -> tuple[str, ...]:
    return tuple(
        name if image.layout.planes == 1 else f"{name}[{plane}]"
        for name, image in zip(names, images, strict=True)
        for plane in range(image.layout.planes)
    )


def _check_alike(opened: Sequence[tuple[str, Image]], grey: bool) -> None:
    """All of one number type and one number of channels."""
    (first, image), *others = opened
    for name, other in others:
        if other.layout.dtype != image.layout.dtype:
            raise UserError(
                f"{first} is {image.layout.dtype} and {name} is {other.layout.dtype}; "
                "expected one number type"
            )
        if _colours(other) != _colours(image) and not grey:
            raise UserError(
                f"{first} has {_colours(image)} channels and {name} has {_colours(other)}; expected as many "
                "in each (--set data.grey=true turns colours to grey)"
            )
    for name, each in opened:
        if grey and _colours(each) not in (1, 3):
            raise UserError(
                f"data.grey: {name} has {_colours(each)} channels; expected 3, or 1 that is grey already"
            )


def _colours(image: Image) -> int:
    return image.layout.channels - image.layout.alpha


def _decode(images: Sequence[Image], memory: int) -> tuple[Stored, ...]:
    """All planes (H, W, C) without opacity."""
    sizes = [
        (image.layout.height, image.layout.width, _colours(image))
        for image in images
        for _ in range(image.layout.planes)
    ]
    arrays = _room(sizes, images[0].layout.dtype, memory)
    places = iter(arrays)
    for image in images:
        for plane in range(image.layout.planes):
            target = next(places)
            for start in range(0, image.layout.height, 256):
                rows = image.read_rows(plane, start, min(start + 256, image.layout.height))
                target[start : start + 256] = rows[..., : target.shape[2]]
    return arrays


def _room(
    sizes: Sequence[tuple[int, int, int]], dtype: np.dtype[Any], memory: int
) -> tuple[Stored, ...]:
    """Empty arrays, in memory or in a temporary file that vanishes with them."""
    ends = np.cumsum([np.prod(size) for size in sizes])
    if ends[-1] * dtype.itemsize <= memory:
        return tuple(np.empty(size, dtype) for size in sizes)
    try:
        with tempfile.TemporaryFile(prefix="snowmelt-") as file:
            file.truncate(int(ends[-1]) * dtype.itemsize)
            whole = np.memmap(file, dtype, "r+", shape=(int(ends[-1]),))
    except OSError as error:
        needed = ends[-1] * dtype.itemsize / 2**30
        raise UserError(
            f"{needed:.1f} GiB of pictures need so much room in {tempfile.gettempdir()} ({error.strerror}); "
            "TMPDIR names another folder"
        ) from error
    return tuple(
        whole[end - np.prod(size) : end].reshape(size)
        for end, size in zip(ends, sizes, strict=True)
    )


def _check_finite(names: Sequence[str], stored: Sequence[Stored]) -> None:
    if stored[0].dtype.kind != "f":
        return
    bad = [name for name, array in zip(names, stored, strict=True) if not np.isfinite(array).all()]
    if bad:
        raise UserError(
            f"values that are not finite (NaN or infinite) in {_listed(bad, ', ')}; replace them or leave "
            "those pictures out"
        )


def _value_range(image: Image, stored: Sequence[Stored]) -> tuple[float, float]:
    dtype: np.dtype[Any] = image.layout.dtype
    if image.value_range is not None:
        return float(image.value_range[0]), float(image.value_range[1])
    low = min(float(array.min()) for array in stored)
    high = max(float(array.max()) for array in stored)
    if dtype.kind in "ui" and dtype.itemsize <= 2:
        limits = np.iinfo(dtype)
        if dtype.itemsize == 1 or high - low > USED * (limits.max - limits.min):
            return float(limits.min), float(limits.max)
    elif 0 <= low <= high <= 1:
        return 0.0, 1.0
    if low == high:
        raise UserError(f"all values are {low:g}; expected pictures")
    return low, high


def _listed(faults: Sequence[str], separator: str = "\n  ") -> str:
    more = len(faults) - LISTED
    return separator.join([*faults[:LISTED], *([f"and {more} more"] if more > 0 else [])])


def pair(noisy: Pictures, target: Pictures) -> Paired:
    """Match noisy pictures and targets: of two stacks by their place, else by their keys.

    Endings that all names of a set share, such as ``_noisy`` or ``_real``, do not count.

    Raises:
        UserError: Some have no partner.
    """
    if noisy.single and target.single:
        if len(noisy) != len(target):
            raise UserError(
                f"{noisy.names[0]} is one of {len(noisy)} pictures and {target.names[0]} one of "
                f"{len(target)}; expected as many noisy ones as targets"
            )
        return Paired(noisy, target)
    keys, others = list(noisy.keys), list(target.keys)
    for each in (keys, others):
        _check_distinct(each)
    if set(keys) != set(others):
        keys, others = without_ending(keys), without_ending(others)
    places = {key: place for place, key in enumerate(others)}
    lonely = [f"{noisy.names[i]}: no target" for i, key in enumerate(keys) if key not in places]
    lonely += [
        f"{target.names[i]}: nothing noisy" for i, key in enumerate(others) if key not in set(keys)
    ]
    if lonely:
        raise UserError(
            "pictures are paired by their names without suffix, of a pattern by what its wildcards match; "
            f"{len(lonely)} have no partner:\n  {_listed(lonely)}"
        )
    return Paired(noisy, target.select([places[key] for key in keys]))


def _check_distinct(keys: Sequence[str]) -> None:
    if len(set(keys)) < len(keys):
        again = sorted({key for key in keys if keys.count(key) > 1})
        raise UserError(
            f"several pictures are called {_listed(again, ', ')}; expected one of each name"
        )


def check_pairs(paired: Paired, *, target_is_clean: bool, sizes_only: bool = False) -> None:
    """Find pairs that do not fit, before anything is learnt from them.

    Args:
        paired: Noisy pictures and their targets.
        target_is_clean: Whether a target with more noise is a fault.
        sizes_only: Take all others as they are.

    Raises:
        UserError: Lists pairs of other sizes, shifted, swapped, identical or empty ones.
    """
    if paired.noisy.channels != paired.target.channels:
        raise UserError(
            f"{paired.noisy.names[0]} has {paired.noisy.channels} channels and {paired.target.names[0]} has "
            f"{paired.target.channels}; expected as many in each"
        )
    faults = [
        f"{paired.noisy.names[index]}, {paired.target.names[index]}: {fault}"
        for index in range(len(paired.noisy))
        if (fault := _fault(paired, index, target_is_clean, sizes_only))
    ]
    if faults:
        raise UserError(
            f"{len(faults)} of {len(paired.noisy)} pairs do not fit:\n  {_listed(faults)}\nLeave them out, "
            "or train on all of one size as they are: --set data.check=false"
        )


def _fault(paired: Paired, index: int, target_is_clean: bool, sizes_only: bool) -> str | None:
    """What is wrong with a pair, None if nothing is."""
    shape, other = paired.noisy.shapes[index], paired.target.shapes[index]
    if shape != other:
        return f"sizes {shape[0]} x {shape[1]} and {other[0]} x {other[1]}"
    if sizes_only:
        return None
    rows, columns = (_middle(length) for length in shape)
    noisy, target = (
        part.crop(index, rows, columns).mean(axis=2) for part in (paired.noisy, paired.target)
    )
    for name, picture in (("the first", noisy), ("the second", target)):
        if np.ptp(picture) == 0:
            return f"{name} has one value everywhere"
    if np.array_equal(noisy, target):
        return "they are the same picture"
    if shift := find_shift(noisy, target):
        return f"shifted by {shift[0]} rows and {shift[1]} columns against each other"
    if target_is_clean and _noisier(target, noisy):
        return "the clean one is the noisier one; swapped?"
    return None


def _middle(length: int) -> slice:
    start = max(0, (length - MIDDLE) // 2)
    return slice(start, start + MIDDLE)


def _noisier(one: Picture, other: Picture) -> bool:
    """Whether one has clearly more noise than the other."""
    if min(one.shape) < diagnosis.SMALLEST:
        return False
    levels = [float(diagnosis.estimate_sigma(picture)) for picture in (one, other)]
    return levels[0] > 1.2 * levels[1] + 0.002


def find_shift(one: Picture, other: Picture) -> tuple[int, int] | None:
    """Rows and columns by which ``other`` is shifted against ``one``, (H, W) each; None where it is not.

    By phase correlation (Kuglin and Hines, 1975), smoothed over half a pixel. It counts only where it is
    clear: higher than without a shift, and far above what chance gives. With pairs of cameras and microscopes
    and with noise of sigma 50, a shift by one pixel gave 1.17 to 2.6 times the height and 44 to 280 times the
    standard deviation; pairs that fit never had another peak.
    """
    window = np.outer(*(np.hanning(length) for length in one.shape))
    spectra = [np.fft.rfft2((picture - picture.mean()) * window) for picture in (one, other)]
    cross = np.conj(spectra[0]) * spectra[1]
    smooth = np.outer(
        np.exp(-((np.fft.fftfreq(one.shape[0]) * 2.5) ** 2)),
        np.exp(-((np.fft.rfftfreq(one.shape[1]) * 2.5) ** 2)),
    )
    found = np.fft.irfft2(smooth * cross / (np.abs(cross) + 1e-12), s=one.shape)
    peak = np.unravel_index(np.argmax(found), found.shape)
    height = found[peak]
    if not any(peak) or height < 1.15 * found[0, 0] or height < 12 * found.std():
        return None
    rows, columns = (
        int(place - length if place > length // 2 else place)
        for place, length in zip(peak, one.shape, strict=True)
    )
    return rows, columns


def split_pictures(pictures: Pictures, *, held_out: float, seed: int) -> tuple[Pictures, Pictures]:
    """What to train on and a part to test on, see `choose`; of a single picture its lowest rows."""
    return _split(pictures, pictures.names, pictures.shapes, held_out, seed)


def split_pairs(paired: Paired, *, held_out: float, seed: int) -> tuple[Paired, Paired]:
    """What to train on and a part to test on, see `choose`; of a single pair its lowest rows."""
    return _split(paired, paired.noisy.names, paired.noisy.shapes, held_out, seed)


def _split(
    whole: Any, names: Sequence[str], shapes: Sequence[tuple[int, int]], held_out: float, seed: int
) -> tuple[Any, Any]:
    if len(names) == 1:
        height = shapes[0][0]
        border = height - max(1, round(held_out * height))
        if border < 1:
            raise UserError(f"{names[0]}: {height} rows cannot be parted into training and test")
        return whole.rows(slice(0, border)), whole.rows(slice(border, height))
    chosen = choose(names, held_out=held_out, seed=seed)
    others = sorted(set(range(len(names))) - set(chosen))
    return whole.select(others), whole.select(chosen)


def choose(names: Sequence[str], *, held_out: float, seed: int) -> list[int]:
    """Places of the pictures to test on, one or more, never all.

    Of each stack, whose planes are called ``stack.tif[0]`` and so on, it is the last planes: neighbours in a
    series are nearly the same, and a random choice would test on what was trained on. Of other pictures it is
    whole scenes at random, see `_choose_scenes`.
    """
    stacks: dict[str, list[int]] = {}
    alone: list[int] = []
    for place, name in enumerate(names):
        plane = re.fullmatch(r"(.*)\[\d+\]", name)
        (stacks.setdefault(plane[1], []) if plane else alone).append(place)
    chosen = [place for planes in stacks.values() for place in planes[-_count(planes, held_out) :]]
    among = _choose_scenes([names[place] for place in alone], held_out, seed)
    return sorted([*chosen, *(alone[place] for place in among)])


def _count(pictures: Sequence[Any], held_out: float) -> int:
    """How many of them to test on; all but one at most."""
    return min(max(1, round(held_out * len(pictures))), len(pictures) - 1)


def _choose_scenes(names: Sequence[str], held_out: float, seed: int) -> list[int]:
    """Places of whole scenes at random; where there are fewer than four, of the last pictures.

    Names that differ in a last number only, such as ``bag_1`` and ``bag_2``, are one scene and stay together.
    """
    if len(names) < 2:
        return []
    count = _count(names, held_out)
    scenes: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        stem = re.sub(r"\.[^./\[\]]+$", "", name)
        scenes.setdefault(re.sub(r"[_\-. ]\d+$", "", stem), []).append(place)
    if len(scenes) < 4:
        return list(range(len(names) - count, len(names)))
    order = sorted(scenes)
    random.Random(seed).shuffle(order)
    chosen: list[int] = []
    for scene in order[:-1]:
        if len(chosen) >= count:
            break
        chosen += scenes[scene]
    return sorted(chosen)
