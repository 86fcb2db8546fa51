"""FITS, MRC and NPZ: values of every type, everything else in the file byte for byte."""

import struct
import zipfile

import numpy as np
import pytest

from snowmelt.errors import UserError
from snowmelt.images import fits as fits_
from snowmelt.images import npz, open_image, read, write

SHAPE = (3, 12, 20)


def values(rng, dtype, shape=SHAPE):
    found = np.array(rng.random(shape) * 100).astype(dtype)
    if found.dtype.kind == "f":
        found.flat[3] = np.nan
    return found


def rewritten(path, pixels, **axes):
    before = path.read_bytes()
    target = path.with_name("out" + path.suffix)
    write(target, pixels, like=path, **axes)
    assert path.read_bytes() == before
    return target


def card(name, value):
    return f"{name:8}= {value:>20}".ljust(80).encode()


def unit(data, *cards, first=True):
    """A header with its data; integers that FITS does not know get an offset."""
    kind = {"u1": 8, "i1": 8, "f4": -32, "f8": -64}.get(data.dtype.str[1:], 8 * data.dtype.itemsize)
    known = data.dtype.str[1:] in ("u1", "i2", "i4", "i8", "f4", "f8")
    stored = data
    lines = [
        b"SIMPLE  =                    T".ljust(80) if first else b"XTENSION= 'IMAGE   '".ljust(80)
    ]
    lines += [card("BITPIX", kind), card("NAXIS", data.ndim)]
    lines += [card(f"NAXIS{n + 1}", size) for n, size in enumerate(data.shape[::-1])]
    if not known:
        offset = -128 if kind == 8 else 2 ** (kind - 1)
        stored = (data.astype(object) - offset).astype("u1" if kind == 8 else f"i{kind // 8}")
        lines.append(card("BZERO", offset))
    lines += [*cards, b"END".ljust(80)]
    head, body = b"".join(lines), stored.astype(stored.dtype.newbyteorder(">")).tobytes()
    return head + b" " * (-len(head) % 2880) + body + b"\0" * (-len(body) % 2880)


EMPTY = unit(np.zeros(0, "u1")).replace(card("NAXIS", 1), card("NAXIS", 0))


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("shape", [(12, 20), SHAPE, (2, 1, 12, 20)])
def test_fits(tmp_path, rng, dtype, shape):
    data = values(rng, dtype, shape)
    path = tmp_path / "a.fits"
    table = unit(np.arange(5.0)[None], first=False).replace(b"'IMAGE   '", b"'BINTABLE'")
    path.write_bytes(unit(data) + table + b"more")
    array = read(path)
    assert array.dtype == data.dtype
    np.testing.assert_array_equal(array, data)
    assert rewritten(path, array).read_bytes() == path.read_bytes()
    other = (array / 2).astype(dtype)
    assert rewritten(path, other).read_bytes() == unit(other) + table + b"more"


