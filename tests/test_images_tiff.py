"""TIFF: tags and pixels survive, bands cost little, and lies are noticed."""

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
