"""PNG, JPEG and WebP: what goes in comes out, and nothing bad comes through."""

import errno
import io
import os
import re
import struct
import subprocess
import sys
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms, JpegImagePlugin, PngImagePlugin

from snowmelt.errors import UserError
from snowmelt.images import open_image, read, write
from snowmelt.images.base import reading

H, W = 23, 31


@pytest.fixture
def picture(rng):
    return rng.integers(0, 256, (H, W, 3), dtype=np.uint8)


def bands(image, change=None, rows=7):
    height = image.layout.height
    for plane in range(image.layout.planes):
        for start in range(0, height, rows):
            band = image.read_rows(plane, start, min(height, start + rows))
            yield band if change is None else change(band)


def passed(path, change=None, **options):
    """The file that a denoiser ``change`` makes of ``path``."""
    before = path.read_bytes()
    image = open_image(path, **options)
    target = path.with_name("out_" + path.name)
    image.write_like(target, bands(image, change))
    assert path.read_bytes() == before
    return target


def inverted(band):
    return np.iinfo(band.dtype).max - band


def inverted_colours(band):
    colours = band.shape[-1] - (band.shape[-1] in (2, 4))
    return np.concatenate([inverted(band[..., :colours]), band[..., colours:]], axis=-1)


def opened(path):
    """Pillow's view of a file that is closed at once."""
    return Image.open(io.BytesIO(path.read_bytes()))


def png_chunks(data):
    place = 8
    while place < len(data):
        size, name = struct.unpack_from(">I4s", data, place)
        yield name, data[place + 8 : place + 8 + size]
        place += 12 + size


def png_chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def with_png_chunks(data, *chunks):
    """The chunks put behind IHDR."""
    return data[:33] + b"".join(png_chunk(*chunk) for chunk in chunks) + data[33:]


def palette_image(rng, colours=16, clear=False):
    image = Image.frombytes("P", (W, H), rng.integers(0, colours, H * W, dtype=np.uint8).tobytes())
    image.putpalette(rng.integers(0, 256, 3 * colours).tolist())
    if clear:
        image.info["transparency"] = bytes(rng.integers(0, 3, colours, dtype=np.uint8) * 100)
    return image


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA"])
def test_png_identity(tmp_path, picture, mode):
    path = tmp_path / "a.png"
    Image.fromarray(picture).convert(mode).save(path)
    old, new = opened(path), opened(passed(path))
    assert new.mode == old.mode == mode
    assert new.tobytes() == old.tobytes()
    assert read(path).shape == np.asarray(old).shape


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_16_bit(tmp_path, rng, channels):
    path = tmp_path / "a.png"
    pixels = rng.integers(0, 65536, (H, W, channels), dtype=np.uint16).squeeze()
    path.write_bytes(imagecodecs.png_encode(pixels))
    image = open_image(path)
    assert image.layout.dtype == np.uint16
    assert image.layout.alpha == (channels in (2, 4))
    np.testing.assert_array_equal(imagecodecs.png_decode(passed(path).read_bytes()), pixels)
    new = passed(path, lambda band: band ^ 1).read_bytes()
    np.testing.assert_array_equal(imagecodecs.png_decode(new), pixels ^ 1)


@pytest.mark.parametrize("clear", [False, True])
@pytest.mark.parametrize("colours", [2, 4, 16, 256])
def test_png_palette_identity(tmp_path, rng, colours, clear):
    path = tmp_path / "a.png"
    palette_image(rng, colours, clear).save(path)
    assert open_image(path).layout.channels == 3 + clear
    old, new = opened(path), opened(passed(path))
    assert new.mode == "P"
    assert new.tobytes() == old.tobytes()
    assert new.getpalette() == old.getpalette()
    assert new.info == old.info
    shown = np.asarray(old.convert("RGBA" if clear else "RGB"))
    np.testing.assert_array_equal(read(path), shown)


