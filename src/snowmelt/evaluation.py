"""Denoisers compared with the noisy input, with tuned classical filters and with a bundled model.

Pictures are (H, W) or (H, W, C) float32, 0 black and 1 white.
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

from snowmelt import __version__, baselines, cases, denoiser, diagnosis, levels, looks, noise, zoo
from snowmelt.baselines import Denoise, Filter
from snowmelt.cases import PAIR, Case, Collection, Picture, Pictures, middle
from snowmelt.denoiser import Denoiser
from snowmelt.errors import UserError
from snowmelt.results import Results, summarize
from snowmelt.scores import (
    BUNDLED,
    FILTER,
    INPUT,
    MODEL,
    Measurement,
    Protocol,
    Scores,
)
from snowmelt.scoring import METRICS, Metric, Sample, metric_of

# The middle of an image gives nearly the parameter that the whole does, and sooner.
TUNING_SIDE = 256
TUNING_PICTURES, TUNING_WITHOUT_REFERENCE = 16, 4
HELD_ASIDE = 5  # one scene in so many tunes the filters, where no other images do
PROGRAMS = ("numpy", "scipy", "scikit-image")
WAYS = (("noisy", "clean"), ("clean", "add_noise"), ("noisy", "noisy_too"), ("noisy",))
AGAINST = (*baselines.ALWAYS_THERE, zoo.DEFAULT)

Progress: TypeAlias = Callable[[Sequence[Any], str], Iterable[Any]]
Model: TypeAlias = str | os.PathLike[str] | Denoiser | Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class Contender:
    """A denoiser to be scored; ``details`` say which it is, such as its file's SHA-256."""

    name: str
    denoise: Denoise
    kind: str = MODEL
    details: Mapping[str, Any] = field(default_factory=dict)


def in_silence(items: Sequence[Any], what: str) -> Iterable[Any]:
    """Show no progress."""
    del what
    return items


def compare(
    models: Model | Sequence[Model] | Mapping[str, Model] = (),
    *,
    noisy: Any = None,
    clean: Any = None,
    noisy_too: Any = None,
    add_noise: str | None = None,
    sigma: float | str = levels.AUTO,
    value_range: tuple[float, float] | None = None,
    channel_axis: int | None = None,
    tune: tuple[Any, Any] | None = None,
    against: Iterable[str] = AGAINST,
) -> Results:
    """Compare denoisers with the noisy input, with classical filters and with a bundled model.

    Images are a list of arrays (H, W), with ``channel_axis`` of one more axis; or a list of files; or one
    path of a folder, a stack or a pattern such as ``scans/*_noisy.png``. Lists belong together by position,
    files in folders by name. Give noisy and clean images; or clean ones and ``add_noise``; or, without a
    reference, two noisy exposures of each scene; or noisy images alone, which allow the fewest conclusions.

    Args:
        models: Name of a bundled model, path of a model file, `Denoiser`, or function of a float32 array
            (H, W) or (H, W, C) from 0 black to 1 white; one, a list, or a mapping by name.
        noisy: Noisy images.
        clean: Reference images.
        noisy_too: Second exposures.
        add_noise: Noise to add to clean images, such as "gaussian:25" (on a 0–255 scale).
        sigma: Noise level for conditioned models, in the images' units; "auto": estimated on each image.
        value_range: Values of black and white; None: all of 8 and 16-bit types, 0 to 1 of floats.
        channel_axis: Axis of the colours, of arrays.
        tune: Noisy and clean images to tune the filters on. None: one scene in five, which is not scored.
        against: Filters, see `baselines.FILTERS`, and "base" for the bundled model; () for none.

    Raises:
        UserError: The images do not belong together, cannot be scored, or leave nothing to tune on.

    Example:
        >>> results = snowmelt.compare("model.onnx", noisy=noisy, clean=clean)
        >>> print(results)
        >>> results.verdicts[0].outcome
        'better'
    """
    given = {"noisy": noisy, "noisy_too": noisy_too, "clean": clean}
    given = {name: each for name, each in given.items() if each is not None}
    if (*given, *(("add_noise",) if add_noise else ())) not in WAYS:
        raise UserError(f"which images? expected {', or '.join(' and '.join(way) for way in WAYS)}")

    def gather(given: Mapping[str, Any]) -> Collection:
        return cases.gather(given, value_range=value_range, channel_axis=channel_axis)

    collection = gather(given)
    if add_noise:
        collection = cases.with_noise(collection, noise.parse(add_noise))
    tuning = None if tune is None else gather({"noisy": tune[0], "clean": tune[1]})
    if not isinstance(sigma, str):
        sigma = sigma / collection.scale.span
    channels, against = cases.count_channels(collection), tuple(against)
    contenders = [contender(each, name, channels, sigma) for name, each in _named(models).items()]
    return measure(
        collection,
        with_bundled(contenders, against, channels, sigma),
        tuning=tuning,
        against=against,
    )


