"""Simulated acquisition: what cameras, microscopes and other ways of making an image do to a clean scene.

The automatic noise level and the bundled networks are trained on these. Every function takes a clean scene
and a generator and returns a `Sample`: the image as it would be stored, and the *reference*, which is what
the same device would store without noise. So optics, demosaicking, in-camera smoothing and resampling are in
both, and only noise (and the compression of noise) is to be removed.

Sources: Poisson-Gaussian noise in linear light and unprocessing (Brooks et al., CVPR 2019), chains of
degradations in random order (SCUNet, Zhang et al., 2023), demosaicking by gradient-corrected linear filters
(Malvar, He and Cutler, ICASSP 2004) and along edges (Hamilton and Adams, 1997), EMCCD gain as a gamma
distribution (Basden et al., 2003).

Shapes: scenes are (H, W, C) float32 in [0, 1], C 1 or 3, in display values (not linear light).
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Scene: TypeAlias = NDArray[np.float32]
Generator: TypeAlias = np.random.Generator

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# Read noise of cameras by their shot noise, log c = 2.18 log s + 1.20 (Brooks et al., 2019, figure 4).
READ_SLOPE, READ_OFFSET, READ_SPREAD = 2.18, 1.20, 0.26
# Malvar, He and Cutler's filters, in eighths: green at red or blue; red at green in its row, in its column;
# red at blue.
GREEN = (
    np.array(
        [[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]],
        np.float32,
    )
    / 8
)
ROW = (
    np.array(
        [
            [0, 0, 0.5, 0, 0],
            [0, -1, 0, -1, 0],
            [-1, 4, 5, 4, -1],
            [0, -1, 0, -1, 0],
            [0, 0, 0.5, 0, 0],
        ],
        np.float32,
    )
    / 8
)
DIAGONAL = (
    np.array(
        [
            [0, 0, -1.5, 0, 0],
            [0, 2, 0, 2, 0],
            [-1.5, 0, 6, 0, -1.5],
            [0, 2, 0, 2, 0],
            [0, 0, -1.5, 0, 0],
        ],
        np.float32,
    )
    / 8
)
CROSS = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32)


@dataclass(frozen=True)
class Sample:
    """An image as it is stored, and what would be stored without noise; both (H, W, C) float32."""

    noisy: Scene
    reference: Scene


def _log_uniform(rng: Generator, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _blurred(scene: Scene, sigma: float | tuple[float, float]) -> Scene:
    from scipy.ndimage import gaussian_filter

    down, across = (sigma, sigma) if isinstance(sigma, float | int) else sigma
    if max(down, across) < 0.2:
        return scene
    result: Scene = gaussian_filter(scene, (down, across, 0), mode="reflect", truncate=3.0)
    return result


def resized(scene: Scene, height: int, width: int, method: str = "lanczos") -> Scene:
    """A scene at another size by Pillow's "box", "bilinear", "bicubic", "lanczos" or "nearest"."""
    from PIL import Image

    way = Image.Resampling[method.upper()]
    planes = [
        np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize((width, height), way))
        for plane in np.moveaxis(scene, 2, 0)
    ]
    return np.stack(planes, 2)


def jpeg(scene: Scene, quality: int, *, subsampled: bool) -> Scene:
    """A scene stored as JPEG and read back; the blocks of 8 pixels begin at its corner."""
    from PIL import Image

    stored = np.round(scene.clip(0, 1) * 255).astype(np.uint8)
    grey = stored.shape[2] == 1
    file = io.BytesIO()
    picture = Image.fromarray(stored[..., 0] if grey else stored)
    if grey:
        picture.save(file, "JPEG", quality=quality)
    else:
        picture.save(file, "JPEG", quality=quality, subsampling=2 if subsampled else 0)
    return np.asarray(Image.open(file)).reshape(stored.shape).astype(np.float32) / np.float32(255)


def stored_in_8_bits(scene: Scene) -> Scene:
    """A scene clipped and rounded to 256 values."""
    return np.round(scene.clip(0, 1) * 255).astype(np.float32) / np.float32(255)


def bayer_masks(height: int, width: int, rng: Generator) -> NDArray[np.bool_]:
    """(H, W, 3): which colour each photosite of a Bayer mosaic of random phase sees."""
    y, x = (int(each) for each in rng.integers(2, size=2))
    masks = np.zeros((height, width, 3), bool)
    masks[y::2, x::2, 0] = True
    masks[1 - y :: 2, 1 - x :: 2, 2] = True
    masks[..., 1] = ~(masks[..., 0] | masks[..., 2])
    return masks


