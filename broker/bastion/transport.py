"""What every SSH connection of the bastion has in common: algorithms, limits, and a valve before its TCP buffer.

Source: docs/rules.md, asyncssh and PRE-1, PRE-2, PRE-8. The private names of asyncssh in use stand here and in `login`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any, Final

from asyncssh.connection import SSHConnection
from asyncssh.constants import MSG_IGNORE
from asyncssh.logging import SSHLogger
from asyncssh.packet import SSHPacketLogger

from broker.bastion.key_exchange import LONGEST_S, Deferred, bound_key_exchanges
from broker.bastion.short_way import receive_short

KEX: Final = ["mlkem768x25519-sha256", "curve25519-sha256", "curve25519-sha256@libssh.org"]
CIPHERS: Final = ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes256-ctr"]
MACS: Final = ["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com"]
SIGNATURES: Final = [
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "rsa-sha2-512",
    "rsa-sha2-256",
]
WINDOW_BYTES: Final = 2 * 1024 * 1024
PACKET_MIN_BYTES: Final = 1024
"""What a peer must take in one packet; OpenSSH takes 32 KiB. With 1 byte a piece of 32 KiB is 32 768 packets in one turn."""
REKEY_BYTES: Final = 1 << 30
REKEY_S: Final = 3600
SLICE_BYTES: Final = 16 * 1024
"""So much of a peer that has not logged in is worked on in one turn of the loop; useless packets in bulk hold up nobody then."""
UNACKNOWLEDGED_MS: Final = 60_000
KEEPALIVE_SLACK_S: Final = 1.0
PROMPT_RECEIPTS: Final = 32
"""Enough for key exchange, login and the first channel."""
KEEPALIVE_S: Final = 15
ANSWERS_MAX_BYTES: Final = 1024 * 1024
LOOK_S: Final = 0.1

SERVER_OPTIONS: Final[dict[str, Any]] = {
    "encoding": None,
    "line_editor": False,
    "agent_forwarding": False,
    "x11_forwarding": False,
    "gss_host": None,
    "compression_algs": None,  # one small packet unpacks to hundreds of MiB
    "server_version": "wicketgate",
    "keepalive_interval": KEEPALIVE_S,
    "keepalive_count_max": 3,
    "kex_algs": KEX,
    "encryption_algs": CIPHERS,
    "mac_algs": MACS,
    "signature_algs": SIGNATURES,
    "window": WINDOW_BYTES,
    "rekey_bytes": REKEY_BYTES,
    "rekey_seconds": REKEY_S,
}
# Else asyncssh reads ~/.ssh, the agent and the configuration of whoever runs it. Source: docs/rules.md AST-2.
CLIENT_OPTIONS: Final[dict[str, Any]] = {
    "config": None,
    "agent_path": None,
    "gss_host": None,
    "compression_algs": None,
    "client_version": "wicketgate",
    "keepalive_interval": KEEPALIVE_S,
    "keepalive_count_max": 3,
    "kex_algs": KEX,
    "encryption_algs": CIPHERS,
    "mac_algs": MACS,
    "signature_algs": SIGNATURES,
    "rekey_bytes": REKEY_BYTES,
    "rekey_seconds": REKEY_S,
}


class Valve:
    """Open while a connection may be written to: its TCP buffer is low and no key exchange is under way.

    So that a full TCP buffer reaches the channels, and nothing piles up while keys are exchanged (docs/rules.md, asyncssh).
    """

    def __init__(self, conn: SSHConnection) -> None:
        self._conn = conn
        self._low = asyncio.Event()
        self._low.set()
        self._look: asyncio.TimerHandle | None = None
        conn.pause_writing = self._close  # type: ignore[method-assign]
        conn.resume_writing = self._open  # type: ignore[method-assign]

    def is_open(self) -> bool:
        """True when a write goes straight to the socket."""
        return self._low.is_set() and bool(self._conn._kex_complete)

    async def wait(self) -> None:
        """Return once the connection may be written to. Raises ConnectionAbortedError when a key exchange never ends."""
        await self._low.wait()
        waited_s = 0.0
        while not self._conn._kex_complete:
            if waited_s >= LONGEST_S:
                self._conn.abort()
                raise ConnectionAbortedError("a key exchange never ended")
            await asyncio.sleep(0.02)  # asyncssh tells nobody when a key exchange is over
            waited_s += 0.02

    def open_for_good(self) -> None:
        """Let go of whoever waits: the connection is lost and a write will say so itself."""
        self._open()

    def _close(self) -> None:
        self._low.clear()
        self._look_again()

    def _open(self) -> None:
        self._low.set()
        if self._look is not None:
            self._look.cancel()
            self._look = None
            if self._conn._transport is not None:
                self._conn._transport.resume_reading()

    def _look_again(self) -> None:
        """Hear no more of a peer that asks and asks and never reads the answers: those go past every window."""
        transport: Any = self._conn._transport
        if transport is not None and transport.get_write_buffer_size() > ANSWERS_MAX_BYTES:
            transport.pause_reading()
        self._look = asyncio.get_running_loop().call_later(LOOK_S, self._look_again)


def _say_nothing(*_args: object, **_kwargs: object) -> None:
    """asyncssh words a line for each packet and only then asks whether it is wanted; such lines hold codes and keystrokes."""


for _teller, _names in (
    (SSHLogger, ("debug1", "debug2", "packet")),
    (SSHPacketLogger, ("log_sent_packet", "log_received_packet")),
):
    for _name in _names:
        setattr(_teller, _name, _say_nothing)


def prepare(conn: SSHConnection) -> None:
    """Put the limits on a fresh connection of either leg, and take out what costs time at each packet and gives nothing."""
    bound_key_exchanges(conn)
    _give_up_unacknowledged(conn)
    receive_short(conn)
    _take_slices_until_login(conn)
    _acknowledge_at_once(conn)
    _send_only_what_counts(conn)
    _move_keepalive_seldom(conn)


def _give_up_unacknowledged(conn: SSHConnection) -> None:
    """Have the kernel end a connection whose peer acknowledges nothing for a minute. Source: tcp(7), TCP_USER_TIMEOUT."""
    sock = conn.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):  # not a TCP socket
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)


def _take_slices_until_login(conn: SSHConnection) -> None:
    """Give asyncssh little at a time, and hear nothing more meanwhile, until the peer has logged in. Source: PRE-6."""
    receive: Any = conn.data_received
    waiting = bytearray()
    loop = asyncio.get_running_loop()

    def turn() -> None:
        if conn._transport is None:
            waiting.clear()
            return
        piece = bytes(waiting[:SLICE_BYTES])
        del waiting[:SLICE_BYTES]
        receive(piece)
        if waiting:
            loop.call_soon(turn)
        elif conn._transport is not None:
            conn._transport.resume_reading()

    def receive_slices(data: bytes, datatype: int | None = None) -> None:
        if conn._auth_complete and not waiting:
            if conn.data_received is receive_slices:
                conn.data_received = receive  # type: ignore[method-assign]
            receive(data, datatype)
        elif len(data) <= SLICE_BYTES and not waiting:
            receive(data, datatype)
        else:
            if not waiting and conn._transport is not None:
                conn._transport.pause_reading()
                loop.call_soon(turn)
            waiting.extend(data)

    conn.data_received = receive_slices  # type: ignore[method-assign]


def _acknowledge_at_once(conn: SSHConnection) -> None:
    """Have the kernel acknowledge at once what is received until the first channel is open. Source: tcp(7), TCP_QUICKACK.

    OpenSSH turns Nagle's algorithm off only with the first channel: until then its next small packet waits for the
    acknowledgement of the one before, and a kernel that delays it costs 40 ms several times a login.
    """
    sock = conn.get_extra_info("socket")
    receive = conn.data_received
    left = PROMPT_RECEIPTS

    def receive_promptly(data: bytes, datatype: int | None = None) -> None:
        nonlocal left
        with contextlib.suppress(OSError):  # a connection already lost says so where it is read
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # not lasting: the kernel takes it back
        left -= 1
        if not left:
            conn.data_received = receive  # type: ignore[method-assign]
        receive(data, datatype)

    if sock is not None:
        conn.data_received = receive_promptly  # type: ignore[method-assign]


def _send_only_what_counts(conn: SSHConnection) -> None:
    """Send one packet where asyncssh sends two: an empty IGNORE goes before each, for ciphers in CBC mode alone.

    CIPHERS holds none of those; a leg that is ever allowed one must not come here. Source: RFC 4251, section 9.3.1.
    Nothing is sent to a transport that is closing: asyncio would word a line of the log for each packet.
    """
    send, deferred = conn.send_packet, Deferred()

    def send_packet(pkttype: int, *args: bytes, handler: Any = None) -> None:
        transport = conn._transport
        if pkttype == MSG_IGNORE or (transport is not None and transport.is_closing()):
            return
        if deferred.has_room(conn, pkttype, args):
            send(pkttype, *args, handler=handler)
        else:
            conn.abort()

    conn.send_packet = send_packet  # type: ignore[method-assign]


def _move_keepalive_seldom(conn: SSHConnection) -> None:
    """Move the keepalive's timer once a second, where asyncssh cancels and makes one for all that arrives."""
    move = conn._reset_keepalive_timer
    loop = asyncio.get_running_loop()
    moved = False

    def forget() -> None:
        nonlocal moved
        moved = False

    def move_seldom() -> None:
        nonlocal moved
        if not moved or conn._keepalive_timer is None:
            if not moved:
                moved = True
                loop.call_later(KEEPALIVE_SLACK_S, forget)
            move()

    conn._reset_keepalive_timer = move_seldom  # type: ignore[method-assign]
