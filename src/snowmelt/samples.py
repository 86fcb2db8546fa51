"""What a step of training sees: batches of noisy pictures, their targets, weights and noise levels.

A batch is a function of (seed, step), a sample of (seed, step, its place in the batch): neither threads, nor
ranks, nor a restart change it. What makes a sample of a picture is in `supervision`.

Shapes: B batch, C channels, H height, W width; pictures are (B, C, H, W) float32, 0 black and 1 white.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snowmelt import cases, tiles
from snowmelt import noise as noises
from snowmelt.cases import ALONE, PAIR, Roles
from snowmelt.data import Dataset
from snowmelt.recipe import Recipe, Training
from snowmelt.sources import Pictures
from snowmelt.supervision import USUAL_LEVEL, Picture, Sample, Supervision, supervise

HELD_OUT_SIDE = 320  # of held-out pictures, only the middle is scored
MOST_HELD_OUT = 16


@dataclass(frozen=True)
class Batch:
    """Noisy pictures and what they should become, (B, C, H, W).

    ``weight`` of each error, (B, 1, H, W) or of one picture (B, 1, 1, 1); ``level``, the noise's standard
    deviation, (B, 1, H, W).
    """

    noisy: Tensor
    target: Tensor
    weight: Tensor | None = None
    level: Tensor | None = None
    whole: int = 0  # pictures in the shares of all ranks together; 0: this is all

    def __post_init__(self) -> None:
        if not self.whole:
            object.__setattr__(self, "whole", len(self.noisy))

    def __len__(self) -> int:
        return len(self.noisy)

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        moved: dict[str, Any] = {
            name: each.to(device, non_blocking=True)
            for name, each in vars(self).items()
            if isinstance(each, Tensor)
        }
        return dataclasses.replace(self, **moved)


@dataclass(frozen=True)
class Share:
    """The part of a batch that one of several ranks takes: every ``ranks``-th sample from ``rank`` on."""

    rank: int = 0
    ranks: int = 1

    def of(self, places: Any) -> Any:
        """The part of a sequence."""
        return places[self.rank :: self.ranks]


class Samples(Protocol):
    """Training pictures and held-out ones.

    Attributes:
        title: What they are called in messages and headers.
        data: Rows of the model file's header.
        channels: Of the pictures.
        value_range: The values that stand for 0 and 1; None: they are in these units.
        noise: The noise that is put on them, as text; empty where they have their own.
        steps: Steps of an epoch.
        sizes: Pictures in a batch, every size that occurs.
        slow: Whether a batch takes time to make, so that it is worth making ahead.
        sha256: Hash of all data.
        held_out: Batches to score on, of pictures in [0, 1].
        roles: What there is of each held-out picture to judge by, see `cases`.
    """

    title: str
    data: list[dict[str, Any]]
    channels: int
    value_range: tuple[float, float] | None
    noise: str
    steps: int
    sizes: tuple[int, ...]
    slow: bool
    sha256: str
    held_out: Sequence[Batch]
    roles: Roles

    @property
    def level(self) -> float | None:
        """The noise level that networks are told of all pictures; None: each has its own."""

    @property
    def told(self) -> str | None:
        """The same as `noise.parse` reads it; also where all have one noise whose level is a map."""

    def tell(self, level: float) -> None:
        """Tell networks of another level, the same for all pictures."""

    def tuning(self) -> list[cases.Pictures]:
        """Training pictures to tune filters on, of the roles."""

    def test(self) -> list[cases.Pictures]:
        """Held-out pictures to judge by, of the roles."""

    def batch(self, step: int, share: Share) -> Batch:
        """What the step sees, or this rank's share of it."""


