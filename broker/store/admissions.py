"""All the gate needs for one decision, in few queries: this is asked before every channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from broker.domain.grant import Grant
from broker.domain.ids import GrantId, Login, PersonId, SessionId, WindowId
from broker.domain.inventory import Asset, Site, Vendor
from broker.domain.people import Person
from broker.domain.session import Session
from broker.domain.suspension import Scope, Suspension
from broker.domain.window import CommissioningWindow
from broker.store import grants as grant_rows
from broker.store import ledger, people, sessions, suspensions, windows
from broker.store.db import Tx
from broker.store.inventory import ASSETS, asset_of
from broker.store.schema import access_grant as _grant
from broker.store.schema import access_grant_asset as _grant_asset
from broker.store.schema import asset as _asset
from broker.store.schema import person as _person
from broker.store.schema import person_key as _key
from broker.store.schema import site as _site
from broker.store.schema import vendor as _vendor

# The key is part of the question: one that was taken away since the login opens nothing more.
_PERSON: Final = (
    sa.select(_person, _vendor.c.name.label("vendor_name"), _vendor.c.disabled_at.label("vendor_disabled_at"))
    .select_from(
        _person.join(_key, _key.c.person_id == _person.c.id).outerjoin(_vendor, _person.c.vendor_id == _vendor.c.id)
    )
    .where(_person.c.id == sa.bindparam("whose"), _key.c.fingerprint == sa.bindparam("fingerprint"))
)
_NAMED: Final = ASSETS.add_columns(_site.c.time_zone).where(_asset.c.name == sa.bindparam("asset"))
_AT_SITE: Final = _NAMED.where(_site.c.name == sa.bindparam("site"))
_GRANTS: Final = (
    sa.select(_grant)
    .select_from(_grant.join(_grant_asset, _grant_asset.c.grant_id == _grant.c.id))
    .where(_grant.c.person_id == sa.bindparam("whose"), _grant_asset.c.asset_id == sa.bindparam("asset"))
    # Begun before scheduled, and the latest end first: of very many those over for longest fall off the end, never a live one.
    .order_by((_grant.c.opens <= sa.bindparam("now")).desc(), _grant.c.closes.desc(), _grant.c.id)
    .limit(64)
)
_MINE: Final = (
    sa.select(_grant_asset.c.asset_id)
    .select_from(_grant.join(_grant_asset, _grant_asset.c.grant_id == _grant.c.id))
    .where(_grant.c.person_id == sa.bindparam("whose"))
)
_SHORT: Final = _NAMED.where(_asset.c.id.in_(_MINE))
_LIVE_SHORT: Final = _NAMED.where(
    _asset.c.id.in_(
        _MINE.where(
            _grant.c.opens <= sa.bindparam("now"),
            _grant.c.closes > sa.bindparam("now"),
            _grant.c.revoked_at.is_(None),
            _grant.c.suspended_at.is_(None),
            _grant.c.handed_back_at.is_(None),
        )
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrance:
    """What the store knows about one engineer at one asset.

    asset None: unknown, or at a site the vendor is a stranger to. ambiguous: the short name fits several assets.
    grants: this person's for the asset, the newest first; of a running session only its own.
    crowd: live sessions of the person, and at the asset; suspended: all that stand, by subject.
    certificate_grant: of the serial shown, None when it was never given out. longest_until: of a running session.
    clock_behind: how far the clock is behind the ledger's latest instant.
    """

    person: Person
    vendor: Vendor | None
    asset: Asset | None = None
    site: Site | None = None
    ambiguous: bool = False
    grants: tuple[Grant, ...] = ()
    windows: Mapping[WindowId, CommissioningWindow] = field(default_factory=dict)
    live: Mapping[GrantId, int] = field(default_factory=dict)
    crowd: tuple[int, int] = (0, 0)
    suspended: Mapping[str, Suspension] = field(default_factory=dict)
    session: Session | None = None
    killed: bool = False
    longest_until: datetime | None = None
    certificate_grant: GrantId | None = None
    clock_behind: timedelta = timedelta(0)

    def shut_out(self, grant: Grant | None) -> Scope | None:
        """The narrowest scope that stands against a grant here."""
        nouns = (grant, self.person, self.vendor, self.asset, self.site)
        subjects: list[str] = [one.id for one in nouns if one is not None]
        subjects += [] if grant is None else [grant.vendor_id, grant.window_id]
        before, known = grant, {one.id: one for one in self.grants}
        while before is not None and before.extends is not None:  # who is shut out of a grant is so of what extends it
            subjects.append(before.extends)
            before = known.get(before.extends)
        return next((self.suspended[one].scope for one in subjects if one in self.suspended), None)

    def others(self) -> tuple[int, int]:
        """How many sessions of the person, and at the asset, are live beside the running one."""
        mine = int(self.session is not None and self.session.ended_at is None)
        return self.crowd[0] - mine, self.crowd[1] - mine

    def live_sessions(self, grant_id: GrantId) -> int:
        """How many sessions of the grant are live beside the running one."""
        mine = self.session is not None and self.session.grant_id == grant_id and self.session.ended_at is None
        return self.live.get(grant_id, 0) - int(mine)


def load_entrance(
    tx: Tx,
    *,
    person_id: PersonId,
    key_fingerprint: str,
    login: Login,
    session_id: SessionId | None,
    certificate_serial: str | None,
) -> Entrance | None:
    """Load it; None when the key is not, or no longer, enrolled for the person."""
    row = tx.conn.execute(_PERSON, {"whose": person_id, "fingerprint": key_fingerprint}).one_or_none()
    if row is None:
        return None
    person, vendor = people.person_of(row, frozenset()), _vendor_of(row)
    running = None if session_id is None else sessions.load_opening(tx, session_id)
    session = None if running is None else running[0]
    found = _assets(tx, login, person, session)
    if not found or len(found) > 1:
        return Entrance(person=person, vendor=vendor, ambiguous=len(found) > 1, session=session)
    asset, site = found[0]
    granted = grant_rows.grants_of(
        tx, tx.conn.execute(_GRANTS, {"whose": person_id, "asset": asset.id, "now": tx.now}).all()
    )
    if session is not None:
        granted = _carrying(session.grant_id, granted)
    if not granted and not _knows(tx, person, site):
        return Entrance(person=person, vendor=vendor, session=session)
    certificate = None if certificate_serial is None else grant_rows.load_certificate(tx, certificate_serial)
    return Entrance(
        person=person,
        vendor=vendor,
        asset=asset,
        site=site,
        grants=tuple(granted),
        windows=_windows(tx, granted),
        live=sessions.live_counts(tx, [one.id for one in granted]) if granted else {},
        crowd=sessions.live_at(tx, person.id, asset.id),
        suspended=suspensions.by_subject(tx),
        session=session,
        killed=running is not None and running[2] is not None,
        longest_until=None if running is None else running[1].longest_until,
        certificate_grant=None if certificate is None or certificate.purpose != "gate" else certificate.grant_id,
        clock_behind=ledger.clock_behind(tx),
    )


def _assets(tx: Tx, login: Login, person: Person, session: Session | None) -> list[tuple[Asset, Site]]:
    """The assets the login may mean: one by its full name, else those of that name among the person's grants."""
    if session is not None:
        asked = _NAMED.where(_asset.c.id == session.asset_id)
        asked = asked if login.site is None else asked.where(_site.c.name == login.site)
        return _pairs(tx, asked, {"asset": login.asset})
    if login.site is not None:
        return _pairs(tx, _AT_SITE, {"asset": login.asset, "site": login.site})
    names: dict[str, object] = {"asset": login.asset, "whose": person.id, "now": tx.now}
    return _pairs(tx, _LIVE_SHORT, names) or _pairs(tx, _SHORT, names)


def _pairs(tx: Tx, asked: sa.Select[Any], names: dict[str, object]) -> list[tuple[Asset, Site]]:
    return [
        (asset_of(row), Site(id=row.site_id, name=row.site_name, time_zone=row.time_zone))
        for row in tx.conn.execute(asked, names)
    ]


def _vendor_of(row: Any) -> Vendor | None:
    if row.vendor_id is None:
        return None
    return Vendor(id=row.vendor_id, name=row.vendor_name, disabled_at=row.vendor_disabled_at)


def _windows(tx: Tx, granted: list[Grant]) -> dict[WindowId, CommissioningWindow]:
    return windows.windows_by_id(tx, (one.window_id for one in granted))


def _carrying(grant_id: GrantId, granted: list[Grant]) -> list[Grant]:
    """A session's own grant, and those that extend it."""
    ids = {grant_id}
    while more := {one.id for one in granted if one.extends in ids} - ids:
        ids |= more
    return [one for one in granted if one.id in ids]


def _knows(tx: Tx, person: Person, site: Site) -> bool:
    return person.vendor_id is not None and site.id in windows.sites_of_vendor(tx, person.vendor_id)
