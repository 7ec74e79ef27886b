"""The database: transactions with one fixed now, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DataError, DBAPIError, IntegrityError, ProgrammingError

from broker.clock import Clock
from broker.domain.errors import BrokerError, Code
from broker.store import schema, versions

P = ParamSpec("P")
T = TypeVar("T")
# Crockford's base32 without i, l, o, u: ids are read aloud over the telephone between a site and its vendor.
_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_BUSY_MS: Final = 5000
_NO_PRIVILEGE: Final = "42501"  # PostgreSQL 15 and later give nobody a schema to make tables in
_TURN: Final = "wicketgate_turn"  # an option of the connection: how its transactions begin; by default they write
_LOCK_HEAD: Final = sa.select(schema.ledger_head.c.size).with_for_update()
_MARK: Final = sa.select(schema.ledger_head.c.size)


@dataclass(frozen=True, slots=True)
class Tx:
    """One transaction. now: aware UTC, whole microseconds, the same for all that happens in it."""

    conn: sa.Connection
    now: datetime

    def new_id(self, prefix: str) -> str:
        """A fresh id such as req-4k7m2q9d: 40 random bits, unique by the table's key. prefix: of the noun."""
        return f"{prefix}-{''.join(secrets.choice(_ALPHABET) for _ in range(8))}"