class StackSamples:
    """Pairs of one size in memory, as one HDF5 file has them.

    Every epoch passes over every picture once in an order of its own; its last batch may be smaller. A patch
    is cut at one place from all pictures of a batch.
    """

    value_range: tuple[float, float] | None = None
    noise = ""
    channels = 1
    slow = False
    roles = PAIR

    def __init__(self, dataset: Dataset, training: Training) -> None:
        self.training, self.title, self.sha256 = training, dataset.name, dataset.sha256
        self.data: list[dict[str, Any]] = [{"name": dataset.name, "sha256": dataset.sha256}]
        self.level: float | None = USUAL_LEVEL
        self.pairs, test = (
            Batch(torch.from_numpy(part.noisy)[:, None], torch.from_numpy(part.clean)[:, None])
            for part in (dataset.train, dataset.test)
        )
        self.steps = training.steps or math.ceil(len(self.pairs) / training.batch)
        most = min(training.batch, len(self.pairs))
        self.sizes: tuple[int, ...] = (most, len(self.pairs) % most or most)
        parts = (torch.split(each, training.batch) for each in (test.noisy, test.target))
        self.held_out: Sequence[Batch] = [
            Batch(noisy, clean, level=self._levels(noisy))
            for noisy, clean in zip(*parts, strict=True)
        ]

    @property
    def told(self) -> str:
        """See `Samples`."""
        assert self.level is not None
        return _told(self.level)

    def tell(self, level: float) -> None:
        """See `Samples`."""
        self.level = level
        self.held_out = [
            dataclasses.replace(each, level=self._levels(each.noisy)) for each in self.held_out
        ]

    def _levels(self, noisy: Tensor) -> Tensor:
        assert self.level is not None
        return torch.tensor(self.level).expand_as(noisy)

    def tuning(self) -> list[cases.Pictures]:
        """See `Samples`."""
        return _as_cases([self.pairs])

    def test(self) -> list[cases.Pictures]:
        """See `Samples`."""
        return _as_cases(self.held_out)

    def batch(self, step: int, share: Share) -> Batch:
        """See `Samples`."""
        training, pairs = self.training, self.pairs
        epoch, position = divmod(step, math.ceil(len(pairs) / training.batch))
        order = np.random.default_rng((training.seed, 0, epoch)).permutation(len(pairs))
        whole = order[position * training.batch :][: training.batch]
        chosen = torch.from_numpy(share.of(whole).copy())
        noisy, target = pairs.noisy, pairs.target
        if training.patch:
            rng = np.random.default_rng((training.seed, 1, step))
            rows, columns = (
                _random_slice(length, training.patch, rng) for length in noisy.shape[2:]
            )
            noisy, target = noisy[..., rows, columns], target[..., rows, columns]
        noisy, target = noisy[chosen], target[chosen]
        if training.flips:
            turn = int(np.random.default_rng((training.seed, 2, step)).integers(8))
            noisy, target = (_turned_batch(each, turn) for each in (noisy, target))
        return Batch(noisy, target, level=self._levels(noisy), whole=len(whole))


def _turned_batch(pictures: Tensor, turn: int) -> Tensor:
    """One of the eight flips and quarter turns; of pictures that are not square one of the four that fit."""
    square = pictures.shape[2] == pictures.shape[3]
    pictures = torch.rot90(pictures, turn if square else 2 * turn, (2, 3))
    return pictures.flip(3) if turn >= 4 else pictures


def _told(level: float) -> str:
    """A level as `noise.parse` reads it."""
    return f"gaussian:{255 * level:.6g}"


def _random_slice(length: int, side: int, rng: np.random.Generator) -> slice:
    start = int(rng.integers(0, max(1, length - side + 1)))
    return slice(start, min(start + side, length))


