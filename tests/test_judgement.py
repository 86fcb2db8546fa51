"""Training on one's own pictures from the command line, with every kind of target, to its verdict."""

import json
from pathlib import Path

import numpy as np
import pytest

from snowmelt import images, modelfile, recipe
from snowmelt.cli import main

SMALL = (
    "--epochs", "2", "--steps", "4", "--widths", "8", "16", "--set", "network.blocks=[1,1]",
    "--batch", "2", "--patch", "32", "--set", "data.held_out=0.3", "--quiet",
)  # fmt: skip


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five scenes of blocks: clean, and two noisy exposures of each."""
    random = np.random.default_rng(0)
    for name in ("clean", "one", "two"):
        (tmp_path / name).mkdir()
    for scene in range(5):
        blocks = random.integers(40, 216, (9, 10))
        clean = np.kron(blocks, np.ones((8, 8)))
        images.write(tmp_path / "clean" / f"{scene}.png", clean.astype(np.uint8))
        for take in ("one", "two"):
            noisy = np.clip(np.rint(clean + random.normal(0, 15, clean.shape)), 0, 255)
            images.write(tmp_path / take / f"{scene}.png", noisy.astype(np.uint8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("flags", "name", "words"),
    [
        (("--noisy", "one", "--clean", "clean"), "pairs", "dB"),
        (("--noisy", "one", "--noisy-too", "two"), "pairs", "the second exposure ranks denoisers"),
        (("--clean", "clean", "--noise", "gaussian:5-25"), "pairs", "dB"),
        (("--noisy", "one"), "blindspot", "predicts pixels best without seeing them"),
    ],
)
def test_each_way_ends_in_a_model_and_a_verdict(
    flags: tuple[str, ...], name: str, words: str, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *flags, *SMALL]) == 0
    said = capsys.readouterr().out
    assert words in " ".join(said.split())
    assert "the network: " in said
    saved = json.loads((own / "runs" / name / "scores.json").read_text("utf-8"))
    assert [row["name"] for row in saved["rows"]][-2:] == ["base (bundled)", "the network"]
    folder = own / "runs" / name
    header = modelfile.read(folder / "model.onnx").header
    assert (header.architecture, header.conditioned, header.channels) == ("unet", True, 1)
    assert header.recipe["data"]["noisy"] + header.recipe["data"]["clean"] == [
        flag for flag in flags if flag in ("one", "clean")
    ]
    assert str(own) not in json.dumps(header.recipe)  # the file goes to others
    assert header.data[0]["pictures"] == 3
    assert header.data[1]["name"].startswith("held out")
    assert (folder / "report.html").stat().st_size > 10_000
    assert main(["train", "--resume", "-o", str(folder), "--quiet"]) == 0
    capsys.readouterr()
    assert (
        main(["denoise", "one/0.png", "--model", str(folder / "model.onnx"), "-o", "out.png"]) == 0
    )
    assert images.read("out.png").shape == (72, 80)


def test_the_best_epoch_is_kept_and_training_may_end_early(own: Path) -> None:
    flags = ["--noisy", "one", "--clean", "clean", *SMALL, "--epochs", "40", "--steps", "1"]
    patient = [*flags, "--lr", "0.005", "--schedule", "constant", "--set", "training.patience=3"]
    assert main(["train", *patient, "--set", "optimizer.ema=0.0"]) == 0
    rows = [json.loads(line) for line in (own / "runs/pairs/log.jsonl").read_text().splitlines()]
    best = max(rows, key=lambda row: row["psnr"])
    assert len(rows) == best["epoch"] + 3 < 40
    score = modelfile.read(own / "runs/pairs/model.onnx").header.scores[0]["value"]
    assert score == best["psnr"] > rows[-1]["psnr"]


def test_a_shipped_or_given_model_goes_on_with_other_channels(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--noisy", "one", "--clean", "clean", *SMALL, "-o", "grey"]) == 0
    for name in ("one", "clean"):
        (own / f"{name}3").mkdir()
        for scene in range(5):
            grey = images.read(own / name / f"{scene}.png")
            images.write(own / f"{name}3" / f"{scene}.png", np.stack([grey] * 3, -1))
    flags = ["--noisy", "one3", "--clean", "clean3", "--from", "grey/model.onnx", "-o", "colour"]
    assert main(["train", *flags, *SMALL, "--epochs", "1"]) == 0
    header = modelfile.read(own / "colour/model.onnx").header
    assert header.channels == 3
    assert header.config["widths"] == [8, 16]
    assert recipe.read("colour/recipe.toml").optimizer.lr == 3e-4  # of the recipe finetune
    assert "the network" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--noisy", "one", "--clean", "nowhere"), "nowhere"),
        (("--clean", "clean"), "need noise to learn from"),
        (("--noisy", "one", "--noise", "gaussian:5"), "is for clean pictures alone"),
        (("--noisy", "one", "--clean", "one"), "they are the same picture"),
        (("--noisy", "clean", "--clean", "one"), "swapped?"),
        (("--noisy", "one", "--budget", "soon"), "expected a time such as 90s, 10m or 1.5h"),
        (("--noisy", "one", "--budget", "1m", "--epochs", "3"), "--budget chooses training.epochs"),
    ],
)
def test_what_cannot_be_learnt_from(
    flags: tuple[str, ...], words: str, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *flags]) == 2
    assert words in capsys.readouterr().err
    assert not (own / "runs").exists()
