"""The running bastion: what logins, doors and the control socket ask of it, and the rows that follow from what happens."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from broker.bastion.acts import Acts
from broker.bastion.answers import Desk
from broker.bastion.arrivals import Places
from broker.bastion.clock_alarm import ClockAlarm
from broker.bastion.connection import Connection, Wish
from broker.bastion.evidence import Place
from broker.bastion.isolating import Isolating
from broker.bastion.judge import Judge, came_in
from broker.bastion.sessions import AssetSession, Ending, Line
from broker.bastion.strangers import Strangers
from broker.bastion.upstream import AssetLeg, HostKeyMismatch, UpstreamError, dial
from broker.clock import Clock, moment, wall_ms
from broker.domain.audit import HostKeyChanged, RecordingFailed
from broker.domain.errors import BrokerError, Code
from broker.domain.ids import Login as AssetLogin
from broker.domain.ids import SessionId
from broker.domain.isolation import Level
from broker.domain.live import LiveSession
from broker.domain.policy import Admission, Reason, Refusal
from broker.domain.session import EndReason
from broker.gate import Entered, Limits, Proof, enter, leave, leave_channel, record_refusal
from broker.identity import Seal
from broker.settings import Home, Settings
from broker.signer.client import SignerClient
from broker.signer.trusted import TrustedKeys
from broker.store import ledger
from broker.store.db import Database
from recorder.writer import GroupSync, SessionClock, StreamWriter, free_space
from recorder.writer import RecordingFailed as WriterFailed

log = logging.getLogger("broker.bastion")
RETRY_S: Final = (0.2, 1.0, 5.0, 15.0)
"""Waits between tries of writing a fact; the last one for ever."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Which machine this is, and which start of it, for rows and recordings."""

    node: str
    boot: str


