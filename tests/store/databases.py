"""The two databases every store test runs on: SQLite in a file, and a real PostgreSQL that the test run starts for itself."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, Final

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql

from broker.store.db import Database

NOON: Final = datetime(2027, 2, 24, 12, 0, tzinfo=UTC)
HOUR: Final = timedelta(hours=1)
MINUTE: Final = timedelta(minutes=1)
SECOND: Final = timedelta(seconds=1)
KINDS: Final = ("sqlite", "postgresql")
Raw = Callable[..., list[tuple[Any, ...]]]
"""Runs SQL as written, with :name for values; gives the rows."""
_READY: Final = "ready to accept connections"
_TEMPLATE: Final = "wicketgate_template"
# Durability is not what these tests are about, and a checkpoint on a shared disk costs more than all of them.
_FAST: Final = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "autovacuum=off")


class HandClock:
    """A clock that stands until somebody moves it."""

    def __init__(self, now: datetime = NOON) -> None:
        self.wall = now

    def now(self) -> datetime:
        return self.wall

    def monotonic_us(self) -> int:
        return int(self.wall.timestamp() * 1e6)

    def forward(self, length: timedelta) -> datetime:
        self.wall += length
        return self.wall


@dataclass
class Store:
    """One fresh database with all its tables."""

    kind: str
    url: str
    clock: HandClock
    db: Database
    opened: list[Database] = field(default_factory=list)

    def again(self) -> Database:
        """Another way to the same rows, as another process has it."""
        self.opened.append(Database.open(self.url, self.clock))
        return self.opened[-1]

    @contextlib.contextmanager
    def raw(self) -> Iterator[Raw]:
        """The rows without the program: as somebody with the database's own tools sees and changes them."""
        with self.again().begin() as tx:

            def run(statement: str, **values: object) -> list[tuple[Any, ...]]:
                done = tx.conn.execute(sa.text(statement), values)
                return [tuple(row) for row in done] if done.returns_rows else []

            yield run

    def close(self) -> None:
        for one in [self.db, *self.opened]:
            one.close()


class Postgres:
    """A PostgreSQL of this test run alone: reached by a Unix socket in its own folder, so that no port can be taken."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bin = _newest_bin()
        self._lines: list[str] = []
        self._told = threading.Event()
        self._count = 0
        self._server = self._start()

    def _start(self) -> subprocess.Popen[str]:
        data = self._folder / "data"
        account = _unprivileged()
        if account is not None:
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        initdb = [
            f"{self._bin}/initdb",
            "-D",
            str(data),
            "-U",
            "wicketgate",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
            "--no-sync",
        ]
        made = subprocess.run(
            [*_as(account), *initdb], cwd="/", capture_output=True, text=True, timeout=60, check=False
        )
        assert made.returncode == 0, f"initdb failed: {made.stderr}"
        options = [part for one in (*_FAST, "listen_addresses=", "max_connections=60") for part in ("-c", one)]
        server = subprocess.Popen(
            [*_as(account), self._bin / "postgres", "-D", data, "-k", self._folder, *options],
            cwd="/",
            stderr=subprocess.PIPE,
            text=True,
        )
        assert server.stderr is not None
        threading.Thread(target=self._listen, args=(server.stderr,), daemon=True).start()
        ready = self._told.wait(30) and server.poll() is None
        if not ready:
            _stop(server)
        assert ready, f"PostgreSQL did not start: {self._lines[-5:]}"
        return server

    def _listen(self, said: IO[str]) -> None:
        for line in said:
            self._lines = [*self._lines[-20:], line]
            if _READY in line:
                self._told.set()
        self._told.set()  # it has ended

    def make(self, template: str) -> str:
        """A new database, a copy of that one; gives its name."""
        self._count += 1
        name = f"wicketgate_{self._count}"
        self._do(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
        return name

    def drop(self, name: str) -> None:
        self._do(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def make_template(self) -> None:
        """The tables, made once by the program's own migration."""
        self._do(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_TEMPLATE)))
        _migrate(self.url(_TEMPLATE))

    def url(self, name: str, account: str = "wicketgate") -> str:
        return f"postgresql://{account}@/{name}?host={self._folder}"

    def _do(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True, connect_timeout=10) as conn:
            conn.execute(statement)

    def stop(self) -> None:
        _stop(self._server)


def _stop(server: subprocess.Popen[str]) -> None:
    server.send_signal(signal.SIGINT)
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait(10)
    if server.stderr is not None:
        server.stderr.close()


def _newest_bin() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    assert found, "PostgreSQL is missing and these tests need it; make test-tools installs it"
    return found[-1].parent


def _unprivileged() -> pwd.struct_passwd | None:
    """Whom PostgreSQL runs as: it refuses to be root. None: as we are."""
    if os.getuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _as(account: pwd.struct_passwd | None) -> list[str]:
    """Under that account; --pdeathsig: it ends with us, also when we are killed."""
    become = (
        [] if account is None else ["--reuid", str(account.pw_uid), "--regid", str(account.pw_gid), "--clear-groups"]
    )
    return ["setpriv", "--pdeathsig", "INT", *become, "--"]


def _migrate(url: str) -> None:
    db = Database.open(url, HandClock())
    db.migrate()
    db.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for the run, or for each worker of it. A machine without PostgreSQL fails here, it does not skip."""
    folder = Path(tempfile.mkdtemp(prefix="wg-pg-"))  # short: a socket's path has at most 107 bytes
    try:
        server = Postgres(folder)
        try:
            server.make_template()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("template") / "wicketgate.db"
    _migrate(f"sqlite:///{file}")
    return file


@contextlib.contextmanager
def a_store(kind: str, request: pytest.FixtureRequest) -> Iterator[Store]:
    """A fresh database of that kind, gone afterwards."""
    clock = HandClock()
    if kind == "sqlite":
        template: Path = request.getfixturevalue("sqlite_template")
        with tempfile.TemporaryDirectory(prefix="wg-db-") as folder:
            shutil.copy(template, Path(folder, "wicketgate.db"))
            url = f"sqlite:///{folder}/wicketgate.db"
            with contextlib.closing(Store(kind, url, clock, Database.open(url, clock))) as store:
                yield store
        return
    server: Postgres = request.getfixturevalue("postgres")
    name = server.make(_TEMPLATE)
    url = server.url(name)
    try:
        with contextlib.closing(Store(kind, url, clock, Database.open(url, clock))) as store:
            yield store
    finally:
        server.drop(name)


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """A fresh database, on each of the two."""
    with a_store(request.param, request) as made:
        yield made


@pytest.fixture
def sqlite_store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """For what only a file can suffer."""
    with a_store("sqlite", request) as made:
        yield made


@pytest.fixture
def postgres_store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """For what only a server can suffer."""
    with a_store("postgresql", request) as made:
        yield made
