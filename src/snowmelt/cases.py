"""The images of an evaluation: found, paired, checked all at once, and read one by one.

A case holds one picture or two: noisy and clean, two noisy exposures, or a noisy one alone. They come from
arrays, from an HDF5 file of pairs, from folders or stacks that belong together by name, or from clean images
with added noise. A source is a file, a folder (all images below it) or a pattern such as
``scans/*_real.jpg``: what stands for its wildcards is the image's name.

Pictures are (H, W) or (H, W, C) float32, 0 black and 1 white.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snowmelt import images
from snowmelt.data import read_dataset
from snowmelt.errors import UserError
from snowmelt.finding import find, find_all, is_several, without_ending
from snowmelt.images.base import Image, Layout, split
from snowmelt.noise import Noise, is_fixed

Picture = NDArray[np.float32]
Pictures = tuple[Picture, ...]
Roles = tuple[str, ...]
Range = tuple[float, float]
PAIR: Roles = ("noisy", "clean")
TAKES: Roles = ("noisy", "noisy-too")
ALONE: Roles = ("noisy",)
_PATH = (str, os.PathLike)
FilePath = str | os.PathLike[str]
Source = FilePath | Sequence[FilePath]


@dataclass(frozen=True)
class Scale:
    """Stored values of black and white, and whether only whole numbers are stored."""

    low: float
    high: float
    whole: bool

    @property
    def span(self) -> float:
        """From black to white."""
        return self.high - self.low

    def to_unit(self, values: NDArray[Any]) -> Picture:
        """Stored values as 0 black and 1 white."""
        return ((values.astype(np.float64) - self.low) / self.span).astype(np.float32)

    def as_stored(self, picture: NDArray[Any]) -> NDArray[np.float64]:
        """What a file of this scale would hold of a picture: within [0, 1], in steps; still 0 to 1."""
        clipped = np.clip(picture.astype(np.float64), 0, 1)
        return np.rint(clipped * self.span) / self.span if self.whole else clipped


UNIT = Scale(0, 1, whole=False)


@dataclass(frozen=True)
class Case:
    """One or two pictures of one scene, read when they are needed.

    `examine` fills in the SHA-256 of all of them, and of the last one alone: of pairs, that is the reference,
    and cases with the same reference are exposures of one scene. ``side`` is the shortest, in pixels.
    """

    name: str
    pictures: Callable[[], Pictures]
    digest: str = ""
    scene: str = ""
    side: int = 0


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Cases of one kind and scale.

    Attributes:
        title: Where they come from.
        roles: What the pictures of a case are.
        cases: In the order of their names.
        scale: Of the files.
        noise: Noise added to clean images, None where the noise is real.
        seed: Of that noise; each image begins with it anew.
        stored: Whether that noisy image is clipped and rounded like a file.
    """

    title: str
    roles: Roles
    cases: tuple[Case, ...]
    scale: Scale
    noise: Noise | None = None
    seed: int | None = None
    stored: bool = False


def from_hdf5(path: Path, part: str) -> Collection:
    """The "train" or the "test" arrays of a file of pairs; see `data.read_dataset`."""
    dataset = read_dataset(path)
    noisy, clean = (dataset.dtypes[f"{part}_{kind}"] for kind in ("ns", "gt"))
    whole = noisy.kind == clean.kind == "u"
    pairs = getattr(dataset, part)
    return from_pictures(
        [*zip(pairs.noisy, pairs.clean, strict=True)],
        PAIR,
        title=f"{part} arrays of {path.name}",
        scale=Scale(0, float(np.iinfo(noisy).max) if whole else 1, whole),
    )


def from_pictures(
    pictures: Sequence[Pictures], roles: Roles, *, title: str, scale: Scale = UNIT
) -> Collection:
    """Pictures in memory, 0 black and 1 white; ``scale`` says what a file of them would hold."""
    cases = [Case(f"{index:04d}", partial(tuple, each)) for index, each in enumerate(pictures)]
    return Collection(title=title, roles=roles, cases=tuple(cases), scale=scale)


