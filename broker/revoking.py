"""Everything that takes access away: revoke, hand back, kill, disable, close a window. Reached through `broker.desk`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from broker.domain.audit import GrantHandedBack, GrantRevoked, SessionKilled
from broker.domain.errors import BrokerError, Code
from broker.domain.grant import Grant, GrantState
from broker.domain.ids import AccessRequestId, GrantId, PersonId, SiteId, VendorId, WindowId, parse_text, quoted
from broker.domain.people import Person, Right, RoleAt
from broker.domain.policy import Reason, Refusal
from broker.domain.session import Session
from broker.domain.window import CommissioningWindow
from broker.store import grants, inventory, ledger, people, requests, sessions, web_sessions
from broker.store.db import Tx

REASON_LONGEST: Final = 2048
_NO_SUCH_GRANT: Final = Refusal(Reason.NO_GRANT, "see the list of grants")


def revoke(tx: Tx, *, grant_id: str, by: str, reason: str) -> Grant | Refusal:
    """End a grant for good, also a suspended one, with what extends it; live sessions of it end. by: who, for the ledger.

    Raises BrokerError(INVALID).
    """
    said = parse_text(reason, what="reason", longest=REASON_LONGEST)
    grant = grants.load(tx, grant_id)
    if grant is None:
        return _NO_SUCH_GRANT
    if not grants.revoke(tx, grant.id, by=by, reason=said):
        return _ended(grant, tx.now)
    ledger.append(tx, GrantRevoked(grant_id=grant.id, by=by, reason=said))
    for one in grants.extensions(tx, [grant.id]):
        if grants.revoke(tx, one.id, by=by, reason=said):
            ledger.append(tx, GrantRevoked(grant_id=one.id, by=by, reason=said))
    return _again(tx, grant)


def revoke_as(tx: Tx, *, owner_id: PersonId, grant_id: str, reason: str) -> Grant | Refusal:
    """Revoke as a person of the site: who may approve there, or kill. To anybody else the grant is not there."""
    person, grant = require_person(tx, owner_id), grants.load(tx, grant_id)
    if grant is None or not _may_stop(person, grant.site_id):
        return _NO_SUCH_GRANT
    return revoke(tx, grant_id=grant.id, by=person.handle, reason=reason)


def hand_back(tx: Tx, *, person_id: PersonId, grant_id: str) -> Grant | Refusal:
    """The engineer is done before the end; to anybody else the grant is not there. A suspended one is not theirs to end."""
    grant = grants.load(tx, grant_id)
    if grant is None or grant.person_id != person_id:
        return _NO_SUCH_GRANT
    stands = grant.state(tx.now) in (GrantState.SCHEDULED, GrantState.OPEN)
    if not stands or not grants.hand_back(tx, grant.id, by=person_id):
        return _ended(grant, tx.now)
    ledger.append(tx, GrantHandedBack(grant_id=grant.id, person_id=person_id))
    for one in grants.extensions(tx, [grant.id]):
        if grants.hand_back(tx, one.id, by=person_id):
            ledger.append(tx, GrantHandedBack(grant_id=one.id, person_id=person_id))
    return _again(tx, grant)


def kill(tx: Tx, *, session_id: str, by: str, reason: str, door: str) -> Session | Refusal:
    """End a session now and suspend its grant and what extends it, so that there is no way back in. Raises BrokerError(INVALID).

    One that has ended meanwhile suspends its grant all the same: who kills wants the engineer out.
    """
    said = parse_text(reason, what="reason", longest=REASON_LONGEST)
    session = sessions.load_session(tx, session_id)
    if session is None:
        return Refusal(Reason.OVER, "no such session; see the list of sessions")
    marked = sessions.mark_killed(tx, session.id)
    suspended = grants.suspend(tx, session.grant_id, by=by, reason=said)
    for extension in grants.extensions(tx, [session.grant_id]):
        suspended |= grants.suspend(tx, extension.id, by=by, reason=said)
    if not (marked or suspended):
        return Refusal(Reason.SUSPENDED, "the session has ended, and its grant is suspended or over")
    entry = SessionKilled(session_id=session.id, grant_id=session.grant_id, by=by, reason=said, door=door)
    ledger.append(tx, entry)
    return session


def kill_as(tx: Tx, *, owner_id: PersonId, session_id: str, reason: str, door: str) -> Session | Refusal:
    """Kill as a person of the site who holds the right there; to anybody else the session is not there."""
    person, session = require_person(tx, owner_id), sessions.load_session(tx, session_id)
    asset = None if session is None else inventory.asset_by_id(tx, session.asset_id)
    if asset is None or not person.may(Right.KILL, asset.site_id):
        return Refusal(Reason.OVER, "no such session; see the list of sessions")
    return kill(tx, session_id=session_id, by=person.handle, reason=reason, door=door)


def disable_person(tx: Tx, *, handle: str, by: str) -> Person:
    """Close every door to a person; live sessions and logins end. Raises BrokerError(NOT_FOUND, CONFLICT)."""
    person = people.require(tx, handle)
    if not people.disable(tx, person.id, by=by):
        raise BrokerError(Code.CONFLICT, f"{handle} is disabled already")
    requests.void_approvals(tx, person.id, why="the owner was disabled")
    web_sessions.end_all(tx, person.id)
    return people.require(tx, handle)


def change_rights(
    tx: Tx, *, handle: str, add: Iterable[RoleAt] = (), remove: Iterable[RoleAt] = (), by: str
) -> tuple[Person, list[AccessRequestId]]:
    """Give and take roles of a person of the site; whatever changes, their first yeses on pending requests are void.

    Gives the person as they are now, and the requests that need a first yes again. Every door judges rights anew at each act.
    Raises BrokerError(NOT_FOUND, INVALID, CONFLICT). Source: law 3, WEB-3.
    """
    changed = people.change_roles(tx, people.require(tx, handle), add=add, remove=remove, by=by)
    return changed, requests.void_approvals(tx, changed.id, why="the owner's rights changed")


def disable_vendor(tx: Tx, *, name: str, by: str) -> VendorId:
    """Close every door to all engineers of a vendor; live sessions end. Raises BrokerError(NOT_FOUND, CONFLICT)."""
    vendor = inventory.load_vendor(tx, name)
    if not inventory.disable_vendor(tx, vendor.id, by=by):
        raise BrokerError(Code.CONFLICT, f"vendor {name} is disabled already")
    for person in people.people(tx):
        if person.vendor_id == vendor.id:
            web_sessions.end_all(tx, person.id)
    return vendor.id


def close_window(tx: Tx, *, window_id: str, by: str) -> CommissioningWindow:
    """Close a commissioning window now; live sessions in it end. Raises BrokerError(NOT_FOUND, CONFLICT)."""
    return inventory.close_window(tx, inventory.load_window(tx, WindowId(window_id)), by=by)


def require_person(tx: Tx, person_id: PersonId) -> Person:
    """The acting person. Raises BrokerError(NOT_FOUND)."""
    if (person := people.load_person(tx, person_id)) is None:
        raise BrokerError(Code.NOT_FOUND, f"no such person: {quoted(person_id)}")
    return person


def _may_stop(person: Person, site_id: SiteId) -> bool:
    return person.may(Right.APPROVE, site_id) or person.may(Right.KILL, site_id)


def _ended(grant: Grant, now: datetime) -> Refusal:
    match grant.state(now):
        case GrantState.REVOKED:
            return Refusal(Reason.REVOKED, "the grant is revoked already")
        case GrantState.SUSPENDED:
            return Refusal(Reason.SUSPENDED, "the grant is suspended; ask the site owner")
        case GrantState.OVER:
            return Refusal(Reason.OVER, "the grant is over already")
        case _:
            return Refusal(Reason.HANDED_BACK, "the grant was handed back already")


def _again(tx: Tx, grant: Grant) -> Grant:
    changed = grants.load(tx, GrantId(grant.id))
    return grant if changed is None else changed
