import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from snowmelt.data import NAMES, fetch, is_url, read_dataset
from snowmelt.errors import UserError


def write(path: Path, **arrays: NDArray[np.generic]) -> Path:
    grey = np.full((3, 6, 5), 0.5, np.float32)
    with h5py.File(path, "w") as file:
        for name in NAMES:
            array = arrays.get(name, grey)
            if array is not None:
                file[name] = array
    return path


@pytest.mark.parametrize(
    ("kind", "white"), [("u1", 255), ("u2", 65535), ("<f4", 1), (">f8", 1), (">u2", 65535)]
)
def test_every_number_type_becomes_float_in_0_to_1(tmp_path: Path, kind: str, white: int) -> None:
    ramp = (np.arange(90).reshape(3, 6, 5) / 89 * white).astype(kind)
    dataset = read_dataset(write(tmp_path / "data.h5", **dict.fromkeys(NAMES, ramp)))
    expected = (ramp.astype(np.float64) / white).astype(np.float32)
    for array in (dataset.train.noisy, dataset.test.clean):
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, expected, rtol=1e-6)
    assert dataset.sha256 == hashlib.sha256((tmp_path / "data.h5").read_bytes()).hexdigest()


def test_noisy_floats_may_leave_the_range(tmp_path: Path) -> None:
    noisy = np.full((3, 6, 5), 1.4, np.float32)
    assert read_dataset(write(tmp_path / "data.h5", train_ns=noisy)).train.noisy.max() == 1.4


def holed(value: float) -> NDArray[np.float32]:
    array = np.full((3, 6, 5), 0.5, np.float32)
    array[1, 4, 2] = value
    return array


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"test_gt": None}, r"no array 'test_gt'; found test_ns, train_gt, train_ns"),
        ({"train_ns": np.zeros((2, 6, 5))}, r"train_ns is \(2, 6, 5\) and train_gt is \(3, 6, 5\)"),
        ({"train_ns": np.zeros((0, 6, 5))}, r"train_ns has shape \(0, 6, 5\).*none of them zero"),
        ({"train_ns": np.zeros((6, 5))}, r"expected \(number, height, width\)"),
        ({"train_ns": np.zeros((3, 6, 5), np.int64)}, r"holds int64; expected uint8"),
        ({"train_ns": np.full((3, 6, 5), b"x")}, r"expected uint8"),
        ({"train_ns": holed(np.nan)}, r"1 NaN or infinite.*picture 1 at row 4, column 2"),
        ({"test_gt": holed(np.inf)}, r"test_gt has 1 NaN or infinite"),
        ({"train_gt": holed(200.0)}, r"ranges from 0.5 to 200.*divide both"),
        ({"train_gt": holed(-0.5)}, r"ranges from -0.5 to 0.5"),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, arrays: dict[str, NDArray[np.generic]], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_dataset(write(tmp_path / "data.h5", **arrays))
    assert "data.h5" in str(caught.value)


def test_a_group_is_no_array(tmp_path: Path) -> None:
    path = write(tmp_path / "data.h5", train_ns=None)  # type: ignore[arg-type]
    with h5py.File(path, "a") as file:
        file.create_group("train_ns")
    with pytest.raises(UserError, match="train_ns has Group"):
        read_dataset(path)


@pytest.mark.parametrize("length", [0, 7, 100, 2000])
def test_truncated_and_foreign_files_are_refused(tmp_path: Path, length: int) -> None:
    path = write(tmp_path / "data.h5")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=r"not a readable HDF5 file.*train_ns"):
        read_dataset(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.h5"):
        with pytest.raises(UserError, match=r"no such file; expected one HDF5 file"):
            read_dataset(path)


# --- fetching


class Server(ThreadingHTTPServer):
    """Serves one file; ``cut`` breaks the transfer off half-way, ``status`` refuses it."""

    content = b""
    cut = False
    status = 200
    requests = 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        half = len(self.server.content) // 2
        self.wfile.write(self.server.content[: half if self.server.cut else None])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("SNOWMELT_CACHE", str(tmp_path / "cache"))
    with Server(("127.0.0.1", 0), Handler) as serving:
        serving.content = np.random.default_rng(0).bytes(200_000)
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}/demo-dataset.h5"


def test_a_file_is_fetched_once(server: Server) -> None:
    sha256 = hashlib.sha256(server.content).hexdigest()
    first = fetch(address(server), sha256=sha256, quiet=True)
    assert first.read_bytes() == server.content
    assert fetch(address(server), quiet=True) == first
    assert server.requests == 1


def test_a_bar_is_shown(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(address(server))
    assert "200k/200k" in capsys.readouterr().err


def test_a_transfer_that_breaks_off_leaves_nothing_and_can_be_tried_again(server: Server) -> None:
    server.cut = True
    with pytest.raises(UserError, match=r"could not be fetched whole .*nothing was kept"):
        fetch(address(server), quiet=True)
    cache = server_cache()
    assert [item for item in cache.rglob("*") if item.is_file()] == []
    server.cut = False
    assert fetch(address(server), quiet=True).read_bytes() == server.content


def server_cache() -> Path:
    import os

    return Path(os.environ["SNOWMELT_CACHE"])


def test_another_hash_is_refused_and_not_kept(server: Server) -> None:
    with pytest.raises(UserError, match=r"another SHA-256 than the one given, 0000"):
        fetch(address(server), sha256="0" * 64, quiet=True)
    assert [item for item in server_cache().rglob("*") if item.is_file()] == []


def test_errors_of_the_server_and_no_server_are_told(server: Server) -> None:
    server.status = 404
    with pytest.raises(UserError, match="404"):
        fetch(address(server), quiet=True)
    with pytest.raises(UserError, match="could not be fetched"):
        fetch("http://127.0.0.1:9/data.h5", quiet=True)


def test_what_counts_as_a_url() -> None:
    assert is_url("https://example.org/a.h5")
    assert not is_url("a.h5")
    assert not is_url("C:/a.h5")
