"""Interval and commissioning window: when a vendor may be given access at all."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase

from broker.domain.errors import BrokerError, Code
from broker.domain.ids import SiteId, VendorId, WindowId
from broker.domain.wall import DailyHours


@dataclass(frozen=True, slots=True)
class Interval:
    """A stretch of time [opens, closes), both aware UTC; never empty."""

    opens: datetime
    closes: datetime

    def __post_init__(self) -> None:
        if self.opens.tzinfo is None or self.closes.tzinfo is None:
            raise BrokerError(Code.INVALID, "an interval needs times with an offset")
        if self.opens >= self.closes:
            raise BrokerError(Code.INVALID, "an interval must close after it opens")

    def holds(self, now: datetime) -> bool:
        """True inside [opens, closes): half-open as in OpenSSH's PROTOCOL.certkeys, so windows can touch and never overlap."""
        return self.opens <= now < self.closes

    def covers(self, other: Interval) -> bool:
        """True when the whole of the other lies inside this one."""
        return self.opens <= other.opens and other.closes <= self.closes


@dataclass(frozen=True, slots=True, kw_only=True)
class CommissioningWindow:
    """The site's interval in which one vendor may be given access to some assets.

    pattern: asset names, comma-separated, each with * and ? as in a shell. closed_at: closed early, by an act.
    daily: only in these hours of each day; extensions: how often its end was moved out.
    """

    id: WindowId
    site_id: SiteId
    vendor_id: VendorId
    interval: Interval
    pattern: str
    phase: str
    closed_at: datetime | None = None
    daily: DailyHours | None = None
    extensions: int = 0

    @property
    def closes(self) -> datetime:
        """When it is over: its own end or the early one."""
        return self.interval.closes if self.closed_at is None else min(self.interval.closes, self.closed_at)

    def holds(self, now: datetime) -> bool:
        """True while the window is open, and today's hours hold."""
        return self.interval.opens <= now < self.closes and now < self.stop(now)

    def stop(self, since: datetime) -> datetime:
        """When access that holds since then must end: the window's end or that day's hours; `since` itself outside of them."""
        if self.daily is None:
            return self.closes
        hours = self.daily.around(since)
        return since if hours is None else min(self.closes, hours[1])

    def start(self, now: datetime) -> datetime:
        """Since when the window is open without a break, if it holds now."""
        hours = None if self.daily is None else self.daily.around(now)
        return self.interval.opens if hours is None else max(self.interval.opens, hours[0])

    def covers(self, interval: Interval) -> bool:
        """True when the whole interval lies inside the window as it stands; its daily hours may cut it, not leave nothing."""
        inside = self.interval.opens <= interval.opens and interval.closes <= self.closes
        return inside and (self.daily is None or self.daily.touch(interval.opens, interval.closes))

    def names(self, asset_name: str) -> bool:
        """True when the pattern names the asset."""
        return any(fnmatchcase(asset_name, part.strip()) for part in self.pattern.split(","))
