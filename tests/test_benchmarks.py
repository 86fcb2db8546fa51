"""The benchmark whose figures the documents cite runs, and scores what is known."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from snowmelt import images, modelfile, models, zoo
from snowmelt.metrics import psnr
from snowmelt.models import UNet

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
QUALITY = BENCHMARKS / "quality.py"


def crop(top: int) -> NDArray[np.uint8]:
    return data.camera()[top : top + 101, 200:267]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Data laid out as the benchmark finds them; both peers give back what they are given."""
    for place, corner in (("bsd68", 100), ("bsds500/train", 300)):
        (tmp_path / place).mkdir(parents=True)
        images.write(tmp_path / place / "a.png", crop(corner))
    (tmp_path / "peers").mkdir()
    nothing = {"conv00.weight": np.zeros((1, 1, 3, 3)), "conv00.bias": np.zeros(1)}
    same = {"conv00.weight": np.zeros((4, 5, 3, 3)), "conv00.bias": np.zeros(4)}
    same["conv00.weight"][range(4), range(4), 1, 1] = 1
    for name, peer in (("dncnn_gray_25", nothing), ("ffdnet_gray", same)):
        np.savez(
            tmp_path / "peers" / f"{name}.npz",
            **{key: np.float32(array) for key, array in peer.items()},
        )
    return tmp_path


def test_quality_holds_models_against_peers(folder: Path) -> None:
    base = str(zoo.find_model("base", channels=1))
    done = subprocess.run(
        [sys.executable, str(QUALITY), "--model", base],
        env=os.environ | {"SNOWMELT_DATA": str(folder)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    scores = {row["name"]: row["psnr"] for row in rows}
    assert set(scores) >= {"dncnn", "ffdnet", base}
    clean = crop(100).astype(float)
    noisy = np.clip(clean + np.random.default_rng(0).normal(0, 25, clean.shape), 0, 255)
    as_it_is = float(psnr(clean, noisy, data_range=255))
    assert scores["dncnn"] == pytest.approx(as_it_is, abs=0.01)
    assert scores["ffdnet"] == pytest.approx(as_it_is, abs=0.01)
    assert scores[base] > as_it_is + 5
    assert "protocol" in done.stdout


def test_thinning_takes_what_matters_least(tmp_path: Path) -> None:
    """What would change the result by a millionth goes, and not what would change it by all."""
    for folder in ("photographs", "patterns"):
        (tmp_path / folder).mkdir()
    Image.fromarray(crop(100)[:96, :64]).save(tmp_path / "photographs" / "a.jpg")
    Image.fromarray(crop(200)[:96, :64]).save(tmp_path / "patterns" / "a.png")
    torch.manual_seed(0)
    network = UNet(widths=(32, 32), blocks=(1, 1))
    with torch.no_grad():
        for block in models.residual_blocks(network):
            torch.nn.init.kaiming_normal_(network.get_submodule(f"{block}.second").weight)
        network.encoders[0][0].second.weight[:, ::2] *= 1e-6  # type: ignore[index]
    header = modelfile.Header(
        architecture="unet", config=network.config, channels=1, reach=network.reach,
        multiple=network.multiple, conditioned=True,
    )  # fmt: skip
    whole, thinner = tmp_path / "whole.onnx", tmp_path / "thinner.onnx"
    modelfile.write(whole, network, header)
    command = [sys.executable, str(BENCHMARKS / "thin.py"), str(whole), str(thinner)]
    pictures = [str(tmp_path / "photographs"), str(tmp_path / "patterns")]
    subprocess.run([*command, "--products", "10", "--pictures", *pictures], check=True)
    thin = modelfile.load_network(thinner)
    assert thin.config["hidden"] == [16, 32, 32]
    picture, level = torch.rand(1, 1, 32, 32), torch.full((1, 1, 32, 32), 0.1)
    with torch.inference_mode():
        expected, found = (each(picture, level) for each in (network, thin))
    assert float((expected - picture).std()) > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_patterns_repeat_and_no_two_are_alike(tmp_path: Path) -> None:
    """The pictures that the models that ship learnt from can be drawn again: the first two of them."""
    for folder in ("once", "again"):
        command = [sys.executable, str(BENCHMARKS / "patterns.py"), str(tmp_path / folder)]
        subprocess.run([*command, "--count", "2"], check=True)
    pictures = [images.read(path) for path in sorted((tmp_path / "once").iterdir())]
    assert [(each.shape, each.dtype) for each in pictures] == [((320, 320, 3), np.uint8)] * 2
    assert min(each.std() for each in pictures) > 10
    assert np.abs(np.diff(pictures[0].astype(int), axis=1)).mean() > 1
    assert not np.array_equal(*pictures)
    again = [images.read(path) for path in sorted((tmp_path / "again").iterdir())]
    np.testing.assert_array_equal(pictures, again)


def test_pieces_have_detail_and_no_noise(tmp_path: Path) -> None:
    """Of sky, of a noisy and of a good piece, each 160 x 160 when reduced, the good one is kept."""
    good = data.astronaut()[100:420, 30:350].astype(float)
    noisy = good + np.random.default_rng(0).normal(0, 40, good.shape)
    sky = np.broadcast_to(np.linspace(90, 200, 320)[:, None, None], good.shape)
    row = np.concatenate([sky, noisy, good], axis=1)
    framed = np.pad(row, ((8, 8), (4, 4), (0, 0)))
    (tmp_path / "photos").mkdir()
    photo = Image.fromarray(np.clip(framed, 0, 255).astype(np.uint8))
    photo.save(tmp_path / "photos" / "a.jpg", quality=98, subsampling=0)
    command = [sys.executable, str(BENCHMARKS / "pieces.py"), str(tmp_path / "photos")]
    subprocess.run([*command, str(tmp_path / "pieces"), "--side", "160"], check=True)
    (kept,) = (tmp_path / "pieces").iterdir()
    reduced = good.reshape(160, 2, 160, 2, 3).mean((1, 3))
    assert np.abs(images.read(kept) - reduced).mean() < 2
