"""Times as pages show and take them: the site's own time with its offset, and UTC beside it."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from markupsafe import Markup


def show_instant(when: datetime | None, zone: str = "UTC") -> Markup:
    """One instant as a <time>: site time with abbreviation, then offset and UTC; a dash for None. zone: an IANA name.

    >>> from datetime import timedelta
    >>> str(show_instant(datetime(2027, 2, 25, tzinfo=UTC), "America/Los_Angeles").striptags())
    'Wed 24 Feb 2027 16:00 PST −08:00 · 25 Feb 00:00 UTC'
    """
    if when is None:
        return Markup("—")
    instant = when.astimezone(UTC)
    local = instant.astimezone(ZoneInfo(zone))
    in_utc = f"{_clock(instant)} UTC"
    if local.utcoffset() == instant.utcoffset():
        return _time(instant, local, in_utc)
    name = local.tzname() or ""
    # A zone without letters of its own is called by its offset already.
    here = f"{_clock(local)} {name if name.isalpha() else _offset(local)}"
    other_day = "" if local.date() == instant.date() else f"{instant:%-d %b} "
    beside = f"{_offset(local)} · " if name.isalpha() else ""
    return _time(instant, local, here, f"{beside}{other_day}{in_utc}")


def _time(instant: datetime, local: datetime, clock: str, beside: str = "") -> Markup:
    shown = Markup('<span class="at"><span>{}</span> <span>{}</span></span>').format(f"{local:%a %-d %b %Y}", clock)
    if beside:
        shown += Markup(' <span class="utc">{}</span>').format(beside)
    machine = instant.isoformat(timespec="seconds").replace("+00:00", "Z")
    return Markup('<time datetime="{}">{}</time>').format(machine, shown)


def _clock(when: datetime) -> str:
    return f"{when:%H:%M:%S}" if when.second else f"{when:%H:%M}"


def _offset(local: datetime) -> str:
    text = f"{local:%z}"
    sign = "−" if text.startswith("-") else "+"
    return f"{sign}{text[1:3]}:{text[3:5]}"


def field_value(when: datetime, zone: str) -> str:
    """The instant as a datetime-local field holds it: the site's time, whole minutes, rounded down."""
    return f"{when.astimezone(ZoneInfo(zone)):%Y-%m-%dT%H:%M}"
