"""Following the isolation ladder: the state file reaches live sessions and the listening door, with the database down too.

The file is looked at several times a second, so that `wicketgate isolate` works when the control socket does not answer; the
socket only makes it sooner. What each level means stands in `broker/domain/isolation.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from broker import isolation
from broker.bastion.sessions import AssetSession
from broker.clock import Clock
from broker.domain.authority import IsolationRaised
from broker.domain.errors import BrokerError
from broker.domain.ids import SessionId
from broker.domain.isolation import EVERYWHERE, Ladder, Level, Rung, raised
from broker.domain.session import EndReason
from broker.hook import run_and_keep
from broker.isolation import Event, Kept
from broker.settings import Home, Settings
from broker.store import inventory
from broker.store.db import Database, Tx

log = logging.getLogger("broker.bastion.isolation")
POLL_S: Final = 0.1
TELL_AGAIN_S: Final = 1.0
SITES_AGAIN_S: Final = 5.0
BY_SWITCH: Final = "switch"
FROZEN_BY: Final = "isolation"


class Listening(Protocol):
    """The SSH door's listener, and everybody who is in it."""

    @property
    def is_open(self) -> bool: ...
    async def open(self) -> None: ...
    def shut(self) -> None: ...


class Isolating:
    """What this process holds of the ladder. live: its sessions; cut_everybody: ends every connection, logged in or not."""

    def __init__(
        self,
        home: Home,
        settings: Settings,
        clock: Clock,
        db: Database,
        live: Mapping[SessionId, AssetSession],
        cut_everybody: Callable[[], None],
    ) -> None:
        self.ladder = Ladder()
        self._home = home
        self._settings = settings
        self._clock = clock
        self._db = db
        self._live = live
        self._cut_everybody = cut_everybody
        self._door: Listening | None = None
        self._sites: tuple[str, ...] = ()
        self._untold: tuple[Event, ...] = ()
        self._latching: asyncio.Task[None] | None = None
        self.look()

    @property
    def is_deaf(self) -> bool:
        """Whether the door must not listen: every site it leads to has been isolated that far."""
        return self.ladder.lowest(self._sites) >= Level.DEAF

    def look(self) -> int:
        """Read the state and act on it at once; gives how many sessions were ended. Reads one small file, no database."""
        kept = isolation.read(self._home, self._settings)
        ladder = kept.ladder.after(self.ladder)
        moved = ladder != self.ladder
        if moved:
            log.warning("isolation: %s", _told(ladder))
        self.ladder, self._untold = ladder, kept.untold
        ended = 0
        for session in list(self._live.values()):
            try:
                if moved:
                    self._hold(session)
                ended += self._cut(session)
            except Exception:  # one session's trouble must not keep the others alive
                log.exception("session %s could not be isolated", session.id)
        if self.is_deaf and self._door is not None and self._door.is_open:
            self._door.shut()
            self._cut_everybody()
        return ended

    def judge(self, session: AssetSession) -> None:
        """Hold a session to the ladder that was decided on a moment before."""
        self._hold(session)
        self._cut(session)

    def _hold(self, session: AssetSession) -> None:
        site = session.admission.asset.site
        if self.ladder.level(site) is Level.FROZEN:
            session.freeze(f"isolated by the site (level 2): {self.ladder.reason(site)}", cause=FROZEN_BY)
        elif self.ladder.level(site) < Level.FROZEN:
            session.unfreeze(cause=FROZEN_BY)

    def _cut(self, session: AssetSession) -> bool:
        """End a session whose site is cut off; True when it was live until now."""
        site = session.admission.asset.site
        level = self.ladder.level(site)
        if level < Level.CUT or session.live.ended is not None:
            return False
        session.end(EndReason.ISOLATED, f"isolated by the site (level {level:d}): {self.ladder.reason(site)}")
        return True

    async def answer(self, _asked: Mapping[str, str], _by: str) -> dict[str, Any]:
        """For the control socket: look now, and say what is held."""
        ended = self.look()
        return {"id": "isolation", "state": f"level {self.ladder.highest(self._sites):d}", "ended": ended}

    async def know_sites(self) -> None:
        """Which sites there are; what was known stays where the database is away."""

        def names(tx: Tx) -> tuple[str, ...]:
            return tuple(site.name for site in inventory.sites(tx))

        try:
            self._sites = await self._db.look(names)
        except BrokerError as error:
            log.info("the sites are not known: %s", error.detail)

    async def follow(self, door: Listening) -> None:
        """For ever, whatever goes wrong in one turn: the file, the switch, and whether the door may listen."""
        self._door = door
        while True:
            try:
                self.look()
                if not self.is_deaf and not door.is_open:
                    await door.open()
                if self._latching is None and self._to_latch():
                    self._latching = asyncio.create_task(self._latch())
            except BrokerError as error:
                log.warning("%s", error.detail)
            except Exception:  # a watch that is dead would let the site be isolated no more
                log.exception("a turn of the watch failed")
            await asyncio.sleep(POLL_S)

    async def tell(self) -> None:
        """For ever: bring what happened to the ledger as soon as the database takes it, and keep the list of sites fresh."""
        while True:
            try:
                if untold := self._untold:
                    await self._db.run(isolation.tell_ledger, untold)
                    await asyncio.to_thread(self._forget, untold)
                    self.look()
                await self.know_sites()
            except BrokerError as error:
                log.info("the ledger waits to be told of isolation: %s", error.detail)
            except Exception:
                log.exception("the ledger could not be told of isolation")
            await self._wait(TELL_AGAIN_S if self._untold else SITES_AGAIN_S)

    async def _wait(self, longest_s: float) -> None:
        held = self._untold
        for _ in range(round(longest_s / POLL_S)):
            if self._untold and not held:
                return
            await asyncio.sleep(POLL_S)

    def _forget(self, told: tuple[Event, ...]) -> None:
        isolation.change(self._home, self._settings, lambda kept: isolation.without(kept, told))

    def _to_latch(self) -> bool:
        rung = self.ladder.rungs.get(EVERYWHERE)
        return not self.ladder.damaged and self.ladder.switch > (Level.NORMAL if rung is None else rung.level)

    async def _latch(self) -> None:
        """Keep what the switch stands for, so that taking it back alone opens nothing; then the site's hook."""
        now, level = self._clock.now(), self.ladder.switch
        reason = f"the switch {self._settings.isolation_switch_file} was set"
        rung = Rung(level=level, by=BY_SWITCH, reason=reason, at=now)
        event = IsolationRaised(site=EVERYWHERE, level=int(level), by=BY_SWITCH, reason=reason, at=now)

        def step(kept: Kept) -> Kept:
            return kept.with_event(raised(kept.ladder, EVERYWHERE, rung), event)

        try:
            await asyncio.to_thread(isolation.change, self._home, self._settings, step)
            if level >= Level.DEAF:
                await asyncio.to_thread(run_and_keep, self._home, self._settings, self._clock, EVERYWHERE, level)
        except BrokerError as error:
            log.error("what the switch says cannot be kept: %s", error.detail)
            await asyncio.sleep(TELL_AGAIN_S)
        except Exception:
            log.exception("what the switch says could not be kept")
            await asyncio.sleep(TELL_AGAIN_S)
        finally:
            self._latching = None


def _told(ladder: Ladder) -> str:
    if ladder.damaged:
        return ladder.damaged
    rungs = [f"{site} at level {rung.level:d} ({rung.reason})" for site, rung in sorted(ladder.rungs.items())]
    return ", ".join([*rungs, f"the switch is set, level {ladder.switch:d}"] if ladder.switch else rungs) or "none"
