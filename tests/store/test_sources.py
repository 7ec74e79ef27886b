"""What is remembered of addresses: what they owe, until it is over, and from where somebody has logged in."""

from __future__ import annotations

from datetime import timedelta

from broker.domain.penalty import Penalty
from broker.store import credentials, sources
from tests.store.databases import HOUR, MINUTE, NOON, Store
from tests.store.makers import Plant


def test_what_an_address_owes_is_kept_until_it_is_over(store: Store, plant: Plant) -> None:
    first = [Penalty("192.0.2.7", NOON + MINUTE, True), Penalty("2001:db8:1:2::/64", NOON + 9 * MINUTE, True)]
    with store.db.begin() as tx:
        sources.keep_penalties(tx, first)
        more = [Penalty("192.0.2.7", NOON + 2 * MINUTE, True)]
        sources.keep_penalties(tx, more)
        assert {one.source: one for one in sources.penalties(tx)} == {one.source: one for one in first[1:] + more}
    plant.clock.wall = NOON + 5 * MINUTE
    with store.db.begin() as tx:
        assert sources.penalties(tx) == first[1:]
        sources.keep_penalties(tx, [])
    plant.clock.wall = NOON
    with store.db.read() as tx:
        assert sources.penalties(tx) == first[1:], "what was over is forgotten"


def test_known_are_addresses_of_good_codes_at_the_ssh_door_and_of_sessions(store: Store, plant: Plant) -> None:
    who = plant.id_of("engineer.one")
    with store.db.begin() as tx:
        for source, door, passed in (("a", "ssh", True), ("b", "ssh", False), ("c", "web", True), ("d", "ssh", None)):
            made = credentials.insert_try(tx, person_id=who, source=source, door=door)
            if passed is not None:
                credentials.finish_try(tx, made, passed=passed)
        assert sources.logged_in_since(tx, NOON - timedelta(days=30)) == {"a": NOON}
        assert sources.logged_in_since(tx, NOON) == {}
    plant.clock.wall = NOON + HOUR
    with store.db.begin() as tx:
        made = credentials.insert_try(tx, person_id=who, source="a", door="ssh")
        credentials.finish_try(tx, made, passed=True)
        assert sources.logged_in_since(tx, NOON) == {"a": NOON + HOUR}
