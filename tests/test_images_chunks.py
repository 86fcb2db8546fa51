"""Chunks of Zarr: what this reader makes of them equals what the zarr package makes of them."""

import bz2
import contextlib
import gzip
import itertools
import json
import lzma
import os
import random
import re
import shutil
import struct
import warnings
import zlib

import numcodecs
import numpy as np
import pytest
import zarr

from snowmelt import images
from snowmelt.errors import UserError
from snowmelt.images import open_image
from snowmelt.images.chunks import array_of

SHAPE = (13, 17)
PACKERS = {
    **{f"blosc {name} {shuffle}": numcodecs.Blosc(name, 5, shuffle)
       for name, shuffle in itertools.product(("lz4", "zstd", "blosclz", "zlib"), (0, 1, 2))},
    "zlib": numcodecs.Zlib(6), "gzip": numcodecs.GZip(6), "bz2": numcodecs.BZ2(), "lz4": numcodecs.LZ4(),
    "zstd": numcodecs.Zstd(3, checksum=True), "lzma": numcodecs.LZMA(),
    "raw lzma": numcodecs.LZMA(format=lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 1}]),
}  # fmt: skip
FILTERS = {
    "none": (),
    "delta": (numcodecs.Delta("<u2"),),
    "shuffle": (numcodecs.Shuffle(2),),
    "scale": (numcodecs.FixedScaleOffset(0, 2, "<u2", "<u4"),),
    "astype": (numcodecs.AsType("<u4", "<u2"),),
    "sums": (numcodecs.Delta("<u2"), numcodecs.CRC32(), numcodecs.Adler32(), numcodecs.Fletcher32(),
             numcodecs.CRC32C()),
}  # fmt: skip
SHARDS = {
    "plain": {"compressors": None},
    "gzip": {"compressors": zarr.codecs.GzipCodec(level=1)},
    "blosc": {"compressors": zarr.codecs.BloscCodec(cname="zstd", shuffle="bitshuffle")},
    "turned": {"filters": zarr.codecs.TransposeCodec(order=(1, 0))},
    "sums": {"compressors": (zarr.codecs.ZstdCodec(level=1), zarr.codecs.Crc32cCodec())},
}


def smooth(shape=SHAPE, dtype="u2"):
    """Values that pack well, each another."""
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def made(path, array, **options):
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # zarr says that codecs of numcodecs are not in the specification
        target = zarr.create_array(path, shape=array.shape, dtype=array.dtype, **options)
        target[:] = array
    return path


def read_by_zarr(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return zarr.open_array(path, mode="r")[:]


def rows(image, change=lambda values: values):
    for plane in range(image.layout.planes):
        for start in range(0, image.layout.height, 4):
            yield change(image.read_rows(plane, start, min(start + 4, image.layout.height)))


def check_both_ways(folder, array, axes=None, **options):
    """Read what zarr wrote, and have zarr read what is written; unchanged and turned over."""
    path = made(folder / "a.zarr", array, **options)
    image = open_image(path, axes=axes)
    np.testing.assert_array_equal(images.read(path, axes), array)
    image.write_like(folder / "b.zarr", rows(image))
    np.testing.assert_array_equal(read_by_zarr(folder / "b.zarr"), array)
    image.write_like(folder / "c.zarr", rows(image, lambda values: values[:, ::-1]))
    np.testing.assert_array_equal(read_by_zarr(folder / "c.zarr"), array[..., ::-1])


@pytest.mark.parametrize("name", PACKERS)
def test_packers_of_version_2(tmp_path, name):
    check_both_ways(
        tmp_path, smooth(), zarr_format=2, chunks=(5, 6), compressors=PACKERS[name], filters=()
    )


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_filters_of_version_2(tmp_path, name, order):
    check_both_ways(
        tmp_path, smooth(), zarr_format=2, chunks=(5, 6), filters=FILTERS[name], order=order,
        compressors=numcodecs.Zlib(1),
    )  # fmt: skip


@pytest.mark.parametrize("name", SHARDS)
@pytest.mark.parametrize("place", ["start", "end"])
def test_shards(tmp_path, name, place):
    codec = {"shape": (6, 12), "index_location": place}
    check_both_ways(tmp_path, smooth(), chunks=(3, 4), shards=codec, **SHARDS[name])


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_axes_in_any_order(tmp_path, order):
    check_both_ways(
        tmp_path, smooth((3, 7, 8)), axes="ZYX", chunks=(2, 4, 3),
        filters=zarr.codecs.TransposeCodec(order=order),
    )  # fmt: skip


def test_codecs_of_numcodecs_in_version_3(tmp_path):
    from zarr.codecs import numcodecs as codecs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        packers = (codecs.Zlib(level=1), codecs.BZ2(), codecs.CRC32())
        filters = (codecs.Delta(dtype="<u2"),)
    check_both_ways(tmp_path, smooth(), chunks=(5, 6), filters=filters, compressors=packers)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("dtype", "fill"),
    [("u1", 7), ("i2", -3), ("f4", np.nan), ("f4", -np.inf), ("f8", 0.1), ("f2", 0)],
)
def test_chunks_that_nobody_wrote(tmp_path, version, dtype, fill):
    """They are the fill value, and stay unwritten."""
    array = np.full(SHAPE, fill, dtype)
    array[0, 0] = 1
    check_both_ways(
        tmp_path, array, zarr_format=version, chunks=(5, 6), fill_value=array[-1, -1].item()
    )
    names = {path.name for path in (tmp_path / "a.zarr").rglob("*")}
    assert {path.name for path in (tmp_path / "b.zarr").rglob("*")} == names


