"""The only room that reads a clock; everything else is handed the time, so that any rule can be tried at any second."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

from broker.domain.live import Moment


class Clock(Protocol):
    """What tells the time: the machine's clock in a running broker, a hand-moved one in tests."""

    def now(self) -> datetime:
        """The wall clock, aware, UTC."""
        ...

    def monotonic_us(self) -> int:
        """Microseconds of a clock that never goes back and does not stop while the machine is suspended."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic_us(self) -> int:
        # CLOCK_BOOTTIME, not CLOCK_MONOTONIC: the latter stops while the machine is suspended and would lengthen a session.
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def moment(clock: Clock) -> Moment:
    """Both clocks read together, for rules that end at the earlier of the two."""
    return Moment(wall=clock.now(), mono_us=clock.monotonic_us())


def wall_ms(clock: Clock) -> int:
    """The wall clock as Unix milliseconds, for recordings and ledger entries."""
    return int(clock.now().timestamp() * 1000)
