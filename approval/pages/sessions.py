"""Sessions: who is in now, one session with its channels, ending it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from fastapi import APIRouter, Request
from starlette.responses import Response

from approval.answers import line_of, status_of
from approval.forms import read_form
from approval.logins import DOOR, Unproven, act_proven
from approval.names import Names
from approval.showing import LOOKERS, go, not_there, show
from approval.visitors import Visitor
from approval.web import look, web_of
from broker import desk
from broker.domain.errors import BrokerError
from broker.domain.ids import parse_duration
from broker.domain.people import Right
from broker.domain.policy import Refusal
from broker.domain.session import Session
from broker.store import grants, inventory, sessions
from broker.store.db import Tx
from broker.store.sessions import Channel

router = APIRouter()
_NEWEST = 100


@dataclass(frozen=True, slots=True)
class SessionList:
    """Live sessions, and those that ended last."""

    live: list[Session]
    ended: list[Session]
    names: Names


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionView:
    """One session. killed_at: when somebody ended it by force; the bastion closes it within a second of that.

    hold_max: how far beyond its grant's end an owner may hold it.
    """

    session: Session
    killed_at: datetime | None
    suspended: bool
    names: Names
    zone: str
    channels: list[Channel]
    may_kill: bool
    may_hold: bool
    hold_max: timedelta
    has_recording: bool


@router.get("/sessions")
async def session_list(request: Request) -> Response:
    visitor, seen = await look(request, _load_list)
    return show(visitor, "sessions.html", section="/sessions", seen=seen)


def _load_list(tx: Tx, visitor: Visitor) -> SessionList:
    person_id = visitor.person.id if visitor.is_engineer else None
    site_ids = None if visitor.is_engineer else [site.id for site in visitor.sites_with(Right.VIEW)]
    live = sessions.sessions(tx, live=True, person_id=person_id, site_ids=site_ids)
    ended = sessions.sessions(tx, live=False, person_id=person_id, site_ids=site_ids, newest=_NEWEST)
    both = [*live, *ended]
    names = Names.load(tx, people_ids=[one.person_id for one in both], asset_ids=[one.asset_id for one in both])
    return SessionList(live, ended, names)


@router.get("/sessions/{session_id}")
async def session_page(request: Request, session_id: str) -> Response:
    visitor, seen = await look(request, _load, session_id, _hold_max(request))
    return _show(visitor, seen)


def _hold_max(request: Request) -> timedelta:
    return timedelta(seconds=web_of(request).settings.hold_max_s)


def _show(
    visitor: Visitor, seen: SessionView | None, *, line: str | None = None, status: int = 200, typed: str = ""
) -> Response:
    if seen is None:
        raise not_there()
    return show(visitor, "session.html", section="/sessions", status=status, seen=seen, line=line, typed=typed)


def _load(tx: Tx, visitor: Visitor, session_id: str, hold_max: timedelta) -> SessionView | None:
    session = sessions.load_session(tx, session_id)
    asset = None if session is None else inventory.asset_by_id(tx, session.asset_id)
    if session is None or asset is None:
        return None
    if not (session.person_id == visitor.person.id or visitor.may(Right.VIEW, asset.site_id)):
        return None
    names = Names.load(tx, people_ids=[session.person_id], asset_ids=[session.asset_id])
    opening, grant = sessions.load_opening(tx, session.id), grants.load(tx, session.grant_id)
    return SessionView(
        session=session,
        killed_at=None if opening is None else opening[2],
        suspended=grant is not None and grant.suspended_at is not None,
        names=names,
        zone=names.zone(asset.site_id),
        channels=sessions.channels(tx, session.id),
        may_kill=visitor.may(Right.KILL, asset.site_id),
        may_hold=visitor.may(Right.APPROVE, asset.site_id),
        hold_max=hold_max,
        has_recording=any(visitor.may(right, asset.site_id) for right in LOOKERS),
    )


@router.post("/sessions/{session_id}/kill")
async def kill(request: Request, session_id: str) -> Response:
    return await _do(request, session_id, _kill)


@router.post("/sessions/{session_id}/freeze")
async def freeze(request: Request, session_id: str) -> Response:
    return await _do(request, session_id, _freeze)


@router.post("/sessions/{session_id}/unfreeze")
async def unfreeze(request: Request, session_id: str) -> Response:
    return await _do(request, session_id, _unfreeze)


async def _do(
    request: Request, session_id: str, deed: Callable[[Tx, Visitor, str, str], Session | Refusal]
) -> Response:
    form = await read_form(request, ["reason"])
    typed = form.one("reason")
    try:
        done = await act_proven(request, form, deed, session_id, typed)
    except BrokerError as error:
        return await _again(request, session_id, line_of(error), status_of(error), typed)
    match done:
        case Session():
            return go(f"/sessions/{done.id}")
        case Unproven(line):
            return await _again(request, session_id, line, 403, typed)
        case Refusal():
            return await _again(request, session_id, line_of(done), 409, "")


@router.post("/sessions/{session_id}/hold-open")
async def hold_open(request: Request, session_id: str) -> Response:
    form = await read_form(request, ["reason", "for"])
    typed = form.one("reason")
    try:
        length = parse_duration(form.one("for") + "m")
        done = await act_proven(request, form, _hold_open, session_id, length, typed, _hold_max(request))
    except BrokerError as error:
        return await _again(request, session_id, line_of(error), status_of(error), typed)
    match done:
        case desk.Held():
            return go(f"/sessions/{done.session.id}")
        case Unproven(line):
            return await _again(request, session_id, line, 403, typed)
        case Refusal():
            return await _again(request, session_id, line_of(done), 409, "")


async def _again(request: Request, session_id: str, line: str, status: int, typed: str) -> Response:
    visitor, seen = await look(request, _load, session_id, _hold_max(request))
    if seen is not None and not seen.may_kill and status == 409:
        raise not_there()
    return _show(visitor, seen, line=line, status=status, typed=typed)


def _kill(tx: Tx, visitor: Visitor, session_id: str, reason: str) -> Session | Refusal:
    return desk.kill_as(tx, owner_id=visitor.person.id, session_id=session_id, reason=reason, door=DOOR)


def _freeze(tx: Tx, visitor: Visitor, session_id: str, reason: str) -> Session | Refusal:
    return desk.freeze_as(tx, person_id=visitor.person.id, session_id=session_id, reason=reason, door=DOOR)


def _unfreeze(tx: Tx, visitor: Visitor, session_id: str, _reason: str) -> Session | Refusal:
    return desk.unfreeze_as(tx, person_id=visitor.person.id, session_id=session_id, door=DOOR)


def _hold_open(
    tx: Tx, visitor: Visitor, session_id: str, length: timedelta, reason: str, longest: timedelta
) -> desk.Held | Refusal:
    return desk.hold_open(
        tx,
        owner_id=visitor.person.id,
        session_id=session_id,
        length=length,
        reason=reason,
        longest=longest,
        door=DOOR,
    )
