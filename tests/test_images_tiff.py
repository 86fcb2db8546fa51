"""TIFF: tags and pixels survive, bands cost little, and lies are noticed."""

import contextlib
import io
import itertools
import struct
import tracemalloc
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, TiffImagePlugin

from snowmelt.errors import UserError
from snowmelt.images import open_image, read, tiffwriter, write
from snowmelt.images.ifd import Format, Reader, Tag

H, W = 37, 53
# Where pixels lie in the file may change, nothing else.
PLACES = {273, 279, 324, 325}


def noise(shape, dtype, seed=0):
    """Values over the whole range of a type."""
    rng, dtype = np.random.default_rng(seed), np.dtype(dtype)
    if dtype.kind == "f":
        return rng.normal(size=shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def bands(image, rows=13, change=None):
    height = image.layout.height
    for plane in range(image.layout.planes):
        for start in range(0, height, rows):
            band = image.read_rows(plane, start, min(height, start + rows))
            yield band if change is None else change(band)


def passed(path, rows=13, change=None, **options):
    before = path.read_bytes()
    image = open_image(path, **options)
    target = path.with_name("out_" + path.name)
    image.write_like(target, bands(image, rows, change))
    assert path.read_bytes() == before
    return target


def described(path):
    """All that tifffile sees in a file but the places of its pixels."""
    with tifffile.TiffFile(path) as file:
        tags = [
            [
                (tag.code, tag.dtype, tag.count, repr(tag.value))
                for tag in page.tags
                if tag.code not in PLACES
            ]
            for page in file.pages
        ]
        series = [(one.kind, one.shape, one.axes) for one in file.series]
        return file.byteorder, file.is_bigtiff, tags, series


def check_identity(path, **options):
    """In bands of several heights: pixels, types and tags as before."""
    expected = tifffile.imread(path)
    for rows in (1, 13, 64):
        new = passed(path, rows, **options)
        found = tifffile.imread(new)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
        assert described(new) == described(path)
        with tifffile.TiffFile(new) as file:
            assert not any(page.offset % 2 for page in file.pages)  # says the specification
    np.testing.assert_array_equal(read(path, **options), expected)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "f2", "f4", "f8"])
def test_number_types(tmp_path, dtype, order):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise((H, W), dtype), byteorder=order)
    check_identity(path)
    assert open_image(path).layout.dtype == dtype


CODED = [
    (compression, predictor, dtype)
    for compression in ("zlib", "lzw", "zstd", "lzma", "packbits")
    for predictor, dtype in (
        (None, "u1"),
        (None, "f4"),
        (2, "u1"),
        (2, "u2"),
        (2, "i4"),
        (3, "f4"),
        (3, "f8"),
    )
    if predictor is None or compression != "packbits"
]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("compression", "predictor", "dtype"), CODED)
def test_compression(tmp_path, compression, predictor, dtype, order):
    options = {"compression": compression, "predictor": predictor, "byteorder": order}
    for shape, more in (
        ((H, W), {"rowsperstrip": 5}),
        ((H, W, 3), {"tile": (16, 32), "photometric": "rgb"}),
    ):
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, noise(shape, dtype), **options, **more)
        check_identity(path)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("stack", [False, True])
def test_colour_and_opacity(tmp_path, planar, stack, compression):
    path = tmp_path / "a.tif"
    shape = (*((5,) if stack else ()), *((H, W, 4) if planar == "contig" else (4, H, W)))
    tifffile.imwrite(
        path,
        noise(shape, "u2"),
        **{"photometric": "rgb", "planarconfig": planar, "extrasamples": ["unassalpha"]},
        **{"compression": compression, "rowsperstrip": 7, "metadata": None},
    )
    axes = ("Z" if stack else "") + ("YXS" if planar == "contig" else "SYX")
    check_identity(path, axes=axes)
    image = open_image(path, axes=axes)
    assert image.layout.alpha
    assert image.layout.channels == 4
    new = passed(path, axes=axes, change=lambda band: band * np.array([1, 1, 1, 0], "u2"))
    opacity = read(new, axes=axes).take(3, axis=axes.index("S"))
    assert not opacity.any()
    assert read(new, axes=axes).any()


STACKS = {
    "imagej": (
        (2, 3, 4, H, W),
        "u2",
        {
            **{"imagej": True, "resolution": (2, 2)},
            "metadata": {
                **{"axes": "TZCYX", "spacing": 0.5, "unit": "um", "mode": "composite"},
                **{"Labels": list("ab" * 12), "LUTs": [np.zeros((3, 256), "u1")] * 4},
            },
        },
        "TZCYX",
    ),
    "imagej colour": ((3, H, W, 3), "u1", {"imagej": True, "metadata": {"axes": "ZYXS"}}, "ZYXS"),
    "ome": (
        (2, 3, 4, H, W),
        "u2",
        {
            **{"ome": True, "photometric": "minisblack", "compression": "zlib", "tile": (16, 16)},
            "metadata": {
                "axes": "TCZYX",
                "PhysicalSizeX": 0.1,
                "Channel": {"Name": ["a", "b", "c"]},
            },
        },
        "TCZYX",
    ),
    "ome colour": (
        (3, H, W, 3),
        "u1",
        {"ome": True, "metadata": {"axes": "ZYXS"}, "photometric": "rgb"},
        "ZYXS",
    ),
    "ome planar": (
        (3, 3, H, W),
        "u1",
        {
            **{"ome": True, "photometric": "rgb", "planarconfig": "separate"},
            "metadata": {"axes": "ZSYX"},
        },
        "ZSYX",
    ),
    "shaped": ((5, H, W), "f4", {"metadata": {"axes": "TYX"}}, "TYX"),
}


@pytest.mark.parametrize("name", STACKS)
def test_axes_from_metadata(tmp_path, name):
    shape, dtype, options, axes = STACKS[name]
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(shape, dtype), **options)
    check_identity(path)
    layout = open_image(path).layout
    assert (layout.shape, layout.axes) == (shape, axes)


def test_ome_pages_in_another_order(tmp_path):
    """Z runs before C in the file, and the axes are CZ: TiffData says which page is which."""
    path = tmp_path / "a.ome.tif"
    stack = noise((2, 3, H, W), "u2")
    data = "".join(
        f'<TiffData FirstC="{c}" FirstZ="{z}" IFD="{z * 2 + c}" PlaneCount="1"/>'
        for c, z in itertools.product(range(2), range(3))
    )
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels '
        f'ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="{W}" SizeY="{H}" SizeZ="3" SizeC="2" '
        f'SizeT="1">{data}</Pixels></Image></OME>'
    )
    with tifffile.TiffWriter(path) as file:
        for z, c in itertools.product(range(3), range(2)):
            file.write(stack[c, z], description=xml if z + c == 0 else None, metadata=None)
    assert open_image(path).layout.axes == "CZYX"
    np.testing.assert_array_equal(read(path), stack)
    check_identity(path)


def test_large_imagej_stack_of_one_directory(tmp_path, monkeypatch):
    """Beyond 4 GiB ImageJ writes one page and lets the others follow: they keep lying there."""
    path = tmp_path / "a.tif"
    stack = noise((6, H, W), "u2")
    tifffile.imwrite(path, stack, imagej=True, metadata={"axes": "ZYX"}, truncate=True)
    with tifffile.TiffFile(path) as file:
        assert len(file.pages) == 1
    monkeypatch.setattr(tiffwriter, "_CLASSIC_END", 2000)  # for 4 GiB
    check_identity(path)
    np.testing.assert_array_equal(read(passed(path, change=lambda band: band ^ 1)), stack ^ 1)


