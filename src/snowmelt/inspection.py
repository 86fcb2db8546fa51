"""What noise an image has, measured by `diagnosis`, and what to do about it, by `advice`; in words."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import shlex
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from snowmelt import denoiser, diagnosis, zoo
from snowmelt.advice import ADVICE, choose_denoising, choose_filter, name_noise
from snowmelt.baselines import FILTERS
from snowmelt.diagnosis import COMPRESSED, KINDS, STRIPED, Findings
from snowmelt.errors import UserError
from snowmelt.images import open_image
from snowmelt.images.base import MAX_PIXELS, Array, Image, Layout
from snowmelt.levels import Estimated

LARGEST = 1536  # pixels; of larger images the middle is measured
VISIBLE = 1e-4  # fraction of the pixels; less at a limit is not reported
COLOURS = {1: ("grey",), 3: ("R", "G", "B")}


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """An image, the part of it that was measured, and what was found; ``print`` shows it.

    Attributes:
        path: Of the file; empty for an array.
        layout: Shape, axes and number type.
        plane: Of a stack, which plane was measured.
        region: The measured part in words.
        values: Least and greatest value found.
        value_range: Values of black and white.
        pixels: The measured part (H, W, C), without opacity.
        found: What was measured on each channel, see `diagnosis.Findings`.
        automatic: The noise level that `denoise` estimates by default.
        flags: What `snowmelt denoise` needs to interpret the values in the same way.
        axes: Names of the axes, if they were given.
    """

    path: str
    layout: Layout
    plane: int
    region: str
    values: tuple[float, float]
    value_range: tuple[float, float]
    pixels: Array
    found: Mapping[str, Findings]
    automatic: Estimated
    flags: str
    axes: str | None

    @property
    def span(self) -> float:
        """From black to white."""
        return self.value_range[1] - self.value_range[0]

    @property
    def worst(self) -> Findings:
        """The channel with the most noise."""
        return self.found[self._worst]

    @property
    def kind(self) -> str:
        """Kind of noise of that channel, a key of `diagnosis.KINDS`."""
        return self.worst.kind

    @property
    def _worst(self) -> str:
        return max(
            self.found, key=lambda name: (self.found[name].kind != "clean", self.found[name].sigma)
        )

    @property
    def noise(self) -> str | None:
        """The noise as ``--noise`` and `snowmelt.noise.parse` take it; None if it is of no such kind."""
        return name_noise(self.worst, self.span, self.value_range[0])

    @functools.cached_property
    def filter(self) -> tuple[str, float] | None:
        """The advised filter, a key of `baselines.FILTERS`, and its parameter for values in [0, 1]."""
        channel = self.pixels[..., list(self.found).index(self._worst)]
        scaled = (channel.astype(np.float32) - self.value_range[0]) / self.span
        return choose_filter(scaled, self.worst, self.span)

    @property
    def commands(self) -> list[str]:
        """What to type, the best first; none for an array."""
        if not self.path:
            return []
        fields = {"file": shlex.quote(self.path), "flags": self.flags, "noise": self.noise}
        return [
            *_bundled(self),
            *(command.format(**fields) for command in ADVICE[self.kind].commands),
        ]

    @property
    def python(self) -> list[str]:
        """Lines of Python that apply the advised filter, if there is one; of an array, to ``image``."""
        if self.filter is None:
            return []
        name, parameter = self.filter
        axes = f", {self.axes!r}" if self.axes else ""
        read = [f"image = snowmelt.read({self.path!r}{axes})"] if self.path else []
        chosen = _selection(self.layout, self.plane)
        scaled = f"({chosen} - {self.value_range[0]!r}) / {self.span!r}"
        function = FILTERS[name].apply
        denoised = f"{function.__module__}.{function.__name__}({scaled}, {parameter:.3g})"
        return [f"import snowmelt, {function.__module__}", *read, f"denoised = {denoised}"]

    def text(self) -> str:
        """What was found and what to do, as lines of text."""
        advice = textwrap.wrap(ADVICE[self.kind].why, 88)
        rows = [
            *_rows(self),
            ("advice", "\n".join(advice)),
            ("in Python", "\n".join(self.python)),
            *(("to type", command) for command in self.commands),
        ]
        lines = [
            f"{'' if index else key:<11} {line}"
            for key, value in rows
            for index, line in enumerate(value.splitlines())
        ]
        return "\n".join([self.path or "array", *lines])

    def __str__(self) -> str:
        return self.text()

    def json(self) -> dict[str, Any]:
        """The same for programs, as JSON takes it."""
        levels_found = [level * self.span for level in self.automatic.typical.values()]
        return {
            "file": self.path,
            "shape": list(self.layout.shape),
            "axes": self.layout.axes,
            "dtype": str(self.layout.dtype),
            "alpha": self.layout.alpha,
            "plane": self.plane,
            "region": self.region,
            "values": list(self.values),
            "value_range": list(self.value_range),
            "channels": {name: _plain(each) for name, each in self.found.items()},
            "automatic_levels": levels_found,
            "kind": self.kind,
            "advice": ADVICE[self.kind].why,
            "filter": self.filter and dict(zip(("name", "parameter"), self.filter, strict=True)),
            "noise": self.noise,
            "commands": self.commands,
        }


def inspect(
    image: ArrayLike | str | os.PathLike[str] | Image,
    *,
    value_range: tuple[float, float] | None = None,
    channel_axis: int | None = None,
    axes: str | None = None,
    max_pixels: int | None = MAX_PIXELS,
) -> Inspection:
    """Measure the noise of an image, and advise what to do about it.

    Args:
        image: An array (..., H, W), with ``channel_axis`` of one more axis; a file's path; or an open image.
            Of a stack the plane in the middle is measured, of large images the middle.
        value_range: Values of black and white. None: 0 to 255 of 8 bits; else what the file says, or the
            least and the greatest value found.
        channel_axis: Axis of the colours, of arrays.
        axes: Names of the axes, such as "ZYX", of files that do not state them.
        max_pixels: Largest number of pixels that a file may claim.

    Raises:
        UserError: The image cannot be read, is smaller than 32 x 32, or holds nothing finite.

    Example:
        >>> found = snowmelt.inspect("scan.tif")
        >>> found.kind
        'poisson'
        >>> print(found)
    """
    path = ""
    if isinstance(image, str | os.PathLike):
        path = os.fspath(image)
        image = open_image(path, axes=axes, max_pixels=max_pixels)
    elif not isinstance(image, Image):
        image = _InMemory(np.asarray(image), channel_axis)
    if image.layout.dtype.kind not in "uif":
        raise UserError(
            f"{path or 'array'}: an image of {image.layout.dtype}: expected integers or floats"
        )
    plane, pixels, region = _middle(image)
    finite = pixels[np.isfinite(pixels)]
    if not finite.size:
        raise UserError(f"{path or 'array'}: no value is finite (NaN or infinite)")
    values = float(finite.min()), float(finite.max())
    low, high = _range(image, value_range, values)
    names = COLOURS.get(pixels.shape[-1]) or [f"channel {i}" for i in range(pixels.shape[-1])]
    return Inspection(
        path=path,
        layout=image.layout,
        plane=plane,
        region=region,
        values=values,
        value_range=(low, high),
        pixels=pixels,
        found={
            name: diagnosis.diagnose(pixels[..., index], (low, high))
            for index, name in enumerate(names)
        },
        automatic=denoiser.automatic_level(image, low, high, nodata=image.nodata),
        flags=_flags(image, axes, value_range, (low, high)),
        axes=axes,
    )


class _InMemory(Image):
    """An array as an image; the axes before Y and X are planes."""

    def __init__(self, array: NDArray[Any], channel_axis: int | None) -> None:
        if array.ndim < 2 + (channel_axis is not None):
            raise UserError(
                f"an array of shape {array.shape}: expected (..., H, W), and channel_axis for one more"
            )
        if channel_axis is not None:
            array = np.moveaxis(array, channel_axis, -1)
        axes = "Q" * (array.ndim - 2 - (channel_axis is not None)) + "YX"
        self.layout = Layout(array.shape, axes + "S" * (channel_axis is not None), array.dtype)
        self._planes = array.reshape(
            -1, self.layout.height, self.layout.width, self.layout.channels
        )

    def read_rows(self, plane: int, start: int, stop: int) -> Array:
        return self._planes[plane, start:stop]


def _flags(
    image: Image,
    axes: str | None,
    given: tuple[float, float] | None,
    value_range: tuple[float, float],
) -> str:
    said = f" --axes {axes}" if axes else ""
    if _spans_8_bits(image) and given is None:
        return said
    return f"{said} --range {value_range[0]:.6g} {value_range[1]:.6g}"


def _spans_8_bits(image: Image) -> bool:
    dtype = image.layout.dtype
    return dtype.kind == "u" and dtype.itemsize == 1


def _middle(image: Image) -> tuple[int, Array, str]:
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
    image: Image, given: tuple[float, float] | None, values: tuple[float, float]
) -> tuple[float, float]:
    """Few images of more than 8 bits use all values: what is found says more of them than their type."""
    if given is not None:
        low, high = given
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise UserError(f"value range {low:g} to {high:g}: expected two numbers, black first")
        return float(low), float(high)
    if image.value_range is not None:
        return float(image.value_range[0]), float(image.value_range[1])
    if _spans_8_bits(image):
        return 0.0, 255.0
    return values if values[0] < values[1] else (values[0], values[0] + 1)


def _selection(layout: Layout, plane: int) -> str:
    """An expression for the measured plane of ``image``, (H, W) or (H, W, C) without opacity."""
    channel = layout.channel_axis
    picture = [layout.axes.index("Y"), layout.axes.index("X")]
    parts = [":"] * len(layout.shape)
    if channel is not None:
        picture.append(channel)
        if layout.alpha:
            parts[channel] = f":{layout.channels - 1}"
    rest = [axis for axis in range(len(layout.shape)) if axis not in picture]
    indices = np.unravel_index(plane, [layout.shape[axis] for axis in rest]) if rest else ()
    for axis, index in zip(rest, indices, strict=True):
        parts[axis] = str(index)
    while parts and parts[-1] == ":":
        parts.pop()
    order = tuple(sorted(picture).index(axis) for axis in picture)
    turned = "" if order == tuple(sorted(order)) else f".transpose{order}"
    selected = f"[{', '.join(parts)}]" if parts else ""
    return f"image{selected}{turned}"


def _rows(seen: Inspection) -> list[tuple[str, str]]:
    layout, (low, high), span = seen.layout, seen.value_range, seen.span
    shape = " x ".join(map(str, layout.shape))

    def each(describe: Callable[[Findings], str]) -> str:
        """A description of each channel, once if it is the same for all."""
        texts = {name: describe(found) for name, found in seen.found.items()}
        if len(set(texts.values())) == 1:
            return next(iter(texts.values()))
        return "\n".join(f"{name}: {text}" for name, text in texts.items())

    return [
        ("image", f"{shape} ({layout.axes}), {layout.dtype}{', with opacity' * layout.alpha}"),
        ("measured", seen.region),
        (
            "values",
            f"{seen.values[0]:.6g} to {seen.values[1]:.6g}; black {low:.6g}, white {high:.6g}",
        ),
        ("clipped", each(_clipped)),
        ("noise level", each(lambda found: _level(found.sigma, span))),
        ("automatic", _automatic(seen.automatic)),
        ("brightness", each(_dependence)),
        ("neighbours", each(_correlation)),
        ("stripes", each(lambda found: _stripes(found, span))),
        ("impulses", each(_impulses)),
        ("JPEG grid", each(lambda found: "yes" if found.grid > COMPRESSED else "no")),
        ("noise", each(lambda found: KINDS[found.kind])),
    ]


def _level(sigma: float, span: float) -> str:
    return f"{sigma:.3g} ({255 * sigma / span:.3g} on a 0–255 scale)"


def _automatic(estimated: Estimated) -> str:
    if not estimated.most:
        return "no noise found: by default, `denoise` leaves the image unchanged"
    found = ", ".join(f"{255 * level:.2g}" for level in estimated.typical.values())
    return f"by default, `denoise` uses a noise level of {found} on a 0–255 scale"


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


def _dependence(found: Findings) -> str:
    curve = found.curve
    if found.kind in ("clean", "compressed", "unclear", "correlated"):
        return "not measured for such noise" if found.kind == "correlated" else "-"
    if not curve.dependent:
        return "the noise level does not depend on it"
    (gain, gain_error), (floor, floor_error) = curve.gain, curve.floor
    text = f"variance = {gain:.3g} (± {gain_error:.2g}) x brightness + {floor:.3g} (± {floor_error:.2g})"
    if gain > 0 and floor > 3 * floor_error:
        return f"{text}: read noise {math.sqrt(floor):.3g}"
    if curve.begins_above():
        return f"{text}: as if black were {-floor / gain:.3g}"
    return text


def _correlation(found: Findings) -> str:
    return f"correlation {found.spectrum.down:.2f} down, {found.spectrum.across:.2f} across"


def _stripes(found: Findings, span: float) -> str:
    ways = (("rows", found.rows), ("columns", found.columns))
    strong = [f"{name} {level:.3g}" for name, level in ways if level > STRIPED * span]
    return ", ".join(strong) or "no"


def _impulses(found: Findings) -> str:
    ways = zip(("black", "white"), found.impulses, strict=True)
    return ", ".join(f"{share:.2%} {name}" for name, share in ways if share > 0) or "no"


def _bundled(seen: Inspection) -> list[str]:
    """The command for the bundled model, if there is one and it is any good against such noise."""
    chosen = choose_denoising(seen.worst, automatic=seen.automatic.most > 0)
    if chosen is None or not zoo.shipped():
        return []
    words = ["snowmelt denoise", shlex.quote(seen.path) + seen.flags]
    words += ["--repair"] if chosen.repair else []
    if chosen.strength == 0:
        return [" ".join([*words, "--strength 0  # repairs lost pixels and shifted lines only"])]
    return [" ".join([*words, "# bundled model, noise level estimated automatically"])]


def _plain(found: Findings) -> dict[str, Any]:
    curve, spectrum = found.curve, found.spectrum
    return {
        "kind": found.kind,
        "besides": found.besides,
        "sigma": found.sigma,
        "dependent": curve.dependent,
        "gain": [*map(_finite, curve.gain)],
        "variance_at_0": [*map(_finite, curve.floor)],
        "correlation": [spectrum.down, spectrum.across],
        "unevenness": _finite(spectrum.uneven),
        "stripes": [found.rows, found.columns],
        "impulses": list(found.impulses),
        "clipping": dataclasses.asdict(found.clipping),
        "jpeg_grid": found.grid,
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
