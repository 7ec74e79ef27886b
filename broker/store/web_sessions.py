"""Sessions of the web: found by the hash of a secret that only the browser holds, ended at the server. Source: WEB-5."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final

import sqlalchemy as sa

from broker.domain.ids import PersonId
from broker.store.db import Tx
from broker.store.schema import web_session as _session

IDLE: Final = timedelta(minutes=15)
LONGEST: Final = timedelta(hours=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSession:
    """One browser logged in. csrf: the token of its forms; proof_at: the last time a code was given."""

    person_id: PersonId
    csrf: str
    source: str
    opened_at: datetime
    seen_at: datetime
    proof_at: datetime


def insert(tx: Tx, *, person_id: PersonId, source: str) -> tuple[str, WebSession]:
    """Open one after password and code; gives the secret for the cookie, 256 random bits, which is kept nowhere here."""
    secret = secrets.token_urlsafe(32)
    opened = WebSession(
        person_id=person_id,
        csrf=secrets.token_urlsafe(32),
        source=source,
        opened_at=tx.now,
        seen_at=tx.now,
        proof_at=tx.now,
    )
    tx.conn.execute(
        sa.insert(_session).values(
            id_sha256=_hashed(secret),
            person_id=person_id,
            csrf=opened.csrf,
            source=source,
            opened_at=tx.now,
            seen_at=tx.now,
            proof_at=tx.now,
        )
    )
    return secret, opened


def load(tx: Tx, secret: str, *, idle: timedelta = IDLE, longest: timedelta = LONGEST) -> WebSession | None:
    """The live session of that secret; None when it is unknown, ended, idle too long or too old."""
    row = tx.conn.execute(
        sa.select(_session)
        .where(_session.c.id_sha256 == _hashed(secret), _session.c.ended_at.is_(None))
        .where(_session.c.seen_at > tx.now - idle, _session.c.opened_at > tx.now - longest)
    ).one_or_none()
    if row is None:
        return None
    return WebSession(
        person_id=row.person_id,
        csrf=row.csrf,
        source=row.source,
        opened_at=row.opened_at,
        seen_at=row.seen_at,
        proof_at=row.proof_at,
    )


def touch(tx: Tx, secret: str) -> None:
    """Say that it was seen now; an ended one stays ended."""
    tx.conn.execute(
        sa.update(_session)
        .where(_session.c.id_sha256 == _hashed(secret), _session.c.ended_at.is_(None))
        .values(seen_at=tx.now)
    )


def prove(tx: Tx, secret: str) -> None:
    """Say that a code was given now in it."""
    tx.conn.execute(
        sa.update(_session)
        .where(_session.c.id_sha256 == _hashed(secret), _session.c.ended_at.is_(None))
        .values(proof_at=tx.now, seen_at=tx.now)
    )


def end(tx: Tx, secret: str) -> bool:
    """Log out: True for the one who ended it."""
    done = tx.conn.execute(
        sa.update(_session)
        .where(_session.c.id_sha256 == _hashed(secret), _session.c.ended_at.is_(None))
        .values(ended_at=tx.now)
    )
    return done.rowcount == 1


def end_all(tx: Tx, person_id: PersonId) -> int:
    """End every one of a person: at a change of password or factor, and when they are disabled."""
    done = tx.conn.execute(
        sa.update(_session)
        .where(_session.c.person_id == person_id, _session.c.ended_at.is_(None))
        .values(ended_at=tx.now)
    )
    return done.rowcount


def _hashed(secret: str) -> bytes:
    # Plain SHA-256 is enough: the secret is 256 random bits, there is nothing to guess from its hash.
    return sha256(secret.encode("utf-8", "replace")).digest()
