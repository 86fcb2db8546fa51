"""Supervision: how a picture becomes an example to learn from, and what is learnt from it.

Pairs and two noisy takes have a target of their own, clean pictures get noise, and noisy pictures alone are
recorrupted or have pixels hidden. The trainer knows none of this.

Shapes: C channels, H height, W width; pictures are (H, W, C) float32, 0 black and 1 white.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from snowmelt import levels, sources
from snowmelt import noise as noises
from snowmelt.cases import ALONE, PAIR, TAKES, Roles
from snowmelt.errors import UserError
from snowmelt.levels import Line
from snowmelt.looks import spread
from snowmelt.noise import Noise
from snowmelt.recipe import Data
from snowmelt.sources import Paired, Pictures

Picture = NDArray[np.float32]
# Added to a noise level before a squared error is divided by it: without noise the error is not zero.
LEAST_LEVEL = 0.01
USUAL_LEVEL = 25 / 255  # that a network is told of noise whose level nobody knows
RECORRUPTION = (0.3, 1.0)  # range of the part of new noise that is added
SPOT = 8
TRIED = 16  # pictures that tell the level of all, where more than half are within
AGREE = 0.2  # of their median


@dataclass(frozen=True)
class Sample:
    """A crop (H, W, C) of what the network sees, its target, the weight of its errors, its noise level."""

    noisy: Picture
    target: Picture
    weight: float | Picture = 1.0
    level: float | Picture = 0.0


class Supervision(Protocol):
    """Makes samples of pictures.

    Attributes:
        pictures: Those that samples are cut from.
        noise: That is put on them, as text.
        roles: What there is of each picture to judge by: noisy and clean, two takes, or noisy alone.
        level: The noise level that is told of all pictures; None: each sample has its own.
    """

    pictures: Pictures
    noise: str
    roles: Roles
    level: float | None

    def __call__(self, index: int, rows: slice, columns: slice, rng: np.random.Generator) -> Sample:
        """A sample of a part of a picture."""


class Noised:
    """Clean pictures; noise is made anew for every sample.

    The squared error is divided by the noise's standard deviation, so that all strengths count alike.
    Networks are told the level where it can be said of a picture to be denoised, too. Beforehand a part of
    the samples, ``resized``, is made so many times as large, by a factor out of the range ``resize``.
    """

    roles = PAIR

    def __init__(
        self,
        pictures: Pictures,
        noise: Noise,
        *,
        resize: tuple[float, ...] = (),
        resized: float = 0.5,
    ) -> None:
        self.pictures, self.noise, self.kind = pictures, str(noise), noise
        self.resize, self.resized = resize, resized
        drawn = noises.draw(noise, np.random.default_rng(0))
        self.level: float | None = None if isinstance(drawn, levels.KINDS) else USUAL_LEVEL

    def __call__(self, index: int, rows: slice, columns: slice, rng: np.random.Generator) -> Sample:
        """See `Supervision`."""
        if self.resize and rng.random() < self.resized:
            factor = math.exp(rng.uniform(*np.log(self.resize)))
            clean = self.resized_crop(index, rows, columns, factor)
        else:
            clean = self.pictures.crop(index, rows, columns)
        noise = noises.draw(self.kind, rng)
        noisy = noise(clean, rng)
        told = noises.level(noise, clean) if self.level is None else self.level
        strength = math.sqrt(np.square(noisy - clean).mean(dtype=np.float64))
        weight = 1 / (strength + LEAST_LEVEL)
        assert told is not None
        return Sample(noisy, clean, weight, told)

    def resized_crop(self, index: int, rows: slice, columns: slice, factor: float) -> Picture:
        """As many pixels of the picture made ``factor`` times as large, or as small as it can be."""
        shape = self.pictures.shapes[index]
        sides = rows.stop - rows.start, columns.stop - columns.start
        least = max(side / length for side, length in zip(sides, shape, strict=True))
        source = (
            _scaled(part, length, max(factor, least))
            for part, length in zip((rows, columns), shape, strict=True)
        )
        bands = torch.from_numpy(self.pictures.crop(index, *source).transpose(2, 0, 1).copy())
        return changed_size(bands[None], *sides)[0].permute(1, 2, 0).numpy()


def _scaled(part: slice, length: int, factor: float) -> slice:
    """What becomes as long as a part of ``length`` pixels when made larger; every place is as likely."""
    side = part.stop - part.start
    needed = min(max(round(side / factor), 1), length)
    start = round(part.start * (length - needed) / max(length - side, 1))
    return slice(start, start + needed)


def changed_size(pictures: Tensor, height: int, width: int) -> Tensor:
    """Pictures (B, C, H, W) of another size, by cubic interpolation, smoothed where they get smaller."""
    resized = functional.interpolate(pictures, (height, width), mode="bicubic", antialias=True)
    return resized.clamp(0, 1)


def _mean_level(level: float | Picture) -> float:
    return float(np.sqrt(np.square(level, dtype=np.float64).mean()))


class Levels:
    """The noise level of noisy pictures, measured on a few of them.

    Where these agree, all get the median, which is better than what each tells alone: fine texture passes for
    noise and hides it. Else each picture is measured when it is first asked for.
    """

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures
        places = spread(len(pictures), TRIED)
        self._lines = {place: self._measured(place) for place in places}
        self.found = [line for line in self._lines.values() if not line.is_zero(slice(None))]
        self._common = _agreed(self.found) if self.most_have_noise else None

    @property
    def most_have_noise(self) -> bool:
        """Whether noise can be told from fine detail in most of the few."""
        return len(self.found) > len(self._lines) / 2

    def __call__(self, index: int) -> Line:
        """The level of a picture."""
        if self._common is not None:
            return self._common
        if index not in self._lines:
            self._lines[index] = self._measured(index)
        return self._lines[index]

    def _measured(self, index: int) -> Line:
        return levels.of_pixels(self._pictures.whole(index), 0, 1)


def _agreed(lines: Sequence[Line]) -> Line | None:
    """The median of lines, channel by channel, where most are close to it in grey."""
    gains, floors, least = (
        np.median([getattr(line, part) for line in lines], axis=0)
        for part in ("gain", "floor", "least")
    )
    common = Line(tuple(map(float, gains)), tuple(map(float, floors)), float(least))
    flat = np.full((1, 1, len(common.gain)), 0.5, np.float32)
    ratios = np.array([line.on(flat).item() / common.on(flat).item() for line in lines])
    return common if np.mean(np.abs(ratios - 1) < AGREE) > 0.5 else None


class Twins:
    """Noisy pictures, each with its target: a clean one, or another noisy take of the same."""

    noise = ""

    def __init__(self, paired: Paired, roles: Roles = PAIR) -> None:
        self.pictures, self.targets, self.roles = paired.noisy, paired.target, roles
        self.level: float | None = USUAL_LEVEL

    def __call__(self, index: int, rows: slice, columns: slice, rng: np.random.Generator) -> Sample:
        """See `Supervision`."""
        del rng
        noisy = self.pictures.crop(index, rows, columns)
        assert self.level is not None
        return Sample(noisy, self.targets.crop(index, rows, columns), level=self.level)


class Recorrupted:
    """Noisy pictures alone, of measured Gaussian or photon noise: each makes two of independent noises.

    Where y is noisy and z is new noise of the same level, y + a z and y - z / a share no noise (Pang et al.,
    CVPR 2021; of photons with z as `levels.Line.draw` makes it): a network learns from them as from two
    takes, of a level that is higher by the root of 1 + a^2. Here ``a`` is another for every sample, and the
    network is told the level, so that it learns what to do at the lower one of the pictures themselves. That
    level is measured on y + a z alone: of y, smoothed, it would give away what is to be predicted.
    """

    noise = ""
    roles = ALONE

    def __init__(self, pictures: Pictures, measured: Levels) -> None:
        self.pictures, self._levels = pictures, measured
        self.level: float | None = None

    def __call__(self, index: int, rows: slice, columns: slice, rng: np.random.Generator) -> Sample:
        """See `Supervision`."""
        noisy = self.pictures.crop(index, rows, columns)
        line, part = self._levels(index), rng.uniform(*RECORRUPTION)
        new = line.draw(noisy, part, rng)
        seen = noisy + part * new
        level = line.on(seen)[..., None]
        # The target's noise is of variance level^2 (1 + 1 / a^2): the less it has, the more it counts.
        weight = part**2 / (1 + part**2) / (_mean_level(level) + LEAST_LEVEL)
        return Sample(seen, noisy - new / part, weight, level * math.sqrt(1 + part**2))


class BlindSpot:
    """Noisy pictures alone, of noise that differs from pixel to pixel: some are hidden and to be guessed.

    One pixel of every square of ``SPOT`` pixels takes the value of a neighbour, and only there the error
    counts (Noise2Void: Krull et al., CVPR 2019).
    """

    noise = ""
    roles = ALONE

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures
        self.level: float | None = USUAL_LEVEL

    def __call__(self, index: int, rows: slice, columns: slice, rng: np.random.Generator) -> Sample:
        """See `Supervision`."""
        noisy = self.pictures.crop(index, rows, columns)
        y, x = _spots(noisy.shape[0], noisy.shape[1], rng)
        place = rng.integers(1, 25, len(y)) + 12  # in the 5 x 5 around it, any but the middle
        down, across = place // 5 % 5 - 2, place % 5 - 2
        hidden = noisy.copy()
        hidden[y, x] = noisy[
            _mirrored(y + down, noisy.shape[0]), _mirrored(x + across, noisy.shape[1])
        ]
        weight = np.zeros((*noisy.shape[:2], 1), np.float32)
        weight[y, x] = noisy[..., 0].size / len(y)
        assert self.level is not None
        return Sample(hidden, noisy, weight, self.level)


def _mirrored(places: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Places outside, mirrored at the first or the last one."""
    return length - 1 - np.abs(length - 1 - np.abs(places))


