"""A clock behind the ledger: told once to the log and the ledger, and to every engineer who comes. Source: TIM-2."""

from __future__ import annotations

import logging
from typing import Final

from broker.gate import Limits, raise_clock_alarm
from broker.store import ledger
from broker.store.db import Database

log = logging.getLogger("broker.bastion")
NOTICE: Final = (
    "The site's clock is behind its own ledger: no code is good, and nothing is admitted, until the site has set it."
)


class ClockAlarm:
    """is_raised: the clock was behind at the last look."""

    def __init__(self, db: Database, node: str, limits: Limits) -> None:
        self._db = db
        self._node = node
        self._limits = limits
        self.is_raised = False

    async def look(self) -> None:
        """Compare the clock with the ledger; one row is read. Raises BrokerError(UNAVAILABLE)."""
        behind = await self._db.look(ledger.clock_behind)
        was_raised, self.is_raised = self.is_raised, behind > self._limits.clock_tolerance
        if self.is_raised and not was_raised:
            log.error("the clock is %d s behind the ledger: nothing is admitted; set the clock", behind.total_seconds())
            await self._db.run(raise_clock_alarm, node=self._node, limits=self._limits)
