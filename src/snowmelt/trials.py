"""Noise told from texture by what a network takes away on trial, where measuring alone cannot.

**White noise** on texture all over (foliage, gravel) leaves `levels` in doubt: both are fine. A network that
is told the level in doubt takes noise away everywhere alike, but little of texture, and that unevenly.

**A camera's noise**: cameras smooth it and JPEG thins it. In the highest frequencies, where `diagnosis`
measures, nothing is left of it, and in the lower ones its strength does not tell it from texture. A network
that knows white noise takes both away, but not alike:

- Told twice as much, it takes little more of noise, and much more of texture.
- Where a picture is flat, it takes more of noise than it leaves of the picture.
- Colours of a camera's noise are coarse: what it takes of neighbours is much the same. Its brightness was
  smoothed by less: next neighbours share most of it, those two pixels apart little.

Shapes: H height, W width; pictures are (H, W, C), 0 black and 1 white, blocks (N, SIDE, SIDE).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from snowmelt.levels import Line

Picture: TypeAlias = NDArray[np.float32]
# Takes a picture and a level in parts of the range.
Denoise: TypeAlias = Callable[[Picture, float], Picture]

JUDGE = "fast"  # the model that ships whose results are judged; the weights below are fitted to it
SIDE = 16  # of a block in pixels
FEWEST = 20  # blocks that can be judged
DARKEST, BRIGHTEST = 8 / 255, 247 / 255  # mean of a block that shows noise unclipped

# Of white noise in colours, a block that loses little (one in ten loses less) loses nearly as much as the
# middle one, and neighbours share none of it. In grey, texture may be as even; but less of it is taken.
EVEN, SHARED = 0.85, 0.03
GREY_MOST, GREY_SHARED = 0.6, -0.15

TRIAL = 10 / 255  # the level that is told on trial for a camera's noise, then twice that
FLATTEST = 0.1  # part of the blocks
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
LEAST = 1e-5  # instead of nothing, in ratios
FAINTEST = 0.5 / 255  # noise that can be seen where a picture is flat
# Weights of a linear discriminant, fitted by benchmarks/camera_level.py; docs/denoise.md says how good it is.
WEIGHTS, NONE = (-8.24, 1.18, 42.07, 15.44, -16.94), -41.39
# The level for the least evidence and for that of ENOUGH.
WEAKEST, STRONGEST, ENOUGH = 4 / 255, 10 / 255, 2.0
ORIGIN = "estimated; it is coarse, as cameras leave it"


@dataclass(frozen=True)
class Traces:
    """What a network leaves and takes on trial.

    Attributes:
        more: How many times as much it takes when it is told twice the level.
        rest: In the flattest blocks, what it takes over what it leaves, both as standard deviations.
        coarse: Correlation between neighbours of what it takes of the colours there.
        near: The same of the brightness.
        far: The same, two pixels apart.
    """

    more: float
    rest: float
    coarse: float
    near: float
    far: float

    @property
    def features(self) -> tuple[float, ...]:
        """What the evidence is a weighted sum of."""
        return math.log(max(1.0, self.more)), math.log(self.rest), self.coarse, self.near, self.far

    @property
    def evidence(self) -> float:
        """Above 0 where this is a camera's noise rather than fine texture."""
        return float(np.dot(WEIGHTS, self.features)) + NONE


def judge(measured: Line, channels: slice, pixels: Callable[[], Picture], denoise: Denoise) -> Line:
    """The level of an image after a trial of these channels, if measuring left it undecided.

    Args:
        measured: The level of all channels.
        channels: The one, or three, that a network takes at a time.
        pixels: All channels of a part of the image, (H, W, C); asked for where there is a trial.
        denoise: The network JUDGE for so many channels.
    """
    believed = measured.without_doubt(channels)
    colour = len(measured.floor[channels]) == len(LUMA)
    faint = colour and measured.at(0.5, channels) < WEAKEST
    if believed is measured and not faint:
        return measured
    picture = pixels()[..., channels]
    if not np.isfinite(picture).all():
        return measured
    if believed is not measured and is_white(picture, believed.at(0.5, channels), denoise):
        return believed
    found = camera_level(picture, denoise) if faint else 0.0
    return Line((0.0,) * 3, (found**2,) * 3, origin=ORIGIN) if found else measured


