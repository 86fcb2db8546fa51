"""Files of a run that somebody may have edited: values, or a ValueError."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from snowmelt import limits, saved


def test_texts_are_read_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text("größer", "utf-8")
    assert saved.read_text(path) == "größer"
    monkeypatch.setattr(limits, "SAVED_BYTES", 7)
    with pytest.raises(ValueError, match="it has 8 bytes; expected at most 7"):
        saved.read_text(path)
    os.mkfifo(tmp_path / "pipe")
    for wrong in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ValueError, match="not an ordinary file"):
            saved.read_text(wrong)


@pytest.mark.parametrize("text", ["[" * 50_000, '{"a":' * 50_000, "1" * 30, "{", "-9e1e"])
def test_json_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        saved.from_json(text)


def test_json_and_toml() -> None:
    assert saved.from_json('{"a": [1, -2, 1e3, null]}') == {"a": [1, -2, 1000.0, None]}
    assert saved.from_toml("a = [1, 2]") == {"a": [1, 2]}
    with pytest.raises(ValueError, match="nested too deeply"):
        saved.from_toml("a = " + "[" * 50_000)


def test_values_are_checked() -> None:
    saved.check_numbers([1, 2.5, None, float("nan")])
    saved.check_texts(["", "a"])
    for wrong in ("1", True, [1]):
        with pytest.raises(ValueError, match="is no number"):
            saved.check_numbers([wrong])
    with pytest.raises(ValueError, match="None is no text"):
        saved.check_texts([None])


def test_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    arrays = {"a": np.eye(3, dtype=np.float16), "b": np.array(["x", "yz"]), "c": np.zeros((0, 4))}
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    found = saved.read_arrays(path)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_bomb_of_arrays_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.zeros(2**21))
    assert len(saved.read_arrays(path)["a"]) == 2**21
    monkeypatch.setattr(limits, "SAVED_ARRAYS_BYTES", 2**20)
    with pytest.raises(ValueError, match=r"its arrays claim 16,777,344 bytes, and it has 1\d,\d+"):
        saved.read_arrays(path)


def test_headers_that_claim_more_than_there_is(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.save(tmp_path / "a.npy", np.zeros(3))
    header = (tmp_path / "a.npy").read_bytes().replace(b"(3,)", b"(9,)")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.npy", header)
    with pytest.raises(ValueError, match=r"an array of shape \(9,\) and type float64 in 152 bytes"):
        saved.read_arrays(path)
    for junk in (b"", b"PK\3\4junk", json.dumps([1]).encode()):
        path.write_bytes(junk)
        with pytest.raises(ValueError, match=r"\S"):
            saved.read_arrays(path)
