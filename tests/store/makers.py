"""One plant with all that access needs: a site, two vendors, engineers, owners, four assets and a window."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import asyncssh
import pytest

from broker import desk, gate
from broker.domain.capability import EXEC, SHELL, Capability
from broker.domain.grant import Grant
from broker.domain.ids import PersonId, SessionId, parse_login
from broker.domain.inventory import Asset, AssetClass, AssetState, Site, Vendor
from broker.domain.isolation import Ladder
from broker.domain.people import Person, Role, RoleAt
from broker.domain.policy import Agreed, Narrowing, Refusal
from broker.domain.request import AccessRequest, Asked
from broker.domain.session import ChannelKind
from broker.domain.window import CommissioningWindow, Interval
from broker.gate import Entered, Limits, Proof
from broker.openssh import parse_public_key
from broker.store import inventory, people, windows
from broker.store.db import Database, Tx
from tests.store.databases import HOUR, NOON, HandClock, Store

BY = "local:test"
SOURCE = "192.0.2.7"
USUAL = frozenset({SHELL, EXEC})
ENGINEERS = (
    ("engineer.one", "cellmaker", "human-one"),
    ("engineer.two", "cellmaker", "human-two"),
    ("stranger", "rival", "stranger"),
)
"""Handle, vendor, human; the rival has no window anywhere."""
OWNERS = (
    ("owner", "human-three"),
    ("owner2", "human-four"),
    ("owner-alias", "human-three"),
    ("engineer-at-site", "human-one"),
)
"""Handle, human: two of them are one human, and one is an engineer's second handle."""
AS_ASKED = Narrowing()
LIMITS = Limits()


@dataclass
class Plant:
    """What the tests work on. people: by handle, as they were added; keys: of the engineers, as OpenSSH lines."""

    db: Database
    clock: HandClock
    site: Site
    vendor: Vendor
    rival: Vendor
    window: CommissioningWindow
    assets: dict[str, Asset] = field(default_factory=dict)
    people: dict[str, Person] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    def fingerprint_of(self, handle: str) -> str:
        return parse_public_key(self.keys[handle]).fingerprint

    def id_of(self, handle: str) -> PersonId:
        return self.people[handle].id

    def submit(self, tx: Tx, handle: str = "engineer.one", **asked: Any) -> AccessRequest:
        request = self.ask(tx, handle, **asked)
        assert isinstance(request, AccessRequest), request
        return request

    def ask(
        self,
        tx: Tx,
        handle: str = "engineer.one",
        *,
        assets: tuple[str, ...] = ("bms-01.north",),
        length: timedelta = 2 * HOUR,
        capabilities: frozenset[Capability] = USUAL,
        opens: datetime | None = None,
        lapses_after: timedelta = 24 * HOUR,
    ) -> AccessRequest | Refusal:
        asked = Asked(assets=assets, length=length, reason="cell 7 drifts", capabilities=capabilities, opens=opens)
        return desk.submit(
            tx,
            person_id=self.id_of(handle),
            asked=asked,
            lapses_after=lapses_after,
            longest=14 * 24 * HOUR,
            door="ssh",
        )

    def approve(
        self, tx: Tx, request_id: str, owner: str = "owner", narrowing: Narrowing = AS_ASKED
    ) -> Grant | Agreed | Refusal:
        return desk.approve(
            tx, owner_id=self.id_of(owner), request_id=request_id, narrowing=narrowing, door="web", ladder=Ladder()
        )

    def grant(self, tx: Tx, handle: str = "engineer.one", **asked: Any) -> Grant:
        """Ask and approve, as people do."""
        made = self.approve(tx, self.submit(tx, handle, **asked).id)
        assert isinstance(made, Grant), made
        return made

    def proof(self, handle: str = "engineer.one", **more: Any) -> Proof:
        return Proof(
            person_id=self.id_of(handle),
            key_fingerprint=self.fingerprint_of(handle),
            public_key=self.keys[handle].encode(),
            factors="key+code",
            source=SOURCE,
            **more,
        )

    def enter(
        self,
        tx: Tx,
        handle: str = "engineer.one",
        login: str = "bms-01.north",
        *,
        capability: Capability = SHELL,
        kind: ChannelKind = ChannelKind.SHELL,
        session_id: SessionId | None = None,
        limits: Limits = LIMITS,
        proof: Proof | None = None,
    ) -> Entered | Refusal:
        return gate.enter(
            tx,
            proof=proof or self.proof(handle),
            login=parse_login(login),
            capability=capability,
            kind=kind,
            session_id=session_id,
            node="here",
            can_record=True,
            limits=limits,
            ladder=Ladder(),
        )

    def entered(self, tx: Tx, handle: str = "engineer.one", login: str = "bms-01.north", **more: Any) -> Entered:
        entered = self.enter(tx, handle, login, **more)
        assert isinstance(entered, Entered), entered
        return entered


def fresh_key() -> str:
    """The OpenSSH line of a new ed25519 key."""
    return str(asyncssh.generate_private_key("ssh-ed25519").export_public_key("openssh").decode().strip())


def an_asset(tx: Tx, site: Site, name: str, **more: Any) -> Asset:
    made = inventory.insert_asset(
        tx, site=site, name=name, host="127.0.0.1", port=22, by=BY, accounts=("service", "root"), **more
    )
    inventory.set_asset_state(tx, made, AssetState.OPERATIONAL, by=BY)
    found = inventory.asset_by_id(tx, made.id)
    assert found is not None
    return found


def an_engineer(tx: Tx, handle: str, vendor: Vendor, key_line: str, human: str = "") -> Person:
    made = people.insert_person(tx, handle=handle, name=handle.title(), by=BY, vendor_id=vendor.id, human=human)
    key = parse_public_key(key_line)
    people.add_key(tx, made.id, key.line, key.fingerprint, by=BY)
    return made


def an_owner(tx: Tx, handle: str, site: Site, human: str = "") -> Person:
    roles = [RoleAt(Role.OWNER, site.id)]
    return people.insert_person(tx, handle=handle, name=handle.title(), by=BY, roles=roles, human=human)


def make_plant(db: Database, clock: HandClock) -> Plant:
    """All of it, by the program's own use-cases, in one transaction."""
    with db.begin() as tx:
        site = inventory.insert_site(tx, name="north", time_zone="Europe/London", by=BY)
        vendor = inventory.insert_vendor(tx, name="cellmaker", by=BY)
        rival = inventory.insert_vendor(tx, name="rival", by=BY)
        window = windows.insert_window(
            tx, site=site, vendor=vendor, interval=Interval(NOON - HOUR, NOON + 8 * HOUR), by=BY
        )
        made = Plant(db=db, clock=clock, site=site, vendor=vendor, rival=rival, window=window)
        for name in ("bms-01", "bms-02"):
            made.assets[name] = an_asset(tx, site, name, host_key="ssh-ed25519 AAAA", tcp_ports=[502])
        made.assets["pcs-01"] = an_asset(tx, site, "pcs-01", host_key="ssh-ed25519 AAAA", asset_class=AssetClass.HAZARD)
        for handle, firm, human in ENGINEERS:
            made.keys[handle] = fresh_key()
            made.people[handle] = an_engineer(
                tx, handle, vendor if firm == vendor.name else rival, made.keys[handle], human
            )
        for handle, human in OWNERS:
            made.people[handle] = an_owner(tx, handle, site, human)
    return made


@pytest.fixture
def plant(store: Store) -> Plant:
    """The plant on a fresh database of each kind."""
    return make_plant(store.db, store.clock)
