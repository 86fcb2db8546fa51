"""The second opinion on cameras' images: made noise, denoisers of one line, and PolyU's pairs."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import snowmelt
from snowmelt import denoiser, images, trials
from snowmelt.metrics import psnr

from .conftest import data_folder
from .test_levels import scene


def photo() -> np.ndarray:
    """A smooth scene in colours, (320, 320, 3), 0.1 to 0.9."""
    return np.stack([0.9 * scene(), 0.8 * scene(), scene()], axis=-1).astype(np.float32)


def coarse_noise(strength: float = 3) -> np.ndarray:
    """As cameras leave it: brightness smoothed by 0.7 pixels, colours by 2.5."""
    random = np.random.default_rng(0)

    def smoothed(by):
        noise = gaussian_filter(random.normal(0, 1, (320, 320)), by)
        return strength / 255 * noise / noise.std()

    grey, red, blue = smoothed(0.7), smoothed(2.5), smoothed(2.5)
    return np.stack([grey + red, grey - (red + blue) / 2, grey + blue], -1).astype(np.float32)


def in_8_bits(picture):
    return np.clip(np.rint(255 * picture), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def base():
    return snowmelt.load()


def test_coarse_noise_is_removed_and_a_clean_image_is_unchanged(base):
    clean, noisy = in_8_bits(photo()), in_8_bits(photo() + coarse_noise())
    assert np.array_equal(base(clean, channel_axis=-1), clean)
    gain = psnr(clean, base(noisy, channel_axis=-1), data_range=255) - psnr(
        clean, noisy, data_range=255
    )
    assert gain > 2


@pytest.mark.parametrize("sigma", [0, 1, 3])
def test_white_noise_is_not_a_cameras(sigma):
    picture = photo() + np.random.default_rng(0).normal(0, sigma / 255, (320, 320, 3))
    assert trials.camera_level(in_8_bits(picture) / np.float32(255), denoiser._trial) == 0


def test_too_small_an_image_is_not_judged():
    noisy = photo() + coarse_noise()
    assert trials.camera_level(noisy, denoiser._trial) > 0
    assert trials.camera_level(noisy[:48, :48], denoiser._trial) == 0  # nine blocks


def test_only_colours_without_much_noise_are_tried(base, monkeypatch):
    def refuse(*_):
        raise AssertionError("asked")

    monkeypatch.setattr(trials, "camera_level", refuse)
    noisy = photo() + np.random.default_rng(0).normal(0, 20 / 255, (320, 320, 3))
    base(in_8_bits(noisy), channel_axis=-1)
    base(in_8_bits(noisy)[..., 0])
    base(in_8_bits(photo())[..., 0])
    base(in_8_bits(photo() + coarse_noise()), channel_axis=-1, sigma=5)
    with pytest.raises(AssertionError, match="asked"):
        base(in_8_bits(photo()), channel_axis=-1)


def test_the_larger_level_counts(monkeypatch):
    image = denoiser._InMemory(in_8_bits(photo()), -1)
    monkeypatch.setattr(trials, "camera_level", lambda *_: 7 / 255)
    assert denoiser.automatic_level(image, 0, 255).typical == {0: 7 / 255}
    monkeypatch.setattr(trials, "camera_level", lambda *_: 0.0)
    assert denoiser.automatic_level(image, 0, 255).typical == {0: 0.0}


def taking(taken, more):
    """A denoiser with this residual, and ``more`` times that at twice the level."""

    def denoise(picture, level):
        return picture - taken * (1 if level == trials.TRIAL else more)

    return denoise


def score(picture, taken):
    traces = trials.measure(picture, taking(taken, 1.05))
    assert traces is not None
    return traces.score


def test_noise_has_a_coarse_residual_that_hardly_grows_with_the_level():
    flat = photo()
    random = np.random.default_rng(0)
    coarse, white = coarse_noise(), random.normal(0, 3 / 255, flat.shape).astype(np.float32)
    noisy = flat + coarse
    assert trials.camera_level(noisy, taking(coarse, 1.05)) == pytest.approx(trials.STRONGEST)
    assert trials.camera_level(noisy, taking(coarse, 3)) == 0  # grows with the level
    assert trials.camera_level(flat + white, taking(white, 1.05)) == 0
    rough = flat + 30 * white  # much more is left than removed
    assert score(rough, coarse) < score(noisy, coarse) - 3
    assert trials.camera_level(flat + 300 * white, taking(coarse, 1.05)) == 0
    striped = np.broadcast_to(coarse[:, :1], coarse.shape)  # far along rows, as texture goes
    assert score(noisy, striped) < score(noisy, coarse) - 3
    assert trials.measure(noisy, taking(coarse / 20, 1.05)) is None  # too faint to be seen
    assert trials.measure(0 * noisy, taking(coarse, 1.05)) is None  # black
    assert trials.level_of(0) == 0
    assert trials.WEAKEST < trials.level_of(0.5) < trials.STRONGEST


def test_polyus_pictures_get_better_and_their_means_stay(base):
    gains, changes = [], []
    for path in sorted((data_folder() / "polyu").glob("*_real.JPG"))[::6]:
        noisy, clean = images.read(path), images.read(str(path).replace("_real", "_mean"))
        gains.append(
            psnr(clean, base(noisy, channel_axis=-1), data_range=255)
            - psnr(clean, noisy, data_range=255)
        )
        changes.append(psnr(clean, base(clean, channel_axis=-1), data_range=255))
    assert np.mean(gains) > 1.7
    assert min(gains) > -0.1
    assert np.mean(np.array(changes) > 45) >= 0.8
