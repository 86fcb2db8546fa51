"""What an evaluation measured, with the protocol that every number carries; tables and verdicts of it.

Kept are the figures of each image, so that any two denoisers can be compared later, pair by pair. What was
measured differently is never put into one table: `merge`.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from snowmelt.errors import UserError
from snowmelt.files import replacing
from snowmelt.metrics import CONFIDENCE, DRAWS, SSIM_VARIANT, Interval, paired_interval

FORMAT = 1
NOTHING, FILTER, MODEL = "nothing", "filter", "model"
FEW_SCENES = 8
WIDTH = 100


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a score was measured: the stamp that goes with every number.

    Attributes:
        data: Name of the images; their number, how many scenes they show, the SHA-256 of all their pixels.
        low, high: Stored values of black and white; outputs are clipped to them.
        whole: Whether outputs are rounded to whole stored values.
        noise: What was put on clean images, None where the noise is real.
        seed: Of that noise: each image begins with it anew.
        stored: Whether that noisy image was clipped and rounded like a file.
        psnr, ssim: Which of the measures of this name; both are means of the images' values.
        border: Pixels that are cut off before.
        versions: Of the programs.
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

    def __str__(self) -> str:
        noise = "noise as it is in the files"
        if self.noise:
            kept = "clipped and rounded as in a file" if self.stored else "not clipped"
            noise = f"noise {self.noise}, seed {self.seed} for each image, {kept}"
        rounded = "rounded to whole values" if self.whole else "not rounded"
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return "; ".join(
            [
                f"{count(self.images, 'image')} of {count(self.scenes, 'scene')}",
                f"{self.data} (sha256 {self.sha256[:12]})",
                noise,
                f"outputs clipped to [{self.low:g}, {self.high:g}], {rounded}",
                f"data range {self.high - self.low:g}",
                f"border of {self.border} pixels cut" if self.border else "no border cut",
                f"means of the images' values; PSNR {self.psnr}; SSIM of {self.ssim}",
                versions,
            ]
        )


def count(number: int, thing: str) -> str:
    """Such as "1 image" and "2 images"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def differences(one: Protocol, other: Protocol) -> list[str]:
    """In what two protocols differ: "noise: gaussian:25 / gaussian:50"."""
    left, right = asdict(one), asdict(other)
    return [f"{key}: {left[key]} / {right[key]}" for key in left if left[key] != right[key]]


@dataclass(kw_only=True)
class Marks:
    """What was measured of one denoiser, a number for each image; SSIM is NaN for images below its window.

    ``details`` say which denoiser it is, such as its file's SHA-256. ``memory`` is in MB: the peak of a call
    beyond what was in use before it, NaN where the system does not say.
    """

    name: str
    kind: str
    details: Mapping[str, Any] = field(default_factory=dict)
    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    memory: float = math.nan


@dataclass(frozen=True, kw_only=True)
class Results:
    """All that `save` keeps of a measurement. The marks of doing nothing come first."""

    protocol: Protocol
    tuning: str
    machine: str
    images: list[str]
    scenes: list[str]
    pixels: list[int]
    marks: list[Marks]


@dataclass(frozen=True, kw_only=True)
class Score:
    """Mean PSNR (dB) and SSIM of one denoiser.

    ``gain`` is its lead over doing nothing in dB; ``lead`` and ``lead_ssim`` are those over the opponent: the
    best filter, or doing nothing where there is no filter.
    """

    name: str
    psnr: float
    ssim: float
    kind: str
    gain: Interval
    lead: Interval
    lead_ssim: Interval
    seconds_per_megapixel: float
    memory: float


def summarize(results: Results) -> list[Score]:
    """A score for each denoiser, in their order."""
    noisy, opponent = results.marks[0], _opponent(results)

    def lead(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
        return paired_interval(ours, theirs, results.scenes)

    return [
        Score(
            name=each.name,
            psnr=float(np.mean(each.psnr)),
            ssim=float(np.mean(each.ssim)),
            kind=each.kind,
            gain=lead(each.psnr, noisy.psnr),
            lead=lead(each.psnr, opponent.psnr),
            lead_ssim=lead(each.ssim, opponent.ssim),
            seconds_per_megapixel=1e6 * float(np.median(np.divide(each.seconds, results.pixels))),
            memory=each.memory,
        )
        for each in results.marks
    ]


def _opponent(results: Results) -> Marks:
    """The best filter; without any, doing nothing."""
    filters = [each for each in results.marks if each.kind == FILTER]
    return max(filters, key=lambda each: np.mean(each.psnr), default=results.marks[0])


def table(results: Results) -> str:
    """The scores as lines of text, then what they mean, and the protocol."""
    opponent = _opponent(results).name
    rows = [("", "PSNR, dB", "lead, dB", "SSIM", "lead", "s/Mpx", "MB")]
    for each in summarize(results):
        leads = (signed(each.lead, 2), signed(each.lead_ssim, 4))
        if each.name == opponent:
            leads = ("-", "-")
        quick = each.kind == NOTHING
        rows.append(
            (
                each.name,
                number(each.psnr, 2),
                leads[0],
                number(each.ssim, 4),
                leads[1],
                "-" if quick else f"{each.seconds_per_megapixel:.3g}",
                "-" if quick else number(each.memory, 0),
            )
        )
    return "\n".join(
        [*aligned(rows), *wrapped([*_legend(results, opponent), f"protocol: {results.protocol}"])]
    )


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        ).rstrip()
        for row in rows
    ]


