"""Connections that have not logged in: how many there may be, in all and from one address. Source: docs/rules.md PRE-4."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from broker.domain.penalty import net_of

DROP_PERCENT: Final = 30
"""Of strangers that come when the early drop begins; it rises to all of them at the last place."""


@dataclass(frozen=True, slots=True)
class Places:
    """most: in all; kept: of these, for known addresses; early: from so many on strangers are dropped by chance."""

    most: int
    kept: int
    early: int
    per_source: int


def _percent() -> int:
    return secrets.randbelow(100)


class Arrivals:
    """Places for those who have not logged in; somebody who does gives theirs back.

    The early drop is OpenSSH's MaxStartups: whoever fills all places would else keep everybody out, and not only those by chance.
    """

    def __init__(self, places: Places, *, percent: Callable[[], int] = _percent) -> None:
        self._places = places
        self._percent = percent
        self._source_of: dict[object, str] = {}
        self._of_source: Counter[str] = Counter()

    def take(self, connection: object, source: str, *, known: bool) -> bool:
        """Give a connection a place; False when there is none. known: somebody logged in from there not long ago."""
        net = net_of(source)
        if self._of_source[net] >= self._places.per_source or not self._has_room(known=known):
            return False
        self._source_of[connection] = net
        self._of_source[net] += 1
        return True

    def _has_room(self, *, known: bool) -> bool:
        taken, places = len(self._source_of), self._places
        if known:
            return taken < places.most
        last = max(1, places.most - places.kept)
        if taken < min(places.early, last):
            return True
        if taken >= last:
            return False
        beyond = (taken - places.early) * (100 - DROP_PERCENT) / max(1, last - places.early)
        return self._percent() >= DROP_PERCENT + beyond

    def release(self, connection: object) -> bool:
        """Take the place back; False for a connection that has none."""
        net = self._source_of.pop(connection, None)
        if net is None:
            return False
        self._of_source[net] -= 1
        if not self._of_source[net]:
            del self._of_source[net]
        return True

    def all(self) -> list[object]:
        """Who has a place."""
        return list(self._source_of)