def test_fits_as_astropy_sees_it(tmp_path, rng):
    astropy = pytest.importorskip("astropy.io.fits", reason="astropy is no part of the dev group")
    path = tmp_path / "a.fits"
    data = values(rng, "u2")
    astropy.PrimaryHDU(data).writeto(path, checksum=True)
    new = rewritten(path, read(path) // 2)
    with astropy.open(new, checksum=True) as found:
        np.testing.assert_array_equal(found[0].data, data // 2)


def test_checksums_of_fits(tmp_path, rng):
    data = rng.integers(0, 100, (12, 20)).astype("i2")
    cards = [b"DATASUM = '1         '   / of old data".ljust(80),
             b"CHECKSUM= '0123456789abcdef'   / of all".ljust(80)]  # fmt: skip
    path = tmp_path / "a.fits"
    path.write_bytes(unit(data, *cards))
    assert rewritten(path, data).read_bytes() == path.read_bytes()
    new = rewritten(path, data // 2).read_bytes()
    # The standard: all words of a header and its data add up to -0, those of the data to what is said.
    assert fits_._sum(new, 0) == 2**32 - 1
    words = np.frombuffer(new[2880:], ">u4").astype(object).sum()
    said = str(words % (2**32 - 1)).encode()
    assert b"DATASUM = '" + said.ljust(10) + b"'   / of old data" in new
    assert fits_._encoded(868229149) == b"hcHjjc9ghcEghc9g"  # the example of appendix J


def test_one_of_several_images_in_fits(tmp_path, rng):
    first, second = values(rng, "f4", (12, 20)), values(rng, "f4", (12, 20))
    names = [b"EXTNAME = 'SCI     '".ljust(80), b"EXTNAME = 'ERR     '".ljust(80)]
    path = tmp_path / "a.fits"
    path.write_bytes(
        EMPTY + unit(first, names[0], first=False) + unit(second, names[1], first=False)
    )
    with pytest.raises(
        UserError, match=r"holds several images; name one, e.g. a.fits:/SCI \(known: SCI, ERR\)"
    ):
        open_image(path)
    for name in ("ERR", "err", "2"):
        np.testing.assert_array_equal(read(f"{path}:{name}"), second)
    with pytest.raises(UserError, match="has no image 'DQ'"):
        open_image(f"{path}:DQ")
    target = tmp_path / "out.fits"
    write(target, second[::-1], like=f"{path}:ERR")
    np.testing.assert_array_equal(read(f"{target}:SCI"), first)
    np.testing.assert_array_equal(read(f"{target}:ERR"), second[::-1])


def test_a_version_that_is_no_number_in_fits(tmp_path, rng):
    data = values(rng, "f4", (12, 20))
    path = tmp_path / "a.fits"
    path.write_bytes(unit(data, b"EXTNAME = 'SCI     '".ljust(80), card("EXTVER", "abc")))
    for name in ("", ":SCI", ":0"):
        np.testing.assert_array_equal(read(f"{path}{name}"), data)
    with pytest.raises(UserError, match="EXTVER is 'abc'; expected a whole number"):
        read(f"{path}:SCI,1")


def test_what_fits_says_of_its_values(tmp_path, rng):
    path = tmp_path / "a.fits"
    data = values(rng, "i2", (12, 20))
    path.write_bytes(unit(data, card("BLANK", -32768), card("BSCALE", 0.5), card("BZERO", "1.0D2")))
    image = open_image(path)
    assert image.nodata == -32768
    assert image.notes == ("values are those stored, before BSCALE 0.5 and BZERO 100",)
    path.write_bytes(unit(values(rng, "u2", (12, 20)), card("BLANK", -32768)))
    assert open_image(path).nodata == 0  # as seen, with the offset


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (unit(np.zeros((12, 20), "f8"))[:4000], "cut off: its HDU 0 claims 1,920 bytes"),
        (unit(np.zeros((12, 20), "f4")).replace(b"END", b"EMD"), "a header without end"),
        (unit(np.zeros(20)), "it holds no image of two dimensions or more"),
        (EMPTY + unit(np.zeros((2, 20), "u1"), b"ZIMAGE  =                    T".ljust(80), first=False)
         .replace(b"'IMAGE   '", b"'BINTABLE'"), "compressed in tiles; unpack it first: funpack a.fits"),
        (unit(np.zeros((12, 20), "f4")).replace(b"                 -32", b"                 -31"), "damaged"),
        (unit(np.zeros((12, 20), "f4")).replace(card("NAXIS", 2), card("NAXIS", 400_000_000)),
         "NAXIS is 400,000,000; FITS has 0 to 999 axes"),
        (unit(np.zeros((12, 20), "f4"), card("BSCALE", "one")), "BSCALE is 'one'; expected a number"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_of_fits(tmp_path, content, message):
    path = tmp_path / "a.fits"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(path)


MODES = {"i1": 0, "i2": 1, "f4": 2, "u2": 6, "f2": 12}


def mrc(data, order="<", extended=b"", marked=True):
    head = bytearray(1024)
    shape = data.shape if data.ndim == 3 else (1, *data.shape)
    struct.pack_into(f"{order}4i", head, 0, *shape[::-1], MODES[data.dtype.str[1:]])
    struct.pack_into(f"{order}3f", head, 76, 0, -1, -2)
    struct.pack_into(f"{order}i", head, 92, len(extended))
    if marked:
        head[208:212] = b"MAP "
        head[212:216] = b"\x44\x44\0\0" if order == "<" else b"\x11\x11\0\0"
    return bytes(head) + extended + data.astype(data.dtype.newbyteorder(order)).tobytes()


@pytest.mark.parametrize("dtype", MODES)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("marked", [True, False])
def test_mrc(tmp_path, rng, dtype, order, marked):
    data = values(rng, dtype)
    path = tmp_path / "a.mrc"
    path.write_bytes(mrc(data, order, b"of a microscope ", marked))
    array = read(path)
    assert open_image(path).layout.axes == "ZYX"
    assert array.dtype == data.dtype
    np.testing.assert_array_equal(array, data)
    assert rewritten(path, array).read_bytes() == path.read_bytes()
    other = (array / 2).astype(dtype)
    new = rewritten(path, other).read_bytes()
    expected = bytearray(mrc(other, order, b"of a microscope ", marked))
    finite = other[np.isfinite(other)].astype(float)
    struct.pack_into(f"{order}3f", expected, 76, finite.min(), finite.max(), finite.mean())
    struct.pack_into(f"{order}f", expected, 216, finite.std())
    assert new[1024:] == expected[1024:]
    for place in (76, 80, 84, 216):
        found, wanted = (
            struct.unpack_from(f"{order}f", each, place)[0] for each in (new, expected)
        )
        assert found == pytest.approx(wanted, rel=1e-6)
    assert (
        new[:76] + new[88:216] + new[220:1024]
        == expected[:76] + expected[88:216] + expected[220:1024]
    )


def test_mrc_as_mrcfile_sees_it(tmp_path, rng):
    mrcfile = pytest.importorskip("mrcfile", reason="mrcfile belongs to the dev group")
    path = tmp_path / "a.mrc"
    data = rng.random(SHAPE).astype("f4")
    with mrcfile.new(path) as file:
        file.set_data(data)
    new = rewritten(path, read(path) / 2)
    assert mrcfile.validate(new, print_file=None)
    with mrcfile.open(new) as file:
        np.testing.assert_array_equal(file.data, data / 2)


def test_what_cannot_be_read_of_mrc(tmp_path, rng):
    path = tmp_path / "a.mrc"
    data = mrc(values(rng, "f4"))
    for content, message in (
        (data[:-1], "it is cut off"),
        (data[:500], "it is cut off"),
        (data[:12] + b"\4" + data[13:], "an MRC of complex floats"),
        (data[:12] + b"\x09" + data[13:], "mode 9"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            read(path)


@pytest.mark.parametrize("dtype", ["u1", ">u2", "f4"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, rng, dtype, order, save):
    data = np.asarray((rng.random((12, 20)) * 100).astype(dtype), order=order)
    path = tmp_path / "a.npz"
    save(path, image=data, x=np.arange(5), names=np.array(["a", "b"]))
    array = read(path)
    np.testing.assert_array_equal(array, data)
    assert array.dtype.isnative
    assert rewritten(path, array).read_bytes() == path.read_bytes()
    new = np.load(rewritten(path, array // 2))
    assert [*new] == ["image", "x", "names"]
    np.testing.assert_array_equal(new["image"], data // 2)
    assert (new["image"].dtype, np.isfortran(new["image"])) == (data.dtype, np.isfortran(data))
    np.testing.assert_array_equal(new["x"], np.arange(5))
    assert new["names"].tolist() == ["a", "b"]


def test_one_of_several_arrays_in_npz(tmp_path, rng):
    path = tmp_path / "a.npz"
    first, second = rng.random((12, 20)), rng.random(SHAPE)
    np.savez(path, first=first, second=second)
    with pytest.raises(UserError, match=r"name one, e.g. a.npz:/first \(known: first, second\)"):
        open_image(path)
    with pytest.raises(UserError, match=r"second: has the shape .* name them"):
        open_image(f"{path}:second")
    np.testing.assert_array_equal(read(f"{path}:second", "ZYX"), second)


def test_npz_that_claims_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "_HARMLESS", 10_000)
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.zeros((900, 900), "u1"))
    with pytest.raises(UserError, match="claims 810,000 pixels"):
        open_image(path)
    assert open_image(path, max_pixels=810_000).layout.height == 900
    np.savez_compressed(path, a=np.zeros((9, 9, 10_000), "u1"))
    with pytest.raises(UserError, match="claims 810,000 pixels"):
        open_image(path, axes="YXC")
    np.savez_compressed(path, a=np.zeros((12, 20), "u1"), b=np.zeros(810_000, "u1"))
    with pytest.raises(UserError, match="its other arrays claim 810,128 bytes"):
        rewritten(path, read(path) + np.uint8(1))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_npz_compressed_as_numpy_never_does(tmp_path, method):
    """Of such an entry, 1,700 bytes became 2 GB when its header was read."""
    path = tmp_path / "a.npz"
    np.savez(path, a=np.zeros((12, 20), "u1"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b.npy", bytes(1000), compress_type=method)
    with pytest.raises(UserError, match=r"save it with numpy\.savez_compressed"):
        open_image(path)


def test_damage_in_npz_is_found(tmp_path, rng):
    path = tmp_path / "a.npz"
    np.savez(path, a=rng.integers(0, 256, (12, 20), dtype=np.uint8))
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="Bad CRC"):
        read(path)
