"""Limits of the SSH door before login, on the running program: places, sources, penalties, time, requests, algorithms."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from asyncssh.constants import MSG_IGNORE, MSG_USERAUTH_FAILURE, MSG_USERAUTH_REQUEST
from asyncssh.packet import Boolean, Byte, String, UInt32

from benchmarks.peers import make_key
from broker.bastion.login import REQUESTS_MAX
from tests.e2e.site import BOX, CLOCK, COLLEAGUE, ENGINEER, Plant, Template, wait_until
from tests.e2e.test_bounds import ECHO_MAX_S, echo, until

POLICY = Path(__file__).parents[1] / "ssh-audit.policy"
LOGIN_S = 4
STRANGERS, KEPT = 8, 4
GREETING = b"SSH-2.0-wicketgate\r\n"


@pytest.fixture(scope="module")
def door(template: Template) -> Iterator[Plant]:
    """A door with few places, at which no address is exempt; who comes in is known from then on."""
    limits = {"unauthenticated_max": STRANGERS + KEPT, "unauthenticated_kept": KEPT, "unauthenticated_early": STRANGERS}
    settings = {name: str(value) for name, value in limits.items()}
    with Plant(template, login_timeout_s=str(LOGIN_S), penalty_exempt="[]", **settings) as running:
        running.let_in(BOX)
        running.let_in(BOX, engineer=COLLEAGUE)
        assert running.ssh(BOX, "true").returncode == 0
        yield running


def knock(site: Plant, source: str) -> socket.socket:
    """A connection from an address of this machine that says nothing."""
    return socket.create_connection(("127.0.0.1", site.port), timeout=5, source_address=(source, 0))


def is_let_in(sock: socket.socket) -> bool:
    """Whether the door says who it is; one that is full or does not like the address says no byte."""
    with contextlib.suppress(ConnectionResetError):
        return sock.recv(64) == GREETING
    return False


def test_known_addresses_come_in_while_strangers_hold_all_their_places(door: Plant) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(knock(door, f"127.0.1.{at // 4 + 1}")) for at in range(STRANGERS)]
        assert [is_let_in(one) for one in silent] == [True] * STRANGERS
        assert not is_let_in(stack.enter_context(knock(door, "127.0.1.99")))
        assert door.ssh(BOX, "echo in").stdout == b"in\n"
        assert [is_let_in(stack.enter_context(knock(door, "127.0.0.1"))) for _ in range(KEPT + 1)] == [True] * 4 + [
            False
        ], "and these too are only four"
        begun_us = CLOCK.monotonic_us()
        silent[0].settimeout(LOGIN_S + 3)
        assert silent[0].recv(64) in (b"", b"x"), "who says nothing is gone in time"
        assert (CLOCK.monotonic_us() - begun_us) / 1e6 < LOGIN_S + 1
    wait_until(lambda: comes_in(door, "127.0.1.98"), what="free places")


def comes_in(site: Plant, source: str) -> bool:
    with knock(site, source) as sock:
        return is_let_in(sock)


def test_one_address_gets_four_places(door: Plant) -> None:
    with ExitStack() as stack:
        mine = [stack.enter_context(knock(door, "127.0.2.1")) for _ in range(5)]
        assert [is_let_in(one) for one in mine] == [True] * 4 + [False]
        assert comes_in(door, "127.0.2.2")


async def try_login(site: Plant, source: str, key: Path) -> None:
    with contextlib.suppress(asyncssh.Error, OSError):
        conn = await asyncssh.connect(
            "127.0.0.1",
            site.port,
            local_addr=(source, 0),
            username="somebody",
            client_keys=[str(key)],
            known_hosts=None,
            config=None,
            agent_path=None,
        )
        conn.abort()


def test_an_address_that_fails_again_and_again_waits_and_a_restart_forgives_nothing(
    template: Template, tmp_path: Path
) -> None:
    key = make_key(tmp_path / "unknown")

    def owed() -> int:
        with contextlib.closing(sqlite3.connect(site.path / "wicketgate.db")) as db:
            return int(db.execute("SELECT count(*) FROM source_penalty WHERE source = '127.0.3.1'").fetchone()[0])

    with Plant(template, penalty_exempt="[]") as site:
        for number in range(1, 4):  # 5 s each, enforced from 15 s on
            assert comes_in(site, "127.0.3.1"), number
            asyncio.run(try_login(site, "127.0.3.1", key))
        wait_until(lambda: not comes_in(site, "127.0.3.1"), what="the penalty")
        assert comes_in(site, "127.0.3.2"), "nobody else pays"
        wait_until(lambda: owed() == 1, what="the row")
        site.stop()
        site.start()
        assert not comes_in(site, "127.0.3.1")
        assert comes_in(site, "127.0.3.2")


async def test_a_check_that_waits_for_the_database_waits_no_longer_than_the_time_to_log_in(door: Plant) -> None:
    given = len(door.entries("login.given"))
    held = sqlite3.connect(door.path / "wicketgate.db", isolation_level=None)
    held.execute("BEGIN IMMEDIATE")
    try:
        begun_us = CLOCK.monotonic_us()
        done = await asyncio.to_thread(
            door.ssh, "gate", "whoami", code=door.code(ENGINEER), bare=True, options=["-b", "127.0.4.3"]
        )
        assert (CLOCK.monotonic_us() - begun_us) / 1e6 < LOGIN_S + 1.5
        assert done.returncode == 255
        assert done.stdout == b""
    finally:
        held.execute("ROLLBACK")
        held.close()
    assert len(door.entries("login.given")) == given


def stranger(source: str) -> dict[str, Any]:
    """How somebody connects who is to leave no trace on the addresses of others."""
    return {"known_hosts": None, "config": None, "agent_path": None, "username": "gate", "local_addr": (source, 0)}


class Insistent(asyncssh.SSHClient):
    """Asks to log in by a method that is not offered, again and again, and waits for what comes of it."""

    def connection_made(self, conn: Any) -> None:
        self.conn = conn

    async def public_key_auth_requested(self) -> None:
        # At once: the library would leave after the first answer.
        words = [String("gate"), String("ssh-connection"), String("password"), Boolean(False), String("guess")]
        self.conn._packet_handlers = self.conn._packet_handlers | {MSG_USERAUTH_FAILURE: lambda *_: True}
        for _ in range(2 * REQUESTS_MAX):
            self.conn.send_packet(MSG_USERAUTH_REQUEST, *words)
        await asyncio.Event().wait()


async def test_a_connection_that_asks_and_asks_to_log_in_is_ended(door: Plant) -> None:
    async with asyncio.timeout(LOGIN_S - 1):
        with pytest.raises(asyncssh.DisconnectError, match="too many requests"):
            await asyncssh.connect("127.0.0.1", door.port, client_factory=Insistent, **stranger("127.0.4.1"))


async def test_nothing_is_compressed(door: Plant) -> None:
    with pytest.raises(asyncssh.KeyExchangeFailed, match="compression"):
        await asyncssh.connect(
            "127.0.0.1", door.port, compression_algs=["zlib@openssh.com", "zlib"], **stranger("127.0.4.2")
        )


@contextlib.asynccontextmanager
async def useless(site: Plant) -> AsyncIterator[None]:
    """A stranger who sends useless packets as fast as they are taken."""
    packet = UInt32(12) + Byte(6) + Byte(MSG_IGNORE) + UInt32(0) + bytes(6)
    _, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(b"SSH-2.0-stranger\r\n")

    async def flood() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(packet * 16384)
                await writer.drain()

    flooding = asyncio.create_task(flood())
    try:
        yield
    finally:
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_useless_packets_of_strangers_do_not_hold_up_a_session(door: Plant) -> None:
    async with echo(door) as took, contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(useless(door))
        seen = len(took)
        await until(lambda: len(took) > seen + 60, what="sixty keystrokes")
        assert max(took) < ECHO_MAX_S


def test_ssh_audit_finds_what_the_policy_says_and_nothing_that_fails(plant: Plant) -> None:
    """The door's algorithms, its certificate, no compression, a version string that names no version."""
    program = Path(sys.executable).with_name("ssh-audit")
    command = [str(program), "-n", "--skip-rate-test", "-p", str(plant.port)]
    held = subprocess.run(
        [*command, "-P", str(POLICY), "127.0.0.1"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (held.returncode, "Passed" in held.stdout) == (0, True), held.stdout
    seen = subprocess.run([*command, "127.0.0.1"], capture_output=True, text=True, timeout=60, check=False)
    assert "[fail]" not in seen.stdout
    assert "(gen) compression: disabled" in seen.stdout
