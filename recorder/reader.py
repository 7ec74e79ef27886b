"""Reading a stream: bounded in memory, never writing, believing nothing the file says of itself.

Source: evidence.md 2.6, E12, E17.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from recorder.format import (
    HEADER_MAX_BYTES,
    Codec,
    End,
    Event,
    FormatError,
    Header,
    RecordType,
    Segment,
    decode_end,
    decode_events,
    decode_header,
    decode_record_head,
    decode_segment,
)
from recorder.packing import Expander

RECORD_HEAD_BYTES: Final = 4
BODY_READ_MAX_BYTES: Final = 1 << 20
END_MAX_BYTES: Final = 8 << 20
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What a stream is, found without changing it.

    state: closed (END, whole chain), interrupted (no END, a readable prefix) or damaged. sha256, length: of the whole file.
    torn_bytes, torn_sha256: of the tail that no longer reads. problem: the first bad place, in words.
    """

    header: Header | None
    length: int
    sha256: str
    events: int
    bytes: int
    duration_us: int
    state: str
    reason: str
    torn_bytes: int
    torn_sha256: str
    problem: str | None
    index: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class _Record:
    offset: int
    kind: int
    body: bytes
    before: bytes
    """SHA-256 of every byte before the record; empty when nobody asked for hashes."""


class _Torn(Exception):
    """The file ends inside a record, or in zeros."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"torn at byte {offset}")
        self.offset = offset


def header(path: Path) -> Header:
    """The header of a stream. Raises FormatError, OSError."""
    with _open(path) as file:
        return decode_header(file.readline(HEADER_MAX_BYTES))


def read(path: Path) -> Iterator[Event]:
    """Every event that reads, in order; a torn tail ends it quietly, damage raises FormatError."""
    with _open(path) as file:
        line = file.readline(HEADER_MAX_BYTES)
        decode_header(line)
        try:
            yield from _events(_records(file, len(line), None))
        except _Torn:
            return


def seek(path: Path, t_us: int) -> Iterator[Event]:
    """Events from t_us on, found by the END's index, or by walking when there is none. Raises FormatError."""
    start = 0
    for offset, begins_us in examine_index(path):
        if begins_us > t_us:
            break
        start = offset
    with _open(path) as file:
        line = file.readline(HEADER_MAX_BYTES)
        decode_header(line)
        if start > len(line):
            file.seek(start)
        try:
            for event in _events(_records(file, max(start, len(line)), None)):
                if event.t_us >= t_us:
                    yield event
        except _Torn:
            return


def examine_index(path: Path) -> tuple[tuple[int, int], ...]:
    """(offset, t_us) of each segment: from END when there is one, else by walking. Raises FormatError."""
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        end = _find_end(file, size)
        if end is not None:
            return end.index
        file.seek(0)
        line = file.readline(HEADER_MAX_BYTES)
        decode_header(line)
        found: list[tuple[int, int]] = []
        try:
            for record in _records(file, len(line), None):
                if record.kind == RecordType.SEG:
                    segment = decode_segment(record.body, offset=record.offset)
                    found.append((record.offset, segment.t_us))
        except _Torn:
            pass
        return tuple(found)


def examine(path: Path) -> Examination:
    """Check the whole chain and count what reads; never writes, never raises but OSError."""
    with _open(path) as file:
        return _Examiner(file).run()


