"""The signer behind its socket: who may ask, and what comes of nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.domain.errors import BrokerError, Code
from broker.domain.grant import Grant
from broker.domain.window import Interval
from broker.openssh import parse_certificate_line
from broker.signer import server
from broker.signer.client import SignerClient
from broker.signer.keys import host_key_line
from broker.store import ledger
from tests.signer.makers import HOUR, NOON, SOURCE, Deployment, fresh_key


@contextlib.asynccontextmanager
async def running(place: Deployment) -> AsyncIterator[SignerClient]:
    """The signer itself, on its socket, ended at the end."""
    ready, stop = asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(server.serve(place.home, place.settings, place.clock, ready=ready.set, stop=stop))
    client = SignerClient(place.home.signer_socket)
    try:
        async with asyncio.timeout(10):
            await asyncio.wait({serving, asyncio.create_task(ready.wait())}, return_when=asyncio.FIRST_COMPLETED)
        yield client
    finally:
        client.close()
        stop.set()
        async with asyncio.timeout(10):
            await serving


def granted(place: Deployment) -> Grant:
    with place.db.begin() as tx:
        place.open_window(Interval(NOON - HOUR, NOON + 8 * HOUR), tx)
        return place.grant(tx)


async def test_the_bastion_gets_what_the_database_says(place: Deployment) -> None:
    grant = granted(place)
    with place.db.begin() as tx:
        session_id = place.enter(tx).session_id
    async with running(place) as client:
        gate = parse_certificate_line(
            await client.gate(grant=grant.id, key=place.key_line, person=place.engineer.id, source=SOURCE)
        )
        asset = parse_certificate_line(await client.asset(session_id, fresh_key()))
        host = parse_certificate_line(await client.host(host_key_line(place.home)))
        keys = await client.keys()
    assert {name: line.split()[1] for name, line in keys.items()} == {
        name: one.signer.line.split()[1] for name, one in (("gate", gate), ("asset", asset), ("host", host))
    }
    assert len({one.signer.fingerprint for one in (gate, asset, host)}) == 3, "three CAs, never mixed"
    assert len({one.serial for one in (gate, asset, host)}) == 3


async def test_a_refusal_says_why_and_is_logged(place: Deployment, caplog: pytest.LogCaptureFixture) -> None:
    grant = granted(place)
    place.clock.wall = NOON + 3 * HOUR
    async with running(place) as client:
        with caplog.at_level(logging.WARNING), pytest.raises(BrokerError) as told:
            await client.gate(grant=grant.id, key=place.key_line, person=place.engineer.id, source=SOURCE)
    assert (told.value.code, told.value.detail) == (Code.FORBIDDEN, "the grant is over")
    assert "the grant is over" in caplog.text


async def test_the_caller_chooses_neither_principals_nor_times(place: Deployment) -> None:
    grant = granted(place)
    question = {
        "want": "gate",
        "grant": grant.id,
        "key": place.key_line,
        "person": place.engineer.id,
        "source": SOURCE,
        "principals": "root",
        "valid_before": "2099-01-01T00:00:00Z",
    }
    async with running(place):
        [answer] = await ask_raw(place, json.dumps(question).encode() + b"\n")
    found = parse_certificate_line(answer["certificate"])
    assert "root" not in found.principals
    assert found.valid_before == NOON + timedelta(hours=1)


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b"\xff\xfe\n",
        b'{"want": 7}\n',
        b'{"want": ["gate"]}\n',
        b'{"want": "gate"}\n',
        b'{"want": "everything"}\n',
        b"[" * 5000 + b"\n",
    ],
)
async def test_nonsense_is_answered_in_one_line_and_the_next_question_is_heard(place: Deployment, line: bytes) -> None:
    async with running(place):
        first, second = await ask_raw(place, line, b'{"want": "keys"}\n')
    assert set(first) <= {"error", "code"}
    assert set(second["keys"]) == {"gate", "asset", "host"}
    with place.db.read() as tx:
        assert not ledger.show(tx, kind="certificate")


async def test_a_line_without_end_is_cut_off_and_others_are_served(place: Deployment) -> None:
    async with running(place) as client:
        reader, writer = await asyncio.open_unix_connection(place.home.signer_socket)
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                writer.write(b"x" * 4096)
                await writer.drain()
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()
        assert set(await client.keys()) == {"gate", "asset", "host"}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
async def test_a_foreign_account_is_not_answered_even_when_it_may_reach_the_socket(place: Deployment) -> None:
    asking = (
        "import os, socket, sys\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "sock = socket.socket(socket.AF_UNIX); sock.settimeout(10); sock.connect(sys.argv[1])\n"
        "try:\n"
        '    sock.sendall(b\'{"want": "keys"}\\n\'); print(len(sock.makefile("rb").read()))\n'
        "except (BrokenPipeError, ConnectionResetError): print(0)\n"
    )
    async with running(place) as client:
        for path in (place.home.path, place.home.run):
            path.chmod(0o755)
        place.home.signer_socket.chmod(
            0o666
        )  # so that the kernel's word on the peer, and no file mode, is what refuses
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", asking, str(place.home.signer_socket), stdout=subprocess.PIPE
        )
        async with asyncio.timeout(20):
            said, _ = await child.communicate()
        assert (child.returncode, said) == (0, b"0\n")
        assert await client.keys()


async def test_the_client_says_that_the_signer_is_away_and_finds_it_again(place: Deployment) -> None:
    client = SignerClient(place.home.signer_socket)
    with pytest.raises(BrokerError) as told:
        await client.keys()
    assert told.value.code is Code.UNAVAILABLE
    async with running(place):
        assert await client.keys()
    with pytest.raises(BrokerError):
        await client.keys()
    async with running(place):
        assert await client.keys()
        client.close()


async def test_stopping_hangs_up_without_a_complaint_and_takes_the_socket_away(
    place: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(place) as client:
        assert await client.keys()
        served, busy = await asyncio.open_unix_connection(place.home.signer_socket)
        busy.write(b'{"want": "keys"}\n')
        assert await served.readline()
        fresh = [await asyncio.open_unix_connection(place.home.signer_socket) for _ in range(3)]  # in that very instant
    for reader, writer in [(served, busy), *fresh]:
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionResetError):  # the kernel's word to one it had not handed over yet
                assert await reader.read() == b""
        writer.close()
        with contextlib.suppress(ConnectionResetError):
            await writer.wait_closed()
    assert not place.home.signer_socket.exists()
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]


async def test_a_missing_ca_key_starts_nothing(place: Deployment) -> None:
    place.home.ca_key("asset").unlink()
    with pytest.raises(BrokerError, match=r"the asset CA key .* is missing; restore it"):
        await server.serve(place.home, place.settings, place.clock, ready=never, stop=asyncio.Event())
    assert not place.home.signer_socket.exists()


def never() -> None:
    raise AssertionError("it is not ready")


def test_the_private_keys_are_readable_by_their_owner_alone(place: Deployment) -> None:
    private: list[Path] = [place.home.ca_key(name) for name in ("gate", "asset", "host")]
    assert [path.stat().st_mode & 0o777 for path in private] == [0o600] * 3


async def ask_raw(place: Deployment, *lines: bytes) -> list[dict[str, Any]]:
    reader, writer = await asyncio.open_unix_connection(place.home.signer_socket)
    answers = []
    for line in lines:
        writer.write(line)
        async with asyncio.timeout(10):
            answers.append(json.loads(await reader.readline()))
    writer.close()
    return answers