def is_white(pixels: Picture, level: float, denoise: Denoise) -> bool:
    """Whether white noise of this level is in a picture (H, W, C), and not just texture."""
    taken = pixels - denoise(pixels, level)
    usable = _usable(_all_blocks(pixels))
    if len(usable) < FEWEST:
        return False
    blocks = _all_blocks(taken)[usable]
    least, middle = np.quantile(blocks.std((1, 2)), (0.1, 0.5))
    shared = _neighbours(blocks)
    if pixels.shape[-1] != len(LUMA):
        return bool(middle > GREY_MOST * level and shared < GREY_SHARED)
    return bool(least > EVEN * middle and shared < SHARED)


def camera_level(pixels: Picture, denoise: Denoise) -> float:
    """The level to tell a network of a camera's picture (H, W, 3); 0 where no such noise is seen."""
    traces = measure(pixels, denoise)
    return 0.0 if traces is None else told(traces.evidence)


def told(evidence: float) -> float:
    """The level that grows with the evidence, up to what suits most cameras' pictures."""
    part = min(1.0, evidence / ENOUGH)
    return WEAKEST + part * (STRONGEST - WEAKEST) if part > 0 else 0.0


def measure(pixels: Picture, denoise: Denoise) -> Traces | None:
    """What a network leaves and takes; None where that cannot be seen.

    That is where too few blocks are neither black nor white, or too little is taken of the flattest.
    """
    left = denoise(pixels, TRIAL)
    once, twice = pixels - left, pixels - denoise(pixels, 2 * TRIAL)
    grey = _grey(once)
    blocks_left, blocks, blocks_twice = map(_blocks, (_grey(left), grey, _grey(twice)))
    usable = _usable(blocks_left)
    if len(usable) < FEWEST:
        return None
    structure, taken, taken_twice = (
        each[usable].std((1, 2)) for each in (blocks_left, blocks, blocks_twice)
    )
    order = np.argsort(structure)[: round(FLATTEST * len(usable))]
    faint = float(np.median(taken[order]))
    if faint < FAINTEST:
        return None
    flattest = usable[order]
    colours = [_blocks(once[..., place] - grey)[flattest] for place in (0, 2)]
    return Traces(
        more=float(np.median(taken_twice) / np.median(taken)),
        rest=faint / max(float(np.median(structure[order])), LEAST),
        coarse=_neighbours(np.concatenate(colours)),
        near=_neighbours(blocks[flattest]),
        far=_neighbours(blocks[flattest], distance=2),
    )


def _grey(picture: Picture) -> Picture:
    brightness: Picture = picture @ LUMA
    return brightness


def _blocks(plane: Picture) -> Picture:
    """(H, W) cut into (N, SIDE, SIDE)."""
    rows, columns = (length // SIDE for length in plane.shape)
    whole = plane[: rows * SIDE, : columns * SIDE]
    return whole.reshape(rows, SIDE, columns, SIDE).swapaxes(1, 2).reshape(-1, SIDE, SIDE)


def _all_blocks(pixels: Picture) -> Picture:
    return np.concatenate([_blocks(plane) for plane in np.moveaxis(pixels, -1, 0)])


def _usable(blocks: Picture) -> NDArray[np.intp]:
    """Places of blocks that are neither black nor white."""
    brightness = blocks.mean((1, 2))
    return np.flatnonzero((brightness > DARKEST) & (brightness < BRIGHTEST))


def _neighbours(blocks: Picture, distance: int = 1) -> float:
    """Correlation at a distance, not centred: what is larger than a block is coarse, too."""
    power = float(np.square(blocks).mean()) + LEAST**2
    down = blocks[:, distance:] * blocks[:, :-distance]
    across = blocks[:, :, distance:] * blocks[:, :, :-distance]
    return float(down.mean() + across.mean()) / (2 * power)
