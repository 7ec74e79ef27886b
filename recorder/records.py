"""Walking a stream's records: bounded in memory, never writing, believing nothing the file says of itself.

Source: docs/rules.md, E12, E17.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from recorder.events import decode_events
from recorder.format import (
    HEADER_MAX_BYTES,
    Codec,
    End,
    Event,
    FormatError,
    Header,
    RecordType,
    decode_end,
    decode_header,
    decode_record_head,
    decode_segment,
)
from recorder.packing import Expander

RECORD_HEAD_BYTES: Final = 4
BODY_READ_MAX_BYTES: Final = 1 << 20
SEGMENT_READ_MAX_BYTES: Final = 2 << 20
_BUFFER: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it lies in the file. before: SHA-256 of every byte before it, for SEG and END only."""

    offset: int
    kind: int
    body: bytes
    before: bytes


class Torn(Exception):
    """The file ends inside its header or a record, or in zeros, as a crash leaves it."""


def open_stream(path: Path) -> BinaryIO:
    """Open a stream to read. Raises OSError for a symbolic link, FormatError for what is no file; never waits on a FIFO."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FormatError("not a file", offset=0)
    return os.fdopen(fd, "rb", buffering=_BUFFER)


def read_header(file: BinaryIO) -> tuple[Header, bytes]:
    """The header and its line, from the beginning of the file. Raises Torn, FormatError."""
    line = file.readline(HEADER_MAX_BYTES)
    if not line.endswith(b"\n") and len(line) < HEADER_MAX_BYTES:
        raise Torn
    return decode_header(line), line


class Records:
    """The records from here to the end of the file, once.

    offset: end of the last record that was taken and found good by whoever iterates; sha256: of all up to there.
    """

    def __init__(self, file: BinaryIO, line: bytes, *, offset: int | None = None) -> None:
        """line: the header's; offset: of the record to begin at, when not the first; the hash means nothing then."""
        self.offset = len(line) if offset is None else offset
        self.sha256 = hashlib.sha256(line)
        self._file = file

    def __iter__(self) -> Iterator[Record]:
        """Raises Torn at a cut, FormatError at what no writer makes."""
        self._file.seek(self.offset)
        while head := self._file.read(RECORD_HEAD_BYTES):
            if len(head) < RECORD_HEAD_BYTES or head == bytes(RECORD_HEAD_BYTES):
                raise Torn
            kind, length = decode_record_head(head, offset=self.offset)
            if length > BODY_READ_MAX_BYTES:
                raise FormatError("record longer than any writer makes", offset=self.offset)
            body = self._file.read(length)
            if len(body) < length:
                raise Torn
            before = b"" if kind == RecordType.DATA else self.sha256.digest()
            yield Record(self.offset, kind, body, before)
            self.sha256.update(head)
            self.sha256.update(body)
            self.offset += RECORD_HEAD_BYTES + length


def events(records: Iterable[Record], *, check: bool = False) -> Iterator[Event]:
    """The events of records that begin with a SEG. check: hold every SEG against all before it. Raises FormatError."""
    expander: Expander | None = None
    last_us, expected, room = 0, 0, -1
    for record in records:
        if record.kind == RecordType.SEG:
            segment = decode_segment(record.body, offset=record.offset)
            if check and (segment.before != record.before or segment.index != expected):
                raise FormatError("bytes before this segment were changed", offset=record.offset)
            if segment.t_us < last_us:
                raise FormatError("time runs backwards", offset=record.offset)
            expected, last_us, room = expected + 1, segment.t_us, SEGMENT_READ_MAX_BYTES
            expander = Expander() if segment.codec is Codec.ZSTD else None
        elif record.kind == RecordType.DATA:
            if room < 0:
                raise FormatError("data before the first segment", offset=record.offset)
            plain = _plain(record, expander)
            if (room := room - len(plain)) < 0:
                raise FormatError("segment longer than any writer makes", offset=record.offset)
            for event in decode_events(plain, after_us=last_us, offset=record.offset):
                last_us = event.t_us
                yield event


def find_end(file: BinaryIO) -> tuple[End, int] | None:
    """The END record and its offset, found from the end of the file; None when there is none."""
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - RECORD_HEAD_BYTES))
    whole = int.from_bytes(file.read(RECORD_HEAD_BYTES), "little")
    if not RECORD_HEAD_BYTES * 2 < whole <= min(size, BODY_READ_MAX_BYTES):
        return None
    offset = size - whole
    file.seek(offset)
    head = file.read(RECORD_HEAD_BYTES)
    try:
        kind, length = decode_record_head(head, offset=offset)
        if kind != RecordType.END or length != whole - RECORD_HEAD_BYTES:
            return None
        return decode_end(file.read(length), offset=offset), offset
    except FormatError:
        return None


def _plain(record: Record, expander: Expander | None) -> bytes:
    if expander is None:
        return record.body
    try:
        return expander.open(record.body)
    except ValueError as error:
        raise FormatError(f"cannot be expanded ({error})", offset=record.offset) from None
