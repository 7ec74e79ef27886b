"""However a session is to end, it ends within a second, says why and what to do, and nobody comes back in."""

from __future__ import annotations

import os
import re
import select
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import httpx2
import pytest

from broker.domain.grant import Grant
from broker.domain.session import EndReason, Session
from broker.store import people, windows
from tests.e2e.site import BOX, CLOCK, OWNER, PASSWORD, Plant, Template, read_until, wait_until
from tests.e2e.terminal import Terminal, seconds_to_end

DUE_S = 1.0
"""How soon after the deed or the deadline the client has to be out."""
CUT = 255


@pytest.fixture(scope="module")
def site(template: Template) -> Iterator[Plant]:
    """A plant with early warnings and room for many sessions; every test brings its own grant."""
    # fresh_proof_s: one login in the web has to do for all acts there, however slow the machine.
    with Plant(template, warn_before_s="[4.0, 2.0, 1.0]", sessions_per_grant_max="20", fresh_proof_s="3600") as running:
        yield running


def newcomer(site: Plant, name: str) -> str:
    """A fresh engineer, for an end that is for good."""
    return site.newcomer(f"{name.replace(' ', '-')}-{os.urandom(2).hex()}")


# By an act
@dataclass(frozen=True, slots=True)
class Stage:
    """What an act works on."""

    plant: Plant
    web: httpx2.Client
    grant: Grant
    session: Session
    engineer: str


@pytest.fixture(scope="module")
def web(site: Plant) -> Iterator[httpx2.Client]:
    """The owner, logged in with a fresh code."""
    with httpx2.Client(base_url=site.web, headers={"sec-fetch-site": "same-origin"}, timeout=20) as client:
        fields = {"handle": OWNER, "password": PASSWORD, "code": site.code(OWNER), "after": "/"}
        assert client.post("/login", data=fields).status_code == 303
        yield client


def post(web: httpx2.Client, page: str, act: str) -> None:
    """Send a page's form as a browser without scripts does."""
    token = re.search(r'name="token" value="([^"]+)"', web.get(page).text)
    assert token is not None
    answer = web.post(f"{page}/{act}", data={"token": token[1], "reason": "it is enough"})
    assert answer.status_code == 303, answer.text


def close_window(on: Stage) -> None:
    with on.plant.db.read() as tx:
        vendor_id = people.require(tx, on.engineer).vendor_id
        (window,) = windows.windows(tx, vendor_id=vendor_id)
    on.plant.cli("window", "close", window.id)


@dataclass(frozen=True, slots=True)
class Act:
    """An act that ends a session. last: what the last line says; back: what who comes back is told."""

    do: Callable[[Stage], object]
    reason: EndReason
    last: str
    back: str


ACTS = {
    "revoke": Act(
        lambda on: on.plant.cli("revoke", on.grant.id, "--reason", "it is enough"),
        EndReason.REVOKED,
        "revoked; ask the site owner",
        "grant revoked",
    ),
    "revoke in the web": Act(
        lambda on: post(on.web, f"/grants/{on.grant.id}", "revoke"),
        EndReason.REVOKED,
        "revoked; ask the site owner",
        "grant revoked",
    ),
    "kill": Act(
        lambda on: on.plant.cli("kill", on.session.id, "--reason", "it is enough"),
        EndReason.KILLED,
        "killed: it is enough; the grant is suspended; ask the site owner",
        "grant suspended",
    ),
    "kill in the web": Act(
        lambda on: post(on.web, f"/sessions/{on.session.id}", "kill"),
        EndReason.KILLED,
        "killed: it is enough; the grant is suspended; ask the site owner",
        "grant suspended",
    ),
    "hand back": Act(
        lambda on: on.plant.console("done", on.grant.id, engineer=on.engineer),
        EndReason.HANDED_BACK,
        "handed back; ask again with: request",
        "grant handed back",
    ),
    "close the window": Act(
        close_window,
        EndReason.WINDOW_CLOSED,
        "commissioning window closed; ask the site owner for a new commissioning window",
        "outside the commissioning window",
    ),
    "disable the person": Act(
        lambda on: on.plant.cli("person", "disable", on.engineer),
        EndReason.DISABLED,
        "disabled; ask the site owner",
        "Permission denied",  # nobody is told more who is not anybody any more
    ),
    "disable the vendor": Act(
        lambda on: on.plant.cli("vendor", "disable", f"firm-of-{on.engineer}"),
        EndReason.DISABLED,
        "disabled; ask the site owner",
        "disabled",
    ),
}