class _Examiner:
    """One pass over a stream, in constant memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._header: Header | None = None
        self._hash = hashlib.sha256()
        self._events = self._bytes = self._last_us = 0
        self._index: list[tuple[int, int]] = []
        self._end: End | None = None
        self._problem: str | None = None
        self._torn_at: int | None = None

    def run(self) -> Examination:
        try:
            self._walk()
        except _Torn as torn:
            self._torn_at = torn.offset
        except FormatError as error:
            self._problem = str(error)
        length, sha256, torn_bytes, torn_sha256 = self._whole()
        state = "damaged" if self._problem else "closed" if self._end is not None else "interrupted"
        return Examination(
            header=self._header,
            length=length,
            sha256=sha256,
            events=self._events,
            bytes=self._bytes,
            duration_us=self._last_us,
            state=state,
            reason="" if self._end is None else self._end.reason,
            torn_bytes=torn_bytes,
            torn_sha256=torn_sha256,
            problem=self._problem,
            index=tuple(self._index),
        )

    def _walk(self) -> None:
        line = self._file.readline(HEADER_MAX_BYTES)
        if not line.endswith(b"\n") and len(line) < HEADER_MAX_BYTES:
            raise _Torn(0)
        self._header = decode_header(line)
        self._hash.update(line)
        yielded = _records(self._file, len(line), self._hash)
        for event in _events(self._noting(yielded), check=True):
            self._events += 1
            self._bytes += len(event.data)
            self._last_us = event.t_us
        if self._end is not None:
            self._check_end(self._end)

    def _noting(self, records: Iterator[_Record]) -> Iterator[_Record]:
        for record in records:
            if self._end is not None:
                raise FormatError("bytes after the end record", offset=record.offset)
            if record.kind == RecordType.SEG:
                segment = decode_segment(record.body, offset=record.offset)
                self._index.append((record.offset, segment.t_us))
            elif record.kind == RecordType.END:
                self._end = decode_end(record.body, offset=record.offset)
            yield record

    def _check_end(self, end: End) -> None:
        told = (end.events, end.bytes, end.index)
        if told != (self._events, self._bytes, tuple(self._index)):
            raise FormatError("the end record tells another story", offset=self._file.tell())

    def _whole(self) -> tuple[int, str, int, str]:
        """Length and hash of the file, and of its torn tail."""
        self._file.seek(0)
        whole, torn = hashlib.sha256(), hashlib.sha256()
        length = torn_bytes = 0
        while chunk := self._file.read(_CHUNK):
            whole.update(chunk)
            if self._torn_at is not None:
                tail = chunk[max(0, self._torn_at - length) :]
                torn.update(tail)
                torn_bytes += len(tail)
            length += len(chunk)
        return length, whole.hexdigest(), torn_bytes, torn.hexdigest() if torn_bytes else ""


def _open(path: Path) -> BinaryIO:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)  # no symlink, no waiting FIFO
    return os.fdopen(fd, "rb", buffering=1 << 18)


def _records(file: BinaryIO, offset: int, running: hashlib._Hash | None) -> Iterator[_Record]:
    """The records from here to the end of the file. running: takes every byte, after its record has been given out."""
    while head := file.read(RECORD_HEAD_BYTES):
        if len(head) < RECORD_HEAD_BYTES or head == b"\0" * RECORD_HEAD_BYTES:
            raise _Torn(offset)
        kind, length = decode_record_head(head, offset=offset)
        longest = END_MAX_BYTES if kind == RecordType.END else BODY_READ_MAX_BYTES
        if length > longest:
            raise FormatError("record longer than any writer makes", offset=offset)
        body = file.read(length)
        if len(body) < length:
            raise _Torn(offset)
        yield _Record(offset, kind, body, b"" if running is None else running.copy().digest())
        if running is not None:
            running.update(head)
            running.update(body)
        offset += RECORD_HEAD_BYTES + length


def _events(records: Iterator[_Record], *, check: bool = False) -> Iterator[Event]:
    """The events of some records, beginning with a SEG. check: hold each SEG against the hash of all before it."""
    segment: Segment | None = None
    expander: Expander | None = None
    last_us, index = 0, -1
    for record in records:
        if record.kind == RecordType.SEG:
            segment = decode_segment(record.body, offset=record.offset)
            if check and (segment.before != record.before or segment.index != index + 1):
                raise FormatError("the hash chain is broken before the segment", offset=record.offset)
            if segment.t_us < last_us:
                raise FormatError("time runs backwards", offset=record.offset)
            index, last_us = segment.index, segment.t_us
            expander = Expander() if segment.codec is Codec.ZSTD else None
        elif record.kind == RecordType.DATA:
            if segment is None:
                raise FormatError("data before the first segment", offset=record.offset)
            for event in decode_events(_plain(record, expander), after_us=last_us, offset=record.offset):
                last_us = event.t_us
                yield event


def _plain(record: _Record, expander: Expander | None) -> bytes:
    if expander is None:
        return record.body
    try:
        return expander.open(record.body)
    except ValueError as error:
        raise FormatError(f"cannot be expanded ({error})", offset=record.offset) from None


def _find_end(file: BinaryIO, size: int) -> End | None:
    if size < RECORD_HEAD_BYTES * 2:
        return None
    file.seek(size - RECORD_HEAD_BYTES)
    whole = int.from_bytes(file.read(RECORD_HEAD_BYTES), "little")
    if not RECORD_HEAD_BYTES * 2 < whole <= min(size, END_MAX_BYTES):
        return None
    file.seek(size - whole)
    head = file.read(RECORD_HEAD_BYTES)
    try:
        kind, length = decode_record_head(head, offset=size - whole)
        if kind != RecordType.END or length != whole - RECORD_HEAD_BYTES:
            return None
        return decode_end(file.read(length), offset=size - whole)
    except FormatError:
        return None
