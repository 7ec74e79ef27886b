"""A recording: the folder of one session's streams."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from recorder.format import Event, Header
from recorder.reader import header, read


def recording_folder(root: Path, session: str, opened_wall_ms: int) -> Path:
    """Where a session's streams are: ROOT/YYYY/MM/DD/SESSION, by the UTC day it was opened."""
    day = datetime.fromtimestamp(opened_wall_ms / 1000, UTC)
    return root / f"{day:%Y}" / f"{day:%m}" / f"{day:%d}" / session


def streams(folder: Path) -> list[Path]:
    """The stream files of a recording, by channel; links and anything else planted there are left out."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.suffix == ".wgr" and path.is_file() and not path.is_symlink()
    )


def merged(paths: Iterable[Path]) -> Iterator[tuple[Header, Event]]:
    """The events of several streams of one session in their one true order. Source: E6. Raises FormatError."""

    def one(path: Path) -> Iterator[tuple[int, Header, Event]]:
        about = header(path)
        for event in read(path):
            yield event.t_us, about, event

    for _, about, event in heapq.merge(*(one(path) for path in paths), key=lambda item: item[0]):
        yield about, event


def make_folder(folder: Path) -> None:
    """Make a recording's folder (0700) and whatever is missing above it, each name durable in its parent. Raises OSError."""
    missing = []
    above = folder
    while not above.exists():
        missing.append(above)
        above = above.parent
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)
        sync_folder(one.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