def test_big_tiff(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        noise((3, H, W), "u2"),
        bigtiff=True,
        photometric="minisblack",
        metadata={"axes": "ZYX"},
        rowsperstrip=5,
    )
    check_identity(path)
    tifffile.imwrite(
        path,
        noise((3, H, W), "u2"),
        photometric="minisblack",
        metadata={"axes": "ZYX"},
        compression="zlib",
    )
    monkeypatch.setattr(tiffwriter, "_CLASSIC_END", 10_000)  # for 4 GiB
    new = passed(path)
    assert [described(file)[1] for file in (path, new)] == [False, True]
    assert described(new)[2:] == described(path)[2:]
    np.testing.assert_array_equal(tifffile.imread(new), tifffile.imread(path))


def test_pages_without_axes(tmp_path):
    """Pages are images of their own whatever they are; who wants channels says so."""
    path = tmp_path / "a.tif"
    stack = noise((6, H, W), "u1")
    tifffile.imwrite(path, stack, photometric="minisblack", metadata=None)
    for axes, channels in ((None, 1), ("ZYX", 1), ("cyx", 1), ("SYX", 6)):
        layout = open_image(path, axes=axes).layout
        assert (layout.axes, layout.channels, layout.planes) == (
            (axes or "QYX").upper(),
            channels,
            6 // channels,
        )
        check_identity(path, axes=axes)
    for axes in ("YX", "XYZ", "ZZYX", "YYX", "ZYXS", "1YX", ""):
        with pytest.raises(UserError, match="does not fit"):
            open_image(path, axes=axes)


def test_pages_written_one_by_one(tmp_path):
    """A loop over `TiffWriter.write` notes each page as an image of its own."""
    path = tmp_path / "a.tif"
    stack = noise((3, H, W), "u2")
    with tifffile.TiffWriter(path) as file:
        for page in stack:
            file.write(page, photometric="minisblack")
    with tifffile.TiffFile(path) as file:
        assert len(file.series) == 3
    image = open_image(path)
    assert (image.layout.axes, image.layout.shape) == ("QYX", (3, H, W))
    np.testing.assert_array_equal(read(path), stack)
    assert described(passed(path)) == described(path)


def test_photo_with_exif_and_gps(tmp_path):
    path = tmp_path / "a.tif"
    exif = Image.Exif()
    exif[0x0112] = 8
    exif.get_ifd(0x8769)[0x9003] = "2024:01:01 00:00:00"
    exif.get_ifd(0x8769)[0x829A] = TiffImagePlugin.IFDRational(1, 60)
    exif.get_ifd(0x8825)[2] = (48.0, 8.0, 12.5)
    Image.fromarray(noise((H, W, 3), "u1")).save(path, exif=exif.tobytes(), dpi=(300, 300))
    check_identity(path)
    old, new = (Image.open(io.BytesIO(file.read_bytes())) for file in (path, passed(path)))
    assert new.tobytes() == old.tobytes()
    assert new.info["dpi"] == (300, 300)
    for part in (0x8769, 0x8825):
        found = dict(new.getexif().get_ifd(part))
        assert found == dict(old.getexif().get_ifd(part)) != {}


def test_private_tags_stay_byte_for_byte(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        noise((H, W), "u1"),
        **{"description": "hello", "software": "me", "datetime": True, "resolution": (300, 300)},
        **{"iccprofile": bytes(range(200)), "metadata": {"axes": "YX"}},
        extratags=[
            (700, 1, 5, b"<xmp>", True),
            (65000, 12, 2, (1.0, 2.0), True),
            (33550, 12, 3, (1.0, 2.0, 0.0)),
        ],
    )
    with path.open("rb") as file, passed(path, change=np.negative).open("rb") as other:
        old, new = (next(Reader(one).chain()) for one in (file, other))
    assert [tag for tag in new if tag.code not in PLACES] == [
        tag for tag in old if tag.code not in PLACES
    ]
    assert [tag.code for tag in new].count(270) == 2


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((64, 64, 3), {"photometric": "ycbcr", "tile": (32, 32)}),
        ((64, 64), {"rowsperstrip": 16}),
        ((64, 64), {}),
    ],
)
def test_jpeg_comes_back_without_loss(tmp_path, shape, options):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(shape, "u1"), compression="jpeg", software="me", **options)
    new = passed(path)
    np.testing.assert_array_equal(tifffile.imread(new), tifffile.imread(path))
    with tifffile.TiffFile(new) as file:
        page = file.pages[0]
        assert page.compression == 8
        assert page.software == "me"
        assert page.photometric == (2 if len(shape) == 3 else 1)
        assert page.is_tiled == ("tile" in options)


def test_imagej_grey_values_with_a_colour_table(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise((H, W), "u1"), imagej=True, colormap=noise((3, 256), "u2"))
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].photometric == 3
    check_identity(path)


def test_jpeg_larger_than_its_strip(tmp_path):
    path = tmp_path / "a.tif"
    data = imagecodecs.jpeg_encode(noise((64, 64), "u1"))
    place = len(handmade((259, 7), (273, 1), (279, len(data))))
    path.write_bytes(handmade((259, 7), (273, place), (279, len(data))) + data)
    with pytest.raises(UserError, match="a JPEG of 64 x 64 in a tile of 4 x 4"):
        read(path)


@pytest.mark.parametrize("kind", ["separated", "miniswhite"])
def test_other_colours(tmp_path, kind):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, noise((H, W, 4) if kind == "separated" else (H, W), "u1"), photometric=kind
    )
    check_identity(path)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1)])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}])
def test_tiny(tmp_path, shape, options):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(shape, "u2"), **options)
    check_identity(path)


def test_pillow_reads_what_is_written(tmp_path):
    """libtiff, which shares no code with the writer or with tifffile."""
    for number, (compression, predictor) in enumerate(
        itertools.product(("raw", "lzw", "adobe_deflate"), (1, 2))
    ):
        path = tmp_path / f"{number}.tif"
        picture = Image.fromarray(noise((H, W, 3), "u1"))
        picture.save(
            path,
            compression="raw" if compression == "raw" else f"tiff_{compression}",
            tiffinfo={317: predictor, 278: 5} if compression != "raw" else {},
        )
        new = Image.open(io.BytesIO(passed(path).read_bytes()))
        assert new.tobytes() == picture.tobytes()


def test_places_left_out_are_nought(tmp_path):
    """GDAL leaves out strips and tiles that hold nothing."""
    path = tmp_path / "a.tif"
    half = noise((2, 4), "u1")
    for method, data in ((1, half.tobytes()), (8, zlib.compress(half.tobytes()))):
        tags = {259: method, 278: 2, 279: [len(data), 0]}
        place = len(handmade((273, [1, 0]), *tags.items()))
        path.write_bytes(handmade((273, [place, 0]), *tags.items()) + data)
        np.testing.assert_array_equal(read(path), np.concatenate([half, 0 * half]))
        np.testing.assert_array_equal(tifffile.imread(passed(path)), read(path))


