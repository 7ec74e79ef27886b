"""Requests and approvals as rows: the database itself holds the table of steps, and one of many wins. Laws 2, 3, 6."""

from __future__ import annotations

import importlib
import itertools
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from broker import desk
from broker.domain.errors import BrokerError
from broker.domain.grant import Grant
from broker.domain.isolation import Ladder
from broker.domain.policy import Agreed, Narrowing, Refusal, ReviewReason
from broker.domain.request import TRANSITIONS, AccessRequest, ShownState, State, Step
from broker.store import grants, ledger, requests, schema
from broker.store.db import Tx
from tests.store.databases import HOUR, NOON, SECOND, Store
from tests.store.makers import Plant

TICK = timedelta(microseconds=1)
TABLE = {
    (prior.value, step.value, state.value) for prior, steps in TRANSITIONS.items() for step, state in steps.items()
}


def reason_of(answer: object) -> object:
    assert isinstance(answer, Refusal), answer
    return answer.reason


def test_the_table_of_steps_is_the_same_in_the_law_the_migration_and_the_rows(store: Store) -> None:
    migration = importlib.import_module("broker.store.migrations.versions.0001_first")
    assert set(migration.TRANSITIONS) == TABLE
    with store.raw() as run:
        assert set(run("SELECT prior_state, step, state FROM request_transition")) == TABLE


def test_the_database_itself_refuses_every_step_outside_the_table(store: Store, plant: Plant) -> None:
    by_state: dict[State, AccessRequest] = {}
    with store.db.begin() as tx:
        for state in State:
            by_state[state] = request = plant.submit(tx)
            for step, wanted in TRANSITIONS[State.PENDING].items():
                if wanted is state:
                    assert requests.step(tx, request, step, by=plant.id_of("owner"))
    tried = 0
    for stored, prior, step, state in itertools.product(State, State, Step, State):
        legal = prior is stored and TRANSITIONS[prior].get(step) is state
        if legal or (state is stored and (prior.value, step.value, state.value) in TABLE):  # the row as it is
            continue
        with pytest.raises(sa.exc.IntegrityError), store.db.begin() as tx:
            move(tx, by_state[stored].id, prior, step, state)
        tried += 1
    assert tried == 4 * 48 - 3 - 3
    with store.db.read() as tx:
        assert all(requests.require(tx, one.id).state is state for state, one in by_state.items())


def move(tx: Tx, request_id: str, prior: State, step: Step, state: State) -> None:
    row = sa.update(schema.access_request).where(schema.access_request.c.id == request_id)
    tx.conn.execute(row.values(prior_state=prior.value, step=step.value, state=state.value))


HALVES = (
    "state = 'lapsed'",
    "state = 'approved'",
    "state = 'approved', step = 'approve'",
    "prior_state = 'pending'",
    "step = 'deny'",
    "length = 0",
)


