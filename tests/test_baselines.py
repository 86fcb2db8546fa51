import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from snowmelt import baselines
from snowmelt.baselines import ALWAYS_THERE, FILTERS, Tuned
from snowmelt.errors import UserError
from snowmelt.metrics import psnr
from snowmelt.scoring import METRICS
from snowmelt.shapes import make_pairs

SIGMA = 0.1
CLEAN = make_pairs(2, seed=5)[1][:, :64, :64]
NOISY = (CLEAN + np.random.default_rng(0).normal(0, SIGMA, CLEAN.shape)).astype(np.float32)
COLOUR = np.stack([CLEAN[0], 1 - CLEAN[0], CLEAN[1]], -1)
NOISY_COLOUR = np.stack([NOISY[0], 1 - NOISY[0], NOISY[1]], -1)


def decibels(clean, image):
    return psnr(clean, np.clip(image, 0, 1), data_range=1)


def tune(noisy, clean, name):
    loss, rough = METRICS["reference"].tuning([*zip(noisy, clean, strict=True)])
    return baselines.tune(loss, rough, FILTERS[name])


@pytest.mark.parametrize("name", ALWAYS_THERE)
@pytest.mark.parametrize(("clean", "noisy"), [(CLEAN[0], NOISY[0]), (COLOUR, NOISY_COLOUR)])
def test_each_filter_removes_noise_and_leaves_its_input(name, clean, noisy):
    before = noisy.copy()
    tuned = tune([noisy], [clean], name)
    denoised = tuned(noisy)
    assert decibels(clean, denoised) > decibels(clean, noisy) + 1
    assert denoised.shape == noisy.shape
    assert denoised.dtype == np.float32
    assert np.array_equal(noisy, before)


# Chambolle's algorithm stops early, here and there at other steps: its PSNR jumps by some hundredths.
@pytest.mark.parametrize(("name", "slack"), [("gaussian", 0.03), ("tv", 0.1), ("wavelet", 0.03)])
def test_tuning_finds_what_a_fine_search_finds(name, slack):
    each = FILTERS[name]
    tuned = tune(NOISY, CLEAN, name)
    unit = SIGMA if each.relative else 1
    fine = unit * np.geomspace(each.values[0], each.values[-1], 60)

    def mean(value):
        return np.mean(
            [decibels(c, each.apply(n, value)) for c, n in zip(CLEAN, NOISY, strict=True)]
        )

    assert mean(tuned.value) > max(map(mean, fine)) - slack


@pytest.mark.parametrize("name", ["nlm", "tv", "wavelet"])
def test_parameters_go_with_the_noise(name):
    tuned = tune(NOISY, CLEAN, name)
    faint = tune(NOISY / 8 + 0.4, CLEAN / 8 + 0.4, name)
    assert faint.value * 8 == pytest.approx(tuned.value, rel=baselines.RATIO**0.5 - 1)


def test_non_local_means_cut_off_where_it_is_best():
    """At 0.6 sigma, with the noise's part subtracted: half and twice of that are worse."""
    from skimage.restoration import denoise_nl_means

    def cut_off(part):
        filtered = denoise_nl_means(
            NOISY[0], patch_size=5, patch_distance=5, h=part * SIGMA, sigma=SIGMA, fast_mode=True
        )
        return decibels(CLEAN[0], filtered)

    found = decibels(CLEAN[0], baselines.non_local_means(NOISY[0], SIGMA))
    assert found == pytest.approx(cut_off(0.6), abs=0.01)
    assert found > max(cut_off(0.3), cut_off(1.2)) + 0.1


def test_wavelets_are_daubechies_second():
    from skimage.restoration import denoise_wavelet

    expected = denoise_wavelet(NOISY[0], sigma=SIGMA, wavelet="db2", rescale_sigma=True)
    np.testing.assert_allclose(baselines.wavelet(NOISY[0], SIGMA), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["gaussian", "median", "tv"])
def test_channels_are_not_mixed(name):
    tuned = Tuned(FILTERS[name], 3.0 if name == "median" else 0.2)
    separate = [tuned(np.ascontiguousarray(NOISY_COLOUR[..., i])) for i in range(3)]
    np.testing.assert_allclose(tuned(NOISY_COLOUR), np.stack(separate, -1), atol=1e-6)


@pytest.mark.parametrize("name", ALWAYS_THERE)
@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (5, 5, 3)])
def test_tiny_images_come_back(name, shape):
    each = FILTERS[name]
    image = np.random.default_rng(1).random(shape, np.float32)
    denoised = each.apply(image, each.values[2] * (SIGMA if each.relative else 1))
    assert denoised.shape == shape
    assert np.isfinite(denoised).all()


def test_labels():
    assert Tuned(FILTERS["median"], 3).label == "median (size 3)"
    assert Tuned(FILTERS["tv"], 0.123456).label == "total variation (weight 0.123)"


def test_unknown_filter():
    with pytest.raises(UserError, match="did you mean 'median'"):
        baselines.choose(["gaussian", "medain"])


def test_bm3d_is_the_users_own_affair(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="non-commercial"):
        baselines.choose(["bm3d"])
    assert "bm3d" not in ALWAYS_THERE


def test_bm3d_where_it_is_installed(monkeypatch):
    seen = []

    def half(image, sigma):
        seen.append((image.ndim, sigma))
        return image[..., None] / 2 if image.ndim == 2 else image / 2

    monkeypatch.setitem(sys.modules, "bm3d", SimpleNamespace(bm3d=half, bm3d_rgb=half))
    np.testing.assert_array_equal(baselines.bm3d(NOISY[0], 0.1), NOISY[0] / 2)
    np.testing.assert_array_equal(baselines.bm3d(NOISY_COLOUR, 0.2), NOISY_COLOUR / 2)
    assert seen == [(2, 0.1), (3, 0.2)]
