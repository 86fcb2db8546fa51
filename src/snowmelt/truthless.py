"""What can be said of denoisers where nobody knows the clean image, and what cannot.

With a second noisy take: the distance of a denoised take to the other one is its distance to the truth plus
the noise of that other one, the same for all denoisers, as long as the takes share nothing but the truth
(Lehtinen et al., 2018). So the ranking is that of the truth, and even the PSNR can be estimated.

With a noisy image alone: each pixel is predicted from the others, never seeing itself (J-invariance: Batson
and Royer, 2019). The distance of the predictions to the noisy pixels is again the error plus the noise, as
long as the noise of a pixel says nothing about that of its neighbours.

Pictures are (H, W) or (H, W, C) float32, 0 black and 1 white; distances are root mean squares in levels of
255.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snowmelt import baselines, cases, diagnosis, looks
from snowmelt.baselines import Denoise, Filter
from snowmelt.cases import ALONE, Collection, Picture, Pictures, middle
from snowmelt.errors import UserError
from snowmelt.evaluation import DO_NOTHING, Contender, Progress, in_silence, protocol_of
from snowmelt.metrics import CONFIDENCE, Interval, autocorrelation, paired_interval
from snowmelt.results import (
    FILTER,
    FORMAT,
    MODEL,
    NOTHING,
    aligned,
    caution,
    count,
    finite,
    number,
    signed,
    wrapped,
)

LEVELS = 255
STRIDE = 4  # of the grid of pixels that are predicted at a time; 16 grids make up an image
PHASES = ((0, 0), (1, 2), (2, 1), (3, 3))  # of these, for tuning
TUNING_PICTURES, TUNING_SIDE = 4, 256
SIDE, SMALLEST = 1024, 32  # of larger images the middle
TILE = 64  # of one image alone, squares of so many pixels are drawn in the bootstrap
LAGS = 8
SOME, STRONG = 0.05, 0.15  # autocorrelation of a residual: below the first it counts as white

TAKES_SAY = (
    "what this says: the second take judges as the truth would, but for a constant, if the takes share "
    "nothing but the truth",
    "what it cannot say: anything about what both takes share (fixed pattern, blur, offset, clipping), by "
    "which the true PSNR is lower than the estimate; anything about motion between them, or whether detail "
    "below the noise is true or invented; no SSIM",
)
ALONE_SAYS = (
    "what this says: who predicts pixels best without seeing them; that ranks denoisers as the truth would, "
    "if the noise of a pixel says nothing about its neighbours'",
    "what it cannot say: a PSNR, for how much of the distance is noise is not known; how good a denoiser is "
    "where it does see the pixel; whether doing nothing would be better",
)
# Kinds of noise, see `diagnosis.KINDS`, of which a pixel's neighbours know: those that keep it win.
SHARED = ("correlated", "compressed", "stripes")


@dataclass(kw_only=True)
class Marks:
    """Of one denoiser: squared distances in levels², one for each sample, and what it removed.

    ``removed`` is the standard deviation of noisy minus denoised in levels, ``correlations`` the
    autocorrelation of it: one for each image.
    """

    name: str
    kind: str
    squares: list[float] = field(default_factory=list)
    removed: list[float] = field(default_factory=list)
    correlations: list[NDArray[np.float64]] = field(default_factory=list)

    @property
    def distance(self) -> float:
        """Root mean square in levels."""
        return math.sqrt(float(np.mean(self.squares)))


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The strongest autocorrelation at any shift but none, and that shift in pixels."""

    value: float
    down: int
    right: int

    def __str__(self) -> str:
        return f"{self.value:+.2f} ({self.down}, {self.right})"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that was measured. ``samples`` says for each distance what it belongs to, an image or a tile.

    ``noise`` (levels) and ``noise_peak`` are those of one take, None where there is one take only; then
    ``kinds`` says what kind of noise each image seems to have.
    """

    roles: cases.Roles
    protocol: str
    images: list[str]
    samples: list[str]
    marks: list[Marks]
    noise: float | None = None
    noise_peak: Peak | None = None
    kinds: list[str] = field(default_factory=list)

    @property
    def shared(self) -> list[str]:
        """Those kinds of noise among them that forbid a ranking."""
        return [kind for kind in SHARED if kind in self.kinds]


def compare(
    collection: Collection,
    denoisers: Sequence[Contender],
    *,
    against: Iterable[str] = baselines.ALWAYS_THERE,
    progress: Progress = in_silence,
    album: list[looks.Seen] | None = None,
) -> Findings:
    """Rank denoisers and tuned filters on two noisy takes, or on noisy images alone.

    The filters are tuned by the same distance, on the centres of a few of the same images: one number found
    from tens of thousands of pixels takes no advantage of having seen them. An ``album`` gets a few of the
    images, for `looks.write_pictures`.

    Raises:
        UserError: The images cannot be used.
    """
    filters = baselines.choose(against)
    collection = cases.examine(collection)
    first = "mean of the four neighbours" if collection.roles == ALONE else DO_NOTHING.name
    contenders = [dataclasses.replace(DO_NOTHING, name=first)]
    contenders += [*_tuned(collection, filters, progress), *denoisers]
    marks = [Marks(name=each.name, kind=each.kind) for each in contenders]
    samples: list[str] = []
    noise: list[NDArray[Any]] = []
    kinds: list[str] = []
    kept = [] if album is None else looks.spread(len(collection.cases), looks.ALBUM)
    for index, case in enumerate(progress(collection.cases, "comparing")):
        pictures = tuple(middle(each, SIDE) for each in case.pictures())
        takes: dict[str, Picture] = {}
        if min(pictures[0].shape[:2]) < SMALLEST:
            raise UserError(f"{case.name}: smaller than {SMALLEST} pixels; too few to say anything")
        for contender, mark in zip(contenders, marks, strict=True):
            denoised = _mark(contender.denoise, pictures, mark)
            if index in kept and contender.kind != NOTHING:
                takes[contender.name] = looks.view(denoised)
        if album is not None and index in kept:
            album.append(looks.Seen(case.name, looks.view(pictures[0]), takes=takes))
        tiles = len(marks[0].squares) - len(samples)
        several = len(collection.cases) > 1
        samples += [case.name if several else f"tile {tile}" for tile in range(tiles)]
        if len(pictures) == 2:
            noise.append((pictures[0] - pictures[1]) * LEVELS)
        else:
            kinds.append(diagnosis.diagnose(_grey(pictures[0]), (0, 1)).kind)
    return Findings(
        roles=collection.roles,
        protocol=_protocol(collection),
        images=[case.name for case in collection.cases],
        samples=samples,
        marks=marks,
        kinds=kinds,
        **_noise_of_takes(noise),
    )


def _noise_of_takes(differences: Sequence[NDArray[Any]]) -> dict[str, Any]:
    """What `Findings` says of it; the difference of two takes has twice the variance of one."""
    if not differences:
        return {}
    variance = float(np.mean([np.mean(each**2) for each in differences])) / 2
    peak = _peak([autocorrelation(_grey(each), LAGS) for each in differences])
    return {"noise": math.sqrt(variance), "noise_peak": peak}


def _tuned(
    collection: Collection, filters: Mapping[str, Filter], progress: Progress
) -> list[Contender]:
    some = collection.cases[:TUNING_PICTURES]
    views = [tuple(middle(each, TUNING_SIDE) for each in case.pictures()) for case in some]

    def loss(denoise: Denoise) -> float:
        return float(np.mean([np.nanmean(squares(denoise, view, PHASES)) for view in views]))

    # Half the variance of the difference of neighbours: the noise, and a little of the image.
    rough = float(np.sqrt(np.mean([np.mean(np.diff(view[0], axis=0) ** 2) / 2 for view in views])))
    found = []
    for name in progress([*filters], "tuning filters"):
        (tuned,) = baselines.tune_by(loss, rough, {name: filters[name]})
        found.append(Contender(tuned.label, tuned, FILTER))
    return found


def _mark(denoise: Denoise, pictures: Pictures, mark: Marks) -> Picture:
    """Note what there is to note; returns the first picture denoised."""
    mark.squares += _tile_means(squares(denoise, pictures) * LEVELS**2)
    denoised = denoise(pictures[0])
    residual = (pictures[0] - denoised) * LEVELS
    mark.removed.append(float(np.std(residual)))
    mark.correlations.append(autocorrelation(_grey(residual), LAGS))
    return denoised


def squares(
    denoise: Denoise, pictures: Pictures, phases: Sequence[tuple[int, int]] | None = None
) -> NDArray[np.float64]:
    """Squared distance of each pixel from the other take, or of an image alone from its prediction.

    With ``phases`` only these grids of an image alone are predicted; the others are NaN.
    """
    expected = predict(denoise, pictures[0], phases) if len(pictures) == 1 else denoise(pictures[0])
    return (pictures[-1].astype(np.float64) - expected) ** 2


def predict(
    denoise: Denoise, picture: Picture, phases: Sequence[tuple[int, int]] | None = None
) -> NDArray[np.float64]:
    """Every pixel as the denoiser gives it when it does not see it, but the mean of its four neighbours.

    A grid of pixels at a time, STRIDE apart; ``phases`` are those grids' first pixels, None: all.
    """
    from scipy import ndimage

    cross = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32) / 4
    around = cross if picture.ndim == 2 else cross[..., None]
    filled = ndimage.convolve(picture, around, mode="mirror")
    predicted = np.full(picture.shape, np.nan)
    for row, column in phases or np.ndindex(STRIDE, STRIDE):
        grid = (slice(row, None, STRIDE), slice(column, None, STRIDE))
        blind = picture.copy()
        blind[grid] = filled[grid]
        predicted[grid] = denoise(blind)[grid]
    return predicted


def _grey(residual: NDArray[Any]) -> NDArray[Any]:
    return residual if residual.ndim == 2 else residual.mean(axis=-1)


def _tile_means(values: NDArray[np.float64]) -> list[float]:
    """Means over squares of about TILE pixels."""
    bands = np.array_split(values, max(1, values.shape[0] // TILE))
    columns = max(1, values.shape[1] // TILE)
    return [float(tile.mean()) for band in bands for tile in np.array_split(band, columns, axis=1)]


def _peak(correlations: Sequence[NDArray[np.float64]]) -> Peak:
    """Of the mean of the images' autocorrelations."""
    values = np.mean(correlations, axis=0)
    values[LAGS, LAGS] = 0
    # The second half is the first one's mirror image.
    place = int(np.argmax(np.abs(values).ravel()[values.size // 2 :])) + values.size // 2
    down, right = np.unravel_index(place, values.shape)
    return Peak(value=float(values[down, right]), down=int(down) - LAGS, right=int(right) - LAGS)


def _protocol(collection: Collection) -> str:
    stamp = protocol_of(collection)
    how = "distance of the first take denoised to the second as it is"
    if collection.roles == ALONE:
        how = f"distance of each pixel to its prediction from the others, {STRIDE}² grids"
    versions = ", ".join(f"{name} {version}" for name, version in stamp.versions.items())
    return "; ".join(
        [
            f"{count(stamp.images, 'image')}, {stamp.data} (sha256 {stamp.sha256[:12]})",
            f"black {stamp.low:g}, white {stamp.high:g}",
            how,
            f"the middle {SIDE} x {SIDE} pixels of larger images; nothing clipped or rounded",
            versions,
        ]
    )


def lead(findings: Findings, ours: Marks, theirs: Marks) -> Interval:
    """How much closer ours comes than theirs, in levels: positive is better."""
    squares = paired_interval(theirs.squares, ours.squares, findings.samples)
    both = ours.distance + theirs.distance  # a² - b² = (a - b) (a + b)
    return Interval(*(value / both if both else 0.0 for value in dataclasses.astuple(squares)))


def opponent(findings: Findings) -> Marks:
    """The filter that comes closest; without any, doing nothing."""
    filters = [each for each in findings.marks if each.kind == FILTER]
    return min(filters, key=lambda each: each.distance, default=findings.marks[0])


def estimated_psnr(findings: Findings, marks: Marks) -> float:
    """What the PSNR would be, from the distance to the other take less its noise; NaN where it drowns."""
    error = marks.distance**2 - (findings.noise or math.inf) ** 2
    return 20 * math.log10(LEVELS) - 10 * math.log10(error) if error > 0 else math.nan


def table(findings: Findings) -> str:
    """The distances as lines of text, and what they can and cannot say."""
    best, takes = opponent(findings), findings.noise is not None
    protocol = f"protocol: {findings.protocol}"
    rows = [
        (
            "",
            "distance",
            "lead",
            *(("est. PSNR, dB",) if takes else ()),
            "removed",
            "correlation",
        )
    ]
    for each in findings.marks:
        ahead = "-" if each is best else signed(lead(findings, each, best), 3)
        estimate = (number(estimated_psnr(findings, each), 2),) if takes else ()
        removed = "-" if each.kind == NOTHING else f"{np.mean(each.removed):.2f}"
        rest = "-" if each.kind == NOTHING else str(_peak(each.correlations))
        rows.append((each.name, f"{each.distance:.3f}", ahead, *estimate, removed, rest))
    return "\n".join(
        [*aligned(rows), *wrapped([*_legend(findings, best), protocol, *_words(findings)])]
    )


def _legend(findings: Findings, best: Marks) -> list[str]:
    of = "images" if len(findings.images) > 1 else "tiles of the image"
    several = len(set(findings.samples))
    half = f"± half of the {CONFIDENCE:.0%} interval (paired bootstrap over {several} {of})"
    sure = half if several > 1 else "the image is too small for an interval"
    goal = "prediction of an unseen pixel" if findings.noise is None else "other take"
    return [
        f"distance: to the {goal}, root mean square in levels of 255, noise included; lead: how much closer "
        f"than {best.name}, {sure}",
        "removed: standard deviation of noisy minus denoised; correlation: its strongest autocorrelation, "
        f"and at which shift (rows, columns): below {SOME:g} it is white, above {STRONG:g} it has structure",
    ]


def _words(findings: Findings) -> list[str]:
    if findings.noise is None or findings.noise_peak is None:
        seen = "; ".join(diagnosis.KINDS[kind] for kind in dict.fromkeys(findings.kinds))
        return [f"the noise, as far as one take shows it: {seen}", *ALONE_SAYS]
    peak = findings.noise_peak
    white = abs(peak.value) < SOME
    colour = "white" if white else f"correlated, {peak}"
    noise = (
        f"the takes' noise: {findings.noise:.2f} levels each, from their difference; it is {colour}"
    )
    return [noise, *TAKES_SAY]


def verdicts(findings: Findings) -> list[str]:
    """A line for each model, or for the best filter where there is no model."""
    best = opponent(findings)
    judged = [each for each in findings.marks if each.kind == MODEL]
    judged = judged or [each for each in findings.marks if each is best and each.kind == FILTER]
    return [f"{each.name}: {_judgement(findings, each, best)}" for each in judged]


def _judgement(findings: Findings, ours: Marks, best: Marks) -> str:
    if findings.shared:
        return (
            f"no verdict, for the noise is {' and '.join(findings.shared)}: a pixel's neighbours tell it, "
            "and those that keep it come closest. A second take of the scene would tell: --noisy-too"
        )
    doubt = caution(len(findings.images))
    nothing = findings.marks[0]
    idle = nothing.name if findings.noise is None else "doing nothing"
    gain, ahead = lead(findings, ours, nothing), lead(findings, ours, best)
    (low, high), (behind, before) = _ends(gain), _ends(ahead)
    if low <= 0:
        sure = "worse" if high < 0 else "no better"
        change = f"{sure} than {idle} ({signed(gain, 3)} levels)"
        return f"{change}: don't use it on data like this{doubt}"
    if ours is best or best is nothing:
        return f"closer than {idle} by {_size(gain)} levels{doubt}"
    against = f"the best classical filter, {best.name}"
    if behind <= 0 <= before:
        return f"no different from {against} ({signed(ahead, 3)} levels){doubt}"
    which = "better" if ahead.mean > 0 else "worse"
    return f"{which} than {against}, by {_size(ahead)} levels{doubt}"


def _ends(ahead: Interval) -> tuple[float, float]:
    """Both ends of the interval; the mean twice where there is a single sample and so no interval."""
    return (ahead.mean, ahead.mean) if math.isnan(ahead.low) else (ahead.low, ahead.high)


def _size(ahead: Interval) -> str:
    """Such as "1.451 ± 0.734"."""
    return signed(ahead, 3).lstrip("+-")


def content(findings: Findings) -> dict[str, Any]:
    """All of it as JSON takes it."""
    best = opponent(findings)
    scores = [
        {
            "name": each.name,
            "kind": each.kind,
            "distance": each.distance,
            "lead": dataclasses.asdict(lead(findings, each, best)),
            "estimated_psnr": None if findings.noise is None else estimated_psnr(findings, each),
            "removed": float(np.mean(each.removed)),
            "correlation": dataclasses.asdict(_peak(each.correlations)),
        }
        for each in findings.marks
    ]
    return finite(
        {
            "format": FORMAT,
            "truth": False,
            "protocol": findings.protocol,
            "scores": scores,
            "opponent": best.name,
            "notes": [*_legend(findings, best), *_words(findings)],
            "noise": findings.noise,
            "kinds": findings.kinds,
            "noise_peak": findings.noise_peak and dataclasses.asdict(findings.noise_peak),
            "verdicts": verdicts(findings),
        }
    )


def rows_of(findings: Findings) -> list[dict[str, Any]]:
    """A row for each image and denoiser."""
    rows = []
    for i, image in enumerate(findings.images):
        for marks in findings.marks:
            several = len(findings.images) > 1
            own = [
                square
                for square, sample in zip(marks.squares, findings.samples, strict=True)
                if sample == image or not several
            ]
            rows.append(
                {
                    "image": image,
                    "denoiser": marks.name,
                    "distance": math.sqrt(float(np.mean(own))),
                    "removed": marks.removed[i],
                    "correlation": _peak([marks.correlations[i]]).value,
                    "protocol": findings.protocol,
                }
            )
    return rows
