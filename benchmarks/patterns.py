"""Draw pictures of regular patterns to train on: cloth, bricks, tiles, dots, lines.

    python benchmarks/patterns.py FOLDER [--count 64] [--seed 0]

Photographs of nature hold few of them, and a denoiser that has not seen any takes fine stripes for noise. A
picture is a handful of surfaces that hide each other, each with a pattern of its own, bent as cloth is, in
light that changes slowly; it is drawn twice as large and reduced, so that edges are as soft as a lens leaves
them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

Field = NDArray[np.float64]
SIDE = 320
FINER = 2  # times that it is drawn larger
PERIODS = (2.5, 24)  # pixels of a pattern's repeat
CONTRASTS = (0.05, 0.9)  # of its bright and dark parts


def smooth_field(rng: np.random.Generator, side: int, scale: float) -> Field:
    """Noise of mean 0 and deviation 1 without detail finer than ``scale`` pixels, (side, side)."""
    coarse = max(4, int(np.ceil(3 * side / scale)))
    field = gaussian_filter(rng.normal(size=(coarse, coarse)), 1.2, mode="wrap")
    grown = Image.fromarray(field.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    values = np.asarray(grown, np.float64)
    return (values - values.mean()) / (values.std() + 1e-9)


def turned(rows: Field, columns: Field, angle: float) -> tuple[Field, Field]:
    """Coordinates along an axis at that angle to the rows, and across it."""
    return (
        columns * np.cos(angle) + rows * np.sin(angle),
        rows * np.cos(angle) - columns * np.sin(angle),
    )


def any_scale(rng: np.random.Generator, ends: tuple[float, float]) -> float:
    """A number between two, every doubling as likely."""
    return float(np.exp(rng.uniform(*np.log(ends))))


def wave(phase: Field, rng: np.random.Generator) -> Field:
    """One repeat for each step of the phase by 1: from a sine to hard bars, in [0, 1]."""
    hardness, bar = rng.choice([0.0, 3.0, 12.0]), rng.uniform(0.3, 0.7)
    sine = np.cos(2 * np.pi * phase)
    if hardness == 0:
        return (1 + sine) / 2
    return 1 / (1 + np.exp(-hardness * (sine - np.cos(np.pi * bar))))


def plaid(u: Field, v: Field, rng: np.random.Generator) -> Field:
    """Bars both ways, one over the other, and two times of three one of them alone."""
    share = rng.choice([1.0, 1.0, rng.uniform(0.3, 0.7)])
    return share * wave(u, rng) + (1 - share) * wave(v * rng.choice([0.5, 1, 2]), rng)


def checks(u: Field, v: Field, rng: np.random.Generator) -> Field:
    """A chessboard."""
    return wave(u / 2, rng) * wave(v / 2, rng) + wave(u / 2 + 0.5, rng) * wave(v / 2 + 0.5, rng)


def twill(u: Field, v: Field, rng: np.random.Generator) -> Field:
    """Slanted threads that go over and under others."""
    return wave(u + v, rng) * (0.5 + 0.5 * wave(u - v * rng.choice([1, 3]), rng))


def zigzag(u: Field, v: Field, rng: np.random.Generator) -> Field:
    """Herringbone: bars that turn back and forth."""
    return wave(u + np.abs(v / 4 % 2 - 1) * rng.uniform(1, 4), rng)


def bricks(u: Field, v: Field, rng: np.random.Generator) -> Field:
    """Stones of several greys in rows that are shifted by half a stone, with joints."""
    length = rng.uniform(1.5, 4)
    row = np.floor(u)
    along = v / length + 0.5 * (row % 2)
    stone = np.floor(along)
    joint = rng.uniform(0.06, 0.2)
    grey = 0.6 + 0.4 * np.sin(12.9898 * row + 78.233 * stone) * rng.uniform(0, 1)
    gap = (u - row < joint) | (along - stone < joint / length)
    return np.where(gap, rng.uniform(), grey)


def dots(u: Field, v: Field, rng: np.random.Generator) -> Field:
    """Round dots or holes on a grid, every second row shifted or none."""
    v = v + 0.5 * (np.floor(u) % 2) * rng.integers(2)
    distance = np.hypot(u % 1 - 0.5, v % 1 - 0.5)
    return 1 / (1 + np.exp(20 * (distance - rng.uniform(0.2, 0.4))))


def lines(u: Field, v: Field, rng: np.random.Generator) -> Field:
    """Marks in rows, each of its own length and grey, as text and books on a shelf are from afar."""
    row = np.floor(u)
    mark = np.floor(v * rng.uniform(1, 3) + 7.3 * row)
    noise = np.modf(np.abs(np.sin(127.1 * row + 311.7 * mark)) * 43758.5453)[0]
    return np.where(u - row < rng.uniform(0.4, 0.8), (noise > rng.uniform(0.2, 0.6)) * noise, 0.0)


PATTERNS = (plaid, plaid, plaid, checks, twill, zigzag, bricks, dots, lines)


def surface(rng: np.random.Generator, side: int) -> Field:
    """A surface patterned in two colours, or every fourth time a plain one, (side, side, 3)."""
    shade = 0.08 * rng.uniform(0, 2) * smooth_field(rng, side, side / 2)[..., None]
    contrast = any_scale(rng, CONTRASTS)
    ground, saturation = rng.uniform(0, 1 - contrast), 0.3 * rng.uniform() ** 2
    dark, bright = (
        grey + saturation * rng.uniform(-1, 1, 3) for grey in (ground, ground + contrast)
    )
    if rng.random() < 0.25:
        return dark + shade
    pattern = rng.choice(np.array(PATTERNS, object))(*coordinates(rng, side), rng)
    grain = 0.02 * rng.uniform() * smooth_field(rng, side, 4 * FINER)[..., None]
    return dark + (bright - dark) * pattern[..., None] + shade + grain


def coordinates(rng: np.random.Generator, side: int) -> tuple[Field, Field]:
    """Across and along a pattern, in repeats of it, turned by any angle and bent a little or much."""
    rows, columns = np.indices((side, side), dtype=np.float64)
    period = FINER * any_scale(rng, PERIODS)
    angle, bend = rng.uniform(0, np.pi), rng.uniform() ** 2 * side / 12
    rows, columns = (axis + bend * smooth_field(rng, side, side / 2) for axis in (rows, columns))
    across, along = turned(rows, columns, angle)
    return across / period + rng.uniform(), along / period + rng.uniform()


def shape(rng: np.random.Generator, side: int) -> NDArray[np.bool_]:
    """Where a surface lies: half of the picture, a blot, or a turned rectangle."""
    rows, columns = np.indices((side, side), dtype=np.float64)
    angle, row, column = rng.uniform(0, 2 * np.pi), *rng.uniform(0, side, 2)
    u, v = turned(rows - row, columns - column, angle)
    kind = rng.integers(3)
    if kind == 0:
        return u > 0
    if kind == 1:
        return smooth_field(rng, side, side / rng.uniform(2, 6)) > 0.7
    return np.maximum(np.abs(u), np.abs(v) * rng.uniform(0.3, 3)) < side * rng.uniform(0.05, 0.4)


def draw(rng: np.random.Generator, side: int = SIDE) -> NDArray[np.uint8]:
    """A picture of such surfaces, (side, side, 3)."""
    large = FINER * side
    picture = surface(rng, large)
    for _ in range(rng.integers(1, 7)):
        picture = np.where(shape(rng, large)[..., None], surface(rng, large), picture)
    means = picture.reshape(side, FINER, side, FINER, 3).mean(axis=(1, 3))
    return (255 * means.clip(0, 1)).round().astype(np.uint8)


def main() -> None:
    """Draw them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for number in range(options.count):
        picture = draw(np.random.default_rng((options.seed, number)))
        Image.fromarray(picture).save(options.folder / f"pattern_{number:03}.png")


if __name__ == "__main__":
    main()