class CropSamples:
    """Squares cut from pictures of any sizes; larger ones are taken more often, each pixel alike."""

    slow = True

    def __init__(
        self,
        supervision: Supervision,
        held_out: Supervision,
        training: Training,
        *,
        multiple: int = 1,
    ) -> None:
        pictures = supervision.pictures
        self.supervision, self.training, self.roles = supervision, training, supervision.roles
        self._held_out = held_out
        self.channels, self.noise = pictures.channels, supervision.noise
        self.value_range = None if pictures.spans_type else pictures.value_range
        self.patch = tiles.round_up(training.patch, multiple) or _common_side(pictures, multiple)
        areas = np.array([height * width for height, width in pictures.shapes], np.float64)
        self._chances = np.cumsum(areas / areas.sum())
        self.sizes: tuple[int, ...] = (training.batch,)
        self.steps = training.steps or math.ceil(areas.sum() / self.patch**2 / training.batch)
        self.title = pictures.title
        both = pictures.sha256 + held_out.pictures.sha256
        self.sha256 = hashlib.sha256(both.encode()).hexdigest()
        self.data: list[dict[str, Any]] = [
            {"name": title, "sha256": part.sha256, "pictures": len(part)}
            for title, part in (
                (self.title, pictures),
                (f"held out: {held_out.pictures.title}", held_out.pictures),
            )
        ]
        self._multiple = multiple
        self.held_out: Sequence[Batch] = self._all_held_out()

    def _all_held_out(self) -> list[Batch]:
        count = min(len(self._held_out.pictures), MOST_HELD_OUT)
        return [_stack([self._held_out_sample(index)]) for index in range(count)]

    @property
    def level(self) -> float | None:
        """See `Samples`."""
        return self.supervision.level

    @property
    def told(self) -> str | None:
        """See `Samples`."""
        if self.level is not None:
            return _told(self.level)
        fixed = self.noise and noises.is_fixed(noises.parse(self.noise))
        return self.noise if fixed else None

    def tell(self, level: float) -> None:
        """See `Samples`."""
        self.supervision.level = self._held_out.level = level
        self.held_out = self._all_held_out()

    def tuning(self) -> list[cases.Pictures]:
        """See `Samples`."""
        return _as_cases([self.batch(step, Share()) for step in range(2)])

    def test(self) -> list[cases.Pictures]:
        """See `Samples`."""
        if self.roles != ALONE:
            return _as_cases(self.held_out)
        pictures = self._held_out.pictures
        return [
            (_plain(pictures.crop(index, *_middle(pictures.shapes[index], 1))),)
            for index in range(min(len(pictures), MOST_HELD_OUT))
        ]

    def batch(self, step: int, share: Share) -> Batch:
        """See `Samples`."""
        places = range(self.training.batch)
        batch = _stack([self.sample(step, place) for place in share.of(places)])
        return dataclasses.replace(batch, whole=len(places))

    def sample(self, step: int, place: int) -> Sample:
        """The sample at a place of a step's batch."""
        rng = np.random.default_rng((self.training.seed, 1, step, place))
        index = int(self._chosen(rng.random()))
        height, width = self.supervision.pictures.shapes[index]
        rows, columns = (_random_slice(length, self.patch, rng) for length in (height, width))
        sample = self.supervision(index, rows, columns, rng)
        turn = int(rng.integers(8)) if self.training.flips else 0
        return _changed(sample, lambda picture: _turned(_padded(picture, self.patch), turn))

    def _chosen(self, drawn: float | NDArray[np.float64]) -> Any:
        """The picture, or one for each, of numbers drawn evenly from 0 to 1; each pixel is as likely."""
        return np.searchsorted(self._chances[:-1], drawn, side="right")

    def _held_out_sample(self, index: int) -> Sample:
        """The middle of a held-out picture; its sides divide by what the network needs."""
        rng = np.random.default_rng((self.training.seed, 2, index))
        supervision = self._held_out
        rows, columns = _middle(supervision.pictures.shapes[index], self._multiple)
        sample = supervision(index, rows, columns, rng)
        sides = rows.stop - rows.start, columns.stop - columns.start
        return _changed(sample, lambda picture: _padded(picture, *sides))


class Ahead:
    """Batches of the coming steps, made by threads while the network works."""

    def __init__(self, make: Callable[[int], Batch], *, threads: int) -> None:
        self._make, self._pool = make, ThreadPoolExecutor(threads)
        self._coming: dict[int, Future[Batch]] = {}
        self._count = 2 * threads

    def batch(self, step: int) -> Batch:
        """What the step sees."""
        for coming in range(step, step + self._count):
            if coming not in self._coming:
                self._coming[coming] = self._pool.submit(self._make, coming)
        for old in [each for each in self._coming if each < step]:
            self._coming.pop(old).cancel()
        return self._coming.pop(step).result()

    def close(self) -> None:
        """Stop making batches."""
        self._pool.shutdown(cancel_futures=True)


