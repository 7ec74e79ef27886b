"""Codes, lock-out and enrolment, one set of rules for every door, on both databases. docs/rules.md AUT-3 to AUT-6, AUT-10."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta

import argon2
import pyotp
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from broker import factors, identity
from broker.domain.errors import BrokerError, Code
from broker.domain.ids import PersonId
from broker.identity import Locked, Seal, TryId, TryLimits
from broker.store import credentials, ledger, people, web_sessions
from broker.store.db import Database, Tx
from tests.store.databases import HOUR, MINUTE, NOON, SECOND, Store, a_store
from tests.store.makers import BY, Plant, fresh_key, make_plant

SEAL = Seal(bytes(32))
TICK = timedelta(microseconds=1)
WINDOW = timedelta(minutes=15)
STEP = timedelta(seconds=30)
PASSWORD = "correct horse battery"


def enrolled(tx: Tx, handle: str = "engineer.one") -> pyotp.TOTP:
    """The phone of somebody who has just enrolled at the site's own machine."""
    made = identity.enrol(tx, handle=handle, key_line=None, password=None, seal=SEAL, by=BY)
    phone = pyotp.parse_uri(made.totp_uri)
    assert isinstance(phone, pyotp.TOTP)
    return phone


def reserve(tx: Tx, person_id: PersonId | None, door: str = "ssh", source: str = "192.0.2.7") -> TryId | Locked:
    return identity.reserve_try(tx, person_id=person_id, name="x", source=source, door=door)


def fail(db: Database, person_id: PersonId | None, door: str = "ssh", source: str = "192.0.2.7") -> Locked | None:
    """One failed try, in two transactions as the doors do it."""
    with db.begin() as tx:
        got = reserve(tx, person_id, door, source)
    if isinstance(got, Locked):
        return got
    with db.begin() as tx:
        identity.fail_try(tx, got)
    return None


def test_five_failures_over_all_doors_lock_a_person_and_the_lock_ends_by_itself(store: Store, plant: Plant) -> None:
    who, first = plant.id_of("engineer.one"), NOON
    for turn in range(5):
        assert fail(store.db, who, door=("ssh", "web")[turn % 2], source=f"192.0.2.{turn}") is None
        store.clock.forward(MINUTE)
    for door in ("ssh", "web"):
        assert fail(store.db, who, door=door, source="198.51.100.1") == Locked(first + WINDOW)
    with store.db.read() as tx:
        assert [(row.kind, row.body["why"]) for row in ledger.show(tx, last=2)] == [("login.refused", "locked")] * 2
    assert fail(store.again(), who) == Locked(first + WINDOW), "also after a restart: it is a row"
    assert fail(store.db, plant.id_of("engineer.two")) is None, "nobody else is locked out"
    store.clock.wall = first + WINDOW - TICK
    assert fail(store.db, who) == Locked(first + WINDOW)
    store.clock.forward(TICK)
    assert fail(store.db, who) is None, "a try that was not let in did not prolong it"


def test_each_failure_in_a_row_asks_for_a_longer_wait_and_a_success_ends_the_row(store: Store, plant: Plant) -> None:
    who = plant.id_of("engineer.one")
    for wait_s in (1, 2, 4):
        assert fail(store.db, who) is None
        failed_at = store.clock.wall
        store.clock.forward(wait_s * SECOND - TICK)
        assert fail(store.db, who) == Locked(failed_at + wait_s * SECOND)
        store.clock.forward(TICK)
    with store.db.begin() as tx:
        phone = enrolled(tx)
        got = reserve(tx, who)
        assert not isinstance(got, Locked)
        assert identity.spend_code(tx, person_id=who, code=phone.at(tx.now), seal=SEAL, try_id=got)
    assert fail(store.db, who) is None, "no wait after a success"
    store.clock.forward(SECOND)
    assert fail(store.db, who) is None, "the row starts again at one second"
    assert fail(store.db, who) == Locked(NOON + WINDOW), "but five in fifteen minutes stay five"


def test_a_try_that_was_cut_off_before_it_was_judged_counts_as_failed(store: Store, plant: Plant) -> None:
    who = plant.id_of("engineer.one")
    with store.db.begin() as tx:
        assert [isinstance(reserve(tx, who), Locked) for _ in range(6)] == [False] * 5 + [True]


def test_many_who_try_at_once_get_no_more_tries_than_one_after_the_other(store: Store, plant: Plant) -> None:
    who, doors = plant.id_of("engineer.one"), [store.again() for _ in range(9)]
    start = threading.Barrier(len(doors))

    def knock(one: int) -> bool:
        start.wait(10)
        with doors[one].begin() as tx:
            return isinstance(reserve(tx, who, source=f"192.0.2.{one}"), Locked)

    with ThreadPoolExecutor(len(doors)) as pool:
        assert sorted(pool.map(knock, range(len(doors)))) == [False] * 5 + [True] * 4


