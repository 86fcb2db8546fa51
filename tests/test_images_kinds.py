"""Which format a file is, by content and name; what is not read says the way out; ``--to``."""

import re

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from snowmelt import batch, images
from snowmelt.cli import main
from snowmelt.errors import UserError
from snowmelt.images import SUFFIXES, UNREAD, open_image, read, write
from snowmelt.images.base import Image as Base
from snowmelt.images.converted import converted
from snowmelt.images.refused import remedy

H, W = 40, 56


@pytest.fixture
def picture(rng):
    return rng.integers(0, 256, (H, W, 3), dtype=np.uint8)


def saved(folder, pixels, name, **options):
    path = folder / name
    Image.fromarray(pixels).save(path, **options)
    return path


def test_every_format_is_registered_once():
    assert len(SUFFIXES) == sum(len(each.suffixes) for each in images.FORMATS)
    assert {"PNG", "TIFF", "FITS", "AVIF", "Zarr"} <= {each.kind for each in images.FORMATS}
    assert not set(SUFFIXES) & set(UNREAD)
    for each in images.FORMATS:
        assert issubclass(each, Base)
        assert (
            each.kind == "Zarr"
            or each.signatures
            or each.unsigned
            or each.recognises is not Base.recognises
        )


@pytest.mark.parametrize(
    ("content", "name", "kind"),
    [("png", "a.jpg", "PNG"), ("webp", "a.jpg", "WebP"), ("jpeg", "a.png", "JPEG"), ("gif", "a.png", "GIF"),
     ("bmp", "a.tif", "BMP"), ("jpeg", "IMG_0001.HEIC", "JPEG"), ("avif", "a.webp", "AVIF"),
     ("tga", "a.tga", "TGA")],
)  # fmt: skip
def test_the_content_counts(tmp_path, picture, content, name, kind):
    path = tmp_path / name
    Image.fromarray(picture).save(path, content)
    image = open_image(path)
    assert image.kind == kind
    named = SUFFIXES.get(path.suffix.lower())
    expected = f"named like {named}, but its content is {kind}, and that is what counts"
    assert image.notes == ((expected,) if named not in (kind, None) else ())
    target = tmp_path / f"out{path.suffix}"
    write(target, read(path), like=path)
    assert open_image(target).kind == kind
    np.testing.assert_array_equal(read(target), read(path))
    right = tmp_path / f"out{image.suffixes[0]}"
    write(right, read(path), like=path)
    for wrong in (".npy", ".ppm"):
        with pytest.raises(UserError, match=rf"end the name in \{image.suffixes[0]}"):
            write(tmp_path / f"out{wrong}", read(path), like=path)


@pytest.mark.parametrize(
    ("head", "name", "message"),
    [
        (b"8BPS\0\1", "a.psd", "layers of an editing program; export it flattened"),
        (b"gimp xcf file", "a", "layers of an editing program"),
        (b"8BPS\0\1", "a.png", "layers of an editing program"),
        (b"%PDF-1.7", "a.pdf", "a drawing or a document"),
        (b"<svg xmlns", "a.png", "a drawing or a document"),
        (b"<?xml version='1.0'?>\n<svg ", "a.png", "a drawing or a document"),
        (b"\0\0\1\0\1\0", "favicon.ico", "an icon with several images"),
        (b"\x0a\5\1\x08", "a.pcx", "export it as PNG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1", "IMG_0001.HEIC", "heif-convert"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1", "IMG_0001.jpg", "heif-convert"),
        (b"\0\0\0\x18ftypcrx \0\0\0\0crx ", "a.cr3", "develop it to a 16-bit TIFF first"),
        (b"\0\0\0\x18ftypisom\0\0\0\0mp41", "a.mp4", "extract its frames first"),
        (b"II*\0" + bytes(40), "DSC_0001.NEF", "develop it to a 16-bit TIFF first"),
        (b"\x1f\x8b\x08", "a.fits.gz", "unpack it first"),
        (b"<!DOCTYPE html><html>", "photo.jpg", "a web page, not an image"),
        (b"version https://git-lfs.github.com/spec/v1", "photo.png", "git lfs pull"),
        (b"whatever", "photo.png", "named like PNG, but it holds something else"),
        (b"whatever", "cells.czi", "export it as OME-TIFF or OME-Zarr"),
        (b"whatever", "text.doc", "not an image of a known kind"),
    ],
)  # fmt: skip
def test_what_is_not_read_says_the_way_out(tmp_path, head, name, message):
    path = tmp_path / name
    path.write_bytes(head)
    with pytest.raises(UserError, match=message) as caught:
        open_image(path)
    assert str(caught.value).startswith(str(path))
    assert "damaged" not in str(caught.value)


def test_remedies_are_for_what_is_not_read(tmp_path, picture):
    for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "AVIF"):
        Image.fromarray(picture).save(tmp_path / "a", form)
        assert remedy((tmp_path / "a").read_bytes()[:512], "") is None


def test_a_name_in_a_file_that_has_no_parts(tmp_path, picture):
    path = saved(tmp_path, picture, "a.png")
    with pytest.raises(UserError, match="a PNG file has no parts such as 'x'; leave it out"):
        open_image(f"{path}:x")


