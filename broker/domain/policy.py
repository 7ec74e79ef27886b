"""The law: review, may_approve, terms, admit. Total functions; facts and `now` in, a decision out."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from broker.domain.capability import Capability, CapabilityKind, show_capabilities
from broker.domain.grant import Grant, GrantState, Terms
from broker.domain.ids import GrantId
from broker.domain.inventory import REACHABLE_STATES, Asset, AssetClass, Site, Vendor
from broker.domain.isolation import Level
from broker.domain.people import Person, Right
from broker.domain.refusal import Reason as Reason
from broker.domain.refusal import Refusal as Refusal
from broker.domain.refusal import ReviewReason as ReviewReason
from broker.domain.request import AccessRequest, Asked, ShownState
from broker.domain.suspension import Scope
from broker.domain.window import CommissioningWindow, Interval

_ADMIT: Final = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewFacts:
    """All that is known for judging a request. assets: those found, in the order asked; windows: this vendor's."""

    person: Person
    vendor: Vendor | None
    assets: tuple[Asset, ...]
    windows: tuple[CommissioningWindow, ...]
    longest: timedelta


def review(facts: ReviewFacts, asked: Asked, *, now: datetime) -> CommissioningWindow | Refusal:
    """Judge whether a request may stand; the answer is the window it lies in. Raises nothing. Source: law 2."""
    if facts.person.vendor_id is None or facts.vendor is None:
        return Refusal(ReviewReason.NOT_AN_ENGINEER, "ask with the handle that belongs to a vendor")
    if facts.person.disabled_at is not None or facts.vendor.disabled_at is not None:
        return Refusal(ReviewReason.DISABLED, "ask the site owner")
    found = {asset.login for asset in facts.assets} | {asset.name for asset in facts.assets}
    if missing := [name for name in asked.assets if name not in found] or (not asked.assets and ["(none)"]):
        return Refusal(ReviewReason.NO_SUCH_ASSET, f"{', '.join(missing)}: see the command assets")
    if len({asset.site_id for asset in facts.assets}) > 1:
        return Refusal(ReviewReason.SEVERAL_SITES, "ask once for each site")
    for asset in facts.assets:
        if asset.state not in REACHABLE_STATES:
            return Refusal(ReviewReason.ASSET_NOT_READY, f"{asset.login} is {asset.state.value}; ask the site owner")
        for capability in sorted(asked.capabilities):
            if capability.kind is CapabilityKind.TCP and capability.port not in asset.tcp_ports:
                return Refusal(ReviewReason.PORT_NOT_LISTED, f"{asset.login} has no listed port {capability.port}")
    if asked.length > facts.longest:
        return Refusal(ReviewReason.TOO_LONG, f"at most {facts.longest} in one request")
    opens = now if asked.opens is None else asked.opens
    if opens + asked.length <= now:
        return Refusal(ReviewReason.IN_THE_PAST, "choose a time that is still to come")
    wanted = Interval(max(opens, now), opens + asked.length)
    window = covering(facts.windows, facts.assets, wanted)
    if window is None:
        hint = "ask the site owner to open a commissioning window for your firm"
        return _outside(facts.windows, facts.assets, wanted, hint)
    return window


def _outside(
    windows: tuple[CommissioningWindow, ...], assets: tuple[Asset, ...], wanted: Interval, hint: str
) -> Refusal:
    """Why no window covers it: the hours of one that otherwise would, or there is none."""
    if (window := covering(tuple(replace(one, daily=None) for one in windows), assets, wanted)) is None:
        return Refusal(ReviewReason.NO_WINDOW, hint)
    hours = next(one.daily for one in windows if one.id == window.id)
    return Refusal(ReviewReason.OUTSIDE_HOURS, f"choose a time within {hours} at the site")


