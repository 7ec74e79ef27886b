"""Holds: an owner's word that a live session may go on beyond its grant; rows only, and how far they reach together."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from broker.domain.hold import Hold
from broker.domain.ids import PersonId, SessionId
from broker.store import people
from broker.store.db import Tx
from broker.store.schema import access_session as _session
from broker.store.schema import session_hold as _hold


def insert_hold(tx: Tx, session_id: SessionId, hold: Hold, *, reason: str) -> None:
    """Keep one owner's word; the session's own end is `reach`'s to move."""
    tx.conn.execute(
        sa.insert(_hold),
        {
            "id": tx.new_id("hld"),
            "session_id": session_id,
            "owner_id": hold.owner.id,
            "given_at": tx.now,
            "until": hold.until,
            "reason": reason,
        },
    )


def holds(tx: Tx, session_id: SessionId) -> list[Hold]:
    """The holds of a session, oldest first."""
    found = tx.conn.execute(sa.select(_hold).where(_hold.c.session_id == session_id).order_by(_hold.c.given_at)).all()
    owners = {one.owner_id: people.load_person(tx, PersonId(one.owner_id)) for one in found}
    return [Hold(owner, one.until) for one in found if (owner := owners[one.owner_id]) is not None]


def reach(tx: Tx, session_id: SessionId, until: datetime) -> None:
    """Say how far a live session is held."""
    tx.conn.execute(
        sa.update(_session).where(_session.c.id == session_id, _session.c.ended_at.is_(None)).values(held_until=until)
    )
