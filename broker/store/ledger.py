"""The ledger: append-only, hash-linked, and the only change feed."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from hashlib import sha256
from typing import Any, Final

import sqlalchemy as sa

from broker.domain.audit import LedgerEntry
from broker.domain.capability import Capability
from broker.store import schema
from broker.store.db import Tx

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ROWS: Final = schema.ledger
_HEAD: Final = schema.ledger_head
_LOAD_HEAD: Final = sa.select(_HEAD.c.size, _HEAD.c.link, _HEAD.c.latest_ms)
_LAST: Final = sa.select(_ROWS.c.body).order_by(_ROWS.c.seq.desc()).limit(1)
_SET_HEAD: Final = (
    sa.update(_HEAD)
    .where(_HEAD.c.size == sa.bindparam("old_size"))
    .values(size=sa.bindparam("new_size"), link=sa.bindparam("new_link"), latest_ms=sa.bindparam("new_latest"))
)
_INSERT: Final = sa.insert(_ROWS)
_SINCE: Final = (
    sa.select(_ROWS.c.seq, _ROWS.c.kind, _ROWS.c.body)
    .where(_ROWS.c.seq > sa.bindparam("after"))
    .order_by(_ROWS.c.seq)
    .limit(sa.bindparam("at_most"))
)
_CHAIN: Final = (
    sa.select(_ROWS.c.seq, _ROWS.c.kind, _ROWS.c.body, _ROWS.c.hash, _ROWS.c.link)
    .where(_ROWS.c.seq > sa.bindparam("after"))
    .order_by(_ROWS.c.seq)
    .limit(1000)
)


@dataclass(frozen=True, slots=True)
class Row:
    """One entry as stored. body: kind, at_ms, salt and the entry's own fields; instants in it are RFC 3339, UTC."""

    seq: int
    kind: str
    body: dict[str, Any]

    @property
    def at(self) -> datetime:
        """When it was written."""
        return _EPOCH + timedelta(milliseconds=int(self.body["at_ms"]))


def append(tx: Tx, entry: LedgerEntry) -> int:
    """Write the entry into the transaction that holds its fact; gives its sequence number, the first is 1.

    Gapless and equal to the order of commits, over all processes: a write transaction holds the one lock from its start.
    Source: docs/rules.md, Evidence; a leaf's hash is RFC 6962's, SHA-256(00 || body).
    """
    body = canonical(_body(tx, entry))
    leaf = leaf_hash(body)
    size, link, latest_ms = tx.conn.execute(_LOAD_HEAD).one()
    new_link = link_hash(link, leaf)
    tx.conn.execute(_INSERT, {"seq": size + 1, "kind": entry.kind, "body": body, "hash": leaf, "link": new_link})
    # The highest, not the last: what is written while the clock is behind must not make it look right. Source: TIM-2.
    new = {"new_size": size + 1, "new_link": new_link, "new_latest": max(latest_ms or _last_ms(tx), _at_ms(tx))}
    set_head = tx.conn.execute(_SET_HEAD, {"old_size": size, **new})
    if set_head.rowcount != 1:  # the lock makes this impossible; a ledger that forks must not commit
        raise RuntimeError("the ledger's head moved inside a transaction")
    return int(size) + 1


def canonical(body: dict[str, Any]) -> bytes:
    """Canonical JSON: sorted keys, no blanks, UTF-8. Source: RFC 8785 reduced to strings, integers, booleans, null."""
    text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True)
    # A lone surrogate has no UTF-8; foreign text must not be able to stop an entry.
    return text.encode("utf-8", "replace")


def leaf_hash(body: bytes) -> bytes:
    """SHA-256(00 || body): over the bytes as stored."""
    return sha256(b"\x00" + body).digest()


def link_hash(before: bytes, leaf: bytes) -> bytes:
    """SHA-256(previous link || hash); the link before the first entry is 32 zero bytes."""
    return sha256(before + leaf).digest()


def _body(tx: Tx, entry: LedgerEntry) -> dict[str, Any]:
    body = {field.name: _plain(getattr(entry, field.name)) for field in fields(entry)}
    at_ms = _at_ms(tx)
    # The salt: a body may be erased for privacy while its hash stays, and nobody can guess it back from the hash.
    return {"kind": entry.kind, "at_ms": at_ms, "salt": secrets.token_hex(16), **body}


