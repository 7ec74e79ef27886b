"""Use-cases on requests and grants: load, decide, keep, append; whoever calls holds the one write transaction.

A refusal is a value and is kept too: it is evidence, so the caller commits it like a yes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from broker import extending
from broker.domain.audit import (
    ApprovalGiven,
    ApprovalRefused,
    GrantMade,
    RequestDenied,
    RequestRefused,
    RequestSubmitted,
    RequestWithdrawn,
)
from broker.domain.errors import BrokerError, Code
from broker.domain.grant import Grant
from broker.domain.ids import AccessRequestId, GrantId, PersonId, parse_text, quoted
from broker.domain.inventory import Asset
from broker.domain.isolation import Ladder
from broker.domain.people import Person
from broker.domain.policy import (
    Agreed,
    ApprovalFacts,
    Narrowing,
    Refusal,
    ReviewFacts,
    ReviewReason,
    may_approve,
    may_decide,
    review,
)
from broker.domain.request import AccessRequest, Asked, Step
from broker.domain.wall import read_time
from broker.freezing import freeze as freeze
from broker.freezing import freeze_as as freeze_as
from broker.freezing import unfreeze as unfreeze
from broker.freezing import unfreeze_as as unfreeze_as
from broker.holding import Held as Held
from broker.holding import hold_open as hold_open
from broker.revoking import change_rights as change_rights
from broker.revoking import close_window as close_window
from broker.revoking import disable_person as disable_person
from broker.revoking import disable_vendor as disable_vendor
from broker.revoking import hand_back as hand_back
from broker.revoking import kill as kill
from broker.revoking import kill_as as kill_as
from broker.revoking import require_person
from broker.revoking import revoke as revoke
from broker.revoking import revoke_as as revoke_as
from broker.store import grants, inventory, ledger, requests
from broker.store.db import Tx
from broker.suspending import restore as restore
from broker.suspending import restore_subject as restore_subject
from broker.suspending import suspend as suspend

REASON_LONGEST: Final = 2048
CHANGE_LONGEST: Final = 64
MOST_ASSETS: Final = 64
FARTHEST: Final = timedelta(days=366)


def submit(
    tx: Tx,
    *,
    person_id: PersonId,
    asked: Asked,
    lapses_after: timedelta,
    longest: timedelta,
    door: str,
    extends: GrantId | None = None,
) -> AccessRequest | Refusal:
    """Put a request before the site's owners, if it may stand.

    lapses_after: how long it waits undecided; longest: what one request may ask for; extends: see `extend`.
    Raises BrokerError(INVALID) for texts that are missing, too long or not text. Source: policy.review.
    """
    asker = require_person(tx, person_id)
    reason, change = _texts_of(asked)
    _check_bounds(asked, tx.now)
    found = _assets_known_to(tx, asker, asked.assets)
    windows = inventory.windows(tx, found[0].site_id, asker.vendor_id) if found and asker.vendor_id else []
    facts = ReviewFacts(
        person=asker,
        vendor=None if asker.vendor_id is None else inventory.vendor_by_id(tx, asker.vendor_id),
        assets=tuple(found),
        windows=tuple(windows),
        longest=longest,
    )
    decision = review(facts, asked, now=tx.now)
    if isinstance(decision, Refusal):
        named = ",".join(quoted(name) for name in asked.assets[:8])
        ledger.append(tx, RequestRefused(person_id=person_id, asked=named, reason=decision.reason.value))
        return decision
    request = AccessRequest(
        id=AccessRequestId(tx.new_id("req")),
        person_id=person_id,
        vendor_id=decision.vendor_id,
        site_id=decision.site_id,
        assets=tuple(asset.id for asset in found),
        capabilities=asked.capabilities,
        opens=asked.opens,
        length=asked.length,
        reason=reason,
        change=change,
        submitted_at=tx.now,
        lapses_at=tx.now + lapses_after,
        extends=extends,
    )
    requests.insert(tx, request)
    _tell_submitted(tx, request)
    return request


def extend(
    tx: Tx,
    *,
    person_id: PersonId,
    grant_id: str,
    length: timedelta,
    reason: str,
    lapses_after: timedelta,
    longest: timedelta,
    door: str,
) -> AccessRequest | Refusal:
    """Ask for more time on a grant that stands; after a yes its live sessions go on. Raises as `submit`."""
    found = extending.asked_of(tx, person_id=person_id, grant_id=grant_id, length=length, reason=reason)
    if isinstance(found, Refusal):
        return found
    asked, grant = found
    return submit(
        tx,
        person_id=person_id,
        asked=asked,
        lapses_after=lapses_after,
        longest=longest,
        door=door,
        extends=grant.id,
    )


def read_start(tx: Tx, *, person_id: PersonId, assets: Sequence[str], text: str) -> datetime:
    """A start as the asker types it: with offset, or in the time of the first asset's site. Raises BrokerError(INVALID)."""
    found = _assets_known_to(tx, require_person(tx, person_id), assets[:1])
    site = inventory.site_by_id(tx, found[0].site_id) if found else None
    return read_time(text, ZoneInfo("UTC" if site is None else site.time_zone), what="start")


