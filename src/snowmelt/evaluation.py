"""Denoisers scored on images with a known truth, against tuned filters and against doing nothing.

The outputs are treated as files of the data's own kind would hold them: clipped to black and white, rounded
where whole numbers are stored. Pictures are (H, W) or (H, W, C) float32, 0 black and 1 white.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from snowmelt import __version__, baselines, cases, looks
from snowmelt.baselines import Denoise, Filter, Tuned
from snowmelt.cases import Case, Collection, Picture, Scale, middle
from snowmelt.errors import UserError
from snowmelt.metrics import SSIM_WINDOW, psnr, ssim
from snowmelt.results import FILTER, MODEL, NOTHING, Marks, Protocol, Results

NETWORK = "the network"
# The middle of an image tells the best parameter as the whole does, and sooner.
TUNING_PICTURES, TUNING_SIDE = 16, 256
HELD_ASIDE = 5  # one scene in so many tunes the filters, where no other images do
PROGRAMS = ("numpy", "scipy", "scikit-image")

Progress: TypeAlias = Callable[[Sequence[Any], str], Iterable[Any]]


@dataclass(frozen=True)
class Contender:
    """A denoiser to be scored; ``details`` say which it is, such as its file's SHA-256."""

    name: str
    denoise: Denoise
    kind: str = MODEL
    details: Mapping[str, Any] = field(default_factory=dict)


def nothing(image: Picture) -> Picture:
    """Do nothing: what every denoiser has to beat."""
    return image


DO_NOTHING = Contender("noisy, as it is", nothing, NOTHING)


def in_silence(items: Sequence[Any], what: str) -> Iterable[Any]:
    """Show no progress."""
    del what
    return items


def compare(
    collection: Collection,
    denoisers: Mapping[str, Denoise] | Sequence[Contender],
    *,
    tuning: Collection | None = None,
    against: Iterable[str] = baselines.ALWAYS_THERE,
    progress: Progress = in_silence,
    album: list[looks.Seen] | None = None,
) -> Results:
    """Score doing nothing, the classical filters at their best and the given denoisers.

    Args:
        collection: The images, see `cases`.
        denoisers: Functions of a picture, by name.
        tuning: Images to tune the filters on; those that are among the scored ones are left out. Without
            it one scene in five is held aside for that, and is not scored.
        against: Names of filters, see `baselines.FILTERS`.
        progress: Goes through items and shows it, such as `tqdm`.
        album: Gets a few of the images, for `looks.write_pictures`.

    Raises:
        UserError: The images cannot be scored, or there is nothing to tune on.
    """
    filters = baselines.choose(against)
    scored, said = cases.examine(collection), "nothing"
    contenders = [DO_NOTHING]
    if filters:
        scored, aside, said = _hold_aside(scored) if tuning is None else _unseen(tuning, scored)
        contenders += [_as_contender(each) for each in _tune(aside, filters, progress)]
    if isinstance(denoisers, Mapping):
        denoisers = [Contender(name, each) for name, each in denoisers.items()]
    return _measure(scored, [*contenders, *denoisers], said, progress, album)


def _as_contender(tuned: Tuned) -> Contender:
    return Contender(tuned.label, tuned, FILTER, {tuned.filter.parameter: tuned.value})


def _hold_aside(collection: Collection) -> tuple[Collection, Collection, str]:
    """What is scored, what the filters are tuned on, and what is to be said of that."""
    scenes = list(dict.fromkeys(case.scene for case in collection.cases))
    if len(scenes) < 2:
        raise UserError(
            f"{collection.title}: one scene only, and filters are not tuned on what is scored; give other "
            "images to tune them on: --tune, or leave the filters out: --against none"
        )
    aside = set(scenes[::HELD_ASIDE])
    tuning = [case for case in collection.cases if case.scene in aside]
    scored = [case for case in collection.cases if case.scene not in aside]
    said = (
        f"{len(tuning)} of the {len(collection.cases)} images, held aside for that and not scored "
        "(to score all, name other images for it: --tune)"
    )
    scored_only = replace(collection, cases=tuple(scored))
    return scored_only, replace(collection, cases=_thinned(tuning)), said


def _unseen(tuning: Collection, scored: Collection) -> tuple[Collection, Collection, str]:
    """The same, where other images are given for tuning."""
    tuning = cases.examine(replace(tuning, cases=_thinned(tuning.cases)))
    if cases.is_colour(tuning) != cases.is_colour(scored):
        raise UserError(
            f"{tuning.title}: of {tuning.title} and {scored.title}, one is grey, one in colour; tune "
            "filters on images like those that are scored"
        )
    known = {case.scene for case in scored.cases}
    unseen = tuple(case for case in tuning.cases if case.scene not in known)
    if not unseen:
        raise UserError(
            f"{tuning.title}: these are among the images that are scored; filters are tuned on others"
        )
    said = f"{len(unseen)} images, {tuning.title}"
    if len(unseen) < len(tuning.cases):
        said += f" ({len(tuning.cases) - len(unseen)} more are among the scored and were left out)"
    return scored, replace(tuning, cases=unseen), said


