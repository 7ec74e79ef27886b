"""Our own drawing of a screen: the only bytes a replay puts on a terminal. PURE. Source: docs/rules.md, E17.

frame  (CSI row ; 1 H, SGR 0, CSI K, (SGR, characters)*)*     rows that did not change are not drawn
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from recorder.clean import SPOILT, clean_cell
from recorder.screen import CONTINUED, Colour, Row, Run

ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[0m\x1b[2J"
"""Another screen, no cursor, no wrapping: a character wider than we think cannot push what follows onto other rows."""
LEAVE: Final = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
_PLAIN: Final = "\x1b[0m"


class Painter:
    """Draws on a terminal of columns x rows; what does not fit is cropped."""

    def __init__(self, columns: int, rows: int) -> None:
        self._columns = columns
        self._rows = rows
        self._shown: dict[int, str] = {}

    def frame(self, screen: Sequence[Row]) -> str:
        """What turns the last frame into this one."""
        out: list[str] = []
        for number in range(1, self._rows + 1):
            row = draw(screen[number - 1], self._columns) if number <= len(screen) else ""
            if self._shown.get(number, "") != row:
                self._shown[number] = row
                out.append(f"\x1b[{number};1H{_PLAIN}\x1b[K{row}")  # erased first: after a full row, CSI K eats its end
        return "".join(out)


def draw(row: Row, columns: int) -> str:
    """One row: colours, attributes and clean characters; trailing blanks without colour are left out."""
    out: list[str] = []
    left = columns
    for run in _trimmed(row):
        text = fit(run.text, left)
        left -= len(run.text)
        if text:
            out.append(_sgr(run) + text)
        if left <= 0:
            break
    return "".join(out) + _PLAIN if out else ""


def fit(cells: str, columns: int) -> str:
    """The clean characters of at most so many cells; a wide one that is cut, or was no fit character, keeps its width."""
    if cells.isascii() and cells.isprintable():
        return cells[:columns]
    out: list[str] = []
    for at, char in enumerate(cells[:columns]):
        if char == CONTINUED and at:
            continue
        fine = clean_cell(char)
        if cells[at + 1 : at + 2] == CONTINUED:
            if at + 1 >= columns:
                fine = " "
            elif fine == SPOILT:
                fine += " "
        out.append(fine)
    return "".join(out)


def plain(row: Row) -> str:
    """The clean text of a row, without colours and trailing blanks."""
    return "".join(fit(run.text, len(run.text)) for run in row).rstrip()


def _trimmed(row: Row) -> Row:
    end = len(row)
    while end and row[end - 1].background is None and not row[end - 1].attributes:
        if rest := row[end - 1].text.rstrip(" "):
            return (*row[: end - 1], replace(row[end - 1], text=rest))
        end -= 1
    return row[:end]


def _sgr(run: Run) -> str:
    numbers = [0, *run.attributes, *_colour(38, run.foreground), *_colour(48, run.background)]
    return f"\x1b[{';'.join(map(str, numbers))}m"


def _colour(kind: int, colour: Colour) -> tuple[int, ...]:
    if colour is None:
        return ()
    return (kind, 5, *colour) if len(colour) == 1 else (kind, 2, *colour)
