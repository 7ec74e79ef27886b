"""Grants, and the certificates made for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from broker.domain.capability import show_capabilities
from broker.domain.errors import BrokerError, Code
from broker.domain.grant import Grant, Terms
from broker.domain.ids import AccessRequestId, AssetId, GrantId, PersonId, SessionId, SiteId, quoted
from broker.domain.window import Interval
from broker.store.db import Tx
from broker.store.requests import read_capabilities
from broker.store.schema import access_grant as _grant
from broker.store.schema import access_grant_asset as _grant_asset
from broker.store.schema import asset as _asset
from broker.store.schema import certificate as _certificate

_BY_ID: Final = sa.select(_grant).where(_grant.c.id == sa.bindparam("wanted"))
_LIVE: Final = (
    sa.select(_grant)
    .where(_grant.c.person_id == sa.bindparam("whose"))
    .where(_grant.c.opens <= sa.bindparam("now"), _grant.c.closes > sa.bindparam("now"))
    .where(_grant.c.revoked_at.is_(None), _grant.c.suspended_at.is_(None), _grant.c.handed_back_at.is_(None))
    .order_by(_grant.c.granted_at.desc(), _grant.c.id)
)
_NAMES: Final = (
    sa.select(_asset.c.name)
    .select_from(_grant.join(_grant_asset, _grant_asset.c.grant_id == _grant.c.id))
    .join(_asset, _asset.c.id == _grant_asset.c.asset_id)
    .where(_grant.c.person_id == sa.bindparam("whose"))
    .distinct()
)
_BY_IDS: Final = sa.select(_grant).where(_grant.c.id.in_(sa.bindparam("wanted", expanding=True)))
_EXTENDING: Final = sa.select(_grant).where(_grant.c.extends_grant_id.in_(sa.bindparam("wanted", expanding=True)))
_CERTIFICATE: Final = sa.select(_certificate).where(_certificate.c.serial == sa.bindparam("wanted"))


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """What was signed, as recorded before the signature. purpose: gate, asset or host; serial: 63 random bits."""

    serial: int
    purpose: str
    grant_id: GrantId | None
    session_id: SessionId | None
    key_fingerprint: str
    key_id: str
    principals: tuple[str, ...]
    valid_after: datetime
    valid_before: datetime
    source_address: str | None
    issued_at: datetime
    ca_fingerprint: str | None = None
    """The key that signed; None in rows older than the column."""


def insert(tx: Tx, grant: Grant) -> None:
    """Keep a new grant."""
    tx.conn.execute(
        sa.insert(_grant).values(
            id=grant.id,
            request_id=grant.request_id,
            person_id=grant.person_id,
            vendor_id=grant.vendor_id,
            site_id=grant.site_id,
            window_id=grant.window_id,
            capabilities=show_capabilities(grant.terms.capabilities),
            opens=grant.interval.opens,
            closes=grant.interval.closes,
            granted_at=grant.granted_at,
            extends_grant_id=grant.extends,
        )
    )
    rows = [{"grant_id": grant.id, "asset_id": asset_id} for asset_id in sorted(grant.terms.assets)]
    tx.conn.execute(sa.insert(_grant_asset), rows)


def load(tx: Tx, grant_id: str) -> Grant | None:
    """The grant of that id."""
    row = tx.conn.execute(_BY_ID, {"wanted": grant_id}).one_or_none()
    return None if row is None else grants_of(tx, [row])[0]


def require(tx: Tx, grant_id: str) -> Grant:
    """The grant of that id. Raises BrokerError(NOT_FOUND): for doors of the site's own people only."""
    if (grant := load(tx, grant_id)) is None:
        raise BrokerError(Code.NOT_FOUND, f"no such grant: {quoted(grant_id)}")
    return grant


def of_request(tx: Tx, request_id: AccessRequestId) -> Grant | None:
    """The grant a request became."""
    row = tx.conn.execute(sa.select(_grant).where(_grant.c.request_id == request_id)).one_or_none()
    return None if row is None else grants_of(tx, [row])[0]


def grants(
    tx: Tx,
    *,
    person_id: PersonId | None = None,
    site_ids: Iterable[SiteId] | None = None,
    asset_id: AssetId | None = None,
    newest: int = 1000,
) -> list[Grant]:
    """Grants in any state, the newest first."""
    asked = sa.select(_grant).order_by(_grant.c.granted_at.desc(), _grant.c.id).limit(newest)
    if person_id is not None:
        asked = asked.where(_grant.c.person_id == person_id)
    if site_ids is not None:
        asked = asked.where(_grant.c.site_id.in_(list(site_ids)))
    if asset_id is not None:
        of_asset = sa.select(_grant_asset.c.grant_id).where(_grant_asset.c.asset_id == asset_id)
        asked = asked.where(_grant.c.id.in_(of_asset))
    return grants_of(tx, tx.conn.execute(asked).all())


def grants_by_id(tx: Tx, ids: Iterable[GrantId]) -> dict[GrantId, Grant]:
    """The grants of those ids."""
    wanted = sorted(set(ids))
    rows = tx.conn.execute(_BY_IDS, {"wanted": wanted}).all() if wanted else []
    return {one.id: one for one in grants_of(tx, rows)}


def extensions(tx: Tx, grant_ids: Iterable[GrantId]) -> list[Grant]:
    """The grants that extend these, and those that extend them in turn, in any state."""
    found: dict[GrantId, Grant] = {}
    wanted = set(grant_ids)
    while wanted:
        new = grants_of(tx, tx.conn.execute(_EXTENDING, {"wanted": sorted(wanted)}).all())
        wanted = {one.id for one in new} - found.keys()
        found.update({one.id: one for one in new})
    return list(found.values())


