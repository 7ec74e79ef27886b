"""The short way of small packets is asyncssh's own with less to do: the same bytes, refusals and key exchanges."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncssh
import pytest
from asyncssh import encryption
from asyncssh.crypto.cipher import GCMCipher
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.bastion import short_way
from broker.bastion.short_way import KeptKeyCipher, ShortWay
from broker.bastion.transport import prepare

WITHIN_S = 20


def _sized(size: int) -> bytes:
    return bytes(at * size % 251 for at in range(size))


SIZES = (
    st.integers(1, 300) | st.integers(short_way.SHORT_BYTES - 80, short_way.SHORT_BYTES + 8) | st.integers(3000, 9000)
)
PIECES = st.lists(SIZES.map(_sized), min_size=1, max_size=20)


class Echo(asyncssh.SSHServerSession[bytes]):
    """Gives back what it is sent, by the short way."""

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self.way = ShortWay(chan)
        self.chan = chan

    def exec_requested(self, command: str) -> bool:
        return True

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self.way.write(data)

    def eof_received(self) -> bool:
        self.chan.exit(0)
        return False


class PlainClient(asyncssh.SSHClient):
    """Sends no empty packet before each, like OpenSSH and unlike asyncssh."""

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        prepare(conn)


class Server(asyncssh.SSHServer):
    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self.seen.append(conn)
        prepare(conn)

    def begin_auth(self, username: str) -> bool:
        return False

    def session_requested(self) -> asyncssh.SSHServerSession[bytes]:
        return Echo()


@contextlib.asynccontextmanager
async def pair(
    *, client: type[asyncssh.SSHClient] = asyncssh.SSHClient, cipher: str = "aes128-gcm@openssh.com", **options: Any
) -> AsyncIterator[tuple[Any, Any]]:
    """An asyncssh client as it comes, or another, and the server's side of its connection with all short ways on."""
    seen: list[Any] = []
    server = await asyncssh.create_server(
        lambda: Server(seen),
        "127.0.0.1",
        0,
        server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        encoding=None,
        line_editor=False,
        encryption_algs=[cipher],
        **options,
    )
    async with server, asyncio.timeout(WITHIN_S):
        port = server.sockets[0].getsockname()[1]
        to = {"known_hosts": None, "config": None, "username": "x", "client_factory": client}
        async with asyncssh.connect("127.0.0.1", port, **to) as conn:
            yield conn, seen[0]


async def echoed(client: asyncssh.SSHClientConnection, pieces: list[bytes]) -> bytes:
    """What comes back when each piece is sent only after the one before it has come back."""
    back = b""
    async with client.create_process("echo", encoding=None) as process:
        for piece in pieces:
            process.stdin.write(piece)
            back += await process.stdout.readexactly(len(piece))
        process.stdin.write_eof()
        back += await process.stdout.read()
    return bytes(back)


@pytest.mark.parametrize("cipher", ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes256-ctr"])
@settings(max_examples=15, deadline=None)
@given(pieces=PIECES)
def test_every_byte_comes_back_in_order(cipher: str, pieces: list[bytes]) -> None:
    async def main() -> None:
        async with pair(cipher=cipher) as (client, _):
            assert await echoed(client, pieces) == b"".join(pieces)

    asyncio.run(main())


@settings(max_examples=5, deadline=None)
@given(pieces=st.lists(st.integers(1, 600).map(_sized), min_size=50, max_size=60))
def test_keys_are_exchanged_anew_when_enough_was_sent(pieces: list[bytes]) -> None:
    async def main() -> None:
        async with pair(rekey_bytes=4096) as (client, ours):
            before = ours._send_encryption
            assert await echoed(client, pieces) == b"".join(pieces)
            assert sum(map(len, pieces)) < 8192 or ours._send_encryption is not before

    asyncio.run(main())


async def test_keys_are_exchanged_anew_when_their_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short_way, "LOOK_S", 0.02)
    async with pair(rekey_seconds=0.2) as (client, ours):
        before = ours._send_encryption
        async with client.create_process("echo", encoding=None) as process:
            while ours._send_encryption is before:  # bounded by the pair's timeout
                process.stdin.write(b"x")
                assert await process.stdout.readexactly(1) == b"x"
                await asyncio.sleep(0)


