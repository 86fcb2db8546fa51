"""What noise an image has, measured on the image alone.

Most of it rests on one idea (Ponomarenko et al., 2007; Colom and Buades, 2013): of many small blocks, those
with the least energy in the *low* frequencies are flat, and what their *high* frequencies hold is noise.
White noise has no part in which blocks are chosen, so its level comes out unbiased. Taken within bins of
brightness, the blocks give the variance against brightness; larger blocks give the noise's spectrum.

Everything is in the image's own units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from snowmelt.errors import UserError

Numbers = NDArray[np.float64]
Plane = Numbers  # (H, W)

SMALLEST = 32  # pixels; the shortest side that can be measured
BLOCK, SPECTRUM_BLOCK = 8, 16  # pixels
BINS = 16  # of brightness
FLATTEST = 0.04  # part of the blocks of a bin
LOW_WAVES = 35  # waves with down + across below 8, but for the mean
LOWER = 0.2  # quantile of the bins that gives the level: texture only ever adds
MOST_BLOCKS, MOST_SPECTRUM_BLOCKS = 160_000, 20_000
SIGNIFICANT = 4.0  # standard errors
SURE = 12.0  # standard errors; texture of clean images reached 8, photon noise has 17 to 90
BIN_ERROR = 0.03  # relative, of a bin's variance: a hundred overlapping blocks of 28 waves and more
CHI_SQUARE_MEDIAN = 0.4549  # of one degree of freedom
# Limits below which an effect is not called one; measured on clean photographs in benchmarks/diagnosis.py.
CLEAN = 1.2 / 255  # part of the range: what 8-bit rounding, JPEG and fine texture make
CORRELATED = 0.2  # between neighbours
FINE = 0.7  # of the level, in the highest frequencies: white noise on texture has 0.75 and more, blurred 0.6
UNEVEN = 1.8  # times the spread that noise has
# Texture of more than 15 of 255 in the flattest blocks has never been less uneven than 2.8.
COARSE, COARSE_FINE, COARSE_UNEVEN = 25 / 255, 0.4, 2.5
# So uneven, noise of less than this part of the range may be texture.
TEXTURED, WEAK = 2.2, 10 / 255
COMPRESSED = 8.0  # standard errors of JPEG's grid
DEPENDENT = 1.15  # ratio of the levels in bright and dark
LARGEST_RATIO = 1.75  # root mean square to level; photon noise: up to 1.6 on microscopes' images
IMPULSES = 0.002  # part of the pixels
STRIPED = 0.8 / 255  # part of the range


@dataclass(frozen=True)
class Curve:
    """Variance of the noise against brightness.

    Attributes:
        brightness: Mean of each bin, dark to bright.
        variance: Of the noise in each bin, corrected for clipping.
        trust: Of each bin, up to 1; less where it is textured or clipped.
        gain: Slope and its standard error. Of photon noise: the value of one photon.
        floor: Variance at brightness 0 and its standard error. Where black is 0: of the read noise.
        level: Standard deviation, taken as the same at all brightnesses.
    """

    brightness: Numbers
    variance: Numbers
    trust: Numbers
    gain: tuple[float, float]
    floor: tuple[float, float]
    level: float

    @property
    def dependent(self) -> bool:
        """Whether the slope is significant, and the levels in bright and dark differ enough to matter."""
        dark, bright = self._model(np.quantile(self.brightness, (0.1, 0.9)))
        ratio = max(dark, bright) / max(min(dark, bright), 1e-12 * max(dark, bright), 1e-300)
        return bool(abs(self.gain[0]) > SIGNIFICANT * self.gain[1] and ratio > DEPENDENT**2)

    @property
    def sure(self) -> bool:
        """Whether the line fits better than texture ever does."""
        return abs(self.gain[0]) > SURE * self.gain[1]

    @property
    def reads(self) -> bool:
        """Whether there is noise at brightness 0 too: significant, and enough to matter."""
        floor, error = self.floor
        return floor > 3 * error and floor > 0.15 * float(self._model(self.brightness).mean())

    def begins_above(self, black: float = 0.0) -> bool:
        """Whether the line is surely at 0 for some brightness above ``black``: a camera's offset."""
        (gain, _), (floor, error) = self.gain, self.floor
        return gain > 0 and floor + gain * black < -3 * error

    @property
    def sigma(self) -> float:
        """Root mean square of the noise over the image."""
        if not self.dependent:
            return self.level
        whole = math.sqrt(float(self._model(self.brightness).mean()))
        # More than this is texture that comes with brightness, unless the line fits too well for that.
        return whole if self.sure else min(LARGEST_RATIO * self.level, whole)

    def relative(self, brightness: Numbers) -> Numbers:
        """Variance at these brightnesses over the mean one; 1 where it does not depend on them."""
        if not self.dependent:
            return np.ones_like(brightness)
        mean = float(self._model(self.brightness).mean())
        return np.maximum(self._model(brightness) / mean, 0.01)

    def _model(self, brightness: Numbers) -> Numbers:
        return np.maximum(self.gain[0] * brightness + self.floor[0], 0)


