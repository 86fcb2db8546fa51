"""How strong the noise is, and where: given by a person, or estimated on the image before it is denoised.

Levels are standard deviations as parts of the range from black to white. With photons the variance is a
straight line over the brightness (Foi et al., 2008), and the level a map; the brightness is then the image's
own, smoothed. What is estimated (`estimator`) is a curve over the brightness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from snowmelt import diagnosis, estimator, noise, outliers, tiles
from snowmelt.diagnosis import CLEAN, LARGEST_RATIO, UNEVEN, Plane
from snowmelt.errors import UserError
from snowmelt.estimator import BLUR, BLUR_REACH
from snowmelt.images.base import Array, Image
from snowmelt.tiles import Window

Picture: TypeAlias = NDArray[np.float32]

AUTO = "auto"
# Kinds whose variance is a line over brightness.
KINDS = (noise.Gaussian, noise.Poisson, noise.PoissonGaussian)
# Of larger images, so many pieces of such a side along each axis are looked at.
PIECES, SIDE = 3, 256
# Correlation between neighbours: texture that is taken for noise has more, noise on texture less. Measured on
# clean photographs, BSD68 and CBSD68, and on the same with noise; docs/denoise.md has the figures.
TEXTURE = 0.29
AGREE = 1.4  # the ratio of two levels up to which they count as the same
FLATTEST_TOO = 1.1  # times what the flattest blocks of 16 x 16 hold


@dataclass(frozen=True)
class Line:
    """The variance of each channel is ``gain * brightness + floor``, and never under ``least``.

    The floor of a camera whose black is not 0 is negative.
    """

    gain: tuple[float, ...]
    floor: tuple[float, ...]
    least: float = 0.0

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
        black, white = 255 * self.at(0), 255 * self.at(1)
        if any(self.gain):
            return f"noise level {black:.3g} in black, {white:.3g} in white on a 0–255 scale"
        return f"noise level {white:.3g} on a 0–255 scale" if white else "noise level 0"


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

    @property
    def most(self) -> float:
        """The largest."""
        return float(self.levels.max())

    def is_zero(self, channels: slice) -> bool:
        """Whether there is nothing to be taken away anywhere."""
        del channels
        return not self.levels.any()

    def over(self, seen: Picture, channels: slice, row: Window, column: Window) -> Picture:
        """Level (h, w) of a window."""
        del seen, channels
        return tiles.cut(self.levels[row.start : row.stop], row, column)

    def __str__(self) -> str:
        low, high = 255 * float(self.levels.min()), 255 * self.most
        return f"noise level {low:.3g} to {high:.3g} on a 0–255 scale" if high else "noise level 0"


@dataclass(frozen=True)
class Estimated:
    """A level that was estimated on the image: a curve over the brightness for each group of channels.

    Attributes:
        curves: Of each group that goes through the network together, its first channel and its curves: one
            for all its channels, or one for each.
        typical: Of each group, the root mean square of its level over the pixels that were looked at.
        faint: The largest typical level of groups whose noise is too faint to be seen, and remains.
    """

    curves: dict[int, tuple[estimator.Curve, ...]]
    typical: dict[int, float]
    faint: float = 0.0
    reach = BLUR_REACH

    @property
    def most(self) -> float:
        """The largest level of any channel and brightness."""
        return max(max(curve.levels) for curves in self.curves.values() for curve in curves)

    def is_zero(self, channels: slice) -> bool:
        """Whether these channels, a whole group, have no noise to be removed."""
        return all(curve.is_zero for curve in self.curves[channels.start])

    def over(self, seen: Picture, channels: slice, row: Window, column: Window) -> Picture:
        """Level (h, w) of a window (h, w, C) that shows these channels, a whole group."""
        del row, column
        curves = self.curves[channels.start]
        brightness = _blurred(seen.mean(2, keepdims=True) if len(curves) == 1 else seen)
        return estimator.combined(curves, brightness)

    def __str__(self) -> str:
        if all(self.is_zero(slice(first, None)) for first in self.curves):
            level = f"{255 * self.faint:.2g}" if self.faint else "LEVEL"
            return f"no noise found; unchanged (--sigma {level} denoises it all the same)"
        found = ", ".join(f"{255 * level:.2g}" for level in self.typical.values())
        several = "s" if len(self.typical) > 1 else ""
        return f"estimated noise level{several} {found} on a 0–255 scale"


Level: TypeAlias = Line | Map | Estimated
Noise: TypeAlias = float | str | ArrayLike
SecondLook: TypeAlias = Callable[[Picture, float], float]


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
        given: A part of the range; or one for each pixel, in a shape that goes with (H, W); or "auto", for
            `estimate`; or noise as `snowmelt.noise.parse` reads it, of a kind whose variance is a line over
            the brightness.
        image: Whose level it is.
        low: The value of black.
        high: The value of white.

    Raises:
        UserError: It is none of these.
    """
    check(given)
    layout = image.layout
    colours = layout.channels - layout.alpha
    if isinstance(given, str):
        if given == AUTO:
            return estimate(image, low, high)
        return _parse(given, colours)
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
            f"noise {text!r} has no level that a model could be given; expected gaussian, poisson or "
            "poisson-gaussian"
        )
    sigma, peak = getattr(kind, "sigma", 0.0), getattr(kind, "peak", math.inf)
    return Line((1 / peak,) * colours, (sigma**2,) * colours)


