"""The installed package without torch: run by `make package` outside the source tree, not by pytest itself.

It denoises an image by command and in Python, and runs those test files that do not import torch.
"""

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

import snowmelt

TESTS = Path(__file__).parent
WITHOUT_TORCH = (
    "test_images_raster.py", "test_images_tiff.py", "test_images_bare.py", "test_images_bmp.py",
    "test_metrics.py", "test_noise.py", "test_estimator.py", "test_outliers.py", "test_finding.py",
)  # fmt: skip


def denoise(folder: Path) -> None:
    """One noisy image, by command and in Python: alike, and closer to the clean one."""
    clean = np.kron(np.random.default_rng(0).integers(60, 200, (6, 6)), np.ones((24, 24)))
    noisy = np.clip(clean + np.random.default_rng(1).normal(0, 20, clean.shape), 0, 255)
    noisy = noisy.round().astype(np.uint8)
    snowmelt.write(folder / "noisy.png", noisy)
    command = [sys.executable, "-m", "snowmelt", "denoise", "noisy.png", "--precision", "f32"]
    subprocess.run(command, cwd=folder, check=True)
    by_command = snowmelt.read(folder / "noisy_denoised.png")
    np.testing.assert_array_equal(by_command, snowmelt.load(precision="f32")(noisy))
    errors = [float(np.square(image - clean).mean()) for image in (by_command, noisy)]
    assert errors[0] < errors[1] / 4, errors


def main() -> int:
    """See the module."""
    assert importlib.util.find_spec("torch") is None, "torch is installed here"
    assert TESTS.parent not in Path(str(snowmelt.__file__)).parents or ".venv" in snowmelt.__file__
    with tempfile.TemporaryDirectory() as folder:
        denoise(Path(folder))
    files = [str(TESTS / name) for name in WITHOUT_TORCH]
    return int(pytest.main(["-q", "-p", "no:cacheprovider", *files]))


if __name__ == "__main__":
    sys.exit(main())