def covering(
    windows: tuple[CommissioningWindow, ...], assets: tuple[Asset, ...], wanted: Interval
) -> CommissioningWindow | None:
    """The window that covers all the assets for the whole interval; of several, the one that closes last."""
    fitting = [one for one in windows if one.covers(wanted) and all(one.names(asset.name) for asset in assets)]
    return max(fitting, key=lambda one: (one.closes, one.id), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalFacts:
    """All that is known for one owner's yes or no.

    vendor: the asker's. first: what an earlier owner, who may still approve, agreed to, where four eyes are asked for.
    """

    request: AccessRequest | None
    asker: Person | None
    owner: Person
    vendor: Vendor | None = None
    assets: tuple[Asset, ...] = ()
    windows: tuple[CommissioningWindow, ...] = ()
    first_owner: Person | None = None
    first: Terms | None = None
    isolation: Level = Level.NORMAL


@dataclass(frozen=True, slots=True)
class Narrowing:
    """What an owner takes away in the same act; None leaves the thing as asked."""

    assets: frozenset[str] | None = None
    capabilities: frozenset[Capability] | None = None
    closes: datetime | None = None
    opens: datetime | None = None


@dataclass(frozen=True, slots=True)
class Agreed:
    """One yes. complete: no further owner is needed and the terms become a grant in that window."""

    terms: Terms
    window: CommissioningWindow
    complete: bool


def may_decide(facts: ApprovalFacts, *, now: datetime) -> Refusal | None:
    """Whether this owner may say yes or no to this request now; None when they may. Source: law 3, WEB-1, WEB-3."""
    request, asker, owner = facts.request, facts.asker, facts.owner
    if request is None or asker is None:
        return Refusal(ReviewReason.NO_SUCH_REQUEST)
    if not owner.may(Right.APPROVE, request.site_id):
        return Refusal(ReviewReason.NO_RIGHT, "an owner of the site decides")
    if owner.same_human(asker) or owner.vendor_id is not None:
        return Refusal(ReviewReason.OWN_REQUEST, "another owner of the site decides")
    shown = request.shown_state(now)
    if shown is ShownState.LAPSED:
        return Refusal(ReviewReason.LAPSED, "the engineer asks again")
    if shown is not ShownState.PENDING:
        return Refusal(ReviewReason.WRONG_STATE, f"the request is {shown.value}")
    return None


def may_approve(facts: ApprovalFacts, narrowing: Narrowing, *, now: datetime) -> Agreed | Refusal:
    """Judge one owner's yes, narrowed or not; never wider than asked. Raises nothing. Source: laws 2 and 3, WEB-2, WEB-3."""
    # 1. The owner may decide this request now. 2. The asker and the assets are still fit. 3. The terms are what was asked,
    # or less. 4. A commissioning window covers the terms as they stand. 5. Four eyes, where the assets' class or an alert asks
    # for them: the second owner is another human and the terms stay within what the first agreed to.
    if (refused := may_decide(facts, now=now)) is not None:  # (1)
        return refused
    request, asker = facts.request, facts.asker
    if request is None or asker is None:
        return Refusal(ReviewReason.NO_SUCH_REQUEST)
    if asker.disabled_at is not None:  # (2)
        return Refusal(ReviewReason.DISABLED, "the engineer has been disabled")
    if facts.vendor is not None and facts.vendor.disabled_at is not None:
        return Refusal(ReviewReason.DISABLED, "the engineer's firm has been disabled")
    if {asset.id for asset in facts.assets} != set(request.assets):
        return Refusal(ReviewReason.NO_SUCH_ASSET, "an asset of the request is gone")
    narrowed = terms(request, facts.assets, narrowing, now=now)  # (3)
    if isinstance(narrowed, Refusal):
        return narrowed
    granted = tuple(asset for asset in facts.assets if asset.id in narrowed.assets)
    for asset in granted:  # (2)
        if asset.state not in REACHABLE_STATES:
            return Refusal(ReviewReason.ASSET_NOT_READY, f"{asset.login} is {asset.state.value}")
    window = covering(facts.windows, granted, narrowed.interval)  # (4)
    if window is None:
        hint = "shorten it, or open or extend a commissioning window first"
        return _outside(facts.windows, granted, narrowed.interval, hint)
    alert = facts.isolation >= Level.ALERT
    if not alert and not any(asset.asset_class is AssetClass.HAZARD for asset in granted):  # (5)
        return Agreed(narrowed, window, complete=True)
    if facts.first_owner is None or facts.first is None:
        return Agreed(narrowed, window, complete=False)
    if facts.first_owner.same_human(facts.owner):
        why = "the site is on alert: it asks for two owners" if alert else "the assets ask for two owners"
        return Refusal(ReviewReason.SAME_OWNER, why)
    both = _overlap(narrowed, facts.first)
    if both is None:
        return Refusal(ReviewReason.NOTHING_LEFT, "the two owners agree on nothing in common")
    return Agreed(both, window, complete=True)


def terms(request: AccessRequest, assets: tuple[Asset, ...], narrowing: Narrowing, *, now: datetime) -> Terms | Refusal:
    """What was asked less what the owner takes away; a Refusal when anything would be wider. Bounds round inwards."""
    asked = request.interval(now) if request.opens is None or request.opens + request.length > now else None
    if asked is None:
        return Refusal(ReviewReason.IN_THE_PAST, "the time asked for is over")
    names = {asset.login: asset.id for asset in assets} | {asset.name: asset.id for asset in assets}
    kept, left = frozenset(request.assets), request.capabilities
    if narrowing.assets is not None:
        if not narrowing.assets <= names.keys():
            return Refusal(ReviewReason.WIDER, "name only assets that were asked for")
        kept = frozenset(names[name] for name in narrowing.assets)
    if narrowing.capabilities is not None:
        if not narrowing.capabilities <= left:
            return Refusal(ReviewReason.WIDER, "name only capabilities that were asked for")
        left = narrowing.capabilities
    opens, closes = narrowing.opens or asked.opens, narrowing.closes or asked.closes
    if closes > asked.closes or opens < asked.opens:
        return Refusal(ReviewReason.WIDER, f"at most until {asked.closes:%Y-%m-%d %H:%M:%S} UTC, as asked")
    if not kept or not left or opens >= closes:
        return Refusal(ReviewReason.NOTHING_LEFT, "deny it instead")
    return Terms(assets=kept, capabilities=left, interval=Interval(opens, closes))


def _overlap(one: Terms, other: Terms) -> Terms | None:
    assets, capabilities = one.assets & other.assets, one.capabilities & other.capabilities
    opens = max(one.interval.opens, other.interval.opens)
    closes = min(one.interval.closes, other.interval.closes)
    if not assets or not capabilities or opens >= closes:
        return None
    return Terms(assets=assets, capabilities=capabilities, interval=Interval(opens, closes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All the store knows for one decision at the gate.

    also: capabilities that the door needs beside the first, as a file-transfer subsystem that both reads and writes.
    certificate_grant, certificate_until: of the gate certificate by which the engineer came in, None after key and code.
    suspended: the narrowest scope that somebody has shut out. live_sessions: of this grant, engineer_sessions: of the person,
    asset_sessions: of the asset, this one's own not counted. frozen: the session that the channel would join takes no input.
    can_record: free space is above the floor.
    clock_behind: further behind the ledger's latest instant than is borne, so that no instant of a grant means anything.
    """

    person: Person
    vendor: Vendor | None
    site: Site | None
    asset: Asset | None
    account: str | None
    grant: Grant | None
    window: CommissioningWindow | None
    capability: Capability
    also: frozenset[Capability] = frozenset()
    certificate_grant: GrantId | None = None
    certificate_until: datetime | None = None
    suspended: Scope | None = None
    live_sessions: int = 0
    most_sessions: int = 4
    engineer_sessions: int = 0
    most_of_engineer: int = 16
    asset_sessions: int = 0
    most_of_asset: int = 16
    longest_session: timedelta = timedelta(hours=24)
    frozen: bool = False
    can_record: bool = True
    clock_behind: bool = False
    isolation: Level = Level.NORMAL


@dataclass(frozen=True, slots=True)
class Admission:
    """Proof that `admit` said yes to one channel; nothing about the asset is looked up again.

    until: the hard stop. Only `admit` makes one: dataclasses.replace(admission, until=later) fails too.
    """

    grant_id: GrantId
    person: Person
    asset: Asset
    account: str
    capability: Capability
    until: datetime
    made_by: InitVar[object]

    def __post_init__(self, made_by: object) -> None:
        if made_by is not _ADMIT:
            raise TypeError("only admit() makes an Admission")


def admit(facts: Facts, *, now: datetime) -> Admission | Refusal:
    """Decide whether one channel may open now. now: aware UTC. Raises nothing. Source: RFC 4254 section 5.1; law 1."""
    # 1. Person and vendor are not disabled. 2. The asset is known, released and its host key pinned. 3. There is a grant for
    # it, and it is the certificate's own. 4. Nothing that it belongs to is suspended, and no act has ended it. 5. now lies in
    # the grant and in the commissioning window, and the certificate that opened the door still lives. 6. The owner granted
    # this capability, and the account is one of the asset's. 7. The session takes input, there is room for it, the recording
    # can be kept, and the site is neither frozen nor cut off. 8. The hard stop is the first of: the
    # grant's end, the window's close, today's end of its daily hours, the site's longest session.
    # The caller, `gate.enter`: 9. session row and ledger entry in one transaction, 10. recording opened, 11. asset dialled.
    asset, grant, window = facts.asset, facts.grant, facts.window
    if facts.clock_behind:  # before all else. Source: TIM-2
        return Refusal(Reason.CLOCK_BEHIND, "nothing is admitted until the site has set it; tell the site")
    if facts.person.disabled_at is not None:  # (1)
        return Refusal(Reason.PERSON_DISABLED, "ask the site owner")
    if facts.vendor is None or facts.vendor.disabled_at is not None:
        return Refusal(Reason.VENDOR_DISABLED, "ask the site owner")
    if asset is None or facts.site is None:  # (2)
        return Refusal(Reason.NO_SUCH_ASSET, "see the command assets")
    if (
        grant is None or window is None or asset.id not in grant.terms.assets or grant.person_id != facts.person.id
    ):  # (3)
        return Refusal(Reason.NO_GRANT, f'ask with: request {asset.login} --for 2h --reason "..."')
    if facts.certificate_grant is not None and facts.certificate_grant != grant.id:
        return Refusal(Reason.OTHER_CERTIFICATE, "collect a new one with: cert")
    if facts.suspended is not None:  # (4)
        return Refusal(Reason.SHUT_OUT, f"the {facts.suspended.value} is shut out by the site; ask the site owner")
    if (refused := _standing(grant, window, facts, now=now)) is not None:  # (4) (5)
        return refused
    if asset.state not in REACHABLE_STATES:  # (2)
        return Refusal(Reason.ASSET_NOT_READY, f"{asset.login} is {asset.state.value}; ask the site owner")
    if asset.host_key is None:
        return Refusal(Reason.NO_HOST_KEY, "ask the site's admin to pin it")
    if missing := ({facts.capability} | facts.also) - grant.terms.capabilities:  # (6) an empty set never means "any"
        named = show_capabilities(missing)
        return Refusal(Reason.NOT_GRANTED, f"{named} was not granted; ask again with --needs {named}")
    account = facts.account or (asset.accounts[0] if asset.accounts else None)
    if account is None or account not in asset.accounts:
        return Refusal(Reason.ACCOUNT_UNKNOWN, f"accounts: {', '.join(asset.accounts)}")
    if facts.frozen:  # (7)
        return Refusal(Reason.FROZEN, "the site has stopped its input; ask the site owner")
    if (crowded := _crowded(facts)) is not None:
        return crowded
    if not facts.can_record:
        return Refusal(Reason.CANNOT_RECORD, "the bastion is short of disk space; tell the site")
    if facts.isolation >= Level.FROZEN:
        return Refusal(Reason.ISOLATED, "no session is admitted; ask the site owner")
    until = min(grant.interval.closes, window.stop(now), now + facts.longest_session)  # (8)
    return Admission(grant.id, facts.person, asset, account, facts.capability, until, made_by=_ADMIT)


def _crowded(facts: Facts) -> Refusal | None:
    of_engineer = (facts.engineer_sessions, facts.most_of_engineer, "one engineer")
    of_asset = (facts.asset_sessions, facts.most_of_asset, "one asset")
    for live, most, whose in ((facts.live_sessions, facts.most_sessions, "one grant"), of_engineer, of_asset):
        if live >= most:
            return Refusal(Reason.TOO_MANY_SESSIONS, f"at most {most} at once of {whose}; close one first")
    return None


def _standing(grant: Grant, window: CommissioningWindow, facts: Facts, *, now: datetime) -> Refusal | None:
    match grant.state(now):
        case GrantState.REVOKED:
            return Refusal(Reason.REVOKED, "ask the site owner")
        case GrantState.SUSPENDED:
            return Refusal(Reason.SUSPENDED, "a session of it was killed; ask the site owner")
        case GrantState.HANDED_BACK:
            return Refusal(Reason.HANDED_BACK, "ask again with: request")
        case GrantState.SCHEDULED:
            return Refusal(Reason.NOT_YET, f"it opens at {grant.interval.opens:%Y-%m-%d %H:%M:%S} UTC")
        case GrantState.OVER:
            return Refusal(Reason.OVER, "ask again with: request")
        case GrantState.OPEN:
            pass
    belongs = (window.site_id, window.vendor_id) == (grant.site_id, grant.vendor_id)
    if not belongs or not window.interval.opens <= now < window.closes:
        return Refusal(Reason.WINDOW_CLOSED, "ask the site owner")
    if not window.holds(now):
        return Refusal(Reason.OUTSIDE_HOURS, f"come back within {window.daily} at the site")
    if facts.certificate_until is not None and now >= facts.certificate_until:
        return Refusal(Reason.CERTIFICATE_OVER, "collect a new one with: cert")
    return None
