"""The table of what may become of a request, walked whole; and the words of time."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.capability import Capability, parse_capabilities, parse_capability, show_capabilities
from broker.domain.errors import BrokerError
from broker.domain.grant import GrantState
from broker.domain.ids import (
    parse_account,
    parse_duration,
    parse_handle,
    parse_instant,
    parse_login,
    parse_name,
    parse_text,
    quoted,
    show_duration,
)
from broker.domain.request import TRANSITIONS, ShownState, State, Step, take
from broker.domain.window import Interval
from tests.domain.makers import HOUR, NOON, a_grant, a_window, an_access_request, instants, intervals


@pytest.mark.parametrize(("state", "step"), list(itertools.product(State, Step)))
def test_a_step_outside_the_table_is_refused_and_changes_nothing(state: State, step: Step) -> None:
    request, wanted = an_access_request(state=state), TRANSITIONS[state].get(step)
    after = take(request, step)
    assert after == (None if wanted is None else replace(request, state=wanted, version=2))
    assert request.state is state


def test_only_a_pending_request_can_still_become_something() -> None:
    assert [state for state, steps in TRANSITIONS.items() if steps] == [State.PENDING]


@given(now=instants(), lapses=instants(), state=st.sampled_from(State))
def test_law_6_lapsing_is_the_clocks_word_and_never_stored(now: datetime, lapses: datetime, state: State) -> None:
    request = an_access_request(state=state, lapses_at=lapses)
    lapsed = state is State.PENDING and now >= lapses
    assert (request.shown_state(now) is ShownState.LAPSED) == lapsed
    assert request.state is state


@given(interval=intervals(), now=instants())
def test_law_6_scheduled_open_and_over_are_computed_from_the_interval(interval: Interval, now: datetime) -> None:
    state = a_grant(interval.opens, interval.closes).state(now)
    assert (state is GrantState.OPEN) == interval.holds(now)
    assert (state is GrantState.OVER) == (now >= interval.closes)


def test_an_act_outweighs_the_clock_in_a_grants_state() -> None:
    assert replace(a_grant(), revoked_at=NOON).state(NOON + 9 * HOUR) is GrantState.REVOKED


@given(intervals(), intervals(), instants())
def test_touching_intervals_never_hold_at_once(one: Interval, other: Interval, now: datetime) -> None:
    if one.closes == other.opens:
        assert not (one.holds(now) and other.holds(now))
    assert one.covers(other) == (one.opens <= other.opens and other.closes <= one.closes)


def test_an_empty_or_zoneless_interval_does_not_exist() -> None:
    with pytest.raises(BrokerError, match="close after"):
        Interval(NOON, NOON)
    with pytest.raises(BrokerError, match="offset"):
        Interval(NOON.replace(tzinfo=None), NOON)


@pytest.mark.parametrize(
    ("pattern", "name", "named"),
    [
        ("bms-*", "bms-01", True),
        ("bms-0?,ems-a", "ems-a", True),
        ("bms-*", "pcs-01", False),
        ("bms-01", "bms-010", False),
    ],
)
def test_a_window_names_assets_by_name_or_pattern(pattern: str, name: str, named: bool) -> None:
    assert replace(a_window(), pattern=pattern).names(name) is named


def test_a_request_with_a_start_keeps_its_end_when_the_yes_comes_late() -> None:
    request = an_access_request(opens=NOON - HOUR, length=2 * HOUR)
    assert request.interval(NOON) == Interval(NOON, NOON + HOUR)
    assert an_access_request().interval(NOON) == Interval(NOON, NOON + 2 * HOUR)


PARSERS = [
    parse_login,
    parse_duration,
    parse_instant,
    parse_capability,
    parse_handle,
    parse_account,
    lambda text: parse_name(text, what="asset"),
    lambda text: parse_text(text, what="reason"),
]


@pytest.mark.parametrize("parser", PARSERS)
@given(text=st.text() | st.from_regex(r"[a-z0-9:+._%/ -]{0,80}"))
def test_whatever_a_stranger_writes_is_read_or_refused_in_one_line(parser: object, text: str) -> None:
    assert callable(parser)
    detail = ""
    try:
        parser(text)
    except BrokerError as refused:
        detail = refused.detail
    assert detail.isprintable()


@pytest.mark.parametrize(
    "text", ["bms:01", "a/b", "50%", "BMS-01", "ｂｍｓ-01", "a.b.c", "", "a+b+c", ".kestrel", "x" * 161]
)
def test_a_login_that_scp_or_ssh_config_would_trip_over_is_refused(text: str) -> None:
    with pytest.raises(BrokerError):
        parse_login(text)


def test_a_time_without_an_offset_is_asked_back() -> None:
    with pytest.raises(BrokerError, match="offset"):
        parse_instant("2027-02-24T16:00:00")


@given(st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(days=999)))
def test_a_shown_duration_is_never_empty(length: timedelta) -> None:
    assert show_duration(length)


@given(st.frozensets(st.integers(1, 65535), min_size=1, max_size=5))
def test_capabilities_are_shown_as_they_are_read(ports: frozenset[int]) -> None:
    wanted = frozenset(parse_capability(f"tcp:{port}") for port in ports)
    assert parse_capabilities(show_capabilities(wanted)) == wanted
    assert all(isinstance(one, Capability) for one in wanted)


@given(st.text(max_size=300))
def test_a_quoted_foreign_text_is_one_printable_ascii_line(text: str) -> None:
    shown = quoted(text)
    assert shown.isascii()
    assert shown.isprintable()