def test_an_address_that_tries_many_names_is_locked_and_no_person_is(store: Store, plant: Plant) -> None:
    for _ in range(20):
        assert fail(store.db, None, source="198.51.100.9") is None
    assert isinstance(fail(store.db, None, source="198.51.100.9"), Locked)
    assert isinstance(fail(store.db, plant.id_of("engineer.one"), source="198.51.100.9"), Locked)
    assert fail(store.db, plant.id_of("engineer.one"), source="192.0.2.1") is None


def test_the_same_questions_are_asked_for_somebody_unknown(store: Store, plant: Plant) -> None:
    def asked(person_id: PersonId | None) -> list[str]:
        said: list[str] = []
        with store.db.begin() as tx:
            sa.event.listen(tx.conn, "before_cursor_execute", lambda *args: said.append(args[2]))
            reserve(tx, person_id)
        return said

    assert asked(None) == asked(plant.id_of("engineer.one"))


def test_a_password_of_nobody_costs_the_same_and_is_never_right() -> None:
    nobody = argon2.extract_parameters(factors._NOBODYS_HASH)
    assert nobody == argon2.extract_parameters(factors.hash_password(PASSWORD))
    assert not factors.check_password(None, PASSWORD)


def test_a_password_is_right_or_wrong_whatever_is_typed() -> None:
    kept = factors.hash_password("пароль-Zürich-🔋")
    assert factors.check_password(kept, "пароль-Zürich-🔋")
    for wrong in ("", PASSWORD, "пароль-Zürich-🔋 ", "x" * 100_000, "\udc80" * 20, "\0"):
        assert not factors.check_password(kept, wrong)
    for bad in ("short", "x" * 257):
        with pytest.raises(BrokerError, match="12 to 256"):
            factors.hash_password(bad)


def test_a_code_is_spent_once_over_ssh_and_web_at_once(store: Store, plant: Plant) -> None:
    who, doors = plant.id_of("engineer.one"), [store.again() for _ in range(4)]
    with store.db.begin() as tx:
        code = enrolled(tx).at(tx.now)
        tries = [reserve(tx, who, door=("ssh", "web")[one % 2]) for one in range(4)]
    start = threading.Barrier(len(doors))

    def spend(one: int) -> bool:
        got = tries[one]
        assert not isinstance(got, Locked)
        start.wait(10)
        with doors[one].begin() as tx:
            return identity.spend_code(tx, person_id=who, code=code, seal=SEAL, try_id=got)

    with ThreadPoolExecutor(len(doors)) as pool:
        assert sorted(pool.map(spend, range(len(doors)))) == [False, False, False, True]
    with store.db.read() as tx:
        outcomes = sorted(one.outcome for one in credentials.tries_of_person(tx, who, after=NOON - HOUR))
    assert outcomes == ["failed", "failed", "failed", "passed"]


def spend(tx: Tx, who: PersonId, code: str) -> bool:
    got = credentials.insert_try(tx, person_id=who, source="x", door="ssh")
    return identity.spend_code(tx, person_id=who, code=code, seal=SEAL, try_id=TryId(got))


def test_a_code_is_good_one_step_around_its_own_and_never_after_a_later_one(store: Store, plant: Plant) -> None:
    who = plant.id_of("engineer.one")
    with store.db.begin() as tx:
        phone = enrolled(tx)
    store.clock.wall = NOON + HOUR
    with store.db.begin() as tx:
        codes = {turn: phone.at(tx.now + turn * STEP) for turn in (-2, -1, 0, 1, 2)}
        assert not spend(tx, who, codes[-2])
        assert not spend(tx, who, codes[2])
        assert spend(tx, who, codes[-1])
        assert spend(tx, who, codes[1])
        assert not spend(tx, who, codes[0]), "a later one was taken already"
    store.clock.forward(STEP)
    with store.db.begin() as tx:
        assert not spend(tx, who, codes[1]), "not a second time in its own step either"
        assert spend(tx, who, phone.at(tx.now + STEP))


@pytest.mark.parametrize(
    "code", ["", "12345", "1234567", "١٢٣٤٥٦", "12 345", "abcdef", "-12345", "1" * 10_000, "\0" * 6]
)
def test_what_is_no_code_is_a_failed_try(sqlite_store: Store, code: str) -> None:
    plant = make_plant(sqlite_store.db, sqlite_store.clock)
    with sqlite_store.db.begin() as tx:
        enrolled(tx)
        assert not spend(tx, plant.id_of("engineer.one"), code)
        assert not spend(tx, plant.id_of("owner"), code), "nor of somebody without a phone"


