"""Simulated acquisition: noise is in the noisy image alone, with mean near zero, as each device makes it."""

import numpy as np
import pytest

from snowmelt import acquisition
from snowmelt.acquisition import DEMOSAICKERS, Sample, acquire, bayer_masks

KINDS = {kind.__name__: kind for _, kind in (*acquisition.COLOUR, *acquisition.GREY)}


def shades(side=96, channels=3):
    """A smooth scene with an edge, 0.2 to 0.8."""
    y, x = np.mgrid[:side, :side] / 40
    planes = [
        0.5 + 0.2 * np.sin(x + y + k) + 0.1 * np.sign(np.sin(2 * x - k)) for k in range(channels)
    ]
    return np.stack(planes, -1).astype(np.float32)


def crop(side, rng):
    del rng
    return shades(side)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_keeps_the_shape_and_is_a_function_of_the_seed(name):
    scene = shades(channels=1 if name == "microscope" else 3)
    before = scene.copy()
    one, two, other = (KINDS[name](scene, np.random.default_rng(seed)) for seed in (1, 1, 2))
    for image in (one.noisy, one.reference):
        assert image.shape == scene.shape
        assert image.dtype == np.float32
        assert np.isfinite(image).all()
    np.testing.assert_array_equal(one.noisy, two.noisy)
    assert (one.noisy != other.noisy).any()
    np.testing.assert_array_equal(scene, before)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "clean"])
def test_noise_has_a_mean_near_zero(name):
    scene = shades(channels=1 if name == "microscope" else 3)
    for seed in range(6):
        sample = KINDS[name](scene, np.random.default_rng(seed))
        noise = sample.noisy - sample.reference
        assert noise.std() > 0.3 / 255
        # Clipping and curves shift it by a part of its strength; the noise of a frame averages out.
        assert abs(noise.mean()) < 0.35 * noise.std()


def test_a_clean_image_is_its_own_reference():
    sample = acquisition.clean(shades(), np.random.default_rng(0))
    assert isinstance(sample, Sample)
    assert sample.noisy is sample.reference
    np.testing.assert_array_equal(np.round(sample.noisy * 255), (sample.noisy * 255).round(3))


@pytest.mark.parametrize("demosaic", DEMOSAICKERS)
@pytest.mark.parametrize("seed", range(4))
def test_demosaicking_gives_back_a_plain_colour(demosaic, seed):
    masks = bayer_masks(20, 22, np.random.default_rng(seed))
    assert (masks.sum(2) == 1).all()
    assert masks[..., 1].mean() == pytest.approx(0.5)
    colour = np.array([0.2, 0.5, 0.7], np.float32)
    mosaic = (masks * colour).sum(2).astype(np.float32)
    np.testing.assert_allclose(
        demosaic(mosaic, masks), np.broadcast_to(colour, (20, 22, 3)), atol=1e-6
    )


def test_demosaicked_noise_is_correlated():
    masks = bayer_masks(200, 200, np.random.default_rng(0))
    noise = np.random.default_rng(1).standard_normal((200, 200)).astype(np.float32)
    for demosaic in DEMOSAICKERS:
        red = demosaic(noise, masks)[..., 0]
        assert np.corrcoef(red[:, 1:].ravel(), red[:, :-1].ravel())[0, 1] > 0.15


def test_photons_spread_more_where_it_is_bright():
    scene = np.zeros((128, 128, 1), np.float32)
    scene[:, 64:] = 0.8
    spreads = []
    for seed in range(12):
        sample = acquisition.microscope(scene, np.random.default_rng(seed))
        noise = sample.noisy - sample.reference
        spreads.append((noise[:, 74:].std(), noise[:, :54].std()))
    assert sum(bright > dark for bright, dark in spreads) >= 10


def test_specimens_are_mostly_dark_and_within_the_range():
    found = [acquisition.specimen(96, np.random.default_rng(seed)) for seed in range(8)]
    assert all(image.min() >= 0 and image.max() <= 1 for image in found)
    assert np.median([image.mean() for image in found]) < 0.4


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_of_any_kind(channels):
    for seed in range(25):
        sample = acquire(crop, 64, channels, np.random.default_rng(seed))
        assert sample.noisy.shape == sample.reference.shape == (64, 64, channels)
        assert sample.noisy.dtype == sample.reference.dtype == np.float32
        assert np.isfinite(sample.noisy).all()
        assert 0 <= sample.reference.min() <= sample.reference.max() <= 1


def test_jpeg_changes_little_at_high_quality_and_more_at_low():
    scene = shades()
    fine, coarse = (
        np.abs(acquisition.jpeg(scene, quality, subsampled=False) - scene).mean()
        for quality in (98, 20)
    )
    assert 0 < fine < 2 / 255 < 2 * coarse
    grey = acquisition.jpeg(shades(channels=1), 90, subsampled=True)
    assert grey.shape == (96, 96, 1)