def estimate_sigma(image: ArrayLike, *, channel_axis: int | None = None) -> float | Numbers:
    """Estimate the standard deviation of white noise.

    Clipping at the image's least and greatest value is allowed for. Noise that depends on brightness is given
    as its root mean square; spatially correlated noise reads too low (`diagnose` detects it).

    Args:
        image: (H, W); with ``channel_axis`` one more axis, that of the colours. Any number type.
        channel_axis: Axis of the colours.

    Returns:
        In the image's units: a number, or with ``channel_axis`` one for each channel.

    Raises:
        UserError: The image has another number of axes, or a side under 32 pixels.

    Example:
        >>> sigma = estimate_sigma(photo, channel_axis=-1).mean()
    """
    array = np.asarray(image)
    if array.ndim != 2 + (channel_axis is not None):
        raise UserError(
            f"an array of shape {array.shape}: expected (H, W), and channel_axis for one more"
        )
    if channel_axis is None:
        return _level(array)
    return np.array([_level(channel) for channel in np.moveaxis(array, channel_axis, 0)])


def _level(channel: NDArray[Any]) -> float:
    plane = as_plane(channel)
    return measure_curve(plane, find_limits(plane)).sigma


def as_plane(channel: NDArray[Any]) -> Plane:
    """A channel as float64; what is not finite becomes NaN, and no block that holds it is used."""
    if min(channel.shape) < SMALLEST:
        raise UserError(
            f"an image of {channel.shape[1]} x {channel.shape[0]} pixels: "
            f"noise is measured from {SMALLEST} x {SMALLEST} on"
        )
    plane = channel.astype(np.float64)
    plane[~np.isfinite(plane)] = np.nan
    if np.isnan(plane).all():
        raise UserError("no value is finite (NaN or infinite)")
    return plane


def find_limits(plane: Plane) -> tuple[float, float]:
    """The least and the greatest value where many pixels share them, as clipping makes it; else infinity."""
    low, high = np.nanmin(plane), np.nanmax(plane)
    many = 1e-4 * plane.size
    return (
        float(low) if np.count_nonzero(plane == low) > many else -math.inf,
        float(high) if np.count_nonzero(plane == high) > many else math.inf,
    )


def measure_curve(plane: Plane, limits: tuple[float, float]) -> Curve:
    """Fit the variance against brightness; beyond ``limits`` the image is clipped."""
    bins = _bins(plane)
    model = (0.0, float(np.median(bins.variance)))
    negligible = (1e-9 * float(np.nanmax(np.abs(plane)))) ** 2  # rounding of float64
    for _ in range(8):
        brightness, factor = _unclip(bins, *model, limits)
        variance = bins.variance * factor
        # The more of the noise is cut off, the less can be said of it.
        trust = bins.flatness / factor**6
        level = _weighted_quantile(variance, trust, LOWER)
        level = 0.0 if level < negligible else level
        line, errors = _line(brightness, variance, trust, level)
        gain, floor = zip(line, errors, strict=True)
        curve = Curve(brightness, variance, trust, gain, floor, math.sqrt(level))
        model = line if curve.dependent else (0.0, level)
    return curve


