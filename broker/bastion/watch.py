"""Following the ledger: what people decide elsewhere reaches live sessions within one poll. No SQL per byte, none per tick."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from broker.bastion.sessions import AssetSession
from broker.domain.errors import BrokerError
from broker.domain.ids import SessionId
from broker.domain.live import Moved
from broker.domain.session import EndReason
from broker.gate import standing
from broker.store.db import Database

log = logging.getLogger("broker.bastion.watch")


class Watch:
    """One task: looks at the ledger's last number, and judges the live sessions anew when it has moved."""

    def __init__(self, db: Database, live: Mapping[SessionId, AssetSession], *, poll_s: float) -> None:
        self._db = db
        self._live = live
        self._poll_s = poll_s
        self._told_away = False

    async def run(self) -> None:
        """For ever. A database that is away changes nothing for running sessions: they keep their own copy of the end."""
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
            await asyncio.sleep(self._poll_s)

    async def _judge(self) -> None:
        wanted = [one for one, session in self._live.items() if session.live.ended is None]
        if not wanted:
            return
        judged = await self._db.look(standing, wanted)
        for session_id, verdict in judged.items():
            session = self._live.get(session_id)
            if session is None or session.live.ended is not None or verdict is None:
                continue
            if isinstance(verdict, EndReason):
                session.end(verdict)
            elif isinstance(verdict, Moved) and verdict.until != session.live.until:
                session.handle(verdict)
