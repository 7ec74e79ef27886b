from __future__ import annotations

from tests.store.databases import postgres, postgres_store, sqlite_store, sqlite_template, store
from tests.store.makers import plant

__all__ = ["plant", "postgres", "postgres_store", "sqlite_store", "sqlite_template", "store"]
