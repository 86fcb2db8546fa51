"""The table and the verdicts of an evaluation, as text and as JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from snowmelt import saved
from snowmelt.errors import UserError
from snowmelt.files import replacing
from snowmelt.metrics import Interval
from snowmelt.scores import (
    BUNDLED,
    EXPOSURES,
    FILTER,
    FORMAT,
    INPUT,
    MODEL,
    REFERENCE,
    Measurement,
    Scores,
    differences,
    finite,
    from_json,
    merge,
)
from snowmelt.scoring import METRICS, Column, Metric

FEW_SCENES = 8
WIDTH = 100
SAVED = "results.json"
# What the noisy input does not have: no time, no residual.
NOT_OF_INPUT = ("seconds_per_megapixel", "memory", "residual", "correlation")
NOT_OF_BASELINE = ("gain_over_baseline", "ssim_gain_over_baseline")

Outcome: TypeAlias = Literal["better", "same", "worse", "harmful"]


@dataclass(frozen=True)
class Verdict:
    """A sentence, and the outcome that it states of one denoiser.

    ``outcome`` is "better" than the best classical filter (or than the noisy input, where no filter was
    compared), the "same", "worse", or "harmful": no better than the noisy input. None: the images allow no
    verdict.
    """

    text: str
    outcome: Outcome | None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, kw_only=True)
class Results:
    """The outcome of a comparison; ``print`` shows it as a table.

    Attributes:
        columns: Of the table.
        rows: For each denoiser "name", "kind" and its scores: numbers, `Interval`, `Peak`. The noisy input
            comes first.
        baseline: Name of the row that gains are over: the best filter, without any the noisy input.
        notes: What the columns mean.
        verdicts: One for each model; without any, for the best filter.
        measurement: The scores of each image.
    """

    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Any], ...]
    baseline: str
    notes: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    measurement: Measurement

    def __str__(self) -> str:
        return "\n".join([self.table(), *map(str, self.verdicts)])

    def table(self) -> str:
        """The scores as lines of text, what they mean, and the protocol; without the verdicts."""
        lines = [["", *(column.title for column in self.columns)]]
        lines += [
            [row["name"], *(self._cell(row, column) for column in self.columns)]
            for row in self.rows
        ]
        notes = [*self.notes, f"protocol: {self.measurement.protocol}"]
        broken = [textwrap.fill(note, WIDTH, subsequent_indent="  ") for note in notes]
        return "\n".join([*_aligned(lines), *broken])

    def _cell(self, row: Mapping[str, Any], column: Column) -> str:
        blank = (row["kind"] == INPUT and column.key in NOT_OF_INPUT) or (
            row["name"] == self.baseline and column.key in NOT_OF_BASELINE
        )
        value = row[column.key]
        if blank:
            return "-"
        if isinstance(value, Interval):
            return _signed(value, column.digits)
        if not isinstance(value, float):
            return str(value)
        if math.isnan(value):
            return "-"
        return f"{value:.{column.digits}{'g' if column.significant else 'f'}}"

    def json(self) -> dict[str, Any]:
        """All of it as JSON takes it: NaN and infinity are null."""
        protocol = self.measurement.protocol
        parts: dict[str, Any] = finite(asdict(self))
        return {
            "format": FORMAT,
            "protocol": str(protocol),
            "data": protocol.data,
            "sha256": protocol.sha256,
            **parts,
        }

    def save(self, path: Path) -> None:
        """Write `json` to a file, whole or not at all."""
        text = json.dumps(self.json(), indent=1, ensure_ascii=False, allow_nan=False)
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8")

    def save_all(self, folder: Path) -> None:
        """Write results.json, and images.jsonl and images.csv with a row for each image and denoiser."""
        folder.mkdir(parents=True, exist_ok=True)
        self.save(folder / SAVED)
        rows = self.measurement.rows()
        lines = [json.dumps(finite(row), ensure_ascii=False) + "\n" for row in rows]
        with replacing(folder / "images.jsonl") as part:
            part.write_text("".join(lines), encoding="utf-8")
        text = io.StringIO()
        # The noisy input of a measurement by an older version may lack a column.
        writer = csv.DictWriter(
            text, dict.fromkeys(key for row in rows for key in row), lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
        with replacing(folder / "images.csv") as part:
            part.write_text(text.getvalue(), encoding="utf-8")


def summarize(measured: Measurement) -> Results:
    """The table and the verdicts of what was measured."""
    metric = METRICS[measured.protocol.metric]
    baseline = find_baseline(measured)
    return Results(
        columns=metric.columns(),
        rows=tuple(_row(measured, metric, each, baseline) for each in measured.scores),
        baseline=baseline.name,
        notes=tuple(metric.notes(measured, baseline.name)),
        verdicts=tuple(_verdicts(measured, metric, baseline)),
        measurement=measured,
    )


def find_baseline(measured: Measurement) -> Scores:
    """The best filter; without any, the noisy input."""
    metric = METRICS[measured.protocol.metric]
    return max(measured.of_kind(FILTER), key=metric.rank, default=measured.scores[0])


def _row(measured: Measurement, metric: Metric, scores: Scores, baseline: Scores) -> dict[str, Any]:
    seconds = np.divide(scores.values["seconds"], measured.pixels)
    return {
        "name": scores.name,
        "kind": scores.kind,
        "gain_over_input": metric.gain(measured, scores, measured.scores[0]),
        "gain_over_baseline": metric.gain(measured, scores, baseline),
        **metric.cells(measured, scores, baseline),
        "seconds_per_megapixel": 1e6 * float(np.median(seconds)),
        "memory": scores.memory,
    }


def _verdicts(measured: Measurement, metric: Metric, baseline: Scores) -> list[Verdict]:
    judged = measured.of_kind(MODEL) or [each for each in [baseline] if each.kind == FILTER]
    doubt = metric.doubt(measured)
    if doubt:
        return [Verdict(f"{each.name}: {doubt}", None) for each in judged]
    caution = _caution(len(set(measured.scenes)))
    found = [_judge(measured, metric, each, baseline) for each in judged]
    found += _better_bundled(measured, metric, baseline)
    return [Verdict(f"{each.text}{caution}", each.outcome) for each in found]


def _judge(measured: Measurement, metric: Metric, ours: Scores, baseline: Scores) -> Verdict:
    noisy = measured.scores[0]
    gain, ahead = (metric.gain(measured, ours, each) for each in (noisy, baseline))

    def said(interval: Interval) -> str:
        return f"({_signed(interval, metric.digits)}{metric.unit})"

    def verdict(text: str, outcome: Outcome) -> Verdict:
        return Verdict(f"{ours.name}: {text}", outcome)

    (low, high), (behind, before) = _ends(gain), _ends(ahead)
    refusal = "don't use it on data like this"
    if high < 0:
        loss = _size(gain, metric)
        return verdict(f"worse than the {noisy.name} by {loss}: {refusal}", "harmful")
    if low <= 0:
        return verdict(f"no better than the {noisy.name} {said(gain)}: {refusal}", "harmful")
    if baseline is noisy or baseline is ours:
        alone = "no filter was compared" if baseline is noisy else "no model was compared"
        return verdict(f"better than the {noisy.name} by {_size(gain, metric)} ({alone})", "better")
    filtered = f"the best classical filter, {baseline.name}"
    if behind <= 0 <= before:
        return verdict(f"no different from {filtered} {said(ahead)}", "same")
    which: Outcome = "better" if ahead.mean > 0 else "worse"
    opposite = _opposite_ssim(measured, ours, baseline, ahead)
    return verdict(f"{which} than {filtered}, by {_size(ahead, metric)}{opposite}", which)


def _opposite_ssim(measured: Measurement, ours: Scores, baseline: Scores, ahead: Interval) -> str:
    """Where SSIM is as sure of the opposite."""
    if measured.protocol.metric != REFERENCE:
        return ""
    gain = METRICS[REFERENCE].cells(measured, ours, baseline)["ssim_gain_over_baseline"]
    opposite = (gain.low > 0 and ahead.mean < 0) or (gain.high < 0 and ahead.mean > 0)
    return f"; SSIM says the opposite ({_signed(gain, 4)})" if opposite else ""


def _better_bundled(measured: Measurement, metric: Metric, baseline: Scores) -> list[Verdict]:
    """For each model that a bundled one surpasses, if that one is no worse than all else."""
    found = []
    for bundled in measured.of_kind(BUNDLED):
        useful = _ends(metric.gain(measured, bundled, measured.scores[0]))[0] > 0
        if not useful or _ends(metric.gain(measured, bundled, baseline))[1] < 0:
            continue
        for ours in measured.of_kind(MODEL):
            ahead = metric.gain(measured, bundled, ours)
            if _ends(ahead)[0] > 0:
                text = (
                    f"{bundled.name} is better than {ours.name}, by {_size(ahead, metric)}: use it"
                )
                found.append(Verdict(text, "worse"))
    return found


def _ends(gain: Interval) -> tuple[float, float]:
    """Both ends of the interval; the mean twice where a single sample gives no interval."""
    return (gain.mean, gain.mean) if math.isnan(gain.low) else (gain.low, gain.high)


def _size(gain: Interval, metric: Metric) -> str:
    """Such as "1.45 ± 0.73 dB", whatever the sign."""
    return _signed(gain, metric.digits).lstrip("+-") + metric.unit


def _signed(gain: Interval, digits: int) -> str:
    """Such as "+0.85 ± 0.15"."""
    if math.isnan(gain.mean):
        return "-"
    half = "" if math.isnan(gain.low) else f" ± {gain.half:.{digits}f}"
    return f"{gain.mean:+.{digits}f}{half}"


def _caution(scenes: int) -> str:
    """What is to be said of an interval over so few scenes."""
    if scenes == 1:
        return " (on one scene; says nothing about others)"
    return f" ({scenes} scenes only: a rough interval)" if scenes < FEW_SCENES else ""


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            [line[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        ).rstrip()
        for line in lines
    ]


def tables(several: Sequence[Measurement]) -> str:
    """One table; or one for each way of measuring, with what differs between them."""
    groups = merge(several)
    parts = []
    for i, group in enumerate(groups):
        if i:
            apart = "; ".join(differences(groups[0].protocol, group.protocol))
            parts.append(f"NOT comparable with the first table, measured differently: {apart}\n")
        parts.append(f"{summarize(group)}\n")
    return "\n".join(parts).rstrip("\n")


def read(path: Path) -> dict[str, Any]:
    """The JSON of saved results, in today's form also where an older version saved them.

    Raises:
        UserError: There is no such file, or it holds something else.
    """
    try:
        found = saved.from_json(saved.read_text(path))
        version = found["format"]
        if version not in range(1, FORMAT + 1):
            raise UserError(
                f"{path}: results of format {version}; this version reads 1 to {FORMAT}"
            )
        found = dict(found) if version == FORMAT else _from_format_1(found)
        _check(found)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UserError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not results of `snowmelt evaluate -o FOLDER` ({error!r}); expected its results.json"
        ) from error
    return found


def _check(found: dict[str, Any]) -> None:
    """Texts where a report shows texts, and numbers (or intervals of them) where it shows numbers."""
    columns, rows, verdicts = found["columns"], found["rows"], found["verdicts"]
    saved.check_texts([found["protocol"], found["baseline"], *found["notes"]])
    saved.check_texts(found.get(key, "") for key in ("data", "sha256"))
    saved.check_texts(text for each in columns for text in (each["key"], each["title"]))
    saved.check_numbers(each["digits"] for each in columns)
    saved.check_texts(text for each in verdicts for text in (each["text"], each["outcome"] or ""))
    for row in rows:
        saved.check_texts([row["kind"], row["name"]])
        for column in ({"key": "gain_over_baseline"}, *columns):
            value = row.get(column["key"])
            parts = value if isinstance(value, dict) else {"value": value}
            saved.check_numbers(
                parts[key] for key in parts.keys() & {"value", "mean", "low", "high"}
            )
        row["gain_over_baseline"]["mean"]
    for mark in found.get("measurement", {}).get("marks", []):
        saved.check_texts([mark["name"], mark.get("details", {}).get("sha256", "")])


def load(path: Path) -> Measurement:
    """The measurement in saved results.

    Raises:
        UserError: There is none: no such file, something else, or a comparison without a reference by an
            older version.
    """
    found = read(path)
    if "measurement" not in found:
        raise UserError(
            f"{path}: compared without a reference by an older version, which did not keep the scores of "
            "each image; evaluate again to compare with other results"
        )
    return from_json(found["measurement"], FORMAT)


def _from_format_1(old: dict[str, Any]) -> dict[str, Any]:
    """Format 1 kept verdicts as sentences: their outcomes come from the scores, or remain unknown."""
    if "measurement" in old:
        return summarize(from_json(old["measurement"], 1)).json()
    names = {"distance": "rmse", "removed": "residual", "lead": "gain_over_baseline"}
    rows = [{names.get(key, key): value for key, value in row.items()} for row in old["scores"]]
    rows[0]["kind"] = INPUT
    return old | {
        "rows": rows,
        "columns": [asdict(column) for column in METRICS[EXPOSURES].columns()],
        "baseline": old["opponent"],
        "verdicts": [{"text": text, "outcome": None} for text in old["verdicts"]],
    }
