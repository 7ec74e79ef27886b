"""The use-case of admission: who may open a channel to what, now; and what ends a session that is open."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from broker.domain.audit import ChannelOpened, ChannelRefused, SessionOpened
from broker.domain.authority import ClockBehind
from broker.domain.capability import Capability
from broker.domain.grant import Grant, GrantState
from broker.domain.ids import GrantId, Login, PersonId, SessionId
from broker.domain.inventory import Site
from broker.domain.isolation import Ladder
from broker.domain.policy import Admission, Facts, Reason, Refusal, admit
from broker.domain.session import ChannelKind, Session
from broker.domain.suspension import Names, Scope
from broker.leaving import Finding as Finding
from broker.leaving import leave as leave
from broker.leaving import leave_channel as leave_channel
from broker.leaving import recover as recover
from broker.leaving import standing as standing
from broker.store import admissions, ledger, recordings, sessions
from broker.store.admissions import Entrance
from broker.store.db import Tx


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """How an engineer came in. factors: key+code or certificate; public_key: the OpenSSH line of the key that signed.

    handle, short_names: of the person, and of the assets in their own grants: what tells a login of the console from one of an
    asset; certificate_*: of the gate certificate, None after key and code.
    """

    person_id: PersonId
    key_fingerprint: str
    public_key: bytes
    factors: str
    source: str
    handle: str = ""
    short_names: frozenset[str] = frozenset()
    certificate_serial: str | None = None
    certificate_grant: GrantId | None = None
    certificate_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the site allows at the gate. Source: docs/rules.md, Limits."""

    most_sessions: int = 4
    most_of_engineer: int = 16
    most_of_asset: int = 16
    longest_session: timedelta = timedelta(hours=12)
    clock_tolerance: timedelta = timedelta(seconds=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entered:
    """One yes, with its rows and its ledger entries.

    opened: this channel opened the session; site, grant: for the line the engineer reads; folder: of the session's files, and
    paths: of this channel's, both relative to recordings/; names: what it belongs to, for a kill without the database.
    """

    admission: Admission
    session_id: SessionId
    channel: int
    opened: bool
    site: Site
    grant: Grant
    folder: str
    paths: tuple[str, ...]
    names: Names


def enter(
    tx: Tx,
    *,
    proof: Proof,
    login: Login,
    capability: Capability,
    also: frozenset[Capability] = frozenset(),
    kind: ChannelKind,
    command: str | None = None,
    session_id: SessionId | None = None,
    node: str,
    can_record: bool,
    frozen: bool = False,
    limits: Limits = Limits(),
    ladder: Ladder,
) -> Entered | Refusal:
    """Decide on one channel and keep the decision, yes or no, with its ledger entries in this one transaction.

    session_id: of the connection's session, None for its first channel; frozen: the bastion has stopped its input;
    command: of an exec, kept cut and cleaned; ladder: what isolates the site. Of several grants for the asset the one is taken
    that admits and ends last. Source: law 1, docs/architecture.md steps 5 and 6.
    """
    decision = _decide(tx, proof, login, capability, session_id, can_record, limits, also, frozen=frozen, ladder=ladder)
    if isinstance(decision, Refusal):
        record_refusal(tx, proof=proof, asked=_show(login), capability=str(capability), reason=decision.reason)
        return decision
    admission, entrance, site, grant = decision
    cleaned = None if command is None else _cleaned(command)
    session = entrance.session
    opened = session is None
    if session is None:
        session = _open_session(tx, proof, admission, node, limits)
    channel = sessions.insert_channel(tx, session.id, kind=kind, command=cleaned)
    paths = recordings.insert_streams(tx, session, channel, kind)
    ledger.append(tx, ChannelOpened(session_id=session.id, channel=channel, channel_kind=kind, command=cleaned))
    return Entered(
        admission=admission,
        session_id=session.id,
        channel=channel,
        opened=opened,
        site=site,
        grant=grant,
        folder=recordings.folder_of(session),
        paths=paths,
        names={
            Scope.GRANT: grant.id,
            Scope.ENGINEER: admission.person.handle,
            Scope.VENDOR: "" if entrance.vendor is None else entrance.vendor.name,
            Scope.ASSET: admission.asset.login,
            Scope.WINDOW: grant.window_id,
            Scope.SITE: site.name,
        },
    )


def raise_clock_alarm(tx: Tx, *, node: str, limits: Limits) -> timedelta | None:
    """Keep that the clock is behind the ledger; gives by how much, None and no entry when it is not. Source: TIM-2."""
    behind = ledger.clock_behind(tx)
    if behind <= limits.clock_tolerance:
        return None
    ledger.append(tx, ClockBehind(node=node, behind_s=int(behind.total_seconds())))
    return behind


def record_refusal(tx: Tx, *, proof: Proof, asked: str, capability: str, reason: str) -> None:
    """Keep a no as evidence. asked: what was wished for, foreign text; capability: or the kind of channel refused."""
    entry = ChannelRefused(
        person_id=proof.person_id,
        asked=_cleaned(asked),
        capability=_cleaned(capability),
        reason=str(reason),
        source=proof.source,
    )
    ledger.append(tx, entry)


_Yes = tuple[Admission, Entrance, Site, Grant]


def _decide(
    tx: Tx,
    proof: Proof,
    login: Login,
    capability: Capability,
    session_id: SessionId | None,
    can_record: bool,
    limits: Limits,
    also: frozenset[Capability],
    *,
    frozen: bool,
    ladder: Ladder,
) -> _Yes | Refusal:
    entrance = admissions.load_entrance(
        tx,
        person_id=proof.person_id,
        key_fingerprint=proof.key_fingerprint,
        login=login,
        session_id=session_id,
        certificate_serial=proof.certificate_serial,
    )
    if entrance is None:
        return Refusal(Reason.PERSON_DISABLED, "the key is no longer enrolled; ask the site owner")
    if entrance.ambiguous:
        return Refusal(Reason.NO_SUCH_ASSET, f"several assets are called {login.asset}: write ASSET.SITE")
    if session_id is not None and (refused := _unfit(entrance, proof)) is not None:
        return refused
    if proof.certificate_serial is not None and entrance.certificate_grant != proof.certificate_grant:
        return Refusal(Reason.OTHER_CERTIFICATE, "collect a new one with: cert")
    return _best(entrance, proof, login, capability, can_record, limits, also, ladder, frozen=frozen, now=tx.now)


def _unfit(entrance: Entrance, proof: Proof) -> Refusal | None:
    """Why a further channel cannot join the session it names."""
    session = entrance.session
    if session is None or session.person_id != proof.person_id:
        return Refusal(Reason.OVER, "connect again")
    if entrance.killed:
        return Refusal(Reason.SUSPENDED, "a session of it was killed; ask the site owner")
    if session.ended_at is not None:
        return Refusal(Reason.OVER, "the session has ended; connect again")
    if entrance.asset is None or entrance.asset.id != session.asset_id:
        return Refusal(Reason.NO_SUCH_ASSET, "one connection goes to one asset; connect again")
    return None


def _best(
    entrance: Entrance,
    proof: Proof,
    login: Login,
    capability: Capability,
    can_record: bool,
    limits: Limits,
    also: frozenset[Capability],
    ladder: Ladder,
    *,
    frozen: bool,
    now: datetime,
) -> _Yes | Refusal:
    chosen: _Yes | None = None
    refused: Refusal | None = None
    of_engineer, of_asset = entrance.others()
    candidates: list[Grant | None] = [*_in_order(entrance.grants, proof, now)]
    for grant in candidates or [None]:
        facts = Facts(
            person=entrance.person,
            vendor=entrance.vendor,
            site=entrance.site,
            asset=entrance.asset,
            account=entrance.session.account if entrance.session is not None else login.account,
            grant=grant,
            window=None if grant is None else entrance.windows.get(grant.window_id),
            capability=capability,
            also=also,
            certificate_grant=proof.certificate_grant,
            certificate_until=proof.certificate_until,
            live_sessions=0 if grant is None else entrance.live_sessions(grant.id),
            most_sessions=limits.most_sessions,
            suspended=entrance.shut_out(grant),
            engineer_sessions=of_engineer,
            most_of_engineer=limits.most_of_engineer,
            asset_sessions=of_asset,
            most_of_asset=limits.most_of_asset,
            longest_session=_left(entrance, limits, now),
            frozen=frozen or (entrance.session is not None and entrance.session.frozen_at is not None),
            can_record=can_record,
            clock_behind=entrance.clock_behind > limits.clock_tolerance,
            isolation=ladder.level(None if entrance.site is None else entrance.site.name),
        )
        if facts.longest_session <= timedelta(0):
            return Refusal(Reason.OVER, "the session's longest time is over; connect again")
        decision = admit(facts, now=now)
        if isinstance(decision, Refusal):
            refused = refused or decision
        elif grant is None or entrance.site is None:  # admit says no to both; this is for the type checker
            refused = refused or Refusal(Reason.NO_GRANT)
        elif chosen is None or decision.until > chosen[0].until:
            chosen = (decision, entrance, entrance.site, grant)
    return chosen or refused or Refusal(Reason.NO_GRANT)


def _in_order(grants: Iterable[Grant], proof: Proof, now: datetime) -> list[Grant]:
    """The one nearest to a yes first, so that its refusal is the one told: the certificate's own, then an open one."""
    return sorted(
        grants,
        key=lambda one: (
            one.id != proof.certificate_grant,
            one.state(now) is not GrantState.OPEN,
            now - one.granted_at,
        ),
    )


def _left(entrance: Entrance, limits: Limits, now: datetime) -> timedelta:
    """How long a channel may last by the site's longest session: counted from the session's start, not the channel's."""
    return limits.longest_session if entrance.longest_until is None else entrance.longest_until - now


def _open_session(tx: Tx, proof: Proof, admission: Admission, node: str, limits: Limits) -> Session:
    session = Session(
        id=SessionId(tx.new_id("ses")),
        grant_id=admission.grant_id,
        person_id=admission.person.id,
        asset_id=admission.asset.id,
        account=admission.account,
        source=proof.source,
        opened_at=tx.now,
        until=admission.until,
    )
    opening = sessions.Opening(
        factors=proof.factors,
        key_fingerprint=proof.key_fingerprint,
        certificate_serial=None if proof.certificate_serial is None else int(proof.certificate_serial),
        node=node,
        longest_until=tx.now + limits.longest_session,
    )
    sessions.insert_session(tx, session, opening)
    entry = SessionOpened(
        session_id=session.id,
        grant_id=session.grant_id,
        person_id=session.person_id,
        asset_id=session.asset_id,
        account=session.account,
        source=session.source,
        until=session.until,
    )
    ledger.append(tx, entry)
    return session


def _show(login: Login) -> str:
    account = "" if login.account is None else f"{login.account}+"
    return f"{account}{login.asset}" + ("" if login.site is None else f".{login.site}")


def _cleaned(text: str) -> str:
    """Foreign text for a row: control and bidirectional characters escaped, cut. Source: LOG-1; the recording has it exact."""
    shown = "".join(ch if ch.isprintable() else ch.encode("unicode_escape").decode("ascii") for ch in text[:1024])
    return shown if len(shown) <= 1024 else shown[:1021] + "..."
