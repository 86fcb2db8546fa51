"""What goes wrong for a user, as one exception, and the words that help.

Every message says what was found, what was expected and the remedy; the command line prints it
without a traceback and exits with 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Input that Snowmelt cannot use: a file, a flag, a recipe key, a shape."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known names there are, the most alike first: ``did you mean 'psnr'? known: ...``."""
    names = sorted(known)
    alike = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {alike[0]!r}? " if alike else ""
    return f"{hint}known: {', '.join(names)}"


def printable(text: str) -> str:
    """The text with escapes in place of what is not printable: a file's names must not steer a terminal."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
