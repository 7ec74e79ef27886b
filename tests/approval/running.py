"""A site with people, assets and requests behind a really running server, whose clock the test moves by hand."""

from __future__ import annotations

import asyncio
import re
import shutil
import sqlite3
import ssl
import threading
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

import httpx2
import pyotp
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from approval.app import create_app
from approval.guard import origin_of
from approval.serving import listen, server_for
from broker import desk, identity, isolation
from broker.clock import SystemClock
from broker.domain.capability import EXEC, SHELL, Capability
from broker.domain.grant import Grant
from broker.domain.ids import PersonId, SiteId
from broker.domain.inventory import AssetAuth, AssetClass, AssetState, Protocol, Site
from broker.domain.isolation import Ladder
from broker.domain.people import Person, Role, RoleAt
from broker.domain.policy import Narrowing, Refusal
from broker.domain.request import AccessRequest, Asked
from broker.domain.window import Interval
from broker.isolation import Kept
from broker.settings import Address, Home, Settings
from broker.store import inventory, ledger, people
from broker.store.db import Database, Tx

NOON = datetime(2027, 2, 24, 20, 0, tzinfo=UTC)  # noon at the site
ZONE = "America/Los_Angeles"
PASSWORD = "correct horse battery"
HOUR = timedelta(hours=1)
_NO_TLS = ssl.SSLContext(
    ssl.PROTOCOL_TLS_CLIENT
)  # never used, but a client would load a hundred authorities for its own
ENGINEER, COLLEAGUE, OTHER_ENGINEER = "engineer.one", "minho.ryu", "engineer.two"
OWNER, SECOND_OWNER, FAR_OWNER = "owner.one", "owner.two", "owner.far"
OPERATOR, INVESTIGATOR, AUDITOR, ADMIN = "operator.one", "investigator.one", "auditor.one", "ida.holm"
EVERYBODY = (
    OWNER,
    SECOND_OWNER,
    FAR_OWNER,
    OPERATOR,
    INVESTIGATOR,
    AUDITOR,
    ADMIN,
    ENGINEER,
    COLLEAGUE,
    OTHER_ENGINEER,
)


class HandClock:
    """The wall clock of the test; the other one is the machine's, for it times real waits."""

    def __init__(self, now: datetime = NOON) -> None:
        self._now = now
        self._real = SystemClock()

    def now(self) -> datetime:
        return self._now

    def monotonic_us(self) -> int:
        return self._real.monotonic_us()

    def move(self, by: timedelta) -> None:
        self._now += by


@dataclass(slots=True)
class Template:
    """A home with everybody enrolled, to be copied by each test. seeds: by handle."""

    path: Path
    seeds: dict[str, str] = field(default_factory=dict)


def make_template(path: Path) -> Template:
    """Make it: two sites, two vendors, four assets, ten people, one window."""
    made, home = Template(path), Home(path)
    home.seal_key.parent.mkdir(parents=True)
    home.seal_key.write_bytes(bytes(range(32)))
    home.recordings.mkdir()
    isolation.write(home, Kept(Ladder()))
    db = Database.open(home.database_url(Settings()), HandClock(NOON - 24 * HOUR))
    db.migrate()
    with db.begin() as tx:
        _fill(tx, made)
    db.close()
    return made


