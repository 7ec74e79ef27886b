"""Limits that hold on both legs, tried on one connection within this process: key exchanges, what waits, slices, silence."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import asyncssh
import pytest
from asyncssh.constants import MSG_CHANNEL_DATA, MSG_IGNORE

from broker.bastion import key_exchange, transport
from broker.bastion.key_exchange import BEGUN_BURST, Bucket
from broker.bastion.login import Login
from broker.domain.errors import BrokerError, Code
from broker.domain.penalty import Offence
from tests.bastion.test_short_way import pair

WITHIN_S = 5


async def begin_exchange(conn: Any) -> None:
    """A client's own key exchange, to its end."""
    conn._send_kexinit()
    conn._kexinit_sent = True
    async with asyncio.timeout(WITHIN_S):
        while not conn._kex_complete and conn._transport is not None:  # noqa: ASYNC110 - asyncssh tells nobody
            await asyncio.sleep(0.005)


async def test_a_client_may_begin_a_few_key_exchanges_and_not_many() -> None:
    async with pair() as (client, served):
        for _ in range(BEGUN_BURST):
            await begin_exchange(client)
        assert served._transport is not None
        await begin_exchange(client)
        await asyncio.wait_for(client.wait_closed(), WITHIN_S)
        assert served._transport is None


def test_one_more_each_ten_seconds() -> None:
    due: list[Callable[[], None]] = []

    def later(delay_s: float, then: Callable[[], None]) -> None:
        assert delay_s == 10.0
        due.append(then)

    bucket = Bucket(3, 10.0, later)
    assert [bucket.take() for _ in range(5)] == [True, True, True, False, False]
    for _ in range(2):
        due.pop()()
        assert [bucket.take(), bucket.take()] == [True, False]
    for left in (1, 1, 0):
        due.pop()()
        assert len(due) == left, "it rests when it is full"
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


async def test_a_key_exchange_that_never_ends_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_exchange, "LONGEST_S", 0.3)
    async with pair() as (client, served):
        client._packet_handlers = {}  # hears of no packet any more
        served._send_kexinit()
        served._kexinit_sent = True
        await asyncio.wait_for(served.wait_closed(), WITHIN_S)


async def test_what_waits_behind_a_key_exchange_is_bounded() -> None:
    async with pair() as (client, served):
        client._packet_handlers = {}
        served._send_kexinit()
        served._kexinit_sent = True
        sent = 0
        while served._transport is not None and sent < 64 * 2**20:
            served.send_packet(MSG_CHANNEL_DATA, bytes(32768))
            sent += 32768
        assert key_exchange.DEFERRED_MAX_BYTES - 2**17 < sent <= key_exchange.DEFERRED_MAX_BYTES + 32768


async def test_small_answers_count_for_what_they_cost() -> None:
    async with pair() as (client, served):
        client._packet_handlers = {}
        served._send_kexinit()
        served._kexinit_sent = True
        for _ in range(20_000):
            served.send_packet(MSG_CHANNEL_DATA, b"x")
        assert served._transport is None


@pytest.mark.parametrize("size", [1, 16 * 1024, 16 * 1024 + 1, 200_000])
async def test_before_login_little_is_worked_on_in_a_turn_and_nothing_is_lost(size: int) -> None:
    """Of a connection that is not logged in, as far as its own word goes."""
    async with pair() as (_, served):
        got: list[bytes] = []
        served.data_received, served._auth_complete = lambda data, datatype=None: got.append(data), False
        transport._take_slices_until_login(served)
        data = bytes(at % 251 for at in range(size))
        served.data_received(data)
        turns = 1
        while sum(map(len, got)) < size:
            assert not served._transport.is_reading(), "hears no more meanwhile"
            before = len(got)
            await asyncio.sleep(0)
            assert len(got) - before <= 1
            turns += 1
            assert turns < 1000
        assert b"".join(got) == data
        assert max(map(len, got)) <= transport.SLICE_BYTES
        assert served._transport.is_reading()
        served._auth_complete = True
        served.data_received(data)
        served.data_received(data)
        assert got[-2:] == [data, data], "whole once somebody is in"
        served.abort()


async def test_a_peer_that_acknowledges_nothing_is_given_up_after_a_minute() -> None:
    async with pair() as (_, served):
        sock = served.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000


@pytest.mark.parametrize("options", [transport.SERVER_OPTIONS, transport.CLIENT_OPTIONS])
def test_on_both_legs_silence_ends_in_45_s_nothing_is_compressed_and_keys_are_renewed(options: dict[str, Any]) -> None:
    assert (options["keepalive_interval"], options["keepalive_count_max"]) == (15, 3)
    assert options["compression_algs"] is None
    assert (options["rekey_bytes"], options["rekey_seconds"]) == (2**30, 3600)


async def test_a_client_that_does_not_answer_is_gone_after_three_questions() -> None:
    async with pair(keepalive_interval=0.1, keepalive_count_max=3) as (client, served):
        client._packet_handlers = {}
        await asyncio.wait_for(served.wait_closed(), WITHIN_S)


class Away:
    """A house that cannot judge."""

    tries_per_connection = 3

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    async def judge_key(self, login: str, blob: bytes, source: str) -> None:
        if self._error is not None:
            raise self._error


LOST = asyncssh.ConnectionLost("gone")
AWAY = BrokerError(Code.UNAVAILABLE, "database: away")


@pytest.mark.parametrize(
    ("login", "key", "house", "lost", "offence"),
    [
        (None, False, None, LOST, Offence.NO_TRY),
        ("somebody", False, None, LOST, Offence.FAILED),
        ("somebody", True, None, None, Offence.FAILED),
        ("somebody", True, BrokerError(Code.INVALID, "a key nobody may enrol"), None, Offence.FAILED),
        ("somebody", True, AWAY, LOST, Offence.NO_TRY),
        ("somebody", True, RuntimeError("a bug"), LOST, Offence.NO_TRY),
        (None, False, None, MSG_IGNORE, Offence.CRASHED),
    ],
)
async def test_what_a_connection_without_a_login_costs(
    login: str | None, key: bool, house: Exception | None, lost: Any, offence: Offence
) -> None:
    """Our own trouble is nobody's offence."""
    one = Login(Away(house))  # type: ignore[arg-type]
    if login is not None:
        one.begin_auth(login)
    if key:
        await one.key_proven(login or "", b"\0\0\0\x0bssh-ed25519")
    assert one.offence_of(ValueError("crash") if lost is MSG_IGNORE else lost) is offence
