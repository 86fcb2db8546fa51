"""What the models that ship promise, on photographs that come with scikit-image (none was learnt from)."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage import data, restoration

import snowmelt
from snowmelt import calibration, images, modelfile, zoo
from snowmelt.cli import main
from snowmelt.errors import UserError
from snowmelt.metrics import psnr
from snowmelt.models import UNet
from snowmelt.samples import Batch
from snowmelt.tiles import smallest_tile

PHOTOS = {
    "camera": lambda: data.camera()[100:420, 100:420],
    "astronaut": lambda: data.astronaut()[:320, 60:380],
    "coffee": lambda: data.coffee()[40:360, 100:420],
}


def noisy(clean: NDArray[np.uint8], sigma: float) -> NDArray[np.float32]:
    random = np.random.default_rng(0)
    return (clean / 255 + random.normal(0, sigma / 255, clean.shape)).astype(np.float32)


def axis(picture: NDArray[Any]) -> int | None:
    return -1 if picture.ndim == 3 else None


@functools.cache
def filtered(name: str, sigma: int) -> list[NDArray[np.float32]]:
    """By total variation of several weights; the same for every model."""
    clean = PHOTOS[name]()
    return [
        restoration.denoise_tv_chambolle(noisy(clean, sigma), weight, channel_axis=axis(clean))
        for weight in sigma / 255 * np.array([0.5, 0.7, 0.9, 1.2])
    ]


@pytest.fixture(scope="module", params=["base", "fast"])
def shipped(request: pytest.FixtureRequest) -> snowmelt.Denoiser:
    return snowmelt.load(request.param, precision="f32")


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize(("sigma", "lead"), [(15, 1.0), (25, 1.0), (50, 1.2)])
def test_it_beats_total_variation_and_measures_the_level(
    name: str, sigma: int, lead: float, shipped: snowmelt.Denoiser
) -> None:
    """The filter is given its best weight of many; the model only the picture."""
    clean = PHOTOS[name]()
    picture, truth = noisy(clean, sigma), clean / 255

    def score(denoised: NDArray[Any]) -> float:
        return float(psnr(truth, np.clip(denoised, 0, 1), data_range=1))

    tuned = max(map(score, filtered(name, sigma)))
    measured = score(shipped(picture, value_range=(0, 1), channel_axis=axis(clean)))
    told = score(shipped(picture, value_range=(0, 1), channel_axis=axis(clean), sigma=sigma / 255))
    assert told > tuned + lead
    assert measured > told - 0.15


@pytest.mark.parametrize("name", PHOTOS)
def test_clean_photos_keep_their_detail(name: str, shipped: snowmelt.Denoiser) -> None:
    clean = PHOTOS[name]()
    denoised = shipped(clean, channel_axis=axis(clean))
    least = 43 if name == "astronaut" else 45  # a scan whose fine grain counts as noise
    assert np.array_equal(denoised, clean) or psnr(clean, denoised, data_range=255) > least


@pytest.mark.parametrize("photo", [data.camera, data.astronaut])
def test_tiles_do_not_show(photo: Callable[[], NDArray[np.uint8]]) -> None:
    whole, clean = snowmelt.load(precision="f32"), photo()
    header = whole.for_channels(1 if clean.ndim == 2 else 3).header
    smallest = smallest_tile(header.reach, header.multiple)
    side = smallest + 32  # so there are three in a row, each keeping little of its middle
    border = [(0, max(0, side - length)) for length in clean.shape[:2]]
    clean = np.pad(clean, border + [(0, 0)] * (clean.ndim - 2), mode="symmetric")[:side, :side]
    picture = noisy(clean, 25)
    tiled = snowmelt.load(precision="f32", tile=smallest)
    settings = {"value_range": (0, 1), "channel_axis": axis(picture), "sigma": 0.1}
    np.testing.assert_allclose(whole(picture, **settings), tiled(picture, **settings), atol=2e-6)


@pytest.mark.parametrize("name", ["camera", "astronaut"])
def test_every_border_is_as_good(name: str, shipped: snowmelt.Denoiser) -> None:
    """Sides that do not divide by 16 are filled up on the right and below; turned round, left and above."""
    clean = PHOTOS[name]()[:305, :305]
    picture, truth = noisy(clean, 50), clean / 255
    settings = {"value_range": (0, 1), "channel_axis": axis(clean), "sigma": 50 / 255}
    one, other = shipped(picture, **settings), shipped(picture[::-1, ::-1], **settings)[::-1, ::-1]
    last, first = (np.s_[-16:, :], np.s_[:, -16:]), (np.s_[:16, :], np.s_[:, :16])

    def mean_score(*found: tuple[NDArray[Any], tuple[Any, ...]]) -> float:
        parts = [(truth[part], np.clip(image[part], 0, 1)) for image, two in found for part in two]
        return float(np.mean([psnr(*each, data_range=1) for each in parts]))

    filled, free = mean_score((one, last), (other, first)), mean_score((one, first), (other, last))
    assert free - filled < 0.6


def test_half_of_everything_is_half_of_the_result(shipped: snowmelt.Denoiser) -> None:
    picture = noisy(PHOTOS["camera"](), 25)
    one = shipped(picture, value_range=(0, 1), sigma=0.1)
    half = shipped(picture / 2, value_range=(0, 1), sigma=0.05)
    np.testing.assert_allclose(half, one / 2, atol=1e-5)


def test_they_say_what_they_are() -> None:
    shipped = zoo.shipped()
    assert {"base-grey", "base-colour", "fast-grey", "fast-colour"} <= set(shipped)
    cards = (Path(__file__).parents[1] / "docs" / "models.md").read_text("utf-8")
    for name, path in shipped.items():
        model = modelfile.read(path)
        header = model.header
        assert header.name == name
        assert len(model.raw) < 20e6
        assert all(len(row["sha256"]) == 64 for row in header.data)
        assert all("protocol" in row and row["value"] > 20 for row in header.scores)
        assert header.licence
        assert header.noise == "gaussian:0-55"
        assert "/" not in json.dumps(
            header.recipe["data"]["clean"]
        )  # names, not folders of a machine
        assert model.sha256 in cards


def test_a_photo_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean = PHOTOS["astronaut"]()
    spoilt = np.clip(np.rint(noisy(clean, 20) * 255), 0, 255).astype(np.uint8)
    images.write(tmp_path / "photo.png", spoilt)
    assert main(["denoise", str(tmp_path / "photo.png")]) == 0
    denoised = images.read(tmp_path / "photo_denoised.png")
    gain = psnr(clean, denoised, data_range=255) - psnr(clean, spoilt, data_range=255)
    assert gain > 7
    assert "noise level" in capsys.readouterr().err
    assert main(["models"]) == 0
    listed = capsys.readouterr().out
    assert "base-colour" in listed
    assert "fast-colour" in listed


@pytest.mark.parametrize("name", PHOTOS)
def test_large_is_better(name: str) -> None:
    clean = PHOTOS[name]()[:192, :192]
    picture, truth = noisy(clean, 25), clean / 255
    better, usual = (
        psnr(
            truth,
            snowmelt.load(model, precision="f32")(
                picture, value_range=(0, 1), sigma=25 / 255, channel_axis=axis(clean)
            ).clip(0, 1),
            data_range=1,
        )
        for model in ("large", "base")
    )
    assert better > usual + (0.15 if name != "camera" else 0.03)


def test_a_model_for_colour_alone_refuses_grey() -> None:
    with pytest.raises(UserError, match=r'for 3 channels, and this is a grey image; .*"base"'):
        snowmelt.load("base-colour")(PHOTOS["camera"]())


def test_nothing_in_them_is_dead() -> None:
    """What never fires was pruned: of the channels inside blocks, most fire somewhere in a picture."""
    for name, path in zoo.shipped().items():
        network = modelfile.load_network(path)
        assert isinstance(network, UNet)
        clean = PHOTOS["camera" if name.endswith("grey") else "coffee"]()[:192, :192]

        def batch(sigma: float, clean: NDArray[np.uint8] = clean) -> Batch:
            planes = np.atleast_3d(noisy(clean, sigma)).transpose(2, 0, 1)
            image = torch.from_numpy(np.ascontiguousarray(planes))[None]
            return Batch(image, image, level=torch.full_like(image[:, :1], sigma / 255))

        found = torch.cat([*calibration.largest(network, map(batch, (5, 50))).values()])
        assert (found > 0).float().mean() > 0.8
