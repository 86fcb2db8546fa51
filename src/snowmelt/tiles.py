"""Windows over an image larger than memory, such that the stitched results equal the result on the whole.

The result on the whole is: mirror the last rows and columns until the sides divide by ``multiple``, run the
network, cut back. (Repeated, the last column's noise would be stripes, which a network takes for the
picture's.) A window shows the network a part of that. It begins at a multiple of ``multiple``, so that the
network's coarser grids fall as on the whole; where it touches the image's border, the network's own padding
is the same; everywhere else only what lies ``reach`` or more inside is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snowmelt.errors import UserError

# Sides of tiles are rounded up to this, so that images of many sizes need few compiled shapes.
STEP = 16


@dataclass(frozen=True)
class Window:
    """Along one axis: the network sees ``start:stop``, of its result ``keep_start:keep_stop`` is kept.

    All four count from the image's border. ``stop`` may exceed the image by up to ``multiple`` - 1.
    """

    start: int
    stop: int
    keep_start: int
    keep_stop: int

    @property
    def kept(self) -> slice:
        """The kept part, counted from the window's own start."""
        return slice(self.keep_start - self.start, self.keep_stop - self.start)


def smallest_tile(reach: int, multiple: int) -> int:
    """The shortest window that keeps anything of its middle."""
    return round_up(2 * reach, multiple) + multiple


def fit_tile(length: int, largest: int, reach: int, multiple: int) -> int:
    """Side of the windows along an axis of ``length`` pixels, at most ``largest``; the whole where it fits.

    Among the sides that need no more windows than ``largest`` it is the shortest one, so that the last window
    does not do its neighbour's work again. Raises UserError if ``largest`` is too small for the network.
    """
    whole = round_up(length, multiple)
    if whole <= largest:
        return whole
    shortest = smallest_tile(reach, multiple)
    largest -= largest % multiple
    if largest < shortest:
        raise UserError(
            f"tile {largest}: this network sees {reach} pixels far in blocks of {multiple}; "
            f"expected a tile of {shortest} pixels or more"
        )
    fewest = len(windows(length, largest, reach, multiple))
    step = math.lcm(STEP, multiple)
    sides = range(round_up(shortest, step), largest, step)
    enough = (side for side in sides if len(windows(length, side, reach, multiple)) == fewest)
    return next(enough, largest)


def windows(length: int, tile: int, reach: int, multiple: int) -> list[Window]:
    """Windows of one size, ``tile``, whose kept parts together are ``0:length``, each pixel once."""
    whole = round_up(length, multiple)
    if whole <= tile:
        return [Window(0, whole, 0, length)]
    assert tile % multiple == 0
    assert tile >= smallest_tile(reach, multiple)
    stride = (tile - 2 * reach) // multiple * multiple
    last = whole - tile
    starts = [*range(0, last, stride), last]
    borders = [0, *(start + reach for start in starts[1:]), length]
    return [
        Window(start, start + tile, border, next_border)
        for start, (border, next_border) in zip(starts, pairwise(borders), strict=True)
    ]


def round_up(length: int, multiple: int) -> int:
    """The next number that divides by ``multiple``."""
    return -(-length // multiple) * multiple


def strips(
    read: Callable[[int, int], NDArray[Any]], height: int, rows: Sequence[Window]
) -> Iterator[tuple[Window, NDArray[Any]]]:
    """The rows of each window, as far as the image goes; each row is read once, from top to bottom.

    ``read(start, stop)`` gives rows of the image as an array whose first axis is Y.
    """
    held, first, end = read(0, 0), 0, 0
    for window in rows:
        stop = min(window.stop, height)
        held = np.concatenate([held[window.start - first :], read(end, stop)])
        first, end = window.start, stop
        yield window, held


def cut(strip: NDArray[Any], row: Window, column: Window) -> NDArray[Any]:
    """What the network sees of a strip (rows, W, ...): the window, mirrored where the image ends."""
    part = strip[:, column.start : column.stop]
    missing = [row.stop - row.start - part.shape[0], column.stop - column.start - part.shape[1]]
    if not any(missing):
        return part
    added = [(0, size) for size in missing] + [(0, 0)] * (part.ndim - 2)
    return np.pad(part, added, mode="symmetric")
