import math

import numpy as np
import pytest

from snowmelt import noise
from snowmelt.errors import UserError

CLEAN = np.full((300, 400), 0.25, np.float32)
COUNT = CLEAN.size
TEXTS = (
    "gaussian:25",
    "poisson:30",
    "poisson-gaussian:30:5",
    "speckle:0.2",
    "salt-and-pepper:0.05",
)


def put(text, clean=CLEAN, seed=0):
    return noise.parse(text)(clean, np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("text", "sigma"),
    [
        ("gaussian:25", 25 / 255),
        ("poisson:30", math.sqrt(0.25 / 30)),
        ("poisson-gaussian:30:5", math.hypot(math.sqrt(0.25 / 30), 5 / 255)),
        ("speckle:0.2", 0.25 * 0.2),
    ],
)
def test_mean_is_kept_and_the_standard_deviation_is_the_promised_one(text, sigma):
    change = put(text).astype(float) - CLEAN
    # five standard errors of a mean, and of a standard deviation (a little more for the skew of photons)
    assert abs(change.mean()) < 5 * sigma / math.sqrt(COUNT)
    assert abs(change.std() / sigma - 1) < 6 / math.sqrt(2 * COUNT)


def test_gaussian_noise_is_not_clipped_and_is_numpys_own():
    black = np.zeros((50, 50), np.float32)
    noisy = put("gaussian:25", black)
    assert noisy.min() < -0.2
    expected = np.random.default_rng(0).normal(0, 25 / 255, black.shape)
    np.testing.assert_allclose(noisy, expected, atol=1e-7)


def test_salt_and_pepper_loses_the_promised_part_and_leaves_the_rest():
    noisy = put("salt-and-pepper:0.1")
    for lost in (0, 1):
        assert abs(np.mean(noisy == lost) - 0.05) < 5 * math.sqrt(0.05 / COUNT)
    kept = (noisy != 0) & (noisy != 1)
    assert np.array_equal(noisy[kept], CLEAN[kept])


def test_black_has_no_photon_noise_and_values_below_it_count_as_black():
    dark = np.array([[0.0, -0.3]], np.float32)
    assert np.array_equal(put("poisson:30", dark), np.zeros((1, 2)))


@pytest.mark.parametrize("text", TEXTS)
def test_text_goes_there_and_back(text):
    assert str(noise.parse(text)) == text
    assert noise.parse(str(noise.parse(text))) == noise.parse(text)


@pytest.mark.parametrize("text", TEXTS)
def test_same_seed_same_noise_and_the_clean_image_is_left_alone(text):
    clean = CLEAN[:20, :20].copy()
    first, again, other = put(text, clean), put(text, clean), put(text, clean, seed=1)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.dtype == np.float32
    assert (clean == 0.25).all()


def test_no_noise_changes_nothing():
    for text in ("gaussian:0", "speckle:0", "salt-and-pepper:0"):
        assert np.array_equal(put(text), CLEAN)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gausian:25", "did you mean 'gaussian'"),
        ("gaussian", "expected gaussian:SIGMA, its standard deviation in levels of 255"),
        ("gaussian:25:3", "expected gaussian:SIGMA"),
        ("gaussian:strong", "expected gaussian:SIGMA"),
        ("poisson-gaussian:30", "expected poisson-gaussian:PEAK:SIGMA"),
        ("gaussian:-1", "expected 0 or more"),
        ("gaussian:nan", "expected 0 or more"),
        ("poisson:0", "peak of 0: expected more than 0"),
        ("salt-and-pepper:5", "expected a part, 0 to 1"),
        ("", "known: gaussian, poisson"),
    ],
)
def test_what_is_wrong_is_said(text, words):
    with pytest.raises(UserError, match=words):
        noise.parse(text)


def test_every_kind_says_its_form():
    assert list(noise.FORMS) == [text.partition(":")[0] for text in TEXTS]
