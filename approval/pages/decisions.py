"""An owner's yes, narrowed or not, and an owner's no. The desk decides; this reads the form and shows what came of it."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Request
from starlette.responses import Response

from approval.answers import line_of, status_of
from approval.forms import Form, read_form
from approval.logins import DOOR, Unproven, act_proven
from approval.pages.requests import load_view, may_see, show_request
from approval.showing import go, not_there
from approval.times import field_value
from approval.visitors import Visitor
from approval.web import look, web_of
from broker import desk
from broker.domain.capability import parse_capability
from broker.domain.errors import BrokerError, Code
from broker.domain.grant import Grant
from broker.domain.ids import parse_duration
from broker.domain.isolation import Ladder
from broker.domain.policy import Agreed, Narrowing, Refusal
from broker.domain.request import AccessRequest
from broker.domain.wall import read_time
from broker.isolation import load
from broker.store import inventory, requests
from broker.store.db import Tx

router = APIRouter()


@router.post("/requests/{request_id}/approve")
async def approve(request: Request, request_id: str) -> Response:
    form = await read_form(request, ["version", "until", "length"], repeated=["asset", "capability"])
    try:
        web = web_of(request)
        done = await act_proven(request, form, _approve, request_id, form, load(web.home, web.settings))
    except BrokerError as error:
        return await _again(request, request_id, line_of(error), status_of(error))
    return await _answer(request, request_id, done)


@router.post("/requests/{request_id}/deny")
async def deny(request: Request, request_id: str) -> Response:
    form = await read_form(request, ["version", "reason"])
    try:
        done = await act_proven(request, form, _deny, request_id, form)
    except BrokerError as error:
        return await _again(request, request_id, line_of(error), status_of(error), typed=form.one("reason"))
    return await _answer(request, request_id, done, typed=form.one("reason"))


async def _answer(
    request: Request, request_id: str, done: Grant | Agreed | AccessRequest | Refusal | Unproven | None, typed: str = ""
) -> Response:
    match done:
        case None:
            raise not_there()
        case Unproven(line):
            return await _again(request, request_id, line, 403, typed=typed)
        case Refusal():
            return await _again(request, request_id, line_of(done), status_of(done), typed=typed)
        case _:
            return go(f"/requests/{request_id}")


async def _again(request: Request, request_id: str, line: str, status: int, typed: str = "") -> Response:
    """The page as it now is, with one line on what went wrong; for a stranger it is not there."""
    visitor, seen = await look(request, load_view, request_id)
    return show_request(visitor, seen, line=line, status=status, typed=typed)


def _approve(tx: Tx, visitor: Visitor, request_id: str, form: Form, ladder: Ladder) -> Grant | Agreed | Refusal | None:
    narrowing = Narrowing()
    if (asked := _visible(tx, visitor, request_id)) is not None:
        narrowing = _read_narrowing(tx, asked, form)
    # A stranger's try goes to the desk too: it is refused there and kept as evidence; the answer to them stays 404.
    done = desk.approve(
        tx,
        owner_id=visitor.person.id,
        request_id=request_id,
        narrowing=narrowing,
        version=_read_version(form),
        ladder=ladder,
        door=DOOR,
    )
    return None if asked is None else done


def _deny(tx: Tx, visitor: Visitor, request_id: str, form: Form) -> AccessRequest | Refusal | None:
    asked = _visible(tx, visitor, request_id)
    done = desk.deny(
        tx,
        owner_id=visitor.person.id,
        request_id=request_id,
        reason=form.one("reason"),
        door=DOOR,
        version=_read_version(form),
    )
    return None if asked is None else done


def _visible(tx: Tx, visitor: Visitor, request_id: str) -> AccessRequest | None:
    asked = requests.load(tx, request_id)
    return asked if asked is not None and may_see(visitor, asked) and not visitor.is_engineer else None


def _read_version(form: Form) -> int:
    text = form.one("version")
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise BrokerError(Code.INVALID, "the form is incomplete; load the page again")
    return int(text)


def _read_narrowing(tx: Tx, asked: AccessRequest, form: Form) -> Narrowing:
    """What the owner took away. Everything ticked and the end untouched is the request as asked."""
    logins = frozenset(form.many("asset"))
    capabilities = frozenset(parse_capability(text) for text in form.many("capability"))
    if not logins or not capabilities:
        raise BrokerError(Code.INVALID, "leave at least one asset and one capability, or deny the request")
    known = frozenset(asset.login for asset in inventory.assets(tx, ids=asked.assets))
    return Narrowing(
        assets=None if logins == known else logins,
        capabilities=None if capabilities == asked.capabilities else capabilities,
        closes=_read_end(tx, asked, form),
    )


def _read_end(tx: Tx, asked: AccessRequest, form: Form) -> datetime | None:
    """The earlier end, None when it is left as asked.

    A request without a start counts from the yes, so its end is given as a length; the other as a time of the site.
    """
    if asked.opens is None:
        text = form.one("length").replace(" ", "")
        length = parse_duration(text) if text else asked.length
        return None if length == asked.length else tx.now + length
    text = form.one("until").strip()
    site = inventory.site_by_id(tx, asked.site_id)
    zone = "UTC" if site is None else site.time_zone
    if not text or text == field_value(asked.opens + asked.length, zone):
        return None
    return read_time(text, ZoneInfo(zone), what="end")
