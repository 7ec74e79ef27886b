"""A no of the law and its reasons: of the gate, and of the desk. Reached through `broker.domain.policy`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why the gate says no to one channel; the exact words are for the person entitled to know (law 7)."""

    NO_SUCH_ASSET = "no such asset"
    NO_GRANT = "no grant for this asset"
    PERSON_DISABLED = "person disabled"
    VENDOR_DISABLED = "vendor disabled"
    ASSET_NOT_READY = "asset not released for access"
    REVOKED = "grant revoked"
    SUSPENDED = "grant suspended"
    HANDED_BACK = "grant handed back"
    SHUT_OUT = "access suspended"
    NOT_YET = "grant not open yet"
    OVER = "grant over"
    WINDOW_CLOSED = "outside the commissioning window"
    OUTSIDE_HOURS = "outside the daily hours of the commissioning window"
    NOT_GRANTED = "capability not granted"
    ACCOUNT_UNKNOWN = "no such account on the asset"
    OTHER_CERTIFICATE = "certificate of another grant"
    CERTIFICATE_OVER = "certificate expired"
    FROZEN = "session frozen"
    TOO_MANY_SESSIONS = "too many live sessions"
    NO_HOST_KEY = "asset host key not pinned"
    CANNOT_RECORD = "cannot record"
    CLOCK_BEHIND = "the clock is behind the ledger"
    ISOLATED = "isolated by the site"


class ReviewReason(StrEnum):
    """Why the desk says no to a request or an approval."""

    NO_SUCH_ASSET = "no such asset"
    SEVERAL_SITES = "assets of several sites"
    ASSET_NOT_READY = "asset not released for access"
    NO_WINDOW = "no commissioning window covers it"
    OUTSIDE_HOURS = "outside the daily hours of the commissioning window"
    TOO_LONG = "longer than the site allows"
    IN_THE_PAST = "in the past"
    PORT_NOT_LISTED = "port not listed for the asset"
    NOT_AN_ENGINEER = "only an engineer of a vendor asks"
    DISABLED = "disabled"
    NO_SUCH_REQUEST = "no such request"
    WRONG_STATE = "already decided"
    LAPSED = "lapsed"
    NO_RIGHT = "no right to approve at this site"
    OWN_REQUEST = "nobody approves what they asked for"
    SAME_OWNER = "a second, different owner is needed"
    WIDER = "wider than what was asked"
    NOTHING_LEFT = "nothing is left to grant"
    GRANT_ENDED = "the grant to extend was ended"
    CHANGED = "the request has changed since it was read"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One no. hint: one plain sentence with the next step, for the person entitled to know."""

    reason: Reason | ReviewReason
    hint: str = ""
