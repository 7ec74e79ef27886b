"""Addresses that engineers come from: what they owe, and from where somebody has logged in."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import sqlalchemy as sa

from broker.domain.penalty import Penalty
from broker.store.db import Tx
from broker.store.schema import access_session as _session
from broker.store.schema import login_try as _try
from broker.store.schema import source_penalty as _penalty


def keep_penalties(tx: Tx, penalties: Collection[Penalty]) -> None:
    """Keep enforced penalties, in place of earlier ones; those that are over are forgotten."""
    tx.conn.execute(sa.delete(_penalty).where(_penalty.c.until <= tx.now))
    for one in penalties:
        tx.conn.execute(sa.delete(_penalty).where(_penalty.c.source == one.source))
        score = max(1, round((one.until - tx.now).total_seconds()))
        values = {"source": one.source, "score": score, "until": one.until, "updated_at": tx.now}
        tx.conn.execute(sa.insert(_penalty).values(**values))


def penalties(tx: Tx) -> list[Penalty]:
    """The penalties that are not over."""
    found = tx.conn.execute(sa.select(_penalty).where(_penalty.c.until > tx.now))
    return [Penalty(row.source, row.until, enforced=True) for row in found]


def logged_in_since(tx: Tx, since: datetime) -> dict[str, datetime]:
    """The addresses from which somebody came in at the SSH door, and when last: by a code, or to an asset."""
    last: dict[str, datetime] = {}
    by_code = sa.select(_try.c.source, sa.func.max(_try.c.tried_at)).where(
        _try.c.outcome == "passed", _try.c.door == "ssh", _try.c.tried_at > since
    )
    to_asset = sa.select(_session.c.source, sa.func.max(_session.c.opened_at)).where(_session.c.opened_at > since)
    for asked, source in ((by_code, _try.c.source), (to_asset, _session.c.source)):
        for name, when in tx.conn.execute(asked.group_by(source)):
            last[name] = max(when, last.get(name, when))
    return last
