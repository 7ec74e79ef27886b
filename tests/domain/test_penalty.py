"""Penalties of an address: they add up, are enforced from fifteen seconds on, and end by themselves within ten minutes."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.penalty import LONGEST, SHORTEST, Offence, Penalty, net_of, penalised

NOON = datetime(2027, 2, 24, 12, 0, tzinfo=UTC)
STEPS = st.lists(st.tuples(st.sampled_from(Offence), st.integers(0, 120)), min_size=1, max_size=60)


@given(steps=STEPS)
def test_a_penalty_is_the_sum_of_what_has_not_passed_and_never_more_than_ten_minutes(
    steps: list[tuple[Offence, int]],
) -> None:
    penalty: Penalty | None = None
    owed_s, now, enforced = 0, NOON, False
    for offence, later_s in steps:
        owed_s, now = max(0, owed_s - later_s), now + timedelta(seconds=later_s)
        enforced = enforced and owed_s > 0
        owed_s = min(owed_s + offence, int(LONGEST.total_seconds()))
        enforced = enforced or owed_s >= SHORTEST.total_seconds()
        penalty = penalised(penalty, "192.0.2.7", offence, now)
        assert penalty.until - now == timedelta(seconds=owed_s)
        assert penalty.bars(now) is enforced
        assert not penalty.bars(penalty.until)


@pytest.mark.parametrize(("offence", "times"), [(Offence.FAILED, 3), (Offence.NO_TRY, 15), (Offence.TOO_SLOW, 2)])
def test_little_is_counted_and_not_enforced(offence: Offence, times: int) -> None:
    penalty: Penalty | None = None
    for number in range(times):
        assert penalty is None or not penalty.bars(NOON), number
        penalty = penalised(penalty, "192.0.2.7", offence, NOON)
    assert penalty is not None
    assert penalty.bars(NOON)


def test_a_clock_set_back_by_hours_keeps_nobody_out_for_hours() -> None:
    penalty = penalised(None, "192.0.2.7", Offence.CRASHED, NOON)
    assert penalty.bars(NOON)
    assert not penalty.bars(NOON - timedelta(hours=2))
    assert penalised(penalty, "192.0.2.7", Offence.NO_TRY, NOON - timedelta(hours=2)).until < NOON


@given(high=st.integers(0, 2**64 - 1), low=st.integers(0, 2**64 - 1), other=st.integers(0, 2**64 - 1))
def test_neighbours_in_one_ipv6_64_are_one_source(high: int, low: int, other: int) -> None:
    one, two = (str(ipaddress.IPv6Address(high << 64 | end)) for end in (low, other))
    assert net_of(one) == net_of(two)
    assert net_of(str(ipaddress.IPv6Address((high ^ 1) << 64 | low))) != net_of(one)
