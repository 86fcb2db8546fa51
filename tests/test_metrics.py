import math

import numpy as np
import pytest
from scipy.signal import convolve2d
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from snowmelt.metrics import Peak, autocorrelation, find_peak, paired_interval, psnr, ssim

RNG = np.random.default_rng(0)
CLEAN = RNG.random((40, 50))
NOISY = CLEAN + RNG.normal(0, 0.1, CLEAN.shape)
COLOUR = RNG.random((30, 40, 3))
NOISY_COLOUR = COLOUR + RNG.normal(0, 0.1, COLOUR.shape)
MATCHING = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def published_ssim(x, y, data_range):
    """Wang et al. (2004) from their formula."""
    axis = np.arange(-5, 6)
    window = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * 1.5**2))
    window /= window.sum()

    def mean(values):
        return convolve2d(values, window, mode="valid")

    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    quality = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return quality.mean()


@pytest.mark.parametrize("data_range", [1.0, 255.0, 65535.0])
@pytest.mark.parametrize(("clean", "noisy"), [(CLEAN, NOISY), (COLOUR, NOISY_COLOUR)])
def test_equal_to_scikit_image(clean, noisy, data_range):
    truth, image = clean * data_range, noisy * data_range
    expected = peak_signal_noise_ratio(truth, image, data_range=data_range)
    assert psnr(truth, image, data_range=data_range) == pytest.approx(expected, abs=1e-6)
    axis = -1 if clean.ndim == 3 else None
    expected = structural_similarity(
        truth, image, data_range=data_range, channel_axis=axis, **MATCHING
    )
    found = ssim(truth, image, data_range=data_range, channel_axis=axis)
    assert found == pytest.approx(expected, abs=1e-6)


def test_ssim_is_the_papers_and_not_another():
    assert ssim(CLEAN, NOISY, data_range=1) == pytest.approx(
        published_ssim(CLEAN, NOISY, 1), abs=1e-6
    )
    default = structural_similarity(CLEAN, NOISY, data_range=1)
    assert abs(ssim(CLEAN, NOISY, data_range=1) - default) > 5e-4


def test_ssim_of_a_colour_is_the_mean_over_its_channels():
    channels = [ssim(COLOUR[..., i], NOISY_COLOUR[..., i], data_range=1) for i in range(3)]
    found = ssim(COLOUR, NOISY_COLOUR, data_range=1, channel_axis=-1)
    assert found == pytest.approx(np.mean(channels), abs=1e-12)


def test_psnr_of_integers_does_not_wrap_round():
    black, white = np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8)
    assert psnr(black, white, data_range=255) == 0
    assert psnr(black, black + 1, data_range=255) == pytest.approx(20 * math.log10(255))


def test_equal_images():
    assert psnr(CLEAN, CLEAN, data_range=1) == math.inf
    assert ssim(CLEAN, CLEAN, data_range=1) == 1


def test_what_cannot_be_compared():
    with pytest.raises(ValueError, match="differ in shape"):
        psnr(CLEAN, CLEAN[:-1], data_range=1)
    with pytest.raises(ValueError, match="sides of 11 pixels"):
        ssim(CLEAN[:10], NOISY[:10], data_range=1)


def test_interval_is_that_of_theory():
    count = 400
    theirs = RNG.normal(30, 3, count)
    ours = theirs + RNG.normal(0.5, 0.4, count)
    interval = paired_interval(ours, theirs, range(count))
    assert interval.mean == pytest.approx(np.mean(ours - theirs))
    expected = 1.96 * np.std(ours - theirs) / math.sqrt(count)
    assert interval.half == pytest.approx(expected, rel=0.05)  # 10,000 draws: about 1 percent
    assert interval.low < interval.mean < interval.high


def test_takes_of_one_scene_do_not_make_the_interval_narrower():
    differences = RNG.normal(0, 1, 20)
    once = paired_interval(differences, np.zeros(20), range(20))
    often = paired_interval(np.repeat(differences, 9), np.zeros(180), np.repeat(range(20), 9))
    assert often.half == pytest.approx(once.half)
    naive = paired_interval(np.repeat(differences, 9), np.zeros(180), range(180))
    assert naive.half < once.half / 2


def test_interval_of_one_scene_is_none():
    interval = paired_interval([3.0, 4.0], [1.0, 1.0], ["a", "a"])
    assert interval.mean == 2.5
    assert math.isnan(interval.low)
    assert math.isnan(interval.half)


def test_interval_is_the_same_for_a_seed_and_two_infinities_differ_by_nothing():
    ours, theirs = [30.0, math.inf, 28.0], [29.0, math.inf, 28.5]
    first = paired_interval(ours, theirs, "abc")
    assert first == paired_interval(ours, theirs, "abc")
    assert first.mean == pytest.approx(0.5 / 3)
    many = RNG.random(30)
    drawn = [paired_interval(many, 1 - many, range(30), seed=seed) for seed in (0, 1)]
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("sign", [1, -1])
def test_an_output_equal_to_its_reference_is_infinitely_better_without_an_interval(sign):
    ours, theirs = [math.inf, math.inf, 30.0], [29.0, 28.0, 29.0]
    found = (
        paired_interval(ours, theirs, "abc") if sign > 0 else paired_interval(theirs, ours, "abc")
    )
    assert found.mean == sign * math.inf
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_the_peak_is_the_strongest_of_either_sign_outside_the_middle():
    field = RNG.normal(0, 1, (256, 256))
    # a field less 0.4 of itself 2 to the left and 3 down: -0.4 / (1 + 0.16)
    found = find_peak(autocorrelation(field - 0.4 * np.roll(field, (3, -2), axis=(0, 1)), 8))
    assert (found.down, found.right) == (3, -2)
    assert found.value == pytest.approx(-0.4 / 1.16, abs=5 / 256)
    assert str(found) == f"{found.value:+.2f} (3, -2)"
    assert find_peak(autocorrelation(np.full((20, 30), 2.0), 3)) == Peak(0.0, 0, 0)
    assert find_peak(autocorrelation(np.ones((1, 1)), 3)) == Peak(0.0, 0, 0)


def test_white_noise_has_no_autocorrelation():
    values = autocorrelation(RNG.normal(5, 3, (200, 300)), 4)
    assert values.shape == (9, 9)
    assert values[4, 4] == pytest.approx(1)
    values[4, 4] = 0
    assert np.abs(values).max() < 5 / math.sqrt(200 * 300)


def test_autocorrelation_of_a_sum_of_neighbours_is_a_half():
    white = RNG.normal(0, 1, (200, 301))
    values = autocorrelation(white[:, 1:] + white[:, :-1], 2)
    expected = np.zeros((5, 5))
    expected[2, 1:4] = (0.5, 1, 0.5)
    np.testing.assert_allclose(values, expected, atol=6 / math.sqrt(200 * 300))
    np.testing.assert_allclose(values, values[::-1, ::-1], atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_a_constant_has_none(value):
    assert not autocorrelation(np.full((20, 30), value), 3).any()


def test_a_field_smaller_than_the_lags():
    assert autocorrelation(RNG.random((3, 40)), 8).shape == (5, 17)
