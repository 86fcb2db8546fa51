"""`snowmelt inspect`: what a model file says about itself; what noise an image has, and what to do then."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import shlex
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snowmelt.commands import DONE, FAILED, Commands
from snowmelt.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from snowmelt.diagnosis import Findings
    from snowmelt.images.base import Image

LARGEST = 1536  # pixels; of larger images the middle is looked at
VISIBLE = 1e-4  # part of the pixels; less at a limit is not worth a word
COLOURS = {1: ("grey",), 3: ("R", "G", "B")}


def add(commands: Commands) -> None:
    """Describe the arguments."""
    parser = commands.add_parser(
        "inspect",
        help="what a model file says; what noise an image has, and what to do about it",
        description="A file called NAME.onnx: what the model says about itself. Any other: the noise of the "
        "image, measured on it alone, and advice. Of a stack, the plane in the middle.",
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="images, folders and patterns of them, and model files",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a file, in a list")
    parser.add_argument(
        "--axes", metavar="LETTERS", help="such as ZYX or YXC, where a file is silent"
    )
    parser.add_argument(
        "--range", dest="value_range", nargs=2, type=float, metavar=("LOW", "HIGH"),
        help="values that stand for black and white (default: 0 to 255 of 8 bits, else what is found)",
    )  # fmt: skip
    parser.add_argument(
        "--max-pixels", type=int, metavar="N", help="accept images that claim up to so many pixels"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Inspect all; a file that fails is reported and the others go on."""
    if options.value_range is not None:
        low, high = options.value_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise UserError(f"--range {low:g} {high:g}: expected two numbers, black first")
    results, files = [], _files(options.files)
    for index, path in enumerate(files):
        try:
            facts, text = _inspect(path, options)
        except (UserError, OSError, MemoryError) as error:
            _complain(path, error)
            continue
        results.append(facts)
        if not options.json:
            print(text if index == 0 else f"\n{text}", flush=True)
    if options.json:
        print(json.dumps(results, indent=1))  # In ASCII: names in it must not steer a terminal.
    return DONE if len(results) == len(files) else FAILED


def _files(texts: Sequence[str]) -> list[str]:
    """All that is meant; model files only where they are named."""
    from snowmelt.finding import find_all

    return [each.source for each in find_all(texts)]


def _complain(path: str, error: Exception) -> None:
    message = str(error) or "not enough memory"
    named = message if Path(path).name in message else f"{path}: {message}"
    print(f"snowmelt: error: {named}", file=sys.stderr)


