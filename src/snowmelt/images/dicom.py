"""DICOM: new pixels in the old file, marked as derived from it.

All tags are kept but for those that say where the pixels come from (PS3.3 C.7.6.1.1): Image Type begins with
DERIVED and SECONDARY, the file gets a SOP Instance UID of its own, and the original is named as its source.
Series and study stay. Uncompressed files keep their transfer syntax; compressed ones come back uncompressed
in Explicit VR Little Endian. A picture is held whole: DICOM bounds one at 65,535 x 65,535.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snowmelt.errors import UserError
from snowmelt.images.base import MAX_PIXELS, Array, Image, Layout, check_pixels, reading, writing
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
# What imagecodecs decodes: pydicom alone has no free decoder for these.
_DECODERS = {
    "1.2.840.10008.1.2.4.51": "jpeg8_decode",
    "1.2.840.10008.1.2.4.57": "jpeg8_decode",
    "1.2.840.10008.1.2.4.70": "jpeg8_decode",
    "1.2.840.10008.1.2.4.80": "jpegls_decode",
    "1.2.840.10008.1.2.4.81": "jpegls_decode",
}
_COLOURS = {"MONOCHROME1": 1, "MONOCHROME2": 1, "RGB": 3}
# What a decoder turns into RGB.
_DECODED = ("YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
_DESCRIPTION_LENGTH = 1024


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
    """A single-frame DICOM file: MONOCHROME1, MONOCHROME2 or RGB, 8, 16 or 32 bits allocated."""

    suffixes = (".dcm",)

    def __init__(
        self, path: str | Path, *, axes: str | None = None, max_pixels: int | None = MAX_PIXELS
    ) -> None:
        self.path = Path(path)
        with reading(self.path, "DICOM"):
            header = self._header()
            self._cell = self._find_cell(header)
            self.value_range = self._cell.range
            self.layout = self._find_layout(header)
            size = self.path.stat().st_size
        if max_pixels is not None:
            max_pixels = max(max_pixels, size * EXPANSION // self.layout.dtype.itemsize)
        check_pixels(self.path, self.layout.height * self.layout.width, max_pixels)
        known = self.layout.axes
        if axes is not None and axes.upper() not in (known, known.replace("S", "C")):
            raise self._refusal(f"a DICOM picture has the axes {known}, not {axes}")

    def read_rows(self, plane: int, start: int, stop: int) -> Array:
        """Rows ``start:stop`` as (stop - start, W, channels): stored values, not rescaled."""
        assert plane == 0
        return self._cell.values(self._words[start:stop])

    def write_like(self, target: Path, bands: Iterator[Array]) -> None:
        """Write the file with other pixels, marked as derived; atomic."""
        self.check_target(target)
        pixels = np.concatenate(list(bands))
        assert pixels.shape == self._words.shape
        self._check_range(target, pixels)
        with reading(self.path, "DICOM"):
            dataset = self._read()
            packed = _packed(dataset, self._cell.insert(pixels, self._words))
            dataset["PixelData"].value = packed
            _mark_derived(dataset, self._syntax)
            file = io.BytesIO()
            dataset.save_as(file)
        with writing(target) as part:
            part.write_bytes(file.getbuffer())

    @functools.cached_property
    def _words(self) -> Words:
        """The pixels as they lie in the file, (H, W, channels)."""
        with reading(self.path, "DICOM"):
            return _unpacked(self._read(), self.layout)

    def _read(self) -> Any:
        """The whole file, its pixels uncompressed."""
        dataset = _pydicom(self.path).dcmread(self.path)
        if "PixelData" not in dataset:
            raise ValueError("it has no pixels")
        if self._syntax not in _PLAIN:
            self._decompress(dataset)
        if self._find_cell(dataset) != self._cell or self._find_layout(dataset) != self.layout:
            raise ValueError("its pixels are of another kind than announced")
        return dataset

    def _decompress(self, dataset: Any) -> None:
        """In place; what compression lost before stays on record."""
        coded = len(dataset.PixelData)
        try:
            if self._syntax in _DECODERS:
                self._decode(dataset)
            else:
                dataset.decompress(as_rgb=True, generate_instance_uid=False)
        except Exception as error:
            why = " ".join(str(error).split())
            raise self._refusal(
                f"cannot be decompressed: {why}; decompress it with another program (gdcmconv --raw)"
            ) from error
        for _ in dataset.iterall():
            pass  # gives each tag its type, which an implicit file does not say
        if self._syntax in _LOSSY:
            dataset.LossyImageCompression = "01"
            if "LossyImageCompressionMethod" not in dataset:
                dataset.LossyImageCompressionMethod = _LOSSY[self._syntax]
            if "LossyImageCompressionRatio" not in dataset:
                dataset.LossyImageCompressionRatio = f"{len(dataset.PixelData) / coded:.2f}"

    def _decode(self, dataset: Any) -> None:
        import imagecodecs
        from pydicom.encaps import get_frame

        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        pixels = getattr(imagecodecs, _DECODERS[self._syntax])(frame)
        if pixels.shape != self.layout.shape:
            raise ValueError(f"the picture inside is {pixels.shape}, not {self.layout.shape}")
        element = dataset["PixelData"]
        element.value = pixels.astype(f"<u{self.layout.dtype.itemsize}").tobytes()
        element.VR = "OB" if self._cell.allocated == 8 else "OW"
        element.is_undefined_length = False
        dataset.file_meta.TransferSyntaxUID = _EXPLICIT_LITTLE
        if len(self.layout.shape) == 3:
            dataset.PlanarConfiguration = 0

    def _header(self) -> Any:
        """All tags before the pixels, of a file that can be decoded."""
        pydicom = _pydicom(self.path)
        meta = pydicom.filereader.read_file_meta_info(self.path)
        self._syntax = str(meta.get("TransferSyntaxUID", ""))
        if self._syntax == _DEFLATED:
            raise self._refusal(
                "is deflated as a whole, and could grow without bounds; convert it: dcmconv +te"
            )
        if self._syntax not in (*_PLAIN, *_DECODERS):
            self._check_decoder(meta)
        header = pydicom.dcmread(self.path, stop_before_pixels=True)
        frames = int(header.get("NumberOfFrames") or 1)
        if "Rows" not in header:
            raise self._refusal(f"holds no picture (modality {header.get('Modality', 'unknown')})")
        if frames != 1:
            raise self._refusal(f"holds {frames} frames; export them one in a file")
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

    def _find_layout(self, header: Any) -> Layout:
        colour, samples = str(header.PhotometricInterpretation), int(header.SamplesPerPixel)
        if colour in _DECODED and self._syntax not in (*_PLAIN, *_DECODERS):
            colour = "RGB"
        if colour not in _COLOURS:
            raise self._refusal(
                f"has the colours {colour}; expected {', '.join(_COLOURS)}; export it as RGB"
            )
        if samples != _COLOURS[colour]:
            raise ValueError(f"{samples} samples a pixel for {colour}")
        size = (int(header.Rows), int(header.Columns))
        if samples == 1:
            return Layout(size, "YX", self._cell.dtype)
        return Layout((*size, samples), "YXS", self._cell.dtype)

    def _check_range(self, target: Path, pixels: Array) -> None:
        least, greatest = int(pixels.min()), int(pixels.max())
        low, high = self._cell.range
        if least < low or greatest > high:
            raise UserError(
                f"{target}: the values {least} to {greatest} do not fit in the {self._cell.stored} bits that "
                f"{self.path.name} stores: {low} to {high}"
            )

    def _refusal(self, why: str) -> UserError:
        return UserError(f"{self.path}: {why}")


def _pydicom(path: Path) -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise UserError(f'{path}: DICOM needs pydicom: pip install "snowmelt[dicom]"') from error
    return pydicom


def _order(dataset: Any) -> str:
    return ">" if str(dataset.file_meta.TransferSyntaxUID) == _EXPLICIT_BIG else "<"


def _is_swapped(dataset: Any) -> bool:
    """Bytes in big-endian 16-bit words come in pairs the wrong way round (PS3.5 2013 annex D)."""
    bits = int(dataset.BitsAllocated)
    return _order(dataset) == ">" and bits == 8 and dataset["PixelData"].VR == "OW"


def _swapped(data: bytes) -> bytes:
    return np.frombuffer(data + b"\0" * (len(data) % 2), "<u2").byteswap().tobytes()


def _unpacked(dataset: Any, layout: Layout) -> Words:
    """The words of an uncompressed file as (H, W, channels)."""
    data = dataset.PixelData
    if _is_swapped(dataset):
        data = _swapped(data)
    stored = np.dtype(f"{_order(dataset)}u{layout.dtype.itemsize}")
    height, width, channels = layout.height, layout.width, layout.channels
    needed = height * width * channels * stored.itemsize
    if len(data) < needed:
        raise ValueError(f"it is cut off: {len(data):,} bytes of pixels, and {needed:,} are needed")
    words = np.frombuffer(data[:needed], stored).astype(stored.newbyteorder("="))
    if _is_planar(dataset):
        return words.reshape(channels, height, width).transpose(1, 2, 0)
    return words.reshape(height, width, channels)


def _packed(dataset: Any, words: Words) -> bytes:
    """The inverse of ``_unpacked``; bytes after the last pixel stay."""
    old = dataset.PixelData
    turned = words.transpose(2, 0, 1) if _is_planar(dataset) else words
    data = turned.astype(f"{_order(dataset)}u{words.dtype.itemsize}").tobytes()
    if _is_swapped(dataset):
        old = _swapped(old)
        return _swapped(data + old[len(data) :])
    return data + bytes(old[len(data) :])


def _is_planar(dataset: Any) -> bool:
    return int(dataset.SamplesPerPixel) > 1 and int(dataset.get("PlanarConfiguration") or 0) == 1


def _mark_derived(dataset: Any, syntax: str) -> None:
    """Say in the tags that the pixels were computed, from which file, and how."""
    from pydicom.uid import generate_uid

    old = dataset.get("ImageType") or ()
    rest = () if isinstance(old, str) else old[2:]
    dataset.ImageType = ["DERIVED", "SECONDARY", *rest]
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
