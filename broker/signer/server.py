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
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final

from broker.clock import Clock
from broker.domain.audit import ProcessStarted
from broker.domain.errors import BrokerError, Code
from broker.domain.ids import GrantId, PersonId, SessionId, quoted
from broker.isolation import load
from broker.line_server import LineServer
from broker.settings import Home, Settings
from broker.signer import signing
from broker.signer.keys import SigningKeys, host_key_line, public_of
from broker.signer.signing import Order
from broker.signer.trusted import CA_NAMES, CaFiles, full_line
from broker.store import authorities, ledger
from broker.store.db import Database, Tx

log = logging.getLogger("broker.signer")
LINE_MAX_BYTES: Final = 16384
RETIRE_S: Final = 0.5


class Signer:
    """The CA keys and the questions they answer."""

    def __init__(self, home: Home, settings: Settings, db: Database, clock: Clock) -> None:
        self._home = home
        self._settings = settings
        self._db = db
        self._clock = clock
        self._keys = SigningKeys(home, settings)
        self._files = {name: CaFiles(home, name) for name in CA_NAMES}
        self._host_line = host_key_line(home)
        for name in CA_NAMES:
            self._keys.of(name)
            self._files[name].every()

    async def answer(self, asked: Mapping[str, str], _uid: int) -> dict[str, Any]:
        """Decide and sign. Raises BrokerError, KeyError for a question that lacks something."""
        want = asked["want"]
        match want:
            case "keys":
                return {"keys": await self._accepted()}
            case "gate":
                return await self._sign(
                    want,
                    signing.order_gate,
                    grant_id=GrantId(asked["grant"]),
                    person_id=PersonId(asked["person"]),
                    key_line=asked["key"],
                    source=asked["source"],
                    ladder=load(self._home, self._settings),
                )
            case "asset":
                return await self._sign(
                    want,
                    signing.order_asset,
                    session_id=SessionId(asked["session"]),
                    key_line=asked["key"],
                    ladder=load(self._home, self._settings),
                )
            case "host":
                return await self._sign(want, signing.order_host, key_line=asked["key"], own_line=self._host_line)
            case other:
                raise BrokerError(Code.INVALID, f"the signer does not know {quoted(other)}")

    async def _sign(self, name: str, make: Callable[..., Order], /, **asked: Any) -> dict[str, Any]:
        ca = self._keys.of(name)
        order = await self._db.run(signing.under, public_of(ca).fingerprint, make, self._settings, **asked)
        certificate = await asyncio.to_thread(signing.sign, ca, order)  # an agent may take its time
        # Bounds round inwards: one collected in the second of its approval begins with the next, and is given out then.
        early_s = (order.valid_after - self._clock.now()).total_seconds()
        await asyncio.sleep(min(max(early_s, 0.0), 1.0))
        return {"certificate": certificate, "serial": str(order.serial), "valid_before": order.valid_before.isoformat()}

    async def _accepted(self) -> dict[str, str]:
        """The public keys by CA, one a line, the one that signs first."""

        def read(tx: Tx) -> dict[str, str]:
            found = {}
            for name, files in self._files.items():
                signing_now = public_of(self._keys.of(name)).blob
                every = files.every()
                gone = authorities.retired(tx, name) if len(every) > 1 else frozenset()
                kept = [one for one in every if one.blob == signing_now or one.fingerprint not in gone]
                found[name] = "\n".join(full_line(one) for one in sorted(kept, key=lambda one: one.blob != signing_now))
            return found

        return await self._db.look(read)

    async def retire(self) -> None:
        """For ever: retire keys that sign no longer, once the last certificate of theirs is dead."""
        not_before: dict[str, datetime] = {}
        while True:
            try:
                for name, files in self._files.items():
                    signs = public_of(self._keys.of(name)).fingerprint
                    for one in files.older():
                        due = not_before.get(one.fingerprint)
                        if one.fingerprint != signs and (due is None or due <= self._clock.now()):
                            not_before[one.fingerprint] = await self._retire_dead(name, one.fingerprint)
            except BrokerError as error:
                log.info("no key is retired now: %s", error.detail)
            except Exception:
                log.exception("a turn of retiring keys failed")
            await asyncio.sleep(RETIRE_S)

    async def _retire_dead(self, name: str, ca: str) -> datetime:
        """Retire a key when its last certificate is dead; gives when to look again."""
        last = await self._db.look(authorities.last_alive, name, ca)
        if last is not None and self._clock.now() < last:
            return last
        if await self._db.run(authorities.retire, name, ca):
            log.info("the %s CA key %s is accepted no longer", name, ca)
        return datetime.max.replace(tzinfo=UTC)


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
        retiring = asyncio.create_task(signer.retire())
        try:
            ready()
            await stop.wait()
        finally:
            retiring.cancel()
            await asyncio.gather(retiring, return_exceptions=True)
            await server.stop()
    finally:
        db.close()


def _allowed_uids(names: tuple[str, ...]) -> frozenset[int]:
    found = {0, os.getuid()}
    for name in names:
        with contextlib.suppress(KeyError):  # an account of another kind of installation
            found.add(pwd.getpwnam(name).pw_uid)
    return frozenset(found)
