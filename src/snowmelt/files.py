"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; on success it replaces ``target`` in one step.

    After an error, a full disk or Ctrl-C, ``target`` is what it was and nothing is left beside it. After
    ``kill -9`` at most a hidden ``.NAME.*.part`` is left. The data reach the disk before the rename.
    """
    target = Path(target)
    # Without mkstemp's 0600: the file gets the mode that an ordinary new file would get.
    handle, name = tempfile.mkstemp(
        dir=target.parent, prefix=f".{target.stem}.", suffix=f".part{target.suffix}"
    )
    os.close(handle)
    part = Path(name)
    try:
        part.chmod(target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask())
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """``replacing`` for a folder: an old ``target`` is kept until the new one is whole.

    Folders cannot be exchanged in one step: after ``kill -9`` between two renames the old one is found beside
    the new one, hidden and with ``.old`` at its end.
    """
    target = Path(target)
    part = Path(
        tempfile.mkdtemp(
            dir=target.parent, prefix=f".{target.stem}.", suffix=f".part{target.suffix}"
        )
    )
    old = part.with_name(f"{part.name}.old")
    try:
        part.chmod(0o777 & ~_umask())
        yield part
        os.sync()
        if target.exists():
            target.rename(old)
        part.rename(target)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        for left in (part, old):
            if left.is_symlink() or left.is_file():
                left.unlink()
            shutil.rmtree(left, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
