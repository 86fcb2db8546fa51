"""Damaged files of every kind give an array or a UserError, and nothing else.

A few seconds in the suite; SNOWMELT_FUZZ=100000 asks for that many examples (``make fuzz``).
"""

import contextlib
import functools
import io
import os
import struct
import tempfile
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from snowmelt.errors import UserError
from snowmelt.images import open_image

EXAMPLES = int(os.environ.get("SNOWMELT_FUZZ", "0"))
LIMIT = 2**16
EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
PICTURE = np.random.default_rng(0).integers(0, 256, (24, 20, 4), dtype=np.uint8)


def pillow(mode, form, **options):
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def tiff(array, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


@functools.cache
def valid():
    """Small files that between them use every part of the readers."""
    wide = np.ascontiguousarray(PICTURE.view("u2"))
    stack = {"metadata": {"axes": "ZYX"}, "photometric": "minisblack"}
    second = [Image.fromarray(PICTURE[..., :3])]
    return {
        "rgb.png": pillow("RGB", "PNG", dpi=(72, 72), exif=EXIF),
        "palette.png": pillow("P", "PNG", transparency=b"\0\1\2"),
        "bilevel.png": pillow("1", "PNG"),
        "key.png": pillow("RGB", "PNG", transparency=(1, 2, 3)),
        "deep.png": bytes(imagecodecs.png_encode(wide)),
        "rgb.jpg": pillow("RGB", "JPEG", exif=EXIF, quality=50),
        "progressive.jpg": pillow("RGB", "JPEG", progressive=True),
        "cmyk.jpg": pillow("CMYK", "JPEG"),
        "several.jpg": pillow("RGB", "MPO", save_all=True, append_images=second),
        "lossy.webp": pillow("RGB", "WEBP"),
        "lossless.webp": pillow("RGBA", "WEBP", lossless=True),
        "extended.webp": pillow("RGBA", "WEBP", exif=EXIF),
        "bytes.ppm": pillow("RGB", "PPM"),
        "text.pgm": b"P2\n# 4-bit\n3 2\n15\n" + b"1 2 3\n4 15 0\n",
        "deep.pgm": b"P5 20 24 65535\n" + wide[..., 0].tobytes(),
        "float.pfm": b"PF\n4 3\n-1.0\n" + wide[:3, :12, 0].astype("f4").tobytes(),
        "rgb.bmp": pillow("RGB", "BMP"),
        "opacity.bmp": pillow("RGBA", "BMP"),
        "palette.bmp": pillow("P", "BMP"),
        "bilevel.bmp": pillow("1", "BMP"),
        "plain.tif": tiff(
            PICTURE[..., 0], description="hello", extratags=[(700, 1, 5, b"<xmp>", True)]
        ),
        "big.tif": tiff(wide[..., 0], bigtiff=True, byteorder=">", rowsperstrip=5),
        "tiled.tif": tiff(PICTURE[..., :3], tile=(16, 16), compression="zlib", photometric="rgb"),
        "lzw.tif": tiff(wide[..., 0], compression="lzw", predictor=2, rowsperstrip=7),
        "float.tif": tiff(wide[..., 0].astype("f4"), compression="zstd", predictor=3),
        "packbits.tif": tiff(PICTURE[..., 0], compression="packbits"),
        "fax.tif": pillow("1", "TIFF", compression="group4"),
        "palette.tif": pillow("P", "TIFF", compression="tiff_lzw"),
        "bits.tif": tiff(wide[..., 0] >> 4, bitspersample=12, metadata=None),
        "lzma.tif": tiff(PICTURE[..., 0], compression="lzma"),
        "webp.tif": tiff(PICTURE[..., :3], compression="webp", photometric="rgb"),
        "lerc.tif": tiff(wide[..., 0], compression="lerc"),
        "jpeg.tif": tiff(PICTURE[..., :3], tile=(16, 16), compression="jpeg", photometric="ycbcr"),
        "planar.tif": tiff(PICTURE.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
        "ome.tif": tiff(PICTURE[:12], ome=True, **stack),
        "imagej.tif": tiff(
            PICTURE[:5], imagej=True, metadata={"axes": "ZYX", "Labels": list("abcde")}
        ),
        "virtual.tif": tiff(PICTURE[:5], imagej=True, metadata={"axes": "ZYX"}, truncate=True),
        "shaped.tif": tiff(PICTURE[:5], **stack),
        "exif.tif": pillow("RGB", "TIFF", exif=EXIF[6:]),
    }


NAMES = sorted(valid())
NUMBERS = [
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    12,
    16,
    32,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
]
VALUES = [struct.pack(form, n) for n in NUMBERS for form in ("<I", ">I")]
VALUES += [struct.pack(form, n) for n in NUMBERS if n < 2**16 for form in ("<H", ">H")]
VALUES += [bytes([n]) for n in range(256)]
VALUES += [b"9999999999", b"-1", b'"', b"<", b"nan"]


@st.composite
def damaged(draw):
    """A valid file with some bytes exchanged, cut, or doubled."""
    name = draw(st.sampled_from(NAMES))
    data = bytearray(valid()[name])
    # Tags and chunk headers lie at either end: look there most.
    near = st.integers(0, min(300, len(data) - 1))
    anywhere = st.integers(0, len(data) - 1)
    place = st.one_of(anywhere, near, near.map(lambda n: len(data) - 1 - n))
    for at, value in draw(st.lists(st.tuples(place, st.sampled_from(VALUES)), max_size=6)):
        data[at : at + len(value)] = value
    if draw(st.integers(0, 9)) == 0:
        del data[draw(place) :]
    if draw(st.integers(0, 9)) == 0:
        start = draw(place)
        data[start:start] = data[start : start + draw(st.integers(1, 40))]
    if name.endswith(".png") and draw(st.booleans()):
        data = with_right_checksums(bytes(data))
    return name, bytes(data)


def with_right_checksums(data):
    """Damage in a PNG that its checksums do not tell of."""
    out, place = data[:8], 8
    while place + 12 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        body = data[place + 4 : place + 8 + size]
        out += data[place : place + 4] + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + size
    return out


def check(name, data):
    """Read all and write it again, inverted."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        with contextlib.suppress(UserError):
            image = open_image(path, max_pixels=LIMIT)
            layout = image.layout
            rows = list(planes(image))
            for band in rows:
                assert band.dtype == layout.dtype
                assert band.shape == (layout.height, layout.width, layout.channels)
            image.write_like(
                path.with_name("out_" + name),
                (np.invert(b) if b.dtype.kind in "ui" else -b for b in rows),
            )
        assert path.read_bytes() == data
        assert {file.name for file in Path(folder).iterdir()} <= {name, "out_" + name}


def planes(image):
    for plane in range(image.layout.planes):
        yield image.read_rows(plane, 0, image.layout.height)


@pytest.mark.parametrize("name", NAMES)
def test_undamaged_files_are_read(tmp_path, name):
    (tmp_path / name).write_bytes(valid()[name])
    assert len(list(planes(open_image(tmp_path / name))))


@settings(
    max_examples=EXAMPLES or 300,
    deadline=None,
    derandomize=not EXAMPLES,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(damaged())
def test_damaged_files(file):
    check(*file)