@dataclass(frozen=True)
class Bins:
    """Of each bin of brightness: mean, variance in the high frequencies, that in the low ones over it."""

    brightness: Numbers
    variance: Numbers
    low: Numbers

    @property
    def flatness(self) -> Numbers:
        """Up to 1; low frequencies that stand out are texture, whose high ones are then no noise either."""
        return np.minimum(1, (np.quantile(self.low, 0.1) / self.low) ** 3)


def _bins(plane: Plane) -> Bins:
    from scipy.fft import dctn

    waves = dctn(_blocks(plane, BLOCK, MOST_BLOCKS), axes=(1, 2), norm="ortho", overwrite_x=True)
    down, across = np.indices((BLOCK, BLOCK))
    waves_low = waves[:, (down + across > 0) & (down + across < BLOCK)]
    # Not where one frequency is 0: that is where stripes are.
    waves_high = waves[:, (down > 0) & (across > 0) & (down + across >= BLOCK)]
    low, high = (np.square(part).mean(axis=1) for part in (waves_low, waves_high))
    mean = waves[:, 0, 0] / BLOCK
    rows = []
    for members in np.array_split(np.argsort(mean, kind="stable"), BINS):
        few = max(math.ceil(FLATTEST * len(members)), 40)
        flat = members[_lowest(low[members], few)]
        # Where the noise is strong, all blocks are flat that have no more than it.
        enough = int(np.count_nonzero(low[members] < 0.9 * np.median(high[flat])))
        flat = members[_lowest(low[members], max(few, enough))]
        rows.append((mean[flat].mean(), np.median(high[flat]), low[flat].mean()))
    brightness, variance, texture = np.array(rows, np.float64).T
    degrees = waves_high.shape[1]  # of the chi-square distribution, whose median is below its mean
    variance /= (1 - 2 / (9 * degrees)) ** 3
    tiny = 1e-12 * float(np.nanmax(np.abs(plane))) ** 2 + 1e-300
    return Bins(brightness, variance, (texture + tiny) / (variance + tiny))


def _blocks(plane: Plane, side: int, most: int) -> Numbers:
    """Up to ``most`` overlapping blocks (N, side, side), evenly spread, without those that hold NaN."""
    windows = np.lib.stride_tricks.sliding_window_view(plane, (side, side))
    step = math.ceil(math.sqrt(windows.shape[0] * windows.shape[1] / most))
    step += step % 2 == 0  # so that all phases of a JPEG's grid occur
    blocks = windows[::step, ::step].reshape(-1, side, side)
    blocks = blocks[np.isfinite(blocks).all(axis=(1, 2))]
    if len(blocks) < 2 * BINS:
        raise UserError(
            f"hardly any {side} x {side} pixels without a value that is not finite (NaN or infinite); "
            "fill the gaps, or inspect another image"
        )
    return blocks


def _lowest(values: NDArray[Any], count: int) -> NDArray[np.intp]:
    """Where the ``count`` least values are."""
    count = min(count, len(values))
    return np.argpartition(values, count - 1)[:count]


