"""Places for connections that have not logged in: an early drop by chance, some kept for known addresses, few a source."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.bastion.arrivals import Arrivals, Places

PLACES = Places(most=60, kept=10, early=20, per_source=4)


def filled(number: int, percent: int = 0, places: Places = PLACES) -> Arrivals:
    """So many known connections wait; then the dice show that."""
    made = Arrivals(places, percent=lambda: percent)
    for at in range(number):
        assert made.take(object(), f"198.51.100.{at}", known=True)
    return made


@pytest.mark.parametrize(("waiting", "dropped"), [(0, 0), (19, 0), (20, 30), (35, 65), (49, 98), (50, 100), (59, 100)])
def test_strangers_are_dropped_by_chance_from_twenty_on_and_all_before_the_kept_places(
    waiting: int, dropped: int
) -> None:
    let_in = sum(filled(waiting, percent).take(object(), "192.0.2.7", known=False) for percent in range(100))
    assert 100 - let_in == dropped


@pytest.mark.parametrize(("waiting", "let_in"), [(20, True), (59, True), (60, False)])
def test_a_known_address_gets_a_place_until_there_is_none(waiting: int, let_in: bool) -> None:
    assert filled(waiting).take(object(), "192.0.2.7", known=True) is let_in


def test_one_address_or_ipv6_64_gets_four_places_and_gets_them_back() -> None:
    arrivals = Arrivals(PLACES)
    mine = [object() for _ in range(4)]
    assert [arrivals.take(one, f"2001:db8::{at}", known=False) for at, one in enumerate(mine)] == [True] * 4
    assert not arrivals.take(object(), "2001:db8::ffff", known=True)
    assert arrivals.take(object(), "2001:db8:0:1::1", known=False)
    assert arrivals.release(mine[0])
    assert not arrivals.release(mine[0])
    assert arrivals.take(object(), "2001:db8::ffff", known=False)


@given(
    most=st.integers(1, 40),
    kept=st.integers(0, 60),
    early=st.integers(1, 60),
    coming=st.lists(st.booleans(), max_size=80),
)
def test_whatever_the_settings_no_more_than_all_are_in_and_the_first_stranger_is(
    most: int, kept: int, early: int, coming: list[bool]
) -> None:
    arrivals = Arrivals(Places(most=most, kept=kept, early=early, per_source=100))
    got = [arrivals.take(object(), "192.0.2.7", known=known) for known in coming]
    assert sum(got) <= most
    assert not got or got[0]
