"""OpenEXR and Radiance HDR: floats of light, their headers and other channels untouched."""

import struct
import zlib

import imagecodecs
import numpy as np
import pytest

from snowmelt.errors import UserError
from snowmelt.images import exr, open_image, read, write

H, W = 21, 34


def rewritten(path, pixels):
    before = path.read_bytes()
    target = path.with_name("out" + path.suffix)
    write(target, pixels, like=path)
    assert path.read_bytes() == before
    return target


@pytest.fixture
def openexr():
    return pytest.importorskip("OpenEXR", reason="OpenEXR belongs to the extra exr")


def saved(openexr, path, channels, *, compression=3, tiled=False, **header):
    kind = openexr.tiledimage if tiled else openexr.scanlineimage
    header |= {"compression": openexr.Compression(compression), "type": kind, "comments": "hello"}
    header["dataWindow"] = tuple(np.array(each, "i4") for each in ((3, -5), (W + 2, H - 6)))
    if tiled:
        header["tiles"] = openexr.TileDescription()
    # It takes no notice of strides.
    channels = {name: np.ascontiguousarray(plane) for name, plane in channels.items()}
    with openexr.File(header, channels) as file:
        file.write(str(path))
    return path


def found(openexr, path):
    with openexr.File(str(path), separate_channels=True) as file:
        planes = {name: np.array(each.pixels) for name, each in file.channels().items()}
        return dict(file.header()), planes


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("names", ["RGB", "RGBA", "Y", "beauty"])
@pytest.mark.parametrize(("compression", "tiled"), [(0, False), (3, False), (4, False), (3, True)])
def test_exr(tmp_path, rng, openexr, dtype, names, compression, tiled):
    pixels = rng.random((H, W, 4)).astype(dtype)
    depth, numbers = rng.random((H, W)).astype("f4"), rng.integers(0, 9, (H, W)).astype("u4")
    channels = {
        "RGB": {"RGB": pixels[..., :3], "Z": depth, "id": numbers},
        "RGBA": {"RGBA": pixels},
        "Y": {"Y": pixels[..., 0], "Z": depth},
        "beauty": {f"beauty.{letter}": pixels[..., i] for i, letter in enumerate("RGB")},
    }[names]
    path = saved(openexr, tmp_path / "a.exr", channels, compression=compression, tiled=tiled)
    array = read(path)
    assert array.dtype == dtype
    np.testing.assert_array_equal(
        array, pixels[..., : array.shape[-1]] if array.ndim > 2 else pixels[..., 0]
    )
    assert rewritten(path, array).read_bytes() == path.read_bytes()
    other = array[::-1].copy()
    new = rewritten(path, other)
    np.testing.assert_array_equal(read(new), other)
    header, planes = found(openexr, new)
    old_header, old = found(openexr, path)
    assert header["comments"] == "hello"
    np.testing.assert_array_equal(header["dataWindow"], old_header["dataWindow"])
    letters = names if names != "beauty" else "RGB"
    for name, plane in planes.items():
        letter = name[-1] if name[-1] in letters else None
        expected = old[name] if letter is None or name in ("id", "Z") else old[name][::-1]
        np.testing.assert_array_equal(plane, expected)
    assert any("Z" in note for note in open_image(path).notes) == ("Z" in channels)


def test_not_a_number_in_exr_stays(tmp_path, rng, openexr):
    pixels = rng.random((H, W, 3)).astype("f4")
    pixels[2, 3] = np.nan, np.inf, -np.inf
    path = saved(openexr, tmp_path / "a.exr", {"RGB": pixels})
    assert rewritten(path, read(path)).read_bytes() == path.read_bytes()
    other = np.where(np.isfinite(pixels), pixels / 2, pixels)
    np.testing.assert_array_equal(read(rewritten(path, other)), other)


def test_what_is_refused_of_exr(tmp_path, rng, openexr):
    plane = rng.random((H, W)).astype("f4")
    path = tmp_path / "a.exr"
    for channels, message in (
        ({"a": plane, "b": plane}, "which of its channels are the image is not clear: a, b"),
        (
            {"R": plane, "G": plane, "B": plane.astype("f2")},
            "colours are of the types float16, float32",
        ),
        ({"Y": plane.astype("u4")}, "colours are of the types uint32"),
    ):
        saved(openexr, path, channels)
        with pytest.raises(UserError, match=message):
            open_image(path)
    part = openexr.Part({"type": openexr.scanlineimage}, {"Y": plane}, "one")
    second = openexr.Part({"type": openexr.scanlineimage}, {"Y": plane}, "two")
    with openexr.File([part, second]) as file:
        file.write(str(path))
    with pytest.raises(UserError, match="several parts or of deep pixels"):
        open_image(path)


