"""DICOM: new pixels in the old file, marked as derived from it.

All tags are kept but for those that say where the pixels come from (PS3.3 C.7.6.1.1): Image Type begins with
DERIVED and SECONDARY, the file gets a SOP Instance UID of its own, and the original is named as its source.
Series and study stay. Uncompressed files keep their transfer syntax; compressed ones come back uncompressed
in Explicit VR Little Endian. Frames are decoded one by one; a file is held whole, and so is its result: DICOM
bounds both at 4 GiB.
"""

from __future__ import annotations

import functools
import io
import itertools
import math
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snowmelt.errors import UserError, printable
from snowmelt.images import jpegs
from snowmelt.images.base import (
    MAX_PIXELS,
    Array,
    Image,
    Layout,
    check_bytes,
    check_pixels,
    reading,
    writing,
)
from snowmelt.limits import EXPANSION

Words = NDArray[np.unsignedinteger[Any]]

_EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
_EXPLICIT_BIG = "1.2.840.10008.1.2.2"
_PLAIN = ("1.2.840.10008.1.2", _EXPLICIT_LITTLE, _EXPLICIT_BIG)
_DEFLATED = "1.2.840.10008.1.2.1.99"
# Transfer syntaxes that always lose, and the names of their methods (PS3.3 C.7.6.1.1.5.1). JPEG 2000 may
# or may not: there the file's own word counts.
_LOSSY = {
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
}
# Decoded here, since pydicom alone has no free decoder for them, or does not hear libjpeg's warnings.
_LOSSLESS_JPEG = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
_JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", *_LOSSLESS_JPEG)
_JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
_UNTRANSFORMED = ("1.2.840.10008.1.2.4.51", *_LOSSLESS_JPEG, *_JPEG_LS)
_JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
# What of a dataset its decoder looks at.
_PIXEL_TAGS = (
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
)
_TIMES = ("FrameTime", "FrameTimeVector", "CineRate", "RecommendedDisplayFrameRate")
_COLOURS = {"MONOCHROME1": 1, "MONOCHROME2": 1, "RGB": 3}
# What a decoder turns into RGB.
_DECODED = ("YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
_DESCRIPTION_LENGTH = 1024
# Enhanced images have about 12 items for each frame.
_MOST_ITEMS = 100_000


@dataclass(frozen=True)
class _Cell:
    """Where a value lies in its word: ``stored`` bits, the highest of them number ``high``."""

    allocated: int
    stored: int
    high: int
    signed: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(f"{'i' if self.signed else 'u'}{self.allocated // 8}")

    @property
    def range(self) -> tuple[int, int]:
        half = 2 ** (self.stored - 1)
        return (-half, half - 1) if self.signed else (0, 2 * half - 1)

    def values(self, words: Words) -> Array:
        """The values in words, without what the other bits hold (old files keep overlays there)."""
        top = self.allocated - 1 - self.high
        shifted = (words << top).view(self.dtype)
        return shifted >> (self.allocated - self.stored)

    def insert(self, values: Array, words: Words) -> Words:
        """The words with other values, the other bits as they were."""
        low = self.high + 1 - self.stored
        mask = words.dtype.type((2**self.stored - 1) << low)
        moved = values.astype(self.dtype).view(words.dtype) << low
        return np.asarray((words & ~mask) | (moved & mask), words.dtype)


class DicomImage(Image):
    """A DICOM file of one frame or many: MONOCHROME1, MONOCHROME2 or RGB, 8, 16 or 32 bits allocated.

    Many frames are planes, along T where the file gives them times, else along Z. ``nodata`` is the
    Pixel Padding Value.
    """

    suffixes = (".dcm",)
    kind = "DICOM"
    signatures = ((128, b"DICM"),)
    unsigned = True  # old files have no preamble

    def __init__(
        self, path: str | Path, *, axes: str | None = None, max_pixels: int | None = MAX_PIXELS
    ) -> None:
        self.path = Path(path)
        self._last: tuple[int, Words] | None = None
        with reading(self.path, "DICOM"):
            header = self._header()
            self._cell = self._find_cell(header)
            self.value_range = self._cell.range
            self._frames = int(header.get("NumberOfFrames") or 1)
            self._colours = str(header.PhotometricInterpretation)
            self.layout = self._find_layout(header, axes)
            padding = header.get("PixelPaddingValue")
            self.nodata = None if padding is None else float(padding)
            size = self.path.stat().st_size
        if max_pixels is not None:
            max_pixels = max(max_pixels, size * EXPANSION // self.layout.dtype.itemsize)
        pixels = self._frames * self.layout.height * self.layout.width
        check_pixels(self.path, pixels, max_pixels)
        check_bytes(self.path, self._frames * self._frame_size, size, max_pixels)

    def read_rows(self, plane: int, start: int, stop: int) -> Array:
        """Rows ``start:stop`` of a frame as (stop - start, W, channels): stored values, not rescaled."""
        return self._cell.values(self._words(plane)[start:stop])

    def write_like(self, target: Path, bands: Iterator[Array]) -> None:
        """Write the file with other pixels, marked as derived; atomic."""
        self.check_target(target)
        with reading(self.path, "DICOM"):
            dataset = self._read()
            pixels = bytearray(self._stored)
        self._insert(target, pixels, bands)  # what fails in the bands is no fault of this file
        with reading(self.path, "DICOM"):
            if _is_swapped(dataset):
                pixels = bytearray(_swapped(pixels))
            if self._syntax not in _PLAIN:
                self._mark_decompressed(dataset, len(pixels))
            dataset["PixelData"].value = bytes(pixels)
            _mark_derived(dataset, self._syntax)
        with writing(target) as part:
            self._save(dataset, part)

    def _save(self, dataset: Any, part: Path) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                dataset.save_as(part, overwrite=True)
        except (OSError, MemoryError):
            raise
        except Exception as error:
            raise self._refusal(f"a damaged tag cannot be written: {error}") from error

    def _insert(self, target: Path, pixels: bytearray, bands: Iterator[Array]) -> None:
        """Put new values in the place of the old ones, frame by frame."""
        layout, size = self.layout, self._frame_size
        frame = np.empty((layout.height, layout.width, layout.channels), layout.dtype)
        plane = row = 0
        for band in bands:
            self._check_range(target, band)
            left = band
            while len(left):
                rows = left[: layout.height - row]
                frame[row : row + len(rows)] = rows
                left, row = left[len(rows) :], row + len(rows)
                if row == layout.height:
                    words = self._cell.insert(frame, self._words(plane))
                    pixels[plane * size : (plane + 1) * size] = self._packed(words)
                    plane, row = plane + 1, 0
        assert (plane, row) == (self._frames, 0)

    @property
    def _frame_size(self) -> int:
        layout = self.layout
        return layout.height * layout.width * layout.channels * layout.dtype.itemsize

    @functools.cached_property
    def _stored(self) -> bytes:
        """The pixels of all frames as an uncompressed file has them, those of a compressed one as zeros.

        Bytes in big-endian 16-bit words are in their order.
        """
        if self._syntax not in _PLAIN:
            size = self._frames * self._frame_size
            return bytes(size + size % 2)
        dataset = self._dataset
        data = _swapped(dataset.PixelData) if _is_swapped(dataset) else bytes(dataset.PixelData)
        needed = self._frames * self._frame_size
        if len(data) < needed:
            raise ValueError(
                f"it is cut off: {len(data):,} bytes of pixels, and {needed:,} are needed"
            )
        return data

    @functools.cached_property
    def _coded(self) -> list[bytes]:
        """The frames of a compressed file."""
        from pydicom.encaps import generate_frames

        dataset = self._dataset
        offsets = dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths")
        extended = offsets if all(offsets) else None
        frames = generate_frames(
            dataset.PixelData, number_of_frames=self._frames, extended_offsets=extended
        )
        found = list(itertools.islice(frames, self._frames + 1))
        if len(found) != self._frames:
            raise ValueError(
                f"it holds {len(found)} frames or more where {self._frames} are announced"
            )
        return found

    @functools.cached_property
    def _dataset(self) -> Any:
        return self._read()

    def _read(self) -> Any:
        """The whole file, as it is stored."""
        with self._counted() as file:
            dataset = _pydicom(self.path).dcmread(file)
            if "PixelData" not in dataset:
                raise ValueError("it has no pixels")
            pixels = dataset.get_item("PixelData")
            file.count_items(0, pixels.value_tell)
            file.count_items(pixels.value_tell + len(pixels.value), None)
        dataset.filename = str(self.path)
        return dataset

    def _counted(self) -> _Counted:
        return _Counted(io.FileIO(self.path), self.path)

    def _words(self, plane: int) -> Words:
        """The pixels of a frame as they lie in the file, (H, W, channels)."""
        if self._last is None or self._last[0] != plane:
            self._last = None
            with reading(self.path, "DICOM"):
                self._last = plane, self._load(plane)
        return self._last[1]

    def _load(self, plane: int) -> Words:
        layout, size = self.layout, self._frame_size
        shape = (layout.height, layout.width, layout.channels)
        if self._syntax in _PLAIN:
            data = self._stored[plane * size : (plane + 1) * size]
            words = np.frombuffer(data, self._stored_type).astype(f"u{layout.dtype.itemsize}")
            if _is_planar(self._dataset):
                return words.reshape(shape[2], *shape[:2]).transpose(1, 2, 0)
            return words.reshape(shape)
        try:
            pixels = self._decode(self._coded[plane])
        except Exception as error:
            where = "" if self._frames == 1 else f"frame {plane + 1} "
            why = " ".join(str(error).split()) or type(error).__name__
            raise self._refusal(
                f"{where}cannot be decompressed: {why}; decompress it with another program (gdcmconv --raw)"
            ) from error
        if pixels.dtype.itemsize != layout.dtype.itemsize or pixels.size != math.prod(shape):
            raise ValueError("its pixels are of another kind than announced")
        return np.ascontiguousarray(pixels).view(f"u{layout.dtype.itemsize}").reshape(shape)

    @property
    def _stored_type(self) -> np.dtype[Any]:
        order = ">" if self._syntax == _EXPLICIT_BIG else "<"
        return np.dtype(f"{order}u{self.layout.dtype.itemsize}")

    def _packed(self, words: Words) -> bytes:
        """The inverse of ``_load``, uncompressed."""
        planar = self._syntax in _PLAIN and _is_planar(self._dataset)
        turned = words.transpose(2, 0, 1) if planar else words
        return turned.astype(self._stored_type).tobytes()

    def _decode(self, frame: bytes) -> Array:
        """The pixels of one compressed frame; its size is known to be right before that."""
        found, expected = _size_of_coded(frame, self._syntax), self.layout.shape[-3:]
        if len(self.layout.shape) == 2 or self.layout.channels == 1:
            expected = self.layout.shape[-2:]
        if found is not None and found != expected:
            raise ValueError(f"the picture inside is {found}, not {expected}")
        if self._syntax in _JPEG:
            return self._decode_jpeg(frame)
        if self._syntax in _JPEG_LS:
            import imagecodecs

            return np.asarray(imagecodecs.jpegls_decode(frame))
        return self._decode_by_pydicom(frame)

    def _decode_jpeg(self, frame: bytes) -> Array:
        from pydicom.pixels import convert_color_space

        stream = jpegs.parse(frame)
        if stream.frame().depth != 8 or self._syntax in _LOSSLESS_JPEG:
            return jpegs.decode_any(frame)
        if self.layout.channels == 1 or stream.says_colours:
            return jpegs.decode(frame)
        # Without Adobe's segment a stream does not say whether it is YCbCr; DICOM does, or JFIF.
        pixels = jpegs.decode(frame, untransformed=True)
        if bytes(stream.frame().sampling) == b"rgb":
            return pixels
        if stream.is_jfif or self._colours in ("YBR_FULL", "YBR_FULL_422"):
            return convert_color_space(pixels, "YBR_FULL", "RGB")
        return pixels

    def _decode_by_pydicom(self, frame: bytes) -> Array:
        from pydicom.dataset import Dataset
        from pydicom.encaps import encapsulate
        from pydicom.pixels import get_decoder

        single, whole = Dataset(), self._dataset
        single.file_meta = whole.file_meta
        for name in _PIXEL_TAGS:
            if name in whole:
                single[name] = whole[name]
        single.PixelData = encapsulate([frame])
        single["PixelData"].is_undefined_length = True
        decoder = get_decoder(whole.file_meta.TransferSyntaxUID)
        pixels, _ = decoder.as_array(single, index=0, as_rgb=True)
        return np.asarray(pixels)

    def _mark_decompressed(self, dataset: Any, size: int) -> None:
        """Describe the pixels as they are now; what compression lost before stays on record."""
        coded = len(dataset.PixelData)
        element = dataset["PixelData"]
        element.VR = "OB" if self._cell.allocated == 8 else "OW"
        element.is_undefined_length = False
        for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
            if name in dataset:
                del dataset[name]
        if self.layout.channels == 3:
            dataset.PlanarConfiguration, dataset.PhotometricInterpretation = 0, "RGB"
        for _ in dataset.iterall():
            pass  # gives each tag its type, which an implicit file does not say
        dataset.file_meta.TransferSyntaxUID = _EXPLICIT_LITTLE
        if self._syntax in _LOSSY:
            dataset.LossyImageCompression = "01"
            if "LossyImageCompressionMethod" not in dataset:
                dataset.LossyImageCompressionMethod = _LOSSY[self._syntax]
            if "LossyImageCompressionRatio" not in dataset:
                dataset.LossyImageCompressionRatio = f"{size / coded:.2f}"

    def _header(self) -> Any:
        """All tags before the pixels, of a file that can be decoded."""
        pydicom = _pydicom(self.path)
        meta = pydicom.filereader.read_file_meta_info(self.path)
        self._syntax = str(meta.get("TransferSyntaxUID", ""))
        if self._syntax == _DEFLATED:
            raise self._refusal(
                "is deflated as a whole, and could grow without bounds; convert it: dcmconv +te"
            )
        if self._syntax not in (*_PLAIN, *_JPEG, *_JPEG_LS):
            self._check_decoder(meta)
        with self._counted() as file:
            header = pydicom.dcmread(file, stop_before_pixels=True)
            file.count_items(0, file.tell())
        if "Rows" not in header:
            modality = header.get("Modality", "unknown")
            raise self._refusal(f"holds no picture (modality {modality})")
        return header

    def _check_decoder(self, meta: Any) -> None:
        from pydicom.pixels import get_decoder

        if not self._syntax:
            raise ValueError("it names no transfer syntax")
        name = meta.TransferSyntaxUID.name
        try:
            decoder = get_decoder(meta.TransferSyntaxUID)
        except NotImplementedError as error:
            raise self._refusal(
                f"is coded as {name}, which is no picture; export it uncompressed"
            ) from error
        if not decoder.is_available:
            raise self._refusal(
                f"is compressed as {name}, and no decoder for it is installed; decompress it (gdcmconv "
                f"--raw), or install one of: {'; '.join(decoder.missing_dependencies)}"
            )

    def _find_cell(self, header: Any) -> _Cell:
        cell = _Cell(
            int(header.BitsAllocated),
            int(header.BitsStored),
            int(header.HighBit),
            bool(int(header.PixelRepresentation)),
        )
        if cell.allocated not in (8, 16, 32):
            raise self._refusal(f"has {cell.allocated} bits for a value; expected 8, 16 or 32")
        if not 1 <= cell.stored <= cell.high + 1 <= cell.allocated:
            raise ValueError(f"{cell.stored} bits up to bit {cell.high} of {cell.allocated}")
        return cell

    def _find_layout(self, header: Any, axes: str | None) -> Layout:
        colour, samples = self._colours, int(header.SamplesPerPixel)
        if colour in _DECODED and self._syntax not in (*_PLAIN, *_UNTRANSFORMED):
            colour = "RGB"
        if colour not in _COLOURS:
            raise self._refusal(
                f"has the colours {colour}; expected {', '.join(_COLOURS)}; export it as RGB"
            )
        if samples != _COLOURS[colour]:
            raise ValueError(f"{samples} samples a pixel for {colour}")
        shape = (int(header.Rows), int(header.Columns), *([samples] if samples > 1 else []))
        known = "YXS"[: len(shape)]
        if self._frames == 1:
            return Layout(shape, self._axes(known, known, axes), self._cell.dtype)
        if self._frames < 1:
            raise ValueError(f"{self._frames} frames")
        timed = any(header.get(name) for name in _TIMES)
        found = self._axes(("T" if timed else "Z") + known, known, axes)
        return Layout((self._frames, *shape), found, self._cell.dtype)

    def _axes(self, known: str, picture: str, given: str | None) -> str:
        """The letters of the dimensions. Of many frames the first may have any name."""
        if given is None:
            return known
        letters = given.upper()
        if picture.endswith("S") and letters.endswith("C"):
            letters = letters[:-1] + "S"
        free = letters[: len(known) - len(picture)]
        if letters != free + picture or set(free) & set(picture) or not letters.isalpha():
            raise self._refusal(f"a DICOM picture has the axes {known}, not {given}")
        return letters

    def _check_range(self, target: Path, pixels: Array) -> None:
        least, greatest = int(pixels.min()), int(pixels.max())
        low, high = self._cell.range
        if least < low or greatest > high:
            raise UserError(
                f"{target}: the values {least} to {greatest} do not fit in the {self._cell.stored} bits that "
                f"{self.path.name} stores: {low} to {high}"
            )

    def _refusal(self, why: str) -> UserError:
        return UserError(f"{self.path}: {printable(why)}")


class _Counted(io.BufferedReader):
    """A file that says no to endless sequences: pydicom makes a data set of each item, 13 microseconds long.

    Items in sequences of undefined length are made while the file is read: each is a read of its own. Those
    of sequences that say their length are made later, so their marks are counted.
    """

    def __init__(self, raw: io.FileIO, path: Path) -> None:
        super().__init__(raw)
        self._path = path
        self._left = (
            4 * _MOST_ITEMS + path.stat().st_size // 1024
        )  # pixels in items are read in parts

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise self._refusal()
        return super().read(size)

    def __exit__(self, *caught: object) -> None:
        self.close()
        if self._left < 0:  # pydicom makes an error of its own of what is raised within a sequence
            raise self._refusal()

    def count_items(self, start: int, stop: int | None) -> None:
        """UserError where more items begin in these bytes than a picture has."""
        self.seek(start)
        data = super().read(-1 if stop is None else stop - start)
        if data.count(b"\xfe\xff\x00\xe0") + data.count(b"\xff\xfe\xe0\x00") > _MOST_ITEMS:
            raise self._refusal()

    def _refusal(self) -> UserError:
        return UserError(
            f"{self._path}: more than {_MOST_ITEMS:,} items in its sequences, the limit that guards against "
            "endless work; take out sequences that are not needed (dcmodify -ea)"
        )


def _pydicom(path: Path) -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise UserError(f'{path}: DICOM needs pydicom: pip install "snowmelt[dicom]"') from error
    return pydicom


def _is_swapped(dataset: Any) -> bool:
    """Bytes in big-endian 16-bit words come in pairs the wrong way round (PS3.5 2013 annex D)."""
    big = str(dataset.file_meta.TransferSyntaxUID) == _EXPLICIT_BIG
    return big and int(dataset.BitsAllocated) == 8 and dataset["PixelData"].VR == "OW"


def _swapped(data: bytes | bytearray) -> bytes:
    return np.frombuffer(data + b"\0" * (len(data) % 2), "<u2").byteswap().tobytes()


def _size_of_coded(frame: bytes, syntax: str) -> tuple[int, ...] | None:
    """Height, width (and channels) that a compressed frame claims; None where it claims none (RLE)."""
    if syntax in (*_JPEG, *_JPEG_LS):
        found = jpegs.parse(frame, until_scan=True).frame()
        shape, channels = (found.height, found.width), len(found.sampling)
    elif syntax in _JPEG_2000:
        # ITU-T T.800 A.5.1: the size of the reference grid less the offset of the picture in it.
        start = frame.find(b"\xff\x4f\xff\x51")
        if start < 0:
            raise ValueError("it holds no JPEG 2000 picture")
        right, bottom, left, top = struct.unpack_from(">IIII", frame, start + 8)
        (channels,) = struct.unpack_from(">H", frame, start + 40)
        shape = (bottom - top, right - left)
    else:
        return None
    return shape if channels == 1 else (*shape, channels)


def _is_planar(dataset: Any) -> bool:
    return int(dataset.SamplesPerPixel) > 1 and int(dataset.get("PlanarConfiguration") or 0) == 1


def _mark_derived(dataset: Any, syntax: str) -> None:
    """Say in the tags that the pixels were computed, from which file, and how."""
    from pydicom.uid import generate_uid

    old = dataset.get("ImageType") or ()
    rest = [] if isinstance(old, str) else list(old[1:])
    # Enhanced images allow nothing but PRIMARY there (PS3.3 C.8.16.1.2), and say the same of each frame.
    enhanced = "SharedFunctionalGroupsSequence" in dataset
    dataset.ImageType = ["DERIVED", *(rest if enhanced else ["SECONDARY", *rest[1:]])]
    for element in dataset.iterall() if enhanced else ():
        if element.keyword == "FrameType" and element.value:
            kind = element.value
            element.value = ["DERIVED", *([] if isinstance(kind, str) else kind[1:])]
    if dataset.get("preamble", b"")[:2] in (b"II", b"MM"):
        dataset.preamble = bytes(128)  # of a file that is TIFF too, whose places are others now
    note = f"Denoised with Snowmelt {version('snowmelt')}"
    if syntax not in _PLAIN:
        note += f", decompressed from transfer syntax {syntax}"
    if said := str(dataset.get("DerivationDescription") or ""):
        note = f"{said[: _DESCRIPTION_LENGTH - len(note) - 2]}; {note}"
    dataset.DerivationDescription = note
    if dataset.get("SOPClassUID") and dataset.get("SOPInstanceUID"):
        earlier = dataset.get("SourceImageSequence") or ()
        dataset.SourceImageSequence = [*earlier, _source(dataset)]
    dataset.SOPInstanceUID = generate_uid(prefix=None)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID


def _source(dataset: Any) -> Any:
    """A reference to the original (PS3.3 C.12.4.1.2; the purpose is from context group 7202)."""
    from pydicom.dataset import Dataset

    source, purpose = Dataset(), Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator = "121322", "DCM"
    purpose.CodeMeaning = "Source image for image processing operation"
    source.ReferencedSOPClassUID = dataset.SOPClassUID
    source.ReferencedSOPInstanceUID = dataset.SOPInstanceUID
    source.SpatialLocationsPreserved = "YES"
    source.PurposeOfReferenceCodeSequence = [purpose]
    return source