def _named(models: Model | Sequence[Model] | Mapping[str, Model]) -> Mapping[str, Model]:
    if isinstance(models, Mapping):
        return models
    if isinstance(models, str | os.PathLike) or callable(models):
        models = [models]
    named: dict[str, Model] = {}
    for each in models:
        name = Path(each).name if isinstance(each, str | os.PathLike) else ""
        name = name or getattr(each, "__name__", "model")
        named[name if name not in named else f"{name} {len(named) + 1}"] = each
    return named


def contender(model: Model, name: str, channels: int, sigma: float | str) -> Contender:
    """A model, or any function, to be scored.

    ``sigma`` is the noise level for conditioned models as a part of the range, or as `levels.find` takes it.
    """
    if isinstance(model, str | os.PathLike):
        model = denoiser.load(model)
    if not isinstance(model, Denoiser):
        return Contender(name, model)
    network = model.for_channels(channels)
    level = sigma if network.header.conditioned else levels.AUTO
    details: dict[str, Any] = {
        "sha256": network.model.sha256,
        "precision": network.engine.precision,
    }
    if network.header.conditioned:
        details["sigma"] = level if isinstance(level, str) else level * 255

    def denoise(picture: Picture) -> Picture:
        axis = -1 if picture.ndim == 3 else None
        return network(picture, value_range=(0, 1), sigma=level, channel_axis=axis)

    return Contender(name, denoise, details=details)


def with_bundled(
    contenders: Sequence[Contender],
    against: Iterable[str],
    channels: int,
    sigma: float | str,
    **options: Any,
) -> list[Contender]:
    """The models after the bundled one that they are compared with, unless it is among them.

    It is there if ``against`` names it, there is a model, and the images are grey or RGB; ``options`` are
    those of `denoiser.load`.
    """
    if zoo.DEFAULT not in against or not contenders or channels not in (1, 3) or not zoo.shipped():
        return [*contenders]
    loaded = denoiser.load(zoo.DEFAULT, **options)
    bundled = contender(loaded, f"{zoo.DEFAULT} (bundled)", channels, sigma)
    if bundled.details["sha256"] in [each.details.get("sha256") for each in contenders]:
        return [*contenders]
    return [replace(bundled, kind=BUNDLED), *contenders]


def measure(
    collection: Collection,
    contenders: Sequence[Contender],
    *,
    tuning: Collection | None = None,
    against: Iterable[str] = baselines.ALWAYS_THERE,
    progress: Progress = in_silence,
    album: list[looks.Seen] | None = None,
) -> Results:
    """Score the noisy input, the classical filters at their best and the given denoisers.

    Args:
        collection: The images, see `cases`; their roles decide how they are scored, see `scoring`.
        contenders: The denoisers.
        tuning: Images to tune the filters on; those that are among the scored ones are left out. Without it
            one scene in five is held aside for that, and is not scored. Without a reference filters are tuned
            on the scored images: one number found from tens of thousands of pixels does not overfit.
        against: Names of filters, see `baselines.FILTERS`.
        progress: Iterates and shows how far it is, such as `tqdm`.
        album: Gets a few of the images, for `looks.write_pictures`.

    Raises:
        UserError: The images cannot be scored, or there is nothing to tune on.
    """
    filters = choose_filters(against)
    metric = METRICS[metric_of(collection.roles)]
    scored, said = cases.examine(collection), "nothing"
    rows = [Contender(metric.input_name, lambda picture: picture, INPUT)]
    if filters:
        scored, views, said = _tuning_views(scored, tuning)
        rows += _tune(metric, views, filters, progress)
    if min(case.side for case in scored.cases) < diagnosis.SMALLEST:  # too small for its estimate
        contenders = [each for each in contenders if not _estimates_unasked(each)]
    return summarize(_measure(scored, metric, [*rows, *contenders], said, progress, album))


