"""The doors of an asset login: shell, exec and the sftp subsystem, each channel admitted, recorded and relayed.

Source: asyncssh.md 4 and 5, appendix B; security.md CHN-1, CHN-5.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import asyncssh

from broker.bastion.closing import REFUSED_EXIT, end_refused, end_refused_soon, keep_open_until_exit
from broker.bastion.environment import VARIABLES_MAX, dropped_environment, kept_environment
from broker.bastion.evidence import ChannelRecording, piece_size, size_piece
from broker.bastion.relay import Flow
from broker.bastion.sessions import AssetSession
from broker.bastion.transport import WINDOW_BYTES, Valve
from broker.bastion.upstream import UpstreamError
from broker.domain.capability import EXEC, SFTP_READ, SHELL, Capability
from broker.domain.ids import quoted
from broker.domain.live import Batch, Direction, Piece, Verb
from broker.domain.policy import Refusal
from broker.domain.session import ChannelKind, EndReason

log = logging.getLogger("broker.bastion")
_TERM: Final = re.compile(r"[A-Za-z0-9._+-]{1,64}")


@dataclass(frozen=True, slots=True)
class Opened:
    """One admitted channel: the session it belongs to, its number and its open recording."""

    session: AssetSession
    number: int
    recording: ChannelRecording
    greeting: str


class Admitter(Protocol):
    """What decides on a channel: the connection that the engineer logged in on."""

    valve: Valve

    async def admit(self, kind: ChannelKind, capability: Capability, command: str | None) -> Opened | Refusal: ...
    def channel_gone(self) -> None: ...
    def note(self, what: str, reason: str) -> None: ...
    def note_once(self, what: str, reason: str) -> bool: ...


class Door(asyncssh.SSHServerSession[bytes]):
    """One session channel of an engineer; refuses by a line on stderr and exit status 255, and dials nothing then."""

    def __init__(self, admitter: Admitter) -> None:
        self._admitter = admitter
        self._chan: asyncssh.SSHServerChannel[bytes] | None = None
        self._pty: tuple[str, tuple[int, int, int, int], Mapping[int, int]] | None = None
        self._up: list[Piece] = []
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
        self._feed(size_piece(width, height))

    def signal_received(self, signal: str) -> None:
        self._feed(Piece(Verb.SIGNAL, signal.encode("utf-8", "replace")[:32]))

    def break_received(self, msec: int) -> bool:
        self._feed(Piece(Verb.BREAK, str(msec).encode()))
        return True

    def pause_writing(self) -> None:
        if self.line is not None:
            self.line.down.close_room()

    def resume_writing(self) -> None:
        if self.line is not None:
            self.line.down.open_room()

    def connection_lost(self, exc: Exception | None) -> None:
        # Not while it is decided: the decision would be committed all the same, and nobody would close what it opened.
        self._gone = True
        if self._task is not None and self.line is not None:
            self._task.cancel()
        self._admitter.channel_gone()

    def _begin(self, kind: ChannelKind, capability: Capability, command: str | None) -> bool:
        if self._chan is None or self._task is not None:
            return False
        self._task = asyncio.create_task(self._run(self._chan, kind, capability, command))
        return True

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
            await line.relay(self._ask(kind, command), self._up)
        finally:
            opened.session.remove(line, "done" if line.exit_text else "connection lost")

    def _ask(self, kind: ChannelKind, command: str | None) -> dict[str, Any]:
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
        if kind is ChannelKind.EXEC:
            asked["command"] = command
        elif kind is ChannelKind.SFTP:
            asked["subsystem"] = "sftp"
        return asked


class RelayedChannel:
    """One admitted channel between an engineer and an asset: two flows, and how each piece is written at either end."""

    def __init__(self, chan: asyncssh.SSHServerChannel[bytes], opened: Opened, *, terminal: bool, valve: Valve) -> None:
        self.number = opened.number
        self.recording = opened.recording
        self._chan = chan
        self._session = opened.session
        self._terminal = terminal
        self._far: asyncssh.SSHClientChannel[bytes] | None = None
        self.exit_text: str | None = None
        record: Callable[..., bool] = opened.session.record
        self.up = Flow(opened.number, Direction.UP, record=record, send=self._send_up)
        self.down = Flow(opened.number, Direction.DOWN, record=record, send=self._send_down)
        self.up.attach(source=chan)
        self.down.attach(valve=valve)

    async def relay(self, asked: dict[str, Any], early: list[Piece]) -> None:
        """Dial, then carry both directions until the asset ends the channel; `exit_text` says how, None when cut."""
        pumping: list[asyncio.Task[None]] = []
        try:
            far = await self._open(asked)
            self.up.attach(valve=(await self._session.leg()).valve)
            self.down.attach(source=far)
            for piece in early:
                self.up.feed(piece)
            early.clear()
            self._chan.resume_reading()
            pumping = [asyncio.create_task(self.up.run()), asyncio.create_task(self.down.run())]
            await self._until_over(pumping)
        except UpstreamError as error:
            self.end(str(error))
            self._session.end(EndReason.ASSET_UNREACHABLE, str(error))
        except (OSError, asyncssh.Error) as error:
            log.info("session %s: channel %d ended: %s", self._session.id, self.number, type(error).__name__)
            self.end("the asset closed the connection")
        finally:
            for task in pumping:
                task.cancel()
            await asyncio.gather(*pumping, return_exceptions=True)
            if self._far is not None:
                self._far.abort()

    async def _open(self, asked: dict[str, Any]) -> asyncssh.SSHClientChannel[bytes]:
        leg = await self._session.leg()
        far, _ = await leg.conn.create_session(lambda: _FromAsset(self), encoding=None, window=WINDOW_BYTES, **asked)
        self._far = far
        return far

    async def _until_over(self, pumping: list[asyncio.Task[None]]) -> None:
        """Wait for the way down to end, or for either way to fail; the way up may end first and that is no end."""
        up, down = pumping
        over = asyncio.create_task(self._session.over.wait())
        try:
            done, _ = await asyncio.wait([up, down, over], return_when=asyncio.FIRST_COMPLETED)
            if up in done and down not in done and over not in done and up.exception() is None:
                done, _ = await asyncio.wait([down, over], return_when=asyncio.FIRST_COMPLETED)
            for task in (up, down):
                if task in done:
                    task.result()
        finally:
            over.cancel()

    # What the session calls
    def notify(self, text: str) -> None:
        """A word of the bastion's own beside the program's output."""
        self.say(f"\r\n[wicketgate] {text}" if self._terminal else f"wicketgate: {text}")

    def end(self, text: str) -> None:
        """The last line, then the exit."""
        self.say(f"\r\nwicketgate: {text}" if self._terminal else f"wicketgate: {text}")
        with contextlib.suppress(OSError):
            self._chan.exit(REFUSED_EXIT)

    def say(self, text: str) -> None:
        """One line on stderr; never on stdout, which belongs to the program."""
        with contextlib.suppress(OSError):
            self._chan.write_stderr(text.encode("utf-8", "replace") + (b"\r\n" if self._terminal else b"\n"))

    # How a piece is written
    def _send_up(self, piece: Piece) -> bool:
        far = self._far
        if far is None:
            raise BrokenPipeError("the asset's channel is not open")
        match piece.verb:
            case Verb.DATA:
                far.write(piece.data)
            case Verb.EOF:
                far.write_eof()
            case Verb.RESIZE:
                far.change_terminal_size(*piece_size(piece))
            case Verb.SIGNAL:
                far.send_signal(piece.data.decode("ascii", "replace"))
            case Verb.BREAK:
                far.send_break(int(piece.data))
            case Verb.STDERR | Verb.EXIT_STATUS | Verb.EXIT_SIGNAL:
                pass  # an engineer's side never says these
        return False

    def _send_down(self, piece: Piece) -> bool:
        match piece.verb:
            case Verb.DATA:
                self._chan.write(piece.data)
            case Verb.STDERR:
                self._chan.write_stderr(piece.data)
            case Verb.EOF:
                self._chan.write_eof()
            case Verb.EXIT_STATUS:
                self.exit_text = piece.data.decode()
                self._chan.exit(int(piece.data))
                return True
            case Verb.EXIT_SIGNAL:
                self.exit_text = f"signal {piece.data.decode('ascii', 'replace')}"
                self._chan.exit_with_signal(piece.data.decode("ascii", "replace"))
                return True
            case Verb.RESIZE | Verb.SIGNAL | Verb.BREAK:
                pass  # an asset never says these
        return False


class _FromAsset(asyncssh.SSHClientSession[bytes]):
    """The asset's side of one channel: everything it says becomes a piece of the way down."""

    def __init__(self, line: RelayedChannel) -> None:
        self._line = line
        self._end = Piece(Verb.EXIT_SIGNAL, b"HUP")  # closed without a status: the program was cut off

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._line.down.feed(Piece(Verb.DATA if datatype is None else Verb.STDERR, data))

    def eof_received(self) -> bool:
        self._line.down.feed(Piece(Verb.EOF))
        return True

    def exit_status_received(self, status: int) -> None:
        self._end = Piece(Verb.EXIT_STATUS, str(status & 0xFF).encode())

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self._end = Piece(Verb.EXIT_SIGNAL, signal.encode("ascii", "replace")[:32])

    def pause_writing(self) -> None:
        self._line.up.close_room()

    def resume_writing(self) -> None:
        self._line.up.open_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._line.up.open_room()
        self._line.down.feed(self._end)  # behind the data that is still queued


