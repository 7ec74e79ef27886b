"""What a stream is, found in one pass and in constant memory, never writing. Source: docs/rules.md, E11, E12."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Final

from recorder.format import UNSEALED, End, FormatError, Header, RecordType, decode_end, decode_segment
from recorder.index import SegmentIndex
from recorder.records import Record, Records, Torn, events, find_end, open_stream, read_header

_CHUNK: Final = 1 << 20


class State(StrEnum):
    """CLOSED: an END, and the whole chain holds; INTERRUPTED: no END, a prefix that reads; DAMAGED: it contradicts itself."""

    CLOSED = "closed"
    INTERRUPTED = "interrupted"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What a stream is. A stream that is still being written looks interrupted.

    header: None when it does not read; length, sha256 (hex): of the whole file, torn tail included; events, bytes: how many
    read; duration_us: time of the last one; reason: why it was closed, empty without an END; torn_bytes, torn_sha256: of what
    follows the last record that reads; problem: the first bad place, in words; index: (offset, t_us) of segments.
    """

    header: Header | None
    length: int
    sha256: str
    events: int
    bytes: int
    duration_us: int
    state: State
    reason: str
    torn_bytes: int
    torn_sha256: str
    problem: str | None
    index: tuple[tuple[int, int], ...]


def examine(path: Path) -> Examination:
    """Check the chain, count what reads and hash every byte. Raises OSError, FormatError only for what is no file."""
    with open_stream(path) as file:
        return _Examiner(file).run()


class _Examiner:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._header: Header | None = None
        self._events = self._bytes = self._last_us = 0
        self._index = SegmentIndex()
        self._end: End | None = None
        self._records = Records(file, b"")

    def run(self) -> Examination:
        problem: str | None = None
        try:
            self._walk()
        except Torn:
            problem = self._cut()
        except FormatError as error:
            problem = str(error)
        whole, torn, torn_bytes = self._tail()
        sound = State.INTERRUPTED if self._end is None else State.CLOSED
        return Examination(
            header=self._header,
            length=self._records.offset + torn_bytes,
            sha256=whole,
            events=self._events,
            bytes=self._bytes,
            duration_us=self._last_us,
            state=sound if problem is None else State.DAMAGED,
            reason="" if self._end is None else self._end.reason,
            torn_bytes=torn_bytes,
            torn_sha256=torn if torn_bytes else "",
            problem=problem,
            index=self._index.entries,
        )

    def _walk(self) -> None:
        self._header, line = read_header(self._file)
        self._records = Records(self._file, line)
        if self._header.seal != UNSEALED:
            raise FormatError("sealed in a way this reader cannot open", offset=0)
        for event in events(self._noting(self._records), check=True):
            self._events += 1
            self._bytes += len(event.data)
            self._last_us = event.t_us

    def _noting(self, records: Records) -> Iterator[Record]:
        for record in records:
            if self._end is not None:
                raise FormatError("bytes after the end record", offset=record.offset)
            if record.kind == RecordType.END:
                self._take_end(record)
            else:
                yield record
            if record.kind == RecordType.SEG:
                self._index.add(record.offset, decode_segment(record.body, offset=record.offset).t_us)

    def _take_end(self, record: Record) -> None:
        end = decode_end(record.body, offset=record.offset)
        if end.before != record.before.hex():
            raise FormatError("bytes before the end record were changed", offset=record.offset)
        if (end.events, end.bytes, end.index) != (self._events, self._bytes, self._index.entries):
            raise FormatError("the end record tells another story", offset=record.offset)
        self._end = end

    def _cut(self) -> str | None:
        """What is wrong with a cut: a crash leaves no END behind it, so with one a length was changed, or bytes appended."""
        if self._end is not None:
            return f"bytes after the end record at byte {self._records.offset}"
        if find_end(self._file) is not None:
            return f"a record reaches beyond the end record at byte {self._records.offset}"
        return None

    def _tail(self) -> tuple[str, str, int]:
        """SHA-256 of the whole file and of what follows the last good record, and the length of that."""
        self._file.seek(self._records.offset)
        whole, torn, length = self._records.sha256.copy(), hashlib.sha256(), 0
        while chunk := self._file.read(_CHUNK):
            whole.update(chunk)
            torn.update(chunk)
            length += len(chunk)
        return whole.hexdigest(), torn.hexdigest(), length
