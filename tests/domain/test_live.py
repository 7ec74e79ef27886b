"""LiveSession as conversations: >> an event goes in, << a command must come out."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.live import (
    Arrived,
    Batch,
    Close,
    Command,
    Direction,
    Drop,
    Ended,
    Event,
    Forward,
    Frozen,
    Go,
    LiveSession,
    Moment,
    Moved,
    Notify,
    Piece,
    Record,
    Recorded,
    RecorderFailed,
    Stop,
    Tick,
    Unfrozen,
    Verb,
)
from broker.domain.policy import Admission, admit
from broker.domain.session import EndReason
from tests.domain.makers import HOUR, NOON, some_facts

START_US = 5_000_000
WARNINGS = (timedelta(minutes=15), timedelta(minutes=5), timedelta(minutes=1))


def after(wall_s: float = 0, mono_s: float | None = None) -> Moment:
    mono = wall_s if mono_s is None else mono_s
    return Moment(NOON + timedelta(seconds=wall_s), START_US + int(mono * 1e6))


def a_live_session() -> LiveSession:
    admission = admit(some_facts(), now=NOON)
    assert isinstance(admission, Admission)
    return LiveSession(admission, started=after(), warn_before=WARNINGS)


def typed(data: bytes, channel: int = 0) -> Batch:
    return Batch(channel, Direction.UP, (Piece(Verb.DATA, data),))


class Playbook:
    """A conversation with a session; what is not asserted fails at the next event or at the end."""

    def __init__(self, session: LiveSession) -> None:
        self.session, self.at, self.out = session, after(), list[Command]()

    def at_s(self, wall_s: float, mono_s: float | None = None) -> Playbook:
        self.at = after(wall_s, mono_s)
        return self

    def __rshift__(self, event: Event) -> Playbook:
        assert not self.out, f"nobody asserted {self.out}"
        self.out = self.session.handle(event, at=self.at)
        return self

    def __lshift__(self, command: Command) -> Playbook:
        assert self.out, f"nothing came, expected {command}"
        came = self.out.pop(0)
        if isinstance(command, Close | Notify | Stop | Go) and isinstance(came, type(command)):
            assert command.text in came.text
            if isinstance(command, Close):
                assert isinstance(came, Close)
                assert came.reason is command.reason
        else:
            assert came == command
        return self

    def __bool__(self) -> bool:
        assert not self.out, f"nobody asserted {self.out}"
        return True


def test_law_4_what_arrives_is_recorded_and_only_then_forwarded() -> None:
    assert (
        Playbook(a_live_session())
        >> Arrived(typed(b"ls\n"))
        << Record(typed(b"ls\n"))
        >> Recorded(typed(b"ls\n"))
        << Forward(typed(b"ls\n"))
    )


def test_law_4_nothing_is_forwarded_once_the_recorder_failed() -> None:
    assert (
        Playbook(a_live_session())
        >> Arrived(typed(b"reboot\n"))
        << Record(typed(b"reboot\n"))
        >> RecorderFailed("disk full")
        << Close(EndReason.NOT_RECORDED, "disk full")
        >> Recorded(typed(b"reboot\n"))  # too late: nothing may come out
    )


@pytest.mark.parametrize(
    "event", [Arrived(typed(b"x")), Recorded(typed(b"x")), Tick(), RecorderFailed("x"), Moved(NOON + 2 * HOUR)]
)
def test_law_2_no_event_outruns_the_deadline(event: Event) -> None:
    assert Playbook(a_live_session()).at_s(3600) >> event << Close(EndReason.TIME_UP, "time is up")


def test_law_2_a_clock_set_back_two_hours_does_not_lengthen_the_session() -> None:
    assert (
        Playbook(a_live_session()).at_s(-7200 + 3600, mono_s=3600)
        >> Arrived(typed(b"x"))
        << Close(EndReason.TIME_UP, "time is up")
    )


def test_law_2_a_clock_set_forward_ends_the_session() -> None:
    assert Playbook(a_live_session()).at_s(7200, mono_s=1) >> Tick() << Close(EndReason.TIME_UP, "ask again")


def test_the_engineer_is_warned_at_15_5_and_1_minutes_each_once() -> None:
    assert Playbook(a_live_session()).at_s(3600 - 901) >> Tick()
    assert Playbook(a_live_session()).at_s(3600 - 900) >> Tick() << Notify("ends in 15 min")
    session = a_live_session()
    book = Playbook(session).at_s(3600 - 300) >> Tick() << Notify("ends in 5 min")
    assert book >> Tick()
    assert book.at_s(3600 - 60) >> Tick() << Notify("ends in 1 min")
    assert book >> Tick()


def test_warnings_longer_than_the_session_are_not_given() -> None:
    admission = admit(some_facts(longest_session=timedelta(minutes=2)), now=NOON)
    assert isinstance(admission, Admission)
    session = LiveSession(admission, started=after(), warn_before=WARNINGS)
    assert session.next_wake_s(after()) == 60
    assert Playbook(session) >> Tick()


@pytest.mark.parametrize(
    "reason", [EndReason.REVOKED, EndReason.KILLED, EndReason.HANDED_BACK, EndReason.WINDOW_CLOSED]
)
def test_an_act_ends_the_session_with_its_reason_and_once(reason: EndReason) -> None:
    assert (
        Playbook(a_live_session())
        >> Ended(reason)
        << Close(reason, reason.value)
        >> Ended(EndReason.KILLED)
        >> Arrived(typed(b"more"))
    )


def test_an_extension_moves_the_end_and_says_so() -> None:
    session = a_live_session()
    book = Playbook(session).at_s(60) >> Moved(NOON + 2 * HOUR) << Notify("now ends in 1 h 59 min")
    assert book.at_s(3600) >> Arrived(typed(b"x")) << Record(typed(b"x"))
    assert book.at_s(7200) >> Tick() << Close(EndReason.TIME_UP, "")


def test_an_end_moved_into_the_past_ends_at_once() -> None:
    assert Playbook(a_live_session()).at_s(60) >> Moved(NOON) << Close(EndReason.TIME_UP, "")


def test_a_frozen_session_drops_what_is_typed_and_it_never_comes_later() -> None:
    book = Playbook(a_live_session()) >> Frozen("wait for the crane") << Stop("input is frozen: wait for the crane")
    assert book >> Arrived(typed(b"open\n")) << Drop(typed(b"open\n"))
    assert book >> Unfrozen() << Go("no longer frozen")
    assert (
        book >> Arrived(typed(b"ls\n")) << Record(typed(b"ls\n")) >> Recorded(typed(b"ls\n")) << Forward(typed(b"ls\n"))
    )


def test_a_frozen_session_keeps_its_output_and_its_picture() -> None:
    shown = Batch(0, Direction.DOWN, (Piece(Verb.DATA, b"alarm\n"),))
    sized = Batch(0, Direction.UP, (Piece(Verb.RESIZE, b"\x50\x00\x18\x00"),))
    book = Playbook(a_live_session()) >> Frozen("x") << Stop("x")
    for batch in (shown, sized):
        assert book >> Arrived(batch) << Record(batch) >> Recorded(batch) << Forward(batch)


@pytest.mark.parametrize("verb", [Verb.DATA, Verb.EOF, Verb.SIGNAL, Verb.BREAK])
def test_nothing_that_makes_the_asset_act_passes_a_frozen_session_recorded_before_or_not(verb: Verb) -> None:
    batch = Batch(0, Direction.UP, (Piece(Verb.RESIZE, b"\x50\x00\x18\x00"), Piece(verb, b"1")))
    book = Playbook(a_live_session()) >> Arrived(batch) << Record(batch) >> Frozen("x") << Stop("x")
    assert book >> Recorded(batch) << Drop(batch) >> Arrived(batch) << Drop(batch)


def test_a_session_frozen_for_two_causes_is_told_once_and_is_free_after_the_last() -> None:
    book = Playbook(a_live_session()) >> Frozen("by one") << Stop("by one") >> Frozen("its site", "isolation")
    assert book >> Frozen("by one again")
    assert book >> Unfrozen() >> Arrived(typed(b"x")) << Drop(typed(b"x"))
    assert book >> Unfrozen("isolation") << Go("no longer") >> Unfrozen()


def test_a_frozen_session_ends_like_any_other() -> None:
    book = (
        Playbook(a_live_session()) >> Frozen("x") << Stop("x") >> Ended(EndReason.KILLED) << Close(EndReason.KILLED, "")
    )
    assert book >> Unfrozen() >> Frozen("x")
    assert Playbook(a_live_session()).at_s(3600) >> Frozen("x") << Close(EndReason.TIME_UP, "time is up")


EVENTS = st.one_of(
    st.builds(Arrived, st.binary(max_size=8).map(typed)),
    st.builds(Recorded, st.binary(max_size=8).map(typed)),
    st.just(RecorderFailed("disk")),
    st.builds(Ended, st.sampled_from(EndReason)),
    st.just(Tick()),
    st.builds(Frozen, st.just("x"), st.sampled_from(["act", "isolation"])),
    st.builds(Unfrozen, st.sampled_from(["act", "isolation"])),
)


@given(st.lists(EVENTS, max_size=40))
def test_no_input_passes_between_a_freeze_and_the_last_unfreeze_in_any_order_of_events(events: list[Event]) -> None:
    session, causes = a_live_session(), set[str]()
    for event in events:
        commands = session.handle(event, at=after(1))
        if isinstance(event, Frozen):
            causes.add(event.cause)
        elif isinstance(event, Unfrozen):
            causes.discard(event.cause)
        if session.ended is None:
            assert session.frozen == bool(causes)
        passed = [one for one in commands if isinstance(one, Record | Forward)]
        assert not (causes and passed), "typed bytes passed a frozen session"


@given(st.lists(st.tuples(EVENTS, st.integers(-4000, 4000), st.integers(0, 4000)), max_size=30))
def test_laws_2_and_4_hold_for_any_order_of_events_under_any_clocks(steps: list[tuple[Event, int, int]]) -> None:
    session, recorded, closed = a_live_session(), list[Batch](), False
    for event, wall_s, mono_s in steps:
        at = after(wall_s, mono_s)
        commands = session.handle(event, at=at)
        if isinstance(event, Recorded):
            recorded.append(event.batch)
        assert not (closed and commands), "after the end nothing comes out"
        for command in commands:
            if isinstance(command, Forward):
                assert command.batch in recorded
                assert wall_s < 3600
                assert mono_s < 3600
            closed = closed or isinstance(command, Close)


@given(st.integers(0, 5000), st.integers(0, 5000))
def test_the_next_wake_is_never_after_the_end(wall_s: int, mono_s: int) -> None:
    session = a_live_session()
    at = after(wall_s, mono_s)
    assert session.next_wake_s(at) <= max(0, 3600 - max(wall_s, mono_s))
