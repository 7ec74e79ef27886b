"""Suspension: nothing of its subject is admitted until an owner restores it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from broker.domain.ids import PersonId


class Scope(StrEnum):
    """What a kill can reach beside one session, from the narrowest to the widest."""

    GRANT = "grant"
    ENGINEER = "engineer"
    VENDOR = "vendor"
    ASSET = "asset"
    WINDOW = "window"
    SITE = "site"


Names = Mapping[Scope, str]
"""What a session or a grant belongs to, by the names people use: ids of grants and windows, else handles and names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspension:
    """One subject shut out. subject: its id; lifted_by: the owner who restored it."""

    id: str
    scope: Scope
    subject: str
    reason: str
    suspended_by: str
    suspended_at: datetime
    lifted_at: datetime | None = None
    lifted_by: PersonId | None = None
