"""Access requests: the lists, one request with all that its decision needs, the engineer's own withdrawal."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from approval.answers import line_of, status_of
from approval.forms import read_form
from approval.names import Names
from approval.showing import go, not_there, show
from approval.visitors import Visitor
from approval.web import act, look
from broker import desk
from broker.domain.grant import Grant, GrantState
from broker.domain.inventory import Asset, AssetClass
from broker.domain.people import Right
from broker.domain.policy import ApprovalFacts, Refusal, ReviewReason, covering, may_decide
from broker.domain.request import AccessRequest, ShownState
from broker.domain.session import Session
from broker.domain.window import CommissioningWindow, Interval
from broker.store import grants, inventory, requests, sessions
from broker.store.db import Tx
from broker.store.requests import Approval, Decision

router = APIRouter()
_NEWEST = 200
_EARLIER = 8


@dataclass(frozen=True, slots=True)
class RequestList:
    """Requests and the names in them."""

    requests: list[AccessRequest]
    names: Names


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestView:
    """One request with all that its owner needs to decide. Source: WEB-12.

    refused: why this visitor cannot decide it, None when they can. wanted: the interval, were it approved now; None when that
    is over. window: that would cover it. given: earlier yeses that count; others: what else the vendor has open at the site.
    """

    request: AccessRequest
    shown: ShownState
    names: Names
    assets: list[Asset]
    zone: str
    wanted: Interval | None
    window: CommissioningWindow | None
    needs_two: bool
    given: list[Approval]
    decision: Decision | None
    grant: Grant | None
    grant_state: GrantState | None
    refused: Refusal | None
    other_grants: list[tuple[Grant, GrantState]]
    other_requests: list[AccessRequest]
    live: list[Session]
    earlier: list[tuple[AccessRequest, Decision | None]]


@router.get("/requests")
async def request_list(request: Request, state: str = "") -> Response:
    wanted = ShownState(state) if state in tuple(ShownState) else None
    visitor, seen = await look(request, _load_list, wanted)
    return show(visitor, "requests.html", section="/requests", seen=seen, wanted=wanted, states=list(ShownState))


def _load_list(tx: Tx, visitor: Visitor, state: ShownState | None) -> RequestList:
    found = visible_requests(tx, visitor, state)
    return RequestList(found, names_in(tx, found))


def visible_requests(
    tx: Tx, visitor: Visitor, state: ShownState | None, *, newest: int = _NEWEST
) -> list[AccessRequest]:
    """An engineer's own, or those of the sites where the visitor may look; the SQL carries the site (WEB-1)."""
    if visitor.is_engineer:
        return requests.requests(tx, state=state, person_id=visitor.person.id, newest=newest)
    site_ids = [site.id for site in visitor.sites_with(Right.VIEW)]
    return requests.requests(tx, state=state, site_ids=site_ids, newest=newest)


def names_in(tx: Tx, found: list[AccessRequest]) -> Names:
    """The names that the requests hold."""
    return Names.load(
        tx,
        people_ids=[one.person_id for one in found],
        asset_ids=[asset_id for one in found for asset_id in one.assets],
    )


@router.get("/requests/{request_id}")
async def request_page(request: Request, request_id: str) -> Response:
    visitor, seen = await look(request, load_view, request_id)
    return show_request(visitor, seen)


def show_request(
    visitor: Visitor, seen: RequestView | None, *, line: str | None = None, status: int = 200, typed: str = ""
) -> Response:
    """The page of one request. line: what went wrong with the last act; typed: the reason given in it."""
    if seen is None:
        raise not_there()
    return show(visitor, "request.html", section="/requests", status=status, seen=seen, line=line, typed=typed)


