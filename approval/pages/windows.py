"""Commissioning windows: the list, opening one, closing one early."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, Final, ParamSpec
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Request
from starlette.responses import Response

from approval.answers import line_of, status_of
from approval.forms import Form, read_form
from approval.logins import Unproven, act_proven
from approval.names import Names
from approval.showing import go, not_there, show
from approval.visitors import Visitor
from approval.web import look
from broker import desk
from broker.domain.errors import BrokerError, Code
from broker.domain.ids import WindowId
from broker.domain.inventory import Site, Vendor
from broker.domain.people import Right
from broker.domain.wall import read_time
from broker.domain.window import CommissioningWindow, Interval
from broker.store import inventory
from broker.store.db import Tx

router = APIRouter()
P = ParamSpec("P")
_FIELDS: Final = ("site", "vendor", "opens", "closes", "pattern", "phase", "daily")


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowList:
    """Windows of the sites that the visitor may look at. own_sites: where they may open and close."""

    standing: list[CommissioningWindow]
    over: list[CommissioningWindow]
    names: Names
    own_sites: tuple[Site, ...]
    vendors: list[Vendor]


@router.get("/windows")
async def window_list(request: Request) -> Response:
    return await _show(request, Form({"pattern": ["*"]}))


async def _show(request: Request, typed: Form, *, line: str | None = None, status: int = 200) -> Response:
    visitor, seen = await look(request, _load)
    return show(visitor, "windows.html", section="/windows", status=status, seen=seen, line=line, typed=typed)


def _load(tx: Tx, visitor: Visitor) -> WindowList:
    if not (sites := visitor.sites_with(Right.VIEW)):
        raise not_there()
    found = [window for site in sites for window in inventory.windows(tx, site.id)]
    return WindowList(
        standing=[one for one in found if one.closes > tx.now],
        over=sorted((one for one in found if one.closes <= tx.now), key=lambda one: one.closes, reverse=True)[:20],
        names=Names.load(tx, people_ids=[], asset_ids=[]),
        own_sites=visitor.sites_with(Right.APPROVE),
        vendors=[one for one in inventory.vendors(tx) if one.disabled_at is None],
    )


@router.post("/windows")
async def open_window(request: Request) -> Response:
    form = await read_form(request, _FIELDS)
    return await _act(request, form, _open, form)


@router.post("/windows/{window_id}/close")
async def close_window(request: Request, window_id: str) -> Response:
    form = await read_form(request, [])
    return await _act(request, form, _close, window_id)


async def _act(
    request: Request,
    form: Form,
    fn: Callable[Concatenate[Tx, Visitor, P], CommissioningWindow],
    *args: P.args,
    **kw: P.kwargs,
) -> Response:
    try:
        done = await act_proven(request, form, fn, *args, **kw)
    except BrokerError as error:
        return await _show(request, form, line=line_of(error), status=status_of(error))
    if isinstance(done, Unproven):
        return await _show(request, form, line=done.line, status=403)
    return go("/windows")


def _open(tx: Tx, visitor: Visitor, form: Form) -> CommissioningWindow:
    site = inventory.find_site(tx, form.one("site"))
    if site is None or not visitor.may(Right.APPROVE, site.id):
        raise not_there()
    vendor = inventory.find_vendor(tx, form.one("vendor"))
    if vendor is None:
        raise BrokerError(Code.INVALID, "choose a vendor")
    opens = read_time(form.one("opens"), ZoneInfo(site.time_zone), what="start")
    closes = read_time(form.one("closes"), ZoneInfo(site.time_zone), what="end")
    return inventory.insert_window(
        tx,
        site=site,
        vendor=vendor,
        interval=Interval(opens, closes),
        pattern=form.one("pattern") or "*",
        phase=form.one("phase"),
        daily=form.one("daily").strip(),
        by=visitor.person.handle,
    )


def _close(tx: Tx, visitor: Visitor, window_id: str) -> CommissioningWindow:
    window = inventory.find_window(tx, WindowId(window_id))
    if window is None or not visitor.may(Right.APPROVE, window.site_id):
        raise not_there()
    return desk.close_window(tx, window_id=window.id, by=visitor.person.handle)
