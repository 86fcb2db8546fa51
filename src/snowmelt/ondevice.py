"""Samples made where the network learns: on a GPU, which learns faster than cores cut and noise.

All pictures lie in its memory as one row of pixels; the squares of a batch are gathered from it, resized and
noised there. A batch is a function of (seed, step) here, too, so that runs can be resumed and ranks share
one; but they are other samples than `samples.CropSamples` makes of the same seed.

Shapes: B batch, C channels, S side of a square; pictures are (B, C, S, S) float32, 0 black and 1 white.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snowmelt import noise as noises
from snowmelt.noise import Drawn, Gaussian
from snowmelt.samples import Batch, CropSamples, Samples, Share
from snowmelt.sources import LUMA, MEMORY, Pictures
from snowmelt.supervision import LEAST_LEVEL, Noised, Supervision, changed_size

Integers = NDArray[np.int64]


def moved(chosen: Samples, device: torch.device) -> Samples:
    """The same, made on a GPU where that can be: clean pictures, not too large, and Gaussian noise."""
    if device.type == "cuda" and isinstance(chosen, CropSamples) and can_make(chosen.supervision):
        return DeviceCrops(chosen, device)
    return chosen


def can_make(supervision: Supervision) -> bool:
    """Whether its samples can be made on a device, in float32."""
    pictures = supervision.pictures
    if not isinstance(supervision, Noised) or not np.can_cast(pictures.dtype, np.float32):
        return False
    noise = supervision.kind
    make = noise.make if isinstance(noise, Drawn) else type(noise)
    return make is Gaussian and sum(each.nbytes for each in pictures.stored) <= MEMORY


@dataclass(frozen=True)
class Squares:
    """What is cut: of each square its picture, where it begins, and its turn, one of eight.

    ``corner`` (B, 2) is a part, 0 to 1, of all rows and columns that it can begin at. The bits of ``turn``
    turn it upside down, mirror it, and after that swap rows and columns.
    """

    index: Integers
    corner: NDArray[np.float64]
    turn: Integers

    def __getitem__(self, chosen: slice) -> Squares:
        return Squares(self.index[chosen], self.corner[chosen], self.turn[chosen])


class DeviceCrops(CropSamples):
    """Squares of clean pictures with Gaussian noise, see `CropSamples`; batches are made on a device.

    All samples of one step that are resized are so by one factor.
    """

    slow = False

    def __init__(self, crops: CropSamples, device: torch.device) -> None:
        held_out, multiple = crops._held_out, crops._multiple
        super().__init__(crops.supervision, held_out, crops.training, multiple=multiple)
        assert isinstance(crops.supervision, Noised)
        self._clean = crops.supervision
        self._pixels = Pixels(crops.supervision.pictures, device)
        self._generator = torch.Generator(device)

    def batch(self, step: int, share: Share) -> Batch:
        """See `Samples`."""
        count = self.training.batch
        rng = np.random.default_rng((self.training.seed, 1, step))
        squares = Squares(
            self._chosen(rng.random(count)),
            rng.random((count, 2)),
            rng.integers(8 if self.training.flips else 1, size=count),
        )
        resize = self._clean.resize
        resized = int(rng.binomial(count, self._clean.resized)) if resize else 0
        factor = math.exp(rng.uniform(*np.log(resize))) if resize else 1.0
        sigmas = [noises.draw(self._clean.kind, rng).sigma for _ in range(count)]  # type: ignore[attr-defined]
        self._generator.manual_seed(int(rng.integers(2**63)))

        clean = self._cut(squares, resized, factor)
        level = torch.tensor(sigmas, device=clean.device).float()[:, None, None, None]
        noise = level * torch.randn(clean.shape, generator=self._generator, device=clean.device)
        strength = noise.square().mean((1, 2, 3), keepdim=True).sqrt()
        weight = 1 / (strength + LEAST_LEVEL)
        parts = clean + noise, clean, weight, level.expand_as(clean[:, :1])
        noisy, clean, weight, level = (share.of(each) for each in parts)
        return Batch(noisy, clean, weight, level, whole=count)

    def _cut(self, squares: Squares, resized: int, factor: float) -> Tensor:
        """The clean pictures of a batch, the first of them made ``factor`` times as large."""
        others = self._pixels.cut(squares[resized:], self.patch)
        if not resized:
            return others
        most = int(self._pixels.shapes[squares.index[:resized]].min())
        source = min(max(round(self.patch / factor), 1), most)
        first = self._pixels.cut(squares[:resized], source)
        return torch.cat([changed_size(first, self.patch, self.patch), others])


class Pixels:
    """All pixels of a set of pictures on a device, in one row."""

    def __init__(self, pictures: Pictures, device: torch.device) -> None:
        self._range, self._grey = pictures.value_range, pictures.grey
        rows = [each.reshape(-1, each.shape[2]) for each in pictures.stored]
        kind = np.uint8 if pictures.dtype == np.uint8 else np.float32
        row = np.concatenate(rows).astype(kind, copy=False)
        self._row = torch.from_numpy(row).to(device)  # (pixels, C)
        self.shapes = np.array(pictures.shapes)  # height, width
        self._starts = np.cumsum([0, *self.shapes.prod(1)[:-1]])

    def cut(self, squares: Squares, side: int) -> Tensor:
        """Squares (B, C, side, side) of pictures; those too small are mirrored at their borders."""
        shapes = self.shapes[squares.index]
        corners = (squares.corner * np.maximum(shapes - side + 1, 1)).astype(np.int64)
        turns = squares.turn >> np.arange(3)[:, None] & 1
        numbers = np.stack([self._starts[squares.index], *shapes.T, *corners.T, *turns])
        moved = torch.from_numpy(numbers).to(self._row.device)[..., None, None]  # (8, B, 1, 1)
        start, height, width, top, left, upside_down, mirrored, transposed = moved
        along = torch.arange(side, device=self._row.device)
        down, across = torch.meshgrid(along, along, indexing="ij")
        row = torch.where(transposed > 0, across, down)
        column = torch.where(transposed > 0, down, across)
        row = top + torch.where(upside_down > 0, side - 1 - row, row)
        column = left + torch.where(mirrored > 0, side - 1 - column, column)
        place = start + _inside(row, height) * width + _inside(column, width)
        return self._scaled(self._row[place]).movedim(-1, 1)

    def _scaled(self, values: Tensor) -> Tensor:
        """(..., C) as it is stored, 0 black and 1 white, and in grey if asked for; see `Pictures.crop`."""
        low, high = self._range
        scaled = (values.float() - low) / (high - low)
        if self._grey and scaled.shape[-1] == 3:
            scaled = (scaled @ scaled.new_tensor(LUMA))[..., None]
        return scaled


def _inside(places: Tensor, length: Tensor) -> Tensor:
    """Places beyond the end, mirrored there, the last pixel twice."""
    places = places % (2 * length)
    return torch.minimum(places, 2 * length - 1 - places)
