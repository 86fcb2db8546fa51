"""What to do about the noise that `diagnosis` found: a filter, how to use the bundled model, what to type.

The table `ADVICE` has it for each kind of noise; its parameters were tuned on known noise, see
`benchmarks/diagnosis.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snowmelt.baselines import FILTERS, Filter
from snowmelt.diagnosis import Findings


@dataclass(frozen=True)
class Choice:
    """A filter for noise of less than ``below`` (on a 0–255 scale; a fraction of the pixels, for impulses).

    ``value`` is its parameter: a multiple of the noise level, for a median its size. With ``removes`` it is
    searched on the image at hand: the one whose residual has that fraction of the noise level (Morozov's
    discrepancy principle, 1966).
    """

    below: float
    name: str
    value: float = 0.0
    removes: float | None = None


@dataclass(frozen=True)
class Advice:
    """What to do about a kind of noise: why, which filter of `baselines`, what to type."""

    why: str
    filters: tuple[Choice, ...] = ()
    commands: tuple[str, ...] = ()


ANY = math.inf
FILTERED_SIDE = 256  # of the part of an image on which a filter's parameter is searched
SEEN = "snowmelt denoise {file}{flags} --sigma 10  # if noise is visible at 200%; also try 6 and 15"
DENOISE = "snowmelt denoise {file}{flags} --model MODEL.onnx  # with the trained model"
SIMULATE = (
    "snowmelt evaluate --clean CLEAN_FOLDER --noise {noise} --model MODEL.onnx  # how good is it?"
)
PAIRS = "snowmelt train --noisy NOISY --clean CLEAN  # images with this noise, and clean ones"
ALONE = "snowmelt train --noisy NOISY  # many images like this one, no clean ones"
SYNTHETIC = "snowmelt train --clean CLEAN --noise {noise}  # clean images only"
EXPOSURES = "snowmelt evaluate --noisy FOLDER_1 --noisy-too FOLDER_2  # two exposures of each scene"
BLIND_SPOT = (
    "A network trained to predict a pixel from its neighbours (blind-spot training) would learn to keep this "
    "noise, because the neighbours predict it."
)
MAP = (
    "A denoiser for a single noise level blurs dark areas and leaves noise in bright ones. The bundled model "
    "takes a noise map, computed here from the measured dependence on brightness."
)
# Filters and multiples: tuned on known noise, benchmarks/diagnosis.py --filters.
ADVICE: Mapping[str, Advice] = {
    "clean": Advice("Do not denoise: any denoiser would only cost detail."),
    "compressed": Advice(
        "Look at it at 200%: if no noise is visible, do not denoise. Without --sigma, `denoise` itself "
        "decides whether colours show a camera's noise. If visible noise remains, give a noise level two to "
        "three times what it looks like, because a denoiser of white noise takes coarse blotches for detail. "
        f"Better, start from the raw file, or from a JPEG of the highest quality. {BLIND_SPOT}",
        commands=(SEEN, PAIRS, DENOISE),
    ),
    "unclear": Advice(
        "Noise cannot be told apart from texture here. Inspect an image of an even surface from the same "
        "camera. The bundled model estimates the noise level in another way, and leaves the image unchanged "
        "if in doubt."
    ),
    "gaussian": Advice(
        "The noise that all denoisers are made for; one trained for exactly this noise level will do too.",
        (Choice(35, "nlm", 1.05), Choice(ANY, "tv", 0.85)),
        (ALONE, SYNTHETIC, DENOISE, SIMULATE),
    ),
    "poisson": Advice(
        MAP,
        (Choice(15, "nlm", 1.15), Choice(ANY, "tv", 0.95)),
        (ALONE, SYNTHETIC, DENOISE, SIMULATE),
    ),
    "poisson-gaussian": Advice(
        MAP,
        (Choice(18, "nlm", 1.1), Choice(ANY, "tv", 0.87)),
        (ALONE, SYNTHETIC, DENOISE, SIMULATE),
    ),
    "dependent": Advice(
        "The image went through a tone curve; a denoiser for a single noise level is right at one brightness "
        "only.",
        (Choice(ANY, "nlm", 1.05),),
        (PAIRS, DENOISE),
    ),
    "correlated": Advice(
        "Denoisers that are given its standard deviation take it for detail, and keep it; the automatic "
        f"noise level is higher. {BLIND_SPOT} Train on pairs with this same noise, or avoid what causes it: "
        "demosaicing, sharpening, resizing, compression.",
        (Choice(15, "nlm", removes=0.7), Choice(35, "nlm", removes=0.8), Choice(ANY, "tv", 4.5)),
        (PAIRS, DENOISE, EXPOSURES),
    ),
    "stripes": Advice(
        "Filters do little against offsets of whole rows or columns: correct them at the sensor (dark and "
        f"flat frames), or remove them before anything else, as --repair does. {BLIND_SPOT}",
        (Choice(ANY, "nlm", 1.1),),
        (PAIRS, DENOISE),
    ),
    "impulse": Advice(
        "The values of lost pixels are gone, but their neighbours predict them: --repair replaces these "
        "pixels only. A mean would smear them, and a median of all pixels costs detail.",
        (Choice(0.12, "median", 3), Choice(ANY, "median", 5)),
        (SYNTHETIC, DENOISE, SIMULATE),
    ),
}


def choose_filter(image: NDArray[Any], found: Findings, span: float) -> tuple[str, float] | None:
    """Name of the advised filter of `baselines` and its parameter, for an image (H, W) scaled to [0, 1]."""
    level = math.hypot(found.sigma, found.rows, found.columns) / span
    strength = sum(found.impulses) if found.kind == "impulse" else 255 * level
    for choice in ADVICE[found.kind].filters:
        if strength < choice.below:
            filter_ = FILTERS[choice.name]
            if choice.removes is not None:
                return choice.name, _that_removes(choice.removes * level, filter_, image, level)
            return choice.name, choice.value * (level if filter_.relative else 1)
    return None


def _that_removes(amount: float, filter_: Filter, image: NDArray[Any], level: float) -> float:
    """The parameter, half to twice the ``level``, for a residual of this level in the image's middle."""
    top, left = (max(0, side - FILTERED_SIDE) // 2 for side in image.shape)
    part = image[top:, left:][:FILTERED_SIDE, :FILTERED_SIDE]
    part = np.nan_to_num(part, nan=float(np.nanmean(part))).astype(np.float32)
    least, most = level / 2, 2 * level
    for _ in range(6):
        value = math.sqrt(least * most)
        residual = float((part - filter_.apply(part, value)).std())
        least, most = (value, most) if residual < amount else (least, value)
    return math.sqrt(least * most)


@dataclass(frozen=True)
class Denoising:
    """How the bundled model is best used: whether pixels and lines are repaired first, and its strength."""

    repair: bool = False
    strength: float = 1.0


def choose_denoising(found: Findings, *, automatic: bool) -> Denoising | None:
    """How to use the bundled model; None where it is better not used.

    Args:
        found: What was measured.
        automatic: Whether the automatic noise level is above zero.
    """
    if found.kind == "stripes":  # the noise level is estimated better once they are removed
        return Denoising(repair=True)
    repair = found.kind == "impulse"
    if automatic and not (repair and found.besides == "clean"):
        return Denoising(repair=repair)
    return Denoising(repair=True, strength=0.0) if repair else None


def name_noise(found: Findings, span: float, low: float = 0.0) -> str | None:
    """The noise as `snowmelt.noise.parse` reads it; None if it is of no such kind."""
    return _name(found.kind, found, span, low)


def _name(kind: str, found: Findings, span: float, low: float) -> str | None:
    gain = found.curve.gain[0]
    peak = span / gain if gain > 0 else math.inf
    read = 255 * math.sqrt(max(found.curve.floor[0] + gain * low, 0)) / span
    texts = {
        "gaussian": f"gaussian:{_plain(255 * found.sigma / span)}",
        "poisson": f"poisson:{_plain(peak)}",
        "poisson-gaussian": f"poisson-gaussian:{_plain(peak)}:{_plain(read)}",
        "impulse": f"salt-and-pepper:{sum(found.impulses):.2g}",
    }
    return texts.get(kind)


def _plain(value: float) -> str:
    """Three digits, without an exponent: 1440, 27.6, 0.5."""
    return np.format_float_positional(value, precision=3, fractional=False, trim="-")
