"""Writing a stream: one write(2) a record, nothing relayed before it has returned, every error final.

Source: docs/rules.md E1 to E4, E6, E11. Clocks are handed in; the recorder reads none.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from recorder.events import EVENT_HEAD_MAX_BYTES, encode_event_head
from recorder.folder import make_folder, sync_folder
from recorder.format import (
    UNSEALED,
    Code,
    Codec,
    End,
    FormatError,
    Head,
    Header,
    RecordType,
    Segment,
    encode_end,
    encode_header,
    encode_record,
    encode_segment,
)
from recorder.index import SegmentIndex
from recorder.packing import Compressor
from recorder.session_clock import SessionClock
from recorder.space import FreeSpace, free_space

__all__ = ["FreeSpace", "GroupSync", "RecordingFailed", "SessionClock", "StreamWriter", "free_space"]

SEGMENT_MAX_BYTES: Final = 256 * 1024
SEGMENT_MAX_US: Final = 60_000_000
BULK_US: Final = 1_000_000
"""A segment that filled in less than this was bulk: the next one is kept plain, for compressing would slow the copy."""
PART_MAX_BYTES: Final = 256 * 1024
"""Longer data is cut into several events, so that no record outgrows what readers take."""
RECORD_MAX_BYTES: Final = PART_MAX_BYTES + 4096
REASON_MAX_CHARS: Final = 500
SYNC_S: Final = 0.5


class RecordingFailed(Exception):
    """The stream cannot be written any more; final, and the session it belongs to must end. Source: E3."""


class StreamWriter:
    """One stream being written. Not for several threads, but for `sync` and `fail`, which the sync thread calls, and `settle`."""

    def __init__(self, folder: Path, header: Header, *, clock: SessionClock, wall_ms: Callable[[], int]) -> None:
        """Make the file, its name durable in its folder, and write the header. Raises RecordingFailed."""
        line = encode_header(header)
        if header.seal != UNSEALED:
            raise FormatError("this writer does not seal", offset=0)
        self.path = folder / f"{header.stream}.wgr"
        self.failed: RecordingFailed | None = None
        self._clock = clock
        self._wall_ms = wall_ms
        self._hash = hashlib.sha256()
        self._length = self._synced = 0
        self._events = self._bytes = 0
        self._index = SegmentIndex()
        self._last_us = self._segment_us = self._filled = self._dirty_since_us = 0
        self._compressor: Compressor | None = None
        self._closed = False
        self._fd_turn = threading.Lock()
        self._fd = -1
        try:
            make_folder(folder)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_APPEND | os.O_CLOEXEC
            self._fd = os.open(self.path, flags, 0o600)
            self._write(line)
            self._open_segment(clock.now(), bulk=False)
            sync_folder(folder)
        except OSError as error:
            raise self._failure(error) from error

    def put(self, code: Code, data: bytes) -> None:
        """Record one event; returns after write(2) took all of it. Raises RecordingFailed."""
        self.put_batch([(code, data)])

    def put_batch(self, items: Sequence[tuple[Code, bytes]]) -> None:
        """Record what one turn of the loop brought, as few records as the size limit allows. Raises RecordingFailed."""
        if self.failed is not None:
            raise self.failed
        if self._closed:
            raise RecordingFailed("the stream is closed")
        try:
            if len(items) == 1 and len(items[0][1]) <= PART_MAX_BYTES:  # a keystroke and its echo: nothing to portion
                self._put_record(items)
            else:
                for record in _portions(items):
                    self._put_record(record)
        except RecordingFailed:
            raise
        except (
            BaseException
        ) as error:  # the compressor may have moved on without its bytes: nothing after them would open
            failed = self._failure(error)
            if isinstance(error, Exception):
                raise failed from error
            raise

    def head(self) -> Head:
        """Length and hash of everything written so far."""
        return Head(self._length, self._hash.hexdigest())

    @property
    def dirty_since_us(self) -> int | None:
        """The session's time of the oldest byte that may not be durable yet, or a little before it. Source: E2."""
        return None if self._synced == self._length else self._dirty_since_us

    def tick(self) -> None:
        """Close the segment of an idle stream that has grown old. Raises RecordingFailed."""
        if not self._closed and self.failed is None and self._filled:
            now = self._clock.now()
            if now - self._segment_us > SEGMENT_MAX_US:
                self._open_segment(now, bulk=False)

    def sync(self) -> None:
        """fdatasync when something is not durable yet; for the sync thread. Raises OSError, which is final: see `fail`.

        A file that no longer stands under its name, removed or moved away, is an error too: nobody would find its bytes.
        """
        with self._fd_turn:  # held for the dup only: who lets go of the file never waits for a hung disk
            length, last_us = self._length, self._last_us
            if self._fd < 0:
                return
            fd = os.dup(self._fd)
        try:
            if not os.path.samestat(os.fstat(fd), os.stat(self.path, follow_symlinks=False)):
                raise OSError(errno.ESTALE, "another file stands in its place")
            if length == self._synced:
                return
            os.fdatasync(fd)
        finally:
            os.close(fd)
        self._dirty_since_us = last_us  # first this: a put that meets the new mark sets its own time
        self._synced = length

    def fail(self, error: BaseException) -> None:
        """Mark the stream as failed, also from outside: the kernel could not keep what it had taken."""
        self.failed = self.failed or RecordingFailed(getattr(error, "strerror", None) or type(error).__name__)

    def close(self, reason: str) -> Head:
        """`end`, then `settle`; a second call does nothing. Raises RecordingFailed."""
        self.end(reason)
        return self.settle()

    def end(self, reason: str) -> None:
        """Write END: nothing comes after it; a second call does nothing. Not durable yet. Raises RecordingFailed."""
        if self._closed:
            return
        if self.failed is not None:
            raise self.failed
        self._closed = True
        self._end_frame()
        end = End(
            before=self._hash.hexdigest(),
            bytes=self._bytes,
            events=self._events,
            index=self._index.entries,
            reason=reason[:REASON_MAX_CHARS],
            t_us=self._clock.now(),
            wall_ms=self._wall_ms(),
        )
        self._write(encode_end(end))

    def settle(self) -> Head:
        """Make an ended stream durable and close the file; may be called in any one thread. Raises RecordingFailed."""
        if self.failed is not None:
            raise self.failed
        try:
            self.sync()
        except OSError as error:
            raise self._failure(error) from error
        self.abandon()
        return self.head()

    def abandon(self) -> None:
        """Let go of the file as it is, without an END; a second call does nothing."""
        self._closed = True
        self._compressor = None
        with self._fd_turn:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _put_record(self, items: Sequence[tuple[Code, bytes]]) -> None:
        now = self._clock.now()
        if self._filled >= SEGMENT_MAX_BYTES or now - self._segment_us > SEGMENT_MAX_US:
            self._open_segment(now, bulk=now - self._segment_us < BULK_US)
            now = self._clock.now()
        if len(items) == 1:
            ((code, data),) = items
            parts = [encode_event_head(code, now - self._last_us, len(data)), data]
            self._bytes += len(data)
            self._last_us = now
        else:
            parts = []
            for code, data in items:
                now = self._clock.now() if parts else now
                parts += encode_event_head(code, now - self._last_us, len(data)), data
                self._bytes += len(data)
                self._last_us = now
        self._events += len(items)
        if self._compressor is None:
            self._filled += sum(map(len, parts))
            self._write(encode_record(RecordType.DATA, *parts))
        else:
            plain = b"".join(parts)
            self._filled += len(plain)
            self._write(encode_record(RecordType.DATA, self._compressor.flush(plain)))

    def _open_segment(self, now: int, *, bulk: bool) -> None:
        self._end_frame()
        codec = Codec.PLAIN if bulk else Codec.ZSTD
        segment = Segment(self._index.count, codec, now, self._wall_ms(), self._hash.digest())
        self._index.add(self._length, now)
        self._write(encode_segment(segment))
        self._compressor = None if bulk else Compressor()
        self._segment_us = self._last_us = now
        self._filled = 0

    def _end_frame(self) -> None:
        if self._compressor is not None:
            self._write(encode_record(RecordType.DATA, self._compressor.end()))
            self._compressor = None

    def _write(self, record: bytes) -> None:
        if self._synced == self._length:
            self._dirty_since_us = self._last_us
        try:
            written = os.write(self._fd, record)
        except OSError as error:
            raise self._failure(error) from error
        self._length += written
        self._hash.update(record if written == len(record) else record[:written])
        if written != len(record):
            raise self._failure(OSError(errno.ENOSPC, "short write"))

    def _failure(self, error: BaseException) -> RecordingFailed:
        self.fail(error)
        self.abandon()
        return self.failed or RecordingFailed(str(error))


