"""The report of a run or an evaluation: images, curves, scores in one self-contained HTML file.

A pure function of what is saved: the same folder gives the same bytes. All that the page shows it reads from
one JSON block in itself (`content_of`); `report.html` turns that into a page and lets nothing be fetched.

Pictures are (H, W) or (H, W, C), 0 black and 1 white; H height, W width, C channels.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snowmelt import looks, modelfile, results
from snowmelt import saved as saved_files
from snowmelt.cases import Picture, middle
from snowmelt.errors import UserError, printable
from snowmelt.files import replacing
from snowmelt.looks import Seen
from snowmelt.metrics import autocorrelation, find_peak, psnr
from snowmelt.scores import BUNDLED, FILTER, INPUT, MODEL, finite

Content = dict[str, Any]

# Bytes of all PNGs; in base64 they are a third more, and the page stays under 10 MB.
BUDGET = 6_500_000
MAX_PICTURES, MAX_TAKES = 12, 13
MAX_PAGE_NUMBERS = 5  # on top
FULL_COLOUR = 0.25  # autocorrelation that gets the full colour
NEGATIVE, ZERO, POSITIVE = (33, 102, 172), (247, 247, 247), (178, 60, 30)
KICKER = "Snowmelt report"
TONES = {"better": "good", "harmful": "bad"}  # colour of a verdict by its outcome; others are plain
_OWN = {"noisy", "noisy_too", "clean"}
RECIPE, LOG, SCORES, RESULTS, NETWORK = (
    "recipe.toml", "log.jsonl", "scores.json", "results.json", "model.onnx",
)  # fmt: skip
PICTURE_PROTOCOL = (
    f"PSNR of each as it was kept (an evaluation keeps the middle {looks.SIDE} x {looks.SIDE} pixels), "
    "clipped to black and white, data range 1"
)
RESIDUAL_PROTOCOL = (
    "noisy minus denoised; autocorrelation: mean subtracted, each shift a mean over the overlap"
)


def write(source: Path, output: Path) -> None:
    """Write the report of the run or evaluation in the folder ``source``, whole or not at all.

    Raises:
        UserError: ``source`` holds neither, or a file in it is not what it should be; ``output`` is a file
            that is no report.
    """
    if output.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{output}: a report is an HTML file; give it a name such as report.html")
    if output.exists() and KICKER.encode() not in output.read_bytes()[:1000]:
        raise UserError(f"{output} is there already and is no report; choose another name")
    page = render(content_of(source))
    output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(output) as part:
        part.write_bytes(page.encode("utf-8", errors="replace"))


def render(content: Mapping[str, Any]) -> str:
    """The page that shows ``content``, as HTML; nothing in it can run but the page's own script."""
    page = (resources.files("snowmelt") / "report.html").read_text("utf-8")
    verdicts = [each["text"] for each in content["verdicts"]]
    values = {
        "TITLE": html.escape(content["title"]),
        "KICKER": KICKER,
        "POLICY": _policy(page),
        "SUMMARY": html.escape(". ".join(verdicts)),
        "CONTENT": _json(content),
    }
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda match: values[match[1]], page)


def _policy(page: str) -> str:
    """Content security policy: this page's style and script by their hashes, pictures inside it, no more."""
    style, script = (_hash_of(page, tag) for tag in ("style", "script"))
    return f"default-src 'none'; img-src data:; style-src '{style}'; script-src '{script}'"