def refuse(chan: asyncssh.SSHServerChannel[bytes], refusal: Refusal) -> None:
    """Say no to a person who is entitled to the reason: one line on stderr, exit status 255."""
    end_refused(chan, refusal.reason.value + (f"; {refusal.hint}" if refusal.hint else ""))


def bounded_channel(
    conn: asyncssh.SSHServerConnection, note: Callable[[str], None]
) -> asyncssh.SSHServerChannel[bytes]:
    """A server channel that takes a few environment variables, not 40 MB of them, and refuses agent and X11 aloud.

    note: told what was asked for and refused. The private names of asyncssh's channel in use stand here.
    """
    chan: asyncssh.SSHServerChannel[bytes] = conn.create_server_channel(encoding=None, window=WINDOW_BYTES)
    take: Callable[..., bool] = chan._process_env_request
    left = 4 * VARIABLES_MAX

    def take_few(packet: Any) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and take(packet)

    def refuse_aloud(what: str) -> bool:
        note(what)
        with contextlib.suppress(OSError):  # the protocol's own no has no room for a reason
            chan.write_stderr(f"wicketgate: {what} is not granted here\r\n".encode())
        return False

    def refuse_agent(_packet: Any) -> bool:
        return refuse_aloud("agent forwarding")

    def refuse_x11(_packet: Any) -> bool:
        return refuse_aloud("X11 forwarding")

    keep_open_until_exit(chan)
    chan._process_env_request = take_few  # type: ignore[method-assign]
    chan._process_auth_agent_req_at_openssh_dot_com_request = refuse_agent  # type: ignore[method-assign, assignment]
    chan._process_x11_req_request = refuse_x11  # type: ignore[method-assign, assignment]
    return chan
