"""Text of strangers, shown as text: escaped, held in its own direction, and what deceives the eye made visible (WEB-12)."""

from __future__ import annotations

import unicodedata
from itertools import groupby
from typing import Final

from markupsafe import Markup, escape

# Letters that are drawn like ASCII ones; a word made of nothing else is taken for an ASCII word.
_TWINS: Final = frozenset(
    "аеорсухіјѕһԁԛԝӏвкмнтАВЕКМНОРСТУХІЈЅԌԚԜ"  # Cyrillic
    "οανικυρΑΒΕΖΗΙΚΜΝΟΡΤΥΧ"  # Greek
)
_SCRIPTS: Final = frozenset(
    {"LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "FULLWIDTH", "MATHEMATICAL", "COPTIC"}
)
_STACK: Final = 2
"""How many marks may stand on one letter: more than any living spelling needs, fewer than a smear over other lines."""


def show_foreign(text: str | None) -> Markup:
    """The text, escaped, in a <bdi>; odd characters and look-alike words in <mark>, named for the eye and for a screen reader."""
    if text is None:
        return Markup("—")
    return Markup('<bdi class="foreign">{}</bdi>').format(Markup("").join(_marked(unit) for unit in _units(text)))


def oddities(text: str | None) -> int:
    """How many marks show_foreign sets.

    >>> oddities("replace cell 4\\u202e"), oddities("bms-01"), oddities("bms-01 of kestr\\u0435l")
    (1, 0, 1)
    """
    return 0 if text is None else sum(_why(unit) is not None for unit in _units(text))


def _units(text: str) -> list[str]:
    """Words whole, all else character by character; so is a word that holds a character that cannot be seen."""
    units: list[str] = []
    for in_word, run in groupby(text, _is_in_word):
        word = "".join(run)
        if in_word and not any(_odd(ch) for ch in word):
            units.append(word)
        else:
            units.extend(word)
    return units


def _is_in_word(ch: str) -> bool:
    return ch.isalnum() or unicodedata.category(ch).startswith("M")


def _marked(unit: str) -> Markup:
    why = _why(unit)
    if why is None:
        return escape(unit)
    shown = f"U+{ord(unit):04X}" if len(unit) == 1 and _odd(unit) else unit
    return Markup('<mark title="{}">{}</mark>').format(why, shown)


def _why(unit: str) -> str | None:
    """What is odd about one character or one word; None when nothing is."""
    if len(unit) == 1 and _odd(unit):
        return unicodedata.name(unit, "no character")
    scripts = {_script(ch) for ch in unit if ch.isalpha()} & _SCRIPTS
    if len(scripts) > 1:
        return f"letters of several scripts: {', '.join(sorted(scripts))}"
    if scripts & {"FULLWIDTH", "MATHEMATICAL"}:
        return f"{min(scripts)} letters"
    letters = [ch for ch in unit if ch.isalpha()]
    if len(letters) > 1 and all(ch in _TWINS for ch in letters):
        return f"{min(scripts)} letters that look like Latin ones"
    return "marks piled on one letter" if _is_piled(unit) else None


def _odd(ch: str) -> bool:
    """A character that cannot be seen, or that moves others: directions, joiners, controls, private ones, odd blanks."""
    category = unicodedata.category(ch)
    return (
        category in ("Cf", "Co", "Cn", "Cs", "Zl", "Zp")
        or (category == "Cc" and ch not in "\n\t\r")
        or (category == "Zs" and ch != " ")
        or "\ufe00" <= ch <= "\ufe0f"
        or ch in "\u115f\u1160\u3164\uffa0\u2800"  # letters and a sign that are drawn as nothing
    )


def _is_piled(unit: str) -> bool:
    run = 0
    for ch in unit:
        run = run + 1 if unicodedata.category(ch) in ("Mn", "Me") else 0
        if run > _STACK:
            return True
    return False


def _script(ch: str) -> str:
    return unicodedata.name(ch, "").split(" ")[0]
