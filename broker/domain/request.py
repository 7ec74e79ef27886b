"""Access request: what an engineer asks, and the one table of what may become of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from broker.domain.capability import Capability
from broker.domain.ids import AccessRequestId, AssetId, GrantId, PersonId, SiteId, VendorId
from broker.domain.window import Interval


class State(StrEnum):
    """Where a request stands by somebody's act; what time alone decides (lapsed) is not among them."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    WITHDRAWN = "withdrawn"


class Step(StrEnum):
    """What somebody can do to a request."""

    APPROVE = "approve"
    DENY = "deny"
    WITHDRAW = "withdraw"


TRANSITIONS: Final[Mapping[State, Mapping[Step, State]]] = {
    State.PENDING: {Step.APPROVE: State.APPROVED, Step.DENY: State.DENIED, Step.WITHDRAW: State.WITHDRAWN},
    State.APPROVED: {},
    State.DENIED: {},
    State.WITHDRAWN: {},  # no LAPSED: that is for the clock to say, not for a row
}


class ShownState(StrEnum):
    """What people see: the stored state, and `lapsed` as the clock decides it."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    WITHDRAWN = "withdrawn"
    LAPSED = "lapsed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The words of a request before anybody judged them. opens None: from the moment of the yes."""

    assets: tuple[str, ...]
    length: timedelta
    reason: str
    capabilities: frozenset[Capability]
    opens: datetime | None = None
    change: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRequest:
    """What an engineer asks. opens None: counted from the approval, not from the request; extends: more time for that grant."""

    id: AccessRequestId
    person_id: PersonId
    vendor_id: VendorId
    site_id: SiteId
    assets: tuple[AssetId, ...]
    capabilities: frozenset[Capability]
    opens: datetime | None
    length: timedelta
    reason: str
    change: str | None
    submitted_at: datetime
    lapses_at: datetime
    state: State = State.PENDING
    version: int = 1
    extends: GrantId | None = None

    def shown_state(self, now: datetime) -> ShownState:
        """The state for people: a pending request whose time is over has lapsed."""
        if self.state is State.PENDING and now >= self.lapses_at:
            return ShownState.LAPSED
        return ShownState(self.state.value)

    def interval(self, now: datetime) -> Interval:
        """The interval asked for, were it approved now; a start already past begins now and keeps its end."""
        if self.opens is None:
            return Interval(now, now + self.length)
        return Interval(max(self.opens, now), self.opens + self.length)


def take(request: AccessRequest, step: Step) -> AccessRequest | None:
    """The request after the step, or None when the table has no such step; the request given is unchanged."""
    wanted = TRANSITIONS[request.state].get(step)
    return None if wanted is None else replace(request, state=wanted, version=request.version + 1)
