"""A denoiser is a function: array in, array out, same shape, same number type.

Here is what surrounds the network: scale, tiles, values that it may not see (`outliers`), channels that are
not its business (opacity). All of it works on bands of rows, so that arrays in memory and files larger than
memory go the same way. No result is given on that holds a value that is not finite and was not there before.

The network's *change* is added to the values as they came, instead of scaling its output back: then a network
that changes nothing gives back every bit, and blending is exact at both ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import numbers
import operator
import os
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from snowmelt import engines, levels, modelfile, outliers, tiles, trials, zoo
from snowmelt.errors import UserError, nearest, printable
from snowmelt.estimator import SHORTEST
from snowmelt.images.base import Array, Image, Layout
from snowmelt.modelfile import Header, ModelFile

NOT_FINITE = ("keep", "fail")
# Smaller tiles stay in the processor's cache, larger ones lose less to their overlap: 32 times the reach
# loses 12 percent; 544 is 512 with room for a small reach. Measured in benchmarks/engine.py. A U-Net of reach
# 91 takes as long for a pixel in tiles of 1024, 2048 and 4096, so there the overlap alone counts.
SMALLEST, LARGEST, IN_REACHES = 544, 3072, 32
MEMORY = 2**30
# A noise level beyond so many ranges is a slip of the unit; its square still is a float32.
LARGEST_LEVEL = 1000.0
# The standard deviation of an image's values is at least that of its noise, and half of it where black or
# white cuts off half of the noise: a level of more than so many times it cannot be right.
CONTRAST = 2.0
DEPTHS = (8, 10, 12, 14)  # bits of cameras, scanners and detectors, stored in 16
# What float32 can scale by and back; float64 far more.
SPANS = {np.float32: (1e-30, 1e30), np.float64: (1e-290, 1e290)}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to denoise.

    Attributes:
        noise: For models that ask for it: what `levels.find` takes, numbers as parts of the value range.
        strength: 0 gives the input back, 1 the network's result, between them a blend.
        value_range: Values that stand for black and white; None: see ``Scale.choose``.
        nan: "keep": values that are not finite come back unchanged; "fail": they are an error.
        nodata: Value that stands for missing data and comes back unchanged; None: what the file says.
    """

    noise: levels.Noise = levels.AUTO
    strength: float = 1.0
    value_range: tuple[float, float] | None = None
    nan: str = "keep"
    nodata: float | None = None

    def __post_init__(self) -> None:
        check_level(self.noise)
        strength = _number(self.strength, "strength", "0 (the input) to 1 (denoised)")
        if not 0 <= strength <= 1:
            raise UserError(f"strength {strength:g}: expected 0 (the input) to 1 (denoised)")
        if self.nan not in NOT_FINITE:
            raise UserError(f"nan {self.nan!r} is unknown; {nearest(str(self.nan), NOT_FINITE)}")
        if self.value_range is not None:
            # As plain numbers: an array has no truth value.
            object.__setattr__(self, "value_range", _checked_range(self.value_range))
        if self.nodata is not None:
            _number(self.nodata, "nodata", "the value that stands for missing data")


