"""Kill by scope: everything of it ends within a second, nobody of it comes back in, and an owner's code restores it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack

import httpx2
import pytest

from broker import desk
from broker.domain.errors import BrokerError
from broker.domain.grant import Grant
from broker.domain.session import EndReason
from broker.domain.suspension import Scope
from broker.store import people
from tests.e2e.site import BOX, CLOCK, ENGINEER, OTHER, OWNER, PASSWORD, SECOND_OWNER, Plant, Template, wait_until
from tests.e2e.terminal import Terminal, seconds_to_end
from tests.e2e.test_ends import DUE_S, locked_database, no_database

NAME_OF: dict[Scope, Callable[[Grant, str], str]] = {
    Scope.GRANT: lambda grant, _: grant.id,
    Scope.ENGINEER: lambda _, engineer: engineer,
    Scope.VENDOR: lambda _, engineer: f"firm-of-{engineer}",
    Scope.ASSET: lambda *_: OTHER,
    Scope.WINDOW: lambda grant, _: grant.window_id,
    Scope.SITE: lambda *_: "plant",
}


@pytest.fixture(scope="module")
def site(template: Template) -> Iterator[Plant]:
    limits = {"sessions_per_engineer_max": "3", "sessions_per_asset_max": "4"}
    with Plant(template, fresh_proof_s="3600", tries_per_person="50", **limits) as running:
        yield running


def newcomer(site: Plant, name: str) -> str:
    return site.newcomer(f"{name}-{os.urandom(2).hex()}")


def kill(site: Plant, scope: Scope, name: str) -> dict[str, object]:
    words = ["kill", "--reason", "it is enough", f"--{scope.value}", name]
    found: dict[str, object] = site.json(*words)
    return found


def restore(site: Plant, scope: Scope, name: str) -> None:
    """By the law itself, where the owner's code, of which there is one in half a minute, is not the subject."""
    with site.db.begin() as tx:
        owner_id = people.require(tx, OWNER).id
        assert isinstance(desk.restore(tx, owner_id=owner_id, scope=scope, name=name, door="test"), str)


@pytest.mark.parametrize("scope", Scope)
def test_a_kill_by_scope_ends_it_within_a_second_and_nobody_comes_back_until_an_owner_restores_it(
    site: Plant, scope: Scope
) -> None:
    engineer, bystander = newcomer(site, scope.value), newcomer(site, "bystander")
    granted = site.let_in(OTHER, engineer=engineer)
    site.let_in(BOX, engineer=bystander)
    name = NAME_OF[scope](granted, engineer)
    with ExitStack() as stack:
        mine = stack.enter_context(Terminal(site, OTHER, "echo up; exec cat", engineer=engineer))
        mine.expect(b"up")
        session = site.last_session()
        other = stack.enter_context(Terminal(site, BOX, "echo up; exec cat", engineer=bystander))
        other.expect(b"up")
        told = kill(site, scope, name)
        since_us = CLOCK.monotonic_us()
        assert seconds_to_end(mine.process, since_us=since_us) < DUE_S
        last = f"wicketgate: killed: it is enough; the {scope.value} is suspended; ask the site owner"
        assert mine.end() == 255
        assert mine.told()[-1] == last
        assert told == {
            "id": name,
            "scope": scope.value,
            "state": "suspended",
            "ended": 1 + (scope is Scope.SITE),
            "kept": True,
        }
        if scope is not Scope.SITE:
            other.type(b"still here\n")
            other.expect(b"still here\r\nstill here")
    assert site.wait_ended(session.id).end_reason is EndReason.KILLED
    refused = site.ssh(OTHER, "echo in", engineer=engineer)
    assert (refused.returncode, refused.stdout) == (255, b"")
    assert f"access suspended; the {scope.value} is shut out".encode() in refused.stderr
    with pytest.raises(BrokerError, match=f"the {scope.value} is suspended"):
        site.certify(granted, engineer)
    [shown] = [one for one in site.json("suspended") if one["scope"] == scope.value]
    assert (shown["subject"], shown["reason"]) == (name, "it is enough")
    restore(site, scope, name)
    assert site.ssh(OTHER, "echo in", engineer=engineer).stdout == b"in\n"
    assert site.json("suspended") == []
    kinds = [site.entries(kind)[-1] for kind in ("authority.suspended", "authority.restored")]
    assert {one["scope"] for one in kinds} == {scope.value}
    assert kinds[0]["suspension_id"] == kinds[1]["suspension_id"]


def test_a_grant_suspended_by_the_kill_of_its_session_is_restored_by_an_owner(site: Plant) -> None:
    engineer = newcomer(site, "one-session")
    granted = site.let_in(BOX, engineer=engineer)
    with Terminal(site, BOX, "echo up; exec cat", engineer=engineer) as terminal:
        terminal.expect(b"up")
        session = site.last_session()
        site.cli("kill", session.id, "--reason", "it is enough")
        assert terminal.end() == 255
    site.wait_ended(session.id)
    wait_until(lambda: b"grant suspended" in site.ssh(BOX, "echo in", engineer=engineer).stderr, what="the suspension")
    site.cli("restore", "--grant", granted.id, "--as", SECOND_OWNER, "--totp", site.code(SECOND_OWNER))
    assert site.ssh(BOX, "echo in", engineer=engineer).stdout == b"in\n"