def test_png_palette_takes_the_nearest_colour_of_the_same_opacity(tmp_path, rng):
    path = tmp_path / "a.png"
    palette_image(rng, 16, clear=True).save(path)
    old = opened(path)
    indices = np.asarray(old)
    palette = np.column_stack(
        [np.reshape(old.getpalette()[:48], (16, 3)), list(old.info["transparency"])]
    )
    noise = rng.integers(-30, 31, (H, W, 3)) * (rng.random((H, W, 1)) < 0.5)
    wanted = np.clip(palette[indices][..., :3] + noise, 0, 255)
    rows = iter(np.split(wanted, range(7, H, 7)))
    new = np.asarray(
        opened(passed(path, lambda b: np.concatenate([next(rows), b[..., 3:]], -1).astype("u1")))
    )
    for y, x in np.ndindex(H, W):
        if not noise[y, x].any():
            assert new[y, x] == indices[y, x]
            continue
        alike = palette[:, 3] == palette[indices[y, x], 3]
        distance = np.sum((palette[:, :3] - wanted[y, x]) ** 2, axis=1) + np.where(alike, 0, 10**9)
        assert distance[new[y, x]] == distance.min()


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_png_few_greys(tmp_path, rng, depth):
    path = tmp_path / "a.png"
    levels = rng.integers(0, 2**depth, (H, W), dtype=np.uint8)
    path.write_bytes(png(GREY, depth, packed(levels, depth)))
    assert read(path).max() == 255
    new = passed(path, inverted)
    np.testing.assert_array_equal(read(new), 255 - read(path))
    assert (
        dict(png_chunks(new.read_bytes()))[b"IHDR"] == dict(png_chunks(path.read_bytes()))[b"IHDR"]
    )


def packed(levels, depth):
    """Rows of PNG data without filter."""
    bits = np.unpackbits(levels[..., None], axis=-1)[..., 8 - depth :].reshape(len(levels), -1)
    return b"".join(b"\0" + row.tobytes() for row in np.packbits(bits, axis=-1))


GREY, PALETTE = 0, 3


def png(colour, depth, rows, *, interlaced=False, size=(W, H)):
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlaced)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def test_png_interlaced(tmp_path, rng):
    path = tmp_path / "a.png"
    pixels = rng.integers(0, 256, (H, W), dtype=np.uint8)
    passes = [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]
    rows = b"".join(packed(pixels[y::down, x::across], 8) for y, x, down, across in passes)
    path.write_bytes(png(GREY, 8, rows, interlaced=True))
    np.testing.assert_array_equal(read(path), pixels)
    np.testing.assert_array_equal(np.asarray(opened(passed(path, inverted))), 255 - pixels)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_png_colour_key_stays_with_its_pixels(tmp_path, picture, mode):
    path = tmp_path / "a.png"
    picture[3:9, 4:8] = 77
    image = Image.fromarray(picture).convert(mode)
    image.save(path, transparency=77 if mode == "L" else (77, 77, 77))
    for change in (None, lambda band: band * 0 + 77):
        new = np.asarray(opened(passed(path, change)).convert("RGBA"))
        np.testing.assert_array_equal(new[..., 3], np.asarray(opened(path).convert("RGBA"))[..., 3])


def described():
    """Options of Pillow's save that put all kinds of metadata into a file."""
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned by 90 degrees
    exif[0x010F] = "A camera"
    exif.get_ifd(0x8769)[0x9003] = "2024:01:01 00:00:00"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return {"exif": exif, "icc_profile": profile, "dpi": (300, 300)}


@pytest.mark.parametrize("change", [None, inverted_colours])
@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB"])
def test_png_keeps_every_other_chunk(tmp_path, picture, mode, change):
    path = tmp_path / "a.png"
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Author", "Ü")
    texts.add_text("Comment", "long " * 100, zip=True)
    texts.add_itxt("Title", "雪")
    Image.fromarray(picture).convert(mode).save(path, pnginfo=texts, **described())
    extra = [(b"gAMA", struct.pack(">I", 45455)), (b"sBIT", b"\5\5\5"), (b"teSt", b"private")]
    path.write_bytes(with_png_chunks(path.read_bytes(), *extra))
    old, new = (
        [chunk for chunk in png_chunks(file.read_bytes()) if chunk[0] != b"IDAT"]
        for file in (path, passed(path, change))
    )
    assert new == old
    assert {name for name, _ in new} >= {
        b"iCCP",
        b"eXIf",
        b"pHYs",
        b"tEXt",
        b"zTXt",
        b"iTXt",
        b"gAMA",
    }


def test_orientation_turns_no_pixels(tmp_path, picture):
    for name in ("a.png", "a.jpg", "a.webp"):
        path = tmp_path / name
        Image.fromarray(picture).save(path, **described())
        new = passed(path, inverted)
        assert opened(new).getexif()[0x0112] == 6
        assert read(new).shape == picture.shape