def _number(value: Any, name: str, expected: str) -> float:
    """A single real number; truth values are none."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, numbers.Real) or value is True or value is False:
        raise UserError(f"{name} {value!r}: expected {expected}")
    return float(value)


def _checked_range(given: Any) -> tuple[float, float]:
    expected = "expected two numbers, black first"
    try:
        low, high = given
    except (TypeError, ValueError) as error:
        raise UserError(f"value range {given!r}: {expected}, such as (0, 1)") from error
    low, high = (_number(value, "value range of", "two numbers") for value in (low, high))
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"value range {low:g} to {high:g}: {expected}")
    return low, high


@dataclass(frozen=True)
class Scale:
    """Between an image's values and the network's: ``low`` stands for 0, ``high`` for 1.

    Integers are rounded and clipped to ``limits``; floats have none.
    """

    dtype: np.dtype[Any]
    low: float
    high: float
    limits: tuple[float, float] | None

    @classmethod
    def choose(
        cls,
        dtype: np.dtype[Any],
        value_range: tuple[float, float] | None,
        header: Header,
        stored: tuple[float, float] | None = None,
    ) -> Scale:
        """The given range; else what the file says; else the model's own; else, of 8 and 16 bits, all.

        Raises UserError where nobody says what is black and white.
        """
        if dtype.kind not in "uif" or dtype.itemsize > 8:
            raise UserError(f"an image of {dtype}: expected integers or floats of up to 64 bits")
        limits = None if dtype.kind == "f" else stored or _limits(dtype)
        chosen = value_range or stored or header.value_range
        if not (value_range or stored) and limits and dtype.itemsize <= 2:
            chosen = chosen if chosen and _counts(chosen, limits) else limits
        if chosen is None:
            raise UserError(
                f"an image of {dtype}: which values stand for black and white is said neither by the image "
                "nor by the model; say it: --range LOW HIGH, in Python value_range=(low, high)"
            )
        low, high = map(float, chosen)
        scale = cls(dtype, low, high, limits)
        least, most = SPANS[scale._work]
        if not least <= scale.span <= most or abs(low) > most:
            raise UserError(
                f"value range {low:g} to {high:g}: an image of {dtype} cannot be scaled by that; expected a "
                f"difference of {least:g} to {most:g}. State what is black and white in this image"
            )
        return scale

    @property
    def span(self) -> float:
        """From black to white."""
        return self.high - self.low

    def from_black(self, image: Image, nodata: float | None) -> Scale:
        """The same span from the darkest values of a sample of the image on.

        Signed integers span from -32768 where nobody says what is black, and what they hold lies in the
        middle. There a network's numbers of few bits are too coarse for a small part of the range.
        """
        pixels = np.concatenate(levels.sample(image))
        values = outliers.masked(pixels, self.low, self.high, nodata)
        values = values[np.isfinite(values)].astype(np.float64)
        low = float(np.quantile(values, 0.002)) if values.size else self.low
        return replace(self, low=low, high=low + self.span)

    @property
    def spans_8_bits(self) -> bool:
        """Whether the image's values are integers of 8 bits between black and white."""
        within = (
            self.limits is not None and self.low <= self.limits[0] and self.limits[1] <= self.high
        )
        return within and self.dtype.itemsize == 1

    @property
    def _work(self) -> type[np.floating[Any]]:
        """Type for the arithmetic: float32 holds every 16-bit integer."""
        small = np.can_cast(self.dtype, np.float32)
        return np.float32 if small else np.float64

    def to_network(self, values: Array) -> NDArray[np.float32]:
        """Values of the image in the network's units."""
        scaled = np.subtract(values, self.low, dtype=self._work)
        scaled /= self.span
        return scaled.astype(np.float32, copy=False)

    def changed(self, values: Array, change: NDArray[np.float32], strength: float) -> Array:
        """Values of the image with a part of the change (in the network's units) applied, in its type."""
        with np.errstate(over="ignore", invalid="ignore"):  # the caller looks at the result
            result = np.multiply(change, self.span * strength, dtype=self._work)
            result += values
            if self.limits is not None:
                np.clip(np.rint(result, out=result), *self.limits, out=result)
            return result.astype(self.dtype)


def _counts(value_range: tuple[float, float], limits: tuple[float, float]) -> bool:
    """Whether a model's range can be one of integers, not that of floats between 0 and 1."""
    low, high = value_range
    return limits[0] <= low and high <= limits[1] and high - low > 1


def _limits(dtype: np.dtype[Any]) -> tuple[float, float]:
    information = np.iinfo(dtype)
    low, high = float(information.min), float(information.max)
    # The largest 64-bit integers are no floats; the next float above them would overflow.
    return low, high if dtype.itemsize < 8 else float(np.nextafter(high, 0))


