"""Which segments an END names, for seeking. PURE: one rule for the writer, and for the reader that checks it."""

from __future__ import annotations

from typing import Final

INDEX_MAX: Final = 4096


class SegmentIndex:
    """(offset, t_us) of every segment; beyond INDEX_MAX of every second one, then every fourth, so that memory stays bounded (E11).

    >>> index = SegmentIndex()
    >>> for number in range(10_000):
    ...     index.add(number * 100, number)
    >>> len(index.entries), index.entries[1], index.count
    (2500, (400, 4), 10000)
    """

    def __init__(self) -> None:
        self.count = 0
        self._every = 1
        self._kept: list[tuple[int, int]] = []

    @property
    def entries(self) -> tuple[tuple[int, int], ...]:
        """What is kept, in order; the first segment always is."""
        return tuple(self._kept)

    def add(self, offset: int, t_us: int) -> None:
        """Take in the next segment."""
        if self.count % self._every == 0:
            self._kept.append((offset, t_us))
            if len(self._kept) > INDEX_MAX:
                self._kept = self._kept[::2]
                self._every *= 2
        self.count += 1
