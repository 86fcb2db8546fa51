"""Which images an argument means, and what they are called: a file, a folder, a pattern, a part of a file."""

from __future__ import annotations

import errno
import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from snowmelt.errors import UserError
from snowmelt.images import SUFFIXES, UNREAD, is_store
from snowmelt.images.base import split

RESULT = "_denoised"  # ends the names of results that lie beside their images
_LAST_WORD = re.compile(r"[_\-. ][^\W\d_]+(?=(?:\[\d+\])?$)")
_FIXED = re.compile(r"(?P<before>[^*?[]*).*?(?P<after>[^*?\]]*)", re.DOTALL)  # of a pattern

# Called with the error of a folder that cannot be looked into; what it does not raise is passed over.
OnError = Callable[[OSError], object]


def _refuse(error: OSError) -> None:
    raise error


@dataclass(frozen=True)
class Found:
    """An image that an argument means.

    Attributes:
        source: What ``open_image`` takes.
        file: The file or store that it is in.
        place: That file below the named folder, or below the fixed part of a pattern.
        key: By which it is paired: its place without suffix, or what stands for a pattern's wildcards.
    """

    source: str
    file: Path
    place: Path
    key: str


def find_all(
    texts: Sequence[str], leave_out: Path | None = None, on_error: OnError = _refuse
) -> list[Found]:
    """The images that several arguments mean, see ``find``.

    Raises:
        UserError: There is none; if there are pictures that are not read, it says what to do with them.
    """
    unread: list[OSError] = []

    def note(error: OSError) -> None:
        on_error(error)
        unread.append(error)

    found = [entry for text in texts for entry in find(text, leave_out, note)]
    if not found and unread:
        names = ", ".join(str(error.filename) for error in unread)
        raise UserError(f"no images found; not looked into: {names} ({unread[0].strerror})")
    if not found:
        others = "".join(f". Not read: {other}" for other in passed_over(texts, (), leave_out))
        raise UserError(
            f"{', '.join(texts)}: no images there; known kinds: {', '.join(SUFFIXES)}{others}"
        )
    return found


def passed_over(
    texts: Sequence[str], files: Iterable[Path], leave_out: Path | None = None
) -> list[str]:
    """What is not read of folders and patterns, kind by kind, such as "12 .cr2: a camera's raw picture; ...".

    What lies beside one of ``files`` by the same name does not count: cameras write raw pictures with JPEGs.
    """
    names = {file.with_suffix("") for file in files}
    others = {
        entry.file
        for text in texts
        if is_several(text)
        for entry in _of_several(text, leave_out, UNREAD, lambda _: None)
    }
    counts = Counter(file.suffix.lower() for file in others if file.with_suffix("") not in names)
    return [f"{count} {suffix}: {UNREAD[suffix]}" for suffix, count in sorted(counts.items())]


def find(text: str, leave_out: Path | None = None, on_error: OnError = _refuse) -> list[Found]:
    """The images that an argument means, in order. What is neither folder nor pattern is taken as it is.

    Of folders all that is below: no hidden files, linked folders or results, nor the folder ``leave_out``.

    Raises:
        UserError: The argument is empty, or "-".
        OSError: A folder cannot be looked into; ``on_error``, called with it, may do something else.
    """
    check_name(text)
    path, inside = split(text)
    if is_several(text):
        return without_results([*_of_several(text, leave_out, SUFFIXES, on_error)])
    parts = [*reversed(path.parents), path]
    store = next((part for part in parts if part.is_dir() and is_store(part)), path)
    return [Found(text, store, Path(store.name), inside or path.stem)]


def check_name(text: str, what: str = "an image") -> None:
    """Refuse a name that would mean something else than what was given."""
    if not text:
        raise UserError(
            f"{what} with an empty name: expected a file or a folder; the current folder is called ."
        )
    if "\0" in text:
        raise UserError(f"{text!r}: no name of a file holds a zero byte")
    if text == "-":
        raise UserError(
            f"{what} called -: standard input and output are not supported; give a file (one that is "
            "called so: ./-)"
        )


