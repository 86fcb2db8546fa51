import pytest

from snowmelt.errors import printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("scan 1.tif", "scan 1.tif"),
        ("Gr\u00fc\u00dfe \u96ea \U0001f328.png", "Gr\u00fc\u00dfe \u96ea \U0001f328.png"),
        ("4.05\u202fPM.png", "4.05\u202fPM.png"),  # a space in the names of macOS
        (r"C:\new\tab", r"C:\new\tab"),
        ("\x1b]0;title\x07.tif", r"\x1b]0;title\x07.tif"),
        ("a\nsnowmelt: done\r\t", r"a\nsnowmelt: done\r\t"),
        ("\x7f\x9b1m", r"\x7f\x9b1m"),
        ("gpj\u202e.exe", r"gpj\u202e.exe"),
        ("\udcff\u2028", r"\udcff\u2028"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str, expected: str) -> None:
    assert printable(text) == expected
