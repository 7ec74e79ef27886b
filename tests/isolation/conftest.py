from __future__ import annotations

from tests.store.databases import postgres, postgres_store, sqlite_store, sqlite_template, store

__all__ = ["postgres", "postgres_store", "sqlite_store", "sqlite_template", "store"]