def _fill(tx: Tx, made: Template) -> None:
    here = inventory.insert_site(tx, name="kestrel", time_zone=ZONE, by="test")
    there = inventory.insert_site(tx, name="merlin", time_zone="Europe/London", by="test")
    vendor = inventory.insert_vendor(tx, name="cellmaker", by="test")
    other = inventory.insert_vendor(tx, name="driveworks", by="test")
    _add_asset(tx, here, "bms-01")
    _add_asset(tx, here, "bms-02")
    _add_asset(tx, here, "pcs-01", klass=AssetClass.HAZARD)
    _add_asset(tx, here, "bms-09", state=AssetState.RECEIVED)
    span = Interval(NOON - 4 * HOUR, NOON + 72 * HOUR)
    inventory.insert_window(tx, site=here, vendor=vendor, interval=span, pattern="bms-*,pcs-*", phase="P1", by="test")
    everywhere: SiteId | None = None
    for handle, name, roles in (
        (OWNER, "Owner One", [RoleAt(Role.OWNER, here.id)]),
        (SECOND_OWNER, "Owner Two", [RoleAt(Role.OWNER, here.id)]),
        (FAR_OWNER, "Owner Far", [RoleAt(Role.OWNER, there.id)]),
        (OPERATOR, "Operator One", [RoleAt(Role.OPERATOR, here.id)]),
        (INVESTIGATOR, "Investigator One", [RoleAt(Role.INVESTIGATOR, here.id)]),
        (AUDITOR, "Auditor One", [RoleAt(Role.AUDITOR, everywhere)]),
        (ADMIN, "Ida Holm", [RoleAt(Role.ADMIN, here.id)]),
    ):
        people.insert_person(tx, handle=handle, name=name, roles=roles, by="test")
        _enrol(tx, made.seeds, handle)
    for handle, name, firm in (
        (ENGINEER, "Engineer One", vendor),
        (COLLEAGUE, "Minho Ryu", vendor),
        (OTHER_ENGINEER, "Engineer Two", other),
    ):
        people.insert_person(tx, handle=handle, name=name, vendor_id=firm.id, human=handle, by="test")
        _enrol(tx, made.seeds, handle)


def _add_asset(
    tx: Tx,
    site: Site,
    name: str,
    *,
    klass: AssetClass = AssetClass.ROUTINE,
    state: AssetState = AssetState.OPERATIONAL,
) -> None:
    inventory.insert_asset(
        tx,
        site=site,
        name=name,
        host="127.0.0.1",
        port=22,
        protocol=Protocol.SSH,
        accounts=("service",),
        auth=AssetAuth.CA,
        tcp_ports={502},
        asset_class=klass,
        state=state,
        host_key=a_key_line(),
        by="test",
    )


def a_key_line() -> str:
    """A fresh public key as OpenSSH writes it."""
    key = Ed25519PrivateKey.generate().public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _enrol(tx: Tx, seeds: dict[str, str], handle: str) -> None:
    seal = identity.Seal(bytes(range(32)))
    done = identity.enrol(tx, handle=handle, key_line=a_key_line(), password=None, seal=seal, by="t")
    identity.set_password(tx, person_id=PersonId(done.person_id), password_hash=_the_hash(), by="t")
    seeds[handle] = parse_qs(urlsplit(done.totp_uri).query)["secret"][0]


@cache
def _the_hash() -> str:
    """Everybody has the same password: its hash takes a tenth of a second, once."""
    return identity.hash_password(PASSWORD)