class Denoiser:
    """A model and what runs it, as a function of an array; see `load`.

    Of a pair of models it is the one for grey images, and `for_channels` gives the one that an image needs.
    It may be called from several threads at a time, and after a fork. One that `load` made can be pickled:
    what is stored is the model's path and SHA-256, and how it was loaded.

    Attributes:
        model: The model file, its header in ``model.header``.
        tile: Largest side of a tile in pixels.
    """

    def __init__(
        self,
        model: ModelFile,
        engine: engines.Engine,
        *,
        tile: int | None = None,
        colour: Callable[[], Denoiser] | None = None,
        origin: _Origin | None = None,
    ) -> None:
        self._load_colour = colour
        self._origin = origin
        self.model = model
        self._engine, self._process = engine, os.getpid()
        self.tile = _largest_tile(model.header, engine) if tile is None else tile
        if self.tile < 1:
            raise UserError(f"tile {tile}: expected a number of pixels")

    @property
    def engine(self) -> engines.Engine:
        """What runs the model; ``engine.precision`` is "int8", "bf16" or "f32".

        After a fork the child gets an engine of its own: other threads may have held the parent's.
        """
        if self._origin is not None and self._process != os.getpid():
            try:
                self._engine = self._origin.choose_engine(self.model)
            except RuntimeError as error:  # CUDA cannot start again in a fork
                raise UserError(
                    f"{self.model.path.name}: cannot run after a fork ({error}); start processes with "
                    "'spawn', or load the model in the child"
                ) from error
            self._process = os.getpid()
        return self._engine

    def __repr__(self) -> str:
        header = self.header
        kinds = {1: "grey", 3: "colour"}
        images = kinds.get(header.channels, f"{header.channels}-channel")
        if self._load_colour is not None:
            images = "grey and colour"
        level = "noise level automatic or given" if header.conditioned else "one noise level"
        name = self.model.path.name if self._origin is None else self._origin.model
        return (
            f"<Denoiser {printable(name)!r}: {images} images, {level}, {self._engine.precision}, "
            f"tiles of {self.tile} pixels>"
        )

    def __copy__(self) -> Denoiser:
        """Another one with the same model and engine; both may be used at a time."""
        return Denoiser(
            self.model,
            self.engine,
            tile=self.tile,
            colour=self._load_colour,
            origin=self._origin,
        )

    def __deepcopy__(self, memory: dict[int, Any]) -> Denoiser:
        """As a copy: nothing that they share ever changes."""
        del memory
        return self.__copy__()

    def __reduce__(self) -> tuple[Callable[..., Denoiser], tuple[Any, ...]]:
        """What pickle stores: how it was loaded, and the SHA-256 of the model's files."""
        if self._origin is None:
            raise TypeError("a Denoiser that was made by hand cannot be pickled; use snowmelt.load")
        return _restore, (self._origin, self.model.sha256, self._origin.hash_of_colour())

    @property
    def header(self) -> Header:
        """What the model says about itself."""
        return self.model.header

    def for_channels(self, channels: int) -> Denoiser:
        """The one of a pair that does images of so many channels; itself where it is no pair."""
        return self if channels != 3 or self._load_colour is None else self._colour

    @cached_property
    def _colour(self) -> Denoiser:
        assert self._load_colour is not None
        return self._load_colour()

    def __call__(
        self,
        array: ArrayLike,
        *,
        sigma: levels.Noise = levels.AUTO,
        strength: float = 1.0,
        value_range: tuple[float, float] | None = None,
        channel_axis: int | None = None,
        nan: str = "keep",
        nodata: float | None = None,
    ) -> NDArray[Any]:
        """Denoise an array.

        Args:
            array: (..., H, W); with ``channel_axis`` one more axis, that of the colours. It is not changed.
            sigma: For models that ask for it: standard deviation of the noise in the array's units, a number
                or one for each pixel, in a shape that goes with (H, W); or "auto", to measure it; or a kind
                of noise as `snowmelt.noise` reads it, such as "poisson:30", in parts of the value range.
            strength: 0 gives the input back, 1 the network's result, between them a blend.
            value_range: Values that stand for black and white. 8 and 16-bit integers span their type
                where it is not given; other types need it, from here or from the model.
            channel_axis: Axis of the colours. A model for grey images does them one by one.
            nan: "keep": values that are not finite come back unchanged, with a warning; "fail": an error.
            nodata: Value that stands for missing data, such as -9999; it comes back unchanged.

        Returns:
            An array of the same shape and number type. Integers are rounded and clipped, floats are not.
            Values that no network may see (not finite, without data, far outside the range, see
            `outliers`) come back unchanged; a warning counts them. So does an image under 32 x 32 pixels
            where its noise level would have to be measured.

        Raises:
            UserError: for what the model cannot do with this array, and where the result would not be
                finite.

        Example:
            >>> denoise = snowmelt.load("model.onnx")
            >>> clean = denoise(noisy, value_range=(0, 1))
        """
        settings = Settings(strength=strength, value_range=value_range, nan=nan, nodata=nodata)
        result, messages = self.run(array, settings, sigma, channel_axis=channel_axis)
        for message in messages:
            warnings.warn(message, stacklevel=2)
        return result

    def run(
        self,
        array: ArrayLike,
        settings: Settings,
        sigma: levels.Noise = levels.AUTO,
        *,
        channel_axis: int | None = None,
    ) -> tuple[NDArray[Any], list[str]]:
        """Denoise an array as a call does, and return with it what that would warn of.

        ``sigma`` is in the array's units; "auto" means what the settings say.
        """
        given = _as_array(array)
        run = _Run(self, _InMemory(given, channel_axis), settings, sigma)
        result = np.empty(given.shape, given.dtype)
        _InMemory(result, channel_axis).write_like(Path(), run.bands())
        return result, [
            words for words in (run.too_small, run.doubtful, run.describe_kept()) if words
        ]

    def denoise_image(
        self,
        image: Image,
        target: Path,
        settings: Settings | None = None,
        progress: Callable[[int], object] = lambda _: None,
        say: Callable[[str], object] = lambda _: None,
        warn: Callable[[str], object] = lambda _: None,
    ) -> outliers.Kept:
        """Denoise an image file into ``target``, in bands, so that it may be larger than memory.

        Args:
            image: What to denoise.
            target: File of the image's own kind; it appears whole or not at all.
            settings: How to denoise.
            progress: Called with the number of pixels done since the last call.
            say: Called with the noise level in words.
            warn: Called with what is probably wrong, and with what came back unchanged, in words.

        Returns:
            How many values came back unchanged since no network may see them.

        Raises:
            UserError: for what the model cannot do with this image; also where the result would not be
                finite. Nothing is written then.
        """
        run = _Run(self, image, settings or Settings())
        if words := run.describe_level():
            say(words)
        if run.doubtful:
            warn(run.doubtful)
        with contextlib.closing(run.bands(progress)) as bands:
            image.write_like(target, bands)
        if run.kept:
            warn(run.describe_kept())
        return run.kept


