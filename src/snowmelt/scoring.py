"""How a denoiser is scored: against a reference, against a second exposure, or by self-prediction.

With a second noisy exposure: the squared difference between a denoised exposure and the other one is its
error plus the noise of that other one, the same for all denoisers, as long as the exposures share nothing but
the scene (Lehtinen et al., 2018). So the ranking is that of the error, and even the PSNR can be estimated.

With a noisy image alone: each pixel is predicted from the others, never seeing itself (J-invariance: Batson
and Royer, 2019). The squared difference between prediction and noisy pixel is again the error plus the noise,
as long as the noise of a pixel is independent of that of its neighbours.

Pictures are (H, W) or (H, W, C) float32, 0 black and 1 white.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from snowmelt import diagnosis
from snowmelt.baselines import Denoise
from snowmelt.cases import ALONE, PAIR, Picture, Pictures, Roles, Scale, middle
from snowmelt.errors import UserError
from snowmelt.metrics import (
    CONFIDENCE,
    DRAWS,
    SSIM_WINDOW,
    Interval,
    Peak,
    autocorrelation,
    find_peak,
    paired_interval,
    psnr,
    ssim,
)
from snowmelt.scores import (
    EXPOSURES,
    FILTER,
    REFERENCE,
    SELF_PREDICTION,
    SIDE,
    STRIDE,
    Measurement,
    Scores,
)

WHITE = 255  # differences without a reference are on a 0–255 scale
PHASES = ((0, 0), (1, 2), (2, 1), (3, 3))  # first pixels of the grids that are predicted for tuning
SMALLEST = 32  # pixels; the shortest side that is compared without a reference
TILE = 64  # pixels; of one image alone, tiles of this side are resampled for the interval
LAGS = 8
WEAK, STRONG = 0.05, 0.15  # autocorrelation of a residual: below the first it counts as white
# Kinds of noise, see `diagnosis.KINDS`, that neighbouring pixels predict: keeping it scores best.
PREDICTABLE = ("correlated", "compressed", "stripes")

EXPOSURES_SAY = (
    "what this says: the second exposure ranks denoisers as a reference would, if the exposures share "
    "nothing but the scene",
    "what it cannot say: anything about what both exposures share (fixed pattern, blur, offset, clipping), "
    "which makes the true PSNR lower than the estimate; anything about motion between them, or whether "
    "detail below the noise is real or invented; no SSIM",
)
SELF_PREDICTION_SAYS = (
    "what this says: which denoiser predicts pixels best without seeing them; that ranks denoisers as a "
    "reference would, if the noise of a pixel is independent of its neighbours'",
    "what it cannot say: a PSNR, since how much of the RMSE is noise is unknown; how good a denoiser is "
    "where it does see the pixel; whether the noisy input would be better",
)


@dataclass(frozen=True)
class Column:
    """A column of the table: the rows' key that it shows, and how many decimals (significant digits)."""

    key: str
    title: str
    digits: int
    significant: bool = False


@dataclass(frozen=True)
class Sample:
    """The scores of one denoiser on one image, as `Scores` keeps them."""

    values: Mapping[str, float]
    squares: list[float] = field(default_factory=list)
    autocorrelation: NDArray[np.float64] | None = None
    seconds: float = 0.0
    memory: float = math.nan


