"""PSNR and SSIM, with the data range always given, and the protocol that a score carries with it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

SSIM_WINDOW = 11  # pixels; the 11 x 11 Gaussian window of Wang et al. (2004)


def psnr(clean: ArrayLike, image: ArrayLike, *, data_range: float) -> float:
    """Peak signal-to-noise ratio in dB: ``10 log10(data_range² / mean squared error)``; inf if equal.

    Args:
        clean: The truth, any shape.
        image: What is compared with it, the same shape.
        data_range: Distance between the values for black and white, such as 1.0 or 255.

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
