"""Passwords, code seeds, invitations and the stored tries of a login. The secrets arrive hashed or sealed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from broker.domain.ids import PersonId
from broker.store.db import Tx
from broker.store.schema import invitation as _invitation
from broker.store.schema import login_try as _try
from broker.store.schema import person_password as _password
from broker.store.schema import person_totp as _totp

_SPEND: Final = (
    sa.update(_totp)
    .where(_totp.c.person_id == sa.bindparam("whose"), _totp.c.last_step < sa.bindparam("step"))
    .values(last_step=sa.bindparam("step"))
)


@dataclass(frozen=True, slots=True)
class SealedSeed:
    """A code seed as stored. last_step: the step of the last code taken; only a later one is taken."""

    sealed: bytes
    last_step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """A one-time way to enrol, found by the hash of its code."""

    id: str
    person_id: PersonId
    lapses_at: datetime
    used_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One stored try. outcome: pending (a try cut off counts as failed), failed, passed."""

    id: str
    tried_at: datetime
    outcome: str


def set_password_hash(tx: Tx, person_id: PersonId, password_hash: str) -> None:
    """Keep the hash, in place of an earlier one."""
    tx.conn.execute(sa.delete(_password).where(_password.c.person_id == person_id))
    tx.conn.execute(sa.insert(_password).values(person_id=person_id, hash=password_hash, set_at=tx.now))


def load_password_hash(tx: Tx, person_id: PersonId) -> str | None:
    """The stored hash."""
    found: str | None = tx.conn.execute(
        sa.select(_password.c.hash).where(_password.c.person_id == person_id)
    ).scalar_one_or_none()
    return found


def set_seed(tx: Tx, person_id: PersonId, sealed: bytes, *, last_step: int) -> None:
    """Keep a sealed seed, in place of an earlier one. last_step never goes back, also not with a new seed (AUT-5)."""
    before = load_seed(tx, person_id)
    step = last_step if before is None else max(last_step, before.last_step)
    tx.conn.execute(sa.delete(_totp).where(_totp.c.person_id == person_id))
    tx.conn.execute(sa.insert(_totp).values(person_id=person_id, seed=sealed, last_step=step, set_at=tx.now))


def load_seed(tx: Tx, person_id: PersonId) -> SealedSeed | None:
    """The sealed seed and the last step taken."""
    row = tx.conn.execute(sa.select(_totp).where(_totp.c.person_id == person_id)).one_or_none()
    return None if row is None else SealedSeed(bytes(row.seed), row.last_step)


def take_step(tx: Tx, person_id: PersonId, step: int) -> bool:
    """Take a code's step, once over all doors: True for the one caller whose step is later than the last one taken."""
    return tx.conn.execute(_SPEND, {"whose": person_id, "step": step}).rowcount == 1


def insert_invitation(tx: Tx, person_id: PersonId, code_sha256: bytes, *, made_by: str, lapses_at: datetime) -> str:
    """Keep a new invitation; earlier ones of the person are over with it."""
    tx.conn.execute(
        sa.update(_invitation)
        .where(_invitation.c.person_id == person_id, _invitation.c.used_at.is_(None))
        .values(used_at=tx.now)
    )
    invitation_id = tx.new_id("inv")
    values = {"id": invitation_id, "person_id": person_id, "code_sha256": code_sha256, "made_by": made_by}
    tx.conn.execute(sa.insert(_invitation).values(**values, made_at=tx.now, lapses_at=lapses_at))
    return invitation_id


def find_invitation(tx: Tx, code_sha256: bytes) -> Invitation | None:
    """The invitation of that code, used, lapsed or standing."""
    row = tx.conn.execute(sa.select(_invitation).where(_invitation.c.code_sha256 == code_sha256)).one_or_none()
    if row is None:
        return None
    return Invitation(id=row.id, person_id=row.person_id, lapses_at=row.lapses_at, used_at=row.used_at)


def use_invitation(tx: Tx, invitation_id: str) -> bool:
    """Use it, once: True for the one caller who found it standing."""
    done = tx.conn.execute(
        sa.update(_invitation)
        .where(_invitation.c.id == invitation_id, _invitation.c.used_at.is_(None), _invitation.c.lapses_at > tx.now)
        .values(used_at=tx.now)
    )
    return done.rowcount == 1


def insert_try(tx: Tx, *, person_id: PersonId | None, source: str, door: str) -> str:
    """Store a try before anything is compared."""
    try_id = tx.new_id("try")
    values = {"id": try_id, "person_id": person_id, "source": source, "door": door}
    tx.conn.execute(sa.insert(_try).values(**values, tried_at=tx.now, outcome="pending"))
    return try_id


def finish_try(tx: Tx, try_id: str, *, passed: bool) -> bool:
    """Say what came of a pending try, once."""
    done = tx.conn.execute(
        sa.update(_try)
        .where(_try.c.id == try_id, _try.c.outcome == "pending")
        .values(outcome="passed" if passed else "failed")
    )
    return done.rowcount == 1


def tries_of_person(tx: Tx, person_id: PersonId, *, after: datetime) -> list[Try]:
    """The tries of a person over all doors since then, the newest first."""
    return _tries(tx, _try.c.person_id == person_id, after)


def tries_of_source(tx: Tx, source: str, *, after: datetime) -> list[Try]:
    """The tries from an address over all people since then, the newest first."""
    return _tries(tx, _try.c.source == source, after)


def _tries(tx: Tx, whose: sa.ColumnElement[bool], after: datetime) -> list[Try]:
    found = tx.conn.execute(
        sa.select(_try).where(whose, _try.c.tried_at > after).order_by(_try.c.tried_at.desc(), _try.c.id.desc())
    )
    return [Try(id=row.id, tried_at=row.tried_at, outcome=row.outcome) for row in found]
