"""Streams to test with: headers, clocks that tests turn, writers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from recorder.format import Code, Header, StreamClass
from recorder.writer import SessionClock, StreamWriter

WALL_MS: Final = 1_790_000_000_000
SECOND_US: Final = 1_000_000


class HandClock:
    """A monotonic clock that moves `step_us` at each look, and when told."""

    def __init__(self, *, step_us: int = 100) -> None:
        self.now_us = 5_000_000
        self.step_us = step_us

    def __call__(self) -> int:
        self.now_us += self.step_us
        return self.now_us


def a_header(klass: StreamClass = StreamClass.SCREEN, *, channel: int = 1, seal: str = "none") -> Header:
    return Header(
        v=1,
        session="ses-7k2m",
        stream=f"{channel:02d}.{klass.value}",
        channel=channel,
        klass=klass,
        kind="shell",
        node="gate-1",
        boot="b00t",
        wall_ms=WALL_MS,
        seal=seal,
        after="",
    )


def a_writer(
    folder: Path,
    klass: StreamClass = StreamClass.SCREEN,
    *,
    channel: int = 1,
    clock: SessionClock | None = None,
) -> StreamWriter:
    return StreamWriter(
        folder,
        a_header(klass, channel=channel),
        clock=clock or SessionClock(HandClock()),
        wall_ms=lambda: WALL_MS,
    )


def a_stream(folder: Path, items: Iterable[tuple[Code, bytes]], *, reason: str = "done") -> Path:
    writer = a_writer(folder)
    for code, data in items:
        writer.put(code, data)
    writer.close(reason)
    return writer.path


def size_event(columns: int, rows: int) -> tuple[Code, bytes]:
    return Code.RESIZE, columns.to_bytes(2, "little") + rows.to_bytes(2, "little")
