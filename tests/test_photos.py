from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from snowmelt.errors import UserError
from snowmelt.photos import SIDE, default_photos, read_grey, read_photos


def test_the_default_photos_come_with_scikit_image() -> None:
    photos = read_photos(default_photos(), variance=0.01, seed=0)
    assert len(photos) == 3
    for photo in photos:
        assert photo.clean.shape == photo.noisy.shape == (SIDE, SIDE)
        assert photo.clean.std() > 0.1
        middle = (photo.clean > 0.4) & (photo.clean < 0.6)  # where nothing is clipped
        assert (photo.noisy - photo.clean)[middle].var() == pytest.approx(0.01, rel=0.1)
    assert [photo.name for photo in photos] == ["camera", "chelsea", "coffee"]


def test_the_noise_is_seeded_and_each_photos_own(photo: Path) -> None:
    one, two = read_photos([str(photo)] * 2, variance=0.01, seed=0)
    (again,) = read_photos([str(photo)], variance=0.01, seed=0)
    (other,) = read_photos([str(photo)], variance=0.01, seed=1)
    assert np.array_equal(one.noisy, again.noisy)
    assert not np.array_equal(one.noisy, two.noisy)
    assert not np.array_equal(one.noisy, other.noisy)


def test_a_variance_of_zero_leaves_the_photo(photo: Path) -> None:
    (clean,) = read_photos([str(photo)], variance=0, seed=0)
    np.testing.assert_allclose(clean.noisy, clean.clean, atol=1e-7)


@pytest.mark.parametrize(
    ("mode", "expected"), [("L", 100 / 255), ("RGB", 100 / 255), ("RGBA", 100 / 255)]
)
def test_every_kind_is_read_as_grey(tmp_path: Path, mode: str, expected: float) -> None:
    colour = {"L": 100, "RGB": (100, 100, 100), "RGBA": (100, 100, 100, 7)}[mode]
    path = tmp_path / "flat.png"
    Image.new(mode, (40, 30), colour).save(path)
    np.testing.assert_allclose(read_grey(path, side=16), expected, atol=1e-6)


def test_16_bit_and_float_photos(tmp_path: Path) -> None:
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", np.full((20, 30), 13107, np.uint16))
    tifffile.imwrite(tmp_path / "b.tif", np.full((20, 30), 0.2, np.float32))
    for name in ("a.tif", "b.tif"):
        np.testing.assert_allclose(read_grey(tmp_path / name, side=16), 0.2, atol=1e-6)


def test_colour_is_weighed_as_the_eye_does(tmp_path: Path) -> None:
    levels = []
    for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255)):
        Image.new("RGB", (20, 20), colour).save(tmp_path / "a.png")
        levels.append(read_grey(tmp_path / "a.png", side=8).mean())
    assert levels[1] > levels[0] > levels[2]
    assert sum(levels) == pytest.approx(1, abs=1e-4)


def test_bad_photos_are_named(tmp_path: Path) -> None:
    import tifffile

    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(UserError, match=r"text\.jpg"):
        read_photos([str(tmp_path / "text.jpg")], variance=0.01, seed=0)
    with pytest.raises(UserError, match=r"none\.png"):
        read_photos([str(tmp_path / "none.png")], variance=0.01, seed=0)
    stack = np.zeros((3, 8, 8), np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", stack, metadata={"axes": "ZYX"}, imagej=True)
    with pytest.raises(UserError, match=r"stack.tif: ZYX \(3, 8, 8\).*a photo is one picture"):
        read_photos([str(tmp_path / "stack.tif")], variance=0.01, seed=0)
