"""Alembic's environment: the connection comes from `broker.store.migrate`, so there is no other way to run it."""

from __future__ import annotations

from alembic import context

from broker.store import schema

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=schema.asset.metadata,
    render_as_batch=True,  # SQLite alters by copying the table
    compare_type=True,
    transactional_ddl=True,  # SQLite too: our own BEGIN IMMEDIATE holds the whole upgrade
)
with context.begin_transaction():
    context.run_migrations()