def asset_names_of(tx: Tx, person_id: PersonId) -> frozenset[str]:
    """The short names of all assets that a person was ever granted."""
    return frozenset(tx.conn.execute(_NAMES, {"whose": person_id}).scalars())


def live_grants_for(tx: Tx, person_id: PersonId, now: datetime) -> list[Grant]:
    """The grants of a person that are open at that instant by their own interval and acts, the newest first."""
    return grants_of(tx, tx.conn.execute(_LIVE, {"whose": person_id, "now": now}).all())


def revoke(tx: Tx, grant_id: GrantId, *, by: str, reason: str) -> bool:
    """End a grant for good: True for the one who did it."""
    return _end(tx, grant_id, "revoked_at", by, reason)


def suspend(tx: Tx, grant_id: GrantId, *, by: str, reason: str) -> bool:
    """Stop a grant because a session of it was killed: True for the one who did it."""
    return _end(tx, grant_id, "suspended_at", by, reason)


def unsuspend(tx: Tx, grant_id: GrantId) -> bool:
    """Let a grant go on that was stopped because a session of it was killed: True for the one who did it."""
    done = tx.conn.execute(
        sa.update(_grant)
        .where(_grant.c.id == grant_id, _grant.c.suspended_at.is_not(None))
        .where(_grant.c.revoked_at.is_(None), _grant.c.handed_back_at.is_(None))
        .values(suspended_at=None, ended_by=None, end_reason=None)
    )
    return done.rowcount == 1


def hand_back(tx: Tx, grant_id: GrantId, *, by: str) -> bool:
    """End a grant by its engineer: True for the one who did it."""
    return _end(tx, grant_id, "handed_back_at", by, None)


def _end(tx: Tx, grant_id: GrantId, column: str, by: str, reason: str | None) -> bool:
    ended = _grant.c[column]
    done = tx.conn.execute(
        sa.update(_grant)
        .where(_grant.c.id == grant_id, ended.is_(None), _grant.c.revoked_at.is_(None))
        .where(_grant.c.handed_back_at.is_(None))
        .values({column: tx.now, "ended_by": by, "end_reason": reason})
    )
    return done.rowcount == 1


def insert_certificate(tx: Tx, certificate: IssuedCertificate) -> None:
    """Keep what will be signed, before it is. Raises BrokerError(CONFLICT) for a serial that is taken: draw another."""
    if load_certificate(tx, certificate.serial) is not None:
        raise BrokerError(Code.CONFLICT, "a certificate of that serial exists")
    tx.conn.execute(
        sa.insert(_certificate).values(
            serial=certificate.serial,
            purpose=certificate.purpose,
            grant_id=certificate.grant_id,
            session_id=certificate.session_id,
            key_fingerprint=certificate.key_fingerprint,
            key_id=certificate.key_id,
            principals=",".join(certificate.principals),  # CRT-2: no principal holds a comma
            valid_after=certificate.valid_after,
            valid_before=certificate.valid_before,
            source_address=certificate.source_address,
            issued_at=certificate.issued_at,
        )
    )


def load_certificate(tx: Tx, serial: int | str) -> IssuedCertificate | None:
    """What was signed under that serial; None for a serial never given out, or one that is no 63-bit number."""
    text = str(serial)
    if not (text.isascii() and text.isdecimal()) or len(text) > 19 or int(text) >= 1 << 63:
        return None
    row = tx.conn.execute(_CERTIFICATE, {"wanted": int(text)}).one_or_none()
    return None if row is None else _certificate_of(row)


def certificates(tx: Tx, grant_id: GrantId) -> list[IssuedCertificate]:
    """The certificates made for a grant, the newest first."""
    found = tx.conn.execute(
        sa.select(_certificate).where(_certificate.c.grant_id == grant_id).order_by(_certificate.c.issued_at.desc())
    )
    return [_certificate_of(row) for row in found]


def _certificate_of(row: Any) -> IssuedCertificate:
    return IssuedCertificate(
        serial=row.serial,
        purpose=row.purpose,
        grant_id=row.grant_id,
        session_id=row.session_id,
        key_fingerprint=row.key_fingerprint,
        key_id=row.key_id,
        principals=tuple(row.principals.split(",")) if row.principals else (),
        valid_after=row.valid_after,
        valid_before=row.valid_before,
        source_address=row.source_address,
        issued_at=row.issued_at,
        ca_fingerprint=row.ca_fingerprint,
    )


def grants_of(tx: Tx, rows: Sequence[Any]) -> list[Grant]:
    """Rows of the table as the noun, in their order."""
    assets: dict[str, set[AssetId]] = defaultdict(set)
    if rows:
        asked = sa.select(_grant_asset).where(_grant_asset.c.grant_id.in_([row.id for row in rows]))
        for one in tx.conn.execute(asked):
            assets[one.grant_id].add(one.asset_id)
    return [
        Grant(
            id=row.id,
            request_id=row.request_id,
            person_id=row.person_id,
            vendor_id=row.vendor_id,
            site_id=row.site_id,
            window_id=row.window_id,
            terms=Terms(
                assets=frozenset(assets[row.id]),
                capabilities=read_capabilities(row.capabilities),
                interval=Interval(row.opens, row.closes),
            ),
            granted_at=row.granted_at,
            revoked_at=row.revoked_at,
            suspended_at=row.suspended_at,
            handed_back_at=row.handed_back_at,
            extends=row.extends_grant_id,
        )
        for row in rows
    ]
