"""One admitted channel between an engineer and an asset: two flows, and how each piece is written at either end.

Source: docs/rules.md, asyncssh and AST-3, AST-5.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import asyncssh

from broker.bastion.backlog import join_backlog
from broker.bastion.closing import REFUSED_EXIT
from broker.bastion.evidence import ChannelRecording, piece_signal, piece_size, signal_piece
from broker.bastion.picture import Picture, aside
from broker.bastion.relay import Flow
from broker.bastion.sessions import AssetSession
from broker.bastion.short_way import ShortWay
from broker.bastion.transport import PACKET_MIN_BYTES, WINDOW_BYTES, Valve
from broker.bastion.upstream import UpstreamError
from broker.domain.ids import quoted
from broker.domain.live import Direction, Piece, Verb
from broker.domain.session import EndReason

log = logging.getLogger("broker.bastion")
HALF_SENT_S: Final = 1.0
"""How long a word waits for the end of a sequence that the program has begun to send."""


@dataclass(frozen=True, slots=True)
class Opened:
    """One admitted channel: the session it belongs to, its number and its open recording."""

    session: AssetSession
    number: int
    recording: ChannelRecording
    greeting: str


class RelayedChannel:
    """One admitted channel between an engineer and an asset: two flows, and how each piece is written at either end."""

    def __init__(self, chan: asyncssh.SSHServerChannel[bytes], opened: Opened, *, terminal: bool, valve: Valve) -> None:
        self.number = opened.number
        self.recording = opened.recording
        self._chan = chan
        self._short_down = ShortWay(chan)
        self._short_up: ShortWay | None = None
        self._session = opened.session
        self._picture = Picture() if terminal else None
        self._aside: list[str] = []
        self._later: list[str] = []
        self._far: asyncssh.SSHClientChannel[bytes] | None = None
        self.exit_text: str | None = None
        record: Callable[..., bool] = opened.session.record
        self.up = Flow(opened.number, Direction.UP, record=record, send=self._send_up)
        self.down = Flow(opened.number, Direction.DOWN, record=record, send=self._send_down)
        self.up.attach(source=chan)
        self.down.attach(valve=valve)

    async def relay(self, asked: dict[str, Any]) -> None:
        """Dial, then carry both directions until the asset ends the channel; `exit_text` says how, None when cut."""
        pumping: list[asyncio.Task[None]] = []
        try:
            far = await self._open(asked)
            self.up.attach(valve=(await self._session.leg()).valve)
            self.down.attach(source=far)
            if not self.up.is_full:
                self._chan.resume_reading()
            pumping = [asyncio.create_task(self.up.run()), asyncio.create_task(self.down.run())]
            await self._until_over(pumping)
        except UpstreamError as error:
            self.end(str(error))
            self._session.end(EndReason.ASSET_UNREACHABLE, str(error))
        except asyncssh.ChannelOpenError as error:
            self.end(f"the asset refused the channel: {quoted(error.reason, longest=120)}")
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
        try:
            async with asyncio.timeout(self._session.open_timeout_s):
                far, _ = await leg.conn.create_session(
                    lambda: _FromAsset(self), encoding=None, window=WINDOW_BYTES, **asked
                )
        except TimeoutError:  # ends the session: a channel opened later would hold a window that nobody reads
            raise UpstreamError(f"{self._session.admission.asset.login} did not open the channel in time") from None
        self._far, self._short_up = far, ShortWay(far)
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
        """A word of the bastion's own beside the program's output: a line, or while the program has the whole screen a
        notification of the desktop now and the line when the program gives the screen back.
        """
        if self._picture is None:
            self.say(f"wicketgate: {text}")
            return
        self._aside.append(text)
        if self._picture.is_between:
            self._tell()
        else:
            asyncio.get_running_loop().call_later(HALF_SENT_S, self._tell)

    def stop_input(self) -> None:
        """Input is frozen: a person's keys are dropped, and a stream waits as before a slow asset, for it must have no hole."""
        if self._picture is None:
            self.up.hold()
        else:
            self.up.divert()

    def let_input(self) -> None:
        """Input is free again."""
        self.up.go_on()

    def end(self, text: str) -> None:
        """The last line, on the terminal's main screen whatever the program did to it, then the exit."""
        if self._picture is not None and (back := self._picture.leave()):
            with contextlib.suppress(OSError):
                self._chan.write(back)
        self.say(f"wicketgate: {text}" if self._picture is None else f"\r\nwicketgate: {text}")
        with contextlib.suppress(OSError):
            self._chan.exit(REFUSED_EXIT)

    def say(self, text: str) -> None:
        """One line on stderr; never on stdout, which belongs to the program."""
        with contextlib.suppress(OSError):
            self._chan.write_stderr(text.encode("utf-8", "replace") + (b"\n" if self._picture is None else b"\r\n"))

    def _tell(self) -> None:
        """Tell what waits, in the way that the terminal's screen allows now."""
        if self._picture is None or not (self._aside or self._later):
            return
        if not self._picture.is_full_screen:
            waiting, self._aside, self._later = [*self._later, *self._aside], [], []
            for text in waiting:
                self.say(f"\r\n[wicketgate] {text}")
            return
        waiting, self._aside = self._aside, []
        self._later = [*self._later, *waiting][-1:]  # the newest says all that is still true
        for text in waiting:
            with contextlib.suppress(OSError):
                self._chan.write(aside(text))  # where the program's own output goes, so that nothing is cut in two

    def _watch(self, data: bytes) -> None:
        """Follow what the terminal shows; what waited for another picture is told as soon as it may be."""
        if self._picture is not None:
            self._picture.feed(data)
            if (self._aside or self._later) and self._picture.is_between:
                self._tell()

    # How a piece is written
    def _send_up(self, piece: Piece) -> bool:
        far, short = self._far, self._short_up
        if far is None or short is None:
            raise BrokenPipeError("the asset's channel is not open")
        match piece.verb:
            case Verb.DATA:
                short.write(piece.data)
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
                self._short_down.write(piece.data)
                self._watch(piece.data)
            case Verb.STDERR:
                self._chan.write_stderr(piece.data)
            case Verb.EOF:
                self._chan.write_eof()
            case Verb.EXIT_STATUS:
                self.exit_text = piece.data.decode()
                self._chan.exit(int(piece.data))
                return True
            case Verb.EXIT_SIGNAL:
                signal, core_dumped, message = piece_signal(piece)
                self.exit_text = f"signal {signal}"
                self._chan.exit_with_signal(signal, core_dumped, message)
                return True
            case Verb.RESIZE | Verb.SIGNAL | Verb.BREAK:
                pass  # an asset never says these
        return False


class _FromAsset(asyncssh.SSHClientSession[bytes]):
    """The asset's side of one channel: everything it says becomes a piece of the way down."""

    def __init__(self, line: RelayedChannel) -> None:
        self._line = line
        self._end = signal_piece("HUP")  # closed without a status: the program was cut off

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        # Before the first request: an asset that takes next to nothing in a packet runs nothing. See `bounds`.
        if chan._send_pktsize < PACKET_MIN_BYTES:
            chan.abort()
            raise UpstreamError(f"the asset takes packets of {chan._send_pktsize} bytes, {PACKET_MIN_BYTES} at least")
        join_backlog(chan)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._line.down.feed(Piece(Verb.DATA if datatype is None else Verb.STDERR, data))

    def eof_received(self) -> bool:
        self._line.down.feed(Piece(Verb.EOF))
        return True

    def exit_status_received(self, status: int) -> None:
        self._end = Piece(Verb.EXIT_STATUS, str(status & 0xFF).encode())

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self._end = signal_piece(signal, core_dumped, msg)

    def pause_writing(self) -> None:
        self._line.up.close_room()

    def resume_writing(self) -> None:
        self._line.up.open_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._line.up.open_room()
        self._line.down.feed(self._end)  # behind the data that is still queued