def _bilinear(mosaic: Scene, masks: NDArray[np.bool_]) -> Scene:
    from scipy.ndimage import convolve

    planes = []
    for colour in range(3):
        mask = masks[..., colour].astype(np.float32)
        weight = convolve(mask, CROSS, mode="mirror")
        planes.append(convolve(mosaic * mask, CROSS, mode="mirror") / weight)
    return np.stack(planes, 2)


def _gradient_corrected(mosaic: Scene, masks: NDArray[np.bool_]) -> Scene:
    """Malvar, He and Cutler's linear demosaicking."""
    from scipy.ndimage import convolve

    green, row, column, diagonal = (
        convolve(mosaic, kernel, mode="mirror") for kernel in (GREEN, ROW, ROW.T, DIAGONAL)
    )
    result = np.empty((*mosaic.shape, 3), np.float32)
    red_rows, blue_rows = (masks[..., colour].any(axis=1, keepdims=True) for colour in (0, 2))
    for colour, rows, other in ((0, red_rows, 2), (2, blue_rows, 0)):
        at_green = np.where(rows, row, column)
        result[..., colour] = np.where(
            masks[..., colour], mosaic, np.where(masks[..., other], diagonal, at_green)
        )
    result[..., 1] = np.where(masks[..., 1], mosaic, green)
    return result


def _along_edges(mosaic: Scene, masks: NDArray[np.bool_]) -> Scene:
    """Green along the weaker gradient (Hamilton and Adams), then colour differences bilinearly."""
    from scipy.ndimage import convolve

    def shifted(dy: int, dx: int) -> Scene:
        padded = np.pad(mosaic, 2, mode="reflect")
        height, width = mosaic.shape
        return padded[2 + dy : 2 + dy + height, 2 + dx : 2 + dx + width]

    left, right, up, down = shifted(0, -1), shifted(0, 1), shifted(-1, 0), shifted(1, 0)
    across = 2 * mosaic - shifted(0, -2) - shifted(0, 2)
    along = 2 * mosaic - shifted(-2, 0) - shifted(2, 0)
    steep_x = np.abs(left - right) + np.abs(across)
    steep_y = np.abs(up - down) + np.abs(along)
    green_x, green_y = (left + right) / 2 + across / 4, (up + down) / 2 + along / 4
    green = np.where(
        steep_x < steep_y, green_x, np.where(steep_y < steep_x, green_y, (green_x + green_y) / 2)
    )
    green = np.where(masks[..., 1], mosaic, green)
    planes = [green, green, green]
    for colour in (0, 2):
        mask = masks[..., colour].astype(np.float32)
        weight = convolve(mask, CROSS, mode="mirror")
        difference = convolve((mosaic - green) * mask, CROSS, mode="mirror") / weight
        planes[colour] = green + difference
    return np.stack(planes, 2).astype(np.float32)


DEMOSAICKERS: Sequence[Callable[[Scene, NDArray[np.bool_]], Scene]] = (
    _bilinear,
    _gradient_corrected,
    _along_edges,
)


def _adaptive(plane: Scene, side: int, noise: float) -> Scene:
    """A local Wiener filter: flat places are smoothed, contrasts larger than the noise stay."""
    from scipy.ndimage import uniform_filter

    mean = uniform_filter(plane, (side, side, 0), mode="reflect")
    power = uniform_filter(plane * plane, (side, side, 0), mode="reflect")
    variance = np.maximum(power - mean * mean, 1e-12)
    kept = np.maximum(variance - noise * noise, 0) / variance
    result: Scene = mean + kept * (plane - mean)
    return result


