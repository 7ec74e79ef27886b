"""Recordings for other tools: asciicast, text, raw bytes. Never evidence; the stream is. Constant memory (E11).

Source: asciicast v2 and v3, docs.asciinema.org/manual/asciicast.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final

from recorder.cage import CagedScreen
from recorder.clean import clean
from recorder.folder import merged
from recorder.format import Code, Event
from recorder.reader import header, read
from recorder.screen import DEFAULT_SIZE, ScreenLost, decode_size
from recorder.screen_text import screen_text

_KIND: Final = {Code.OUT: "o", Code.ERR: "o", Code.IN: "i"}
_TO_ENGINEER: Final = frozenset({Code.OUT, Code.ERR, Code.FROM_ASSET})
_PEEKED_EVENTS: Final = 64


def cast(paths: Path | Sequence[Path], out: BinaryIO, *, version: int = 2) -> None:
    """Write an asciicast, version 2 or 3, of one stream or of several of one channel in their true order.

    stderr is shown as output, typed input as `i`, sizes as `r`, marks as `m`; whatever is no UTF-8 becomes U+FFFD, a character
    cut between two events moves to the later one. Raises FormatError at damage, with what came before it written; OSError.
    """
    if version not in (2, 3):
        raise ValueError("asciicast has versions 2 and 3")
    found = [paths] if isinstance(paths, Path) else list(paths)
    columns, rows = _first_size(found)
    stamp = header(found[0]).wall_ms // 1000
    if version == 2:
        _line(out, {"version": 2, "width": columns, "height": rows, "timestamp": stamp})
    else:
        _line(out, {"version": 3, "term": {"cols": columns, "rows": rows}, "timestamp": stamp})
    last_us = 0
    for t_us, kind, text in _cast_events(found, exits=version == 3):
        out.write(f"[{_seconds(t_us - last_us)}, {json.dumps(kind)}, {json.dumps(text)}]\n".encode("ascii"))
        last_us = t_us if version == 3 else 0


def text(path: Path, out: BinaryIO) -> None:
    """Write what could be read on the screen as clean UTF-8 lines; the last one says so when the emulator gave up.

    Raises FormatError at damage, OSError.
    """
    with CagedScreen(*DEFAULT_SIZE) as screen:
        try:
            out.writelines(line.encode() + b"\n" for _, line in screen_text(read(path), screen))
        except ScreenLost:
            out.write(b"(the emulator gave up on what follows)\n")


def raw(path: Path, out: BinaryIO, code: Code | None = None) -> None:
    """Write the recorded bytes of one kind of event; without one, all that went to the engineer. Raises FormatError, OSError.

    They may hold anything: for a file, never for a terminal.
    """
    wanted = _TO_ENGINEER if code is None else {code}
    for event in read(path):
        if event.code in wanted:
            out.write(event.data)


def _cast_events(paths: Sequence[Path], *, exits: bool) -> Iterator[tuple[int, str, str]]:
    decoders = {code: codecs.getincrementaldecoder("utf-8")("replace") for code in _KIND}
    t_us = 0
    for _, event in merged(paths):
        t_us = event.t_us
        if (kind := _KIND.get(event.code)) is not None:
            if told := decoders[event.code].decode(event.data):
                yield t_us, kind, told
        elif event.code is Code.RESIZE and (size := decode_size(event.data)) is not None:
            yield t_us, "r", f"{size[0]}x{size[1]}"
        elif event.code is Code.EXIT and exits and (status := _status(event)) is not None:
            yield t_us, "x", status
        elif event.code in (Code.MARK, Code.EXIT):
            yield t_us, "m", clean(event.data.decode("utf-8", "replace"))
    for code, decoder in decoders.items():
        if told := decoder.decode(b"", final=True):
            yield t_us, _KIND[code], told


def _first_size(paths: Sequence[Path]) -> tuple[int, int]:
    """The size before any output, so that a player begins with it."""
    for _, event in islice(merged(paths), _PEEKED_EVENTS):
        if event.code is Code.RESIZE and (size := decode_size(event.data)) is not None:
            return size
        if event.code in (Code.OUT, Code.ERR):
            break
    return DEFAULT_SIZE


def _status(event: Event) -> str | None:
    """The exit status, when the event holds one number and nothing else."""
    try:
        said: Any = json.loads(event.data)
    except (ValueError, RecursionError):
        return None
    values = list(said.values()) if isinstance(said, dict) else [said]
    status = str(values[0]) if len(values) == 1 else ""
    return status if status.isascii() and status.isdigit() and len(status) <= 10 else None


def _seconds(us: int) -> str:
    """Exact, where a float would round.

    >>> _seconds(1_000_001)
    '1.000001'
    """
    return f"{us // 1_000_000}.{us % 1_000_000:06d}"


def _line(out: BinaryIO, value: dict[str, Any]) -> None:
    out.write(json.dumps(value).encode("ascii") + b"\n")
