"""How strong the noise is, and where: said by a person, or measured on the image before it is denoised.

Levels are standard deviations as parts of the range from black to white. With photons the variance is a
straight line over the brightness (Foi et al., 2008), and the level a map; the brightness is then the image's
own, smoothed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from snowmelt import diagnosis, noise, tiles
from snowmelt.diagnosis import CLEAN, LARGEST_RATIO, UNEVEN, Curve, Plane
from snowmelt.errors import UserError
from snowmelt.images.base import Array, Image
from snowmelt.tiles import Window

Picture: TypeAlias = NDArray[np.float32]

AUTO = "auto"
ESTIMATED = "estimated"
# Kinds whose variance is a line over brightness.
KINDS = (noise.Gaussian, noise.Poisson, noise.PoissonGaussian)
# Of the blur that makes a brightness of noisy values: standard deviation and radius in pixels. 50 of them
# count, so photons at a tenth of 30 at white leave 8 percent of the level uncertain.
BLUR, BLUR_REACH = 2.0, 6
# Of larger images, so many pieces of such a side along each axis are measured.
PIECES, SIDE = 4, 160
# Correlation between neighbours: texture that is taken for noise has more, noise on texture less. Measured on
# clean photographs, BSD68 and CBSD68, and on the same with noise; docs/denoise.md has the figures.
TEXTURE = 0.29
FLATTEST_TOO = 1.1  # times what the flattest blocks of 16 x 16 hold


@dataclass(frozen=True)
class Line:
    """The variance of each channel is ``gain * brightness + floor``, and never under ``least``.

    The floor of a camera whose black is not 0 is negative.
    """

    gain: tuple[float, ...]
    floor: tuple[float, ...]
    least: float = 0.0
    # Level of each channel that was taken for texture, if it is noise after all; empty: of none.
    doubt: tuple[float, ...] = ()
    origin: str = ""  # how the level was found, when it was not said

    @property
    def reach(self) -> int:
        """How many pixels away the level of a pixel depends on others."""
        return BLUR_REACH if any(self.gain) else 0

    def is_zero(self, channels: slice) -> bool:
        """Whether there is nothing to be taken away from these channels."""
        return not any(self.gain[channels]) and not any(self.floor[channels])

    def at(self, brightness: float, channels: slice = slice(None)) -> float:
        """Level at a brightness, 0 black and 1 white: the root mean square of the channels'."""
        variance = np.array(self.gain[channels]) * brightness + self.floor[channels]
        return math.sqrt(np.maximum(variance, self.least).mean())

    def without_doubt(self, channels: slice) -> Line:
        """The same, where what was taken for texture in these channels is noise."""
        if not any(self.doubt[channels]):
            return self
        doubt = np.array(self.doubt)
        floor = np.array(self.floor)
        floor[channels] += np.square(doubt[channels])
        doubt[channels] = 0
        return replace(self, floor=tuple(map(float, floor)), doubt=tuple(map(float, doubt)))

    def over(self, seen: Picture, channels: slice, row: Window, column: Window) -> Picture:
        """Level (h, w) of a window (h, w, C) that shows these channels: the root mean square of theirs."""
        del row, column
        return self.on(seen, channels)

    def on(self, seen: Picture, channels: slice = slice(None)) -> Picture:
        """Level (h, w) of a noisy picture (h, w, C) of these channels."""
        variance = self._variance(seen, channels)
        return np.sqrt(variance.mean(axis=2, dtype=np.float32))

    def draw(self, seen: Picture, part: float, rng: np.random.Generator) -> Picture:
        """New noise for a noisy picture (h, w, C), of which ``part`` times is to be added.

        What is counted comes in steps of ``gain / part``: so all cumulants of both noises, theirs and this
        one's, cancel where `supervision.Recorrupted` needs it, not only the variances.
        """
        variance = self._variance(seen)
        gain, floor = (np.array(each, np.float32) for each in (self.gain, self.floor))
        counted = np.where(gain > 0, variance - np.maximum(floor, 0), np.float32(0))
        step = gain / np.float32(part)
        photons = counted / np.where(gain > 0, step, np.float32(1)) ** 2
        new = np.sqrt(variance - counted) * rng.standard_normal(seen.shape, np.float32)
        if gain.any():
            new += step * (rng.poisson(photons).astype(np.float32) - photons)
        return new

    def _variance(self, seen: Picture, channels: slice = slice(None)) -> Picture:
        gain, floor = (np.array(each[channels], np.float32) for each in (self.gain, self.floor))
        if not gain.any():
            return np.broadcast_to(floor, seen.shape)
        return np.maximum(gain * np.maximum(_blurred(seen), 0) + floor, np.float32(self.least))

    def __str__(self) -> str:
        if self.is_zero(slice(None)):
            return (
                "no noise that can be told from fine detail; left as it is "
                "(--sigma LEVEL denoises it; 10 suits cameras' JPEGs whose noise is seen)"
            )
        black, white = 255 * self.at(0), 255 * self.at(1)
        text = f"noise level {white:.3g} of 255"
        if any(self.gain):
            text = f"noise level {black:.3g} of 255 in black, {white:.3g} in white"
        return f"{text} ({self.origin})" if self.origin else text


def _blurred(picture: Picture) -> Picture:
    from scipy.ndimage import gaussian_filter

    blurred: Picture = gaussian_filter(
        picture, (BLUR, BLUR, 0), mode="nearest", radius=(BLUR_REACH, BLUR_REACH, 0)
    )
    return blurred


@dataclass(frozen=True)
class Map:
    """The level of each pixel, (H, W)."""

    levels: Picture
    reach = 0

    def is_zero(self, channels: slice) -> bool:
        """Whether there is nothing to be taken away anywhere."""
        del channels
        return not self.levels.any()

    def over(self, seen: Picture, channels: slice, row: Window, column: Window) -> Picture:
        """Level (h, w) of a window."""
        del seen, channels
        return tiles.cut(self.levels[row.start : row.stop], row, column)


