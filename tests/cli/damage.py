"""What can be wrong with a home: each takes a deployment and breaks one thing of it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from broker.clock import SystemClock
from broker.store import inventory
from broker.store.db import Database
from tests.cli.deployment import Deployment

CLOCK = SystemClock()
Breaks = Callable[[Deployment], None]


class Tomorrow:
    """A clock that is a day ahead."""

    def now(self) -> datetime:
        return CLOCK.now() + timedelta(days=1)

    def monotonic_us(self) -> int:
        return CLOCK.monotonic_us()


def replace(path: Path, data: bytes) -> None:
    mode = path.stat().st_mode
    path.write_bytes(data)
    path.chmod(mode)


def newer_schema(deployment: Deployment) -> None:
    with sqlite3.connect(deployment.path / "wicketgate.db") as conn:
        conn.execute("UPDATE alembic_version SET version_num = '9999'")
    conn.close()


def entry_from_tomorrow(deployment: Deployment) -> None:
    db = Database.open(f"sqlite:///{deployment.path / 'wicketgate.db'}", Tomorrow())
    with db.begin() as tx:
        inventory.insert_vendor(tx, name="early", by="local:test")
    db.close()


def no_tables(deployment: Deployment) -> None:
    for path in deployment.path.glob("wicketgate.db*"):
        path.unlink()
    (deployment.path / "wicketgate.db").touch()


def damaged_database(deployment: Deployment) -> None:
    for path in deployment.path.glob("wicketgate.db-*"):
        path.unlink()
    replace(deployment.path / "wicketgate.db", b"\xa5" * 8192)


def another_key(deployment: Deployment) -> None:
    keys = deployment.path / "keys/ca"
    replace(keys / "gate.pub", (keys / "asset.pub").read_bytes())


def cut(name: str) -> Breaks:
    return lambda deployment: replace(deployment.path / name, (deployment.path / name).read_bytes()[:-120])


def drop(name: str) -> Breaks:
    def remove(deployment: Deployment) -> None:
        path = deployment.path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove


def mode(name: str, bits: int) -> Breaks:
    return lambda deployment: (deployment.path / name).chmod(bits)


def add(line: str) -> Breaks:
    def append(deployment: Deployment) -> None:
        with deployment.home.settings_path.open("a") as file:
            file.write(line + "\n")

    return append
