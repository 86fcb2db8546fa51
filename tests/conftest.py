"""Small seeded data that several test files share."""

import os
from pathlib import Path

# Two test processes share the cores: torch's threads would wait for each other at every operation.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import h5py
import numpy as np
import pytest

from snowmelt.shapes import make_pairs


def write_pairs(path: Path, *, train: int = 8, test: int = 2, side: int = 32) -> Path:
    """A data set in the tutorial's layout, cut small."""
    noisy, clean = make_pairs(train + test, seed=1)
    with h5py.File(path, "w") as file:
        for name, part in (("train", slice(0, train)), ("test", slice(train, None))):
            file[f"{name}_ns"] = noisy[part, :side, :side]
            file[f"{name}_gt"] = clean[part, :side, :side]
    return path


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.h5")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    from PIL import Image

    path = tmp_path / "photo.png"
    ramp = np.linspace(0, 255, 60 * 90).reshape(60, 90).astype(np.uint8)
    Image.fromarray(np.stack([ramp, ramp // 2, 255 - ramp], axis=-1)).save(path)
    return path


def data_folder() -> Path:
    """The folder of real images, which is no part of the project; skips the test where it is not there."""
    found = Path(os.environ.get("SNOWMELT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not found.is_dir():
        pytest.skip(f"no real images in {found}; SNOWMELT_DATA names their folder")
    return found