class Next:
    """Batches by step, the next one made before it is asked for: while a GPU works, its work can be sent."""

    def __init__(self, make: Callable[[int], Batch]) -> None:
        self._make = make
        self._ready: tuple[int, Batch] | None = None

    def prepare(self, step: int) -> None:
        """Make what a step will see."""
        self._ready = step, self._make(step)

    def batch(self, step: int) -> Batch:
        """What the step sees."""
        if self._ready is not None and self._ready[0] == step:
            return self._ready[1]
        return self._make(step)


def _common_side(pictures: Pictures, multiple: int) -> int:
    """Side of the largest square that every picture has, for recipes that name no patch."""
    return max(min(map(min, pictures.shapes)) // multiple * multiple, multiple)


def _middle(shape: tuple[int, int], multiple: int) -> tuple[slice, slice]:
    """Rows and columns of the middle of a picture; sides of a multiple, which may lie beyond its end."""
    height, width = (
        min(length, HELD_OUT_SIDE) // multiple * multiple or multiple for length in shape
    )
    top, left = (
        max(0, (length - side) // 2) for length, side in zip(shape, (height, width), strict=True)
    )
    return slice(top, top + height), slice(left, left + width)


def _as_cases(batches: Sequence[Batch]) -> list[cases.Pictures]:
    """Pairs of pictures (H, W) or (H, W, C)."""
    return [
        tuple(_plain(each.movedim(0, -1).numpy()) for each in pair)
        for batch in batches
        for pair in zip(batch.noisy, batch.target, strict=True)
    ]


def _plain(picture: Picture) -> Picture:
    return picture[..., 0] if picture.shape[-1] == 1 else picture


def _changed(sample: Sample, change: Callable[[Picture], Picture]) -> Sample:
    """Every picture of a sample changed alike; numbers stay."""
    parts = (sample.noisy, sample.target, sample.weight, sample.level)
    return Sample(*(change(each) if isinstance(each, np.ndarray) else each for each in parts))  # type: ignore[arg-type]


def _padded(picture: Picture, height: int, width: int | None = None) -> Picture:
    """A picture that is too small, mirrored at its lower and right border."""
    missing = (height - picture.shape[0], (width or height) - picture.shape[1])
    if missing == (0, 0):
        return picture
    return np.pad(picture, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")


def _turned(picture: Picture, turn: int) -> Picture:
    """One of the eight flips and quarter turns of a square."""
    picture = np.rot90(picture, turn % 4)
    return picture[:, ::-1] if turn >= 4 else picture


def _stack(samples: Sequence[Sample]) -> Batch:
    """Samples of one size as a batch."""
    weighted = any(isinstance(each.weight, np.ndarray) or each.weight != 1 for each in samples)
    return Batch(
        _tensor([each.noisy for each in samples]),
        _tensor([each.target for each in samples]),
        _tensor([_picture(each.weight) for each in samples]) if weighted else None,
        _tensor([_level(each) for each in samples]),
    )


def _picture(value: float | Picture) -> Picture:
    return value if isinstance(value, np.ndarray) else np.full((1, 1, 1), value, np.float32)


def _level(sample: Sample) -> Picture:
    """The noise level as one plane: the root of its mean square over the channels."""
    level = np.broadcast_to(np.asarray(sample.level, np.float32), sample.noisy.shape)
    return np.sqrt(np.square(level).mean(axis=-1, keepdims=True))


def _tensor(pictures: Sequence[Picture]) -> Tensor:
    """(H, W, C) each, together (B, C, H, W)."""
    return torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2).copy())


def prepare(
    recipe: Recipe, dataset: Callable[[], Dataset], *, conditioned: bool, multiple: int
) -> Samples:
    """What a recipe trains on; ``dataset`` reads its one file of pairs, where that is what it names.

    Raises:
        UserError: Files are missing, do not fit together, or the recipe does not say what to learn from them.
    """
    data, training = recipe.data, recipe.training
    if not data.own:
        return StackSamples(dataset(), training)
    learnt, held_out = supervise(data, training.seed, conditioned)
    return CropSamples(learnt, held_out, training, multiple=multiple)