@pytest.mark.parametrize("name", ACTS)
def test_an_act_ends_the_session_within_a_second_says_why_and_closes_the_door(
    site: Plant, web: httpx2.Client, name: str
) -> None:
    act, engineer = ACTS[name], newcomer(site, name)
    granted = site.let_in(BOX, engineer=engineer)
    with Terminal(site, BOX, "echo up; exec cat", engineer=engineer) as terminal:
        terminal.expect(b"up")
        session = site.last_session()
        act.do(Stage(site, web, granted, session, engineer))
        returned_us = CLOCK.monotonic_us()
        assert seconds_to_end(terminal.process, since_us=returned_us) < DUE_S
        assert terminal.end() == CUT
        assert terminal.told()[-1] == f"wicketgate: {act.last}"
        assert b"wicketgate" not in terminal.seen
    assert site.wait_ended(session.id).end_reason is act.reason
    again = site.ssh(BOX, "echo in", engineer=engineer)
    assert (again.returncode, again.stdout) == (CUT, b"")
    assert act.back in again.stderr.decode()


def test_law_8_kill_works_with_the_database_gone_and_the_web_not_answering(site: Plant) -> None:
    engineer = newcomer(site, "law-eight")
    granted = site.let_in(BOX, engineer=engineer)
    with Terminal(site, BOX, "echo up; exec cat", engineer=engineer) as terminal:
        terminal.expect(b"up")
        session = site.last_session()
        with no_database(site), stopped(site.pid_of("approval")):
            assert [one["id"] for one in site.live()] == [session.id]
            site.cli("kill", session.id, "--reason", "smoke")
            returned_us = CLOCK.monotonic_us()
            assert seconds_to_end(terminal.process, since_us=returned_us) < DUE_S
        assert "killed: smoke" in terminal.stderr()
    assert site.wait_ended(session.id, within_s=30).end_reason is EndReason.KILLED
    (kept,) = [one for one in site.entries("session.killed") if one["session_id"] == session.id]
    assert (kept["grant_id"], kept["reason"], kept["door"]) == (granted.id, "smoke", "cli")
    assert b"grant suspended" in site.ssh(BOX, "echo in", engineer=engineer).stderr


@contextmanager
def no_database(site: Plant) -> Iterator[None]:
    """Move the database away and let nobody make another in its place."""
    here, there = site.path / "wicketgate.db", site.folder / "away.db"
    here.rename(there)
    here.mkdir()
    try:
        yield
    finally:
        here.rmdir()
        there.rename(here)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does nothing for a while."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


# By the clock
@dataclass(frozen=True, slots=True)
class End:
    """How one client met the grant's end. late_s: seconds after it; told: its stderr; program: the one on the asset, its pid."""

    status: int
    late_s: float
    told: str
    shown: bytes
    program: int


@dataclass(frozen=True, slots=True)
class Deadline:
    """One grant's end, as each of its clients met it; rows: their sessions as they were opened."""

    grant: Grant
    ends: dict[str, End]
    rows: dict[str, Session]


FLOOD_S = 2
"""How long before the end a flood begins: long enough to be in full course."""


@pytest.fixture(scope="module")
def deadline(site: Plant) -> Deadline:
    """One grant, seven clients in as many conditions, and how each of them met the grant's end."""
    engineer = site.newcomer("deadline")
    length = timedelta(seconds=14)
    granted = site.let_in(BOX, engineer=engineer, length=length)
    closes = granted.interval.closes
    control = str(site.folder / "deadline")
    with ExitStack() as stack:
        clients: dict[str, subprocess.Popen[bytes]] = {}
        programs: dict[str, int] = {}
        rows: dict[str, Session] = {}

        def start(name: str, program: str, *, options: Sequence[str] = (), stdin: int | None = None) -> None:
            command = site.ssh_command(BOX, f"echo up $$ >&2; {program}", engineer=engineer, options=options)
            given = subprocess.PIPE if stdin is None else stdin
            made = subprocess.Popen(command, stdin=given, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, bufsize=0)
            child = stack.enter_context(made)
            stack.callback(child.kill)
            clients[name] = child
            programs[name] = int(_line_after(child, b"up "))
            rows[name] = site.last_session()

        terminal = stack.enter_context(Terminal(site, BOX, "echo up $$; exec cat", engineer=engineer))
        terminal.expect(b"up ")
        programs["idle"], rows["idle"] = int(terminal.expect(b"\r\n")), site.last_session()
        clients["idle"] = terminal.process
        flood = f"sleep {left_s(closes) - FLOOD_S}; exec cat /dev/zero"
        start("flooded by the asset", flood)
        source = stack.enter_context(subprocess.Popen(["sh", "-c", flood], stdout=subprocess.PIPE))
        assert source.stdout is not None
        stack.callback(source.kill)
        start("flooding the asset", "exec cat >/dev/null", stdin=source.stdout.fileno())
        source.stdout.close()
        start("first of several channels", "exec cat", options=["-M", "-S", control])
        start("second of several channels", "exec cat", options=["-S", control])
        start("at an asset that hangs", "ps -o ppid= -p $$ >&2; exec cat")
        hung = int(_line_after(clients["at an asset that hangs"], b""))
        os.kill(hung, signal.SIGSTOP)
        stack.callback(os.kill, hung, signal.SIGKILL)
        start("stopped", "exec cat /dev/zero")
        os.kill(clients["stopped"].pid, signal.SIGSTOP)
        assert left_s(closes) > FLOOD_S, "the clients were too slow to come in"
        ends = _follow(clients, closes, terminal, programs)
    return Deadline(granted, ends, rows)


