"""The level of a camera's picture: made noise, networks of one line, and PolyU's pairs."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import snowmelt
from snowmelt import cameras, images
from snowmelt.cli import main
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


def test_coarse_noise_is_taken_away_and_what_has_none_is_left(base, tmp_path, capsys):
    clean = in_8_bits(photo())
    noisy = in_8_bits(photo() + coarse_noise())
    assert np.array_equal(base(clean, channel_axis=-1), clean)
    gain = psnr(clean, base(noisy, channel_axis=-1), data_range=255) - psnr(
        clean, noisy, data_range=255
    )
    assert gain > 2
    images.write(tmp_path / "photo.png", noisy)
    assert main(["denoise", str(tmp_path / "photo.png")]) == 0
    assert (
        "noise level 10 of 255 (estimated; it is coarse, as cameras leave it)"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("sigma", [0, 1, 3])
def test_white_noise_is_not_a_cameras(base, sigma):
    picture = photo() + np.random.default_rng(0).normal(0, sigma / 255, (320, 320, 3))
    assert base.for_channels(3).camera_level(in_8_bits(picture) / np.float32(255)) == 0


def test_what_is_not_finite_or_too_small_is_not_judged(base):
    noisy = photo() + coarse_noise()
    judge = base.for_channels(3).camera_level
    assert judge(noisy) > 0
    assert judge(noisy[:48, :48]) == 0  # nine blocks
    noisy[5, 5] = np.nan
    assert judge(noisy) == 0


def test_a_level_that_is_said_or_measured_stands(base, monkeypatch):
    def refuse(*_):
        raise AssertionError("asked")

    monkeypatch.setattr(cameras, "level", refuse)
    noisy = photo() + np.random.default_rng(0).normal(0, 20 / 255, (320, 320, 3))
    base(in_8_bits(noisy), channel_axis=-1)
    base(in_8_bits(noisy)[..., 0])
    base(in_8_bits(photo() + coarse_noise()), channel_axis=-1, sigma=5)
    with pytest.raises(AssertionError, match="asked"):
        base(in_8_bits(photo()), channel_axis=-1)


def taking(taken, more):
    """A network that takes this, and more times that when it is told twice the level."""

    def denoise(picture, level):
        return picture - taken * (1 if level == cameras.TRIAL else more)

    return denoise


def test_noise_is_what_a_network_takes_once_and_coarsely():
    flat = photo()
    random = np.random.default_rng(0)
    coarse, white = coarse_noise(), random.normal(0, 3 / 255, flat.shape).astype(np.float32)
    noisy = flat + coarse
    assert cameras.level(noisy, taking(coarse, 1.05)) == pytest.approx(cameras.STRONGEST)
    assert cameras.level(noisy, taking(coarse, 3)) == 0  # the more is told, the more it takes
    assert cameras.level(flat + white, taking(white, 1.05)) == 0
    rough = flat + 30 * white  # where much more is left than was taken
    assert cameras.level(rough, taking(coarse, 1.05)) == 0
    assert cameras.measure(noisy, taking(coarse / 20, 1.05)) is None  # too faint to be seen
    assert cameras.measure(0 * noisy, taking(coarse, 1.05)) is None  # black
    assert cameras.told(0) == 0
    assert cameras.WEAKEST < cameras.told(0.5) < cameras.STRONGEST


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
