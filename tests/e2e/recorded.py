"""What a recording holds of a channel, for comparing it with what the client saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recorder.format import Code, Event
from recorder.reader import read
from recorder.screen import decode_size


def events(path: Path) -> list[Event]:
    """Every event of a stream."""
    return list(read(path))


def said(path: Path, code: Code) -> bytes:
    """All bytes of one kind of event, joined."""
    return b"".join(event.data for event in read(path) if event.code is code)


def sizes(path: Path) -> list[tuple[int, int]]:
    """The terminal's sizes, as columns and rows, in order."""
    found = [decode_size(event.data) for event in read(path) if event.code is Code.RESIZE]
    return [one for one in found if one is not None]


def marks(path: Path, code: Code = Code.MARK) -> list[dict[str, Any]]:
    """The facts noted in a stream, in order."""
    return [json.loads(event.data) for event in read(path) if event.code is code]
