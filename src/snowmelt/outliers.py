"""Values that no network may see: not finite, without data, or far outside the range from black to white.

One such value spoils thousands of pixels around it, since a network's output grows with its input: a pixel of
1000 in an image between 0 and 1 costs its surroundings 43 dB, one of 9 still 5.4 dB (`fast`, sigma 25). They
are replaced by a straight line between their neighbours in the row, and the image keeps them.

**Highlights are no outliers.** The networks are nearly linear in scale, so that values of 8 in a range of
0 to 1 are denoised as well as those in between (a simulated HDR photograph: 2.7 dB gained; clipped for the
network at 2, 0.1 dB). So nothing is clipped: far outside is what is beyond ``FAR`` spans, and from ``LONE``
spans on what stands alone in its row, as hot pixels, fireflies and cosmic rays do. Strong noise reaches far,
too: both limits move out with its level.

Each row is judged by itself, and must be whole: so the result depends on no tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# In spans (white minus black) from the range. 12 bits in a 16-bit file: a hot pixel of 65535 is 15 away.
FAR = 8.0
LONE = 2.0  # what a pixel of 3 costs beside it: 1 to 1.8 dB
LONGEST = 2  # pixels in a row that stand alone together
BESIDE = 0.5  # how far outside the range their neighbours are at most; a highlight's are further
SIGMAS = 6.0  # of the noise; more is no noise


@dataclass(frozen=True)
class Kept:
    """How many values were bridged for the network and came back unchanged.

    Attributes:
        not_finite: NaN and infinite ones.
        no_data: Those of the value that stands for missing data.
        outside: Those far outside the range.
    """

    not_finite: int = 0
    no_data: int = 0
    outside: int = 0

    def __add__(self, other: Kept) -> Kept:
        return Kept(
            self.not_finite + other.not_finite,
            self.no_data + other.no_data,
            self.outside + other.outside,
        )

    def __int__(self) -> int:
        return self.not_finite + self.no_data + self.outside

    def __bool__(self) -> bool:
        return int(self) > 0


@dataclass(frozen=True)
class Bounds:
    """What counts as usable in an image.

    Attributes:
        low: Value of black.
        high: Value of white.
        nodata: Value that stands for missing data, if there is one.
        noise: Noise level at white, in spans; what it may reach is no outlier.
        bright_noise: The same at ``FAR`` spans above white, where noise grows with brightness.
    """

    low: float
    high: float
    nodata: float | None = None
    noise: float = 0.0
    bright_noise: float = 0.0

    def find(self, pixels: Array) -> NDArray[np.bool_] | None:
        """Which values of whole rows (H, W, C) are usable; None for all."""
        near = self._within(pixels.dtype, LONE + SIGMAS * self.noise)
        bad = ~_all_within(pixels, *near)
        if self.nodata is not None:
            nodata = is_nodata(pixels, self.nodata)
            bad |= nodata.any(axis=(1, 2))
        if not bad.any():
            return None
        usable = np.ones(pixels.shape, bool)
        usable[bad] = self._usable(pixels[bad], near)
        return None if usable.all() else usable

    def _usable(self, pixels: Array, near: tuple[Any, Any]) -> NDArray[np.bool_]:
        far = self._within(pixels.dtype, FAR + SIGMAS * max(self.noise, self.bright_noise))
        beside = self._within(pixels.dtype, BESIDE)
        with np.errstate(invalid="ignore"):  # NaN is within nothing
            usable = (pixels >= far[0]) & (pixels <= far[1])
            beyond = usable & ((pixels < near[0]) | (pixels > near[1]))
            if beyond.any():
                usable &= ~(beyond & _alone((pixels < beside[0]) | (pixels > beside[1])))
        return usable & ~is_nodata(pixels, self.nodata)

    def count(self, pixels: Array, usable: NDArray[np.bool_]) -> Kept:
        """How many of these values are not usable, by kind."""
        bad = pixels[~usable]
        if not bad.size:
            return Kept()
        finite = np.isfinite(bad)
        missing = int(np.count_nonzero(is_nodata(bad, self.nodata) & finite))
        infinite = int(np.count_nonzero(~finite))
        return Kept(infinite, missing, bad.size - infinite - missing)

    def describe(self, kept: Kept) -> str:
        """What came back unchanged, in words; empty for nothing."""
        parts = []
        if kept.not_finite:
            parts.append(f"{_values(kept.not_finite)} not finite (NaN or infinite)")
        if kept.no_data:
            parts.append(f"{_values(kept.no_data)} of {self.nodata:.9g} (no data)")
        if kept.outside:
            parts.append(
                f"{_values(kept.outside)} far outside the range {self.low:.6g} to {self.high:.6g} (if "
                "they belong to the image, state a wider one: --range LOW HIGH, in Python value_range=)"
            )
        return f"kept unchanged: {', '.join(parts)}" if parts else ""

    def _within(self, dtype: np.dtype[Any], spans: float) -> tuple[Any, Any]:
        """Limits so many spans around the range, as numbers that the type can be compared with."""
        reach = 2 * spans * (self.high / 2 - self.low / 2)  # the span itself may be no float
        ends = np.array([self.low - reach, self.high + reach])
        low, high = np.clip(ends, *_finite_limits(dtype))
        return (dtype.type(low), dtype.type(high)) if dtype.kind == "f" else (low, high)


def bridged(
    pixels: Array, low: float, high: float, nodata: float | None = None
) -> tuple[Array, int]:
    """Replace what no network may see by straight lines along each row.

    Args:
        pixels: Whole rows (H, W, C), integers or floats; not changed.
        low: Value of black.
        high: Value of white.
        nodata: Value that stands for missing data, if there is one.

    Returns:
        The pixels themselves where all are usable, else a copy; and how many values were replaced. Where a
        row has nothing usable it becomes the middle of the range.
    """
    usable = Bounds(low, high, nodata).find(pixels)
    if usable is None:
        return pixels, 0
    return fill(pixels, usable, low, high), int(np.count_nonzero(~usable))


def masked(pixels: Array, low: float, high: float, nodata: float | None = None) -> Array:
    """As `bridged`, but floats with NaN for what is not usable: for measuring, since lines hold no noise."""
    usable = Bounds(low, high, nodata).find(pixels)
    if usable is None:
        return pixels
    small = np.can_cast(pixels.dtype, np.float32)
    return np.where(usable, pixels, np.nan).astype(np.float32 if small else np.float64)


def fill(pixels: Array, usable: NDArray[np.bool_], low: float, high: float) -> Array:
    """A copy of whole rows (H, W, C) whose gaps are straight lines between their usable neighbours."""
    filled = pixels.copy()
    places = np.arange(pixels.shape[1])
    middle = float(np.clip(low / 2 + high / 2, *_finite_limits(pixels.dtype)))
    for row, channel in np.argwhere(~usable.all(axis=1)):
        known = usable[row, :, channel]
        line = filled[row, :, channel]
        line[~known] = (
            np.interp(places[~known], places[known], line[known]) if known.any() else middle
        )
    return filled


def _alone(beyond: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of these (H, W, C) are in runs of at most ``LONGEST`` along W."""
    alone = beyond.copy()
    width, size = beyond.shape[1], LONGEST + 1
    if width < size:
        return alone
    # True where a run of ``size`` starts; all that such a run covers is not alone.
    runs = np.logical_and.reduce(
        [beyond[:, shift : width - size + 1 + shift] for shift in range(size)]
    )
    if runs.any():
        for shift in range(size):
            alone[:, shift : width - size + 1 + shift] &= ~runs
    return alone


