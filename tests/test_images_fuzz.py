"""Damaged files of every kind give an array or a UserError, and nothing else.

A few seconds in the suite; SNOWMELT_FUZZ=100000 asks for that many examples (``make fuzz``).
"""

import contextlib
import functools
import importlib.util
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


def with_chunk(png, name, body):
    """A chunk behind the header of a PNG."""
    chunk = struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return png[:33] + chunk + png[33:]


def interlaced():
    """An interlaced PNG of 3 x 3 pixels; Pillow writes none."""
    passes = [(1, 1), (1, 1), (1, 2), (2, 1), (1, 3)]  # rows and columns of those that have pixels
    rows = b"".join((b"\0" + b"\7" * 3 * columns) * count for count, columns in passes)
    png = b"\x89PNG\r\n\x1a\n" + bytes(25)
    png = with_chunk(png, b"IEND", b"")
    png = with_chunk(png, b"IDAT", zlib.compress(rows))
    head = with_chunk(bytes(33), b"IHDR", struct.pack(">IIBBBBB", 3, 3, 8, 2, 0, 0, 1))[33:]
    return png[:8] + head + png[33:]


def odd_sampling():
    data = bytearray(pillow("RGB", "JPEG", subsampling=0))
    data[data.index(b"\xff\xc0") + 11] = 0x31
    return bytes(data[:-2]) + bytes(range(200)) * 3 + b"\xff\xd9"


def one_frame(still):
    """An animated WebP of one frame."""
    sides = (19).to_bytes(3, "little") + (23).to_bytes(3, "little")
    frame = bytes(6) + sides + bytes(4) + still[12:]
    chunks = ((b"VP8X", b"\2\0\0\0" + sides), (b"ANIM", bytes(6)), (b"ANMF", frame))
    body = b"".join(
        name + struct.pack("<I", len(part)) + part + b"\0" * (len(part) % 2)
        for name, part in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def further(wide):
    """Kinds that a child decodes, and those that are read in place."""
    codecs = imagecodecs
    colours = PICTURE[..., :3]
    numbers = struct.pack("<4i", 20, 24, 2, 1) + bytes(192) + b"MAP DD\0\0" + bytes(808)
    cards = {"SIMPLE": "T", "BITPIX": 16, "NAXIS": 2, "NAXIS1": 20, "NAXIS2": 24, "BZERO": 32768}
    lines = [f"{name:8}= {value:>20}" for name, value in cards.items()]
    lines += ["DATASUM = '1         '", "CHECKSUM= '0123456789abcdef'", "END"]
    header = "".join(line.ljust(80) for line in lines).ljust(2880).encode()
    archive = io.BytesIO()
    np.savez_compressed(archive, a=wide[..., 0], b=np.arange(3))
    runs = pillow("P", "BMP")
    return {
        "bitfields.bmp": pillow("RGBA", "BMP"),
        "runs.bmp": runs[:30] + b"\1" + runs[31:1078] + (b"\x14\7\0\0" * 24) + b"\0\1",
        "palette.gif": pillow("P", "GIF"),
        "clear.gif": pillow("P", "GIF", transparency=3, interlace=1),
        "runs.tga": pillow("RGBA", "TGA", compression="tga_rle"),
        "palette.tga": pillow("P", "TGA"),
        "rgb.jp2": bytes(
            codecs.jpeg2k_encode(colours, level=0, codecformat="JP2", reversible=True)
        ),
        "deep.j2k": bytes(
            codecs.jpeg2k_encode(wide[..., 0], level=0, codecformat="J2K", reversible=True)
        ),
        "rgb.avif": pillow("RGBA", "AVIF", exif=EXIF, xmp=b"<x/>"),
        "deep.avif": bytes(
            codecs.avif_encode(wide[..., 0] >> 6, level=100, bitspersample=10, speed=9)
        ),
        "rgb.jxl": bytes(codecs.jpegxl_encode(PICTURE, lossless=True, usecontainer=True)),
        "deep.jxl": bytes(codecs.jpegxl_encode(wide[..., 0], lossless=True)),
        "light.hdr": bytes(codecs.rgbe_encode(colours.astype("f4"), header=True)),
        "whole.fits": header + wide[..., 0].tobytes().ljust(2880, b"\0"),
        "stack.mrc": numbers + np.ascontiguousarray(wide).tobytes(),
        "two.npz": archive.getvalue(),
        **({"rgb.exr": light(colours)} if importlib.util.find_spec("OpenEXR") else {}),
    }


def light(colours):
    import OpenEXR

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.exr"
        with OpenEXR.File({}, {"RGB": np.ascontiguousarray(colours.astype("f2"))}) as file:
            file.write(str(path))
        return path.read_bytes()


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
        "interlaced.png": interlaced(),
        "frame.png": with_chunk(
            with_chunk(
                pillow("RGB", "PNG"), b"fcTL", struct.pack(">IIIIIHHBB", 0, 20, 24, *[0] * 6)
            ),
            b"acTL",
            struct.pack(">II", 1, 0),
        ),
        "deep.png": bytes(imagecodecs.png_encode(wide)),
        "rgb.jpg": pillow("RGB", "JPEG", exif=EXIF, quality=50),
        "progressive.jpg": pillow("RGB", "JPEG", progressive=True),
        "restarts.jpg": pillow("RGB", "JPEG", restart_marker_blocks=2),
        "odd.jpg": odd_sampling(),
        "cmyk.jpg": pillow("CMYK", "JPEG"),
        "several.jpg": pillow("RGB", "MPO", save_all=True, append_images=second),
        "lossy.webp": pillow("RGB", "WEBP"),
        "lossless.webp": pillow("RGBA", "WEBP", lossless=True),
        "frame.webp": one_frame(pillow("RGB", "WEBP")),
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
        **further(wide),
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
