"""What is wrong with pixels and lines before there is noise: lost pixels, shifted rows or columns.

No denoiser for noise takes these away, and what they really are is simple: a lost pixel says nothing of what
it was, so that its neighbours must (Chan et al., 2005, replace only what was lost); a shift is one number for
a whole line. Both are put right where `diagnosis` finds them, and all else stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snowmelt import outliers
from snowmelt.diagnosis import (
    IMPULSES,
    STRIPED,
    Plane,
    as_plane,
    find_limits,
    measure_impulses,
    measure_stripes,
)
from snowmelt.errors import UserError
from snowmelt.images.base import Array, Image

WINDOW = 7  # pixels; in it are counted those that are at the limit
LARGEST_WINDOW = 15  # in which good neighbours of a lost pixel are looked for
FEWEST = 3  # good neighbours; their median stands for the lost pixel
PARTS = 8  # of a line, each of which says how far the line is shifted


def repair(channel: NDArray[Any]) -> tuple[Plane, str]:
    """Replace lost pixels, then take off the shifts of rows and columns.

    Args:
        channel: (H, W), any number type. Values that are not finite stay.

    Returns:
        (H, W) float64, and what was done in words, empty if nothing.

    Raises:
        UserError: A side is under 32 pixels.
    """
    whole = as_plane(channel)
    holes = np.isnan(whole)
    plane = np.array(np.where(holes, np.nanmedian(whole), whole))
    limits = find_limits(whole)
    span = float(np.ptp(plane)) or 1.0
    done = []
    shares, _ = measure_impulses(plane)
    if sum(shares) > IMPULSES:
        lost = find_lost(plane, limits, shares)
        plane = fill(plane, lost)
        done.append(f"{lost.mean():.2%} of the pixels were lost")
    for name, turn in (("rows", np.asarray), ("columns", np.transpose)):
        level = measure_stripes(turn(plane))
        if level > STRIPED * span:
            shifts = find_shifts(turn(plane), level)
            plane = plane - turn(shifts[:, None])
            done.append(f"{name} were shifted by {shifts.std():.3g}")
    plane[holes] = channel[holes]
    return plane, ", ".join(done)


def find_lost(
    plane: Plane, limits: tuple[float, float], shares: tuple[float, float]
) -> NDArray[np.bool_]:
    """Which pixels are lost: at a limit, with no more others around than so many lost ones would be.

    Where there are more, the picture itself is black or white there. Texture may hide lost pixels at one of
    the limits from ``shares``; as they come in black and white alike, the greater one counts for both.
    """
    from scipy.ndimage import uniform_filter

    share = max(shares)
    expected = share + 3 * np.sqrt(share * (1 - share) / WINDOW**2) + 1 / WINDOW**2
    lost = np.zeros(plane.shape, bool)
    for limit in limits:
        at_limit = plane == limit
        around = uniform_filter(at_limit.astype(np.float64), WINDOW, mode="reflect")
        lost |= at_limit & (around < expected)
    return lost


def fill(plane: Plane, lost: NDArray[np.bool_]) -> Plane:
    """Replace each lost pixel by the median of its good neighbours, in as small a square as has a few."""
    filled, rest = plane.copy(), lost.copy()
    for side in range(3, LARGEST_WINDOW + 1, 2):
        reach = side // 2
        padded = np.pad(np.where(lost, np.nan, plane), reach, constant_values=np.nan)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side))
        around = windows[rest].reshape(-1, side**2)
        enough = np.count_nonzero(np.isfinite(around), axis=1) >= FEWEST
        places = tuple(axis[enough] for axis in np.nonzero(rest))
        filled[places] = np.nanmedian(around[enough], axis=1)
        rest[places] = False
        if not rest.any():
            break
    return filled


def find_shifts(plane: Plane, level: float) -> NDArray[np.float64]:
    """How far each row is shifted (H,), if the shifts are white with a standard deviation of ``level``.

    Each part of a row votes on the step from the row above; the median is the step, and how much they differ
    says how sure it is. From the steps the shifts follow by least squares, held to ``level``, so that what
    changes slowly down the picture stays.
    """
    from scipy.linalg import solveh_banded

    votes = np.array(
        [np.median(part, axis=1) for part in np.array_split(np.diff(plane, axis=0), PARTS, axis=1)]
    )
    steps = np.median(votes, axis=0)
    # The variance of a median is pi / 2 times that of a mean.
    error = np.pi / 2 * votes.var(axis=0, ddof=1) / PARTS
    weight = 1 / (np.maximum(error, np.median(error)) + 1e-12 * level**2)
    bands = np.zeros((2, len(plane)))  # of the normal equations: beside the diagonal, and on it
    bands[0, 1:] = -weight
    bands[1] = 1 / level**2
    bands[1, 1:] += weight
    bands[1, :-1] += weight
    right = np.zeros(len(plane))
    right[1:] += weight * steps
    right[:-1] -= weight * steps
    return np.asarray(solveh_banded(bands, right))


class Repaired(Image):
    """An image whose planes are repaired when they are read; one plane at a time is held in memory."""

    def __init__(self, image: Image, nodata: float | None = None) -> None:
        self.nodata = image.nodata if nodata is None else nodata
        self.path, self.layout, self.value_range = image.path, image.layout, image.value_range
        self.suffixes = image.suffixes  # type: ignore[misc]  # those of the kind of file it is
        self._image = image
        self._plane, self._done = -1, ""
        self._pixels: Array = np.empty(0)

    def describe(self) -> str:
        """What is put right in the plane in the middle."""
        self._read(self.layout.planes // 2)
        return self._done or "no lost pixels, no shifted rows or columns; nothing to repair"

    def read_rows(self, plane: int, start: int, stop: int) -> Array:
        """Rows of a plane, repaired, in the stored number type."""
        self._read(plane)
        return self._pixels[start:stop]

    def write_like(self, target: Path, bands: Iterator[Array]) -> None:
        """As the image itself does."""
        self._image.write_like(target, bands)

    def check_target(self, target: Path) -> None:
        """As the image itself does."""
        self._image.check_target(target)

    def _read(self, plane: int) -> None:
        if plane == self._plane:
            return
        pixels = np.array(self._image.read_rows(plane, 0, self.layout.height))
        done: dict[str, None] = {}
        for channel in range(self.layout.channels - self.layout.alpha):
            repaired, words = self._repair(pixels[..., channel])
            pixels[..., channel] = repaired
            done |= {words: None} if words else {}
        self._plane, self._pixels, self._done = plane, pixels, "; ".join(done)

    def _repair(self, channel: NDArray[Any]) -> tuple[NDArray[Any], str]:
        if channel.dtype.kind not in "uif":
            raise UserError(f"an image of {channel.dtype}: expected integers or floats")
        missing = outliers.is_nodata(channel, self.nodata)
        if missing.all():
            return channel, ""
        whole = np.where(missing, np.nan, channel) if missing.any() else channel
        repaired, words = repair(whole)
        if channel.dtype.kind != "f":
            limits = self.value_range or (np.iinfo(channel.dtype).min, np.iinfo(channel.dtype).max)
            repaired = np.clip(np.rint(repaired), *limits)
        repaired[missing] = 0  # NaN is no integer
        return np.where(missing, channel, repaired.astype(channel.dtype)), words
