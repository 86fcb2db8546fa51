"""The README's commands run, its Python runs, and each path it names exists."""

import json
import re
import shlex
from pathlib import Path

import h5py
import numpy as np
import pytest

from snowmelt import budget, images, modelfile
from snowmelt.cli import main
from snowmelt.models import RecipeCNN

from .conftest import write_pairs

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
# What would take minutes is run with fewer epochs on fewer pictures; the flags themselves stay.
SHORT = {
    "demo": ["--data", "pairs.h5", "--epochs", "2", "--every", "1"],
    "train": ["--data", "pairs.h5", "--epochs", "1"],
}
OWN = [
    "--set", "training.epochs=1", "--set", "training.steps=2", "--set", "training.batch=2",
    "--set", "training.patch=16", "--set", "data.held_out=0.4",
    "--set", "network.widths=[8,16]", "--set", "network.blocks=[1,1]", "--force",
]  # fmt: skip


def commands() -> list[str]:
    """Every `snowmelt ...` of the README's table and console blocks, in order."""
    found = re.findall(r"^(?:\| `|\.venv/bin/)(snowmelt [^`\n]+?)(?:`|$)", README, re.MULTILINE)
    return [command for command in found if "--help" not in command]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: pairs, a scan, two photos, a Keras model."""
    folder = tmp_path_factory.mktemp("readme")
    write_pairs(folder / "pairs.h5")
    images.write(folder / "scan.tif", np.full((40, 50), 3000, np.uint16))
    images.write(folder / "a.jpg", np.full((40, 50, 3), 90, np.uint8))
    images.write(folder / "b.png", np.full((40, 50), 90, np.uint8))
    for name in ("photo.jpg", "shot.jpg"):
        images.write(folder / name, np.full((40, 50, 3), 90, np.uint8))
    write_keras_model(folder / "dn-mdl.h5")
    random = np.random.default_rng(0)
    for index in range(4):
        clean = np.kron(random.integers(40, 216, (5, 6)), np.ones((8, 8)))
        for name, sigma in (("noisy", 15), ("clean", 0)):
            (folder / name).mkdir(exist_ok=True)
            picture = np.clip(clean + random.normal(0, sigma, clean.shape), 0, 255)
            images.write(folder / name / f"{index}.png", picture.astype(np.uint8))
    return folder


def write_keras_model(path: Path) -> None:
    """Two blurs in a row, as Keras stores convolutions."""
    blank = {"name": "image", "batch_shape": [None, None, None, 1]}
    layers: list[dict[str, object]] = [{"class_name": "InputLayer", "config": blank}]
    with h5py.File(path, "w") as file:
        for name in ("first", "second"):
            config = {"name": name, "filters": 1, "kernel_size": [3, 3], "padding": "same"}
            config |= {"activation": "linear", "use_bias": True}
            layers.append({"class_name": "Conv2D", "config": config})
            group = file.create_group(f"model_weights/{name}/{name}")
            group["kernel"] = np.full((3, 3, 1, 1), 1 / 9, np.float32)
            group["bias"] = np.zeros(1, np.float32)
            names = [f"{name}/kernel", f"{name}/bias"]
            file[f"model_weights/{name}"].attrs["weight_names"] = names
        model = {"class_name": "Sequential", "config": {"name": "dn", "layers": layers}}
        file.attrs["model_config"] = json.dumps(model)
        file.attrs["keras_version"] = "3.0.0"


def test_the_commands_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    found = commands()
    assert len(found) >= 7
    monkeypatch.setattr(budget, "fit", lambda recipe, *_, **__: (recipe, ""))
    for command in found:
        words = shlex.split(command)[1:]
        extra = [] if "--resume" in words else SHORT.get(words[0], [])
        if "--noisy" in words:
            extra = OWN
        if words[0] == "demo" and Path("runs/demo").exists():
            continue  # the same command, told twice
        assert main([*words, *extra]) == 0, command
    assert images.read("scan_denoised.tif").dtype == np.uint16


def test_the_python_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    target = Path("runs/demo/model.onnx")
    if not target.exists():
        target.parent.mkdir(parents=True)
        network = RecipeCNN()
        modelfile.write(target, network, modelfile.make_header(network))
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        names = {"image": np.full((40, 50), 90, np.uint8)}
        exec(block, names)
        assert names["cleaner"].shape == (40, 50)
        assert names["cleaner"].dtype == np.uint8


def test_every_path_it_names_exists() -> None:
    paths = re.findall(r"\]\(([^):#]+)\)", README)
    assert len(paths) >= 3
    assert [path for path in paths if not (ROOT / path).exists()] == []
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text("utf-8")
