"""Who somebody is: codes, passwords, stored tries and lock-out, one set of rules for every door (AUT-3 to AUT-6, AUT-10)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NewType

from broker.domain.audit import LoginGiven, LoginRefused
from broker.domain.ids import PersonId, quoted
from broker.enrolment import Drawn as Drawn
from broker.enrolment import Enrolment as Enrolment
from broker.enrolment import accept_invitation as accept_invitation
from broker.enrolment import draw_seed as draw_seed
from broker.enrolment import enrol as enrol
from broker.enrolment import invite as invite
from broker.enrolment import open_invitation as open_invitation
from broker.enrolment import set_password as set_password
from broker.enrolment import show_again as show_again
from broker.factors import Seal as Seal
from broker.factors import check_password as check_password
from broker.factors import hash_password as hash_password
from broker.factors import matching_step
from broker.store import credentials, ledger
from broker.store.credentials import Try
from broker.store.db import Tx

TryId = NewType("TryId", str)


@dataclass(frozen=True, slots=True, kw_only=True)
class TryLimits:
    """How many failed tries there may be. waits: before the next one, after none, one, two, ... failures in a row.

    per_person: over all doors; per_source: over all people. Source: docs/rules.md, Limits (`MaxAuthTries`).
    """

    per_person: int = 5
    per_source: int = 20
    window: timedelta = timedelta(minutes=15)
    waits: tuple[timedelta, ...] = tuple(timedelta(seconds=s) for s in (0, 1, 2, 4, 8))


@dataclass(frozen=True, slots=True)
class Locked:
    """No try now; it ends by itself at that instant."""

    until: datetime


def reserve_try(
    tx: Tx,
    *,
    person_id: PersonId | None,
    name: str,
    source: str,
    door: str,
    limits: TryLimits = TryLimits(),
) -> TryId | Locked:
    """Store a try before anything is compared; commit it, then compare.

    Called only after the first factor has passed, so that nobody locks anybody else out; person_id None counts by source alone:
    for a first factor that failed. A try cut off before it was compared counts as failed. Limit and row are one transaction,
    and there is one writer at a time. Rows survive a restart. Source: AUT-3, AUT-4; section 3.
    """
    after = tx.now - limits.window
    whose = PersonId("") if person_id is None else person_id  # the same work for somebody unknown
    mine = credentials.tries_of_person(tx, whose, after=after)
    around = credentials.tries_of_source(tx, source, after=after)
    until = max(
        _free_at(mine, limits.per_person, limits.window, tx.now),
        _free_at(around, limits.per_source, limits.window, tx.now),
        _rested_at(mine, limits.waits, tx.now),
    )
    if until > tx.now:
        ledger.append(tx, LoginRefused(person_id=person_id, door=door, source=source, name=_shown(name), why="locked"))
        return Locked(until)
    return TryId(credentials.insert_try(tx, person_id=person_id, source=source, door=door))


def _free_at(tries: list[Try], most: int, window: timedelta, now: datetime) -> datetime:
    """When fewer than `most` failures will lie in the window. tries: the newest first."""
    failed = [one.tried_at for one in tries if one.outcome != "passed"]
    return now if len(failed) < most else failed[most - 1] + window


def _rested_at(tries: list[Try], waits: tuple[timedelta, ...], now: datetime) -> datetime:
    """When the wait after the failures since the last success is over; a try still being judged asks for none."""
    in_a_row: list[datetime] = []
    for one in tries:
        if one.outcome == "passed":
            break
        if one.outcome == "failed":
            in_a_row.append(one.tried_at)
    if not in_a_row:
        return now
    return in_a_row[0] + waits[min(len(in_a_row), len(waits) - 1)]


def fail_try(tx: Tx, try_id: TryId) -> None:
    """The comparison of a reserved try failed elsewhere: a wrong password, by somebody unknown or known."""
    credentials.finish_try(tx, try_id, passed=False)


def spend_code(tx: Tx, *, person_id: PersonId, code: str, seal: Seal, try_id: TryId) -> bool:
    """Compare a code and take its step, once over all doors; says so in the reserved try.

    code: untrusted; six ASCII digits, steps -1 to +1. False too for a try that was judged before. Source: AUT-5, RFC 6238.
    """
    stored = credentials.load_seed(tx, person_id)
    step = None
    if stored is not None:
        step = matching_step(seal.open(stored.sealed, person_id), code, tx.now)
    taken = step is not None and credentials.take_step(tx, person_id, step)
    return credentials.finish_try(tx, try_id, passed=taken) and taken


def finish_login(
    tx: Tx,
    *,
    person_id: PersonId | None,
    name: str,
    source: str,
    door: str,
    factors: str = "",
    key: str | None = None,
    why: str | None = None,
) -> None:
    """Tell the ledger how a login ended. why None: it was given, by these factors; else refused for that reason.

    name: as it was typed, foreign; key: fingerprint; person_id None: nobody of that name.
    """
    if why is None and person_id is not None:
        entry = LoginGiven(person_id=person_id, door=door, factors=factors, source=source, key=key)
        ledger.append(tx, entry)
    else:
        reason = why or "unknown"
        ledger.append(tx, LoginRefused(person_id=person_id, door=door, source=source, name=_shown(name), why=reason))


def _shown(name: str) -> str:
    return quoted(name, longest=128)
