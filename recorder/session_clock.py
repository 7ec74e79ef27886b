"""The one clock of a session's streams."""

from __future__ import annotations

from collections.abc import Callable


class SessionClock:
    """Microseconds since it was made, strictly rising over all streams of a session. Not for several threads. Source: E6."""

    def __init__(self, monotonic_us: Callable[[], int]) -> None:
        """monotonic_us: the machine's monotonic clock; should it ever step back, the times here still rise."""
        self._monotonic_us = monotonic_us
        self._zero = monotonic_us()
        self._last = 0

    def now(self) -> int:
        """The next time; one more than the last on a tie."""
        self._last = max(self._last + 1, self._monotonic_us() - self._zero)
        return self._last