def _line_after(child: subprocess.Popen[bytes], word: bytes) -> bytes:
    """The rest of the line of a client's stderr that begins with a word, read byte by byte so that no other is lost."""
    assert child.stderr is not None
    while not (line := child.stderr.readline()).startswith(word):
        assert line, "the client ended"
    return line.removeprefix(word)


def left_s(closes: datetime) -> float:
    return (closes - CLOCK.now()).total_seconds()


def _follow(
    clients: dict[str, subprocess.Popen[bytes]], closes: datetime, terminal: Terminal, programs: dict[str, int]
) -> dict[str, End]:
    """When each of them ended; the stopped one goes on a second after the end, and finds itself cut off."""
    waiting = {os.pidfd_open(child.pid): name for name, child in clients.items()}
    late_s: dict[str, float] = {}
    poll = select.poll()
    for fd in waiting:
        poll.register(fd, select.POLLIN)
    woken = False
    while len(late_s) < len(clients) and left_s(closes) > -10:
        for fd, _ in poll.poll(100):
            late_s[waiting[fd]] = -left_s(closes)
            poll.unregister(fd)
        if not woken and left_s(closes) < -DUE_S:
            woken = True
            os.kill(clients["stopped"].pid, signal.SIGCONT)
    for fd in waiting:
        os.close(fd)
    found = {}
    for name, child in clients.items():
        assert name in late_s, f"{name}: still in after the end"
        child.wait(10)
        told = terminal.stderr() if name == "idle" else child.stderr.read().decode() if child.stderr else ""
        if name == "idle":
            terminal.end()
        found[name] = End(child.returncode, late_s[name], told, terminal.seen, programs[name])
    return found


CLIENTS = (
    "idle",
    "flooded by the asset",
    "flooding the asset",
    "first of several channels",
    "second of several channels",
    "at an asset that hangs",
)


@pytest.mark.parametrize("name", CLIENTS)
def test_at_the_end_of_the_grant_a_client_is_out_within_a_second(deadline: Deadline, name: str) -> None:
    granted, ends = deadline.grant, deadline.ends
    end = ends[name]
    assert 0 <= end.late_s < DUE_S
    assert end.status == CUT
    last = f"wicketgate: time is up ({granted.interval.closes:%H:%M:%S} UTC); ask again with: request"
    assert last in end.told.splitlines()


def test_a_client_that_does_not_read_is_cut_off_all_the_same(site: Plant, deadline: Deadline) -> None:
    granted, ends, rows = deadline.grant, deadline.ends, deadline.rows
    assert ends["stopped"].status == CUT
    assert ends["stopped"].late_s < 2 * DUE_S, "it was woken a second after the end, and had nobody to talk to"
    row = site.wait_ended(rows["stopped"].id)
    assert row.ended_at is not None
    assert 0 <= (row.ended_at - granted.interval.closes).total_seconds() < DUE_S


@pytest.mark.parametrize("name", [one for one in (*CLIENTS, "stopped") if one != "at an asset that hangs"])
def test_at_the_end_the_program_on_the_asset_is_cut_off_too(deadline: Deadline, name: str) -> None:
    program = Path(f"/proc/{deadline.ends[name].program}")
    wait_until(lambda: not program.exists(), what=f"the end of the program on the asset ({name})")


def test_the_engineer_is_warned_beside_the_programs_output(
    deadline: Deadline,
) -> None:
    granted, ends = deadline.grant, deadline.ends
    closes = granted.interval.closes
    for name, before in (("idle", "[wicketgate] "), ("second of several channels", "wicketgate: ")):
        told = [line for line in ends[name].told.splitlines() if "this session ends in" in line]
        wanted = [f"{before}this session ends in {s} s, at {closes:%H:%M:%S} UTC" for s in (4, 2, 1)]
        assert told == wanted
    assert re.fullmatch(rb"up \d+\r\n", ends["idle"].shown), "the terminal itself is the program's"


