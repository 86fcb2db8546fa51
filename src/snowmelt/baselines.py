"""The classical filters to be held against: each a function of an image and one parameter.

An untuned filter is no opponent: `tune` finds each one's best parameter on training images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snowmelt.metrics import psnr

Picture = NDArray[np.float32]
Denoise = Callable[[Picture], Picture]


@dataclass(frozen=True)
class Filter:
    """A classical filter: ``apply(image, parameter)`` on (H, W) in [0, 1], and the parameters to try."""

    apply: Callable[[Picture, float], Picture]
    parameter: str
    values: tuple[float, ...]


def gaussian(image: Picture, sigma: float) -> Picture:
    """Gaussian blur of ``sigma`` pixels."""
    from scipy import ndimage

    return np.asarray(ndimage.gaussian_filter(image, sigma))


def median(image: Picture, size: float) -> Picture:
    """Median of a square of ``size`` x ``size`` pixels (Tukey, 1977)."""
    from scipy import ndimage

    return np.asarray(ndimage.median_filter(image, int(size)))


def non_local_means(image: Picture, h: float) -> Picture:
    """Non-local means (Buades et al., 2005), patches of 5 within 11 pixels, cut-off distance ``h``."""
    from skimage.restoration import denoise_nl_means

    filtered = denoise_nl_means(image, patch_size=5, patch_distance=5, h=h, fast_mode=True)
    return np.asarray(filtered, np.float32)


def total_variation(image: Picture, weight: float) -> Picture:
    """Total variation (Rudin et al., 1992) by Chambolle's algorithm (2004)."""
    from skimage.restoration import denoise_tv_chambolle

    return np.asarray(denoise_tv_chambolle(image, weight=weight), np.float32)


FILTERS: Mapping[str, Filter] = {
    "Gaussian blur": Filter(gaussian, "sigma", (0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0)),
    "median": Filter(median, "size", (3, 5, 7, 9)),
    "non-local means": Filter(
        non_local_means, "h", (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.14, 0.17, 0.2, 0.3)
    ),
    "total variation": Filter(
        total_variation, "weight", (0.01, 0.02, 0.04, 0.07, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4)
    ),
}


@dataclass(frozen=True)
class Tuned:
    """A filter with its best parameter."""

    name: str
    filter: Filter
    value: float

    def __call__(self, image: Picture) -> Picture:
        """Denoise one picture."""
        return self.filter.apply(image, self.value)

    @property
    def label(self) -> str:
        """Such as "median (size 3)"."""
        return f"{self.name} ({self.filter.parameter} {self.value:g})"


def tune(
    noisy: Sequence[Picture], clean: Sequence[Picture], *, filters: Mapping[str, Filter] = FILTERS
) -> list[Tuned]:
    """Find the parameter of each filter with the highest mean PSNR on these (training) pictures."""
    return [Tuned(name, each, _best(each, noisy, clean)) for name, each in filters.items()]


def _best(each: Filter, noisy: Sequence[Picture], clean: Sequence[Picture]) -> float:
    def score(value: float) -> float:
        return float(
            np.mean(
                [
                    psnr(truth, np.clip(each.apply(image, value), 0, 1), data_range=1)
                    for image, truth in zip(noisy, clean, strict=True)
                ]
            )
        )

    return max(each.values, key=score)
