"""BMP of every kind: what goes in comes out, around the pixels byte for byte."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from snowmelt.errors import UserError
from snowmelt.images import open_image, read, write
from snowmelt.images.palette import Palette, packed

H, W = 11, 13


@pytest.fixture
def picture(rng):
    return rng.integers(0, 256, (H, W, 3), dtype=np.uint8)


def rewritten(path, pixels):
    """The file that a denoiser makes which gives these pixels."""
    before = path.read_bytes()
    target = path.with_name("out" + path.suffix)
    write(target, pixels, like=path)
    assert path.read_bytes() == before
    return target


def by_pillow(path, mode=None):
    image = Image.open(io.BytesIO(path.read_bytes()))
    return np.asarray(image.convert(mode) if mode else image)


def bmp(pixels, bits, *, palette=b"", size=40, compression=0, masks=b"", upwards=True, tail=b""):
    """Rows of bytes, top to bottom, as a file."""
    rows = b"".join(row + bytes(-len(row) % 4) for row in (pixels[::-1] if upwards else pixels))
    width, height = W, H if upwards else -H
    info = struct.pack("<IiiHHIIiiII", size, width, height, 1, bits, compression, len(rows), 2835, 2835,
                       len(palette) // 4, 0)  # fmt: skip
    info += masks.ljust(size - 40, b"\7")
    start = 14 + len(info) + len(palette)
    whole = start + len(rows) + len(tail)
    return struct.pack("<2sIHHI", b"BM", whole, 1, 2, start) + info + palette + rows + tail


@pytest.mark.parametrize("upwards", [True, False])
@pytest.mark.parametrize("tail", [b"", b"a colour profile"])
def test_bmp_of_24_bits(tmp_path, picture, upwards, tail):
    path = tmp_path / "a.bmp"
    rows = [row[:, ::-1].tobytes() for row in picture]
    path.write_bytes(bmp(rows, 24, upwards=upwards, tail=tail, size=124 if tail else 40))
    array = read(path)
    np.testing.assert_array_equal(array, picture)
    np.testing.assert_array_equal(array, by_pillow(path))
    assert rewritten(path, array).read_bytes() == path.read_bytes()
    rows = [row[:, ::-1].tobytes() for row in 255 - picture]
    expected = bmp(rows, 24, upwards=upwards, tail=tail, size=124 if tail else 40)
    assert rewritten(path, 255 - array).read_bytes() == expected


@pytest.mark.parametrize("opacity", [None, 0, 0xFF000000])
def test_bmp_of_32_bits(tmp_path, rng, opacity):
    pixels = rng.integers(0, 256, (H, W, 4), dtype=np.uint8)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, opacity or 0)
    plain = {} if opacity is None else {"size": 108, "compression": 3, "masks": masks}
    path = tmp_path / "a.bmp"
    path.write_bytes(bmp([row.tobytes() for row in pixels[..., [2, 1, 0, 3]]], 32, **plain))
    image, array = open_image(path), read(path)
    assert image.layout.alpha == bool(opacity)
    np.testing.assert_array_equal(array, pixels if opacity else pixels[..., :3])
    assert rewritten(path, array).read_bytes() == path.read_bytes()
    new = rewritten(path, 255 - array).read_bytes()
    pixels[..., : array.shape[2]] = 255 - array  # a byte that means nothing stays
    assert new == bmp([row.tobytes() for row in pixels[..., [2, 1, 0, 3]]], 32, **plain)


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_bmp_of_a_palette(tmp_path, rng, bits):
    count = 2**bits - (bits == 8)  # 255 colours are allowed, too
    colours = rng.permutation(2**18)[:count]
    palette = np.stack([colours & 63, colours >> 6 & 63, colours >> 12], 1).astype(np.uint8)
    indices = rng.integers(0, count, (H, W))
    places = (indices[..., None] >> np.arange(bits)[::-1] & 1).reshape(H, -1)
    rows = [row.tobytes() for row in np.packbits(places, axis=1)]
    stored = np.insert(palette[:, ::-1], 3, 0, axis=1).tobytes()
    path = tmp_path / "a.bmp"
    path.write_bytes(bmp(rows, bits, palette=stored))
    array = read(path)
    np.testing.assert_array_equal(array, palette[indices])
    np.testing.assert_array_equal(array, by_pillow(path, "RGB"))
    assert rewritten(path, array).read_bytes() == path.read_bytes()
    other = palette[rng.integers(0, count, (H, W))]
    np.testing.assert_array_equal(read(rewritten(path, other)), other)


def test_bmp_of_greys_is_grey(tmp_path, picture):
    path = tmp_path / "a.bmp"
    Image.fromarray(picture[..., 0]).save(path)
    array = read(path)
    np.testing.assert_array_equal(array, picture[..., 0])
    np.testing.assert_array_equal(by_pillow(rewritten(path, 255 - array)), 255 - picture[..., 0])


FIELDS = {
    "5-5-5": (16, 0, ()),
    "5-6-5": (16, 3, (0xF800, 0x7E0, 0x1F)),
    "4-4-4": (16, 3, (0xF00, 0xF0, 0xF)),
    "10-10-10": (32, 3, (0x3FF << 20, 0x3FF << 10, 0x3FF)),
    "8-8-8": (32, 3, (0xFF, 0xFF00, 0xFF0000)),
}


@pytest.mark.parametrize("name", FIELDS)
def test_bmp_of_bit_fields(tmp_path, rng, name):
    bits, compression, masks = FIELDS[name]
    words = rng.integers(0, 2**bits, (H, W)).astype(f"<u{bits // 8}")
    path = tmp_path / "a.bmp"
    path.write_bytes(
        bmp([row.tobytes() for row in words], bits, compression=compression,
            palette=struct.pack(f"<{len(masks)}I", *masks))
    )  # fmt: skip
    # Colours are no part of a palette: the count in the header is of no use here.
    array, image = read(path), open_image(path)
    masks = masks or (0x7C00, 0x3E0, 0x1F)
    full = np.iinfo(array.dtype).max
    expected = np.stack(
        [
            (words & mask).astype(float) / (mask & -mask) / (mask // (mask & -mask))
            for mask in masks
        ],
        axis=-1,
    )
    np.testing.assert_array_equal(array, np.floor(expected * full + 0.5))
    assert (image.rounding is None) == (name == "8-8-8")
    if name in ("5-5-5", "5-6-5"):  # Pillow rounds down
        assert np.abs(array.astype(int) - by_pillow(path)).max() <= 1
    assert rewritten(path, array).read_bytes() == path.read_bytes()
    new = rewritten(path, full - array)
    np.testing.assert_array_equal(read(new), full - array)
    for channel, mask in enumerate(
        masks
    ):  # the lowest level next to a value is taken, not the one below
        level = np.full_like(array, full // 2 + 1)
        found = read(rewritten(path, level))[..., channel]
        assert (
            np.abs(found.astype(int) - int(level.flat[0])).max()
            <= full / (mask // (mask & -mask)) / 2 + 1
        )


RUNS = {
    8: b"\x05\x07" + b"\x00\x04\x01\x02\x03\x04" + b"\x02\x09" + b"\x00\x00"
       + b"\x00\x02\x03\x01" + b"\x04\x05" + b"\x00\x00" + b"\x00\x03\x01\x02\x03\x00" + b"\x00\x00"
       + b"\x00\x02\x00\x06" + b"\x0d\x01" + b"\x00\x01",
    4: b"\x05\x7a" + b"\x00\x05\x12\x34\x50\x00" + b"\x02\x99" + b"\x00\x00"
       + b"\x00\x02\x03\x01" + b"\x04\x56" + b"\x00\x00"
       + b"\x00\x02\x00\x07" + b"\x0d\x12" + b"\x00\x01",
}  # fmt: skip
UNROLLED = {
    8: {0: "7777712349900", 2: "0005555", 3: "123", 10: "1111111111111"},
    4: {0: "7a7a71234599", 2: "0005656", 10: "1212121212121"},
}


@pytest.mark.parametrize("bits", [4, 8])
def test_bmp_of_runs(tmp_path, rng, bits):
    colours = rng.integers(0, 256, (2**bits, 3), dtype=np.uint8)
    stored = np.insert(colours[:, ::-1], 3, 0, axis=1).tobytes()
    path = tmp_path / "a.bmp"
    content = bmp([b""] * H, bits, palette=stored, compression=3 - bits // 4)
    profile = b"a colour profile"
    path.write_bytes(content + RUNS[bits] + profile)
    numbers = np.zeros((H, W), int)
    for row, text in UNROLLED[bits].items():
        numbers[H - 1 - row, : len(text)] = [int(letter, 16) for letter in text]
    array = read(path)
    np.testing.assert_array_equal(array, colours[numbers])
    np.testing.assert_array_equal(array, by_pillow(path, "RGB"))
    assert rewritten(path, array).read_bytes() == path.read_bytes()
    other = colours[rng.integers(0, 2**bits, (H, W))]
    new = rewritten(path, other)
    np.testing.assert_array_equal(read(new), other)
    np.testing.assert_array_equal(by_pillow(new, "RGB"), other)
    head = new.read_bytes()
    assert struct.unpack_from("<I", head, 2)[0] == len(head)
    assert struct.unpack_from("<I", head, 30)[0] == 0  # no compression any more


def test_only_an_end_mark_may_leave_out_pixels_of_runs(tmp_path):
    head = bmp([b""] * H, 8, palette=bytes(1024), compression=1)
    path = tmp_path / "a.bmp"
    full = (b"\x0d\x07" + b"\0\0") * (H - 1)
    for last in (b"\x0d\x07", b"\x0d\x07\0\0", b"\x0d\x07\0\1", b"\x05\x07\0\1", b"\0\1"):
        path.write_bytes(head + full + last)
        assert read(path).shape == (H, W, 3)
    for last in (b"", b"\x05\x07", b"\0\5abc"):
        path.write_bytes(head + full + last)
        with pytest.raises(UserError, match=r"cut off"):
            read(path)


def test_colours_of_a_palette_are_sought_once_each(monkeypatch, rng):
    from scipy import spatial

    asked = []

    class Counted(spatial.KDTree):
        def query(self, colours):
            asked.append(len(colours))
            return super().query(colours)

    monkeypatch.setattr(spatial, "KDTree", Counted)
    monkeypatch.setattr("snowmelt.images.palette._BAND_PIXELS", 100)
    colours = rng.integers(0, 256, (30, 4), dtype=np.uint8)
    colours[:, 3] = np.arange(30) % 2 * 255
    numbers = rng.integers(0, 30, (40, 50, 1), dtype=np.uint8)
    pixels = colours[numbers[..., 0]].copy()
    pixels[::2, :, :3] = rng.integers(0, 2, (20, 50, 3)) * 99
    found = Palette(colours).nearest(numbers, pixels)
    assert sum(asked) <= 2 * 8
    np.testing.assert_array_equal(found[1::2], numbers[1::2])
    assert np.array_equal(colours[found[..., 0], 3], colours[numbers[..., 0], 3])
    away = np.linalg.norm(colours[:, :3].astype(float) - pixels[..., None, :3], axis=-1)
    away[colours[:, 3] != colours[numbers, 3]] = np.inf
    chosen = np.take_along_axis(away, found.astype(int), axis=-1)[..., 0]
    np.testing.assert_array_equal(chosen, away.min(axis=-1))


def test_a_profile_behind_runs_comes_along(tmp_path, rng):
    colours = np.insert(rng.integers(0, 256, (256, 3), dtype=np.uint8), 3, 0, axis=1)
    content = bytearray(bmp([b""] * H, 8, palette=colours.tobytes(), compression=1, size=124))
    place = len(content) + len(RUNS[8])
    struct.pack_into("<II", content, 14 + 112, place - 14, 7)
    path = tmp_path / "a.bmp"
    path.write_bytes(bytes(content) + RUNS[8] + b"PROFILE")
    new = rewritten(path, read(path)[::-1]).read_bytes()
    start, length = struct.unpack_from("<II", new, 14 + 112)
    assert new[14 + start : 14 + start + length] == b"PROFILE"


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 24])
def test_bmp_of_os2(tmp_path, rng, picture, bits):
    if bits == 24:
        rows, palette = [row[:, ::-1].tobytes() for row in picture], b""
    else:
        numbers = rng.integers(0, 2**bits, (H, W), dtype=np.uint8)
        rows = [row.tobytes() for row in packed(np.pad(numbers, [(0, 0), (0, -W % 8)]), bits)]
        colours = rng.integers(0, 256, (2**bits, 3), dtype=np.uint8)
        palette, picture = colours[:, ::-1].tobytes(), colours[numbers]
    stride = (W * bits + 31) // 32 * 4
    body = b"".join(row[:stride].ljust(stride, b"\0") for row in rows[::-1])
    head = struct.pack("<2sIHHIIHHHH", b"BM", 0, 0, 0, 26 + len(palette), 12, W, H, 1, bits)
    path = tmp_path / "a.bmp"
    path.write_bytes(head + palette + body)
    array = read(path)
    np.testing.assert_array_equal(array, picture)
    if bits != 2:
        np.testing.assert_array_equal(array, by_pillow(path, "RGB"))
    assert rewritten(path, array).read_bytes() == path.read_bytes()
    np.testing.assert_array_equal(read(rewritten(path, array[::-1])), array[::-1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"BM", "damaged or not BMP"),
        (bmp([b""] * H, 24, compression=1), "a BMP of 24 bits a pixel in compression 1, which is not read"),
        (bmp([b""] * H, 1, compression=3), "a BMP of 1 bits a pixel in compression 3, which is not read"),
        (bmp([b""] * H, 32, size=108, compression=3, masks=b"\5\0\0\0" * 4), "a BMP with the bit fields 0x5"),
        (bmp([b"ab"] * H, 24), "it is cut off"),
        (bmp([b"\5" * W] * H, 8, palette=bytes(12)), "colour 5 of a palette of 3"),
        (bmp([b""] * H, 8, palette=bytes(1024), compression=1) + b"\5\1", "cut off in row 0 of 11"),
        (bmp([b""] * H, 24, size=13), "a header of 13 bytes"),
    ],
)  # fmt: skip
def test_what_cannot_be_read(tmp_path, content, message):
    path = tmp_path / "a.bmp"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "which is not read" not in message or "damaged" not in str(caught.value)


def test_the_name_stays_one_of_its_kind(tmp_path, picture):
    path = tmp_path / "a.bmp"
    Image.fromarray(picture).save(path)
    with pytest.raises(UserError, match=r"end the name in \.bmp, or say --to png"):
        write(tmp_path / "a.png", picture, like=path)
    with pytest.raises(UserError, match="a new file can be"):
        write(tmp_path / "new.bmp", picture)
