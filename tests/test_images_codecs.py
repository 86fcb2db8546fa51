"""JPEG 2000, AVIF, JPEG XL and GIF: depth, channels and metadata stay; sizes are known before decoding."""

import io
import struct

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms

from snowmelt import children
from snowmelt.errors import UserError
from snowmelt.images import codecs, items, jpegxl, open_image, read, write
from snowmelt.images.boxes import Box, boxes, packed
from snowmelt.images.converted import converted

H, W = 24, 40
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def encode(kind, pixels, bits=None):
    plain = pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels
    if kind == "avif":
        return bytes(imagecodecs.avif_encode(plain, level=100, speed=9, bitspersample=bits))
    if kind == "jxl":
        return bytes(imagecodecs.jpegxl_encode(plain, lossless=True, effort=1, bitspersample=bits))
    form = "JP2" if kind == "jp2" else "J2K"
    return bytes(
        imagecodecs.jpeg2k_encode(
            plain, level=0, codecformat=form, reversible=True, bitspersample=bits, planar=False
        )
    )


def decode(path):
    name = {".avif": "avif", ".jxl": "jpegxl"}.get(path.suffix, "jpeg2k")
    options = {"planar": False} if name == "jpeg2k" else {}
    return getattr(imagecodecs, f"{name}_decode")(path.read_bytes(), **options)


def rewritten(path, pixels):
    before = path.read_bytes()
    target = path.with_name("out" + path.suffix)
    write(target, pixels, like=path)
    assert path.read_bytes() == before
    return target


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("kind", "bits"),
    [("jp2", 5), ("jp2", 8), ("j2k", 12), ("jp2", 16), ("avif", 8), ("avif", 10), ("avif", 12),
     ("jxl", 8), ("jxl", 10), ("jxl", 16)],
)  # fmt: skip
def test_integers(tmp_path, rng, kind, bits, channels):
    dtype = "uint8" if bits <= 8 else "uint16"
    pixels = rng.integers(0, 2**bits, (H, W, channels)).astype(dtype)
    path = tmp_path / f"a.{kind}"
    path.write_bytes(encode(kind, pixels, bits))
    image = open_image(path)
    # This encoder calls all that is deeper than 8 bits linear.
    elsewhere = (codecs.OTHER_SPACE,) if kind == "jxl" and bits > 8 else ()
    assert image.notes == ()
    assert image.notes_elsewhere == elsewhere
    assert converted(image, "tif").notes[:-1] == elsewhere
    assert image.layout.alpha == (channels in (2, 4))
    assert image.value_range == (None if bits in (8, 16) else (0, 2**bits - 1))
    array = read(path)
    np.testing.assert_array_equal(array, pixels.squeeze())
    assert rewritten(path, array).read_bytes() == path.read_bytes()
    other = (2**bits - 1 - array).astype(dtype)
    new = rewritten(path, other)
    np.testing.assert_array_equal(read(new), other)
    np.testing.assert_array_equal(decode(new), other)
    assert open_image(new).value_range == image.value_range


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_jpeg_xl_of_floats(tmp_path, rng, dtype):
    pixels = (rng.random((H, W, 3)) + 0.001).astype(dtype)
    path = tmp_path / "a.jxl"
    path.write_bytes(bytes(imagecodecs.jpegxl_encode(pixels, lossless=True)))
    array = read(path)
    assert open_image(path).notes_elsewhere == ()
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, pixels)
    np.testing.assert_array_equal(decode(rewritten(path, array[::-1])), array[::-1])


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_jpeg_2000_of_signed_integers(tmp_path, rng, dtype):
    pixels = rng.integers(-100, 100, (H, W)).astype(dtype)
    path = tmp_path / "a.jp2"
    path.write_bytes(encode("jp2", pixels))
    np.testing.assert_array_equal(read(path), pixels)
    np.testing.assert_array_equal(decode(rewritten(path, -pixels)), -pixels)


def test_jpeg_2000_keeps_its_boxes(tmp_path, rng):
    pixels = rng.integers(0, 256, (H, W, 3), dtype=np.uint8)
    path = tmp_path / "a.jp2"
    own = Box(b"uuid", bytes(16) + b"a place on Earth")
    path.write_bytes(encode("jp2", pixels) + packed([own]))
    new = list(boxes(rewritten(path, 255 - pixels).read_bytes()))
    old = list(boxes(path.read_bytes()))
    assert [box.name for box in new] == [box.name for box in old]
    assert [a.content for a in new if a.name != b"jp2c"] == [
        b.content for b in old if b.name != b"jp2c"
    ]


def exif(**others):
    made = Image.Exif()
    made[274], made[271] = 6, "Maker"
    return {"exif": made.tobytes(), **others}


