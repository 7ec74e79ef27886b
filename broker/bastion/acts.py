"""What the site's own machine may do to live sessions over the control socket, with web and database down (law 8).

The deed comes first and is kept behind it; facts are written in the order of the deeds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from broker import desk
from broker.bastion.sessions import AssetSession
from broker.domain.errors import BrokerError, Code
from broker.domain.ids import SessionId, parse_text, quoted
from broker.domain.session import EndReason
from broker.domain.suspension import Scope
from broker.store.db import Tx

KEPT_WITHIN_S: Final = 5.0
REASON_LONGEST: Final = 500
ANSWER_WITHIN_S: Final = 2.0
"""How long an answer waits for the database: the deed is done before."""
NOT_SAID: Final = "not said"


class Acts:
    """The acts of one bastion. live: its sessions; keep, chore, again: as the house has them."""

    def __init__(
        self,
        live: Mapping[SessionId, AssetSession],
        *,
        keep: Callable[..., Coroutine[Any, Any, None]],
        chore: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        again: asyncio.Event,
    ) -> None:
        self._live = live
        self._keep = keep
        self._chore = chore
        self._again = again
        self._turn = asyncio.Lock()
        self._unkept: set[asyncio.Task[None]] = set()

    def keep(self, fn: Callable[..., Any], /, **about: Any) -> asyncio.Task[None]:
        """Write what has been done behind what was done before, however long the database is away."""
        kept = self._chore(self._in_turn(fn, about))
        self._unkept.add(kept)
        kept.add_done_callback(self._unkept.discard)
        return kept

    async def kept(self) -> None:
        """An act that the database has not taken yet comes first, or the killed one could be back before it.

        Raises BrokerError(UNAVAILABLE).
        """
        if self._unkept:
            self._again.set()
            _, left = await asyncio.wait(set(self._unkept), timeout=KEPT_WITHIN_S)
            if left:
                raise BrokerError(Code.UNAVAILABLE, "an act of the site is not written yet")

    async def list_live(self, _asked: Mapping[str, str], _by: str) -> dict[str, Any]:
        """The live sessions as this process holds them, whatever the database says."""
        rows = [
            {
                "id": session.id,
                "state": "frozen" if session.live.frozen else "live",
                "grant": session.admission.grant_id,
                "person": session.admission.person.handle,
                "asset": session.admission.asset.login,
                "account": session.admission.account,
                "until": session.live.until.isoformat(),
                "channels": len(session.lines),
            }
            for session in self._live.values()
            if session.live.ended is None
        ]
        return {"sessions": rows}

    async def kill(self, asked: Mapping[str, str], by: str) -> dict[str, Any]:
        """End a live session, or all of a scope, then keep the act. Raises BrokerError(NOT_FOUND, INVALID)."""
        if "scope" in asked:
            return await self._kill_scope(asked, by)
        reason = parse_text(asked.get("reason", ""), what="reason", longest=REASON_LONGEST)
        session = self._session(asked)
        session.end(EndReason.KILLED, f"killed: {reason}", by=by)
        self.keep(desk.kill, session_id=session.id, by=by, reason=reason, door="cli")
        return {"id": session.id, "state": "killed"}

    async def _kill_scope(self, asked: Mapping[str, str], by: str) -> dict[str, Any]:
        """End what belongs to the scope, then shut it out; until that is written nobody is admitted here at all."""
        reason = parse_text(asked.get("reason", ""), what="reason", longest=REASON_LONGEST)
        scope, name = _scope(asked["scope"]), asked.get("name", "")
        found = [one for one in self._live.values() if one.live.ended is None and one.names[scope] == name]
        for session in found:
            session.shut_out(scope, reason, by=by)
        refused: list[BrokerError] = []

        def suspend(tx: Tx) -> None:
            try:
                desk.suspend(tx, scope=scope, name=name, by=by, reason=reason, door="cli")
            except BrokerError as error:
                refused.append(error)
                raise

        done, _ = await asyncio.wait({self.keep(suspend)}, timeout=ANSWER_WITHIN_S)
        if refused:
            raise refused[0]
        return {"id": name, "scope": scope.value, "state": "suspended", "ended": len(found), "kept": bool(done)}

    async def freeze(self, asked: Mapping[str, str], by: str) -> dict[str, Any]:
        """Stop a live session's input, then keep the act. Raises BrokerError(NOT_FOUND, INVALID)."""
        said = parse_text(asked.get("reason", ""), what="reason", longest=REASON_LONGEST, required=False)
        session = self._session(asked)
        session.freeze(said or f"by {by}")
        self.keep(desk.freeze, session_id=session.id, by=by, reason=said or NOT_SAID, door="cli")
        return {"id": session.id, "state": "frozen"}

    async def unfreeze(self, asked: Mapping[str, str], by: str) -> dict[str, Any]:
        """Let a live session's input through again, then keep the act. Raises BrokerError(NOT_FOUND, CONFLICT)."""
        session = self._session(asked)
        session.unfreeze()
        self.keep(desk.unfreeze, session_id=session.id, by=by, door="cli")
        if session.live.frozen:
            raise BrokerError(
                Code.CONFLICT, "the session stays frozen: its site is isolated; see: wicketgate isolation"
            )
        return {"id": session.id, "state": "live"}

    def _session(self, asked: Mapping[str, str]) -> AssetSession:
        session = self._live.get(SessionId(asked.get("session", "")))
        if session is None or session.live.ended is not None:
            raise BrokerError(Code.NOT_FOUND, f"no live session {asked.get('session', '')[:40]!a}")
        return session

    async def _in_turn(self, fn: Callable[..., Any], about: Mapping[str, Any]) -> None:
        async with self._turn:
            await self._keep(fn, **about)


def _scope(text: str) -> Scope:
    try:
        return Scope(text)
    except ValueError:
        raise BrokerError(Code.INVALID, f"no such scope: {quoted(text)}") from None
