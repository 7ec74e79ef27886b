"""Wall time: what the clock on a site's wall shows, and the instants it means; a clock change is asked back, never guessed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final

from broker.domain.errors import BrokerError, Code
from broker.domain.ids import in_range, parse_instant, quoted

_HOURS: Final = re.compile(r"([01][0-9]|2[0-4]):([0-5][0-9])-([01][0-9]|2[0-4]):([0-5][0-9])")
_DAY: Final = timedelta(days=1)
_TICK: Final = timedelta(microseconds=1)


def read_time(text: str, zone: tzinfo, *, what: str = "time") -> datetime:
    """A time as typed: RFC 3339 with offset, taken as it is, or wall time of the zone; gives aware UTC.

    zone: of the site, from the IANA database; its text is its name. Raises BrokerError(INVALID), naming the gap or the two
    offsets, for a wall time that does not exist or exists twice. Source: docs/rules.md TIM-2.
    """
    try:
        wall = datetime.fromisoformat(text)
    except ValueError:
        raise BrokerError(
            Code.INVALID,
            f"{what} {quoted(text)}: write 2027-02-24T16:00:00-08:00, or 2027-02-24 16:00 in the site's time",
        ) from None
    if wall.tzinfo is not None:
        return parse_instant(text)
    in_range(wall.replace(tzinfo=UTC))
    found = _instants(wall, zone)
    if not found:
        before, after = _around_gap(wall, zone)
        raise BrokerError(
            Code.INVALID,
            f"{what} {quoted(text)} does not exist in {zone}: the clocks go from {before:%H:%M} to {after:%H:%M}; "
            "choose another, or write the offset",
        )
    if len(found) == 2:
        offsets = " or ".join(f"{one.astimezone(zone).isoformat()[-6:]}" for one in found)
        raise BrokerError(Code.INVALID, f"{what} {quoted(text)} exists twice in {zone}; write the offset: {offsets}")
    return in_range(found[0])


def show_wall(instant: datetime, zone: tzinfo) -> str:
    """An instant as the wall clock shows it, without the offset."""
    return instant.astimezone(zone).replace(tzinfo=None).isoformat()


def _instants(wall: datetime, zone: tzinfo) -> list[datetime]:
    """The instants at which the wall clock shows this: none in a gap, two in a fold, else one; the early one first."""
    tried = {wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)}
    return sorted(one for one in tried if one.astimezone(zone).replace(tzinfo=None, fold=0) == wall)


def _change_at(wall: datetime, zone: tzinfo) -> datetime:
    """The instant at which the clocks are set forward over a wall time that does not exist."""
    # PEP 495: fold=1 reads a time in a gap with the offset after it, which gives an instant before it, and fold=0 one after.
    early, late = sorted(wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (1, 0))
    before = early.astimezone(zone).utcoffset()
    while late - early > _TICK:
        middle = early + (late - early) // 2
        if middle.astimezone(zone).utcoffset() == before:
            early = middle
        else:
            late = middle
    return late


def _around_gap(wall: datetime, zone: tzinfo) -> tuple[datetime, datetime]:
    change = _change_at(wall, zone)
    before = (change - _TICK).astimezone(zone)
    return before.replace(tzinfo=None) + _TICK, change.astimezone(zone)


@dataclass(frozen=True, slots=True)
class DailyHours:
    """Plain hours of each day on the site's wall clock, [opens, closes) within one day. opens, closes: since its midnight."""

    zone: tzinfo
    opens: timedelta
    closes: timedelta

    def __post_init__(self) -> None:
        if not timedelta(0) <= self.opens < self.closes <= _DAY:
            raise BrokerError(Code.INVALID, "daily hours begin before they end, and do not go over midnight")

    def __str__(self) -> str:
        return f"{_show(self.opens)}-{_show(self.closes)}"

    def on(self, day: date) -> tuple[datetime, datetime] | None:
        """The hours of one day as instants [opens, closes); None when a clock change leaves nothing of them.

        A bound that does not exist, or exists twice, is rounded inwards: a start late, an end early. Source: law 2.
        """
        midnight = datetime.combine(day, time())
        opens, closes = self._at(midnight + self.opens, late=True), self._at(midnight + self.closes, late=False)
        return (opens, closes) if opens < closes else None

    def _at(self, wall: datetime, *, late: bool) -> datetime:
        found = _instants(wall, self.zone)
        if not found:
            return _change_at(wall, self.zone)
        return found[-1] if late else found[0]

    def around(self, now: datetime) -> tuple[datetime, datetime] | None:
        """Today's hours, if now lies in them."""
        found = self.on(now.astimezone(self.zone).date())
        return found if found is not None and found[0] <= now < found[1] else None

    def touch(self, opens: datetime, closes: datetime) -> bool:
        """True when some instant of [opens, closes) lies in the hours of its day."""
        day, last = opens.astimezone(self.zone).date(), closes.astimezone(self.zone).date()
        while day <= last:
            found = self.on(day)
            if found is not None and found[0] < closes and opens < found[1]:
                return True
            day += _DAY
        return False


def parse_daily(text: str, zone: tzinfo) -> DailyHours:
    """Read 07:00-19:00; 24:00 is the end of the day. Raises BrokerError(INVALID).

    >>> str(parse_daily("07:00-19:00", UTC))
    '07:00-19:00'
    """
    match = _HOURS.fullmatch(text.strip())
    if match is None:
        raise BrokerError(Code.INVALID, f"daily hours {quoted(text)}: write 07:00-19:00, in the site's time")
    hours = [timedelta(hours=int(match[at]), minutes=int(match[at + 1])) for at in (1, 3)]
    return DailyHours(zone, hours[0], hours[1])


def _show(since_midnight: timedelta) -> str:
    minutes = since_midnight // timedelta(minutes=1)
    return f"{minutes // 60:02d}:{minutes % 60:02d}"