def jpeg_metadata(data):
    """The segments before the first table: APPn and comments."""
    place, found = 2, []  # not Adobe's mark, which belongs to the coding of the colours
    while data[place + 1] >= 0xE0:
        size = int.from_bytes(data[place + 2 : place + 4], "big")
        if data[place + 1] != 0xEE:
            found.append(data[place : place + 2 + size])
        place += 2 + size
    return found


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg(tmp_path, picture, mode, progressive):
    path = tmp_path / "a.jpg"
    smooth = Image.fromarray(picture).resize((W, H), box=(0, 0, 3, 3)).convert(mode)
    smooth.save(path, quality=80, progressive=progressive, comment=b"hello", **described())
    assert not open_image(path).layout.alpha
    assert passed(path).read_bytes() == path.read_bytes()
    new = passed(path, inverted)
    old_image, new_image = opened(path), opened(new)
    assert new_image.mode == mode
    # Quality 95 quantizes no frequency by more than 11 (luma) or 17 (chroma): half of it, over 64
    # orthonormal frequencies, is at most 8.5 rms; smooth pictures stay far below.
    error = np.abs(np.asarray(new_image).astype(int) - (255 - np.asarray(old_image).astype(int)))
    assert error.mean() < 2
    assert jpeg_metadata(new.read_bytes()) == jpeg_metadata(path.read_bytes())
    assert new_image.info.get("progressive") == old_image.info.get("progressive")
    reference = io.BytesIO()
    Image.new(mode, (8, 8)).save(reference, "JPEG", quality=95)
    assert new_image.quantization == Image.open(reference).quantization
    if mode == "RGB":
        assert JpegImagePlugin.get_sampling(new_image) == 0  # 4:4:4


def test_jpeg_of_rgb_without_luma(tmp_path):
    """Adobe's mark says how colours are coded: a stale one would turn them."""
    path = tmp_path / "a.jpg"
    Image.new("RGB", (W, H), (200, 100, 50)).save(path, keep_rgb=True)
    assert b"Adobe" in path.read_bytes()
    new = np.asarray(opened(passed(path, inverted)))
    np.testing.assert_allclose(new, np.broadcast_to([55, 155, 205], new.shape), atol=3)


