"""Reading a stream: its header, its events from the beginning or from a time.

Source: docs/rules.md, Evidence. What a stream is as a whole, `examine` says.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from recorder.examination import Examination, State, examine
from recorder.format import UNSEALED, Event, FormatError, Header, RecordType, decode_segment
from recorder.records import Records, Torn, events, find_end, open_stream, read_header

__all__ = ["Examination", "State", "examine", "header", "read", "seek", "segments"]


def header(path: Path) -> Header:
    """The header of a stream. Raises FormatError, also for a torn one, and OSError."""
    with open_stream(path) as file:
        return _opened(file)[0]


def read(path: Path) -> Iterator[Event]:
    """Every event that reads, in order; a torn tail ends it quietly, damage raises FormatError. Raises OSError."""
    return seek(path, 0)


def seek(path: Path, t_us: int) -> Iterator[Event]:
    """Events from t_us on, found by the END's index, or by walking when there is none. Raises FormatError, OSError."""
    with open_stream(path) as file:
        about, line = _opened(file)
        if about.seal != UNSEALED:
            raise FormatError("sealed in a way this reader cannot open", offset=0)
        offset = _offset_before(file, line, t_us) if t_us > 0 else None
        try:
            for event in events(Records(file, line, offset=offset)):
                if event.t_us >= t_us:
                    yield event
        except Torn:
            return


def segments(path: Path) -> tuple[tuple[int, int], ...]:
    """(offset, t_us) of the segments that the END names; of all, found by walking, when there is none. Raises FormatError."""
    with open_stream(path) as file:
        _, line = _opened(file)
        return _index(file, line)


def _opened(file: BinaryIO) -> tuple[Header, bytes]:
    try:
        return read_header(file)
    except Torn:
        raise FormatError("torn header", offset=0) from None


def _offset_before(file: BinaryIO, line: bytes, t_us: int) -> int | None:
    found = None
    for offset, begins_us in _index(file, line):
        if begins_us > t_us:
            break
        found = offset
    return found


def _index(file: BinaryIO, line: bytes) -> tuple[tuple[int, int], ...]:
    found = find_end(file)
    if found is not None:
        index, end_offset = found[0].index, found[1]
        offsets = [len(line) - 1, *(offset for offset, _ in index), end_offset]
        if any(later <= earlier for earlier, later in pairwise(offsets)):
            raise FormatError("the index of the end record points elsewhere", offset=end_offset)
        return index
    walked: list[tuple[int, int]] = []
    with contextlib.suppress(Torn):
        walked.extend(
            (record.offset, decode_segment(record.body, offset=record.offset).t_us)
            for record in Records(file, line)
            if record.kind == RecordType.SEG
        )
    return tuple(walked)