def without_results(entries: Sequence[Found]) -> list[Found]:
    """Leave out ``a_denoised.png`` where ``a.png`` is there as well: an earlier call made it."""
    files = {entry.file for entry in entries}
    return [
        entry
        for entry in entries
        if not entry.file.stem.endswith(RESULT)
        or entry.file.with_stem(entry.file.stem.removesuffix(RESULT)) not in files
    ]


def is_several(text: str) -> bool:
    """Whether an argument is a folder or a pattern."""
    return _is_pattern(text) or is_folder(split(text)[0])


def is_folder(path: Path) -> bool:
    """Whether it is a folder of images, not a store that is one image or more."""
    if not path.is_dir():
        return False
    try:
        return not is_store(path)
    except PermissionError:  # nobody can look into it
        return True


def without_ending(keys: Sequence[str]) -> list[str]:
    """Keys without their last word, such as _noisy, where it is no number and all have the same one.

    The place in a stack, such as [3], stays behind it.
    """
    endings = {found[0] if (found := _LAST_WORD.search(key)) else "" for key in keys}
    return [_LAST_WORD.sub("", key) for key in keys] if len(endings) == 1 else [*keys]


def _is_pattern(text: str) -> bool:
    return glob.has_magic(text) and not os.path.lexists(split(text)[0])


def _of_several(
    text: str, leave_out: Path | None, suffixes: Container[str], on_error: OnError
) -> Iterator[Found]:
    """The files of some kinds in a folder or of a pattern."""
    path, _ = split(text)
    return (_matching if _is_pattern(text) else _below)(path, leave_out, suffixes, on_error)


def _matching(
    pattern: Path, leave_out: Path | None, suffixes: Container[str], on_error: OnError
) -> Iterator[Found]:
    base = next(parent for parent in pattern.parents if not glob.has_magic(str(parent)))
    fixed = _FIXED.fullmatch(str(pattern))
    assert fixed  # it matches everything
    if "**" in pattern.parts:
        _try_to_enter_all(base, on_error)
    for match in map(Path, sorted(glob.glob(str(pattern), recursive=True))):  # noqa: PTH207 (Path.glob takes no absolute one)
        if any(each.is_symlink() for each in match.parents if base in each.parents):
            continue
        for file in _walk(match, base, leave_out, suffixes, on_error):
            key = str(file).removeprefix(fixed["before"]).removesuffix(fixed["after"])
            yield Found(str(file), file, file.relative_to(base), _without_suffix(key))


def _below(
    folder: Path, leave_out: Path | None, suffixes: Container[str], on_error: OnError
) -> Iterator[Found]:
    for file in _walk(folder, folder, leave_out, suffixes, on_error):
        place = file.relative_to(folder)
        yield Found(str(file), file, place, _without_suffix(place.as_posix()))


def _walk(
    path: Path, base: Path, leave_out: Path | None, suffixes: Container[str], on_error: OnError
) -> Iterator[Path]:
    """Files of some kinds in a folder and below, or the one that ``path`` is."""
    try:
        if not is_folder(path):
            if path.suffix.lower() in suffixes and path.exists():
                yield path
            return
        left_out = leave_out is not None and _real(path) == _real(leave_out)
        if path != base and (path.is_symlink() or left_out):
            return
        if not os.access(path, os.R_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        children = sorted(path.iterdir())
    except OSError as error:
        on_error(error)
        return
    for child in children:
        if not child.name.startswith("."):
            yield from _walk(child, base, leave_out, suffixes, on_error)


def _try_to_enter_all(base: Path, on_error: OnError) -> None:
    """Call ``on_error`` for each folder that cannot be entered; glob itself passes over them in silence."""
    for _, folders, _ in os.walk(base, onerror=on_error):
        folders[:] = [name for name in folders if not name.startswith(".")]


def _real(path: Path) -> str:
    """Where it leads; other than Path.resolve it takes links that lead in a circle."""
    return os.path.realpath(path)


def _without_suffix(name: str) -> str:
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 (a name, no path)
    return stem if suffix.lower() in SUFFIXES else name
