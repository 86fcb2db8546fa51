"""The level of a camera's picture: made noise, networks of one line, and PolyU's pairs."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import snowmelt
from snowmelt import images, levels, trials
from snowmelt.cli import main
from snowmelt.metrics import psnr

from .conftest import data_folder
from .test_levels import Pixels, scene


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


def camera_level(base, picture):
    """What is told of a camera's picture (H, W, 3), if nothing was measured; 0 if nothing is."""
    nothing = levels.Line((0.0,) * 3, (0.0,) * 3)
    return base.for_channels(3).judge(nothing, slice(0, 3), lambda: picture).at(0.5)


@pytest.mark.parametrize("sigma", [0, 1, 3])
def test_white_noise_is_not_a_cameras(base, sigma):
    picture = photo() + np.random.default_rng(0).normal(0, sigma / 255, (320, 320, 3))
    assert camera_level(base, in_8_bits(picture) / np.float32(255)) == 0


def test_what_is_not_finite_or_too_small_is_not_judged(base):
    noisy = photo() + coarse_noise()
    assert camera_level(base, noisy) > 0
    assert camera_level(base, noisy[:48, :48]) == 0  # nine blocks
    noisy[5, 5] = np.nan
    assert camera_level(base, noisy) == 0


def test_a_level_that_is_said_or_measured_stands(base, monkeypatch):
    def refuse(*_):
        raise AssertionError("asked")

    monkeypatch.setattr(trials, "camera_level", refuse)
    monkeypatch.setattr(trials, "is_white", refuse)
    noisy = photo() + np.random.default_rng(0).normal(0, 20 / 255, (320, 320, 3))
    base(in_8_bits(noisy), channel_axis=-1)
    base(in_8_bits(noisy)[..., 0])
    base(in_8_bits(photo() + coarse_noise()), channel_axis=-1, sigma=5)
    with pytest.raises(AssertionError, match="asked"):
        base(in_8_bits(photo()), channel_axis=-1)


def gravel():
    """Texture all over, as fine as `levels` meets it on photographs, uneven, 0.2 to 0.8; (320, 320)."""
    random = np.random.default_rng(1)
    fine = gaussian_filter(random.normal(0, 1, (320, 320)), 0.8)
    strength = np.exp(gaussian_filter(random.normal(0, 1, (320, 320)), 12) * 12)
    return (0.5 + 0.06 * np.clip(fine / fine.std() * strength, -5, 5)).astype(np.float32)


@pytest.mark.parametrize("colours", [1, 3])
def test_noise_on_texture_all_over_is_told_from_texture(base, colours):
    texture = np.stack([gravel()] * colours, axis=-1)
    noise = np.random.default_rng(0).normal(0, 10 / 255, texture.shape)
    for picture, expected in ((texture, 0), (texture + noise, 10)):
        stored = in_8_bits(picture)
        measured = levels.estimate(Pixels(stored[None]), 0, 255)
        assert measured.is_zero(slice(None))
        assert all(255 * doubt > 2 for doubt in measured.doubt)
        network = base.for_channels(colours)
        judged = measured
        for group in (slice(0, 3),) if colours == 3 else (slice(0, 1),):
            judged = network.judge(judged, group, lambda stored=stored: stored / np.float32(255))
        assert 255 * judged.at(0.5) == pytest.approx(expected, rel=0.2)


def taking(taken, more):
    """A network that takes this, and more times that when it is told twice the level."""

    def denoise(picture, level):
        return picture - taken * (1 if level == trials.TRIAL else more)

    return denoise


def evidence(picture, taken):
    traces = trials.measure(picture, taking(taken, 1.05))
    assert traces is not None
    return traces.evidence


def test_noise_is_what_a_network_takes_once_and_coarsely():
    flat = photo()
    random = np.random.default_rng(0)
    coarse, white = coarse_noise(), random.normal(0, 3 / 255, flat.shape).astype(np.float32)
    noisy = flat + coarse
    assert trials.camera_level(noisy, taking(coarse, 1.05)) == pytest.approx(trials.STRONGEST)
    assert trials.camera_level(noisy, taking(coarse, 3)) == 0  # the more is told, the more it takes
    assert trials.camera_level(flat + white, taking(white, 1.05)) == 0
    rough = flat + 30 * white  # where much more is left than was taken
    assert evidence(rough, coarse) < evidence(noisy, coarse) - 3
    assert trials.camera_level(flat + 300 * white, taking(coarse, 1.05)) == 0
    striped = np.broadcast_to(coarse[:, :1], coarse.shape)  # far along rows, as texture goes
    assert evidence(noisy, striped) < evidence(noisy, coarse) - 3
    assert trials.measure(noisy, taking(coarse / 20, 1.05)) is None  # too faint to be seen
    assert trials.measure(0 * noisy, taking(coarse, 1.05)) is None  # black
    assert trials.told(0) == 0
    assert trials.WEAKEST < trials.told(0.5) < trials.STRONGEST


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