def _last_ms(tx: Tx) -> int:
    """The last entry's instant, for a head that has not been moved since it keeps the highest; 0 in an empty ledger."""
    body = tx.conn.execute(_LAST).scalar()
    return 0 if body is None else int(json.loads(bytes(body))["at_ms"])


def _at_ms(tx: Tx) -> int:
    return (tx.now - _EPOCH) // timedelta(milliseconds=1)


def _plain(value: object) -> Any:
    match value:
        case None | bool() | int():
            return value
        case Enum():
            return value.value
        case str():
            return value
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        case Capability():
            return str(value)
        case tuple():
            return [_plain(one) for one in value]
        case _ if is_dataclass(value):
            return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    raise TypeError(f"no place in a ledger entry for {type(value).__name__}")


def head(tx: Tx) -> tuple[int, str]:
    """How many entries there are, and the last link in hex."""
    size, link, _ = tx.conn.execute(_LOAD_HEAD).one()
    return int(size), bytes(link).hex()


def clock_behind(tx: Tx) -> timedelta:
    """How far the clock is behind the latest instant that the ledger has seen; zero or less when it is not. One row is read."""
    latest_ms = tx.conn.execute(_LOAD_HEAD).one().latest_ms or _last_ms(tx)
    return _EPOCH + timedelta(milliseconds=int(latest_ms)) - tx.now


def since(tx: Tx, seq: int, limit: int = 1000) -> list[Row]:
    """The entries after seq, oldest first; 0 starts at the beginning."""
    found = tx.conn.execute(_SINCE, {"after": seq, "at_most": limit})
    return [Row(row.seq, row.kind, json.loads(row.body)) for row in found]


def show(tx: Tx, *, last: int = 100, kind: str | None = None, holding: str | None = None) -> list[Row]:
    """The newest entries, oldest of them first. kind: such as grant.made, or its first word; holding: an id in the body."""
    asked = sa.select(_ROWS.c.seq, _ROWS.c.kind, _ROWS.c.body).order_by(_ROWS.c.seq.desc())
    if kind is not None:
        asked = asked.where(sa.or_(_ROWS.c.kind == kind, _ROWS.c.kind.startswith(f"{kind}.", autoescape=True)))
    if holding is None:
        asked = asked.limit(last)
    kept: list[Row] = []
    # Piece by piece: PostgreSQL would send the whole ledger for one entry.
    with tx.conn.execute(asked, execution_options={"yield_per": 500}) as found:
        for row in found:
            if holding is None or holding.encode() in bytes(row.body):
                kept.append(Row(row.seq, row.kind, json.loads(row.body)))
            if len(kept) == last:
                break
    return kept[::-1]


def verify(tx: Tx) -> tuple[int, str] | None:
    """Walk the whole chain; None when it is whole, else the first sequence number that is wrong, and how."""
    size, last_link, _ = tx.conn.execute(_LOAD_HEAD).one()
    before, expected, after = b"\x00" * 32, 1, -(1 << 63)  # not 0: an entry slipped in before the first must be seen
    while rows := tx.conn.execute(_CHAIN, {"after": after}).all():
        for row in rows:
            if (problem := _problem(row, expected, before)) is not None:
                return expected, problem
            before, expected, after = bytes(row.link), expected + 1, row.seq
    if expected - 1 != size:
        return expected, f"the head says {size} entries, the table holds {expected - 1}"
    if before != bytes(last_link):
        return int(size), "the head's link is not the last entry's"
    return None


def _problem(row: Any, expected: int, before: bytes) -> str | None:
    if row.seq != expected:
        return f"the entry is missing, the next one is {row.seq}"
    if leaf_hash(bytes(row.body)) != bytes(row.hash):
        return "the entry's body was changed"
    if link_hash(before, bytes(row.hash)) != bytes(row.link):
        return "the entry's link does not follow from the one before"
    try:
        named = json.loads(row.body)["kind"]
    except (ValueError, KeyError, TypeError):
        return "the entry's body cannot be read"
    return None if named == row.kind else "the entry's kind is not the one in its body"
