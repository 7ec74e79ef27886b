"""An owner's hold through the store: what the bastion finds, what the gate still admits, what the ledger keeps."""

from __future__ import annotations

from datetime import timedelta

import pytest

from broker import desk, gate
from broker.desk import Held
from broker.domain.errors import BrokerError
from broker.domain.grant import Grant
from broker.domain.live import Moved
from broker.domain.policy import Reason, Refusal, ReviewReason
from broker.domain.session import EndReason
from broker.gate import Entered
from broker.store import inventory, ledger
from broker.store.db import Tx
from tests.store.databases import HOUR, MINUTE, SECOND
from tests.store.makers import BY, Plant

TEN = 10 * MINUTE


def hold(plant: Plant, tx: Tx, entered: Entered, owner: str = "owner", length: timedelta = TEN) -> Held | Refusal:
    return desk.hold_open(
        tx,
        owner_id=plant.id_of(owner),
        session_id=entered.session_id,
        length=length,
        reason="the flash is at 80 %",
        longest=TEN,
        door="web",
    )


def let_in(plant: Plant, tx: Tx, length: timedelta = HOUR) -> tuple[Grant, Entered]:
    granted = plant.grant(tx, length=length)
    return granted, plant.entered(tx)


def verdict(tx: Tx, entered: Entered) -> EndReason | Moved | None:
    return gate.standing(tx, [entered.session_id])[entered.session_id]


def test_a_held_session_ends_at_the_holds_end_and_the_ledger_says_whose_it_was(plant: Plant) -> None:
    with plant.db.begin() as tx:
        granted, entered = let_in(plant, tx)
        held = hold(plant, tx, entered)
        assert isinstance(held, Held)
        assert held.until == held.wanted == granted.interval.closes + TEN
        assert verdict(tx, entered) == Moved(held.until)
        (kept,) = [one.body for one in ledger.show(tx, kind="session.held")]
        assert (kept["owners"], kept["reason"], kept["door"]) == ([plant.id_of("owner")], "the flash is at 80 %", "web")


def test_beyond_the_grants_own_end_a_held_session_opens_no_channel(plant: Plant) -> None:
    with plant.db.begin() as tx:
        granted, entered = let_in(plant, tx)
        assert isinstance(hold(plant, tx, entered), Held)
    plant.clock.wall = granted.interval.closes + SECOND
    with plant.db.begin() as tx:
        assert verdict(tx, entered) == Moved(granted.interval.closes + TEN)
        refused = plant.enter(tx, session_id=entered.session_id)
        assert isinstance(refused, Refusal)
        assert refused.reason is Reason.OVER
        assert isinstance(plant.enter(tx), Refusal)


def test_past_the_window_a_hold_takes_a_second_different_owner(plant: Plant) -> None:
    with plant.db.begin() as tx:
        plant.clock.wall = plant.window.closes - HOUR
    with plant.db.begin() as tx:
        _, entered = let_in(plant, tx)
        first = hold(plant, tx, entered)
        assert isinstance(first, Held)
        assert (first.until, first.wanted) == (plant.window.closes, plant.window.closes + TEN)
        same = hold(plant, tx, entered, "owner-alias")
        assert isinstance(same, Held)
        assert same.until == plant.window.closes, "one human under two handles is one owner"
        second = hold(plant, tx, entered, "owner2", 7 * MINUTE)
        assert isinstance(second, Held)
        assert second.until == plant.window.closes + 7 * MINUTE, "as far as both agree"
        owners = [one.body["owners"] for one in ledger.show(tx, kind="session.held")]
        assert len(owners[-1]) >= 2


@pytest.mark.parametrize("act", ["kill", "revoke", "disable", "close"])
def test_every_act_that_ends_a_session_ends_a_held_one(plant: Plant, act: str) -> None:
    with plant.db.begin() as tx:
        granted, entered = let_in(plant, tx)
        assert isinstance(hold(plant, tx, entered), Held)
        match act:
            case "kill":
                desk.kill(tx, session_id=entered.session_id, by=BY, reason="enough", door="cli")
            case "revoke":
                desk.revoke(tx, grant_id=granted.id, by=BY, reason="enough")
            case "disable":
                desk.disable_person(tx, handle="engineer.one", by=BY)
            case "close":
                inventory.close_window(tx, plant.window, by=BY)
        assert isinstance(verdict(tx, entered), EndReason)
        refused = hold(plant, tx, entered, "owner2")
        assert isinstance(refused, Refusal)
        assert refused.reason is Reason.OVER


@pytest.mark.parametrize("who", ["stranger", "engineer.one", "engineer-at-site"])
def test_nobody_but_an_owner_of_the_site_holds_and_not_their_own_session(plant: Plant, who: str) -> None:
    with plant.db.begin() as tx:
        granted, entered = let_in(plant, tx)
        refused = hold(plant, tx, entered, who)
        assert isinstance(refused, Refusal)
        assert refused.reason is (ReviewReason.OWN_REQUEST if who == "engineer-at-site" else Reason.OVER)
        assert verdict(tx, entered) == Moved(granted.interval.closes)
        assert ledger.show(tx, kind="session.held") == []


def test_a_hold_without_a_reason_or_longer_than_allowed_is_none(plant: Plant) -> None:
    with plant.db.begin() as tx:
        granted, entered = let_in(plant, tx)
        assert isinstance(hold(plant, tx, entered, length=TEN + SECOND), Refusal)
        with pytest.raises(BrokerError, match="reason"):
            desk.hold_open(
                tx,
                owner_id=plant.id_of("owner"),
                session_id=entered.session_id,
                length=TEN,
                reason=" ",
                longest=TEN,
                door="web",
            )
        assert verdict(tx, entered) == Moved(granted.interval.closes)
