"""The engineer's console: one command over `ssh gate COMMAND`, or the same commands at a prompt.

What is said here goes to people as plain text with foreign strings escaped, and to tools as one JSON document (--json).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Coroutine, Mapping
from typing import Final, Protocol

import asyncssh

from broker.bastion.answers import Answer, Desk, WrongWords, split_words
from broker.bastion.bounds import command_bytes
from broker.bastion.closing import end_refused_soon
from broker.bastion.commands import COMMANDS
from broker.bastion.transport import Valve
from broker.domain.errors import BrokerError
from broker.domain.ids import quoted
from broker.gate import Proof

log = logging.getLogger("broker.bastion.console")
LINE_MAX: Final = 4096
KEYS_A_TURN: Final = 1024
"""Bytes looked at in one turn of the loop, so that whoever pastes megabytes holds up nobody else."""
LINES_MAX: Final = 16
"""Lines that may wait for their turn; whoever sends more is held back."""
PROMPT: Final = "wicketgate> "
WELCOME: Final = "wicketgate console: type help, or exit"
_INTERRUPTED_EXIT: Final = 130
_TOO_LONG: Final = Answer.usage(f"the line is longer than {LINE_MAX} bytes; nothing of it was run")


class Doorkeeper(Protocol):
    """The connection that a console belongs to."""

    valve: Valve

    def channel_begun(self) -> None: ...
    def channel_gone(self, *, begun: bool) -> None: ...
    def note(self, what: str, reason: str) -> None: ...


class Console(asyncssh.SSHServerSession[bytes]):
    """One session channel of a login that names no asset."""

    def __init__(self, desk: Desk, proof: Proof, keeper: Doorkeeper) -> None:
        self._desk = desk
        self._proof = proof
        self._keeper = keeper
        self._running: asyncio.Task[Answer] | None = None
        self._interrupted = False
        self._chan: asyncssh.SSHServerChannel[bytes] | None = None
        self._terminal = False
        self._typed = bytearray()
        self._ended = self._held = False
        self._line = bytearray()
        self._too_long = self._escape = False
        self._task: asyncio.Task[None] | None = None
        self._waiting: asyncio.Task[None] | None = None
        self._lines: asyncio.Queue[str | Answer | None] = asyncio.Queue()
        self._next_turn: asyncio.Handle | None = None
        self._room = asyncio.Event()
        self._room.set()

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._chan = chan

    def pty_requested(
        self, term_type: str, term_size: tuple[int, int, int, int], term_modes: Mapping[int, int]
    ) -> bool:
        self._terminal = True
        return True

    def exec_requested(self, command: str) -> bool:
        return self._begin(self._once(command_bytes(command).decode("utf-8", "replace")))

    def shell_requested(self) -> bool:
        return self._begin(self._prompt())

    def subsystem_requested(self, subsystem: str) -> bool:
        self._keeper.note(
            f"subsystem {subsystem}", "not granted here"
        )  # no file transfer of its own (docs/rules.md CHN-4)
        return end_refused_soon(self._chan, "the console has no subsystem; files go to and from ASSET.SITE")

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._typed += data
        self._read_keys()

    def eof_received(self) -> bool:
        self._ended = True
        self._read_keys()
        return True

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def break_received(self, msec: int) -> bool:
        return False

    def signal_received(self, signal: str) -> None:
        if signal == "INT":
            self._interrupt()

    def connection_lost(self, exc: Exception | None) -> None:
        for task in (self._task, self._running, self._waiting, self._next_turn):
            if task is not None:
                task.cancel()
        self._keeper.channel_gone(begun=self._task is not None)

    def _begin(self, work: Coroutine[None, None, None]) -> bool:
        self._keeper.channel_begun()
        self._task = asyncio.create_task(work)
        return True

    # Lines of a person
    def _read_keys(self) -> None:
        """Take what was typed, no faster than it is answered and the answers are read."""
        if self._terminal and self._is_held() and (last := self._typed.rfind(3)) >= 0:
            del self._typed[:last]  # as a terminal does: what was typed before ^C and waits is forgotten
            while not self._lines.empty():
                self._lines.get_nowait()
            self._take_keys(1)
        if not self._is_held():
            self._take_keys(KEYS_A_TURN)
        if self._typed and self._next_turn is None and not self._is_held():
            self._next_turn = asyncio.get_running_loop().call_soon(self._read_on)
        if self._ended and not self._typed:
            self._ended = False
            self._lines.put_nowait(None)
        if self._typed and self._waiting is None and not self._can_write():
            self._waiting = asyncio.create_task(self._read_later())
        if bool(self._typed) != self._held:
            self._held = not self._held
            asyncio.get_running_loop().call_soon(self._hold if self._held else self._let_go)

    def _take_keys(self, most: int) -> None:
        """Take up to so many; from the front by position, for each byte that is removed moves all that follow it."""
        taken = 0
        for byte in bytes(self._typed[:most]):
            if taken and self._is_held():
                break
            self._key(byte)
            taken += 1
        del self._typed[:taken]

    def _read_on(self) -> None:
        self._next_turn = None
        self._read_keys()

    def _is_held(self) -> bool:
        return self._lines.qsize() >= LINES_MAX or not self._can_write()

    async def _read_later(self) -> None:
        with contextlib.suppress(OSError):  # nobody is there any more
            await self._wait_for_room()
            self._waiting = None
            self._read_keys()

    def _hold(self) -> None:
        if self._held and self._chan is not None:  # not while it delivers: see `relay`
            self._chan.pause_reading()

    def _let_go(self) -> None:
        if not self._held and self._chan is not None:
            self._chan.resume_reading()

    def _can_write(self) -> bool:
        return self._room.is_set() and self._keeper.valve.is_open()

    async def _wait_for_room(self) -> None:
        while not self._can_write():
            await self._room.wait()
            await self._keeper.valve.wait()

    def _key(self, byte: int) -> None:
        if self._escape:  # arrow keys and the like are swallowed: the prompt has no history
            self._escape = not 0x40 <= byte <= 0x7E or byte == ord("[")
        elif byte in (10, 13):
            self._write(b"\r\n" if self._terminal else b"")
            self._lines.put_nowait(_TOO_LONG if self._too_long else self._line.decode("utf-8", "replace"))
            self._forget_line()
        elif not self._terminal:
            self._append(byte)
        elif byte in (8, 127):
            if self._line:
                while self._line and self._line[-1] & 0xC0 == 0x80:
                    self._line.pop()
                self._line.pop()
                self._write(b"\b \b")
        elif byte == 3:
            self._forget_line()
            if self._can_write():
                self._write(b"^C\r\n" + (b"" if self._running else PROMPT.encode()))
            self._interrupt()
        elif byte == 4 and not self._line:
            self._lines.put_nowait(None)
        elif byte == 27:
            self._escape = True
        elif byte >= 32 and self._append(byte):
            self._write(bytes([byte]))

    def _append(self, byte: int) -> bool:
        """False when the line is full: then none of it is run, for its head alone may mean something else."""
        self._too_long = self._too_long or len(self._line) >= LINE_MAX
        if not self._too_long:
            self._line.append(byte)
        return not self._too_long

    def _forget_line(self) -> None:
        self._line.clear()
        self._too_long = False

    def _interrupt(self) -> None:
        if self._running is not None:
            self._interrupted = True
            self._running.cancel()

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
            try:
                await self._wait_for_room()
            except OSError:
                return  # nobody is there any more
            self._write(PROMPT.encode())
            line = await self._lines.get()
            self._read_keys()
            if isinstance(line, Answer):
                self._show(line)
                status = line.status
                continue
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
            words = split_words(text)
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
        if not self._can_write():
            return  # the next one says more
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
