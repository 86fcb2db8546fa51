"""The README's picture: four crops at 200%, above with noise, below as `snowmelt denoise` returns them.

    python benchmarks/before_after.py docs/images/before-after.jpg

Photographs that come with scikit-image, noise of one seed, clipped and stored as 8 bits; the models that
ship, which measure the level.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage import data

import snowmelt
from snowmelt.noise import Gaussian

CROPS = {  # top, left, sigma of 255
    "astronaut": (20, 170, 25),
    "chelsea": (80, 130, 25),
    "coffee": (60, 170, 40),
    "camera": (100, 170, 25),
}
SIDE, ZOOM, GAP = 150, 2, 8


def main() -> None:
    columns = [_column(getattr(data, name)(), *where) for name, where in CROPS.items()]
    gap = np.full((columns[0].shape[0], GAP, 3), 255, np.uint8)
    row = np.concatenate([part for each in columns for part in (each, gap)][:-1], axis=1)
    Image.fromarray(row).save(sys.argv[1], quality=92)


def _column(clean: NDArray[np.uint8], top: int, left: int, sigma: float) -> NDArray[Any]:
    noisy = Gaussian(sigma / 255)((clean / 255).astype(np.float32), np.random.default_rng(0))
    stored = np.rint(255 * np.clip(noisy, 0, 1)).astype(np.uint8)
    denoised = snowmelt.load()(stored, channel_axis=-1 if stored.ndim == 3 else None)
    gap = np.full((GAP, ZOOM * SIDE, 3), 255, np.uint8)
    return np.concatenate([_crop(stored, top, left), gap, _crop(denoised, top, left)])


def _crop(image: NDArray[np.uint8], top: int, left: int) -> NDArray[np.uint8]:
    part = image[top : top + SIDE, left : left + SIDE]
    colour = np.stack([part] * 3, -1) if part.ndim == 2 else part
    return colour.repeat(ZOOM, 0).repeat(ZOOM, 1)


if __name__ == "__main__":
    main()
