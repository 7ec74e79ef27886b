"""Grants, certificates, sessions, channels and recordings as rows, and the one load of facts at the gate."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from broker import desk, gate
from broker.domain.audit import StreamHead
from broker.domain.errors import BrokerError, Code
from broker.domain.grant import Grant, GrantState
from broker.domain.ids import GrantId, SessionId, parse_login
from broker.domain.live import Moved
from broker.domain.policy import Narrowing, Reason, Refusal
from broker.domain.session import ChannelKind, EndReason
from broker.domain.window import Interval
from broker.gate import Finding
from broker.store import admissions, grants, inventory, ledger, people, recordings, sessions
from broker.store.admissions import Entrance
from broker.store.db import Tx
from broker.store.grants import IssuedCertificate
from tests.store.databases import HOUR, MINUTE, NOON, SECOND, Store
from tests.store.makers import BY, Plant, an_asset

TICK = timedelta(microseconds=1)


def a_certificate(serial: int, grant_id: GrantId | None = None) -> IssuedCertificate:
    return IssuedCertificate(
        serial=serial,
        purpose="gate",
        grant_id=grant_id,
        session_id=None,
        key_fingerprint="SHA256:x",
        key_id="wicketgate x",
        principals=("bms-01.north", "engineer.one"),
        valid_after=NOON,
        valid_before=NOON + HOUR,
        source_address=None,
        issued_at=NOON,
    )


def head(stream: str, length: int = 3) -> StreamHead:
    return StreamHead(stream=stream, length=length, sha256="ab" * 32)


# --- grants and certificates


def test_a_grant_comes_back_as_it_was_made(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        request = plant.submit(tx, assets=("bms-01.north", "bms-02.north"), opens=NOON + HOUR + TICK)
        made = plant.approve(tx, request.id, narrowing=Narrowing(closes=NOON + 2 * HOUR - TICK))
        assert isinstance(made, Grant)
    with store.db.read() as tx:
        assert grants.load(tx, made.id) == grants.of_request(tx, request.id) == made
        assert (made.interval.opens, made.interval.closes) == (NOON + HOUR + TICK, NOON + 2 * HOUR - TICK)
        assert grants.load(tx, "grt-none") is None
        assert grants.grants(tx, asset_id=plant.assets["bms-02"].id) == [made]
        assert grants.grants(tx, asset_id=plant.assets["pcs-01"].id) == []
        assert grants.grants(tx, person_id=plant.id_of("stranger")) == grants.grants(tx, site_ids=[]) == []


def test_law_6_the_same_rows_make_a_live_grant_and_later_none(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        made = plant.grant(tx, opens=NOON + HOUR, length=HOUR)
    with store.db.read() as tx:
        for now, live in (
            (NOON, False),
            (NOON + HOUR - TICK, False),
            (NOON + HOUR, True),
            (NOON + 2 * HOUR - TICK, True),
            (NOON + 2 * HOUR, False),
        ):
            assert (grants.live_grants_for(tx, made.person_id, now) == [made]) == live
            assert (made.state(now) is GrantState.OPEN) == live


ENDINGS: dict[str, Callable[[Tx, Grant], bool]] = {
    "revoke": lambda tx, grant: grants.revoke(tx, grant.id, by="x", reason="r"),
    "suspend": lambda tx, grant: grants.suspend(tx, grant.id, by="x", reason="r"),
    "hand_back": lambda tx, grant: grants.hand_back(tx, grant.id, by="x"),
}


def test_a_grant_ends_once_for_the_one_who_ended_it(store: Store, plant: Plant) -> None:
    for ending, end in ENDINGS.items():
        with store.db.begin() as tx:
            made = plant.grant(tx)
            assert end(tx, made), ending
            assert not end(tx, made), ending
            assert grants.live_grants_for(tx, made.person_id, NOON) == []
            assert ENDINGS["revoke"](tx, made) == (ending == "suspend"), "only a suspended one can be ended for good"


def test_a_killed_engineer_cannot_hide_the_kill_behind_handing_back(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        made = plant.grant(tx)
        desk.kill(tx, session_id=plant.entered(tx).session_id, by="owner", reason="out", door="web")
        answer = desk.hand_back(tx, person_id=made.person_id, grant_id=made.id)
        assert isinstance(answer, Refusal)
        assert answer.reason is Reason.SUSPENDED
        assert grants.require(tx, made.id).state(NOON) is GrantState.SUSPENDED


def test_a_certificate_is_kept_under_its_serial_once(store: Store, plant: Plant) -> None:
    largest = (1 << 63) - 1
    with store.db.begin() as tx:
        grant = plant.grant(tx)
        for serial in (largest, 0, 7):
            kept = a_certificate(serial, grant.id)
            grants.insert_certificate(tx, kept)
            assert grants.load_certificate(tx, serial) == grants.load_certificate(tx, str(serial)) == kept
        with pytest.raises(BrokerError) as told:
            grants.insert_certificate(tx, a_certificate(7))
        assert told.value.code is Code.CONFLICT
        assert len(grants.certificates(tx, grant.id)) == 3
        for text in ("8", "", "-7", "7.0", "٧", " 7", str(1 << 63), "9" * 40, "7; DROP TABLE site"):
            assert grants.load_certificate(tx, text) is None, text


# --- sessions, channels, recordings


def test_a_session_its_channels_and_its_streams_come_back_as_they_were_opened(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        grant = plant.grant(tx)
        entered = plant.entered(tx)
        plant.entered(tx, session_id=entered.session_id, kind=ChannelKind.EXEC)
        [session] = sessions.sessions(tx, live=True)
        assert sessions.load_session(tx, entered.session_id) == session
        assert (session.grant_id, session.account, session.until) == (grant.id, "service", NOON + 2 * HOUR)
        opened = sessions.channels(tx, session.id)
        assert [(one.number, one.kind.value, one.state) for one in opened] == [
            (1, "shell", "open"),
            (2, "exec", "open"),
        ]
        kept = sessions.load_recording(tx, session.id)
        assert kept is not None
        assert (kept.asset, kept.person, kept.state) == ("bms-01.north", "engineer.one", "open")
        assert [one.name for one in kept.streams] == ["01.screen", "01.typed", "02.screen", "02.typed"]
        assert kept.streams[0].path == f"2027/02/24/{session.id}/01.screen.wgr"
        assert entered.paths == tuple(one.path for one in kept.streams[:2])
        assert sessions.live_counts(tx, [grant.id, GrantId("grt-none")]) == {grant.id: 1}


def test_leaving_closes_everything_once_and_the_ledger_names_every_stream(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        plant.grant(tx)
        session_id = plant.entered(tx).session_id
        plant.entered(tx, session_id=session_id, kind=ChannelKind.EXEC)
        heads = [head("01.screen", 10), head("01.typed", 4)]
        done = [
            gate.leave_channel(tx, session_id=session_id, channel=1, state="closed", exit="0", heads=heads)
            for _ in range(2)
        ]
        assert done == [True, False]
        late = [head("02.screen", 9)]  # and 02.typed could not be read
        left = [gate.leave(tx, session_id=session_id, reason=EndReason.TIME_UP, heads=late) for _ in range(2)]
        assert left == [True, False]
        kept = sessions.load_recording(tx, session_id)
        assert kept is not None
        assert {one.name: one.state for one in kept.streams} == {
            "01.screen": "closed",
            "01.typed": "closed",
            "02.screen": "interrupted",
            "02.typed": "damaged",
        }
        assert kept.state == "damaged", "the worst of its streams"
        [closed] = ledger.show(tx, kind="session.closed")
        assert [one["stream"] for one in closed.body["heads"]] == ["01.screen", "01.typed", "02.screen"]
        assert closed.body["reason"] == "time is up"
        assert isinstance(plant.enter(tx, session_id=session_id), Refusal), "no further channel in it"


def test_a_crash_is_closed_at_the_next_start_of_that_bastion_alone(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        plant.grant(tx)
        entered = plant.entered(tx)
        found = {entered.paths[0]: Finding(length=12, sha256="cd" * 32)}
        assert gate.recover(tx, node="elsewhere", findings=found) == []
        assert gate.recover(tx, node="here", findings=found) == [entered.session_id]
        assert gate.recover(tx, node="here", findings=found) == []
        session = sessions.load_session(tx, entered.session_id)
        assert session is not None
        assert session.end_reason is EndReason.INTERRUPTED
        kept = {one.name: (one.state, one.length) for one in recordings.streams(tx, session.id)}
        assert kept == {"01.screen": ("interrupted", 12), "01.typed": ("damaged", None)}


def test_recordings_are_found_by_session_asset_person_site_and_time(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        plant.grant(tx)
        plant.grant(tx, "engineer.two", assets=("bms-02.north",))
        first = plant.entered(tx).session_id
    store.clock.forward(MINUTE)
    with store.db.begin() as tx:
        second = plant.entered(tx, "engineer.two", "bms-02.north").session_id

        def found(**wanted: object) -> list[SessionId]:
            return [one.id for one in sessions.recordings(tx, **wanted)]  # type: ignore[arg-type]

        assert found() == [second, first], "the newest first"
        assert found(session_id=first) == found(asset_id=plant.assets["bms-01"].id) == [first]
        assert found(person_id=plant.id_of("engineer.two")) == found(since=NOON + SECOND) == found(newest=1) == [second]
        assert found(site_ids=[plant.site.id]) == [second, first]
        assert found(site_ids=[]) == []
        assert [one.id for one in sessions.sessions(tx, site_ids=[plant.site.id], live=False)] == []


def test_the_database_itself_refuses_a_session_that_is_half_ended(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        plant.grant(tx)
        plant.entered(tx)
    for statement in (
        "UPDATE access_session SET ended_at = 1",
        "UPDATE access_session SET grant_id = 'grt-none'",
        "UPDATE channel SET state = 'lost'",
        "UPDATE stream SET channel = 9",
        "DELETE FROM access_grant",
    ):
        with pytest.raises(sa.exc.IntegrityError), store.raw() as run:
            run(statement)


ACTS: dict[str, tuple[Callable[[Tx, Plant, SessionId, Grant], object], object]] = {
    "nothing": (lambda tx, plant, ses, grant: None, Moved(NOON + 2 * HOUR)),
    "revoke": (lambda tx, plant, ses, grant: desk.revoke(tx, grant_id=grant.id, by="x", reason="r"), EndReason.REVOKED),
    "hand back": (
        lambda tx, plant, ses, grant: desk.hand_back(tx, person_id=grant.person_id, grant_id=grant.id),
        EndReason.HANDED_BACK,
    ),
    "kill": (
        lambda tx, plant, ses, grant: desk.kill(tx, session_id=ses, by="x", reason="r", door="cli"),
        EndReason.KILLED,
    ),
    "close the window": (
        lambda tx, plant, ses, grant: desk.close_window(tx, window_id=grant.window_id, by="x"),
        EndReason.WINDOW_CLOSED,
    ),
    "disable the engineer": (
        lambda tx, plant, ses, grant: desk.disable_person(tx, handle="engineer.one", by="x"),
        EndReason.DISABLED,
    ),
    "disable the vendor": (
        lambda tx, plant, ses, grant: desk.disable_vendor(tx, name="cellmaker", by="x"),
        EndReason.DISABLED,
    ),
    "take the key": (
        lambda tx, plant, ses, grant: people.remove_key(
            tx, grant.person_id, plant.fingerprint_of("engineer.one"), by="x"
        ),
        EndReason.DISABLED,
    ),
    "extend the window": (
        lambda tx, plant, ses, grant: inventory.extend_window(tx, plant.window, NOON + 20 * HOUR, by=BY),
        Moved(NOON + 2 * HOUR),
    ),
    "leave": (
        lambda tx, plant, ses, grant: gate.leave(tx, session_id=ses, reason=EndReason.DONE),
        EndReason.INTERRUPTED,
    ),
    "move the grant's end": (
        lambda tx, plant, ses, grant: tx.conn.execute(
            sa.text("UPDATE access_grant SET closes = closes - 1000000 WHERE id = :id"), {"id": grant.id}
        ),
        Moved(NOON + 2 * HOUR - SECOND),
    ),
}


class Undone(Exception):
    """Ends a transaction without a trace."""


def test_each_act_means_its_end_to_the_session_it_touches(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        grant = plant.grant(tx)
        mine = plant.entered(tx).session_id
    for act, (do, wanted) in ACTS.items():
        with contextlib.suppress(Undone), store.db.begin() as tx:
            do(tx, plant, mine, grant)
            told = gate.standing(tx, [mine, SessionId("ses-none")])
            assert told == {mine: wanted, "ses-none": EndReason.INTERRUPTED}, act
            raise Undone


# --- the facts at the gate


def entrance(
    tx: Tx, plant: Plant, login: str = "bms-01.north", handle: str = "engineer.one", **more: object
) -> Entrance | None:
    wanted: dict[str, object] = {"session_id": None, "certificate_serial": None, **more}
    return admissions.load_entrance(
        tx,
        person_id=plant.id_of(handle),
        key_fingerprint=plant.fingerprint_of(handle),
        login=parse_login(login),
        **wanted,  # type: ignore[arg-type]
    )


def test_a_key_that_is_not_the_persons_opens_nothing(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        plant.grant(tx)
        stolen = replace(plant.proof(), key_fingerprint=plant.fingerprint_of("stranger"))
        assert isinstance(plant.enter(tx, proof=stolen), Refusal)
        people.remove_key(tx, plant.id_of("engineer.one"), plant.fingerprint_of("engineer.one"), by="x")
        assert entrance(tx, plant) is None
        assert isinstance(plant.enter(tx), Refusal)


def test_law_7_an_unknown_asset_and_one_of_a_strangers_site_look_alike(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        answers = [
            plant.enter(tx, "stranger", login) for login in ("bms-01.north", "bms-99.north", "bms-01", "x.nowhere")
        ]
    assert len({str(one) for one in answers}) == 1
    assert isinstance(answers[0], Refusal)
    assert answers[0].reason is Reason.NO_SUCH_ASSET


def test_a_short_name_means_the_one_asset_of_that_name_among_live_grants(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        south = inventory.insert_site(tx, name="south", time_zone="UTC", by=BY)
        an_asset(tx, south, "bms-01", host_key="ssh-ed25519 AAAA")
        inventory.insert_window(tx, site=south, vendor=plant.vendor, interval=Interval(NOON, NOON + 9 * HOUR), by=BY)
        plant.grant(tx)
        assert plant.entered(tx, login="bms-01").site == plant.site
        with pytest.raises(AssertionError):
            plant.grant(tx, assets=("bms-01.south",))  # no owner of the north decides in the south
        people.add_roles(
            tx, plant.people["owner"], [replace(next(iter(plant.people["owner"].roles)), site_id=south.id)], by=BY
        )
        plant.grant(tx, assets=("bms-01.south",))
        refused = plant.enter(tx, login="bms-01")
        assert isinstance(refused, Refusal)
        assert "write ASSET.SITE" in refused.hint
        assert plant.entered(tx, login="bms-01.south").site == south


def test_a_live_grant_is_found_among_any_number_of_over_and_scheduled_ones(store: Store, plant: Plant) -> None:
    with store.db.begin() as tx:
        for turn in range(70):
            plant.grant(tx, opens=NOON + 4 * HOUR + turn * SECOND, length=MINUTE)
        live = plant.grant(tx, length=HOUR)
        for _ in range(3):
            plant.grant(tx, opens=NOON - HOUR / 2, length=HOUR)
        assert plant.entered(tx).grant == live


def test_an_engineer_with_many_grants_costs_no_more_questions_than_one_with_one(store: Store, plant: Plant) -> None:
    asked: list[str] = []

    def count(tx: Tx) -> int:
        asked.clear()
        sa.event.listen(tx.conn, "before_cursor_execute", lambda *args: asked.append(args[2]))
        assert isinstance(plant.enter(tx), gate.Entered)
        return len(asked)

    with store.db.begin() as tx:
        plant.grant(tx)
    with store.db.begin() as tx:
        one = count(tx)
    with store.db.begin() as tx:
        for _ in range(20):
            plant.grant(tx)
    with store.db.begin() as tx:
        many = count(tx)
    assert many == one <= 20


def test_the_longest_of_several_grants_is_taken_and_room_is_counted_for_each(store: Store, plant: Plant) -> None:
    limits = gate.Limits(most_sessions=2)
    with store.db.begin() as tx:
        short, long = plant.grant(tx, length=HOUR), plant.grant(tx, length=3 * HOUR)
        order = [plant.entered(tx, limits=limits).grant.id for _ in range(4)]
        assert order == [long.id, long.id, short.id, short.id]
        full = plant.enter(tx, limits=limits)
        assert isinstance(full, Refusal)
        assert full.reason is Reason.TOO_MANY_SESSIONS


def test_law_1_a_certificate_opens_its_own_grant_alone_and_only_one_that_was_given_out(
    store: Store, plant: Plant
) -> None:
    with store.db.begin() as tx:
        mine, other = plant.grant(tx), plant.grant(tx, length=4 * HOUR)
        grants.insert_certificate(tx, a_certificate(7, mine.id))

        def enter(serial: str, grant: Grant, until: timedelta = HOUR) -> object:
            proof = plant.proof(certificate_serial=serial, certificate_grant=grant.id, certificate_until=NOON + until)
            answer = plant.enter(tx, proof=proof)
            return answer.reason if isinstance(answer, Refusal) else answer.grant.id

        assert enter("7", mine) == mine.id, "not the longer one"
        assert enter("7", mine, until=timedelta(0)) is Reason.CERTIFICATE_OVER
        assert enter("7", other) is Reason.OTHER_CERTIFICATE
        assert enter("8", mine) is Reason.OTHER_CERTIFICATE, "a serial that was never given out"
        desk.revoke(tx, grant_id=mine.id, by="x", reason="r")
        assert enter("7", mine) is Reason.REVOKED
