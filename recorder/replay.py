"""Replay in a terminal by safe frames: no recorded byte is ever written to it. Source: docs/rules.md, E17.

The recorded output is fed to an emulator, in a child process with limits (recorder/cage.py), in slices of at most 512
characters; what is drawn is our own drawing of its screen (recorder/frames.py), cleaned in this process.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, TextIO

from recorder.cage import PROCESSOR_MAX_S, CagedScreen
from recorder.format import Code, Event
from recorder.frames import ENTER, LEAVE, Painter, plain
from recorder.reader import read
from recorder.screen import DEFAULT_SIZE, FEED_BYTES, Row, Screen, ScreenLost, decode_size

FRAME_US: Final = 33_000
GAP_MAX_US: Final = 24 * 3600 * 1_000_000
"""A longer pause than a day is a damaged clock or a trick; it is not waited for."""
_SHOWN: Final = frozenset({Code.OUT, Code.ERR, Code.RESIZE})


def play(
    path: Path,
    out: TextIO,
    *,
    sleep: Callable[[float], None],
    speed: float = 1.0,
    start_us: int = 0,
    idle_max_us: int | None = None,
    size: tuple[int, int] = DEFAULT_SIZE,
    processor_max_s: int = PROCESSOR_MAX_S,
) -> None:
    """Show a screen stream on a terminal; what stood there at the end is left below as plain lines.

    sleep: seconds; speed: 2.0 is twice as fast; start_us: what came before is on the first frame; idle_max_us: longer pauses
    are cut to this; size: columns and rows of the terminal; processor_max_s: how long the emulator may compute in all.
    Restores the terminal however it ends, and says so when the emulator gave up. Raises FormatError at damage, OSError.
    """
    with CagedScreen(*DEFAULT_SIZE, processor_max_s=processor_max_s) as screen:
        playing = _Playing(screen, out, sleep, speed, idle_max_us, size)
        _write(out, ENTER)
        lost = ""
        try:
            playing.run(path, start_us)
        except ScreenLost:
            lost = f"the replay ends at {clock_text(playing.at_us)}: the emulator gave up on what follows\n"
        finally:
            _write(out, LEAVE)
            _write(out, "".join(f"{line}\n" for line in playing.last_lines()) + lost)


class _Playing:
    def __init__(
        self,
        screen: Screen,
        out: TextIO,
        sleep: Callable[[float], None],
        speed: float,
        idle_max_us: int | None,
        size: tuple[int, int],
    ) -> None:
        self.at_us = 0
        self._screen = screen
        self._out = out
        self._sleep = sleep
        self._speed = speed
        self._gap_max_us = min(GAP_MAX_US, GAP_MAX_US if idle_max_us is None else idle_max_us)
        self._painter = Painter(*size)
        self._waiting = bytearray()
        self._drawn: list[Row] = []

    def run(self, path: Path, start_us: int) -> None:
        self.at_us = start_us
        for event in read(path):
            if event.code not in _SHOWN:
                continue
            gap_us = event.t_us - self.at_us
            if gap_us >= FRAME_US * self._speed:  # nearer events share a frame
                self._draw()
                self._sleep(min(gap_us, self._gap_max_us) / 1e6 / self._speed)
                self.at_us = event.t_us
            self._take(event)
        self._draw()

    def last_lines(self) -> list[str]:
        """The last frame as plain lines, the blank ones after it left out."""
        lines = [plain(row) for row in self._drawn]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def _take(self, event: Event) -> None:
        if event.code is not Code.RESIZE:
            self._waiting += event.data
            if len(self._waiting) >= FEED_BYTES:
                self._feed()
        elif (size := decode_size(event.data)) is not None:
            self._feed()
            self._screen.resize(*size)

    def _feed(self) -> None:
        self._screen.feed(bytes(self._waiting))
        self._waiting.clear()

    def _draw(self) -> None:
        self._feed()
        self._drawn = self._screen.rows()
        _write(self._out, self._painter.frame(self._drawn))


def clock_text(t_us: int) -> str:
    """A time of the session as H:MM:SS.

    >>> clock_text(3_723_000_000)
    '1:02:03'
    """
    seconds = t_us // 1_000_000
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _write(out: TextIO, text: str) -> None:
    encoding = out.encoding or "utf-8"
    out.write(text.encode(encoding, "replace").decode(encoding))  # a terminal that is not UTF-8 sees question marks
    out.flush()
