"""Terms and grant: the permission a request becomes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from broker.domain.capability import Capability
from broker.domain.ids import AccessRequestId, AssetId, GrantId, PersonId, SiteId, VendorId, WindowId
from broker.domain.window import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a yes opens: which assets, what may be done there, from when until when."""

    assets: frozenset[AssetId]
    capabilities: frozenset[Capability]
    interval: Interval

    def within(self, other: Terms) -> bool:
        """True when nothing here goes beyond the other."""
        return (
            self.assets <= other.assets
            and self.capabilities <= other.capabilities
            and other.interval.covers(self.interval)
        )


class GrantState(StrEnum):
    """Where a grant stands; the first three are the clock's word, the others somebody's act."""

    SCHEDULED = "scheduled"
    OPEN = "open"
    OVER = "over"
    REVOKED = "revoked"
    SUSPENDED = "suspended"
    HANDED_BACK = "handed back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Engineer, assets, capabilities, interval; ends early by revocation, suspension (a kill) or handing back.

    extends: the grant whose live sessions go on under this one.
    """

    id: GrantId
    request_id: AccessRequestId
    person_id: PersonId
    vendor_id: VendorId
    site_id: SiteId
    window_id: WindowId
    terms: Terms
    granted_at: datetime
    revoked_at: datetime | None = None
    suspended_at: datetime | None = None
    handed_back_at: datetime | None = None
    extends: GrantId | None = None

    @property
    def interval(self) -> Interval:
        return self.terms.interval

    def state(self, now: datetime) -> GrantState:
        """Acts first, then the clock."""
        if self.revoked_at is not None:
            return GrantState.REVOKED
        if self.handed_back_at is not None:
            return GrantState.HANDED_BACK
        if self.suspended_at is not None:
            return GrantState.SUSPENDED
        if now < self.interval.opens:
            return GrantState.SCHEDULED
        return GrantState.OPEN if now < self.interval.closes else GrantState.OVER
