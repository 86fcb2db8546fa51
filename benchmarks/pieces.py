"""Cut photographs into pieces to train on: reduced, full of detail, and without noise.

    python benchmarks/pieces.py PHOTOS FOLDER [--reduce 2] [--side 360]

Sharp small pictures come of large soft ones: reducing hides the sensor's noise and JPEG's traces. Sky and
water teach little; such pieces are left out, and so are those where noise is measured, as `snowmelt denoise`
does it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from snowmelt import levels

Pixels = NDArray[np.uint8]
KINDS = (".jpg", ".jpeg")
DETAIL = 5.0  # least mean difference of neighbours, of 255; 9 in 10 pictures of BSDS500 have it
NOISE = 2 / 255  # most that is measured, in middle grey


def pieces(picture: Image.Image, reduce: int, side: int) -> Iterator[Pixels]:
    """The pieces (side, side, 3) of a photograph that are worth learning from, row by row, centred."""
    pixels = np.asarray(picture.convert("RGB").reduce(reduce))
    height, width = pixels.shape[:2]
    for row in range(height % side // 2, height - side + 1, side):
        for column in range(width % side // 2, width - side + 1, side):
            piece = pixels[row : row + side, column : column + side]
            if detail(piece) >= DETAIL and noise(piece) <= NOISE:
                yield piece


def detail(pixels: Pixels) -> float:
    """How much the brightness of neighbours differs, of 255, in the mean."""
    grey = np.asarray(Image.fromarray(pixels).convert("L"), np.float32)
    return float(np.mean([np.abs(np.diff(grey, axis=axis)).mean() for axis in (0, 1)]))


def noise(pixels: Pixels) -> float:
    """The level that is measured in middle grey; 0 where it cannot be told from texture."""
    return levels.of_pixels(pixels, 0, 255).at(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--reduce", type=int, default=2)
    parser.add_argument("--side", type=int, default=360)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    files = sorted(path for path in options.photos.iterdir() if path.suffix.lower() in KINDS)
    for path in tqdm(files, disable=None):
        with Image.open(path) as picture:
            for number, piece in enumerate(pieces(picture, options.reduce, options.side)):
                Image.fromarray(piece).save(options.folder / f"{path.stem}_{number}.png")


if __name__ == "__main__":
    main()
