"""Commissioning windows. Each change writes its own ledger entry (law 5)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from broker.domain.audit import WindowClosed, WindowExtended, WindowOpened
from broker.domain.errors import BrokerError, Code
from broker.domain.ids import SiteId, VendorId, WindowId, parse_text, quoted
from broker.domain.inventory import Site, Vendor
from broker.domain.wall import DailyHours, parse_daily, show_wall
from broker.domain.window import CommissioningWindow, Interval
from broker.store import ledger
from broker.store.db import Tx
from broker.store.schema import commissioning_window as _window
from broker.store.schema import site as _site

_BY_ID: Final = sa.select(_window).where(_window.c.id == sa.bindparam("window_id"))

_BY_IDS: Final = sa.select(_window).where(_window.c.id.in_(sa.bindparam("wanted", expanding=True)))


def insert_window(
    tx: Tx,
    *,
    site: Site,
    vendor: Vendor,
    interval: Interval,
    pattern: str = "*",
    phase: str = "",
    daily: str = "",
    by: str,
) -> CommissioningWindow:
    """Open a commissioning window. pattern: asset names with * and ?, comma-separated; daily: hours such as 07:00-19:00.

    Raises BrokerError(INVALID).
    """
    zone = ZoneInfo(site.time_zone)
    hours = parse_daily(daily, zone) if daily else None
    if interval.closes <= tx.now:
        raise BrokerError(Code.INVALID, "the window would be over already; choose a later --until")
    window = CommissioningWindow(
        id=WindowId(tx.new_id("win")),
        site_id=site.id,
        vendor_id=vendor.id,
        interval=interval,
        pattern=parse_text(pattern, what="asset pattern", longest=512),
        phase=parse_text(phase, what="phase", longest=128, required=False),
        daily=hours,
    )
    tx.conn.execute(
        sa.insert(_window).values(
            id=window.id,
            site_id=site.id,
            vendor_id=vendor.id,
            pattern=window.pattern,
            phase=window.phase,
            opens=interval.opens,
            closes=interval.closes,
            time_zone=site.time_zone,
            opens_wall=show_wall(interval.opens, zone),
            closes_wall=show_wall(interval.closes, zone),
            daily_from=None if hours is None else str(hours).partition("-")[0],
            daily_until=None if hours is None else str(hours).partition("-")[2],
        )
    )
    entry = WindowOpened(
        window_id=window.id,
        site_id=site.id,
        vendor_id=vendor.id,
        opens=interval.opens,
        closes=interval.closes,
        pattern=window.pattern,
        phase=window.phase,
        by=by,
        time_zone=site.time_zone,
        daily="" if hours is None else str(hours),
    )
    ledger.append(tx, entry)
    return window


def find_window(tx: Tx, window_id: WindowId) -> CommissioningWindow | None:
    """The window of that id."""
    row = tx.conn.execute(_BY_ID, {"window_id": window_id}).one_or_none()
    return None if row is None else window_of(row)


def load_window(tx: Tx, window_id: str) -> CommissioningWindow:
    """The window of that id. Raises BrokerError(NOT_FOUND)."""
    if (window := find_window(tx, WindowId(window_id))) is None:
        raise BrokerError(Code.NOT_FOUND, f"no such window: {quoted(window_id)}")
    return window


def windows_by_id(tx: Tx, ids: Iterable[WindowId]) -> dict[WindowId, CommissioningWindow]:
    """The windows of those ids, in one query."""
    wanted = sorted(set(ids))
    return {row.id: window_of(row) for row in tx.conn.execute(_BY_IDS, {"wanted": wanted})} if wanted else {}


def windows(tx: Tx, site_id: SiteId | None = None, vendor_id: VendorId | None = None) -> list[CommissioningWindow]:
    """Windows, the one that opens first before the others; also those that are over."""
    asked = sa.select(_window).order_by(_window.c.opens, _window.c.id)
    if site_id is not None:
        asked = asked.where(_window.c.site_id == site_id)
    if vendor_id is not None:
        asked = asked.where(_window.c.vendor_id == vendor_id)
    return [window_of(row) for row in tx.conn.execute(asked)]


def sites_of_vendor(tx: Tx, vendor_id: VendorId) -> frozenset[SiteId]:
    """The sites at which the vendor has or had a window; at all others it is a stranger, and learns nothing (law 7)."""
    asked = sa.select(_window.c.site_id).where(_window.c.vendor_id == vendor_id).distinct()
    return frozenset(tx.conn.execute(asked).scalars())


def close_window(tx: Tx, window: CommissioningWindow, *, by: str) -> CommissioningWindow:
    """Close a window now, early; what stands in it ends with it. Raises BrokerError(CONFLICT) when it is over already."""
    done = tx.conn.execute(
        sa.update(_window)
        .where(_window.c.id == window.id, _window.c.closed_at.is_(None), _window.c.closes > tx.now)
        .values(closed_at=tx.now)
    )
    if done.rowcount != 1:
        raise BrokerError(Code.CONFLICT, f"window {window.id} is over already")
    ledger.append(tx, WindowClosed(window_id=window.id, by=by))
    return load_window(tx, window.id)


def extend_window(
    tx: Tx, window: CommissioningWindow, until: datetime, *, by: str, reason: str = ""
) -> CommissioningWindow:
    """Move the end of a window out, and count it; grants made in it keep their own end (law 2).

    Raises BrokerError(INVALID, CONFLICT).
    """
    said = parse_text(reason, what="reason", longest=2048, required=False)
    if until <= window.interval.closes:
        raise BrokerError(Code.INVALID, "an extension must end later than the window; to end it earlier, close it")
    site = sa.select(_site.c.time_zone).where(_site.c.id == window.site_id)
    wall = show_wall(until, ZoneInfo(tx.conn.execute(site).scalar_one()))
    done = tx.conn.execute(
        sa.update(_window)
        .where(_window.c.id == window.id, _window.c.closed_at.is_(None), _window.c.closes == window.interval.closes)
        .where(_window.c.closes > tx.now)
        .values(closes=until, closes_wall=wall, extensions=_window.c.extensions + 1)
    )
    if done.rowcount != 1:
        raise BrokerError(Code.CONFLICT, f"window {window.id} is over; open a new one")
    count = window.extensions + 1
    ledger.append(tx, WindowExtended(window_id=window.id, closes=until, by=by, reason=said, count=count))
    return load_window(tx, window.id)


def window_of(row: Any) -> CommissioningWindow:
    """A row of the table as the noun."""
    return CommissioningWindow(
        id=row.id,
        site_id=row.site_id,
        vendor_id=row.vendor_id,
        interval=Interval(row.opens, row.closes),
        pattern=row.pattern,
        phase=row.phase,
        closed_at=row.closed_at,
        daily=None if row.daily_from is None else _hours_of(row),
        extensions=row.extensions,
    )


def _hours_of(row: Any) -> DailyHours:
    return parse_daily(f"{row.daily_from}-{row.daily_until}", ZoneInfo(row.time_zone))