def _estimates_unasked(contender: Contender) -> bool:
    """Whether it is a bundled model that estimates the noise level of each image."""
    return contender.kind == BUNDLED and contender.details.get("sigma") == levels.AUTO


def choose_filters(against: Iterable[str]) -> dict[str, Filter]:
    """The filters among the names to compare with. Raises UserError for an unknown name."""
    names = [name for name in against if name != zoo.DEFAULT]
    return baselines.choose(names, known=[*baselines.FILTERS, zoo.DEFAULT])


def _tuning_views(
    scored: Collection, tuning: Collection | None
) -> tuple[Collection, list[Pictures], str]:
    """What is scored, what the filters are tuned on, and what is to be said of that."""
    scored, chosen, said = _tuning_cases(scored, tuning)
    views = [tuple(middle(each, TUNING_SIDE) for each in case.pictures()) for case in chosen]
    return scored, views, said


def _tuning_cases(
    scored: Collection, tuning: Collection | None
) -> tuple[Collection, Sequence[Case], str]:
    if scored.roles == PAIR:
        return _hold_aside(scored) if tuning is None else _unseen(tuning, scored)
    chosen = scored.cases[:TUNING_WITHOUT_REFERENCE]
    which = "the image" if len(chosen) == 1 else f"{len(chosen)} of the images"
    return scored, chosen, f"the middle {TUNING_SIDE} x {TUNING_SIDE} pixels of {which}"


def _hold_aside(collection: Collection) -> tuple[Collection, Sequence[Case], str]:
    scenes = list(dict.fromkeys(case.scene for case in collection.cases))
    if len(scenes) < 2:
        raise UserError(
            f"{collection.title}: one scene only, and filters are not tuned on what is scored; give other "
            "images to tune them on (--tune, in Python tune=), or leave the filters out (--against none, in "
            "Python against=())"
        )
    aside = set(scenes[::HELD_ASIDE])
    chosen = [case for case in collection.cases if case.scene in aside]
    scored = [case for case in collection.cases if case.scene not in aside]
    said = (
        f"{len(chosen)} of the {len(collection.cases)} images, held aside for that and not scored "
        "(to score all, give other images for it: --tune)"
    )
    return replace(collection, cases=tuple(scored)), _thinned(chosen), said


def _unseen(tuning: Collection, scored: Collection) -> tuple[Collection, Sequence[Case], str]:
    """The same, where other images are given for tuning."""
    tuning = cases.examine(replace(tuning, cases=_thinned(tuning.cases)))
    if cases.is_colour(tuning) != cases.is_colour(scored):
        raise UserError(
            f"{tuning.title}: of {tuning.title} and {scored.title}, one is grey, one in colour; tune "
            "filters on images like those that are scored"
        )
    known = {case.scene for case in scored.cases}
    unseen = [case for case in tuning.cases if case.scene not in known]
    if not unseen:
        raise UserError(
            f"{tuning.title}: these are among the images that are scored; filters are tuned on others"
        )
    said = f"{len(unseen)} images, {tuning.title}"
    if len(unseen) < len(tuning.cases):
        said += f" ({len(tuning.cases) - len(unseen)} more are among the scored and were left out)"
    return scored, unseen, said


