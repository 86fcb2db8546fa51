"""Models by name: files that ship with Snowmelt, or lie beside it, in pairs for grey and for colour images.

`NAME-grey.onnx` and `NAME-colour.onnx` are a pair and are called NAME. A name with a folder before it,
`downloads/large`, means such a pair in that folder.
"""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from snowmelt.errors import UserError, nearest

DEFAULT = "base"
GREY, COLOUR = "-grey", "-colour"


def shipped() -> dict[str, Path]:
    """Name and path of each file that ships, such as "base-grey"."""
    folder = Path(str(resources.files("snowmelt"))) / "weights"
    return _files(folder)


def _files(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.onnx"))}


def find_pair(model: str | os.PathLike[str]) -> tuple[Path, Path | None]:
    """Paths of a model for grey images and of its fellow for colour ones; None where it has no fellow.

    Args:
        model: The name of a pair or of one file that ships, a path without a suffix that means a pair, or
            the path of one file, whatever that is for.

    Raises:
        UserError: There is none of that name.
    """
    path = Path(model)
    if path.suffix:
        return path, None
    bare = os.fspath(model) == path.name
    files = shipped() if bare else _files(path.parent)
    found = [files[path.name + end] for end in ("", GREY, COLOUR) if path.name + end in files]
    if found:
        return found[0], found[1] if len(found) > 1 else None
    if path.is_file():
        return path, None
    raise UserError(_missing(path, files) if bare else f"{path}: no such model, nor a pair of them")


def _missing(path: Path, files: dict[str, Path]) -> str:
    pairs = {name.removesuffix(GREY).removesuffix(COLOUR) for name in files}
    known = (
        nearest(path.name, sorted({*pairs, *files})) if files else "none ships with this version"
    )
    return (
        f"model {path.name!r}: no such file, nor a shipped model ({known}); give the path of a file that "
        "`snowmelt train` wrote: --model MODEL.onnx"
    )


def find_model(model: str | os.PathLike[str], *, channels: int) -> Path:
    """The one of a pair that is for images of so many channels: three are colour, all others grey.

    Raises UserError as `find_pair` does.
    """
    grey, colour = find_pair(model)
    return colour if colour is not None and channels == 3 else grey
