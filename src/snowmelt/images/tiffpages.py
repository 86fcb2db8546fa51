"""Which directories of a TIFF are pages of the image, and which are previews, pyramids, masks.

A smaller version of the image is left out of what is written, since it would still show the noise; a mask is
copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from snowmelt.images import tiffpage
from snowmelt.images.ifd import POINTERS, Directory, Format, Reader, Tag
from snowmelt.images.tiffpage import Page, UnsupportedError

# A camera writes one MakerNote; the pages of a stack that came out of one need none kept in place.
_MOST_KEPT = 64
_MICRO_MANAGER = 51123


@dataclass(frozen=True)
class Pages:
    """Which directories are what.

    Attributes:
        image: The pages to denoise.
        chain: All that are written, and whether each is one of these; the others are masks, which are copied.
        notes: On what is left out, for the user.
    """

    image: tuple[Directory, ...]
    chain: tuple[tuple[Directory, bool], ...]
    notes: tuple[str, ...]


def sorted_out(reader: Reader) -> Pages:
    """Tell the pages of the image from masks, smaller versions and what else a file may hold."""
    form = reader.format
    chain = list(reader.chain())
    if not chain:
        raise ValueError("it has no picture")
    full = _unless_all([tiffpage.is_reduced(form, each) for each in chain])
    pages = [each for each, reduced in zip(chain, full, strict=True) if not reduced]
    if any(map(tiffpage.has_layers, pages)):
        raise UnsupportedError("holds Photoshop layers, which would stay noisy; save it flattened")
    left_out = sum(full) + sum(_reduced_inside(reader, page) for page in pages)
    kept, pointers = zip(*map(_without_pointers, pages), strict=True)
    notes = _notes(left_out, sorted(set().union(*pointers)))
    if any(tag.code == _MICRO_MANAGER for tag in kept[0]):
        notes += ("Micro-Manager's index of places in the file left out",)
    if len({tag.place for page in kept for tag in in_place(page)}) > _MOST_KEPT:
        kept = tuple(tuple(map(released, page)) for page in kept)
        notes += (
            "cameras' own records (MakerNote) moved; what they say of places in the file no longer holds",
        )
    masks = _unless_all([tiffpage.is_mask(form, each) for each in kept])
    written = tuple((page, not mask) for page, mask in zip(kept, masks, strict=True))
    for page, image in written:
        if not image:
            _check_copied(reader, page)
    return Pages(tuple(page for page, image in written if image), written, notes)


def in_place(directory: Directory) -> Iterator[Tag]:
    """The tags whose content has to keep its place."""
    for tag in directory:
        if isinstance(tag.value, tuple):
            yield from in_place(tag.value)
        elif tag.place:
            yield tag


def released(tag: Tag) -> Tag:
    """A tag that may lie anywhere."""
    if isinstance(tag.value, tuple):
        return replace(tag, value=tuple(map(released, tag.value)))
    return replace(tag, place=0)


def _unless_all(marks: list[bool]) -> list[bool]:
    """Marks of pages that belong to other ones; none where there are no other ones."""
    return [False] * len(marks) if all(marks) else marks


def _check_copied(reader: Reader, page: Directory) -> None:
    offsets, counts = tiffpage.copied_places(reader.format, page)
    if max(map(sum, zip(offsets, counts, strict=True))) > reader.size:
        raise ValueError("it is cut off: a mask lies behind its end")


def _notes(left_out: int, pointers: list[int]) -> tuple[str, ...]:
    notes = []
    if left_out:
        these = "1 smaller version" if left_out == 1 else f"{left_out} smaller versions"
        notes.append(
            f"{these} of the image (previews, a pyramid) left out, since they would show the noise"
        )
    if pointers:
        tags = ", ".join(map(str, pointers))
        notes.append(
            f"records elsewhere in the file that private tags point to left out (tags {tags})"
        )
    return tuple(notes)


def _reduced_inside(reader: Reader, page: Directory) -> int:
    """How many smaller versions a page holds inside; UnsupportedError where it holds anything else."""
    form = reader.format
    places = tiffpage.sub_directories(form, page)
    size = tiffpage.image_size(form, page)
    for place in places:
        inside = reader.directory(place)
        height, width = tiffpage.image_size(form, inside)
        smaller = (height, width) != size and height <= size[0] and width <= size[1]
        if not (smaller or tiffpage.is_reduced(form, inside)):
            raise UnsupportedError(
                "holds further images inside its pages (SubIFDs) that are not smaller versions of these and "
                "would stay noisy; save the image alone"
            )
    return len(places)


def _without_pointers(page: Directory) -> tuple[Directory, set[int]]:
    """A page without what leads to directories that are not copied; the tags of those that nobody knows."""
    lead = {tag.code for tag in page if tag.type in POINTERS and isinstance(tag.value, bytes)}
    kept = tuple(tag for tag in page if tag.code not in lead | {tiffpage.SUB_IFDS})
    return kept, lead - {tiffpage.SUB_IFDS}


def common_page(form: Format, directories: tuple[Directory, ...]) -> Page:
    """The structure that all pages have; UnsupportedError names the first one that is not like the others."""
    first = tiffpage.read_page(form, directories[0])
    colours = [tag for tag in directories[0] if tag.code == tiffpage.COLOUR_MAP]
    alike = tiffpage.structure(directories[0])
    for number, directory in enumerate(directories[1:], start=2):
        if tiffpage.structure(directory) == alike:
            continue
        page = tiffpage.read_page(form, directory)
        if page != first:
            raise UnsupportedError(
                f"its pages are not alike: page {number} has {tiffpage.described(page)}, and the first has "
                f"{tiffpage.described(first)}, and neither is marked as a preview; save pages of one kind in "
                "a file"
            )
        if first.photometric == tiffpage.PALETTE and colours != [
            tag for tag in directory if tag.code == tiffpage.COLOUR_MAP
        ]:
            raise UnsupportedError(
                f"page {number} has other colours in its palette than the first; save it as RGB"
            )
    return first
