"""The ledger: append-only in the database itself, hash-linked, gapless. Law 5; docs/rules.md."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields
from datetime import timedelta
from hashlib import sha256
from typing import Any, get_args

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.domain.audit import (
    ChannelClosed,
    ChannelRefused,
    LedgerEntry,
    ProcessStarted,
    RequestSubmitted,
    SessionClosed,
    StreamHead,
)
from broker.domain.capability import SHELL
from broker.domain.ids import AccessRequestId, AssetId, PersonId, SessionId, SiteId
from broker.domain.session import EndReason
from broker.store import ledger, schema
from broker.store.db import Tx
from tests.store.databases import KINDS, NOON, SECOND, Raw, Store, a_store
from tests.store.makers import Plant

KINDS_OF_ENTRY = list(get_args(LedgerEntry))


def some_entries(store: Store, number: int = 5) -> None:
    for one in range(number):
        with store.db.begin() as tx:
            ledger.append(tx, ProcessStarted(process="broker", version=str(one)))
        store.clock.forward(SECOND)


@pytest.fixture(scope="module", params=KINDS)
def five(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Five entries that no test here may lastingly change."""
    with a_store(request.param, request) as made:
        some_entries(made)
        yield made


def faults(store: Store) -> tuple[int, str] | None:
    with store.again().read() as tx:
        return ledger.verify(tx)


def test_an_entry_holds_its_fields_the_time_and_a_salt_and_its_hash_is_over_the_bytes_as_stored(store: Store) -> None:
    entry = RequestSubmitted(
        request_id=AccessRequestId("req-1"),
        person_id=PersonId("per-1"),
        site_id=SiteId("site-1"),
        assets=(AssetId("ast-1"), AssetId("ast-2")),
        capabilities=(SHELL,),
        opens=NOON + timedelta(microseconds=1),
        length_s=7200,
        reason="Zähler\tprüfen \U0001f50b",
        change=None,
    )
    with store.db.begin() as tx:
        assert ledger.append(tx, entry) == 1
    with store.raw() as run:
        [(seq, kind, body, leaf, link)] = run("SELECT seq, kind, body, hash, link FROM ledger")
    found = json.loads(bytes(body))
    salt = found.pop("salt")
    assert (seq, kind) == (1, "request.submitted")
    assert found == {
        "kind": "request.submitted",
        "at_ms": 1803470400000,
        "request_id": "req-1",
        "person_id": "per-1",
        "site_id": "site-1",
        "assets": ["ast-1", "ast-2"],
        "capabilities": ["shell"],
        "opens": "2027-02-24T12:00:00.000001Z",
        "length_s": 7200,
        "reason": "Zähler\tprüfen \U0001f50b",
        "change": None,
    }
    assert len(bytes.fromhex(salt)) == 16
    assert bytes(leaf) == sha256(b"\0" + bytes(body)).digest()
    assert bytes(link) == sha256(bytes(32) + bytes(leaf)).digest()


def test_equal_entries_have_different_hashes_so_an_erased_body_cannot_be_guessed(store: Store) -> None:
    with store.db.begin() as tx:
        for _ in range(2):
            ledger.append(tx, ProcessStarted(process="broker", version="1"))
    with store.raw() as run:
        assert len(set(run("SELECT hash FROM ledger"))) == 2


def test_each_kind_of_entry_has_a_name_of_its_own_and_is_kept_whole(store: Store) -> None:
    assert len({kind.kind for kind in KINDS_OF_ENTRY}) == len(KINDS_OF_ENTRY)
    with store.db.begin() as tx:
        for kind in KINDS_OF_ENTRY:
            ledger.append(tx, an_entry(kind))
        rows = ledger.since(tx, 0)
        assert ledger.verify(tx) is None
    for kind, row in zip(KINDS_OF_ENTRY, rows, strict=True):
        assert row.kind == kind.kind
        assert row.body.keys() == {"kind", "at_ms", "salt"} | {field.name for field in fields(kind)}


