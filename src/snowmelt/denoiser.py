"""A denoiser is a function: array in, array out, same shape, same number type.

Here is what surrounds the network: scale, tiles, what is not finite, what is not its business (opacity). All
of it works on bands of rows, so that arrays in memory and files larger than memory go the same way.

The network's *change* is added to the values as they came, instead of scaling its output back: then a network
that changes nothing gives back every bit, and blending is exact at both ends.
"""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from snowmelt import engines, levels, modelfile, tiles, zoo
from snowmelt.errors import UserError, nearest
from snowmelt.images.base import Array, Image, Layout
from snowmelt.modelfile import Header, ModelFile

NOT_FINITE = ("keep", "fail")
# Smaller tiles stay in the processor's cache, larger ones lose less to their overlap: 32 times the reach
# loses 12 percent; 544 is 512 with room for a small reach. Measured in benchmarks/engine.py. A U-Net of reach
# 91 takes as long for a pixel in tiles of 1024, 2048 and 4096, so there the overlap alone counts.
SMALLEST, LARGEST, IN_REACHES = 544, 3072, 32
MEMORY = 2**30


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to denoise.

    Attributes:
        noise: For models that ask for it: what `levels.find` takes, numbers as parts of the value range.
        strength: 0 gives the input back, 1 the network's result, between them a blend.
        value_range: Values that stand for black and white; None: see ``Scale.choose``.
        nan: "keep": values that are not finite come back as they are; "fail": they are an error.
    """

    noise: levels.Noise = levels.AUTO
    strength: float = 1.0
    value_range: tuple[float, float] | None = None
    nan: str = "keep"

    def __post_init__(self) -> None:
        levels.check(self.noise)
        if not 0 <= self.strength <= 1:
            raise UserError(f"strength {self.strength}: expected 0 (the input) to 1 (denoised)")
        if self.nan not in NOT_FINITE:
            raise UserError(f"nan {self.nan!r} is unknown; {nearest(self.nan, NOT_FINITE)}")
        if self.value_range is not None:
            low, high = self.value_range
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise UserError(f"value range {low} to {high}: expected two numbers, black first")


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
        if dtype.kind not in "uif":
            raise UserError(f"an image of {dtype}: expected integers or floats")
        limits = None if dtype.kind == "f" else stored or _limits(dtype)
        chosen = value_range or stored or header.value_range
        if not (value_range or stored) and limits and dtype.itemsize <= 2:
            chosen = chosen if chosen and _counts(chosen, limits) else limits
        if chosen is None:
            raise UserError(
                f"an image of {dtype}: which values stand for black and white is said neither by the image "
                "nor by the model; say it: --range LOW HIGH, in Python value_range=(low, high)"
            )
        low, high = chosen
        return cls(dtype, float(low), float(high), limits)

    @property
    def span(self) -> float:
        """From black to white."""
        return self.high - self.low

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
        """Values of the image with a part of the change (in the network's units) applied."""
        result = np.multiply(change, self.span * strength, dtype=self._work)
        result += values
        if self.limits is None:
            return result
        return np.clip(np.rint(result, out=result), *self.limits, out=result)


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

    Attributes:
        model: The model file, its header in ``model.header``.
        engine: What runs it; ``engine.precision`` is "int8", "bf16" or "f32".
        tile: Largest side of a tile in pixels.
    """

    def __init__(
        self,
        model: ModelFile,
        engine: engines.Engine,
        *,
        tile: int | None = None,
        colour: Callable[[], Denoiser] | None = None,
    ) -> None:
        self._load_colour = colour
        self.model = model
        self.engine = engine
        self.tile = _largest_tile(model.header, engine) if tile is None else tile
        if self.tile < 1:
            raise UserError(f"tile {tile}: expected a number of pixels")

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
    ) -> NDArray[Any]:
        """Denoise an array.

        Args:
            array: (..., H, W); with ``channel_axis`` one more axis, that of the colours. It is left as it is.
            sigma: For models that ask for it: standard deviation of the noise in the array's units, a number
                or one for each pixel, in a shape that goes with (H, W); or "auto", to measure it; or a kind
                of noise as `snowmelt.noise` reads it, such as "poisson:30", in parts of the value range.
            strength: 0 gives the input back, 1 the network's result, between them a blend.
            value_range: Values that stand for black and white. 8 and 16-bit integers span their type
                where it is not given; other types need it, from here or from the model.
            channel_axis: Axis of the colours. A model for grey images does them one by one.
            nan: "keep": values that are not finite come back as they are, with a warning; "fail": an error.

        Returns:
            An array of the same shape and number type. Integers are rounded and clipped, floats are not.

        Raises:
            UserError: for what the model cannot do with this array.

        Example:
            >>> denoise = snowmelt.load("model.onnx")
            >>> clean = denoise(noisy, value_range=(0, 1))
        """
        given = np.asarray(array)
        image = _InMemory(given, channel_axis)
        settings = Settings(strength=strength, value_range=value_range, nan=nan)
        run = _Run(self, image, settings, sigma)
        result = np.empty(given.shape, given.dtype)
        _InMemory(result, channel_axis).write_like(Path(), run.bands())
        if run.not_finite:
            warnings.warn(f"{_count(run.not_finite)} came back as they were", stacklevel=2)
        return result

    def denoise_image(
        self,
        image: Image,
        target: Path,
        settings: Settings | None = None,
        progress: Callable[[int], object] = lambda _: None,
        say: Callable[[str], object] = lambda _: None,
    ) -> int:
        """Denoise an image file into ``target``, in bands, so that it may be larger than memory.

        ``progress`` is called with the number of pixels done since the last call, ``say`` with the noise
        level in words. Returns how many values were not finite and came back as they were.
        """
        run = _Run(self, image, settings or Settings())
        if run.level is not None:
            say(str(run.level))
        with contextlib.closing(run.bands(progress)) as bands:
            image.write_like(target, bands)
        return run.not_finite


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

    def make(path: Path, colour: Callable[[], Denoiser] | None = None) -> Denoiser:
        read = modelfile.read(path)
        engine = engines.choose(read, device=device, precision=precision, threads=threads)
        return Denoiser(read, engine, tile=tile, colour=colour)

    grey, colour = zoo.find_pair(model)
    return make(grey, None if colour is None else partial(make, colour))


def _largest_tile(header: Header, engine: engines.Engine) -> int:
    memory = min(MEMORY, engines.available_memory() // 4)
    side = math.isqrt(memory // engine.pixel_bytes)
    wanted = min(max(SMALLEST, IN_REACHES * header.reach), LARGEST, side)
    shortest = tiles.smallest_tile(header.reach, header.multiple)
    return max(wanted // tiles.STEP * tiles.STEP, shortest)


class _InMemory(Image):
    """An array as an image: the axes before Y and X are planes."""

    def __init__(self, array: NDArray[Any], channel_axis: int | None) -> None:
        _check_array(array, channel_axis)
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


def _check_array(array: NDArray[Any], channel_axis: int | None) -> None:
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
        self._groups = _groups(header, self._colours)
        noise = settings.noise if sigma is levels.AUTO else _in_range(sigma, self._scale.span)
        check_noise(header, noise)
        if isinstance(noise, str) and noise == levels.AUTO and header.told:
            noise = header.told
        # Measured before the first band is asked for, so that a file is still untouched if it fails.
        told = header.conditioned and settings.strength
        self.level = self._find_level(noise) if told else None
        reach = header.reach + (0 if self.level is None else self.level.reach)
        sides = [
            tiles.fit_tile(length, denoiser.tile, reach, header.multiple)
            for length in (layout.height, layout.width)
        ]
        self._rows, self._columns = (
            tiles.windows(length, side, reach, header.multiple)
            for length, side in zip((layout.height, layout.width), sides, strict=True)
        )
        self.not_finite = 0

    def _find_level(self, noise: levels.Noise) -> levels.Level:
        low, high = self._scale.low, self._scale.high
        level = levels.find(noise, self._image, low, high, self._groups)
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
        seen = self._finite(row, strip)
        if self._settings.strength == 0:
            return band, []
        jobs = [
            pool.submit(self._tile, seen, band, row, column, group)
            for column in self._columns
            for group in self._groups
        ]
        return band, jobs

    def _tile(
        self, strip: Array, band: Array, row: tiles.Window, column: tiles.Window, group: slice
    ) -> None:
        """Run the network on one window and put what it changes into the band."""
        seen = self._scale.to_network(tiles.cut(strip[..., group], row, column))
        inputs = [np.ascontiguousarray(np.moveaxis(seen, 2, 0))[None]]
        if self.level is not None:
            inputs.append(self.level.over(seen, group, row, column)[None, None])
        result = self._engine(inputs)[0, :, row.kept, column.kept]
        change = np.moveaxis(result, 0, 2) - seen[row.kept, column.kept]
        part = band[:, column.keep_start : column.keep_stop, group]
        part[...] = self._scale.changed(part, change, self._settings.strength)

    def _finite(self, row: tiles.Window, strip: Array) -> Array:
        """The strip without what is not finite, which is counted."""
        if strip.dtype.kind != "f":
            return strip
        good = np.isfinite(strip[..., : self._colours])
        if good.all():
            return strip
        bad = int(np.count_nonzero(~good[row.kept]))
        self.not_finite += bad
        if bad and self._settings.nan == "fail":
            first = row.keep_start + int(np.argmin(good[row.kept].all(axis=(1, 2))))
            raise UserError(
                f"{_count(bad)} in row {first} and below; correct them, or keep them as they are: --nan keep"
            )
        return _filled(strip, good, (self._scale.low + self._scale.high) / 2)


def _finished(band: Array, jobs: list[Future[None]], progress: Callable[[int], object]) -> Array:
    for job in jobs:
        job.result()
    progress(band.shape[0] * band.shape[1])
    return band


def _filled(strip: NDArray[Any], good: NDArray[np.bool_], middle: float) -> Array:
    """Each row's gaps bridged by straight lines; ``middle`` where nothing of a row is good.

    A row is always whole here, so that this depends on no tile.
    """
    filled = strip.copy()
    places = np.arange(strip.shape[1])
    for row, channel in np.argwhere(~good.all(axis=1)):
        known = good[row, :, channel]
        line = filled[row, :, channel]
        line[~known] = (
            np.interp(places[~known], places[known], line[known]) if known.any() else middle
        )
    return filled


def _count(values: int) -> str:
    return f"{values:,} values that are not finite (NaN or infinite)"


def check_noise(header: Header, noise: levels.Noise) -> None:
    """Refuse a noise level for a model that does not ask for it; "auto" is ignored there."""
    if not header.conditioned and not (isinstance(noise, str) and noise == levels.AUTO):
        raise UserError(
            "this model knows one noise level only; leave --sigma and --noise (sigma=) out"
        )


def _in_range(sigma: levels.Noise, span: float) -> levels.Noise:
    """Standard deviations as parts of the range; a kind of noise is said in these already."""
    levels.check(sigma)
    return sigma if isinstance(sigma, str) else np.asarray(sigma, np.float64) / span


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
