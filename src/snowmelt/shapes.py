"""The tutorial's synthetic pictures: grey triangles, rectangles and circles on white, with noise.

One HDF5 file holds the noisy (`*_ns`) and clean (`*_gt`) pictures. The noise is Gaussian and clipped to
[0, 1]; since the background is white, half of it is cut off there, and the noisy pictures stand at about
19.0 dB and not at the 17.0 dB that a variance of 0.02 would give unclipped.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snowmelt.files import replacing

KINDS = ("triangle", "rectangle", "circle")
GREY_LEVELS = (77, 191)  # 0.3 to 0.75 of 255
SIDES = (10, 40)  # pixels; with 10 to 20 shapes they cover about a quarter of the picture
TRAIN, TEST, SIZE, VARIANCE = 512, 32, 128, 0.02


def draw(rng: np.random.Generator, *, size: int = SIZE) -> NDArray[np.float32]:
    """Draw 10 to 20 shapes of grey 0.3 to 0.75 on white: (size, size) float32 in [0, 1]."""
    from skimage.draw import random_shapes

    counts = rng.multinomial(rng.integers(10, 21), [1 / len(KINDS)] * len(KINDS))
    picture = np.full((size, size), 255, np.uint8)
    for kind, count in zip(KINDS, counts, strict=True):
        layer, _ = random_shapes(
            (size, size),
            min_shapes=count,
            max_shapes=count,
            min_size=min(SIDES[0], size),
            max_size=min(SIDES[1], size),
            num_channels=1,
            intensity_range=GREY_LEVELS,
            shape=kind,
            allow_overlap=True,
            rng=rng,
        )
        picture = np.where(layer[..., 0] < 255, layer[..., 0], picture)
    return (picture / np.float32(255)).astype(np.float32)


def make_pairs(count: int, *, seed: int, first: int = 0) -> tuple[NDArray[np.float32], ...]:
    """Make ``count`` pictures: noisy and clean, each (count, 128, 128) float32 in [0, 1].

    Picture ``i`` depends on ``(seed, first + i)`` alone.
    """
    from skimage.util import random_noise

    noisy = np.empty((count, SIZE, SIZE), np.float32)
    clean = np.empty_like(noisy)
    for i in range(count):
        rng = np.random.default_rng((seed, first + i))
        clean[i] = draw(rng)
        noisy[i] = random_noise(clean[i], mode="gaussian", var=VARIANCE, clip=True, rng=rng)
    return noisy, clean


def write_dataset(path: Path, *, seed: int = 0) -> None:
    """Write the whole data set, 512 training and 32 test pairs: 71.3 MB, the same bytes for a seed."""
    import h5py

    parts = {"train": (TRAIN, 0), "test": (TEST, TRAIN)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, h5py.File(part, "w") as file:
        for name, (count, first) in parts.items():
            noisy, clean = make_pairs(count, seed=seed, first=first)
            file[f"{name}_ns"], file[f"{name}_gt"] = noisy, clean
