import contextlib
import gzip
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from snowmelt import limits
from snowmelt.data import NAMES, Dataset, Pairs, check_different, fetch, is_url, read_dataset
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


# --- what points out of the file, or claims what it does not hold


def leading_out(name: str, folder: Path) -> Path:
    """A file whose train_ns is elsewhere: in a text, a fifo, or another HDF5 file."""
    secret, other = folder / "secret.txt", folder / "other.h5"
    secret.write_bytes(b"s" * 90)
    with h5py.File(other, "w") as file:
        file["x"] = np.full((3, 6, 5), 115, "u1")
    path = write(folder / "data.h5", train_ns=None)  # type: ignore[arg-type]
    with h5py.File(path, "a") as file:
        if name == "external":
            file.create_dataset("train_ns", (3, 6, 5), "u1", external=[(str(secret), 0, 90)])
        elif name == "link":
            file["train_ns"] = h5py.ExternalLink("other.h5", "/x")
        elif name == "hop":
            file["there"] = h5py.ExternalLink("other.h5", "/")
            file["train_ns"] = h5py.SoftLink("/there/x")
        elif name == "circle":
            file["train_ns"] = h5py.SoftLink("/train_ns")
        else:
            layout = h5py.VirtualLayout((3, 6, 5), "u1")
            layout[:] = h5py.VirtualSource("other.h5", "x", (3, 6, 5))
            file.create_virtual_dataset("train_ns", layout)
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("external", "'train_ns' is stored in other files"),
        ("link", "'train_ns' is a link to another file"),
        ("hop", "'train_ns' is a link to another file"),
        ("circle", "or to itself"),
        ("virtual", "'train_ns' is a virtual dataset"),
    ],
)
def test_data_in_other_files_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"data\.h5: .*{message}"):
        read_dataset(leading_out(name, tmp_path))


def test_links_within_the_file_are_followed(tmp_path: Path) -> None:
    path = write(tmp_path / "data.h5", train_ns=None)  # type: ignore[arg-type]
    with h5py.File(path, "a") as file:
        file["group/x"] = np.full((3, 6, 5), 0.25, np.float32)
        file["train_ns"] = h5py.SoftLink("group/x")
    assert (read_dataset(path).train.noisy == 0.25).all()


CHUNKINGS: list[dict[str, object]] = [
    {"chunks": (1, 6, 5), "compression": "gzip"},
    {"chunks": (5, 4, 5), "compression": "lzf", "shuffle": True},
    {"chunks": (7, 6, 5), "maxshape": (None, None, None)},
    {},
]


@pytest.mark.parametrize("options", CHUNKINGS)
def test_data_in_any_chunks(
    tmp_path: Path, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snowmelt.data.BLOCK", 100)  # images of 30 bytes, three at once
    values = np.random.default_rng(0).integers(0, 256, (20, 6, 5), np.uint8)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        for name in NAMES:
            file.create_dataset(name, data=values, **options)
    found = read_dataset(tmp_path / "data.h5")
    np.testing.assert_array_equal(found.test.noisy, values / np.float32(255))
    assert found.dtypes["train_gt"] == np.uint8


def test_arrays_that_claim_more_than_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        for name in NAMES:
            file.create_dataset(name, (3000, 1000, 1000), "u1", chunks=(1, 1000, 1000))
    before = time.monotonic()
    with pytest.raises(UserError, match=r"claims 12,000,000,000 bytes of numbers and holds"):
        read_dataset(path)
    assert time.monotonic() - before < 5


def test_more_than_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "available_memory", lambda: 1000)
    with pytest.raises(UserError, match=r"360 values need 0\.0 GiB of memory"):
        read_dataset(write(tmp_path / "data.h5"))


def test_there_is_memory_available() -> None:
    found = limits.available_memory()
    assert found is None or 2**26 < found < 2**50


