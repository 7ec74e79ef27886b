"""Key exchanges after the first: one that was begun ends in time, what waits behind it is bounded, a peer begins few.

Source: docs/rules.md PRE-8; RFC 4253, section 9. The private names of asyncssh in use stand here and in `transport`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import asyncssh
from asyncssh.constants import MSG_KEX_LAST, MSG_KEXINIT

LONGEST_S: Final = 30.0
DEFERRED_MAX_BYTES: Final = 4 * 1024 * 1024
PACKET_COST_BYTES: Final = 256
"""What asyncssh keeps of a packet beside its bytes."""
BEGUN_BURST: Final = 3
BEGUN_EVERY_S: Final = 10.0


class Bucket:
    """So many at once, and then one each so many seconds. later: calls something so many seconds from now."""

    def __init__(self, burst: int, every_s: float, later: Callable[[float, Callable[[], None]], object]) -> None:
        self._missing, self._burst = 0, burst
        self._every_s = every_s
        self._later = later

    def take(self) -> bool:
        """Whether one more may be."""
        if self._missing >= self._burst:
            return False
        if not self._missing:
            self._later(self._every_s, self._refill)
        self._missing += 1
        return True

    def _refill(self) -> None:
        self._missing -= 1
        if self._missing:
            self._later(self._every_s, self._refill)


class Deferred:
    """Counts what waits for the end of a key exchange."""

    def __init__(self) -> None:
        self._bytes = 0

    def has_room(self, conn: Any, pkttype: int, args: tuple[bytes, ...]) -> bool:
        """Whether a packet may still be sent: at once, or when the keys are there."""
        if conn._kex_complete:
            self._bytes = 0
        elif pkttype > MSG_KEX_LAST:
            self._bytes += PACKET_COST_BYTES + sum(map(len, args))
        return self._bytes <= DEFERRED_MAX_BYTES


def bound_key_exchanges(conn: Any) -> None:
    """End a connection whose key exchange lasts too long, or whose peer begins one too often."""
    begin, handlers = conn._send_kexinit, conn._packet_handlers
    process, loop = handlers[MSG_KEXINIT], asyncio.get_running_loop()
    begun = Bucket(BEGUN_BURST, BEGUN_EVERY_S, loop.call_later)
    watch: asyncio.TimerHandle | None = None

    def end_late() -> None:
        if not conn._kex_complete:
            conn.abort()

    def begin_watched() -> None:
        nonlocal watch
        if watch is not None:
            watch.cancel()
        watch = loop.call_later(LONGEST_S, end_late)
        begin()

    def process_few(own: Any, pkttype: int, pktid: int, packet: Any) -> Any:
        if conn._session_id and not conn._kexinit_sent and not begun.take():
            raise asyncssh.ProtocolError("key exchanges too often")
        return process(own, pkttype, pktid, packet)

    conn._send_kexinit = begin_watched
    conn._packet_handlers = {**handlers, MSG_KEXINIT: process_few}
