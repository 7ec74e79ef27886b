"""Alembic, driven from the program: the scripts are package data; there is no ini file, no env.py and no other way."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory

from broker.store import schema

_UPGRADING: Final = 0x776B6774  # any number, the same in every program of ours
_SCRIPTS: Final = Path(__file__).parent / "migrations"


def _directory() -> tuple[Config, ScriptDirectory]:
    config = Config()
    # A percent sign in a path would be read as an interpolation.
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    return config, ScriptDirectory.from_config(config)


def upgrade(engine: sa.Engine, to: str = "head") -> None:
    """Run every missing migration up to one, all in one transaction on both databases."""
    config, scripts = _directory()

    def missing(found: Any, _context: Any) -> Any:
        return scripts._upgrade_revs(to, found)  # the name Alembic's own documentation gives for this use

    with engine.connect() as conn, conn.begin(), EnvironmentContext(config, scripts, fn=missing) as environment:
        if engine.dialect.name == "postgresql":  # on SQLite BEGIN IMMEDIATE keeps a second upgrade out
            conn.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_UPGRADING})")
        # transactional_ddl: Alembic thinks SQLite has none; our own BEGIN IMMEDIATE holds the whole upgrade.
        environment.configure(
            connection=conn, target_metadata=schema.site.metadata, render_as_batch=True, transactional_ddl=True
        )
        with environment.begin_transaction():
            environment.run_migrations()


def newest() -> str | None:
    """The version the scripts lead to."""
    return _directory()[1].get_current_head()
