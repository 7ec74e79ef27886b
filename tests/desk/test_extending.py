"""More time while working: a new yes by the same law, and the live sessions of the grant go on; never past the window."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from broker import desk, gate
from broker.domain.capability import EXEC, SHELL
from broker.domain.errors import BrokerError
from broker.domain.grant import Grant
from broker.domain.ids import SessionId
from broker.domain.live import Moved
from broker.domain.people import Role
from broker.domain.policy import Agreed, Narrowing, Reason, Refusal, ReviewReason
from broker.domain.request import AccessRequest
from broker.domain.session import EndReason
from broker.domain.window import Interval
from broker.gate import Entered
from broker.store import grants, inventory, ledger, people, schema, windows
from broker.store.db import Tx
from tests.desk.test_laws import Undone
from tests.store.databases import HOUR, MINUTE, NOON, Store
from tests.store.makers import AS_ASKED, BY, Plant

OPENS, CLOSES = NOON, NOON + 2 * HOUR


def extend(
    tx: Tx, plant: Plant, grant: Grant, handle: str = "engineer.one", length: timedelta = HOUR
) -> AccessRequest | Refusal:
    return desk.extend(
        tx,
        person_id=plant.id_of(handle),
        grant_id=grant.id,
        length=length,
        reason="one more cell",
        lapses_after=24 * HOUR,
        longest=14 * 24 * HOUR,
        door="ssh",
    )


def asked(tx: Tx, plant: Plant, grant: Grant, length: timedelta = HOUR) -> AccessRequest:
    request = extend(tx, plant, grant, length=length)
    assert isinstance(request, AccessRequest), request
    return request


def extended(tx: Tx, plant: Plant, grant: Grant, narrowing: Narrowing = AS_ASKED, length: timedelta = HOUR) -> Grant:
    made = plant.approve(tx, asked(tx, plant, grant, length).id, narrowing=narrowing)
    assert isinstance(made, Grant), made
    return made


def at(tx: Tx, when: datetime) -> Tx:
    return replace(tx, now=when)


def verdict(tx: Tx, session_id: SessionId) -> EndReason | Moved:
    return gate.standing(tx, [session_id])[session_id]


def test_a_yes_carries_the_live_sessions_of_the_grant_on_and_says_so_in_the_ledger(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        grant = plant.grant(tx, assets=("bms-01.north", "bms-02.north"))
        here, there = plant.entered(tx).session_id, plant.entered(tx, login="bms-02.north").session_id
        request = asked(at(tx, NOON + HOUR), plant, grant)
        assert (request.opens, request.extends, request.capabilities) == (CLOSES, grant.id, grant.terms.capabilities)
        assert verdict(tx, here) == Moved(CLOSES), "asking alone moves nothing"
        more = plant.approve(at(tx, NOON + HOUR), request.id)
        assert isinstance(more, Grant)
        assert (more.extends, more.interval.closes) == (grant.id, CLOSES + HOUR)
        assert grants.require(tx, more.id) == more
        assert [verdict(at(tx, CLOSES + MINUTE), one) for one in (here, there)] == [Moved(CLOSES + HOUR)] * 2
        [entry] = [one for one in ledger.show(tx, last=5) if one.kind == "grant.extended"]
        assert (entry.body["grant_id"], entry.body["extends"]) == (more.id, grant.id)


def test_any_number_of_extensions_carries_on_and_a_further_channel_may_open(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        grant = plant.grant(tx)
        session_id = plant.entered(tx).session_id
        last = grant
        for number in (1, 2, 3):
            last = extended(tx, plant, last)
            assert verdict(tx, session_id) == Moved(CLOSES + number * HOUR)
        late = at(tx, CLOSES + 2 * HOUR + MINUTE)
        channel = plant.enter(late, session_id=session_id)
        assert isinstance(channel, Entered), channel
        assert (channel.admission.until, channel.channel) == (CLOSES + 3 * HOUR, 2)


def test_an_extension_narrowed_below_what_runs_lets_it_end_where_it_was(store: Store, plant: Plant) -> None:
    narrowings = [
        (Narrowing(capabilities=frozenset({EXEC})), CLOSES),
        (Narrowing(assets=frozenset({"bms-02.north"})), CLOSES),
        (Narrowing(closes=CLOSES + MINUTE), CLOSES + MINUTE),
        (Narrowing(opens=CLOSES + MINUTE), CLOSES),  # a gap
    ]
    for narrowing, until in narrowings:
        with contextlib.suppress(Undone), store.db.begin() as tx:
            grant = plant.grant(tx, assets=("bms-01.north", "bms-02.north"))
            session_id = plant.entered(tx).session_id
            extended(tx, plant, grant, narrowing)
            assert verdict(tx, session_id) == Moved(until)
            raise Undone


def test_taking_an_extension_back_ends_what_lives_on_it(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        grant = plant.grant(tx)
        session_id = plant.entered(tx).session_id
        more = extended(tx, plant, grant)
        desk.revoke(tx, grant_id=more.id, by=BY, reason="enough")
        assert verdict(tx, session_id) == Moved(CLOSES), "it had not begun"
        assert verdict(at(tx, CLOSES), session_id) is EndReason.REVOKED
        again = extended(tx, plant, grant)
        assert verdict(tx, session_id) == Moved(CLOSES + HOUR)
        inventory.close_window(tx, inventory.load_window(tx, again.window_id), by=BY)
        assert verdict(tx, session_id) is EndReason.WINDOW_CLOSED


@pytest.mark.parametrize("act", ["revoke", "hand back", "kill"])
def test_what_ends_a_grant_ends_its_extensions_and_asks_in_vain_for_more(store: Store, plant: Plant, act: str) -> None:
    with store.db.begin() as tx:
        grant = plant.grant(tx)
        session_id = plant.entered(tx).session_id
        more = extended(tx, plant, grant)
        further = extended(tx, plant, more)
        pending = asked(tx, plant, grant)
        if act == "revoke":
            desk.revoke(tx, grant_id=grant.id, by=BY, reason="enough")
        elif act == "hand back":
            desk.hand_back(tx, person_id=grant.person_id, grant_id=grant.id)
        else:
            desk.kill(tx, session_id=session_id, by=BY, reason="out", door="cli")
        later = at(tx, CLOSES + MINUTE)
        states = {grants.require(tx, one.id).state(later.now).value for one in (grant, more, further)}
        assert states == {{"revoke": "revoked", "hand back": "handed back", "kill": "suspended"}[act]}
        assert isinstance(plant.enter(later), Refusal)
        refused = plant.approve(tx, pending.id)
        assert isinstance(refused, Refusal)
        assert refused.reason is ReviewReason.GRANT_ENDED
        assert isinstance(extend(tx, plant, grant), Refusal)


def test_more_time_is_refused_where_no_window_holds_and_to_who_has_not_the_grant(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        grant = plant.grant(tx)
        beyond = extend(tx, plant, grant, length=7 * HOUR)
        assert isinstance(beyond, Refusal)
        assert beyond.reason is ReviewReason.NO_WINDOW
        for nobody in (extend(tx, plant, grant, "engineer.two"), extend(tx, plant, replace(grant, id="grt-none"))):  # type: ignore[arg-type]
            assert nobody == Refusal(Reason.NO_GRANT)
        over = extend(at(tx, CLOSES), plant, grant)
        assert isinstance(over, Refusal)
        assert (over.reason, "ask again with: request" in over.hint) == (Reason.OVER, True)
        with pytest.raises(BrokerError, match="reason is missing"):
            desk.extend(
                tx,
                person_id=grant.person_id,
                grant_id=grant.id,
                length=HOUR,
                reason=" ",
                lapses_after=HOUR,
                longest=24 * HOUR,
                door="ssh",
            )


def test_an_extension_never_outlasts_the_longest_session(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        grant = plant.grant(tx)
        session_id = plant.entered(tx, limits=gate.Limits(longest_session=150 * MINUTE)).session_id
        extended(tx, plant, grant)
        assert verdict(tx, session_id) == Moved(NOON + 150 * MINUTE)


def test_hazard_assets_ask_for_two_owners_once_more(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        request = plant.submit(tx, assets=("pcs-01.north",))
        for owner in ("owner", "owner2"):
            grant = plant.approve(tx, request.id, owner)
        assert isinstance(grant, Grant)
        session_id = plant.entered(tx, login="pcs-01.north").session_id
        more = asked(tx, plant, grant)
        assert isinstance(plant.approve(tx, more.id, "owner"), Agreed)
        assert verdict(tx, session_id) == Moved(CLOSES)
        assert isinstance(plant.approve(tx, more.id, "owner2"), Grant)
        assert verdict(tx, session_id) == Moved(CLOSES + HOUR)


# --- daily hours
def test_a_session_and_a_certificate_end_with_the_hours_of_their_day_and_the_grant_opens_again_tomorrow(
    store: Store, plant: Plant
) -> None:
    day = timedelta(days=1)
    with store.db.begin() as tx:
        inventory.close_window(tx, plant.window, by=BY)
        made = windows.insert_window(
            tx,
            site=plant.site,
            vendor=plant.vendor,
            interval=Interval(NOON - HOUR, NOON + 5 * day),
            daily="09:00-13:00",
            by=BY,
        )
        assert windows.load_window(tx, made.id) == made
        grant = plant.grant(tx, length=3 * day)
        session_id = plant.entered(tx).session_id
        assert verdict(tx, session_id) == verdict(at(tx, NOON + 2 * HOUR), session_id) == Moved(NOON + HOUR)
        for hour, until in ((1, None), (20, None), (21, 25), (24, 25), (25, None), (71, 72)):
            entered = plant.enter(at(tx, NOON + hour * HOUR))
            if until is None:
                assert isinstance(entered, Refusal)
                assert entered.reason is Reason.OUTSIDE_HOURS
            else:
                assert isinstance(entered, Entered), hour
                assert entered.admission.until == NOON + until * HOUR
        assert grant.interval.closes == NOON + 3 * day
        refused = plant.ask(tx, opens=NOON + 2 * HOUR, length=HOUR)
        assert isinstance(refused, Refusal)
        assert (refused.reason, "09:00-13:00" in refused.hint) == (ReviewReason.OUTSIDE_HOURS, True)


def test_an_extension_does_not_carry_over_the_end_of_the_hours(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        tx.conn.execute(
            schema.commissioning_window.update()
            .where(schema.commissioning_window.c.id == plant.window.id)
            .values(daily_from="09:00", daily_until="14:30")
        )
        grant = plant.grant(tx)
        session_id = plant.entered(tx).session_id
        extended(tx, plant, grant)
        assert verdict(tx, session_id) == Moved(CLOSES + HOUR / 2)


# --- four eyes
def first_yes(tx: Tx, plant: Plant) -> AccessRequest:
    request = plant.submit(tx, assets=("pcs-01.north",))
    assert isinstance(plant.approve(tx, request.id, "owner"), Agreed)
    return request


def test_a_first_yes_is_void_once_its_owners_rights_change_even_if_they_are_given_back(
    store: Store, plant: Plant
) -> None:
    mine = next(iter(plant.people["owner"].roles))
    extra = replace(mine, role=Role.OPERATOR)
    with store.db.begin() as tx:
        request = first_yes(tx, plant)
        other = plant.submit(tx, assets=("pcs-01.north",))
        assert isinstance(plant.approve(tx, other.id, "owner2"), Agreed)
        _, void = desk.change_rights(tx, handle="owner", add=[extra], remove=[mine], by=BY)
        assert void == [request.id]
        desk.change_rights(tx, handle="owner", add=[mine], by=BY)
        voided = [one for one in ledger.show(tx, last=50) if one.kind == "approval.voided"]
        assert [(one.body["request_id"], one.body["owner_id"]) for one in voided] == [
            (request.id, plant.id_of("owner"))
        ]
        assert isinstance(plant.approve(tx, request.id, "owner2"), Agreed), "this is the first yes now"
        assert isinstance(plant.approve(tx, request.id, "owner"), Grant), "they can say yes anew"
        assert isinstance(plant.approve(tx, other.id, "owner"), Grant), "the yes of another owner still counts"


def test_an_owner_disabled_between_first_and_second_approval_does_not_count(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        request = first_yes(tx, plant)
        desk.disable_person(tx, handle="owner", by=BY)
        assert "approval.voided" in {one.kind for one in ledger.show(tx, last=3)}
        assert isinstance(plant.approve(tx, request.id, "owner2"), Agreed)


def test_web_3_whoever_loses_the_right_can_no_longer_approve_revoke_or_kill(store: Store, plant: Plant) -> None:
    mine = next(iter(plant.people["owner"].roles))
    auditor = replace(mine, role=Role.AUDITOR)
    with store.db.begin() as tx:
        request, grant = plant.submit(tx), plant.grant(tx)
        session_id = plant.entered(tx).session_id
        desk.change_rights(tx, handle="owner", add=[auditor], remove=[mine], by=BY)
        me = plant.id_of("owner")
        approved = plant.approve(tx, request.id)
        assert isinstance(approved, Refusal)
        assert approved.reason is ReviewReason.NO_RIGHT
        assert isinstance(desk.revoke_as(tx, owner_id=me, grant_id=grant.id, reason="x"), Refusal)
        assert isinstance(desk.kill_as(tx, owner_id=me, session_id=session_id, reason="x", door="web"), Refusal)


def test_wrong_changes_of_rights_are_refused_and_change_nothing(store: Store, plant: Plant) -> None:
    mine = next(iter(plant.people["owner"].roles))
    elsewhere = replace(mine, site_id=None)
    wrong = [
        ({"handle": "owner", "remove": [mine]}, "no role left"),
        ({"handle": "owner", "remove": [elsewhere]}, "no such role"),
        ({"handle": "owner", "add": [mine]}, "already"),
        ({"handle": "owner", "add": [mine], "remove": [mine]}, "given and taken"),
        ({"handle": "engineer.one", "add": [mine]}, "belongs to a vendor"),
        ({"handle": "nobody", "add": [mine]}, "no such person"),
    ]
    for change, said in wrong:
        with pytest.raises(BrokerError, match=said), store.db.begin() as tx:
            desk.change_rights(tx, by=BY, **change)  # type: ignore[arg-type]
    with store.db.read() as tx:
        assert people.require(tx, "owner") == plant.people["owner"]


def test_the_capabilities_that_run_are_those_of_the_grant_and_not_of_the_shell_alone(
    store: Store, plant: Plant
) -> None:
    with store.db.begin() as tx:
        grant = plant.grant(tx, capabilities=frozenset({SHELL}))
        session_id = plant.entered(tx).session_id
        extended(tx, plant, grant)
        assert verdict(tx, session_id) == Moved(CLOSES + HOUR)