TITLE = b"Adobe Photoshop Document Data Block\0"
LAYERS = TITLE + b"MIB8ryaL" + struct.pack("<I", 8) + struct.pack("<HHI", 1, 0, 9)
REFUSED = {
    "layers": ((H, W), "u1", {"extratags": [(37724, 7, len(LAYERS), LAYERS)]}, "Photoshop layers"),
    "raw data": ((H, W), "u2", {"photometric": "cfa"}, "photometric 32803: a camera's raw data"),
    "complex": ((H, W), "c8", {}, "sample format 6"),
    "method": ((H, W), "u2", {"compression": "jpegxr"}, "JPEG XR"),
    "rows as pages": ((H, W, 5), "u2", {"metadata": {"axes": "YXC"}}, "not page by page"),
    "volumes": ((32, 32, 32), "u1", {"volumetric": True, "tile": (16, 16, 16)}, "volumes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_remedy(tmp_path, name):
    shape, dtype, options, message = REFUSED[name]
    path = tmp_path / "a.tif"
    values = noise(shape, "u2") // 16
    tifffile.imwrite(path, values.astype(dtype), **{"photometric": "minisblack", **options})
    with pytest.raises(UserError, match=rf"a\.tif: .*{message}.*; (save|export)"):
        open_image(path)


@pytest.mark.parametrize("kind", ["inside", "page", "first page", "old mark"])
def test_smaller_versions_are_left_out(tmp_path, kind):
    path = tmp_path / "a.tif"
    full, small = noise((2, H, W), "u1"), noise((H // 2, W // 2), "u1")
    mark = {"extratags": [(255, 3, 1, 2)]} if kind == "old mark" else {"subfiletype": 1}
    with tifffile.TiffWriter(path) as file:
        if kind == "first page":
            file.write(small, metadata=None, **mark)
        file.write(full[0], metadata=None, subifds=1 if kind == "inside" else None)
        if kind != "first page":
            file.write(small, metadata=None, **mark)
        file.write(full[1], metadata=None)
    image = open_image(path)
    assert image.layout.shape == full.shape
    assert "1 smaller version of the image" in image.notes[0]
    new = passed(path, change=np.negative)
    with tifffile.TiffFile(new) as file:
        assert [page.shape for page in file.pages] == [(H, W)] * 2
        assert not any(page.subifds for page in file.pages)
        np.testing.assert_array_equal([page.asarray() for page in file.pages], np.negative(full))
    assert not open_image(new).notes


def test_other_images_inside_a_page(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(noise((H, W), "u1"), subifds=1)
        file.write(noise((H, W), "u1"))
    with pytest.raises(UserError, match=r"SubIFDs.*not smaller.*; save"):
        open_image(path)


def test_a_mask_is_copied(tmp_path):
    """GDAL keeps opacity as a page of its own, one bit a pixel."""
    path = tmp_path / "a.tif"
    image, mask = noise((H, W, 3), "u1"), noise((H, W), "u1") > 99
    with tifffile.TiffWriter(path) as file:
        file.write(image, photometric="rgb", metadata=None)
        file.write(mask, photometric="minisblack", subfiletype=4, metadata=None, compression="zlib")
    np.testing.assert_array_equal(read(path), image)
    with tifffile.TiffFile(passed(path, change=np.negative)) as file:
        np.testing.assert_array_equal(file.pages[0].asarray(), np.negative(image))
        np.testing.assert_array_equal(file.pages[1].asarray(), mask)
        assert file.pages[1].subfiletype == 4


def test_pages_that_differ(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(noise((H, W), "u1"), metadata=None)
        file.write(noise((H, W - 1), "u1"), metadata=None)
    with pytest.raises(
        UserError, match=r"not alike: page 2 has 52 x 37 pixels.*neither is marked.*; save"
    ):
        open_image(path)


def test_memory_is_that_of_a_band(tmp_path):
    """The picture has 32 MB; a band of 64 rows 0.5 MB, a row of tiles 1 MB, a batch to compress 16 MB."""
    path = tmp_path / "a.tif"
    side = 4096
    picture = (np.arange(side)[:, None] * np.arange(side) // 999).astype("u2")
    for options in (
        {},
        {"rowsperstrip": 64},
        {"tile": (128, 128)},
        {"compression": "zlib", "tile": (128, 128)},
    ):
        tifffile.imwrite(path, picture, **options)
        batch = tiffwriter._BATCH
        tiffwriter._BATCH = 2**20
        tracemalloc.start()
        try:
            new = path.with_name("new.tif")
            image = open_image(path)
            image.write_like(new, bands(image, 64))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            tiffwriter._BATCH = batch
        assert peak < picture.nbytes / 4, options
        np.testing.assert_array_equal(tifffile.imread(new), picture)


def test_each_tile_is_decoded_once(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    for planar, shape in (("contig", (3, 70, 50, 3)), ("separate", (3, 3, 70, 50))):
        options = {"photometric": "rgb", "planarconfig": planar, "metadata": None}
        tifffile.imwrite(path, noise(shape, "u1"), compression="zlib", tile=(16, 16), **options)
        image = open_image(path, axes="ZYXS" if planar == "contig" else "ZSYX")
        calls = []
        decode = image._rows._part
        monkeypatch.setattr(
            image._rows, "_part", lambda *args, d=decode, c=calls: c.append(args[1:]) or d(*args)
        )
        list(bands(image, 7))
        assert len(calls) == len(set(calls)) == image._stored.offsets.size


def test_the_last_byte_of_a_file_is_enough(tmp_path):
    """Cut anywhere, a file is refused; whole it is read."""
    path = tmp_path / "a.tif"
    for options in (
        {},
        {"compression": "zlib", "rowsperstrip": 9},
        {"tile": (16, 16), "bigtiff": True},
    ):
        tifffile.imwrite(path, noise((20, 20), "u2"), **options)
        data = passed(path).read_bytes()
        for end in [*range(0, len(data), 1 + len(data) // 40), len(data) - 1]:
            path.write_bytes(data[:end])
            with pytest.raises(UserError, match=r"a\.tif"):
                read(path)


def handmade(*tags, big=False, order="<", following=0):
    """A TIFF of one directory at byte 16: 8-bit grey, 4 x 4, one strip at byte 0, unless tags say else."""
    form = Format(order, big)
    values = {256: 4, 257: 4, 258: 8, 259: 1, 262: 1, 273: 1, 277: 1, 278: 4, 279: 16} | dict(tags)
    entries = [
        value
        if isinstance(value, Tag)
        else form.tag(code, np.atleast_1d(value), short=np.max(value) < 2**16)
        for code, value in sorted(values.items())
        if value is not None
    ]
    packed = bytearray(form.pack(tuple(entries), 16, last=True))
    width, count = (8, 8 + 20 * len(entries)) if big else (4, 2 + 12 * len(entries))
    packed[count : count + width] = following.to_bytes(width, "little" if order == "<" else "big")
    return form.header(16).ljust(16, b"\0") + bytes(packed)


def test_handmade_is_sound(tmp_path):
    path = tmp_path / "a.tif"
    for big, order in itertools.product((False, True), "<>"):
        path.write_bytes(handmade(big=big, order=order))
        assert read(path).tobytes() == path.read_bytes()[1:17]


FLOAT = Tag(257, 11, struct.pack("<f", 4.0))
LIES = {
    "circle": (handmade(following=16), "circle"),
    "next beyond the end": (handmade(following=10**6), "ends at byte"),
    "strip beyond the end": (handmade((273, 10**6)), "cut off"),
    "strip beyond 2**63": (handmade((273, 2**62 - 1), big=True), "cut off"),
    "endless bytes": (handmade((259, 8), (279, 2**32 - 1)), "cut off"),
    "no rows": (handmade((257, 0)), "a.tif"),
    "no columns": (handmade((256, 0)), "a.tif"),
    "rows per strip 0": (handmade((278, 0)), "a.tif"),
    "huge": (handmade((256, 2**31), (257, 2**31)), "--max-pixels|cut off"),
    "huge and compressed": (
        handmade((256, 50000), (257, 50000), (259, 8), (278, 50000)),
        "--max-pixels",
    ),
    "huge tile": (
        handmade((322, 2**31), (323, 2**31), (324, 1), (325, 16), (259, 8)),
        "--max-pixels",
    ),
    "no tile": (handmade((322, 0), (323, 0), (324, 1), (325, 16)), "a.tif"),
    "few strips": (handmade((278, 1)), "has 1 values, not 4"),
    "no places": (handmade((273, None)), "a.tif"),
    "no lengths": (handmade((279, None), (259, 8)), "without tag 279"),
    "height in halves": (handmade((257, FLOAT)), "a.tif"),
    "no tags": (b"II*\0\x08\0\0\0\0\0\0\0\0\0", "0 tags"),
    "no directory": (b"II*\0\0\0\0\0", "no picture"),
    "many tags": (b"II*\0\x08\0\0\0\xff\xff" + bytes(10**6), "65535 tags"),
    "count of 4 billion": (
        handmade((270, Tag(270, 2, b"x" * 9))).replace(b"\t\0\0\0", b"\xff\xff\xff\xff"),
        "claims",
    ),
    "unknown type": (
        handmade().replace(b"\x00\x01\x03\x00", b"\x00\x01\x63\x00"),
        "unknown type 99",
    ),
    "noise": (handmade((259, 8)), "a.tif"),
    "JPEG of another size": (handmade((259, 7)), "a.tif"),
}


@pytest.mark.parametrize("name", LIES)
def test_lies_are_noticed(tmp_path, name):
    content, message = LIES[name]
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read(path)
    assert "a.tif" in str(error.value)


def test_values_shared_without_end(tmp_path):
    """Small directories that each point to the same megabytes unfold to more than there is."""
    path = tmp_path / "a.tif"
    size = 2**20
    entry = struct.pack("<HHII", 270, 2, size, 8)
    tail = 8 + size
    path.write_bytes(
        b"II*\0"
        + struct.pack("<I", tail)
        + b"x" * size
        + struct.pack("<H", 4000)
        + entry * 4000
        + bytes(4)
    )
    with pytest.raises(UserError, match="claims"):
        open_image(path)


def ome(pixels='SizeZ="1" SizeC="1" SizeT="1"', more="", data="<TiffData/>"):
    return (
        '<OME><Image ID="I"><Pixels ID="P" DimensionOrder="XYZCT" Type="uint8" SizeX="4" SizeY="4" '
        f"{pixels}>{data}</Pixels></Image>{more}</OME>"
    )


OME_LIES = [
    ome('SizeZ="1000000000" SizeC="1" SizeT="1"'),
    ome(data='<TiffData IFD="0" PlaneCount="1000000000"/>'),
    ome(data='<TiffData IFD="0" NumPlanes="1000000000"/>'),
    ome('SizeZ="1" SizeC="1" SizeT="1"').replace('SizeX="4"', 'SizeX="4000000000"'),
    ome(
        more='<StructuredAnnotations><XMLAnnotation ID="A" Namespace="modulo"><Value><Modulo>'
        '<ModuloAlongZ Type="angle" Start="0" End="1e12"/></Modulo></Value></XMLAnnotation>'
        "</StructuredAnnotations>"
    ),
]


@pytest.mark.parametrize("xml", OME_LIES)
def test_ome_cannot_claim_more_than_there_is(tmp_path, xml):
    path = tmp_path / "a.tif"
    path.write_bytes(handmade((270, Tag(270, 2, xml.encode() + b"\0"))))
    with pytest.raises(UserError, match="more planes than the file holds"):
        open_image(path)
    path.write_bytes(handmade((270, Tag(270, 2, ome().encode() + b"\0"))))
    assert read(path).dtype == "u1"


def test_ome_does_not_open_other_files(tmp_path):
    path, other = tmp_path / "a.tif", tmp_path / "b.tif"
    data = '<TiffData><UUID FileName="b.tif">urn:uuid:b</UUID></TiffData>'
    path.write_bytes(handmade((270, Tag(270, 2, ome(data=data).encode() + b"\0"))))
    tifffile.imwrite(other, np.ones((4, 4), "u2"))
    assert read(path).dtype == "u1"


def test_bombs_by_their_expansion(tmp_path):
    """A compressed file may be large if it is: nothing is asked where each byte gives 100 or fewer."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise((64, 64), "u1"), compression="zlib")
    open_image(path, max_pixels=1)
    tifffile.imwrite(path, np.zeros((1024, 1024), "u1"), compression="zlib")
    with pytest.raises(UserError, match="--max-pixels 1048576"):
        open_image(path, max_pixels=1)
    assert open_image(path, max_pixels=2**20).layout.planes == 1


def test_write_asks_for_axes(tmp_path):
    path = tmp_path / "a.tif"
    stack = noise((5, H, W), "f4")
    write(path, stack, axes="ZYX")
    assert open_image(path).layout.axes == "ZYX"
    np.testing.assert_array_equal(read(path), stack)
    write(path, stack[0])
    assert open_image(path).layout.axes == "YX"
    for axes in ("ZZYX", "YXZ", "ZXY", "ZYYX"):
        with pytest.raises(UserError, match="name the axes"):
            write(path, stack, axes=axes)


def holding(data, *tags, **options):
    """A handmade TIFF whose first strip or tile is ``data``."""
    offsets, counts = (324, 325) if any(code == 322 for code, _ in tags) else (273, 279)
    gone = [(273, None), (279, None)] if offsets == 324 else []
    named = {counts: len(data), **dict(gone), **dict(tags)}
    place = len(handmade(*named.items(), (offsets, 70_000), **options))
    return (
        handmade(*named.items(), (offsets, Tag(offsets, 4, struct.pack("<I", place))), **options)
        + data
    )


@pytest.mark.parametrize("channels", [2, 3, 4, 5])
@pytest.mark.parametrize("axes", ["CYX", "TCYX", "ZCYX"])
def test_channels_of_a_microscope_are_no_opacity(tmp_path, channels, axes):
    """tifffile marks the last of four planar channels as opacity, whatever they are."""
    path = tmp_path / "a.tif"
    stack = noise((*((2,) if len(axes) > 3 else ()), channels, H, W), "u2")
    planar = {"photometric": "rgb", "planarconfig": "separate"} if channels in (3, 4) else {}
    tifffile.imwrite(path, stack, metadata={"axes": axes}, **planar)
    with tifffile.TiffFile(path) as file:
        assert (file.pages[0].extrasamples == (2,)) == (channels == 4)
    layout = open_image(path).layout
    assert (layout.axes, layout.alpha, layout.channels) == (axes, False, 1)
    np.testing.assert_array_equal(read(passed(path, change=np.invert)), ~stack)
    check_identity(path)


PLANAR = {"photometric": "rgb", "planarconfig": "separate"}
OPACITY = {
    "interleaved": ((H, W, 4), {"metadata": {"axes": "YXS"}}, None, True),
    "planar": ((4, H, W), {"metadata": {"axes": "SYX"}, **PLANAR}, None, True),
    "nothing said": ((H, W, 4), {"metadata": None}, None, True),
    "nothing said, planar": ((4, H, W), {"metadata": None, **PLANAR}, None, True),
    "planar, channels by the user": ((4, H, W), {"metadata": None, **PLANAR}, "CYX", False),
    "channels by the file": ((H, W, 4), {"metadata": {"axes": "YXC"}}, None, False),
    "colours by another name": ((H, W, 4), {"metadata": None}, "YXC", True),
    "ImageJ": ((4, H, W), {"imagej": True, "metadata": {"axes": "CYX"}}, None, False),
    "OME": ((4, H, W), {"ome": True, "metadata": {"axes": "CYX"}}, None, False),
    "OME colour": ((H, W, 4), {"ome": True, "metadata": {"axes": "YXS"}}, None, True),
}


@pytest.mark.parametrize("name", OPACITY)
def test_what_is_opacity(tmp_path, name):
    shape, options, axes, alpha = OPACITY[name]
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(shape, "u2"), **options)
    image = open_image(path, axes=axes)
    assert image.layout.alpha == alpha
    assert ("comes back unchanged" in str(image.notes)) == (alpha and shape[0] == 4)


def test_four_samples_without_a_mark(tmp_path):
    """As Panotools and Hugin write opacity, and as Pillow reads it."""
    path = tmp_path / "a.tif"
    path.write_bytes(holding(noise((4, 4, 4), "u1").tobytes(), (258, [8] * 4), (262, 2), (277, 4)))
    assert Image.open(io.BytesIO(path.read_bytes())).mode == "RGBA"
    assert open_image(path).layout.alpha
    path.write_bytes(holding(noise((4, 4, 4), "u1").tobytes(), (258, [8] * 4), (262, 5), (277, 4)))
    assert not open_image(path).layout.alpha  # CMYK


BITS = [1, 2, 3, 4, 6, 7, 9, 10, 12, 14, 15]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("method", [1, 5, 8, 32773, 50000])
def test_bits(tmp_path, bits, method):
    """Values that are no whole bytes come back in as many bits, whichever way they are compressed."""
    path = tmp_path / "a.tif"
    dtype = np.dtype("u1" if bits <= 8 else "u2")
    values = np.random.default_rng(bits).integers(0, 2**bits, (4, 5, 3)).astype(dtype)
    raw = bytes(imagecodecs.packints_encode(values.reshape(4, -1), bits, runlen=15))
    names = {5: "lzw_encode", 8: "zlib_encode", 32773: "packbits_encode", 50000: "zstd_encode"}
    data = bytes(getattr(imagecodecs, names[method])(raw)) if method in names else raw
    tags = ((256, 5), (258, [bits] * 3), (259, method), (262, 2), (277, 3))
    path.write_bytes(holding(data, *tags))
    np.testing.assert_array_equal(read(path), values)
    assert open_image(path).value_range == (0, 2**bits - 1)
    assert described(passed(path)) == described(path)
    new = passed(path, 3, change=lambda band: 2**bits - 1 - band)
    np.testing.assert_array_equal(read(new), 2**bits - 1 - values)
    np.testing.assert_array_equal(tifffile.imread(new), 2**bits - 1 - values)
    with pytest.raises(UserError, match=rf"value {2**bits}: the file has {bits} bits"):
        passed(path, change=lambda band: np.full_like(band, 2**bits))


@pytest.mark.parametrize("kind", ["minisblack", "miniswhite", "rgb planar", "tiles"])
def test_bits_as_tifffile_writes_them(tmp_path, kind):
    path = tmp_path / "a.tif"
    options = {"photometric": "minisblack", "rowsperstrip": 5}
    if kind == "rgb planar":
        options |= {"photometric": "rgb", "planarconfig": "separate"}
    elif kind == "tiles":
        options = {"photometric": "minisblack", "tile": (16, 16)}
    else:
        options["photometric"] = kind
    for bits in (1, 4, 12):
        values = noise((3, H, W) if kind == "rgb planar" else (H, W), "u2") >> (16 - bits)
        depth = {} if bits == 1 else {"bitspersample": bits}
        dtype = "?" if bits == 1 else "u1" if bits == 4 else "u2"
        tifffile.imwrite(path, values.astype(dtype), **options, **depth, metadata=None)
        check_identity(path)
        np.testing.assert_array_equal(read(path), values)


@pytest.mark.parametrize("method", ["group3", "group4", "tiff_ccitt"])
def test_a_damaged_fax(tmp_path, rng, method):
    """Decoders leave white what they do not find, and say nothing."""
    path = tmp_path / "a.tif"
    bits = np.cumsum(rng.normal(size=(64, 100)), axis=1) > 0
    for content in (bits, bits & False, bits | True, bits[:1, :1]):
        options = {"compression": method, "tiffinfo": {278: 64}}
        Image.fromarray(content).save(path, **options)
        assert read(path).shape == content.shape
    Image.fromarray(bits).save(path, **options)
    data = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        start, size = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
        count = file.pages[0].tags[279].valueoffset
    middle = start + size // 2
    shorter = bytearray(data)
    shorter[count : count + 4] = struct.pack("<I", size // 2)
    for damaged in (
        data[:middle] + bytes(size - size // 2) + data[start + size :],
        data[:middle] + bytes(8) + data[middle + 8 :],
        bytes(shorter),
    ):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="fax codes"):
            read(path)


@pytest.mark.parametrize("coded", [b"", b"\x12\x34\x56"])
def test_an_arithmetic_jpeg_without_its_data(tmp_path, coded):
    """libjpeg makes a picture of nothing, and does not even warn."""
    segments = (
        (0xDB, bytes(1) + bytes([8] * 64)),
        (0xC9, struct.pack(">BHHB", 8, 64, 64, 1) + b"\1\x11\0"),
        (0xDA, b"\1\1\0\0\x3f\0"),
    )
    parts = (struct.pack(">BBH", 255, mark, len(body) + 2) + body for mark, body in segments)
    data = b"\xff\xd8" + b"".join(parts) + coded + b"\xff\xd9"
    tags = ((256, 64), (257, 64), (258, 8), (259, 7), (262, 1), (273, 8), (277, 1), (278, 64),
            (279, len(data)))  # fmt: skip
    data += bytes(len(data) % 2)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    path = tmp_path / "a.tif"
    head = b"II*\0" + struct.pack("<I", 8 + len(data)) + data
    path.write_bytes(head + struct.pack("<H", len(tags)) + entries + bytes(4))
    with pytest.raises(UserError, match="ends before its last pixel"):
        read(path)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("method", ["group3", "group4", "tiff_ccitt", "tiff_lzw", "packbits"])
def test_one_bit_as_libtiff_writes_it(tmp_path, method, order):
    """A fax comes back with deflate; the first pixel may lie in the lowest bit (FillOrder 2)."""
    path = tmp_path / "a.tif"
    picture = noise((H, W), "u1") > 99
    Image.fromarray(picture).save(path, compression=method, tiffinfo={266: order})
    np.testing.assert_array_equal(read(path), picture)
    new = passed(path, change=lambda band: 1 - band)
    np.testing.assert_array_equal(np.asarray(Image.open(new)), ~picture)
    with tifffile.TiffFile(new) as file:
        assert file.pages[0].compression == (
            8 if "group" in method or "ccitt" in method else open_code(path)
        )


def open_code(path):
    with tifffile.TiffFile(path) as file:
        return file.pages[0].compression


def colours(count, high=False):
    values = noise((count, 3), "u2", seed=7)
    return (values if high else (values >> 8) * 257).T


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("high", [False, True])
def test_palette(tmp_path, bits, high):
    """As RGB where a pixel has changed, for a palette has few colours; else as it was."""
    path = tmp_path / "a.tif"
    numbers, table = noise((H, W), "u1") >> (8 - bits), colours(2**bits, high)
    data = (
        bytes(imagecodecs.packints_encode(numbers, bits, runlen=W))
        if bits < 8
        else numbers.tobytes()
    )
    size = ((256, W), (257, H), (278, H))
    shorts = Tag(320, 3, table.astype("<u2").tobytes())
    path.write_bytes(
        holding(data, *size, (258, bits), (262, 3), (305, Tag(305, 2, b"me\0")), (320, shorts))
    )
    shown = np.moveaxis(table[:, numbers], 0, -1)
    shown = shown if high else (shown >> 8).astype("u1")
    np.testing.assert_array_equal(read(path), shown)
    new = passed(path)
    assert described(new) == described(path)
    np.testing.assert_array_equal(tifffile.imread(new), numbers)
    changed = passed(path, change=np.invert)
    np.testing.assert_array_equal(read(changed), ~shown)
    np.testing.assert_array_equal(tifffile.imread(changed), ~shown)
    with tifffile.TiffFile(changed) as file:
        page = file.pages[0]
        assert (page.photometric, page.samplesperpixel, page.colormap) == (2, 3, None)
        assert page.tags[305].value == "me"


def test_stack_with_a_palette(tmp_path):
    path = tmp_path / "a.tif"
    numbers, table = noise((4, H, W), "u1"), colours(256)
    options = {"metadata": {"axes": "ZYX"}, "compression": "lzw", "predictor": 2}
    tifffile.imwrite(path, numbers, photometric="palette", colormap=table, **options)
    assert open_image(path).layout.axes == "ZYXS"
    new = passed(path, change=np.invert)
    np.testing.assert_array_equal(read(new), ~read(path))
    assert open_image(new).layout == open_image(path).layout
    with tifffile.TiffFile(new) as file:
        assert (file.series[0].kind, file.series[0].axes) == ("shaped", "ZYXS")


def test_palette_of_greys_is_grey(tmp_path):
    path = tmp_path / "a.tif"
    for ramp in (np.arange(256), np.arange(256)[::-1]):
        table = np.array([ramp * 257] * 3).astype("u2")
        tifffile.imwrite(path, noise((H, W), "u1"), photometric="palette", colormap=table)
        assert open_image(path).layout.axes == "YX"
        check_identity(path)
        np.testing.assert_array_equal(tifffile.imread(passed(path, change=np.invert)), ~read(path))


def test_number_beyond_a_palette(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(holding(bytes(16), (262, 3), (320, [1, 2, 3])))
    with pytest.raises(UserError, match="a table of 3 values for colours of 8 bits"):
        open_image(path)


PICTURES = {
    "png": ("u1", 3),
    "webp": ("u1", 3),
    "jpeg2000": ("u2", 3),
    "jpegxl": ("u2", 1),
    "lerc": ("f4", 1),
}


@pytest.mark.parametrize("method", PICTURES)
def test_whole_pictures_in_tiles(tmp_path, method):
    """They come back with deflate, and a size that is not the tile's is found before it is decoded."""
    path = tmp_path / "a.tif"
    dtype, channels = PICTURES[method]
    shape = (H, W) if channels == 1 else (H, W, channels)
    colour = {"photometric": "rgb" if channels == 3 else "minisblack"}
    level = {"compressionargs": {"lossless": True}} if method == "webp" else {}
    picture = noise(shape, dtype)
    tifffile.imwrite(path, picture, compression=method, tile=(16, 32), **colour, **level)
    np.testing.assert_array_equal(read(path), tifffile.imread(path))
    new = passed(path, change=np.negative)
    np.testing.assert_array_equal(tifffile.imread(new), np.negative(tifffile.imread(path)))
    with tifffile.TiffFile(new) as file:
        assert file.pages[0].compression == 8
    encoded = getattr(imagecodecs, {"jpeg2000": "jpeg2k"}.get(method, method) + "_encode")
    more = [(258, [8] * 3), (262, 2), (277, 3)] if channels == 3 else []
    data = bytes(encoded(noise((64, 64, channels)[: len(shape)], "u1")))
    path.write_bytes(holding(data, (259, open_code(path)), *more))
    with pytest.raises(UserError, match=r"strip 1 of 1 is damaged: invalid out"):
        read(path)


def test_tags_of_jpeg_go_with_it(tmp_path):
    path = tmp_path / "a.tif"
    options = {
        "compression": "jpeg",
        "compressionargs": {"outcolorspace": "rgb"},
        "photometric": "rgb",
    }
    tifffile.imwrite(
        path, noise((48, 48, 3), "u1"), **options, extratags=[(530, 3, 2, (2, 2), True)]
    )
    new = passed(path)
    np.testing.assert_array_equal(tifffile.imread(new), tifffile.imread(path))
    with tifffile.TiffFile(new) as file:
        assert 530 not in file.pages[0].tags


def jpeg(side=64, **options):
    buffer = io.BytesIO()
    smooth = np.add.outer(np.arange(side), np.arange(side)) % 251 + (noise((side, side), "u1") >> 6)
    Image.fromarray(smooth.astype("u1")).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"restart_marker_blocks": 5}, {"optimize": True, "quality": 95}],
)
def test_jpeg_that_lacks_something(tmp_path, options):
    """libjpeg would fill it with grey, whether there is an end mark or not."""
    path = tmp_path / "a.tif"
    tags = ((256, 64), (257, 64), (259, 7), (278, 64))
    whole = jpeg(**options)
    path.write_bytes(holding(whole, *tags))
    np.testing.assert_array_equal(read(path), imagecodecs.jpeg8_decode(whole))
    start = whole.index(b"\xff\xda") + 20
    for at in (start + 5, (start + len(whole)) // 2, len(whole) - 12):
        for data in (whole[:at], whole[:at] + b"\xff\xd9"):
            path.write_bytes(holding(data, *tags))
            with pytest.raises(UserError, match=r"a\.tif: .*strip 1 of 1 is damaged"):
                read(path)


def test_jpeg_that_lacks_something_inside(tmp_path):
    """Restart marks let a decoder go on behind a gap, which would be grey."""
    path = tmp_path / "a.tif"
    whole = jpeg(restart_marker_blocks=5, quality=95)
    mark = whole.index(b"\xff\xd3")
    data = whole[: mark - 20] + whole[mark:]
    path.write_bytes(holding(data, (256, 64), (257, 64), (259, 7), (278, 64)))
    assert imagecodecs.jpeg8_decode(data).shape == (64, 64)
    with pytest.raises(UserError, match="strip 1 of 1 is damaged: its JPEG ends before"):
        read(path)


def test_jpeg_of_endless_scans(tmp_path):
    path = tmp_path / "a.tif"
    whole = jpeg(1024, progressive=True, quality=1)
    last = whole.rindex(b"\xff\xda")
    data = whole[:last] + whole[last:-2] * 300 + b"\xff\xd9"
    path.write_bytes(holding(data, (256, 1024), (257, 1024), (259, 7), (278, 1024)))
    with pytest.raises(UserError, match=r"goes over 1024 x 1024 pixels \d+ times"):
        read(path)


@pytest.mark.parametrize("method", ["lzw", "zlib", "packbits", "lzma", "zstd", "jpeg", "png"])
def test_a_damaged_part_is_named(tmp_path, method):
    """Cut, and with noise in place of its second half: never less, or other, pixels than stored."""
    path = tmp_path / "a.tif"
    rows = (np.arange(48 * 64) // 7 % 251).astype("u1").reshape(48, 64)
    tifffile.imwrite(
        path, np.array([rows, rows]), compression=method, rowsperstrip=16, metadata=None
    )
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        place, size = (
            values[1] for values in (file.pages[1].dataoffsets, file.pages[1].databytecounts)
        )
        count = next(tag for tag in file.pages[1].tags if tag.code == 279)
    short = content.copy()
    short[count.valueoffset + 2 : count.valueoffset + 4] = struct.pack("<H", size - size // 3)
    wrong = content.copy()
    wrong[place + size // 2 : place + size] = (b"\xff\x00\xee\x11" * size)[: size - size // 2]
    content_changes = (short, wrong) if method not in ("packbits", "jpeg", "lzw") else (short,)
    for data in content_changes:
        path.write_bytes(data)
        with pytest.raises(UserError, match="strip 2 of 3 of page 2 is damaged"):
            read(path)


def test_damage_in_tiles_and_channels(tmp_path):
    path = tmp_path / "a.tif"
    options = {"photometric": "rgb", "planarconfig": "separate", "tile": (16, 16), "metadata": None}
    tifffile.imwrite(path, noise((3, 40, 40), "u1"), compression="zlib", **options)
    with tifffile.TiffFile(path) as file:
        place = file.pages[0].dataoffsets[9 + 4]
    content = bytearray(path.read_bytes())
    content[place : place + 9] = b"x" * 9
    path.write_bytes(content)
    with pytest.raises(UserError, match="tile 5 of 9 of channel 2 is damaged"):
        read(path)


FLATTENED = [
    TITLE,
    TITLE + bytes(8),
    TITLE + b"MIB8rtnM" + struct.pack("<I", 5) + b"Layr?\0\0\0",
    TITLE + b"8BIMLayr" + struct.pack(">I", 0),
]


@pytest.mark.parametrize("block", FLATTENED)
def test_flattened_by_photoshop(tmp_path, block):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise((H, W), "u1"), extratags=[(37724, 7, len(block), block)])
    check_identity(path)
    for order, sign, key in (("<", b"MIB8", b"61rL"), (">", b"8BIM", b"Lr32")):
        layers = sign + key + struct.pack(order + "I", 4) + b"\1\0\0\0"
        tifffile.imwrite(
            path, noise((H, W), "u1"), extratags=[(37724, 7, len(block + layers), block + layers)]
        )
        if block in (TITLE, FLATTENED[3]):
            with pytest.raises(UserError, match="layers"):
                open_image(path)


def test_scanimage(tmp_path):
    """Plain tags; in a BigTIFF what holds for all frames stands behind the header, and stays there."""
    path = tmp_path / "a.tif"
    stack = noise((3, H, W), "i2")
    options = {"software": "SI.VERSION_MAJOR = 2020", "photometric": "minisblack", "metadata": None}
    with tifffile.TiffWriter(path) as file:
        for number, frame in enumerate(stack):
            file.write(frame, description=f"frameNumbers = {number}", **options)
    check_identity(path)
    notes = b'SI.a = 1\0{"RoiGroups": 2}\0'
    front = struct.pack("<4I", 117637889, 4, 9, len(notes) - 9) + notes
    place = 16 + len(front)
    tags = (
        (256, 4),
        (257, 4),
        (305, Tag(305, 2, b"SI.VERSION_MAJOR = 2020\0")),
        (273, place + 256),
    )
    directory = handmade(*tags, big=True)[16:]
    form, head = Format("<", True), 16 + len(front)
    with io.BytesIO(handmade(*tags, big=True)) as file:
        directory = form.pack(next(Reader(file).chain()), head, last=True)
    path.write_bytes((form.header(head) + front + directory).ljust(place + 256 + 16, b"\7"))
    assert read(path).min() == 7
    new = passed(path, change=np.invert)
    assert new.read_bytes()[16:place] == front
    assert read(new).max() == 248


def test_tiles_at_the_places_of_strips(tmp_path):
    path = tmp_path / "a.tif"
    tile = noise((16, 16), "u1")
    tags = ((278, None), (322, 16), (323, 16), (324, None), (325, None))
    data = tile.tobytes()
    place = len(handmade(*tags, (273, 300), (279, len(data))))
    path.write_bytes(handmade(*tags, (273, place), (279, len(data))) + data)
    np.testing.assert_array_equal(read(path), tile[:4, :4])
    new = passed(path, change=np.invert)
    np.testing.assert_array_equal(tifffile.imread(new), ~tile[:4, :4])


@pytest.mark.parametrize("place", [40, 700, 5000])
@pytest.mark.parametrize("method", [1, 8])
def test_makers_note_keeps_its_place(tmp_path, place, method):
    """Its content may count places from the start of the file: before, among and behind the new pixels."""
    path = tmp_path / "a.tif"
    note, side = b"maker" * 9, 64
    pixels = noise((side, side), "u1")
    form = Format("<", False)
    data = zlib.compress(pixels.tobytes()) if method == 8 else pixels.tobytes()
    tags = {
        256: side,
        257: side,
        258: 8,
        259: method,
        262: 1,
        273: 9000,
        277: 1,
        278: side,
        279: len(data),
    }
    exif = Tag(34665, 4, (Tag(37500, 7, note, place),))
    directory = (*(form.tag(code, [value]) for code, value in tags.items()), exif)
    content = bytearray(9000 + len(data))
    packed = form.pack(directory, 8000, last=True)
    content[:8], content[8000 : 8000 + len(packed)] = form.header(8000), packed
    content[place : place + len(note)], content[9000:] = note, data
    path.write_bytes(content)
    new = passed(path, change=np.invert)
    assert new.read_bytes()[place : place + len(note)] == note
    np.testing.assert_array_equal(tifffile.imread(new), ~pixels)
    with new.open("rb") as file:
        inner = next(tag for tag in next(Reader(file).chain()) if tag.code == 34665)
    assert (inner.value[0].value, inner.value[0].place) == (note, place)


def test_pointers_that_nobody_knows_are_left_out(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(handmade((60_000, Tag(60_000, 13, struct.pack("<I", 8)))))
    assert "private tags point to left out (tags 60000)" in open_image(path).notes[0]
    with passed(path).open("rb") as file:
        assert 60_000 not in [tag.code for tag in next(Reader(file).chain())]


@pytest.mark.parametrize(
    ("text", "dtype", "value"),
    [
        ("-9999", "f4", -9999),
        ("-9999\0", "i2", -9999),
        (" -3.4028234663852886e+38 ", "f4", -float(np.finfo("f4").max)),
        ("0.1", "f4", float(np.float32(0.1))),
        ("255", "u1", 255),
        ("256", "u1", None),
        ("0.5", "u1", None),
        ("nan", "f4", None),
        ("1e999", "f4", None),
        ("none", "f4", None),
    ],
)
def test_nodata(tmp_path, text, dtype, value):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, np.ones((H, W), dtype), extratags=[(42113, 2, len(text) + 1, text, True)]
    )
    image = open_image(path)
    assert image.nodata == value
    assert open_image(passed(path)).nodata == value


@pytest.mark.parametrize("blanks", [b"\n" * 13, b"  \0\0", b"\0" * 40, b" " * 200])
def test_ome_that_hides_its_end(tmp_path, blanks):
    path = tmp_path / "a.tif"
    xml = ome('SizeZ="600000000" SizeC="1" SizeT="1"')
    path.write_bytes(handmade((270, Tag(270, 2, xml.encode() + blanks + b"\0"))))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="more planes than the file holds"):
            open_image(path)
        assert tracemalloc.get_traced_memory()[1] < 10**8
    finally:
        tracemalloc.stop()


CONTRADICTIONS = {
    "two compressions": (handmade((259, [1, 8])), "tag 259 should hold one number"),
    "bits that differ": (
        handmade((258, [5, 6, 5]), (277, 3), (262, 2)),
        "stored in different ways",
    ),
    "width as text": (handmade((256, Tag(256, 2, b"4\0"))), "tag 256 should hold whole numbers"),
    "12 bits of JPEG": (handmade((258, 12), (259, 7)), "its JPEG has 12 bits"),
    "24 bits": (handmade((258, 24)), "24 bits.*; save"),
    "fax of 8 bits": (handmade((259, 4)), "as a fax, and it has 8 bits"),
    "predictor of bits": (
        handmade((258, 4), (259, 8), (317, 2)),
        "predictor 2 of values of 4 bits.*; save",
    ),
    "BigTIFF of 4": (
        handmade(big=True)[:4] + b"\4\0\0\0" + handmade(big=True)[8:],
        "offsets of 4 bytes",
    ),
    "text that moves the cursor": (
        handmade((270, Tag(270, 2, b'{"shape": [4, 4], "axes": "\\u001bX"}\0'))),
        r"axes \\x1bX",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradictions(tmp_path, name):
    content, message = CONTRADICTIONS[name]
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        open_image(path)
    assert str(error.value).isprintable()


def test_nothing_is_replaced_by_what_cannot_be_read_again(tmp_path, monkeypatch):
    path, target = tmp_path / "a.tif", tmp_path / "b.tif"
    tifffile.imwrite(path, noise((H, W), "u1"), compression="zlib")
    target.write_bytes(b"before")
    encode = tiffwriter.tiffcodec.encode
    for wrong in (lambda *_: b"damaged", lambda page, part, order: encode(page, part ^ 1, order)):
        monkeypatch.setattr(tiffwriter.tiffcodec, "encode", wrong)
        image = open_image(path)
        with pytest.raises(UserError, match=r"a\.tif: .*nothing was written"):
            image.write_like(target, bands(image))
        assert target.read_bytes() == b"before"
        assert {file.name for file in tmp_path.iterdir()} == {"a.tif", "b.tif"}


def test_values_of_a_pixel_are_bounded_and_counted(tmp_path):
    """Strips of no bytes are left out, so that a few bytes may claim any number of pixels and of channels."""
    path = tmp_path / "a.tif"
    big, wide = ((256, 2**13), (257, 2**13), (278, 2**13)), ((256, 2**26), (257, 1), (278, 1))
    for tags, count, message in (
        ((), 5000, r"claims 5,000 values in each pixel.*--max-pixels 268435457"),
        (big, 400, r"claims 6,710,886,400 pixels"),
        (wide, 4, r"one row of its strips or tiles claims 268,435,456 bytes"),
    ):
        samples = ((258, [8] * count), (277, count), (284, 1), (338, [0] * (count - 1)))
        path.write_bytes(handmade(*tags, *samples, (273, 0), (279, 0)))
        with pytest.raises(UserError, match=message):
            open_image(path)


def test_a_row_of_tiles_is_bounded(tmp_path):
    """Few bytes may not ask for gigabytes, neither in one tile nor in tiles that the file leaves out."""
    path = tmp_path / "a.tif"
    samples = ((258, [8] * 200), (277, 200), (284, 1), (338, [0] * 199))
    data = zlib.compress(bytes(10**6))
    path.write_bytes(holding(data, (256, 4000), (257, 400), (278, 400), (259, 8), *samples))
    with pytest.raises(UserError, match=r"claims 320,000,000 bytes.*--max-pixels 640000000"):
        read(path)


def test_pages_that_are_rows(tmp_path):
    """An array (H, W, channels) that tifffile took for a stack: its pages are rows."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise((H, W, 5), "u2"))
    with pytest.raises(
        UserError, match=r"37 pages of 5 x 53 pixels.*channels as columns.*--axes ZYX"
    ):
        open_image(path)
    assert open_image(path, axes="ZYX").layout.planes == H


def test_pages_that_share_their_exif(tmp_path):
    path = tmp_path / "a.tif"
    form = Format("<", False)
    exif = form.pack((Tag(37386, 5, struct.pack("<II", 50, 1)),), 100, last=True)
    pages = []
    for place in (200, 400):
        values = {
            256: 4,
            257: 4,
            258: 8,
            259: 1,
            262: 1,
            273: 16,
            277: 1,
            278: 4,
            279: 16,
            34665: 100,
        }
        tags = tuple(form.tag(code, [value]) for code, value in values.items())
        # packed by hand: `pack` would follow the pointer
        entries = b"".join(struct.pack("<HHI", tag.code, 4, 1) + tag.raw for tag in tags)
        following = struct.pack("<I", 400 if place == 200 else 0)
        pages.append((place, struct.pack("<H", len(tags)) + entries + following))
    content = bytearray(600)
    for place, data in ((0, form.header(200)), (100, exif), *pages):
        content[place : place + len(data)] = data
    path.write_bytes(content)
    assert open_image(path).layout.shape == (2, 4, 4)
    with passed(path).open("rb") as file:
        found = [tag.value for page in Reader(file).chain() for tag in page if tag.code == 34665]
    assert len(found) == 2
    assert found[0] == found[1] == (Tag(37386, 5, struct.pack("<II", 50, 1)),)


def test_many_makers_notes_are_moved(tmp_path):
    """To keep thousands of places free would take time without end."""
    path = tmp_path / "a.tif"
    form, count, content = Format("<", False), 70, bytearray(16)
    for number in range(count):
        note = len(content)
        content += b"maker%03d!" % number + b"\0"
        exif = Tag(34665, 4, (Tag(37500, 7, bytes(content[note : note + 9]), note),))
        values = {256: 4, 257: 4, 258: 8, 259: 1, 262: 1, 273: 0, 277: 1, 278: 4, 279: 16}
        directory = (*(form.tag(code, [max(1, value)]) for code, value in values.items()), exif)
        start = len(content)
        if number == 0:
            content[:8] = form.header(start)
        content += form.pack(directory, start, last=number == count - 1)
        if number < count - 1:  # the next directory stands behind the next note
            place = start + 2 + 12 * len(directory)
            content[place : place + 4] = struct.pack("<I", len(content) + 10)
    path.write_bytes(content)
    image = open_image(path, axes="ZYX")
    assert image.layout.planes == count
    assert "MakerNote" in image.notes[0]
    with passed(path, axes="ZYX").open("rb") as file:
        last = list(Reader(file).chain())[-1]
    assert last[-1].value[0].raw == b"maker069!"


def test_micro_manager_is_said_to_lose_its_index(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise((H, W), "u2"), extratags=[(51123, 2, 3, "{}", True)])
    assert "Micro-Manager" in open_image(path).notes[0]


@pytest.mark.parametrize("method", [5, 8, 32773, 50000])
def test_last_strip_that_is_filled_up(tmp_path, method):
    """Some programs compress as many rows in the last strip as in the others."""
    path = tmp_path / "a.tif"
    rows = noise((8, 4), "u1")
    names = {5: "lzw", 8: "zlib", 32773: "packbits", 50000: "zstd"}
    parts = [
        bytes(getattr(imagecodecs, f"{names[method]}_encode")(half.tobytes()))
        for half in (rows[:4], rows[4:])
    ]
    tags = ((257, 6), (259, method), (279, [len(part) for part in parts]))
    place = len(handmade(*tags, (273, [70_000] * 2)))
    places = Tag(273, 4, struct.pack("<II", place, place + len(parts[0])))
    path.write_bytes(handmade(*tags, (273, places)) + b"".join(parts))
    np.testing.assert_array_equal(read(path), rows[:6])


@pytest.mark.parametrize(
    "note",
    [
        b'{"shape": [200000000, 1, 1], "truncated": true}',
        b'{"shape": [200000000, 1, 1]}',
        b"ImageJ=1.11a\nimages=200000000\nslices=200000000\n",
        b"ImageJ=1.11a\nimages=1\nframes=20000\nslices=10000\n",
    ],
)
def test_planes_that_are_not_there(tmp_path, note):
    path = tmp_path / "a.tif"
    tags = ((256, 1), (257, 1), (278, 1), (279, 1), (270, Tag(270, 2, note + b"\0")))
    path.write_bytes(handmade(*tags))
    tracemalloc.start()
    try:
        with contextlib.suppress(UserError):
            assert open_image(path).layout.shape == (1, 1)
        assert tracemalloc.get_traced_memory()[1] < 10**8
    finally:
        tracemalloc.stop()