def bands(array, rows):
    return (array[start : start + rows] for start in range(0, len(array), rows))


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("to", ["tif", "png"])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.avif", "a.tif"])
def test_to_another_kind(tmp_path, picture, name, to, monkeypatch):
    exif = Image.Exif()
    exif[274] = 6
    path = saved(tmp_path, picture, name, icc_profile=PROFILE, exif=exif)
    array, target = read(path), tmp_path / f"out.{to}"
    image = converted(open_image(path), to)
    with monkeypatch.context() as smaller:
        smaller.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow's own limit drops nothing
        image.write_like(target, bands(array, 7))
    np.testing.assert_array_equal(read(target), array)
    with Image.open(target) as opened:
        assert opened.info["icc_profile"] == PROFILE
        assert opened.getexif()[274] == 6
    if name == f"a.{to}":
        assert image.notes == ()  # it is of that kind
        return
    assert image.notes[-1].startswith(f"written as {to.upper()}: colour profile and orientation")
    with pytest.raises(UserError, match=f"with --to {to} its name ends in .{to}"):
        image.check_target(path)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "axes", "written"),
    [((40, 56), "YX", "YX"), ((3, 5, 40, 56), "TZYX", "TZYX"), ((3, 40, 56), "SYX", "YXS"),
     ((2, 40, 56, 5), "ZYXC", "ZYXS"), ((40, 300, 5), "YXZ", "ZYX")],
)  # fmt: skip
def test_arrays_to_tiff(tmp_path, rng, dtype, shape, axes, written, monkeypatch):
    monkeypatch.setattr(images.converted, "_STRIP", 2000)  # strips of a few rows
    data = (rng.random(shape) * 100).astype(dtype)
    path, target = tmp_path / "a.npy", tmp_path / "a.tif"
    np.save(path, data)
    image = open_image(path, axes=axes)
    image.nodata = -1.5
    whole = [image.read_rows(p, 0, image.layout.height) for p in range(image.layout.planes)]
    parts = [band for plane in whole for band in bands(plane, 9)]
    converted(image, "tif").write_like(target, iter(parts))
    moved = {"SYX": (1, 2, 0), "YXZ": (2, 0, 1)}.get(axes, range(len(shape)))
    with tifffile.TiffFile(target) as file:
        np.testing.assert_array_equal(file.asarray(), data.transpose(moved))
        assert file.series[0].axes == written
        assert float(file.pages[0].tags[42113].value) == -1.5


def test_fewer_bits_fill_those_of_png(tmp_path, rng):
    path, target = tmp_path / "a.pgm", tmp_path / "a.png"
    data = rng.integers(0, 1024, (H, W)).astype(">u2")
    data.flat[:2] = 0, 1023
    path.write_bytes(b"P5 56 40 1023\n" + data.tobytes())
    converted(open_image(path), "png").write_like(target, bands(read(path)[..., None], 9))
    found = read(target)
    assert (found.min(), found.max()) == (0, 65535)
    np.testing.assert_array_equal(np.rint(found * (1023 / 65535)), data)


def test_what_another_kind_cannot_hold(tmp_path, picture):
    np.save(tmp_path / "a.npy", picture.astype("f4"))
    np.save(tmp_path / "b.npy", picture)
    Image.fromarray(picture).convert("CMYK").save(tmp_path / "a.jpg")
    for name, to, axes, message in (
        ("a.npy", "png", "YXS", "PNG holds one image of 8 or 16 bits, grey or RGB, not float32"),
        ("b.npy", "png", "ZYX", "--to tif holds it"),
        ("a.jpg", "tif", None, "CMYK is not written as TIF"),
        ("a.jpg", "jpg", None, "--to jpg: expected one of tif, png"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            converted(open_image(tmp_path / name, axes=axes), to)


def test_the_command_says_what_it_found_and_rounds_to(tmp_path, picture, capsys):
    path = saved(tmp_path, picture, "a.gif")
    path.rename(tmp_path / "a.png")
    arguments = ["denoise", str(tmp_path / "a.png"), "--model", "fast", "--sigma", "10"]
    assert main(arguments) == 0
    said = capsys.readouterr().err
    assert "named like PNG, but its content is GIF" in said
    assert "the nearest of its 256 colours; --to png keeps" in said
    assert open_image(tmp_path / "a_denoised.png").kind == "GIF"
    assert main([*arguments, "--to", "tif"]) == 0
    said = capsys.readouterr().err
    assert "written as TIF" in said
    assert "nearest of its" not in said
    fine, coarse = read(tmp_path / "a_denoised.tif"), read(tmp_path / "a_denoised.png")
    assert len(np.unique(fine.reshape(-1, 3), axis=0)) > 256
    assert np.abs(fine.astype(int) - coarse).mean() < 60


def test_targets_of_another_kind(tmp_path, picture):
    for name in ("a.png", "b.jpg"):
        saved(tmp_path, picture, name)
    jobs = batch.plan([str(tmp_path)], str(tmp_path / "out"), to="tif")
    assert [job.target.name for job in jobs] == ["a.tif", "b.tif"]
    saved(tmp_path, picture, "a.jpg")
    with pytest.raises(UserError, match="would both become"):
        batch.plan([str(tmp_path)], str(tmp_path / "out"), to="tif")