class Database:
    """The one way to the rows; may be shared between threads. Made by `open`, ended by `close`."""

    def __init__(self, engine: sa.Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._sqlite = engine.dialect.name == "sqlite"
        # One lane for writers on SQLite: threads of one process would otherwise poll for the lock instead of queueing.
        self._write_turn = threading.Lock()
        self._writers = ThreadPoolExecutor(1 if self._sqlite else 4, thread_name_prefix="store-write")
        self._readers = ThreadPoolExecutor(1 if self._sqlite else 4, thread_name_prefix="store-read")
        self._file: tuple[int, int] | None = None
        self._mark_turn = threading.Lock()
        self._mark_conn: sa.Connection | None = None
        self._mark_version: int | None = None
        self._mark = 0

    @classmethod
    def open(cls, url: str, clock: Clock) -> Database:
        """Open the database of that URL: sqlite:///PATH or postgresql://...; nothing is read or made yet.

        Raises BrokerError(INVALID) for a URL that names no such database, UNAVAILABLE when its driver is not installed.
        """
        try:
            engine = _engine(_parse_url(url))
        except ImportError:
            raise BrokerError(
                Code.UNAVAILABLE, "the driver of PostgreSQL is missing; install: wicketgate[postgres]"
            ) from None
        return cls(engine, clock)

    @contextmanager
    def begin(self) -> Iterator[Tx]:
        """A write transaction: commits at the end, rolls back on any exception.

        One at a time over all processes and nodes: what was read in it still holds when it writes.
        Raises BrokerError(UNAVAILABLE) when the database cannot be had or cannot keep the change.
        """
        if self._sqlite:
            with self._write_turn:
                yield from self._transaction(read_only=False)
        else:
            yield from self._transaction(read_only=False)

    @contextmanager
    def read(self) -> Iterator[Tx]:
        """A read-only snapshot. Raises BrokerError(UNAVAILABLE)."""
        yield from self._transaction(read_only=True)

    def _transaction(self, *, read_only: bool) -> Iterator[Tx]:
        self._look_at_file()
        with _reachable(), self._connect("read" if read_only else "write") as conn, conn.begin():
            if not self._sqlite and not read_only:
                conn.execute(_LOCK_HEAD)
            # Read after the lock is held, so that instants rise in the order of the ledger.
            yield Tx(conn, self._clock.now().astimezone(UTC))

    def _look_at_file(self) -> None:
        """Hold SQLite's file against the one in use: an open connection goes on in a file that was moved away or removed.

        Facts would be written where nobody finds them. A file put in its place is refused too: the old one's write-ahead log
        would be played into it. Raises BrokerError(UNAVAILABLE).
        """
        if not self._sqlite or self._engine.url.database is None:
            return
        try:
            found = os.stat(self._engine.url.database)
        except OSError:
            if self._file is None:  # not made yet: the transaction itself says what is wrong
                return
            raise BrokerError(Code.UNAVAILABLE, "database: its file is gone; put it back") from None
        here = (found.st_dev, found.st_ino)
        self._file = self._file or here
        if self._file != here:
            raise BrokerError(
                Code.UNAVAILABLE,
                "database: another file stands in its place; stop wicketgate before restoring a backup",
            )

    def _connect(self, turn: str) -> sa.Connection:
        return self._engine.connect().execution_options(**{_TURN: turn})

    async def run(self, fn: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """fn(tx, ...) inside `begin`, in a thread of the database's own; a cancelled caller does not undo it."""
        return await self._in_thread(self._writers, self.begin, fn, *args, **kwargs)

    async def look(self, fn: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """fn(tx, ...) inside `read`, in a thread of the database's own."""
        return await self._in_thread(self._readers, self.read, fn, *args, **kwargs)

    async def _in_thread(
        self, lane: ThreadPoolExecutor, start: Any, fn: Callable[..., T], /, *args: Any, **kwargs: Any
    ) -> T:
        def inside() -> T:
            with start() as tx:
                return fn(tx, *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(lane, inside)

    def migrate(self) -> None:
        """Bring the tables to the newest version; does nothing when they are.

        Raises BrokerError(UNAVAILABLE), also for tables newer than this program.
        """
        from broker.store import migrate  # Alembic costs a tenth of a second, and only init and upgrades need it

        with _reachable():
            with self._connect("read") as conn:
                found = versions.stored(conn)
            if found is not None and found not in versions.KNOWN:
                versions.check(found)
            migrate.upgrade(self._engine)

    def check_schema(self) -> None:
        """Raise BrokerError(UNAVAILABLE), saying how to mend it, unless the tables are this program's own version."""
        with _reachable(), self._connect("read") as conn:
            found = versions.stored(conn)
        versions.check(found)

    def change_mark(self) -> int:
        """The ledger's last sequence number, 0 when it is empty: cheap enough for several looks a second.

        Raises BrokerError(UNAVAILABLE); the next call tries again on a new connection.
        """
        with self._mark_turn:
            self._look_at_file()
            try:
                return self._read_mark()
            except DBAPIError as error:
                self._drop_mark()
                raise _unavailable(error) from error

    def _read_mark(self) -> int:
        if self._mark_conn is None:
            self._mark_conn = self._connect("none")
            if not self._sqlite:
                self._mark_conn = self._mark_conn.execution_options(isolation_level="AUTOCOMMIT")
            self._mark_version = None
        if self._sqlite:
            # data_version moves when any other connection has committed; this one never writes. Reads no page of ours.
            version = self._mark_conn.exec_driver_sql("PRAGMA data_version").scalar_one()
            if version == self._mark_version:
                return self._mark
            self._mark_version = version
        self._mark = int(self._mark_conn.execute(_MARK).scalar_one())
        return self._mark

    def _drop_mark(self) -> None:
        conn, self._mark_conn = self._mark_conn, None
        if conn is not None:
            conn.invalidate()
            conn.close()

    def close(self) -> None:
        """Wait for what runs, then end the threads and connections; a second call does nothing."""
        self._writers.shutdown(wait=True)
        self._readers.shutdown(wait=True)
        with self._mark_turn:
            if self._mark_conn is not None:
                self._mark_conn.close()
                self._mark_conn = None
        self._engine.dispose()


def _parse_url(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError:
        url = None
    if url is None or url.get_backend_name() not in ("sqlite", "postgresql"):
        raise BrokerError(Code.INVALID, "database: write sqlite:///PATH or postgresql://HOST/NAME")
    if url.get_backend_name() == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if not url.database or url.database == ":memory:":
        raise BrokerError(Code.INVALID, "database: SQLite needs a file, several processes share it")
    return url


def _engine(url: URL) -> sa.Engine:
    if url.get_backend_name() == "sqlite":
        engine = sa.create_engine(
            url,
            connect_args={"isolation_level": None, "check_same_thread": False, "timeout": _BUSY_MS / 1000},
            pool_size=4,
            max_overflow=16,
        )
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine
    # A node that freezes inside a transaction would stop all others: PostgreSQL ends it after five seconds.
    options = "-c lock_timeout=5s -c idle_in_transaction_session_timeout=5s -c timezone=UTC"
    engine = sa.create_engine(
        url, connect_args={"options": options, "connect_timeout": 5}, pool_size=4, max_overflow=16, pool_pre_ping=True
    )
    sa.event.listen(engine, "begin", _begin_postgresql)
    return engine


def _prepare_sqlite(raw: Any, _record: Any) -> None:
    cursor = raw.cursor()
    # FULL, not NORMAL: after a power cut NORMAL may forget the last commit, and a spent code would be good again.
    for pragma in (f"busy_timeout={_BUSY_MS}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(conn: sa.Connection) -> None:
    # The driver would BEGIN at the first write: read-then-write would not be one transaction. Ours starts before the read.
    turn = conn.get_execution_options().get(_TURN, "write")
    if turn != "none":
        # PostgreSQL refuses to write in a read transaction; here it must not work by accident either.
        conn.exec_driver_sql(f"PRAGMA query_only={'ON' if turn == 'read' else 'OFF'}")
        conn.exec_driver_sql("BEGIN" if turn == "read" else "BEGIN IMMEDIATE")


def _begin_postgresql(conn: sa.Connection) -> None:
    if conn.get_execution_options().get(_TURN) == "read":
        conn.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


@contextmanager
def _reachable() -> Iterator[None]:
    """One line for whoever runs the site when the database is away, full, damaged or closed to us; a bug of ours stays one."""
    try:
        yield
    except DatabaseError as error:
        ours = isinstance(error, IntegrityError | ProgrammingError | DataError)
        if ours and getattr(error.orig, "sqlstate", None) != _NO_PRIVILEGE:
            raise
        raise _unavailable(error) from error


def _unavailable(error: DBAPIError) -> BrokerError:
    # The driver's first line says what is wrong and holds no value of ours; the rest of SQLAlchemy's text may.
    said = str(error.orig).strip().splitlines()
    return BrokerError(Code.UNAVAILABLE, f"database: {said[0] if said else 'no answer'}")