def test_hexadecimal_fill_value(tmp_path):
    path = made(tmp_path / "a.zarr", np.ones(SHAPE, "f4"), chunks=(5, 6))
    header = json.loads((path / "zarr.json").read_text()) | {"fill_value": "0x7fc00001"}
    array = array_of(path / "nowhere", 3, header)
    assert array[0:1, 0:1].tobytes() == struct.pack("<I", 0x7FC00001)


def refused(path, *words):
    with pytest.raises(UserError) as caught:
        images.read(path)
    for word in (str(path), *words):
        assert word in str(caught.value)


@pytest.mark.parametrize("name", PACKERS)
@pytest.mark.parametrize("cut", [1, 40])
def test_a_cut_chunk_is_named(tmp_path, name, cut):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 2**16, (16, 16), dtype="u2")
    path = made(
        tmp_path / "a.zarr", array, zarr_format=2, chunks=(8, 8), compressors=PACKERS[name], filters=()
    )  # fmt: skip
    chunk = path / "1.0"
    chunk.write_bytes(chunk.read_bytes()[:-cut])
    refused(path, "chunk 1.0")


def test_blosc_never_reads_behind_its_buffer(tmp_path):
    """A buffer of bytes that are only copied, cut: Blosc returns what lies behind it in memory."""
    array = np.random.default_rng(0).integers(0, 256, (16, 16), dtype="u1")
    path = made(
        tmp_path / "a.zarr", array, zarr_format=2, chunks=(16, 16), compressors=PACKERS["blosc lz4 1"]
    )  # fmt: skip
    data = (path / "0.0").read_bytes()
    assert data[2] & 2
    (path / "0.0").write_bytes(data[:163])
    refused(path, "chunk 0.0", "holds 163 bytes where its header says 272")
    (path / "0.0").write_bytes(data[:4] + struct.pack("<III", 255, 256, 272) + data[16:])
    refused(path, "chunk 0.0")
    (path / "0.0").write_bytes(data[:4] + struct.pack("<III", 256, 256, 163) + data[16:163])
    refused(path, "chunk 0.0", "contradicts itself")