def an_entry(kind: type[Any]) -> LedgerEntry:
    """One with something of the right type in every field."""
    samples: dict[str, object] = {
        "datetime": NOON,
        "bool": True,
        "int": 7,
        "EndReason": EndReason.DONE,
        "tuple[Capability, ...]": (SHELL,),
        "tuple[StreamHead, ...]": (StreamHead(stream="01.screen", length=3, sha256="00"),),
        "tuple[str, ...]": ("a", "b"),
    }
    made: LedgerEntry = kind(**{field.name: samples.get(str(field.type), "text") for field in fields(kind)})
    return made


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger SET body = body WHERE seq = 2",
        "UPDATE ledger SET kind = 'x'",
        "UPDATE ledger SET seq = 99 WHERE seq = 5",
        "DELETE FROM ledger",
        "DELETE FROM ledger WHERE seq = 5",
        "DELETE FROM ledger_head",
        "UPDATE ledger_head SET size = size - 1",
        "UPDATE ledger_head SET size = 5",
        "UPDATE ledger_head SET size = size + 2",
        "INSERT INTO ledger SELECT * FROM ledger WHERE seq = 2",
        "INSERT INTO ledger_head SELECT 2, size, link, latest_ms FROM ledger_head",
    ],
)
def test_the_database_itself_refuses_to_change_or_remove_an_entry(five: Store, statement: str) -> None:
    with pytest.raises(sa.exc.IntegrityError), five.raw() as run:
        run(statement)
    assert faults(five) is None


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT OR REPLACE INTO ledger SELECT seq, 'x', body, hash, link FROM ledger WHERE seq = 2",
        "REPLACE INTO ledger_head SELECT 1, 0, link, latest_ms FROM ledger_head",
    ],
)
def test_sqlite_refuses_to_replace_what_is_there(sqlite_store: Store, statement: str) -> None:
    some_entries(sqlite_store)
    with pytest.raises(sa.exc.IntegrityError), sqlite_store.raw() as run:
        run(statement)
    assert faults(sqlite_store) is None


@pytest.mark.parametrize("table", ["ledger", "ledger_head"])
def test_postgresql_refuses_to_empty_the_ledger(postgres_store: Store, table: str) -> None:
    some_entries(postgres_store)
    with pytest.raises(sa.exc.IntegrityError), postgres_store.raw() as run:
        run(f"TRUNCATE {table}")
    assert faults(postgres_store) is None


