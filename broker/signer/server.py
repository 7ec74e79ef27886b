"""The signer's process: a Unix socket, one JSON line a question, one a answer; no other network.

Source: security.md CRT-5, CRT-9.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import pwd
import socket
import struct
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Final

import asyncssh

from broker.clock import Clock
from broker.domain.audit import ProcessStarted
from broker.domain.errors import BrokerError
from broker.domain.ids import GrantId, PersonId, SessionId, quoted
from broker.settings import Home, Settings
from broker.signer import signing
from broker.signer.keys import CA_NAMES, ca_line, host_key_line, load_ca_key
from broker.signer.signing import Order
from broker.store import ledger
from broker.store.db import Database

log = logging.getLogger("broker.signer")
LINE_MAX_BYTES: Final = 16384
_UCRED: Final = struct.Struct("3i")


class Signer:
    """The CA keys and the questions they answer."""

    def __init__(self, home: Home, settings: Settings, db: Database, clock: Clock) -> None:
        self._settings = settings
        self._db = db
        self._clock = clock
        self._keys: dict[str, asyncssh.SSHKey] = {name: load_ca_key(home, name) for name in CA_NAMES}
        self._lines = {name: ca_line(home, name) for name in CA_NAMES}
        self._host_line = host_key_line(home)
        self._peers = _allowed_uids(settings.signer_peers)
        self._open: dict[asyncio.StreamWriter, asyncio.Task[Any] | None] = {}
        self._closing = False

    async def close(self) -> None:
        """Hang up on every peer, and wait until what was asked is done with; whoever comes later is hung up on at once."""
        self._closing = True
        for writer in self._open:
            writer.close()
        await asyncio.gather(*[task for task in self._open.values() if task is not None], return_exceptions=True)

    async def serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one peer until it goes away; a stranger is not answered at all."""
        uid = peer_uid(writer.get_extra_info("socket"))
        self._open[writer] = asyncio.current_task()
        try:
            if self._closing:
                return
            if uid not in self._peers:
                log.warning("uid %d may not ask the signer", uid)
                return
            while line := await reader.readline():
                answer = await self._answer(line)
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (ValueError, OSError) as error:  # a line too long, a peer that is gone
            log.info("a peer of the signer went: %s", type(error).__name__)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            del self._open[writer]

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            asked = json.loads(line)
            if not isinstance(asked, dict) or not all(isinstance(value, str) for value in asked.values()):
                return {"refused": "not a question"}
            return await self._decide(asked)
        except BrokerError as error:
            log.warning("refused: %s", error.detail)
            return {"refused": error.detail, "code": error.code.value}
        except (ValueError, KeyError, RecursionError):
            return {"refused": "not a question"}
        except Exception:
            log.exception("a question could not be answered")
            return {"refused": "temporarily unavailable", "code": "unavailable"}

    async def _decide(self, asked: dict[str, str]) -> dict[str, Any]:
        match asked["want"]:
            case "keys":
                return {"keys": self._lines}
            case "gate":
                order = await self._db.run(
                    signing.order_gate,
                    self._settings,
                    grant_id=GrantId(asked["grant"]),
                    person_id=PersonId(asked["person"]),
                    key_line=asked["key"],
                    source=asked["source"],
                )
            case "asset":
                order = await self._db.run(
                    signing.order_asset, self._settings, session_id=SessionId(asked["session"]), key_line=asked["key"]
                )
            case "host":
                order = await self._db.run(
                    signing.order_host, self._settings, key_line=asked["key"], own_line=self._host_line
                )
            case other:
                return {"refused": f"the signer does not know {quoted(other)}"}
        return await self._signed(order)

    async def _signed(self, order: Order) -> dict[str, Any]:
        certificate = signing.sign(self._keys[order.purpose], order)
        # Bounds round inwards: one collected in the second of its approval begins with the next, and is given out then.
        early_s = (order.valid_after - self._clock.now()).total_seconds()
        await asyncio.sleep(min(max(early_s, 0.0), 1.0))
        return {"certificate": certificate, "serial": str(order.serial), "valid_before": order.valid_before.isoformat()}


async def serve(
    home: Home, settings: Settings, clock: Clock, *, ready: Callable[[], None], stop: asyncio.Event
) -> None:
    """Listen on the signer's socket until told to stop. Raises BrokerError when a CA key is missing."""
    db = Database.open(home.database_url(settings), clock)
    try:
        db.check_schema()
        signer = Signer(home, settings, db, clock)
        await db.run(ledger.append, ProcessStarted(process="signer", version=version("wicketgate")))
        home.run.mkdir(mode=0o750, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            home.signer_socket.unlink()
        server = await asyncio.start_unix_server(signer.serve_one, home.signer_socket, limit=LINE_MAX_BYTES)
        home.signer_socket.chmod(0o660)
        try:
            ready()
            await stop.wait()
        finally:
            await _stop_accepting(server)
            await signer.close()
            with contextlib.suppress(FileNotFoundError):
                home.signer_socket.unlink()
    finally:
        db.close()


async def _stop_accepting(server: asyncio.Server) -> None:
    """Close a listener without losing whom it has just let in.

    Between accept() and the transport there is one turn of the loop; a server closed in it forgets the connection, and nobody
    would ever hang up on that peer.
    """
    loop = asyncio.get_running_loop()
    for listener in server.sockets:
        loop.remove_reader(listener.fileno())
    await asyncio.sleep(0)
    server.close()


def peer_uid(sock: socket.socket) -> int:
    """The uid of the process at the other end, as the kernel says it (SO_PEERCRED)."""
    _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)


def _allowed_uids(names: tuple[str, ...]) -> frozenset[int]:
    found = {0, os.getuid()}
    for name in names:
        with contextlib.suppress(KeyError):  # an account of another kind of installation
            found.add(pwd.getpwnam(name).pw_uid)
    return frozenset(found)