@dataclass(frozen=True)
class Development:
    """How a camera turns photosites into an image: the same for the noisy and the noiseless exposure."""

    demosaicker: int
    balance: tuple[float, float, float]
    matrix: NDArray[np.float32]
    gamma: float
    contrast: float
    luma: tuple[str, float]
    chroma: tuple[str, float]
    sharpening: tuple[float, float]  # radius in pixels, amount
    noise: float  # what the camera's own smoothing takes for the noise level

    @classmethod
    def draw(cls, rng: Generator, gain: float) -> Development:
        """A random camera; smoothing grows with the gain, as cameras do."""
        mix = rng.normal(0, 0.3, (3, 3)) * (rng.random() < 0.75)
        expected = 0.5 * math.sqrt(gain) * rng.uniform(0.3, 1.5)
        kind = rng.random()
        luma = ("none", 0.0)
        if kind < 0.45:
            luma = ("gaussian", float(_log_uniform(rng, 0.35, 2.4)))
        elif kind < 0.7:
            luma = ("adaptive", float(rng.choice([3, 5, 7])))
        kind = rng.random()
        chroma = ("none", 0.0)
        if kind < 0.65:
            chroma = ("gaussian", float(_log_uniform(rng, 0.6, 6)))
        elif kind < 0.85:
            chroma = ("adaptive", float(rng.choice([3, 5, 9])))
        sharp = rng.random() < 0.45
        return cls(
            demosaicker=int(rng.choice(3, p=[0.3, 0.4, 0.3])),
            balance=(float(rng.uniform(1.1, 2.6)), 1.0, float(rng.uniform(1.1, 2.6))),
            matrix=(np.eye(3) + mix - mix.mean(1, keepdims=True)).astype(np.float32),
            gamma=float(rng.uniform(1.8, 2.5)),
            contrast=float(rng.uniform(0, 0.6)) * (rng.random() < 0.5),
            luma=luma,
            chroma=chroma,
            sharpening=(float(rng.uniform(0.5, 1.6)), float(rng.uniform(0.2, 1.3)) * sharp),
            noise=expected,
        )

    def raw(self, scene: Scene) -> Scene:
        """Linear light before white balance, (H, W, 3)."""
        light: Scene = np.power(scene.clip(0, 1), np.float32(self.gamma))
        return np.divide(light, np.array(self.balance, np.float32))

    def __call__(self, mosaic: Scene, masks: NDArray[np.bool_]) -> Scene:
        """The image (H, W, 3) in display values of a mosaic (H, W)."""
        light = DEMOSAICKERS[self.demosaicker](mosaic, masks) * np.array(self.balance, np.float32)
        image = light.clip(1e-6, 1) ** np.float32(1 / self.gamma)
        image = image + np.float32(self.contrast) * image * (1 - image) * (2 * image - 1)
        luma = (image @ LUMA)[..., None]
        chroma = _smoothed(image - luma, self.chroma, self.noise)
        luma = _smoothed(luma, self.luma, self.noise)
        radius, amount = self.sharpening
        if amount:
            luma = luma + np.float32(amount) * (luma - _blurred(luma, radius))
        return luma + chroma


def _smoothed(planes: Scene, how: tuple[str, float], noise: float) -> Scene:
    name, size = how
    if name == "gaussian":
        return _blurred(planes, size)
    return _adaptive(planes, int(size), noise) if name == "adaptive" else planes


def camera(scene: Scene, rng: Generator) -> Sample:
    """A colour camera: Poisson-Gaussian noise behind a Bayer mosaic, developed with and without it."""
    gain = _log_uniform(rng, 1e-4, 4e-2)
    development = Development.draw(rng, gain)
    height, width, _ = scene.shape
    masks = bayer_masks(height, width, rng)
    clean = (development.raw(scene) * masks).sum(2)
    read = math.exp(READ_SLOPE * math.log(gain) + READ_OFFSET + rng.normal(0, READ_SPREAD))
    if gain > 4e-3:
        exposed = gain * rng.poisson(clean / gain).astype(np.float32)
    else:
        exposed = clean + np.sqrt(gain * clean) * rng.standard_normal(clean.shape, np.float32)
    exposed = exposed + np.float32(math.sqrt(read)) * rng.standard_normal(clean.shape, np.float32)
    if rng.random() < 0.1:
        rows = rng.standard_normal((height, 1)).astype(np.float32)
        exposed = exposed + np.float32(math.sqrt(read) * rng.uniform(0, 1)) * rows
    noisy = development(exposed.astype(np.float32), masks)
    reference = development(clean.astype(np.float32), masks)
    if rng.random() < 0.7:  # the matrix mixes the noise of the channels
        mixed = (noisy - reference) @ development.matrix.T
        noisy = reference + mixed.astype(np.float32)
    return Sample(noisy, reference)