def unguarded(store: Store, run: Raw) -> None:
    """What an attacker with the database's own rights does first."""
    if store.kind == "postgresql":
        for table in ("ledger", "ledger_head"):
            run(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
        return
    for (name,) in run("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name LIKE 'ledger%'"):
        run(f"DROP TRIGGER {name}")


FORGERIES = {
    "a changed body": ("UPDATE ledger SET body = :other WHERE seq = 3", 3, "body was changed"),
    "a changed body with its hash": (
        "UPDATE ledger SET body = :other, hash = :leaf WHERE seq = 3",
        3,
        "does not follow",
    ),
    "a rewritten entry with hash and link": (
        "UPDATE ledger SET body = :other, hash = :leaf, link = :link WHERE seq = 3",
        4,
        "does not follow",
    ),
    "a changed kind": ("UPDATE ledger SET kind = 'login.given' WHERE seq = 3", 3, "kind is not the one"),
    "an entry cut out": ("DELETE FROM ledger WHERE seq = 3", 3, "missing, the next one is 4"),
    "the newest entry cut off": ("DELETE FROM ledger WHERE seq = 5", 5, "head says 5 entries"),
    "the newest cut off and the head set back": (
        "DELETE FROM ledger WHERE seq = 5; UPDATE ledger_head SET size = 4",
        4,
        "link is not the last",
    ),
    "two entries exchanged": (
        "UPDATE ledger SET seq = 99 WHERE seq = 2; UPDATE ledger SET seq = 2 WHERE seq = 3;"
        "UPDATE ledger SET seq = 3 WHERE seq = 99",
        2,
        "does not follow",
    ),
    "an entry slipped in before the first": (
        "INSERT INTO ledger SELECT 0, kind, body, hash, link FROM ledger WHERE seq = 1",
        1,
        "the next one is 0",
    ),
    "an entry added without its head": (
        "INSERT INTO ledger SELECT 6, kind, body, hash, :link6 FROM ledger WHERE seq = 5",
        7,
        "holds 6",
    ),
    "everything gone but the head": ("DELETE FROM ledger", 1, "head says 5 entries"),
    "another head's link": ("UPDATE ledger_head SET link = :leaf", 5, "link is not the last"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_any_change_behind_the_programs_back_is_found(five: Store, forgery: str) -> None:
    statements, seq, said = FORGERIES[forgery]
    with contextlib.suppress(Undone), closing(five.again()) as db, db.begin() as tx:
        assert ledger.verify(tx) is None
        forge(five, tx, statements)
        found = ledger.verify(tx)
        assert found is not None
        assert (found[0], said in found[1]) == (seq, True), found
        raise Undone
    assert faults(five) is None


class Undone(Exception):
    """Ends a transaction without a trace."""


def forge(store: Store, tx: Tx, statements: str) -> None:
    def run(statement: str, **values: object) -> list[tuple[Any, ...]]:
        done = tx.conn.execute(sa.text(statement), values)
        return [tuple(row) for row in done] if done.returns_rows else []

    rows = run("SELECT body, hash, link FROM ledger ORDER BY seq")
    other = ledger.canonical(json.loads(bytes(rows[2][0])) | {"version": "forged"})
    leaf = ledger.leaf_hash(other)
    values: dict[str, object] = {
        "other": other,
        "leaf": leaf,
        "link": ledger.link_hash(bytes(rows[1][2]), leaf),
        "link6": ledger.link_hash(bytes(rows[4][2]), bytes(rows[4][1])),
    }
    unguarded(store, run)
    for statement in statements.split(";"):
        named = set(re.findall(r":([a-z0-9]+)", statement))
        run(statement, **{name: value for name, value in values.items() if name in named})


@pytest.fixture(scope="module")
def a_file(request: pytest.FixtureRequest) -> Iterator[Store]:
    with a_store("sqlite", request) as made:
        some_entries(made, 12)
        with made.raw() as run:
            unguarded(made, run)
        yield made


@settings(max_examples=60, deadline=None)
@given(
    seq=st.integers(1, 12),
    column=st.sampled_from(["body", "hash", "link"]),
    where=st.integers(0),
    bit=st.integers(0, 7),
)
def test_one_flipped_bit_of_any_entry_is_found(a_file: Store, seq: int, column: str, where: int, bit: int) -> None:
    row = schema.ledger.c[column]
    with closing(a_file.again()) as db, db.begin() as tx:
        whole = bytes(tx.conn.execute(sa.select(row).where(schema.ledger.c.seq == seq)).scalar_one())
        spot = where % len(whole)
        changed = whole[:spot] + bytes([whole[spot] ^ 1 << bit]) + whole[spot + 1 :]
        put = sa.update(schema.ledger).where(schema.ledger.c.seq == seq)
        tx.conn.execute(put.values({column: changed}))
        assert ledger.verify(tx) is not None
        tx.conn.execute(put.values({column: whole}))
        assert ledger.verify(tx) is None


def test_the_change_feed_gives_what_came_after_in_order_and_by_the_piece(store: Store) -> None:
    some_entries(store, 7)
    with store.db.read() as tx:
        assert [row.seq for row in ledger.since(tx, 0, limit=3)] == [1, 2, 3]
        assert [row.seq for row in ledger.since(tx, 5)] == [6, 7]
        assert ledger.since(tx, 7) == []
        assert [row.at for row in ledger.since(tx, 5)] == [NOON + 5 * SECOND, NOON + 6 * SECOND]


def test_the_newest_entries_are_found_by_kind_and_by_what_they_hold(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        grant = plant.grant(tx)
        plant.grant(tx, "engineer.two")
    with store.db.read() as tx:
        assert [row.kind for row in ledger.show(tx, last=2)] == ["approval.given", "grant.made"]
        assert [row.kind for row in ledger.show(tx, kind="grant")] == ["grant.made"] * 2
        assert [row.kind for row in ledger.show(tx, kind="grant.made", last=1)] == ["grant.made"]
        assert ledger.show(tx, kind="gran") == ledger.show(tx, kind="grant_made") == []
        assert [row.kind for row in ledger.show(tx, holding=grant.id)] == ["grant.made"]
        assert len(ledger.show(tx, holding=grant.request_id, last=2)) == 2
        seqs = [row.seq for row in ledger.show(tx)]
        assert seqs == sorted(seqs)


@given(text=st.text(max_size=60))
def test_no_foreign_text_can_stop_or_break_an_entry(a_file: Store, text: str) -> None:
    entry = ChannelRefused(person_id=PersonId("p"), asked=text, capability=text, reason=text, source=text)
    with a_file.db.begin() as tx:
        seq = ledger.append(tx, entry)
        [row] = ledger.since(tx, seq - 1)
    assert row.body["asked"] == text.encode("utf-8", "replace").decode()


def test_a_lone_surrogate_is_kept_as_a_question_mark(store: Store) -> None:
    heads = (StreamHead(stream="01.screen", length=0, sha256=""),)
    with store.db.begin() as tx:
        ledger.append(
            tx, ChannelClosed(session_id=SessionId("s"), channel=1, state="closed", exit="a\udc80b", heads=heads)
        )
        ledger.append(tx, SessionClosed(session_id=SessionId("s"), reason=EndReason.DONE, by=None, heads=heads))
        [closed, _] = ledger.since(tx, 0)
        assert ledger.verify(tx) is None
    assert (closed.body["exit"], closed.body["heads"]) == ("a?b", [{"stream": "01.screen", "length": 0, "sha256": ""}])
