"""The owner's hold: a session goes on some minutes beyond its grant, so that a firmware flash is not cut in two.

Source: law 2. Not the hold of evidence, which keeps recordings from being deleted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from broker.domain.people import Person
from broker.domain.policy import Reason, Refusal, ReviewReason
from broker.domain.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """When a session ends if nobody holds it; and the end of the window, or of its hours of the day, that it lies in."""

    closes: datetime
    window_closes: datetime


@dataclass(frozen=True, slots=True)
class Hold:
    """One owner's word that a session may go on until then; by itself it does not reach beyond the window."""

    owner: Person
    until: datetime


def held_until(holds: Iterable[Hold], window_closes: datetime) -> datetime | None:
    """How far holds reach: one owner's to the window's end at most, beyond it as far as two different owners agree."""
    farthest: dict[str, Hold] = {}
    for one in holds:
        known = [key for key, other in farthest.items() if other.owner.same_human(one.owner)]
        key = known[0] if known else one.owner.id
        if key not in farthest or one.until > farthest[key].until:
            farthest[key] = one
    if not farthest:
        return None
    ends = sorted((one.until for one in farthest.values()), reverse=True)
    alone = min(ends[0], window_closes)
    return max(alone, ends[1]) if len(ends) > 1 else alone


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldFacts:
    """All that counts for one hold of a session that no act has ended. length: asked, beyond `ends.closes`."""

    owner: Person
    engineer: Person
    may_approve: bool
    session: Session
    ends: Ends
    length: timedelta
    longest: timedelta


def may_hold(facts: HoldFacts, *, now: datetime) -> Hold | Refusal:
    """Whether this owner may say so, and until when. now: aware UTC. Raises nothing."""
    if not facts.may_approve:
        return Refusal(Reason.OVER, "no such session; see the list of sessions")
    if facts.owner.same_human(facts.engineer):
        return Refusal(ReviewReason.OWN_REQUEST, "another owner holds it")
    if facts.session.ended_at is not None:
        return Refusal(Reason.OVER, "the session has ended")
    if not timedelta(0) < facts.length <= facts.longest:
        return Refusal(ReviewReason.TOO_LONG, f"at most {int(facts.longest.total_seconds())} s beyond the grant")
    until = facts.ends.closes + facts.length
    if until <= now:
        return Refusal(ReviewReason.IN_THE_PAST, "the session would have ended by then")
    return Hold(facts.owner, until)