def _unclip(
    bins: Bins, gain: float, floor: float, limits: tuple[float, float]
) -> tuple[Numbers, Numbers]:
    """Each bin's brightness before clipping, and how many times larger its variance was (Foi et al., 2008).

    The noise is taken as normal, with a variance of ``gain * brightness + floor``.
    """
    low, high = limits
    first = low if math.isfinite(low) else bins.brightness.min()
    last = high if math.isfinite(high) else bins.brightness.max()
    brightness = np.linspace(first, last, 512)
    variance = np.maximum(gain * brightness + floor, 1e-12 * (last - first) ** 2 + 1e-300)
    mean, clipped, shared = _clipped_moments(brightness, np.sqrt(variance), limits)
    mean = np.maximum.accumulate(mean)
    shared = np.interp(bins.brightness, mean, shared)
    slope = shared / (2 / LOW_WAVES + shared)
    misled = 1 + slope * (np.minimum(bins.low, 1) - 1)
    factor = np.interp(bins.brightness, mean, variance / np.maximum(clipped, 1e-300))
    return np.interp(bins.brightness, mean, brightness), np.clip(factor / misled, 0.8, 10)


def _clipped_moments(
    mean: Numbers, sigma: Numbers, limits: tuple[float, float]
) -> tuple[Numbers, Numbers, Numbers]:
    """Mean and variance of normal numbers after clipping, and the covariance of the squares of two waves.

    Clipped noise has short tails and blocks of nearly equal energy: those with little in the low frequencies
    have more in the high ones. The covariance is the excess kurtosis over the number of pixels.
    """
    steps = np.linspace(-5, 5, 201)
    weight = np.exp(-(steps**2) / 2)
    weight /= weight.sum()
    numbers = np.clip(mean[:, None] + sigma[:, None] * steps, *limits)
    centre = numbers @ weight
    squares = np.square(numbers - centre[:, None])
    variance = squares @ weight
    kurtosis = np.square(squares) @ weight / np.maximum(variance, 1e-150) ** 2 - 3
    return centre, variance, np.clip(kurtosis, -2, 2) / BLOCK**2


