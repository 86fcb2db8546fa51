import os
import shutil
import socket
import stat
from pathlib import Path

import pytest

from snowmelt.files import replacing, replacing_folder, what_it_is


def test_a_file_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with replacing(target) as part:
        part.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_after_an_error_the_old_one_stands(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write() -> None:
        with replacing(target) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_modes_are_those_of_the_old_file_or_of_an_ordinary_new_one(tmp_path: Path) -> None:
    ordinary, target = tmp_path / "ordinary", tmp_path / "a.txt"
    ordinary.touch()
    with replacing(target):
        pass
    assert target.stat().st_mode == ordinary.stat().st_mode
    target.chmod(0o640)
    with replacing(target):
        pass
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


@pytest.mark.parametrize("old", ["nothing", "folder", "file", "link"])
def test_a_folder_replaces_whatever_stood_there(tmp_path: Path, old: str) -> None:
    target, elsewhere = tmp_path / "a.zarr", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    if old == "folder":
        target.mkdir()
        (target / "old").touch()
    elif old == "file":
        target.touch()
    elif old == "link":
        target.symlink_to(elsewhere)
    with replacing_folder(target) as part:
        (part / "new").touch()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert not target.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "elsewhere"]
    assert (elsewhere / "kept").exists()


def test_after_an_error_the_old_folder_stands(tmp_path: Path) -> None:
    target = tmp_path / "a.zarr"
    target.mkdir()
    (target / "old").touch()

    def write() -> None:
        with replacing_folder(target) as part:
            (part / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


def test_an_old_folder_comes_back_if_the_new_one_cannot_take_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, rename = tmp_path / "a.zarr", Path.rename
    target.mkdir()
    (target / "old").touch()

    def refuse(self: Path, new: Path) -> Path:
        if self.name.endswith(".part.zarr"):
            raise OSError("no")
        return rename(self, new)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="no"), replacing_folder(target):
        pass
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    "name", ["a" * 251 + ".tif", "雪" * 84 + ".h5", "a." + "b" * 253, "é" * 127]
)
@pytest.mark.parametrize("folder", [False, True])
def test_the_longest_names_have_room(tmp_path: Path, name: str, folder: bool) -> None:
    target = tmp_path / name
    with (replacing_folder if folder else replacing)(target) as part:
        assert len(os.fsencode(part.name)) < 120
        assert part.suffix in (target.suffix, ".part")
        assert (part.suffix == target.suffix) == (1 < len(target.suffix) < 20)
        if not folder:
            part.write_text("new")
    assert list(tmp_path.iterdir()) == [target]


def test_the_umask_is_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread's file would get the mode 0666 in that moment."""

    def refuse(_: int) -> int:
        raise AssertionError("the umask is every thread's")

    monkeypatch.setattr(os, "umask", refuse)
    with replacing(tmp_path / "a"):
        pass
    with replacing_folder(tmp_path / "b"):
        pass


def test_a_secret_file_is_never_open_to_others_while_it_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.touch(0o600)
    with replacing(target) as part:
        assert stat.S_IMODE(part.stat().st_mode) == 0o600


@pytest.mark.parametrize("way", ["pipe", "device", "link to a device"])
def test_what_is_no_file_is_never_replaced(tmp_path: Path, way: str) -> None:
    target = tmp_path / "a"
    if way == "pipe":
        os.mkfifo(target)
    elif way == "link to a device":
        target.symlink_to(os.devnull)
    else:
        target = Path(os.devnull)
    with pytest.raises(OSError, match=r"it is a (pipe \(FIFO\)|device), which no file may replace"):
        replacing(target).__enter__()
    assert what_it_is(target) in ("a pipe (FIFO)", "a device")


def test_files_folders_and_nothing_are_ordinary(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("file", ".", "none", "loop", "a\0b"):
        assert what_it_is(tmp_path / name) is None
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "s"))
        assert what_it_is(tmp_path / "s") == "a socket"


def test_a_read_only_folder_is_cleared_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tree that was copied from a read-only store, on a disk that then was full."""
    modes = {}
    rmtree = shutil.rmtree

    def look(path: Path, **options: bool) -> None:
        modes.update({each.name: stat.S_IMODE(each.stat().st_mode) for each in path.rglob("*")})
        rmtree(path, **options)

    monkeypatch.setattr(shutil, "rmtree", look)  # root may remove what is read-only

    def write() -> None:
        with replacing_folder(tmp_path / "a.zarr") as part:
            (part / "inner" / "deep").mkdir(parents=True)
            (part / "inner" / "deep").chmod(0o500)
            (part / "inner").chmod(0o500)
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write()
    assert list(tmp_path.iterdir()) == []
    assert modes == {"inner": 0o700, "deep": 0o700}