def test_a_seed_is_sealed_to_its_person_and_never_kept_in_the_clear(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        phone = enrolled(tx)
        kept = credentials.load_seed(tx, plant.id_of("engineer.one"))
        assert kept is not None
        assert phone.byte_secret() not in kept.sealed
        assert SEAL.open(kept.sealed, plant.id_of("engineer.one")) == phone.byte_secret()
        for seal, person_id in ((SEAL, plant.id_of("owner")), (Seal(b"\1" * 32), plant.id_of("engineer.one"))):
            with pytest.raises(BrokerError, match="does not open") as told:
                seal.open(kept.sealed, person_id)
            assert told.value.code is Code.UNAVAILABLE
        credentials.set_seed(tx, plant.id_of("owner"), kept.sealed, last_step=0)  # a row moved by hand
        with pytest.raises(BrokerError, match="does not open"):
            spend(tx, plant.id_of("owner"), phone.at(tx.now))


def test_an_invitation_enrols_once_all_of_it_or_nothing(store: Store, plant: Plant) -> None:
    owner = plant.people["owner"]
    with store.db.begin() as tx:
        code = identity.invite(tx, handle="owner", by=BY)
        assert identity.open_invitation(tx, code) == owner
        drawn = identity.draw_seed(SEAL, owner, issuer="north")
        login, _ = web_sessions.insert(tx, person_id=owner.id, source="x")
    phone = pyotp.parse_uri(drawn.totp_uri)
    assert isinstance(phone, pyotp.TOTP)
    key = fresh_key()

    def accept(tx: Tx, **changed: str | None) -> None:
        given = {"key_line": key, "password": PASSWORD, "first_code": phone.at(tx.now), **changed}
        identity.accept_invitation(tx, code, sealed=drawn.sealed, seal=SEAL, **given)  # type: ignore[arg-type]

    for wrong in (
        {"first_code": "000000" if phone.at(NOON) != "000000" else "000001"},
        {"key_line": None, "password": None},
        {"password": "short"},
        {"key_line": "ssh-dss AAAA"},
        {"key_line": plant.keys["stranger"]},
    ):
        with pytest.raises(BrokerError), store.db.begin() as tx:
            accept(tx, **wrong)
    with store.db.begin() as tx:
        assert credentials.load_seed(tx, owner.id) is None
        assert credentials.load_password_hash(tx, owner.id) is None
        assert people.keys(tx, owner.id) == []
        accept(tx)
    with store.db.begin() as tx:
        assert factors.check_password(credentials.load_password_hash(tx, owner.id), PASSWORD)
        assert len(people.keys(tx, owner.id)) == 1
        assert web_sessions.load(tx, login) is None, "whoever was logged in as them is not any more"
        assert not spend(tx, owner.id, phone.at(tx.now)), "the first code is spent"
        with pytest.raises(BrokerError) as told:
            accept(tx)
        assert told.value.code is Code.NOT_FOUND


def test_used_lapsed_and_unknown_invitations_look_alike(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        old, lapsed = identity.invite(tx, handle="owner", by=BY), identity.invite(tx, handle="owner2", by=BY)
        identity.invite(tx, handle="owner", by=BY)
    store.clock.wall = NOON + timedelta(hours=24)
    said = set()
    with store.db.begin() as tx:
        for code in (old, lapsed, "unknown", "", "\udc80"):
            with pytest.raises(BrokerError) as told:
                identity.open_invitation(tx, code)
            said.add(str(told.value))
    assert len(said) == 1


def test_somebody_disabled_can_neither_be_invited_nor_enrolled(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        code = identity.invite(tx, handle="owner", by=BY)
        people.disable(tx, plant.id_of("owner"), by=BY)
        for act in (
            lambda: identity.invite(tx, handle="owner", by=BY),
            lambda: identity.open_invitation(tx, code),
            lambda: enrolled(tx, "owner"),
        ):
            with pytest.raises(BrokerError, match="disabled"):
                act()


@pytest.fixture(scope="module")
def one_place(request: pytest.FixtureRequest) -> Iterator[Plant]:
    with a_store("sqlite", request) as made:
        yield make_plant(made.db, made.clock)


class Undone(Exception):
    """Ends a transaction without a trace."""


knocks = st.lists(
    st.tuples(st.integers(0, 200), st.sampled_from(["fail", "fail", "fail", "pass", "cut off"])), max_size=60
)


@settings(max_examples=60, deadline=None)
@given(knocks=knocks)
def test_whatever_the_rhythm_no_fifteen_minutes_hold_more_than_five_failures(
    one_place: Plant, knocks: list[tuple[int, str]]
) -> None:
    limits, who = TryLimits(per_source=1000), one_place.id_of("engineer.one")
    failed: list[datetime] = []
    try:
        with one_place.db.begin() as tx:
            now = tx.now
            for wait_s, outcome in knocks:
                now += wait_s * SECOND
                got = identity.reserve_try(
                    replace(tx, now=now), person_id=who, name="x", source="x", door="ssh", limits=limits
                )
                recent = [one for one in failed if now - one < WINDOW]
                if isinstance(got, Locked):
                    assert now < got.until
                    assert len(recent) == 5 or got.until - now <= 8 * SECOND
                    continue
                assert len(recent) < 5
                if outcome != "cut off":
                    credentials.finish_try(tx, got, passed=outcome == "pass")
                if outcome != "pass":
                    failed.append(now)
            raise Undone
    except Undone:
        pass
