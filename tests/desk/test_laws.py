"""Laws 1, 2 and 6 through the store, to the microsecond: what was asked, approved, closed and entered at any time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker import desk, gate
from broker.domain.grant import Grant
from broker.domain.live import Moved
from broker.domain.policy import Narrowing, Refusal
from broker.domain.request import AccessRequest
from broker.domain.session import EndReason
from broker.domain.window import Interval
from broker.gate import Entered, Limits
from broker.store import grants, inventory, sessions
from tests.store.databases import KINDS, NOON, a_store
from tests.store.makers import BY, Plant, make_plant

DAY = timedelta(days=1)
moments = st.timedeltas(min_value=timedelta(microseconds=1), max_value=timedelta(hours=6))


class Undone(Exception):
    """Ends a transaction without a trace."""


@pytest.fixture(scope="module", params=KINDS)
def place(request: pytest.FixtureRequest) -> Iterator[Plant]:
    """A plant whose own window is closed, so that each example opens the one it means."""
    with a_store(request.param, request) as made:
        plant = make_plant(made.db, made.clock)
        with made.db.begin() as tx:
            inventory.close_window(tx, plant.window, by=BY)
        yield plant


@settings(max_examples=80, deadline=None)
@given(
    window=moments,
    opens=st.none() | moments,
    length=moments,
    approved=st.just(timedelta(0)) | moments,
    cut=st.none() | moments,
    closed=st.none() | moments,
    longest=moments,
    entered=moments,
)
def test_laws_1_and_2_a_session_lies_in_its_grant_that_lies_in_its_window_whatever_the_instants(
    place: Plant,
    window: timedelta,
    opens: timedelta | None,
    length: timedelta,
    approved: timedelta,
    cut: timedelta | None,
    closed: timedelta | None,
    longest: timedelta,
    entered: timedelta,
) -> None:
    """Asked at noon, approved and perhaps narrowed later, the window perhaps closed early, entered later still."""
    with contextlib.suppress(Undone), place.db.begin() as tx:
        opened = inventory.insert_window(
            tx, site=place.site, vendor=place.vendor, interval=Interval(NOON, NOON + window), by=BY
        )
        starts = None if opens is None else NOON + opens
        request = place.ask(tx, opens=starts, length=length)
        assert isinstance(request, AccessRequest) == ((starts or NOON) + length <= NOON + window)
        if not isinstance(request, AccessRequest):
            raise Undone
        then = replace(tx, now=NOON + approved)
        grant = place.approve(then, request.id, narrowing=Narrowing(closes=None if cut is None else NOON + cut))
        if not isinstance(grant, Grant):
            raise Undone
        assert NOON <= then.now <= grant.interval.opens < grant.interval.closes <= NOON + window
        assert grant.interval.closes - grant.interval.opens <= length
        assert grants.require(tx, grant.id) == grant, "kept to the microsecond"
        end = grant.interval.closes
        if closed is not None and approved <= closed < window:
            desk.close_window(replace(tx, now=NOON + closed), window_id=opened.id, by=BY)
            end = min(end, NOON + closed)
        later = replace(tx, now=NOON + max(entered, approved))
        came = place.enter(
            later, limits=Limits(longest_session=longest, clock_tolerance=DAY)
        )  # the close may lie ahead
        assert isinstance(came, Entered) == (grant.interval.opens <= later.now < end), came
        if isinstance(came, Entered):
            session = sessions.load_session(tx, came.session_id)
            assert session is not None
            assert session.until == came.admission.until == min(end, later.now + longest)
            assert session.opened_at == later.now
            assert gate.standing(later, [session.id]) == {session.id: Moved(session.until)}
        raise Undone


def test_law_2_closing_the_window_early_ends_what_stands_in_it_and_extending_it_lengthens_nothing(place: Plant) -> None:
    with contextlib.suppress(Undone), place.db.begin() as tx:
        opened = inventory.insert_window(
            tx, site=place.site, vendor=place.vendor, interval=Interval(NOON, NOON + DAY), by=BY
        )
        grant = place.grant(tx)
        session_id = place.entered(tx).session_id
        longer = inventory.extend_window(tx, opened, NOON + 2 * DAY, by=BY)
        assert grants.require(tx, grant.id) == grant
        assert gate.standing(tx, [session_id]) == {session_id: Moved(grant.interval.closes)}
        inventory.close_window(tx, longer, by=BY)
        assert gate.standing(tx, [session_id]) == {session_id: EndReason.WINDOW_CLOSED}
        assert isinstance(place.enter(tx), Refusal)
        raise Undone