async def test_the_short_way_is_taken_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {"deliver": 0, "send": 0}

    deliver, send = short_way._deliver, short_way._send

    def count_delivered(conn: Any, data: bytes) -> bool:
        done = deliver(conn, data)
        taken["deliver"] += done
        return done

    def count_sent(conn: Any, number: int, data: bytes) -> None:
        taken["send"] += 1
        send(conn, number, data)

    monkeypatch.setattr(short_way, "_deliver", count_delivered)
    monkeypatch.setattr(short_way, "_send", count_sent)
    async with pair(client=PlainClient) as (client, _):
        await echoed(client, [b"x"] * 50)
    assert taken["deliver"] >= 45
    assert taken["send"] >= 45


async def test_a_changed_bit_ends_the_connection_and_delivers_nothing() -> None:
    heard: list[bytes] = []
    async with pair(client=PlainClient) as (client, ours):
        process = await client.create_process("echo", encoding=None)
        process.stdin.write(b"good")
        assert await process.stdout.readexactly(4) == b"good"
        channel = next(iter(ours._channels.values()))
        channel._session.data_received = lambda data, datatype: heard.append(data)
        write = client._transport.write

        def flip(data: bytes) -> None:
            write(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])

        client._transport.write = flip
        process.stdin.write(b"evil")
        await ours.wait_closed()
    assert heard == []


async def test_a_full_window_is_respected() -> None:
    async with pair(window=1 << 16) as (client, ours):
        process = await client.create_process("echo", encoding=None, window=4096)
        process.stdin.write(b"begin")
        assert await process.stdout.readexactly(5) == b"begin"
        channel = next(iter(ours._channels.values()))
        process.channel.pause_reading()
        way = ShortWay(channel)
        for _ in range(20):
            way.write(b"y" * 1000)
        assert channel._send_window >= 0
        assert sum(len(data) for data, _ in channel._send_buf) >= 20_000 - 4096
        process.channel.resume_reading()
        assert await process.stdout.readexactly(20_000) == b"y" * 20_000


async def test_a_closed_channel_takes_no_more() -> None:
    async with pair() as (client, ours):
        process = await client.create_process("echo", encoding=None)
        process.stdin.write(b"x")
        await process.stdout.readexactly(1)
        way = ShortWay(next(iter(ours._channels.values())))
        way.write(b"once asyncssh's own way")
        process.channel.abort()
        await process.wait_closed()
        with pytest.raises(OSError, match="not open"):
            way.write(b"x")


@given(packets=st.lists(st.binary(max_size=200), max_size=10), start=st.sampled_from([0, 1, (1 << 64) - 2]))
def test_the_kept_key_seals_as_asyncssh_does(packets: list[bytes], start: int) -> None:
    key, iv = bytes(range(16)), b"abcd" + start.to_bytes(8, "big")
    opening = KeptKeyCipher("aes128-gcm", key, iv)
    ours, theirs = KeptKeyCipher("aes128-gcm", key, iv), GCMCipher("aes128-gcm", key, iv)
    for packet in packets:
        sealed = b"".join(ours.encrypt_and_sign(b"head", packet))
        assert sealed == b"".join(theirs.encrypt_and_sign(b"head", packet))
        assert opening.verify_and_decrypt(b"head", sealed[4:-16], sealed[-16:]) == packet
        opening.take_back()
        assert opening.verify_and_decrypt(b"head", sealed[4:-16], sealed[-16:]) == packet


def test_asyncssh_makes_its_ciphers_with_the_kept_key() -> None:
    made = encryption.GCMEncryption.new("aes128-gcm", bytes(16), bytes(12))
    assert isinstance(made, encryption.GCMEncryption)
    assert isinstance(made._cipher, KeptKeyCipher)
