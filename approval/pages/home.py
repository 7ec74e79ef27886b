"""The first page: what waits for whoever is logged in."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from approval.names import Names
from approval.pages.requests import visible_requests
from approval.showing import show
from approval.visitors import Visitor
from approval.web import look, web_of
from broker.domain.grant import Grant, GrantState
from broker.domain.people import Right
from broker.domain.request import AccessRequest, ShownState
from broker.domain.session import Session
from broker.store import grants, requests, sessions
from broker.store.db import Tx

router = APIRouter()
_STANDING = (GrantState.OPEN, GrantState.SCHEDULED)


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeView:
    """decides: for an owner of some site. waiting: what they may decide, or an engineer's own requests; agreed: with their yes."""

    decides: bool
    names: Names
    waiting: list[AccessRequest]
    agreed: frozenset[str]
    live: list[Session]
    standing: list[tuple[Grant, GrantState]]


@router.get("/")
async def home(request: Request) -> Response:
    visitor, seen = await look(request, _load)
    template = "home_engineer.html" if visitor.is_engineer else "home.html"
    return show(visitor, template, section="/", seen=seen, ssh=web_of(request).settings.ssh)


def _load(tx: Tx, visitor: Visitor) -> HomeView:
    waiting = visible_requests(tx, visitor, ShownState.PENDING)
    if not visitor.is_engineer:
        waiting = [one for one in waiting if visitor.may(Right.APPROVE, one.site_id)]
    granted, live = _mine(tx, visitor) if visitor.is_engineer else _of_sites(tx, visitor)
    standing = [(one, state) for one in granted if (state := one.state(tx.now)) in _STANDING]
    assets = {asset_id for one in waiting for asset_id in one.assets} | {one.asset_id for one in live}
    for grant, _ in standing:
        assets |= grant.terms.assets
    people = {one.person_id for one in waiting} | {one.person_id for one in live}
    return HomeView(
        decides=visitor.may_anywhere(Right.APPROVE),
        names=Names.load(tx, people_ids=people | {one.person_id for one, _ in standing}, asset_ids=assets),
        waiting=sorted(waiting, key=lambda one: one.lapses_at),
        agreed=frozenset(one.id for one in waiting if _has_agreed(tx, visitor, one)),
        live=live,
        standing=sorted(standing, key=lambda one: one[0].interval.closes),
    )


def _mine(tx: Tx, visitor: Visitor) -> tuple[list[Grant], list[Session]]:
    mine = visitor.person.id
    return grants.grants(tx, person_id=mine, newest=200), sessions.sessions(tx, live=True, person_id=mine)


def _of_sites(tx: Tx, visitor: Visitor) -> tuple[list[Grant], list[Session]]:
    site_ids = [site.id for site in visitor.sites_with(Right.VIEW)]
    return grants.grants(tx, site_ids=site_ids, newest=200), sessions.sessions(tx, live=True, site_ids=site_ids)


def _has_agreed(tx: Tx, visitor: Visitor, asked: AccessRequest) -> bool:
    return any(one.owner_id == visitor.person.id for one in requests.approvals(tx, asked.id))
