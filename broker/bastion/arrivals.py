"""Connections that have not logged in: how many there may be, in all and from one address. Source: docs/rules.md PRE-4."""

from __future__ import annotations

from collections import Counter


class Arrivals:
    """Places for strangers; somebody who logs in gives theirs back."""

    def __init__(self, *, most: int, most_per_source: int) -> None:
        self._most = most
        self._most_per_source = most_per_source
        self._source_of: dict[object, str] = {}
        self._of_source: Counter[str] = Counter()

    def take(self, connection: object, source: str) -> bool:
        """Give a connection a place; False when there is none."""
        if len(self._source_of) >= self._most or self._of_source[source] >= self._most_per_source:
            return False
        self._source_of[connection] = source
        self._of_source[source] += 1
        return True

    def release(self, connection: object) -> None:
        """Take the place back; nothing for a connection that has none."""
        source = self._source_of.pop(connection, None)
        if source is not None:
            self._of_source[source] -= 1
            if not self._of_source[source]:
                del self._of_source[source]
