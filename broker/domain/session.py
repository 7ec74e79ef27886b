"""Session and channel: one engineer at one asset, and the SSH channels in it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from broker.domain.ids import AssetId, GrantId, PersonId, SessionId


class ChannelKind(StrEnum):
    """What a channel carries."""

    SHELL = "shell"
    EXEC = "exec"
    SFTP = "sftp"
    TCP = "tcp"


class EndReason(StrEnum):
    """Why a session ended; the words people and the ledger see."""

    DONE = "done"
    TIME_UP = "time is up"
    WINDOW_CLOSED = "commissioning window closed"
    REVOKED = "revoked"
    KILLED = "killed"
    HANDED_BACK = "handed back"
    DISABLED = "disabled"
    ISOLATED = "isolated by the site"
    NOT_RECORDED = "cannot be recorded"
    ASSET_UNREACHABLE = "asset unreachable"
    HOST_KEY_CHANGED = "host key changed"
    CONNECTION_LOST = "connection lost"
    SHUT_DOWN = "bastion shut down"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One engineer at one asset, from the first admitted channel to the last one's end. held_until: by an owner's hold."""

    id: SessionId
    grant_id: GrantId
    person_id: PersonId
    asset_id: AssetId
    account: str
    source: str
    opened_at: datetime
    until: datetime
    frozen_at: datetime | None = None
    frozen_by: str | None = None
    held_until: datetime | None = None
    ended_at: datetime | None = None
    end_reason: EndReason | None = None