def stacked(path: Path, times: int) -> None:
    """Chunks that are compressed several times over, as a bomb is."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((3, 6, 5))
    for _ in range(times):
        plist.set_deflate(9)
    with h5py.File(path, "a") as file:
        del file["train_ns"]
        space = h5py.h5s.create_simple((3, 6, 5))
        h5py.h5d.create(file.id, b"train_ns", h5py.h5t.STD_U8LE, space, plist)
        file["train_ns"][:] = 7


def test_filters_one_over_the_other(tmp_path: Path) -> None:
    path = write(tmp_path / "data.h5")
    stacked(path, 1)
    assert read_dataset(path).train.noisy.max() == np.float32(7 / 255)
    stacked(path, 3)
    with pytest.raises(UserError, match="'train_ns' is compressed 3 times over by filter 1"):
        read_dataset(path)


def test_chunks_far_larger_than_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "data.h5", train_ns=None)  # type: ignore[arg-type]
    with h5py.File(path, "a") as file:
        file.create_dataset(
            "train_ns", (3, 6, 5), "u1", chunks=(2**9, 2**10, 2**10), maxshape=(None, None, None)
        )
    with pytest.raises(UserError, match="'train_ns' is in chunks of 536,870,912 bytes"):
        read_dataset(path)


def test_names_in_a_file_cannot_steer_the_terminal(tmp_path: Path) -> None:
    path = write(tmp_path / "data.h5", test_gt=None)  # type: ignore[arg-type]
    with h5py.File(path, "a") as file:
        file["\x1b]0;owned\x07"] = 1
    with pytest.raises(UserError, match=r"found \\x1b\]0;owned\\x07, test_ns") as caught:
        read_dataset(path)
    assert str(caught.value).isprintable()


def test_the_same_image_twice_is_no_pair() -> None:
    rng = np.random.default_rng(0)
    clean = rng.random((4, 6, 5), np.float32)
    noisy = clean.copy()
    noisy[:2] += 0.1
    other = Pairs(noisy + 0.1, clean)
    check_different(Dataset(Pairs(noisy, clean), other, "data.h5", ""))
    noisy[1] = clean[1]
    with pytest.raises(
        UserError, match=r"data\.h5: in 3 of 4 training pairs the noisy image is the"
    ):
        check_different(Dataset(Pairs(noisy, clean), other, "data.h5", ""))


# --- fetching


SIGNATURE = b"\x89HDF\r\n\x1a\n"


class Server(ThreadingHTTPServer):
    """Serves one file; ``how`` is what is wrong with it."""

    content = b""
    how = ""
    status = 200
    requests = 0
    daemon_threads = True


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server, how, content = self.server, self.server.how, self.server.content
        server.requests += 1
        if how == "mute":
            time.sleep(3)
        self.send_response(server.status)
        if how == "gzip":
            content = gzip.compress(content + bytes(10_000_000))
            self.send_header("Content-Encoding", "gzip")
        if how in ("chunked", "endless"):
            self.send_header("Transfer-Encoding", "chunked")
        else:
            claimed = 2**60 if how == "huge" else len(content)
            self.send_header("Content-Length", str(claimed))
        self.close_connection = True
        self.end_headers()
        with contextlib.suppress(OSError):  # the other side has had enough
            self.send(content, how)

    def send(self, content: bytes, how: str) -> None:
        if how == "slow":
            for byte in content[:100]:
                self.wfile.write(bytes([byte]))
                time.sleep(0.05)
        elif how in ("chunked", "endless"):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))
            for _ in range(10_000 if how == "endless" else 0):
                self.wfile.write(b"10000\r\n%b\r\n" % bytes(2**16))
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.wfile.write(content[: len(content) // 2 if how == "cut" else None])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("SNOWMELT_CACHE", str(tmp_path / "cache"))
    with Server(("127.0.0.1", 0), Handler) as serving:
        serving.content = SIGNATURE + np.random.default_rng(0).bytes(199_992)
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True)
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
    server.how = "cut"
    with pytest.raises(UserError, match=r"could not be fetched whole .*nothing was kept"):
        fetch(address(server), quiet=True)
    cache = server_cache()
    assert [item for item in cache.rglob("*") if item.is_file()] == []
    server.how = ""
    assert fetch(address(server), quiet=True).read_bytes() == server.content


def server_cache() -> Path:
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


WRONG = [
    ("gzip", "the server sends it compressed \\(gzip\\)"),
    ("huge", "it has 1,152,921,504,606,846,976 bytes or more, and the cache's disk has"),
    ("endless", "bytes or more, and the cache's disk has"),
    ("slow", "it comes too slowly, .* expected 1,000 a second or more"),
    ("mute", "no answer within 0.4 seconds"),
    ("cut", "could not be fetched whole"),
]


@pytest.mark.parametrize(("how", "message"), WRONG)
def test_no_transfer_is_without_end(
    server: Server, how: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.how = how
    if how == "slow":
        monkeypatch.setattr(limits, "FETCH_PATIENCE_SECONDS", 0.3)
    if how == "mute":
        monkeypatch.setattr(limits, "FETCH_ANSWER_SECONDS", 0.4)
    if how == "endless":
        room = os.statvfs(server_cache().parent)
        free = room.f_bavail * room.f_frsize
        monkeypatch.setattr(limits, "FETCH_SPARE_BYTES", free - 10_000_000)
    with pytest.raises(UserError, match=f"demo-dataset.h5: .*{message}"):
        fetch(address(server), quiet=True)
    assert [item for item in server_cache().rglob("*") if item.is_file()] == []


def test_chunked_transfers_are_whole(server: Server) -> None:
    server.how = "chunked"
    assert fetch(address(server), quiet=True).read_bytes() == server.content


def test_a_page_to_log_in_is_not_kept_as_the_data(server: Server) -> None:
    data, server.content = server.content, b"\n<!DOCTYPE html><title>Welcome</title>" + bytes(2**18)
    with pytest.raises(UserError, match="not HDF5 but a web page, perhaps one to log in"):
        fetch(address(server), quiet=True)
    server.content = b"PK\x03\x04"
    with pytest.raises(UserError, match=r"not HDF5 but b'PK\\x03"):
        fetch(address(server), quiet=True)
    server.content = bytes(512) + data
    path = fetch(address(server), quiet=True)
    path.write_bytes(b"<html>")  # as an older version kept it
    server.content = data
    assert fetch(address(server), quiet=True).read_bytes() == data


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "https://[::1/a.h5",
        "http://a:b/c",
        "ftp://a/b.h5",
        "file:///etc/passwd",
        "http://a/\x1b[31m.h5",
    ],
)
def test_bad_urls(url: str) -> None:
    assert is_url(url)
    with pytest.raises(UserError, match="not a valid URL; expected one such as") as caught:
        fetch(url)
    assert str(caught.value).isprintable()


def test_what_counts_as_a_url() -> None:
    assert is_url("https://example.org/a.h5")
    assert not is_url("a.h5")
    assert not is_url("C:/a.h5")


def test_hdf5_is_opened_by_the_guarded_reader_alone() -> None:
    """But for writing: the tutorial's data set, and a copy in which an image is exchanged."""
    import snowmelt

    root = Path(snowmelt.__file__).parent
    opening = {path.name for path in root.rglob("*.py") if "h5py.File(" in path.read_text("utf-8")}
    assert opening == {"hdf5file.py", "hdf5.py", "shapes.py"}