def gather(
    given: Mapping[str, Any], *, value_range: Range | None = None, channel_axis: int | None = None
) -> Collection:
    """Images by role as a person has them: lists of arrays or of files, or one source of `from_files` each.

    Raises:
        UserError: They do not belong together.
    """
    roles, sides = tuple(name.replace("_", "-") for name in given), [*given.values()]
    if any(isinstance(side, _PATH) for side in sides):
        return from_files(sides, roles, value_range=value_range)
    axes = 2 + (channel_axis is not None)
    sides = [[*side] if np.ndim(side) != axes else [side] for side in sides]
    counts = [len(side) for side in sides]
    if len(set(counts)) > 1 or not counts[0]:
        found = ", ".join(f"{count} {role}" for count, role in zip(counts, roles, strict=True))
        raise UserError(f"{found} images: expected as many of each kind, at least one")
    if any(isinstance(each, _PATH) for side in sides for each in side):
        return from_files(sides, roles, value_range=value_range)
    arrays = [[np.asarray(each) for each in row] for row in zip(*sides, strict=True)]
    for index, row in enumerate(arrays):
        found = " and ".join(f"{each.dtype} {each.shape}" for each in row)
        if len({each.shape for each in row}) > 1 or row[0].ndim != axes:
            wanted = "one shape, (H, W), and channel_axis for one more axis"
            raise UserError(f"image {index}: arrays of {found}; expected {wanted}")
        if any(each.dtype.kind not in "uif" for each in row):
            raise UserError(f"image {index}: arrays of {found}; expected integers or floats")
    scale = _scale_of([each.dtype for row in arrays for each in row], {None}, value_range)

    def picture(array: NDArray[Any]) -> Picture:
        last = array if channel_axis is None else np.moveaxis(array, channel_axis, -1)
        return scale.to_unit(last[..., 0] if last.shape[2:] == (1,) else last)

    pictures = [tuple(map(picture, row)) for row in arrays]
    return from_pictures(pictures, roles, title=f"{len(pictures)} arrays", scale=scale)


def from_files(
    sources: Sequence[Source],
    roles: Roles,
    *,
    axes: str | None = None,
    value_range: Range | None = None,
) -> Collection:
    """Images that belong together by name: for each role a folder, a pattern, or a file; or by place: a list.

    Each H x W picture of a stack is a case of its own.

    Raises:
        UserError: All that does not fit: names missing on one side, sizes and number types that differ,
            files that cannot be read.
    """
    found = _find_all(sources)
    problems = _unpaired(sources, roles, found)
    stacks: list[tuple[str, list[Image]]] = []
    for name in [name for name in found[0] if all(name in each for each in found)]:
        try:
            stacks.append((name, [_open(each[name], axes) for each in found]))
        except UserError as error:
            problems.append(str(error))
    for name, stack in stacks:
        problems += _mismatched(name, roles, [each.layout for each in stack])
    title = " and ".join(dict.fromkeys(map(_short, sources)))
    refuse(problems, f"in {title}")
    scale = _scale([each for _, stack in stacks for each in stack], value_range)
    cases = [
        Case(
            f"{name}[{plane}]" if stack[0].layout.planes > 1 else name,
            partial(_read, [each[name] for each in found], plane, axes, scale),
        )
        for name, stack in stacks
        for plane in range(stack[0].layout.planes)
    ]
    return Collection(title=title, roles=roles, cases=tuple(cases), scale=scale)


def with_noise(
    clean: Collection, noise: Noise, *, seed: int = 0, stored: bool = False
) -> Collection:
    """Pairs of noisy and clean images, by adding noise; see `Collection` for ``seed`` and ``stored``.

    Raises UserError where the noise has a range in place of a number.
    """
    if not is_fixed(noise):
        raise UserError(
            f"noise {str(noise)!r}: a score needs one noise level, such as gaussian:25; "
            "score several noise levels one by one (ranges are for training)"
        )

    def pair(case: Case) -> Pictures:
        (truth,) = case.pictures()
        noisy = noise(truth, np.random.default_rng(seed))
        if stored:
            noisy = clean.scale.as_stored(noisy).astype(np.float32)
        return noisy, truth

    made = [Case(each.name, partial(pair, each)) for each in clean.cases]
    return dataclasses.replace(
        clean, roles=PAIR, cases=tuple(made), noise=noise, seed=seed, stored=stored
    )


def count_channels(collection: Collection) -> int:
    """Channels of the first picture, 1 if it is grey."""
    return int(np.prod(collection.cases[0].pictures()[0].shape[2:]))


