"""The isolation ladder's law: what is closed opens by the right owners and by nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.errors import BrokerError, Code
from broker.domain.ids import PersonId, SiteId
from broker.domain.isolation import EVERYWHERE, STEPS, UNREADABLE, Ladder, Level, Note, Rung, noted, raised, restored
from broker.domain.people import Person, Role, RoleAt
from broker.domain.policy import Agreed, Narrowing, Refusal, ReviewReason, admit, may_approve
from tests.domain.makers import ENGINEER, NOON, OWNER, SECOND_OWNER, SITE, some_approval_facts, some_facts

SITES = {SITE.name: SITE.id, "south": SiteId("sit-2")}
WHERE = (*SITES, EVERYWHERE)


def an_owner(number: int, *sites: SiteId | None) -> Person:
    roles = frozenset(RoleAt(Role.OWNER, one) for one in sites)
    return Person(id=PersonId(f"per-{number}"), handle=f"o{number}", name="O", roles=roles, human=f"human-{number}")


PEOPLE = (
    an_owner(11, SITE.id),
    an_owner(12, SITE.id),
    an_owner(13, SITES["south"]),
    an_owner(14, None),
    an_owner(15, None),
    replace(an_owner(16, None), human="human-15"),
    replace(an_owner(17, None), disabled_at=NOON),
    ENGINEER,
)


def a_rung(level: Level) -> Rung:
    return Rung(level=level, by="local:test", reason="smoke", at=NOON)


def a_note(done_by: str = "O.One", seen_by: str = "O.Two") -> Note:
    return Note(done_by=done_by, seen_by=seen_by, at=NOON)


def separated(*missing: str) -> Ladder:
    ladder = raised(Ladder(), SITE.name, a_rung(Level.SEPARATED))
    for step in STEPS:
        if step not in missing:
            ladder = noted(ladder, SITE.name, step, a_note())
    return ladder


raises = st.tuples(st.just("raise"), st.sampled_from(WHERE), st.sampled_from(list(Level)[1:]))
restores = st.tuples(st.just("restore"), st.sampled_from(WHERE), st.lists(st.sampled_from(PEOPLE), max_size=4))
notes = st.tuples(st.just("note"), st.sampled_from(WHERE), st.sampled_from([*STEPS, "nothing"]))
damages = st.tuples(st.just("damage"), st.just(EVERYWHERE), st.none())
switches = st.tuples(st.just("switch"), st.just(EVERYWHERE), st.sampled_from(list(Level)))


@given(st.lists(st.one_of(raises, restores, notes, damages, switches), max_size=25))
def test_no_order_of_acts_and_damage_opens_but_enough_owners_of_the_place(acts: list[tuple[str, str, object]]) -> None:
    """A running process sees every state. Held against the law in plain words: by site, and by the owners who were named."""
    ladder = Ladder()
    for act, where, what in acts:
        before = ladder
        try:
            match act, what:
                case "raise", Level() as level:
                    ladder = raised(ladder, where, a_rung(level))
                    assert ladder.level(where) >= level
                case "restore", list() as owners:
                    ladder = restored(ladder, where, owners, SITES)
                    may_lower(before, where, owners)
                    continue
                case "note", str() as step:
                    ladder = noted(ladder, where, step, a_note())
                case "damage", _:
                    ladder = Ladder(damaged="unreadable", switch=ladder.switch).after(ladder)
                    assert ladder.level(None) >= UNREADABLE
                case "switch", Level() as level:
                    ladder = replace(ladder, switch=level).after(ladder)
                    assert ladder.level(None) >= level
        except BrokerError:
            assert ladder is before
        for site in (None, *SITES):
            assert ladder.level(site) >= before.level(site), (act, where, what)


def may_lower(before: Ladder, where: str, owners: list[Person]) -> None:
    """What must have been so for a restore to be taken."""
    rung = before.rungs.get(where)
    two = bool(before.damaged) or (rung is not None and rung.level >= 4)
    for site_id in [SITES[where]] if where in SITES else SITES.values():
        humans = {
            one.human
            for one in owners
            if one.disabled_at is None
            and any(at.role is Role.OWNER and at.site_id in (None, site_id) for at in one.roles)
        }
        assert len(humans) >= 1 + two
    assert rung is None or rung.level < 5 or set(rung.notes) == set(STEPS)
    assert where != EVERYWHERE or not before.switch


REFUSED = {
    "not isolated": (Ladder(), SITE.name, [OWNER], Code.CONFLICT),
    "isolated with all: restore --all": (raised(Ladder(), "*", a_rung(Level.CUT)), SITE.name, [OWNER], Code.CONFLICT),
    "unreadable; restore --all first": (Ladder(damaged="unreadable"), SITE.name, [OWNER], Code.CONFLICT),
    "the isolation switch is set": (Ladder(switch=Level.CUT), EVERYWHERE, [OWNER], Code.CONFLICT),
    "to be noted first: cables-back": (separated("cables-back"), SITE.name, [OWNER, SECOND_OWNER], Code.CONFLICT),
    "1 owner of north needed": (raised(Ladder(), SITE.name, a_rung(Level.ALERT)), SITE.name, [], Code.FORBIDDEN),
    "2 owners of north needed": (raised(Ladder(), SITE.name, a_rung(Level.DEAF)), SITE.name, [OWNER], Code.FORBIDDEN),
    "2 owners of south needed": (Ladder(damaged="x"), EVERYWHERE, [PEOPLE[3], OWNER], Code.FORBIDDEN),
    "is no owner there": (raised(Ladder(), SITE.name, a_rung(Level.CUT)), SITE.name, [ENGINEER], Code.FORBIDDEN),
    "owner is named twice": (raised(Ladder(), SITE.name, a_rung(Level.DEAF)), SITE.name, [OWNER] * 2, Code.FORBIDDEN),
}


@pytest.mark.parametrize("told", REFUSED)
def test_each_refusal_of_a_restore_says_what_is_in_the_way(told: str) -> None:
    ladder, where, owners, code = REFUSED[told]
    with pytest.raises(BrokerError, match=told.replace("*", r"\*")) as refused:
        restored(ladder, where, owners, SITES)
    assert refused.value.code is code


@pytest.mark.parametrize(
    ("ladder", "owners"),
    [
        (raised(Ladder(), SITE.name, a_rung(Level.CUT)), [OWNER]),
        (raised(Ladder(), SITE.name, a_rung(Level.DEAF)), [OWNER, SECOND_OWNER]),
        (separated(), [SECOND_OWNER, OWNER]),
    ],
)
def test_enough_owners_restore_their_site_and_no_other(ladder: Ladder, owners: list[Person]) -> None:
    ladder = raised(ladder, "south", a_rung(Level.FROZEN))
    lower = restored(ladder, SITE.name, owners, SITES)
    assert (lower.level(SITE.name), lower.level("south")) == (Level.NORMAL, Level.FROZEN)


def test_a_rung_is_not_lowered_by_raising() -> None:
    with pytest.raises(BrokerError, match="at level 3 already"):
        raised(raised(Ladder(), "north", a_rung(Level.CUT)), "north", a_rung(Level.ALERT))


def test_one_person_does_not_see_what_they_do_themselves() -> None:
    with pytest.raises(BrokerError, match="name two people"):
        noted(separated(*STEPS), SITE.name, "cables-out", a_note("O.One", "o.one"))


def test_every_site_must_be_deaf_before_the_door_is() -> None:
    one = raised(Ladder(), "north", a_rung(Level.DEAF))
    assert (one.lowest(["north"]), one.lowest(["north", "south"]), one.lowest([])) == (4, 0, 0)
    assert raised(Ladder(), EVERYWHERE, a_rung(Level.DEAF)).lowest(["north", "south"]) == 4


@pytest.mark.parametrize("level", Level)
def test_law_3_on_alert_every_request_takes_two_owners(level: Level) -> None:
    first = may_approve(some_approval_facts(isolation=level), Narrowing(), now=NOON)
    assert isinstance(first, Agreed)
    assert first.complete == (level is Level.NORMAL)
    again = some_approval_facts(isolation=level, first_owner=OWNER, first=first.terms)
    if level:
        assert may_approve(again, Narrowing(), now=NOON) == Refusal(
            ReviewReason.SAME_OWNER, "the site is on alert: it asks for two owners"
        )
    second = may_approve(replace(again, owner=SECOND_OWNER), Narrowing(), now=NOON)
    assert isinstance(second, Agreed)
    assert second.complete


@pytest.mark.parametrize("level", Level)
def test_no_channel_opens_at_a_site_that_is_frozen_or_cut_off(level: Level) -> None:
    assert isinstance(admit(some_facts(isolation=level), now=NOON), Refusal) == (level >= Level.FROZEN)