def test_jpeg_keeps_further_pictures(tmp_path, picture):
    path = tmp_path / "a.jpg"
    second = Image.fromarray(255 - picture)
    Image.fromarray(picture).save(path, "MPO", save_all=True, append_images=[second], quality=60)
    path.write_bytes(path.read_bytes() + b"a film")
    old, new = opened(path), opened(passed(path, inverted))
    assert new.n_frames == old.n_frames == 2
    assert new.tobytes() != old.tobytes()
    second_at = passed(path, inverted).read_bytes().index(b"\xff\xd8\xff", 3)
    assert new.mpinfo[0xB002][0]["Size"] == second_at
    old.seek(1)
    new.seek(1)
    assert new.tobytes() == old.tobytes()
    assert passed(path, inverted).read_bytes().endswith(b"a film")


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_webp(tmp_path, picture, mode, lossless):
    path = tmp_path / "a.webp"
    image = Image.fromarray(np.dstack([picture, picture[..., :1] // 2])[..., : len(mode)])
    options = described()
    del options["dpi"]
    image.save(path, lossless=lossless, exact=True, xmp=b"<xmp/>", **options)
    assert passed(path).read_bytes() == path.read_bytes()
    old, new = opened(path), opened(passed(path, inverted_colours))
    assert new.mode == old.mode == mode
    assert new.info.keys() == old.info.keys()
    assert [new.info[key] for key in ("exif", "icc_profile", "xmp")] == [
        old.info[key] for key in ("exif", "icc_profile", "xmp")
    ]
    expected = inverted_colours(np.asarray(old))
    np.testing.assert_array_equal(np.asarray(new)[..., 3:], expected[..., 3:])
    if lossless:
        np.testing.assert_array_equal(np.asarray(new), expected)
    assert (b"VP8L" in path.read_bytes()) == (
        b"VP8L" in passed(path, inverted_colours).read_bytes()
    )


def test_webp_stays_rgba_where_all_is_opaque(tmp_path, picture):
    path = tmp_path / "a.webp"
    Image.fromarray(picture).save(path, lossless=True)
    data = bytearray(path.read_bytes())
    data[data.index(b"VP8L") + 12] |= 0x10  # the header's mark: opacity is used
    path.write_bytes(data)
    assert open_image(path).layout.channels == 4
    assert opened(passed(path, inverted_colours)).mode == "RGBA"


def test_axes_are_known(tmp_path, picture):
    path = tmp_path / "a.png"
    Image.fromarray(picture).save(path)
    assert open_image(path, axes="yxc").layout.axes == "YXS"
    with pytest.raises(UserError, match=r"a\.png: a PNG file has the axes YXS, not ZYX"):
        open_image(path, axes="ZYX")


def test_target_of_another_kind(tmp_path, picture):
    path = tmp_path / "a.png"
    Image.fromarray(picture).save(path)
    image = open_image(path)
    with pytest.raises(UserError, match=r"end the name in \.png"):
        image.write_like(tmp_path / "b.jpg", bands(image))
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "a.npy"])
@pytest.mark.parametrize("channels", [3, 4])
def test_write_and_read(tmp_path, rng, name, channels):
    if name == "a.npy":
        pytest.importorskip("snowmelt.images.arrays")
    pixels = rng.integers(0, 256, (H, W, channels), dtype=np.uint8)
    write(tmp_path / name, pixels)
    np.testing.assert_array_equal(read(tmp_path / name, axes="YXS"), pixels)
    write(tmp_path / name, 255 - pixels, like=open_image(tmp_path / name, axes="YXS"))
    np.testing.assert_array_equal(read(tmp_path / name, axes="YXS"), 255 - pixels)


def test_write_refuses(tmp_path, rng):
    pixels = rng.random((H, W, 3))
    for name, array, message in (
        ("a.png", pixels, "uint8 or uint16"),
        ("a.jpg", pixels.astype("u2"), "holds uint8"),
        ("a.webp", pixels[..., 0].astype("u1"), "channels 3 or 4"),
        ("a.png", pixels[:0].astype("u1"), "is empty"),
        ("a.xyz", pixels, r"can be \.png"),
        ("a.tif", pixels.transpose(2, 0, 1), "name the axes"),
        ("a.tif", pixels > 0.5, "not bool"),
    ):
        with pytest.raises(UserError, match=message):
            write(tmp_path / name, array)
    write(tmp_path / "b.png", pixels.astype("u1"))
    with pytest.raises(UserError, match="has the shape"):
        write(tmp_path / "c.png", pixels, like=tmp_path / "b.png")
    assert [file.name for file in tmp_path.iterdir()] == ["b.png"]


def saved(tmp_path, picture, name, **options):
    path = tmp_path / name
    Image.fromarray(picture).save(path, **options)
    return path


def patched(path, place, new):
    data = bytearray(path.read_bytes())
    data[place : place + len(new)] = new
    path.write_bytes(data)


def bomb(tmp_path, picture, name):
    """A small file that claims at least 268 million pixels."""
    path = saved(tmp_path, picture, name)
    if name == "a.png":
        path.write_bytes(png(2, 8, b"", size=(40000, 40000)))
    elif name == "a.jpg":
        patched(path, path.read_bytes().index(b"\xff\xc0") + 5, struct.pack(">HH", 65500, 65500))
    else:
        Image.fromarray(picture).save(path, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0")
        patched(path, path.read_bytes().index(b"VP8X") + 12, b"\xff\xff\0\xff\xff\0")
    return path


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_bombs_are_refused_before_they_are_decoded(tmp_path, picture, name):
    path = bomb(tmp_path, picture, name)
    with pytest.raises(UserError, match=rf"{name}: claims .* --max-pixels \d+"):
        open_image(path)
    assert open_image(path, max_pixels=None).layout.height > H  # the header alone costs nothing


def test_max_pixels(tmp_path, picture):
    path = saved(tmp_path, picture, "a.png")
    assert open_image(path, max_pixels=H * W).layout.shape == picture.shape
    with pytest.raises(UserError, match=f"--max-pixels {H * W}"):
        open_image(path, max_pixels=H * W - 1)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "l.webp"])
