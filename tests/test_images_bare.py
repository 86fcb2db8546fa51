"""PGM, PPM and PFM: what goes in comes out, around the pixels byte for byte."""

import io

import numpy as np
import pytest
from PIL import Image

from snowmelt.cli import main
from snowmelt.errors import UserError
from snowmelt.images import open_image, read, write

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


def by_pillow(path):
    return np.asarray(Image.open(io.BytesIO(path.read_bytes())))


@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
@pytest.mark.parametrize("most", [1, 200, 255, 4095, 65535])
def test_pnm(tmp_path, rng, kind, most):
    shape = (H, W, 3) if kind in ("P3", "P6") else (H, W)
    pixels = rng.integers(0, most + 1, shape)
    pixels.flat[:2] = 0, most
    path = tmp_path / "a.pnm"
    head = f"{kind} # a camera\n#another # line\n {W}\t{H}\n{most}\n".encode()
    if kind in ("P2", "P3"):
        body = "\n".join(map(str, pixels.reshape(-1))).encode() + b" # the end\n"
    else:
        body = pixels.astype(">u2" if most > 255 else "u1").tobytes() + b"\n"
    path.write_bytes(head + body)

    image = open_image(path)
    assert image.value_range == (0, most)
    array = read(path)
    assert array.dtype == ("uint16" if most > 255 else "uint8")
    np.testing.assert_array_equal(array, pixels)
    assert rewritten(path, array).read_bytes() == path.read_bytes()

    new = rewritten(path, most - array)
    assert new.read_bytes().startswith(head)
    assert max(map(len, new.read_bytes().split(b"\n"))) <= 70 or kind in ("P5", "P6")
    np.testing.assert_array_equal(read(new), most - pixels)
    if most == 255:  # others Pillow scales, or it does not know them
        path.write_bytes(new.read_bytes().replace(b"#another # line\n", b""))
        np.testing.assert_array_equal(by_pillow(path), most - pixels)


@pytest.mark.parametrize("scale", ["-1.0", "1.0", "-2e-3"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pfm(tmp_path, rng, scale, channels):
    pixels = rng.normal(size=(H, W, channels)).astype("f4").squeeze()
    stored = pixels[::-1].astype("<f4" if scale.startswith("-") else ">f4")
    head = f"{'PF' if channels == 3 else 'Pf'}\n{W} {H}\n{scale}\n".encode()
    path = tmp_path / "a.pfm"
    path.write_bytes(head + stored.tobytes())
    array = read(path)
    assert array.dtype == np.float32
    assert array.dtype.isnative
    np.testing.assert_array_equal(array, pixels)
    assert rewritten(path, array).read_bytes() == path.read_bytes()
    new = rewritten(path, 2 * array)
    assert new.read_bytes() == head + (2 * stored).astype(stored.dtype).tobytes()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pgm", b"P5\n2 2\n255\nabc", "cannot be read: damaged or not PNM: it is cut off"),
        ("a.pgm", b"P5\n2 2\n0\nabcd", "greatest value; it is 1 to 65535"),
        ("a.pgm", b"P5\n2 2\n70000\nabcd", "greatest value; it is 1 to 65535"),
        ("a.pgm", b"P5\n2 2\n9\nabcd", "outside of"),
        ("a.pgm", b"P2\n2 2\n9\n1 2 3 -4", "whole numbers"),
        ("a.pgm", b"P2\n2 2\n9\n1 2 3", "it is cut off"),
        ("a.pgm", b"P2\n2 2\n9\n1 2 3 4 P2", "several pictures"),
        ("a.pgm", b"P2\n2 2\n9\n1 2 3 4 5", "several pictures"),
        ("a.pgm", b"P5\n2 2\n255\nabcdP5\n2 2\n255\nabcd", "several pictures"),
        ("a.ppm", b"P6\n0 2\n255\n", "empty"),
        ("a.pfm", b"Pf\n1 1\n-.e\nabcd", "damaged or not PNM"),
        ("a.pbm", b"P4\n8 1\n\1", "a kind that is not read; export it as PNG"),
        ("a.pgm", b"P4\n8 1\n\1", "holds something else"),
        ("a.pgm", b"P6\n99999 99999\n255\n", "decompression bombs"),
    ],
)  # fmt: skip
def test_what_cannot_be_read(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_values_that_the_header_excludes_are_not_written(tmp_path):
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 2 2 9\n\1\2\3\4")
    with pytest.raises(UserError, match="no value is above 9"):
        rewritten(path, np.full((2, 2), 10, np.uint8))


def test_a_picture_of_12_bits_keeps_its_range(tmp_path, rng):
    ramp = np.linspace(0, 4095, 64)[None] + rng.normal(0, 200, (64, 64))
    path, target = tmp_path / "a.pgm", tmp_path / "b.pgm"
    path.write_bytes(b"P5 64 64 4095\n" + ramp.clip(0, 4095).astype(">u2").tobytes())
    arguments = ["--model", "fast", "--sigma", "12.5", "--quiet"]
    assert main(["denoise", str(path), "-o", str(target), *arguments]) == 0
    assert target.read_bytes().startswith(b"P5 64 64 4095\n")
    before, after = read(path).astype(float), read(target).astype(float)
    truth = np.linspace(0, 4095, 64)[None]
    assert np.abs(after - truth).mean() < np.abs(before - truth).mean() / 3


def test_a_word_of_many_digits(tmp_path):
    """It is a number as any other, and costs no more memory than its bytes."""
    import tracemalloc

    path = tmp_path / "a.pgm"
    path.write_bytes(b"P2 2000 2 255\n" + b"1 " * 2000 + b"0" * 48000 + b"7 " + b"3 " * 1999)
    tracemalloc.start()
    pixels = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pixels.reshape(-1).tolist() == [1] * 2000 + [7] + [3] * 1999
    assert peak < 2**21
    for word in (b"9" * 48000, b"256", b"1e0", b"-1", b"0x1"):
        path.write_bytes(b"P2 1 1 255\n" + word)
        with pytest.raises(UserError, match=r"a\.pgm"):
            read(path)


def test_a_header_has_an_end(tmp_path):
    path = tmp_path / "a.pgm"
    for gap, fine in ((60_000, True), (70_000, False)):
        path.write_bytes(b"P5" + b" " * gap + b"2 1 255\n\1\2")
        if fine:
            assert read(path).tolist() == [[1, 2]]
        else:
            with pytest.raises(UserError, match="its first 64 KB are no header"):
                read(path)
