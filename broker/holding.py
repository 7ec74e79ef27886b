"""The use-case of an owner's hold: a session goes on beyond its grant for some minutes. Reached through `broker.desk`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from broker.domain.authority import SessionHeld
from broker.domain.hold import Ends, Hold, HoldFacts, held_until, may_hold
from broker.domain.ids import PersonId, parse_text
from broker.domain.people import Right
from broker.domain.policy import Reason, Refusal
from broker.domain.session import EndReason, Session
from broker.leaving import ends_of
from broker.revoking import REASON_LONGEST, require_person
from broker.store import holds, inventory, ledger, sessions
from broker.store.db import Tx

_NO_SUCH: Final = Refusal(Reason.OVER, "no such session; see the list of sessions")


@dataclass(frozen=True, slots=True)
class Held:
    """A hold that is kept. until: when the session ends now; wanted: how far the owner's word goes, beyond it takes a second."""

    session: Session
    until: datetime
    wanted: datetime


def hold_open(
    tx: Tx, *, owner_id: PersonId, session_id: str, length: timedelta, reason: str, longest: timedelta, door: str
) -> Held | Refusal:
    """Let a live session go on for `length` beyond its grant's end; a second, different owner may let it pass the window's.

    Whoever may not approve at the site is told that the session is not there. It opens no new channel after the grant's own
    end, and every act that ends a session ends it. Raises BrokerError(INVALID). Source: law 2.
    """
    said = parse_text(reason, what="reason", longest=REASON_LONGEST)
    owner, session = require_person(tx, owner_id), sessions.load_session(tx, session_id)
    asset = None if session is None else inventory.asset_by_id(tx, session.asset_id)
    if session is None or asset is None or session.ended_at is not None:
        return _NO_SUCH
    ends = ends_of(tx, session.id)
    if isinstance(ends, EndReason):
        return Refusal(Reason.OVER, "an act has ended it") if owner.may(Right.APPROVE, asset.site_id) else _NO_SUCH
    facts = HoldFacts(
        owner=owner,
        engineer=require_person(tx, session.person_id),
        may_approve=owner.may(Right.APPROVE, asset.site_id),
        session=session,
        ends=ends,
        length=length,
        longest=longest,
    )
    hold = may_hold(facts, now=tx.now)
    if isinstance(hold, Refusal):
        return hold
    holds.insert_hold(tx, session.id, hold, reason=said)
    return _reach(tx, session, hold, facts.ends, said, door)


def _reach(tx: Tx, session: Session, hold: Hold, ends: Ends, reason: str, door: str) -> Held:
    given = holds.holds(tx, session.id)
    until = held_until(given, ends.window_closes) or hold.until
    holds.reach(tx, session.id, until)
    owners = tuple(dict.fromkeys(one.owner.id for one in given if one.until >= until))
    ledger.append(tx, SessionHeld(session_id=session.id, owners=owners, until=until, reason=reason, door=door))
    return Held(session, until, hold.until)