def test_avif_keeps_its_metadata(tmp_path, rng):
    path = tmp_path / "a.avif"
    picture = Image.fromarray(rng.integers(0, 256, (H, W, 4), dtype=np.uint8))
    picture.save(path, quality=60, icc_profile=PROFILE, **exif(xmp=b"<x:xmpmeta/>"))
    array = read(path)
    new = rewritten(path, 255 - array)
    with Image.open(path) as before, Image.open(new) as after:
        assert after.info["icc_profile"] == PROFILE
        assert after.info["xmp"] == b"<x:xmpmeta/>"
        assert after.getexif()[271] == "Maker"
        assert after.getexif()[274] == before.getexif()[274] == 6
        np.testing.assert_array_equal(np.asarray(after), 255 - np.asarray(before))


def test_parts_of_no_bytes_in_avif_are_counted(monkeypatch):
    def place(number, parts):
        return struct.pack(">HHIH", number, 0, 2**32 - 2**8, parts)

    listed = struct.pack(">B3sHH", 0, bytes(3), 0x0040, 3)
    listed += place(1, 10) + place(2, 0) + place(3, 6)
    assert list(items._places(listed, b"a file", b"")) == [(1, b""), (2, b""), (3, b"")]
    monkeypatch.setattr(items, "_MOST_PARTS", 15)
    with pytest.raises(ValueError, match="in more than 15 parts"):
        list(items._places(listed, b"a file", b""))


def test_avif_keeps_its_colour_space(tmp_path, rng):
    pixels = rng.integers(0, 1024, (H, W, 3)).astype("uint16")
    path = tmp_path / "a.avif"
    path.write_bytes(
        bytes(
            imagecodecs.avif_encode(pixels, level=100, bitspersample=10, primaries=9, transfer=16)
        )
    )
    assert open_image(path).notes_elsewhere == (codecs.OTHER_SPACE,)
    new = items.read(rewritten(path, 1023 - pixels).read_bytes())
    (space,) = [box.content for _, box in new.image.properties if box.name == b"colr"]
    assert struct.unpack_from(">4sHH", space) == (b"nclx", 9, 16)


def test_jpeg_xl_keeps_its_metadata(tmp_path, rng):
    pixels = rng.integers(0, 256, (H, W, 3), dtype=np.uint8)
    bare = encode("jxl", pixels)
    outer = list(boxes(imagecodecs.jpegxl_encode(pixels, lossless=True, usecontainer=True)))
    kept = [Box(b"Exif", b"\0\0\0\0MM\0*"), Box(b"xml ", b"<x:xmpmeta/>")]
    path = tmp_path / "a.jxl"
    path.write_bytes(packed([*outer[:2], *kept, Box(b"jbrd", b"?"), Box(b"jxlc", bare)]))
    new = rewritten(path, 255 - read(path))
    found = {box.name: box.content for box in boxes(new.read_bytes())}
    assert found[b"Exif"] == kept[0].content
    assert found[b"xml "] == kept[1].content
    assert b"jbrd" not in found  # the JPEG that it was made of is no more
    np.testing.assert_array_equal(decode(new), 255 - pixels)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (64, 48), (30, 40), (9, 16), (600, 7)])
@pytest.mark.parametrize("bits", [8, 14])
def test_headers_of_jpeg_xl(size, bits):
    for channels in (1, 2, 3, 4):
        pixels = np.zeros((*size, channels), "uint8" if bits == 8 else "uint16")
        for container in (True, False):
            plain = pixels.squeeze(-1) if channels == 1 else pixels
            data = bytes(imagecodecs.jpegxl_encode(plain, lossless=True, bitspersample=bits,
                                                   usecontainer=container))  # fmt: skip
            stream = data
            if not data.startswith(b"\xff\x0a"):
                stream = next(box.content for box in boxes(data) if box.name == b"jxlc")
            head = jpegxl.read_header(stream)
            assert (head.height, head.width, head.bits) == (*size, bits)
            assert head.grey == (channels < 3)
            assert len(head.extra) == (channels in (2, 4))


@pytest.mark.parametrize(
    ("space", "numbers"),
    [("1", (0,)), ("00001010001011010", (0, 1, 1, 8)), ("000010011001001011010", (0, 1, 11, 8))],
    ids=["sRGB", "linear", "linear P3"],
)
@pytest.mark.parametrize(("dtype", "bits"), [("uint16", 16), ("uint16", 10), ("float32", None)])
def test_jpeg_xl_keeps_its_colour_space(tmp_path, rng, space, numbers, dtype, bits):
    pixels = (rng.random((H, W, 3)) * (2 ** (bits or 0)) * 0.99).astype(dtype)
    encoded = bytes(imagecodecs.jpegxl_encode(pixels, lossless=True, bitspersample=bits))
    outer = list(boxes(encoded)) if encoded.startswith(b"\0\0\0\x0c") else [Box(b"jxlc", encoded)]
    made = [
        Box(box.name, jpegxl.with_space(box.content, space) if box.name == b"jxlc" else box.content)
        for box in outer
    ]
    path = tmp_path / "a.jxl"
    path.write_bytes(packed(made) if len(made) > 1 else made[0].content)
    np.testing.assert_array_equal(decode(path), pixels)
    assert open_image(path)._head.space == numbers
    new = rewritten(path, pixels[::-1])
    np.testing.assert_array_equal(decode(new), pixels[::-1])
    assert open_image(new)._head.space == numbers


