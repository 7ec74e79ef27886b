"""Sites, vendors, assets, windows and people: each change with its entry, each name once, nothing half."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
import sqlalchemy as sa

from broker.domain.errors import BrokerError, Code
from broker.domain.ids import PersonId
from broker.domain.inventory import Asset, AssetAuth, AssetClass, AssetState, Protocol
from broker.domain.people import Role, RoleAt
from broker.domain.window import CommissioningWindow, Interval
from broker.store import inventory, ledger, people
from broker.store.db import Tx
from tests.store.databases import HOUR, NOON, Store
from tests.store.makers import BY, Plant, fresh_key

TICK = timedelta(microseconds=1)
Change = Callable[[Tx, Plant], object]


def told_by(store: Store, plant: Plant, change: Change) -> list[tuple[str, str | None]]:
    """Kind and act of the entries that a change leaves."""
    with store.db.begin() as tx:
        before, _ = ledger.head(tx)
        change(tx, plant)
        return [(row.kind, row.body.get("act")) for row in ledger.since(tx, before)]


def bms(plant: Plant) -> Asset:
    return plant.assets["bms-01"]


CHANGES: dict[str, tuple[Change, list[tuple[str, str | None]]]] = {
    "a site": (
        lambda tx, _: inventory.insert_site(tx, name="south", time_zone="Asia/Tokyo", by=BY),
        [("inventory.changed", "added")],
    ),
    "a zone": (
        lambda tx, plant: inventory.insert_zone(tx, site=plant.site, name="hall-a", by=BY),
        [("inventory.changed", "added")],
    ),
    "a vendor": (lambda tx, _: inventory.insert_vendor(tx, name="third", by=BY), [("inventory.changed", "added")]),
    "a vendor disabled twice": (
        lambda tx, plant: [inventory.disable_vendor(tx, plant.vendor.id, by=BY) for _ in range(2)],
        [("vendor.disabled", None)],
    ),
    "a state": (
        lambda tx, plant: inventory.set_asset_state(tx, bms(plant), AssetState.QUARANTINED, by=BY),
        [("inventory.changed", "changed")],
    ),
    "the state it is in": (
        lambda tx, plant: inventory.set_asset_state(tx, bms(plant), AssetState.OPERATIONAL, by=BY),
        [],
    ),
    "a host key": (
        lambda tx, plant: inventory.pin_host_key(tx, bms(plant), "ssh-ed25519 BBBB", by=BY, fingerprint="SHA256:b"),
        [("inventory.changed", "changed")],
    ),
    "a credential": (
        lambda tx, plant: inventory.set_asset_secret(tx, bms(plant), b"sealed", by=BY),
        [("inventory.changed", "changed")],
    ),
    "an extension": (
        lambda tx, plant: inventory.extend_window(tx, plant.window, NOON + 9 * HOUR, by=BY),
        [("window.extended", None)],
    ),
    "a window closed": (lambda tx, plant: inventory.close_window(tx, plant.window, by=BY), [("window.closed", None)]),
    "roles": (
        lambda tx, plant: people.add_roles(tx, plant.people["owner"], [RoleAt(Role.AUDITOR, None)], by=BY),
        [("person.changed", "rights changed")],
    ),
    "a person disabled twice": (
        lambda tx, plant: [people.disable(tx, plant.id_of("owner"), by=BY) for _ in range(2)],
        [("person.changed", "disabled")],
    ),
    "a key taken away twice": (
        lambda tx, plant: [
            people.remove_key(tx, plant.id_of("stranger"), plant.fingerprint_of("stranger"), by=BY) for _ in range(2)
        ],
        [("person.changed", "key removed")],
    ),
    "somebody else's key taken away": (
        lambda tx, plant: people.remove_key(tx, plant.id_of("owner"), plant.fingerprint_of("stranger"), by=BY),
        [],
    ),
}


def test_law_5_each_change_leaves_exactly_its_entry(store: Store, plant: Plant) -> None:
    for what, (change, entries) in CHANGES.items():
        assert told_by(store, plant, change) == entries, what


WRONG: dict[str, tuple[Change, Code]] = {
    "a site twice": (lambda tx, _: inventory.insert_site(tx, name="north", time_zone="UTC", by=BY), Code.CONFLICT),
    "no time zone": (lambda tx, _: inventory.insert_site(tx, name="s", time_zone="Mars/Base", by=BY), Code.INVALID),
    "a path as zone": (
        lambda tx, _: inventory.insert_site(tx, name="s", time_zone="../../etc/passwd", by=BY),
        Code.INVALID,
    ),
    "a site's name": (lambda tx, _: inventory.insert_site(tx, name="So uth", time_zone="UTC", by=BY), Code.INVALID),
    "a vendor twice": (lambda tx, _: inventory.insert_vendor(tx, name="rival", by=BY), Code.CONFLICT),
    "a port": (
        lambda tx, plant: inventory.insert_asset(tx, site=plant.site, name="x", host="h", port=0, by=BY),
        Code.INVALID,
    ),
    "a listed port": (
        lambda tx, plant: inventory.insert_asset(
            tx, site=plant.site, name="x", host="h", port=1, tcp_ports=[65536], by=BY
        ),
        Code.INVALID,
    ),
    "an account": (
        lambda tx, plant: inventory.insert_asset(
            tx, site=plant.site, name="x", host="h", port=1, accounts=("a,b",), by=BY
        ),
        Code.INVALID,
    ),
    "no such zone": (
        lambda tx, plant: inventory.insert_asset(tx, site=plant.site, name="x", host="h", port=1, zone="z", by=BY),
        Code.NOT_FOUND,
    ),
    "an asset twice": (
        lambda tx, plant: inventory.insert_asset(tx, site=plant.site, name="bms-01", host="h", port=1, by=BY),
        Code.CONFLICT,
    ),
    "a window in the past": (
        lambda tx, plant: inventory.insert_window(
            tx, site=plant.site, vendor=plant.vendor, interval=Interval(NOON - HOUR, NOON), by=BY
        ),
        Code.INVALID,
    ),
    "a window made shorter": (
        lambda tx, plant: inventory.extend_window(tx, plant.window, plant.window.interval.closes, by=BY),
        Code.INVALID,
    ),
    "a handle twice": (
        lambda tx, plant: people.insert_person(tx, handle="owner", name="O", vendor_id=plant.vendor.id, by=BY),
        Code.CONFLICT,
    ),
    "neither vendor nor role": (lambda tx, _: people.insert_person(tx, handle="n", name="N", by=BY), Code.INVALID),
    "vendor and role": (
        lambda tx, plant: people.insert_person(
            tx, handle="n", name="N", vendor_id=plant.vendor.id, roles=[RoleAt(Role.OWNER, None)], by=BY
        ),
        Code.INVALID,
    ),
    "a role for an engineer": (
        lambda tx, plant: people.add_roles(tx, plant.people["stranger"], [RoleAt(Role.OWNER, None)], by=BY),
        Code.INVALID,
    ),
    "a key twice": (
        lambda tx, plant: people.add_key(tx, plant.id_of("owner"), "x", plant.fingerprint_of("stranger"), by=BY),
        Code.CONFLICT,
    ),
    "no such site": (lambda tx, _: inventory.load_site(tx, "atlantis"), Code.NOT_FOUND),
    "no such vendor": (lambda tx, _: inventory.load_vendor(tx, "nobody"), Code.NOT_FOUND),
    "no such window": (lambda tx, _: inventory.load_window(tx, "win-none"), Code.NOT_FOUND),
    "no such person": (lambda tx, _: people.require(tx, "nobody"), Code.NOT_FOUND),
}


def test_what_is_wrong_is_refused_in_one_line_and_changes_nothing(store: Store, plant: Plant) -> None:
    with store.db.read() as tx:
        before = ledger.head(tx)
    for what, (change, code) in WRONG.items():
        with pytest.raises(BrokerError) as told, store.db.begin() as tx:
            change(tx, plant)
        assert (told.value.code, "\n" in told.value.detail) == (code, False), what
    with store.db.read() as tx:
        assert ledger.head(tx) == before


def test_a_key_that_somebody_else_has_is_not_told_whose_it_is(store: Store, plant: Plant) -> None:
    with pytest.raises(BrokerError) as told, store.db.begin() as tx:
        people.add_key(tx, plant.id_of("owner"), "x", plant.fingerprint_of("stranger"), by=BY)
    assert "stranger" not in told.value.detail


def test_an_asset_comes_back_as_it_was_put(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        inventory.insert_zone(tx, site=plant.site, name="hall-a", by=BY)
        made = inventory.insert_asset(
            tx,
            site=plant.site,
            name="rtu-1",
            host="2001:db8::7",
            port=23,
            by=BY,
            protocol=Protocol.TELNET,
            accounts=("b", "a"),
            auth=AssetAuth.PASSWORD,
            host_key=None,
            tcp_ports=[2404, 502],
            asset_class=AssetClass.HAZARD,
            state=AssetState.RECEIVED,
            zone="hall-a",
            legacy=True,
            secret=b"\x00\xff",
        )
    with store.db.read() as tx:
        assert inventory.asset_by_id(tx, made.id) == inventory.load_asset(tx, "rtu-1.north") == made
        assert inventory.load_asset_secret(tx, made.id) == b"\x00\xff"
        assert inventory.load_asset_secret(tx, bms(plant).id) is None
        for text in ("rtu-1", "a+rtu-1.north", "rtu-1.south", "::", "", "RTU-1.north"):
            assert inventory.load_asset(tx, text) is None
        assert [one.name for one in inventory.assets(tx, plant.site)] == ["bms-01", "bms-02", "pcs-01", "rtu-1"]
        assert [one.name for one in inventory.assets(tx, ids=[made.id])] == ["rtu-1"]
        assert inventory.assets(tx, ids=[]) == []


def test_an_asset_without_accounts_has_none_and_not_an_empty_one(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        made = inventory.insert_asset(tx, site=plant.site, name="meter-1", host="h", port=502, by=BY)
        found = inventory.asset_by_id(tx, made.id)
    assert found is not None
    assert (found.accounts, found.tcp_ports) == ((), frozenset())


def test_people_come_back_with_their_roles_and_keys(store: Store, plant: Plant) -> None:
    line = fresh_key()
    with store.db.begin() as tx:
        person = people.insert_person(
            tx,
            handle="a.b",
            name="Å",
            by=BY,
            human="h",
            roles=[RoleAt(Role.OWNER, plant.site.id), RoleAt(Role.ADMIN, None)],
        )
        for one, fingerprint in ((line, "SHA256:z"), ("second", "SHA256:a")):
            people.add_key(tx, person.id, one, fingerprint, by=BY)
            store.clock.forward(TICK)
        assert people.by_handle(tx, "a.b") == people.load_person(tx, person.id) == person
        assert people.key_owner(tx, "SHA256:z") == person
        assert (
            people.by_handle(tx, "A.B")
            is people.key_owner(tx, "SHA256:")
            is people.load_person(tx, PersonId(""))
            is None
        )
        assert {one.fingerprint for one in people.keys(tx, person.id)} == {"SHA256:z", "SHA256:a"}
        assert people.people(tx, ids=[person.id]) == [person]
        handles = [one.handle for one in people.people(tx)]
        assert handles == sorted(handles)
        assert people.people(tx, ids=[]) == []


def test_the_database_itself_refuses_what_points_to_nothing(store: Store, plant: Plant) -> None:
    for statement in (
        "UPDATE asset SET site_id = 'site-none'",
        "UPDATE asset SET state = 'sold'",
        "UPDATE asset SET port = 0",
        "DELETE FROM site",
        "UPDATE commissioning_window SET closes = opens",
        "UPDATE person_role SET role = 'king'",
    ):
        with pytest.raises(sa.exc.IntegrityError), store.raw() as run:
            run(statement)


def _refused_codes(tx: Tx, closed: CommissioningWindow) -> list[Code]:
    with pytest.raises(BrokerError) as one:
        inventory.close_window(tx, closed, by=BY)
    with pytest.raises(BrokerError) as other:
        inventory.extend_window(tx, closed, NOON + 20 * HOUR, by=BY)
    return [one.value.code, other.value.code]


def test_law_6_a_window_is_open_by_its_instants_and_a_closed_one_can_be_neither_closed_nor_extended(
    store: Store, plant: Plant
) -> None:
    with store.db.begin() as tx:
        assert inventory.sites_of_vendor(tx, plant.vendor.id) == {plant.site.id}
        assert inventory.sites_of_vendor(tx, plant.rival.id) == frozenset()
        longer = inventory.extend_window(tx, plant.window, NOON + 9 * HOUR, by=BY)
        with pytest.raises(BrokerError, match="is over"):  # somebody else has moved it since it was read
            inventory.extend_window(tx, plant.window, NOON + 20 * HOUR, by=BY)
        closed = inventory.close_window(tx, longer, by=BY)
        assert (closed.closes, closed.holds(NOON), closed.holds(NOON - TICK)) == (NOON, False, True)
        assert _refused_codes(tx, closed) == [Code.CONFLICT, Code.CONFLICT]
        assert [one.id for one in inventory.windows(tx, vendor_id=plant.vendor.id)] == [closed.id]
        assert inventory.windows(tx, vendor_id=plant.rival.id) == []