def _texts_of(asked: Asked) -> tuple[str, str | None]:
    reason = parse_text(asked.reason, what="reason", longest=REASON_LONGEST)
    change = parse_text(asked.change or "", what="change", longest=CHANGE_LONGEST, required=False)
    return reason, change or None


def _check_bounds(asked: Asked, now: datetime) -> None:
    if len(asked.assets) > MOST_ASSETS:
        raise BrokerError(Code.INVALID, f"at most {MOST_ASSETS} assets in one request")
    if asked.length <= timedelta(0) or not asked.capabilities:
        raise BrokerError(Code.INVALID, "a request asks for some time and some capability")
    if asked.opens is not None and abs(asked.opens - now) > FARTHEST:  # also keeps dates inside what a calendar holds
        raise BrokerError(Code.INVALID, f"choose a start within {FARTHEST.days} days")


def _assets_known_to(tx: Tx, asker: Person, names: Iterable[str]) -> list[Asset]:
    """The assets found, in the order asked, each once; those of sites the vendor is a stranger to are not found (law 7)."""
    if asker.vendor_id is None:
        return []
    known = inventory.sites_of_vendor(tx, asker.vendor_id)
    found: dict[str, Asset] = {}
    for name in names:
        for asset in inventory.assets_called(tx, name, known):
            found[asset.id] = asset
    return list(found.values())


def _tell_submitted(tx: Tx, request: AccessRequest) -> None:
    entry = RequestSubmitted(
        request_id=request.id,
        person_id=request.person_id,
        site_id=request.site_id,
        assets=request.assets,
        capabilities=tuple(sorted(request.capabilities, key=str)),
        opens=request.opens,
        length_s=int(request.length.total_seconds()),
        reason=request.reason,
        change=request.change,
    )
    ledger.append(tx, entry)


def approve(
    tx: Tx,
    *,
    owner_id: PersonId,
    request_id: str,
    narrowing: Narrowing = Narrowing(),  # noqa: B008 - frozen, so sharing the default is safe
    version: int | None = None,
    ladder: Ladder,
    door: str,
) -> Grant | Agreed | Refusal:
    """One owner's yes: a Grant when it was the last one needed, Agreed when another owner must follow.

    version: of the request as the owner read it, None for a door that has just read it. ladder: what isolates the site.
    Source: laws 2 and 3, WEB-2.
    """
    facts = requests.load_approval_facts(tx, owner=require_person(tx, owner_id), request_id=request_id)
    facts = replace(facts, isolation=ladder.level(requests.site_name(tx, facts.request)))
    decision: Agreed | Refusal = _unchanged(facts, version) or may_approve(facts, narrowing, now=tx.now)
    request = facts.request
    if isinstance(decision, Agreed):
        decision = extending.refuse_ended(tx, request) or decision
    if isinstance(decision, Refusal) or request is None:
        return _refused(tx, facts, request_id, decision, door)
    if decision.complete and not requests.step(tx, request, Step.APPROVE, by=owner_id):
        return _refused(tx, facts, request_id, Refusal(ReviewReason.WRONG_STATE), door)
    requests.insert_approval(
        tx, request, owner_id=owner_id, terms=decision.terms, complete=decision.complete, door=door
    )
    _tell_approval(tx, request, owner_id, decision, door)
    return _make_grant(tx, request, decision) if decision.complete else decision


