"""The doors of an asset login: shell, exec and the sftp subsystem, each channel admitted, recorded and relayed.

Source: docs/rules.md, asyncssh and CHN-1, CHN-5.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, Final, Protocol

import asyncssh

from broker.bastion.bounds import REQUESTS_A_SECOND_MAX, Pace, command_bytes
from broker.bastion.channel import Opened, RelayedChannel
from broker.bastion.closing import end_refused, end_refused_soon
from broker.bastion.environment import dropped_environment, kept_environment
from broker.bastion.evidence import size_piece
from broker.bastion.transport import Valve
from broker.domain.capability import EXEC, SFTP_READ, SHELL, Capability
from broker.domain.ids import quoted
from broker.domain.live import Batch, Direction, Piece, Verb
from broker.domain.policy import Refusal
from broker.domain.session import ChannelKind

_TERM: Final = re.compile(r"[A-Za-z0-9._+-]{1,64}")


class Admitter(Protocol):
    """What decides on a channel: the connection that the engineer logged in on."""

    valve: Valve

    async def admit(self, kind: ChannelKind, capability: Capability, command: str | None) -> Opened | Refusal: ...
    def channel_begun(self) -> None: ...
    def channel_gone(self, *, begun: bool) -> None: ...
    def note(self, what: str, reason: str) -> None: ...
    def note_once(self, what: str, reason: str) -> bool: ...


class Door(asyncssh.SSHServerSession[bytes]):
    """One session channel of an engineer; refuses by a line on stderr and exit status 255, and dials nothing then."""

    def __init__(self, admitter: Admitter) -> None:
        self._admitter = admitter
        self._chan: asyncssh.SSHServerChannel[bytes] | None = None
        self._pty: tuple[str, tuple[int, int, int, int], Mapping[int, int]] | None = None
        self._up: list[Piece] = []
        self._pace = Pace(REQUESTS_A_SECOND_MAX, self._ask_again)
        self._late_size: Piece | None = None
        self._task: asyncio.Task[None] | None = None
        self._gone = False
        self.line: RelayedChannel | None = None

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._chan = chan

    def pty_requested(
        self, term_type: str, term_size: tuple[int, int, int, int], term_modes: Mapping[int, int]
    ) -> bool:
        if not _TERM.fullmatch(term_type or "dumb") or len(term_modes) > 64:
            return False
        self._pty = (term_type or "dumb", term_size, term_modes)
        return True

    def shell_requested(self) -> bool:
        return self._begin(ChannelKind.SHELL, SHELL, None)

    def exec_requested(self, command: str) -> bool:
        if not command:  # asyncssh asks the asset for a shell then, and a shell is another capability
            self._admitter.note("exec", "an empty command")
            return end_refused_soon(self._chan, "an empty command is not run; without a command ssh asks for a shell")
        return self._begin(ChannelKind.EXEC, EXEC, command)

    def subsystem_requested(self, subsystem: str) -> bool:
        if subsystem != "sftp":
            self._admitter.note(f"subsystem {subsystem}", "not granted here")
            return end_refused_soon(self._chan, f"subsystem {quoted(subsystem)} is not granted here")
        # Passed through as bytes, so the connection asks for sftp-write beside sftp-read.
        return self._begin(ChannelKind.SFTP, SFTP_READ, None)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._feed(Piece(Verb.DATA, data))

    def eof_received(self) -> bool:
        self._feed(Piece(Verb.EOF))
        return True  # the other half stays open

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        # Neither windowed nor bounded by the protocol. Refused: ending the channel, for a window that is dragged sends as many.
        self._late_size = size_piece(width, height)
        self._ask_again()

    def signal_received(self, signal: str) -> None:
        self._ask(Piece(Verb.SIGNAL, signal.encode("utf-8", "replace")[:32]))

    def break_received(self, msec: int) -> bool:
        return self._ask(Piece(Verb.BREAK, str(msec).encode()))

    def pause_writing(self) -> None:
        if self.line is not None:
            self.line.down.close_room()

    def resume_writing(self) -> None:
        if self.line is not None:
            self.line.down.open_room()

    def connection_lost(self, exc: Exception | None) -> None:
        # Not while it is decided: the decision would be committed all the same, and nobody would close what it opened.
        self._gone, self._late_size = True, None
        if self._task is not None and self.line is not None:
            self._task.cancel()
        self._admitter.channel_gone(begun=self._task is not None)

    def _begin(self, kind: ChannelKind, capability: Capability, command: str | None) -> bool:
        if self._chan is None or self._task is not None:
            return False
        self._admitter.channel_begun()
        self._task = asyncio.create_task(self._run(self._chan, kind, capability, command))
        return True

    def _ask(self, piece: Piece) -> bool:
        """Pass on what the client asks of the program, unless it asks too fast or the asset takes no more."""
        if self._may_ask():
            self._feed(piece)
            return True
        self._admitter.note_once(f"{piece.verb.value}s", f"more than {REQUESTS_A_SECOND_MAX} requests a second")
        return False

    def _ask_again(self) -> None:
        """Pass on the terminal's newest size, the only one that counts, as soon as it may be."""
        if self._late_size is not None and self._may_ask():
            piece, self._late_size = self._late_size, None
            self._feed(piece)

    def _may_ask(self) -> bool:
        return self._pace.may() and not (self.line is not None and self.line.up.is_full)

    def _feed(self, piece: Piece) -> None:
        if self.line is not None:
            self.line.up.feed(piece)
        elif self._task is not None or piece.verb is not Verb.DATA:
            # Before the decision: bounded by the window, for nothing is consumed until the channel is admitted.
            self._up.append(piece)

    async def _run(
        self, chan: asyncssh.SSHServerChannel[bytes], kind: ChannelKind, capability: Capability, command: str | None
    ) -> None:
        chan.pause_reading()
        opened = await self._admitter.admit(kind, capability, command)
        if isinstance(opened, Refusal):
            refuse(chan, opened)
            return
        line = self.line = RelayedChannel(chan, opened, terminal=self._pty is not None, valve=self._admitter.valve)
        opened.session.add(line)
        for piece in self._up:  # before whatever arrives from now on
            line.up.feed(piece)
        self._up.clear()
        try:
            if self._gone:
                return
            if opened.greeting:
                line.say(opened.greeting)
            if (dropped := dropped_environment(chan)) and self._admitter.note_once("environment", dropped):
                line.say(f"wicketgate: not passed on: {dropped}; an asset is given LANG, LC_* and TERM")
            if self._pty is not None:
                # The size that a terminal begins with comes with the request for it, and belongs to the picture.
                opened.session.record(Batch(line.number, Direction.UP, (size_piece(*self._pty[1][:2]),)))
            await line.relay(self._wish(kind, command))
        finally:
            opened.session.remove(line, "done" if line.exit_text else "connection lost")

    def _wish(self, kind: ChannelKind, command: str | None) -> dict[str, Any]:
        """What the asset is asked for, as create_session takes it."""
        asked: dict[str, Any] = {"request_pty": False}
        if self._pty is not None:
            term_type, term_size, term_modes = self._pty
            asked = {
                "request_pty": "force",
                "term_type": term_type,
                "term_size": term_size,
                "term_modes": dict(term_modes),
            }
        if self._chan is not None:
            asked["env"] = kept_environment(self._chan)
        if command is not None:
            asked["command"] = command_bytes(command)
        elif kind is ChannelKind.SFTP:
            asked["subsystem"] = "sftp"
        return asked


def refuse(chan: asyncssh.SSHServerChannel[bytes], refusal: Refusal) -> None:
    """Say no to a person who is entitled to the reason: one line on stderr, exit status 255."""
    end_refused(chan, refusal.reason.value + (f"; {refusal.hint}" if refusal.hint else ""))
