import stat
from pathlib import Path

import pytest

from snowmelt.files import replacing


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