def test_colours_that_the_encoder_cannot_write_are_said_before(tmp_path, rng):
    path = tmp_path / "a.jxl"
    pixels = rng.integers(0, 256, (H, W, 3), dtype=np.uint8)
    path.write_bytes(encode("jxl", pixels))
    image = open_image(path)
    image._head = jpegxl.Header(**{**vars(image._head), "space": (0, 1, 11, 13)})  # Display P3
    with pytest.raises(UserError, match="its colour space, such as that of an ICC profile"):
        image.check_target(tmp_path / "out.jxl")


@pytest.mark.parametrize("kind", ["jp2", "j2k", "avif", "jxl"])
def test_size_is_checked_before_decoding(tmp_path, monkeypatch, kind):
    path = tmp_path / f"a.{kind}"
    path.write_bytes(encode(kind, np.zeros((H, W, 3), np.uint8)))
    monkeypatch.setattr(children, "call", None)
    with pytest.raises(UserError, match="claims 960 pixels, more than the limit of 959"):
        open_image(path, max_pixels=959)
    monkeypatch.setattr(codecs, "_HARMLESS", 100)
    monkeypatch.setattr(codecs, "_PIXELS_PER_BYTE", 0)
    with pytest.raises(UserError, match="more than the limit of 100 "):
        open_image(path)
    assert open_image(path, max_pixels=960).layout.height == H


@pytest.mark.parametrize("kind", ["jp2", "avif", "jxl", "gif"])
def test_a_file_that_is_cut_off(tmp_path, rng, kind):
    pixels = rng.integers(0, 256, (H, W, 3), dtype=np.uint8)
    path = tmp_path / f"a.{kind}"
    if kind == "gif":
        Image.fromarray(pixels).quantize(16).save(path)
    else:
        path.write_bytes(encode(kind, pixels))
    for length in (20, 60, 200):
        path.write_bytes(path.read_bytes()[:-length])
        with pytest.raises(UserError, match="cannot be read: damaged or not"):
            read(path)


@pytest.mark.parametrize("options", [{}, {"interlace": 0}, {"transparency": 3}, {"comment": b"hi"}])
@pytest.mark.parametrize("colours", [2, 16, 256])
def test_gif(tmp_path, rng, colours, options):
    picture = Image.fromarray(rng.integers(0, 256, (H, W, 3), dtype=np.uint8)).quantize(colours)
    path = tmp_path / "a.gif"
    picture.save(path, **options)
    array = read(path)
    mode = "RGBA" if array.shape[2] == 4 else "RGB"
    with Image.open(path) as opened:
        np.testing.assert_array_equal(array, opened.convert(mode))
    assert rewritten(path, array).read_bytes() == path.read_bytes()
    other = array.copy()
    clear = array[..., 3:] == 0 if mode == "RGBA" else np.zeros((H, W, 1), bool)
    other[..., :3] = np.where(clear, array[..., :3], array[0, 0, :3])
    new = rewritten(path, other)
    with Image.open(new) as opened:
        np.testing.assert_array_equal(opened.convert(mode), other)
        assert opened.info.get("comment") == options.get("comment")


def test_a_frame_smaller_than_its_canvas(tmp_path):
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8) % 4)
    picture.putpalette([0, 0, 0, 9, 9, 9, 90, 0, 0, 0, 90, 0])
    buffer = io.BytesIO()
    picture.save(buffer, "GIF", optimize=False)
    data = bytearray(buffer.getvalue())
    data[6:10] = struct.pack("<HH", 20, 30)
    path = tmp_path / "a.gif"
    path.write_bytes(data)
    assert read(path).shape == (6, 8, 3)
    new = rewritten(path, read(path)[::-1])
    assert new.read_bytes()[6:10] == struct.pack("<HH", 20, 30)
    np.testing.assert_array_equal(read(new), read(path)[::-1])


def test_several_frames_are_refused(tmp_path, rng):
    frames = [Image.fromarray(rng.integers(0, 256, (H, W), dtype=np.uint8)) for _ in range(3)]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match="a GIF of 3 frames; extract them first"):
        open_image(path)
