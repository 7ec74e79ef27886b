"""Suspensions: who and what is shut out until an owner restores it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import sqlalchemy as sa

from broker.domain.ids import PersonId, SessionId
from broker.domain.suspension import Scope, Suspension
from broker.store.db import Tx
from broker.store.schema import access_grant as _grant
from broker.store.schema import access_session as _session
from broker.store.schema import asset as _asset
from broker.store.schema import suspension as _suspension

_STANDING: Final = sa.select(_suspension).where(_suspension.c.lifted_at.is_(None))
_OF: Final = _STANDING.where(_suspension.c.subject.in_(sa.bindparam("subjects", expanding=True)))
_SUBJECTS: Final = (
    sa.select(
        _session.c.id,
        _session.c.grant_id,
        _session.c.person_id,
        _grant.c.vendor_id,
        _session.c.asset_id,
        _grant.c.window_id,
        _asset.c.site_id,
    )
    .select_from(
        _session.join(_grant, _grant.c.id == _session.c.grant_id).join(_asset, _asset.c.id == _session.c.asset_id)
    )
    .where(_session.c.id.in_(sa.bindparam("wanted", expanding=True)))
)


def insert(tx: Tx, *, scope: Scope, subject: str, by: str, reason: str) -> Suspension:
    """Keep a new suspension."""
    made = Suspension(
        id=tx.new_id("sus"), scope=scope, subject=subject, reason=reason, suspended_by=by, suspended_at=tx.now
    )
    tx.conn.execute(
        sa.insert(_suspension).values(
            id=made.id, scope=scope.value, subject=subject, reason=reason, suspended_by=by, suspended_at=tx.now
        )
    )
    return made


def lift(tx: Tx, suspension: Suspension, *, by: PersonId) -> bool:
    """Restore its subject, once."""
    done = tx.conn.execute(
        sa.update(_suspension)
        .where(_suspension.c.id == suspension.id, _suspension.c.lifted_at.is_(None))
        .values(lifted_at=tx.now, lifted_by=by)
    )
    return done.rowcount == 1


def standing(tx: Tx) -> list[Suspension]:
    """All that stand, the newest first."""
    found = tx.conn.execute(_STANDING.order_by(_suspension.c.suspended_at.desc(), _suspension.c.id))
    return [_suspension_of(row) for row in found]


def standing_of(tx: Tx, subjects: Iterable[str]) -> dict[str, Suspension]:
    """Those that stand of these subjects, by subject; the ids of different nouns are never alike."""
    found = tx.conn.execute(_OF, {"subjects": list(subjects)})
    return {row.subject: _suspension_of(row) for row in found}


def of_sessions(tx: Tx, session_ids: Iterable[SessionId]) -> dict[SessionId, Suspension]:
    """What stands against each session; one that nothing stands against is not named."""
    if not (all_of_them := by_subject(tx)):
        return {}
    found = {}
    for row in tx.conn.execute(_SUBJECTS, {"wanted": list(session_ids)}):
        subjects = (row.grant_id, row.person_id, row.vendor_id, row.asset_id, row.window_id, row.site_id)
        if against := [all_of_them[one] for one in subjects if one in all_of_them]:
            found[row.id] = against[0]
    return found


def by_subject(tx: Tx) -> dict[str, Suspension]:
    """All that stand, by subject."""
    return {one.subject: one for one in standing(tx)}


def _suspension_of(row: Any) -> Suspension:
    return Suspension(
        id=row.id,
        scope=Scope(row.scope),
        subject=row.subject,
        reason=row.reason,
        suspended_by=row.suspended_by,
        suspended_at=row.suspended_at,
        lifted_at=row.lifted_at,
        lifted_by=row.lifted_by,
    )
