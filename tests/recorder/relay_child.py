"""A child that relays to its stdout what it has recorded; run by test_write_before_relay.py to be killed, or to run out of room.

python -m tests.recorder.relay_child FOLDER SEED recorded-first|relayed-first FSIZE_MAX_BYTES
"""

from __future__ import annotations

import os
import random
import resource
import sys
import time
from pathlib import Path

from recorder.format import Code
from recorder.writer import GroupSync, RecordingFailed, SessionClock
from tests.recorder.makers import a_writer

FAILED_CLOSED = 17


def main(folder: Path, seed: int, *, recorded_first: bool, file_max_bytes: int) -> int:
    if file_max_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_max_bytes, file_max_bytes))
    writer = a_writer(folder, clock=SessionClock(lambda: time.monotonic_ns() // 1000))
    sync = GroupSync(lambda _writer, _error: None)
    sync.start()
    sync.register(writer)
    chance = random.Random(seed)
    while True:
        chunk = chance.randbytes(chance.choice((1, 1, 1, 30, 400, 4096, 32768)))
        if not recorded_first:
            os.write(1, chunk)
        try:
            writer.put(Code.OUT, chunk)
        except RecordingFailed:
            break
        if recorded_first:
            sent = 0
            while sent < len(chunk):
                sent += os.write(1, chunk[sent:])
    for _ in range(3):  # dead for good
        try:
            writer.put(Code.OUT, b"x")
        except RecordingFailed:
            continue
        return 1
    return FAILED_CLOSED


if __name__ == "__main__":
    status = main(
        Path(sys.argv[1]),
        int(sys.argv[2]),
        recorded_first=sys.argv[3] == "recorded-first",
        file_max_bytes=int(sys.argv[4]),
    )
    os._exit(status)
