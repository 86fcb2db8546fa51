"""Files that appear whole or not at all, and what is no file at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

# Of a temporary name, so that any name that a file may have (255 bytes on most systems, 143 on some that
# encrypt) has room for what is added.
STEM_BYTES, SUFFIX_BYTES = 60, 20
_KINDS = {
    stat.S_ISFIFO: "a pipe (FIFO)",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def what_it_is(path: Path) -> str | None:
    """What a path leads to that is neither file nor folder, such as "a pipe (FIFO)"; else None.

    To open such a thing may wait for ever, and to replace it may break the system. Links are followed.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # nothing there, or not to be seen: opening it says why
        return None
    return next((name for is_kind, name in _KINDS.items() if is_kind(mode)), None)


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; on success it replaces ``target`` in one step.

    After an error, a full disk or Ctrl-C, ``target`` is what it was and nothing is left beside it. After
    ``kill -9`` at most a hidden ``.NAME.*.part`` is left. The data reach the disk before the rename. The
    new file has the mode of the old one, else that of any new file. A link is replaced, not what it leads to.

    Raises:
        OSError: The folder or the disk does not allow it; ``target`` is a device, a pipe or a socket.
    """
    target = Path(target)
    if kind := what_it_is(target):
        raise OSError(errno.EEXIST, f"it is {kind}, which no file may replace", str(target))
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
    part = _temporary(target)
    try:
        _create(part, mode)
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _create(path: Path, mode: int | None) -> None:
    """Make an empty file. The system applies the umask: to ask for it would set it for all threads."""
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_CLOEXEC", 0)
    os.close(os.open(path, flags, 0o666 if mode is None else mode))
    if mode is not None:
        path.chmod(mode)


@contextlib.contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """``replacing`` for a folder: an old ``target`` is kept until the new one is whole.

    Folders cannot be exchanged in one step: after ``kill -9`` between two renames the old one is found beside
    the new one, hidden and with ``.old`` at its end.
    """
    target = Path(target)
    part = _temporary(target)
    old = part.with_name(f"{part.name}.old")
    try:
        part.mkdir()
        yield part
        os.sync()
        if os.path.lexists(target):
            target.rename(old)
        part.rename(target)
    finally:
        if os.path.lexists(old) and not os.path.lexists(target):
            old.rename(target)
        for left in (part, old):
            _remove(left)


def _temporary(target: Path) -> Path:
    """A hidden name beside ``target`` that nobody else has (64 random bits), with its suffix."""
    stem = target.stem.encode("utf-8", "ignore")[:STEM_BYTES].decode("utf-8", "ignore")
    suffix = target.suffix if len(os.fsencode(target.suffix)) <= SUFFIX_BYTES else ""
    return target.with_name(f".{stem}.{secrets.token_hex(8)}.part{suffix}")


def _remove(path: Path) -> None:
    """A file, a link or a folder with all in it, whatever their modes; nothing if there is nothing."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        for folder, _, _ in os.walk(path):  # what was copied from a read-only place is read-only
            with contextlib.suppress(OSError):
                Path(folder).chmod(0o700)
        shutil.rmtree(path, ignore_errors=True)
