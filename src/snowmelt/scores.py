"""What an evaluation measured: scores of each image by each denoiser, and the protocol they carry.

The scores of each image are kept, so that any two denoisers can be compared later, image by image. What was
measured differently is never joined: `merge`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from snowmelt.metrics import SSIM_VARIANT

FORMAT = 2
INPUT, FILTER, BUNDLED, MODEL = "input", "filter", "bundled", "model"
REFERENCE, EXPOSURES, SELF_PREDICTION = "reference", "exposures", "self-prediction"
STRIDE = (
    4  # of the grid of pixels that self-prediction predicts at a time; 16 grids make up an image
)
SIDE = 1024  # without a reference, of larger images the middle is compared
HOW = {
    EXPOSURES: "first exposure denoised, compared with the second",
    SELF_PREDICTION: f"each pixel compared with its prediction from the others, {STRIDE}² grids",
}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a score was measured: the stamp that goes with every number.

    Attributes:
        data: Name of the images; their number, how many scenes they show, the SHA-256 of all their pixels.
        low, high: Stored values of black and white; outputs are clipped to them.
        whole: Whether outputs are rounded to whole stored values.
        noise: Noise added to clean images, None where the noise is real.
        seed: Of that noise; each image begins with it anew.
        stored: Whether that noisy image was clipped and rounded like a file.
        psnr, ssim: Which variant of each; both are means of the images' values.
        border: Pixels cut off before scoring.
        versions: Of the programs.
        metric: REFERENCE, EXPOSURES or SELF_PREDICTION.
    """

    data: str
    images: int
    scenes: int
    sha256: str
    low: float
    high: float
    whole: bool
    noise: str | None = None
    seed: int | None = None
    stored: bool = False
    psnr: str = "over all pixels and channels of an image"
    ssim: str = SSIM_VARIANT
    border: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    metric: str = REFERENCE

    def __str__(self) -> str:
        data = f"{self.data} (sha256 {self.sha256[:12]})"
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        how = self._with_reference(data) if self.metric == REFERENCE else self._without(data)
        return "; ".join([*how, versions])

    def _with_reference(self, data: str) -> list[str]:
        noise = "noise as it is in the files"
        if self.noise:
            kept = "clipped and rounded as in a file" if self.stored else "not clipped"
            noise = f"noise {self.noise}, seed {self.seed} for each image, {kept}"
        rounded = "rounded to whole values" if self.whole else "not rounded"
        return [
            f"{count(self.images, 'image')} of {count(self.scenes, 'scene')}",
            data,
            noise,
            f"outputs clipped to [{self.low:g}, {self.high:g}], {rounded}",
            f"data range {self.high - self.low:g}",
            f"border of {self.border} pixels cut" if self.border else "no border cut",
            f"means of the images' values; PSNR {self.psnr}; SSIM of {self.ssim}",
        ]

    def _without(self, data: str) -> list[str]:
        return [
            f"{count(self.images, 'image')}, {data}",
            f"black {self.low:g}, white {self.high:g}",
            HOW[self.metric],
            f"the middle {SIDE} x {SIDE} pixels of larger images; not clipped or rounded",
        ]


def count(number: int, thing: str) -> str:
    """Such as "1 image" and "2 images"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def differences(one: Protocol, other: Protocol) -> list[str]:
    """In what two protocols differ: "noise: gaussian:25 / gaussian:50"."""
    left, right = asdict(one), asdict(other)
    return [f"{key}: {left[key]} / {right[key]}" for key in left if left[key] != right[key]]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What was measured of one denoiser.

    Attributes:
        name, kind: As tables show it; INPUT, FILTER, BUNDLED or MODEL.
        details: Which denoiser it is, such as its file's SHA-256.
        values: By name, a number for each image: "psnr" and "ssim" (NaN below its window); or "rmse",
            "residual" and "correlation"; and "seconds".
        squares: Without a reference, the mean squared difference of each sample on a 0–255 scale.
        autocorrelation: Without a reference, that of the residual, a mean over the images.
        memory: Peak of a call in MB beyond what was in use before it, NaN where the system does not say.
    """

    name: str
    kind: str
    details: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, list[float]] = field(default_factory=dict)
    squares: list[float] = field(default_factory=list)
    autocorrelation: list[list[float]] = field(default_factory=list)
    memory: float = math.nan


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """All that was measured, the scores of the noisy input first.

    ``scenes`` says which scene each image shows, ``samples`` to which image or tile each of the scores'
    squares belongs. ``noise`` is what two exposures, or the images alone, say of their noise.
    """

    protocol: Protocol
    tuning: str
    machine: str
    images: list[str]
    scenes: list[str]
    pixels: list[int]
    scores: list[Scores]
    samples: list[str] = field(default_factory=list)
    noise: Mapping[str, Any] = field(default_factory=dict)

    def of_kind(self, kind: str) -> list[Scores]:
        """The scores of the denoisers of this kind."""
        return [each for each in self.scores if each.kind == kind]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each image and denoiser, each with the protocol."""
        images = zip(self.images, self.scenes, self.pixels, strict=True)
        return [
            {
                "image": image,
                "scene": scene,
                "denoiser": scores.name,
                **{name: values[i] for name, values in scores.values.items()},
                "pixels": pixels,
                "protocol": str(self.protocol),
            }
            for i, (image, scene, pixels) in enumerate(images)
            for scores in self.scores
        ]


def merge(several: Sequence[Measurement]) -> list[Measurement]:
    """Join what was measured in the same way, on the same pixels, with the same versions.

    Where a denoiser occurs twice, its first measurement is kept. Several measurements that remain do not
    belong in one table.
    """
    groups: list[Measurement] = []
    for each in several:
        for i, group in enumerate(groups):
            if group.protocol == each.protocol:
                groups[i] = _joined(group, each)
                break
        else:
            groups.append(each)
    return groups


def _joined(one: Measurement, other: Measurement) -> Measurement:
    known = [(scores.name, scores.details) for scores in one.scores]
    names = {scores.name for scores in one.scores}
    joined = [*one.scores]
    for each in other.scores:
        if (each.name, each.details) not in known:
            twin = f"{each.name}, another one" if each.name in names else each.name
            joined.append(dataclasses.replace(each, name=twin))
    tuning = " / ".join(dict.fromkeys([one.tuning, other.tuning]))
    return dataclasses.replace(one, scores=joined, tuning=tuning)


def finite(value: Any) -> Any:
    """The same with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_json(saved: Mapping[str, Any], version: int) -> Measurement:
    """The measurement in saved results. Raises KeyError, TypeError, ValueError where it is none."""
    scores = _from_format_1(saved["marks"]) if version == 1 else saved["scores"]
    protocol = Protocol(**saved["protocol"])
    rest = {key: value for key, value in saved.items() if key != "marks"}
    return Measurement(
        **rest | {"protocol": protocol, "scores": [_scores(each) for each in scores]}
    )


def _from_format_1(marks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Format 1 kept scores with a reference alone, and called the noisy input "nothing"."""
    names = ("psnr", "ssim", "seconds")
    return [
        {key: value for key, value in each.items() if key not in names}
        | ({"kind": INPUT, "name": "noisy input"} if each["kind"] == "nothing" else {})
        | {"values": {name: each[name] for name in names}}
        for each in marks
    ]


def _scores(saved: Mapping[str, Any]) -> Scores:
    """With NaN where JSON had null."""

    def number(value: Any) -> float:
        return math.nan if value is None else float(value)

    values = {name: [number(each) for each in column] for name, column in saved["values"].items()}
    return Scores(**{**saved, "values": values, "memory": number(saved["memory"])})