def estimate(
    image: Image,
    low: float,
    high: float,
    groups: Sequence[slice] | None = None,
    nodata: float | None = None,
    second_look: SecondLook | None = None,
) -> Estimated:
    """Estimate the level of an image on pieces that are spread over the plane in the middle.

    It is zero where the noise is too faint to be seen, so that a clean image is unchanged; and for images
    with a side below 32 pixels, which show too little.

    Args:
        image: Whose level it is.
        low: The value of black.
        high: The value of white.
        groups: Channels that go through the network together; None: the three of a colour image, else
            each for itself.
        nodata: The value that stands for missing data.
        second_look: Given the pieces of three channels and the level found, another level; the larger counts.
    """
    layout = image.layout
    colours = layout.channels - layout.alpha
    if groups is None:
        groups = (
            [slice(0, 3)] if colours == 3 else [slice(each, each + 1) for each in range(colours)]
        )
    if min(layout.height, layout.width) < estimator.SHORTEST:
        nothing: dict[int, tuple[estimator.Curve, ...]] = {
            group.start: (estimator.NOTHING,) for group in groups
        }
        return Estimated(nothing, dict.fromkeys(nothing, 0.0))
    deep = layout.dtype.itemsize > 1
    pieces = scaled(sample(image), low, high, nodata)
    curves: dict[int, tuple[estimator.Curve, ...]] = {}
    typical: dict[int, float] = {}
    faint = 0.0
    for group in groups:
        found = _curves(pieces[..., group], deep)
        level = estimator.typical(found, pieces[..., group])
        if level < max(curve.faintest for curve in found):
            found, level, faint = (estimator.NOTHING,), 0.0, max(faint, level)
        if second_look is not None and pieces[..., group].shape[3] == 3:
            other = second_look(pieces[..., group], level)
            if other > level:
                found, level = (estimator.Curve((other,) * estimator.KNOTS),), other
        curves[group.start], typical[group.start] = found, level
    return Estimated(curves, typical, faint)


def _curves(pieces: Picture, deep: bool) -> tuple[estimator.Curve, ...]:
    if pieces.shape[3] == 3:
        return (_curve(pieces, deep),)
    return tuple(_curve(channel, deep) for channel in np.split(pieces, pieces.shape[3], axis=3))


def _curve(pieces: Picture, deep: bool) -> estimator.Curve:
    """What the estimator finds and what is measured as white noise, photons included, taken together.

    Statistics measure white noise within a tenth, of few photons too; of correlated noise they see a small
    part. Where both agree, which they do on white noise, their mean has the smaller error; else the larger
    counts, since neither finds noise where there is none.
    """
    estimated = estimator.estimate(pieces, deep=deep)
    line = of_pixels(np.concatenate(pieces), 0, 1)
    levels = tuple(line.at(each) for each in estimator.BRIGHTNESS)
    measured = estimator.Curve(levels, measured=True)
    first, second = (estimator.typical((curve,), pieces) for curve in (estimated, measured))
    if first < AGREE * second and second < AGREE * first:
        pairs = zip(estimated.at(estimator.BRIGHTNESS), measured.levels, strict=True)
        mean = tuple(math.sqrt(float(one) * other) for one, other in pairs)
        return estimator.Curve(mean, measured=True)
    return measured if second > first else estimated


def scaled(pieces: Array, low: float, high: float, nodata: float | None = None) -> Picture:
    """Pieces (N, h, w, C) in parts of the range, those of no use bridged, see `outliers`."""
    usable, _ = outliers.bridged(pieces.reshape(-1, *pieces.shape[2:]), low, high, nodata)
    values = (usable.astype(np.float64) - low) / (high - low)
    return values.astype(np.float32).reshape(pieces.shape)


def of_pixels(pixels: Array, low: float, high: float) -> Line:
    """Measure white noise, of which photons may be a part, on pixels (H, W, C), from their statistics.

    For training on noisy images alone, which needs the noise's variance as a line over the brightness; what
    `estimate` finds is the best level for denoising, whatever the noise. Zero where it cannot be told from
    fine texture.
    """
    span = high - low
    visible = _visible(pixels, span)
    lines = [
        _measured(diagnosis.as_plane(pixels[..., channel]), visible)
        for channel in range(pixels.shape[-1])
    ]
    gains = tuple(gain / span for gain, *_ in lines)
    floors = tuple((gain * low + floor) / span**2 for gain, floor, _ in lines)
    return Line(gains, floors, min(least for *_, least in lines) / span**2)


def sample(image: Image) -> Array:
    """Pieces (N, h, w, C) of the plane in the middle, each row of the image read once; without opacity."""
    layout = image.layout
    columns = _pieces(layout.width)
    pieces = []
    for start, stop in _pieces(layout.height):
        band = image.read_rows(layout.planes // 2, start, stop)
        pieces += [band[:, left:right] for left, right in columns]
    return np.stack(pieces)[..., : layout.channels - layout.alpha]


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


def _measured(plane: Plane, span: float) -> tuple[float, float, float]:
    """Gain, floor and least value of the variance, in the image's units."""
    limits = diagnosis.find_limits(plane)
    curve = diagnosis.measure_curve(plane, limits)
    if curve.level < CLEAN * span:
        return 0.0, 0.0, 0.0
    spectrum = diagnosis.measure_spectrum(plane, limits, curve)
    # Noise is in the flattest blocks as elsewhere; what is not there was texture.
    level = min(curve.sigma, FLATTEST_TOO * spectrum.level)
    level = level if level > CLEAN * span else 0.0
    if spectrum.uneven > UNEVEN and (spectrum.down + spectrum.across) / 2 > TEXTURE:
        return 0.0, 0.0, 0.0
    if _counts_photons(curve) and not spectrum.correlated:
        return curve.gain[0], curve.floor[0], float(curve.variance.min())
    return 0.0, level**2, 0.0


def _counts_photons(curve: diagnosis.Curve) -> bool:
    likely = curve.sure or curve.sigma < LARGEST_RATIO * curve.level
    return curve.dependent and curve.gain[0] > 0 and likely