def load_view(tx: Tx, visitor: Visitor, request_id: str) -> RequestView | None:
    """The request as this visitor may see it; None: not there, or not theirs."""
    request = requests.load(tx, request_id)
    if request is None or not may_see(visitor, request):
        return None
    facts = requests.load_approval_facts(tx, owner=visitor.person, request_id=request.id)
    given = [one for one in requests.approvals(tx, request.id) if one.void_at is None]
    decision = requests.load_decision(tx, request.id)
    grant = grants.of_request(tx, request.id)
    around = _Around.load(tx, request, full=not visitor.is_engineer)
    assets = sorted(inventory.assets(tx, ids=request.assets), key=lambda asset: asset.login)
    wanted = _wanted(request, visitor)
    site = inventory.site_by_id(tx, request.site_id)
    return RequestView(
        request=request,
        shown=request.shown_state(tx.now),
        names=_names(tx, request, given, decision, around),
        assets=assets,
        zone="UTC" if site is None else site.time_zone,
        wanted=wanted,
        window=None if wanted is None else covering(facts.windows, facts.assets, wanted),
        needs_two=any(asset.asset_class is AssetClass.HAZARD for asset in assets),
        given=given,
        decision=decision,
        grant=grant,
        grant_state=None if grant is None else grant.state(tx.now),
        refused=_may_decide(facts, visitor),
        other_grants=around.grants,
        other_requests=around.requests,
        live=around.live,
        earlier=around.earlier,
    )


def may_see(visitor: Visitor, request: AccessRequest) -> bool:
    """The asker, and who may look at the site."""
    return request.person_id == visitor.person.id or visitor.may(Right.VIEW, request.site_id)


def _may_decide(facts: ApprovalFacts, visitor: Visitor) -> Refusal | None:
    return may_decide(facts, now=visitor.now)


def _wanted(request: AccessRequest, visitor: Visitor) -> Interval | None:
    if request.opens is not None and request.opens + request.length <= visitor.now:
        return None
    return request.interval(visitor.now)


@dataclass(frozen=True, slots=True)
class _Around:
    """What else there is of this vendor at this site."""

    grants: list[tuple[Grant, GrantState]]
    requests: list[AccessRequest]
    live: list[Session]
    earlier: list[tuple[AccessRequest, Decision | None]]

    @classmethod
    def load(cls, tx: Tx, request: AccessRequest, *, full: bool) -> _Around:
        if not full:  # an engineer learns nothing of colleagues
            return cls([], [], [], [])
        open_states = (GrantState.OPEN, GrantState.SCHEDULED, GrantState.SUSPENDED)
        site = [request.site_id]
        granted = [
            (one, one.state(tx.now))
            for one in grants.grants(tx, site_ids=site)
            if one.vendor_id == request.vendor_id and one.request_id != request.id and one.interval.closes > tx.now
        ]
        theirs = [
            one
            for one in requests.requests(tx, site_ids=site)
            if one.vendor_id == request.vendor_id and one.id != request.id
        ]
        open_grants = {one.id for one, _ in granted}
        decided = [one for one in theirs if one.shown_state(tx.now) is not ShownState.PENDING][:_EARLIER]
        return cls(
            [(one, state) for one, state in granted if state in open_states],
            [one for one in theirs if one.shown_state(tx.now) is ShownState.PENDING],
            [one for one in sessions.sessions(tx, live=True, site_ids=site) if one.grant_id in open_grants],
            [(one, requests.load_decision(tx, one.id)) for one in decided],
        )


def _names(tx: Tx, request: AccessRequest, given: list[Approval], decision: Decision | None, around: _Around) -> Names:
    people = {request.person_id} | {one.owner_id for one in given}
    people |= {one.person_id for one, _ in around.grants} | {one.person_id for one in around.requests}
    people |= {one.person_id for one in around.live}
    assets = set(request.assets) | {one.asset_id for one in around.live}
    for one, _ in around.grants:
        assets |= one.terms.assets
    for other in around.requests:
        assets |= set(other.assets)
    for earlier, how in around.earlier:
        people |= {earlier.person_id} | ({how.by} if how is not None else set())
        assets |= set(earlier.assets)
    if decision is not None:
        people.add(decision.by)
    return Names.load(tx, people_ids=people, asset_ids=assets)


@router.post("/requests/{request_id}/withdraw")
async def withdraw(request: Request, request_id: str) -> Response:
    form = await read_form(request, [])
    visitor, done = await act(request, form.token, _withdraw, request_id)
    if isinstance(done, Refusal):
        if done.reason is ReviewReason.NO_SUCH_REQUEST:
            raise not_there()
        visitor, seen = await look(request, load_view, request_id)
        return show_request(visitor, seen, line=line_of(done), status=status_of(done))
    return go(f"/requests/{done.id}")


def _withdraw(tx: Tx, visitor: Visitor, request_id: str) -> AccessRequest | Refusal:
    return desk.withdraw(tx, person_id=visitor.person.id, request_id=request_id)
