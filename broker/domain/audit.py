"""The closed union of ledger entries: what an auditor must be able to see."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from broker.domain.authority import (
    ApprovalVoided,
    CaRetired,
    CaRotated,
    ClockBehind,
    GrantExtended,
    IsolationHookRan,
    IsolationRaised,
    IsolationRestored,
    Restored,
    SeparationNoted,
    SessionFrozen,
    SessionHeld,
    SessionUnfrozen,
    Suspended,
)
from broker.domain.capability import Capability
from broker.domain.ids import AccessRequestId, AssetId, GrantId, PersonId, SessionId, SiteId, VendorId, WindowId
from broker.domain.session import ChannelKind, EndReason


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSubmitted:
    kind: ClassVar[str] = "request.submitted"
    request_id: AccessRequestId
    person_id: PersonId
    site_id: SiteId
    assets: tuple[AssetId, ...]
    capabilities: tuple[Capability, ...]
    opens: datetime | None
    length_s: int
    reason: str
    change: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRefused:
    """A request that review turned away; asked: what was named, cut and cleaned."""

    kind: ClassVar[str] = "request.refused"
    person_id: PersonId
    asked: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestWithdrawn:
    kind: ClassVar[str] = "request.withdrawn"
    request_id: AccessRequestId
    person_id: PersonId


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalGiven:
    """One owner's yes. complete: no further owner was needed."""

    kind: ClassVar[str] = "approval.given"
    request_id: AccessRequestId
    owner_id: PersonId
    assets: tuple[AssetId, ...]
    capabilities: tuple[Capability, ...]
    opens: datetime
    closes: datetime
    complete: bool
    door: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRefused:
    """Somebody who may not, or may no longer, tried to decide."""

    kind: ClassVar[str] = "approval.refused"
    request_id: AccessRequestId
    owner_id: PersonId
    reason: str
    door: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestDenied:
    kind: ClassVar[str] = "request.denied"
    request_id: AccessRequestId
    owner_id: PersonId
    reason: str
    door: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantMade:
    kind: ClassVar[str] = "grant.made"
    grant_id: GrantId
    request_id: AccessRequestId
    person_id: PersonId
    site_id: SiteId
    window_id: WindowId
    assets: tuple[AssetId, ...]
    capabilities: tuple[Capability, ...]
    opens: datetime
    closes: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantRevoked:
    kind: ClassVar[str] = "grant.revoked"
    grant_id: GrantId
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantHandedBack:
    kind: ClassVar[str] = "grant.handed_back"
    grant_id: GrantId
    person_id: PersonId


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateIssued:
    """Committed before the signature is made. purpose: gate, asset or host."""

    kind: ClassVar[str] = "certificate.issued"
    purpose: str
    serial: str
    grant_id: GrantId | None
    session_id: SessionId | None
    key: str
    principals: tuple[str, ...]
    valid_after: datetime
    valid_before: datetime
    source_address: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginGiven:
    """Somebody came in. door: ssh, web or cli; factors: key+code, certificate, password+code."""

    kind: ClassVar[str] = "login.given"
    person_id: PersonId
    door: str
    factors: str
    source: str
    key: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginRefused:
    """A proof failed. person_id None: nobody of that name, told apart here and nowhere outside."""

    kind: ClassVar[str] = "login.refused"
    person_id: PersonId | None
    door: str
    source: str
    name: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelRefused:
    """The gate said no to one channel."""

    kind: ClassVar[str] = "channel.refused"
    person_id: PersonId
    asked: str
    capability: str
    reason: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOpened:
    kind: ClassVar[str] = "session.opened"
    session_id: SessionId
    grant_id: GrantId
    person_id: PersonId
    asset_id: AssetId
    account: str
    source: str
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOpened:
    """Durable before the first byte is relayed. command: of an exec, cut and cleaned."""

    kind: ClassVar[str] = "channel.opened"
    session_id: SessionId
    channel: int
    channel_kind: ChannelKind
    command: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamHead:
    """The end of one stream of a recording: its length in bytes and the SHA-256 of them."""

    stream: str
    length: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelClosed:
    """heads: of every stream of the channel; state: closed, interrupted or damaged."""

    kind: ClassVar[str] = "channel.closed"
    session_id: SessionId
    channel: int
    state: str
    exit: str | None
    heads: tuple[StreamHead, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionClosed:
    """Names every stream and its final head: an omitted file shows."""

    kind: ClassVar[str] = "session.closed"
    session_id: SessionId
    reason: EndReason
    by: str | None
    heads: tuple[StreamHead, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionKilled:
    """The session is ended and its grant suspended."""

    kind: ClassVar[str] = "session.killed"
    session_id: SessionId
    grant_id: GrantId
    by: str
    reason: str
    door: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKeyChanged:
    """An alarm: the asset showed another key than the pinned one; no login byte was sent."""

    kind: ClassVar[str] = "alarm.host_key_changed"
    session_id: SessionId
    asset_id: AssetId
    pinned: str
    shown: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingFailed:
    kind: ClassVar[str] = "recording.failed"
    session_id: SessionId
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingViewed:
    """Somebody looked. how: replay, export, watch; door: web or cli."""

    kind: ClassVar[str] = "recording.viewed"
    session_id: SessionId
    by: str
    how: str
    door: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonChanged:
    """act: added, invited, enrolled, disabled, key added, key removed, password set, rights changed."""

    kind: ClassVar[str] = "person.changed"
    person_id: PersonId
    act: str
    by: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InventoryChanged:
    """noun: site, zone, vendor, asset; act: added, changed, disabled; name: its own."""

    kind: ClassVar[str] = "inventory.changed"
    noun: str
    name: str
    act: str
    by: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VendorDisabled:
    kind: ClassVar[str] = "vendor.disabled"
    vendor_id: VendorId
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowOpened:
    kind: ClassVar[str] = "window.opened"
    window_id: WindowId
    site_id: SiteId
    vendor_id: VendorId
    opens: datetime
    closes: datetime
    pattern: str
    phase: str
    by: str
    time_zone: str = ""
    daily: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowClosed:
    kind: ClassVar[str] = "window.closed"
    window_id: WindowId
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowExtended:
    kind: ClassVar[str] = "window.extended"
    window_id: WindowId
    closes: datetime
    by: str
    reason: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStarted:
    """process: broker, signer, approval."""

    kind: ClassVar[str] = "process.started"
    process: str
    version: str


LedgerEntry = (
    RequestSubmitted
    | RequestRefused
    | RequestWithdrawn
    | ApprovalGiven
    | ApprovalRefused
    | RequestDenied
    | GrantMade
    | GrantRevoked
    | GrantHandedBack
    | CertificateIssued
    | LoginGiven
    | LoginRefused
    | ChannelRefused
    | SessionOpened
    | ChannelOpened
    | ChannelClosed
    | SessionClosed
    | SessionKilled
    | HostKeyChanged
    | RecordingFailed
    | RecordingViewed
    | PersonChanged
    | InventoryChanged
    | VendorDisabled
    | WindowOpened
    | WindowClosed
    | WindowExtended
    | ProcessStarted
    | SessionFrozen
    | SessionUnfrozen
    | SessionHeld
    | Suspended
    | Restored
    | GrantExtended
    | ApprovalVoided
    | IsolationRaised
    | IsolationHookRan
    | SeparationNoted
    | IsolationRestored
    | CaRotated
    | CaRetired
    | ClockBehind
)
