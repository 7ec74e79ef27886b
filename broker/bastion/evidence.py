"""The bastion's side of the recorder: which piece of traffic goes into which stream of a channel's recording."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from broker.domain.audit import StreamHead
from broker.domain.ids import SessionId
from broker.domain.live import Batch, Direction, Piece, Verb
from broker.domain.session import ChannelKind
from recorder.format import Code, Header, StreamClass
from recorder.writer import GroupSync, RecordingFailed, SessionClock, StreamWriter

_DOWN: Final = {Verb.STDERR: Code.ERR, Verb.EOF: Code.EOF}
_UP: Final = {Verb.DATA: Code.IN, Verb.EOF: Code.EOF}
RECORD_MAX_BYTES: Final = 256 * 1024
SAID_MAX_CHARS: Final = 1024
OPEN_TIMEOUT_S: Final = 10.0
_THREADS: Final = ThreadPoolExecutor(8, thread_name_prefix="recording")
"""Where files are made and synced; its own, or a disk that hangs would take every other thread of the house with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where and by what clocks the streams of one session are written. node, boot: which machine, which start of it."""

    folder: Path
    session_id: SessionId
    node: str
    boot: str
    clock: SessionClock
    wall_ms: Callable[[], int]
    sync: GroupSync


class ChannelRecording:
    """The streams of one channel: screen and typed, or wire for a file-transfer subsystem. Opened before the asset is dialled.

    Raises recorder.writer.RecordingFailed from the constructor and from `put`; it is final.
    """

    def __init__(self, place: Place, *, channel: int, kind: ChannelKind, opening: dict[str, str]) -> None:
        self.heads: tuple[StreamHead, ...] = ()
        self.sealed = False
        self._place = place
        self._finished = False
        self._durable: asyncio.Future[None] | None = None
        classes = [StreamClass.WIRE] if kind is ChannelKind.SFTP else [StreamClass.SCREEN, StreamClass.TYPED]
        self._writers: dict[StreamClass, StreamWriter] = {}
        try:
            for klass in classes:
                header = Header(
                    v=1,
                    session=place.session_id,
                    stream=f"{channel:02d}.{klass.value}",
                    channel=channel,
                    klass=klass,
                    kind=kind.value,
                    node=place.node,
                    boot=place.boot,
                    wall_ms=place.wall_ms(),
                    seal="none",
                    after="",
                )
                writer = StreamWriter(place.folder, header, clock=place.clock, wall_ms=place.wall_ms)
                self._writers[klass] = writer
                place.sync.register(writer)
            self._first = self._writers[classes[0]]
            self._typed = self._writers.get(StreamClass.TYPED)
            self._first.put(Code.MARK, _json({"opened": opening}))
        except BaseException:
            self.abandon()
            raise

    def put(self, batch: Batch) -> None:
        """Take a batch; returns once write(2) has taken every piece of it. Raises RecordingFailed. Source: law 4, E1."""
        is_down, pieces = batch.direction is Direction.DOWN, batch.pieces
        if self._typed is None:
            self._first.put_batch([_wire(is_down, piece) for piece in pieces])
        elif is_down:
            self._first.put_batch([_down(piece) for piece in pieces])
        elif len(pieces) == 1 and pieces[0].verb is Verb.DATA:  # a keystroke
            self._typed.put_batch([(Code.IN, pieces[0].data)])
        else:
            if typed := [_up(piece) for piece in pieces if piece.verb is not Verb.RESIZE]:
                self._typed.put_batch(typed)
            if sizes := [(Code.RESIZE, piece.data) for piece in pieces if piece.verb is Verb.RESIZE]:
                self._first.put_batch(sizes)

    def mark(self, what: str, text: str) -> None:
        """Note what the bastion itself told the engineer, or why it ended. Raises RecordingFailed."""
        self._first.put(Code.MARK, _json({what: text}))

    def dropped(self, batch: Batch) -> None:
        """Note input that was not passed on, cut to what somebody may read. Raises RecordingFailed."""
        said = b"".join(
            piece.data if piece.verb is Verb.DATA else b"<%s>" % piece.verb.encode() for piece in batch.pieces
        )
        text = said.decode("utf-8", "backslashreplace")[:SAID_MAX_CHARS]
        (self._typed or self._first).put(Code.MARK, _json({"not passed on": text, "bytes": len(said)}))

    def close(self, reason: str) -> None:
        """`finish`, then make it durable and keep the heads, here and now."""
        self.finish(reason)
        self._make_durable()

    def finish(self, reason: str) -> None:
        """Write the END of every stream: nothing is recorded after it. It is not durable yet, see `durable`."""
        if self._finished:
            return
        self._finished = True
        for writer in self._writers.values():
            self._place.sync.unregister(writer)
            try:
                writer.end(reason)
            except (RecordingFailed, OSError):
                writer.abandon()

    async def durable(self) -> tuple[StreamHead, ...]:
        """The heads of a finished recording once they are durable; a stream that cannot be sealed keeps the head it has."""
        if self._durable is None:
            self._durable = asyncio.get_running_loop().run_in_executor(_THREADS, self._make_durable)
        await asyncio.shield(self._durable)
        return self.heads

    def _make_durable(self) -> None:
        if self.heads:
            return
        sealed = True
        for writer in self._writers.values():
            try:
                writer.settle()
            except (RecordingFailed, OSError):
                sealed = False
                writer.abandon()
        self.sealed = sealed
        self._keep_heads()

    def abandon(self) -> None:
        """Let go of the files without an END: after a failure, the truth is that they were cut."""
        for writer in self._writers.values():
            self._place.sync.unregister(writer)
            writer.abandon()
        self._keep_heads()

    def _keep_heads(self) -> None:
        heads = [(klass, writer, writer.head()) for klass, writer in self._writers.items()]
        self.heads = tuple(
            StreamHead(stream=writer.path.stem, length=head.length, sha256=head.sha256) for _, writer, head in heads
        )


async def open_recording(place: Place, *, channel: int, kind: ChannelKind, opening: dict[str, str]) -> ChannelRecording:
    """A new recording, made in a thread. Raises RecordingFailed, also when the disk does not answer."""
    make = partial(ChannelRecording, place, channel=channel, kind=kind, opening=opening)
    made = asyncio.get_running_loop().run_in_executor(_THREADS, make)
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            return await asyncio.shield(made)
    except TimeoutError:
        made.add_done_callback(_let_go)
        raise RecordingFailed("the disk does not answer") from None


def _let_go(made: asyncio.Future[ChannelRecording]) -> None:
    if not made.cancelled() and made.exception() is None:
        made.result().abandon()


def _wire(is_down: bool, piece: Piece) -> tuple[Code, bytes]:
    if piece.verb is Verb.DATA:
        return (Code.FROM_ASSET if is_down else Code.TO_ASSET), piece.data
    return _down(piece) if is_down else _up(piece)


def _down(piece: Piece) -> tuple[Code, bytes]:
    if piece.verb is Verb.DATA:  # before any table: an enum's hash is written in Python
        return Code.OUT, piece.data
    if piece.verb in _DOWN:
        return _DOWN[piece.verb], piece.data
    if piece.verb is Verb.EXIT_SIGNAL:
        name, core_dumped, message = piece_signal(piece)
        more = {"core dumped": True} if core_dumped else {}
        return Code.EXIT, _json({piece.verb.value: name} | more | ({"message": message} if message else {}))
    return Code.EXIT, _json({piece.verb.value: piece.data.decode("utf-8", "backslashreplace")})


def _up(piece: Piece) -> tuple[Code, bytes]:
    if piece.verb in _UP:
        return _UP[piece.verb], piece.data
    return Code.MARK, _json({piece.verb.value: piece.data.decode("utf-8", "backslashreplace")})


def size_piece(columns: int, rows: int) -> Piece:
    """A change of the terminal's size as traffic: two u16, little-endian, clamped to what an emulator can bear."""
    return Piece(Verb.RESIZE, struct.pack("<HH", max(1, min(columns, 65535)), max(1, min(rows, 65535))))


def piece_size(piece: Piece) -> tuple[int, int]:
    """Columns and rows of a resize piece."""
    columns, rows = struct.unpack("<HH", piece.data)
    return int(columns), int(rows)


def signal_piece(name: str, core_dumped: bool = False, message: str = "") -> Piece:
    """The end of a program by a signal as traffic; what the asset says of it is cut to what somebody may read."""
    return Piece(Verb.EXIT_SIGNAL, _json([name[:32], core_dumped, message[:SAID_MAX_CHARS]]))


def piece_signal(piece: Piece) -> tuple[str, bool, str]:
    """A signal piece's name, whether the program left a core, and the asset's words."""
    name, core_dumped, message = json.loads(piece.data)
    return str(name), bool(core_dumped), str(message)


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
