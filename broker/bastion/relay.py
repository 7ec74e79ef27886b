"""One direction of one channel: what arrives is recorded, and only then forwarded; whoever is slow slows the other side.

Source: law 4, asyncssh.md 4 and appendix B. Nothing pauses a channel while it is delivering: asyncssh would open the window
again in full.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from broker.bastion.transport import Valve
from broker.domain.live import Batch, Direction, Piece, Verb

HIGH_WATER_BYTES: Final = 256 * 1024


class Source(Protocol):
    """A channel that can be told to wait."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Flow:
    """The queue of one direction, and the task that empties it.

    record: takes a batch, True when it may be forwarded. send: writes one piece to the other side, True when the piece was
    the last one. Both sides are attached later: bytes may arrive before the asset has answered the dial.
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
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def attach(self, *, source: Source | None = None, valve: Valve | None = None) -> None:
        """Say where the bytes come from, and which connection they leave by."""
        self._source = source or self._source
        self._valve = valve or self._valve
        if source is not None and self._held:
            asyncio.get_running_loop().call_soon(self._hold)

    def feed(self, piece: Piece) -> None:
        """Take what has just arrived; called from asyncssh's delivery, so it only queues."""
        self._pieces.append(piece)
        self._bytes += len(piece.data)
        self._more.set()
        if self._bytes > HIGH_WATER_BYTES and not self._held:
            self._held = True
            asyncio.get_running_loop().call_soon(self._hold)

    def close_room(self) -> None:
        """The other side's channel takes no more for now."""
        self._room.clear()

    def open_room(self) -> None:
        """The other side's channel takes more."""
        self._room.set()

    async def run(self) -> None:
        """Record and forward until the last piece. Raises OSError when the other side is gone."""
        while True:
            await self._more.wait()
            self._more.clear()
            pieces, self._pieces = self._pieces, []
            if not self._record(Batch(self._channel, self._direction, tuple(pieces))):
                return
            if await self._forward(pieces):
                return
            if not self._pieces:
                self._release()

    async def _forward(self, pieces: Sequence[Piece]) -> bool:
        for piece in pieces:
            if not self._room.is_set():
                await self._room.wait()
            if self._valve is not None and not self._valve.is_open():
                await self._valve.wait()
            if self._send(piece):
                return True
            if piece.verb is Verb.DATA or piece.verb is Verb.STDERR:
                await asyncio.sleep(0)  # the other sessions' turn: without it one bulk copy starves every echo
        return False

    def _hold(self) -> None:
        if self._held and self._source is not None:  # it may have been emptied meanwhile
            self._source.pause_reading()

    def _release(self) -> None:
        self._bytes, held, self._held = 0, self._held, False
        if held and self._source is not None:
            self._source.resume_reading()