def _grains(shape: tuple[int, int, int], rng: Generator) -> Scene:
    """Noise of standard deviation near 1, white or correlated over space and channels."""
    height, width, channels = shape
    kind = rng.random()
    if kind < 0.25:
        grains = rng.standard_normal(shape, np.float32)
    elif kind < 0.65:
        sigma = (float(rng.uniform(0.3, 2.4)),) * 2
        if rng.random() < 0.2:
            sigma = (sigma[0] * float(rng.uniform(0.2, 1)), sigma[1])
        grains = _blurred(rng.standard_normal(shape, np.float32), sigma)
    elif kind < 0.85:
        factor = rng.uniform(1.1, 3.5)
        low = rng.standard_normal(
            (math.ceil(height / factor), math.ceil(width / factor), channels), np.float32
        )
        grains = resized(low, height, width, str(rng.choice(["bilinear", "bicubic", "lanczos"])))
    else:
        coarse = _blurred(rng.standard_normal(shape, np.float32), float(rng.uniform(1.5, 6)))
        part = rng.uniform(0.2, 0.8)
        grains = (1 - part) * rng.standard_normal(shape, np.float32) + part * coarse / coarse.std()
    grains = grains / np.float32(grains.std() + 1e-9)
    if channels == 3:
        shared = grains.mean(2, keepdims=True) * np.float32(math.sqrt(3))
        alike = np.float32(rng.choice([0, 0, rng.uniform(0, 1), 1]))  # of the variance
        grains = np.sqrt(1 - alike) * grains + np.sqrt(alike) * shared
        grains = grains * np.exp(rng.normal(0, 0.25, 3)).astype(np.float32)
    return grains.astype(np.float32)


def generic(scene: Scene, rng: Generator) -> Sample:
    """White or correlated noise, partly growing with brightness, of 0.7 to 60 on a 0-255 scale."""
    level, share = _log_uniform(rng, 0.7, 60) / 255, rng.random() * (rng.random() < 0.6)
    brightness = scene.mean(2, keepdims=True)
    variance = level**2 * ((1 - share) + share * brightness / (brightness.mean() + 0.02))
    noisy = scene + np.sqrt(variance).astype(np.float32) * _grains(scene.shape, rng)
    return Sample(noisy, scene)


def white(scene: Scene, rng: Generator) -> Sample:
    """White noise of 0.7 to 75 on a 0-255 scale, for a part of the images growing with brightness."""
    level = _log_uniform(rng, 0.7, 75) / 255
    share = rng.random() * (rng.random() < 0.35)
    brightness = scene.mean(2, keepdims=True)
    variance = level**2 * ((1 - share) + share * brightness / (brightness.mean() + 0.02))
    grains = rng.standard_normal(scene.shape, np.float32)
    return Sample(scene + np.sqrt(variance).astype(np.float32) * grains, scene)


def grain(scene: Scene, rng: Generator) -> Sample:
    """Strong film grain: correlated, mostly in brightness, strongest in mid-tones, 5 to 25 of 255."""
    height, width, channels = scene.shape
    shared = _blurred(
        rng.standard_normal((height, width, 1), np.float32), float(rng.uniform(0.5, 1.5))
    )
    own = _blurred(rng.standard_normal(scene.shape, np.float32), float(rng.uniform(0.5, 1.5)))
    part = np.float32(rng.uniform(0, 0.5) * (channels == 3))
    mixed = (1 - part) * shared / shared.std() + part * own / own.std()
    level = _log_uniform(rng, 5, 25) / 255 * (0.4 + 2.4 * scene * (1 - scene))
    return Sample(scene + level.astype(np.float32) * mixed, scene)


