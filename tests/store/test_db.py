"""The database itself: one writer at a time, one now, all or nothing, and one line when it cannot be had. Law 5."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import given
from hypothesis import strategies as st

from broker import gate
from broker.domain.audit import ProcessStarted
from broker.domain.errors import BrokerError, Code
from broker.domain.grant import Grant
from broker.domain.session import EndReason
from broker.store import ledger, migrate, schema, versions, windows
from broker.store.columns import Instant, Length
from broker.store.db import Database, Tx
from tests.store.databases import KINDS, NOON, SECOND, HandClock, Postgres, Store, a_store
from tests.store.makers import Plant

ENTRY = ProcessStarted(process="broker", version="0")
MANY = 8


class Stop(Exception):
    """Somebody gives up inside a transaction."""


def give_up(_: object) -> None:
    raise Stop


def write(tx: Tx, entry: ProcessStarted = ENTRY) -> int:
    return ledger.append(tx, entry)


def test_now_is_one_instant_for_a_whole_transaction_and_whole_microseconds(store: Store) -> None:
    with store.db.begin() as tx:
        first = tx.now
        store.clock.forward(SECOND)
        assert tx.now == first == NOON
    with store.db.begin() as tx:
        assert tx.now == NOON + SECOND


def test_law_5_an_exception_leaves_neither_the_fact_nor_its_entry(store: Store, plant: Plant) -> None:
    with store.db.read() as tx:
        before = ledger.head(tx)
    with pytest.raises(Stop), store.db.begin() as tx:
        give_up(plant.grant(tx))
    with store.db.read() as tx:
        assert ledger.head(tx) == before
        assert not ledger.show(tx, kind="grant")
    with store.raw() as run:
        assert run("SELECT count(*) FROM access_grant") == [(0,)]


def test_law_5_a_process_killed_inside_a_transaction_leaves_nothing_and_no_lock(store: Store, plant: Plant) -> None:
    code = (
        "import sys\n"
        "from broker.clock import SystemClock\n"
        "from broker.store import inventory\n"
        "from broker.store.db import Database\n"
        "with Database.open(sys.argv[1], SystemClock()).begin() as tx:\n"
        "    inventory.insert_site(tx, name='south', time_zone='UTC', by='x')\n"
        "    print('written', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, store.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "written\n"
        child.kill()
        child.wait(10)
    with store.db.begin() as tx:
        assert not ledger.show(tx, holding="south")
        assert ledger.verify(tx) is None
        write(tx)


def test_a_read_transaction_cannot_write_on_either_database(store: Store) -> None:
    with pytest.raises(BrokerError, match=r"read-?only") as told, store.db.read() as tx:
        write(tx)
    assert told.value.code is Code.UNAVAILABLE
    with store.db.begin() as tx:  # and the connection it used can write again
        assert write(tx) == 1


def test_a_reader_sees_one_state_however_long_it_looks(store: Store) -> None:
    with store.db.read() as tx:
        before = ledger.head(tx)
        with store.again().begin() as other:
            write(other)
        assert ledger.head(tx) == before
    with store.db.read() as tx:
        assert ledger.head(tx)[0] == before[0] + 1


def test_writers_of_several_processes_take_turns_so_what_was_read_still_holds(store: Store) -> None:
    """Each reads the head, waits for the others to have started, then writes from what it read."""
    databases = [store.again() for _ in range(MANY)]
    start = threading.Barrier(MANY)

    def count_up(db: Database) -> list[int]:
        start.wait(10)
        seen = []
        for turn in range(5):
            try:
                with db.begin() as tx:
                    size, _ = ledger.head(tx)
                    seq = write(tx)
                    assert seq == size + 1
                    if turn == 2:
                        raise Stop
                    seen.append(seq)
            except Stop:
                pass
        return seen

    with ThreadPoolExecutor(MANY) as pool:
        seen = [seq for one in pool.map(count_up, databases) for seq in one]
    assert sorted(seen) == list(range(1, MANY * 4 + 1)), "gapless, also after those that were rolled back"
    with store.db.read() as tx:
        assert ledger.verify(tx) is None
        assert ledger.head(tx)[0] == MANY * 4


def test_instants_rise_in_the_order_of_the_ledger_even_when_writers_wait_for_each_other(store: Store) -> None:
    class Ticking(HandClock):
        def now(self) -> datetime:
            with lock:
                return self.forward(SECOND)

    lock, clock = threading.Lock(), Ticking()
    databases = [Database.open(store.url, clock) for _ in range(4)]

    def some(db: Database) -> None:
        for _ in range(5):
            with db.begin() as tx:
                write(tx)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(some, databases))
    for db in databases:
        db.close()
    with store.db.read() as tx:
        instants = [row.at for row in ledger.since(tx, 0)]
    assert len(instants) == 20
    assert instants == sorted(instants)


def test_ids_are_short_readable_and_unique(store: Store) -> None:
    with store.db.begin() as tx:
        ids = {tx.new_id("req") for _ in range(5000)}
    assert len(ids) == 5000
    assert all(re.fullmatch(r"req-[0-9a-hjkmnp-tv-z]{8}", one) for one in ids)


def test_two_rows_of_one_id_cannot_be(store: Store, plant: Plant) -> None:
    with pytest.raises(sa.exc.IntegrityError), store.raw() as run:
        run("INSERT INTO vendor (id, name) VALUES (:id, 'another')", id=plant.vendor.id)


zones = st.builds(timezone, st.timedeltas(min_value=timedelta(hours=-23), max_value=timedelta(hours=23)))
instants = st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2999, 1, 1), timezones=zones)  # noqa: DTZ001


@pytest.fixture(scope="module", params=KINDS)
def plain(request: pytest.FixtureRequest) -> Iterator[Store]:
    with a_store(request.param, request) as made:
        yield made


@given(instant=instants, length=st.timedeltas(min_value=timedelta(days=-9999), max_value=timedelta(days=9999)))
def test_an_instant_of_any_zone_comes_back_as_the_same_instant_in_utc_to_the_microsecond(
    plain: Store, instant: datetime, length: timedelta
) -> None:
    with plain.db.read() as tx:
        row = tx.conn.execute(sa.select(sa.literal(instant, Instant), sa.literal(length, Length))).one()
    assert (row[0], row[0].tzinfo, row[1]) == (instant, UTC, length)


def test_the_change_mark_moves_with_each_commit_of_anybody_and_not_with_a_rollback(store: Store) -> None:
    watcher, other = store.again(), store.again()
    assert watcher.change_mark() == 0
    with pytest.raises(Stop), other.begin() as tx:
        give_up(write(tx))
    assert watcher.change_mark() == 0
    with other.begin() as tx:
        write(tx)
        assert watcher.change_mark() == 0, "not before the commit"
    assert watcher.change_mark() == 1
    with watcher.begin() as tx:
        write(tx)
    assert watcher.change_mark() == 2, "also its own"


async def test_a_cancelled_caller_does_not_undo_what_was_begun(store: Store) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slowly(tx: Tx) -> None:
        began.set()
        assert go_on.wait(10)
        write(tx)

    task = asyncio.create_task(store.db.run(slowly))
    assert await asyncio.to_thread(began.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    assert (await store.db.run(ledger.head))[0] == 1


def test_closing_twice_does_nothing_more(store: Store) -> None:
    store.db.change_mark()
    store.db.close()
    store.db.close()


# --- the tables and their versions


def test_the_tables_are_what_the_newest_migration_leaves(store: Store) -> None:
    with store.db.read() as tx:
        context = MigrationContext.configure(tx.conn, opts={"compare_type": True})
        assert compare_metadata(context, schema.site.metadata) == []
        found = sa.inspect(tx.conn)
        for table in schema.site.metadata.tables.values():
            checks = {one["name"] for one in found.get_check_constraints(table.name)}
            wanted = {str(one.name) for one in table.constraints if isinstance(one, sa.CheckConstraint)}
            assert checks == wanted, table.name


def test_the_known_versions_are_those_of_the_scripts() -> None:
    scripts = ScriptDirectory(str(Path(migrate.__file__).parent / "migrations"))
    assert tuple(one.revision for one in reversed(list(scripts.walk_revisions()))) == versions.KNOWN
    assert versions.KNOWN[-1] == migrate.newest()


def test_an_upgrade_from_the_first_release_loses_nothing(
    store: Store, plant: Plant, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Every row of every table of 0001, made by people's real deeds, is the same after the upgrade."""
    with store.db.begin() as tx:
        asked = plant.submit(tx, assets=("pcs-01.north",))
        plant.approve(tx, asked.id)
        plant.grant(tx)
        entered = plant.entered(tx)
        gate.leave(tx, session_id=entered.session_id, reason=EndReason.DONE)
    with an_empty_url(store.kind, request, tmp_path) as url, contextlib.closing(Database.open(url, store.clock)) as old:
        migrate.upgrade(old._engine, "0001")
        kept = copy_to_the_first_release(store, old)
        assert kept.keys() >= {"approval", "access_grant", "access_session", "ledger", "person_key"}
        old.migrate()
        old.check_schema()
        with old.read() as tx:
            for table, rows in kept.values():
                found = tx.conn.execute(sa.select(table)).all()
                assert sorted(map(repr, found)) == sorted(map(repr, rows)), table.name
            assert ledger.verify(tx) is None
            earlier = replace(tx, now=tx.now - timedelta(hours=2))
            assert ledger.clock_behind(earlier) == timedelta(hours=2), "a clock set back over the upgrade is noticed"
            window = windows.load_window(tx, plant.window.id)
            assert (window.interval, window.daily, window.extensions) == (plant.window.interval, None, 0)
        with old.begin() as tx:
            assert isinstance(plant.approve(tx, asked.id, "owner2"), Grant), "a first yes of before still counts"