def _thinned(given: Sequence[Case]) -> tuple[Case, ...]:
    """At most TUNING_PICTURES of them, evenly spread."""
    count = min(len(given), TUNING_PICTURES)
    places = np.linspace(0, len(given) - 1, count).round().astype(int)
    return tuple(given[place] for place in places)


def _tune(collection: Collection, filters: Mapping[str, Filter], progress: Progress) -> list[Tuned]:
    pairs = [case.pictures() for case in collection.cases]
    noisy, clean = ([middle(pair[i], TUNING_SIDE) for pair in pairs] for i in range(2))
    tuned: list[Tuned] = []
    for name in progress([*filters], "tuning filters"):
        tuned += baselines.tune(noisy, clean, {name: filters[name]})
    return tuned


def _measure(
    collection: Collection,
    contenders: Sequence[Contender],
    tuning: str,
    progress: Progress,
    album: list[looks.Seen] | None,
) -> Results:
    marks = [Marks(name=each.name, kind=each.kind, details=each.details) for each in contenders]
    pixels: list[int] = []
    kept = [] if album is None else looks.spread(len(collection.cases), looks.ALBUM)
    for index, case in enumerate(progress(collection.cases, "scoring")):
        noisy, clean = case.pictures()
        takes: dict[str, Picture] = {}
        for contender, mark in zip(contenders, marks, strict=True):
            if not pixels and contender.kind == MODEL:
                watch(contender.denoise, noisy, mark)  # once for nothing: it is compiled now
                mark.seconds.clear()
            denoised = watch(contender.denoise, noisy, mark)
            if not np.isfinite(denoised).all():
                raise UserError(f"{contender.name}: its output for {case.name} is not finite")
            _score(clean, denoised, collection.scale, mark)
            if index in kept and contender.kind != NOTHING:
                takes[contender.name] = looks.view(denoised)
        if album is not None and index in kept:
            album.append(looks.Seen(case.name, looks.view(noisy), looks.view(clean), takes))
        pixels.append(noisy.shape[0] * noisy.shape[1])
    return Results(
        protocol=protocol_of(collection),
        tuning=tuning,
        machine=f"{os.cpu_count()} processor cores, {platform.machine()}, {platform.system()}",
        images=[case.name for case in collection.cases],
        scenes=[case.scene[:12] for case in collection.cases],
        pixels=pixels,
        marks=marks,
    )


def _score(clean: Picture, denoised: Picture, scale: Scale, mark: Marks) -> None:
    truth, output = scale.as_stored(clean), scale.as_stored(denoised)
    mark.psnr.append(psnr(truth, output, data_range=1))
    if min(truth.shape[:2]) < SSIM_WINDOW:
        mark.ssim.append(math.nan)
    else:
        channel_axis = -1 if truth.ndim == 3 else None
        mark.ssim.append(ssim(truth, output, data_range=1, channel_axis=channel_axis))


def protocol_of(collection: Collection) -> Protocol:
    """The stamp for scores on these examined images."""
    digests = "".join(case.digest for case in collection.cases)
    versions = {"snowmelt": __version__} | {name: metadata.version(name) for name in PROGRAMS}
    return Protocol(
        data=collection.title,
        images=len(collection.cases),
        scenes=len({case.scene for case in collection.cases}),
        sha256=hashlib.sha256(digests.encode()).hexdigest(),
        low=collection.scale.low,
        high=collection.scale.high,
        whole=collection.scale.whole,
        noise=None if collection.noise is None else str(collection.noise),
        seed=collection.seed,
        stored=collection.stored,
        versions=versions,
    )


def watch(denoise: Denoise, picture: Picture, mark: Marks) -> NDArray[Any]:
    """Apply a denoiser, and note the seconds and the memory that it took."""
    before = _reset_peak()
    began = time.perf_counter()
    denoised = denoise(picture)
    mark.seconds.append(time.perf_counter() - began)
    peak = (_resident("VmHWM") - before) / 1e6
    mark.memory = peak if math.isnan(mark.memory) else max(peak, mark.memory)
    return denoised


def _reset_peak() -> float:
    """Give freed memory back and begin a new peak; resident bytes, NaN where the system has no such thing."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except (OSError, TypeError, AttributeError):
        return math.nan
    return _resident("VmRSS")


def _resident(entry: str) -> float:
    """Bytes of this process: ``VmRSS`` now, ``VmHWM`` at the peak. Linux only, NaN elsewhere."""
    if sys.platform != "linux":
        return math.nan
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(entry):
            return 1024 * float(line.split()[1])
    return math.nan
