"""The bundled estimators: what they are, what they find without torch, and how fast."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from snowmelt import estimator
from snowmelt.estimator import KNOTS, NOTHING, Curve


@pytest.mark.parametrize("channels", [1, 3])
def test_the_files_are_those_of_the_figures(channels):
    """The page with their scores names their hashes."""
    path = estimator.path(channels)
    header = estimator.header(path)
    assert header["name"] == path.stem
    assert header["network"]["channels"] == channels
    assert header["licence"]
    assert len(header["data"]["sha256"]) == 64
    page = (Path(__file__).parents[1] / "docs" / "models.md").read_text("utf-8")
    assert hashlib.sha256(path.read_bytes()).hexdigest() in page


def test_a_curve_is_interpolated_over_the_square_root_of_brightness():
    curve = Curve(tuple(float(k) for k in range(KNOTS)), black=1.0, white=3.0)
    assert curve.at(1.0) == 0
    assert curve.at(3.0) == KNOTS - 1
    assert curve.at(1.5) == pytest.approx((KNOTS - 1) / 2)  # a quarter of the way
    np.testing.assert_array_equal(curve.at(np.array([-5.0, 9.0])), [0, KNOTS - 1])
    assert NOTHING.is_zero
    assert not curve.is_zero


def test_several_curves_are_combined_as_a_root_mean_square():
    curves = [Curve((level,) * KNOTS) for level in (0.3, 0.4)]
    brightness = np.full((2, 3, 2), 0.5, np.float32)
    found = estimator.combined(curves, brightness)
    np.testing.assert_allclose(found, np.full((2, 3), (0.125) ** 0.5), rtol=1e-6)
    np.testing.assert_allclose(estimator.combined(curves[:1], brightness), 0.3, rtol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(32, 32), (33, 200), (96, 96)])
def test_small_images_are_mirrored(channels, shape):
    noisy = 0.5 + np.random.default_rng(0).normal(0, 0.1, (1, *shape, channels))
    curve = estimator.estimate(noisy.astype(np.float32))
    assert curve.at(0.5) == pytest.approx(0.1, rel=0.5)


def test_a_constant_image_has_no_noise():
    for value in (0.0, 0.4, 1.0):
        flat = np.full((1, 64, 64, 1), value, np.float32)
        curve = estimator.estimate(flat)
        assert estimator.typical([curve], flat) < curve.faintest
        assert estimator.estimate(flat, deep=True).is_zero


def test_a_deep_image_is_looked_at_in_the_part_of_its_range_that_it_uses():
    noisy = 0.5 + np.random.default_rng(0).normal(0, 0.05, (1, 128, 128, 1))
    noisy[:, :64] += 0.2
    whole, part = (
        estimator.estimate((noisy * scale).astype(np.float32), deep=True) for scale in (1, 0.01)
    )
    np.testing.assert_allclose(np.array(part.levels) * 100, whole.levels, rtol=1e-2)
    assert part.white == pytest.approx(whole.white / 100, rel=1e-2)