def copy_to_the_first_release(store: Store, old: Database) -> dict[str, tuple[Any, list[Any]]]:
    """Put the rows of a store into tables of the first release; gives both by the table's name, none for an empty one."""
    kept: dict[str, tuple[Any, list[Any]]] = {}
    with store.db.read() as here, old.begin() as there:
        found = sa.inspect(there.conn)
        names = set(found.get_table_names())
        assert "suspension" not in names
        for table in schema.site.metadata.sorted_tables:
            if table.name not in names - {"request_transition"}:  # whose rows are the migration's own
                continue
            bare = sa.table(table.name, *(sa.column(one["name"]) for one in found.get_columns(table.name)))
            rows = here.conn.execute(sa.select(bare)).all()
            for row in rows:
                put(there, bare, row._asdict())
            if rows:
                kept[table.name] = (bare, list(rows))
    return kept


def put(tx: Tx, table: sa.TableClause, row: dict[str, Any]) -> None:
    """Make a row by the way that the tables' own guards leave: the head grows by one, a request is born pending."""
    match table.name:
        case "ledger_head":
            for size in range(1, row["size"] + 1):
                tx.conn.execute(sa.update(table).values(size=size, link=row["link"]))
        case "access_request":
            tx.conn.execute(sa.insert(table).values(row | {"state": "pending", "prior_state": None, "step": None}))
            if row["state"] != "pending":
                tx.conn.execute(sa.update(table).where(table.c.id == row["id"]).values(row))
        case _:
            tx.conn.execute(sa.insert(table).values(row))