BOMB = bytes(2**24 + 2**23)
BOMBS = {
    "zlib": lambda: zlib.compress(BOMB, 9),
    "gzip": lambda: gzip.compress(BOMB, 9),
    "bz2": lambda: bz2.compress(BOMB),
    "lzma": lambda: lzma.compress(BOMB),
    "zstd": lambda: numcodecs.Zstd(9).encode(BOMB),
    "lz4": lambda: numcodecs.LZ4().encode(BOMB),
    "blosc": lambda: numcodecs.Blosc().encode(BOMB),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_not_unpacked(tmp_path, name):
    import tracemalloc

    path = made(tmp_path / "a.zarr", smooth((16, 16)), zarr_format=2, chunks=(16, 16))
    header = json.loads((path / ".zarray").read_text())
    header["compressor"] = {"id": name, "format": 1} if name == "lzma" else {"id": name}
    (path / ".zarray").write_text(json.dumps(header))
    bomb = BOMBS[name]()
    (path / "0.0").write_bytes(bomb)
    tracemalloc.start()
    refused(path, "chunk 0.0")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(BOMB) // 2  # LZMA keeps a dictionary of 8 MiB


def test_bombs_in_filters_and_bytes_behind_the_end(tmp_path):
    path = made(tmp_path / "a.zarr", smooth((16, 16)), zarr_format=2, chunks=(16, 16))
    header = json.loads((path / ".zarray").read_text()) | {"compressor": {"id": "zlib", "level": 1}}
    (path / ".zarray").write_text(json.dumps(header | {"filters": [{"id": "zlib", "level": 1}]}))
    (path / "0.0").write_bytes(zlib.compress(zlib.compress(BOMB, 9), 9))
    refused(path, "unpacks to more than the")
    (path / ".zarray").write_text(json.dumps(header))
    packed = zlib.compress(smooth((16, 16)).tobytes())
    (path / "0.0").write_bytes(packed + bytes(100))
    np.testing.assert_array_equal(images.read(path), smooth((16, 16)))
    (path / "0.0").write_bytes(packed + bytes(2**20))
    refused(path, "far more than its values need")
    (path / "0.0").write_bytes(zlib.compress(bytes(511)))
    refused(path, "unpacks to 511 bytes where 512 were announced")


def test_damaged_shards(tmp_path):
    path = made(tmp_path / "a.zarr", smooth(), chunks=(3, 4), shards=(15, 20))
    file = path / "c/0/0"
    data = bytearray(file.read_bytes())
    for place, words in ((-5, "index is damaged"), (len(data) // 3, "")):
        changed = data.copy()
        changed[place] ^= 255
        file.write_bytes(changed)
        if words:
            refused(path, "chunk c/0/0", words)
    file.write_bytes(data[:100])
    refused(path, "chunk c/0/0", "index is not all there")


def test_parts_of_a_shard_that_overlap(tmp_path):
    """A few bytes that an index names a million times would be unpacked as often."""
    path = made(tmp_path / "a.zarr", smooth(), chunks=(3, 4), shards=(15, 20), compressors=None)
    header = json.loads((path / "zarr.json").read_text())
    (settings,) = [codec["configuration"] for codec in header["codecs"]]
    settings["index_codecs"] = settings["index_codecs"][:1]
    (path / "zarr.json").write_text(json.dumps(header))
    file = path / "c/0/0"
    data = file.read_bytes()[:-4]
    file.write_bytes(data)
    np.testing.assert_array_equal(images.read(path), smooth())
    index = np.frombuffer(data[-16 * 25 :], "<u8").reshape(25, 2).copy()
    for place, part, words in (
        (1, index[0], "parts of it overlap"),
        (1, (index[0, 0] + 1, 24), "parts of it overlap"),
        (24, (len(data) - 3, 4), "cut off: a part of 4 bytes"),
        (24, (2**64 - 1, 4), "cut off: a part of 4 bytes"),
    ):
        changed = index.copy()
        changed[place] = part
        file.write_bytes(data[: -16 * 25] + changed.tobytes())
        refused(path, "chunk c/0/0", words)


def test_shards_inside_shards(tmp_path):
    path = made(tmp_path / "a.zarr", smooth(), chunks=(3, 4), shards=(15, 20))
    header = json.loads((path / "zarr.json").read_text())
    (outer,) = header["codecs"]
    inner = json.loads(json.dumps(outer))
    inner["configuration"]["chunk_shape"] = [1, 1]
    outer["configuration"]["codecs"] = [inner]
    (path / "zarr.json").write_text(json.dumps(header))
    with pytest.raises(UserError, match="shards inside shards are not read"):
        open_image(path)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("astype", {"encode_dtype": "|u1", "decode_dtype": "<U40000"}),
        ("fixedscaleoffset", {"offset": 0, "scale": 1, "astype": "|u1", "dtype": "<U40000"}),
        ("delta", {"astype": "|u1", "dtype": "|V100000"}),
        ("quantize", {"digits": 3, "astype": "<c16", "dtype": "<f4"}),
        ("delta", {"dtype": [["a", "<f8"], ["b", "<f8"]]}),
    ],
)
def test_filters_of_other_than_numbers(tmp_path, name, settings):
    path = made(tmp_path / "a.zarr", smooth(dtype="u1"), zarr_format=2, compressors=None)
    header = json.loads((path / ".zarray").read_text())
    header["filters"] = [{"id": name, **settings}]
    (path / ".zarray").write_text(json.dumps(header))
    with pytest.raises(UserError, match=f"type of its filter {name} is .*; expected whole numbers"):
        open_image(path)
    path = made(tmp_path / "b.zarr", smooth(dtype="u1"), compressors=None)
    header = json.loads((path / "zarr.json").read_text())
    header["codecs"].insert(0, {"name": f"numcodecs.{name}", "configuration": settings})
    (path / "zarr.json").write_text(json.dumps(header))
    with pytest.raises(UserError, match=f"type of its filter {name} is .*; expected whole numbers"):
        open_image(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("chunk_grid", {"name": "rectilinear", "configuration": {"chunk_shape": [5, 6]}}),
        ("chunk_key_encoding", {"name": "fanout"}),
        ("chunk_key_encoding", {"name": "default", "configuration": {"separator": "/../"}}),
        ("storage_transformers", [{"name": "x"}]),
        ("fill_value", "abc"),
        ("fill_value", 0.5),
        ("codecs", [{"name": "transpose", "configuration": {"order": [0, 0]}}, {"name": "bytes"}]),
        ("codecs", [{"name": "bytes"}, {"name": "\x1b[2J"}]),
        ("zarr_format", 2),
    ],
)
def test_what_is_not_read(tmp_path, key, value):
    path = made(tmp_path / "a.zarr", smooth(), chunks=(5, 6))
    header = json.loads((path / "zarr.json").read_text())
    (path / "zarr.json").write_text(json.dumps(header | {key: value}))
    with pytest.raises(UserError) as caught:
        images.read(path)
    assert str(caught.value).isprintable()


