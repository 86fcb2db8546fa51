"""The commands of the pages on training run, on data of the names that they use."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import tifffile

from snowmelt import budget, images
from snowmelt.cli import main
from snowmelt.recipe import Recipe

DOCS = Path(__file__).parents[1] / "docs"
SHORT = [
    "--set", "training.epochs=1", "--set", "training.steps=2", "--set", "training.batch=2",
    "--set", "training.patch=16", "--set", "data.held_out=0.4", "--force", "--quiet",
]  # fmt: skip
SMALL = ["--set", "network.widths=[8,16]", "--set", "network.blocks=[1,1]"]


def commands(page: str) -> list[str]:
    """Every `snowmelt ...` in the page's blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)
    return [line.split("#")[0] for block in blocks for line in block.splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    random = np.random.default_rng(0)
    clean = [
        np.kron(random.integers(40, 216, (6, 6)), np.ones((8, 8))).astype(np.uint8)
        for _ in range(5)
    ]
    takes = {
        name: [
            np.clip(each + random.normal(0, 15, each.shape), 0, 255).astype(np.uint8)
            for each in clean
        ]
        for name in ("noisy", "takes-1", "takes-2")
    }
    for name, pictures in (takes | {"clean": clean}).items():
        (tmp_path / name).mkdir()
        for index, picture in enumerate(pictures):
            images.write(tmp_path / name / f"{index}.png", picture)
    tifffile.imwrite(tmp_path / "stack.tif", np.stack(takes["noisy"]), photometric="minisblack")
    tifffile.imwrite(tmp_path / "truth.tif", np.stack(clean), photometric="minisblack")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "page", ["train.md", "train-pairs.md", "train-takes.md", "train-clean.md", "train-noisy.md"]
)
@pytest.mark.usefixtures("folder")
def test_the_commands_run(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(recipe: Recipe, seconds: float, **_: bool) -> tuple[Recipe, str]:
        assert seconds == 600
        return recipe, ""

    monkeypatch.setattr(budget, "fit", fit)
    found = commands(page)
    assert len(found) >= 2
    for command in found:
        words = shlex.split(command)
        if words[0] == "torchrun":  # tests/test_parallel.py
            continue
        extra = [] if words[1] == "denoise" else SHORT
        if words[1] == "train" and "--from" not in words:
            extra = [*extra, *SMALL]
        assert main([*words[1:], *extra]) == 0, command


def test_every_page_and_path_exists() -> None:
    for page in DOCS.rglob("*.md"):
        for path in re.findall(r"\]\(([^):#]+)\)", page.read_text("utf-8")):
            assert (page.parent / path).exists(), f"{page.name}: {path}"


def test_the_index_of_experiments_is_whole_and_newest_first() -> None:
    index = (DOCS / "experiments" / "README.md").read_text("utf-8")
    listed = re.findall(
        r"^- ([\d-]+): \[.+\]\((.+)\), (kept|rejected|superseded)$", index, re.MULTILINE
    )
    files = {each.name for each in (DOCS / "experiments").glob("*.md")} - {"README.md"}
    assert {file for _, file, _ in listed} == files
    dates = [date for date, *_ in listed]
    assert dates == sorted(dates, reverse=True)
    assert all(file.startswith(date) for date, file, _ in listed)