class GroupSync:
    """Makes every registered stream durable each half second, in one thread. Source: E2.

    on_failure: called in that thread with a stream whose data the kernel lost; fdatasync is never tried again for it.
    """

    def __init__(self, on_failure: Callable[[StreamWriter, RecordingFailed], None]) -> None:
        self._on_failure = on_failure
        self._writers: set[StreamWriter] = set()
        self._turn = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; a second call does nothing."""
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name="recorder-sync", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Sync once more and end the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def register(self, writer: StreamWriter) -> None:
        """Take in a stream."""
        with self._turn:
            self._writers.add(writer)

    def unregister(self, writer: StreamWriter) -> None:
        """Let a stream go; unknown ones are let go too."""
        with self._turn:
            self._writers.discard(writer)

    def _run(self) -> None:
        while not self._stop.wait(SYNC_S):
            self._sync_all()
        self._sync_all()

    def _sync_all(self) -> None:
        with self._turn:
            writers = list(self._writers)
        for writer in writers:
            try:
                writer.sync()
            except OSError as error:
                writer.fail(error)
                self.unregister(writer)
                self._on_failure(writer, writer.failed or RecordingFailed(str(error)))


def _portions(items: Sequence[tuple[Code, bytes]]) -> Iterator[list[tuple[Code, bytes]]]:
    """The items of one turn as a record each, in order; data longer than one event may be is cut."""
    waiting: list[tuple[Code, bytes]] = []
    size = 0
    for code, data in items:
        for start in range(0, len(data) or 1, PART_MAX_BYTES):
            part = data if len(data) <= PART_MAX_BYTES else data[start : start + PART_MAX_BYTES]
            needed = len(part) + EVENT_HEAD_MAX_BYTES
            if waiting and size + needed > RECORD_MAX_BYTES:
                yield waiting
                waiting, size = [], 0
            waiting.append((code, part))
            size += needed
    if waiting:
        yield waiting