def test_chunks_without_end(tmp_path):
    path = made(tmp_path / "a.zarr", smooth(), chunks=(5, 6))
    header = json.loads((path / "zarr.json").read_text())
    header["shape"] = [2**14, 2**14]
    header["chunk_grid"]["configuration"]["chunk_shape"] = [1, 1]
    (path / "zarr.json").write_text(json.dumps(header))
    refused(path, "claims 268,435,456 chunks", "--max-pixels 274877906944")
    header["chunk_grid"]["configuration"]["chunk_shape"] = [2**14, 2**14]
    (path / "zarr.json").write_text(json.dumps(header | {"data_type": "float64", "fill_value": 0}))
    refused(path, "bytes to 2,147,483,648", "--max-pixels 2147483648")


@pytest.mark.parametrize(
    ("attributes", "fill", "expected"),
    [
        ({"_FillValue": -9999}, 0, -9999),
        ({"_FillValue": [-1.5]}, 0, -1.5),
        ({"missing_value": 7, "units": "K"}, 3, 7),
        ({"_FillValue": "AAAAAAAA8L8="}, 0, -1),
        ({}, -32768, -32768),
        ({}, 0, None),
        ({"_FillValue": "none"}, 0, None),
    ],
)
def test_the_value_for_missing_data(tmp_path, attributes, fill, expected):
    path = made(tmp_path / "a.zarr", smooth(dtype="f4"), fill_value=fill, attributes=attributes)
    assert open_image(path).nodata == expected


