"""Which processes a program has left behind, by the session it was started in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# Only this: a demo takes its time to start when the machine is busy with other tests.
START_WITHIN_S = 120.0


def in_session(session: int) -> dict[int, str]:
    """The command lines of the processes that live in a session, by process id."""
    return {pid: words for pid, words in _all(session) if words}


def _all(session: int) -> Iterator[tuple[int, str]]:
    for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
        with suppress(OSError, IndexError):
            told = Path(f"/proc/{pid}/stat").read_text()
            state, _, _, found = told.rpartition(")")[2].split()[:4]
            if int(found) == session and state != "Z":
                yield pid, Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def pid_of(session: int, part: str) -> int:
    """The process of one part of `serve`."""
    found = [pid for pid, words in in_session(session).items() if words.rstrip().endswith(f"--only {part}")]
    assert len(found) == 1, in_session(session)
    return found[0]


def plain(text: str) -> str:
    """A terminal's text without colours and carriage returns."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text).replace("\r", "")
