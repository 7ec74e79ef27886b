"""What live sessions are to be told beside their end: that they are frozen, and the words of whoever killed them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from broker.domain.ids import SessionId
from broker.domain.suspension import Suspension
from broker.store import suspensions
from broker.store.db import Tx
from broker.store.schema import access_grant as _grant
from broker.store.schema import access_session as _session

_NOTICES: Final = (
    sa.select(
        _session.c.id,
        _session.c.frozen_at,
        _session.c.frozen_by,
        _grant.c.suspended_at,
        _grant.c.end_reason,
    )
    .select_from(_session.join(_grant, _grant.c.id == _session.c.grant_id))
    .where(_session.c.id.in_(sa.bindparam("wanted", expanding=True)))
)


@dataclass(frozen=True, slots=True)
class Notice:
    """One live session's. killed: why its grant was suspended, None when it was not; shut_out: what stands against it."""

    frozen_at: datetime | None
    frozen_by: str
    killed: str | None
    shut_out: Suspension | None


def notices(tx: Tx, session_ids: Iterable[SessionId]) -> dict[SessionId, Notice]:
    """The notice of each session; one of an unknown id is not named."""
    wanted = list(session_ids)
    shut_out = suspensions.of_sessions(tx, wanted)
    return {
        row.id: Notice(
            frozen_at=row.frozen_at,
            frozen_by=row.frozen_by or "",
            killed=row.end_reason if row.suspended_at is not None else None,
            shut_out=shut_out.get(row.id),
        )
        for row in tx.conn.execute(_NOTICES, {"wanted": wanted})
    }
