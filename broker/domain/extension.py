"""Extension: a session goes on under a later grant where an owner has said yes to it, without a gap and never wider."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from broker.domain.grant import Grant, GrantState
from broker.domain.ids import AssetId, WindowId
from broker.domain.window import CommissioningWindow


@dataclass(frozen=True, slots=True)
class Stretch:
    """The part of a session's time that one grant carries, [since, until)."""

    grant: Grant
    window: CommissioningWindow
    since: datetime
    until: datetime


def stretches(
    own: Grant,
    later: Iterable[Grant],
    windows: Mapping[WindowId, CommissioningWindow],
    *,
    asset_id: AssetId,
    opened_at: datetime,
) -> list[Stretch]:
    """The grants that carry a session, one after another without a gap; the first is its own.

    later: grants of which some extend it, some each other. windows: of all grants, by id. One that leaves out the asset or any
    capability of the session's own grant carries nothing: what runs was judged by that one. Acts are not judged here. Law 2.
    """
    window = windows[own.window_id]
    found = [Stretch(own, window, opened_at, min(own.interval.closes, window.stop(opened_at)))]
    rest = [one for one in later if asset_id in one.terms.assets and own.terms.capabilities <= one.terms.capabilities]
    while True:
        last = found[-1]
        fitting = [one for one in rest if one.extends == last.grant.id and one.interval.opens <= last.until]
        begun = [(one, _until(one, windows[one.window_id], last.until)) for one in fitting]
        grant, until = max(begun, key=lambda one: (_stands(one[0]), one[1]), default=(None, last.until))
        if grant is None or until <= last.until:
            return found
        rest.remove(grant)
        found.append(Stretch(grant, windows[grant.window_id], last.until, until))


def _stands(grant: Grant) -> bool:
    """True when no act has ended it: one that was taken back must not hide another that was given since."""
    return grant.state(grant.interval.opens) is GrantState.OPEN


def _until(grant: Grant, window: CommissioningWindow, since: datetime) -> datetime:
    """How far the grant carries from there: not beyond its window, nor beyond that day's hours."""
    inside = window.interval.opens <= since
    return min(grant.interval.closes, window.stop(since)) if inside else since
