"""Access requests and the approvals on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from broker.domain.authority import ApprovalVoided
from broker.domain.capability import Capability, parse_capabilities, show_capabilities
from broker.domain.errors import BrokerError, Code
from broker.domain.grant import Terms
from broker.domain.ids import AccessRequestId, ApprovalId, AssetId, PersonId, SiteId, quoted
from broker.domain.people import Person, Right
from broker.domain.policy import ApprovalFacts
from broker.domain.request import TRANSITIONS, AccessRequest, ShownState, State, Step
from broker.domain.window import Interval
from broker.store import inventory, ledger, people
from broker.store.db import Tx
from broker.store.schema import access_request as _request
from broker.store.schema import access_request_asset as _request_asset
from broker.store.schema import approval as _approval
from broker.store.schema import approval_asset as _approval_asset

_BY_ID: Final = sa.select(_request).where(_request.c.id == sa.bindparam("wanted"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """One owner's yes as given. complete: no further owner was needed; void_at: since when it no longer counts."""

    id: ApprovalId
    request_id: AccessRequestId
    owner_id: PersonId
    given_at: datetime
    door: str
    terms: Terms
    complete: bool
    void_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How a request left the pending state. by: None for a withdrawal's own asker."""

    step: Step
    at: datetime
    by: PersonId
    reason: str | None


def insert(tx: Tx, request: AccessRequest) -> None:
    """Keep a new request."""
    tx.conn.execute(
        sa.insert(_request).values(
            id=request.id,
            person_id=request.person_id,
            vendor_id=request.vendor_id,
            site_id=request.site_id,
            capabilities=show_capabilities(request.capabilities),
            opens=request.opens,
            length=request.length,
            reason=request.reason,
            change=request.change,
            submitted_at=request.submitted_at,
            lapses_at=request.lapses_at,
            state=request.state.value,
            version=request.version,
            extends_grant_id=request.extends,
        )
    )
    rows = [
        {"request_id": request.id, "position": position, "asset_id": asset_id}
        for position, asset_id in enumerate(request.assets)
    ]
    tx.conn.execute(sa.insert(_request_asset), rows)


def load(tx: Tx, request_id: str) -> AccessRequest | None:
    """The request of that id."""
    row = tx.conn.execute(_BY_ID, {"wanted": request_id}).one_or_none()
    return None if row is None else _all_of(tx, [row])[0]


def require(tx: Tx, request_id: str) -> AccessRequest:
    """The request of that id. Raises BrokerError(NOT_FOUND): for doors of the site's own people only."""
    if (request := load(tx, request_id)) is None:
        raise BrokerError(Code.NOT_FOUND, f"no such request: {quoted(request_id)}")
    return request


def requests(
    tx: Tx,
    *,
    state: ShownState | State | None = None,
    person_id: PersonId | None = None,
    site_ids: Iterable[SiteId] | None = None,
    newest: int = 1000,
) -> list[AccessRequest]:
    """Requests, the newest first. state: as shown at tx.now; site_ids: only these sites; newest: at most so many."""
    asked = sa.select(_request).order_by(_request.c.submitted_at.desc(), _request.c.id).limit(newest)
    if state is not None:
        shown = ShownState(state.value)
        stored = State.PENDING if shown is ShownState.LAPSED else State(shown.value)
        asked = asked.where(_request.c.state == stored.value)
        if shown is ShownState.LAPSED:
            asked = asked.where(_request.c.lapses_at <= tx.now)
        elif shown is ShownState.PENDING:
            asked = asked.where(_request.c.lapses_at > tx.now)
    if person_id is not None:
        asked = asked.where(_request.c.person_id == person_id)
    if site_ids is not None:
        asked = asked.where(_request.c.site_id.in_(list(site_ids)))
    return _all_of(tx, tx.conn.execute(asked).all())


def step(tx: Tx, request: AccessRequest, taken: Step, *, by: PersonId, reason: str | None = None) -> bool:
    """Take a step of the table from the state and version the caller has read: True for the one winner.

    A pending request that has lapsed takes no step. Raises BrokerError never: a False is the caller's refusal. Source: WEB-2.
    """
    wanted = TRANSITIONS[request.state].get(taken)
    if wanted is None:
        return False
    done = tx.conn.execute(
        sa.update(_request)
        .where(_request.c.id == request.id, _request.c.state == request.state.value)
        .where(_request.c.version == request.version, _request.c.lapses_at > tx.now)
        .values(
            prior_state=request.state.value,
            step=taken.value,
            state=wanted.value,
            version=request.version + 1,
            decided_at=tx.now,
            decided_by=by,
            decision_reason=reason,
        )
    )
    return done.rowcount == 1


def load_decision(tx: Tx, request_id: AccessRequestId) -> Decision | None:
    """How the request was decided, None while it is pending."""
    row = tx.conn.execute(_BY_ID, {"wanted": request_id}).one_or_none()
    if row is None or row.step is None:
        return None
    return Decision(step=Step(row.step), at=row.decided_at, by=row.decided_by, reason=row.decision_reason)