@pytest.mark.parametrize("away", [no_database, locked_database])
def test_law_8_a_vendor_is_killed_with_the_database_gone_or_locked_and_stays_out_when_it_is_back(
    site: Plant, away: Callable[[Plant], AbstractContextManager[None]]
) -> None:
    engineer = newcomer(site, "no-database")
    site.let_in(BOX, engineer=engineer)
    with Terminal(site, BOX, "echo up; exec cat", engineer=engineer) as terminal:
        terminal.expect(b"up")
        with away(site):
            told = kill(site, Scope.VENDOR, f"firm-of-{engineer}")
            assert told["ended"] == 1
            assert away is no_database or told["kept"] is False
            assert seconds_to_end(terminal.process, since_us=CLOCK.monotonic_us()) < DUE_S
            assert terminal.end() == 255
            assert site.ssh(BOX, "echo in", engineer=engineer).stdout == b""
        # The door itself hurries the writing: whoever comes first finds it written.
        assert b"the vendor is shut out" in site.ssh(BOX, "echo in", engineer=engineer).stderr
    restore(site, Scope.VENDOR, f"firm-of-{engineer}")


@pytest.mark.parametrize("scope", Scope)
def test_a_kill_of_what_is_not_there_says_so_and_changes_nothing(site: Plant, scope: Scope) -> None:
    done = site.cli("kill", f"--{scope.value}", "nobody.nowhere", "--reason", "x", status=3)
    assert len(done.stderr.splitlines()) == 1
    assert site.json("suspended") == []


@pytest.mark.parametrize("words", [[], ["ses-1", "--vendor", "v"], ["--vendor", "v", "--site", "s"]])
def test_a_kill_names_one_thing(site: Plant, words: list[str]) -> None:
    assert "name one SESSION" in site.cli("kill", *words, "--reason", "x", status=2).stderr


def test_only_an_owner_with_a_code_restores(site: Plant) -> None:
    engineer = newcomer(site, "kept-out")
    granted = site.let_in(BOX, engineer=engineer)
    kill(site, Scope.GRANT, granted.id)
    words = ["restore", "--grant", granted.id, "--as"]
    site.cli(*words, OWNER, "--totp", "000000", status=1)
    refused = site.cli(*words, ENGINEER, "--totp", site.code(ENGINEER), status=1)
    assert "no right" in refused.stderr
    assert len(site.json("suspended")) == 1
    site.cli(*words, OWNER, "--totp", site.code(OWNER))
    again = site.cli(*words, SECOND_OWNER, "--totp", site.code(SECOND_OWNER), status=1)
    assert "nothing of it is suspended" in again.stderr


def test_owners_see_what_is_shut_out_and_restore_it_without_scripts(site: Plant) -> None:
    engineer = newcomer(site, "in-the-web")
    granted = site.let_in(BOX, engineer=engineer)
    kill(site, Scope.ENGINEER, engineer)
    with httpx2.Client(base_url=site.web, headers={"sec-fetch-site": "same-origin"}, timeout=20) as web:
        fields = {"handle": OWNER, "password": PASSWORD, "code": site.code(OWNER), "after": "/"}
        assert web.post("/login", data=fields).status_code == 303
        page = web.get("/suspensions").text
        assert engineer in page
        assert "it is enough" in page
        token = page.partition('name="token" value="')[2].partition('"')[0]
        [found] = site.json("suspended")
        path = f"/suspensions/{found['id']}/restore"
        assert web.post(path, data={"token": "wrong"}).status_code == 403
        assert len(site.json("suspended")) == 1
        assert web.post(path, data={"token": token}).status_code == 303
        assert web.post(path, data={"token": token}).status_code == 404
    assert site.json("suspended") == []
    assert site.ssh(BOX, "echo in", engineer=engineer).stdout == b"in\n"
    with site.db.read() as tx:
        owner = people.require(tx, OWNER)
    assert [one["owner_id"] for one in site.entries("authority.restored")][-1] == owner.id
    assert granted.person_id


def test_the_limits_of_live_sessions_are_per_engineer_and_per_asset_and_the_refusal_names_which(site: Plant) -> None:
    first, second = newcomer(site, "busy"), newcomer(site, "crowd")
    with ExitStack() as stack:

        def enter(engineer: str, number: int) -> None:
            for _ in range(number):
                one = stack.enter_context(Terminal(site, BOX, "echo up; exec cat", engineer=engineer))
                one.expect(b"up")

        site.let_in(BOX, OTHER, engineer=first)
        site.let_in(BOX, OTHER, engineer=second)
        enter(first, 3)
        refused = site.ssh(OTHER, "echo in", engineer=first)
        assert b"too many live sessions; at most 3 at once of one engineer" in refused.stderr
        enter(second, 1)
        refused = site.ssh(BOX, "echo in", engineer=second)
        assert b"too many live sessions; at most 4 at once of one asset" in refused.stderr
        assert site.ssh(OTHER, "echo in", engineer=second).stdout == b"in\n"