def microscope(scene: Scene, rng: Generator) -> Sample:
    """Counted photons with read noise, EMCCD gain, averaging, rows, and the camera's interpolation."""
    scene = scene * np.float32(rng.choice([1, rng.uniform(0.1, 1)]))
    peak = _log_uniform(rng, 3, 3000)
    offset = rng.uniform(0, 0.1) * (rng.random() < 0.4)
    read = rng.choice([0, _log_uniform(rng, 0.3, 30) / 255])
    averaged = int(rng.choice([1, 1, 1, 2, 4, 8, 16]))
    light = (scene + np.float32(offset)).clip(0) * peak * averaged
    electrons = rng.poisson(light).astype(np.float32)
    if rng.random() < 0.2:  # electron multiplication spreads each count
        electrons = np.where(electrons > 0, rng.gamma(np.maximum(electrons, 1e-3)), 0).astype(
            np.float32
        )
    noisy = electrons / np.float32(peak * averaged)
    noisy = noisy + np.float32(read / math.sqrt(averaged)) * rng.standard_normal(
        scene.shape, np.float32
    )
    if rng.random() < 0.1:
        noisy = noisy + np.float32(read * rng.uniform(0, 0.7)) * rng.standard_normal(
            (scene.shape[0], 1, scene.shape[2]), np.float32
        )
    reference = scene + np.float32(offset * (rng.random() < 0.5))
    noisy = noisy - np.float32(offset) + (reference - scene)
    kind = rng.random()
    if kind < 0.35:
        sigma = float(rng.uniform(0.4, 1.6))
        noisy, reference = _blurred(noisy, sigma), _blurred(reference, sigma)
    if rng.random() < 0.3:  # contrast stretched by whoever stored it
        top = float(np.quantile(reference, 0.999)) + 1e-3
        stretch = np.float32(rng.uniform(0.7, 1.0) / top)
        noisy, reference = noisy * stretch, reference * stretch
    return Sample(noisy.astype(np.float32), reference.astype(np.float32))


def specimen(side: int, rng: Generator) -> Scene:
    """Something like fluorescence, (side, side, 1): filaments, spots and cells on a dark ground."""

    def field(scale: float) -> Scene:
        raw = _blurred(rng.standard_normal((side, side, 1), np.float32), scale)
        return raw / np.float32(raw.std() + 1e-9)

    image: Scene = np.zeros((side, side, 1), np.float32)
    for _ in range(int(rng.integers(1, 4))):
        kind = rng.random()
        if kind < 0.4:
            width = np.float32(rng.uniform(0.04, 0.25))
            part = np.exp(-((field(_log_uniform(rng, 4, 20)) / width) ** 2))
        elif kind < 0.7:
            spots = (rng.random((side, side, 1)) < _log_uniform(rng, 3e-4, 2e-2)).astype(np.float32)
            part = _blurred(
                spots * rng.exponential(1, spots.shape).astype(np.float32),
                _log_uniform(rng, 0.8, 5),
            )
            part = part / np.float32(part.max() + 1e-6)
        else:
            part = (field(_log_uniform(rng, 5, 25)) - np.float32(rng.uniform(0, 1.2))).clip(
                0, 2
            ) / 2
            part = part * (1 + np.float32(0.4) * field(_log_uniform(rng, 0.7, 3)))
        part = part * (0.4 + 0.6 * np.abs(field(_log_uniform(rng, 20, 60))).clip(0, 1))
        image = image + np.float32(rng.uniform(0.3, 1)) * part.clip(0, None)
    image = _blurred(image, float(rng.uniform(0.5, 2.0)))
    ground = np.float32(rng.choice([0, rng.uniform(0, 0.15)]))
    return (ground + (1 - ground) * image / np.float32(image.max() + 1e-6)).clip(0, 1)


def recoloured(scene: Scene, rng: Generator) -> Scene:
    """Other saturation, hue, gamma and brightness, so that one film's colours are not the world's."""
    if scene.shape[2] == 3:
        grey: Scene = (scene @ LUMA)[..., None]
        if rng.random() < 0.5:
            scene = grey + np.float32(rng.choice([rng.uniform(0, 1), rng.uniform(1, 2.6)])) * (
                scene - grey
            )
        if rng.random() < 0.35:
            angle = rng.uniform(0, 2 * math.pi)
            scene = (grey + (scene - grey) @ _hue_turn(angle).T).astype(np.float32)
        if rng.random() < 0.3:
            scene = scene[..., rng.permutation(3)]
    scene = scene.clip(0, 1)
    if rng.random() < 0.4:
        scene = scene ** np.float32(_log_uniform(rng, 0.5, 2.2))
    if rng.random() < 0.3:
        low = rng.uniform(0, 0.3) * (rng.random() < 0.4)
        scene = low + scene * np.float32((1 - low) * rng.uniform(0.08, 1))
    return scene.astype(np.float32)


def _hue_turn(angle: float) -> NDArray[np.float32]:
    """Rotation about the grey axis."""
    c, s = math.cos(angle), math.sin(angle)
    third, root = (1 - c) / 3, s / math.sqrt(3)
    return np.array(
        [
            [c + third, third - root, third + root],
            [third + root, c + third, third - root],
            [third - root, third + root, c + third],
        ],
        np.float32,
    )


