"""Sessions and their channels: one row each, opened at the gate and closed by it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from broker.domain.ids import AssetId, GrantId, PersonId, SessionId, SiteId
from broker.domain.session import ChannelKind, EndReason, Session
from broker.store.db import Tx

# Recordings are of sessions for all callers; only their SQL lives in a room of its own.
from broker.store.recordings import Recording as Recording
from broker.store.recordings import Stream as Stream
from broker.store.recordings import load_recording as load_recording
from broker.store.recordings import recordings as recordings
from broker.store.recordings import session_of
from broker.store.recordings import streams as streams
from broker.store.schema import access_grant as _grant
from broker.store.schema import access_session as _session
from broker.store.schema import asset as _asset
from broker.store.schema import channel as _channel
from broker.store.schema import person as _person
from broker.store.schema import person_key as _key
from broker.store.schema import vendor as _vendor

_BY_ID: Final = sa.select(_session).where(_session.c.id == sa.bindparam("wanted"))
_LIVE_COUNTS: Final = (
    sa.select(_session.c.grant_id, sa.func.count().label("live"))
    .where(_session.c.grant_id.in_(sa.bindparam("grants", expanding=True)), _session.c.ended_at.is_(None))
    .group_by(_session.c.grant_id)
)
_CROWD: Final = sa.select(
    sa.func.count().filter(_session.c.person_id == sa.bindparam("person")).label("of_person"),
    sa.func.count().filter(_session.c.asset_id == sa.bindparam("asset")).label("of_asset"),
).where(
    _session.c.ended_at.is_(None),
    sa.or_(_session.c.person_id == sa.bindparam("person"), _session.c.asset_id == sa.bindparam("asset")),
)
_LAST_CHANNEL: Final = sa.select(sa.func.max(_channel.c.number)).where(_channel.c.session_id == sa.bindparam("whose"))
_INSERT: Final = sa.insert(_session)
_INSERT_CHANNEL: Final = sa.insert(_channel)
_STANDING: Final = (
    sa.select(
        _session.c.id,
        _session.c.grant_id,
        _session.c.asset_id,
        _session.c.opened_at,
        _session.c.longest_until,
        _session.c.held_until,
        _session.c.killed_at,
        _session.c.ended_at,
        _person.c.disabled_at.label("person_disabled_at"),
        _vendor.c.disabled_at.label("vendor_disabled_at"),
        _key.c.person_id.label("key_person_id"),
        _session.c.person_id,
    )
    .select_from(
        _session.join(_grant, _session.c.grant_id == _grant.c.id)
        .join(_person, _session.c.person_id == _person.c.id)
        .join(_vendor, _grant.c.vendor_id == _vendor.c.id)
        .outerjoin(_key, _session.c.key_fingerprint == _key.c.fingerprint)
    )
    .where(_session.c.id.in_(sa.bindparam("wanted", expanding=True)))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """How a session came to be, beside the noun itself.

    factors: key+code or certificate; longest_until: the end by the site's longest session alone; node: which bastion.
    """

    factors: str
    key_fingerprint: str
    certificate_serial: int | None
    node: str
    longest_until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """All that can end a live session, beside its grants. key_stands: the key that came in is still enrolled for the person."""

    id: SessionId
    grant_id: GrantId
    asset_id: AssetId
    opened_at: datetime
    longest_until: datetime
    held_until: datetime | None
    killed_at: datetime | None
    ended_at: datetime | None
    disabled: bool
    key_stands: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One SSH channel of a session. state: open, closed, interrupted, damaged; command: of an exec, cut and cleaned."""

    session_id: SessionId
    number: int
    kind: ChannelKind
    command: str | None
    opened_at: datetime
    closed_at: datetime | None
    state: str
    exit: str | None


def insert_session(tx: Tx, session: Session, opening: Opening) -> None:
    """Keep a new session."""
    tx.conn.execute(
        _INSERT,
        {
            "id": session.id,
            "grant_id": session.grant_id,
            "person_id": session.person_id,
            "asset_id": session.asset_id,
            "account": session.account,
            "source": session.source,
            "factors": opening.factors,
            "key_fingerprint": opening.key_fingerprint,
            "certificate_serial": opening.certificate_serial,
            "node": opening.node,
            "opened_at": session.opened_at,
            "until": session.until,
            "longest_until": opening.longest_until,
        },
    )


def load_session(tx: Tx, session_id: str) -> Session | None:
    """The session of that id."""
    row = tx.conn.execute(_BY_ID, {"wanted": session_id}).one_or_none()
    return None if row is None else session_of(row)


def load_opening(tx: Tx, session_id: SessionId) -> tuple[Session, Opening, datetime | None] | None:
    """The session with how it came to be, and when it was killed."""
    row = tx.conn.execute(_BY_ID, {"wanted": session_id}).one_or_none()
    if row is None:
        return None
    opening = Opening(
        factors=row.factors,
        key_fingerprint=row.key_fingerprint,
        certificate_serial=row.certificate_serial,
        node=row.node,
        longest_until=row.longest_until,
    )
    return session_of(row), opening, row.killed_at