def _thinned(given: Sequence[Case]) -> tuple[Case, ...]:
    """At most TUNING_PICTURES of them, evenly spread."""
    count = min(len(given), TUNING_PICTURES)
    places = np.linspace(0, len(given) - 1, count).round().astype(int)
    return tuple(given[place] for place in places)


def _tune(
    metric: Metric, views: Sequence[Pictures], filters: Mapping[str, Filter], progress: Progress
) -> list[Contender]:
    loss, rough = metric.tuning(views)
    found = []
    for name in progress([*filters], "tuning filters"):
        tuned = baselines.tune(loss, rough, filters[name])
        found.append(Contender(tuned.label, tuned, FILTER, {tuned.filter.parameter: tuned.value}))
    return found


def _measure(
    collection: Collection,
    metric: Metric,
    contenders: Sequence[Contender],
    tuning: str,
    progress: Progress,
    album: list[looks.Seen] | None,
) -> Measurement:
    samples: list[list[Sample]] = [[] for _ in contenders]
    owners: list[str] = []
    pixels: list[int] = []
    observed: list[dict[str, Any]] = []
    kept = [] if album is None else looks.spread(len(collection.cases), looks.ALBUM)
    for index, case in enumerate(progress(collection.cases, "scoring")):
        pictures = metric.view(case.name, case.pictures())
        denoised: dict[str, Picture] = {}
        for contender, own in zip(contenders, samples, strict=True):
            if not own and contender.kind in (BUNDLED, MODEL):
                contender.denoise(pictures[0])  # compiled now, so that no time counts it
            output, seconds, memory = watch(contender.denoise, pictures[0])
            if not np.isfinite(output).all():
                raise UserError(f"{contender.name}: its output for {case.name} is not finite")
            scored = metric.sample(contender.denoise, pictures, output, collection.scale)
            own.append(replace(scored, seconds=seconds, memory=memory))
            denoised[contender.name] = output
        if album is not None and index in kept:
            takes = {name: looks.view(each) for name, each in [*denoised.items()][1:]}
            clean = looks.view(pictures[1]) if collection.roles == PAIR else None
            album.append(looks.Seen(case.name, looks.view(pictures[0]), clean, takes))
        several = len(collection.cases) > 1
        owners += [
            case.name if several else f"tile {tile}" for tile in range(len(samples[0][-1].squares))
        ]
        observed.append(metric.observe(pictures))
        pixels.append(math.prod(pictures[0].shape[:2]))
    return Measurement(
        protocol=protocol_of(collection),
        tuning=tuning,
        machine=f"{os.cpu_count()} processor cores, {platform.machine()}, {platform.system()}",
        images=[case.name for case in collection.cases],
        scenes=[
            case.scene[:12] if collection.roles == PAIR else case.name for case in collection.cases
        ],
        pixels=pixels,
        scores=[_scores(*each) for each in zip(contenders, samples, strict=True)],
        samples=owners,
        noise=metric.conclude(observed),
    )


def _scores(contender: Contender, samples: Sequence[Sample]) -> Scores:
    values = {name: [each.values[name] for each in samples] for name in samples[0].values}
    maps = [each.autocorrelation for each in samples if each.autocorrelation is not None]
    return Scores(
        name=contender.name,
        kind=contender.kind,
        details=contender.details,
        values=values | {"seconds": [each.seconds for each in samples]},
        squares=[square for each in samples for square in each.squares],
        autocorrelation=np.mean(maps, axis=0).tolist() if maps else [],
        memory=float(np.max([each.memory for each in samples])),
    )


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
        metric=metric_of(collection.roles),
    )


def watch(denoise: Denoise, picture: Picture) -> tuple[NDArray[Any], float, float]:
    """What a denoiser makes of a picture, the seconds and the MB of memory that it took."""
    before = _reset_peak()
    began = time.perf_counter()
    denoised = denoise(picture)
    seconds = time.perf_counter() - began
    return denoised, seconds, (_resident("VmHWM") - before) / 1e6


def _reset_peak() -> float:
    """Return freed memory and begin a new peak; resident bytes, NaN where the system has no such thing."""
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
