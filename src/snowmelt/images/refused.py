"""Files of kinds that are not read: what they are, and the way out.

A file is known by its content where that is certain, else by its suffix. HEIC is not read on purpose: the
free decoders come with libx265 (GPL) in the same wheel, as pillow-heif's does, which this project's licence
cannot carry.
"""

from __future__ import annotations

from snowmelt.images.base import ftyp_brands

_RAW = "a camera's raw image; develop it to a 16-bit TIFF first"
_LAYERED = "an image with layers of an editing program; export it flattened, as PNG or 16-bit TIFF"
_MICROSCOPE = "a microscope's own kind; export it as OME-TIFF or OME-Zarr, as Fiji does"
_HEIC = "an HEIC image; convert it first: heif-convert photo.heic photo.png, or export it as PNG or JPEG"
_VECTOR = "a drawing or a document, no image of pixels; export its images as PNG"
_ICON = "an icon with several images; export one as PNG"
_OLD = "an image of a kind that is not read; export it as PNG, as GIMP and ImageMagick do"
_MOVIE = "a movie; extract its frames first: ffmpeg -i movie frames/%05d.png"
_PACKED = "compressed as a whole; unpack it first"
_ARRAYS = "arrays of a kind that is not read; save them as NPY, HDF5 or TIFF"

# Known by suffix: most are TIFFs whose first page is a preview.
_RAWS = (
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw "
    ".rw2 .rwl .sr2 .srf .srw .x3f"
)
UNREAD = {
    suffix: remedy
    for remedy, suffixes in {
        _RAW: _RAWS,
        _LAYERED: ".kra .ora .psb .psd .xcf",
        _HEIC: ".heic .heif .hif",
        _MICROSCOPE: ".czi .ims .lif .nd2 .oib .oif .vsi",
        _VECTOR: ".ai .eps .pdf .ps .svg .svgz",
        _ICON: ".cur .icns .ico",
        _OLD: ".dds .jxr .pbm .pcx .pict .qoi .ras .sgi .wdp .xbm .xpm",
        _MOVIE: ".avi .mkv .mov .mp4 .webm",
        _ARRAYS: ".mat .nc .nii .nrrd",
    }.items()
    for suffix in suffixes.split()
}

_SIGNATURES = (
    (0, b"8BPS", _LAYERED),
    (0, b"gimp xcf", _LAYERED),
    (0, b"%PDF", _VECTOR),
    (0, b"%!PS", _VECTOR),
    (0, b"<svg", _VECTOR),
    (0, b"\0\0\1\0", _ICON),
    (0, b"icns", _ICON),
    (0, b"qoif", _OLD),
    (0, b"DDS ", _OLD),
    (0, b"II\xbc", _OLD),  # JPEG XR
    (0, b"\x01\xda\0", _OLD),  # SGI
    (0, b"\x01\xda\1", _OLD),
    (0, b"\x59\xa6\x6a\x95", _OLD),  # Sun raster
    (0, b"\x0a\5\1", _OLD),  # PCX
    (0, b"FUJIFILMCCD-RAW", _RAW),
    (0, b"IIU\0", _RAW),  # Panasonic
    (0, b"IIRO", _RAW),  # Olympus
    (0, b"\x1f\x8b", _PACKED),
    (0, b"BZh", _PACKED),
    (0, b"\xfd7zXZ", _PACKED),
    (0, b"(\xb5/\xfd", _PACKED),
    (0, b"ZISRAWFILE", _MICROSCOPE),
    (0, b"\xda\xce\xbe\x0a", _MICROSCOPE),  # ND2
    (0, b"NRRD", _ARRAYS),
    (0, b"CDF\1", _ARRAYS),
    (0, b"CDF\2", _ARRAYS),
    (344, b"n+1\0", _ARRAYS),  # NIfTI
    (0, b"\x1aE\xdf\xa3", _MOVIE),
)
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), _HEIC),
    b"crx ": _RAW,
    b"qt  ": _MOVIE,
    **dict.fromkeys((b"isom", b"mp41", b"mp42", b"iso2", b"M4V "), _MOVIE),
}  # fmt: skip


def remedy(head: bytes, suffix: str) -> str | None:
    """What a file is that begins so, and what to do with it; None where neither content nor suffix tells."""
    for place, sign, answer in _SIGNATURES:
        if head.startswith(sign, place):
            return answer
    for brand in ftyp_brands(head)[:1]:
        if brand in _BRANDS:
            return _BRANDS[brand]
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page, not an image; download the image itself"
    if text.startswith((b"<?xml", b"<!doctype svg")) and b"<svg" in head.lower():
        return _VECTOR
    if text.startswith(b"version https://git-lfs"):
        return "a pointer to a file in Git LFS; fetch the file itself: git lfs pull"
    return UNREAD.get(suffix)
