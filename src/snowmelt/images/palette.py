"""Pictures whose pixels are numbers of colours in a table, as PNG and BMP have them.

Shapes: N colours; numbers are (H, W, 1), pixels (H, W, 3), or (H, W, 4) with opacity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snowmelt.images.base import Array

# Pixels that are looked up at once.
_BAND_PIXELS = 2**20


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
        return self.colours[numbers[..., 0]]

    def nearest(self, numbers: Array, pixels: Array) -> Array:
        """Numbers for new pixels: the old one where nothing changed, else the nearest colour as opaque."""
        chosen = numbers.copy()
        rows = max(1, _BAND_PIXELS // max(1, numbers.shape[1]))
        for value in np.unique(self._opacity):
            nearest = _Nearest(self.colours[:, :3], np.flatnonzero(self._opacity == value))
            for start in range(0, len(numbers), rows):
                band = slice(start, start + rows)
                old, new = numbers[band], pixels[band]
                wanted = self._opacity[old[..., 0]] == value
                wanted &= np.any(self.shown(old) != new, axis=-1)
                if wanted.any():
                    chosen[band][wanted, 0] = nearest(new[wanted][:, :3])
        return chosen

    @property
    def _opacity(self) -> NDArray[np.uint8]:
        if self.colours.shape[1] == 4:
            return self.colours[:, 3]
        return np.full(len(self.colours), 255, np.uint8)


class _Nearest:
    """The nearest of the allowed colours; each colour is sought once, however often it comes."""

    def __init__(self, colours: NDArray[np.uint8], allowed: NDArray[np.intp]) -> None:
        from scipy.spatial import KDTree

        self._allowed = allowed
        self._tree = KDTree(colours[allowed].astype(float))
        self._sought = np.zeros(2**24, bool)  # of each colour; zeros take no memory until then
        self._found = np.zeros(2**24, np.uint8)

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Numbers (N,) of the colours next to pixels (N, 3)."""
        red, green, blue = pixels.astype(np.int32).T
        codes = red << 16 | green << 8 | blue
        new = np.unique(codes[~self._sought[codes]])
        if new.size:
            _, nearest = self._tree.query(np.stack([new >> 16, new >> 8 & 255, new & 255], axis=-1))
            self._found[new] = self._allowed[nearest]
            self._sought[new] = True
        return self._found[codes]


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
