"""Foreign text made fit for a terminal, a page or a log. PURE. Source: docs/rules.md, E17."""

from __future__ import annotations

import unicodedata
from typing import Final

SPOILT: Final = "\ufffd"
# Letters and marks that print nothing: soft hyphen is a control already, these are not, and so slip past isprintable().
_UNSEEN: Final = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0\ufffc"
    + "".join(map(chr, range(0xFE00, 0xFE10)))
    + "".join(map(chr, range(0xE0100, 0xE01F0)))
)


def clean(text: str) -> str:
    """The text with every control, C1, bidirectional, zero-width, private and unassigned character as U+FFFD.

    Other spaces than the plain one become it; combining marks stay.

    >>> clean("a\\x1b[31mb\\u202ec\\xa0d")
    'a\ufffd[31mb\ufffdc d'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_clean_one, text))


def clean_cell(char: str) -> str:
    """One cell of a screen: as `clean`, and a combining mark, which would move the cells after it, becomes U+FFFD too."""
    if " " <= char <= "~":
        return char
    if unicodedata.category(char) in ("Mn", "Me", "Mc"):
        return SPOILT
    return _clean_one(char)


def _clean_one(char: str) -> str:
    if char.isprintable() and char not in _UNSEEN:
        return char
    return " " if unicodedata.category(char) == "Zs" else SPOILT
