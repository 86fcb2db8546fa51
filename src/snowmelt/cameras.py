"""Noise as cameras store it, judged by what a network takes away.

Cameras smooth noise and JPEG thins it: in the highest frequencies, where `diagnosis` measures, nothing is
left of it, and in the lower ones its strength does not tell it from fine texture. A network that knows white
noise takes both away, but not alike, when it is told a level on trial:

- Told twice as much, it takes little more of noise, and much more of texture.
- Where a picture is flat, it takes more of noise than it leaves of the picture.
- Colours of a camera's noise are coarse: what it takes of neighbours is much the same.

Shapes: H height, W width; pictures are (H, W, 3), 0 black and 1 white, blocks (N, SIDE, SIDE).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Picture: TypeAlias = NDArray[np.float32]

JUDGE = "fast"  # the model that ships whose results are judged; the weights below are fitted to it
TRIAL = 10 / 255  # the level that it is told on trial, then twice that
SIDE = 16  # of a block in pixels
FEWEST = 20  # blocks that can be judged
FLATTEST = 0.1  # part of them
DARKEST, BRIGHTEST = 8 / 255, 247 / 255  # mean of a block that shows noise unclipped
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
LEAST = 1e-5  # instead of nothing, in ratios
FAINTEST = 0.5 / 255  # noise that can be seen where a picture is flat
# Weights of a linear discriminant, fitted by benchmarks/camera_level.py; docs/denoise.md says how good it is.
WEIGHTS, NONE = (-8.43, 1.8, 33.53), -28.49
# The level for the least evidence and for that of ENOUGH.
WEAKEST, STRONGEST, ENOUGH = 4 / 255, 10 / 255, 1.0
ORIGIN = "estimated; it is coarse, as cameras leave it"


@dataclass(frozen=True)
class Traces:
    """What a network leaves and takes on trial.

    Attributes:
        more: How many times as much it takes when it is told twice the level.
        rest: In the flattest blocks, what it takes over what it leaves, both as standard deviations.
        coarse: Correlation between neighbours of what it takes of the colours there.
    """

    more: float
    rest: float
    coarse: float

    @property
    def features(self) -> tuple[float, float, float]:
        """What the evidence is a weighted sum of."""
        return math.log(max(1.0, self.more)), math.log(self.rest), self.coarse

    @property
    def evidence(self) -> float:
        """Above 0 where this is a camera's noise rather than fine texture."""
        return float(np.dot(WEIGHTS, self.features)) + NONE


def level(pixels: Picture, denoise: Callable[[Picture, float], Picture]) -> float:
    """The level to tell a network of a camera's picture; 0 where its noise is not told from texture.

    Args:
        pixels: (H, W, 3), all finite.
        denoise: Takes a picture and a noise level, both in parts of the range.
    """
    traces = measure(pixels, denoise)
    return 0.0 if traces is None else told(traces.evidence)


def told(evidence: float) -> float:
    """The level that grows with the evidence, up to what suits most cameras' pictures."""
    part = min(1.0, evidence / ENOUGH)
    return WEAKEST + part * (STRONGEST - WEAKEST) if part > 0 else 0.0


def measure(pixels: Picture, denoise: Callable[[Picture, float], Picture]) -> Traces | None:
    """What a network leaves and takes; None where that cannot be seen.

    That is where too few blocks are neither black nor white, or too little is taken of the flattest.
    """
    left = denoise(pixels, TRIAL)
    once, twice = pixels - left, pixels - denoise(pixels, 2 * TRIAL)
    blocks = _blocks(_grey(left))
    brightness = blocks.mean((1, 2))
    usable = np.flatnonzero((brightness > DARKEST) & (brightness < BRIGHTEST))
    if len(usable) < FEWEST:
        return None
    structure, taken, taken_twice = (
        _blocks(_grey(each))[usable].std((1, 2)) for each in (left, once, twice)
    )
    flattest = np.argsort(structure)[: round(FLATTEST * len(usable))]
    faint = float(np.median(taken[flattest]))
    if faint < FAINTEST:
        return None
    colours = [_blocks(once[..., place] - _grey(once))[usable[flattest]] for place in (0, 2)]
    return Traces(
        more=float(np.median(taken_twice) / np.median(taken)),
        rest=faint / max(float(np.median(structure[flattest])), LEAST),
        coarse=_neighbours(np.concatenate(colours)),
    )


def _grey(picture: Picture) -> Picture:
    brightness: Picture = picture @ LUMA
    return brightness


def _blocks(plane: Picture) -> Picture:
    """(H, W) cut into (N, SIDE, SIDE)."""
    rows, columns = (length // SIDE for length in plane.shape)
    whole = plane[: rows * SIDE, : columns * SIDE]
    return whole.reshape(rows, SIDE, columns, SIDE).swapaxes(1, 2).reshape(-1, SIDE, SIDE)


def _neighbours(blocks: Picture) -> float:
    """Correlation at a distance of one, not centred: what is larger than a block is coarse, too."""
    power = float(np.square(blocks).mean()) + LEAST**2
    down, across = blocks[:, 1:] * blocks[:, :-1], blocks[:, :, 1:] * blocks[:, :, :-1]
    return float(down.mean() + across.mean()) / (2 * power)
