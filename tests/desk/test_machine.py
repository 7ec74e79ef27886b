"""Whatever people do in whatever order, desk, gate and store agree with the laws. Laws 1, 2, 3, 5, 6, as one machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from broker import desk, gate
from broker.domain.audit import StreamHead
from broker.domain.capability import parse_capabilities, parse_capability
from broker.domain.errors import BrokerError, Code
from broker.domain.grant import Grant, GrantState
from broker.domain.ids import GrantId, SessionId
from broker.domain.isolation import Ladder
from broker.domain.live import Moved
from broker.domain.people import Role, RoleAt
from broker.domain.policy import Agreed, Narrowing, Refusal
from broker.domain.request import AccessRequest
from broker.domain.session import ChannelKind, EndReason
from broker.domain.window import Interval
from broker.gate import Entered, Limits
from broker.settings import Settings
from broker.signer.signing import Order, order_gate
from broker.store import grants, inventory, ledger, people, requests, sessions
from broker.store.db import Database, Tx
from tests.desk.model import (
    FIRM_OF,
    HAZARDS,
    HUMAN_OF,
    LONGEST_SESSION,
    MOST_SESSIONS,
    AGrant,
    ARequest,
    ASession,
    AWindow,
    Model,
    Yes,
)
from tests.store.databases import HOUR, MINUTE, NOON, SECOND, Store, a_store
from tests.store.makers import SOURCE, make_plant

LIMITS = Limits(most_sessions=MOST_SESSIONS, longest_session=LONGEST_SESSION)
SETTINGS = Settings(certificate_life_s=1800)
TICK = timedelta(microseconds=1)
ENGINEERS, OWNERS = sorted(FIRM_OF), sorted(HUMAN_OF.keys() - FIRM_OF.keys())
ASSETS = st.lists(st.sampled_from(["bms-01", "bms-02", "pcs-01"]), min_size=1, max_size=3, unique=True).map(tuple)
CAPABILITIES = ("shell", "exec", "sftp-read", "tcp:502")
SOME = st.frozensets(st.sampled_from(CAPABILITIES[:3]), min_size=1)
LATER = st.sampled_from([timedelta(0), MINUTE, HOUR, 3 * HOUR])
LENGTHS = st.sampled_from([SECOND, 10 * MINUTE, 2 * HOUR, 2 * HOUR, 5 * HOUR])


class Deeds(RuleBasedStateMachine):
    """One site, seven people, and everything they can do to each other."""

    windows: Bundle[str] = Bundle("windows")
    requests: Bundle[str] = Bundle("requests")
    grants: Bundle[str] = Bundle("grants")
    sessions: Bundle[str] = Bundle("sessions")

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.nodes = [store.db, store.again()]
        self.plant = make_plant(store.db, store.clock)
        self.model = Model(now=NOON)
        self.told: list[str] = []
        self.seen: set[str] = set()
        with store.db.read() as tx:
            self.seq, _ = ledger.head(tx)
        one = self.plant.window
        self.model.windows[one.id] = AWindow("cellmaker", one.interval.opens, one.interval.closes, "*")
        self._a_day_that_has_begun()

    def _a_day_that_has_begun(self) -> None:
        """Something of everything, so that no kind of deed has to wait for another: requests, grants, sessions."""
        both, all_three = ("bms-01", "bms-02"), ("bms-01", "bms-02", "pcs-01")
        usual = frozenset({"shell", "exec"})
        for asker, assets, owners in (
            ("engineer.one", both, ["owner"]),
            ("engineer.two", all_three, ["owner", "owner2"]),
            ("engineer.one", all_three, ["owner2"]),
            ("engineer.two", both, []),
            ("engineer.one", both, []),
        ):
            request = self._submit(asker, assets, usual, None, 2 * HOUR, 3 * HOUR)
            assert isinstance(request, str)
            for owner in owners:
                self._approve(request, owner, None, None, None, None)
        assert len(self.model.grants) == 2
        assert all(isinstance(self._enter(asker, "bms-01", "shell"), str) for asker in ("engineer.one", "engineer.two"))

    @contextlib.contextmanager
    def deed(self, *entries: str) -> Iterator[Tx]:
        """One transaction; entries: the kinds it must tell the ledger if it commits, and nothing else."""
        self.told.extend(entries)
        with self._node().begin() as tx:
            yield tx

    def _node(self) -> Database:
        """By turns one of two bastions on the one database."""
        self.nodes.reverse()
        return self.nodes[0]

    @contextlib.contextmanager
    def conflict(self) -> Iterator[Tx]:
        """One transaction that must be refused as a whole."""
        with pytest.raises(BrokerError) as told, self.store.db.begin() as tx:
            yield tx
        assert told.value.code in (Code.CONFLICT, Code.INVALID)

    # --- windows

    @initialize(target=windows)
    def windows_there_are(self) -> MultipleResults[str]:
        return multiple(*self.model.windows)

    @initialize(target=requests)
    def requests_there_are(self) -> MultipleResults[str]:
        return multiple(*self.model.requests)

    @initialize(target=grants)
    def grants_there_are(self) -> MultipleResults[str]:
        return multiple(*self.model.grants)

    @initialize(target=sessions)
    def sessions_there_are(self) -> MultipleResults[str]:
        return multiple(*self.model.sessions)

    @rule(
        target=windows,
        firm=st.sampled_from(["cellmaker", "cellmaker", "rival"]),
        begins=st.sampled_from([-HOUR, timedelta(0), HOUR]),
        length=st.sampled_from([2 * HOUR, 6 * HOUR, 72 * HOUR]),
        pattern=st.sampled_from(["*", "bms-*"]),
        hours=st.sampled_from([None, (10, 13), (12, 14), (13, 24), (0, 12)]),
    )
    def open_window(
        self, firm: str, begins: timedelta, length: timedelta, pattern: str, hours: tuple[int, int] | None
    ) -> str:
        interval = Interval(self.model.now + begins, self.model.now + begins + length)
        vendor = self.plant.vendor if firm == "cellmaker" else self.plant.rival
        with self.deed("window.opened") as tx:
            daily = "" if hours is None else f"{hours[0]:02d}:00-{hours[1]:02d}:00"
            made = inventory.insert_window(
                tx, site=self.plant.site, vendor=vendor, interval=interval, pattern=pattern, daily=daily, by="x"
            )
        self.model.windows[made.id] = AWindow(firm, interval.opens, interval.closes, pattern, hours=hours)
        return str(made.id)

    @rule(window=windows)
    def close_window(self, window: str) -> None:
        one = self.model.windows[window]
        over = one.end <= self.model.now or one.closed_at is not None
        with self.conflict() if over else self.deed("window.closed") as tx:
            desk.close_window(tx, window_id=window, by="x")
        if not over:
            one.closed_at = self.model.now

    @rule(window=windows, more=st.sampled_from([-HOUR, timedelta(0), HOUR]))
    def extend_window(self, window: str, more: timedelta) -> None:
        one = self.model.windows[window]
        fine = more > timedelta(0) and one.closed_at is None and self.model.now < one.closes
        with self.deed("window.extended") if fine else self.conflict() as tx:
            inventory.extend_window(tx, inventory.load_window(tx, window), one.closes + more, by="x")
        if fine:
            one.closes += more

    # --- requests

    @rule(
        target=requests,
        asker=st.sampled_from([*ENGINEERS, "engineer.one", "engineer.two", "owner"]),
        assets=ASSETS,
        capabilities=SOME,
        opens=st.none() | LATER,
        length=LENGTHS,
        lapses_after=st.sampled_from([MINUTE, HOUR, 24 * HOUR]),
    )
    def submit(
        self,
        asker: str,
        assets: tuple[str, ...],
        capabilities: frozenset[str],
        opens: timedelta | None,
        length: timedelta,
        lapses_after: timedelta,
    ) -> str | MultipleResults[str]:
        return self._submit(asker, assets, capabilities, opens, length, lapses_after)

    def _submit(
        self,
        asker: str,
        assets: tuple[str, ...],
        capabilities: frozenset[str],
        opens: timedelta | None,
        length: timedelta,
        lapses_after: timedelta,
    ) -> str | MultipleResults[str]:
        now = self.model.now
        starts = None if opens is None else now + opens
        may = self.model.may_ask(asker, assets, starts, length)
        with self.deed("request.submitted" if may else "request.refused") as tx:
            answer = self.plant.ask(
                tx,
                asker,
                assets=tuple(f"{one}.north" for one in assets),
                capabilities=parse_capabilities(",".join(capabilities)),
                opens=starts,
                length=length,
                lapses_after=lapses_after,
            )
        assert isinstance(answer, AccessRequest) == may, answer
        if not isinstance(answer, AccessRequest):
            return multiple()
        self.model.requests[answer.id] = ARequest(asker, assets, capabilities, starts, length, now + lapses_after)
        return str(answer.id)

    @rule(
        target=grants,
        request=requests,
        owner=st.sampled_from([*OWNERS, "owner", "owner2", "engineer.two"]),
        fewer=st.none() | ASSETS,
        less=st.none() | SOME,
        sooner=st.none() | st.sampled_from([-HOUR, TICK, MINUTE, 2 * HOUR]),
        later=st.none() | st.sampled_from([-MINUTE, MINUTE]),
    )
    def approve(
        self,
        request: str,
        owner: str,
        fewer: tuple[str, ...] | None,
        less: frozenset[str] | None,
        sooner: timedelta | None,
        later: timedelta | None,
    ) -> str | MultipleResults[str]:
        return self._approve(request, owner, fewer, less, sooner, later)

    @rule(target=grants, request=requests, owner=st.sampled_from(OWNERS))
    def approve_as_asked(self, request: str, owner: str) -> str | MultipleResults[str]:
        return self._approve(request, owner, None, None, None, None)

    def _approve(
        self,
        request: str,
        owner: str,
        fewer: tuple[str, ...] | None,
        less: frozenset[str] | None,
        sooner: timedelta | None,
        later: timedelta | None,
    ) -> str | MultipleResults[str]:
        one = self.model.requests[request]
        asked = one.asked(self.model.now)
        narrowed = Yes(
            asked.assets if fewer is None else frozenset(fewer),
            asked.capabilities if less is None else less,
            asked.opens if later is None else asked.opens + later,
            asked.closes if sooner is None else asked.closes - sooner,
        )
        agreed = self.model.agreed(owner, one, narrowed)
        complete = agreed is not None and self.model.complete(one, narrowed)
        entries = ["approval.refused"] if agreed is None else ["approval.given", *(["grant.made"] * complete)]
        narrowing = Narrowing(
            assets=None if fewer is None else frozenset(f"{name}.north" for name in fewer),
            capabilities=None if less is None else parse_capabilities(",".join(less)),
            closes=None if sooner is None else narrowed.closes,
            opens=None if later is None else narrowed.opens,
        )
        with self.deed(*entries) as tx:
            answer = self.plant.approve(tx, request, owner, narrowing)
        note(f"{owner} -> {answer}")
        assert isinstance(answer, Refusal) == (agreed is None)
        assert isinstance(answer, Grant) == complete
        if isinstance(answer, Agreed) and agreed is not None:
            one.yeses.append((owner, agreed))
        if not isinstance(answer, Grant) or agreed is None:
            return multiple()
        one.state = "approved"
        one.yeses.append((owner, agreed))
        self.model.grants[answer.id] = AGrant(request, one.asker, answer.window_id, agreed)
        return str(answer.id)

    @rule(request=requests, owner=st.sampled_from([*OWNERS, "engineer.two"]))
    def deny(self, request: str, owner: str) -> None:
        one = self.model.requests[request]
        may = self.model.may_decide(owner, one)
        with self.deed("request.denied" if may else "approval.refused") as tx:
            answer = desk.deny(tx, owner_id=self.plant.id_of(owner), request_id=request, reason="no", door="web")
        assert isinstance(answer, AccessRequest) == may
        one.state = "denied" if may else one.state

    @rule(request=requests, who=st.sampled_from(["", "", "engineer.two", "owner"]))
    def withdraw(self, request: str, who: str) -> None:
        one = self.model.requests[request]
        who = who or one.asker
        may = who == one.asker and one.shown(self.model.now) == "pending"
        with self.deed(*["request.withdrawn"] * may) as tx:
            answer = desk.withdraw(tx, person_id=self.plant.id_of(who), request_id=request)
        assert isinstance(answer, AccessRequest) == may
        one.state = "withdrawn" if may else one.state

    # --- what takes access away

    @rule(grant=grants, owner=st.sampled_from([*OWNERS, "engineer.one"]))
    def revoke(self, grant: str, owner: str) -> None:
        one = self.model.grants[grant]
        entitled = owner not in FIRM_OF and owner not in self.model.disabled | self.model.rightless
        may = entitled and not one.revoked and not one.handed_back
        with self.deed(*["grant.revoked"] * may) as tx:
            answer = desk.revoke_as(tx, owner_id=self.plant.id_of(owner), grant_id=grant, reason="enough")
        assert isinstance(answer, Grant) == may
        one.revoked |= may

    @rule(grant=grants, who=st.sampled_from(["", "", "engineer.two", "owner"]))
    def hand_back(self, grant: str, who: str) -> None:
        one = self.model.grants[grant]
        who = who or one.asker
        may = who == one.asker and not one.ended and self.model.now < one.yes.closes
        with self.deed(*["grant.handed_back"] * may) as tx:
            answer = desk.hand_back(tx, person_id=self.plant.id_of(who), grant_id=grant)
        assert isinstance(answer, Grant) == may
        one.handed_back |= may

    @rule(session=sessions, owner=st.sampled_from([*OWNERS, "engineer.two"]))
    def kill(self, session: str, owner: str) -> None:
        one = self.model.sessions[session]
        grant = self.model.grants[one.grant]
        entitled = owner not in FIRM_OF and owner not in self.model.disabled | self.model.rightless
        marks, suspends = not one.ended and not one.killed, not grant.ended
        may = entitled and (marks or suspends)
        with self.deed(*["session.killed"] * may) as tx:
            answer = desk.kill_as(tx, owner_id=self.plant.id_of(owner), session_id=session, reason="out", door="web")
        assert isinstance(answer, Refusal) != may
        if may:
            one.killed |= marks
            grant.suspended |= suspends

    # Seldom, or soon nobody is left to do anything.
    @rule(who=st.sampled_from([*[""] * 9, *HUMAN_OF, "cellmaker", "rival", *(f"key of {one}" for one in ENGINEERS)]))
    def shut_somebody_out(self, who: str) -> None:
        twice = self.conflict() if who in self.model.disabled else None
        if who.startswith("key of "):
            self._take_the_key_away(who.removeprefix("key of "))
        elif who in HUMAN_OF:
            void = 0 if twice else self.model.void_yeses(who)
            with twice or self.deed("person.changed", *["approval.voided"] * void) as tx:
                desk.disable_person(tx, handle=who, by="x")
            self.model.disabled.add(who)
        elif who:
            with twice or self.deed("vendor.disabled") as tx:
                desk.disable_vendor(tx, name=who, by="x")
            self.model.disabled.add(who)

    @rule(who=st.sampled_from(OWNERS))
    def change_rights(self, who: str) -> None:
        """An owner becomes an auditor, or an owner again; either voids what they agreed to as the first of two."""
        owner, auditor = (RoleAt(role, self.plant.site.id) for role in (Role.OWNER, Role.AUDITOR))
        back = who in self.model.rightless
        void = self.model.void_yeses(who)
        with self.deed("person.changed", *["approval.voided"] * void) as tx:
            desk.change_rights(
                tx, handle=who, add=[owner if back else auditor], remove=[auditor if back else owner], by="x"
            )
        self.model.rightless ^= {who}

    def _take_the_key_away(self, who: str) -> None:
        had = who not in self.model.keyless
        with self.deed(*["person.changed"] * had) as tx:
            assert people.remove_key(tx, self.plant.id_of(who), self.plant.fingerprint_of(who), by="x") == had
        self.model.keyless.add(who)

    # --- the gate

    @rule(
        target=sessions,
        asker=st.sampled_from(["engineer.one", "engineer.one", "engineer.two", "stranger"]),
        asset=st.sampled_from(["bms-01", "bms-02", "pcs-01"]),
        capability=st.sampled_from(CAPABILITIES),
    )
    def enter(self, asker: str, asset: str, capability: str) -> str | MultipleResults[str]:
        return self._enter(asker, asset, capability)

    @rule(target=sessions, grant=grants, which=st.integers(0), capability=st.sampled_from(CAPABILITIES[:2]))
    def enter_where_it_was_granted(self, grant: str, which: int, capability: str) -> str | MultipleResults[str]:
        one = self.model.grants[grant]
        return self._enter(one.asker, sorted(one.yes.assets)[which % len(one.yes.assets)], capability)

    def _enter(self, asker: str, asset: str, capability: str) -> str | MultipleResults[str]:
        possible = self.model.may_enter(asker, asset, capability)
        with self.deed(*(["session.opened", "channel.opened"] if possible else ["channel.refused"])) as tx:
            answer = self.plant.enter(
                tx, asker, f"{asset}.north", capability=parse_capability(capability), limits=LIMITS
            )
        note(f"{asker} at {asset}: {answer}")
        assert isinstance(answer, Entered) == bool(possible)
        if not isinstance(answer, Entered):
            return multiple()
        got = answer.admission
        assert (got.until, got.asset.name, answer.channel) == (max(possible.values()), asset, 1)
        assert possible[got.grant_id] == got.until
        self.model.sessions[answer.session_id] = ASession(
            got.grant_id, asset, got.until, self.model.now + LONGEST_SESSION, self.model.now, channels={1: True}
        )
        return str(answer.session_id)

    @rule(session=sessions, capability=st.sampled_from(CAPABILITIES))
    def open_another_channel(self, session: str, capability: str) -> None:
        one = self.model.sessions[session]
        until = self.model.may_join(session, capability)
        asker = self.model.grants[one.grant].asker
        with self.deed("channel.refused" if until is None else "channel.opened") as tx:
            answer = self.plant.enter(
                tx,
                asker,
                f"{one.asset}.north",
                capability=parse_capability(capability),
                kind=ChannelKind.EXEC,
                session_id=SessionId(session),
                limits=LIMITS,
            )
        note(f"{session}: {answer}")
        assert isinstance(answer, Entered) == (until is not None)
        if isinstance(answer, Entered):
            assert (answer.admission.until, answer.opened) == (until, False)
            assert answer.channel == len(one.channels) + 1
            one.channels[answer.channel] = True

    @rule(session=sessions, who=st.sampled_from(ENGINEERS))
    def slip_into_somebody_elses_session(self, session: str, who: str) -> None:
        one = self.model.sessions[session]
        if who == self.model.grants[one.grant].asker:
            return
        with self.deed("channel.refused") as tx:
            answer = self.plant.enter(tx, who, f"{one.asset}.north", session_id=SessionId(session), limits=LIMITS)
        assert isinstance(answer, Refusal)

    @rule(session=sessions, channel=st.integers(1, 3), state=st.sampled_from(["closed", "interrupted"]))
    def leave_channel(self, session: str, channel: int, state: str) -> None:
        one = self.model.sessions[session]
        was_open = one.channels.get(channel, False)
        heads = [StreamHead(stream=f"{channel:02d}.screen", length=3, sha256="00" * 32)]
        with self.deed(*["channel.closed"] * was_open) as tx:
            done = gate.leave_channel(
                tx, session_id=SessionId(session), channel=channel, state=state, exit="0", heads=heads
            )
        assert done == was_open
        if was_open:
            one.channels[channel] = False

    @rule(session=sessions | consumes(sessions))
    def leave(self, session: str) -> None:
        one = self.model.sessions[session]
        still_open = sum(one.channels.values())
        entries = [] if one.ended else [*["channel.closed"] * still_open, "session.closed"]
        with self.deed(*entries) as tx:
            assert gate.leave(tx, session_id=SessionId(session), reason=EndReason.DONE) == (not one.ended)
        one.ended = True
        one.channels = dict.fromkeys(one.channels, False)

    # --- the signer

    @rule(grant=grants, who=st.sampled_from(["engineer.one", "engineer.two"]))
    def collect_a_certificate(self, grant: str, who: str) -> None:
        one, now = self.model.grants[grant], self.model.now
        window = self.model.windows[one.window]
        life = timedelta(seconds=SETTINGS.certificate_life_s)
        day = NOON if window.hours is None else now.replace(hour=window.hours[0], minute=0, second=0, microsecond=0)
        begins = window.opens if window.hours is None else max(window.opens, day)
        first = max(one.yes.opens, begins, now.replace(microsecond=0))
        last = min(self.model.stop(grant), now.replace(microsecond=0) + life)
        whole = (last - NOON) // SECOND > -((NOON - first) // SECOND)
        may = who == one.asker and any(
            self.model.admits(grant, asset, capability)
            for asset in one.yes.assets
            for capability in one.yes.capabilities
        )
        if not (may and whole):
            with pytest.raises(BrokerError) as told, self.store.db.begin() as tx:
                self._order(tx, grant, who)
            assert told.value.code is Code.FORBIDDEN
            return
        with self.deed("certificate.issued") as tx:
            order = self._order(tx, grant, who)
        assert one.yes.opens <= order.valid_after < order.valid_before <= self.model.stop(grant)
        assert now - SECOND < order.valid_after or one.yes.opens <= order.valid_after
        assert order.valid_before <= now + life
        assert set(order.principals) == {who} | {
            f"{account}{name}.north" for name in one.yes.assets for account in ("", "root+")
        }

    def _order(self, tx: Tx, grant: str, who: str) -> Order:
        return order_gate(
            tx,
            SETTINGS,
            grant_id=GrantId(grant),
            person_id=self.plant.id_of(who),
            key_line=self.plant.keys[who],
            source=SOURCE,
            ladder=Ladder(),
        )

    # --- time

    @rule(length=st.sampled_from([TICK, SECOND, MINUTE, 20 * MINUTE, HOUR, HOUR, 20 * HOUR]))
    def time_passes(self, length: timedelta) -> None:
        self.model.now = self.store.clock.forward(length)

    @rule(which=st.integers(0), before=st.booleans())
    def time_passes_to_the_very_end_of_something(self, which: int, before: bool) -> None:
        ends = [one.yes.closes for one in self.model.grants.values()]
        ends += [one.end for one in self.model.windows.values()] + [
            one.lapses_at for one in self.model.requests.values()
        ]
        ends += [one.longest for one in self.model.sessions.values()]
        ahead = sorted({one - TICK * before for one in ends if one - TICK * before > self.model.now})
        if ahead:
            self.model.now = self.store.clock.forward(ahead[which % min(len(ahead), 2)] - self.model.now)

    # --- what always holds

    @invariant()
    def law_5_each_deed_has_exactly_its_entries_and_the_chain_is_whole(self) -> None:
        with self.store.db.read() as tx:
            assert ledger.verify(tx) is None
            found = ledger.since(tx, self.seq)
        assert [row.kind for row in found] == self.told
        self.seq += len(found)
        self.told.clear()

    @invariant()
    def laws_2_and_6_what_is_kept_means_at_any_time_what_the_laws_say(self) -> None:
        with self.store.db.read() as tx:
            asked, given = requests.requests(tx), grants.grants(tx)
        assert {one.id for one in asked} == self.model.requests.keys()
        assert {one.id for one in given} == self.model.grants.keys()
        for later in (timedelta(0), TICK, MINUTE, 4 * HOUR):  # the same rows, looked at later
            now = self.model.now + later
            for request in asked:
                assert request.shown_state(now).value == self.model.requests[request.id].shown(now)
            for grant in given:
                one = self.model.grants[grant.id]
                is_open = not one.ended and one.yes.opens <= now < one.yes.closes
                assert (grant.state(now) is GrantState.OPEN) == is_open

    @invariant()
    def law_3_no_grant_without_a_stranger_to_its_asker_and_two_for_a_hazard(self) -> None:
        for grant_id in self.model.grants.keys() - self.seen:
            self.seen.add(grant_id)
            grant = self.model.grants[grant_id]
            with self.store.db.read() as tx:
                found = grants.require(tx, grant_id)
                given = [one for one in requests.approvals(tx, found.request_id) if one.void_at is None]
                yeses = [people.load_person(tx, one.owner_id) for one in given]
            window = self.model.windows[found.window_id]
            assert window.opens <= found.interval.opens < found.interval.closes <= window.closes
            assert (found.interval.opens, found.interval.closes) == (grant.yes.opens, grant.yes.closes)
            assert found.terms.capabilities == parse_capabilities(",".join(grant.yes.capabilities))
            humans = {HUMAN_OF[one.handle] for one in yeses if one is not None}
            assert HUMAN_OF[grant.asker] not in humans
            assert len(humans) >= (2 if grant.yes.assets & HAZARDS else 1)

    @invariant()
    def laws_1_and_2_each_live_session_lies_in_its_grant_and_ends_when_it_must(self) -> None:
        ids = [SessionId(one) for one in self.model.sessions]
        with self.store.db.read() as tx:
            told = gate.standing(tx, ids)
            kept = {one.id: one for one in sessions.sessions(tx)}
        for session_id in ids:
            one, row = self.model.sessions[session_id], kept[session_id]
            grant = self.model.grants[one.grant]
            assert (row.grant_id, row.until, row.ended_at is not None) == (one.grant, one.until, one.ended)
            assert grant.yes.opens <= row.opened_at < row.until <= min(grant.yes.closes, one.longest)
            reasons, said = self.model.reasons_to_end(session_id), told[session_id]
            if reasons:
                assert isinstance(said, EndReason)
                assert said.value in reasons
            else:
                until = min(self.model.stop(one.grant, one.opened_at), one.longest)
                assert said == Moved(until)


@pytest.mark.parametrize(("kind", "examples", "steps"), [("sqlite", 40, 40), ("postgresql", 6, 30)])
def test_whatever_people_do_the_laws_hold(kind: str, examples: int, steps: int, request: pytest.FixtureRequest) -> None:
    @contextlib.contextmanager
    def fresh() -> Iterator[Store]:
        with a_store(kind, request) as store:
            yield store

    class Run(Deeds):
        def __init__(self) -> None:
            self.kept = contextlib.ExitStack()
            super().__init__(self.kept.enter_context(fresh()))

        def teardown(self) -> None:
            self.kept.close()

    run_state_machine_as_test(
        Run,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        ),
    )
