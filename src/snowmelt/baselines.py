"""The classical filters to compare with: each a function of an image and one parameter.

An untuned filter is no fair baseline: `tune` finds each one's best parameter.
Images are (H, W) or (H, W, C) float32, 0 black and 1 white.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snowmelt.errors import UserError, nearest

Picture = NDArray[np.float32]
Denoise = Callable[[Picture], Picture]


def gaussian(image: Picture, sigma: float) -> Picture:
    """Gaussian blur of ``sigma`` pixels."""
    from scipy import ndimage

    return np.asarray(ndimage.gaussian_filter(image, _over_pixels(image, sigma, 0)))


def median(image: Picture, size: float) -> Picture:
    """Median of a square of ``size`` x ``size`` pixels (Tukey, 1977), channel by channel."""
    from scipy import ndimage

    return np.asarray(ndimage.median_filter(image, _over_pixels(image, int(size), 1)))


def non_local_means(image: Picture, sigma: float) -> Picture:
    """Non-local means (Buades et al., 2005) for noise of ``sigma``: patches of 5 within 11 pixels.

    The cut-off distance is 0.6 sigma; the part of the noise in the distances is subtracted.
    """
    from skimage.restoration import denoise_nl_means

    filtered = denoise_nl_means(
        image,
        patch_size=5,
        patch_distance=5,
        h=0.6 * sigma,
        sigma=sigma,
        fast_mode=True,
        channel_axis=_channel_axis(image),
    )
    return np.asarray(filtered, np.float32).reshape(image.shape)


def total_variation(image: Picture, weight: float) -> Picture:
    """Total variation (Rudin et al., 1992) by Chambolle's algorithm (2004), channel by channel."""
    from skimage.restoration import denoise_tv_chambolle

    filtered = denoise_tv_chambolle(image, weight=weight, channel_axis=_channel_axis(image))
    return np.asarray(filtered, np.float32)


def wavelet(image: Picture, sigma: float) -> Picture:
    """BayesShrink (Chang et al., 2000) with Daubechies wavelets; RGB goes through YCbCr."""
    from skimage.restoration import denoise_wavelet

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of images too small for two levels
        filtered = denoise_wavelet(
            image,
            sigma=sigma,
            wavelet="db2",
            rescale_sigma=True,
            channel_axis=_channel_axis(image),
            convert2ycbcr=image.ndim == 3 and image.shape[-1] == 3,
        )
    return np.asarray(filtered, np.float32)


def bm3d(image: Picture, sigma: float) -> Picture:
    """BM3D (Dabov et al., 2007) by its authors' package, which a user may have installed."""
    package: Any = importlib.import_module("bm3d")
    colour = image.ndim == 3 and image.shape[-1] == 3
    filtered = (package.bm3d_rgb if colour else package.bm3d)(image, sigma)
    return np.asarray(filtered, np.float32).reshape(image.shape)


def _over_pixels(image: Picture, value: float, channel: float) -> tuple[float, ...]:
    """The value for rows and columns, ``channel`` for the channels where there are some."""
    return (value, value, channel)[: image.ndim]


def _channel_axis(image: Picture) -> int | None:
    return -1 if image.ndim == 3 else None


@dataclass(frozen=True)
class Filter:
    """A classical filter: ``apply(image, parameter)``, and where to search for the best parameter.

    Attributes:
        title: What it is called in tables.
        apply: The function.
        parameter: Its name.
        values: Parameters to try first.
        relative: Whether they are multiples of the noise's standard deviation.
        finer: Whether to search between them too; if not, they are whole numbers.
    """

    title: str
    apply: Callable[[Picture, float], Picture]
    parameter: str
    values: tuple[float, ...]
    relative: bool = True
    finer: bool = True


def _from(first: float, count: int) -> tuple[float, ...]:
    return tuple(first * RATIO**i for i in range(count))


RATIO = 1.5  # between values tried first; then less and less on both sides of the best
FILTERS: Mapping[str, Filter] = {
    "gaussian": Filter("Gaussian blur", gaussian, "sigma", _from(0.25, 9), relative=False),
    "median": Filter("median", median, "size", (3, 5, 7, 9), relative=False, finer=False),
    "nlm": Filter("non-local means", non_local_means, "sigma", _from(0.25, 7)),
    "tv": Filter("total variation", total_variation, "weight", _from(0.2, 9)),
    "wavelet": Filter("wavelets, BayesShrink", wavelet, "sigma", _from(0.3, 6)),
    "bm3d": Filter("BM3D", bm3d, "sigma", (0.8, 1.0, 1.25), finer=False),
}
ALWAYS_THERE = tuple(name for name in FILTERS if name != "bm3d")


def choose(names: Iterable[str], known: Iterable[str] = ()) -> dict[str, Filter]:
    """The filters of these names; ``known`` are all that a message may suggest.

    Raises:
        UserError: An unknown name, or "bm3d" where its package is not installed.
    """
    chosen = {}
    for name in names:
        if name not in FILTERS:
            raise UserError(f"filter {name!r}: no such filter; {nearest(name, known or FILTERS)}")
        chosen[name] = FILTERS[name]
    if "bm3d" in chosen and importlib.util.find_spec("bm3d") is None:
        raise UserError(
            "filter 'bm3d': its package is not installed, and Snowmelt does not bring it: its licence is "
            "non-commercial. If your use is non-commercial, pip install bm3d; if not, leave it out"
        )
    return chosen


@dataclass(frozen=True)
class Tuned:
    """A filter with its best parameter."""

    filter: Filter
    value: float

    def __call__(self, image: Picture) -> Picture:
        """Denoise one picture."""
        return self.filter.apply(image, self.value)

    @property
    def label(self) -> str:
        """Such as "median (size 3)"."""
        return f"{self.filter.title} ({self.filter.parameter} {self.value:.3g})"


def tune(loss: Callable[[Denoise], float], noise: float, each: Filter) -> Tuned:
    """Find a filter's parameter with the lowest loss; ``noise`` is roughly its standard deviation."""
    return Tuned(each, _best(each, loss, noise))


def _best(each: Filter, loss: Callable[[Denoise], float], noise: float) -> float:
    losses: dict[float, float] = {}

    def try_all(values: Iterable[float]) -> float:
        losses.update({value: loss(Tuned(each, value)) for value in values})
        return min(losses, key=losses.__getitem__)

    unit = max(noise, 1e-4) if each.relative else 1
    best = try_all([value * unit for value in each.values])
    for power in (0.5, 0.25, 0.125) if each.finer else ():
        best = try_all([best / RATIO**power, best * RATIO**power])
    return best
