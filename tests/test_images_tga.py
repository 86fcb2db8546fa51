"""TGA: what goes in comes out, runs become plain, places in the footer follow."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from snowmelt.errors import UserError
from snowmelt.images import open_image, read, write

H, W = 15, 23


def rewritten(path, pixels):
    before = path.read_bytes()
    target = path.with_name("out" + path.suffix)
    write(target, pixels, like=path)
    assert path.read_bytes() == before
    return target


def by_pillow(path, mode):
    return np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert(mode))


@pytest.mark.parametrize("compression", [None, "tga_rle"])
@pytest.mark.parametrize("orientation", [1, -1])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_tga(tmp_path, rng, mode, orientation, compression):
    picture = Image.fromarray(rng.integers(0, 256, (5, 7, 4), dtype=np.uint8)).resize((W, H), 0)
    path = tmp_path / "a.tga"
    picture.convert(mode).save(
        path, compression=compression, orientation=orientation, id_section=b"hi"
    )
    shown = mode if mode != "P" else "RGB"
    array, image = read(path), open_image(path)
    np.testing.assert_array_equal(array, by_pillow(path, shown))
    assert image.layout.alpha == (mode in ("LA", "RGBA"))
    assert rewritten(path, array).read_bytes() == path.read_bytes()
    other = array[::-1] if mode == "P" else 255 - array
    new = rewritten(path, other)
    np.testing.assert_array_equal(read(new), other)
    np.testing.assert_array_equal(by_pillow(new, shown), other)
    assert new.read_bytes()[18:20] == b"hi"


def tga(kind, depth, body, marks=0x20, tail=b""):
    head = struct.pack("<BBBHHBHHHHBB", 0, 0, kind, 0, 0, 0, 0, 0, W, H, depth, marks)
    return head + body + tail


def test_tga_of_16_bits(tmp_path, rng):
    words = rng.integers(0, 2**16, (H, W)).astype("<u2")
    path = tmp_path / "a.tga"
    path.write_bytes(tga(2, 16, words.tobytes()))
    array = read(path)
    expected = np.stack([words >> 10 & 31, words >> 5 & 31, words & 31], -1) * 255 / 31
    np.testing.assert_array_equal(array, np.floor(expected + 0.5))
    assert "15 bits" in open_image(path).rounding
    assert rewritten(path, array).read_bytes() == path.read_bytes()
    np.testing.assert_array_equal(read(rewritten(path, 255 - array)), 255 - array)


def test_places_in_the_footer_follow(tmp_path):
    runs = b"\x96\x07" * H  # 23 times 7
    start = 18 + len(runs)
    extension = bytearray(495)
    struct.pack_into("<H", extension, 0, 495)
    struct.pack_into("<III", extension, 482, 0, start + 495, start + 500)
    stamp, developer = b"STAMP", struct.pack("<HHII", 1, 9, start + 495, 5)
    footer = struct.pack("<II", start, start + 500) + b"TRUEVISION-XFILE.\0"
    path = tmp_path / "a.tga"
    path.write_bytes(tga(11, 8, runs, tail=bytes(extension) + stamp + developer + footer))
    new = rewritten(path, np.full((H, W), 9, np.uint8)).read_bytes()
    assert new[2] == 3
    moved = struct.unpack("<II", new[-26:-18])
    assert moved == (18 + H * W, 18 + H * W + 500)
    places = struct.unpack_from("<III", new, moved[0] + 482)
    assert places == (0, 18 + H * W + 495, 0)  # none, the stamp, no table of lines any more
    assert new[places[1] : places[1] + 5] == stamp
    assert struct.unpack_from("<HHII", new, moved[1]) == (1, 9, places[1], 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tga(2, 24, bytes(H * W * 3 - 1)), "it is cut off"),
        (tga(10, 24, b"\x80\1\2\3"), "it is cut off"),
        (tga(5, 24, b""), "type 5, 24 bits"),
        (b"\0\0\2", "damaged or not TGA"),
        (b"\x89PNG" + bytes(60), "damaged or not TGA"),
        (b"8BPS" + bytes(60), "layers of an editing program"),
    ],
)
def test_what_cannot_be_read(tmp_path, content, message):
    path = tmp_path / "a.tga"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(path)
