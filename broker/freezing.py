"""Freeze and unfreeze a session: its input stops, its output goes on. Reached through `broker.desk`."""

from __future__ import annotations

from typing import Final

from broker.domain.authority import SessionFrozen, SessionUnfrozen
from broker.domain.ids import PersonId, parse_text
from broker.domain.people import Person, Right
from broker.domain.policy import Reason, Refusal
from broker.domain.session import Session
from broker.revoking import REASON_LONGEST, require_person
from broker.store import inventory, ledger, sessions
from broker.store.db import Tx

_NO_SUCH_SESSION: Final = Refusal(Reason.OVER, "no such live session; see the list of sessions")


def freeze(tx: Tx, *, session_id: str, by: str, reason: str, door: str) -> Session | Refusal:
    """Keep that a live session is frozen; the bastion that has it stops its input. Raises BrokerError(INVALID)."""
    said = parse_text(reason, what="reason", longest=REASON_LONGEST)
    session = sessions.load_session(tx, session_id)
    if session is None or session.ended_at is not None:
        return _NO_SUCH_SESSION
    if not sessions.mark_frozen(tx, session.id, by=by):
        return Refusal(Reason.FROZEN, "the session is frozen already")
    ledger.append(tx, SessionFrozen(session_id=session.id, by=by, reason=said, door=door))
    return session


def unfreeze(tx: Tx, *, session_id: str, by: str, door: str) -> Session | Refusal:
    """Keep that a live session is no longer frozen."""
    session = sessions.load_session(tx, session_id)
    if session is None or session.ended_at is not None:
        return _NO_SUCH_SESSION
    if not sessions.mark_unfrozen(tx, session.id):
        return Refusal(Reason.OVER, "the session is not frozen")
    ledger.append(tx, SessionUnfrozen(session_id=session.id, by=by, door=door))
    return session


def freeze_as(tx: Tx, *, person_id: PersonId, session_id: str, reason: str, door: str) -> Session | Refusal:
    """Freeze as a person of the site who may end sessions there; to anybody else the session is not there."""
    person = _who_may(tx, person_id, session_id)
    if isinstance(person, Refusal):
        return person
    return freeze(tx, session_id=session_id, by=person.handle, reason=reason, door=door)


def unfreeze_as(tx: Tx, *, person_id: PersonId, session_id: str, door: str) -> Session | Refusal:
    """Unfreeze as a person of the site who may end sessions there."""
    person = _who_may(tx, person_id, session_id)
    if isinstance(person, Refusal):
        return person
    return unfreeze(tx, session_id=session_id, by=person.handle, door=door)


def _who_may(tx: Tx, person_id: PersonId, session_id: str) -> Person | Refusal:
    person, session = require_person(tx, person_id), sessions.load_session(tx, session_id)
    asset = None if session is None else inventory.asset_by_id(tx, session.asset_id)
    if asset is None or not person.may(Right.KILL, asset.site_id):
        return _NO_SUCH_SESSION
    return person