def test_truncated(tmp_path, picture, name):
    path = saved(tmp_path, picture, name, **({"lossless": True} if name == "l.webp" else {}))
    data = path.read_bytes()
    for end in range(0, len(data) - 2, 1 + len(data) // 60):
        path.write_bytes(data[:end])
        with pytest.raises(UserError, match=name):
            read(path)


def test_not_what_it_seems(tmp_path, picture):
    saved(tmp_path, picture, "b.png").rename(tmp_path / "b")
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "text.doc").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    for name, message in (
        ("text.png", "named like PNG, but it holds something else"),
        ("text.doc", r"not an image of a known kind: \.png"),
        ("empty.png", "the file is empty"),
        ("missing.png", "No such file"),
        (".", "a folder, not an image"),
    ):
        with pytest.raises(UserError, match=message) as error:
            open_image(tmp_path / name)
        assert name == "." or name in str(error.value)
    assert open_image(tmp_path / "b").layout.shape == picture.shape


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("DSC_0001.NEF", "develop it to a 16-bit TIFF first"),
        ("cells.czi", "export it as OME-TIFF or OME-Zarr"),
    ],
)
def test_what_is_not_read_says_how_it_comes_here(tmp_path, name, message):
    path = tmp_path / name
    path.write_bytes(b"II*\0 whatever it holds")  # a camera's raw picture begins like a TIFF
    with pytest.raises(UserError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))


def test_forbidden_file_is_named():
    with (
        pytest.raises(UserError, match=r"a\.png: cannot be read: Permission denied"),
        reading("a.png", "PNG"),
    ):
        raise PermissionError(errno.EACCES, "Permission denied", "a.png")
    with pytest.raises(UserError, match="too large for the memory"), reading("a.png", "PNG"):
        raise MemoryError


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden_file(tmp_path, picture):
    path = saved(tmp_path, picture, "a.png")
    path.chmod(0)
    with pytest.raises(UserError, match="Permission denied"):
        open_image(path)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {"save_all": True, "duration": 100}),
        ("a.webp", {"save_all": True, "duration": 100}),
    ],
)
def test_animations_are_refused(tmp_path, picture, name, options):
    path = tmp_path / name
    Image.fromarray(picture).save(path, append_images=[Image.fromarray(255 - picture)], **options)
    with pytest.raises(UserError, match="animated"):
        open_image(path)


def with_one_frame(still):
    """An APNG whose picture is its only frame; some programs write the signs of an animation."""
    control = struct.pack(">IIIIIHHBB", 0, W, H, 0, 0, 1, 10, 0, 0)
    return with_png_chunks(still, (b"acTL", struct.pack(">II", 1, 0)), (b"fcTL", control))


def test_png_animation_of_one_frame(tmp_path, picture):
    path = tmp_path / "a.png"
    Image.fromarray(picture).save(path)
    path.write_bytes(with_one_frame(path.read_bytes()))
    np.testing.assert_array_equal(read(path), picture)
    new = passed(path, inverted).read_bytes()
    assert [name for name, _ in png_chunks(new)] == [b"IHDR", b"acTL", b"fcTL", b"IDAT", b"IEND"]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(new))), 255 - picture)


def test_png_animation_beside_the_picture(tmp_path, picture):
    path = tmp_path / "a.png"
    Image.fromarray(picture).save(path)
    path.write_bytes(
        with_png_chunks(path.read_bytes(), (b"acTL", struct.pack(">II", 1, 0)))
    )  # its frame would follow, as fcTL and fdAT
    with pytest.raises(UserError, match="an animated PNG of 1 pictures"):
        open_image(path)


def webp_frame(still, place=(0, 0), size=(W, H), opacity=False):
    """An animation of one frame around the picture of a WebP file."""

    def three(*numbers):
        return b"".join(number.to_bytes(3, "little") for number in numbers)

    def chunk(name, body):
        return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)

    sides = three(size[0] - 1, size[1] - 1)
    frame = three(*place) + sides + three(100) + b"\2" + still[12:]
    content = b"WEBP" + chunk(b"VP8X", bytes([2 + 16 * opacity, 0, 0, 0]) + three(W - 1, H - 1))
    content += chunk(b"ANIM", bytes(6)) + chunk(b"ANMF", frame)
    return b"RIFF" + struct.pack("<I", len(content)) + content


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_webp_animation_of_one_frame(tmp_path, rng, mode):
    pixels = rng.integers(0, 256, (H, W, len(mode)), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, exact=True)
    path = tmp_path / "a.webp"
    path.write_bytes(webp_frame(buffer.getvalue(), opacity=mode == "RGBA"))
    with Image.open(path) as seen:
        assert seen.n_frames == 1
        np.testing.assert_array_equal(np.asarray(seen.convert(mode))[..., :3][pixels[..., -1] > 0],
                                      pixels[..., :3][pixels[..., -1] > 0])  # fmt: skip
    np.testing.assert_array_equal(read(path), pixels)
    new = passed(path, inverted_colours)
    assert b"ANMF" in new.read_bytes()
    np.testing.assert_array_equal(read(new)[..., :3], 255 - pixels[..., :3])
    with Image.open(new) as seen:
        assert (seen.n_frames, seen.size) == (1, (W, H))


