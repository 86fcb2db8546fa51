"""Noise to put on clean images: small functions ``noise(clean, rng) -> noisy``, and a parser for their names.

The values are those of the image, 0 black and 1 white. Nothing is clipped but by `Camera`: a sensor does, the
published protocols do not, and noise that was clipped is no longer of mean zero.
(`skimage.util.random_noise` clips unless it is told not to, and takes a variance: its 0.01 is
``Gaussian(0.1)`` here, "gaussian:25.5".)

As text, noise is a kind and its numbers: "gaussian:25", "poisson:30", "poisson-gaussian:30:5", "speckle:0.2",
"salt-and-pepper:0.05", "camera:2000:1:0.5:2:95". Standard deviations are in levels of 255 there, as in the
papers. Several kinds may be added up, "poisson:30+gaussian:5", and for training a number may be a range,
"gaussian:0-55", of which each picture gets another.
"""

from __future__ import annotations

import io
import re
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
# What any image could need, and float32 can hold: deviations in units of the range (or pixels), photons.
MOST, PEAKS = 1000.0, (1e-3, 1e12)
GAMMA = 2.2  # of displays: value = light ** (1 / GAMMA)
GAINS = (2.0, 1.0, 1.6)  # of red, green and blue, for daylight to be white: common among cameras
# Bilinear interpolation of a Bayer mosaic: of green from the sides, of red and blue from the corners too.
SIDES = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]], np.float32) / 4
CORNERS = np.array([[1, 0, 1], [0, 0, 0], [1, 0, 1]], np.float32) / 4
FORMS = {
    "gaussian": "gaussian:SIGMA, its standard deviation in levels of 255, such as gaussian:25",
    "poisson": "poisson:PEAK, photons where the image is white, such as poisson:30",
    "poisson-gaussian": "poisson-gaussian:PEAK:SIGMA, photons at white and read noise in levels of 255",
    "speckle": "speckle:SIGMA, a standard deviation as a part of the value, such as speckle:0.2",
    "salt-and-pepper": "salt-and-pepper:AMOUNT, the part of the values that is lost, such as 0.05",
    "camera": "camera:PEAK:SIGMA:BLUR:COLOURS:QUALITY, photons at white, read noise in levels of 255, the "
    "camera's smoothing of brightness and of colours in pixels, the quality of its JPEG, such as "
    "camera:2000:1:0.5:2:95",
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
        _check("peak", self.peak, peak=True)

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
        _check("peak", self.peak, peak=True)
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


@dataclass(frozen=True)
class Camera:
    """Photons and read noise as a camera's JPEG shows them.

    They are counted in linear light behind a Bayer mosaic, amplified to white balance, interpolated to three
    colours, smoothed, clipped, put on the display's curve and compressed. Only the noise goes through mosaic
    and smoothing: the picture stays as sharp as it is. Grey pictures have no mosaic.
    (The way of Brooks et al., "Unprocessing Images for Learned Raw Denoising", CVPR 2019, made short.)

    Attributes:
        peak: Photons at white in the green pixels.
        sigma: Standard deviation of the read noise, as a part of white in linear light.
        blur: Standard deviation of a Gaussian that smooths the noise's brightness, in pixels.
        colours: The same of its colours, which cameras smooth farther.
        quality: Pillow's quality of the JPEG, up to 100.
    """

    peak: float
    sigma: float
    blur: float
    colours: float
    quality: float

    def __post_init__(self) -> None:
        _check("peak", self.peak, peak=True)
        for name in ("sigma", "blur", "colours", "quality"):
            _check(name, getattr(self, name))
        if not 1 <= self.quality <= 100:
            raise UserError(f"a JPEG of quality {self.quality:g}: expected 1 to 100")

    def __call__(self, clean: NDArray[Any], rng: np.random.Generator) -> Picture:
        """See `Noise`; the picture is (H, W) or (H, W, C), and three channels are red, green and blue."""
        if clean.ndim not in (2, 3):
            raise UserError(
                f"camera noise on an array of shape {clean.shape}: expected one picture"
            )
        bands = clean[..., np.newaxis] if clean.ndim == 2 else clean
        light = np.clip(bands, 0, 1).astype(np.float32) ** np.float32(GAMMA)
        gains = np.array(GAINS if bands.shape[2] == 3 else [1], np.float32)
        grains = rng.standard_normal(light.shape, np.float32)
        grains *= np.sqrt(light * gains / np.float32(self.peak) + (self.sigma * gains) ** 2)
        if bands.shape[2] == 3:
            grains = _demosaicked(grains, rng)
        seen = np.clip(light + self._smoothed(grains), 0, 1) ** np.float32(1 / GAMMA)
        return _through_jpeg(seen, round(self.quality), rng).reshape(clean.shape)

    def _smoothed(self, grains: Picture) -> Picture:
        """The noise after the camera's own filter."""
        from scipy.ndimage import gaussian_filter

        grey = grains.mean(2, keepdims=True)
        colours = gaussian_filter(grains - grey, (self.colours, self.colours, 0))
        smooth: Picture = gaussian_filter(grey, (self.blur, self.blur, 0)) + colours
        return smooth

    def __str__(self) -> str:
        numbers = (self.peak, self.sigma * LEVELS, self.blur, self.colours, self.quality)
        return ":".join(["camera", *(f"{number:.6g}" for number in numbers)])


def _demosaicked(grains: Picture, rng: np.random.Generator) -> Picture:
    """Noise (H, W, 3) of which a pixel of a Bayer mosaic keeps one colour and gets two from neighbours."""
    from scipy.ndimage import convolve

    y, x = rng.integers(2, size=2)
    masks = np.zeros((3, 2, 2), np.float32)
    masks[0, y, x] = masks[2, 1 - y, 1 - x] = masks[1, y, 1 - x] = masks[1, 1 - y, x] = 1
    tiles = [-(-length // 2) for length in grains.shape[:2]]
    found = np.empty_like(grains)
    for colour, weights in enumerate((SIDES + CORNERS, SIDES, SIDES + CORNERS)):
        mask = np.tile(masks[colour], tiles)[: grains.shape[0], : grains.shape[1]]
        convolve(grains[..., colour] * mask, weights, found[..., colour], mode="mirror")
    return found


def _through_jpeg(picture: Picture, quality: int, rng: np.random.Generator) -> Picture:
    """A picture (H, W, C) stored as JPEG, one channel at a time or three as colours, and read back.

    The blocks of 8 pixels begin anywhere. Colours are stored as sharp as they are: a network that sees them
    at half the resolution learns to sharpen them.
    """
    from PIL import Image

    before = rng.integers(8, size=2)
    padded = np.pad(picture, [(before[0], 0), (before[1], 0), (0, 0)], mode="edge")
    stored = np.round(padded * LEVELS).astype(np.uint8)
    parts = [stored] if stored.shape[2] == 3 else list(np.moveaxis(stored, 2, 0))
    decoded = []
    for part in parts:
        file = io.BytesIO()
        Image.fromarray(part).save(file, "JPEG", quality=quality, subsampling=0)
        decoded.append(np.asarray(Image.open(file)).reshape(*part.shape[:2], -1))
    whole = np.concatenate(decoded, 2)[before[0] :, before[1] :]
    return whole.astype(np.float32) / np.float32(LEVELS)


@dataclass(frozen=True)
class Sum:
    """Several noises, each put on what the one before left."""

    parts: tuple[Noise, ...]

    def __call__(self, clean: NDArray[Any], rng: np.random.Generator) -> Picture:
        """See `Noise`."""
        noisy = clean.astype(np.float32)
        for part in self.parts:
            noisy = part(noisy, rng)
        return noisy

    def __str__(self) -> str:
        return "+".join(map(str, self.parts))


COUNTED: tuple[Callable[..., Noise], ...] = (Poisson, PoissonGaussian, Camera)  # peak comes first


@dataclass(frozen=True)
class Drawn:
    """Noise whose numbers are drawn anew for every picture, evenly between ``low`` and ``high``.

    Counts of photons are drawn evenly in stops: as often between 100 and 200 as between 200 and 400.
    """

    make: Callable[..., Noise]
    low: tuple[float, ...]
    high: tuple[float, ...]
    text: str

    def __post_init__(self) -> None:
        self.make(*self.low), self.make(*self.high)
        if any(low > high for low, high in zip(self.low, self.high, strict=True)):
            raise UserError(f"noise {self.text!r}: expected ranges from low to high, such as 0-55")

    def __call__(self, clean: NDArray[Any], rng: np.random.Generator) -> Picture:
        """See `Noise`."""
        return self.draw(rng)(clean, rng)

    def draw(self, rng: np.random.Generator) -> Noise:
        """One of them."""
        parts = rng.random(len(self.low))
        numbers = [
            low + part * (high - low)
            for low, high, part in zip(self.low, self.high, parts, strict=True)
        ]
        if self.make in COUNTED:
            numbers[0] = self.low[0] * (self.high[0] / self.low[0]) ** parts[0]
        return self.make(*map(float, numbers))

    def __str__(self) -> str:
        return self.text


def is_fixed(noise: Noise) -> bool:
    """Whether all numbers are given, none of them as a range."""
    if isinstance(noise, Sum):
        return all(map(is_fixed, noise.parts))
    return not isinstance(noise, Drawn)


def draw(noise: Noise, rng: np.random.Generator) -> Noise:
    """The noise for one picture, with numbers where ranges were."""
    if isinstance(noise, Sum):
        return Sum(tuple(draw(part, rng) for part in noise.parts))
    return noise.draw(rng) if isinstance(noise, Drawn) else noise


def level(noise: Noise, clean: NDArray[Any]) -> float | Picture | None:
    """Standard deviation of fixed noise on a clean image, one or one for each value; None: it has none.

    Of a sum, the root of the sum of squares, as if each part were put on the clean image.
    """
    match noise:
        case Gaussian(sigma):
            return sigma
        case Poisson(peak):
            return np.sqrt(_photons(clean) / np.float32(peak))
        case PoissonGaussian(peak, sigma):
            return np.sqrt(_photons(clean) / np.float32(peak) + np.float32(sigma**2))
        case Speckle(sigma):
            return np.abs(clean).astype(np.float32) * np.float32(sigma)
        case Sum(parts):
            levels = [level(part, clean) for part in parts]
            known = [each for each in levels if each is not None]
            squares = sum(np.square(each) for each in known)
            return np.sqrt(squares, dtype=np.float32) if len(known) == len(levels) else None
    return None


def _photons(clean: NDArray[Any]) -> Picture:
    return np.clip(clean, 0, None).astype(np.float32)


_KINDS: Mapping[str, tuple[Callable[..., Noise], tuple[float, ...]]] = {
    "gaussian": (Gaussian, (LEVELS,)),
    "poisson": (Poisson, (1,)),
    "poisson-gaussian": (PoissonGaussian, (1, LEVELS)),
    "speckle": (Speckle, (1,)),
    "salt-and-pepper": (SaltAndPepper, (1,)),
    "camera": (Camera, (1, LEVELS, 1, 1, 1)),
}


def parse(text: str) -> Noise:
    """Read noise from text such as "gaussian:25"; FORMS says which there are, and in which units.

    Raises:
        UserError: An unknown kind, not as many numbers as it takes, or one that makes no sense.
    """
    parts = [_parse(part, text) for part in text.strip().lower().split("+")]
    return parts[0] if len(parts) == 1 else Sum(tuple(parts))


def _parse(part: str, text: str) -> Noise:
    """One kind of noise among those that ``text`` adds up."""
    name, *numbers = part.strip().split(":")
    if name not in _KINDS:
        raise UserError(f"noise {text!r}: no such kind; {nearest(name, FORMS)}")
    make, units = _KINDS[name]
    ranges = [_range(number) for number in numbers]
    values = [each for each in ranges if each is not None]
    if len(values) != len(units) or len(values) != len(ranges):
        raise UserError(f"noise {text!r}: expected {FORMS[name]}")
    low, high = (
        tuple(pair[end] / unit for pair, unit in zip(values, units, strict=True)) for end in (0, 1)
    )
    return make(*low) if low == high else Drawn(make, low, high, part.strip())


def _range(text: str) -> tuple[float, float] | None:
    """ "0-55" as its two ends, "25" as twice the same; None for anything else."""
    number = r"[-+]?(?:\d+\.?\d*|\.\d+|inf|nan)(?:e[-+]?\d+)?"
    match = re.fullmatch(rf"\s*({number})(?:-({number}))?\s*", text)
    return (float(match[1]), float(match[2] or match[1])) if match else None


def _check(name: str, value: float, *, peak: bool = False) -> None:
    least, most = PEAKS if peak else (0, MOST)
    if not least <= value <= most:  # nor is it, where it is not a number
        raise UserError(f"noise with a {name} of {value:g}: expected {least:g} to {most:g}")