def sessions(
    tx: Tx,
    *,
    live: bool | None = None,
    person_id: PersonId | None = None,
    grant_id: GrantId | None = None,
    asset_id: AssetId | None = None,
    site_ids: Iterable[SiteId] | None = None,
    newest: int = 1000,
) -> list[Session]:
    """Sessions, the newest first. live: only those that have not ended, or only those that have."""
    asked = sa.select(_session).order_by(_session.c.opened_at.desc(), _session.c.id).limit(newest)
    if live is not None:
        asked = asked.where(_session.c.ended_at.is_(None) if live else _session.c.ended_at.is_not(None))
    if person_id is not None:
        asked = asked.where(_session.c.person_id == person_id)
    if grant_id is not None:
        asked = asked.where(_session.c.grant_id == grant_id)
    if asset_id is not None:
        asked = asked.where(_session.c.asset_id == asset_id)
    if site_ids is not None:
        there = sa.select(_asset.c.id).where(_asset.c.site_id.in_(list(site_ids)))
        asked = asked.where(_session.c.asset_id.in_(there))
    return [session_of(row) for row in tx.conn.execute(asked)]


def live_counts(tx: Tx, grant_ids: Iterable[GrantId]) -> dict[GrantId, int]:
    """How many sessions of each grant have not ended; a grant without one is not named."""
    return {row.grant_id: row.live for row in tx.conn.execute(_LIVE_COUNTS, {"grants": list(grant_ids)})}


def live_at(tx: Tx, person_id: PersonId, asset_id: AssetId) -> tuple[int, int]:
    """How many sessions have not ended: of that person, at that asset."""
    row = tx.conn.execute(_CROWD, {"person": person_id, "asset": asset_id}).one()
    return int(row.of_person), int(row.of_asset)


def open_sessions_of(tx: Tx, node: str) -> list[Session]:
    """The sessions of a bastion that have not ended: at its start, those a crash has left open."""
    found = tx.conn.execute(sa.select(_session).where(_session.c.node == node, _session.c.ended_at.is_(None)))
    return [session_of(row) for row in found]


def mark_killed(tx: Tx, session_id: SessionId) -> bool:
    """Say that a live session is killed, once; the bastion ends it."""
    done = tx.conn.execute(
        sa.update(_session)
        .where(_session.c.id == session_id, _session.c.ended_at.is_(None), _session.c.killed_at.is_(None))
        .values(killed_at=tx.now)
    )
    return done.rowcount == 1


def mark_frozen(tx: Tx, session_id: SessionId, *, by: str) -> bool:
    """Say that a live session is frozen: True for the one who did it."""
    done = tx.conn.execute(
        sa.update(_session)
        .where(_session.c.id == session_id, _session.c.ended_at.is_(None), _session.c.frozen_at.is_(None))
        .values(frozen_at=tx.now, frozen_by=by)
    )
    return done.rowcount == 1


def mark_unfrozen(tx: Tx, session_id: SessionId) -> bool:
    """Say that a live session is no longer frozen: True for the one who did it."""
    done = tx.conn.execute(
        sa.update(_session)
        .where(_session.c.id == session_id, _session.c.ended_at.is_(None), _session.c.frozen_at.is_not(None))
        .values(frozen_at=None, frozen_by=None)
    )
    return done.rowcount == 1


def close_session(tx: Tx, session_id: SessionId, reason: EndReason) -> bool:
    """Close it, once."""
    done = tx.conn.execute(
        sa.update(_session)
        .where(_session.c.id == session_id, _session.c.ended_at.is_(None))
        .values(ended_at=tx.now, end_reason=reason.value)
    )
    return done.rowcount == 1


def standings(tx: Tx, session_ids: Iterable[SessionId]) -> list[Standing]:
    """What can end each of the sessions, as it is now; one of an unknown id is not named."""
    return [
        Standing(
            id=row.id,
            grant_id=row.grant_id,
            asset_id=row.asset_id,
            opened_at=row.opened_at,
            longest_until=row.longest_until,
            held_until=row.held_until,
            killed_at=row.killed_at,
            ended_at=row.ended_at,
            disabled=row.person_disabled_at is not None or row.vendor_disabled_at is not None,
            key_stands=row.key_person_id == row.person_id,
        )
        for row in tx.conn.execute(_STANDING, {"wanted": list(session_ids)})
    ]


def insert_channel(tx: Tx, session_id: SessionId, *, kind: ChannelKind, command: str | None) -> int:
    """Keep a new channel; gives its number in the session, the first is 1."""
    number = int(tx.conn.execute(_LAST_CHANNEL, {"whose": session_id}).scalar_one() or 0) + 1
    tx.conn.execute(
        _INSERT_CHANNEL,
        {
            "session_id": session_id,
            "number": number,
            "kind": kind.value,
            "command": command,
            "opened_at": tx.now,
            "state": "open",
        },
    )
    return number


def close_channel(tx: Tx, session_id: SessionId, number: int, *, state: str, exit_text: str | None) -> bool:
    """Close it, once. state: closed, interrupted or damaged."""
    done = tx.conn.execute(
        sa.update(_channel)
        .where(_channel.c.session_id == session_id, _channel.c.number == number, _channel.c.closed_at.is_(None))
        .values(closed_at=tx.now, state=state, exit=exit_text)
    )
    return done.rowcount == 1


def channels(tx: Tx, session_id: SessionId) -> list[Channel]:
    """The channels of a session, in order of their numbers."""
    found = tx.conn.execute(sa.select(_channel).where(_channel.c.session_id == session_id).order_by(_channel.c.number))
    return [
        Channel(
            session_id=row.session_id,
            number=row.number,
            kind=ChannelKind(row.kind),
            command=row.command,
            opened_at=row.opened_at,
            closed_at=row.closed_at,
            state=row.state,
            exit=row.exit,
        )
        for row in found
    ]