@dataclass(frozen=True)
class WithReference:
    """PSNR and SSIM. Outputs are clipped and rounded as files of the data's own kind would hold them.

    Attributes:
        input_name: How tables call the noisy input.
        unit, digits: Of a gain.
    """

    input_name: str = "noisy input"
    unit: str = " dB"
    digits: int = 2

    def view(self, name: str, pictures: Pictures) -> Pictures:
        """All of it."""
        del name
        return pictures

    def sample(
        self, denoise: Denoise, pictures: Pictures, denoised: Picture, scale: Scale
    ) -> Sample:
        """PSNR in dB and SSIM; NaN for images below its window."""
        del denoise
        clean, output = scale.as_stored(pictures[1]), scale.as_stored(denoised)
        values = {"psnr": psnr(clean, output, data_range=1), "ssim": math.nan}
        if min(clean.shape[:2]) >= SSIM_WINDOW:
            channel_axis = -1 if clean.ndim == 3 else None
            values["ssim"] = ssim(clean, output, data_range=1, channel_axis=channel_axis)
        return Sample(values)

    def tuning(self, views: Sequence[Pictures]) -> tuple[Callable[[Denoise], float], float]:
        """The mean PSNR of outputs clipped to black and white, negative."""

        def loss(denoise: Denoise) -> float:
            outputs = [np.clip(denoise(noisy), 0, 1) for noisy, _ in views]
            pairs = zip(views, outputs, strict=True)
            return -float(
                np.mean([psnr(clean, output, data_range=1) for (_, clean), output in pairs])
            )

        errors = [np.mean((noisy - clean) ** 2) for noisy, clean in views]
        return loss, float(np.sqrt(np.mean(errors)))

    def observe(self, pictures: Pictures) -> dict[str, Any]:
        """Nothing of the noise: the scores of the noisy input say it."""
        del pictures
        return {}

    def conclude(self, observed: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Nothing."""
        del observed
        return {}

    def rank(self, scores: Scores) -> float:
        """Mean PSNR in dB."""
        return float(np.mean(scores.values["psnr"]))

    def gain(
        self, measured: Measurement, ours: Scores, theirs: Scores, key: str = "psnr"
    ) -> Interval:
        """In dB, image by image."""
        return paired_interval(ours.values[key], theirs.values[key], measured.scenes)

    def columns(self) -> tuple[Column, ...]:
        """PSNR and SSIM, each with its gain over the baseline; time and memory."""
        return (
            Column("psnr", "PSNR, dB", 2),
            Column("gain_over_baseline", "gain, dB", 2),
            Column("ssim", "SSIM", 4),
            Column("ssim_gain_over_baseline", "gain", 4),
            Column("seconds_per_megapixel", "s/Mpx", 3, significant=True),
            Column("memory", "MB", 0),
        )

    def cells(self, measured: Measurement, scores: Scores, baseline: Scores) -> dict[str, Any]:
        """Means over the images."""
        return {
            "psnr": self.rank(scores),
            "ssim": float(np.mean(scores.values["ssim"])),
            "ssim_gain_over_baseline": self.gain(measured, scores, baseline, "ssim"),
        }

    def notes(self, measured: Measurement, baseline: str) -> list[str]:
        """What the columns mean."""
        scenes = len(set(measured.scenes))
        drawn = f"paired bootstrap, {DRAWS:,} draws of {scenes} scenes"
        half = f"± half-width of the {CONFIDENCE:.0%} interval ({drawn})"
        sure = half if scenes > 1 else "one scene only: no interval"
        lines = [
            f"gain: over {baseline}, {sure}",
            f"s/Mpx: seconds per megapixel, median; MB: peak memory of a call; {measured.machine}",
        ]
        if measured.of_kind(FILTER):
            lines.append(f"filters tuned on {measured.tuning}")
        if any(math.isnan(value) for value in measured.scores[0].values["ssim"]):
            lines.append("SSIM: none for images smaller than its window of 11 pixels")
        return lines

    def doubt(self, measured: Measurement) -> str:
        """None."""
        del measured
        return ""


@dataclass(frozen=True)
class WithoutReference:
    """Root-mean-square difference (RMSE) from a second exposure, or of pixels from their prediction."""

    key: str
    input_name: str
    unit: str = " on a 0–255 scale"
    digits: int = 3

    def view(self, name: str, pictures: Pictures) -> Pictures:
        """The middle of large images."""
        if min(pictures[0].shape[:2]) < SMALLEST:
            raise UserError(
                f"{name}: {pictures[0].shape[1]} x {pictures[0].shape[0]} pixels; without a reference, "
                f"images of at least {SMALLEST} x {SMALLEST} can be compared"
            )
        return tuple(middle(each, SIDE) for each in pictures)

    def sample(
        self, denoise: Denoise, pictures: Pictures, denoised: Picture, scale: Scale
    ) -> Sample:
        """RMSE, and the residual's standard deviation and strongest autocorrelation."""
        del scale
        expected = denoised if self.key == EXPOSURES else predict(denoise, pictures[0])
        squares = _tile_means(_squared(pictures[-1], expected) * WHITE**2)
        residual = (pictures[0] - denoised) * WHITE
        correlation = autocorrelation(_grey(residual), LAGS)
        values = {
            "rmse": math.sqrt(float(np.mean(squares))),
            "residual": float(np.std(residual)),
            "correlation": find_peak(correlation).value,
        }
        return Sample(values, squares, correlation)

    def tuning(self, views: Sequence[Pictures]) -> tuple[Callable[[Denoise], float], float]:
        """The same squared differences; of an image alone, those of a quarter of the pixels."""

        def squares(denoise: Denoise, view: Pictures) -> NDArray[np.float64]:
            one = self.key == SELF_PREDICTION
            expected = predict(denoise, view[0], PHASES) if one else denoise(view[0])
            return _squared(view[-1], expected)

        def loss(denoise: Denoise) -> float:
            return float(np.mean([np.nanmean(squares(denoise, view)) for view in views]))

        # Half the variance of the difference between neighbours: the noise, and a little of the image.
        variances = [np.mean(np.diff(view[0], axis=0) ** 2) / 2 for view in views]
        return loss, float(np.sqrt(np.mean(variances)))

    def observe(self, pictures: Pictures) -> dict[str, Any]:
        """Of two exposures their difference; of an image alone its kind of noise."""
        if self.key == SELF_PREDICTION:
            return {"kind": diagnosis.diagnose(_grey(pictures[0]), (0, 1)).kind}
        difference = (pictures[0] - pictures[1]) * WHITE
        return {
            "square": np.mean(difference**2),
            "autocorrelation": autocorrelation(_grey(difference), LAGS),
        }

    def conclude(self, observed: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The kinds; or the noise level of one exposure, whose variance is half of the difference's."""
        if self.key == SELF_PREDICTION:
            return {"kinds": [each["kind"] for each in observed]}
        peak = find_peak(np.mean([each["autocorrelation"] for each in observed], axis=0))
        level = math.sqrt(float(np.mean([each["square"] for each in observed])) / 2)
        return {"level": level, "correlation": dataclasses.asdict(peak)}

    def rank(self, scores: Scores) -> float:
        """The RMSE, negative."""
        return -_rmse(scores)

    def gain(self, measured: Measurement, ours: Scores, theirs: Scores) -> Interval:
        """By how much the RMSE is smaller, on a 0–255 scale."""
        squares = paired_interval(theirs.squares, ours.squares, measured.samples)
        both = _rmse(ours) + _rmse(theirs)  # a² - b² = (a - b) (a + b)
        return Interval(*(value / both if both else 0.0 for value in dataclasses.astuple(squares)))

    def columns(self) -> tuple[Column, ...]:
        """RMSE and gain, what two exposures say of the PSNR, and the residual."""
        estimate = (Column("estimated_psnr", "est. PSNR, dB", 2),) if self.key == EXPOSURES else ()
        return (
            Column("rmse", "RMSE", 3),
            Column("gain_over_baseline", "gain", 3),
            *estimate,
            Column("residual", "residual", 2),
            Column("correlation", "correlation", 2),
        )

    def cells(self, measured: Measurement, scores: Scores, baseline: Scores) -> dict[str, Any]:
        """The PSNR comes from the squared difference less the noise; NaN where it drowns in it."""
        del baseline
        error = _rmse(scores) ** 2 - measured.noise.get("level", math.inf) ** 2
        estimate = 20 * math.log10(WHITE) - 10 * math.log10(error) if error > 0 else math.nan
        return {
            "rmse": _rmse(scores),
            "estimated_psnr": estimate,
            "residual": float(np.mean(scores.values["residual"])),
            "correlation": find_peak(scores.autocorrelation),
        }

    def notes(self, measured: Measurement, baseline: str) -> list[str]:
        """What the columns mean, and what can and cannot be concluded."""
        of = "images" if len(measured.images) > 1 else "tiles of the image"
        several = len(set(measured.samples))
        half = (
            f"± half-width of the {CONFIDENCE:.0%} interval (paired bootstrap over {several} {of})"
        )
        sure = half if several > 1 else "the image is too small for an interval"
        goal = "other exposure" if self.key == EXPOSURES else "prediction of an unseen pixel"
        tuned = [f"filters tuned on {measured.tuning}"] if measured.of_kind(FILTER) else []
        return [
            f"RMSE: root-mean-square difference from the {goal}, on a 0–255 scale, noise included; gain: "
            f"by how much it is smaller than that of {baseline}, {sure}",
            "residual: standard deviation of noisy minus denoised; correlation: its strongest "
            f"autocorrelation, and at which shift (rows, columns): below {WEAK:g} it is white, above "
            f"{STRONG:g} it has structure",
            *tuned,
            *self._limits(measured),
        ]

    def _limits(self, measured: Measurement) -> list[str]:
        if self.key == SELF_PREDICTION:
            seen = "; ".join(
                diagnosis.KINDS[kind] for kind in dict.fromkeys(measured.noise["kinds"])
            )
            return [f"the noise, as far as one exposure shows it: {seen}", *SELF_PREDICTION_SAYS]
        peak = Peak(**measured.noise["correlation"])
        colour = "white" if abs(peak.value) < WEAK else f"correlated, {peak}"
        return [
            f"noise of an exposure: {measured.noise['level']:.2f} on a 0–255 scale, from the difference of "
            f"two; it is {colour}",
            *EXPOSURES_SAY,
        ]

    def doubt(self, measured: Measurement) -> str:
        """Of images alone, noise that neighbouring pixels predict."""
        kinds = [kind for kind in PREDICTABLE if kind in measured.noise.get("kinds", ())]
        if not kinds:
            return ""
        return (
            f"no verdict, because the noise is {' and '.join(kinds)}: neighbouring pixels predict it, and "
            "denoisers that keep it score best. A second exposure of each scene would allow a verdict"
        )


Metric: TypeAlias = WithReference | WithoutReference
METRICS: Mapping[str, Metric] = {
    REFERENCE: WithReference(),
    EXPOSURES: WithoutReference(EXPOSURES, "noisy input"),
    SELF_PREDICTION: WithoutReference(SELF_PREDICTION, "mean of the four neighbours"),
}


def metric_of(roles: Roles) -> str:
    """The key of METRICS for cases of these roles."""
    return {PAIR: REFERENCE, ALONE: SELF_PREDICTION}.get(roles, EXPOSURES)


def predict(
    denoise: Denoise, picture: Picture, phases: Sequence[tuple[int, int]] | None = None
) -> NDArray[np.float64]:
    """Every pixel as the denoiser gives it when it sees the mean of its four neighbours in its place.

    A grid of pixels at a time, STRIDE apart; ``phases`` are the grids' first pixels, None: all. Pixels of
    other grids are NaN.
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


def _squared(goal: Picture, expected: NDArray[Any]) -> NDArray[np.float64]:
    squares: NDArray[np.float64] = (goal.astype(np.float64) - expected) ** 2
    return squares


def _rmse(scores: Scores) -> float:
    return math.sqrt(float(np.mean(scores.squares)))


def _grey(residual: NDArray[Any]) -> NDArray[Any]:
    return residual if residual.ndim == 2 else residual.mean(axis=-1)


def _tile_means(values: NDArray[np.float64]) -> list[float]:
    """Means over tiles of about TILE x TILE pixels."""
    bands = np.array_split(values, max(1, values.shape[0] // TILE))
    columns = max(1, values.shape[1] // TILE)
    return [float(tile.mean()) for band in bands for tile in np.array_split(band, columns, axis=1)]
