"""The isolation ladder at a running site: real ssh, the real command, and nothing else that has to work."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from broker.domain.isolation import STEPS
from tests.e2e.site import BOX, CLOCK, OWNER, SECOND_OWNER, Plant, Template, read_until, wait_until

ISOLATED_WITHIN_S = 2.0
SESSIONS = 20


@pytest.fixture
def let_in(template: Template) -> Iterator[Plant]:
    """A plant whose engineer has a grant and a certificate."""
    most = dict.fromkeys(("sessions_per_grant_max", "sessions_per_engineer_max", "sessions_per_asset_max"), "50")
    with Plant(template, unauthenticated_per_source_max="50", **most) as running:
        running.let_in()
        yield running


def isolate(plant: Plant, level: int, *where: str, status: int = 0) -> str:
    """Run the command; gives what it says to people, both streams."""
    done = plant.cli("isolate", *(where or ("plant",)), "--level", str(level), "--reason", "smoke seen", status=status)
    return done.stdout + done.stderr


def restore(plant: Plant, *owners: str, where: str = "plant", status: int = 0) -> str:
    words = ["restore", where]
    for owner in owners:
        words += ["--as", owner, "--totp", plant.code(owner)]
    done = plant.cli(*words, status=status)
    return done.stdout + done.stderr


def refuses(plant: Plant) -> bool:
    """Whether nothing listens at the SSH door."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", plant.port)) != 0


def rungs(plant: Plant) -> dict[str, Any]:
    return {row["id"]: row for row in plant.json("isolation")}


def test_level_1_lets_no_new_request_pass_without_two_owners(let_in: Plant) -> None:
    isolate(let_in, 1)
    asked = let_in.json  # the console asks, two owners decide
    let_in.console("request", BOX, "--for", "1h", "--reason", "test")
    (request,) = [row for row in asked("requests") if row["state"] == "pending"]
    first = let_in.cli("approve", request["id"], "--as", OWNER, "--totp", let_in.code(OWNER))
    assert "a second owner is needed" in first.stdout
    again = let_in.cli("approve", request["id"], "--as", OWNER, "--totp", let_in.code(OWNER), status=1)
    assert "the site is on alert: it asks for two owners" in again.stderr
    second = let_in.cli("approve", request["id"], "--as", SECOND_OWNER, "--totp", let_in.code(SECOND_OWNER))
    assert "approved" in second.stdout
    assert let_in.ssh(BOX, "echo in").stdout == b"in\n"  # what was granted before goes on


def test_level_2_stops_the_sites_input_keeps_its_output_and_opens_nothing(let_in: Plant) -> None:
    with let_in.running_ssh(BOX, "echo begun; read word; echo got $word; cat") as child:
        read_until(child, b"begun")
        isolate(let_in, 2, "--all")
        read_until(child, b"input is frozen: isolated by the site (level 2): smoke seen", stderr=True)
        assert child.stdin is not None
        child.stdin.write(b"later\n")
        done = let_in.ssh(BOX, "echo in")
        assert b"isolated by the site; no session is admitted" in done.stderr
        restore(let_in, OWNER, where="--all")
        read_until(child, b"got later")  # a stream without a terminal is held back, not cut


def test_level_3_ends_the_sites_sessions_and_admits_and_signs_nothing_until_an_owner_restores_it(let_in: Plant) -> None:
    with let_in.running_ssh(BOX, "echo begun; cat") as child:
        read_until(child, b"begun")
        session = let_in.last_session().id
        assert "1 sessions ended now" in isolate(let_in, 3)
        read_until(child, b"isolated by the site (level 3): smoke seen; ask the site owner", stderr=True)
        child.wait(5)
    assert let_in.wait_ended(session).end_reason == "isolated by the site"
    done = let_in.ssh(BOX, "echo in")
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"isolated by the site; no session is admitted" in done.stderr
    assert (
        "the site is isolated, level 3"
        in let_in.ssh("gate", "cert", code=let_in.code("engineer.one"), bare=True).stderr.decode()
    )
    assert rungs(let_in)["plant"]["reason"] == "smoke seen"
    assert "restored from level 3" in restore(let_in, OWNER)
    assert let_in.ssh(BOX, "echo in").stdout == b"in\n"
    wait_until(lambda: bool(let_in.entries("isolation.raised")), what="the ledger's entry")
    (raised,), (back,) = let_in.entries("isolation.raised"), let_in.entries("isolation.restored")
    assert (raised["site"], raised["level"], raised["reason"]) == ("plant", 3, "smoke seen")
    assert (back["site"], back["level"], back["owners"]) == ("plant", 3, [OWNER])


