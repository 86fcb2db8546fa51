"""The automatic noise level: a small network that looks at pieces of an image, run without torch.

Its files lie beside the bundled models, one for grey and one for colour; `levelnet` defines and trains the
network. What it finds is a `Curve`: the noise level at a few brightnesses, those that give the best denoised
image by its training.

Units: everything here is in parts of the range from black to white.
"""

from __future__ import annotations

import functools
import json
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from snowmelt import onnxfile, processor

Picture: TypeAlias = NDArray[np.float32]

HEADER = "snowmelt-estimator"  # the key of the JSON header in the file's metadata
KNOTS = 8  # brightnesses of a curve: (k / 7) squared, closer to each other in the dark
BRIGHTNESS = tuple((k / (KNOTS - 1)) ** 2 for k in range(KNOTS))
BLUR, BLUR_REACH = 2.0, 6  # of the local brightness: standard deviation and radius in pixels
SHORTEST = 32  # side of the smallest image that is measured, in pixels
PADDED = 80  # smaller images are mirrored to this side
# Below this typical level, in parts of the range that is used, an estimate counts as none: the grain of film
# scans (1 to 2.5 on a 0–255 scale) belongs to the image.
CLEAN = 2 / 255


@dataclass(frozen=True)
class Curve:
    """The noise level by brightness.

    Attributes:
        levels: At each of the ``KNOTS`` brightnesses.
        black: The brightness of the first of them.
        white: The brightness of the last.
        measured: Whether statistics find white noise, too, so that a faint level is noise all the same.
    """

    levels: tuple[float, ...]
    black: float = 0.0
    white: float = 1.0
    measured: bool = False

    @property
    def is_zero(self) -> bool:
        """Whether there is no noise to be removed."""
        return not any(self.levels)

    @property
    def faintest(self) -> float:
        """The least typical level that counts."""
        return 0.0 if self.measured else CLEAN * (self.white - self.black)

    def at(self, brightness: ArrayLike) -> Picture:
        """Levels at brightnesses of any shape."""
        part = (np.asarray(brightness, np.float32) - self.black) / (self.white - self.black)
        place = (KNOTS - 1) * np.sqrt(np.clip(part, 0, 1))
        found = np.interp(place, np.arange(KNOTS), self.levels)
        return found.astype(np.float32)


NOTHING = Curve((0.0,) * KNOTS)


def estimate(pieces: Picture, *, deep: bool = False) -> Curve:
    """The noise level of an image, from pieces of it.

    Args:
        pieces: (N, h, w, C) with C 1 or 3, finite, 0 black and 1 white, sides 32 or more.
        deep: Whether the image has more than 8 bits. Such images often use a small part of their range, and
            are looked at in the part that they use.
    """
    black, white = _used(pieces) if deep else (0.0, 1.0)
    if white <= black:
        return NOTHING
    shown = np.clip((pieces - np.float32(black)) / np.float32(white - black), -0.25, 1.25)
    levels = _network(pieces.shape[3])(np.moveaxis(_padded(shown), 3, 1))
    if not np.isfinite(levels).all():
        return NOTHING
    return Curve(tuple(float(each) * (white - black) for each in levels), black, white)


def typical(curves: Sequence[Curve], pieces: Picture) -> float:
    """The root mean square level over all pixels of pieces (N, h, w, C); see `combined`."""
    squares = [np.square(combined(curves, piece), dtype=np.float64).mean() for piece in pieces]
    return math.sqrt(float(np.mean(squares)))


def _used(pieces: Picture) -> tuple[float, float]:
    """The range between the 2nd and the 998th thousandth of the values, at most black to white."""
    low, high = np.quantile(pieces, (0.002, 0.998))
    return max(0.0, float(low)), min(1.0, float(high))


def _padded(pieces: Picture) -> Picture:
    short = [max(0, PADDED - length) for length in pieces.shape[1:3]]
    if not any(short):
        return pieces
    return np.pad(pieces, [(0, 0), (0, short[0]), (0, short[1]), (0, 0)], mode="symmetric")


def path(channels: int) -> Path:
    """The file of the estimator for so many channels: 3 for colour, else grey."""
    folder = Path(str(resources.files("snowmelt"))) / "weights" / "estimators"
    return folder / f"level-{'colour' if channels == 3 else 'grey'}.onnx"


def header(file: Path) -> dict[str, Any]:
    """What an estimator's file says about itself: name, version, data, scores, licence."""
    found: dict[str, Any] = json.loads(onnxfile.parse(file.read_bytes()).metadata[HEADER])
    return found


class _Network:
    """One estimator, compiled once for images of every size."""

    def __init__(self, file: Path) -> None:
        options = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = processor.core().compile_model(str(file), "CPU", options)
        self._request = compiled.create_infer_request()
        self._lock = threading.Lock()

    def __call__(self, images: Picture) -> NDArray[np.float32]:
        """(N, C, H, W) to (KNOTS,)."""
        with self._lock:
            return np.array(self._request.infer({0: np.ascontiguousarray(images)})[0])


@functools.cache
def _network(channels: int) -> _Network:
    return _Network(path(channels))


def combined(curves: Sequence[Curve], brightness: Picture) -> Picture:
    """Level (h, w) of a pixel of several channels (h, w, C): the root mean square of theirs."""
    if len(curves) == 1:
        return curves[0].at(brightness.mean(2))
    squares = [
        np.square(curve.at(brightness[..., channel])) for channel, curve in enumerate(curves)
    ]
    return np.sqrt(np.mean(squares, axis=0, dtype=np.float32))
