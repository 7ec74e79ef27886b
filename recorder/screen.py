"""What a terminal would show, behind one protocol. Source: docs/rules.md, Evidence.

Whatever emulates parses what a hostile asset sent: outside of tests it runs in a cage, see recorder/cage.py.
"""

from __future__ import annotations

import codecs
import struct
from dataclasses import dataclass
from typing import Final, Protocol

from avt._avt import Color, Line, Pen, Vt

Colour = tuple[int, ...] | None
"""None: the terminal's own; one number: of its palette; three: red, green, blue."""

DEFAULT_SIZE: Final = (80, 24)
SLICE_CHARS: Final = 512
"""Ten bytes (`x CSI 65535 b`) can scroll hundreds of lines: fed whole, a chunk of them would ask for gigabytes."""
FEED_BYTES: Final = 4096
"""How much to gather before a screen is fed: a caged one answers each time."""
GONE_MAX_LINES: Final = 512
CONTINUED: Final = "\0"
"""Stands in a row for the second half of a wide character."""
_FLAGS: Final = (
    ("bold", 1),
    ("faint", 2),
    ("italic", 3),
    ("underline", 4),
    ("blink", 5),
    ("inverse", 7),
    ("strikethrough", 9),
)
_SIZE: Final = struct.Struct("<HH")


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring cells drawn alike. text: a character a cell, uncleaned; attributes: SGR numbers, 1 bold to 9 struck out."""

    text: str
    foreground: Colour = None
    background: Colour = None
    attributes: tuple[int, ...] = ()


Row = tuple[Run, ...]


class Screen(Protocol):
    """A terminal's screen that can be fed and looked at."""

    def feed(self, data: bytes) -> list[str]:
        """Take output, UTF-8 cut anywhere. Gives the lines that scrolled off, uncleaned. Raises ScreenLost."""

    def resize(self, columns: int, rows: int) -> None:
        """Change the size; out of 2 to 500 x 1 to 200 is clamped. Raises ScreenLost."""

    def rows(self) -> list[Row]:
        """What is shown, from the top. Raises ScreenLost."""

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""


class ScreenLost(Exception):
    """The emulator died of what it was fed, or was ended for using too much."""


class AvtScreen:
    """A screen in this process, by avt."""

    def __init__(self, columns: int, rows: int) -> None:
        self._vt = Vt(*clamp(columns, rows), scrollback_limit=0)
        self._rows: dict[str, Row] = {}
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def feed(self, data: bytes) -> list[str]:
        text, gone = self._decode(data), list[str]()
        for start in range(0, len(text), SLICE_CHARS):
            _, lines = self._vt.feed_str(text[start : start + SLICE_CHARS])
            gone += [line.text for line in lines[-GONE_MAX_LINES:]]
        return gone

    def resize(self, columns: int, rows: int) -> None:
        self._vt.resize(*clamp(columns, rows))
        self._rows.clear()  # rows of other lengths could have the same key

    def rows(self) -> list[Row]:
        # Most rows stood there at the last look, if on another line; avt's own text of one, pens and all, is the key.
        lines = [(repr(line), line) for line in self._vt.view()]
        self._rows = {text: self._rows.get(text) or _row(line) for text, line in lines}
        return [self._rows[text] for text, _ in lines]

    @property
    def size(self) -> tuple[int, int]:
        return self._vt.size


def clamp(columns: int, rows: int) -> tuple[int, int]:
    """A size that an emulator can bear."""
    return min(max(columns, 2), 500), min(max(rows, 1), 200)


def decode_size(data: bytes) -> tuple[int, int] | None:
    """Columns and rows of a RESIZE event (two u16, little-endian), clamped; None when it holds something else."""
    if len(data) != _SIZE.size:
        return None
    columns, rows = _SIZE.unpack(data)
    return clamp(columns, rows)


def _row(line: Line) -> Row:
    return tuple(
        _run("".join(cell.char if cell.width else CONTINUED for cell in cells), cells[0].pen)
        for cells in line.chunks(lambda one, next_one: bool(one.pen != next_one.pen))
    )


def _run(text: str, pen: Pen) -> Run:
    attributes = tuple(number for name, number in _FLAGS if getattr(pen, name))
    return Run(text, _colour(pen.foreground), _colour(pen.background), attributes)


def _colour(colour: Color | None) -> Colour:
    if isinstance(colour, Color.RGB):
        return int(colour[0]), int(colour[1]), int(colour[2])
    return (int(colour[0]),) if isinstance(colour, Color.Indexed) else None
