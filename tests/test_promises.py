"""The product as a user plays it, from the command line: train, denoise, be better by a stated margin."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from snowmelt import images, shapes
from snowmelt.metrics import psnr

from .conftest import write_pairs


def snowmelt(*arguments: object, cwd: Path) -> str:
    command = [sys.executable, "-m", "snowmelt", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of the fast recipe on few small pictures, and what it printed."""
    folder = tmp_path_factory.mktemp("promises")
    write_pairs(folder / "pairs.h5", train=64, test=8, side=64)
    printed = snowmelt(
        "train", "fast", "--data", "pairs.h5", "--epochs", 100, "--every", 100, "-o", "run", "--quiet",
        cwd=folder,
    )  # fmt: skip
    return folder, printed


def test_the_network_beats_the_filters_and_says_so(trained: tuple[Path, str]) -> None:
    _, printed = trained
    verdict = next(line for line in printed.splitlines() if line.startswith("the network: "))
    lead = re.search(r"better than the best classical filter, .*, by (\S+) ± ", verdict)
    assert lead, verdict
    assert float(lead[1]) > 1  # dB


def test_a_new_noisy_picture_comes_back_better_than_by_a_blur(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    noisy, clean = shapes.make_pairs(1, seed=99)
    stored = (noisy[0] * 255).round().astype(np.uint8)
    images.write(folder / "scan.png", stored)
    snowmelt("denoise", "scan.png", "--model", "run/model.onnx", cwd=folder)
    denoised = images.read(folder / "scan_denoised.png")
    assert denoised.dtype == np.uint8
    assert denoised.shape == stored.shape
    truth = clean[0] * 255
    blurred = max(
        psnr(truth, ndimage.gaussian_filter(stored.astype(float), sigma), data_range=255)
        for sigma in (0.5, 0.7, 1.0, 1.3)
    )
    ours = psnr(truth, denoised, data_range=255)
    assert ours > psnr(truth, stored, data_range=255) + 8
    assert ours > blurred + 3
    assert np.array_equal(images.read(folder / "scan.png"), stored)  # the input is untouched


def test_the_model_file_tells_where_it_comes_from(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    printed = snowmelt("inspect", "run/model.onnx", cwd=folder)
    for word in ("recipe-cnn", "2,737", "pairs.h5", "PSNR"):
        assert word in printed