def _unchanged(facts: ApprovalFacts, version: int | None) -> Refusal | None:
    if facts.request is None or version is None or facts.request.version == version:
        return None
    return Refusal(ReviewReason.CHANGED, "read it again, then decide")


def _tell_approval(tx: Tx, request: AccessRequest, owner_id: PersonId, agreed: Agreed, door: str) -> None:
    entry = ApprovalGiven(
        request_id=request.id,
        owner_id=owner_id,
        assets=tuple(sorted(agreed.terms.assets)),
        capabilities=tuple(sorted(agreed.terms.capabilities, key=str)),
        opens=agreed.terms.interval.opens,
        closes=agreed.terms.interval.closes,
        complete=agreed.complete,
        door=door,
    )
    ledger.append(tx, entry)


def _make_grant(tx: Tx, request: AccessRequest, agreed: Agreed) -> Grant:
    grant = Grant(
        id=GrantId(tx.new_id("grt")),
        request_id=request.id,
        person_id=request.person_id,
        vendor_id=request.vendor_id,
        site_id=request.site_id,
        window_id=agreed.window.id,
        terms=agreed.terms,
        granted_at=tx.now,
        extends=request.extends,
    )
    grants.insert(tx, grant)
    entry = GrantMade(
        grant_id=grant.id,
        request_id=request.id,
        person_id=grant.person_id,
        site_id=grant.site_id,
        window_id=grant.window_id,
        assets=tuple(sorted(grant.terms.assets)),
        capabilities=tuple(sorted(grant.terms.capabilities, key=str)),
        opens=grant.interval.opens,
        closes=grant.interval.closes,
    )
    ledger.append(tx, entry)
    extending.tell(tx, grant)
    return grant


def deny(
    tx: Tx, *, owner_id: PersonId, request_id: str, reason: str, door: str, version: int | None = None
) -> AccessRequest | Refusal:
    """One owner's no, which ends the request. Raises BrokerError(INVALID) for a reason that is missing or no text."""
    said = parse_text(reason, what="reason", longest=REASON_LONGEST)
    facts = requests.load_approval_facts(tx, owner=require_person(tx, owner_id), request_id=request_id)
    refused = _unchanged(facts, version) or may_decide(facts, now=tx.now)
    request = facts.request
    if refused is not None or request is None:
        return _refused(tx, facts, request_id, refused or Refusal(ReviewReason.NO_SUCH_REQUEST), door)
    if not requests.step(tx, request, Step.DENY, by=owner_id, reason=said):
        return _refused(tx, facts, request_id, Refusal(ReviewReason.WRONG_STATE), door)
    ledger.append(tx, RequestDenied(request_id=request.id, owner_id=owner_id, reason=said, door=door))
    return requests.require(tx, request.id)


def _refused(tx: Tx, facts: ApprovalFacts, request_id: str, decision: Agreed | Refusal, door: str) -> Refusal:
    refusal = decision if isinstance(decision, Refusal) else Refusal(ReviewReason.NO_SUCH_REQUEST)
    shown = facts.request.id if facts.request is not None else AccessRequestId(quoted(request_id))
    reason = refusal.reason.value
    ledger.append(tx, ApprovalRefused(request_id=shown, owner_id=facts.owner.id, reason=reason, door=door))
    return refusal


def withdraw(tx: Tx, *, person_id: PersonId, request_id: str) -> AccessRequest | Refusal:
    """The asker takes the request back while it is pending; to anybody else it is not there."""
    request = requests.load(tx, request_id)
    if request is None or request.person_id != person_id:
        return Refusal(ReviewReason.NO_SUCH_REQUEST)
    if not requests.step(tx, request, Step.WITHDRAW, by=person_id):
        return Refusal(ReviewReason.WRONG_STATE, f"the request is {request.shown_state(tx.now).value}")
    ledger.append(tx, RequestWithdrawn(request_id=request.id, person_id=person_id))
    return requests.require(tx, request.id)
