"""Values that no network may see: found in whole rows, bridged, counted; highlights and noise are none."""

import numpy as np
import pytest

from snowmelt import outliers
from snowmelt.outliers import Bounds, Kept, bridged, masked


def rows(*values, dtype="f4"):
    """One row (1, W, 1)."""
    return np.array(values, dtype)[None, :, None]


@pytest.mark.parametrize(
    "value", [np.nan, np.inf, -np.inf, 1e30, -3.4e38, -9999, 9.1, -8.1, 3.1, -2.1]
)
@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4"])
def test_a_value_no_network_may_see_becomes_the_line_between_its_neighbours(value, dtype):
    given = rows(0.2, value, 0.4, 0.6, dtype=dtype)
    before = given.tobytes()
    found, count = bridged(given, 0, 1)
    np.testing.assert_allclose(found[0, :, 0], [0.2, 0.3, 0.4, 0.6], rtol=1e-6)
    assert (found.dtype, count) == (given.dtype, 1)
    assert given.tobytes() == before


def test_float16_is_compared_in_its_own_limits():
    given = rows(0.2, 65504, 0.4, dtype="f2")
    found, count = bridged(given, 0, 1)
    assert (count, float(found[0, 1, 0])) == (1, pytest.approx(0.3, abs=1e-3))
    assert bridged(rows(0.2, 65504, 0.4, dtype="f2"), 0, 60000)[1] == 0


@pytest.mark.parametrize(
    "values",
    [
        (0.1, 8.9, 8.9, 8.9, 0.1),  # a highlight of an HDR image
        (0.1, 2.9, 0.1),
        (0.1, -7.9, -7.9, -7.9),
        (-1.9, 0.5),
    ],
)
def test_highlights_are_no_outliers(values):
    given = rows(*values)
    found, count = bridged(given, 0, 1)
    assert found is given
    assert count == 0


@pytest.mark.parametrize(
    ("values", "usable"),
    [
        ((0, 5, 0, 5, 5, 0, 5, 5, 5, 0), (1, 0, 1, 0, 0, 1, 1, 1, 1, 1)),
        ((5, 5, 0, 5), (0, 0, 1, 0)),
        ((5, 5, 5, 5), (1, 1, 1, 1)),
        ((5,), (0,)),
        ((0, 5, 50, 5, 0), (1, 1, 0, 1, 1)),
        ((0, 1.6, 5, 1.6, 0), (1, 1, 1, 1, 1)),  # a small highlight
        ((0, 1.6, 5, 1.4, 0), (1, 1, 0, 1, 1)),
    ],
)
def test_what_stands_alone_in_its_row_is_an_outlier_sooner(values, usable):
    found = Bounds(0, 1).find(rows(*values))
    expected = np.array(usable, bool)
    np.testing.assert_array_equal(
        np.ones_like(expected) if found is None else found[0, :, 0], expected
    )


def test_what_the_noise_reaches_is_no_outlier():
    noise = np.random.default_rng(0).normal(0.5, 1.0, (200, 200, 1)).astype(np.float32)
    usable = Bounds(0, 1).find(noise)
    assert usable is not None
    assert np.count_nonzero(~usable) > 200
    assert Bounds(0, 1, noise=1.0).find(noise) is None
    assert Bounds(0, 1, noise=1.0).find(rows(0, 15, 0)) is not None


@pytest.mark.parametrize(("value", "outlier"), [(65535, True), (16383, True), (8000, False)])
def test_integers_whose_range_is_narrower_than_their_type(value, outlier):
    found, count = bridged(rows(1000, value, 2000, dtype="u2"), 0, 4095)
    assert count == outlier
    assert found[0, 1, 0] == (1500 if outlier else value)


def test_a_type_that_the_range_spans_is_never_looked_at():
    for dtype in ("u1", "u2", "i2"):
        limits = np.iinfo(dtype)
        given = rows(limits.min, limits.max, limits.min, dtype=dtype)
        assert bridged(given, float(limits.min), float(limits.max))[0] is given


@pytest.mark.parametrize(
    ("dtype", "stored", "nodata"),
    [
        ("u1", 0, 0.0),
        ("i2", -32768, -32768.0),
        ("f4", np.finfo("f4").min, -3.4028234663852886e38),
        ("f4", np.float32(-0.1), -0.1),
        ("f8", 0.5, 0.5),
    ],
)
def test_missing_data_is_bridged_where_it_is_in_the_range_too(dtype, stored, nodata):
    given = rows(2, stored, 4, dtype=dtype)
    bounds = Bounds(0, 255, nodata)
    usable = bounds.find(given)
    assert usable is not None
    assert usable[0, :, 0].tolist() == [True, False, True]
    assert bounds.count(given, usable) == Kept(no_data=1)
    assert bridged(given, 0, 255, nodata)[0][0, 1, 0] == 3


@pytest.mark.parametrize("nodata", [None, np.nan, -9999.0, 0.5, 300.0, np.inf])
def test_a_value_that_an_integer_type_cannot_hold_marks_nothing(nodata):
    given = rows(0, 127, 255, dtype="u1")
    assert bridged(given, 0, 255, nodata)[0] is given


def test_a_row_without_anything_usable_becomes_the_middle():
    given = np.full((2, 5, 2), np.nan, np.float32)
    given[1, :, 0] = 1
    found, count = bridged(given, 0, 1)
    assert count == 15
    assert (found[0] == 0.5).all()
    assert (found[1] == [1, 0.5]).all()
    found, _ = bridged(np.full((1, 4, 1), 7, np.uint8), -1000, 0, 7)
    assert (found == 0).all()  # the middle is no uint8


def test_masked_holds_nan_so_that_no_line_is_measured():
    given = rows(1000, 65535, 2000, dtype="u2")
    found = masked(given, 0, 4095)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0, :, 0], [1000, np.nan, 2000])
    assert masked(given, 0, 65535) is given


def test_absurd_ranges_do_not_overflow():
    for low, high in ((-1.7e308, 1.7e308), (0, 1e-300), (1e300, 1.1e300)):
        for dtype in ("f2", "f4", "f8", "u1", "i8"):
            bridged(rows(0, 1, 2, dtype=dtype), low, high)


def test_counts_are_said_by_kind():
    given = rows(0.1, np.nan, np.inf, 0.1, -9999, 0.1, 1e30, 0.2)
    bounds = Bounds(0, 1, -9999.0)
    usable = bounds.find(given)
    assert usable is not None
    kept = bounds.count(given, usable)
    assert kept == Kept(not_finite=2, no_data=1, outside=1)
    assert int(kept + kept) == 8
    assert bounds.describe(kept) == (
        "kept unchanged: 2 values not finite (NaN or infinite), 1 value of -9999 (no data), 1 value far "
        "outside the range 0 to 1 (if they belong to the image, state a wider one: --range LOW HIGH, in "
        "Python value_range=)"
    )
    assert bounds.describe(Kept()) == ""
    assert not Kept()


def test_limits_are_where_the_documentation_says():
    assert (outliers.FAR, outliers.LONE, outliers.LONGEST) == (8, 2, 2)
