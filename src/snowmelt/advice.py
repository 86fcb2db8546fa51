"""What to do about the noise that `diagnosis` found: a filter, how to ask the model that ships, what to type.

The table `ADVICE` says it for each kind of noise; the figures in it were tuned on known noise, see
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
    """A filter for noise of less than ``below`` (of 255 levels; of the pixels, for impulses).

    ``value`` is its parameter: a multiple of the noise's level, for a median its size. With ``takes`` it is
    sought on the image at hand: what takes away so much of the noise's level (Morozov's discrepancy
    principle, 1966).
    """

    below: float
    name: str
    value: float = 0.0
    takes: float | None = None


@dataclass(frozen=True)
class Advice:
    """What to do about a kind of noise: why, which filter of `baselines`, what to type."""

    why: str
    filters: tuple[Choice, ...] = ()
    commands: tuple[str, ...] = ()


ANY = math.inf
FILTERED_SIDE = 256  # of the part of an image on which a filter's parameter is sought
SEEN = "snowmelt denoise {file}{flags} --sigma 10  # where noise is seen at 200%; compare, try 6 and 15"
DENOISE = "snowmelt denoise {file}{flags} --model MODEL.onnx  # with that model"
SIMULATE = (
    "snowmelt evaluate --clean CLEAN_FOLDER --noise {noise} --model MODEL.onnx  # any good at it?"
)
PAIRS = (
    "snowmelt train --noisy NOISY --clean CLEAN  # pictures with just this noise, and clean ones"
)
ALONE = "snowmelt train --noisy NOISY  # many pictures like this one, nothing clean"
PUT_ON = "snowmelt train --clean CLEAN --noise {noise}  # clean pictures only"
TAKES = (
    "snowmelt evaluate --noisy FOLDER_1 --noisy-too FOLDER_2  # two takes of each scene, no truth"
)
BLIND_SPOT = (
    "A network that learns to predict a pixel from its neighbours alone (blind-spot training) would learn "
    "this noise as if it were picture: the neighbours give it away."
)
MAP = (
    "A denoiser for one level blurs the dark and leaves noise in the bright; the model that ships takes the "
    "level as a map, which the measured line over the brightness makes."
)
# Filters and multiples: tuned on known noise, benchmarks/diagnosis.py --filters.
ADVICE: Mapping[str, Advice] = {
    "clean": Advice("Leave the image as it is: any denoiser would only cost detail."),
    "compressed": Advice(
        "Look at it at 200%: if it is clean, leave it. Without --sigma, `denoise` judges by itself whether "
        "colours show a camera's noise. If it is left, say how strong: two to three times what it looks, for "
        "a denoiser of white noise takes coarse blotches for picture. Better still, start from the raw file, "
        f"or from a JPEG of the highest quality. {BLIND_SPOT}",
        commands=(SEEN, PAIRS, DENOISE),
    ),
    "unclear": Advice(
        "Noise cannot be told from texture here. Inspect a picture of something even from the same camera; "
        "the model that ships measures the level another way, and leaves the image as it is if in doubt."
    ),
    "gaussian": Advice(
        "The noise all denoisers are made for; also one that was trained for just this level.",
        (Choice(35, "nlm", 1.05), Choice(ANY, "tv", 0.85)),
        (ALONE, PUT_ON, DENOISE, SIMULATE),
    ),
    "poisson": Advice(
        MAP,
        (Choice(15, "nlm", 1.15), Choice(ANY, "tv", 0.95)),
        (ALONE, PUT_ON, DENOISE, SIMULATE),
    ),
    "poisson-gaussian": Advice(
        MAP,
        (Choice(18, "nlm", 1.1), Choice(ANY, "tv", 0.87)),
        (ALONE, PUT_ON, DENOISE, SIMULATE),
    ),
    "dependent": Advice(
        "The picture went through a tone curve; a denoiser for one level is right at one brightness only.",
        (Choice(ANY, "nlm", 1.05),),
        (PAIRS, DENOISE),
    ),
    "correlated": Advice(
        f"Denoisers for white noise take it for picture, and keep it. {BLIND_SPOT} Train on pairs that hold "
        "this very noise, or get rid of what makes it: demosaicing, sharpening, resizing, compression.",
        (Choice(15, "nlm", takes=0.7), Choice(35, "nlm", takes=0.8), Choice(ANY, "tv", 4.5)),
        (PAIRS, DENOISE, TAKES),
    ),
    "stripes": Advice(
        "Filters do little against offsets of whole rows or columns: correct them at the sensor (dark and "
        f"flat frames), else take them off before anything else, as --repair does. {BLIND_SPOT}",
        (Choice(ANY, "nlm", 1.1),),
        (PAIRS, DENOISE),
    ),
    "impulse": Advice(
        "Lost pixels say nothing of what they were, but their neighbours do: --repair replaces them, and no "
        "others. A mean would smear them, a median of all pixels costs detail.",
        (Choice(0.12, "median", 3), Choice(ANY, "median", 5)),
        (PUT_ON, DENOISE, SIMULATE),
    ),
}


def choose_filter(image: NDArray[Any], found: Findings, span: float) -> tuple[str, float] | None:
    """Name of the advised filter of `baselines` and its parameter, for an image (H, W) scaled to [0, 1]."""
    level = math.hypot(found.sigma, found.rows, found.columns) / span
    strength = sum(found.impulses) if found.kind == "impulse" else 255 * level
    for choice in ADVICE[found.kind].filters:
        if strength < choice.below:
            filter_ = FILTERS[choice.name]
            if choice.takes is not None:
                return choice.name, _that_takes(choice.takes * level, filter_, image, level)
            return choice.name, choice.value * (level if filter_.relative else 1)
    return None


def _that_takes(amount: float, filter_: Filter, image: NDArray[Any], level: float) -> float:
    """The parameter, of half to twice the ``level``, by which a filter changes the image's middle so much."""
    top, left = (max(0, side - FILTERED_SIDE) // 2 for side in image.shape)
    part = image[top:, left:][:FILTERED_SIDE, :FILTERED_SIDE]
    part = np.nan_to_num(part, nan=float(np.nanmean(part))).astype(np.float32)
    least, most = level / 2, 2 * level
    for _ in range(6):
        value = math.sqrt(least * most)
        taken = float((part - filter_.apply(part, value)).std())
        least, most = (value, most) if taken < amount else (least, value)
    return math.sqrt(least * most)


@dataclass(frozen=True)
class Denoising:
    """How the model that ships is best asked: what it is told of the noise (None: it measures it itself),
    whether pixels and lines are repaired first, and the part of the noise that it takes away."""

    noise: str | None = None
    repair: bool = False
    strength: float = 1.0


TOLD = ("gaussian", "poisson", "poisson-gaussian")  # such a model was trained for
STRONG = 35  # of 255; against weaker noise that neighbours share, a filter is better
# Correlated noise is as broad as white noise of 1 + BROAD * correlation times its level.
BROAD = 2.0


def choose_denoising(found: Findings, span: float, low: float = 0.0) -> Denoising | None:
    """What to ask of the model that ships; None where it is better not asked.

    ``low`` is the value of black, ``span`` from there to white.
    """
    if found.kind == "stripes":  # whose noise is measured better once they are gone
        return Denoising(repair=True)
    repair = found.kind == "impulse"
    if found.besides in TOLD:
        # An offset cannot be told, but the model that ships measures it.
        offset = found.besides != "gaussian" and found.curve.begins_above(low)
        return Denoising(None if offset else _name(found.besides, found, span, low), repair)
    if found.besides in ("dependent", "unclear"):
        return Denoising(repair=repair)
    level = 255 * found.sigma / span
    if found.kind == "correlated" and level >= STRONG:
        shared = max(found.spectrum.down, found.spectrum.across)
        return Denoising(f"gaussian:{_plain(level * (1 + BROAD * shared))}")
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