def insert_approval(
    tx: Tx, request: AccessRequest, *, owner_id: PersonId, terms: Terms, complete: bool, door: str
) -> Approval:
    """Keep one owner's yes; a later one of the same owner stands in its place, the ledger has both."""
    earlier = sa.select(_approval.c.id).where(_approval.c.request_id == request.id, _approval.c.owner_id == owner_id)
    for approval_id in tx.conn.execute(earlier).scalars().all():
        tx.conn.execute(sa.delete(_approval_asset).where(_approval_asset.c.approval_id == approval_id))
        tx.conn.execute(sa.delete(_approval).where(_approval.c.id == approval_id))
    given = Approval(
        id=ApprovalId(tx.new_id("apv")),
        request_id=request.id,
        owner_id=owner_id,
        given_at=tx.now,
        door=door,
        terms=terms,
        complete=complete,
    )
    tx.conn.execute(
        sa.insert(_approval).values(
            id=given.id,
            request_id=request.id,
            owner_id=owner_id,
            given_at=tx.now,
            door=door,
            capabilities=show_capabilities(terms.capabilities),
            opens=terms.interval.opens,
            closes=terms.interval.closes,
            complete=complete,
        )
    )
    rows = [{"approval_id": given.id, "asset_id": asset_id} for asset_id in sorted(terms.assets)]
    tx.conn.execute(sa.insert(_approval_asset), rows)
    return given


def site_name(tx: Tx, request: AccessRequest | None) -> str | None:
    """The name of the site that a request is about."""
    place = None if request is None else inventory.site_by_id(tx, request.site_id)
    return None if place is None else place.name


def approvals(tx: Tx, request_id: AccessRequestId) -> list[Approval]:
    """The owners' yeses on a request, the first one first."""
    found = tx.conn.execute(
        sa.select(_approval).where(_approval.c.request_id == request_id).order_by(_approval.c.given_at, _approval.c.id)
    ).all()
    return [_approval_of(tx, row) for row in found]


def void_approvals(tx: Tx, owner_id: PersonId, *, why: str) -> list[AccessRequestId]:
    """Make an owner's first yeses on what is pending count no more, for good; gives the requests. Source: law 3.

    why: for the ledger. Void even where the right is given back before the second yes; the owner can say yes anew.
    """
    asked = (
        sa.select(_approval.c.id, _approval.c.request_id)
        .select_from(_approval.join(_request, _approval.c.request_id == _request.c.id))
        .where(_approval.c.owner_id == owner_id, _approval.c.void_at.is_(None), _approval.c.complete.is_(False))
        .where(_request.c.state == State.PENDING.value)
        .order_by(_approval.c.given_at, _approval.c.id)
    )
    found = tx.conn.execute(asked).all()
    for row in found:
        tx.conn.execute(sa.update(_approval).where(_approval.c.id == row.id).values(void_at=tx.now))
        ledger.append(tx, ApprovalVoided(request_id=row.request_id, owner_id=owner_id, why=why))
    return [row.request_id for row in found]


def load_approval_facts(tx: Tx, *, owner: Person, request_id: str) -> ApprovalFacts:
    """All that is known for one owner's yes or no."""
    request = load(tx, request_id)
    if request is None:
        return ApprovalFacts(request=None, asker=None, owner=owner)
    first, first_owner = _first_standing(tx, request)
    return ApprovalFacts(
        request=request,
        asker=people.load_person(tx, request.person_id),
        owner=owner,
        vendor=inventory.vendor_by_id(tx, request.vendor_id),
        assets=tuple(inventory.assets(tx, ids=request.assets)),
        windows=tuple(inventory.windows(tx, request.site_id, request.vendor_id)),
        first_owner=first_owner,
        first=first,
    )


def _first_standing(tx: Tx, request: AccessRequest) -> tuple[Terms | None, Person | None]:
    """The earliest yes that counts, of an owner who may still say it: that of one disabled since is no pair of eyes."""
    for one in approvals(tx, request.id):
        owner = people.load_person(tx, one.owner_id)
        if one.void_at is None and owner is not None and owner.may(Right.APPROVE, request.site_id):
            return one.terms, owner
    return None, None


def _approval_of(tx: Tx, row: Any) -> Approval:
    assets = tx.conn.execute(
        sa.select(_approval_asset.c.asset_id).where(_approval_asset.c.approval_id == row.id)
    ).scalars()
    return Approval(
        id=row.id,
        request_id=row.request_id,
        owner_id=row.owner_id,
        given_at=row.given_at,
        door=row.door,
        terms=Terms(
            assets=frozenset(assets),
            capabilities=read_capabilities(row.capabilities),
            interval=Interval(row.opens, row.closes),
        ),
        complete=row.complete,
        void_at=row.void_at,
    )


def read_capabilities(stored: str) -> frozenset[Capability]:
    """What show_capabilities wrote; an empty text is an empty set, which grants nothing."""
    return parse_capabilities(stored) if stored else frozenset()


def _all_of(tx: Tx, rows: Sequence[Any]) -> list[AccessRequest]:
    assets: dict[str, list[AssetId]] = defaultdict(list)
    if rows:
        asked = sa.select(_request_asset).where(_request_asset.c.request_id.in_([row.id for row in rows]))
        for one in tx.conn.execute(asked.order_by(_request_asset.c.position)):
            assets[one.request_id].append(one.asset_id)
    return [
        AccessRequest(
            id=row.id,
            person_id=row.person_id,
            vendor_id=row.vendor_id,
            site_id=row.site_id,
            assets=tuple(assets[row.id]),
            capabilities=read_capabilities(row.capabilities),
            opens=row.opens,
            length=row.length,
            reason=row.reason,
            change=row.change,
            submitted_at=row.submitted_at,
            lapses_at=row.lapses_at,
            state=State(row.state),
            version=row.version,
            extends=row.extends_grant_id,
        )
        for row in rows
    ]
