"""A small deployment with the real store and real keys: one site, one vendor, two assets, an engineer and an owner."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncssh

from broker import desk, gate, isolation
from broker.domain.capability import EXEC, SHELL
from broker.domain.grant import Grant
from broker.domain.ids import PersonId, parse_login
from broker.domain.inventory import AssetState, Site, Vendor
from broker.domain.isolation import Ladder
from broker.domain.people import Person, Role, RoleAt
from broker.domain.policy import Narrowing
from broker.domain.request import AccessRequest, Asked
from broker.domain.session import ChannelKind
from broker.domain.window import CommissioningWindow, Interval
from broker.gate import Entered, Proof
from broker.isolation import Kept
from broker.openssh import parse_public_key
from broker.settings import Home, Settings
from broker.signer.keys import CA_NAMES, make_key
from broker.store import inventory, people, windows
from broker.store.db import Database, Tx
from tests.store.databases import HandClock

NOON = datetime(2027, 2, 24, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
SOURCE = "192.0.2.7"


@dataclass
class Deployment:
    """What the tests work on. keys: the engineer's own, enrolled; stranger: somebody else's, enrolled to them."""

    home: Home
    settings: Settings
    db: Database
    clock: HandClock
    site: Site
    vendor: Vendor
    engineer: Person
    owner: Person
    key_line: str
    stranger: Person
    stranger_key: str

    def open_window(self, interval: Interval, tx: Tx) -> CommissioningWindow:
        return windows.insert_window(tx, site=self.site, vendor=self.vendor, interval=interval, by="local:test")

    def grant(self, tx: Tx, *, opens: datetime | None = None, length: timedelta = 2 * HOUR) -> Grant:
        """Ask and approve at the desk, as people do."""
        asked = Asked(
            assets=("bms-01.kestrel",),
            length=length,
            reason="cell 7 drifts",
            capabilities=frozenset({SHELL, EXEC}),
            opens=opens,
        )
        request = desk.submit(
            tx, person_id=self.engineer.id, asked=asked, lapses_after=24 * HOUR, longest=14 * 24 * HOUR, door="ssh"
        )
        assert isinstance(request, AccessRequest), request
        made = desk.approve(
            tx, owner_id=self.owner.id, request_id=request.id, narrowing=Narrowing(), door="web", ladder=Ladder()
        )
        assert isinstance(made, Grant), made
        return made

    def enter(self, tx: Tx) -> Entered:
        """Open a session at the gate."""
        proof = Proof(
            person_id=self.engineer.id,
            key_fingerprint=parse_public_key(self.key_line).fingerprint,
            public_key=self.key_line.encode(),
            factors="key+code",
            source=SOURCE,
        )
        entered = gate.enter(
            tx,
            proof=proof,
            login=parse_login("bms-01.kestrel"),
            capability=SHELL,
            kind=ChannelKind.SHELL,
            node="here",
            can_record=True,
            ladder=Ladder(),
        )
        assert isinstance(entered, Entered), entered
        return entered


def fresh_key() -> str:
    """The OpenSSH line of a new ed25519 key."""
    return str(asyncssh.generate_private_key("ssh-ed25519").export_public_key("openssh").decode().strip())


def make_home(path: Path) -> Home:
    """Keys and folders, as `init` makes them."""
    home = Home(path)
    for folder in (home.recordings, home.run, home.seal_key.parent):
        folder.mkdir(parents=True, mode=0o700)
    for name in CA_NAMES:
        make_key(home.ca_key(name), f"wicketgate {name} CA")
    make_key(home.host_key, "wicketgate bastion")
    home.seal_key.write_bytes(secrets.token_bytes(32))
    home.seal_key.chmod(0o600)
    isolation.write(home, Kept(Ladder()))
    return home


def make_deployment(path: Path, **settings: Any) -> Deployment:
    """Everything up to the moment before anybody asks."""
    home, clock = make_home(path), HandClock()
    chosen = Settings(**settings)
    db = Database.open(home.database_url(chosen), clock)
    db.migrate()
    host_key, engineers_key, strangers_key = fresh_key(), fresh_key(), fresh_key()
    with db.begin() as tx:
        site = inventory.insert_site(tx, name="kestrel", time_zone="Europe/London", by="local:test")
        vendor = inventory.insert_vendor(tx, name="cellmaker", by="local:test")
        for number in (1, 2):
            made = inventory.insert_asset(
                tx,
                site=site,
                name=f"bms-0{number}",
                host="127.0.0.1",
                port=22,
                by="local:test",
                accounts=("service", "root"),
                host_key=host_key,
            )
            inventory.set_asset_state(tx, made, AssetState.OPERATIONAL, by="local:test")
        owner = people.insert_person(
            tx, handle="owner", name="An Owner", by="local:test", roles=[RoleAt(Role.OWNER, site.id)]
        )
        engineer = _engineer(tx, "engineer.one", vendor, engineers_key)
        stranger = _engineer(tx, "somebody.else", vendor, strangers_key)
    return Deployment(
        home=home,
        settings=chosen,
        db=db,
        clock=clock,
        site=site,
        vendor=vendor,
        engineer=engineer,
        owner=owner,
        key_line=engineers_key,
        stranger=stranger,
        stranger_key=strangers_key,
    )


def _engineer(tx: Tx, handle: str, vendor: Vendor, key_line: str) -> Person:
    person = people.insert_person(tx, handle=handle, name=handle.title(), by="local:test", vendor_id=vendor.id)
    key = parse_public_key(key_line)
    people.add_key(tx, PersonId(person.id), key.line, key.fingerprint, by="local:test")
    return person


def at(tx: Tx, now: datetime) -> Tx:
    """The same transaction at another moment."""
    return replace(tx, now=now)