def test_damaged_exr(tmp_path, rng, openexr):
    path = saved(openexr, tmp_path / "a.exr", {"Y": rng.random((H, W)).astype("f4")})
    data = path.read_bytes()
    for length in (10, 100, len(data) - 300):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match="damaged or not OpenEXR"):
            read(path)
    with pytest.raises(UserError, match="more than the limit"):
        open_image(saved(openexr, path, {"Y": np.zeros((H, W), "f4")}), max_pixels=100)


def test_without_its_package_the_extra_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.exr"
    path.write_bytes(b"v/1\x01" + bytes(100))
    monkeypatch.setattr(exr.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r'pip install "snowmelt\[exr\]"'):
        open_image(path)


def test_lines_are_compressed_as_openexr_does():
    rows = np.arange(40, dtype=np.uint8).reshape(2, 20)
    packed = zlib.decompress(exr._compressed(rows))
    assert packed[:3] == bytes([0, 130, 130])  # 0, 2, 4, ...: steps of 2 above 128
    noise = np.random.default_rng(0).integers(0, 256, (2, 20), dtype=np.uint8)
    assert exr._compressed(noise) == noise.tobytes()


def radiance(pixels, head=b""):
    encoded = bytes(imagecodecs.rgbe_encode(pixels, header=True))
    return encoded.replace(b"FORMAT", head + b"FORMAT")


@pytest.mark.parametrize("width", [5, 34])  # below 8 pixels there are no runs
def test_radiance(tmp_path, rng, width):
    scale = 10 ** rng.uniform(-6, 6, (H, width, 1))
    path = tmp_path / "a.hdr"
    path.write_bytes(
        radiance((rng.random((H, width, 3)) * scale).astype("f4"), b"EXPOSURE=2\n# by\n")
    )
    array = read(path)
    np.testing.assert_array_equal(array, imagecodecs.rgbe_decode(path.read_bytes()))
    assert rewritten(path, array).read_bytes() == path.read_bytes()
    flipped = rewritten(path, array[::-1])
    assert flipped.read_bytes().startswith(path.read_bytes().partition(b"\n\n")[0])
    np.testing.assert_array_equal(imagecodecs.rgbe_decode(flipped.read_bytes()), array[::-1])
    other = (array * 1.37).astype("f4")
    again = read(rewritten(path, other))
    # Half a step of the largest mantissa, which is 128 at least.
    assert (np.abs(again - other) <= other.max(-1, keepdims=True) / 256 + 1e-30).all()
    assert (np.abs(again - other) > 0).any()


def test_negative_light_becomes_black(tmp_path):
    path = tmp_path / "a.hdr"
    path.write_bytes(radiance(np.ones((H, W, 3), "f4")))
    other = np.full((H, W, 3), -1, "f4")
    other[0] = 0.25, -3, 255.9
    again = read(rewritten(path, other))
    assert not again[1:].any()
    np.testing.assert_array_equal(again[0, 0], [0, 0, 256])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"-Y 21 +X 34", b"+X 34 -Y 21", "its rows are turned"),
        (b"-Y 21 +X 34", b"-Y 21 X 34", "does not end in the size"),
        (b"rgbe", b"xyze", "its colours are XYZ"),
        (b"-Y 21 +X 34", b"-Y 99999 +X 99999", "decompression bombs"),
        (b"-Y 21 +X 34", b"-Y 90 +X 34", "damaged or not Radiance HDR"),
    ],
)
def test_what_is_refused_of_radiance(tmp_path, rng, old, new, message):
    path = tmp_path / "a.hdr"
    path.write_bytes(radiance(rng.random((H, W, 3)).astype("f4")).replace(old, new))
    with pytest.raises(UserError, match=message):
        read(path)


@pytest.mark.usefixtures("openexr")
def test_a_header_of_exr_is_read_with_its_bounds(tmp_path):
    path = tmp_path / "a.exr"
    path.write_bytes(b"v/1\x01" + struct.pack("<I", 2) + b"dataWindow\0box2i\0" + b"\xff" * 4)
    with pytest.raises(UserError, match="it is cut off"):
        open_image(path)