def test_webp_frame_smaller_than_its_picture(tmp_path, picture):
    buffer = io.BytesIO()
    Image.fromarray(picture[:-2, :-4]).save(buffer, "WEBP", lossless=True)
    path = tmp_path / "a.webp"
    path.write_bytes(webp_frame(buffer.getvalue(), place=(1, 1), size=(W - 4, H - 2)))
    with pytest.raises(UserError, match="of 1 frames, smaller than the picture"):
        open_image(path)


def photo(rng, mode="RGB"):
    grown = np.cumsum(rng.normal(0, 3, (90, 70, 3)), axis=1) + 128
    return Image.fromarray(np.clip(grown, 0, 255).astype(np.uint8)).convert(mode)


def encoded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


JPEGS = {
    "grey": ("L", {}),
    "colour": ("RGB", {"subsampling": 0}),
    "4:2:0": ("RGB", {"subsampling": 2}),
    "progressive": ("RGB", {"progressive": True}),
    "restarts": ("RGB", {"restart_marker_blocks": 3}),
    "cmyk": ("CMYK", {}),
}


@pytest.mark.parametrize("kind", JPEGS)
def test_jpeg_is_read_as_by_pillow(tmp_path, rng, kind):
    mode, options = JPEGS[kind]
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(photo(rng, mode), **options))
    np.testing.assert_array_equal(read(path), np.asarray(opened(path)))


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("kind", JPEGS)
def test_a_missing_part_of_a_jpeg_names_its_row(tmp_path, rng, kind, marked):
    """With or without an end mark; Pillow and others fill with grey what is not there."""
    mode, options = JPEGS[kind]
    data = encoded(photo(rng, mode), **options)
    path = tmp_path / "a.jpg"
    for part in (0.5, 0.8, 0.97):
        path.write_bytes(data[: int(len(data) * part)] + b"\xff\xd9" * marked)
        with pytest.raises(UserError) as caught:
            read(path)
        said = str(caught.value)
        row = re.search(r"missing from row (\d+) on", said)
        assert (
            re.search("the least|not every colour|a coarse version", said) or 0 <= int(row[1]) < 90
        )
        assert "--sigma" not in said
    if kind == "restarts":
        middle = data.index(b"\xff\xd4") - 30
        path.write_bytes(data[: middle - 8] + data[middle:])
        with pytest.raises(UserError, match=r"missing from row|Corrupt JPEG"):
            read(path)


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_progressive_jpeg_needs_all_of_its_scans(tmp_path, rng, mode, marked):
    """Cut between two scans it is a coarse version of the picture, which decoders take for all of it."""
    data = encoded(photo(rng, mode), progressive=True)
    path = tmp_path / "a.jpg"
    starts = [found.start() for found in re.finditer(rb"\xff\xda", data)]
    assert len(starts) >= 6
    for start in starts[1:]:
        end = data.rfind(b"\xff\xc4", 0, start)  # before the tables of this scan
        path.write_bytes(data[:end] + b"\xff\xd9" * marked)
        with pytest.raises(UserError, match="cut off"):
            read(path)
    path.write_bytes(data)
    expected = np.asarray(opened(path))
    path.write_bytes(data[:-2])
    np.testing.assert_array_equal(read(path), expected)


