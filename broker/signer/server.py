"""The signer's process: a Unix socket, one JSON line a question, one a answer; no other network.

Source: docs/rules.md CRT-5, CRT-9.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pwd
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, Final

import asyncssh

from broker.clock import Clock
from broker.domain.audit import ProcessStarted
from broker.domain.errors import BrokerError, Code
from broker.domain.ids import GrantId, PersonId, SessionId, quoted
from broker.line_server import LineServer
from broker.settings import Home, Settings
from broker.signer import signing
from broker.signer.keys import CA_NAMES, ca_line, host_key_line, load_ca_key
from broker.signer.signing import Order
from broker.store import ledger
from broker.store.db import Database

log = logging.getLogger("broker.signer")
LINE_MAX_BYTES: Final = 16384


class Signer:
    """The CA keys and the questions they answer."""

    def __init__(self, home: Home, settings: Settings, db: Database, clock: Clock) -> None:
        self._settings = settings
        self._db = db
        self._clock = clock
        self._keys: dict[str, asyncssh.SSHKey] = {name: load_ca_key(home, name) for name in CA_NAMES}
        self._lines = {name: ca_line(home, name) for name in CA_NAMES}
        self._host_line = host_key_line(home)

    async def answer(self, asked: Mapping[str, str], _uid: int) -> dict[str, Any]:
        """Decide and sign. Raises BrokerError, KeyError for a question that lacks something."""
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
                raise BrokerError(Code.INVALID, f"the signer does not know {quoted(other)}")
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
        server = LineServer(
            home.signer_socket,
            signer.answer,
            line_max_bytes=LINE_MAX_BYTES,
            log=log,
            may_ask=_allowed_uids(settings.signer_peers),
        )
        await server.start()
        try:
            ready()
            await stop.wait()
        finally:
            await server.stop()
    finally:
        db.close()


def _allowed_uids(names: tuple[str, ...]) -> frozenset[int]:
    found = {0, os.getuid()}
    for name in names:
        with contextlib.suppress(KeyError):  # an account of another kind of installation
            found.add(pwd.getpwnam(name).pw_uid)
    return frozenset(found)