def _hash_of(page: str, tag: str) -> str:
    text = page.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _json(content: Mapping[str, Any]) -> str:
    """JSON that may stand in a script element: ASCII, without a character that HTML could read."""
    text = json.dumps(finite(content), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def content_of(source: Path) -> Content:
    """All that the report of a run or of an evaluation shows; of a run that was stopped, what there is."""
    if source.name == RESULTS and source.is_file():
        source = source.parent
    if (source / RECIPE).is_file():
        return _content_of_run(source)
    if (source / RESULTS).is_file():
        return _content_of_results(source)
    raise UserError(
        f"{source}: neither {RECIPE} nor {RESULTS} there; expected the folder of a run "
        "(`snowmelt train -o FOLDER`) or of results (`snowmelt evaluate -o FOLDER`)"
    )


def _content_of_run(folder: Path) -> Content:
    recipe, log = _read_recipe(folder / RECIPE), _read_log(folder / LOG)
    saved = results.read(folder / SCORES) if (folder / SCORES).is_file() else {}
    model = folder / NETWORK
    header = modelfile.read(model).header if model.is_file() else None
    seen = looks.read_looks(folder, most=MAX_TAKES)
    origin = [["data", _data_name(recipe["data"]), recipe["data"]["sha256"]]]
    if header:
        digest = hashlib.sha256(model.read_bytes()).hexdigest()
        origin += [["model file", model.name, digest], ["made with", header.created_with, ""]]
    trained = [
        ["epochs", log[-1]["epoch"] if log else 0, 0, ""],
        ["training time", sum(row["seconds"] for row in log), 0, "s"],
    ]
    unscored = "Not scored: the run was stopped before its end."
    return {
        "title": folder.resolve().name,
        "verdicts": _verdicts(saved) or [{"text": unscored, "tone": "plain"}],
        "figures": [*_figures(saved), *trained],
        **_album(seen),
        "log": log,
        "curve": _curve(recipe["data"]),
        "marks": _marks(saved),
        "scores": _table(saved),
        "recipe": recipe,
        "origin": origin,
        "protocols": [
            *(["curve", each["protocol"]] for each in (header.scores if header else [])),
            *_protocols(saved, seen),
        ],
    }


def _content_of_results(folder: Path) -> Content:
    saved, seen = results.read(folder / RESULTS), looks.read_pictures(folder)
    models = [
        ["model", each["name"], each["details"]["sha256"]]
        for each in saved.get("measurement", {}).get("scores", [])
        if each.get("details", {}).get("sha256")
    ]
    data = [["data", saved["data"], saved["sha256"]]] if "sha256" in saved else []
    return {
        "title": folder.resolve().name,
        "verdicts": _verdicts(saved),
        "figures": _figures(saved),
        **_album(seen),
        "log": [],
        "curve": "",
        "marks": [],
        "scores": _table(saved),
        "recipe": {},
        "origin": [*data, *models],
        "protocols": _protocols(saved, seen),
    }


def _read_recipe(path: Path) -> Content:
    """The recipe's tables; of a file only its name: a report is passed on, and paths tell of their author."""
    try:
        tables = saved_files.from_toml(saved_files.read_text(path))
        short = {
            name: {key: _name_only(value) for key, value in table.items()}
            for name, table in tables.items()
        }
        short["data"] = {"source": "", "sha256": ""} | short.get("data", {})
        saved_files.check_texts(short["data"][key] for key in ("source", "sha256"))
        for key in _OWN & short["data"].keys():
            saved_files.check_texts(short["data"][key])
        saved_files.from_json(json.dumps(short))  # dates, which TOML has, are no values of a recipe
        if _OWN.intersection(key for key, value in short["data"].items() if value):
            del short["data"]["source"]  # it counts for nothing then
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: not a recipe ({printable(str(error))})") from error
    return short


def _name_only(value: Any) -> Any:
    if isinstance(value, list):
        return [_name_only(each) for each in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value


def _data_name(data: Content) -> str:
    """What the run was trained on: the user's files by name, else the source."""
    own = [
        f"{key.replace('_', ' ')}: {', '.join(data[key])}"
        for key in ("noisy", "noisy_too", "clean")
        if data.get(key)
    ]
    return "; ".join(own) or str(data["source"])


def _curve(data: Content) -> str:
    """What the PSNR of the curve is measured against, which without clean images is no reference."""
    if data.get("clean") or not data.get("noisy"):
        return "Held-out PSNR, dB"
    if data.get("noisy_too"):
        return "Held-out PSNR against the second exposure, dB"
    return "Held-out PSNR against noisy pixels hidden from the network, dB"


def _read_log(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    try:
        rows = [saved_files.from_json(line) for line in saved_files.read_text(path).splitlines()]
        rows = [{key: row[key] + 0 for key in ("epoch", "seconds", "loss", "psnr")} for row in rows]
        # What is not finite has no place on a curve.
        return [row for row in rows if all(map(math.isfinite, row.values()))]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not the log of a run ({error!r})") from error


def _verdicts(saved: Content) -> list[dict[str, str]]:
    verdicts = saved.get("verdicts", [])
    return [
        {"text": each["text"], "tone": TONES.get(each["outcome"], "plain")} for each in verdicts
    ]


def _table(saved: Content) -> Content | None:
    """The saved scores, and which of their numbers are shown; ``bar`` is the one that is drawn.

    A column without any number is left out.
    """
    if not saved:
        return None
    rows = saved["rows"]
    by_reference = all("psnr" in row for row in rows)
    return {
        "columns": [
            column
            for column in saved["columns"]
            if any(row.get(column["key"]) is not None for row in rows)
        ],
        "bar": "gain_over_input" if by_reference else "gain_over_baseline",
        "rows": [row | _plain_peak(row) for row in rows],
        "baseline": saved["baseline"],
        "notes": saved["notes"],
    }


def _plain_peak(row: Content) -> Content:
    """Of the strongest correlation its value alone: the page has no room for the shift."""
    return {"correlation": row["correlation"]["value"]} if "correlation" in row else {}


def _figures(saved: Content) -> list[list[Any]]:
    """The few numbers on top: rows of label, value, digits, unit."""
    rows = saved.get("rows", [])
    if not all("psnr" in row for row in rows):
        return []
    ours = [[row["name"], row["psnr"], 2, "dB"] for row in rows if row["kind"] == MODEL]
    return [*ours[: MAX_PAGE_NUMBERS - 2], *([*mark, 2, "dB"] for mark in _marks(saved))]


def _marks(saved: Content) -> list[list[Any]]:
    """PSNR of the noisy input, of the best filter and of the bundled model, to compare with."""
    names = {INPUT: "noisy", FILTER: "best filter", BUNDLED: "bundled model"}
    return [
        [names[row["kind"]], row["psnr"]]
        for row in saved.get("rows", [])
        if "psnr" in row  # else there was no reference
        and row["kind"] in names
        and (row["kind"] != FILTER or row["name"] == saved["baseline"])
    ]


def _protocols(saved: Content, seen: Sequence[Seen]) -> list[list[str]]:
    """How each number was measured: rows of which, how."""
    scores = [["scores", saved["protocol"]]] if saved else []
    pictures = [["pictures", PICTURE_PROTOCOL], ["residual", RESIDUAL_PROTOCOL]]
    return [*scores, *(pictures if seen else [])]


def _album(seen: Sequence[Seen]) -> Content:
    """The pictures as the page takes them."""
    seen = [each for each in seen if each.takes][:MAX_PICTURES]
    labels = [*seen[0].takes] if seen else []
    channels = max((math.prod(each.noisy.shape[2:]) for each in seen), default=1)
    side = side_within_budget(len(seen), len(labels), channels)
    return {
        "takes": labels,
        "pictures": [show(each, side) for each in seen],
        "full_colour": FULL_COLOUR,
    }


def side_within_budget(pictures: int, takes: int, channels: int) -> int:
    """Longest side in pixels of what is shown, such that the page stays under 10 MB whatever is on it."""
    planes = (
        pictures * (2 * takes + 3) * channels
    )  # noisy, clean, noise; each take with its residual
    return math.isqrt(BUDGET // max(1, planes))


def show(seen: Seen, side: int) -> Content:
    """One image with its denoised versions, as PNGs of at most ``side`` x ``side`` pixels.

    PSNR (dB) and autocorrelation are of the whole image, though of a large one only the middle is shown.
    Black and white of the residuals are three standard deviations of the noise, the same for all versions.
    """
    noisy, clean, takes = seen.noisy, seen.clean, [*seen.takes.values()]
    noise = noisy - (takes[-1] if clean is None else clean)
    amplitude = 3 * max(float(np.std(noise)), 1 / 255)
    height, width = noisy.shape[:2]

    def field_of(difference: NDArray[Any]) -> str:
        return _grey(middle(np.asarray(difference / (2 * amplitude) + 0.5, np.float32), side))

    return {
        "name": seen.name,
        "reference": seen.reference,
        "size": [width, height],
        "shown": [min(width, side), min(height, side)],
        "amplitude": amplitude,
        "noisy": {"png": _grey(middle(noisy, side)), "psnr": _decibels(clean, noisy)},
        "clean": None if clean is None else {"png": _grey(middle(clean, side)), "psnr": None},
        "noise": None if clean is None else {"field": field_of(noise), **correlation_of(noise)},
        "takes": [
            {
                "png": _grey(middle(take, side)),
                "psnr": _decibels(clean, take),
                "residual": field_of(noisy - take),
                "correlation": correlation_of(noisy - take),
            }
            for take in takes
        ],
    }


def _decibels(clean: Picture | None, picture: Picture) -> float | None:
    return None if clean is None else psnr(clean, np.clip(picture, 0, 1), data_range=1)


def correlation_of(field: NDArray[Any]) -> Content:
    """Autocorrelation of a residual as an image, and its strongest value at any shift but none."""
    values = autocorrelation(field if field.ndim == 2 else field.mean(axis=-1))
    rows, columns = (length // 2 for length in values.shape)
    peak = find_peak(values)
    return {
        "png": _diverging(values),
        "lags": [columns, rows],
        "peak": peak.value,
        "shift": [peak.right, peak.down],
        "chance": 4 / math.sqrt(field.shape[0] * field.shape[1]),
    }


def _diverging(values: NDArray[np.float64]) -> str:
    """Numbers as colours: blue below zero, near white at zero, red above."""
    part = np.clip(values / FULL_COLOUR, -1, 1)[..., None]
    ends = np.where(part < 0, np.array(NEGATIVE), np.array(POSITIVE))
    colours = (1 - np.abs(part)) * np.array(ZERO) + np.abs(part) * ends
    return _png(np.rint(colours).astype(np.uint8))


def _grey(picture: NDArray[Any]) -> str:
    """A picture in [0, 1] at 8 bits; what is outside is clipped, channels that are not RGB are averaged."""
    if picture.ndim == 3 and picture.shape[-1] != 3:
        picture = picture.mean(axis=-1)
    return _png(np.rint(np.clip(np.nan_to_num(picture), 0, 1) * 255).astype(np.uint8))


def _png(pixels: NDArray[np.uint8]) -> str:
    """Pixels as a data URI, without loss."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
