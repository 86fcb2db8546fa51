import stat
from pathlib import Path

import pytest

from snowmelt.files import replacing, replacing_folder


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