def test_migrating_what_is_new_already_does_nothing(store: Store, plant: Plant) -> None:
    store.db.migrate()
    store.db.check_schema()
    with store.db.read() as tx:
        assert ledger.verify(tx) is None


def set_version(store: Store, version: str) -> None:
    with store.raw() as run:
        run("UPDATE alembic_version SET version_num = :version", version=version)


@pytest.mark.parametrize("act", [Database.check_schema, Database.migrate])
def test_tables_of_a_newer_release_are_refused_in_one_line_and_left_alone(
    store: Store, act: Callable[[Database], None]
) -> None:
    set_version(store, "0099")
    with pytest.raises(BrokerError, match=r"newer than this program .* install the newer wicketgate") as told:
        act(store.db)
    assert told.value.code is Code.UNAVAILABLE
    with store.raw() as run:
        assert run("SELECT version_num FROM alembic_version") == [("0099",)]


def test_tables_of_an_older_release_ask_for_migrate(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "KNOWN", (*versions.KNOWN, "9999"))
    with pytest.raises(BrokerError, match=r"older than this program .* run: wicketgate migrate"):
        store.db.check_schema()


@pytest.fixture(params=KINDS)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of a database without any tables."""
    with an_empty_url(request.param, request, tmp_path) as url:
        yield url


@contextlib.contextmanager
def an_empty_url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{tmp_path}/new.db"
        return
    server: Postgres = request.getfixturevalue("postgres")
    name = server.make("template0")
    yield server.url(name)
    server.drop(name)


def test_a_database_without_tables_says_how_to_get_them(empty_url: str) -> None:
    db = Database.open(empty_url, HandClock())
    with pytest.raises(
        BrokerError, match="no tables; restore it from your backup, or make new ones with: wicketgate migrate"
    ):
        db.check_schema()
    db.close()


def test_those_who_migrate_at_once_all_find_it_done(empty_url: str) -> None:
    code = (
        "import sys\n"
        "from broker.clock import SystemClock\n"
        "from broker.store import migrate\n"
        "from broker.store.db import Database\n"
        "db = Database.open(sys.argv[1], SystemClock())\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "db.migrate(); db.check_schema(); db.close()\n"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, empty_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.communicate("go\n", timeout=30)
    assert [child.returncode for child in children] == [0, 0, 0]
    db = Database.open(empty_url, HandClock())
    with db.begin() as tx:
        assert write(tx) == 1
    db.close()


# --- bad input: one line, nothing begun


@pytest.mark.parametrize("url", ["", "kestrel", "mysql://host/name", "sqlite://", "sqlite:///:memory:", "sqlite:///"])
def test_a_url_of_no_database_of_ours_is_refused(url: str) -> None:
    with pytest.raises(BrokerError, match="database: ") as told:
        Database.open(url, HandClock())
    assert told.value.code is Code.INVALID


def test_a_file_that_is_no_database_is_named_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "wicketgate.db"
    file.write_bytes(b"something else entirely\n" * 300)
    before = file.read_bytes()
    db = Database.open(f"sqlite:///{file}", HandClock())
    for act in (db.check_schema, db.migrate, db.change_mark, lambda: db.read().__enter__()):
        with pytest.raises(BrokerError, match="database: file is not a database") as told:
            act()
        assert told.value.code is Code.UNAVAILABLE
    db.close()
    assert file.read_bytes() == before


def test_a_damaged_database_is_named_in_one_line(sqlite_store: Store) -> None:
    sqlite_store.db.close()
    file = Path(sqlite_store.url.removeprefix("sqlite:///"))
    whole = file.read_bytes()
    file.write_bytes(whole[:4096] + os.urandom(len(whole) - 4096))
    db = sqlite_store.again()
    with pytest.raises(BrokerError, match="malformed") as told, db.begin() as tx:
        write(tx)
    assert told.value.code is Code.UNAVAILABLE


def test_a_server_that_is_away_is_named_in_one_line(tmp_path: Path) -> None:
    db = Database.open(f"postgresql:///wicketgate?host={tmp_path}", HandClock())
    with pytest.raises(BrokerError, match="database: connection") as told, db.begin():
        pass
    assert told.value.code is Code.UNAVAILABLE
    assert "\n" not in told.value.detail
    db.close()


def test_an_account_that_may_not_make_tables_is_told_so_in_one_line(postgres: Postgres, postgres_store: Store) -> None:
    store = postgres_store
    with store.raw() as run:
        run("CREATE ROLE guest LOGIN")
        run("REVOKE CREATE ON SCHEMA public FROM PUBLIC")  # as it is from PostgreSQL 15 on
    name = store.url.partition("@/")[2].partition("?")[0]
    db = Database.open(postgres.url(name, "guest"), HandClock())
    with pytest.raises(BrokerError, match="permission denied"):
        db.migrate()
    db.close()
    with store.raw() as run:
        run("DROP ROLE guest")


def test_a_missing_driver_is_named_with_its_remedy() -> None:
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from broker.clock import SystemClock\n"
        "from broker.domain.errors import BrokerError\n"
        "from broker.store.db import Database\n"
        "try: Database.open('postgresql:///x', SystemClock())\n"
        "except BrokerError as told: print(told.detail)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "the driver of PostgreSQL is missing; install: wicketgate[postgres]\n"


def test_a_lock_that_is_not_given_back_is_a_line_and_not_a_hang(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.store.db._BUSY_MS", 200)
    hasty = store.again()
    with store.db.begin():
        if store.kind == "postgresql":
            with hasty.read() as tx:  # its own connection, kept in the pool
                tx.conn.exec_driver_sql("SET lock_timeout = '200ms'")
        with pytest.raises(BrokerError, match="lock") as told, hasty.begin():
            pass
    assert told.value.code is Code.UNAVAILABLE
    with hasty.begin() as tx:
        assert write(tx) == 1


def test_a_node_that_freezes_inside_a_transaction_does_not_stop_the_others(postgres_store: Store) -> None:
    def freeze(frozen: Tx) -> None:
        frozen.conn.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = '200ms'")
        write(frozen)
        with postgres_store.again().begin() as tx:  # waits for the server to end the frozen one
            assert write(tx) == 1
        write(frozen)

    with pytest.raises(BrokerError, match="database: ") as told, postgres_store.db.begin() as tx:
        freeze(tx)
    assert told.value.code is Code.UNAVAILABLE
    with postgres_store.db.begin() as tx:
        assert (write(tx), ledger.verify(tx)) == (2, None)


def test_what_is_wrong_with_our_own_statement_stays_a_bug(store: Store, plant: Plant) -> None:
    with pytest.raises(sa.exc.IntegrityError), store.db.begin() as tx:
        tx.conn.execute(sa.insert(schema.zone).values(id="zone-1", site_id="nowhere", name="z"))


def a_file_of_its_own(tmp_path: Path, name: str) -> tuple[Database, Path]:
    db = Database.open(f"sqlite:///{tmp_path / name}", HandClock())
    db.migrate()
    db.change_mark()
    return db, tmp_path / name


def test_a_file_that_is_gone_takes_no_facts_and_no_empty_one_is_made_in_its_place(tmp_path: Path) -> None:
    db, path = a_file_of_its_own(tmp_path, "site.db")
    with db.begin() as tx:
        write(tx)
    mark = db.change_mark()
    path.rename(tmp_path / "aside.db")
    for act in (lambda: db.begin().__enter__(), lambda: db.read().__enter__(), db.change_mark):
        with pytest.raises(BrokerError, match="its file is gone; put it back") as told:
            act()
        assert told.value.code is Code.UNAVAILABLE
    assert not path.exists()
    (tmp_path / "aside.db").rename(path)
    assert db.change_mark() == mark
    with db.begin() as tx:
        write(tx)
    assert db.change_mark() == mark + 1
    db.close()


def test_a_file_put_in_the_place_of_another_is_refused_for_its_log_is_the_others(tmp_path: Path) -> None:
    db, path = a_file_of_its_own(tmp_path, "site.db")
    other, copy = a_file_of_its_own(tmp_path, "restored.db")
    other.close()
    copy.replace(path)
    for act in (lambda: db.begin().__enter__(), lambda: db.read().__enter__(), db.change_mark):
        with pytest.raises(BrokerError, match="another file stands in its place; stop wicketgate before restoring"):
            act()
    db.close()
