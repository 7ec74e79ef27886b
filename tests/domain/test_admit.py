"""The gate's law: who is admitted, until when, and one no for each reason."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.capability import SFTP_READ, SFTP_WRITE
from broker.domain.ids import AssetId, GrantId, PersonId
from broker.domain.inventory import AssetState
from broker.domain.isolation import Level
from broker.domain.policy import Admission, Facts, Reason, Refusal, admit
from broker.domain.suspension import Scope
from broker.domain.wall import parse_daily
from broker.domain.window import Interval
from tests.domain.makers import (
    ENGINEER,
    HOUR,
    NOON,
    VENDOR,
    a_grant,
    a_window,
    an_asset,
    instants,
    intervals,
    some_facts,
)

REFUSED_FACTS: Mapping[Reason, Facts] = {
    Reason.NO_SUCH_ASSET: some_facts(asset=None),
    Reason.NO_GRANT: some_facts(grant=None),
    Reason.PERSON_DISABLED: some_facts(person=replace(ENGINEER, disabled_at=NOON)),
    Reason.VENDOR_DISABLED: some_facts(vendor=replace(VENDOR, disabled_at=NOON)),
    Reason.ASSET_NOT_READY: some_facts(asset=an_asset(state=AssetState.QUARANTINED)),
    Reason.REVOKED: some_facts(grant=replace(a_grant(), revoked_at=NOON)),
    Reason.SUSPENDED: some_facts(grant=replace(a_grant(), suspended_at=NOON)),
    Reason.HANDED_BACK: some_facts(grant=replace(a_grant(), handed_back_at=NOON)),
    Reason.NOT_YET: some_facts(grant=a_grant(NOON + HOUR, NOON + 2 * HOUR)),
    Reason.OVER: some_facts(grant=a_grant(NOON - HOUR, NOON)),
    Reason.WINDOW_CLOSED: some_facts(window=replace(a_window(), closed_at=NOON)),
    Reason.OUTSIDE_HOURS: some_facts(window=replace(a_window(), daily=parse_daily("07:00-12:00", UTC))),
    Reason.NOT_GRANTED: some_facts(capability=SFTP_READ),
    Reason.ACCOUNT_UNKNOWN: some_facts(account="admin"),
    Reason.OTHER_CERTIFICATE: some_facts(certificate_grant=GrantId("grt-9")),
    Reason.CERTIFICATE_OVER: some_facts(certificate_grant=GrantId("grt-1"), certificate_until=NOON),
    Reason.TOO_MANY_SESSIONS: some_facts(live_sessions=4),
    Reason.SHUT_OUT: some_facts(suspended=Scope.VENDOR),
    Reason.FROZEN: some_facts(frozen=True),
    Reason.NO_HOST_KEY: some_facts(asset=replace(an_asset(), host_key=None)),
    Reason.CANNOT_RECORD: some_facts(can_record=False),
    Reason.CLOCK_BEHIND: some_facts(clock_behind=True, person=replace(ENGINEER, disabled_at=NOON)),
    Reason.ISOLATED: some_facts(isolation=Level.CUT),
}


@pytest.mark.parametrize("reason", list(Reason))
def test_each_reason_has_facts_that_call_for_it(reason: Reason) -> None:
    decision = admit(REFUSED_FACTS[reason], now=NOON)
    assert isinstance(decision, Refusal)
    assert decision.reason is reason
    assert decision.hint, "the person entitled to know gets the next step"


def test_the_facts_that_nothing_speaks_against_are_admitted() -> None:
    decision = admit(some_facts(), now=NOON)
    assert isinstance(decision, Admission)
    assert (decision.grant_id, decision.account, decision.until) == ("grt-1", "service", NOON + HOUR)


def test_an_account_other_than_the_default_is_admitted_when_the_asset_has_it() -> None:
    decision = admit(some_facts(account="root"), now=NOON)
    assert isinstance(decision, Admission)
    assert decision.account == "root"


@given(window=intervals(), grant=intervals(), now=instants())
def test_law_1_a_channel_opens_exactly_while_window_and_grant_both_hold(
    window: Interval, grant: Interval, now: datetime
) -> None:
    both = max(window.opens, grant.opens) <= now < min(window.closes, grant.closes)
    facts = some_facts(window=a_window(window.opens, window.closes), grant=a_grant(grant.opens, grant.closes))
    assert isinstance(admit(facts, now=now), Admission) == both


@given(window=intervals(), grant=intervals(), now=instants(), longest_s=st.integers(1, 9_000), closed=instants())
def test_law_2_an_admission_never_outlives_grant_window_or_longest_session(
    window: Interval, grant: Interval, now: datetime, longest_s: int, closed: datetime
) -> None:
    facts = some_facts(
        window=replace(a_window(window.opens, window.closes), closed_at=closed),
        grant=a_grant(grant.opens, grant.closes),
        longest_session=timedelta(seconds=longest_s),
    )
    decision = admit(facts, now=now)
    if isinstance(decision, Admission):
        assert now < decision.until
        assert decision.until <= min(window.closes, grant.closes, closed, now + timedelta(seconds=longest_s))


def test_law_1_nobody_but_admit_makes_an_admission() -> None:
    admission = admit(some_facts(), now=NOON)
    assert isinstance(admission, Admission)
    with pytest.raises(TypeError, match="only admit"):
        Admission(
            admission.grant_id,
            admission.person,
            admission.asset,
            admission.account,
            admission.capability,
            admission.until,
            made_by=object(),
        )
    with pytest.raises((TypeError, ValueError)):
        replace(admission, until=NOON + 9 * HOUR)  # type: ignore[call-arg]  # run-time refuses too
    assert copy.copy(admission).until == admission.until


def test_a_grant_of_another_person_or_for_another_asset_is_no_grant() -> None:
    other_asset = replace(an_asset(), id=AssetId("ast-7"))
    for facts in (some_facts(person=replace(ENGINEER, id=PersonId("per-9"))), some_facts(asset=other_asset)):
        decision = admit(facts, now=NOON)
        assert isinstance(decision, Refusal)
        assert decision.reason is Reason.NO_GRANT


def test_a_door_that_needs_two_capabilities_opens_with_both_and_not_with_one() -> None:
    grant = a_grant()
    both = replace(grant, terms=replace(grant.terms, capabilities=frozenset({SFTP_READ, SFTP_WRITE})))
    one = replace(grant, terms=replace(grant.terms, capabilities=frozenset({SFTP_READ})))
    wanted = {"capability": SFTP_READ, "also": frozenset({SFTP_WRITE})}
    assert isinstance(admit(some_facts(grant=both, **wanted), now=NOON), Admission)
    refused = admit(some_facts(grant=one, **wanted), now=NOON)
    assert isinstance(refused, Refusal)
    assert (refused.reason, "sftp-write" in refused.hint) == (Reason.NOT_GRANTED, True)


def test_an_empty_set_of_capabilities_never_means_any() -> None:
    grant = a_grant()
    empty = replace(grant, terms=replace(grant.terms, capabilities=frozenset()))
    decision = admit(some_facts(grant=empty), now=NOON)
    assert isinstance(decision, Refusal)
    assert decision.reason is Reason.NOT_GRANTED
