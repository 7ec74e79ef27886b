"""Grants: the list, one grant, revoking it, handing it back."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from approval.answers import line_of, status_of
from approval.forms import read_form
from approval.logins import Unproven, act_proven
from approval.names import Names
from approval.showing import go, not_there, show
from approval.visitors import Visitor
from approval.web import act, look, web_of
from broker import desk
from broker.domain.errors import BrokerError
from broker.domain.grant import Grant, GrantState
from broker.domain.inventory import Asset
from broker.domain.people import Right
from broker.domain.policy import Reason, Refusal
from broker.domain.session import Session
from broker.domain.window import CommissioningWindow
from broker.store import grants, inventory, sessions
from broker.store.db import Tx

router = APIRouter()
_NEWEST = 200
_REVOCABLE = (GrantState.SCHEDULED, GrantState.OPEN, GrantState.SUSPENDED)


@dataclass(frozen=True, slots=True)
class GrantList:
    """Grants with their states, and the names in them."""

    grants: list[tuple[Grant, GrantState]]
    names: Names


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantView:
    """One grant. may_revoke, may_hand_back: whether this visitor can, now. until: the end, a window closed early counted."""

    grant: Grant
    state: GrantState
    names: Names
    zone: str
    assets: list[Asset]
    window: CommissioningWindow | None
    sessions: list[Session]
    may_revoke: bool
    may_hand_back: bool


@router.get("/grants")
async def grant_list(request: Request) -> Response:
    visitor, seen = await look(request, _load_list)
    return show(visitor, "grants.html", section="/grants", seen=seen)


def _load_list(tx: Tx, visitor: Visitor) -> GrantList:
    if visitor.is_engineer:
        found = grants.grants(tx, person_id=visitor.person.id, newest=_NEWEST)
    else:
        found = grants.grants(tx, site_ids=[site.id for site in visitor.sites_with(Right.VIEW)], newest=_NEWEST)
    assets = {asset_id for one in found for asset_id in one.terms.assets}
    names = Names.load(tx, people_ids=[one.person_id for one in found], asset_ids=assets)
    return GrantList([(one, one.state(tx.now)) for one in found], names)


@router.get("/grants/{grant_id}")
async def grant_page(request: Request, grant_id: str) -> Response:
    visitor, seen = await look(request, _load, grant_id)
    return _show(request, visitor, seen)


def _show(
    request: Request,
    visitor: Visitor,
    seen: GrantView | None,
    *,
    line: str | None = None,
    status: int = 200,
    typed: str = "",
) -> Response:
    if seen is None:
        raise not_there()
    ssh = web_of(request).settings.ssh
    return show(visitor, "grant.html", section="/grants", status=status, seen=seen, line=line, typed=typed, ssh=ssh)


def _load(tx: Tx, visitor: Visitor, grant_id: str) -> GrantView | None:
    grant = grants.load(tx, grant_id)
    if grant is None or not (grant.person_id == visitor.person.id or visitor.may(Right.VIEW, grant.site_id)):
        return None
    state, site = grant.state(tx.now), inventory.site_by_id(tx, grant.site_id)
    may_stop = visitor.may(Right.APPROVE, grant.site_id) or visitor.may(Right.KILL, grant.site_id)
    return GrantView(
        grant=grant,
        state=state,
        names=Names.load(tx, people_ids=[grant.person_id], asset_ids=grant.terms.assets),
        zone="UTC" if site is None else site.time_zone,
        assets=sorted(inventory.assets(tx, ids=grant.terms.assets), key=lambda asset: asset.login),
        window=inventory.find_window(tx, grant.window_id),
        sessions=sessions.sessions(tx, grant_id=grant.id, newest=50),
        may_revoke=may_stop and state in _REVOCABLE,
        may_hand_back=grant.person_id == visitor.person.id and state in _REVOCABLE,
    )


@router.post("/grants/{grant_id}/revoke")
async def revoke(request: Request, grant_id: str) -> Response:
    form = await read_form(request, ["reason"])
    typed = form.one("reason")
    try:
        done = await act_proven(request, form, _revoke, grant_id, typed)
    except BrokerError as error:
        return await _again(request, grant_id, line_of(error), status_of(error), typed)
    return await _answer(request, grant_id, done, typed)


@router.post("/grants/{grant_id}/hand-back")
async def hand_back(request: Request, grant_id: str) -> Response:
    form = await read_form(request, [])
    _, done = await act(request, form.token, _hand_back, grant_id)
    return await _answer(request, grant_id, done, "")


async def _answer(request: Request, grant_id: str, done: Grant | Refusal | Unproven, typed: str) -> Response:
    match done:
        case Unproven(line):
            return await _again(request, grant_id, line, 403, typed)
        case Refusal(reason=Reason.NO_GRANT):
            raise not_there()
        case Refusal():
            return await _again(request, grant_id, line_of(done), status_of(done), "")
        case Grant():
            return go(f"/grants/{done.id}")


async def _again(request: Request, grant_id: str, line: str, status: int, typed: str) -> Response:
    visitor, seen = await look(request, _load, grant_id)
    return _show(request, visitor, seen, line=line, status=status, typed=typed)


def _revoke(tx: Tx, visitor: Visitor, grant_id: str, reason: str) -> Grant | Refusal:
    return desk.revoke_as(tx, owner_id=visitor.person.id, grant_id=grant_id, reason=reason)


def _hand_back(tx: Tx, visitor: Visitor, grant_id: str) -> Grant | Refusal:
    return desk.hand_back(tx, person_id=visitor.person.id, grant_id=grant_id)
