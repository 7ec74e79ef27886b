"""How exactly sessions end: by the clock, and by one act that ends them all.

The clients are asyncssh's, all in this process: two hundred ssh processes would measure the machine that they crowd. What a
client takes to notice its end is counted in, so every figure is an upper bound.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import asyncssh

from benchmarks.gate import command_line, furnish, make_home, serving
from benchmarks.peers import sshd
from benchmarks.table import GATE, Bar, Of, Row, p99
from broker import desk
from broker.clock import SystemClock
from broker.control_client import ask
from broker.domain.capability import EXEC
from broker.domain.grant import Grant
from broker.domain.isolation import Ladder
from broker.domain.policy import Narrowing
from broker.domain.request import AccessRequest, Asked
from broker.settings import Home, load_settings
from broker.signer.client import SignerClient
from broker.store import people
from broker.store.db import Database

CLOCK: Final = SystemClock()
LOGINS_AT_ONCE: Final = 3
"""One address may have few connections that have not logged in."""
OPENING_S: Final = 0.5
"""How long one session may take to come in, with nothing else on the machine."""
PROGRAM: Final = "echo up; exec cat"
LATEST_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Ground:
    """A running site of its own. key: the engineer's private one; public: its line."""

    home: Home
    db: Database
    port: int
    key: Path
    public: str


@contextlib.contextmanager
def ground(folder: Path) -> Iterator[Ground]:
    """An asset and a wicketgate on loopback; everything is stopped at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    path = make_home(folder)
    home = Home(path)
    with sshd(folder / "asset", trusted_ca=command_line(path, "ca", "show", "asset")) as asset:
        engineer = furnish(path, folder, asset)
        with serving(path) as (port, _):
            db = Database.open(home.database_url(load_settings(home)), CLOCK)
            try:
                yield Ground(home, db, port, engineer.key, Path(f"{engineer.key}.pub").read_text().strip())
            finally:
                db.close()


class Client(asyncssh.SSHClientSession[bytes]):
    """One engineer's channel. up: the program has spoken; ended_us, ended_at: when the channel was closed, by both clocks."""

    def __init__(self) -> None:
        self.up, self.closed = asyncio.Event(), asyncio.Event()
        self.ended_us, self.ended_at = 0, CLOCK.now()

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self.up.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended_us, self.ended_at = CLOCK.monotonic_us(), CLOCK.now()
        self.closed.set()


def _grant(on: Ground, length: timedelta) -> Grant:
    asked = Asked(assets=("box.bench",), length=length, reason="measuring", capabilities=frozenset({EXEC}))
    with on.db.begin() as tx:
        engineer, owner = people.require(tx, "engineer"), people.require(tx, "owner")
        request = desk.submit(
            tx, person_id=engineer.id, asked=asked, lapses_after=length, longest=timedelta(days=14), door="bench"
        )
        if not isinstance(request, AccessRequest):
            raise RuntimeError(f"the request was refused: {request.reason.value}")
        made = desk.approve(
            tx, owner_id=owner.id, request_id=request.id, narrowing=Narrowing(), door="bench", ladder=Ladder()
        )
    if not isinstance(made, Grant):
        raise RuntimeError(f"the request was not approved: {made}")
    return made


async def _open(on: Ground, grant: Grant, count: int) -> list[Client]:
    """That many live sessions of one grant, each on a connection of its own."""
    signer = SignerClient(on.home.signer_socket)
    try:
        signed = await signer.gate(grant=grant.id, key=on.public, person=grant.person_id, source="127.0.0.1")
    finally:
        signer.close()
    shown = (asyncssh.read_private_key(on.key), asyncssh.import_certificate(signed))
    turn = asyncio.Semaphore(LOGINS_AT_ONCE)

    async def one() -> Client:
        options: dict[str, Any] = {"known_hosts": None, "config": None, "agent_path": None, "client_keys": [shown]}
        async with turn:
            conn = await asyncssh.connect("127.0.0.1", on.port, username="box.bench", **options)
            client = Client()
            await conn.create_session(lambda: client, PROGRAM, encoding=None)
            await asyncio.wait_for(client.up.wait(), LATEST_S)
            return client

    return list(await asyncio.gather(*(one() for _ in range(count))))


async def _closed(clients: Sequence[Client], *, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        for client in clients:
            await client.closed.wait()


def errors_of_expiry_s(on: Ground, count: int) -> list[float]:
    """How late each of many sessions of one grant met its end; negative: early."""

    async def run() -> tuple[list[Client], datetime]:
        grant = _grant(on, timedelta(seconds=LATEST_S + OPENING_S * count))
        clients = await _open(on, grant, count)
        closes = grant.interval.closes
        if closes <= CLOCK.now():
            raise RuntimeError("the machine is too slow to open the sessions before they end")
        await _closed(clients, within_s=(closes - CLOCK.now()).total_seconds() + LATEST_S)
        return clients, closes

    clients, closes = asyncio.run(run())
    return [(one.ended_at - closes).total_seconds() for one in clients]


def closing_s(on: Ground, count: int, act: Callable[[Ground], object]) -> list[float]:
    """Seconds from the beginning of one act until each of `count` sessions is closed at its client."""

    async def run() -> tuple[list[Client], int]:
        clients = await _open(on, _grant(on, timedelta(hours=1)), count)
        began_us = CLOCK.monotonic_us()
        await asyncio.to_thread(act, on)
        await _closed(clients, within_s=LATEST_S)
        return clients, began_us

    clients, began_us = asyncio.run(run())
    return [(one.ended_us - began_us) / 1e6 for one in clients]


def kill_one(on: Ground) -> None:
    """Kill one session; its grant is suspended, and so all others of the grant end too."""
    live = ask(on.home.control_socket, {"act": "sessions"})["sessions"]
    ask(on.home.control_socket, {"act": "kill", "session": live[0]["id"], "reason": "measuring"})


def measure_ends(on: Ground, most: int, tell: Callable[[str], None]) -> list[Row]:
    """The rows of the table, with the bars of the product. most: live sessions in the largest round."""
    tell("ends by the clock")
    errors = [1000 * late for late in errors_of_expiry_s(on, most)]
    bar = Bar(1000, of=Of.VALUE)
    rows = [
        Row(f"end by the clock, the latest of {most} sessions", "ms", {GATE: [max(0.0, *errors)]}, bar),
        Row(f"end by the clock, the earliest of {most}: how early", "ms", {GATE: [max(0.0, -min(errors))]}, bar),
    ]
    for count, rounds in ((1, 10), (max(2, most // 4), 2), (most, 1)):
        tell(f"kill, {count} live")
        taken = [1000 * late for _ in range(rounds) for late in closing_s(on, count, kill_one)]
        middle = sorted(taken)[len(taken) // 2]
        rows.append(Row(f"kill to closed, all of {count} live, p50", "ms", {GATE: [middle]}))
        rows.append(Row(f"kill to closed, all of {count} live, p99", "ms", {GATE: [p99(taken)]}, bar))
    return rows
