"""People and their keys. Each change writes its own ledger entry (law 5)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from broker.domain.audit import PersonChanged
from broker.domain.errors import BrokerError, Code
from broker.domain.ids import PersonId, VendorId, parse_handle, parse_text, quoted
from broker.domain.people import Person, Role, RoleAt
from broker.store import ledger
from broker.store.db import Tx
from broker.store.schema import person as _person
from broker.store.schema import person_key as _key
from broker.store.schema import person_role as _role
from broker.store.schema import vendor as _vendor

_BY_ID: Final = sa.select(_person).where(_person.c.id == sa.bindparam("wanted"))
_BY_HANDLE: Final = sa.select(_person).where(_person.c.handle == sa.bindparam("wanted"))
_BY_KEY: Final = (
    sa.select(_person)
    .select_from(_person.join(_key, _key.c.person_id == _person.c.id))
    .where(_key.c.fingerprint == sa.bindparam("wanted"))
)
_STANDING: Final = (
    sa.select(_key.c.fingerprint)
    .select_from(
        _key.join(_person, _key.c.person_id == _person.c.id).outerjoin(_vendor, _person.c.vendor_id == _vendor.c.id)
    )
    .where(_key.c.fingerprint.in_(sa.bindparam("wanted", expanding=True)))
    .where(_person.c.disabled_at.is_(None), _vendor.c.disabled_at.is_(None))
)
_ROLES: Final = sa.select(_role).where(_role.c.person_id == sa.bindparam("wanted"))


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolledKey:
    """A public key by which a person logs in. line: OpenSSH public key line without comment."""

    fingerprint: str
    person_id: PersonId
    line: str
    added_at: datetime


def insert_person(
    tx: Tx,
    *,
    handle: str,
    name: str,
    by: str,
    vendor_id: VendorId | None = None,
    roles: Iterable[RoleAt] = (),
    human: str = "",
) -> Person:
    """Add a person: an engineer of a vendor, or one of the site with roles; not both.

    human: who the handle stands for, where one human has several. Raises BrokerError(INVALID, CONFLICT).
    """
    person = Person(
        id=PersonId(tx.new_id("per")),
        handle=parse_handle(handle),
        name=parse_text(name, what="name", longest=128),
        vendor_id=vendor_id,
        roles=frozenset(roles),
        human=parse_text(human, what="human", longest=128, required=False),
    )
    if (vendor_id is None) == (not person.roles):
        raise BrokerError(Code.INVALID, "a person belongs to a vendor or has a role at a site, one of the two")
    if by_handle(tx, handle) is not None:
        raise BrokerError(Code.CONFLICT, f"there is a person {handle} already")
    values = {"id": person.id, "handle": person.handle, "name": person.name, "human": person.human}
    tx.conn.execute(sa.insert(_person).values(**values, vendor_id=vendor_id))
    _insert_roles(tx, person.id, person.roles)
    ledger.append(tx, PersonChanged(person_id=person.id, act="added", by=by, detail=_described(person)))
    return person


def change_roles(
    tx: Tx, person: Person, *, add: Iterable[RoleAt] = (), remove: Iterable[RoleAt] = (), by: str
) -> Person:
    """Give a person of the site further roles, and take some away. Raises BrokerError(INVALID, CONFLICT)."""
    if person.vendor_id is not None:
        raise BrokerError(Code.INVALID, f"{person.handle} belongs to a vendor and can have no role at the site")
    given, taken = frozenset(add), frozenset(remove)
    if given & taken:
        raise BrokerError(Code.INVALID, "the same role is given and taken")
    if missing := taken - person.roles:
        raise BrokerError(
            Code.CONFLICT, f"{person.handle} has no such role: {', '.join(sorted(at.role for at in missing))}"
        )
    if not (person.roles | given) - taken:
        raise BrokerError(Code.INVALID, f"{person.handle} would have no role left; disable the person instead")
    if not given - person.roles and not taken:
        raise BrokerError(Code.CONFLICT, f"{person.handle} has these rights already")
    for at in taken:
        there = _role.c.site_id.is_(None) if at.site_id is None else _role.c.site_id == at.site_id
        tx.conn.execute(sa.delete(_role).where(_role.c.person_id == person.id, _role.c.role == at.role.value, there))
    _insert_roles(tx, person.id, given - person.roles)
    changed = load_person(tx, person.id)
    if changed is None:
        raise BrokerError(Code.CONFLICT, f"{person.handle} is gone")
    ledger.append(tx, PersonChanged(person_id=person.id, act="rights changed", by=by, detail=_described(changed)))
    return changed


def add_roles(tx: Tx, person: Person, roles: Iterable[RoleAt], *, by: str) -> Person:
    """Give a person of the site further roles. Raises BrokerError(INVALID, CONFLICT)."""
    return change_roles(tx, person, add=roles, by=by)


def _insert_roles(tx: Tx, person_id: PersonId, roles: frozenset[RoleAt]) -> None:
    for at in sorted(roles, key=lambda at: (at.role, at.site_id or "")):
        tx.conn.execute(sa.insert(_role).values(person_id=person_id, role=at.role.value, site_id=at.site_id))


def _described(person: Person) -> str:
    roles = sorted(f"{at.role} at {at.site_id or 'every site'}" for at in person.roles)
    return f"{person.handle}: {', '.join(roles) or f'engineer of {person.vendor_id}'}"


def load_person(tx: Tx, person_id: PersonId) -> Person | None:
    """The person of that id."""
    return _one(tx, _BY_ID, person_id)


def by_handle(tx: Tx, handle: str) -> Person | None:
    """The person of that handle, exactly as written."""
    return _one(tx, _BY_HANDLE, handle)


def standing_keys(tx: Tx, fingerprints: Iterable[str]) -> frozenset[str]:
    """Those of the keys that are still enrolled, for a person who is not disabled, of a vendor that is not."""
    return frozenset(tx.conn.execute(_STANDING, {"wanted": list(fingerprints)}).scalars())


def key_owner(tx: Tx, fingerprint: str) -> Person | None:
    """Whose key it is. fingerprint: SHA256:... as OpenSSH writes it."""
    return _one(tx, _BY_KEY, fingerprint)


def people(tx: Tx, *, ids: Iterable[PersonId] | None = None) -> list[Person]:
    """All people by handle, or those of these ids."""
    asked, asked_roles = sa.select(_person), sa.select(_role)
    if ids is not None:
        wanted = list(ids)
        asked, asked_roles = asked.where(_person.c.id.in_(wanted)), asked_roles.where(_role.c.person_id.in_(wanted))
    roles: dict[str, set[RoleAt]] = defaultdict(set)
    for row in tx.conn.execute(asked_roles):
        roles[row.person_id].add(RoleAt(Role(row.role), row.site_id))
    found = [person_of(row, frozenset(roles[row.id])) for row in tx.conn.execute(asked)]
    return sorted(found, key=lambda person: person.handle)


def disable(tx: Tx, person_id: PersonId, *, by: str) -> bool:
    """Disable a person, once; False when they were already. Every door judges it anew."""
    done = tx.conn.execute(
        sa.update(_person).where(_person.c.id == person_id, _person.c.disabled_at.is_(None)).values(disabled_at=tx.now)
    )
    if done.rowcount == 1:
        ledger.append(tx, PersonChanged(person_id=person_id, act="disabled", by=by))
    return done.rowcount == 1


def add_key(tx: Tx, person_id: PersonId, public_key_line: str, fingerprint: str, *, by: str) -> EnrolledKey:
    """Enrol a key. public_key_line, fingerprint: from broker.openssh.parse_public_key. Raises BrokerError(CONFLICT)."""
    owner = key_owner(tx, fingerprint)
    if owner is not None:
        # Not said whose: whoever adds a key must not learn from it who has the same one.
        theirs = "already enrolled for this person" if owner.id == person_id else "already enrolled"
        raise BrokerError(Code.CONFLICT, f"the key {fingerprint} is {theirs}")
    key = EnrolledKey(fingerprint=fingerprint, person_id=person_id, line=public_key_line, added_at=tx.now)
    values = {"id": tx.new_id("key"), "person_id": person_id, "fingerprint": fingerprint}
    tx.conn.execute(sa.insert(_key).values(**values, line=public_key_line, added_at=tx.now))
    ledger.append(tx, PersonChanged(person_id=person_id, act="key added", by=by, detail=fingerprint))
    return key


def remove_key(tx: Tx, person_id: PersonId, fingerprint: str, *, by: str) -> bool:
    """Take a key away; False when the person has no such key. Live sessions that came in by it end."""
    done = tx.conn.execute(sa.delete(_key).where(_key.c.person_id == person_id, _key.c.fingerprint == fingerprint))
    if done.rowcount == 1:
        ledger.append(tx, PersonChanged(person_id=person_id, act="key removed", by=by, detail=fingerprint))
    return done.rowcount == 1


def keys(tx: Tx, person_id: PersonId) -> list[EnrolledKey]:
    """The keys of a person, the oldest first."""
    found = tx.conn.execute(sa.select(_key).where(_key.c.person_id == person_id).order_by(_key.c.added_at, _key.c.id))
    return [
        EnrolledKey(fingerprint=row.fingerprint, person_id=row.person_id, line=row.line, added_at=row.added_at)
        for row in found
    ]


def require(tx: Tx, handle: str) -> Person:
    """The person of that handle. Raises BrokerError(NOT_FOUND): for doors of the site's own people only."""
    if (person := by_handle(tx, handle)) is None:
        raise BrokerError(Code.NOT_FOUND, f"no such person: {quoted(handle)}")
    return person


def _one(tx: Tx, asked: sa.Select[Any], wanted: str) -> Person | None:
    row = tx.conn.execute(asked, {"wanted": wanted}).one_or_none()
    if row is None:
        return None
    if row.vendor_id is not None:  # an engineer has no roles: insert_person and add_roles hold it
        return person_of(row, frozenset())
    roles = tx.conn.execute(_ROLES, {"wanted": row.id})
    return person_of(row, frozenset(RoleAt(Role(one.role), one.site_id) for one in roles))


def person_of(row: Any, roles: frozenset[RoleAt]) -> Person:
    """A row of the table as the noun."""
    return Person(
        id=row.id,
        handle=row.handle,
        name=row.name,
        vendor_id=row.vendor_id,
        roles=roles,
        disabled_at=row.disabled_at,
        human=row.human,
    )
