"""Noise as it is found, simulated: kinds that no training here draws from, to measure models on.

Each simulator takes a clean image, sRGB in [0, 1], (H, W, 3) or (H, W), and gives the noisy image as it is
stored and its reference on the same scale: what the same chain makes without noise, rounding and compression.
Sources: demosaicking by Malvar, He and Cutler (ICASSP 2004) and by Hamilton and Adams (US 5,629,734);
film as a Boolean model of grains (Newson et al., 2017); EMCCD as Poisson, then gamma (Hirsch et al., 2013);
magnitudes of magnetic resonance (Gudbjartsson and Patz, 1995). Strengths are drawn per image, from a seed.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy import fft, ndimage

Picture = NDArray[np.float64]
Stored = NDArray[Any]
Pair = tuple[Stored, Stored]

# From linear camera colours to linear sRGB: the usual shape of such a matrix, rows add up to 1.
MATRIX = np.array([[1.66, -0.52, -0.14], [-0.22, 1.52, -0.30], [0.03, -0.50, 1.47]])
LUMA = np.array([0.299, 0.587, 0.114])
XTRANS = ("GBGGRG", "RGRBGB", "GBGGRG", "GRGGBG", "BGBRGR", "GRGGBG")


@dataclass(frozen=True)
class Kind:
    """A simulator and whether it wants an image in colour."""

    simulate: Callable[[Picture, Generator], Pair]
    colour: bool


def make(name: str, clean: Picture, place: int) -> Pair:
    """The noisy image and the reference of a kind, the same at every call: seeded by name and place."""
    return KINDS[name].simulate(clean, np.random.default_rng([zlib.crc32(name.encode()), place]))


def to_bytes(picture: Picture) -> NDArray[np.uint8]:
    """8 bits, rounded and clipped, of an image in [0, 1]."""
    return np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8)


def to_linear(picture: Picture) -> Picture:
    """Light of sRGB."""
    return np.where(picture <= 0.04045, picture / 12.92, ((picture + 0.055) / 1.055) ** 2.4)


def to_srgb(light: Picture) -> Picture:
    """The sRGB of light, clipped to [0, 1]."""
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def _stored(noisy: Picture, truth: Picture) -> Pair:
    return to_bytes(noisy), np.clip(truth, 0, 1) * 255


def _log_uniform(rng: Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(math.log(low), math.log(high))))


def _counted(light: Picture, photons: float, read: float, rng: Generator) -> Picture:
    """Photons of light, ``photons`` at white, and ``read`` noise in parts of white."""
    counts = rng.poisson(np.clip(light, 0, None) * photons) / photons
    return counts + rng.normal(0, read, light.shape)


# Cameras


def bayer(shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Which colour (0 red, 1 green, 2 blue) each pixel of an RGGB mosaic sees, (H, W)."""
    rows, columns = np.indices(shape[:2])
    return np.asarray((rows % 2) + (columns % 2), np.intp)


def xtrans(shape: tuple[int, ...]) -> NDArray[np.intp]:
    """The same of a mosaic of 6 x 6 pixels."""
    tile = np.array([["RGB".index(each) for each in row] for row in XTRANS])
    rows, columns = np.indices(shape[:2])
    return np.asarray(tile[rows % 6, columns % 6], np.intp)


def malvar(mosaic: Picture, sites: NDArray[np.intp]) -> Picture:
    """Demosaicking by linear filters of 5 x 5 with the gradient of the own colour; for RGGB."""
    green = np.array(
        [[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]]
    )
    along = np.array(
        [
            [0, 0, 0.5, 0, 0],
            [0, -1, 0, -1, 0],
            [-1, 4, 5, 4, -1],
            [0, -1, 0, -1, 0],
            [0, 0, 0.5, 0, 0],
        ]
    )
    across = np.array(
        [
            [0, 0, -1.5, 0, 0],
            [0, 2, 0, 2, 0],
            [-1.5, 0, 6, 0, -1.5],
            [0, 2, 0, 2, 0],
            [0, 0, -1.5, 0, 0],
        ]
    )
    at_green, in_row, in_column, at_other = (
        ndimage.convolve(mosaic, kernel / 8, mode="mirror")
        for kernel in (green, along, along.T, across)
    )
    red_row = np.indices(mosaic.shape)[0] % 2 == 0
    result = np.empty((*mosaic.shape, 3))
    result[..., 1] = np.where(sites == 1, mosaic, at_green)
    for colour, own_row in ((0, red_row), (2, ~red_row)):
        at_site = np.where(own_row, in_row, in_column)
        missing = np.where(sites == 1, at_site, at_other)
        result[..., colour] = np.where(sites == colour, mosaic, missing)
    return result


