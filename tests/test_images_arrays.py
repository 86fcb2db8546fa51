import contextlib
import io
import json
import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numcodecs import GZip, Pickle

from snowmelt import children, images, limits
from snowmelt.errors import UserError
from snowmelt.images import hdf5, open_image

HDF5 = "snowmelt.images.hdf5"

EXAMPLES = int(os.environ.get("SNOWMELT_FUZZ", "150"))
NUMBERS = ("u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8")
STACKS = [("YX", (13, 17)), ("XY", (17, 13)), ("YXC", (13, 17, 3)), ("SYX", (3, 13, 17)),
          ("ZYX", (4, 13, 17)), ("TCZYX", (2, 3, 4, 13, 17))]  # fmt: skip


def values(shape, dtype="u2"):
    """Every bit pattern, NaN and infinities included where the type has them."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape)) * dtype.itemsize
    raw = np.random.default_rng(0).integers(0, 256, count, dtype="u1")
    return raw.view(dtype).reshape(shape)


def bands(image, rows=5):
    for plane in range(image.layout.planes):
        for start in range(0, image.layout.height, rows):
            yield image.read_rows(plane, start, min(start + rows, image.layout.height))


def copy(image, target, rows=5):
    """The output of a denoiser that changes nothing."""
    image.write_like(target, bands(image, rows))
    return target


def refused(path, *words, **options):
    with pytest.raises(UserError) as caught:
        copy(open_image(path, **options), Path(path).parent / f"out{Path(path).suffix}")
    message = str(caught.value)
    assert Path(str(path).split(":/")[0]).name in message
    for word in words:
        assert word in message


def negated(image):
    """Other values of the same type in every place."""
    for band in bands(image):
        yield ~band if band.dtype.kind in "ui" else -band


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("number", NUMBERS)
def test_npy_of_any_number_comes_back_byte_by_byte(tmp_path, number, order):
    np.save(tmp_path / "a.npy", values((13, 17), order + number))
    before = (tmp_path / "a.npy").read_bytes()
    image = open_image(tmp_path / "a.npy")
    assert (image.layout.shape, image.layout.axes) == ((13, 17), "YX")
    assert image.layout.dtype == np.dtype(number)
    assert copy(image, tmp_path / "b.npy").read_bytes() == before
    assert (tmp_path / "a.npy").read_bytes() == before


@pytest.mark.parametrize("memory", ["C", "F"])
@pytest.mark.parametrize(("axes", "shape"), STACKS)
def test_npy_of_any_axes_and_memory_order(tmp_path, axes, shape, memory):
    array = np.asarray(values(shape), order=memory)
    np.save(tmp_path / "a.npy", array)
    image = open_image(tmp_path / "a.npy", axes=axes)
    np.testing.assert_array_equal(images.read(tmp_path / "a.npy", axes=axes), array)
    assert copy(image, tmp_path / "b.npy").read_bytes() == (tmp_path / "a.npy").read_bytes()
    image.write_like(tmp_path / "c.npy", negated(image))
    other = np.load(tmp_path / "c.npy")
    np.testing.assert_array_equal(other, ~array)
    assert other.flags.fnc == array.flags.fnc


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_npy_versions_are_kept(tmp_path, version):
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, values((13, 17)), version=version)
    again = copy(open_image(tmp_path / "a.npy"), tmp_path / "b.npy").read_bytes()
    assert again == (tmp_path / "a.npy").read_bytes()
    assert tuple(again[6:8]) == version


def test_what_follows_in_an_npy_file_is_kept(tmp_path):
    np.save(tmp_path / "a.npy", values((13, 17)))
    with (tmp_path / "a.npy").open("ab") as file:
        file.write(b"tail")
    image = open_image(tmp_path / "a.npy")
    image.write_like(tmp_path / "b.npy", negated(image))
    assert (tmp_path / "b.npy").read_bytes().endswith(b"tail")


def test_output_onto_the_input(tmp_path):
    array = values((13, 17))
    np.save(tmp_path / "a.npy", array)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = array
    zarr.save_array(tmp_path / "a.zarr", array)
    for name in ("a.npy", "a.h5", "a.zarr"):
        image = open_image(tmp_path / name)
        image.write_like(tmp_path / name, negated(image))
        np.testing.assert_array_equal(images.read(tmp_path / name), ~array)
    assert len(list(tmp_path.iterdir())) == 3


FILTERS = {
    "contiguous": {},
    "chunks": {"chunks": (5, 4)},
    "gzip": {"chunks": (4, 6), "compression": "gzip", "compression_opts": 7, "shuffle": True},
    "lzf": {"chunks": (20, 6), "compression": "lzf", "fletcher32": True, "maxshape": (None, 40)},
    "fill": {"chunks": (5, 5), "fillvalue": 7},
    "scaleoffset": {"chunks": (5, 5), "scaleoffset": 0},
}


def hdf5_traits(dataset):
    plist = dataset.id.get_create_plist()
    return (
        dataset.dtype, dataset.shape, dataset.chunks, dataset.maxshape, dataset.fillvalue,
        dataset.compression, dataset.compression_opts, dataset.shuffle, dataset.fletcher32,
        [plist.get_filter(i) for i in range(plist.get_nfilters())],
        {name: np.asarray(value).tolist() for name, value in dataset.attrs.items()},
    )  # fmt: skip


@pytest.mark.parametrize("options", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_hdf5_keeps_all_but_the_values(tmp_path, options, libver):
    array = values((13, 17))
    with h5py.File(tmp_path / "a.h5", "w", libver=libver) as file:
        dataset = file.create_dataset("group/x", data=array, **options)
        dataset.attrs["element_size_um"] = [0.5, 0.25]
    image = open_image(tmp_path / "a.h5")
    copy(image, tmp_path / "b.h5")
    image.write_like(tmp_path / "c.h5", negated(image))
    with (
        h5py.File(tmp_path / "a.h5") as a,
        h5py.File(tmp_path / "b.h5") as b,
        h5py.File(tmp_path / "c.h5") as c,
    ):
        traits = hdf5_traits(a["group/x"])
        assert traits == hdf5_traits(b["group/x"]) == hdf5_traits(c["group/x"])
        np.testing.assert_array_equal(b["group/x"], array)
        np.testing.assert_array_equal(c["group/x"], ~array)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("number", NUMBERS)
def test_hdf5_of_any_number(tmp_path, number, order):
    array = values((13, 17), order + number)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=array, chunks=(5, 6))
    copy(open_image(tmp_path / "a.h5"), tmp_path / "b.h5")
    with h5py.File(tmp_path / "b.h5") as file:
        assert file["x"].dtype == array.dtype
        assert file["x"][()].tobytes() == array.tobytes()


@pytest.mark.parametrize(("axes", "shape"), STACKS)
def test_hdf5_of_any_axes(tmp_path, axes, shape):
    array = values(shape)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=array, chunks=tuple(min(3, n) for n in shape))
    image = open_image(tmp_path / "a.h5", axes=axes)
    np.testing.assert_array_equal(images.read(tmp_path / "a.h5", axes=axes), array)
    image.write_like(tmp_path / "b.h5", negated(image))
    np.testing.assert_array_equal(images.read(tmp_path / "b.h5", axes=axes), ~array)


def test_what_lies_beside_a_dataset_is_kept(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=512) as file:
        file.attrs["title"] = "cells"
        file.create_dataset("raw/x", data=values((13, 17)), track_times=True)
        file["raw/hard"] = file["raw/x"]
        file["soft"] = h5py.SoftLink("/raw/x")
        file["away"] = h5py.ExternalLink("nowhere.h5", "/x")
        file["pointer"] = np.array([file["raw/x"].ref], h5py.ref_dtype)
        file["table"] = np.zeros(3, [("a", "i4"), ("b", "S5")])
        file["words"] = ["one", "two"]
    with (tmp_path / "a.h5").open("r+b") as file:
        file.write(b"my own words")
    image = open_image(f"{tmp_path}/a.h5:/raw/x")
    image.write_like(tmp_path / "b.h5", negated(image))
    assert (tmp_path / "b.h5").read_bytes()[:12] == b"my own words"
    with h5py.File(tmp_path / "a.h5") as a, h5py.File(tmp_path / "b.h5") as b:
        assert b.attrs["title"] == "cells"
        np.testing.assert_array_equal(b["soft"], ~a["raw/x"][()])
        assert b["raw/hard"] == b["raw/x"] == b[b["pointer"][0]]
        assert b.get("away", getlink=True).filename == "nowhere.h5"
        for name in ("table", "words"):
            np.testing.assert_array_equal(a[name], b[name])


def test_the_dataset_is_named_or_the_only_one(tmp_path):
    first, second = values((13, 17)), values((3, 4))
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["group/first"], file["line"], file["words"] = first, np.arange(5), "text"
        file["soft"] = h5py.SoftLink("group/first")
        file["indirect"] = h5py.SoftLink("/soft")
    assert open_image(path).inner == "/group/first"
    for name in ("/group/first", "group/first", "/indirect", "/./soft/"):
        assert open_image(f"{path}:{name}").inner == "/group/first"
    with h5py.File(path, "a") as file:
        file["second"] = second
    refused(path, "does not say which", "a.h5:/group/first", "second")
    refused(f"{path}:/group", "is a group", "group/first")
    refused(f"{path}:/secnd", "did you mean 'second'?")
    refused(f"{path}:/line", "two dimensions or more")
    refused(f"{path}:/words", "expected whole numbers or floats")
    np.testing.assert_array_equal(images.read(f"{path}:/second"), second)


@pytest.mark.parametrize(("attributes", "axes"), [
    ({"DIMENSION_LABELS": ["z", "y", "x"]}, "ZYX"),
    ({"DIMENSION_LABELS": ["row", "column", "channel"]}, "YXC"),
    ({"axes": "czyx"[1:]}, "ZYX"),
    ({"axes": "time:y:x"}, "TYX"),
    ({"axes": np.array([b"x", b"y", b"t"])}, "XYT"),
    ({"axistags": json.dumps({"axes": [{"key": k, "typeFlags": 2} for k in "yxc"]})}, "YXC"),
    ({"CLASS": np.bytes_("IMAGE"), "INTERLACE_MODE": np.bytes_("INTERLACE_PIXEL")}, "YXS"),
    ({"INTERLACE_MODE": np.bytes_("INTERLACE_PLANE")}, "SYX"),
])  # fmt: skip
def test_axes_from_attributes(tmp_path, attributes, axes):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = values((3, 4, 5))
        file["x"].attrs.update(attributes)
    assert open_image(tmp_path / "a.h5").layout.axes == axes
    assert open_image(tmp_path / "a.h5", axes="ZYX").layout.axes == "ZYX"


@pytest.mark.parametrize("attributes", [{}, {"axes": "abc"}, {"axes": "zyy"}, {"axes": "zyxt"},
                                        {"axes": 5}, {"DIMENSION_LABELS": ["z", "", "x"]}])  # fmt: skip
def test_axes_are_never_guessed(tmp_path, attributes):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = values((13, 17, 3))
        file["x"].attrs.update(attributes)
    np.save(tmp_path / "a.npy", values((13, 17, 3)))
    zarr.save_array(tmp_path / "a.zarr", values((13, 17, 3)))
    for name in ("a.h5", "a.npy", "a.zarr"):
        refused(tmp_path / name, "(13, 17, 3)", "--axes ZYX")
        for wrong in ("YX", "ZZX", "ABC", "Y X", "YXÇ"):
            refused(tmp_path / name, f"--axes {wrong} does not fit", axes=wrong)
        assert open_image(tmp_path / name, axes="yxc").layout.axes == "YXC"


def test_fewer_bits_than_bytes_are_the_range_of_values(tmp_path):
    kind = h5py.h5t.STD_U16LE.copy()
    kind.set_precision(12)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        space = h5py.h5s.create_simple((13, 17))
        dataset = h5py.Dataset(h5py.h5d.create(file.id, b"x", kind, space))
        dataset[:] = values((13, 17)) % 4096
        file["y"] = values((13, 17), "u2")
    assert open_image(f"{tmp_path}/a.h5:/x").value_range == (0, 4095)
    assert open_image(f"{tmp_path}/a.h5:/y").value_range is None


def zarr_metadata(root):
    names = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
    found = (path for path in sorted(Path(root).rglob("*")) if path.name in names)
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


ZARRS = {
    "2": {"zarr_format": 2, "chunks": (5, 4), "fill_value": 3},
    "2 gzip F": {"zarr_format": 2, "chunks": (5, 20), "compressors": GZip(3), "order": "F"},
    "2 nested": {"zarr_format": 2, "chunks": (5, 4),
                 "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "2 plain": {"zarr_format": 2, "chunks": (13, 17), "compressors": None},
    "3": {"zarr_format": 3, "chunks": (5, 4), "dimension_names": ("y", "x"), "fill_value": 3},
    "3 plain": {"zarr_format": 3, "chunks": (30, 40), "compressors": None},
    "3 big": {"zarr_format": 3, "chunks": (5, 4), "serializer": zarr.codecs.BytesCodec(endian="big")},
    "3 shards": {"zarr_format": 3, "chunks": (3, 4), "shards": (6, 8),
                 "compressors": zarr.codecs.GzipCodec(level=2)},
    "3 turned": {"zarr_format": 3, "chunks": (5, 4),
                 "filters": zarr.codecs.TransposeCodec(order=(1, 0))},
}  # fmt: skip


@pytest.mark.parametrize("options", ZARRS.values(), ids=ZARRS)
def test_zarr_keeps_all_but_the_values(tmp_path, options):
    array = values((13, 17))
    made = zarr.create_array(
        tmp_path / "a.zarr", shape=array.shape, dtype="u2", attributes={"unit": "nm"}, **options
    )
    made[:] = array
    image = open_image(tmp_path / "a.zarr")
    copy(image, tmp_path / "b.zarr")
    image.write_like(tmp_path / "c.zarr", negated(image))
    before = zarr_metadata(tmp_path / "a.zarr")
    assert before == zarr_metadata(tmp_path / "b.zarr") == zarr_metadata(tmp_path / "c.zarr")
    chunks = {str(p.relative_to(tmp_path / "a.zarr")) for p in (tmp_path / "a.zarr").rglob("*")}
    assert chunks == {
        str(p.relative_to(tmp_path / "b.zarr")) for p in (tmp_path / "b.zarr").rglob("*")
    }
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "b.zarr", mode="r")[:], array)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "c.zarr", mode="r")[:], ~array)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("number", [*NUMBERS, ">u2", ">f4"])
def test_zarr_of_any_number(tmp_path, number, version):
    if number[0] == ">" and version == 3:
        pytest.skip("version 3 says the byte order in its codec")
    array = values((13, 17), number)
    zarr.create_array(tmp_path / "a.zarr", data=array, chunks=(5, 6), zarr_format=version)
    copy(open_image(tmp_path / "a.zarr"), tmp_path / "b.zarr")
    assert zarr_metadata(tmp_path / "a.zarr") == zarr_metadata(tmp_path / "b.zarr")
    assert zarr.open_array(tmp_path / "b.zarr", mode="r")[:].tobytes() == array.tobytes()


@pytest.mark.parametrize(("axes", "shape"), STACKS)
def test_zarr_of_any_axes(tmp_path, axes, shape):
    array = values(shape)
    chunks = tuple(min(3, n) for n in shape)
    zarr.create_array(
        tmp_path / "a.zarr", data=array, chunks=chunks, shards=tuple(2 * n for n in chunks)
    )
    image = open_image(tmp_path / "a.zarr", axes=axes)
    np.testing.assert_array_equal(images.read(tmp_path / "a.zarr", axes=axes), array)
    image.write_like(tmp_path / "b.zarr", negated(image))
    np.testing.assert_array_equal(images.read(tmp_path / "b.zarr", axes=axes), ~array)


def test_names_of_dimensions_are_read(tmp_path):
    shape = (2, 13, 17)
    zarr.create_array(tmp_path / "a.zarr", data=values(shape), dimension_names=("t", "y", "x"))
    zarr.create_array(
        tmp_path / "b.zarr", data=values(shape), zarr_format=2,
        attributes={"_ARRAY_DIMENSIONS": ["depth", "y", "x"]},
    )  # fmt: skip
    assert open_image(tmp_path / "a.zarr").layout.axes == "TYX"
    assert open_image(tmp_path / "b.zarr").layout.axes == "ZYX"


def write_pyramid(path, version):
    """An OME-Zarr picture of two scales, with a label picture beside them."""
    group = zarr.create_group(path, zarr_format=version)
    picture = {
        "axes": [{"name": name} for name in "czyx"],
        "datasets": [{"path": name, "coordinateTransformations": []} for name in "01"],
    }
    ome = {"multiscales": [picture], "omero": {"channels": []}}
    group.attrs.update({"ome": ome} if version == 3 else ome)
    group.create_array("0", data=values((2, 3, 13, 17)), chunks=(1, 1, 5, 5))
    group.create_array("1", data=values((2, 3, 6, 8)), chunks=(1, 1, 5, 5))
    group.create_group("labels").create_array("cells", data=values((13, 17)), chunks=(5, 5))
    return group


@pytest.mark.parametrize("consolidated", [False, True])
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_ome_zarr_comes_back_with_one_scale(tmp_path, version, consolidated):
    group = write_pyramid(tmp_path / "a.zarr", version)
    if consolidated:
        zarr.consolidate_metadata(group.store)
    image = open_image(tmp_path / "a.zarr")
    assert (image.inner, image.layout.axes) == ("0", "CZYX")
    image.write_like(tmp_path / "b.zarr", negated(image))
    new = zarr.open_group(tmp_path / "b.zarr", mode="r")
    assert sorted(new) == ["0", "labels"]
    np.testing.assert_array_equal(new["0"][:], ~group["0"][:])
    np.testing.assert_array_equal(new["labels/cells"][:], group["labels/cells"][:])
    attributes = dict(new.attrs)["ome"] if version == 3 else dict(new.attrs)
    assert [scale["path"] for scale in attributes["multiscales"][0]["datasets"]] == ["0"]
    assert attributes["omero"] == {"channels": []}
    assert open_image(tmp_path / "b.zarr").layout == image.layout


def test_arrays_in_a_store_are_named(tmp_path):
    write_pyramid(tmp_path / "a.zarr", 3)
    first = open_image(f"{tmp_path}/a.zarr:/0").layout
    assert open_image(tmp_path / "a.zarr" / "0").layout == first
    image = open_image(tmp_path / "a.zarr" / "labels" / "cells")
    assert (image.path, image.inner, image.layout.axes) == (
        tmp_path / "a.zarr",
        "labels/cells",
        "YX",
    )
    image.write_like(tmp_path / "b.zarr", negated(image))
    assert sorted(zarr.open_group(tmp_path / "b.zarr", mode="r")) == ["0", "1", "labels"]
    assert open_image(f"{tmp_path}/a.zarr:/labels").inner == "labels/cells"
    refused(f"{tmp_path}/a.zarr:/2", "is not an array", "labels/cells")
    for name in ("../a.zarr/0", "labels/../0", "0/.."):
        refused(f"{tmp_path}/a.zarr:/{name}", "not the name of an array inside")
    group = zarr.create_group(tmp_path / "c.zarr")
    refused(tmp_path / "c.zarr", "no array that could be a picture")
    group.create_array("a", data=values((3, 4)))
    assert open_image(tmp_path / "c.zarr").inner == "a"
    group.create_array("b", data=values((3, 4)))
    refused(tmp_path / "c.zarr", "c.zarr:/a", "known: a, b")


def test_old_ome_zarr_has_fixed_axes(tmp_path):
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    group.attrs["multiscales"] = [{"version": "0.1", "datasets": [{"path": "0"}]}]
    group.create_array("0", data=values((1, 1, 2, 5, 6)))
    assert open_image(tmp_path / "a.zarr").layout.axes == "TCZYX"


SCRIPT = """
import resource, sys
from pathlib import Path
from snowmelt.images import open_image, slabs