Level: TypeAlias = Line | Map
Noise: TypeAlias = float | str | ArrayLike


def check(given: Noise) -> None:
    """Refuse what says no level, before an image is there; see `find`."""
    if isinstance(given, str):
        if given != AUTO:
            _parse(given, 1)
        return
    try:
        good = bool(np.all((np.asarray(given) >= 0) & np.isfinite(given)))
    except (TypeError, ValueError):
        good = False
    if not good:
        raise UserError(
            f"a noise level of {given}: expected 0 or more, {AUTO!r}, or a kind of noise such as "
            "'poisson:30'"
        )


def find(given: Noise, image: Image, low: float, high: float) -> Level:
    """The level for an image whose black is ``low`` and whose white is ``high``.

    Args:
        given: A part of the range; or one for each pixel, in a shape that goes with (H, W); or "auto", to
            measure it on the image; or noise as `snowmelt.noise.parse` reads it, of a kind whose variance
            is a line over the brightness.

    Raises:
        UserError: It is none of these, or "auto" and the image is too small.
    """
    check(given)
    layout = image.layout
    colours = layout.channels - layout.alpha
    if isinstance(given, str):
        return estimate(image, low, high) if given == AUTO else _parse(given, colours)
    levels = np.asarray(given, np.float32)
    if levels.ndim == 0:
        return Line((0.0,) * colours, (float(levels) ** 2,) * colours)
    try:
        return Map(np.broadcast_to(levels, (layout.height, layout.width)))
    except ValueError as error:
        raise UserError(
            f"noise levels of shape {levels.shape}: expected one number, or a shape that goes with that of "
            f"the image, {layout.height} x {layout.width}"
        ) from error


def _parse(text: str, colours: int) -> Line:
    kind: Any = noise.parse(text)
    if not isinstance(kind, KINDS):
        raise UserError(
            f"noise {text!r}: models are told a level; expected gaussian, poisson or poisson-gaussian"
        )
    sigma, peak = getattr(kind, "sigma", 0.0), getattr(kind, "peak", math.inf)
    return Line((1 / peak,) * colours, (sigma**2,) * colours)


def estimate(image: Image, low: float, high: float) -> Line:
    """Measure the level of each channel on pieces that are spread over the plane in the middle.

    Zero where noise cannot be told from fine texture, so that a clean image is left alone.

    Raises:
        UserError: The image is too small, or holds too little that is finite.
    """
    pixels = sample(image)
    try:
        return of_pixels(pixels, low, high)
    except UserError as error:
        raise UserError(f"{error}; or say the level: --sigma, in Python sigma=") from error


def of_pixels(pixels: Array, low: float, high: float) -> Line:
    """Measure the level of each channel of pixels (H, W, C), as `estimate` does."""
    span = high - low
    visible = _visible(pixels, span)
    lines = [
        _measured(diagnosis.as_plane(pixels[..., channel]), visible)
        for channel in range(pixels.shape[-1])
    ]
    gains = tuple(gain / span for gain, *_ in lines)
    floors = tuple((gain * low + floor) / span**2 for gain, floor, *_ in lines)
    least = min(least for _, _, least, _ in lines) / span**2
    return Line(gains, floors, least, tuple(doubt / span for *_, doubt in lines), ESTIMATED)


def sample(image: Image) -> Array:
    """Pieces (h, w, C) of the plane in the middle, each row of the image read once; without opacity."""
    layout = image.layout
    across = np.concatenate([np.arange(*piece) for piece in _pieces(layout.width)])
    bands = [
        image.read_rows(layout.planes // 2, start, stop)[:, across]
        for start, stop in _pieces(layout.height)
    ]
    return np.concatenate(bands)[..., : layout.channels - layout.alpha]


def _pieces(length: int) -> Sequence[tuple[int, int]]:
    """The whole, or pieces evenly spread."""
    if length <= PIECES * SIDE:
        return [(0, length)]
    starts = (round((length - SIDE) * place / (PIECES - 1)) for place in range(PIECES))
    return [(start, start + SIDE) for start in starts]


def _visible(sample: Array, span: float) -> float:
    """The range in which noise is seen: of more than 8 bits, few images use all."""
    if sample.dtype.itemsize == 1:
        return span
    finite = sample[np.isfinite(sample)].astype(np.float64)
    return min(span, float(np.ptp(finite))) if finite.size else span


def _measured(plane: Plane, span: float) -> tuple[float, float, float, float]:
    """Gain, floor and least value of the variance, and the level in doubt, in the image's units."""
    limits = diagnosis.find_limits(plane)
    curve = diagnosis.measure_curve(plane, limits)
    if curve.level < CLEAN * span:
        return 0.0, 0.0, 0.0, 0.0
    spectrum = diagnosis.measure_spectrum(plane, limits, curve)
    # Noise is in the flattest blocks as elsewhere; what is not there was texture.
    level = min(curve.sigma, FLATTEST_TOO * spectrum.level)
    level = level if level > CLEAN * span else 0.0
    if spectrum.uneven > UNEVEN and (spectrum.down + spectrum.across) / 2 > TEXTURE:
        return 0.0, 0.0, 0.0, level
    if _counts_photons(curve) and not spectrum.correlated:
        return curve.gain[0], curve.floor[0], float(curve.variance.min()), 0.0
    return 0.0, level**2, 0.0, 0.0


def _counts_photons(curve: Curve) -> bool:
    likely = curve.sure or curve.sigma < LARGEST_RATIO * curve.level
    return curve.dependent and curve.gain[0] > 0 and likely
