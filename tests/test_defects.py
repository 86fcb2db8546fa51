"""Lost pixels and shifted lines: found where they are, put right, and nothing else touched."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from snowmelt import cli, defects, images
from snowmelt.errors import UserError
from snowmelt.metrics import psnr
from snowmelt.noise import SaltAndPepper

Picture = NDArray[np.float64]


def picture(side: int = 128) -> Picture:
    """Smooth, from 0.2 to 0.8, with a few edges."""
    blobs = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(side, side)), 6)
    blobs = 0.5 + 0.3 * blobs / np.abs(blobs).max()
    blobs[20:50, 30:90] = 0.25
    return blobs


def as_8_bit(image: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)


def decibels(image: NDArray[Any]) -> float:
    return psnr(255 * picture(), np.asarray(image, np.float64), data_range=255)


def salted(part: float) -> NDArray[np.uint8]:
    return as_8_bit(SaltAndPepper(part)(picture().astype(np.float32), np.random.default_rng(0)))


def shifted(level: float = 8.0) -> NDArray[np.uint8]:
    shifts = np.random.default_rng(0).normal(0, level / 255, (128, 1))
    return as_8_bit(picture() + shifts)


@pytest.mark.parametrize("part", [0.01, 0.05, 0.2])
def test_lost_pixels_are_replaced_and_no_others(part: float) -> None:
    noisy = salted(part)
    repaired, words = defects.repair(noisy)
    good = noisy == as_8_bit(picture())
    assert np.array_equal(repaired[good], noisy[good])
    # A tenth of the range off at each lost pixel would be as far above the noise as this.
    assert decibels(repaired) > decibels(noisy) + 14
    assert "lost" in words


def test_black_and_white_areas_stay() -> None:
    clean = as_8_bit(picture())
    clean[60:90, 10:60] = 255
    clean[60:90, 70:120] = 0
    noisy = np.where(salted(0.05) != as_8_bit(picture()), salted(0.05), clean)
    repaired, _ = defects.repair(noisy)
    inner = np.s_[64:86, 14:56]
    assert np.mean(repaired[inner] == 255) > 0.99


@pytest.mark.parametrize("turn", [np.asarray, np.transpose])
def test_shifts_of_rows_and_columns_are_taken_off(turn: type) -> None:
    noisy = shifted()
    repaired, words = defects.repair(turn(noisy))
    # What changes slowly down the picture stays; 4 dB: more than half of the shifts' power is gone.
    assert decibels(turn(repaired)) > decibels(noisy) + 4
    assert ("rows" in words) == (turn is np.asarray)


def test_a_picture_without_defects_is_left_alone() -> None:
    noisy = as_8_bit(picture() + np.random.default_rng(0).normal(0, 15 / 255, (128, 128)))
    repaired, words = defects.repair(noisy)
    assert words == ""
    assert np.array_equal(repaired, noisy)


def test_values_that_are_not_finite_stay() -> None:
    noisy = salted(0.05).astype(np.float32)
    noisy[3, 4], noisy[5, 6] = np.nan, np.inf
    repaired, _ = defects.repair(noisy)
    assert np.isnan(repaired[3, 4])
    assert np.isposinf(repaired[5, 6])
    assert np.count_nonzero(np.isfinite(repaired)) == repaired.size - 2


def test_lost_pixels_all_around_are_filled_from_farther_away() -> None:
    plane = picture()
    lost = np.zeros(plane.shape, bool)
    lost[60:67, 60:67] = True
    filled = defects.fill(np.where(lost, 0, plane), lost)
    assert np.abs(filled - plane).max() < 0.1


def test_too_small() -> None:
    with pytest.raises(UserError, match="20 x 20 pixels"):
        defects.repair(np.zeros((20, 20)))


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "stack.tif"
    images.write(path, np.stack([salted(0.05), as_8_bit(picture()), shifted()]), axes="ZYX")
    assert cli.main(["denoise", str(path), "--repair", "--strength", "0"]) == 0
    planes = images.read(tmp_path / "stack_denoised.tif")
    assert planes.dtype == np.uint8
    assert "nothing to repair" in capsys.readouterr().err  # of the plane in the middle
    assert np.array_equal(planes[1], as_8_bit(picture()))
    assert decibels(planes[0]) > decibels(salted(0.05)) + 10
    assert decibels(planes[2]) > decibels(shifted()) + 4


def test_missing_data_is_no_lost_pixel_and_stays() -> None:
    noisy = salted(0.02).astype(np.int16)
    noisy[40:70, :20] = -32768
    expected, _ = defects.repair(np.where(noisy == -32768, np.nan, noisy))

    class Holed(images.base.Image):
        path, nodata = Path("a.tif"), -32768.0
        layout = images.base.Layout(noisy.shape, "YX", noisy.dtype)

        def __init__(self) -> None: ...

        def read_rows(self, plane: int, start: int, stop: int) -> NDArray[Any]:
            del plane
            return noisy[start:stop, :, None]

    found = defects.Repaired(Holed()).read_rows(0, 0, 128)[..., 0]
    missing = noisy == -32768
    np.testing.assert_array_equal(found[missing], noisy[missing])
    np.testing.assert_array_equal(found[~missing], np.rint(expected[~missing]))
    assert np.count_nonzero(found != noisy) > 100
    noisy[:] = -32768
    np.testing.assert_array_equal(defects.Repaired(Holed()).read_rows(0, 0, 128)[..., 0], noisy)