def wrapped(lines: Sequence[str]) -> list[str]:
    """Each line broken at WIDTH, what follows set in."""
    return [textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in lines]


def _legend(results: Results, opponent: str) -> list[str]:
    scenes = len(set(results.scenes))
    half = f"± half of the {CONFIDENCE:.0%} interval (paired bootstrap, {DRAWS:,} draws of {scenes} scenes)"
    lines = [
        f"lead: over {opponent}{', ' + half if scenes > 1 else ', one scene only: no interval'}",
        f"s/Mpx: seconds per megapixel, median; MB: peak memory of a call; {results.machine}",
    ]
    if any(each.kind == FILTER for each in results.marks):
        lines.append(f"filters tuned on {results.tuning}")
    if any(math.isnan(value) for value in results.marks[0].ssim):
        lines.append("SSIM: none for images smaller than its window of 11 pixels")
    return lines


def number(value: float, digits: int) -> str:
    """With so many digits; "-" for NaN."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def signed(lead: Interval, digits: int) -> str:
    """Such as "+0.85 ± 0.15"."""
    if math.isnan(lead.mean):
        return "-"
    return f"{lead.mean:+.{digits}f}" + (
        "" if math.isnan(lead.low) else f" ± {lead.half:.{digits}f}"
    )


def verdicts(results: Results) -> list[str]:
    """A line for each model: better than the best filter by how much, no different, worse, or no good.

    Without a model, the one for the best filter.
    """
    scores = summarize(results)
    best = _opponent(results)
    models = [each for each in scores if each.kind == MODEL]
    if not models and best.kind == FILTER:
        models = [each for each in scores if each.name == best.name]
    scenes = len(set(results.scenes))
    return [f"{each.name}: {_judgement(each, best)}{caution(scenes)}" for each in models]


def _judgement(score: Score, best: Marks) -> str:
    sure = not math.isnan(score.gain.low)
    if score.gain.mean <= 0 and (not sure or score.gain.high < 0):
        loss = _plain(score.gain, -score.gain.mean)
        return f"worse than doing nothing by {loss}: don't use it on data like this"
    if score.gain.mean <= 0 or (sure and score.gain.low <= 0):
        change = signed(score.gain, 2)
        return f"no better than doing nothing ({change} dB): don't use it on data like this"
    if best.kind == NOTHING or score.name == best.name:
        rest = "no filter" if best.kind == NOTHING else "no model"
        return f"better than doing nothing by {_plain(score.gain)} ({rest} was held against it)"
    against = f"the best classical filter, {best.name}"
    if sure and score.lead.low <= 0 <= score.lead.high:
        return f"no different from {against} ({signed(score.lead, 2)} dB)"
    if score.lead.mean > 0:
        return f"better than {against}, by {_plain(score.lead)}{_contradiction(score)}"
    return f"worse than {against}, by {_plain(score.lead, -score.lead.mean)}{_contradiction(score)}"


def _contradiction(score: Score) -> str:
    """Where SSIM is as sure of the opposite."""
    for_it = score.lead_ssim.low > 0 and score.lead.mean < 0
    against_it = score.lead_ssim.high < 0 and score.lead.mean > 0
    return (
        f"; SSIM says the opposite ({signed(score.lead_ssim, 4)})" if for_it or against_it else ""
    )


def _plain(lead: Interval, mean: float | None = None) -> str:
    value = lead.mean if mean is None else mean
    return f"{value:.2f}" + ("" if math.isnan(lead.low) else f" ± {lead.half:.2f}") + " dB"


def caution(scenes: int) -> str:
    """What is to be said of an interval over so few scenes."""
    if scenes == 1:
        return " (on one scene: what holds for others, it does not say)"
    return f" ({scenes} scenes only: a rough interval)" if scenes < FEW_SCENES else ""


def merge(several: Sequence[Results]) -> list[Results]:
    """Put together what was measured in the same way, on the same pixels, with the same versions.

    Of a denoiser that is there twice the first measurement stays. More than one in the list that comes back:
    they do not belong into one table.
    """
    groups: list[Results] = []
    for each in several:
        for i, group in enumerate(groups):
            if group.protocol == each.protocol:
                groups[i] = _joined(group, each)
                break
        else:
            groups.append(each)
    return groups


def _joined(one: Results, other: Results) -> Results:
    known = [(marks.name, marks.details) for marks in one.marks]
    names = {marks.name for marks in one.marks}
    marks = [*one.marks]
    for each in other.marks:
        if (each.name, each.details) not in known:
            twin = f"{each.name}, another one" if each.name in names else each.name
            marks.append(dataclasses.replace(each, name=twin))
    tuning = " / ".join(dict.fromkeys([one.tuning, other.tuning]))
    return dataclasses.replace(one, marks=marks, tuning=tuning)


def tables(several: Sequence[Results]) -> str:
    """One table, or, with words on why, one for each way of measuring; verdicts last."""
    groups = merge(several)
    parts = []
    for i, group in enumerate(groups):
        if i:
            apart = "; ".join(differences(groups[0].protocol, group.protocol))
            parts.append(f"NOT comparable with the first table, measured differently: {apart}\n")
        parts.append("\n".join([table(group), *verdicts(group)]) + "\n")
    return "\n".join(parts).rstrip("\n")


def content(results: Results) -> dict[str, Any]:
    """All of it as JSON takes it: NaN and infinity are null."""
    summary = [asdict(each) for each in summarize(results)]
    return finite(
        {
            "format": FORMAT,
            "protocol": str(results.protocol),
            "data": results.protocol.data,
            "sha256": results.protocol.sha256,
            "scores": summary,
            "opponent": _opponent(results).name,
            "notes": _legend(results, _opponent(results).name),
            "verdicts": verdicts(results),
            "measurement": asdict(results),
        }
    )


def finite(value: Any) -> Any:
    """The same with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save(saved: Mapping[str, Any], path: Path) -> None:
    """Write what `content` gives as JSON, whole or not at all."""
    text = json.dumps(saved, indent=1, ensure_ascii=False, allow_nan=False)
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def load(path: Path) -> Results:
    """Read the `content` that `save` wrote.

    Raises:
        UserError: There is no such file, or it is none of these.
    """
    try:
        saved = json.loads(path.read_text("utf-8"))
        if saved["format"] != FORMAT:
            raise UserError(
                f"{path}: results of format {saved['format']}; this version reads {FORMAT}"
            )
        if saved.get("truth") is False:
            raise UserError(f"{path}: measured without a truth; such results are for reading only")
        measurement = saved["measurement"]
        marks = [Marks(**_marks(each)) for each in measurement["marks"]]
        return Results(
            **measurement | {"protocol": Protocol(**measurement["protocol"]), "marks": marks}
        )
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path}: not results of `snowmelt evaluate -o FOLDER` ({error!r}); expected its results.json"
        ) from error