def test_every_session_ended_by_the_clock_is_closed_with_its_recording_whole(site: Plant, deadline: Deadline) -> None:
    found = sorted({one.id for one in deadline.rows.values()})
    assert {site.wait_ended(one).end_reason for one in found} == {EndReason.TIME_UP}
    site.cli("verify", *found)


def test_after_the_end_the_certificate_opens_nothing_and_the_code_says_why(site: Plant, deadline: Deadline) -> None:
    engineer = "deadline"
    assert deadline.grant.interval.closes <= CLOCK.now()
    by_key = ["-o", "PreferredAuthentications=publickey"]
    assert b"Permission denied" in site.ssh(BOX, "echo in", engineer=engineer, options=by_key).stderr
    told = site.ssh(BOX, "echo in", engineer=engineer, code=site.code(engineer), bare=True)
    assert (told.returncode, told.stdout) == (CUT, b"")
    assert b"grant over" in told.stderr


# While the database is away
def test_a_locked_database_stops_no_running_session_and_opens_no_new_channel_and_the_deadline_holds(
    site: Plant,
) -> None:
    killed, timed = newcomer(site, "locked-killed"), newcomer(site, "locked-timed")
    suspended = site.let_in(BOX, engineer=killed)
    control = str(site.folder / timed)
    with ExitStack() as stack:
        other = stack.enter_context(Terminal(site, BOX, "echo up; exec cat", engineer=killed))
        other.expect(b"up")
        other_row = site.last_session()
        granted = site.let_in(BOX, engineer=timed, length=timedelta(seconds=12))
        mux = ["-M", "-S", control]
        terminal = stack.enter_context(Terminal(site, BOX, "echo up; exec cat", engineer=timed, options=mux))
        terminal.expect(b"up\r\n")
        row = site.last_session()
        with locked_database(site):
            late = stack.enter_context(
                site.running_ssh(BOX, "echo in", engineer=timed, options=["-S", control], code="")
            )
            for number in range(20):
                began_us = CLOCK.monotonic_us()
                terminal.type(b"line %d\n" % number)
                terminal.expect(b"line %d\r\nline %d\r\n" % (number, number))
                assert CLOCK.monotonic_us() - began_us < 1_000_000
            site.cli("kill", other_row.id, "--reason", "locked")
            assert seconds_to_end(other.process, since_us=CLOCK.monotonic_us()) < DUE_S
            out, told = late.communicate(timeout=20)
            assert (late.returncode, out) == (CUT, b"")
            assert b"try again in a minute" in told
            wait_until(lambda: left_s(granted.interval.closes) <= 0, within_s=15, what="the end")
            assert seconds_to_end(terminal.process, since_us=CLOCK.monotonic_us()) < DUE_S
            assert "time is up" in terminal.stderr()
    assert site.wait_ended(row.id, within_s=40).end_reason is EndReason.TIME_UP
    assert site.wait_ended(other_row.id, within_s=40).end_reason is EndReason.KILLED
    wait_until(
        lambda: suspended.id in [one["grant_id"] for one in site.entries("session.killed")],
        within_s=40,
        what="the kill in the ledger",
    )


@contextmanager
def locked_database(site: Plant) -> Iterator[None]:
    """Another process's hand on the database: nobody can write."""
    with closing(sqlite3.connect(site.path / "wicketgate.db", isolation_level=None)) as conn:
        conn.execute("BEGIN EXCLUSIVE")
        yield
        conn.execute("ROLLBACK")


# When the bastion itself goes
def test_a_stopping_bastion_tells_its_sessions_ends_and_seals_them_and_exits_well(site: Plant) -> None:
    engineer = newcomer(site, "stopping")
    site.let_in(BOX, engineer=engineer)
    with (
        Terminal(site, BOX, "echo up; exec cat", engineer=engineer) as terminal,
        site.running_ssh(BOX, "echo up; exec cat", engineer=engineer) as plain,
    ):
        terminal.expect(b"up")
        read_until(plain, b"up")
        newest = site.live()
        process = site.process
        assert process is not None
        site.stop()
        assert process.returncode == 0
        assert (terminal.end(), plain.wait(15)) == (CUT, CUT)
        assert plain.stderr is not None
        last = "wicketgate: bastion shut down; connect again in a minute"
        assert [terminal.told()[-1], plain.stderr.read().decode().splitlines()[-1]] == [last, last]
    found = [one["id"] for one in newest]
    assert [site.wait_ended(one, within_s=1).end_reason for one in found] == [EndReason.SHUT_DOWN] * 2
    site.cli("verify", *found)
    site.start()
    assert site.ssh(BOX, "echo back", engineer=engineer).stdout == b"back\n"
