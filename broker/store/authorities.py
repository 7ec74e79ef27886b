"""What the database knows of CA keys: which signed what, when the last of it is dead, which are accepted no longer."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from broker.domain.authority import CaRetired, CaRotated
from broker.store import ledger
from broker.store.db import Tx
from broker.store.schema import certificate as _certificate


def note_signer(tx: Tx, serial: int, ca: str) -> None:
    """Keep beside a certificate which key signs it. ca: its fingerprint."""
    tx.conn.execute(sa.update(_certificate).where(_certificate.c.serial == serial).values(ca_fingerprint=ca))


def last_alive(tx: Tx, name: str, ca: str) -> datetime | None:
    """When the last certificate of a key ends; one whose signer was not kept yet counts for every key. None: there is none."""
    mine = sa.or_(_certificate.c.ca_fingerprint == ca, _certificate.c.ca_fingerprint.is_(None))
    asked = sa.select(_certificate.c.valid_before).where(_certificate.c.purpose == name, mine)
    found: datetime | None = tx.conn.execute(
        asked.order_by(_certificate.c.valid_before.desc()).limit(1)
    ).scalar_one_or_none()
    return found


def retired(tx: Tx, name: str) -> frozenset[str]:
    """The fingerprints of a CA's keys that are accepted no longer."""
    return frozenset(row.body["key"] for row in ledger.show(tx, kind=CaRetired.kind) if row.body["name"] == name)


def rotated_to(tx: Tx, name: str) -> str | None:
    """The fingerprint of the key that the last rotation brought in."""
    found = [row.body["new"] for row in ledger.show(tx, kind=CaRotated.kind) if row.body["name"] == name]
    return found[-1] if found else None


def retire(tx: Tx, name: str, ca: str) -> bool:
    """Retire a key that signs no longer and whose last certificate is dead: True for the one who did it."""
    last = last_alive(tx, name, ca)
    if (last is not None and tx.now < last) or ca in retired(tx, name):
        return False
    ledger.append(tx, CaRetired(name=name, key=ca))
    return True
