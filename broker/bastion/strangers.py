"""Who is let as far as a login: a place among those who have not logged in, unless the address has something to pay.

Penalties are kept in the database once they are enforced, so that a restart forgives nothing. Source: docs/rules.md PRE-4.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from broker.bastion.arrivals import Arrivals, Places
from broker.clock import Clock
from broker.domain.errors import BrokerError
from broker.domain.penalty import Offence, Penalty, net_of, penalised
from broker.store import sources
from broker.store.db import Database

log = logging.getLogger("broker.bastion.strangers")
KNOWN_FOR: Final = timedelta(days=30)
SOURCES_MAX: Final = 65536
"""As many as sshd remembers; beyond it the one that offended longest ago is forgotten."""
KEEP_S: Final = 1.0


class Strangers:
    """Places, penalties and the addresses that are known. exempt: networks whose addresses never pay."""

    def __init__(self, db: Database, clock: Clock, places: Places, exempt: Sequence[str]) -> None:
        self._db = db
        self._clock = clock
        self._arrivals = Arrivals(places)
        self._exempt = [ipaddress.ip_network(one) for one in exempt]
        self._penalties: dict[str, Penalty] = {}
        self._known: dict[str, datetime] = {}
        self._unkept: set[str] = set()

    async def load(self) -> None:
        """Remember what the last start knew. Raises BrokerError(UNAVAILABLE)."""
        since = self._clock.now() - KNOWN_FOR
        for source, when in (await self._db.look(sources.logged_in_since, since)).items():
            self._known[net_of(source)] = when
        for penalty in await self._db.look(sources.penalties):
            self._penalties[penalty.source] = penalty

    def take(self, connection: object, source: str) -> bool:
        """Give a connection a place; False when there is none, or when its address has to wait."""
        now, net = self._clock.now(), net_of(source)
        penalty = self._penalties.get(net)
        if penalty is not None and penalty.bars(now) and not self._is_exempt(source):
            return False
        seen = self._known.get(net)
        return self._arrivals.take(connection, source, known=seen is not None and now - seen < KNOWN_FOR)

    def all(self) -> list[object]:
        """Who has a place: has not logged in."""
        return self._arrivals.all()

    def logged_in(self, connection: object, source: str) -> None:
        """The connection is somebody's now: its place is free, and its address is known."""
        self._arrivals.release(connection)
        self._known[net_of(source)] = self._clock.now()

    def went(self, connection: object, source: str, offence: Offence) -> None:
        """The connection is gone; one that never logged in costs its address something."""
        if not self._arrivals.release(connection) or self._is_exempt(source):
            return
        now, net = self._clock.now(), net_of(source)
        before = self._penalties.pop(net, None)
        after = penalised(before, net, offence, now)
        if len(self._penalties) >= SOURCES_MAX:
            del self._penalties[next(iter(self._penalties))]
        self._penalties[net] = after
        if after.enforced:
            self._unkept.add(net)
            if before is None or not before.bars(now):
                log.warning("%s is not let in for %d s", net, (after.until - now).total_seconds())

    def _is_exempt(self, source: str) -> bool:
        try:
            address = ipaddress.ip_address(source)
        except ValueError:
            return True  # a local socket has no address to bar
        return any(address in one for one in self._exempt)

    async def keep(self) -> None:
        """For ever: write what is owed, once a second for all together, so that a flood costs no transaction a connection."""
        while True:
            await asyncio.sleep(KEEP_S)
            try:
                await self.keep_now()
            except BrokerError as error:
                log.info("penalties wait to be written: %s", error.detail)
            except Exception:
                log.exception("penalties could not be written")

    async def keep_now(self) -> None:
        """Write what has not been written. Raises BrokerError(UNAVAILABLE): the next time tries again."""
        now = self._clock.now()
        for over in [net for net, one in self._penalties.items() if one.until <= now]:
            del self._penalties[over]
        wanted = {net: self._penalties[net] for net in self._unkept & self._penalties.keys()}
        if wanted:
            await self._db.run(sources.keep_penalties, list(wanted.values()))
        self._unkept = {net for net, one in self._penalties.items() if net in self._unkept and wanted.get(net) != one}
