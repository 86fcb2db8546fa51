import hashlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from snowmelt import shapes
from snowmelt.metrics import psnr


def test_the_layout_is_the_tutorials(tmp_path: Path) -> None:
    path = tmp_path / "demo-dataset.h5"
    shapes.write_dataset(path)
    with h5py.File(path) as file:
        found = {name: (array.shape, array.dtype.name) for name, array in file.items()}
    assert found == {
        "train_ns": ((512, 128, 128), "float32"),
        "train_gt": ((512, 128, 128), "float32"),
        "test_ns": ((32, 128, 128), "float32"),
        "test_gt": ((32, 128, 128), "float32"),
    }
    assert path.stat().st_size == pytest.approx(71.3e6, rel=0.001)


def test_the_same_seed_gives_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "TRAIN", 3)
    monkeypatch.setattr(shapes, "TEST", 2)
    hashes = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        shapes.write_dataset(tmp_path / name, seed=seed)
        hashes.append(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert hashes[0] == hashes[1] != hashes[2]


def test_pictures_are_grey_shapes_on_white_with_clipped_noise() -> None:
    noisy, clean = shapes.make_pairs(40, seed=0)
    greys = clean[clean < 1]
    assert clean[:, 0].mean() > 0.7  # the background is white
    assert greys.min() >= 0.3
    assert greys.max() <= 0.75
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    # away from the limits nothing is clipped, and the variance is what it should be
    middle = (clean > 0.45) & (clean < 0.55)
    assert (noisy - clean)[middle].var() == pytest.approx(shapes.VARIANCE, rel=0.03)
    level = np.mean([psnr(a, b, data_range=1) for a, b in zip(clean, noisy, strict=True)])
    assert level == pytest.approx(19.0, abs=0.1)


def test_a_picture_depends_on_its_number_alone() -> None:
    whole = shapes.make_pairs(4, seed=3)
    later = shapes.make_pairs(2, seed=3, first=2)
    assert np.array_equal(whole[0][2:], later[0])
    assert np.array_equal(whole[1][2:], later[1])
    assert not np.array_equal(whole[1][0], whole[1][1])
