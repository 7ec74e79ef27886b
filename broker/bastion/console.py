"""The engineer's console: one command over `ssh gate COMMAND`, or the same commands at a prompt.

What is said here goes to people as plain text with foreign strings escaped, and to tools as one JSON document (--json).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shlex
from collections.abc import Callable, Mapping
from typing import Final

import asyncssh

from broker.bastion.answers import Answer, Desk, WrongWords
from broker.bastion.closing import end_refused_soon
from broker.bastion.commands import COMMANDS
from broker.domain.errors import BrokerError
from broker.domain.ids import quoted
from broker.gate import Proof

log = logging.getLogger("broker.bastion.console")
LINE_MAX: Final = 4096
PROMPT: Final = "wicketgate> "
WELCOME: Final = "wicketgate console: type help, or exit"
_INTERRUPTED_EXIT: Final = 130


class Console(asyncssh.SSHServerSession[bytes]):
    """One session channel of a login that names no asset."""

    def __init__(self, desk: Desk, proof: Proof, *, gone: Callable[[], None], note: Callable[[str, str], None]) -> None:
        self._desk = desk
        self._proof = proof
        self._gone = gone
        self._note = note
        self._running: asyncio.Task[Answer] | None = None
        self._interrupted = False
        self._chan: asyncssh.SSHServerChannel[bytes] | None = None
        self._terminal = False
        self._line = bytearray()
        self._escape = False
        self._task: asyncio.Task[None] | None = None
        self._lines: asyncio.Queue[str | None] = asyncio.Queue(16)

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._chan = chan

    def pty_requested(
        self, term_type: str, term_size: tuple[int, int, int, int], term_modes: Mapping[int, int]
    ) -> bool:
        self._terminal = True
        return True

    def exec_requested(self, command: str) -> bool:
        self._task = asyncio.create_task(self._once(command))
        return True

    def shell_requested(self) -> bool:
        self._task = asyncio.create_task(self._prompt())
        return True

    def subsystem_requested(self, subsystem: str) -> bool:
        self._note(f"subsystem {subsystem}", "not granted here")  # no file transfer of its own (security.md CHN-4)
        return end_refused_soon(self._chan, "the console has no subsystem; files go to and from ASSET.SITE")

    def data_received(self, data: bytes, datatype: int | None) -> None:
        for byte in data:
            self._key(byte)

    def eof_received(self) -> bool:
        self._say_line(None)
        return True

    def break_received(self, msec: int) -> bool:
        return False

    def signal_received(self, signal: str) -> None:
        if signal == "INT":
            self._interrupt()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()
        if self._running is not None:
            self._running.cancel()
        self._gone()

    # Lines of a person
    def _key(self, byte: int) -> None:
        if self._escape:  # arrow keys and the like are swallowed: the prompt has no history
            self._escape = not 0x40 <= byte <= 0x7E or byte == ord("[")
        elif byte in (10, 13):
            self._write(b"\r\n" if self._terminal else b"")
            self._say_line(self._line.decode("utf-8", "replace"))
            self._line.clear()
        elif not self._terminal:
            self._line.append(byte)
        elif byte in (8, 127):
            if self._line:
                while self._line and self._line[-1] & 0xC0 == 0x80:
                    self._line.pop()
                self._line.pop()
                self._write(b"\b \b")
        elif byte == 3:
            self._line.clear()
            self._write(b"^C\r\n" + (b"" if self._running else PROMPT.encode()))
            self._interrupt()
        elif byte == 4 and not self._line:
            self._say_line(None)
        elif byte == 27:
            self._escape = True
        elif byte >= 32 and len(self._line) < LINE_MAX:
            self._line.append(byte)
            self._write(bytes([byte]))
        if len(self._line) > LINE_MAX:
            self._line.clear()

    def _interrupt(self) -> None:
        if self._running is not None:
            self._interrupted = True
            self._running.cancel()

    def _say_line(self, line: str | None) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            self._lines.put_nowait(line)

    # Running commands
    async def _once(self, text: str) -> None:
        self._running = asyncio.create_task(self._answer(text))
        try:
            answer = await self._running
        except asyncio.CancelledError:
            if not self._interrupted:
                raise  # the console itself is going
            self._exit(_INTERRUPTED_EXIT)
            return
        self._show(answer)
        self._exit(answer.status)

    async def _prompt(self) -> None:
        self._write(f"{WELCOME}\r\n".encode())
        status = 0
        while True:
            self._write(PROMPT.encode())
            line = await self._lines.get()
            if line is None or line.strip() in ("exit", "quit", "logout"):
                break
            if line.strip():
                self._running = asyncio.create_task(self._answer(line))
                try:
                    answer = await self._running
                except asyncio.CancelledError:
                    if not self._interrupted:
                        raise  # the console itself is going
                    self._interrupted, status = False, _INTERRUPTED_EXIT
                    continue
                finally:
                    self._running = None
                self._show(answer)
                status = answer.status
        self._exit(status)

    async def _answer(self, text: str) -> Answer:
        try:
            words = shlex.split(text)
        except ValueError as error:
            return Answer.usage(f"the line cannot be read: {error}")
        if not words:
            return Answer.usage("type a command; see help")
        command = COMMANDS.get(words[0])
        if command is None:
            return Answer.usage(f"no command {quoted(words[0])}; see help")
        try:
            return await command.run(self._desk, self._proof, words[1:], self._progress)
        except WrongWords as error:
            return Answer.usage(f"{words[0]}: {error}; usage: {command.usage}")
        except BrokerError as error:
            return Answer.from_error(error)
        except Exception:
            log.exception("console command failed")
            return Answer(1, error="temporarily unavailable; try again in a minute")

    def _progress(self, text: str) -> None:
        """A live line while a command waits; on stderr, so that --json stays one document."""
        if self._terminal:
            self._error(f"\r\x1b[K{text}".encode())
        else:
            self._error(f"{text}\n".encode())

    def _show(self, answer: Answer) -> None:
        newline = b"\r\n" if self._terminal else b"\n"
        if answer.document is not None and answer.as_json:
            self._write(json.dumps(answer.document, ensure_ascii=True).encode() + newline)
        elif answer.text:
            self._write(answer.text.rstrip("\n").replace("\n", newline.decode()).encode("utf-8", "replace") + newline)
        if answer.error:
            self._error(f"wicketgate: {answer.error}".encode("utf-8", "replace") + newline)

    def _write(self, data: bytes) -> None:
        if data and self._chan is not None:
            with contextlib.suppress(OSError):
                self._chan.write(data)

    def _error(self, data: bytes) -> None:
        if self._chan is not None:
            with contextlib.suppress(OSError):
                self._chan.write_stderr(data)

    def _exit(self, status: int) -> None:
        if self._chan is not None:
            with contextlib.suppress(OSError):
                self._chan.exit(status)