def _line(
    brightness: Numbers, variance: Numbers, trust: Numbers, level: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Slope and value at 0 of a robust line, and their standard errors; ``level`` is a typical variance."""
    if level <= 0 or np.ptp(brightness) == 0:
        return (0.0, level), (math.inf, 0.0)
    terms = np.stack([brightness, np.ones_like(brightness)], axis=1)
    model, robust = np.full_like(variance, level), np.ones_like(variance)
    for _ in range(10):
        # The error of a variance is in proportion to it.
        weight = trust * robust / model**2
        normal = terms.T @ (terms * weight[:, None])
        line = np.linalg.pinv(normal) @ (terms.T @ (weight * variance))
        model = np.maximum(terms @ line, 0.1 * level)
        residual = (variance - terms @ line) / model
        scale = max(_weighted_quantile(np.abs(residual), trust, 0.5) / 0.6745, BIN_ERROR)
        robust = 1 / (1 + (residual / (2.4 * scale)) ** 2)  # Cauchy's weights
    errors = scale * np.sqrt(np.diag(np.linalg.pinv(normal)))
    return (float(line[0]), float(line[1])), (float(errors[0]), float(errors[1]))


def _weighted_quantile(values: Numbers, weights: Numbers, part: float) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, part * total[-1])])


@dataclass(frozen=True)
class Spectrum:
    """How the noise is spread over frequencies.

    Attributes:
        level: Standard deviation over all frequencies.
        down, across: Correlation between neighbours in a column and in a row.
        uneven: How many times more the blocks' energies spread than those of noise do; 1 for noise, more for
            texture that was taken for it.
    """

    level: float
    down: float
    across: float
    uneven: float

    @property
    def correlated(self) -> bool:
        """Whether the noise is spatially correlated: enough to matter, and it is not texture."""
        return max(self.down, self.across) > CORRELATED and self.uneven < UNEVEN


def measure_spectrum(plane: Plane, limits: tuple[float, float], curve: Curve) -> Spectrum:
    """Measure the noise's spectrum on the flattest larger blocks, away from the ``limits``."""
    from scipy.fft import dctn

    side, cut = SPECTRUM_BLOCK, 3
    blocks = _blocks(plane, side, MOST_SPECTRUM_BLOCKS)
    mean = blocks.mean(axis=(1, 2))
    spread = np.maximum(blocks.std(axis=(1, 2)), curve.level)
    inside = (mean - limits[0] > 1.5 * spread) & (limits[1] - mean > 1.5 * spread)
    if np.count_nonzero(inside) > 200:
        blocks, mean = blocks[inside], mean[inside]
    down, across = np.indices((side, side))
    waves = dctn(blocks, axes=(1, 2), norm="ortho", overwrite_x=True)
    low = (down + across > 0) & (down + across <= cut)
    flat = _lowest(np.square(waves[:, low]).mean(axis=1), max(len(waves) // 50, 100))
    energy = np.square(waves[flat])
    power = np.median(energy, axis=0) / CHI_SQUARE_MEDIAN
    power[0], power[:, 0] = power[1], power[:, 1]  # without stripes
    inner = (down > 0) & (across > 0) & (down + across > cut)
    uneven = _unevenness(energy[:, inner].sum(axis=1) / curve.relative(mean[flat]), power[inner])
    if not power[inner].any():
        return Spectrum(0.0, 0.0, 0.0, uneven)
    power = _fill(power, cut)
    return Spectrum(
        math.sqrt(power.mean()),
        _neighbours(power.mean(axis=1)),
        _neighbours(power.mean(axis=0)),
        uneven,
    )


def _unevenness(energies: Numbers, power: Numbers) -> float:
    """Relative spread of the energies of blocks against that of Gaussian noise of this spectrum."""
    middle = float(np.median(energies))
    if middle == 0:
        return math.inf if energies.any() else 1.0
    expected = math.sqrt(2 * float(np.square(power).sum())) / float(power.sum())
    return _scale(energies) / middle / expected


def _fill(power: Numbers, cut: int) -> Numbers:
    """Replace the lowest frequencies, by which the blocks were chosen: a Gaussian through the next ones."""
    down, across = np.indices(power.shape)
    distance: Numbers = np.asarray(down**2 + across**2, np.float64)
    ring = (down + across > cut) & (down + across <= cut + 2)
    missing = down + across <= cut
    logarithm = np.log(np.maximum(power[ring], 1e-300))
    slope = min(0.0, float(np.polyfit(distance[ring], logarithm, 1)[0]))
    filled = power.copy()
    filled[missing] = np.exp(logarithm.mean() + slope * (distance[missing] - distance[ring].mean()))
    return filled


def _neighbours(power: Numbers) -> float:
    """Correlation at a distance of one, of a spectrum at the frequencies 0, 1, ... N - 1 times pi / N."""
    # The trapezoidal rule up to pi; without the missing end white noise would read 1/N.
    ends = np.append(power, power[-1])
    weight = np.ones(len(ends))
    weight[[0, -1]] = 0.5
    wave = np.cos(np.pi * np.arange(len(ends)) / len(power))
    return float((weight * ends * wave).sum() / (weight * ends).sum())


def measure_impulses(plane: Plane) -> tuple[tuple[float, float], Plane]:
    """Parts of the pixels lost to the least and to the greatest value, and a plane without them.

    A lost pixel stands alone: it is far from the median of its 5 x 5 neighbourhood, while a clipped area is
    all at the limit. Only pixels that would stand out are counted, lost or not. Tails of other noise that
    reach the limit come with as many values just short of it; these are taken off.
    """
    from scipy.ndimage import median_filter, uniform_filter

    limits = find_limits(plane)
    if not any(map(math.isfinite, limits)):
        return (0.0, 0.0), plane.copy()
    middle: Plane = median_filter(plane, 5)
    span = float(np.ptp(plane))
    # The median of 25 deviations varies much by itself, and is at times small by chance.
    deviation = uniform_filter(median_filter(np.abs(plane - middle), 5), 15)
    spread = 4 * 1.4826 * deviation + 0.05 * span
    # Where all around is at a limit, as in drawings of black and white, a lone pixel may well be meant.
    inside = (middle > plane.min()) & (middle < plane.max())
    outlier = inside & (np.abs(plane - middle) > spread)
    shares, lost = [0.0, 0.0], np.zeros(plane.shape, bool)
    for index, limit in enumerate(limits):
        hit = outlier & (plane == limit)
        tail = outlier & (np.abs(plane - limit) < 0.1 * span) & ~hit
        visible = int(np.count_nonzero(inside & (np.abs(middle - limit) > spread)))
        hits, tails = int(np.count_nonzero(hit)), int(np.count_nonzero(tail))
        share = (hits - tails) / max(visible, 1)
        if share > IMPULSES / 2 and hits > max(2.5 * tails, 20):
            shares[index] = share
            lost |= hit
    return (shares[0], shares[1]), np.array(np.where(lost, middle, plane))


def measure_stripes(plane: Plane) -> float:
    """Standard deviation of offsets that whole rows have; give the transpose for columns.

    Differences between one row and the next are compared between the left and the right half: what they have
    in common is a stripe, the rest is image content or other noise.
    """
    from scipy.ndimage import median_filter
    from scipy.stats import trim_mean

    steps = np.diff(plane, axis=0)
    middle = steps.shape[1] // 2
    left, right = (trim_mean(half, 0.25, axis=1) for half in (steps[:, :middle], steps[:, middle:]))
    left, right = (half - median_filter(half, 31) for half in (left, right))
    common = (_scale(left + right) ** 2 - _scale(left - right) ** 2) / 4
    together = common / max(_scale(left) * _scale(right), 1e-300)
    if together * math.sqrt(len(left)) < SIGNIFICANT * 1.5:
        return 0.0
    return math.sqrt(max(common, 0) / 2)


def _scale(values: Numbers) -> float:
    """Standard deviation without outliers; its loss is made good."""
    centred = np.abs(values - np.median(values))
    spread = 1.4826 * float(np.median(centred))
    kept = centred[centred <= 3 * spread]
    return 1.0139 * math.sqrt(float(np.mean(kept**2))) if spread else 0.0


def measure_grid(plane: Plane) -> float:
    """How many standard errors the steps across a grid of 8 x 8 stand out, as JPEG leaves them.

    The lesser one of the two directions; 0 where the strongest phase is no JPEG's in one of them.
    """
    return min(_grid_of_columns(plane), _grid_of_columns(plane.T))


def _grid_of_columns(plane: Plane) -> float:
    steps = np.abs(np.diff(plane, axis=1))
    # Beyond what its two neighbours have; edges count little.
    excess = np.clip(steps[:, 1:-1] - (steps[:, :-2] + steps[:, 2:]) / 2, *_band(steps))
    columns = excess.mean(axis=0)
    phases = [columns[phase::8] for phase in range(8)]
    best = int(np.argmax([phase.mean() for phase in phases]))
    rest = np.concatenate([phase for index, phase in enumerate(phases) if index != best])
    # Robust: a few columns with straight edges are no grid.
    error = _scale(rest) / math.sqrt(len(phases[best])) + 1e-300
    return max(0.0, float(np.median(phases[best]) - np.median(rest)) / error)


def _band(steps: Plane) -> tuple[float, float]:
    most = 3 * float(steps.mean()) + 1e-300
    return -most, most


@dataclass(frozen=True)
class Clipping:
    """Parts of the pixels at the least and the greatest possible value; ``areas``: all neighbours too."""

    low: float
    high: float
    low_areas: float
    high_areas: float


def measure_clipping(plane: Plane, value_range: tuple[float, float]) -> Clipping:
    """Count the pixels at or beyond both ends of the range."""
    from scipy.ndimage import minimum_filter

    ends = (plane <= value_range[0], plane >= value_range[1])
    low, high = (float(end.mean()) for end in ends)
    areas = [float(minimum_filter(end, 3).mean()) if end.any() else 0.0 for end in ends]
    return Clipping(low, high, *areas)


@dataclass(frozen=True)
class Findings:
    """What was measured on one channel; levels are standard deviations in the image's units.

    Attributes:
        kind: A key of KINDS.
        besides: The kind if lost pixels and shifted lines were repaired.
        sigma: Level of the noise, stripes and impulses not counted.
        curve, spectrum, clipping: See there.
        impulses: Parts of the pixels lost to the least and the greatest value.
        rows, columns: Levels of the offsets of whole rows and columns.
        grid: Standard errors by which a JPEG's grid stands out.
    """

    kind: str
    besides: str
    sigma: float
    curve: Curve
    spectrum: Spectrum
    clipping: Clipping
    impulses: tuple[float, float]
    rows: float
    columns: float
    grid: float


KINDS = {
    "clean": "none visible",
    "compressed": "not measurable: an 8 x 8 grid stands out, so JPEG removed or masked the fine noise",
    "unclear": "unclear: fine texture nearly everywhere; the noise level is an upper bound",
    "gaussian": "Gaussian: white, the same in bright and dark",
    "poisson": "Poisson: grows with brightness, as photon noise does",
    "poisson-gaussian": "Poisson-Gaussian: photon noise and read noise",
    "dependent": "white, but weaker in bright areas, as after a tone curve",
    "correlated": "spatially correlated: neighbouring pixels have similar noise",
    "stripes": "stripes: offsets of whole rows or columns",
    "impulse": "impulses: isolated pixels lost to black or white (salt and pepper)",
}


def diagnose(channel: NDArray[Any], value_range: tuple[float, float]) -> Findings:
    """Measure one channel (H, W); ``value_range`` holds the values of black and white.

    Raises:
        UserError: It is smaller than 32 x 32, or holds too little that is finite.
    """
    whole = as_plane(channel)
    span = value_range[1] - value_range[0]
    holes = np.isnan(whole)
    filled = np.array(np.where(holes, np.nanmedian(whole), whole))
    impulses, plane = measure_impulses(filled)
    limits = find_limits(whole)
    rows, columns, grid = measure_stripes(plane), measure_stripes(plane.T), measure_grid(plane)
    plane[holes] = np.nan
    curve = measure_curve(plane, limits)
    spectrum = measure_spectrum(plane, limits, curve)
    besides = _kind(span, curve, spectrum, grid)
    return Findings(
        _defect(span, sum(impulses), max(rows, columns)) or besides,
        besides,
        spectrum.level if _is_shared(span, curve, spectrum) else curve.sigma,
        curve,
        spectrum,
        measure_clipping(whole, value_range),
        impulses,
        rows,
        columns,
        grid,
    )


def _is_shared(span: float, curve: Curve, spectrum: Spectrum) -> bool:
    """Whether the noise is correlated, and not white with texture below it."""
    if spectrum.correlated:
        return curve.level < FINE * spectrum.level
    coarse = max(spectrum.down, spectrum.across) > CORRELATED and spectrum.uneven < COARSE_UNEVEN
    return coarse and spectrum.level > COARSE * span and curve.level < COARSE_FINE * spectrum.level


def _defect(span: float, impulses: float, stripes: float) -> str | None:
    """What `snowmelt.defects` repairs; it needs the most specific remedy and is named first."""
    if impulses > IMPULSES:
        return "impulse"
    return "stripes" if stripes > STRIPED * span else None


def _kind(span: float, curve: Curve, spectrum: Spectrum, grid: float) -> str:
    """The first that holds."""
    shared = _is_shared(span, curve, spectrum)
    level = spectrum.level if shared else curve.level
    rules = (
        ("compressed", grid > COMPRESSED and level < WEAK * span),
        ("clean", level < CLEAN * span),
        ("unclear", spectrum.uneven > TEXTURED and level < WEAK * span),
        ("correlated", shared),
        ("gaussian", not curve.dependent),
        ("dependent", curve.gain[0] < 0),
        ("poisson-gaussian", curve.reads),
        ("poisson", True),
    )
    return next(kind for kind, holds in rules if holds)
