"""Suspend a grant, an engineer, a vendor, an asset, a window or a site, and restore it. Reached through `broker.desk`."""

from __future__ import annotations

from typing import Final

from broker.domain.authority import Restored, Suspended
from broker.domain.errors import BrokerError, Code
from broker.domain.ids import AssetId, GrantId, PersonId, SiteId, VendorId, parse_text, quoted
from broker.domain.people import Person, Right
from broker.domain.policy import Reason, Refusal, ReviewReason
from broker.domain.suspension import Scope, Suspension
from broker.revoking import REASON_LONGEST, require_person
from broker.store import grants, inventory, ledger, people, suspensions, windows
from broker.store.db import Tx

_NOT_SUSPENDED: Final = Refusal(Reason.OVER, "nothing of it is suspended; see: wicketgate suspended")


def suspend(tx: Tx, *, scope: Scope, name: str, by: str, reason: str, door: str) -> Suspension:
    """Shut a subject out until an owner restores it; live sessions of it end. One that is shut out stays as it is.

    name: as in `Names`. Raises BrokerError(NOT_FOUND, INVALID).
    """
    said = parse_text(reason, what="reason", longest=REASON_LONGEST)
    subject = subject_of(tx, scope, name)
    if (stands := suspensions.standing_of(tx, [subject]).get(subject)) is not None:
        return stands
    made = suspensions.insert(tx, scope=scope, subject=subject, by=by, reason=said)
    entry = Suspended(suspension_id=made.id, scope=scope.value, subject=subject, by=by, reason=said, door=door)
    ledger.append(tx, entry)
    return made


def restore(tx: Tx, *, owner_id: PersonId, scope: Scope, name: str, door: str) -> str | Refusal:
    """Let a subject in again, by an owner of a site it is about; gives the subject's id. Sessions that ended stay so.

    A grant is restored from a killed session too. Raises BrokerError(NOT_FOUND).
    """
    return restore_subject(tx, owner_id=owner_id, scope=scope, subject=subject_of(tx, scope, name), door=door)


def restore_subject(tx: Tx, *, owner_id: PersonId, scope: Scope, subject: str, door: str) -> str | Refusal:
    """The same by the subject's id."""
    owner = require_person(tx, owner_id)
    if not may_restore(tx, owner, scope, subject):
        return Refusal(ReviewReason.NO_RIGHT, f"an owner of the {scope.value}'s site restores it")
    stands = suspensions.standing_of(tx, [subject]).get(subject)
    lifted = stands is not None and suspensions.lift(tx, stands, by=owner_id)
    freed = scope is Scope.GRANT and grants.unsuspend(tx, GrantId(subject))
    if not (lifted or freed):
        return _NOT_SUSPENDED
    entry = Restored(
        suspension_id=subject
        if stands is None
        else stands.id,  # a killed session suspends its grant without one of its own
        scope=scope.value,
        subject=subject,
        owner_id=owner_id,
        door=door,
    )
    ledger.append(tx, entry)
    return subject


def may_restore(tx: Tx, owner: Person, scope: Scope, subject: str) -> bool:
    """Whether a person may approve at a site that the subject is about: for a firm, one where it has a window."""
    sites = sites_of(tx, scope, subject)
    return owner.vendor_id is None and any(owner.may(Right.APPROVE, one) for one in sites)


def subject_of(tx: Tx, scope: Scope, name: str) -> str:
    """The id of a subject by the name people use. Raises BrokerError(NOT_FOUND, INVALID)."""
    match scope:
        case Scope.GRANT:
            return grants.require(tx, name).id
        case Scope.ENGINEER:
            person = people.require(tx, name)
            if person.vendor_id is None:
                raise BrokerError(Code.INVALID, f"{quoted(name)} is no engineer of a vendor")
            return person.id
        case Scope.VENDOR:
            return inventory.load_vendor(tx, name).id
        case Scope.ASSET:
            if (asset := inventory.load_asset(tx, name)) is None:
                raise BrokerError(Code.NOT_FOUND, f"no asset {quoted(name)}; see: asset list")
            return asset.id
        case Scope.WINDOW:
            return windows.load_window(tx, name).id
        case Scope.SITE:
            return inventory.load_site(tx, name).id


def name_of(tx: Tx, suspension: Suspension) -> str:
    """The name people use for a subject."""
    subject = suspension.subject
    match suspension.scope:
        case Scope.ENGINEER:
            person = people.load_person(tx, PersonId(subject))
            return subject if person is None else person.handle
        case Scope.VENDOR:
            vendor = inventory.vendor_by_id(tx, VendorId(subject))
            return subject if vendor is None else vendor.name
        case Scope.ASSET:
            asset = inventory.asset_by_id(tx, AssetId(subject))
            return subject if asset is None else asset.login
        case Scope.SITE:
            site = inventory.site_by_id(tx, SiteId(subject))
            return subject if site is None else site.name
        case Scope.GRANT | Scope.WINDOW:
            return subject


def sites_of(tx: Tx, scope: Scope, subject: str) -> frozenset[SiteId]:
    """The sites that a subject is about."""
    match scope:
        case Scope.SITE:
            return frozenset({SiteId(subject)})
        case Scope.GRANT:
            return frozenset({grants.require(tx, subject).site_id})
        case Scope.WINDOW:
            return frozenset({windows.load_window(tx, subject).site_id})
        case Scope.ASSET:
            asset = inventory.asset_by_id(tx, AssetId(subject))
            return frozenset() if asset is None else frozenset({asset.site_id})
        case Scope.VENDOR:
            return windows.sites_of_vendor(tx, VendorId(subject))
        case Scope.ENGINEER:
            person = people.load_person(tx, PersonId(subject))
            at = None if person is None else person.vendor_id
            return frozenset() if at is None else windows.sites_of_vendor(tx, at)