def adaptive(mosaic: Picture, sites: NDArray[np.intp]) -> Picture:
    """Demosaicking along edges: green where the gradient is smaller, then differences of colour."""
    best, smallest = np.zeros_like(mosaic), np.full(mosaic.shape, np.inf)
    for axis in (0, 1):
        far, near = ([_shifted(mosaic, step, axis) for step in (-each, each)] for each in (2, 1))
        curve = 2 * mosaic - far[0] - far[1]
        gradient = np.abs(near[0] - near[1]) + np.abs(curve)
        green = (near[0] + near[1]) / 2 + curve / 4
        same = gradient == smallest
        best = np.where(gradient < smallest, green, np.where(same, (best + green) / 2, best))
        smallest = np.minimum(smallest, gradient)
    return _by_differences(mosaic, sites, np.where(sites == 1, mosaic, best), 0.7)


def averaged(mosaic: Picture, sites: NDArray[np.intp]) -> Picture:
    """Demosaicking of any mosaic: weighted means of the known, colours as differences from green."""
    green = _filled(mosaic, sites == 1, 0.6)
    return _by_differences(mosaic, sites, np.where(sites == 1, mosaic, green), 1.0)


def _by_differences(
    mosaic: Picture, sites: NDArray[np.intp], green: Picture, width: float
) -> Picture:
    planes = [green + _filled(mosaic - green, sites == each, width) for each in (0, 2)]
    return np.stack([planes[0], green, planes[1]], axis=-1)


def _filled(values: Picture, known: NDArray[np.bool_], width: float) -> Picture:
    weights = ndimage.gaussian_filter(known.astype(float), width, mode="mirror", truncate=6)
    sums = ndimage.gaussian_filter(np.where(known, values, 0), width, mode="mirror", truncate=6)
    return sums / weights


def _shifted(picture: Picture, step: int, axis: int) -> Picture:
    ahead = [(2, 2) if each == axis else (0, 0) for each in (0, 1)]
    padded = np.pad(picture, ahead, mode="reflect")
    return np.take(padded, np.arange(picture.shape[axis]) + 2 + step, axis=axis)


def _camera(
    demosaick: Callable[[Picture, NDArray[np.intp]], Picture],
    pattern: Callable[[tuple[int, ...]], NDArray[np.intp]] = bayer,
    finish: Callable[[Picture, Generator], Picture] | None = None,
) -> Callable[[Picture, Generator], Pair]:
    def simulate(clean: Picture, rng: Generator) -> Pair:
        gains = np.array([rng.uniform(1.5, 2.3), 1.0, rng.uniform(1.3, 2.0)])
        light = np.clip(to_linear(clean) @ np.linalg.inv(MATRIX).T, 0, None) / gains
        sites = pattern(clean.shape)
        raw = np.take_along_axis(light, sites[..., None], axis=2)[..., 0]
        noisy = _counted(raw, _log_uniform(rng, 60, 3000), _log_uniform(rng, 5e-4, 8e-3), rng)
        black = _log_uniform(rng, 1e-3, 1e-2)  # most cameras keep it above what noise takes off
        state = rng.bit_generator.state

        def develop(mosaic: Picture) -> Picture:
            colours = to_srgb(np.clip(demosaick(mosaic, sites) * gains, -black, None) @ MATRIX.T)
            rng.bit_generator.state = state
            return finish(colours, rng) if finish else colours

        return _stored(develop(noisy), develop(raw))

    return simulate


def _median_of_chroma(picture: Picture, rng: Generator) -> Picture:
    luma = picture @ LUMA
    chroma = picture - luma[..., None]
    size = int(rng.integers(2, 4)) * 2 + 1
    smooth = np.stack([ndimage.median_filter(chroma[..., each], size) for each in range(3)], -1)
    part = rng.uniform(0.3, 0.8)
    luma = part * ndimage.median_filter(luma, 3) + (1 - part) * luma
    return np.clip(luma[..., None] + smooth, 0, 1)


