"""What authority in time needs: wall times of windows, freezes, holds, suspensions, extensions, void approvals, penalties."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

STATEMENTS: Final = Path(__file__).parent.parent / "authority.sql"


def upgrade() -> None:
    """Adds only: no row is changed, so nothing can be lost."""
    for statement in STATEMENTS.read_text(encoding="utf-8").split(";"):
        if statement.strip():
            op.get_bind().exec_driver_sql(statement)
    last = op.get_bind().execute(sa.text("SELECT body FROM ledger ORDER BY seq DESC LIMIT 1")).scalar()
    if last is not None:  # else a clock that was set back before the upgrade would not be noticed after it
        latest = {"latest": int(json.loads(bytes(last))["at_ms"])}
        op.get_bind().execute(sa.text("UPDATE ledger_head SET latest_ms = :latest"), latest)
