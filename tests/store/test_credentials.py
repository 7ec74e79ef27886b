"""Codes, passwords, invitations, tries and web logins as rows: each of them once, over all doors."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from hashlib import sha256

import pytest
import sqlalchemy as sa

from broker import desk
from broker.store import credentials, web_sessions
from broker.store.credentials import SealedSeed
from tests.store.databases import HOUR, MINUTE, NOON, SECOND, Store
from tests.store.makers import Plant

TICK = timedelta(microseconds=1)


def test_a_step_is_taken_once_by_however_many_doors_at_once(store: Store, plant: Plant) -> None:
    who, doors = plant.id_of("engineer.one"), [store.again() for _ in range(6)]
    with store.db.begin() as tx:
        credentials.set_seed(tx, who, b"sealed", last_step=100)
    for step in (101, 102, 107):
        start = threading.Barrier(len(doors))

        def take(one: int, step: int = step, start: threading.Barrier = start) -> bool:
            start.wait(10)
            with doors[one].begin() as tx:
                return credentials.take_step(tx, who, step)

        with ThreadPoolExecutor(len(doors)) as pool:
            assert sum(pool.map(take, range(len(doors)))) == 1
    with store.db.begin() as tx:
        assert not credentials.take_step(tx, who, 106), "an earlier one is over with a later one"
        assert not credentials.take_step(tx, plant.id_of("owner"), 200), "nobody without a seed"
        assert credentials.load_seed(tx, who) == SealedSeed(b"sealed", 107)


def test_a_new_seed_never_takes_the_step_back(store: Store, plant: Plant) -> None:
    who = plant.id_of("owner")
    with store.db.begin() as tx:
        assert credentials.load_seed(tx, who) is None
        credentials.set_seed(tx, who, b"one", last_step=100)
        credentials.set_seed(tx, who, b"two", last_step=7)
        assert credentials.load_seed(tx, who) == SealedSeed(b"two", 100)
        credentials.set_seed(tx, who, b"three", last_step=101)
        assert credentials.load_seed(tx, who) == SealedSeed(b"three", 101)


def test_the_newest_password_hash_stands_alone(store: Store, plant: Plant) -> None:
    who = plant.id_of("owner")
    with store.db.begin() as tx:
        assert credentials.load_password_hash(tx, who) is None
        for one in ("first", "second"):
            credentials.set_password_hash(tx, who, one)
        assert credentials.load_password_hash(tx, who) == "second"
        assert credentials.load_password_hash(tx, plant.id_of("owner2")) is None


def test_an_invitation_is_used_once_before_it_lapses_and_a_new_one_ends_the_old(store: Store, plant: Plant) -> None:
    who, hashes = plant.id_of("owner"), [sha256(bytes([one])).digest() for one in range(3)]
    with store.db.begin() as tx:
        old = credentials.insert_invitation(tx, who, hashes[0], made_by="x", lapses_at=NOON + HOUR)
        new = credentials.insert_invitation(tx, who, hashes[1], made_by="x", lapses_at=NOON + HOUR)
        other = credentials.insert_invitation(tx, plant.id_of("owner2"), hashes[2], made_by="x", lapses_at=NOON + HOUR)
        assert not credentials.use_invitation(tx, old)
        found = credentials.find_invitation(tx, hashes[1])
        assert found is not None
        assert (found.id, found.person_id, found.used_at, found.lapses_at) == (new, who, None, NOON + HOUR)
        assert credentials.find_invitation(tx, b"unknown") is None
    doors = [store.again() for _ in range(4)]

    def use(one: int) -> bool:
        with doors[one].begin() as tx:
            return credentials.use_invitation(tx, new)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(use, range(4))) == 1
    store.clock.wall = NOON + HOUR
    with store.db.begin() as tx:
        assert not credentials.use_invitation(tx, other), "it has lapsed at that very instant"


def test_a_try_is_judged_once_and_found_by_person_and_by_source(store: Store, plant: Plant) -> None:
    who = plant.id_of("engineer.one")
    with store.db.begin() as tx:
        mine = credentials.insert_try(tx, person_id=who, source="192.0.2.1", door="ssh")
        assert credentials.finish_try(tx, mine, passed=False)
        assert not credentials.finish_try(tx, mine, passed=True)
        assert not credentials.finish_try(tx, "try-none", passed=True)
    store.clock.forward(SECOND)
    with store.db.begin() as tx:
        credentials.insert_try(tx, person_id=None, source="192.0.2.1", door="web")
        credentials.insert_try(tx, person_id=who, source="192.0.2.2", door="web")
        outcomes = [one.outcome for one in credentials.tries_of_person(tx, who, after=NOON - TICK)]
        assert outcomes == ["pending", "failed"], "the newest first"
        assert len(credentials.tries_of_person(tx, who, after=NOON)) == 1
        assert len(credentials.tries_of_source(tx, "192.0.2.1", after=NOON - TICK)) == 2
        assert credentials.tries_of_source(tx, "192.0.2.9", after=NOON - TICK) == []
    with pytest.raises(sa.exc.IntegrityError), store.raw() as run:
        run("UPDATE login_try SET outcome = 'maybe'")


def test_a_web_login_lives_while_it_is_seen_and_no_longer_than_it_may(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        secret, opened = web_sessions.insert(tx, person_id=plant.id_of("owner"), source="192.0.2.1")
        assert web_sessions.load(tx, secret) == opened
        assert web_sessions.load(tx, secret + "x") is None
    with store.raw() as run:
        assert secret not in str(run("SELECT * FROM web_session")), "only its hash is kept"
    store.clock.wall = NOON + web_sessions.IDLE - TICK
    with store.db.begin() as tx:
        assert web_sessions.load(tx, secret) is not None
        web_sessions.touch(tx, secret)
    store.clock.wall += web_sessions.IDLE
    with store.db.begin() as tx:
        assert web_sessions.load(tx, secret) is None, "idle for too long"


def test_a_web_login_that_never_rests_ends_all_the_same(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        secret, _ = web_sessions.insert(tx, person_id=plant.id_of("owner"), source="192.0.2.1")
    while store.clock.wall < NOON + web_sessions.LONGEST - MINUTE:
        store.clock.forward(10 * MINUTE)
        with store.db.begin() as tx:
            web_sessions.prove(tx, secret)
    store.clock.wall = NOON + web_sessions.LONGEST
    with store.db.begin() as tx:
        assert web_sessions.load(tx, secret) is None


def test_logging_out_and_being_disabled_end_web_logins_for_good(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        secrets = [web_sessions.insert(tx, person_id=plant.id_of("owner"), source="x")[0] for _ in range(3)]
        other, _ = web_sessions.insert(tx, person_id=plant.id_of("owner2"), source="x")
        theirs, _ = web_sessions.insert(tx, person_id=plant.id_of("engineer.one"), source="x")
        assert web_sessions.end(tx, secrets[0])
        assert not web_sessions.end(tx, secrets[0])
        web_sessions.touch(tx, secrets[0])
        assert web_sessions.load(tx, secrets[0]) is None
        desk.disable_person(tx, handle="owner", by="x")
        desk.disable_vendor(tx, name="cellmaker", by="x")
        assert [web_sessions.load(tx, one) for one in [*secrets, theirs]] == [None] * 4
        assert web_sessions.load(tx, other) is not None
