"""Which of a terminal's two screens a program draws on, read from its output, and a word of ours that leaves its picture alone.

PURE. Source: xterm's ctlseqs, DECSET 47, 1047, 1049 and RIS; ECMA-48 on control strings.
"""

from __future__ import annotations

import re
from typing import Final

_ESC: Final = b"\x1b"
_LONGEST: Final = 128
"""No sequence that counts here is longer; of a control string, which may hold a whole image, only its beginning is kept."""
_SWITCH: Final = re.compile(rb"\x1b(?:\[\?([0-9;]{1,64})([hl])|(c))")
_SCREENS: Final = frozenset({b"47", b"1047", b"1049"})
_STRINGS: Final = b"]PX^_"
# What ends a sequence of each kind; CAN and SUB end any.
_CONTROL_END: Final = re.compile(rb"[\x40-\x7e\x18\x1a]")
_ESCAPE_END: Final = re.compile(rb"[\x30-\x7e\x18\x1a]")
_STRING_END: Final = re.compile(rb"[\x18\x1a]")
_COMMAND_END: Final = re.compile(rb"[\x07\x18\x1a]")
# Off with what a full-screen program turns on and could not turn off: attributes, mouse, pasting and cursor modes, a hidden
# cursor; then back to the main screen, where the shell's own picture still is.
_LEAVE: Final = b"\x1b[0m\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[?1l\x1b>\x1b[?25h\x1b[?%sl"


class Picture:
    """What one terminal shows, as far as a word of ours must know. Takes output cut anywhere; holds at most 128 bytes of it."""

    def __init__(self) -> None:
        self._mode = b""
        self._begun = b""
        self._last = b""

    @property
    def is_full_screen(self) -> bool:
        """True while a program draws on the alternate screen: a line of ours would stand in its picture."""
        return bool(self._mode)

    @property
    def is_between(self) -> bool:
        """True where no sequence and no character is half sent: a word of ours would cut it in two otherwise."""
        return not self._begun and not _half_character(self._last)

    def feed(self, data: bytes) -> None:
        """Take what the asset has sent."""
        if not self._begun and _ESC not in data:  # nearly all output
            self._last = (self._last + data)[-3:] if len(data) < 3 else data[-3:]
            return
        text = self._begun + data
        for switch in _SWITCH.finditer(text):
            self._switch(*switch.groups())
        begun = text[text.rindex(_ESC) :]
        rest = _after(begun)
        self._begun = begun[: 2 if begun[1:2] and begun[1] in _STRINGS else _LONGEST] if rest is None else b""
        self._last = (rest or b"")[-3:]

    def _switch(self, numbers: bytes | None, act: bytes | None, reset: bytes | None) -> None:
        if reset:
            self._mode = b""
        elif numbers is not None:
            for mode in _SCREENS.intersection(numbers.split(b";")):
                self._mode = mode if act == b"h" else b""

    def leave(self) -> bytes:
        """What brings the terminal back to its main screen when the program can no longer do so; nothing when it is there."""
        return _LEAVE.replace(b"%s", self._mode) if self._mode else b""


def aside(text: str) -> bytes:
    """A word as a notification of the desktop and a bell: seen beside a full-screen program, and no cell of it changes.

    OSC 9 as iTerm2, kitty, WezTerm and Windows Terminal read it, OSC 777 as VTE, foot and rxvt do; others ignore both. Refused:
    a line at the foot of the screen, kept by saving and restoring the cursor: the program does not know that its line is gone,
    there is one place to save a cursor and it may be in use, and the program's margins and origin mode move the line.
    """
    plain = "".join(one if one.isprintable() and one != ";" else " " for one in text).encode("utf-8", "replace")
    return b"\x1b]9;wicketgate: %b\x1b\\\x1b]777;notify;wicketgate;%b\x1b\\\x07" % (plain, plain)


def _after(begun: bytes) -> bytes | None:
    """What follows the sequence that begins with this ESC, the last one there is; None while it is not over."""
    kind = begun[1:2]
    if not kind:
        return None
    if kind == b"[":
        end = _CONTROL_END.search(begun, 2)
    elif kind[0] in _STRINGS:
        end = (_COMMAND_END if kind == b"]" else _STRING_END).search(begun, 2)
        return None if end is None else begun[end.end() :]
    else:  # also `ESC \`, by which a string ends
        end = _ESCAPE_END.search(begun, 1)
    if end is None:
        return None if len(begun) < _LONGEST else b""  # no terminal waits that long either
    return begun[end.end() :]


def _half_character(last: bytes) -> bool:
    """True when the last bytes are the beginning of a UTF-8 character."""
    for back, byte in enumerate(reversed(last), 1):
        if byte < 0x80:
            return False
        if byte >= 0xC0:
            return (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4) > back
    return False
