"""How golden/v1.wgr was made, once. Not run again: the file must open for ever, as it is (E13)."""

from __future__ import annotations

import sys
from pathlib import Path

from recorder.format import Code
from recorder.writer import SEGMENT_MAX_US, SessionClock
from tests.recorder.makers import SECOND_US, HandClock, a_writer, size_event


def main(folder: Path) -> None:
    clock = HandClock()
    writer = a_writer(folder, clock=SessionClock(clock))
    writer.put(Code.MARK, b'{"opened":{"asset":"bms-01.kestrel"}}')
    writer.put_batch([size_event(100, 30), (Code.OUT, "bms-01 ~ \u00e9\r\n".encode())])
    for code in Code:
        clock.now_us += SECOND_US
        writer.put(code, b"\x01\x02" if code is Code.RESIZE else b"\0\xff" + code.name.encode())
    clock.now_us += SEGMENT_MAX_US
    for _ in range(4):  # the segment fills at once, so the next one is plain
        writer.put(Code.OUT, bytes(64 * 1024))
    writer.put(Code.OUT, b"plain")
    writer.put(Code.EXIT, b'{"exit status":"0"}')
    writer.close("the engineer left")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