def test_level_4_shuts_the_door_runs_the_hook_and_takes_two_owners_back(let_in: Plant) -> None:
    hook = let_in.path / "isolation-hook"
    hook.write_text(f'#!/bin/sh\necho "$@" >> {let_in.folder}/hooked; echo relay open\n')
    hook.chmod(0o755)
    with let_in.running_ssh("gate", "help", bare=True, code="000000"), ExitStack() as half_way:
        held = half_way.enter_context(socket.create_connection(("127.0.0.1", let_in.port)))
        assert held.recv(64).startswith(b"SSH-2.0-")  # not logged in, and cut all the same
        assert "the hook ended with 0" in isolate(let_in, 4)
        wait_until(lambda: refuses(let_in), within_s=2, what="a shut door")
        held.settimeout(2)
        assert _read_to_end(held)
    assert restore(let_in, OWNER, status=1).startswith("wicketgate: 2 owners of plant needed")
    restore(let_in, OWNER, SECOND_OWNER)
    wait_until(lambda: not refuses(let_in), within_s=5, what="an open door")
    assert let_in.ssh(BOX, "echo in").stdout == b"in\n"
    assert (let_in.folder / "hooked").read_text() == "plant 4\nplant 0\n"
    wait_until(lambda: len(let_in.entries("isolation.hook_ran")) == 2, what="the ledger's entries")
    ran = let_in.entries("isolation.hook_ran")[0]
    assert (ran["level"], ran["exit"], ran["output"]) == (4, 0, "relay open")


def _read_to_end(held: socket.socket) -> bool:
    try:
        while held.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return True


def test_level_5_waits_for_its_checklist_and_two_names_at_each_step(let_in: Plant) -> None:
    isolate(let_in, 5)
    wait_until(lambda: refuses(let_in), within_s=2, what="a shut door")
    assert "to be noted first: cables-out" in restore(let_in, OWNER, SECOND_OWNER, status=1)
    note = ("isolation", "note", "plant")
    assert (
        "name two people"
        in let_in.cli(*note, "cables-out", "--done-by", "O.One", "--seen-by", "o.one", status=1).stderr
    )
    assert "the steps are" in let_in.cli(*note, "tea", "--done-by", "O.One", "--seen-by", "O.Two", status=1).stderr
    for step in STEPS:
        let_in.cli(*note, step, "--done-by", "O.One", "--seen-by", "O.Two")
    assert rungs(let_in)["plant"]["missing"] == []
    restore(let_in, OWNER, SECOND_OWNER)
    wait_until(lambda: not refuses(let_in), within_s=5, what="an open door")
    assert [one["step"] for one in let_in.entries("isolation.separation_noted")] == list(STEPS)


def test_law_8_all_is_cut_within_2_s_with_the_database_deleted_and_the_pages_stopped(let_in: Plant) -> None:
    """The control socket is left unread too: the state file alone is enough."""
    with ExitStack() as stack:
        children = [stack.enter_context(let_in.running_ssh(BOX, "echo begun; cat")) for _ in range(SESSIONS)]
        for child in children:
            read_until(child, b"begun", within_s=60)
        for path in let_in.path.glob("wicketgate.db*"):
            path.unlink()
        pages = let_in.pid_of("approval")
        os.kill(pages, signal.SIGSTOP)
        stack.callback(os.kill, pages, signal.SIGCONT)
        let_in.home.control_socket.unlink()
        told = isolate(let_in, 3, "--all")
        for child in children:
            child.wait(10)
        # From the moment that the command acts: how long a program takes to load says something of the machine alone.
        ended_at = CLOCK.now()
        took_s = (ended_at - datetime.fromisoformat(rungs(let_in)["*"]["at"])).total_seconds()
    assert took_s <= ISOLATED_WITHIN_S, took_s
    assert "follows the state file by itself" in told
    assert let_in.ssh(BOX, "echo in").returncode == 255


def test_without_the_database_nothing_is_restored_and_one_line_says_so(let_in: Plant) -> None:
    isolate(let_in, 3, "--all")
    code = let_in.code(OWNER)
    kept = let_in.path / "kept"
    let_in.stop()
    (let_in.path / "wicketgate.db").rename(kept)
    refused = let_in.cli("restore", "--all", "--as", OWNER, "--totp", code, status=75)
    assert refused.stderr.count("\n") == 1
    assert "the database" in refused.stderr
    kept.rename(let_in.path / "wicketgate.db")
    assert rungs(let_in)["*"]["level"] == 3


