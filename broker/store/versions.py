"""Which version of the tables this program speaks, known without loading the migrations."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from broker.domain.errors import BrokerError, Code

KNOWN: Final = ("0001", "0002")
"""Every version ever released, oldest first; the last one is this program's own. A test holds it equal to the scripts."""


def stored(conn: sa.Connection) -> str | None:
    """The version the tables are at, None when there are none."""
    if not sa.inspect(conn).has_table("alembic_version"):
        return None
    version: str | None = conn.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return version


def check(found: str | None) -> None:
    """Raise BrokerError(UNAVAILABLE), saying how to mend it, unless found is this program's version."""
    if found == KNOWN[-1]:
        return
    if found is None:
        raise BrokerError(
            Code.UNAVAILABLE,
            "the database has no tables; restore it from your backup, or make new ones with: wicketgate migrate",
        )
    if found in KNOWN:
        raise BrokerError(
            Code.UNAVAILABLE,
            f"the database is older than this program ({found}, wanted {KNOWN[-1]}); back it up, then run: wicketgate migrate",
        )
    raise BrokerError(
        Code.UNAVAILABLE,
        f"the database is newer than this program ({found[:32]!a}, known up to {KNOWN[-1]}); install the newer wicketgate",
    )
