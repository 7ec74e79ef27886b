"""The emulator in a child process: bounded in memory, processor time and files, and unable to write anywhere but to its pipe.

What it answers is data that the parent checks and cleans; a child that is taken over can lie about what was on the screen,
not reach the terminal. Run as `python -m recorder.cage` it is the child. Source: docs/rules.md, Evidence.

    request  u8 F feed, R resize (two u16), V view | u32 length | bytes
    answer   u32 length | JSON: the lines gone, nothing, or the rows
"""

from __future__ import annotations

import json
import os
import resource
import struct
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Any, BinaryIO, Final, Self

from recorder.screen import FEED_BYTES, AvtScreen, Colour, Row, Run, ScreenLost, clamp

MEMORY_MAX_BYTES: Final = 512 << 20
PROCESSOR_MAX_S: Final = 300
ANSWER_MAX_BYTES: Final = 32 << 20
_REQUEST: Final = struct.Struct("<cI")
_LENGTH: Final = struct.Struct("<I")
_SIZE: Final = struct.Struct("<HH")


class CagedScreen:
    """A screen in a child process, ended with the `with` block."""

    def __init__(self, columns: int, rows: int, *, processor_max_s: int = PROCESSOR_MAX_S) -> None:
        self.size = clamp(columns, rows)
        source = Path(__file__).resolve().parent.parent
        self._child = subprocess.Popen(
            [sys.executable, "-m", "recorder.cage", str(processor_max_s), *map(str, self.size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"},
            start_new_session=True,  # an interrupt at the keyboard is for who watches, not for the emulator
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._child.kill()
        self._child.communicate()

    def feed(self, data: bytes) -> list[str]:
        gone: list[str] = []
        for start in range(0, len(data), FEED_BYTES):
            lines = self._ask(b"F", data[start : start + FEED_BYTES])
            if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
                raise ScreenLost
            gone += lines
        return gone

    def resize(self, columns: int, rows: int) -> None:
        self.size = clamp(columns, rows)
        self._ask(b"R", _SIZE.pack(*self.size))

    def rows(self) -> list[Row]:
        try:
            return [tuple(_decode_run(*run) for run in row) for row in self._ask(b"V", b"")]
        except (TypeError, ValueError):
            raise ScreenLost from None

    def _ask(self, what: bytes, data: bytes) -> Any:
        try:
            return json.loads(self._exchange(_REQUEST.pack(what, len(data)) + data))
        except (OSError, EOFError, ValueError, RecursionError):
            raise ScreenLost from None

    def _exchange(self, request: bytes) -> bytes:
        to, back = self._child.stdin, self._child.stdout
        if to is None or back is None:
            raise EOFError
        to.write(request)
        to.flush()
        (length,) = _LENGTH.unpack(_exactly(back, _LENGTH.size))
        if length > ANSWER_MAX_BYTES:
            raise ValueError("an answer longer than any screen")
        return _exactly(back, length)


def _decode_run(text: object, foreground: object, background: object, attributes: object) -> Run:
    """A run as the child tells it. Raises ValueError or TypeError for anything that is none."""
    if not isinstance(text, str) or not isinstance(attributes, list):
        raise ValueError("not a run")
    if not all(type(one) is int and 1 <= one <= 9 for one in attributes):
        raise ValueError("not an attribute")
    return Run(text, _decode_colour(foreground), _decode_colour(background), tuple(attributes))


def _decode_colour(colour: object) -> Colour:
    if colour is None:
        return None
    if not isinstance(colour, list) or len(colour) not in (1, 3):
        raise ValueError("not a colour")
    if not all(type(part) is int and 0 <= part < 256 for part in colour):
        raise ValueError("not a colour")
    return tuple(colour)


def _exactly(file: IO[bytes], length: int) -> bytes:
    """Raises EOFError when the other side is gone."""
    data = file.read(length)
    if len(data) < length:
        raise EOFError
    return data


def _limit(processor_max_s: int) -> None:
    for what, most in (
        (resource.RLIMIT_AS, MEMORY_MAX_BYTES),
        (resource.RLIMIT_CPU, processor_max_s),
        (resource.RLIMIT_NOFILE, 3),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def _serve(screen: AvtScreen, requests: BinaryIO, answers: BinaryIO) -> None:
    while head := requests.read(_REQUEST.size):
        what, length = _REQUEST.unpack(head)
        data = requests.read(length)
        answer: object = None
        if what == b"F":
            answer = screen.feed(data)
        elif what == b"R":
            screen.resize(*_SIZE.unpack(data))
        else:
            answer = [
                [(run.text, run.foreground, run.background, run.attributes) for run in row] for row in screen.rows()
            ]
        text = json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()
        answers.write(_LENGTH.pack(len(text)) + text)
        answers.flush()


if __name__ == "__main__":
    _limit(int(sys.argv[1]))
    try:
        _serve(AvtScreen(int(sys.argv[2]), int(sys.argv[3])), sys.stdin.buffer, sys.stdout.buffer)
    except BaseException:
        os._exit(1)