def test_isolation_survives_kill_9_and_a_restart_and_is_told_to_the_ledger_once(let_in: Plant) -> None:
    let_in.stop(signal.SIGKILL)
    isolate(let_in, 3, "--all")  # nothing runs
    let_in.start()
    assert let_in.ssh(BOX, "echo in").returncode == 255
    wait_until(lambda: len(let_in.entries("isolation.raised")) == 1, what="the ledger's entry")
    let_in.stop(signal.SIGKILL)
    let_in.start()
    assert let_in.ssh(BOX, "echo in").returncode == 255
    assert len(let_in.entries("isolation.raised")) == 1


def test_a_deaf_site_starts_deaf_and_opens_when_it_is_restored(let_in: Plant) -> None:
    let_in.stop()
    isolate(let_in, 4)
    let_in.start()
    restore(let_in, OWNER, SECOND_OWNER)
    wait_until(lambda: len(let_in.live()) == 0 and (let_in.path / "run/ssh.address").exists(), what="a start")


def test_a_damaged_state_closes_a_running_site_and_two_owners_mend_it(let_in: Plant) -> None:
    with let_in.running_ssh(BOX, "echo begun; cat") as child:
        read_until(child, b"begun")
        let_in.home.isolation_path.write_bytes(let_in.home.isolation_path.read_bytes()[:-20])
        read_until(child, b"isolated by the site (level 3)", stderr=True)
    assert "is damaged; it counts as level 3 for every site" in rungs(let_in)["state file"]["reason"]
    refused = let_in.cli("restore", "plant", "--as", OWNER, "--totp", let_in.code(OWNER), status=1)
    assert "restore --all first" in refused.stderr
    words = ["restore", "--all"]
    for owner in (OWNER, SECOND_OWNER):
        words += ["--as", owner, "--totp", let_in.code(owner)]
    let_in.cli(*words)
    assert let_in.ssh(BOX, "echo in").stdout == b"in\n"


def test_the_hard_wired_switch_cuts_and_taking_it_back_opens_nothing(template: Template, tmp_path: Path) -> None:
    switch = tmp_path / "pulled"
    with Plant(template, isolation_switch_file=f'"{switch}"') as plant:
        plant.let_in()
        with plant.running_ssh(BOX, "echo begun; cat") as child:
            read_until(child, b"begun")
            switch.touch()
            read_until(child, b"isolated by the site (level 3)", stderr=True)
        all_owners = ["restore", "--all", "--as", OWNER, "--totp"]
        wait_until(lambda: "*" in rungs(plant), what="what the switch stands for")
        assert "the isolation switch is set" in plant.cli(*all_owners, plant.code(OWNER), status=1).stderr
        switch.unlink()
        assert plant.ssh(BOX, "echo in").returncode == 255
        plant.cli(*all_owners, plant.code(OWNER))
        assert plant.ssh(BOX, "echo in").stdout == b"in\n"
        assert plant.entries("isolation.raised")[0]["by"] == "switch"


def test_wrong_words_and_wrong_codes_change_nothing(let_in: Plant) -> None:
    for words, told in (
        (("isolate", "nowhere", "--level", "3", "--reason", "x"), "no site 'nowhere'"),
        (("isolate", "plant", "--level", "9", "--reason", "x"), "write 1 to 5"),
        (("isolate", "--level", "3", "--reason", "x"), "name a SITE, or --all"),
        (("isolate", "plant", "--all", "--level", "3", "--reason", "x"), "name a SITE, or --all"),
        (("isolate", "plant", "--level", "3", "--reason", " "), "reason is missing"),
    ):
        assert told in let_in.cli(*words, status=None).stderr
    assert rungs(let_in) == {}
    isolate(let_in, 3)
    assert "at level 3 already" in isolate(let_in, 2, status=1)
    wrong = let_in.cli("restore", "plant", "--as", OWNER, "--totp", "000000", status=1)
    assert "the code was not accepted" in wrong.stderr
    vendor = let_in.cli("restore", "plant", "--as", "engineer.one", "--totp", let_in.code("engineer.one"), status=1)
    assert "engineer.one is no owner there" in vendor.stderr
    twice = ["--as", OWNER, "--totp", "1", "--as", OWNER, "--totp", "2"]
    assert "named twice" in let_in.cli("restore", "plant", *twice, status=1).stderr
    assert rungs(let_in)["plant"]["level"] == 3
