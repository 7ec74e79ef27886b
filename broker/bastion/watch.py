"""Following the ledger: what people decide elsewhere reaches live sessions within one poll. No SQL per byte, none per tick."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from typing import Protocol

from broker.bastion.sessions import AssetSession
from broker.domain.errors import BrokerError
from broker.domain.ids import SessionId
from broker.domain.live import Moved
from broker.domain.session import EndReason
from broker.gate import Proof, standing
from broker.store import people
from broker.store.db import Database, Tx
from broker.store.notices import Notice, notices

log = logging.getLogger("broker.bastion.watch")


class LoggedIn(Protocol):
    """A connection whose login is done."""

    proof: Proof | None

    @property
    def names_asset(self) -> bool: ...
    def cut(self) -> None: ...


class Watch:
    """One task: looks at the ledger's last number, and judges sessions and logins anew when it has moved."""

    def __init__(
        self,
        db: Database,
        live: Mapping[SessionId, AssetSession],
        logged_in: Collection[LoggedIn],
        *,
        poll_s: float,
    ) -> None:
        self._db = db
        self._live = live
        self._logged_in = logged_in
        self._poll_s = poll_s
        self._told_away = False

    async def run(self) -> None:
        """For ever, whatever goes wrong in one turn.

        A database that is away changes nothing for running sessions: they keep their own copy of the end.
        """
        mark = -1
        while True:
            try:
                moved = await asyncio.to_thread(self._db.change_mark)
                if moved != mark:
                    await self._judge()
                    mark = moved
                self._told_away = False
            except BrokerError as error:
                if not self._told_away:
                    log.warning("the ledger cannot be followed: %s", error.detail)
                    self._told_away = True
            except Exception:  # a watch that is dead would let nobody be ended any more
                log.exception("a turn of the watch failed")
            await asyncio.sleep(self._poll_s)

    async def _judge(self) -> None:
        await self._judge_sessions()
        await self._judge_logins()

    async def _judge_logins(self) -> None:
        """Cut the consoles of people and keys that may no longer be in; at an asset's door the gate says so to each channel."""
        found = {
            one: one.proof.key_fingerprint for one in self._logged_in if one.proof is not None and not one.names_asset
        }
        if not found:
            return
        standing_now = await self._db.look(people.standing_keys, set(found.values()))
        for connection, fingerprint in found.items():
            if fingerprint not in standing_now:
                connection.cut()

    async def _judge_sessions(self) -> None:
        wanted = [one for one, session in self._live.items() if session.live.ended is None]
        if not wanted:
            return
        judged, told = await self._db.look(_judged, wanted)
        for session_id, verdict in judged.items():
            session = self._live.get(session_id)
            if session is None or session.live.ended is not None:
                continue
            try:
                notice = told.get(session_id)
                if notice is not None:
                    _tell_frozen(session, notice)
                if isinstance(verdict, EndReason):
                    _end(session, verdict, notice)
                elif verdict.until != session.live.until:
                    session.handle(verdict)
            except Exception:  # one session's trouble must not keep the others alive
                log.exception("session %s could not be told", session_id)


def _judged(tx: Tx, wanted: list[SessionId]) -> tuple[dict[SessionId, EndReason | Moved], dict[SessionId, Notice]]:
    return standing(tx, wanted), notices(tx, wanted)


def _tell_frozen(session: AssetSession, notice: Notice) -> None:
    """Only a change of the row counts: this machine's own acts are live before they are rows."""
    if notice.frozen_at == session.frozen_row:
        return
    session.frozen_row = notice.frozen_at
    if notice.frozen_at is None:
        session.unfreeze()
    else:
        session.freeze(f"by {notice.frozen_by}")


def _end(session: AssetSession, reason: EndReason, notice: Notice | None) -> None:
    """The last line's words are those of whoever killed it, as the control socket's kill gives them."""
    if reason is not EndReason.KILLED or notice is None:
        session.end(reason)
    elif notice.killed is not None:
        session.end(reason, f"killed: {notice.killed}")
    elif notice.shut_out is not None:
        session.shut_out(notice.shut_out.scope, notice.shut_out.reason)
    else:
        session.end(reason)
