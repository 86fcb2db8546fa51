from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from snowmelt import figures
from snowmelt.photos import NoisyPhoto

RAMP = np.linspace(0, 1, 128 * 128, dtype=np.float32).reshape(128, 128)


def test_pictures_are_shown_to_the_pixel_with_a_fixed_grey_range(tmp_path: Path) -> None:
    """Three flat pictures of 0.25, 0.5 and 0.75: stretched to their own range they would look alike."""
    flat = [np.full((128, 128), level, np.float32) for level in (0.25, 0.5, 0.75)]
    photo = NoisyPhoto("flat", noisy=flat[0], clean=flat[1])
    figures.draw_epoch(tmp_path / "epoch.png", 50, [(photo, flat[2])])
    page = np.asarray(Image.open(tmp_path / "epoch.png").convert("L"))
    top = figures.TITLE + figures.CAPTION
    for column, level in enumerate((64, 128, 191)):
        left = figures.GAP + column * (figures.CELL + figures.GAP)
        cell = page[top : top + figures.CELL, left : left + figures.CELL]
        assert np.abs(cell[2:-2, 2:-2].astype(int) - level).max() <= 1


def test_pixels_are_doubled_and_not_blurred(tmp_path: Path) -> None:
    board = (np.indices((128, 128)).sum(axis=0) % 2).astype(np.float32)
    figures.draw_pair(tmp_path / "pair.png", NoisyPhoto("board", noisy=board, clean=board))
    page = np.asarray(Image.open(tmp_path / "pair.png").convert("L"))
    top = figures.TITLE + figures.CAPTION
    cell = page[top : top + figures.CELL, figures.GAP : figures.GAP + figures.CELL]
    expected = np.kron(board, np.ones((2, 2))) * 255
    assert np.array_equal(cell, expected.astype(np.uint8))


def test_all_photos_stand_in_one_figure(tmp_path: Path) -> None:
    photos = [NoisyPhoto(f"photo {n}", noisy=RAMP, clean=RAMP[::-1]) for n in range(3)]
    figures.draw_photos(tmp_path / "photos.png", photos)
    with Image.open(tmp_path / "photos.png") as page:
        width, height = page.size
    assert width == figures.GAP + 2 * (figures.CELL + figures.GAP)
    assert height == figures.TITLE + 3 * (figures.CAPTION + figures.CELL) + figures.GAP


def test_curves_of_one_epoch_and_of_many(tmp_path: Path) -> None:
    sizes = []
    for count in (1, 30):
        rows = [{"epoch": n, "loss": 1 / n, "psnr": 20 + n} for n in range(1, count + 1)]
        figures.draw_curves(tmp_path / "curves.png", rows)
        page = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB")).astype(int)
        teal = np.abs(page - (0x1F, 0x6F, 0x8B)).sum(axis=2) < 30
        sizes.append(teal.sum())
    assert sizes[0] > 10  # a single point can be seen
    assert sizes[1] > sizes[0]


def test_colours_beyond_black_and_white_are_drawn_as_these_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    noisy = np.full((8, 8, 3), (1.5, -0.5, 1), np.float32)
    figures.draw_pair(tmp_path / "pair.png", NoisyPhoto("flat", noisy=noisy, clean=noisy))
    page = np.asarray(Image.open(tmp_path / "pair.png").convert("RGB"))
    top, left = figures.TITLE + figures.CAPTION, figures.GAP
    assert page[top + 128, left + 128].tolist() == [255, 0, 255]
    assert not caplog.records
