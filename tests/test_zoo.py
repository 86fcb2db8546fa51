from pathlib import Path

import pytest
import torch

from snowmelt import modelfile, zoo
from snowmelt.cli import main
from snowmelt.errors import UserError
from snowmelt.models import UNet
from snowmelt.zoo import find_model, find_pair


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A folder of models that ship; for the search empty files are good enough."""
    for name in ("base-grey", "base-colour", "fast-grey", "old"):
        (tmp_path / f"{name}.onnx").touch()
    monkeypatch.setattr(zoo, "shipped", lambda: zoo._files(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "grey", "colour"),
    [
        ("base", "base-grey", "base-colour"),
        ("fast", "fast-grey", None),
        ("old", "old", None),
        ("base-grey", "base-grey", None),
        ("base-colour", "base-colour", None),
    ],
)
def test_a_name_is_a_pair_or_a_file(weights, name, grey, colour):
    found = find_pair(name)
    assert found == (weights / f"{grey}.onnx", colour and weights / f"{colour}.onnx")
    # A pair in a folder goes by its path.
    assert find_pair(weights / name) == found


@pytest.mark.usefixtures("weights")
def test_the_number_of_channels_chooses():
    names = [find_model("base", channels=count).stem for count in (1, 2, 3, 4, 5)]
    assert names == ["base-grey", "base-grey", "base-colour", "base-grey", "base-grey"]
    assert find_model("fast", channels=3).stem == "fast-grey"


def test_a_path_is_taken_as_it_is(weights, tmp_path, monkeypatch):
    assert find_pair("no/such.onnx") == (Path("no/such.onnx"), None)
    monkeypatch.chdir(tmp_path)
    Path("base").mkdir()  # a folder of that name does no harm
    Path("mine").touch()
    assert find_pair("base")[0] == weights / "base-grey.onnx"
    assert find_pair("mine") == (Path("mine"), None)


def test_names_that_are_unknown(weights, monkeypatch):
    with pytest.raises(UserError, match=r"model 'bse': .*did you mean 'base'.*--model MODEL.onnx"):
        find_pair("bse")
    with pytest.raises(UserError, match=r"large: no such model, nor a pair of them"):
        find_pair(weights / "large")
    monkeypatch.setattr(zoo, "shipped", dict)
    with pytest.raises(UserError, match=r"'base': no such file, nor a shipped model \(none ships"):
        find_pair("base")


def test_models_are_listed_with_size_speed_and_scores(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    network = UNet([8, 8], [1, 1])
    header = modelfile.make_header(
        network,
        noise="Gaussian noise of sigma 0 to 55 of 255; " * 5,
        scores=[
            {"metric": "psnr", "value": 29.3, "set": "BSD68", "sigma": 25, "protocol": "as DnCNN's"}
        ],
        licence="CC0",
        data=[{"name": "BSDS500", "sha256": "0" * 64}],
    )
    modelfile.write(tmp_path / "base-grey.onnx", network, header)
    monkeypatch.setattr(zoo, "shipped", lambda: zoo._files(tmp_path))
    assert main(["models", "--verbose", "--time"]) == 0
    text = capsys.readouterr().out
    parameters = sum(value.numel() for value in network.parameters())
    assert text.startswith("base-grey        grey ")
    for words in (
        f" {parameters:,} parameters ",
        " MB ",
        " Mpx/s (",
        "psnr 29.30 (BSD68, sigma 25)",
        "as DnCNN's",
        "CC0",
        "BSDS500",
        modelfile.read(tmp_path / "base-grey.onnx").sha256,
    ):
        assert words in text
    assert max(map(len, text.splitlines())) <= 100


def test_without_models_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(zoo, "shipped", dict)
    assert main(["models"]) == 0
    assert "No model ships with this version" in capsys.readouterr().out