def load(
    model: str | os.PathLike[str] = zoo.DEFAULT,
    *,
    device: str = "auto",
    precision: str = "auto",
    tile: int | None = None,
    threads: int | None = None,
) -> Denoiser:
    """Make a denoiser of a model file, or of the name of a model that ships with Snowmelt.

    Args:
        model: Path of a file that `snowmelt train` or `snowmelt convert` wrote, or the name of a shipped
            model, see `snowmelt models`. "base" is a pair: each image is done by the one for grey or for
            colour.
        device: "auto", "cpu", "cuda" or "mps".
        precision: "bf16" is fast, "f32" the same to the last bit at every call; "auto" is bf16 where the
            hardware has it. "int8" is 1.5 to 3.5 times as fast for images of 8 bits and some hundredths of a
            decibel worse; other images, and models that are not calibrated for it, go as by "auto".
        tile: Largest side in pixels of what the network sees at once; None: from the memory there is. The
            result does not depend on it.
        threads: Of the processor; None: all.

    Raises:
        UserError: if there is no such model, or the file is no good, or the device is not there.
    """
    origin = _Origin(_model_name(model), device, precision, tile, threads)

    def make(path: Path, colour: Callable[[], Denoiser] | None = None) -> Denoiser:
        read = modelfile.read(path)
        engine = origin.choose_engine(read)
        of = origin if colour is not None or path == grey else replace(origin, model=str(path))
        return Denoiser(read, engine, tile=tile, colour=colour, origin=of)

    grey, colour = zoo.find_pair(origin.model)
    return make(grey, None if colour is None else partial(make, colour))


@dataclass(frozen=True)
class _Origin:
    """How a denoiser was loaded, so that it can be loaded again elsewhere; the arguments of `load`."""

    model: str
    device: str
    precision: str
    tile: int | None
    threads: int | None

    def __post_init__(self) -> None:
        for name in ("device", "precision"):
            if not isinstance(getattr(self, name), str):
                raise UserError(f"{name} {getattr(self, name)!r}: expected a name, such as 'auto'")
        for name in ("tile", "threads"):
            number = getattr(self, name)
            if number is not None and not _is_whole(number):
                raise UserError(f"{name} {number!r}: expected a whole number")

    def choose_engine(self, model: ModelFile) -> engines.Engine:
        """An engine for the model; in each process its own."""
        return engines.choose(
            model, device=self.device, precision=self.precision, threads=self.threads
        )

    def hash_of_colour(self) -> str | None:
        """SHA-256 of the pair's file for colour; None where there is no pair."""
        _, colour = zoo.find_pair(self.model)
        if colour is None:
            return None
        with colour.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def _restore(origin: _Origin, grey: str, colour: str | None) -> Denoiser:
    """Load what was pickled, and make sure that it is the same."""
    denoiser = load(**vars(origin))
    if (denoiser.model.sha256, origin.hash_of_colour()) != (grey, colour):
        raise UserError(
            f"{origin.model}: this is not the model that was pickled (SHA-256 {grey[:12]} ...); put that "
            "file in its place, or load and pickle the denoiser anew"
        )
    return denoiser


