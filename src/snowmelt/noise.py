"""Noise to put on clean images: small functions ``noise(clean, rng) -> noisy``, and a parser for their names.

The values are those of the image, 0 black and 1 white. Nothing is clipped: a sensor does, the published
protocols do not, and noise that was clipped is no longer of mean zero. (`skimage.util.random_noise` clips
unless it is told not to, and takes a variance: its 0.01 is ``Gaussian(0.1)`` here, "gaussian:25.5".)

As text, noise is a kind and its numbers: "gaussian:25", "poisson:30", "poisson-gaussian:30:5", "speckle:0.2",
"salt-and-pepper:0.05". Standard deviations are in levels of 255 there, as in the papers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from snowmelt.errors import UserError, nearest

Picture = NDArray[np.float32]
LEVELS = (
    255  # of text; 255 of them are the distance from black to white, whatever the image's depth
)
FORMS = {
    "gaussian": "gaussian:SIGMA, its standard deviation in levels of 255, such as gaussian:25",
    "poisson": "poisson:PEAK, photons where the image is white, such as poisson:30",
    "poisson-gaussian": "poisson-gaussian:PEAK:SIGMA, photons at white and read noise in levels of 255",
    "speckle": "speckle:SIGMA, a standard deviation as a part of the value, such as speckle:0.2",
    "salt-and-pepper": "salt-and-pepper:AMOUNT, the part of the values that is lost, such as 0.05",
}


class Noise(Protocol):
    """Any of the kinds below. ``str(noise)`` is the text that `parse` reads."""

    def __call__(self, clean: NDArray[Any], rng: np.random.Generator) -> Picture:
        """A noisy copy of an image of any shape, in its values 0 black and 1 white; not clipped."""


@dataclass(frozen=True)
class Gaussian:
    """Added noise of standard deviation ``sigma``, the same everywhere."""

    sigma: float

    def __post_init__(self) -> None:
        _check("sigma", self.sigma)

    def __call__(self, clean: NDArray[Any], rng: np.random.Generator) -> Picture:
        """See `Noise`."""
        # In float64, so that a seed gives the numbers that other implementations of the protocol get.
        return (clean + rng.normal(0, self.sigma, clean.shape)).astype(np.float32)

    def __str__(self) -> str:
        return f"gaussian:{self.sigma * LEVELS:.6g}"


@dataclass(frozen=True)
class Poisson:
    """Counted photons, ``peak`` of them on average where the image is white; black has no noise."""

    peak: float

    def __post_init__(self) -> None:
        _check("peak", self.peak, positive=True)

    def __call__(self, clean: NDArray[Any], rng: np.random.Generator) -> Picture:
        """See `Noise`; values below 0 count as 0."""
        photons = rng.poisson(np.clip(clean, 0, None).astype(np.float64) * self.peak)
        return (photons / self.peak).astype(np.float32)

    def __str__(self) -> str:
        return f"poisson:{self.peak:.6g}"


@dataclass(frozen=True)
class PoissonGaussian:
    """Counted photons (see `Poisson`) and read noise of standard deviation ``sigma``."""

    peak: float
    sigma: float

    def __post_init__(self) -> None:
        _check("peak", self.peak, positive=True)
        _check("sigma", self.sigma)

    def __call__(self, clean: NDArray[Any], rng: np.random.Generator) -> Picture:
        """See `Noise`."""
        return Gaussian(self.sigma)(Poisson(self.peak)(clean, rng), rng)

    def __str__(self) -> str:
        return f"poisson-gaussian:{self.peak:.6g}:{self.sigma * LEVELS:.6g}"


@dataclass(frozen=True)
class Speckle:
    """Each value multiplied by one of mean 1 and standard deviation ``sigma``."""

    sigma: float

    def __post_init__(self) -> None:
        _check("sigma", self.sigma)

    def __call__(self, clean: NDArray[Any], rng: np.random.Generator) -> Picture:
        """See `Noise`."""
        return (clean * rng.normal(1, self.sigma, clean.shape)).astype(np.float32)

    def __str__(self) -> str:
        return f"speckle:{self.sigma:.6g}"


@dataclass(frozen=True)
class SaltAndPepper:
    """A part ``amount`` of the values lost, half of them to black and half to white."""

    amount: float

    def __post_init__(self) -> None:
        _check("amount", self.amount)
        if self.amount > 1:
            raise UserError(f"salt and pepper of amount {self.amount:g}: expected a part, 0 to 1")

    def __call__(self, clean: NDArray[Any], rng: np.random.Generator) -> Picture:
        """See `Noise`; a colour's channels are lost one by one."""
        drawn = rng.random(clean.shape)
        noisy = np.where(drawn < self.amount / 2, 0, clean)
        return np.where(drawn >= 1 - self.amount / 2, 1, noisy).astype(np.float32)

    def __str__(self) -> str:
        return f"salt-and-pepper:{self.amount:.6g}"


_KINDS: Mapping[str, tuple[Callable[..., Noise], tuple[float, ...]]] = {
    "gaussian": (Gaussian, (LEVELS,)),
    "poisson": (Poisson, (1,)),
    "poisson-gaussian": (PoissonGaussian, (1, LEVELS)),
    "speckle": (Speckle, (1,)),
    "salt-and-pepper": (SaltAndPepper, (1,)),
}


def parse(text: str) -> Noise:
    """Read noise from text such as "gaussian:25"; FORMS says which there are, and in which units.

    Raises:
        UserError: An unknown kind, not as many numbers as it takes, or one that makes no sense.
    """
    name, *numbers = text.strip().lower().split(":")
    if name not in _KINDS:
        raise UserError(f"noise {text!r}: no such kind; {nearest(name, FORMS)}")
    make, units = _KINDS[name]
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        values = []
    if len(values) != len(units):
        raise UserError(f"noise {text!r}: expected {FORMS[name]}")
    return make(*(value / unit for value, unit in zip(values, units, strict=True)))


def _check(name: str, value: float, *, positive: bool = False) -> None:
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        least = "more than 0" if positive else "0 or more"
        raise UserError(f"noise with a {name} of {value:g}: expected {least}")
