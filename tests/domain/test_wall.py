"""Wall times of sites over clock changes: asked back where they do not exist or exist twice; daily hours rounded inwards."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.domain.errors import BrokerError
from broker.domain.ids import WindowId
from broker.domain.policy import Admission, Reason, Refusal, ReviewReason, admit, may_approve, review
from broker.domain.policy import Narrowing as AsAsked
from broker.domain.wall import DailyHours, parse_daily, read_time, show_wall
from broker.domain.window import CommissioningWindow, Interval
from tests.domain.makers import (
    HOUR,
    NOON,
    SITE,
    VENDOR,
    a_grant,
    an_access_request,
    an_asking,
    some_approval_facts,
    some_facts,
    some_review_facts,
)

LONDON, NEW_YORK = ZoneInfo("Europe/London"), ZoneInfo("America/New_York")
LORD_HOWE, KOLKATA = ZoneInfo("Australia/Lord_Howe"), ZoneInfo("Asia/Kolkata")  # half an hour's change; none at all
ZONES = (LONDON, NEW_YORK, LORD_HOWE, KOLKATA)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "text", "said"),
    [
        (LONDON, "2027-03-28 01:30", "does not exist in Europe/London: the clocks go from 01:00 to 02:00"),
        (LONDON, "2027-03-28T01:00", "the clocks go from 01:00 to 02:00"),
        (LONDON, "2027-10-31 01:30", "exists twice in Europe/London; write the offset: +01:00 or +00:00"),
        (NEW_YORK, "2027-03-14 02:59:59", "does not exist in America/New_York: the clocks go from 02:00 to 03:00"),
        (NEW_YORK, "2027-11-07 01:00", "exists twice in America/New_York; write the offset: -04:00 or -05:00"),
        (LORD_HOWE, "2027-10-03 02:15", "does not exist in Australia/Lord_Howe: the clocks go from 02:00 to 02:30"),
        (LORD_HOWE, "2027-04-04 01:45", "exists twice in Australia/Lord_Howe; write the offset: +11:00 or +10:30"),
    ],
)
def test_a_wall_time_in_a_gap_or_a_fold_is_asked_back_in_one_line(zone: ZoneInfo, text: str, said: str) -> None:
    with pytest.raises(BrokerError) as told:
        read_time(text, zone)
    assert said in told.value.detail
    assert "\n" not in told.value.detail


@pytest.mark.parametrize(
    ("zone", "text", "means"),
    [
        (LONDON, "2027-03-28 00:59:59", "2027-03-28T00:59:59"),
        (LONDON, "2027-03-28 02:00", "2027-03-28T01:00"),
        (LONDON, "2027-10-31 00:59:59", "2027-10-30T23:59:59"),
        (LONDON, "2027-10-31 02:00", "2027-10-31T02:00"),
        (LONDON, "2027-10-31 01:30+01:00", "2027-10-31T00:30"),
        (LONDON, "2027-10-31 01:30+00:00", "2027-10-31T01:30"),
        (LONDON, "2027-03-28T01:30:00+00:00", "2027-03-28T01:30"),
        (NEW_YORK, "2027-11-07T02:00", "2027-11-07T07:00"),
        (LORD_HOWE, "2027-10-03 02:30", "2027-10-02T15:30"),
        (LORD_HOWE, "2027-10-03 01:59", "2027-10-02T15:29"),
        (LORD_HOWE, "2027-04-04 02:00", "2027-04-03T15:30"),
        (KOLKATA, "2027-03-28 01:30", "2027-03-27T20:00"),
        (KOLKATA, "2027-10-31 01:30", "2027-10-30T20:00"),
    ],
)
def test_any_other_time_is_taken_as_the_wall_or_its_offset_says(zone: ZoneInfo, text: str, means: str) -> None:
    assert read_time(text, zone) == utc(means)


@pytest.mark.parametrize("text", ["", "soon", "09:00", "2027-02-30", "0001-01-01", "9999-12-31T23:59", "2027-1-1"])
def test_what_is_no_time_is_refused_in_one_line(text: str) -> None:
    for zone in ZONES:
        with pytest.raises(BrokerError) as told:
            read_time(text, zone)
        assert "\n" not in told.value.detail


@given(zone=st.sampled_from(ZONES), second=st.integers(0, 365 * 24 * 3600))
def test_what_the_wall_shows_is_read_back_or_asked_back_and_never_another_instant(zone: ZoneInfo, second: int) -> None:
    instant = utc("2027-01-01") + timedelta(seconds=second)
    wall = show_wall(instant, zone)
    folded = [
        read_time(f"{wall}{offset}", zone) for offset in ("+01:00", "+00:00", "-04:00", "-05:00", "+11:00", "+10:30")
    ]
    twice = [one for one in folded if one.astimezone(zone).replace(tzinfo=None, fold=0) == datetime.fromisoformat(wall)]
    if len(twice) == 2:
        with pytest.raises(BrokerError, match="exists twice"):
            read_time(wall, zone)
    else:
        assert read_time(wall, zone) == instant


@pytest.mark.parametrize(
    ("zone", "day", "opens", "closes"),
    [
        (LONDON, "2027-03-27", "2027-03-27T09:00", "2027-03-27T17:00"),
        (LONDON, "2027-03-28", "2027-03-28T08:00", "2027-03-28T16:00"),
        (LONDON, "2027-10-30", "2027-10-30T08:00", "2027-10-30T16:00"),
        (LONDON, "2027-10-31", "2027-10-31T09:00", "2027-10-31T17:00"),
        (NEW_YORK, "2027-03-13", "2027-03-13T14:00", "2027-03-13T22:00"),
        (NEW_YORK, "2027-03-14", "2027-03-14T13:00", "2027-03-14T21:00"),
        (NEW_YORK, "2027-11-06", "2027-11-06T13:00", "2027-11-06T21:00"),
        (NEW_YORK, "2027-11-07", "2027-11-07T14:00", "2027-11-07T22:00"),
        (LORD_HOWE, "2027-04-03", "2027-04-02T22:00", "2027-04-03T06:00"),
        (LORD_HOWE, "2027-04-04", "2027-04-03T22:30", "2027-04-04T06:30"),
        (LORD_HOWE, "2027-10-02", "2027-10-01T22:30", "2027-10-02T06:30"),
        (LORD_HOWE, "2027-10-03", "2027-10-02T22:00", "2027-10-03T06:00"),
        (KOLKATA, "2027-03-28", "2027-03-28T03:30", "2027-03-28T11:30"),
        (KOLKATA, "2027-10-31", "2027-10-31T03:30", "2027-10-31T11:30"),
    ],
)
def test_nine_to_five_stays_nine_to_five_over_every_clock_change(
    zone: ZoneInfo, day: str, opens: str, closes: str
) -> None:
    assert parse_daily("09:00-17:00", zone).on(date.fromisoformat(day)) == (utc(opens), utc(closes))


@pytest.mark.parametrize(
    ("zone", "day", "hours", "opens", "closes"),
    [
        # In the gap of London 01:00 to 02:00, which is the one instant 01:00 UTC.
        (LONDON, "2027-03-28", "01:30-17:00", "2027-03-28T01:00", "2027-03-28T16:00"),
        (LONDON, "2027-03-28", "00:00-01:30", "2027-03-28T00:00", "2027-03-28T01:00"),
        (LORD_HOWE, "2027-10-03", "02:15-24:00", "2027-10-02T15:30", "2027-10-03T13:00"),
        # In a fold: a start takes the later of the two, an end the earlier.
        (LONDON, "2027-10-31", "01:30-17:00", "2027-10-31T01:30", "2027-10-31T17:00"),
        (LONDON, "2027-10-31", "00:00-01:30", "2027-10-30T23:00", "2027-10-31T00:30"),
        (NEW_YORK, "2027-11-07", "00:00-24:00", "2027-11-07T04:00", "2027-11-08T05:00"),
        (LORD_HOWE, "2027-04-04", "01:45-12:00", "2027-04-03T15:15", "2027-04-04T01:30"),
    ],
)
def test_a_bound_in_a_gap_or_a_fold_is_rounded_inwards(
    zone: ZoneInfo, day: str, hours: str, opens: str, closes: str
) -> None:
    assert parse_daily(hours, zone).on(date.fromisoformat(day)) == (utc(opens), utc(closes))


@pytest.mark.parametrize(
    ("zone", "day", "hours"), [(LONDON, "2027-03-28", "01:10-01:50"), (LONDON, "2027-10-31", "01:10-01:50")]
)
def test_of_hours_that_a_clock_change_swallows_nothing_is_left(zone: ZoneInfo, day: str, hours: str) -> None:
    assert parse_daily(hours, zone).on(date.fromisoformat(day)) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("22:00-06:00", "do not go over midnight"),
        ("07:00-07:00", "begin before they end"),
        ("00:00-24:30", "do not go over midnight"),
        ("7-19", "write 07:00-19:00"),
        ("07:00-25:00", "write 07:00-19:00"),
        ("07:60-19:00", "write 07:00-19:00"),
        ("0 7 * * *", "write 07:00-19:00"),
        ("\u0660\u0667:00-19:00", "write 07:00-19:00"),
    ],
)
def test_hours_that_are_none_are_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(BrokerError, match=said) as told:
        parse_daily(text, LONDON)
    assert "\n" not in told.value.detail


# --- the law with hours
def a_window_with(daily: DailyHours, opens: datetime, closes: datetime) -> CommissioningWindow:
    return CommissioningWindow(
        id=WindowId("win-1"),
        site_id=SITE.id,
        vendor_id=VENDOR.id,
        interval=Interval(opens, closes),
        pattern="bms-*",
        phase="",
        daily=daily,
    )


SPRING, AUTUMN = utc("2027-03-28T00:00"), utc("2027-10-31T00:00")
minutes = st.integers(0, 1440)


@st.composite
def some_hours(draw: st.DrawFn) -> DailyHours:
    first, second = sorted(draw(st.lists(minutes, min_size=2, max_size=2, unique=True)))
    return DailyHours(draw(st.sampled_from(ZONES)), timedelta(minutes=first), timedelta(minutes=second))


@given(
    daily=some_hours(),
    around=st.sampled_from([SPRING, AUTUMN, utc("2027-03-14T06:00"), utc("2027-10-02T15:30"), NOON]),
    at=st.integers(-5000, 5000),
    window=st.integers(1, 9000),
    grant=st.integers(1, 9000),
    longest=st.integers(1, 5000),
)
@example(daily=parse_daily("00:00-01:30", LONDON), around=SPRING, at=30, window=9000, grant=9000, longest=5000)
def test_law_2_what_is_admitted_never_outlives_hours_window_or_grant(
    daily: DailyHours, around: datetime, at: int, window: int, grant: int, longest: int
) -> None:
    now = around + timedelta(minutes=at)
    ends = (now + timedelta(minutes=window), now + timedelta(minutes=grant), now + timedelta(minutes=longest))
    facts = some_facts(
        window=a_window_with(daily, now - HOUR, ends[0]),
        grant=a_grant(now - HOUR, ends[1]),
        longest_session=ends[2] - now,
    )
    decision = admit(facts, now=now)
    wall = now.astimezone(daily.zone)
    inside = daily.opens <= timedelta(hours=wall.hour, minutes=wall.minute) < daily.closes
    if isinstance(decision, Refusal):
        assert decision.reason is Reason.OUTSIDE_HOURS
        assert str(daily) in decision.hint
        assert not inside or _near_change(now, daily)
        return
    assert isinstance(decision, Admission)
    assert inside
    assert now < decision.until <= min(ends)
    last = decision.until - timedelta(microseconds=1)
    for instant in (now, now + (last - now) / 2, last):
        shown = instant.astimezone(daily.zone)
        assert shown.date() == wall.date()
        assert daily.opens <= timedelta(hours=shown.hour, minutes=shown.minute) < daily.closes


def _near_change(now: datetime, daily: DailyHours) -> bool:
    """Within a day in which the zone's offset changes, where inward rounding may say no to what the wall shows."""
    day = timedelta(hours=26)
    return (now - day).astimezone(daily.zone).utcoffset() != (now + day).astimezone(daily.zone).utcoffset()


