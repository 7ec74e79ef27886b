"""Ledger entries of the site's authority over what runs: freeze, hold, suspension, isolation, CA keys."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from broker.domain.ids import AccessRequestId, GrantId, PersonId, SessionId


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFrozen:
    """Input stops, output goes on."""

    kind: ClassVar[str] = "session.frozen"
    session_id: SessionId
    by: str
    reason: str
    door: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionUnfrozen:
    kind: ClassVar[str] = "session.unfrozen"
    session_id: SessionId
    by: str
    door: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionHeld:
    """An owner keeps a session alive beyond its grant's end. owners: one, or two where it goes beyond the window."""

    kind: ClassVar[str] = "session.held"
    session_id: SessionId
    owners: tuple[PersonId, ...]
    until: datetime
    reason: str
    door: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspended:
    """Nothing of the subject is admitted until an owner restores it. scope: grant, engineer, vendor, asset, window, site."""

    kind: ClassVar[str] = "authority.suspended"
    suspension_id: str
    scope: str
    subject: str
    by: str
    reason: str
    door: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """An owner lets the subject of a suspension in again."""

    kind: ClassVar[str] = "authority.restored"
    suspension_id: str
    scope: str
    subject: str
    owner_id: PersonId
    door: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantExtended:
    """A grant that carries on another: live sessions of that one go on to its end."""

    kind: ClassVar[str] = "grant.extended"
    grant_id: GrantId
    extends: GrantId
    closes: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalVoided:
    """A first yes that no longer counts. why: the owner's rights changed, the owner was disabled."""

    kind: ClassVar[str] = "approval.voided"
    request_id: AccessRequestId
    owner_id: PersonId
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolationRaised:
    """A rung of the ladder. site: its name, or * for all; at: when it happened, for the entry may be written much later."""

    kind: ClassVar[str] = "isolation.raised"
    site: str
    level: int
    by: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolationHookRan:
    """What the site's own executable did. exit: its status, None when it was ended or could not be started."""

    kind: ClassVar[str] = "isolation.hook_ran"
    site: str
    level: int
    exit: int | None
    output: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SeparationNoted:
    """One step of physical separation, done and seen. names: who did it and who saw it."""

    kind: ClassVar[str] = "isolation.separation_noted"
    site: str
    step: str
    names: tuple[str, ...]
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolationRestored:
    kind: ClassVar[str] = "isolation.restored"
    site: str
    level: int
    owners: tuple[str, ...]
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CaRotated:
    """A new key signs from now on; the old one is still accepted until then. name: gate, asset, host; keys by fingerprint."""

    kind: ClassVar[str] = "ca.rotated"
    name: str
    new: str
    old: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CaRetired:
    """The last certificate of an old key is dead; the key is accepted no longer."""

    kind: ClassVar[str] = "ca.retired"
    name: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockBehind:
    """An alarm: the machine's clock shows less than the ledger's last entry; nothing is admitted."""

    kind: ClassVar[str] = "alarm.clock_behind"
    node: str
    behind_s: int