@pytest.mark.parametrize("sampling", [0x31, 0x13])
def test_jpeg_of_odd_sampling(tmp_path, rng, sampling):
    """What the strict decoder does not know is decoded twice; a missing part is an error there too."""
    data = bytearray(encoded(photo(rng), subsampling=0))
    data[data.index(b"\xff\xc0") + 11] = sampling
    whole = bytes(data).replace(b"\xff\xd9", bytes(rng.integers(0, 255, 20000, "u1")) + b"\xff\xd9")
    path = tmp_path / "a.jpg"
    path.write_bytes(whole)
    np.testing.assert_array_equal(read(path), np.asarray(opened(path)))
    path.write_bytes(data[: len(data) // 3] + b"\xff\xd9")
    with pytest.raises(UserError, match="missing from row"):
        read(path)


def test_harmless_bytes_in_a_jpeg(tmp_path, rng):
    image = photo(rng)
    data = encoded(image)
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    expected = read(path)
    jfif = data.index(b"JFIF\0") + 5
    for changed in (
        data[:-2] + bytes(3000) + data[-2:],  # padding before the end mark
        data[:-2] + b"\x12\x34" + data[-2:],
        data[:-2],  # no end mark, but all of the picture
        data[:jfif] + b"\x63\x63" + data[jfif + 2 :],  # a version that does not exist
        data + b"behind the end",
    ):
        path.write_bytes(changed)
        np.testing.assert_array_equal(read(path), expected)
    path.write_bytes(data[:-2] + b"\x12\x34" * 500 + data[-2:])
    with pytest.raises(UserError, match="extraneous"):
        read(path)


def scan(component, low, high):
    body = struct.pack(">BBBBBB", 1, component, 0, low, high, 0)
    return struct.pack(">BBH", 0xFF, 0xDA, 2 + len(body)) + body


def test_endless_scans(tmp_path):
    """A progressive JPEG may have any number of scans, each over all of the picture."""
    data = encoded(Image.new("L", (4000, 4000)), progressive=True)
    path = tmp_path / "a.jpg"
    refinement = scan(1, 1, 63) + b"\xfa" * 3
    path.write_bytes(data[:-2] + refinement * 3000 + data[-2:])
    with pytest.raises(UserError, match=r"blocks of 8 x 8 values, more than the limit"):
        read(path)


def test_a_jpeg_must_have_bytes_for_its_blocks(tmp_path, rng):
    data = bytearray(encoded(photo(rng)))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", 5000, 5000)
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a scan of .* bytes where .* are the least"):
        read(path)


def test_jpeg_of_other_codings(tmp_path, rng):
    path = tmp_path / "a.jpg"
    wide = rng.integers(0, 4096, (H, W), dtype=np.uint16)
    path.write_bytes(imagecodecs.jpeg8_encode(wide, bitspersample=12))
    with pytest.raises(UserError, match="a JPEG of 12 bits, sequential; expected 8 bits"):
        open_image(path)
    path.write_bytes(imagecodecs.ljpeg_encode(wide, bitspersample=12))
    with pytest.raises(UserError, match="a JPEG of 12 bits, lossless"):
        open_image(path)


def test_an_index_of_pictures_that_cannot_be_read_stays(tmp_path, rng):
    data = encoded(photo(rng))
    odd = b"MPF\0no TIFF header"
    segment = struct.pack(">BBH", 0xFF, 0xE2, 2 + len(odd)) + odd
    path = tmp_path / "a.jpg"
    path.write_bytes(data[:20] + segment * 3 + data[20:])
    new = passed(path, inverted).read_bytes()
    assert new.count(segment) == 3


def test_a_maker_note_and_what_lies_behind_the_picture(tmp_path, rng):
    note = b"Exif\0\0MM\0*\0\0\0\x08\0\1\x92\x7c\0\7\0\0\0\4abcd\0\0\0\0"
    data = encoded(photo(rng), exif=note)
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    assert open_image(path).notes == ()
    assert passed(path, inverted).read_bytes().index(note) == data.index(note)
    path.write_bytes(data + b"a preview")
    assert "MakerNote" in open_image(path).notes[0]
    assert passed(path, inverted).read_bytes().endswith(b"\xff\xd9a preview")


def test_bytes_that_a_small_file_claims(tmp_path):
    """A lossless WebP of one colour has 16,383 x 16,383 pixels in 40 bytes."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "WEBP", lossless=True)
    data = bytearray(buffer.getvalue())
    place = data.index(b"VP8L") + 9
    data[place : place + 4] = struct.pack("<I", 16382 | 16382 << 14)
    path = tmp_path / "a.webp"
    path.write_bytes(data)
    with pytest.raises(
        UserError, match=r"to unpack \d+ bytes to 805,208,067, .*--max-pixels 805208067"
    ):
        open_image(path)
    assert open_image(path, max_pixels=805208067).layout.height == 16383


def test_png_must_have_bytes_for_its_rows(tmp_path, picture):
    path = tmp_path / "a.png"
    Image.fromarray(picture).save(path)
    data = path.read_bytes()
    path.write_bytes(
        data[:8] + png_chunk(b"IHDR", struct.pack(">II", 5000, 5000) + data[24:29]) + data[33:]
    )
    with pytest.raises(UserError, match=r"bytes of pixels where 72,\d+ are the least"):
        read(path)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("cut", [1, 5, 200])
def test_a_cut_png_with_right_checksums(tmp_path, picture, interlaced, cut):
    """The pixels end early though each chunk is whole."""
    path = tmp_path / "a.png"
    Image.fromarray(picture).save(path)
    chunks = dict(png_chunks(path.read_bytes()))
    head, body = chunks[b"IHDR"][:12] + bytes([interlaced]), chunks[b"IDAT"][:-cut]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", head)
        + png_chunk(b"IDAT", body)
        + png_chunk(b"IEND", b"")
    )
    with pytest.raises(UserError, match=r"a\.png"):
        read(path)


def interlaced(levels, depth, colour, extra=()):
    """A PNG in seven passes, as the specification has them (Pillow and imagecodecs write none)."""
    starts = ((0, 0), (0, 4), (4, 0), (0, 2), (2, 0), (0, 1), (1, 0))
    steps = ((8, 8), (8, 8), (8, 4), (4, 4), (4, 2), (2, 2), (2, 1))
    rows = b""
    for (top, left), (down, across) in zip(starts, steps, strict=True):
        for row in levels[top::down, left::across] if left < levels.shape[1] else ():
            values = row.reshape(-1)
            if depth == 16:
                packed = values.astype(">u2").tobytes()
            else:
                bits = np.unpackbits(values.astype(np.uint8)[:, None], axis=1)[:, 8 - depth :]
                packed = np.packbits(bits.reshape(-1)).tobytes()
            rows += b"\0" + packed
    head = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], depth, colour, 0, 0, 1)
    chunks = ((b"IHDR", head), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


@pytest.mark.parametrize(("depth", "colour"), [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2),
                                               (4, 3), (8, 4), (16, 6)])  # fmt: skip
@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (4, 5), (23, 31)])
def test_interlaced_png(tmp_path, rng, capfd, depth, colour, shape):
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    levels = rng.integers(0, 2**depth, (*shape, channels), dtype=np.uint16)
    palette = rng.integers(0, 256, (16, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    extra = [(b"PLTE", palette.tobytes())] if colour == 3 else []
    path.write_bytes(interlaced(levels, depth, colour, extra))
    expected = levels * (255 // (2**depth - 1)) if depth < 8 else levels
    expected = palette[levels[..., 0]] if colour == 3 else expected
    np.testing.assert_array_equal(read(path).reshape(expected.shape), expected)
    new = passed(path)
    np.testing.assert_array_equal(read(new).reshape(expected.shape), expected)
    assert dict(png_chunks(new.read_bytes()))[b"IHDR"][12] == 0
    assert capfd.readouterr() == ("", "")


def test_an_interlaced_png_that_ends_early(tmp_path, rng):
    whole = interlaced(rng.integers(0, 256, (23, 31, 3)), 8, 2)
    rows = zlib.decompress(dict(png_chunks(whole))[b"IDAT"])
    path = tmp_path / "a.png"
    for changed in (rows[:-1], rows + b"\0", rows + bytes(2**24)):
        data = png_chunk(b"IDAT", zlib.compress(changed)) + png_chunk(b"IEND", b"")
        path.write_bytes(whole[:33] + data)
        with pytest.raises(UserError, match="bytes that its rows need"):
            read(path)


def test_failing_bands_leave_nothing(tmp_path, picture):
    path = saved(tmp_path, picture, "a.png")
    image = open_image(path)

    def failing():
        yield image.read_rows(0, 0, 5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        image.write_like(tmp_path / "b.png", failing())
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


FULL_DISK = """
import resource, signal, sys
from snowmelt.errors import UserError
from snowmelt.images import open_image
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
image = open_image(sys.argv[1])
try:
    image.write_like(image.path.with_name(sys.argv[2]), iter([image.read_rows(0, 0, image.layout.height)]))
except UserError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_full_disk(tmp_path, picture, name):
    path = tmp_path / name
    write(path, picture)
    before = path.read_bytes()
    assert len(before) > 1000
    command = [sys.executable, "-c", FULL_DISK, str(path), f"b{path.suffix}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"b{path.suffix}: cannot be written: File too large" in done.stdout
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert path.read_bytes() == before