def _all_within(pixels: Array, low: Any, high: Any) -> NDArray[np.bool_]:
    """Of each row (H,), whether all are; a NaN is not."""
    if pixels.size == 0:
        return np.ones(len(pixels), bool)
    return np.asarray((pixels.min(axis=(1, 2)) >= low) & (pixels.max(axis=(1, 2)) <= high))


def is_nodata(pixels: Array, nodata: float | None) -> NDArray[np.bool_]:
    """Where pixels are of the value that stands for missing data; nowhere for None and NaN."""
    nowhere = np.zeros(pixels.shape, bool)
    if nodata is None or np.isnan(nodata):
        return nowhere
    if pixels.dtype.kind in "ui":
        information = np.iinfo(pixels.dtype)
        if nodata != np.rint(nodata) or not information.min <= nodata <= information.max:
            return nowhere
        return np.asarray(pixels == pixels.dtype.type(int(nodata)))
    # As the file's own type has it: the text in a tag is rounded otherwise.
    with np.errstate(over="ignore"):
        return np.asarray(pixels == np.float64(nodata).astype(pixels.dtype))


def _finite_limits(dtype: np.dtype[Any]) -> tuple[float, float]:
    information: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    low, high = float(information.min), float(information.max)
    # The largest 64-bit integers are no floats; the next float above them would overflow.
    return low, high if dtype.kind == "f" or dtype.itemsize < 8 else float(np.nextafter(high, 0))


def _values(number: int) -> str:
    return f"{number:,} value{'' if number == 1 else 's'}"
