"""What goes wrong for a user, as one exception, and the words that help.

Every message says what was found, what was expected and the remedy; the command line prints it
without a traceback and exits with 2.
"""

from __future__ import annotations

import difflib
import unicodedata
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
    r"""Replace control and other invisible characters by their escapes: ESC becomes ``\x1b``.

    For every name and text out of a file that reaches a terminal, which would obey escape sequences.
    Letters of any script, spaces and backslashes stay; line ends, marks that turn the direction of text
    and bytes that are no text (surrogates) do not.
    """
    return "".join(
        char if char.isprintable() or unicodedata.category(char) == "Zs" else _escape(char)
        for char in text
    )


def _escape(char: str) -> str:
    return ascii(char)[1:-1]