def _spots(
    height: int, width: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of one pixel in every whole square."""
    corners = np.mgrid[0 : height - SPOT + 1 : SPOT, 0 : width - SPOT + 1 : SPOT].reshape(2, -1)
    y, x = corners + rng.integers(0, SPOT, corners.shape)
    return y, x


def supervise(data: Data, seed: int, conditioned: bool) -> tuple[Supervision, Supervision]:
    """What is trained on and what is held out.

    Raises:
        UserError: Files are missing, do not fit together, or the recipe does not say what to learn from them.
    """
    if data.clean and not data.noisy:
        return _noised(data, seed)
    if data.noise:
        raise UserError(
            f"data.noise = {data.noise!r} is for clean pictures alone; leave it or --noisy out"
        )
    if not (data.clean or data.noisy_too):
        return _alone(data, seed, conditioned)
    if data.clean and data.noisy_too:
        raise UserError(
            "noisy pictures have one target: clean ones (--clean) or other takes of the same (--noisy-too); "
            "leave one of the two out"
        )
    paired = sources.pair(_open(data.noisy, data), _open(data.clean or data.noisy_too, data))
    sources.check_pairs(paired, target_is_clean=bool(data.clean), sizes_only=not data.check)
    train, held_out = sources.split_pairs(paired, held_out=data.held_out, seed=seed)
    roles = PAIR if data.clean else TAKES
    return Twins(train, roles), Twins(held_out, roles)


def _noised(data: Data, seed: int) -> tuple[Supervision, Supervision]:
    if not data.noise:
        raise UserError(
            "clean pictures alone need noise to learn from; say which: --noise gaussian:0-55, or give the "
            "noisy ones too: --noisy"
        )
    noise = noises.parse(data.noise)
    train, held_out = sources.split_pictures(
        _open(data.clean, data), held_out=data.held_out, seed=seed
    )
    learnt, judged = (
        Noised(part, noise, resize=data.resize, resized=data.resized) for part in (train, held_out)
    )
    return learnt, judged


def _alone(data: Data, seed: int, conditioned: bool) -> tuple[Supervision, Supervision]:
    """Noisy pictures without a target."""
    pictures = _open(data.noisy, data)
    train, held_out = sources.split_pictures(pictures, held_out=data.held_out, seed=seed)
    way = data.self_supervision
    if way == "blind-spot" or (way == "auto" and not conditioned):
        return BlindSpot(train), BlindSpot(held_out)
    if not conditioned:
        raise UserError(
            'data.self_supervision = "recorrupted" needs a network that is told the noise level, such as unet'
        )
    measured = Levels(train)
    if way == "auto" and not measured.most_have_noise:
        return BlindSpot(train), BlindSpot(held_out)
    if measured.most_have_noise:
        return Recorrupted(train, measured), Recorrupted(held_out, Levels(held_out))
    raise UserError(
        f'data.self_supervision = "recorrupted": in most of {train.title} no noise can be told from fine '
        'detail; use "blind-spot"'
    )


def _open(texts: Sequence[str], data: Data) -> Pictures:
    low_high = (data.range[0], data.range[1]) if data.range else None
    return sources.open_pictures(
        texts, axes=data.axes or None, value_range=low_high, grey=data.grey
    )
