"""What could be read on the screen, line by line: what scrolled off, and rows that changed. Source: docs/rules.md, Evidence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from recorder.clean import clean
from recorder.format import Code, Event
from recorder.frames import plain
from recorder.screen import FEED_BYTES, Screen, decode_size

SAMPLE_US: Final = 1_000_000
AGAIN_US: Final = 60_000_000
"""A line that is seen again sooner than this is not told again."""
_KNOWN_MAX: Final = 20_000


def screen_text(events: Iterable[Event], screen: Screen) -> Iterator[tuple[int, str]]:
    """(t_us, line), cleaned. The screen is looked at once a second of output, so vim, top and less are covered as seen.

    Raises ScreenLost; what was told before it stands.
    """
    lines = _Lines(screen)
    due_us: int | None = None
    now_us = 0
    for event in events:
        if due_us is not None and event.t_us >= due_us:
            yield from lines.sample(now_us)
            due_us = None
        now_us = event.t_us
        if event.code is Code.RESIZE and (size := decode_size(event.data)) is not None:
            yield from lines.flush(now_us)
            screen.resize(*size)
        if event.code in (Code.OUT, Code.ERR):
            yield from lines.take(event.data, now_us)
            due_us = now_us + SAMPLE_US if due_us is None else due_us
    yield from lines.sample(now_us)


class _Lines:
    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._waiting = bytearray()
        self._shown: frozenset[str] = frozenset()
        self._told: dict[str, int] = {}

    def take(self, data: bytes, now_us: int) -> Iterator[tuple[int, str]]:
        self._waiting += data
        if len(self._waiting) >= FEED_BYTES:
            yield from self.flush(now_us)

    def flush(self, now_us: int) -> Iterator[tuple[int, str]]:
        gone = self._screen.feed(bytes(self._waiting))
        self._waiting.clear()
        for line in gone:
            yield from self._fresh(clean(line.rstrip()), now_us)

    def sample(self, now_us: int) -> Iterator[tuple[int, str]]:
        yield from self.flush(now_us)
        rows = [plain(row) for row in self._screen.rows()]
        for row in rows:
            yield from self._fresh(row, now_us)
        self._shown = frozenset(rows)

    def _fresh(self, line: str, now_us: int) -> Iterator[tuple[int, str]]:
        """The line, unless it is blank, stood there at the last look, or was told a moment ago."""
        told_us = self._told.get(line)
        if not line.strip() or line in self._shown or (told_us is not None and now_us - told_us < AGAIN_US):
            return
        self._told[line] = now_us
        if len(self._told) > _KNOWN_MAX:
            self._told = {line: at for line, at in self._told.items() if now_us - at < AGAIN_US}
            if len(self._told) > _KNOWN_MAX:
                self._told.clear()
        yield now_us, line