def _model_name(model: object) -> str:
    """The name of a bundled model, or a path that holds in other folders, too."""
    if not isinstance(model, str | os.PathLike) or not isinstance(os.fspath(model), str):
        raise UserError(f"model {model!r}: expected the name of a model or the path of a file")
    name = os.fspath(model)
    if not name or "\0" in name:
        raise UserError(f"model {name!r}: expected the name of a model or the path of a file")
    path = Path(name)
    is_bundled = name == path.name and not path.suffix and not path.is_file()
    return name if is_bundled else os.path.abspath(name)  # noqa: PTH100 (keeps links)


def _is_whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _largest_tile(header: Header, engine: engines.Engine) -> int:
    memory = min(MEMORY, engines.available_memory() // 4)
    side = math.isqrt(memory // engine.pixel_bytes)
    wanted = min(max(SMALLEST, IN_REACHES * header.reach), LARGEST, side)
    shortest = tiles.smallest_tile(header.reach, header.multiple)
    return max(wanted // tiles.STEP * tiles.STEP, shortest)


class _InMemory(Image):
    """An array as an image: the axes before Y and X are planes."""

    def __init__(self, array: NDArray[Any], channel_axis: int | None) -> None:
        channel_axis = _check_array(array, channel_axis)
        self._pixels = (
            array[..., None] if channel_axis is None else np.moveaxis(array, channel_axis, -1)
        )
        *leading, height, width, channels = self._pixels.shape
        self._leading = tuple(leading)
        shape = (math.prod(leading), height, width, channels)
        self.layout = Layout(shape, "QYXS", array.dtype)

    def _plane(self, plane: int) -> NDArray[Any]:
        return (
            self._pixels[np.unravel_index(plane, self._leading)] if self._leading else self._pixels
        )

    def read_rows(self, plane: int, start: int, stop: int) -> Array:
        return self._plane(plane)[start:stop]

    def write_like(self, target: Path, bands: Iterator[Array]) -> None:
        """Fill the array itself; there is no file."""
        del target
        plane, row = 0, 0
        for band in bands:
            self._plane(plane)[row : row + len(band)] = band
            row = (row + len(band)) % self.layout.height
            plane += row == 0


def _as_array(given: ArrayLike) -> NDArray[Any]:
    """What was given as an array, without a copy where it is one."""
    if isinstance(given, np.ma.MaskedArray) and np.ma.is_masked(given):
        raise UserError(
            "a masked array: its mask would be lost; give the values without it, masked ones as NaN "
            "(array.filled(numpy.nan)) or as a number that nodata= names"
        )
    try:
        array = np.asarray(given)
    except (TypeError, ValueError) as error:
        raise UserError(f"{type(given).__name__}: expected an array of numbers: {error}") from error
    if array.dtype.kind not in "uif":
        raise UserError(
            f"an image of {array.dtype}: expected integers or floats; in Python, array.astype(...) makes "
            "them"
        )
    return array


def _check_array(array: NDArray[Any], channel_axis: int | None) -> int | None:
    """The checked axis of the channels."""
    if channel_axis is not None:
        try:
            if isinstance(channel_axis, bool):
                raise TypeError
            channel_axis = operator.index(channel_axis)
        except TypeError as error:
            raise UserError(f"channel_axis {channel_axis!r}: expected a whole number") from error
    if array.ndim < 2 + (channel_axis is not None):
        raise UserError(
            f"an array of shape {array.shape}: expected (..., H, W), and channel_axis for one more"
        )
    if channel_axis is not None and not -array.ndim <= channel_axis < array.ndim:
        raise UserError(f"channel_axis {channel_axis}: the array has {array.ndim} axes")
    if array.size == 0:
        raise UserError(f"an array of shape {array.shape} has no pixels")
    if (
        channel_axis is None
        and array.ndim > 2
        and array.shape[-1] in (3, 4)
        and array.shape[-2] > 16
    ):
        raise UserError(
            f"an array of shape {array.shape} looks like colour; say channel_axis=-1 (images that are "
            f"{array.shape[-1]} pixels wide: give them one by one)"
        )
    return channel_axis


class _Run:
    """One image going through a denoiser, band by band."""

    def __init__(
        self,
        denoiser: Denoiser,
        image: Image,
        settings: Settings,
        sigma: levels.Noise = levels.AUTO,
    ) -> None:
        layout = image.layout
        self._colours = layout.channels - layout.alpha
        denoiser = denoiser.for_channels(self._colours)
        header = denoiser.header
        self._image, self._settings = image, settings
        stored = getattr(image, "value_range", None)
        self._scale = Scale.choose(layout.dtype, settings.value_range, header, stored)
        self._engine = denoiser.engine if self._scale.spans_8_bits else denoiser.engine.deep
        if self._colours < 1:
            raise UserError("the image holds opacity alone, and no channel to denoise")
        self._groups = _groups(header, self._colours)
        self._nodata = image.nodata if settings.nodata is None else settings.nodata
        noise = settings.noise if sigma is levels.AUTO else _in_range(sigma, self._scale.span)
        check_noise(header, noise)
        if _is_signed(self._scale) and settings.strength and not _is_of_photons(noise):
            self._scale = self._scale.from_black(self._image, self._nodata)
        self._stated_by = "" if _is_auto(noise) else "given"
        if _is_auto(noise) and header.told:
            noise, self._stated_by = header.told, "that of the model"
        self.level: levels.Level | None = None
        self.too_small = self.doubtful = ""
        # Measured before the first band is asked for, so that a file is still untouched if it fails.
        if header.conditioned and settings.strength:
            if _is_auto(noise) and min(layout.height, layout.width) < SHORTEST:
                self.too_small = _too_small(layout)
                self._groups = []
            else:
                self.level = self._find_level(noise)
                self.doubtful = self._doubt() if self._stated_by else ""
        self._bounds = self._find_bounds()
        reach = header.reach + (0 if self.level is None else self.level.reach)
        sides = [
            tiles.fit_tile(length, denoiser.tile, reach, header.multiple)
            for length in (layout.height, layout.width)
        ]
        self._rows, self._columns = (
            tiles.windows(length, side, reach, header.multiple)
            for length, side in zip((layout.height, layout.width), sides, strict=True)
        )
        self.kept = outliers.Kept()

    def describe_level(self) -> str:
        """The noise level in words; empty where the model has no use for one."""
        if self.level is None:
            return self.too_small
        if not self._stated_by:
            return str(self.level)
        unchanged = "" if self._groups else ": unchanged"
        return f"{self.level} ({self._stated_by}){unchanged}"

    def describe_kept(self) -> str:
        """Which values came back unchanged, in words; empty for none."""
        return self._bounds.describe(self.kept)

    def _find_bounds(self) -> outliers.Bounds:
        noise = [0.0, 0.0]
        if isinstance(self.level, levels.Map | levels.Estimated):
            noise = [self.level.most] * 2
        elif self.level is not None and self.level.gain:
            noise = [self.level.at(1), self.level.at(1 + outliers.FAR)]
        return outliers.Bounds(self._scale.low, self._scale.high, self._nodata, *noise)

    def _doubt(self) -> str:
        """What is probably wrong with the level that was given; empty where it may well be right."""
        if not isinstance(self.level, levels.Line) or not self._groups:
            return ""
        scale = self._scale
        pixels = np.concatenate(levels.sample(self._image))
        pixels = outliers.masked(pixels, scale.low, scale.high, self._nodata)
        return _doubt(pixels, self.level, scale)

    def _find_level(self, noise: levels.Noise) -> levels.Level:
        ends = self._scale.low, self._scale.high
        level: levels.Level
        if _is_auto(noise):
            level = automatic_level(self._image, *ends, self._groups, self._nodata)
        else:
            level = levels.find(noise, self._image, *ends)
        self._groups = [group for group in self._groups if not level.is_zero(group)]
        return level

    def bands(self, progress: Callable[[int], object] = lambda _: None) -> Generator[Array]:
        """The result from top to bottom, plane by plane.

        Threads work on the next band's tiles while this one's last tiles are done and while it is written.
        """
        workers = self._engine.workers
        ready: deque[tuple[Array, list[Future[None]]]] = deque()
        pool = ThreadPoolExecutor(workers)
        try:
            for row, strip in self._strips():
                ready.append(self._submit(pool, row, strip))
                while sum(len(jobs) for _, jobs in list(ready)[1:]) >= workers:
                    yield _finished(*ready.popleft(), progress)
            while ready:
                yield _finished(*ready.popleft(), progress)
        finally:
            pool.shutdown(cancel_futures=True)

    def _strips(self) -> Iterator[tuple[tiles.Window, Array]]:
        layout = self._image.layout
        for plane in range(layout.planes):

            def read(start: int, stop: int, plane: int = plane) -> Array:
                return self._image.read_rows(plane, start, stop)

            yield from tiles.strips(read, layout.height, self._rows)

    def _submit(
        self, pool: ThreadPoolExecutor, row: tiles.Window, strip: Array
    ) -> tuple[Array, list[Future[None]]]:
        band = strip[row.kept].copy()
        seen, usable = self._bridged(row, strip)
        if self._settings.strength == 0:
            return band, []
        jobs = [
            pool.submit(self._tile, seen, band, usable, row, column, group)
            for column in self._columns
            for group in self._groups
        ]
        return band, jobs

    def _tile(
        self,
        strip: Array,
        band: Array,
        usable: NDArray[np.bool_] | None,
        row: tiles.Window,
        column: tiles.Window,
        group: slice,
    ) -> None:
        """Run the network on one window and put what it changes into the band."""
        seen = self._scale.to_network(tiles.cut(strip[..., group], row, column))
        inputs = [np.ascontiguousarray(np.moveaxis(seen, 2, 0))[None]]
        if self.level is not None:
            inputs.append(self.level.over(seen, group, row, column)[None, None])
        result = self._engine(inputs)[0, :, row.kept, column.kept]
        change = np.moveaxis(result, 0, 2) - seen[row.kept, column.kept]
        if not np.isfinite(change).all():
            raise UserError(
                "the network's result is not finite; nothing is written. Its weights overflow on this image: "
                "try precision f32 (--precision f32), a noise level, or another model"
            )
        place = (slice(None), slice(column.keep_start, column.keep_stop), group)
        part = band[place]
        changed = self._scale.changed(part, change, self._settings.strength)
        good = True if usable is None else usable[place]
        if changed.dtype.kind == "f" and not np.isfinite(changed).all(where=good):
            raise UserError(
                f"the result does not fit {changed.dtype}: a value would be infinite; nothing is written. "
                "Store the image with more bits, such as float32, or with smaller values"
            )
        np.copyto(part, changed, where=good)

    def _bridged(self, row: tiles.Window, strip: Array) -> tuple[Array, NDArray[np.bool_] | None]:
        """What the network sees of a strip, and which values of its kept rows are to be changed."""
        colours = strip[..., : self._colours]
        usable = self._bounds.find(colours)
        if usable is None:
            return strip, None
        kept = self._bounds.count(colours[row.kept], usable[row.kept])
        self.kept += kept
        if kept.not_finite and self._settings.nan == "fail":
            finite = np.isfinite(colours[row.kept]).all(axis=(1, 2))
            first = row.keep_start + int(np.argmin(finite))
            raise UserError(
                f"{kept.not_finite:,} values that are not finite (NaN or infinite) in row {first} and below; "
                "correct them, or keep them unchanged: --nan keep"
            )
        filled = outliers.fill(colours, usable, self._scale.low, self._scale.high)
        return filled, usable[row.kept]


def _finished(band: Array, jobs: list[Future[None]], progress: Callable[[int], object]) -> Array:
    for job in jobs:
        job.result()
    progress(band.shape[0] * band.shape[1])
    return band


def check_level(given: levels.Noise) -> None:
    """Refuse what is no noise level, before an image is there; see `levels.find`.

    Raises UserError for anything but numbers from 0 up, "auto" and kinds of noise.
    """
    try:
        kind = np.asarray(given).dtype.kind
        if kind in "uifU":
            levels.check(given)
    except (OverflowError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"a noise level of {given!r}: not a level: {error}") from error
    if kind not in "uifU":
        raise UserError(
            f"a noise level of {given!r}: expected 0 or more, an array of such numbers, "
            f"{levels.AUTO!r}, or a kind of noise such as 'poisson:30'"
        )
    if kind != "U" and np.max(given, initial=0) > LARGEST_LEVEL:
        raise UserError(
            f"a noise level of {np.max(given):g} times the range from black to white: expected at most "
            f"{LARGEST_LEVEL:g} times; is it in other units than the image, or the range too narrow?"
        )


def automatic_level(
    image: Image,
    low: float,
    high: float,
    groups: Sequence[slice] | None = None,
    nodata: float | None = None,
) -> levels.Estimated:
    """The noise level that is used where none is given: `levels.estimate`, and for colours `trials` too.

    Takes what `levels.estimate` takes.
    """
    return levels.estimate(image, low, high, groups, nodata, _second_look)


def _second_look(pieces: trials.Picture, level: float) -> float:
    """The level of a camera's noise in pieces (N, h, w, 3), where little noise was found."""
    if level >= trials.WEAKEST:
        return 0.0
    return trials.camera_level(np.concatenate(pieces), _trial)


def _trial(picture: trials.Picture, level: float) -> trials.Picture:
    settings = Settings(value_range=(0, 1))
    return _trial_denoiser().run(picture, settings, level, channel_axis=-1)[0]


@cache
def _trial_denoiser() -> Denoiser:
    return load(trials.MODEL)


def _is_signed(scale: Scale) -> bool:
    """Whether black is the least value of signed integers, which nobody chose."""
    return scale.dtype.kind == "i" and scale.limits is not None and scale.low == scale.limits[0]


def _is_of_photons(noise: levels.Noise) -> bool:
    """Whether a level is given as a kind of noise that is counted from black."""
    return isinstance(noise, str) and not _is_auto(noise)


def _is_auto(noise: levels.Noise) -> bool:
    return isinstance(noise, str) and noise == levels.AUTO


def _too_small(layout: Layout) -> str:
    return (
        f"{layout.width} x {layout.height} pixels: noise is measured from {SHORTEST} x {SHORTEST} "
        "on; unchanged (to denoise it give the level: --sigma LEVEL, in Python sigma=)"
    )


def _doubt(pixels: Array, level: levels.Line, scale: Scale) -> str:
    """Say so where a level that was given is larger than all contrast of pixels (H, W, C), NaN among them."""
    kept = [channel[np.isfinite(channel)] for channel in np.moveaxis(pixels, -1, 0)]
    kept = [channel for channel in kept if channel.size]
    if not kept:
        return ""
    contrast = max(float(channel.std(dtype=np.float64)) for channel in kept)
    low = float(min(channel.min() for channel in kept))
    high = float(max(channel.max() for channel in kept))
    middle = float(np.mean([channel.mean(dtype=np.float64) for channel in kept]))
    sigma = level.at((middle - scale.low) / scale.span) * scale.span
    if not 0 < CONTRAST * contrast < sigma:
        return ""
    return (
        f"the given noise level, {sigma:.4g}, is larger than the image's contrast: its values, {low:.6g} to "
        f"{high:.6g}, have a standard deviation of {contrast:.4g}, noise included, and detail will be lost. "
        f"They fill {(high - low) / scale.span:.2g} of the range {scale.low:.6g} to {scale.high:.6g}; "
        f"{_remedy(high, scale)}"
    )


def _remedy(high: float, scale: Scale) -> str:
    """The range that is probably meant."""
    white = next((2**bits - 1 for bits in DEPTHS if high < 2**bits), None)
    whole = scale.limits is not None and scale.dtype.itemsize > 1
    if whole and white is not None and scale.low == 0 and scale.high > white:
        return (
            f"if its white is that of {white.bit_length()} bits, state it: --range 0 {white}, in Python "
            f"value_range=(0, {white})"
        )
    return "give a lower level, or the range that it refers to: --range LOW HIGH, in Python value_range="


def check_noise(header: Header, noise: levels.Noise) -> None:
    """Refuse a noise level for a model that does not ask for it; "auto" is ignored there."""
    if not header.conditioned and not (isinstance(noise, str) and noise == levels.AUTO):
        raise UserError(
            "this model knows one noise level only; leave --sigma and --noise (sigma=) out"
        )


def _in_range(sigma: levels.Noise, span: float) -> levels.Noise:
    """Standard deviations as parts of the range; a kind of noise is said in these already."""
    if isinstance(sigma, str):
        check_level(sigma)
        return sigma
    with contextlib.suppress(TypeError, ValueError):  # what is no number is refused as it was given
        if np.asarray(sigma).dtype.kind in "uif":
            sigma = np.asarray(sigma, np.float64) / span
    check_level(sigma)
    return sigma


def _groups(header: Header, colours: int) -> list[slice]:
    """Which channels go through the network together."""
    if header.channels == colours:
        return [slice(0, colours)]
    if header.channels == 1:
        return [slice(channel, channel + 1) for channel in range(colours)]
    found = "a grey image" if colours == 1 else f"an image of {colours} channels"
    raise UserError(
        f"this model is for {header.channels} channels, and this is {found}; use a model for grey images, "
        'such as "base", which does channels one by one, or say which axis is colour: --axes YXC, in Python '
        "channel_axis="
    )
