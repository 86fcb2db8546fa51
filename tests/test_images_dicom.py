import os
import random
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sr.codedict import codes
from pydicom.uid import (
    MPEG2MPML,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    generate_uid,
)

from snowmelt import images
from snowmelt.errors import UserError
from snowmelt.images import open_image
from snowmelt.images.dicom import DicomImage

EXAMPLES = int(os.environ.get("SNOWMELT_FUZZ", "150"))
PLAIN = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
CHANGED = (
    "ImageType",
    "SOPInstanceUID",
    "DerivationDescription",
    "SourceImageSequence",
    "PixelData",
)
SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"


def dataset(words, syntax=ExplicitVRLittleEndian, *, stored=None, signed=False, **tags):
    """A file of the words as they are, (H, W) or (H, W, 3); 'stored' bits from bit 0 on."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = CTImageStorage
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    made.Modality, made.PatientName, made.RescaleSlope = "CT", "Doe^Jane", "2.5"
    made.SeriesInstanceUID = generate_uid()
    made.add_new(0x00091001, "LO", "a private word")
    bits = words.dtype.itemsize * 8
    made.Rows, made.Columns = words.shape[:2]
    made.SamplesPerPixel = 3 if words.ndim == 3 else 1
    made.PhotometricInterpretation = "RGB" if words.ndim == 3 else "MONOCHROME2"
    if words.ndim == 3:
        made.PlanarConfiguration = 0
    made.BitsAllocated, made.BitsStored = bits, stored or bits
    made.HighBit, made.PixelRepresentation = made.BitsStored - 1, int(signed)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    data = words.astype(words.dtype.newbyteorder(order)).tobytes()
    made.add_new("PixelData", "OW" if bits > 8 else "OB", data + b"\0" * (len(data) % 2))
    for name, value in tags.items():
        setattr(made, name, value)
    return made


def save(made, path):
    made.save_as(path, enforce_file_format=True)
    return path


def random_words(shape=(13, 17), dtype="u2"):
    return (
        np.random.default_rng(0)
        .integers(0, 2 ** (8 * np.dtype(dtype).itemsize), shape)
        .astype(dtype)
    )


def bands(image, rows=5):
    for plane in range(image.layout.planes):
        for start in range(0, image.layout.height, rows):
            yield image.read_rows(plane, start, min(start + rows, image.layout.height))


def copied(path, rows=5):
    """The output of a denoiser that changes nothing, read again."""
    image = open_image(path)
    target = path.with_name("out.dcm")
    image.write_like(target, bands(image, rows))
    return pydicom.dcmread(target)


def refused(path, *words, **options):
    with pytest.raises(UserError) as caught:
        images.read(path, **options)
    assert path.name in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("syntax", PLAIN)
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("shape", [(13, 17), (13, 17, 3), (1, 1)])
def test_pixels_come_back_bit_for_bit(tmp_path, syntax, dtype, signed, shape):
    made = dataset(random_words(shape, dtype), syntax, signed=signed)
    path = save(made, tmp_path / "a.dcm")
    before = path.read_bytes()
    image = open_image(path)
    kind = "i" if signed else "u"
    assert (image.layout.shape, image.layout.dtype) == (shape, np.dtype(kind + dtype[1]))
    np.testing.assert_array_equal(images.read(path), pydicom.dcmread(path).pixel_array)
    assert copied(path).PixelData == made.PixelData
    assert path.read_bytes() == before


@pytest.mark.parametrize("syntax", PLAIN)
def test_all_tags_stay_but_those_of_a_derived_image(tmp_path, syntax):
    made = dataset(random_words(), syntax, DerivationDescription="Averaged")
    path = save(made, tmp_path / "a.dcm")
    new = copied(path)
    assert {e.tag for e in new} - {e.tag for e in made} == {pydicom.tag.Tag("SourceImageSequence")}
    for element in pydicom.dcmread(path):
        if element.keyword not in CHANGED:
            assert new[element.tag] == element
    assert list(new.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
    assert new.DerivationDescription.startswith("Averaged; Denoised with Snowmelt ")
    assert new.SOPInstanceUID != made.SOPInstanceUID
    assert new.file_meta.MediaStorageSOPInstanceUID == new.SOPInstanceUID
    assert new.file_meta.TransferSyntaxUID == syntax
    (source,) = new.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == made.SOPInstanceUID
    assert source.ReferencedSOPClassUID == CTImageStorage
    (purpose,) = source.PurposeOfReferenceCodeSequence
    standard = codes.DCM.SourceImageForImageProcessingOperation
    assert (purpose.CodeValue, purpose.CodingSchemeDesignator) == (standard.value, "DCM")
    assert purpose.CodeMeaning == standard.meaning


def test_a_second_derivation_adds_to_the_first(tmp_path):
    path = save(dataset(random_words()), tmp_path / "a.dcm")
    once = copied(path)
    (tmp_path / "out.dcm").rename(tmp_path / "b.dcm")
    twice = copied(tmp_path / "b.dcm")
    sources = [item.ReferencedSOPInstanceUID for item in twice.SourceImageSequence]
    assert sources == [pydicom.dcmread(path).SOPInstanceUID, once.SOPInstanceUID]
    once.DerivationDescription = "x" * 1024
    once.save_as(tmp_path / "b.dcm")
    said = copied(tmp_path / "b.dcm").DerivationDescription
    assert len(said) == 1024
    assert "Denoised with Snowmelt" in said[-60:]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("high", [11, 15, 13])
def test_bits_beside_the_stored_ones_are_kept(tmp_path, signed, high):
    words = random_words()
    path = save(dataset(words, stored=12, signed=signed, HighBit=high), tmp_path / "a.dcm")
    image = open_image(path)
    assert image.value_range == ((-2048, 2047) if signed else (0, 4095))
    low = high - 11
    stored = (words >> low) & 4095
    expected = np.where(stored > 2047, stored - 4096.0, stored) if signed else stored
    np.testing.assert_array_equal(images.read(path), expected)
    assert copied(path).PixelData == words.tobytes()
    zeros = np.zeros((13, 17, 1), image.layout.dtype)
    image.write_like(tmp_path / "b.dcm", iter([zeros]))
    left = np.frombuffer(pydicom.dcmread(tmp_path / "b.dcm").PixelData, "<u2")
    np.testing.assert_array_equal(left.reshape(13, 17), words & ~np.uint16(4095 << low))


def test_values_that_do_not_fit_are_refused(tmp_path):
    image = open_image(save(dataset(random_words(), stored=12), tmp_path / "a.dcm"))
    high = np.full((13, 17, 1), 4096, "u2")
    with pytest.raises(UserError, match=r"4096 to 4096 do not fit in the 12 bits.*0 to 4095"):
        image.write_like(tmp_path / "b.dcm", iter([high]))
    assert not (tmp_path / "b.dcm").exists()


@pytest.mark.parametrize("syntax", PLAIN)
def test_planar_colours_and_bytes_in_words(tmp_path, syntax):
    words = random_words((3, 5, 3), "u1")
    made = dataset(words, syntax, PlanarConfiguration=1)
    data = words.transpose(2, 0, 1).tobytes() + b"\0"
    if syntax == ExplicitVRBigEndian:  # words of two bytes, which change places
        data = np.frombuffer(data, "<u2").byteswap().tobytes()
    made.add_new("PixelData", "OW", data)
    path = save(made, tmp_path / "a.dcm")
    np.testing.assert_array_equal(images.read(path), words)
    assert copied(path).PixelData == data


@pytest.mark.parametrize("name", sorted(path.name for path in SAMPLES.glob("*.dcm")))
@pytest.mark.filterwarnings("ignore")
def test_files_of_many_programs(tmp_path, name):
    """Real files: what is read equals what pydicom reads, and comes back; or the refusal names the file."""
    path = tmp_path / name
    path.write_bytes((SAMPLES / name).read_bytes())
    try:
        pixels = images.read(path)
    except UserError as error:
        assert name in str(error)  # noqa: PT017
        return
    new, old = copied(path), pydicom.dcmread(path)
    np.testing.assert_array_equal(new.pixel_array, pixels)
    if old.file_meta.TransferSyntaxUID not in (JPEGLSLossless, JPEGLSNearLossless, JPEGLosslessSV1,
                                               JPEGExtended12Bit):  # fmt: skip
        np.testing.assert_array_equal(old.pixel_array, pixels)
    for element in old:
        computed = element.keyword in (*CHANGED, "PhotometricInterpretation", "PlanarConfiguration")
        if not computed and element.tag.element != 0:  # group lengths retired in 2008
            assert new[element.tag] == element


def coded(path, words, syntax, **tags):
    """A compressed file."""
    stored = tags.get("stored", words.dtype.itemsize * 8)
    encoders = {
        JPEGLSLossless: lambda: imagecodecs.jpegls_encode(words),
        JPEGLSNearLossless: lambda: imagecodecs.jpegls_encode(words, level=2),
        JPEGLosslessSV1: lambda: imagecodecs.ljpeg_encode(words, bitspersample=stored),
        JPEG2000Lossless: lambda: imagecodecs.jpeg2k_encode(
            words, codecformat="j2k", reversible=True
        ),
        JPEGBaseline8Bit: lambda: imagecodecs.jpeg8_encode(words, level=90),
        JPEGExtended12Bit: lambda: imagecodecs.jpeg8_encode(words, level=90, bitspersample=12),
    }
    made = dataset(words, **tags)
    if syntax == RLELossless:
        made.compress(RLELossless)
    else:
        made.file_meta.TransferSyntaxUID = syntax
        made.PixelData = encapsulate([encoders[syntax]()])
        made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    return save(made, path)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEGLosslessSV1, JPEG2000Lossless, RLELossless])
@pytest.mark.parametrize(("dtype", "stored"), [("u1", 8), ("u2", 12), ("u2", 16)])
def test_lossless_compression_comes_back_plain(tmp_path, syntax, dtype, stored):
    words = random_words((20, 30), dtype) & np.array(2**stored - 1, dtype)
    path = coded(tmp_path / "a.dcm", words, syntax, stored=stored)
    np.testing.assert_array_equal(images.read(path), words)
    new = copied(path)
    assert new.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert np.frombuffer(new.PixelData, f"<{dtype}").tolist() == words.reshape(-1).tolist()
    assert ("OB" if dtype == "u1" else "OW") == new["PixelData"].VR
    assert "decompressed from transfer syntax" in new.DerivationDescription
    assert "LossyImageCompression" not in new


@pytest.mark.parametrize(("syntax", "method"), [
    (JPEGLSNearLossless, "ISO_14495_1"),
    (JPEGBaseline8Bit, "ISO_10918_1"),
    (JPEGExtended12Bit, "ISO_10918_1"),
])  # fmt: skip
def test_loss_is_told(tmp_path, syntax, method):
    twelve = syntax == JPEGExtended12Bit
    ramp = np.linspace(0, 4000 if twelve else 250, 600).reshape(20, 30)
    words = ramp.astype("u2" if twelve else "u1")
    path = coded(tmp_path / "a.dcm", words, syntax, stored=12 if twelve else 8)
    assert np.abs(images.read(path).astype(float) - words).max() < (100 if twelve else 8)
    new = copied(path)
    assert new.LossyImageCompression == "01"
    assert new.LossyImageCompressionMethod == method
    assert float(new.LossyImageCompressionRatio) > 1


def test_what_is_refused(tmp_path):
    path = tmp_path / "a.dcm"
    words = random_words()
    refused(save(dataset(words, NumberOfFrames=2), path), "442 bytes of pixels, and 884 are needed")
    refused(save(dataset(words, PhotometricInterpretation="PALETTE COLOR"), path), "PALETTE COLOR")
    refused(save(dataset(words, BitsAllocated=1, BitsStored=1, HighBit=0), path), "1 bits")
    refused(save(dataset(words, BitsStored=17, HighBit=16), path), "17 bits up to bit 16")
    refused(save(dataset(words, HighBit=3), path), "16 bits up to bit 3")
    refused(save(dataset(words, SamplesPerPixel=3), path), "3 samples a pixel")
    refused(save(dataset(words, Rows=0), path), "empty")
    refused(save(dataset(words, Rows=60000, Columns=60000), path), "--max-pixels 3600000000")
    refused(save(dataset(words, DeflatedExplicitVRLittleEndian), path), "dcmconv +te")
    made = dataset(words)
    del made.Rows
    refused(save(made, path), "holds no picture (modality CT)")
    made = dataset(words)
    del made.PixelData
    refused(save(made, path), "no pixels")
    save(dataset(words), path)
    refused(path, "has the axes YX, not ZYX", axes="ZYX")


def test_video_is_refused(tmp_path):
    made = dataset(random_words((4, 4, 3), "u1"))
    made.file_meta.TransferSyntaxUID = MPEG2MPML
    made.PixelData = encapsulate([b"film"])
    made["PixelData"].is_undefined_length = True
    refused(save(made, tmp_path / "a.dcm"), "MPEG2", "no picture")


def test_a_picture_of_another_size_inside(tmp_path):
    path = coded(tmp_path / "a.dcm", random_words((20, 30)), JPEGLSLossless)
    made = pydicom.dcmread(path)
    made.Rows = 21
    refused(save(made, path), "cannot be decompressed", "(20, 30), not (21, 30)")


def test_cut_off_files(tmp_path):
    path = save(dataset(random_words()), tmp_path / "a.dcm")
    whole = path.read_bytes()
    for length in (0, 100, 131, 140, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(path)


def test_without_pydicom(tmp_path, monkeypatch):
    path = save(dataset(random_words()), tmp_path / "a.dcm")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    refused(path, 'pip install "snowmelt[dicom]"')


def test_an_error_leaves_nothing(tmp_path):
    image = open_image(save(dataset(random_words()), tmp_path / "a.dcm"))

    def stopping():
        yield image.read_rows(0, 0, 3)
        raise KeyboardInterrupt

    def failing():
        yield image.read_rows(0, 0, 3)
        raise ZeroDivisionError

    with pytest.raises(KeyboardInterrupt):
        image.write_like(tmp_path / "b.dcm", stopping())
    with pytest.raises(ZeroDivisionError):
        image.write_like(tmp_path / "b.dcm", failing())
    with pytest.raises(UserError, match="end the name in"):
        image.write_like(tmp_path / "b.png", bands(image))
    with pytest.raises(UserError, match="cannot be written"):
        image.write_like(tmp_path / "nowhere" / "b.dcm", bands(image))
    assert [path.name for path in tmp_path.iterdir()] == ["a.dcm"]


def test_the_name_need_not_say_dicom(tmp_path):
    path = save(dataset(random_words()), tmp_path / "IM0001")
    image = open_image(path)
    assert isinstance(image, DicomImage)
    image.write_like(tmp_path / "IM0001_denoised", bands(image))


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(seed=st.integers(0, 2**32), kind=st.integers(0, 7))
@pytest.mark.filterwarnings("ignore")
def test_fuzz(tmp_path, seed, kind):
    words = random_words((5, 6)) & 4095
    path = tmp_path / "a.dcm"
    if kind < 3:
        save(dataset(words, PLAIN[kind]), path)
    elif kind == 6:
        save(frames_of(3, (5, 6))[1], path)
    else:
        syntax = (JPEGLSLossless, JPEG2000Lossless, RLELossless, None, JPEGBaseline8Bit)[kind - 3]
        words = words.astype("u1") if kind == 7 else words
        coded(path, words, syntax, stored=8 if kind == 7 else 12)
    rng, data = random.Random(seed), bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 2, 4, 16])):
        data[rng.randrange(128, len(data))] = rng.choice([0, 255, rng.randrange(256)])
    if rng.random() < 0.1:
        del data[rng.randrange(len(data)) :]
    path.write_bytes(data)
    try:
        copied(path)
    except UserError as error:
        assert path.name in str(error)  # noqa: PT017
    assert path.read_bytes() == data


def frames_of(count=3, shape=(7, 9), dtype="u2", **tags):
    words = random_words((count, *shape), dtype)
    made = dataset(words[0], **tags)
    made.PixelData = words.astype(f"<{dtype}").tobytes() + b"\0" * (words.nbytes % 2)
    made.NumberOfFrames = count
    return words, made


@pytest.mark.parametrize("shape", [(7, 9), (7, 9, 3)])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_frames_are_planes(tmp_path, shape, dtype):
    words, made = frames_of(3, shape, dtype, FrameTime="40")
    path = save(made, tmp_path / "a.dcm")
    image = open_image(path)
    assert image.layout.axes == "TYXS"[: 1 + len(shape)]
    assert (image.layout.shape, image.layout.planes) == ((3, *shape), 3)
    np.testing.assert_array_equal(images.read(path), words)
    assert copied(path).PixelData == made.PixelData
    image.write_like(tmp_path / "b.dcm", (~band for band in bands(image)))
    new = pydicom.dcmread(tmp_path / "b.dcm")
    np.testing.assert_array_equal(new.pixel_array, ~words)
    assert (new.NumberOfFrames, new.FrameTime) == (3, 40)


def test_the_axes_of_frames(tmp_path):
    _, made = frames_of()
    path = save(made, tmp_path / "a.dcm")
    assert open_image(path).layout.axes == "ZYX"
    assert open_image(path, axes="tyx").layout.axes == "TYX"
    for axes in ("YX", "YXZ", "XYX", "ZZYX", "1YX"):
        refused(path, f"has the axes ZYX, not {axes}", axes=axes)
    made.NumberOfFrames = 4
    refused(save(made, path), "cut off")
    made.NumberOfFrames = 2**31 - 1
    refused(save(made, path), "--max-pixels")
    made.NumberOfFrames = -1
    refused(save(made, path), "-1 frames")


@pytest.mark.parametrize("syntax", PLAIN)
def test_planar_frames_and_bytes_in_words(tmp_path, syntax):
    words, made = frames_of(3, (3, 5, 3), "u1", syntax=syntax, PlanarConfiguration=1)
    data = words.transpose(0, 3, 1, 2).tobytes() + b"\0"
    if syntax == ExplicitVRBigEndian:
        data = np.frombuffer(data, "<u2").byteswap().tobytes()
    made.add_new("PixelData", "OW", data)
    path = save(made, tmp_path / "a.dcm")
    np.testing.assert_array_equal(images.read(path), words)
    assert copied(path).PixelData == data


def coded_frames(path, words, syntax, encode, **tags):
    made = dataset(words[0], **tags)
    made.NumberOfFrames = len(words)
    made.file_meta.TransferSyntaxUID = syntax
    made.PixelData = encapsulate([bytes(encode(frame)) for frame in words])
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    return save(made, path)


@pytest.mark.parametrize(("syntax", "encode"), [
    (JPEGLSLossless, imagecodecs.jpegls_encode),
    (JPEGLosslessSV1, imagecodecs.ljpeg_encode),
    (JPEG2000Lossless, lambda frame: imagecodecs.jpeg2k_encode(frame, codecformat="j2k", reversible=True)),
    (RLELossless, None),
])  # fmt: skip
def test_compressed_frames(tmp_path, syntax, encode):
    words, made = frames_of(4, (20, 30))
    path = tmp_path / "a.dcm"
    if encode is None:
        made.compress(RLELossless)
        save(made, path)
    else:
        coded_frames(path, words, syntax, encode)
    image = open_image(path)
    np.testing.assert_array_equal(image.read_rows(2, 5, 6)[0, :, 0], words[2, 5])
    np.testing.assert_array_equal(image.read_rows(1, 0, 20)[..., 0], words[1])
    new = copied(path)
    assert new.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    np.testing.assert_array_equal(new.pixel_array, words)


def test_more_and_fewer_frames_than_announced(tmp_path):
    words, _ = frames_of(3, (20, 30))
    for count in (2, 4):
        path = coded_frames(tmp_path / "a.dcm", words, JPEGLSLossless, imagecodecs.jpegls_encode)
        made = pydicom.dcmread(path)
        made.NumberOfFrames = count
        refused(save(made, path))


def test_enhanced_images_say_derived_of_each_frame(tmp_path):
    words, made = frames_of()
    shared, per_frame = Dataset(), []
    kind = Dataset()
    kind.FrameType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    shared.CTImageFrameTypeSequence = [kind]
    for number in range(3):
        position, item = Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, number]
        item.PlanePositionSequence = [position]
        per_frame.append(item)
    made.SharedFunctionalGroupsSequence = [shared]
    made.PerFrameFunctionalGroupsSequence = per_frame
    made.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    new = copied(save(made, tmp_path / "a.dcm"))
    expected = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    assert list(new.ImageType) == expected
    group = new.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence[0]
    assert list(group.FrameType) == expected
    assert new.PerFrameFunctionalGroupsSequence == made.PerFrameFunctionalGroupsSequence
    np.testing.assert_array_equal(new.pixel_array, words)


def test_a_preamble_of_tiff(tmp_path):
    words = random_words()
    made = dataset(words)
    made.preamble = b"II*\0\x08\0\0\0" + bytes(120)
    path = save(made, tmp_path / "a.dcm")
    np.testing.assert_array_equal(images.read(path), words)
    assert copied(path).preamble == bytes(128)  # its directory would lie elsewhere


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLosslessSV1, JPEGLSLossless,
                                    JPEG2000Lossless])  # fmt: skip
def test_the_size_inside_is_known_before_decoding(tmp_path, syntax):
    import tracemalloc

    twelve = syntax == JPEGExtended12Bit
    words = np.zeros((2000, 2000), "u2" if twelve else "u1")
    path = coded(tmp_path / "a.dcm", words, syntax, stored=12 if twelve else 8)
    made = pydicom.dcmread(path)
    made.Rows = made.Columns = 8
    save(made, path)
    tracemalloc.start()
    refused(path, "cannot be decompressed")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**21


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLosslessSV1, JPEGLSLossless,
                                    JPEG2000Lossless])  # fmt: skip
def test_a_missing_part_of_a_compressed_frame(tmp_path, syntax):
    twelve = syntax == JPEGExtended12Bit
    words = random_words((40, 40), "u2" if twelve else "u1") >> (4 if twelve else 0)
    path = coded(tmp_path / "a.dcm", words, syntax, stored=12 if twelve else 8)
    made = pydicom.dcmread(path)
    frame = next(pydicom.encaps.generate_frames(made.PixelData, number_of_frames=1))
    end = frame[frame.rindex(b"\xff\xd9") :]
    made.PixelData = encapsulate([frame[: len(frame) * 2 // 3] + end])
    made["PixelData"].is_undefined_length = True
    refused(save(made, path), "cannot be decompressed")


def test_padding_is_missing_data(tmp_path):
    made = dataset(random_words(dtype="u2"), signed=True)
    made.add_new("PixelPaddingValue", "SS", -2000)
    assert open_image(save(made, tmp_path / "a.dcm")).nodata == -2000
    assert open_image(save(dataset(random_words()), tmp_path / "b.dcm")).nodata is None


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("behind", [True, False])
def test_endless_items(tmp_path, monkeypatch, known, behind):
    """Whether or not a sequence says how long it is, and wherever it stands."""
    monkeypatch.setattr("snowmelt.images.dicom._MOST_ITEMS", 200)
    path = save(dataset(random_words()), tmp_path / "a.dcm")
    plain = path.read_bytes()
    place = len(plain) if behind else plain.index(b"\x28\0\x02\0")
    tag = b"\xfc\xff\x01\0" if behind else b"\x08\0\x40\x11"
    for count, fine in ((200, True), (10_000, False)):
        items = b"\xfe\xff\0\xe0\0\0\0\0" * count
        end = b"" if known else b"\xfe\xff\xdd\xe0\0\0\0\0"
        size = len(items) if known else 2**32 - 1
        sequence = tag + b"SQ\0\0" + size.to_bytes(4, "little") + items + end
        path.write_bytes(plain[:place] + sequence + plain[place:])
        if fine:
            np.testing.assert_array_equal(images.read(path), random_words())
        else:
            refused(path, "more than 200 items in its sequences")
