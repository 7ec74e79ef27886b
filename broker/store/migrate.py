"""Alembic, driven from the program: the scripts are package data and there is no ini file."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory


def configuration() -> Config:
    """Alembic's settings: where the scripts are, nothing else."""
    config = Config()
    # A percent sign in a path would be read as an interpolation.
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def upgrade(engine: sa.Engine) -> None:
    """Run every missing migration in one transaction."""
    config = configuration()
    with engine.connect() as conn, conn.begin():
        config.attributes["connection"] = conn
        command.upgrade(config, "head")


def newest() -> str | None:
    """The version the scripts lead to."""
    return ScriptDirectory.from_config(configuration()).get_current_head()