def test_a_request_wholly_outside_the_hours_is_refused_and_told_them() -> None:
    daily = parse_daily("07:00-11:00", LONDON)  # noon at the site
    window = a_window_with(daily, NOON - 100 * HOUR, NOON + 100 * HOUR)
    refused = review(some_review_facts(windows=(window,)), an_asking(), now=NOON)
    assert isinstance(refused, Refusal)
    assert (refused.reason, "07:00-11:00" in refused.hint) == (ReviewReason.OUTSIDE_HOURS, True)
    assert review(some_review_facts(windows=(window,)), an_asking(length=20 * HOUR), now=NOON) == window
    assert review(some_review_facts(windows=(window,)), an_asking(opens=NOON + 20 * HOUR), now=NOON) == window


def test_an_approval_that_leaves_nothing_of_the_hours_is_refused() -> None:
    window = a_window_with(parse_daily("13:00-15:00", LONDON), NOON - 100 * HOUR, NOON + 100 * HOUR)
    facts = some_approval_facts(request=an_access_request(length=4 * HOUR), windows=(window,))
    assert not isinstance(may_approve(facts, AsAsked(), now=NOON), Refusal)
    refused = may_approve(facts, AsAsked(closes=NOON + HOUR / 2), now=NOON)
    assert isinstance(refused, Refusal)
    assert refused.reason is ReviewReason.OUTSIDE_HOURS
