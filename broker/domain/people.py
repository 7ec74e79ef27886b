"""People: engineers of vendors, and the site's own owners, operators, investigators, admins and auditors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from broker.domain.ids import PersonId, SiteId, VendorId


class Role(StrEnum):
    """What a person of the site is there for; an engineer has none and belongs to a vendor."""

    OWNER = "owner"
    OPERATOR = "operator"
    INVESTIGATOR = "investigator"
    ADMIN = "admin"
    AUDITOR = "auditor"


class Right(StrEnum):
    """What may be done, always for given sites."""

    VIEW = "view"
    APPROVE = "approve"
    KILL = "kill"
    ADMINISTER = "administer"
    REVIEW = "review"
    AUDIT = "audit"


RIGHTS: Final[Mapping[Role, frozenset[Right]]] = {
    Role.OWNER: frozenset({Right.VIEW, Right.APPROVE, Right.KILL}),
    Role.OPERATOR: frozenset({Right.VIEW, Right.KILL}),
    Role.INVESTIGATOR: frozenset({Right.VIEW, Right.REVIEW}),
    Role.ADMIN: frozenset({Right.VIEW, Right.ADMINISTER}),
    Role.AUDITOR: frozenset({Right.VIEW, Right.AUDIT}),
}


@dataclass(frozen=True, slots=True)
class RoleAt:
    """One role at one site; site_id None means every site."""

    role: Role
    site_id: SiteId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A named human. vendor_id set: an engineer. human: who the handle stands for, the same over all handles of one human."""

    id: PersonId
    handle: str
    name: str
    vendor_id: VendorId | None = None
    roles: frozenset[RoleAt] = frozenset()
    disabled_at: datetime | None = None
    human: str = ""

    def may(self, right: Right, site_id: SiteId) -> bool:
        """True when a role of theirs gives the right at that site; a disabled person has none."""
        return self.disabled_at is None and any(
            right in RIGHTS[at.role] and at.site_id in (None, site_id) for at in self.roles
        )

    def same_human(self, other: Person) -> bool:
        """True for one human under two handles, as far as the inventory knows. Source: docs/rules.md WEB-3."""
        return self.id == other.id or bool(self.human and self.human == other.human)
