"""How far owners' holds reach: minutes beyond the grant, beyond the window only by two."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.hold import Ends, Hold, HoldFacts, held_until, may_hold
from broker.domain.ids import AssetId, GrantId, PersonId, SessionId
from broker.domain.people import Person
from broker.domain.policy import Reason, Refusal, ReviewReason
from broker.domain.session import EndReason, Session
from tests.domain.makers import ENGINEER, HOUR, NOON, OWNER, SECOND_OWNER

MINUTE = timedelta(minutes=1)
ALIAS = replace(OWNER, id=PersonId("per-9"), handle="owner.alias")
OWNERS = [OWNER, SECOND_OWNER, ALIAS]
moments = st.integers(-90, 90).map(lambda minutes: NOON + minutes * MINUTE)


@given(st.lists(st.builds(Hold, st.sampled_from(OWNERS), moments), max_size=6), moments)
def test_law_2_beyond_the_window_holds_reach_only_as_far_as_two_different_owners_agree(
    holds: list[Hold], closes: datetime
) -> None:
    reach = held_until(holds, closes)
    assert (reach is None) is (not holds)
    if reach is not None:
        agreed = [one for one in holds if one.until >= reach]
        assert agreed, "nobody said so"
        if reach > closes:
            assert any(not one.owner.same_human(other.owner) for one in agreed for other in agreed)
    later = held_until([*holds, Hold(OWNER, closes)], closes)
    assert later is not None
    assert reach is None or later >= reach, "a further hold never shortens"


def facts(**changed: object) -> HoldFacts:
    session = Session(
        id=SessionId("ses-1"),
        grant_id=GrantId("grt-1"),
        person_id=ENGINEER.id,
        asset_id=AssetId("ast-1"),
        account="service",
        source="192.0.2.7",
        opened_at=NOON,
        until=NOON + HOUR,
    )
    usual = HoldFacts(
        owner=OWNER,
        engineer=ENGINEER,
        may_approve=True,
        session=session,
        ends=Ends(closes=NOON + HOUR, window_closes=NOON + 2 * HOUR),
        length=10 * MINUTE,
        longest=10 * MINUTE,
    )
    return replace(usual, **changed)  # type: ignore[arg-type]


def test_a_hold_counts_from_the_grants_end_whenever_it_is_given() -> None:
    for minutes in (0, 30, 59):
        assert may_hold(facts(), now=NOON + minutes * MINUTE) == Hold(OWNER, NOON + HOUR + 10 * MINUTE)


SAME: Person = replace(OWNER, human=ENGINEER.human)
ENDED = replace(facts().session, ended_at=NOON, end_reason=EndReason.KILLED)
REFUSED = {
    "no right at the site": ({"may_approve": False}, Reason.OVER),
    "the engineer's own other handle": ({"owner": SAME}, ReviewReason.OWN_REQUEST),
    "it has ended": ({"session": ENDED}, Reason.OVER),
    "longer than the site allows": ({"length": 10 * MINUTE + timedelta(seconds=1)}, ReviewReason.TOO_LONG),
    "no time at all": ({"length": timedelta(0)}, ReviewReason.TOO_LONG),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_hold_is_refused(name: str) -> None:
    changed, reason = REFUSED[name]
    refused = may_hold(facts(**changed), now=NOON)  # type: ignore[arg-type]
    assert isinstance(refused, Refusal)
    assert refused.reason is reason


def test_a_hold_that_would_be_over_already_is_refused() -> None:
    refused = may_hold(facts(), now=NOON + HOUR + 10 * MINUTE)
    assert isinstance(refused, Refusal)