def bands(image):
    for plane in range(image.layout.planes):
        for start in range(0, image.layout.height, 100):
            yield image.read_rows(plane, start, min(start + 100, image.layout.height))

slabs.BLOCK, slabs.HELD = 2**22, 2**23
source = Path(sys.argv[1])
image = open_image(source, axes=sys.argv[2])
list(zip(range(1), bands(image)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
image.write_like(source.with_name("out" + source.suffix), bands(image))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def grown(path, axes):
    """MiB by which the memory of a process grows when it copies a file band by band."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), axes], capture_output=True, text=True, check=True
    )
    return int(done.stdout) / 1024


@pytest.mark.parametrize("kind", ["npy", "npy F", "h5", "h5 deep", "zarr", "zarr deep"])
def test_memory_stays_far_below_the_size_of_the_array(tmp_path, kind):
    depth, side = 4, 4096
    name, _, trait = kind.partition(" ")
    path, shape = tmp_path / f"a.{name}", (depth, side, side)  # 64 MiB
    chunks = (4 if trait else 1, 256, 256)
    if name == "npy":
        header = io.BytesIO()
        meta = {"descr": "|u1", "fortran_order": bool(trait), "shape": shape}
        np.lib.format.write_array_header_1_0(header, meta)
        path.write_bytes(header.getvalue())
        os.truncate(path, len(header.getvalue()) + depth * side * side)
    elif name == "h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=np.ones(shape, "u1"), chunks=chunks, compression="lzf")
    else:
        zarr.create_array(path, shape=shape, dtype="u1", chunks=chunks)[:] = 1
    # A slab and a block for reading and for writing: 4 x 4 MiB, and what the codecs hold.
    assert grown(path, "ZYX") < 32


def test_a_cut_off_npy_file(tmp_path):
    np.save(tmp_path / "a.npy", values((13, 17)))
    whole = (tmp_path / "a.npy").read_bytes()
    for length in (0, 5, 7, 9, 60, 128, len(whole) - 1):
        (tmp_path / "a.npy").write_bytes(whole[:length])
        refused(tmp_path / "a.npy")
    (tmp_path / "a.npy").write_bytes(whole[:-1])
    refused(tmp_path / "a.npy", "cut off: 441 bytes of 442 are there")


@pytest.mark.parametrize(("array", "words"), [
    (np.array([["a", "b"]]), "<U1"),
    (np.array([[{}, 1]], object), "object"),
    (np.ones((3, 4), bool), "bool"),
    (np.ones((3, 4), complex), "complex128"),
    (np.ones((3, 4), np.longdouble), "float128"),
    (np.ones((3, 4), [("a", "u1"), ("b", "f4")]), "fields"),
    (np.ones((3, 4), "M8[s]"), "datetime64"),
    (np.ones(()), "two dimensions"),
    (np.ones(5), "two dimensions"),
    (np.ones((0, 5)), "empty"),
    (np.ones((5, 0, 5)), "empty"),
])  # fmt: skip
def test_what_is_no_picture_is_refused(tmp_path, array, words):
    np.save(tmp_path / "a.npy", array)
    refused(tmp_path / "a.npy", words, axes="ZYX"[-max(2, array.ndim) :])
    if array.dtype.kind not in "OUVMf" or (array.dtype.itemsize <= 8 and array.dtype.kind == "f"):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["x"] = array
        refused(
            f"{tmp_path}/a.h5:/x",
            "" if words == "bool" else words,
            axes="ZYX"[-max(2, array.ndim) :],
        )
        zarr.create_array(tmp_path / "a.zarr", data=array)
        wanted = (
            words if words in ("empty", "two dimensions") else "expected whole numbers or floats"
        )
        refused(tmp_path / "a.zarr", wanted, axes="ZYX"[-max(2, array.ndim) :])


def npy(text, tail=b"\0" * 400):
    return b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text.encode() + tail


@pytest.mark.parametrize("text", [
    "{'descr': '<u2', 'fortran_order': False, 'shape': (float('nan'), 4)}",
    "{'descr': '<u2', 'fortran_order': False, 'shape': (1e400, 4)}",
    "{'descr': '<u2', 'fortran_order': False, 'shape': (-3, -4)}",
    "{'descr': '<u2', 'fortran_order': False, 'shape': (True, 4)}",
    "{'descr': '<u2', 'fortran_order': False, 'shape': 12}",
    "{'descr': '<u2', 'fortran_order': False, 'shape': (99999999999999999999, 4)}",
    "{'descr': '<u2', 'fortran_order': 1, 'shape': (3, 4)}",
    "{'descr': 5, 'fortran_order': False, 'shape': (3, 4)}",
    "{'descr': 'nonsense', 'fortran_order': False, 'shape': (3, 4)}",
    "{'shape': (3, 4)}",
    "[1, 2]",
    "__import__('os').abort()",
    "(" * 9000,
    "",
])  # fmt: skip
def test_absurd_npy_headers(tmp_path, text):
    (tmp_path / "a.npy").write_bytes(npy(text))
    refused(tmp_path / "a.npy")


def test_hdf5_never_reads_other_files(tmp_path):
    os.mkfifo(tmp_path / "trap")  # opening it would wait for ever
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = values((13, 17))
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["link"] = h5py.ExternalLink("secret.h5", "/x")
        file["group"] = h5py.ExternalLink("secret.h5", "/")
        file["hop"] = h5py.SoftLink("/link")
        for name, source in (("view", "secret.h5"), ("trapped", "trap")):
            layout = h5py.VirtualLayout((13, 17), "u2", maxshape=(None, 17))
            there = h5py.VirtualSource(source, "x", (13, 17), maxshape=(None, 17))
            layout[: h5py.h5s.UNLIMITED, :] = there[: h5py.h5s.UNLIMITED, :]
            file.create_virtual_dataset(name, layout)
        file.create_dataset("raw", (13, 17), "u2", external=[("secret.h5", 0, 442)])
    for name in ("link", "group/x", "hop"):
        refused(f"{path}:/{name}", "is a link to another file")
    refused(f"{path}:/view", "virtual dataset")
    refused(f"{path}:/trapped", "virtual dataset")
    refused(f"{path}:/raw", "stored in other files")


def test_hdf5_links_that_lead_nowhere(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["a"], file["b"] = h5py.SoftLink("/b"), h5py.SoftLink("/a")
        file["void"] = h5py.SoftLink("/nothing")
        group = file.create_group("g")
        group["self"] = group
        group["x"] = values((13, 17))
    refused(f"{path}:/a", "a link to another file or to itself")
    refused(f"{path}:/void", "has no dataset 'void'")
    assert open_image(path).inner == "/g/x"
    assert open_image(f"{path}:/g/self/self/x").layout.shape == (13, 17)


def test_hdf5_types_that_are_no_numbers(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        kind = h5py.enum_dtype({"cell": 1, "void": 0}, "u1")
        file.create_dataset("names", (13, 17), kind)
        file["null"] = h5py.Empty("f4")
        space = h5py.h5s.create_simple((13, 17))
        h5py.h5d.create(file.id, b"times", h5py.h5t.UNIX_D32LE, space)
        file.create_dataset("x", data=values((13, 17)))
    assert open_image(path).inner == "/x"
    refused(f"{path}:/names", "enumeration")
    refused(f"{path}:/null", "shape None")
    refused(f"{path}:/times")


def test_hdf5_filters_that_are_missing(tmp_path):
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((13, 17))
    plist.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, ())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        space = h5py.h5s.create_simple((13, 17))
        h5py.h5d.create(file.id, b"x", h5py.h5t.STD_U16LE, space, plist)
    refused(tmp_path / "a.h5", "filter 32001", "pip install hdf5plugin")


def test_not_hdf5_or_cut_off(tmp_path):
    path = tmp_path / "a.h5"
    refused(path, "No such file")
    path.write_bytes(b"not at all")
    refused(path, "damaged or not HDF5")
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=values((40, 50)), chunks=(8, 8), compression="gzip")
    whole = path.read_bytes()
    for length in (8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(path)
    path.write_bytes(b"")
    refused(path, "empty")


def test_arrays_that_claim_more_than_they_hold(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (10**6, 10**6), "u1", chunks=(100, 100))
    zarr.create_array(tmp_path / "a.zarr", shape=(10**6, 10**6), dtype="u1", chunks=(100, 100))
    zarr.create_array(tmp_path / "b.zarr", shape=(10, 10), dtype="u1", chunks=(10**6, 10**6))
    for name in ("a.h5", "a.zarr", "b.zarr"):
        refused(tmp_path / name, "--max-pixels 1000000000000")
        assert open_image(tmp_path / name, max_pixels=None).layout.dtype == "u1"


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((64, 64, 4097), ("claims 4,097 values in each pixel", "--max-pixels 268435457")),
        ((2**10, 2**12, 2**12), ("--max-pixels 4294967296",)),
        ((1, 2**26, 4), ("to 536,870,912", "--max-pixels 536870912")),
    ],
)
def test_channels_are_bounded_and_counted(tmp_path, shape, words):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        made = file.create_dataset("x", shape, "u2", chunks=(1, 64, min(shape[2], 256)))
        made.attrs["axes"] = "YXC"
    names = {"dimension_names": ("y", "x", "c"), "chunks": (1, 2**16, 256)}
    zarr.create_array(tmp_path / "a.zarr", shape=shape, dtype="u2", **names)
    for name in ("a.h5", "a.zarr"):
        refused(tmp_path / name, *words)
        trusted = int(words[-1].split()[1])
        assert open_image(tmp_path / name, max_pixels=trusted).layout.shape == shape


def test_zarr_codecs_that_run_code(tmp_path):
    made = zarr.create_array(tmp_path / "a.zarr", shape=(3, 4), dtype="u2", zarr_format=2)
    header = json.loads((tmp_path / "a.zarr/.zarray").read_text())
    for change in ({"filters": [Pickle().get_config()]}, {"compressor": {"id": "pickle"}}):
        (tmp_path / "a.zarr/.zarray").write_text(json.dumps(header | change))
        refused(tmp_path / "a.zarr", "coded by pickle", "blosc, zstd or gzip")
    (tmp_path / "a.zarr/.zarray").write_text(json.dumps(header | {"dtype": "|O"}))
    refused(tmp_path / "a.zarr", "'|O'")
    made = zarr.create_array(tmp_path / "b.zarr", shape=(3, 4), dtype="u2", shards=(3, 4))
    assert made.shards == (3, 4)
    text = (tmp_path / "b.zarr/zarr.json").read_text()
    (tmp_path / "b.zarr/zarr.json").write_text(text.replace('"zstd"', '"numcodecs.pickle"'))
    refused(tmp_path / "b.zarr", "coded by pickle")


@pytest.mark.parametrize(("key", "value"), [
    ("shape", [float("nan"), 4]), ("shape", [-1, 4]), ("shape", "ab"), ("shape", None),
    ("shape", [True, True]), ("chunks", [0, 4]), ("chunks", [1]), ("chunks", [1.5, 2]),
    ("dtype", [["a", "u1"]]), ("dtype", None), ("order", "Q"), ("zarr_format", 1),
    ("dimension_separator", "/../"), ("compressor", {"id": None}), ("compressor", 5),
    ("fill_value", "nonsense"), ("filters", [{"id": "delta"}]),
])  # fmt: skip
def test_absurd_zarr_headers(tmp_path, key, value):
    zarr.create_array(tmp_path / "a.zarr", data=values((3, 4)), zarr_format=2)
    header = json.loads((tmp_path / "a.zarr/.zarray").read_text())
    (tmp_path / "a.zarr/.zarray").write_text(json.dumps(header | {key: value}))
    refused(tmp_path / "a.zarr")


@pytest.mark.parametrize("text", ["", "[1]", "nonsense", '{"node_type": "array"}', "[" * 9999,
                                  '{"node_type": "group", "attributes": {"ome": 5}}',
                                  '{"node_type": "group", "attributes": 7}'])  # fmt: skip
def test_damaged_zarr_metadata(tmp_path, text):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr/zarr.json").write_text(text)
    refused(tmp_path / "a.zarr")


def test_damaged_zarr_chunks(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=values((13, 17)), chunks=(13, 17))
    chunk = tmp_path / "a.zarr/c/0/0"
    chunk.write_bytes(chunk.read_bytes()[:50])
    refused(tmp_path / "a.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr"]


def test_zarr_never_reads_other_files(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=values((13, 17)), chunks=(13, 17))
    chunk = tmp_path / "a.zarr/c/0/0"
    chunk.rename(tmp_path / "secret")
    chunk.symlink_to(tmp_path / "secret")
    refused(tmp_path / "a.zarr", "is a link or a device", "cp -rL")
    chunk.unlink()
    os.mkfifo(chunk)
    refused(tmp_path / "a.zarr", "is a link or a device")
    write_pyramid(tmp_path / "b.zarr", 2)
    (tmp_path / "b.zarr/labels/.zattrs").unlink(missing_ok=True)
    (tmp_path / "b.zarr/labels/.zattrs").symlink_to(tmp_path / "secret")
    refused(tmp_path / "b.zarr", "is a link or a device")
    group = zarr.create_group(tmp_path / "c.zarr", zarr_format=2)
    group.attrs["multiscales"] = [{"datasets": [{"path": "../b.zarr/0"}]}]
    refused(tmp_path / "c.zarr", "not the name of an array inside")
    (tmp_path / "c.zarr/x").symlink_to(tmp_path / "b.zarr/0")
    refused(f"{tmp_path}/c.zarr:/x", "is a link")


def test_zarr_is_a_folder(tmp_path):
    (tmp_path / "a.zarr").write_bytes(b"PK")
    refused(tmp_path / "a.zarr")
    (tmp_path / "b.zarr").mkdir()
    refused(tmp_path / "b.zarr", "no array")
    refused(tmp_path / "c.zarr")
    write_pyramid(tmp_path / "d.zarr", 3)
    image = open_image(tmp_path / "d.zarr")
    with pytest.raises(UserError, match="lies inside the store"):
        copy(image, tmp_path / "d.zarr/out.zarr")
    assert sorted(path.name for path in (tmp_path / "d.zarr").iterdir()) == [
        "0",
        "1",
        "labels",
        "zarr.json",
    ]


@pytest.fixture
def three(tmp_path):
    """The same array in the three kinds of containers."""
    array = np.random.default_rng(0).integers(0, 256, (512, 1024), dtype="u1")
    np.save(tmp_path / "a.npy", array)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=array * 0, chunks=(64, 64), compression="gzip")
    zarr.create_array(tmp_path / "a.zarr", data=array, chunks=(512, 1024), compressors=None)
    return [tmp_path / name for name in ("a.npy", "a.h5", "a.zarr")]


def test_an_error_leaves_the_old_output_and_nothing_else(three, tmp_path):
    def stopping(image):
        yield next(bands(image))
        raise KeyboardInterrupt

    for path in three:
        image = open_image(path)
        target = tmp_path / f"out{path.suffix}"
        copy(image, target)
        before = images.read(target)
        with pytest.raises(KeyboardInterrupt):
            image.write_like(target, stopping(image))
        np.testing.assert_array_equal(images.read(target), before)
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("kind", ["a.npy", "a.h5", "a.zarr"])
@pytest.mark.usefixtures("three")
def test_a_full_disk(tmp_path, kind):
    """A limit on the size of files stands for the disk; HDF5 needs far more room for noise than for zeros."""
    image = open_image(tmp_path / kind)
    rng = np.random.default_rng(1)
    noise = [rng.integers(0, 256, band.shape, dtype="u1") for band in bands(image, 100)]
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, usual[1]))
    children.stop(HDF5)  # the next one inherits the limit
    try:
        with pytest.raises(UserError, match=f"out.{kind[2:]}: cannot be written"):
            image.write_like(tmp_path / f"out.{kind[2:]}", iter(noise))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        children.stop(HDF5)
    assert len(list(tmp_path.iterdir())) == 3


def test_another_kind_of_target_is_refused(three, tmp_path):
    for path in three:
        with pytest.raises(UserError, match="end the name in"):
            copy(open_image(path), tmp_path / "out.png")


def mutated(seed, data):
    """A few bytes changed, or the end cut off, as ``seed`` says."""
    rng, changed = random.Random(seed), bytearray(data)
    if rng.random() < 0.1:
        return bytes(changed[: rng.randrange(len(changed))])
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        place = rng.randrange(len(changed))
        changed[place] = rng.choice([0, 255, rng.randrange(256)])
    return bytes(changed)


def try_copy(path, data):
    """A reader may refuse, and do nothing else wrong."""
    path.write_bytes(data)
    with contextlib.suppress(UserError):
        copy(open_image(path), path.with_name(f"out{path.suffix}"))
    assert path.read_bytes() == data


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(seed=st.integers(0, 2**32), text=st.text(alphabet="{}()[],:'0123456789<>uif2shaperdcntoFTl"))
def test_fuzz_npy(tmp_path, seed, text):
    file = io.BytesIO()
    np.save(file, values((13, 17)))
    try_copy(tmp_path / "a.npy", mutated(seed, file.getvalue()[:200]))
    try_copy(tmp_path / "a.npy", npy(text))


HDF5_SEEDS = (
    {},
    {"chunks": (8, 8), "compression": "gzip", "shuffle": True, "fletcher32": True},
    {"chunks": (13, 17), "maxshape": (None, None)},
    {"chunks": (5, 5), "compression": "lzf"},
    {"chunks": (5, 5), "scaleoffset": 0},
)


@pytest.mark.filterwarnings("ignore:overflow")
def test_fuzz_hdf5(tmp_path, monkeypatch):
    """The C library itself crashes or hangs on some of these; its child process takes the blow."""
    monkeypatch.setattr(limits, "CHILD_SECONDS", 2)
    for number in range(EXAMPLES):
        options, libver = HDF5_SEEDS[number % 5], ("earliest", "latest")[number % 2]
        with h5py.File(tmp_path / "seed.h5", "w", libver=libver) as file:
            file.create_dataset("g/x", data=values((13, 17)), **options).attrs["axes"] = "yx"
        try_copy(tmp_path / "a.h5", mutated(number, (tmp_path / "seed.h5").read_bytes()))


def test_a_helper_that_dies_fails_one_file_alone(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = values((13, 17))
    image = open_image(tmp_path / "a.h5")

    def dying():
        for band in bands(image):
            children._child(HDF5)._process.kill()
            yield band

    children._child(HDF5)._process.kill()
    with pytest.raises(
        UserError, match=r"a\.h5: cannot be read.*the library that decodes it crashes on it"
    ):
        image.read_rows(0, 0, 3)
    with pytest.raises(
        UserError, match=r"a\.h5: cannot be.*the library that decodes it crashes on it"
    ):
        image.write_like(tmp_path / "b.h5", dying())
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
    copy(image, tmp_path / "b.h5")
    np.testing.assert_array_equal(images.read(tmp_path / "b.h5"), values((13, 17)))


def test_a_helper_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "CHILD_SECONDS", 0.5)
    monkeypatch.setattr(limits, "CHILD_PATIENCE_SECONDS", 0.5)
    os.mkfifo(tmp_path / "a.h5")
    with pytest.raises(UserError, match="comes to no end within 1 seconds"):
        hdf5.Hdf5Image(tmp_path / "a.h5")


def test_nothing_of_hdf5_runs_in_this_process(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = values((13, 17))
    code = "import sys; from snowmelt.images import read; read(sys.argv[1]); assert 'h5py' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.h5")], check=True)
