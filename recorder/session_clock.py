"""The one clock of a session's streams."""

from __future__ import annotations

import threading
from collections.abc import Callable


class SessionClock:
    """Microseconds since it was made, strictly rising over all streams of a session, whichever thread asks. Source: E6."""

    def __init__(self, monotonic_us: Callable[[], int]) -> None:
        """monotonic_us: the machine's monotonic clock; should it ever step back, the times here still rise."""
        self._monotonic_us = monotonic_us
        self._zero = monotonic_us()
        self._last = 0
        self._turn = threading.Lock()

    def now(self) -> int:
        """The next time; one more than the last on a tie."""
        with self._turn:
            self._last = max(self._last + 1, self._monotonic_us() - self._zero)
            return self._last