class Running:
    """The server in a thread of its own, on a free port, over a copy of the template."""

    def __init__(self, template: Template, path: Path, *, origin: str | None = None, proxy: str = "") -> None:
        """origin, proxy: as a site behind a proxy that ends TLS has set them; None for plain http on loopback."""
        shutil.copytree(template.path, path)
        self.home, self.clock = Home(path), HandClock()
        self.settings = Settings(web_listen="127.0.0.1:0", web_proxy=proxy)
        self.db = Database.open(self.home.database_url(self.settings), self.clock)
        self._seeds, self._used = dict(template.seeds), dict[str, int]()
        self._clients: list[httpx2.Client] = []
        self._sock = listen(Address("127.0.0.1", 0))
        self.sock_address: tuple[str, int] = self._sock.getsockname()
        port = self.sock_address[1]
        self.url = f"http://127.0.0.1:{port}"
        self.origin = origin_of(origin or self.url, loopback_port=port)
        listening = threading.Event()
        self.app = create_app(self.home, self.settings, self.db, self.clock, origin=self.origin)
        self._server = server_for(self.app, self.settings, ready=listening.set)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve([self._sock])))
        self._thread.start()
        assert listening.wait(20)

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for client in self._clients:
            client.close()
        self._server.should_exit = True
        self._thread.join(20)
        self._sock.close()
        self.db.close()
        assert not self._thread.is_alive()

    def code(self, handle: str) -> str:
        """A code that was not used yet; half a minute passes when the last one is still on the phone."""
        if self._used.get(handle) == self._step():
            self.clock.move(timedelta(seconds=30))
        self._used[handle] = self._step()
        return pyotp.TOTP(self._seeds[handle]).at(self.clock.now())

    def _step(self) -> int:
        return int(self.clock.now().timestamp()) // 30

    def stranger(self) -> httpx2.Client:
        """A client that is not logged in and says, as a browser does, where its forms come from."""
        made = httpx2.Client(base_url=self.url, headers={"sec-fetch-site": "same-origin"}, timeout=20, verify=_NO_TLS)
        self._clients.append(made)
        return made

    def log_in(self, client: httpx2.Client, handle: str, **changed: str) -> httpx2.Response:
        fields = {"handle": handle, "password": PASSWORD, "after": "/"} | changed
        return client.post("/login", data=fields if "code" in fields else fields | {"code": self.code(handle)})

    def client(self, handle: str) -> httpx2.Client:
        """A client logged in."""
        made = self.stranger()
        answer = self.log_in(made, handle)
        assert answer.status_code == 303, answer.text
        return made

    def ask(
        self,
        *assets: str,
        reason: str = "cell 4 drifts after the firmware of Tuesday",
        change: str | None = "CHG-1042",
        opens: datetime | None = None,
        length: timedelta = 2 * HOUR,
        capabilities: frozenset[Capability] = frozenset({SHELL, EXEC}),
    ) -> AccessRequest:
        """A pending request of the engineer."""
        asked = Asked(
            assets=assets or ("bms-01.kestrel",),
            length=length,
            reason=reason,
            capabilities=capabilities,
            opens=opens,
            change=change,
        )
        with self.db.begin() as tx:
            whose = people.require(tx, ENGINEER).id
            done = desk.submit(
                tx, person_id=whose, asked=asked, lapses_after=24 * HOUR, longest=14 * 24 * HOUR, door="test"
            )
        assert not isinstance(done, Refusal), done
        return done

    def grant(self, *assets: str) -> Grant:
        """A grant of the engineer, approved by the owner."""
        asked = self.ask(*assets)
        with self.db.begin() as tx:
            owner = people.require(tx, OWNER).id
            done = desk.approve(
                tx, owner_id=owner, request_id=asked.id, narrowing=Narrowing(), door="test", ladder=Ladder()
            )
        assert isinstance(done, Grant), done
        return done

    def act(self, client: httpx2.Client, path: str, **fields: str | list[str]) -> httpx2.Response:
        """Post a form of the pages, with the token of the client's session."""
        token = token_in(client.get("/account").text)
        return client.post(path, data={"token": token, **fields})

    def person(self, handle: str) -> Person:
        with self.db.read() as tx:
            return people.require(tx, handle)

    def rows(self) -> dict[str, list[tuple[object, ...]]]:
        """Every row there is, but for when a web session was last seen and what was tried: to hold before against after."""
        with closing(sqlite3.connect(self.home.path / "wicketgate.db")) as raw:
            named = raw.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'login_try'")
            tables = [name for (name,) in named]
            found = {name: sorted(raw.execute(f"SELECT * FROM {name}"), key=repr) for name in tables}  # noqa: S608
            columns = "id_sha256, person_id, ended_at, proof_at"
            return found | {"web_session": sorted(raw.execute(f"SELECT {columns} FROM web_session"))}  # noqa: S608

    def kinds(self) -> list[str]:
        """The kinds of all ledger entries, in order."""
        with self.db.read() as tx:
            return [row.kind for row in ledger.show(tx, last=10_000)]

    def enrol(self, tx: Tx, handle: str) -> None:
        """Enrol somebody who came later."""
        _enrol(tx, self._seeds, handle)

    def seed_of(self, handle: str, seed: str) -> None:
        """Remember the seed of somebody who enrolled during the test."""
        self._seeds[handle] = seed


def token_in(page: str) -> str:
    """The form token that a page holds."""
    found = re.search(r'name="token" value="([^"]+)"', page)
    assert found is not None, page[:400]
    return found[1]
