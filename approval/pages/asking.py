"""An engineer asks: the form, and the request it becomes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from approval.answers import line_of, status_of
from approval.forms import Form, read_form
from approval.logins import DOOR
from approval.showing import go, not_there, show
from approval.visitors import Visitor
from approval.web import act, look, web_of
from broker import desk
from broker.domain.capability import EXEC, SFTP_READ, SFTP_WRITE, SHELL, Capability, parse_capability
from broker.domain.errors import BrokerError, Code
from broker.domain.ids import parse_duration, quoted
from broker.domain.inventory import REACHABLE_STATES, Asset, Site
from broker.domain.policy import Refusal
from broker.domain.request import AccessRequest, Asked
from broker.domain.window import CommissioningWindow
from broker.settings import Settings
from broker.store import inventory
from broker.store.db import Tx

router = APIRouter()
_OFFERED: Final = (SHELL, EXEC, SFTP_READ, SFTP_WRITE)
_SINGLE: Final = ("ports", "length", "opens", "reason", "change")
_REPEATED: Final = ("asset", "capability")


@dataclass(frozen=True, slots=True)
class AskView:
    """What there is to ask for: the sites where the engineer's firm has a window that is not over, with assets it names."""

    places: list[tuple[Site, list[CommissioningWindow], list[Asset]]]
    typed: Form


@router.get("/requests/new")
async def ask_page(request: Request) -> Response:
    return await _show(request, Form({"capability": ["shell", "exec"], "length": ["2h"]}))


async def _show(request: Request, typed: Form, *, line: str | None = None, status: int = 200) -> Response:
    visitor, seen = await look(request, _load, typed)
    return show(
        visitor, "request_new.html", section="/requests/new", status=status, seen=seen, line=line, offered=_OFFERED
    )


def _load(tx: Tx, visitor: Visitor, typed: Form) -> AskView:
    vendor_id = visitor.person.vendor_id
    if vendor_id is None:
        raise not_there()
    places = []
    for site in visitor.sites:
        standing = [one for one in inventory.windows(tx, site.id, vendor_id) if one.closes > tx.now]
        named = [
            asset
            for asset in inventory.assets(tx, site)
            if asset.state in REACHABLE_STATES and any(window.names(asset.name) for window in standing)
        ]
        if standing:
            places.append((site, standing, named))
    return AskView(places, typed)


@router.post("/requests/new")
async def ask(request: Request) -> Response:
    form = await read_form(request, _SINGLE, repeated=_REPEATED)
    try:
        _, done = await act(request, form.token, _ask, form, web_of(request).settings)
    except BrokerError as error:
        return await _show(request, form, line=line_of(error), status=status_of(error))
    if isinstance(done, Refusal):
        return await _show(request, form, line=line_of(done), status=status_of(done))
    return go(f"/requests/{done.id}")


def _ask(tx: Tx, visitor: Visitor, form: Form, settings: Settings) -> AccessRequest | Refusal:
    if not visitor.is_engineer:
        raise not_there()
    assets = tuple(form.many("asset"))
    asked = Asked(
        assets=assets,
        length=parse_duration(form.one("length").replace(" ", "")),
        reason=form.one("reason"),
        capabilities=_read_capabilities(form),
        opens=_read_start(tx, visitor, form, assets),
        change=form.one("change") or None,
    )
    return desk.submit(
        tx,
        person_id=visitor.person.id,
        asked=asked,
        lapses_after=timedelta(seconds=settings.request_lapses_s),
        longest=timedelta(seconds=settings.longest_request_s),
        door=DOOR,
    )


def _read_capabilities(form: Form) -> frozenset[Capability]:
    named = {parse_capability(text) for text in form.many("capability")}
    for port in form.one("ports").replace(",", " ").split():
        if not port.isascii() or not port.isdecimal():
            raise BrokerError(Code.INVALID, f"port {quoted(port)}: write numbers such as 502")
        named.add(parse_capability(f"tcp:{port}"))
    return frozenset(named)


def _read_start(tx: Tx, visitor: Visitor, form: Form, assets: tuple[str, ...]) -> datetime | None:
    """The start in the time of the first asset's site, if the vendor knows that site; without one it counts from the yes."""
    text = form.one("opens").strip()
    if not text:
        return None
    return desk.read_start(tx, person_id=visitor.person.id, assets=assets, text=text)
