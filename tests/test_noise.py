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
    "camera:2000:1:0.5:2:95",
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
        ("gaussian:-1", "expected 0 to 1000"),
        ("gaussian:nan", "expected 0 to 1000"),
        ("gaussian:1e300", r"sigma of 3.92157e\+297: expected 0 to 1000"),
        ("gaussian:0-1e300", "expected 0 to 1000"),
        ("speckle:1e39", "expected 0 to 1000"),
        ("poisson:0", r"peak of 0: expected 0.001 to 1e\+12"),
        ("poisson:1e30", r"expected 0.001 to 1e\+12"),
        ("poisson-gaussian:1e-300:5", r"expected 0.001 to 1e\+12"),
        ("camera:2000:1:1e9:2:95", "blur of 1e[+]09: expected 0 to 1000"),
        ("salt-and-pepper:5", "expected a part, 0 to 1"),
        ("", "known: camera, gaussian, poisson"),
        ("camera:1000:1:0:0:0", "quality 0: expected 1 to 100"),
        ("camera:1000:1:1:95", "expected camera:PEAK:SIGMA:BLUR:COLOURS:QUALITY"),
    ],
)
def test_what_is_wrong_is_said(text, words):
    with pytest.raises(UserError, match=words):
        noise.parse(text)


def test_every_kind_says_its_form():
    assert list(noise.FORMS) == [text.partition(":")[0] for text in TEXTS]


def test_ranges_are_drawn_evenly_and_sums_add_up():
    rng = np.random.default_rng(0)
    drawn = [noise.draw(noise.parse("gaussian:10-40"), rng) for _ in range(400)]
    levels = np.array([each.sigma * 255 for each in drawn])
    assert levels.min() >= 10
    assert levels.max() <= 40
    assert np.mean(levels) == pytest.approx(25, abs=1.5)  # standard error 0.43
    both = noise.parse("poisson:30-60 + gaussian:5")
    assert str(both) == "poisson:30-60+gaussian:5"
    assert not noise.is_fixed(both)
    fixed = noise.draw(both, rng)
    assert noise.is_fixed(fixed)
    assert noise.is_fixed(noise.parse("gaussian:1e-3"))
    assert 30 <= fixed.parts[0].peak <= 60
    with pytest.raises(UserError, match="from low to high"):
        noise.parse("gaussian:40-10")


@pytest.mark.parametrize(
    "text",
    ["gaussian:25", "poisson:30", "poisson-gaussian:30:5", "speckle:0.2", "poisson:30+gaussian:5"],
)
def test_the_level_is_the_standard_deviation(text):
    kind = noise.parse(text)
    for value in (0.2, 0.7):
        clean = np.full((300, 300), value, np.float32)
        found = kind(clean, np.random.default_rng(1)) - clean
        told = np.broadcast_to(noise.level(kind, clean), clean.shape)
        assert found.std() == pytest.approx(told[0, 0], rel=0.02)  # of 90,000 values: 0.24%


def test_salt_and_pepper_has_no_level():
    clean = np.full((4, 4), 0.5, np.float32)
    assert noise.level(noise.parse("salt-and-pepper:0.1"), clean) is None
    assert noise.level(noise.parse("gaussian:5+salt-and-pepper:0.1"), clean) is None


def test_photons_are_drawn_evenly_in_stops():
    rng = np.random.default_rng(0)
    peaks = [noise.draw(noise.parse("poisson:10-1000"), rng).peak for _ in range(400)]
    assert min(peaks) >= 10
    assert max(peaks) <= 1000
    assert np.mean(np.log10(peaks)) == pytest.approx(2, abs=0.1)  # standard error 0.03


def test_a_cameras_noise_has_the_strength_of_its_photons():
    grey = np.full((200, 300), 0.5, np.float32)
    change = put("camera:500:0:0:0:100", grey) - grey
    # value = light ** (1 / gamma), so a change of light counts value ** (1 - gamma) / gamma times
    light = 0.5**noise.GAMMA
    expected = math.sqrt(light / 500) * 0.5 ** (1 - noise.GAMMA) / noise.GAMMA
    assert change.std() == pytest.approx(expected, rel=0.03)  # and 8 bits round
    assert abs(change.mean()) < 0.002


def test_a_cameras_noise_is_shared_among_neighbours_and_more_so_its_colours():
    clean = np.full((128, 130, 3), 0.5, np.float32)

    def alike(change, distance):
        return (change[:, :-distance] * change[:, distance:]).mean() / np.square(change).mean()

    change = put("camera:1000:0:0:0:100", clean) - clean
    assert alike(change[..., 1], 1) == pytest.approx(0.4, abs=0.04)  # of bilinear green: 0.4
    smooth = put("camera:1000:0:1:3:100", clean) - clean
    grey = smooth.mean(2, keepdims=True)
    assert alike(grey, 4) < 0.1 < 0.3 < alike(smooth - grey, 4)
    assert smooth.std() < 0.7 * change.std()


def test_a_camera_clips_and_compresses_any_number_of_channels():
    for shape in ((30, 41), (30, 41, 1), (30, 41, 3), (1, 3, 4)):
        noisy = put("camera:50:5:1:2:30", np.ones(shape, np.float32))
        assert noisy.shape == shape
        assert noisy.max() <= 1
        assert np.array_equal(np.round(noisy * 255), noisy * 255)
    with pytest.raises(UserError, match="expected one picture"):
        put("camera:50:5:1:2:30", np.ones((2, 30, 41, 3)))
