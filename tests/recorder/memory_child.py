"""Prints by how many bytes writing, examining, reading and exporting many megabytes made this process grow."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path

from recorder import export
from recorder.format import Code
from recorder.reader import examine, read
from recorder.writer import SessionClock
from tests.recorder.makers import HandClock, a_writer

MEGABYTE = 1 << 20


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write(folder: Path, megabytes: int, chunk: bytes) -> Path:
    writer = a_writer(folder, clock=SessionClock(HandClock()))
    for _ in range(megabytes * MEGABYTE // len(chunk)):
        writer.put(Code.OUT, chunk)
    writer.close("done")
    return writer.path


def main(folder: Path, megabytes: int) -> None:
    chunk = bytes(range(256)) * 256
    uses: list[Callable[[Path], object]] = [examine, lambda path: sum(len(event.data) for event in read(path))]
    with Path("/dev/null").open("wb") as nowhere:
        uses += [lambda path: export.raw(path, nowhere), lambda path: export.cast(path, nowhere)]
        short = write(folder / "short", 8, chunk)
        for use in uses:
            use(short)
        before = peak_bytes()
        long = write(folder / "long", megabytes, chunk)
        for use in uses:
            use(long)
    print(peak_bytes() - before)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
