"""The user's own photos with Gaussian noise on them, as the tutorial does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snowmelt import images
from snowmelt.errors import UserError

SIDE = 128  # pixels
ORIGINAL, SECOND_TAKE, AS_IT_CAME = "original", "second take", "as it came"
DEFAULTS = ("camera.png", "chelsea.png", "coffee.png")  # of scikit-image's package


@dataclass(frozen=True)
class NoisyPhoto:
    """A picture with its noised twin, each (H, W) or (H, W, 3) float32 in [0, 1]; ``level`` of the noise.

    ``reference`` says what ``clean`` really is: the original, a second take, or the noisy picture itself as
    it came, ``noisy`` being what the network was given of it.
    """

    name: str
    noisy: NDArray[np.float32]
    clean: NDArray[np.float32]
    level: float | NDArray[np.float32] = 0.0
    reference: str = ORIGINAL


def default_photos() -> tuple[str, ...]:
    """Paths of three photos that come with scikit-image."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    return tuple(str(folder / name) for name in DEFAULTS)


def read_photos(paths: Sequence[str], *, variance: float, seed: int) -> list[NoisyPhoto]:
    """Read photos as grey 128 x 128 pictures and put Gaussian noise on them.

    The noise is `skimage.util.random_noise`'s: its ``variance`` is in units of [0, 1] (0.01 is sigma
    25.5 of 255) and the result is clipped. Photo ``i`` gets the noise of ``(seed, i)``.

    Raises:
        UserError: A file is not an image of one plane that can be read.
    """
    from skimage.util import random_noise

    photos = []
    for index, path in enumerate(paths):
        clean = read_grey(Path(path), side=SIDE)
        rng = np.random.default_rng((seed, index))
        noisy = random_noise(clean, mode="gaussian", var=variance, clip=True, rng=rng)
        photos.append(NoisyPhoto(Path(path).stem, noisy.astype(np.float32), clean, variance**0.5))
    return photos


def read_grey(path: Path, *, side: int) -> NDArray[np.float32]:
    """Read an image as grey, resized to (side, side) float32 in [0, 1] with anti-aliasing."""
    from skimage.color import rgb2gray
    from skimage.transform import resize

    image = images.open_image(path)
    layout = image.layout
    if layout.planes != 1 or layout.dtype.kind not in "uf":
        raise UserError(
            f"{path}: {layout.axes} {layout.shape} of {layout.dtype}; a photo is one picture of unsigned "
            "integers, or of floating-point numbers within [0, 1]"
        )
    pixels = image.read_rows(0, 0, layout.height)
    if layout.alpha:
        pixels = pixels[..., :-1]
    white = 2 ** (8 * layout.dtype.itemsize) - 1 if layout.dtype.kind == "u" else 1
    scaled = pixels.astype(np.float32) / np.float32(white)
    grey = rgb2gray(scaled) if scaled.shape[-1] == 3 else scaled.mean(axis=-1)
    return np.clip(resize(grey, (side, side), anti_aliasing=True), 0, 1).astype(np.float32)
