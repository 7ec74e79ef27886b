"""One SSH connection of an engineer: what it may open, and the session it becomes when its login names an asset.

Source: docs/rules.md CHN-1 to CHN-5, PRE-4, PRE-5, asyncssh.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NoReturn, Protocol
from zoneinfo import ZoneInfo

import asyncssh

from broker.bastion.answers import Desk
from broker.bastion.bounds import bounded_channel
from broker.bastion.channel import Opened
from broker.bastion.console import Console
from broker.bastion.doors import Admitter, Door
from broker.bastion.login import House, Login
from broker.bastion.sessions import AssetSession
from broker.bastion.transport import Valve, prepare
from broker.domain.capability import SFTP_WRITE, Capability
from broker.domain.errors import BrokerError
from broker.domain.ids import Login as AssetLogin
from broker.domain.ids import SessionId, parse_login
from broker.domain.penalty import Offence
from broker.domain.policy import Reason, Refusal
from broker.domain.session import ChannelKind, EndReason
from broker.gate import Entered, Proof
from recorder.writer import RecordingFailed

log = logging.getLogger("broker.bastion")
_AWAY: Final = Refusal(Reason.CANNOT_RECORD, "temporarily unavailable; try again in a minute")


class Bastion(Protocol):
    """What a connection asks of the running bastion beside the login."""

    channels_max: int
    refused_max: int
    idle_s: float
    login_s: float
    banner: str

    @property
    def judge(self) -> House: ...
    @property
    def desk(self) -> Desk: ...
    def arrived(self, connection: Connection) -> bool: ...
    def logged_in(self, connection: Connection) -> None: ...
    def went(self, connection: Connection) -> None: ...
    async def enter(
        self, proof: Proof, login: AssetLogin, wish: Wish, session_id: SessionId | None
    ) -> Entered | Refusal: ...
    def make_session(self, connection: Connection, entered: Entered) -> AssetSession: ...
    def refused(self, proof: Proof, asked: str, what: str, reason: str) -> None: ...
    def not_recorded(self, session: AssetSession, channel: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Wish:
    """What one channel asks for."""

    kind: ChannelKind
    capability: Capability
    command: str | None
    also: frozenset[Capability] = frozenset()


class Connection(Login, Admitter):
    """The server side of one connection: login, then console or doors; everything else is refused with a reason."""

    def __init__(self, bastion: Bastion) -> None:
        super().__init__(bastion.judge)
        self.bastion = bastion
        self.session: AssetSession | None = None
        self._channels = self._begun = 0
        self._refused = 0
        self._entering = asyncio.Lock()
        self._watch: asyncio.TimerHandle | None = None
        self.offence = Offence.NO_TRY
        self._told = False
        self._lost: EndReason | None = None
        self._welcomed = False
        self._noted: set[str] = set()

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        super().connection_made(conn)
        # A listener of both families shows an IPv4 peer as IPv6, and asyncssh holds that against a certificate's source-address.
        conn._peer_addr = self.source
        # asyncssh would refuse what a certificate's extensions leave out before it asks, without our reason and our entry.
        conn.check_certificate_permission = _ask_us  # type: ignore[method-assign, assignment]
        self.valve = Valve(conn)
        prepare(conn)
        if not self.bastion.arrived(self):
            conn.abort()  # no byte is sent; connection_lost follows
            return
        # asyncssh's own login timeout does not cover what a validator waits for; this one covers everything.
        self._watch = asyncio.get_running_loop().call_later(self.bastion.login_s, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self.valve.open_for_good()
        if self.offence is not Offence.TOO_SLOW:
            self.offence = self.offence_of(exc)
        self.bastion.went(self)
        if self._watch is not None:
            self._watch.cancel()
        self._lost = EndReason.DONE if exc is None else EndReason.CONNECTION_LOST
        if self.session is not None:
            self.session.finish(self._lost)

    def begin_auth(self, username: str) -> bool:
        good = super().begin_auth(username)
        if self.bastion.banner and self.conn is not None and not self._welcomed:
            self._welcomed = True
            self.conn.send_auth_banner(f"{self.bastion.banner}\r\n")  # to everybody alike, before any proof
        return good

    def auth_completed(self) -> None:
        super().auth_completed()
        if self.proof is None:
            self.cut()
            return
        self.bastion.logged_in(self)
        self._await_channel()

    def cut(self) -> None:
        """Close the connection now."""
        if self.conn is not None:
            self.conn.abort()

    # What may be opened
    def session_requested(self) -> Any:
        proof = self._who()
        if self._channels >= self.bastion.channels_max:
            self._no("session", "too many channels", asyncssh.OPEN_RESOURCE_SHORTAGE)
        if self.conn is None:
            self._no("session", "closed")
        self._channels += 1
        chan = bounded_channel(self.conn, note=self.note, unopened=lambda: self.channel_gone(begun=False))
        return chan, Door(self) if self.names_asset else Console(self.bastion.desk, proof, self)

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> Any:
        self._no("direct-tcpip", "forwards are not granted here")

    def unix_connection_requested(self, dest_path: str) -> Any:
        self._no("direct-streamlocal", "forwards are not granted here")

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        self.note("tcpip-forward", "forwards are not granted here")
        return False

    def unix_server_requested(self, listen_path: str) -> bool:
        self.note("streamlocal-forward", "forwards are not granted here")
        return False

    def tun_requested(self, unit: int | None) -> Any:
        self._no("tun", "tunnels are not granted here")

    def tap_requested(self, unit: int | None) -> Any:
        self._no("tap", "tunnels are not granted here")

    @property
    def names_asset(self) -> bool:
        """Whether the login is an asset's name; every other one opens the console.

        Told by its form, or by the person's own grants: a look at all assets would tell a stranger which exist (law 7).
        """
        if self.login is None or self.proof is None or self.login == self.proof.handle:
            return False
        try:
            wanted = parse_login(self.login)
        except BrokerError:
            return False
        return wanted.site is not None or wanted.account is not None or wanted.asset in self.proof.short_names

    # Admission
    async def admit(self, kind: ChannelKind, capability: Capability, command: str | None) -> Opened | Refusal:
        """Decide on one channel, open its recording, join it to the session; nothing is dialled yet."""
        also = frozenset({SFTP_WRITE}) if kind is ChannelKind.SFTP else frozenset[Capability]()
        try:
            async with self._entering:  # the first channel makes the session, the others join it
                entered = await self._enter(Wish(kind, capability, command, also))
                if isinstance(entered, Refusal):
                    self._count_refused()
                    return entered
                if self.session is None:
                    self.session = self.bastion.make_session(self, entered)
                    if self._lost is not None:  # gone while it was decided: what was opened is closed again
                        asyncio.get_running_loop().call_soon(self.session.finish, self._lost)
            opening = {"kind": kind.value, "asset": entered.admission.asset.id, "account": entered.admission.account}
            opening |= {"command": command} if command is not None else {}
            session = self.session
            try:
                recording = await session.open_recording(entered.channel, kind, opening)
            except RecordingFailed as error:
                log.error("session %s: a recording could not be opened: %s", session.id, error)
                if session.lines:  # all of what goes on is recorded: only what cannot be is refused
                    self.bastion.not_recorded(session, entered.channel)
                else:
                    session.end(EndReason.NOT_RECORDED, "the session cannot be recorded")
                return Refusal(Reason.CANNOT_RECORD, "tell the site")
            if recording is None:
                return Refusal(Reason.OVER, "the session has ended; connect again")
        except BrokerError as error:
            log.warning("a channel could not be decided on: %s", error.detail)
            return _AWAY
        except Exception:
            log.exception("a channel could not be decided on")
            return _AWAY
        return Opened(session, entered.channel, recording, self._greeting(entered))

    async def _enter(self, wish: Wish) -> Entered | Refusal:
        proof = self._who()
        if self.session is not None and self.session.live.ended is not None:
            return Refusal(Reason.OVER, "the session has ended; connect again")
        return await self.bastion.enter(
            proof, parse_login(self.login or ""), wish, None if self.session is None else self.session.id
        )

    def _greeting(self, entered: Entered) -> str:
        told, self._told = self._told, True
        if told:
            return ""
        until = entered.admission.until
        return (
            f"wicketgate: {entered.admission.asset.login} as {entered.admission.account}, grant {entered.grant.id}, "
            f"until {_local(until, entered.site.time_zone)} ({until:%H:%M} UTC); this session is recorded"
        )

    # Counting and refusing
    def channel_begun(self) -> None:
        """A channel has asked for a shell, a command or a transfer; until then it holds no connection open."""
        self._begun += 1
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def channel_gone(self, *, begun: bool) -> None:
        """A channel is over; a connection on which none goes on is closed after a while."""
        self._channels -= 1
        if begun:
            self._begun -= 1
            if self._begun == 0:
                self._await_channel()

    def _await_channel(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._watch = asyncio.get_running_loop().call_later(self.bastion.idle_s, self._too_slow)

    def _too_slow(self) -> None:
        self._watch = None
        if not self.is_in:
            self.offence = Offence.TOO_SLOW
        if not self.is_in or self._begun == 0:
            self.cut()

    def _who(self) -> Proof:
        if self.proof is None or not self.is_in:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "not logged in")
        return self.proof

    def _no(self, what: str, reason: str, code: int = asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED) -> NoReturn:
        self.note(what, reason)
        raise asyncssh.ChannelOpenError(code, reason)

    def note_once(self, what: str, reason: str) -> bool:
        """Keep a no that a client repeats with every channel: once a connection, and it does not end it. True the first time."""
        first = what not in self._noted
        self._noted.add(what)
        if first and self.proof is not None:
            self.bastion.refused(self.proof, self.login or "", what, reason)
        return first

    def note(self, what: str, reason: str) -> None:
        """Keep a no that no grant could make a yes; too many of them end the connection."""
        if self.proof is not None and self.is_in:
            self.bastion.refused(self.proof, self.login or "", what, reason)
        self._count_refused()

    def _count_refused(self) -> None:
        self._refused += 1
        if self._refused > self.bastion.refused_max:
            self.cut()


def _ask_us(_permission: str) -> bool:
    return True


def _local(instant: datetime, zone: str) -> str:
    return f"{instant.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M:%S %Z}"
