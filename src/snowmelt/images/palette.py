"""Pictures whose pixels are numbers of colours in a table, as PNG and BMP have them.

Shapes: N colours; numbers are (H, W, 1), pixels (H, W, 3), or (H, W, 4) with opacity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snowmelt.images.base import Array


@dataclass(frozen=True)
class Palette:
    """Colours, (N, 3) or with opacity (N, 4); of 16 bits in TIFF alone, which has no use for ``nearest``."""

    colours: NDArray[np.uint8]

    def checked(self, numbers: Array) -> Array:
        """The numbers, all of which name a colour; ValueError where one does not."""
        if numbers.size and numbers.max() >= len(self.colours):
            raise ValueError(f"colour {numbers.max()} of a palette of {len(self.colours)}")
        return numbers

    def shown(self, numbers: Array) -> NDArray[np.uint8]:
        """The pixels."""
        return self.colours[_places(numbers)]

    def nearest(self, numbers: Array, pixels: Array) -> Array:
        """Numbers for new pixels: the old one where nothing changed, else the nearest colour as opaque."""
        from scipy.spatial import KDTree

        chosen = numbers.copy()
        changed = np.any(self.shown(numbers) != pixels, axis=-1)
        was = self._opacity[_places(numbers)]
        for value in np.unique(was[changed]):
            allowed = np.flatnonzero(self._opacity == value)
            wanted = changed & (was == value)
            colours, back = np.unique(pixels[wanted][:, :3], axis=0, return_inverse=True)
            tree = KDTree(self.colours[allowed, :3].astype(float))
            _, nearest = tree.query(colours.astype(float))
            chosen[wanted, 0] = allowed[nearest][back.reshape(-1)]
        return chosen

    @property
    def _opacity(self) -> NDArray[np.uint8]:
        if self.colours.shape[1] == 4:
            return self.colours[:, 3]
        return np.full(len(self.colours), 255, np.uint8)


def packed(numbers: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Rows of numbers (H, W) as bytes that hold so many bits of each, one behind the other."""
    places = np.unpackbits(numbers[..., None], axis=-1)[..., 8 - bits :]
    return np.packbits(places.reshape(len(numbers), -1), axis=1)


def unpacked(rows: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Bytes of a row as the numbers of so many bits in them."""
    places = np.unpackbits(rows, axis=1).reshape(len(rows), -1, bits)
    whole = np.zeros((*places.shape[:2], 8), np.uint8)
    whole[..., 8 - bits :] = places
    return np.packbits(whole, axis=-1)[..., 0]


def _places(numbers: Array) -> NDArray[np.intp]:
    return numbers[..., 0].astype(np.intp)