def _bilateral(picture: Picture, rng: Generator) -> Picture:
    spread = _log_uniform(rng, 0.03, 0.12)
    padded = np.pad(picture, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    height, width = picture.shape[:2]
    sums, weights = np.zeros_like(picture), np.zeros((height, width, 1))
    for row in range(5):
        for column in range(5):
            other = padded[row : row + height, column : column + width]
            apart = ((other - picture) ** 2).mean(axis=2, keepdims=True)
            near = math.exp(-((row - 2) ** 2 + (column - 2) ** 2) / 4.5)
            weight = near * np.exp(-apart / (2 * spread**2))
            sums, weights = sums + weight * other, weights + weight
    return sums / weights


def _tone_mapped(clean: Picture, rng: Generator) -> Pair:
    light = to_linear(clean) * rng.uniform(0.15, 0.5)
    noisy = _counted(light, _log_uniform(rng, 400, 8000), 1e-3, rng)
    base = ndimage.gaussian_filter(light @ LUMA, 12)
    gain = (1 + base / 0.05) ** -0.6
    gain /= np.quantile(gain[..., None] * light, 0.99)

    def tone(given: Picture) -> Picture:
        shown = to_srgb(given * gain[..., None])
        return shown + 0.12 * np.sin(2 * np.pi * shown) * -0.5  # more contrast in the middle

    return _stored(tone(noisy), tone(light))


def _exposures(clean: Picture, rng: Generator) -> Pair:
    light, count = to_linear(clean), int(rng.integers(2, 9))
    photons = _log_uniform(rng, 30, 300)
    total, truth = np.zeros_like(clean), np.zeros_like(clean)
    for _ in range(count):
        shot = to_bytes(to_srgb(_counted(light, photons, 0.01, rng))) / 255
        shift = (*rng.uniform(-0.5, 0.5, 2), 0)  # as registration does it, by parts of a pixel
        for each, mean in ((shot, total), (clean, truth)):
            mean += ndimage.shift(each, shift, order=1, mode="nearest") / count
    return _stored(total, truth)


# Film and print


def _boolean_film(clean: Picture, rng: Generator) -> Pair:
    zoom, radius = 4, rng.uniform(0.9, 1.8)
    fine = np.repeat(np.repeat(clean, zoom, 0), zoom, 1)
    if rng.random() < 0.4:  # black and white film, scanned in colour
        fine = np.broadcast_to((fine @ LUMA)[..., None], fine.shape)
        clean = np.broadcast_to((clean @ LUMA)[..., None], clean.shape)
    reach = math.ceil(radius)
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = rows**2 + columns**2 <= radius**2
    planes, shared = [], None
    for each in range(3):
        rate = -np.log1p(-np.clip(fine[..., each], 0, 0.995)) / disk.sum()
        same = bool(np.array_equal(fine[..., each], fine[..., 0])) and each > 0
        covered = shared if same and shared is not None else None
        if covered is None:
            grains = rng.random(rate.shape) < -np.expm1(-rate)
            covered = ndimage.binary_dilation(grains, disk).astype(float)
        shared = covered
        planes.append(_reduced(ndimage.gaussian_filter(covered, zoom * 0.5), zoom))
    truth = ndimage.gaussian_filter(clean, (0.55, 0.55, 0))
    return _stored(np.stack(planes, -1), truth)


def _reduced(fine: Picture, zoom: int) -> Picture:
    height, width = fine.shape[0] // zoom, fine.shape[1] // zoom
    return fine.reshape(height, zoom, width, zoom).mean((1, 3))


def _log_normal_grain(clean: Picture, rng: Generator) -> Pair:
    field = ndimage.gaussian_filter(rng.standard_normal(clean.shape[:2]), rng.uniform(0.5, 1.1))
    field *= _log_uniform(rng, 0.05, 0.25) / field.std()
    density = 1 - clean * 0.97
    grainy = 1 - density * np.exp(field - field.var() / 2)[..., None]
    return _stored(grainy, 1 - density)


def _halftone(clean: Picture, rng: Generator) -> Pair:
    zoom, period = 3, rng.uniform(1.9, 2.6)
    fine = np.repeat(np.repeat(clean, zoom, 0), zoom, 1)
    rows, columns = np.indices(fine.shape[:2]) / zoom
    planes = []
    for each, angle in enumerate(np.deg2rad([15, 75, 0])):
        along = columns * np.cos(angle) + rows * np.sin(angle)
        across = rows * np.cos(angle) - columns * np.sin(angle)
        screen = np.cos(2 * np.pi * along / period) + np.cos(2 * np.pi * across / period)
        ranks = screen.argsort(axis=None).argsort().reshape(screen.shape) / screen.size
        printed = (fine[..., each] > ranks).astype(float)
        planes.append(_reduced(printed, zoom))
    blur = (rng.uniform(0.9, 1.2),) * 2 + (0,)
    scan = ndimage.gaussian_filter(np.stack(planes, -1), blur)
    return _stored(scan + rng.normal(0, 0.006, scan.shape), ndimage.gaussian_filter(clean, blur))


# Files


def _compressed(kind: str) -> Callable[[Picture, Generator], Pair]:
    def simulate(clean: Picture, rng: Generator) -> Pair:
        noisy = to_srgb(_counted(to_linear(clean), _log_uniform(rng, 60, 1500), 0.004, rng))
        if kind == "JPEG2000":
            chosen: dict[str, Any] = {
                "quality_mode": "rates", "quality_layers": [rng.uniform(3, 14)], "irreversible": True,
            }  # fmt: skip
        else:
            chosen = {"quality": int(rng.integers(45, 92))}
        file = io.BytesIO()
        Image.fromarray(to_bytes(noisy)).save(file, kind, **chosen)
        read = np.asarray(Image.open(file).convert("RGB"))
        return read, clean * 255

    return simulate


def _video(clean: Picture, rng: Generator) -> Pair:
    """Blocks of 8 x 8 whose small coefficients are dropped, colours at half the resolution."""
    noisy = np.clip(clean + rng.normal(0, _log_uniform(rng, 0.012, 0.08), clean.shape), 0, 1)
    step = _log_uniform(rng, 0.02, 0.12)
    luma = noisy @ LUMA
    chroma = (noisy - luma[..., None])[..., (0, 2)]
    luma = _blocks(luma, step)
    halves = [_blocks(_reduced(chroma[..., each], 2), step) for each in (0, 1)]
    red, blue = (luma + np.repeat(np.repeat(half, 2, 0), 2, 1) for half in halves)
    green = (luma - LUMA[0] * red - LUMA[2] * blue) / LUMA[1]
    return _stored(np.stack([red, green, blue], -1), clean)


def _blocks(plane: Picture, step: float) -> Picture:
    height, width = plane.shape
    tiles = plane.reshape(height // 8, 8, width // 8, 8).swapaxes(1, 2)
    parts = fft.dctn(tiles, axes=(2, 3), norm="ortho")
    coarse = np.sign(parts) * np.floor(np.abs(parts) / step + 1 / 3) * step
    coarse[:, :, 0, 0] = np.rint(parts[:, :, 0, 0] / step * 4) * step / 4
    return fft.idctn(coarse, axes=(2, 3), norm="ortho").swapaxes(1, 2).reshape(height, width)


def _resampled(method: Image.Resampling) -> Callable[[Picture, Generator], Pair]:
    def simulate(clean: Picture, rng: Generator) -> Pair:
        light = to_linear(clean)
        noisy = to_srgb(_counted(light, _log_uniform(rng, 25, 800), 0.005, rng))
        scale = _log_uniform(rng, 0.6, 1.9)
        size = round(clean.shape[1] * scale), round(clean.shape[0] * scale)

        def resize(picture: Picture) -> Picture:
            planes = [Image.fromarray(picture[..., each].astype(np.float32)) for each in range(3)]
            return np.stack([np.asarray(each.resize(size, method), float) for each in planes], -1)

        return _stored(resize(to_bytes(noisy) / 255), resize(clean))

    return simulate


def _rotated(clean: Picture, rng: Generator) -> Pair:
    angle = rng.uniform(2, 43)
    noisy = clean + rng.normal(0, _log_uniform(rng, 0.015, 0.12), clean.shape)

    def turn(picture: Picture) -> Picture:
        turned = ndimage.rotate(picture, angle, reshape=False, order=1, mode="mirror")
        return np.asarray(turned)

    return _stored(turn(to_bytes(noisy) / 255), turn(clean))


def _sharpened(clean: Picture, rng: Generator) -> Pair:
    noisy = clean + ndimage.gaussian_filter(
        rng.normal(0, _log_uniform(rng, 0.02, 0.08), clean.shape), (0.6, 0.6, 0)
    )
    amount = rng.uniform(0.4, 1.2)

    def sharpen(picture: Picture) -> Picture:
        return picture + amount * (picture - ndimage.gaussian_filter(picture, (1, 1, 0)))

    return _stored(sharpen(noisy), sharpen(clean))


# Instruments, grey


def _emccd(clean: Picture, rng: Generator) -> Pair:
    """Electrons multiplied at random, 16 bits; the reference is the mean."""
    peak, gain, bias = _log_uniform(rng, 8, 150), 300.0, 200.0
    electrons = rng.poisson(clean * peak + 0.02)
    out = np.where(electrons > 0, rng.gamma(np.maximum(electrons, 1), gain), 0.0)
    scale = 40000 / (peak * gain)
    noisy = bias + (out + rng.normal(0, 40, clean.shape)) * scale
    truth = bias + (clean * peak + 0.02) * gain * scale
    return np.clip(np.rint(noisy), 0, 65535).astype(np.uint16), truth


def _cmos(clean: Picture, rng: Generator) -> Pair:
    """Rows, columns and pixels each with an offset and a noise of their own."""
    strength = _log_uniform(rng, 0.006, 0.05)
    height, width = clean.shape
    noisy = rng.poisson(clean * 1.2 / strength**2) * strength**2 / 1.2
    noisy = noisy + rng.normal(0, strength, clean.shape) * rng.gamma(2, 0.5, clean.shape)
    noisy += rng.normal(0, 0.5 * strength, (height, 1)) + rng.normal(0, 0.35 * strength, width)
    return _stored(noisy * 0.9 + 0.05, clean * 0.9 + 0.05)


def _wide_field(clean: Picture, rng: Generator) -> Pair:
    """Few photons on a camera whose pixels were binned, interpolated back and stretched to 8 bits."""
    peak = _log_uniform(rng, 15, 200)
    small = _reduced(clean, 2)
    counts = rng.poisson(small * peak + 0.3) / peak + rng.normal(0, 0.02, small.shape)
    large, truth = (
        ndimage.zoom(each, 2, order=1, mode="mirror", grid_mode=True) for each in (counts, small)
    )
    return _stored(large * 0.8, truth * 0.8)


def _magnitude(clean: Picture, rng: Generator) -> Pair:
    """The magnitude of a complex image whose spectrum was cut and filled up with zeros."""
    part, level = rng.uniform(0.55, 0.9), _log_uniform(rng, 0.015, 0.1)
    noise = rng.normal(0, level, (2, *clean.shape))
    spectrum = np.fft.fftshift(np.fft.fft2(clean))
    added = np.fft.fftshift(np.fft.fft2(noise[0] + 1j * noise[1]))
    window = _window(clean.shape[0], part)[:, None] * _window(clean.shape[1], part)
    noisy, truth = (
        np.abs(np.fft.ifft2(np.fft.ifftshift(each * window)))
        for each in (spectrum + added, spectrum)
    )
    return _stored(noisy, truth)


def _window(length: int, part: float) -> Picture:
    place = np.abs(np.arange(length) - length // 2) / (length / 2 * part)
    return np.where(place <= 1, 0.54 + 0.46 * np.cos(np.pi * place), 0.0)


def _projected(clean: Picture, rng: Generator) -> Pair:
    """Noise of computed tomography: filtered, so that neighbours are *less* alike than by chance."""
    rows, columns = (np.fft.fftfreq(length) for length in clean.shape)
    radius = np.hypot(rows[:, None], columns)
    shape = np.sqrt(radius) * np.exp(-((radius / rng.uniform(0.25, 0.5)) ** 2))
    field = np.fft.ifft2(np.fft.fft2(rng.standard_normal(clean.shape)) * shape).real
    noisy = clean + field / field.std() * _log_uniform(rng, 0.015, 0.12)
    noisy16 = np.clip(np.rint(8000 + noisy * 48000), 0, 65535).astype(np.uint16)
    return noisy16, 8000 + clean * 48000


KINDS = {
    "camera-malvar": Kind(_camera(malvar), True),
    "camera-adaptive": Kind(_camera(adaptive), True),
    "camera-xtrans": Kind(_camera(averaged, xtrans), True),
    "camera-median": Kind(_camera(malvar, finish=_median_of_chroma), True),
    "camera-bilateral": Kind(_camera(adaptive, finish=_bilateral), True),
    "tone-mapped": Kind(_tone_mapped, True),
    "exposures": Kind(_exposures, True),
    "film-boolean": Kind(_boolean_film, True),
    "film-lognormal": Kind(_log_normal_grain, True),
    "halftone": Kind(_halftone, True),
    "webp": Kind(_compressed("WEBP"), True),
    "jpeg2000": Kind(_compressed("JPEG2000"), True),
    "avif": Kind(_compressed("AVIF"), True),
    "video": Kind(_video, True),
    "bicubic": Kind(_resampled(Image.Resampling.BICUBIC), True),
    "lanczos": Kind(_resampled(Image.Resampling.LANCZOS), True),
    "rotated": Kind(_rotated, True),
    "sharpened": Kind(_sharpened, True),
    "emccd": Kind(_emccd, False),
    "cmos-rows": Kind(_cmos, False),
    "wide-field": Kind(_wide_field, False),
    "magnitude": Kind(_magnitude, False),
    "tomography": Kind(_projected, False),
}