def is_colour(collection: Collection) -> bool:
    """Whether the first picture has several channels."""
    return count_channels(collection) > 1


def made_grey(collection: Collection) -> Collection:
    """The same as luminance (ITU-R BT.709), which the title then says."""
    from skimage.color import rgb2gray

    def grey(case: Case) -> Pictures:
        return tuple(np.asarray(rgb2gray(each), np.float32) for each in case.pictures())

    made = [dataclasses.replace(each, pictures=partial(grey, each)) for each in collection.cases]
    title = f"{collection.title}, made grey"
    return dataclasses.replace(collection, title=title, cases=tuple(made))


def middle(picture: NDArray[Any], side: int) -> NDArray[Any]:
    """The middle of a picture, at most ``side`` square."""
    starts = [max(0, (length - side) // 2) for length in picture.shape[:2]]
    rows, columns = (slice(start, start + side) for start in starts)
    return picture[rows, columns]


def examine(collection: Collection) -> Collection:
    """Read every picture once, make sure that it can be scored, and fill in the digests.

    Raises:
        UserError: Says all that cannot: values that are not finite, a reference beyond black and white,
            pictures that are the same on both sides.
    """
    problems: list[str] = []
    examined = []
    for case in collection.cases:
        try:
            pictures = case.pictures()
        except UserError as error:
            problems.append(str(error))
            continue
        problems += _unfit(case.name, pictures, collection)
        digests = [hashlib.sha256(each.tobytes()).hexdigest() for each in pictures]
        digest = hashlib.sha256("".join(digests).encode()).hexdigest()
        side = min(pictures[0].shape[:2])
        examined.append(dataclasses.replace(case, digest=digest, scene=digests[-1], side=side))
    refuse(problems, f"in {collection.title}")
    return dataclasses.replace(collection, cases=tuple(examined))


def refuse(problems: Sequence[str], where: str) -> None:
    """Raise one UserError with all problems, if there are any."""
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        raise UserError("\n  ".join([f"{len(problems)} things {where} do not fit:", *problems]))


def _unfit(name: str, pictures: Pictures, collection: Collection) -> list[str]:
    problems = []
    for role, picture in zip(collection.roles, pictures, strict=True):
        bad = picture.size - int(np.isfinite(picture).sum())
        if bad:
            problems.append(f"{name}: {bad} values of the {role} image are not finite")
    scale = collection.scale
    if collection.roles == PAIR and not problems:
        low, high = (
            scale.low + scale.span * float(limit(pictures[1])) for limit in (np.min, np.max)
        )
        slack = 1e-6 * scale.span  # of float32
        if low < scale.low - slack or high > scale.high + slack:
            problems.append(
                f"{name}: the clean image goes from {low:.5g} to {high:.5g}, beyond the range "
                f"{scale.low:g} to {scale.high:g}; give one that holds it: --range LOW HIGH, in Python "
                "value_range=(low, high)"
            )
    if len(pictures) == 2 and not problems and np.array_equal(*pictures):
        problems.append(f"{name}: the {' and the '.join(collection.roles)} image are the same")
    return problems


def _find_all(given: Sequence[Source]) -> list[dict[str, str]]:
    """For each source its images' names and paths; single files belong together whatever their names.

    Endings that all names of a source share, such as ``_noisy``, do not count where names match without them.
    """
    if not all(isinstance(source, _PATH) for source in given):
        lists = [[each] if isinstance(each, _PATH) else each for each in given]
        return [{f"{i:04d}": os.fspath(path) for i, path in enumerate(each)} for each in lists]
    sources = [os.fspath(source) for source in given]  # type: ignore[arg-type]
    if not any(is_several(source) for source in sources):
        return [{find(sources[0])[0].key: source} for source in sources]
    found = [_find(source) for source in sources]
    shorter = [dict(zip(without_ending([*each]), each.values(), strict=True)) for each in found]
    return max(found, shorter, key=lambda sides: len(set.intersection(*map(set, sides))))


def _find(source: str) -> dict[str, str]:
    if not is_several(source) and not split(source)[0].exists():
        raise UserError(f"{source}: no such file or folder")
    files: dict[str, str] = {}
    for each in find_all([source]):
        if each.key in files:
            raise UserError(
                f"{source}: {Path(files[each.key]).name} and {each.file.name} are both called {each.key}; "
                f"say which is meant by a pattern, such as '*{each.file.suffix}'"
            )
        files[each.key] = each.source
    return files


def _unpaired(
    sources: Sequence[Source], roles: Roles, found: Sequence[dict[str, str]]
) -> list[str]:
    names = sorted(set().union(*found))
    problems = []
    for source, role, each in zip(sources, roles, found, strict=True):
        missing = [name for name in names if name not in each]
        if missing:
            where = source if isinstance(source, _PATH) else _short(source)
            problems.append(f"no {role} image in {where} by the name of {', '.join(missing)}")
    return problems


def _mismatched(name: str, roles: Roles, layouts: Sequence[Layout]) -> list[str]:
    problems = [
        f"{name}: the {role} image holds {layout.dtype}; expected integers or floats"
        for role, layout in zip(roles, layouts, strict=True)
        if layout.dtype.kind not in "uif"
    ]
    sizes = [_size(layout) for layout in layouts]
    if len(set(sizes)) > 1:
        said = zip(roles, sizes, strict=True)
        problems.append(
            f"{name}: " + ", ".join(f"the {role} image is {size}" for role, size in said)
        )
    return problems


def _size(layout: Layout) -> str:
    """Such as "512 x 512 pixels in colour"."""
    colours = layout.channels - layout.alpha
    kind = {1: "grey", 3: "in colour"}.get(colours, f"of {colours} channels")
    stack = f" in {layout.planes} planes" if layout.planes > 1 else ""
    return f"{layout.height} x {layout.width} pixels {kind}{stack}"


def _scale(stack: Sequence[Image], value_range: Range | None) -> Scale:
    stored = {getattr(each, "value_range", None) for each in stack}
    return _scale_of([each.layout.dtype for each in stack], stored, value_range)


def _scale_of(
    given: Sequence[np.dtype[Any]], stored: set[Range | None], value_range: Range | None
) -> Scale:
    """The given range; else that of the files; else all of an 8 or 16-bit type, or 0 to 1 for floats."""
    dtypes = sorted({each.newbyteorder("=") for each in given}, key=str)
    whole = all(dtype.kind in "ui" for dtype in dtypes)
    if value_range:
        low, high = value_range
        if not low < high or not np.isfinite([low, high]).all():
            raise UserError(f"--range {low:g} {high:g}: expected two numbers, black first")
        return Scale(low, high, whole)
    if len(dtypes) > 1 or len(stored) > 1:
        kinds = ", ".join(map(str, dtypes))
        raise UserError(
            f"images of different number types or depths ({kinds}); say which values stand for black and "
            "white in all of them: --range LOW HIGH, in Python value_range=(low, high)"
        )
    (dtype,), (own_range,) = dtypes, stored
    if own_range:
        low, high = own_range
        return Scale(float(low), float(high), whole)
    if dtype.kind == "f":
        return Scale(0, 1, False)
    if dtype.kind == "u" and dtype.itemsize <= 2:
        return Scale(0, 2.0 ** (8 * dtype.itemsize) - 1, True)
    raise UserError(
        f"images of {dtype}: say which values stand for black and white: --range LOW HIGH, in Python "
        "value_range=(low, high)"
    )


@functools.lru_cache(maxsize=4)
def _open(path: str, axes: str | None) -> Image:
    return images.open_image(path, axes=axes)


def _read(paths: Sequence[str], plane: int, axes: str | None, scale: Scale) -> Pictures:
    return tuple(scale.to_unit(_plane(_open(path, axes), plane)) for path in paths)


def _plane(image: Image, plane: int) -> NDArray[Any]:
    """One picture without its opacity: (H, W) or (H, W, C)."""
    layout = image.layout
    pixels: NDArray[Any] = image.read_rows(plane, 0, layout.height)
    pixels = pixels[..., : layout.channels - layout.alpha]
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def _short(source: Source) -> str:
    """The last two parts of a path."""
    if isinstance(source, _PATH):
        return "/".join(Path(source).parts[-2:])
    more = f" and {len(source) - 1} more" if len(source) > 1 else ""
    return f"{_short(source[0])}{more}"
