"""One direction of one channel: what arrives is recorded, and only then forwarded; whoever is slow slows the other side.

Source: law 4; docs/rules.md, asyncssh. Nothing pauses a channel while it is delivering: asyncssh would open the window
again in full.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from broker.bastion.transport import Valve
from broker.domain.live import Batch, Direction, Piece, Verb

HIGH_WATER_BYTES: Final = 256 * 1024
SHORT_BYTES: Final = 4096
"""A keystroke, a line, a screen: recorded and forwarded where it is delivered when nothing waits before it."""
TURN_BYTES: Final = 64 * 1024
PIECE_HELD_BYTES: Final = 128
"""What any piece holds beside its bytes while it waits."""
PIECE_COSTS_BYTES: Final = 2048
"""What forwarding any piece costs beside its bytes, in bytes that would take as long."""


class Source(Protocol):
    """A channel that can be told to wait."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Flow:
    """The queue of one direction, and the task that empties it.

    record: takes a batch, True when it may be forwarded. send: writes one piece to the other side, True when the piece was
    the last one. Both sides are attached later: bytes may arrive before the asset has answered the dial.
    Input is stopped in two ways: `divert` gives all of it to record and forwards none; `hold` keeps it, as a slow asset does.
    """

    def __init__(
        self, channel: int, direction: Direction, *, record: Callable[[Batch], bool], send: Callable[[Piece], bool]
    ) -> None:
        self._channel = channel
        self._direction = direction
        self._record = record
        self._send = send
        self._source: Source | None = None
        self._valve: Valve | None = None
        self._pieces: list[Piece] = []
        self._bytes = 0
        self._held = False
        self._waiting = False
        self._passed = False
        self._failed: Exception | None = None
        self._over = False
        self._more = asyncio.Event()
        self._going: deque[Piece] = deque()
        self._diverted = False
        self._room = asyncio.Event()
        self._room.set()
        self._free = asyncio.Event()
        self._free.set()

    def attach(self, *, source: Source | None = None, valve: Valve | None = None) -> None:
        """Say where the bytes come from, and which connection they leave by."""
        self._source = source or self._source
        self._valve = valve or self._valve
        if source is not None and self._held:
            asyncio.get_running_loop().call_soon(self._hold)

    def feed(self, piece: Piece) -> None:
        """Take what has just arrived; called from asyncssh's delivery, so it queues all but the first short piece of a turn."""
        if self._diverted and piece.verb is not Verb.RESIZE:
            self._record(Batch(self._channel, self._direction, (piece,)))
            return
        if self._waiting and not (self._pieces or self._passed) and self._is_short(piece) and self._may_send():
            self._pass_on(piece)
            return
        self._pieces.append(piece)
        self._bytes += len(piece.data) + PIECE_HELD_BYTES
        self._more.set()
        if self._bytes > HIGH_WATER_BYTES and not self._held:
            self._held = True
            asyncio.get_running_loop().call_soon(self._hold)

    @property
    def is_full(self) -> bool:
        """True when the source is held back; what no window bounds is not fed then."""
        return self._held

    def close_room(self) -> None:
        """The other side's channel takes no more for now."""
        self._room.clear()

    def open_room(self) -> None:
        """The other side's channel takes more."""
        self._room.set()

    def divert(self) -> None:
        """Forward no input, neither what comes nor what waits here: record is asked about it, and says what becomes of it."""
        self._diverted = True
        waiting = [*self._going, *self._pieces]
        self._going.clear()
        self._pieces = [piece for piece in waiting if piece.verb is Verb.RESIZE]
        if lost := tuple(piece for piece in waiting if piece.verb is not Verb.RESIZE):
            self._record(Batch(self._channel, self._direction, lost))
        self._more.set()
        self._release()
        if self._source is not None:  # also before the asset has answered: what comes now must not wait for later
            self._source.resume_reading()

    def hold(self) -> None:
        """Forward nothing more for now; the source is held back once enough waits."""
        self._free.clear()

    def go_on(self) -> None:
        """Neither divert nor hold any more."""
        self._diverted = False
        self._free.set()

    async def run(self) -> None:
        """Record and forward until the last piece. Raises OSError when the other side is gone."""
        while True:
            self._waiting = True
            try:
                await self._more.wait()
            finally:
                self._waiting = False
            self._more.clear()
            if not self._free.is_set():
                await self._free.wait()
            if self._failed is not None:
                raise self._failed
            pieces, self._pieces = self._pieces, []
            if self._over or (pieces and not self._record(Batch(self._channel, self._direction, tuple(pieces)))):
                return
            self._going.extend(pieces)
            if await self._forward():
                return
            if not self._pieces:
                self._release()

    async def _forward(self) -> bool:
        sent = 0
        while self._going:
            if not self._free.is_set():
                await self._free.wait()
            if not self._room.is_set():
                await self._room.wait()
            if self._valve is not None and not self._valve.is_open():
                await self._valve.wait()
            if not (self._free.is_set() and self._going):  # stopped while it waited
                continue
            piece = self._going.popleft()
            if self._send(piece):
                return True
            sent += len(piece.data) + PIECE_COSTS_BYTES
            if sent >= TURN_BYTES:
                sent = 0
                await asyncio.sleep(0)  # the other sessions' turn: without it one bulk copy starves every echo
        return False

    # The short way of a piece that nothing waits before
    @staticmethod
    def _is_short(piece: Piece) -> bool:
        return len(piece.data) <= SHORT_BYTES and (piece.verb is Verb.DATA or piece.verb is Verb.STDERR)

    def _may_send(self) -> bool:
        return self._free.is_set() and self._room.is_set() and (self._valve is None or self._valve.is_open())

    def _pass_on(self, piece: Piece) -> None:
        """Record and forward one piece now. What goes wrong is the task's: raised here it would end the whole connection."""
        self._passed = True  # one a turn: a flood of short pieces is gathered into few records
        asyncio.get_running_loop().call_soon(self._next_turn)
        try:
            if self._record(Batch(self._channel, self._direction, (piece,))):
                self._send(piece)
                return
            self._over = True
        except Exception as error:
            self._failed = error
        self._more.set()

    def _next_turn(self) -> None:
        self._passed = False

    def _hold(self) -> None:
        if self._held and self._source is not None:  # it may have been emptied meanwhile
            self._source.pause_reading()

    def _release(self) -> None:
        self._bytes, held, self._held = 0, self._held, False
        if held and self._source is not None:
            self._source.resume_reading()