def clean(scene: Scene, rng: Generator) -> Sample:
    """No noise: the image itself, compressed, enlarged, sharpened or blurred, is its own reference."""
    kind = rng.random()
    if kind < 0.2:
        factor = rng.uniform(1.2, 3)
        height, width, _ = scene.shape
        small = scene[: math.ceil(height / factor), : math.ceil(width / factor)]
        scene = resized(
            small, height, width, str(rng.choice(["nearest", "bilinear", "bicubic", "lanczos"]))
        )
    elif kind < 0.35:
        scene = scene + np.float32(rng.uniform(0.3, 1.5)) * (
            scene - _blurred(scene, float(rng.uniform(0.5, 1.5)))
        )
    elif kind < 0.5:
        scene = _blurred(scene, float(rng.uniform(0.4, 3)))
    if rng.random() < 0.6:
        scene = jpeg(scene, int(rng.integers(25, 99)), subsampled=bool(rng.random() < 0.5))
    stored = stored_in_8_bits(scene)
    return Sample(stored, stored)


Acquisition: TypeAlias = Callable[[Scene, Generator], Sample]
COLOUR: Sequence[tuple[float, Acquisition]] = (
    (0.2, clean), (0.42, camera), (0.15, generic), (0.19, white), (0.04, grain),
)  # fmt: skip
GREY: Sequence[tuple[float, Acquisition]] = (
    (0.17, clean), (0.15, camera), (0.27, microscope), (0.14, generic), (0.24, white), (0.03, grain),
)  # fmt: skip
# How often each kind is stored as JPEG.
COMPRESSED: dict[Acquisition, float] = {camera: 0.75, microscope: 0.08, white: 0.1}


def acquire(
    crop: Callable[[int, Generator], Scene], side: int, channels: int, rng: Generator
) -> Sample:
    """One random sample (side, side, channels).

    Args:
        crop: Gives a clean colour scene (n, n, 3) of the side that it is asked for.
        side: Of the sample, in pixels.
        channels: 1 or 3.
        rng: All randomness.
    """
    kinds = COLOUR if channels == 3 else GREY
    kind = rng.choice(len(kinds), p=[share for share, _ in kinds])
    make = kinds[kind][1]
    factor = 1.0
    if make is not clean and rng.random() < 0.25:  # whoever stored it resized it
        factor = _log_uniform(rng, 0.4, 1) if rng.random() < 0.65 else _log_uniform(rng, 1, 2.5)
    made = math.ceil(side / factor)
    scene = _scene(crop, made, channels, make, rng)
    sample = make(scene, rng)
    noisy, reference = sample.noisy, sample.reference
    if channels == 1 and noisy.shape[2] == 3:
        weights = LUMA if rng.random() < 0.7 else np.eye(3, dtype=np.float32)[rng.integers(3)]
        noisy, reference = (noisy @ weights)[..., None], (reference @ weights)[..., None]
    if factor != 1:
        way = str(rng.choice(["bilinear", "bicubic", "lanczos"] + ["box"] * (factor < 1)))
        noisy, reference = (resized(each, side, side, way) for each in (noisy, reference))
    if make is clean:
        return Sample(noisy, reference)
    if rng.random() < COMPRESSED.get(make, 0.45):
        noisy = jpeg(noisy, int(rng.integers(50, 100)), subsampled=bool(rng.random() < 0.4))
    elif rng.random() < 0.75:
        noisy = stored_in_8_bits(noisy)
    return Sample(noisy, reference.clip(0, 1))


def _scene(
    crop: Callable[[int, Generator], Scene],
    side: int,
    channels: int,
    make: Acquisition,
    rng: Generator,
) -> Scene:
    """A clean scene for a kind of acquisition; in colour for cameras, even of grey images."""
    if (
        channels == 1
        and make is not camera
        and rng.random() < (0.6 if make is microscope else 0.12)
    ):
        return specimen(side, rng)
    scene = crop(side, rng)
    if channels == 1 and make is not camera:
        scene = (scene @ LUMA)[..., None]
        if make is microscope and rng.random() < 0.3:
            scene = 1 - scene
    if rng.random() < (0.4 if make is white else 0.65):
        scene = recoloured(scene, rng)
    # Optics are soft; images that were reduced, as most are, are sharp.
    if make is not clean and rng.random() < (0.25 if make is white else 0.5):
        scene = _blurred(scene, float(rng.uniform(0.4, 2.2)))
    return scene