def test_the_database_itself_refuses_a_row_that_says_half_or_what_time_decides(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        plant.submit(tx)
    for columns in HALVES:
        with pytest.raises(sa.exc.IntegrityError), store.raw() as run:
            run(f"UPDATE access_request SET {columns}")  # noqa: S608 - literals


def test_a_request_is_born_pending(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        request = plant.submit(tx)
        requests.step(tx, request, Step.APPROVE, by=plant.id_of("owner"))
    listed = ", ".join(name for name in columns_of(store) if name != "id")
    again = f"INSERT INTO access_request (id, {listed}) SELECT 'req-00000000', {listed} FROM access_request"  # noqa: S608
    with pytest.raises(sa.exc.IntegrityError, match="born pending"), store.raw() as run:
        run(again)


def columns_of(store: Store) -> list[str]:
    with store.db.read() as tx:
        return [one["name"] for one in sa.inspect(tx.conn).get_columns("access_request")]


def test_a_request_comes_back_as_it_was_put(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        request = plant.submit(tx, assets=("bms-02.north", "bms-01.north"), opens=NOON + HOUR + TICK)
        odd = replace(request, id=type(request.id)("req-odd"), reason="Zähler\n\U0001f50b 'x' -- %s", change="CHG-1")
        requests.insert(tx, odd)
    with store.db.read() as tx:
        assert requests.load(tx, request.id) == request
        assert requests.load(tx, "req-odd") == odd
        assert requests.load(tx, "req-none") is None
        assert request.assets == (plant.assets["bms-02"].id, plant.assets["bms-01"].id), "in the order asked"
        with pytest.raises(BrokerError, match="no such request"):
            requests.require(tx, "req-none")


Deed = Callable[[Tx, Plant, str], object]
DEEDS: list[Deed] = [
    lambda tx, plant, request: plant.approve(tx, request, "owner"),
    lambda tx, plant, request: plant.approve(tx, request, "owner2"),
    lambda tx, plant, request: desk.deny(
        tx, owner_id=plant.id_of("owner"), request_id=request, reason="no", door="web"
    ),
    lambda tx, plant, request: desk.deny(
        tx, owner_id=plant.id_of("owner2"), request_id=request, reason="no", door="web"
    ),
    lambda tx, plant, request: desk.withdraw(tx, person_id=plant.id_of("engineer.one"), request_id=request),
    lambda tx, plant, request: plant.approve(tx, request, "owner-alias"),
]


def test_of_all_who_decide_at_once_exactly_one_wins_and_the_ledger_has_one_decision(store: Store, plant: Plant) -> None:
    databases = [store.again() for _ in DEEDS]
    for turn in range(4):
        with store.db.begin() as tx:
            request = plant.submit(tx)
            before, _ = ledger.head(tx)
        start = threading.Barrier(len(DEEDS))
        order = [DEEDS[(turn + one) % len(DEEDS)] for one in range(len(DEEDS))]

        def act(one: int, deeds: list[Deed] = order, start: threading.Barrier = start, of: str = request.id) -> object:
            start.wait(10)
            with databases[one].begin() as tx:
                return deeds[one](tx, plant, of)

        with ThreadPoolExecutor(len(DEEDS)) as pool:
            answers = list(pool.map(act, range(len(DEEDS))))
        won = [one for one in answers if not isinstance(one, Refusal)]
        assert len(won) == 1
        assert {reason_of(one) for one in answers if isinstance(one, Refusal)} == {ReviewReason.WRONG_STATE}
        with store.db.read() as tx:
            told = Counter(row.kind for row in ledger.since(tx, before))
            made = grants.of_request(tx, request.id)
            assert ledger.verify(tx) is None
        decisions = told["approval.given"] + told["request.denied"] + told["request.withdrawn"]
        assert (decisions, told["grant.made"], made is not None) == (
            1,
            isinstance(won[0], Grant),
            isinstance(won[0], Grant),
        )


def test_a_step_is_taken_once_from_the_version_that_was_read(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        request = plant.submit(tx)
        stale = replace(request, version=request.version - 1)
        assert not requests.step(tx, stale, Step.DENY, by=plant.id_of("owner"))
        assert requests.step(tx, request, Step.DENY, by=plant.id_of("owner"), reason="no crane")
        assert not requests.step(tx, request, Step.APPROVE, by=plant.id_of("owner"))
        assert not requests.step(tx, requests.require(tx, request.id), Step.WITHDRAW, by=plant.id_of("engineer.one"))
        decision = requests.load_decision(tx, request.id)
    assert decision == requests.Decision(step=Step.DENY, at=NOON, by=plant.id_of("owner"), reason="no crane")


def test_a_page_that_was_read_before_a_change_decides_nothing(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        request = plant.submit(tx)
        answer = desk.approve(
            tx, owner_id=plant.id_of("owner"), request_id=request.id, version=7, door="web", ladder=Ladder()
        )
        assert reason_of(answer) is ReviewReason.CHANGED
        assert ledger.show(tx, last=1)[0].body["reason"] == ReviewReason.CHANGED.value
        assert requests.require(tx, request.id) == request


def test_law_6_the_same_rows_say_something_else_later_and_no_step_is_taken_then(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        request = plant.submit(tx, lapses_after=HOUR)
        other = plant.submit(tx, "engineer.two", lapses_after=3 * HOUR)

    def shown(tx: Tx, state: ShownState) -> set[str]:
        return {one.id for one in requests.requests(tx, state=state)}

    store.clock.wall = NOON + HOUR - TICK
    with store.db.read() as tx:
        assert shown(tx, ShownState.PENDING) == {request.id, other.id}
    store.clock.forward(TICK)
    with store.db.begin() as tx:
        assert (shown(tx, ShownState.PENDING), shown(tx, ShownState.LAPSED)) == ({other.id}, {request.id})
        assert requests.require(tx, request.id) == request, "nothing was written"
        for step in Step:
            assert not requests.step(tx, request, step, by=plant.id_of("owner"))
        assert reason_of(plant.approve(tx, request.id)) is ReviewReason.LAPSED
        withdrawn = desk.withdraw(tx, person_id=request.person_id, request_id=request.id)
        assert reason_of(withdrawn) is ReviewReason.WRONG_STATE


def test_requests_are_listed_by_state_person_and_site_the_newest_first(store: Store, plant: Plant) -> None:
    made = []
    for turn, handle in enumerate(["engineer.one", "engineer.two", "engineer.one"]):
        store.clock.wall = NOON + turn * SECOND
        with store.db.begin() as tx:
            made.append(plant.submit(tx, handle))
    with store.db.begin() as tx:
        plant.approve(tx, made[0].id)
        assert [one.id for one in requests.requests(tx)] == [one.id for one in reversed(made)]
        assert [one.id for one in requests.requests(tx, newest=1)] == [made[2].id]
        assert [one.id for one in requests.requests(tx, state=State.APPROVED)] == [made[0].id]
        assert {one.id for one in requests.requests(tx, person_id=plant.id_of("engineer.two"))} == {made[1].id}
        assert len(requests.requests(tx, site_ids=[plant.site.id])) == 3
        assert requests.requests(tx, site_ids=[]) == []


# --- law 3: who decides


def test_law_3_nobody_approves_their_own_request_by_no_other_handle_and_no_vendor_does(
    store: Store, plant: Plant
) -> None:
    with store.db.begin() as tx:
        request = plant.submit(tx)
        before, _ = ledger.head(tx)
        for who in ("engineer.one", "engineer-at-site", "engineer.two", "stranger"):
            assert reason_of(plant.approve(tx, request.id, who)) in (ReviewReason.OWN_REQUEST, ReviewReason.NO_RIGHT)
        assert [row.kind for row in ledger.since(tx, before)] == ["approval.refused"] * 4, "each try is evidence"
        assert isinstance(plant.approve(tx, request.id, "owner"), Grant)


def hazard(plant: Plant, tx: Tx) -> AccessRequest:
    return plant.submit(tx, assets=("bms-01.north", "pcs-01.north"))


def test_law_3_four_eyes_are_two_humans_and_both_must_still_be_owners(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        request = hazard(plant, tx)
        assert isinstance(plant.approve(tx, request.id, "owner"), Agreed)
        for again in ("owner", "owner-alias"):
            assert reason_of(plant.approve(tx, request.id, again)) is ReviewReason.SAME_OWNER
        assert [one.complete for one in requests.approvals(tx, request.id)] == [False]
        desk.disable_person(tx, handle="owner", by="x")
    with store.db.begin() as tx:
        second = plant.approve(tx, request.id, "owner2")
        assert isinstance(second, Agreed), "the first one's word no longer counts"
        assert not second.complete
        third = plant.approve(tx, request.id, "owner-alias")
        assert isinstance(third, Grant)
        assert len(requests.approvals(tx, request.id)) == 3


def test_law_3_the_grant_is_what_both_owners_have_in_common(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        request = hazard(plant, tx)
        plant.approve(tx, request.id, "owner", Narrowing(closes=NOON + HOUR))
    store.clock.wall = NOON + 10 * SECOND
    with store.db.begin() as tx:
        made = plant.approve(tx, request.id, "owner2", Narrowing(assets=frozenset({"pcs-01.north"})))
        assert isinstance(made, Grant)
        assert grants.require(tx, made.id) == made
    assert made.terms.assets == {plant.assets["pcs-01"].id}
    assert (made.interval.opens, made.interval.closes) == (NOON + 10 * SECOND, NOON + HOUR)


def test_two_owners_who_say_yes_at_once_make_one_grant(store: Store, plant: Plant) -> None:
    databases = [store.again() for _ in range(2)]
    with store.db.begin() as tx:
        request = hazard(plant, tx)
    start = threading.Barrier(2)

    def act(one: int) -> object:
        start.wait(10)
        with databases[one].begin() as tx:
            return plant.approve(tx, request.id, ("owner", "owner2")[one])

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(act, range(2)))
    assert {type(one) for one in answers} == {Agreed, Grant}


def test_a_request_of_a_firm_or_engineer_disabled_meanwhile_is_not_approved(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        mine, theirs = plant.submit(tx), plant.submit(tx, "engineer.two")
        desk.disable_person(tx, handle="engineer.two", by="x")
        assert reason_of(plant.approve(tx, theirs.id)) is ReviewReason.DISABLED
        desk.disable_vendor(tx, name="cellmaker", by="x")
        assert reason_of(plant.approve(tx, mine.id)) is ReviewReason.DISABLED
