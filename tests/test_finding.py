"""Which images an argument means, and the names that they are paired by."""

import os
from pathlib import Path

import pytest

from snowmelt.errors import UserError
from snowmelt.finding import find, find_all, is_several, without_ending

FILES = (
    "a.png", "a_denoised.png", "b.TIF", "b_denoised.TIF", "notes.txt", ".hidden.png",
    "day1/noisy.png", "day1/clean.png", "day2/noisy.png", "day2/clean.png",
    "day2/deep/noisy_7.png", ".git/a.png", "out/a.png",
)  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in FILES:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "in/stack.zarr").mkdir()
    (tmp_path / "in/stack.zarr/inside.png").touch()
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (
            "in",
            "a b day1/clean day1/noisy day2/clean day2/deep/noisy_7 day2/noisy out/a stack",
        ),
        ("in/*", "a b day1/clean day1/noisy day2/clean day2/deep/noisy_7 day2/noisy out/a stack"),
        ("in/*.png", "a"),
        ("in/*/noisy.png", "day1 day2"),
        ("./in//day?/clean.png", "1 2"),
        ("in/**/noisy*.png", "day1/noisy day2/deep/noisy_7 day2/noisy"),
        ("in/day[2]/*_*.png", ""),
        ("in/day[2]/deep/*_*.png", "2/deep/noisy_7"),
        ("in/a.png", "a"),
        ("in/b_denoised.TIF", "b_denoised"),
        ("in/*_denoised.png", "a"),
        ("in/*_denoised.*", "a_denoised b_denoised"),
        ("in/stack.zarr", "stack"),
        ("in/nowhere.png", "nowhere"),
        ("in/n*", ""),
    ],
)
def test_what_an_argument_means(text, keys):
    found = find(text)
    assert [each.key for each in found] == keys.split()
    assert all(each.file == Path(each.source) for each in found)


def test_places_are_below_what_was_named(here):
    assert [each.place for each in find("in/day*")] == [
        each.file.relative_to("in") for each in find("in/day*")
    ]
    assert {str(each.place) for each in find("in/day1")} == {"clean.png", "noisy.png"}
    assert not any("out" in each.source for each in find("in", leave_out=here / "in/out"))
    assert [each.key for each in find("in/out", leave_out=here / "in/out")] == ["a"]


def test_parts_of_files_and_names_with_wildcards():
    Path("in/h.h5").touch()
    (part,) = find("in/h.h5:/takes/noisy")
    assert (part.file, part.place, part.key) == (Path("in/h.h5"), Path("h.h5"), "takes/noisy")
    Path("in/b[1].png").touch()
    (literal,) = find("in/b[1].png")
    assert literal.key == "b[1]"
    assert not is_several("in/b[1].png")
    assert is_several("in/b[2].png")
    assert not is_several("in/stack.zarr")
    assert is_several("in/loop")


@pytest.mark.parametrize(
    ("keys", "shorter"),
    [
        ("1_real 2_real", "1 2"),
        ("1_real[0] 1_real[1]", "1[0] 1[1]"),
        ("1_real 2_mean", "1_real 2_mean"),
        ("a_1 b_1", "a_1 b_1"),
        ("real real_x", "real real_x"),
    ],
)
def test_endings_that_all_share(keys, shorter):
    assert without_ending(keys.split()) == shorter.split()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"an empty name: .* the current folder is called \."),
        ("-", r"called -: standard input and output are not supported; .* ./-"),
        ("a\0b", "no name of a file holds a zero byte"),
    ],
)
def test_names_that_mean_nothing_are_refused(text, words):
    with pytest.raises(UserError, match=words):
        find(text)


def forbid(monkeypatch, *forbidden):
    """Have folders look as if this user had no right to enter them; root always has it."""
    allowed = os.access
    scandir = os.scandir

    def refuse(path):
        if str(path) in forbidden:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(
        os, "access", lambda path, mode: str(path) not in forbidden and allowed(path, mode)
    )
    monkeypatch.setattr(os, "scandir", refuse)


@pytest.mark.parametrize("text", ["in", "in/**/*.png"])
def test_a_folder_that_cannot_be_entered_is_said_and_the_others_go_on(text, monkeypatch):
    forbid(monkeypatch, "in/day2")
    errors = []
    found = find(text, on_error=errors.append)
    assert {each.key.removesuffix(".png") for each in found} >= {
        "day1/clean",
        "day1/noisy",
        "out/a",
    }
    assert not any("day2" in each.source for each in found)
    assert [error.filename for error in errors] == ["in/day2"]
    with pytest.raises(PermissionError):
        find(text)


def test_if_nothing_else_is_there_it_is_an_error(monkeypatch):
    forbid(monkeypatch, "in/day1")
    with pytest.raises(UserError, match=r"no images found; not looked into: in/day1 \(Permission"):
        find_all(["in/day1"], on_error=lambda _: None)


def test_links_in_a_circle_are_no_folders(here):
    (here / "in/circle").symlink_to(here / "in/circle")
    assert not any("circle" in each.source for each in find("in", leave_out=here / "in/circle"))
