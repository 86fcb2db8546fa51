"""PSNR and SSIM with an explicit data range, paired confidence intervals, and autocorrelation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

SSIM_WINDOW = 11  # pixels; the 11 x 11 Gaussian window of Wang et al. (2004)
SSIM_VARIANT = (
    "Wang et al. 2004: 11 x 11 Gaussian window of sigma 1.5, population covariance, windows inside the "
    "image only, mean over channels"
)
DRAWS = 10_000
CONFIDENCE = 0.95


def psnr(clean: ArrayLike, image: ArrayLike, *, data_range: float) -> float:
    """Peak signal-to-noise ratio in dB: ``10 log10(data_range² / mean squared error)``; inf if equal.

    Args:
        clean: The reference, any shape; all channels go into one mean.
        image: The image to compare with it, of the same shape.
        data_range: Distance between black and white, such as 1.0 or 255.

    Raises:
        ValueError: The shapes differ.
    """
    truth, other = _same_shape(clean, image)
    error = float(np.mean((truth - other) ** 2))
    return math.inf if error == 0 else 10 * math.log10(data_range**2 / error)


def ssim(
    clean: ArrayLike, image: ArrayLike, *, data_range: float, channel_axis: int | None = None
) -> float:
    """Structural similarity (Wang et al., 2004): 1 for equal images.

    An 11 x 11 Gaussian window of sigma 1.5, population covariance, mean over the pixels whose window lies
    inside the image and over the channels. This is the papers' SSIM; scikit-image's default (a 7 x 7
    box) reads differently.

    Raises:
        ValueError: The shapes differ, or the image is smaller than the window.
    """
    from skimage.metrics import structural_similarity

    truth, other = _same_shape(clean, image)
    sides = [
        n
        for axis, n in enumerate(truth.shape)
        if channel_axis is None or axis != channel_axis % truth.ndim
    ]
    if min(sides) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs sides of {SSIM_WINDOW} pixels or more; found {truth.shape}")
    return float(
        structural_similarity(
            truth,
            other,
            data_range=data_range,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            channel_axis=channel_axis,
        )
    )


def _same_shape(
    clean: ArrayLike, image: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    truth, other = np.asarray(clean, np.float64), np.asarray(image, np.float64)
    if truth.shape != other.shape:
        raise ValueError(f"images to compare differ in shape: {truth.shape} and {other.shape}")
    return truth, other


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds of its 95% interval; the bounds are NaN where there is a single scene."""

    mean: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """Half of its width: the y of x ± y."""
        return (self.high - self.low) / 2


def paired_interval(
    ours: Sequence[float], theirs: Sequence[float], scenes: Sequence[object], *, seed: int = 0
) -> Interval:
    """Mean of ``ours - theirs`` over the images, with a bootstrap interval (percentiles, DRAWS draws).

    Scenes are resampled, each with all its images: several exposures of one scene carry little more
    information than one, and resampling images would make the interval too narrow.
    """
    # Two infinite PSNRs (both images equal the reference) differ by 0.
    differences = np.array([0.0 if a == b else a - b for a, b in zip(ours, theirs, strict=True)])
    number = {scene: i for i, scene in enumerate(dict.fromkeys(scenes))}
    where = [number[scene] for scene in scenes]
    sums, counts = np.bincount(where, differences), np.bincount(where)
    infinite = differences[np.isinf(differences)]
    if infinite.size:  # an output equals its reference; there is no interval around infinity
        return Interval(float(infinite[0]), math.nan, math.nan)
    mean = float(differences.mean())
    if len(number) < 2:
        return Interval(mean, math.nan, math.nan)
    drawn = np.random.default_rng(seed).integers(len(number), size=(DRAWS, len(number)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return Interval(mean, float(low), float(high))


def autocorrelation(field: ArrayLike, lags: int = 12) -> NDArray[np.float64]:
    """Correlation of a field (H, W) with itself shifted by up to ``lags`` rows and columns; 1 in the middle.

    Each value is a mean over the pixels that overlap. White noise of N pixels gives values of standard
    deviation 1 / sqrt(N) around 0. A constant field gives zeros.
    """
    values = np.asarray(field, np.float64)
    height, width = values.shape
    rows, columns = min(lags, height - 1), min(lags, width - 1)
    size = (height + rows, width + columns)  # zeros beyond the edge: nothing comes round
    spectrum = np.fft.rfft2(values - values.mean(), size)
    products = np.fft.irfft2(np.abs(spectrum) ** 2, size)
    down, right = np.arange(-rows, rows + 1), np.arange(-columns, columns + 1)
    overlap = np.outer(height - np.abs(down), width - np.abs(right))
    means = products[np.ix_(down, right)] / overlap
    variance = means[rows, columns]
    rounding = (1e-7 * np.abs(values).max()) ** 2
    return means / variance if variance > rounding else np.zeros_like(means)


@dataclass(frozen=True)
class Peak:
    """The strongest autocorrelation at any shift but none, and that shift in rows and columns."""

    value: float
    down: int
    right: int

    def __str__(self) -> str:
        return f"{self.value:+.2f} ({self.down}, {self.right})"


def find_peak(correlation: ArrayLike) -> Peak:
    """The strongest value of an `autocorrelation` outside its middle."""
    values = np.asarray(correlation, np.float64)
    rows, columns = (length // 2 for length in values.shape)
    middle = values.size // 2
    half = np.abs(values).ravel()[middle + 1 :]  # the first half is its mirror image
    if not half.any():
        return Peak(0.0, 0, 0)
    down, right = np.unravel_index(int(np.argmax(half)) + middle + 1, values.shape)
    return Peak(float(values[down, right]), int(down) - rows, int(right) - columns)
