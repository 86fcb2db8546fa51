"""Whether a colour photograph has the noise of a camera's JPEG: judged by the residual of a denoiser.

Cameras smooth noise and JPEG thins it. What remains is coarse and faint, and the level estimator, which
learnt from simulated cameras, misses a part of it. So where it finds little, the bundled `fast` denoises a
sample of the image twice, at two noise levels, and a linear discriminant of five features of the residuals
decides:

- At twice the level the residual of noise is little larger, that of texture much larger.
- Where the image is flat, the residual is larger than what is left.
- The residual's colours are coarse: neighbours are much alike. Its brightness was smoothed by less: next
  neighbours are alike, those two pixels apart little.

Shapes: H height, W width; images are (H, W, 3), 0 black and 1 white, blocks (N, SIDE, SIDE).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Picture: TypeAlias = NDArray[np.float32]
# Takes an image and a noise level in parts of the range.
Denoise: TypeAlias = Callable[[Picture, float], Picture]

MODEL = "fast-colour"  # the bundled model whose residuals are judged; the weights below are fitted to it
SIDE = 16  # of a block in pixels
FEWEST = 20  # blocks that can be judged
DARKEST, BRIGHTEST = 8 / 255, 247 / 255  # mean of a block that shows noise unclipped
TRIAL = 10 / 255  # the first noise level; the second is twice that
FLATTEST = 0.1  # part of the blocks
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
LEAST = 1e-5  # instead of nothing, in ratios
FAINTEST = 0.5 / 255  # noise that can be seen where an image is flat
# Weights of a linear discriminant, fitted to PolyU's noisy images against clean ones (BSDS500, CBSD68):
# docs/experiments/2026-11-24-camera-noise-classifier.md.
WEIGHTS, NONE = (-8.24, 1.18, 42.07, 15.44, -16.94), -41.39
# The level for the least score and for that of ENOUGH.
WEAKEST, STRONGEST, ENOUGH = 4 / 255, 10 / 255, 2.0


@dataclass(frozen=True)
class Traces:
    """Features of the residuals.

    Attributes:
        more: How many times as large the residual is at twice the level.
        rest: In the flattest blocks, the residual over what is left, both as standard deviations.
        coarse: Correlation between neighbours of the residual's colours there.
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
        """What the score is a weighted sum of."""
        return math.log(max(1.0, self.more)), math.log(self.rest), self.coarse, self.near, self.far

    @property
    def score(self) -> float:
        """Above 0 where this is a camera's noise rather than fine texture."""
        return float(np.dot(WEIGHTS, self.features)) + NONE


def camera_level(pixels: Picture, denoise: Denoise) -> float:
    """The noise level for a camera's image (H, W, 3); 0 where no such noise is seen."""
    traces = measure(pixels, denoise)
    return 0.0 if traces is None else level_of(traces.score)


def level_of(score: float) -> float:
    """The level that grows with the score, up to what suits most cameras' images."""
    part = min(1.0, score / ENOUGH)
    return WEAKEST + part * (STRONGEST - WEAKEST) if part > 0 else 0.0


def measure(pixels: Picture, denoise: Denoise) -> Traces | None:
    """The features of an image (H, W, 3); None where they cannot be seen.

    That is where too few blocks are neither black nor white, or the residual of the flattest is too faint.
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