class RunningBastion:
    """One process's live state; everything that outlives it is in the database or in the recordings."""

    def __init__(
        self, home: Home, settings: Settings, clock: Clock, db: Database, machine: Machine, gate_ca: TrustedKeys
    ) -> None:
        self.live_sessions: dict[SessionId, AssetSession] = {}
        self.signer = SignerClient(home.signer_socket)
        self.port = 0
        self.channels_max = settings.channels_per_connection_max
        self.refused_max = settings.refused_channels_max
        self.idle_s = settings.idle_without_channel_s
        self.login_s = settings.login_timeout_s
        self.banner = settings.site_banner
        self.db = db
        self.clock = clock
        self.settings = settings
        self._home = home
        self._machine = machine
        self._limits = Limits(
            most_sessions=settings.sessions_per_grant_max,
            most_of_engineer=settings.sessions_per_engineer_max,
            most_of_asset=settings.sessions_per_asset_max,
            longest_session=timedelta(seconds=settings.longest_session_s),
            clock_tolerance=timedelta(seconds=settings.clock_tolerance_s),
        )
        self.clock_alarm = ClockAlarm(db, machine.node, self._limits)
        self.judge = Judge(db, clock, settings, Seal(home.read_seal_key()), gate_ca, self.clock_alarm)
        places = Places(
            most=settings.unauthenticated_max,
            kept=settings.unauthenticated_kept,
            early=settings.unauthenticated_early,
            per_source=settings.unauthenticated_per_source_max,
        )
        self.strangers = Strangers(db, clock, places, settings.penalty_exempt)
        self.logged_in_now: set[Connection] = set()
        self.isolating = Isolating(home, settings, clock, db, self.live_sessions, self.cut_everybody)
        self._again = asyncio.Event()
        self._chores: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self.acts = Acts(self.live_sessions, keep=self.keep, chore=self.chore, again=self._again)
        self.sync = GroupSync(self._sync_failed)

    @property
    def desk(self) -> Desk:
        """What the console works on."""
        return Desk(self.db, self.clock, self.settings, self.signer, self.port)

    # Connections before and after login
    def arrived(self, connection: Connection) -> bool:
        """Count a connection that has not logged in; False when there is no room for it. Source: PRE-4."""
        return self.strangers.take(connection, connection.source)

    def logged_in(self, connection: Connection) -> None:
        """The connection is somebody's now; it no longer takes a stranger's place."""
        self.strangers.logged_in(connection, connection.source)
        self.logged_in_now.add(connection)
        if connection.proof is not None and connection.proof.factors == "certificate":
            self.chore(self.keep(came_in, connection.proof))

    def went(self, connection: Connection) -> None:
        """The connection is gone."""
        self.strangers.went(connection, connection.source, connection.offence)
        self.logged_in_now.discard(connection)

    def cut_everybody(self) -> None:
        """End every connection now, logged in or not."""
        for connection in [*self.logged_in_now, *self.strangers.all()]:
            if isinstance(connection, Connection):
                connection.cut()

    # Doors
    async def enter(
        self, proof: Proof, login: AssetLogin, wish: Wish, session_id: SessionId | None
    ) -> Entered | Refusal:
        """One decision at the gate, rows and ledger with it. Raises BrokerError(UNAVAILABLE): doubt closes."""
        if self.isolating.ladder.level(None) >= Level.FROZEN:  # known without the database
            self.refused(proof, login.asset, str(wish.capability), Reason.ISOLATED.value)
            return Refusal(Reason.ISOLATED, "no session is admitted; ask the site owner")
        await self.acts.kept()
        decided: Entered | Refusal = await self.db.run(
            enter,
            proof=proof,
            login=login,
            capability=wish.capability,
            also=wish.also,
            kind=wish.kind,
            command=wish.command,
            session_id=session_id,
            node=self._machine.node,
            can_record=self.can_record(),
            frozen=self._is_frozen(session_id),
            limits=self._limits,
            ladder=self.isolating.ladder,
        )
        if isinstance(decided, Refusal) and decided.reason is Reason.CLOCK_BEHIND:
            await self.clock_alarm.look()
        return decided

    def _is_frozen(self, session_id: SessionId | None) -> bool:
        session = None if session_id is None else self.live_sessions.get(session_id)
        return session is not None and session.live.stopped

    def can_record(self) -> bool:
        """Whether there is room above the floor for a new session."""
        try:
            left = free_space(self._home.recordings)
        except OSError:
            return False
        return (
            left.bytes_free >= self.settings.free_space_floor_bytes
            and left.fraction_free >= self.settings.free_space_floor_fraction
        )

    def make_session(self, connection: Connection, entered: Entered) -> AssetSession:
        """The live half of a session whose row has just been made."""
        admission, session_id = entered.admission, entered.session_id
        place = Place(
            folder=self._home.recordings / entered.folder,
            session_id=session_id,
            node=self._machine.node,
            boot=self._machine.boot,
            clock=SessionClock(self.clock.monotonic_us),
            wall_ms=lambda: wall_ms(self.clock),
            sync=self.sync,
        )
        session = AssetSession(
            session_id,
            admission,
            place,
            self.clock,
            LiveSession(admission, started=moment(self.clock), warn_before=self.settings.warn_before),
            names=entered.names,
            open_timeout_s=self.settings.open_timeout_s,
            dial=lambda: self._dial(admission, session_id),
            cut=connection.cut,
            chore=self.chore,
            closed=self._channel_closed,
            ended=self._session_ended,
        )
        self.live_sessions[session_id] = session
        self._loop.call_soon(self.isolating.judge, session)  # it was decided before the site was isolated
        return session

    def refused(self, proof: Proof, asked: str, what: str, reason: str) -> None:
        """Keep a no that no grant could have made a yes."""
        self.chore(self.keep(record_refusal, proof=proof, asked=asked, capability=what, reason=reason))

    def not_recorded(self, session: AssetSession, channel: int) -> None:
        """Keep that a further channel of a session could not be recorded and was refused."""
        self.chore(self.keep(ledger.append, RecordingFailed(session_id=session.id, why="a channel's recording")))
        self.chore(
            self.keep(leave_channel, session_id=session.id, channel=channel, state="interrupted", exit=None, heads=())
        )

    async def _dial(self, admission: Admission, session_id: SessionId) -> AssetLeg:
        try:
            return await dial(
                admission,
                session_id,
                self.signer,
                dial_timeout_s=self.settings.dial_timeout_s,
                open_timeout_s=self.settings.open_timeout_s,
            )
        except HostKeyMismatch as error:
            alarm = HostKeyChanged(
                session_id=session_id,
                asset_id=admission.asset.id,
                pinned=admission.asset.host_key or "",
                shown=error.shown,
            )
            self.chore(self.keep(ledger.append, alarm))
            log.error("session %s: the host key of %s has changed", session_id, admission.asset.login)
            raise
        except BrokerError as error:
            if error.code is Code.FORBIDDEN:
                raise UpstreamError(f"the signer refused: {error.detail}") from error
            raise UpstreamError("the signer does not answer; try again in a minute") from error

    # Ends
    def _channel_closed(self, session: AssetSession, line: Line) -> None:
        self.chore(
            self.keep(
                leave_channel,
                session_id=session.id,
                channel=line.number,
                state="closed" if line.recording.sealed else "interrupted",
                exit=line.exit_text,
                heads=line.recording.heads,
            )
        )

    def _session_ended(self, session: AssetSession, ending: Ending) -> None:
        log.info("session %s ended: %s", session.id, ending.reason.value)
        if ending.reason is EndReason.NOT_RECORDED:
            self.chore(self.keep(ledger.append, RecordingFailed(session_id=session.id, why="write failed")))
        self.chore(self._leave(session, ending))

    async def _leave(self, session: AssetSession, ending: Ending) -> None:
        await session.settled()
        await self.keep(leave, session_id=session.id, reason=ending.reason, by=ending.by, heads=tuple(session.heads))
        self.live_sessions.pop(session.id, None)

    def _sync_failed(self, writer: StreamWriter, error: WriterFailed) -> None:
        self._loop.call_soon_threadsafe(self._end_unrecorded, writer)

    def _end_unrecorded(self, writer: StreamWriter) -> None:
        for session in list(self.live_sessions.values()):
            if session.place.folder == writer.path.parent:
                session.end(EndReason.NOT_RECORDED, "the session cannot be recorded (disk)")

    async def drain(self, within_s: float) -> None:
        """End every session, and wait for what is still to be written."""
        for session in list(self.live_sessions.values()):
            session.end(EndReason.SHUT_DOWN)
        try:
            async with asyncio.timeout(within_s):
                while self._chores:
                    await asyncio.wait(set(self._chores))
        except TimeoutError:
            log.warning("%d facts could not be written before the end; the next start closes them", len(self._chores))

    def chore(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something that must be finished although nobody waits for it."""
        task = self._loop.create_task(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)
        return task

    async def keep(self, fn: Any, /, *args: Any, **kwargs: Any) -> None:
        """Write a fact that has already happened; retried for as long as the database is away, for it stays true."""
        for wait_s in itertools.chain(RETRY_S, itertools.repeat(RETRY_S[-1])):
            try:
                await self.db.run(fn, *args, **kwargs)
                return
            except BrokerError as error:
                if error.code is not Code.UNAVAILABLE:
                    log.error("a fact could not be written: %s", error.detail)
                    return
                log.warning("a fact waits to be written: %s", error.detail)
                await self._rest(wait_s)
            except Exception:
                log.exception("a fact could not be written")
                return

    async def _rest(self, wait_s: float) -> None:
        self._again.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._again.wait()