def _inspect(path: str, options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    if path.lower().endswith(".onnx"):
        return _inspect_model(path)
    seen = _look(path, options)
    return _facts(seen), _text(seen)


def _inspect_model(path: str) -> tuple[dict[str, Any], str]:
    from snowmelt import modelfile

    model = modelfile.read(path)
    facts = {"file": path, "model": dataclasses.asdict(model.header), "sha256": model.sha256}
    return facts, modelfile.inspect_text(path)


@dataclasses.dataclass(frozen=True)
class _Seen:
    """An image, the part of it that was looked at, and what was found on each channel."""

    path: str
    image: Image
    plane: int
    part: str
    values: tuple[float, float]
    value_range: tuple[float, float]
    pixels: np.ndarray[Any, Any]
    found: dict[str, Findings]
    flags: str

    @property
    def span(self) -> float:
        return self.value_range[1] - self.value_range[0]

    @property
    def worst(self) -> Findings:
        """The channel with the most noise."""
        return self.found[self._worst]

    @property
    def _worst(self) -> str:
        return max(
            self.found, key=lambda name: (self.found[name].kind != "clean", self.found[name].sigma)
        )

    @functools.cached_property
    def filter(self) -> tuple[str, float] | None:
        """The advised filter and its parameter for the image scaled to [0, 1]."""
        from snowmelt.advice import choose_filter

        channel = self.pixels[..., list(self.found).index(self._worst)]
        scaled = (channel.astype("float32") - self.value_range[0]) / self.span
        return choose_filter(scaled, self.worst, self.span)


def _look(path: str, options: argparse.Namespace) -> _Seen:
    import numpy as np

    from snowmelt import diagnosis
    from snowmelt.images import open_image
    from snowmelt.images.base import MAX_PIXELS

    image = open_image(path, axes=options.axes, max_pixels=options.max_pixels or MAX_PIXELS)
    layout = image.layout
    if layout.dtype.kind not in "uif":
        raise UserError(f"{path}: an image of {layout.dtype}: expected integers or floats")
    plane, pixels, part = _middle(image)
    finite = pixels[np.isfinite(pixels)]
    if not finite.size:
        raise UserError(f"{path}: no value is finite (NaN or infinite)")
    values = float(finite.min()), float(finite.max())
    value_range = _range(image, options.value_range, values)
    count = pixels.shape[-1]
    names = list(COLOURS.get(count, ())) or [f"channel {index}" for index in range(count)]
    found = {
        name: diagnosis.diagnose(pixels[..., index], value_range)
        for index, name in enumerate(names)
    }
    flags = _flags(image, options, value_range)
    return _Seen(path, image, plane, part, values, value_range, pixels, found, flags)


def _flags(image: Image, options: argparse.Namespace, value_range: tuple[float, float]) -> str:
    """What has to be said to `snowmelt denoise` too, so that it means the same values."""
    axes = f" --axes {options.axes}" if options.axes else ""
    of_8_bits = image.layout.dtype.kind == "u" and image.layout.dtype.itemsize == 1
    if of_8_bits and options.value_range is None:
        return axes
    return f"{axes} --range {value_range[0]:.6g} {value_range[1]:.6g}"


def _middle(image: Image) -> tuple[int, np.ndarray[Any, Any], str]:
    """The middle of the plane in the middle (H, W, C), without opacity."""
    layout = image.layout
    plane = layout.planes // 2
    top, left = (max(0, side - LARGEST) // 2 for side in (layout.height, layout.width))
    rows = image.read_rows(plane, top, min(layout.height, top + LARGEST))
    pixels = rows[:, left : left + LARGEST, : layout.channels - layout.alpha]
    whole = pixels.shape[:2] == (layout.height, layout.width)
    part = "all" if whole else f"the middle {pixels.shape[1]} x {pixels.shape[0]} pixels"
    if layout.planes > 1:
        part += f" of plane {plane} of {layout.planes}"
    return plane, pixels, part


def _range(
    image: Image, given: list[float] | None, values: tuple[float, float]
) -> tuple[float, float]:
    """Of more than 8 bits, few images use all: what is found says more of them than their type."""
    if given is not None:
        return given[0], given[1]
    if image.layout.dtype.kind == "u" and image.layout.dtype.itemsize == 1:
        return 0.0, 255.0
    if image.value_range is not None:
        return float(image.value_range[0]), float(image.value_range[1])
    return values if values[0] < values[1] else (values[0], values[0] + 1)


def _text(seen: _Seen) -> str:
    lines = [f"{key:<11} {value}" for key, value in _rows(seen)]
    return "\n".join([seen.path, *lines, *_advice(seen)])


def _rows(seen: _Seen) -> list[tuple[str, str]]:
    layout = seen.image.layout
    low, high = seen.value_range
    shape = " x ".join(map(str, layout.shape))
    return [
        ("image", f"{shape} ({layout.axes}), {layout.dtype}{', with opacity' * layout.alpha}"),
        ("looked at", seen.part),
        (
            "values",
            f"{seen.values[0]:.6g} to {seen.values[1]:.6g}; black {low:.6g}, white {high:.6g}",
        ),
        ("clipped", _each(seen, _clipped)),
        ("level", _each(seen, lambda each: _level(each, seen.span))),
        ("brightness", _each(seen, _dependence)),
        (
            "neighbours",
            _each(
                seen,
                lambda each: (
                    f"correlation {each.spectrum.down:.2f} down, {each.spectrum.across:.2f} across"
                ),
            ),
        ),
        ("stripes", _each(seen, lambda each: _stripes(each, seen.span))),
        ("impulses", _each(seen, _impulses)),
        ("JPEG grid", _each(seen, _grid)),
        ("noise", _each(seen, _kind)),
    ]


def _each(seen: _Seen, describe: Any) -> str:
    """A description of each channel, once if it is the same for all."""
    texts = {name: describe(each) for name, each in seen.found.items()}
    if len(set(texts.values())) == 1:
        return str(next(iter(texts.values())))
    separator = "\n" + 12 * " "
    return separator.join(f"{name}: {text}" for name, text in texts.items())


def _clipped(found: Findings) -> str:
    clipping = found.clipping
    ends = (
        ("black", clipping.low, clipping.low_areas),
        ("white", clipping.high, clipping.high_areas),
    )
    texts = [
        f"{share:.2%} at {name} ({'in areas' if areas > share / 4 else 'scattered pixels'})"
        for name, share, areas in ends
        if share > VISIBLE
    ]
    return ", ".join(texts) or "no"


def _level(found: Findings, span: float) -> str:
    return f"{found.sigma:.3g} = {255 * found.sigma / span:.3g} of 255"


def _dependence(found: Findings) -> str:
    curve = found.curve
    if found.kind in ("clean", "compressed", "unclear", "correlated"):
        return "not measured on such noise" if found.kind == "correlated" else "-"
    if not curve.dependent:
        return "the level does not depend on it"
    (gain, gain_error), (floor, floor_error) = curve.gain, curve.floor
    text = f"variance = {gain:.3g} (± {gain_error:.2g}) x brightness + {floor:.3g} (± {floor_error:.2g})"
    if gain > 0 and floor > 3 * floor_error:
        return f"{text}: read noise {math.sqrt(floor):.3g}"
    if curve.begins_above():
        return f"{text}: as if black were {-floor / gain:.3g}"
    return text


def _stripes(found: Findings, span: float) -> str:
    from snowmelt.diagnosis import STRIPED

    ways = (("rows", found.rows), ("columns", found.columns))
    return (
        ", ".join(f"{name} {level:.3g}" for name, level in ways if level > STRIPED * span) or "no"
    )


def _impulses(found: Findings) -> str:
    ways = zip(("black", "white"), found.impulses, strict=True)
    return ", ".join(f"{share:.2%} {name}" for name, share in ways if share > 0) or "no"


def _grid(found: Findings) -> str:
    from snowmelt.diagnosis import COMPRESSED

    return "yes" if found.grid > COMPRESSED else "no"


def _kind(found: Findings) -> str:
    from snowmelt.diagnosis import KINDS

    return KINDS[found.kind]


def _advice(seen: _Seen) -> list[str]:
    """Why, which filter as a line of Python, and what to type."""
    from snowmelt.advice import ADVICE
    from snowmelt.baselines import FILTERS

    words = textwrap.wrap(ADVICE[seen.worst.kind].why, 88)
    lines = [f"{'' if index else 'advice':<11} {line}" for index, line in enumerate(words)]
    if seen.filter:
        name, parameter = seen.filter
        function, (low, _) = FILTERS[name].apply.__name__, seen.value_range
        scaled = f"(image - {low:g}) / {seen.span:g}"
        lines.append(f"{'in Python':<11} snowmelt.baselines.{function}({scaled}, {parameter:.3g})")
    return lines + [f"{'to type':<11} {command}" for command in _commands(seen)]


def _commands(seen: _Seen) -> list[str]:
    from snowmelt.advice import ADVICE, name_noise

    noise = name_noise(seen.worst, seen.span, seen.value_range[0])
    fields = {"file": shlex.quote(seen.path), "flags": seen.flags, "noise": noise}
    commands = [command.format(**fields) for command in ADVICE[seen.worst.kind].commands]
    return [*_shipped(seen), *commands]


def _shipped(seen: _Seen) -> list[str]:
    """The command for the model that ships, if there is one and it is any good against such noise."""
    from snowmelt import zoo
    from snowmelt.advice import choose_denoising

    chosen = choose_denoising(seen.worst, seen.span, seen.value_range[0])
    if chosen is None or not zoo.shipped():
        return []
    words = ["snowmelt denoise", shlex.quote(seen.path) + seen.flags]
    words += ["--repair"] if chosen.repair else []
    if chosen.strength == 0:
        return [" ".join([*words, "--strength 0  # what is lost or shifted is put right, no more"])]
    # Each channel of a colour image is measured on its own, unless all are told one thing.
    told = chosen.noise if len(seen.found) == 1 or seen.worst.kind == "correlated" else None
    words += [f"--noise {told}"] if told else []
    return [f"{' '.join(words)}  # with the model that ships; it {_asked(seen, told)}"]


def _asked(seen: _Seen, told: str | None) -> str:
    if told is None:
        return "measures the level itself"
    return "is told more than the level" if seen.worst.kind == "correlated" else "is told the noise"


def _facts(seen: _Seen) -> dict[str, Any]:
    """What is printed, for programs."""
    from snowmelt.advice import ADVICE, name_noise

    layout, worst = seen.image.layout, seen.worst
    return {
        "file": seen.path,
        "shape": list(layout.shape),
        "axes": layout.axes,
        "dtype": str(layout.dtype),
        "alpha": layout.alpha,
        "plane": seen.plane,
        "looked_at": seen.part,
        "values": list(seen.values),
        "value_range": list(seen.value_range),
        "channels": {name: _plain(each) for name, each in seen.found.items()},
        "kind": worst.kind,
        "advice": ADVICE[worst.kind].why,
        "filter": seen.filter and dict(zip(("name", "parameter"), seen.filter, strict=True)),
        "noise": name_noise(worst, seen.span, seen.value_range[0]),
        "commands": _commands(seen),
    }


def _plain(found: Findings) -> dict[str, Any]:
    curve, spectrum = found.curve, found.spectrum
    return {
        "kind": found.kind,
        "besides": found.besides,
        "sigma": found.sigma,
        "dependent": curve.dependent,
        "gain": _pair(curve.gain),
        "variance_at_0": _pair(curve.floor),
        "correlation": [spectrum.down, spectrum.across],
        "unevenness": _finite(spectrum.uneven),
        "stripes": [found.rows, found.columns],
        "impulses": list(found.impulses),
        "clipping": dataclasses.asdict(found.clipping),
        "jpeg_grid": found.grid,
    }


def _pair(pair: tuple[float, float]) -> list[float | None]:
    return [_finite(number) for number in pair]


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