def test_a_read_only_store_gives_one_that_can_be_written(tmp_path):
    path = made(tmp_path / "a.zarr", smooth(), chunks=(5, 6))
    for each in (*path.rglob("*"), path):
        each.chmod(0o555 if each.is_dir() else 0o444)
    image = open_image(path)
    image.write_like(tmp_path / "b.zarr", rows(image))
    assert all(each.stat().st_mode & 0o200 for each in (tmp_path / "b.zarr").rglob("*"))
    for each in (path, *path.rglob("*")):
        each.chmod(0o755)
    assert {each.name for each in tmp_path.iterdir()} == {"a.zarr", "b.zarr"}


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    """One chunk of many cannot be written, while others still are."""
    import errno
    import time
    from pathlib import Path

    path = made(tmp_path / "a.zarr", smooth((40, 40)), chunks=(4, 4))
    write = Path.write_bytes

    def full(self, data):
        if self.parts[-2:] == ("0", "1"):
            raise OSError(errno.ENOSPC, "No space left on device")
        time.sleep(0.001)
        return write(self, data)

    image = open_image(path)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left on device"):
        image.write_like(tmp_path / "b.zarr", rows(image))
    monkeypatch.undo()
    assert [each.name for each in tmp_path.iterdir()] == ["a.zarr"]
    time.sleep(0.02)
    assert [each.name for each in tmp_path.iterdir()] == ["a.zarr"]


STORES = {
    "2 blosc": {"zarr_format": 2, "chunks": (5, 6), "compressors": numcodecs.Blosc("lz4")},
    "2 zlib": {"zarr_format": 2, "chunks": (5, 6), "compressors": numcodecs.Zlib(1), "order": "F"},
    "2 lz4": {"zarr_format": 2, "chunks": (5, 6), "compressors": numcodecs.LZ4()},
    "3 zstd": {"chunks": (5, 6)},
    "3 shards": {"chunks": (3, 4), "shards": (6, 12)},
    "3 turned": {"chunks": (5, 6), "filters": zarr.codecs.TransposeCodec(order=(1, 0))},
}
WORDS = (
    b"0",
    b"1",
    b"-1",
    b"4294967296",
    b"1e300",
    b'""',
    b"null",
    b"[]",
    b"{}",
    b'"zlib"',
    b'"bz2"',
)


def damage(rng, data):
    """Some bytes of a file exchanged, cut, or doubled; of metadata also whole words."""
    data = bytearray(data)
    words = []
    if data[:1] == b"{" and rng.random() < 0.7:
        words = [found.span() for found in re.finditer(rb'"[^"]*"|-?\d+|null|true|false', data)]
    if words:
        start, stop = rng.choice(words)
        data[start:stop] = rng.choice(WORDS)
        return bytes(data)
    for _ in range(rng.choice([1, 2, 8])):
        data[rng.randrange(len(data))] = rng.choice([0, 1, 127, 255, rng.randrange(256)])
    if rng.random() < 0.2:
        del data[rng.randrange(len(data)) :]
    if rng.random() < 0.1:
        data += data[rng.randrange(len(data) + 1) :]
    return bytes(data)


@pytest.mark.parametrize("name", STORES)
def test_damaged_stores(tmp_path, name):
    """An error, or the same values twice."""
    rng = random.Random(name)
    path = made(tmp_path / "a.zarr", smooth(), **STORES[name])
    files = sorted(each for each in path.rglob("*") if each.is_file())
    for _ in range(int(os.environ.get("SNOWMELT_FUZZ", "300")) // len(STORES)):
        file = rng.choice(files)
        before = file.read_bytes()
        file.write_bytes(damage(rng, before))
        with contextlib.suppress(UserError):
            image = open_image(path, max_pixels=2**16)
            whole = b"".join(band.tobytes() for band in rows(image))
            assert b"".join(band.tobytes() for band in rows(open_image(path))) == whole
            image.write_like(tmp_path / "b.zarr", rows(image, lambda values: values[:, ::-1]))
            shutil.rmtree(tmp_path / "b.zarr")
        file.write_bytes(before)
        assert [each.name for each in tmp_path.iterdir()] == ["a.zarr"]