def _marks(saved: Mapping[str, Any]) -> dict[str, Any]:
    """With NaN where JSON had null."""

    def number(value: Any) -> float:
        return math.nan if value is None else float(value)

    lists = {key: [number(each) for each in saved[key]] for key in ("psnr", "ssim", "seconds")}
    return {**saved, **lists, "memory": number(saved["memory"])}


def rows_of(results: Results) -> list[dict[str, Any]]:
    """A row for each image and denoiser, each with its protocol."""
    images = zip(results.images, results.scenes, results.pixels, strict=True)
    return [
        {
            "image": image,
            "scene": scene,
            "denoiser": marks.name,
            "psnr": marks.psnr[i],
            "ssim": marks.ssim[i],
            "seconds": marks.seconds[i],
            "pixels": pixels,
            "protocol": str(results.protocol),
        }
        for i, (image, scene, pixels) in enumerate(images)
        for marks in results.marks
    ]


def save_rows(rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write rows as images.jsonl and images.csv."""
    lines = [json.dumps(finite(row), ensure_ascii=False) + "\n" for row in rows]
    with replacing(folder / "images.jsonl") as part:
        part.write_text("".join(lines), encoding="utf-8")
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with replacing(folder / "images.csv") as part:
        part.write_text(text.getvalue(), encoding="utf-8")
