"""Writing a stream: one write(2) a record, nothing relayed before it has returned, every error final.

Source: evidence.md E1 to E4, E6, E11, section 2.4. Clocks are handed in; the recorder reads none.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from recorder.format import (
    Code,
    Codec,
    End,
    Head,
    Header,
    RecordType,
    Segment,
    encode_end,
    encode_event,
    encode_header,
    encode_record,
    encode_segment,
)
from recorder.packing import Compressor

SEGMENT_MAX_BYTES: Final = 256 * 1024
SEGMENT_MAX_US: Final = 60_000_000
BULK_US: Final = 1_000_000
"""A segment that filled in less than this was bulk: the next one is kept plain, for compressing would slow the copy."""
RECORD_MAX_BYTES: Final = 256 * 1024
PART_MAX_BYTES: Final = 128 * 1024
"""Longer data is cut into several events, so that no record outgrows what readers take."""
SYNC_S: Final = 0.5


class RecordingFailed(Exception):
    """The stream cannot be written any more; final, and the session it belongs to must end. Source: E3."""


class SessionClock:
    """Microseconds since the session's first event, strictly rising over all its streams. Source: E6."""

    def __init__(self, monotonic_us: Callable[[], int]) -> None:
        self._monotonic_us = monotonic_us
        self._zero = monotonic_us()
        self._last = 0

    def now(self) -> int:
        """The next time; one more than the last on a tie."""
        self._last = max(self._last + 1, self._monotonic_us() - self._zero)
        return self._last


class StreamWriter:
    """One stream being written. Not for several threads, but for `sync`, which only asks the kernel."""

    def __init__(self, folder: Path, header: Header, *, clock: SessionClock, wall_ms: Callable[[], int]) -> None:
        """Make the file and its header durable in the folder. Raises RecordingFailed."""
        self.path = folder / f"{header.stream}.wgr"
        self.failed: RecordingFailed | None = None
        self._clock = clock
        self._wall_ms = wall_ms
        self._hash = hashlib.sha256()
        self._length = 0
        self._synced = 0
        self._events = 0
        self._bytes = 0
        self._index: list[tuple[int, int]] = []
        self._last_us = 0
        self._segment_from = 0
        self._segment_us = 0
        self._bulk = False
        self._compressor: Compressor | None = None
        self._closed = False
        self._fd_turn = threading.Lock()
        self._fd = -1
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_APPEND | os.O_CLOEXEC
            self._fd = os.open(self.path, flags, 0o600)
            self._write(encode_header(header))
            self._open_segment()
            _sync_folder(folder)
        except OSError as error:
            self._fail(error)
        except RecordingFailed:
            self.abandon()
            raise

    def put(self, code: Code, data: bytes) -> None:
        """Record one event; returns after write(2) took all of it. Raises RecordingFailed."""
        self.put_batch([(code, data)])

    def put_batch(self, items: Sequence[tuple[Code, bytes]]) -> None:
        """Record what one turn of the loop brought: as few records as the size limit allows. Raises RecordingFailed."""
        if self.failed is not None:
            raise self.failed
        if self._closed:
            raise RecordingFailed("the stream is closed")
        waiting: list[tuple[Code, bytes]] = []
        size = 0
        for code, data in items:
            for start in range(0, len(data) or 1, PART_MAX_BYTES):
                part = data[start : start + PART_MAX_BYTES] if len(data) > PART_MAX_BYTES else data
                if waiting and size + len(part) > RECORD_MAX_BYTES:
                    self._put_record(waiting)
                    waiting, size = [], 0
                waiting.append((code, part))
                size += len(part)
        if waiting:
            self._put_record(waiting)

    def head(self) -> Head:
        """Length and hash of everything written so far."""
        return Head(self._length, self._hash.copy().hexdigest())

    def tick(self) -> None:
        """Close the segment of an idle stream that has grown old. Raises RecordingFailed."""
        if not self._closed and self.failed is None and self._length > self._segment_from:
            now = self._clock.now()
            if now - self._segment_us > SEGMENT_MAX_US:
                self._open_segment(now)

    def sync(self) -> None:
        """fdatasync when something is not durable yet; for the sync thread. Raises OSError."""
        with self._fd_turn:
            length = self._length
            if self._fd >= 0 and length != self._synced:
                os.fdatasync(self._fd)
                self._synced = length

    def fail(self, error: OSError) -> None:
        """Mark the stream as failed from outside: the kernel could not keep what it had taken."""
        self.failed = self.failed or RecordingFailed(error.strerror or type(error).__name__)

    def close(self, reason: str) -> Head:
        """Write END, make it durable, close the file; a second call does nothing. Raises RecordingFailed."""
        if self._closed:
            return self.head()
        if self.failed is not None:
            raise self.failed
        end = End(
            bytes=self._bytes,
            events=self._events,
            index=tuple(self._index),
            reason=reason,
            t_us=self._clock.now(),
            wall_ms=self._wall_ms(),
        )
        self._write(encode_end(end))
        try:
            self.sync()
        except OSError as error:
            self._fail(error)
        self._release()
        return self.head()

    def abandon(self) -> None:
        """Let go of the file as it is, without an END; a second call does nothing."""
        self._release()

    def _put_record(self, items: Sequence[tuple[Code, bytes]]) -> None:
        now = self._clock.now()
        if self._length - self._segment_from > SEGMENT_MAX_BYTES or now - self._segment_us > SEGMENT_MAX_US:
            self._open_segment(now)
            now = self._clock.now()
        parts = []
        for code, data in items:
            parts.append(encode_event(code, now - self._last_us, data))
            self._bytes += len(data)
            self._last_us, now = now, self._clock.now() if len(parts) < len(items) else now
        self._events += len(parts)
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        if self._compressor is not None:
            body = self._compressor.flush(body)
        self._write(encode_record(RecordType.DATA, body))

    def _open_segment(self, now: int | None = None) -> None:
        now = self._clock.now() if now is None else now
        self._bulk = bool(self._index) and now - self._segment_us < BULK_US
        codec = Codec.PLAIN if self._bulk else Codec.ZSTD
        self._compressor = None if codec is Codec.PLAIN else Compressor()
        segment = Segment(len(self._index), codec, now, self._wall_ms(), self._hash.digest())
        self._index.append((self._length, now))
        self._write(encode_segment(segment))
        self._segment_from, self._segment_us, self._last_us = self._length, now, now

    def _write(self, record: bytes) -> None:
        try:
            written = os.write(self._fd, record)
        except OSError as error:
            self._fail(error)
        if written != len(record):
            self._length += written
            self._hash.update(record[:written])
            self._fail(OSError(28, "short write"))
        self._length += written
        self._hash.update(record)

    def _fail(self, error: OSError) -> Any:
        self.fail(error)
        self._release()
        raise self.failed or RecordingFailed(str(error)) from error

    def _release(self) -> None:
        self._closed = True
        self._compressor = None
        with self._fd_turn:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


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


@dataclass(frozen=True, slots=True)
class FreeSpace:
    """What is left on the file system of a folder."""

    bytes_free: int
    fraction_free: float


def free_space(folder: Path) -> FreeSpace:
    """How much an ordinary process may still write there. Raises OSError."""
    usage = shutil.disk_usage(folder)
    return FreeSpace(usage.free, usage.free / usage.total if usage.total else 0.0)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
