"""What authority in time needs: wall times of windows, freezes, holds, suspensions, extensions, void approvals, penalties."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import op

revision = "0002"
down_revision = "0001"

STATEMENTS: Final = Path(__file__).parent.parent / "authority.sql"


def upgrade() -> None:
    """Adds only: no row is changed, so nothing can be lost."""
    for statement in STATEMENTS.read_text(encoding="utf-8").split(";"):
        if statement.strip():
            op.get_bind().exec_driver_sql(statement)
