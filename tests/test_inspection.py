"""`snowmelt.inspect`, and that what it prints runs."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

import snowmelt
from snowmelt import diagnosis, images, inspection, levels
from snowmelt.cli import main
from snowmelt.errors import UserError
from snowmelt.images.base import Layout
from snowmelt.noise import Gaussian, Noise, Poisson, SaltAndPepper
from snowmelt.shapes import make_pairs

CLEAN = 0.2 + 0.5 * make_pairs(1, seed=4)[1][0]


def noisy(noise: Noise, seed: int = 0) -> NDArray[np.float32]:
    return noise(CLEAN, np.random.default_rng(seed))


def as_bytes(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)


def colours(*sigmas: float) -> NDArray[np.uint8]:
    planes = [as_bytes(noisy(Gaussian(s / 255), i)) for i, s in enumerate(sigmas)]
    return np.stack(planes, axis=-1)


def execute(lines: list[str], **names: object) -> NDArray[np.floating]:
    """What the printed lines make."""
    exec("\n".join(lines), names)
    denoised = names["denoised"]
    assert isinstance(denoised, np.ndarray)
    return denoised


def write_all(folder: Path) -> dict[str, tuple[str | None, tuple[float, float] | None]]:
    """Files of every arrangement of planes and channels: axes and range to give with each."""
    grey, rgb = as_bytes(noisy(Gaussian(20 / 255))), colours(12, 20, 25)
    rgba = np.concatenate([rgb, np.full((*grey.shape, 1), 200, np.uint8)], axis=-1)
    Image.fromarray(grey).save(folder / "grey one.png")
    Image.fromarray(rgb).save(folder / "rgb.png")
    Image.fromarray(rgba).save(folder / "rgba.png")
    np.save(folder / "planar.npy", np.moveaxis(rgb, -1, 0))
    tifffile.imwrite(folder / "stack.tif", np.stack([grey // 2, grey, grey // 3]),
                     photometric="minisblack", metadata={"axes": "ZYX"})  # fmt: skip
    np.save(folder / "movie.npy", np.stack([np.stack([grey, grey // 2])] * 3))
    wide = (500 + 3000 * noisy(Gaussian(20 / 255))).astype(np.uint16)
    tifffile.imwrite(folder / "16-bit.tif", wide, photometric="minisblack")
    return {
        "grey one.png": (None, None),
        "rgb.png": (None, None),
        "rgba.png": (None, None),
        "planar.npy": ("SYX", None),
        "stack.tif": (None, None),
        "movie.npy": ("TZYX", None),
        "16-bit.tif": (None, (500, 3500)),
    }


def test_the_python_lines_run(tmp_path: Path) -> None:
    for name, (axes, value_range) in write_all(tmp_path).items():
        path = tmp_path / name
        found = snowmelt.inspect(path, axes=axes, value_range=value_range)
        assert found.filter is not None, name
        for line in found.python:
            assert line in found.text()
        denoised = execute(found.python)
        low, span = found.value_range[0], found.span
        before = (found.pixels.astype(float) - low) / span
        assert denoised.shape == (before.shape if before.shape[-1] > 1 else before.shape[:2]), name
        # the same plane, with most of its noise removed
        residual = before.reshape(denoised.shape) - denoised
        assert abs(residual.mean()) < 0.01, name
        assert residual.std() == pytest.approx(found.worst.sigma / span, rel=0.6), name


def test_the_python_lines_run_on_an_array() -> None:
    image = as_bytes(noisy(Gaussian(20 / 255)))
    found = snowmelt.inspect(image)
    assert found.path == ""
    assert found.commands == []
    assert "to type" not in found.text()
    assert found.text().startswith("array\n")
    assert execute(found.python, image=image).shape == image.shape


@pytest.mark.parametrize(
    ("shape", "axes", "alpha", "plane", "expected"),
    [
        ((9, 8), "YX", False, 0, "image"),
        ((9, 8, 3), "YXS", False, 0, "image"),
        ((9, 8, 4), "YXS", True, 0, "image[:, :, :3]"),
        ((5, 9, 8), "ZYX", False, 2, "image[2]"),
        ((2, 5, 9, 8), "TZYX", False, 7, "image[1, 2]"),
        ((3, 9, 8), "SYX", False, 0, "image.transpose(1, 2, 0)"),
        ((5, 4, 9, 8), "ZSYX", True, 3, "image[3, :3].transpose(1, 2, 0)"),
        ((9, 8, 5), "YXZ", False, 2, "image[:, :, 2]"),
    ],
)
def test_the_measured_plane_is_selected(
    shape: tuple[int, ...], axes: str, alpha: bool, plane: int, expected: str
) -> None:
    layout = Layout(shape, axes, np.dtype(np.uint8), alpha)
    assert inspection._selection(layout, plane) == expected


def test_python_and_the_command_say_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(as_bytes(noisy(Poisson(60)))).save(path)
    found = snowmelt.inspect(str(path))
    assert main(["inspect", str(path)]) == 0
    assert capsys.readouterr().out == f"{found}\n"
    assert main(["inspect", "--json", str(path)]) == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert facts == json.loads(json.dumps(found.json()))
    assert facts["kind"] == found.kind == "poisson"
    assert facts["noise"] == found.noise


def test_an_array_is_measured_as_its_file(tmp_path: Path) -> None:
    rgb = colours(12, 20, 25)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    first = snowmelt.inspect(tmp_path / "a.png").json()
    for array, axis in ((rgb, -1), (np.moveaxis(rgb, -1, 0), 0)):
        second = snowmelt.inspect(array, channel_axis=axis).json()
        assert second["channels"] == first["channels"]
        assert second["automatic_levels"] == first["automatic_levels"]
    opened = snowmelt.inspect(images.open_image(tmp_path / "a.png")).json()
    assert opened["channels"] == first["channels"]


def test_of_a_stack_in_memory_the_plane_in_the_middle_is_measured() -> None:
    grey = as_bytes(noisy(Gaussian(20 / 255)))
    stack = np.stack([np.zeros_like(grey), grey, np.zeros_like(grey)])
    found = snowmelt.inspect(stack)
    assert found.plane == 1
    assert found.region == "all of plane 1 of 3"
    assert found.worst.sigma == pytest.approx(20, rel=0.1)


def test_of_a_large_image_the_middle_is_measured() -> None:
    side = inspection.LARGEST
    image = np.zeros((side + 200, side + 100), np.uint8)
    grey = as_bytes(np.tile(noisy(Gaussian(20 / 255)), (side // 128 + 1,) * 2)[:side, :side])
    image[100:-100, 50:-50] = grey
    found = snowmelt.inspect(image)
    assert found.region == f"the middle {side} x {side} pixels"
    assert np.array_equal(found.pixels[..., 0], grey)


def test_the_automatic_level_is_that_of_denoising(tmp_path: Path) -> None:
    image = as_bytes(noisy(Gaussian(20 / 255)))
    snowmelt.write(tmp_path / "a.png", image)
    found = snowmelt.inspect(image)
    expected = levels.estimate(snowmelt.open_image(tmp_path / "a.png"), 0, 255)
    assert found.automatic == expected
    assert found.json()["automatic_levels"] == [255 * expected.typical[0]]
    assert 255 * expected.typical[0] == pytest.approx(20, rel=0.35)
    assert f"a noise level of {255 * expected.typical[0]:.2g} on a 0–255 scale" in found.text()
    smooth = np.full((64, 64), 0.5) + np.linspace(0, 0.3, 64)
    assert "leaves the image unchanged" in snowmelt.inspect(as_bytes(smooth)).text()


def test_clipping_and_impulses_are_in_the_text() -> None:
    image = as_bytes(noisy(SaltAndPepper(0.05)))
    image[:40, :40] = 255
    text = snowmelt.inspect(image).text()
    found = snowmelt.inspect(image).worst
    assert f"{found.impulses[0]:.2%} black, {found.impulses[1]:.2%} white" in text
    assert f"{found.clipping.high:.2%} at white (in areas)" in text
    assert f"{found.clipping.low:.2%} at black (scattered pixels)" in text


def test_a_few_clipped_pixels_are_not_reported() -> None:
    image = as_bytes(noisy(Gaussian(10 / 255)))
    few = int(inspection.VISIBLE * image.size)
    for count, said in ((few, "clipped     no"), (few + 1, "at white (scattered pixels)")):
        image[20, 10 : 10 + 9 * count : 9] = 255
        assert said in snowmelt.inspect(image).text()


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros(64), r"shape \(64,\): expected \(..., H, W\)"),
        (np.zeros((64, 64), bool), "array: an image of bool: expected integers or floats"),
        (np.full((64, 64), np.nan), "array: no value is finite"),
        (np.zeros((20, 64)), "64 x 20 pixels: noise is measured from 32 x 32"),
    ],
)
def test_what_cannot_be_inspected(image: NDArray[np.generic], words: str) -> None:
    with pytest.raises(UserError, match=words):
        snowmelt.inspect(image)


def test_a_range_is_two_numbers_black_first() -> None:
    image = noisy(Gaussian(20 / 255))
    assert snowmelt.inspect(image, value_range=(0, 1)).worst.sigma == pytest.approx(
        20 / 255, rel=diagnosis.BIN_ERROR * 3
    )
    for value_range in ((1, 0), (0, math.inf), (1, 1)):
        with pytest.raises(UserError, match="expected two numbers, black first"):
            snowmelt.inspect(image, value_range=value_range)


def test_the_python_lines_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(as_bytes(noisy(Poisson(60)))).save("cells.png")
    page = (Path(__file__).parents[1] / "docs" / "inspect.md").read_text("utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {"snowmelt": snowmelt}
    exec(block, names)
    assert names["found"].kind == "poisson"
