"""The engineer's console through stock ssh: every command for people and for tools, wrong words, waiting, a terminal."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Final

import pytest

from broker.bastion.commands import COMMANDS
from broker.domain.capability import EXEC, SHELL
from broker.domain.grant import Grant
from broker.store import requests as request_rows
from tests.e2e.site import BOX, CLOCK, OWNER, SECOND_OWNER, Plant, Template, read_until, wait_until
from tests.e2e.terminal import Terminal

Done = subprocess.CompletedProcess[bytes]
WHO: Final = "rita"
ASK: Final = f'request {BOX} --for 1h --reason "cell 4 drifts"'


@pytest.fixture(scope="module")
def desk(template: Template) -> Iterator[Plant]:
    """A plant and an engineer who comes in by certificate, so that the console costs no code."""
    with Plant(template) as running:
        running.newcomer(WHO)
        running.let_in(BOX, engineer=WHO)
        yield running


def at(plant: Plant, line: str, who: str = WHO) -> Done:
    """One command at the console; a certificate names the engineer, so the login is the handle."""
    return plant.ssh(who, line, engineer=who)


def one_line(done: Done) -> str:
    [line] = done.stderr.decode().splitlines()
    return line


def asked(plant: Plant, line: str = ASK, who: str = WHO) -> str:
    """A request made at the console; gives its id."""
    made: dict[str, str] = json.loads(at(plant, f"{line} --json", who).stdout)
    assert made["state"] == "pending"
    return made["id"]


def state_of(plant: Plant, request_id: str) -> str:
    with plant.db.read() as tx:
        return request_rows.require(tx, request_id).shown_state(tx.now).value


# Every command, for people and for tools
def a_fresh_grant(plant: Plant) -> str:
    return plant.grant(BOX, engineer=WHO).id


EXAMPLES: Final[Mapping[str, Callable[[Plant], str]]] = {
    "help": lambda _: "help",
    "whoami": lambda _: "whoami",
    "assets": lambda _: "assets",
    "request": lambda _: f"{ASK} --change CHG-1 --needs shell,exec",
    "status": lambda _: "status",
    "cert": lambda _: "cert",
    "config": lambda _: "config",
    "extend": lambda plant: f'extend {a_fresh_grant(plant)} --for 1h --reason "not done yet"',
    "done": lambda plant: f"done {a_fresh_grant(plant)}",
    "files": lambda _: "files",
}
ACTS: Final = frozenset({"request", "extend", "done", "cert"})


def run(plant: Plant, name: str, suffix: str = "") -> Done:
    line = EXAMPLES[name](plant) + suffix
    if name != "cert":
        return at(plant, line)
    return plant.ssh("gate", line, engineer=WHO, code=plant.code(WHO), bare=True)  # given out after key and code only


def test_every_command_is_tried_here() -> None:
    assert EXAMPLES.keys() == COMMANDS.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_command_speaks_to_people_on_stdout_alone(desk: Plant, name: str) -> None:
    done = run(desk, name)
    assert (done.returncode, done.stderr) == (0, b""), done
    assert done.stdout.endswith(b"\n")
    assert done.stdout.strip()
    assert b"\r" not in done.stdout
    assert not done.stdout.startswith((b"{", b"["))


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_command_gives_tools_one_document_and_nothing_else(desk: Plant, name: str) -> None:
    done = run(desk, name, " --json")
    assert (done.returncode, done.stderr) == (0, b""), done
    document = json.loads(done.stdout)  # one, or this fails
    assert done.stdout.count(b"\n") == 1
    if name in ACTS:
        assert {"id", "state"} <= document.keys()
    elif isinstance(document, list):
        assert all("id" in row for row in document)
    else:
        assert "id" in document


def test_help_names_every_command(desk: Plant) -> None:
    rows = json.loads(at(desk, "help --json").stdout)
    assert [row["id"] for row in rows] == list(COMMANDS)
    text = at(desk, "help").stdout.decode()
    assert all(f"  {row['usage']}\n      {row['meaning']}" in text for row in rows)


def test_whoami_tells_who_and_how(desk: Plant) -> None:
    found = json.loads(at(desk, "whoami --json").stdout)
    assert (found["handle"], found["vendor"], found["factors"], found["source"]) == (
        WHO,
        f"firm-of-{WHO}",
        "certificate",
        "127.0.0.1",
    )


def test_a_certificate_is_not_given_out_for_a_certificate(desk: Plant) -> None:
    done = at(desk, "cert")
    assert (done.returncode, done.stdout) == (1, b"")
    assert one_line(done).startswith("wicketgate: a certificate is given out after key and code")


# Wrong words
WRONG: Final = (
    ("frobnicate", "no command 'frobnicate'; see help"),
    ("HELP", "no command 'HELP'; see help"),
    ("\x1b[31mred", r"no command '\x1b[31mred'; see help"),
    ("'unclosed", "the line cannot be read"),
    ("''", "no command ''; see help"),
    ("whoami me", "usage: whoami"),
    ("help --frob", "usage: help"),
    ("assets --js", "usage: assets"),
    ("request", "usage: request"),
    (f"request {BOX}", "usage: request"),
    (f"request {BOX} --for 1h", "--reason"),
    (f"request {BOX} --reason x", "--for"),
    (f"request {BOX} --for banana --reason x", "duration 'banana'"),
    (f"request {BOX} --for 0h --reason x", "duration '0h'"),
    (f"request {BOX} --for -1h --reason x", "usage: request"),
    (f"request {BOX} --for 1h --reason ''", "reason is missing"),
    (f"request {BOX} --for 1h --reason '{'x' * 2049}'", "reason is too long"),
    (f"request {BOX} --for 1h --reason 'a\x07b'", "reason holds control characters"),
    (f"request {BOX} --for 1h --reason x --change '{'x' * 65}'", "change is too long"),
    (f"request {BOX} --for 1h --reason x --needs root", "capability 'root'"),
    (f"request {BOX} --for 1h --reason x --needs tcp:99999", "capability 'tcp:99999'"),
    (f"request {BOX} --for 1h --reason x --needs ''", "capability ''"),
    (f"request {BOX} --for 1h --reason x --from yesterday", "start 'yesterday': write 2027-02-24T16:00:00-08:00"),
    (f"request {BOX} --for 1h --reason x --from 2099-01-01T10:00:00", "choose a start within 366 days"),
    (f"request {BOX} --for 1h --reason x --from 2027-03-28T01:30", "the clocks go from 01:00 to 02:00"),
    (f"request {BOX} --for 1h --reason x --from '2027-10-31 01:30'", "write the offset: +01:00 or +00:00"),
    (f"request {BOX} extra --for 1h --reason x", "usage: request"),
    (f"request {BOX} --for 1h --reason x --from 2001-01-01T00:00:00Z", "choose a start within 366 days"),
    ("status a b", "usage: status"),
    ("cert a b", "usage: cert"),
    ("config x", "usage: config"),
    ("extend", "usage: extend"),
    ("extend grt-1 --for 1h", "--reason"),
    ("done", "usage: done"),
    ("files x", "usage: files"),
)


@pytest.mark.parametrize("suffix", ["", " --json"], ids=["text", "json"])
@pytest.mark.parametrize(("line", "told"), WRONG, ids=[str(number) for number in range(len(WRONG))])
def test_wrong_words_get_one_line_and_change_nothing(desk: Plant, line: str, told: str, suffix: str) -> None:
    before = desk.entries("request.submitted")
    done = at(desk, line + suffix)
    assert (done.returncode, done.stdout) == (2, b""), done
    assert one_line(done).startswith("wicketgate: ")
    assert told in one_line(done)
    assert desk.entries("request.submitted") == before


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("request nowhere.plant --for 1h --reason x", 1),
        (f"request {BOX} --for 400d --reason x", 1),
        (f"request {BOX} --for 1h --reason x --from PAST", 1),  # worked out in the test: both workers collect the same
        (f"request {BOX} --for 1h --reason x --needs tcp:9", 1),
        ("request , --for 1h --reason x", 1),
        ("cert grt-nothing", 1),
        ("status req-nothing", 3),
        ("extend grt-nothing --for 1h --reason x", 3),
        ("done grt-nothing", 3),
    ],
)
def test_what_cannot_be_had_is_refused_with_a_reason_in_one_line(desk: Plant, line: str, status: int) -> None:
    line = line.replace("PAST", f"{CLOCK.now() - timedelta(hours=2):%Y-%m-%dT%H:%M:%SZ}")
    by_code = line.startswith("cert")
    done = (
        desk.ssh("gate", line, engineer=WHO, code=desk.code(WHO), bare=True) if by_code else at(desk, f"{line} --json")
    )
    assert (done.returncode, done.stdout) == (status, b""), done
    assert one_line(done).startswith("wicketgate: ")


# Nobody sees another's
def test_nobody_sees_or_touches_what_is_another_s(desk: Plant) -> None:
    request, grant = asked(desk), desk.grant(BOX, engineer=WHO)
    other = desk.newcomer("other")
    desk.let_in(BOX, engineer=other)
    shown = at(desk, "status --json", other).stdout.decode()
    assert request not in shown
    assert grant.id not in shown
    for line in (
        f"status {request}",
        f"status {grant.id}",
        f"extend {grant.id} --for 1h --reason x",
        f"done {grant.id}",
    ):
        done = at(desk, line, other)
        nothing = at(desk, line.replace(request, "req-nothing").replace(grant.id, "grt-nothing"), other)
        assert (done.returncode, done.stdout) == (nothing.returncode, nothing.stdout) == (3, b"")
        theirs = one_line(done).replace(request, "ID").replace(grant.id, "ID")
        assert theirs == one_line(nothing).replace("req-nothing", "ID").replace("grt-nothing", "ID")
    code = desk.code(other)
    taken = desk.ssh("gate", "cert", grant.id, code=code, engineer=other, bare=True)
    assert (taken.returncode, taken.stdout) == (1, b"")
    assert request in at(desk, "status --json").stdout.decode()


def test_requests_stay_one_s_own_until_decided(desk: Plant) -> None:
    request = asked(desk, f'request {BOX} --for 90m --reason "two\nlines" --change CHG-7 --needs exec')
    [row] = json.loads(at(desk, f"status {request} --json").stdout)
    assert (row["state"], row["assets"], row["capabilities"], row["for_s"]) == ("pending", [BOX], "exec", 5400)


# Waiting for a decision
def wait_for_pending(plant: Plant, child: subprocess.Popen[bytes]) -> str:
    """The id of the request that a waiting client has told on stderr."""
    said = read_until(child, b"leaves it standing", stderr=True).decode()
    return said.split()[0]


def test_who_waits_hears_of_the_yes_and_what_the_owner_took_away(desk: Plant) -> None:
    line = f'request {BOX} --for 2h --reason "cell 4" --needs shell,exec --wait --json'
    with desk.running_ssh(WHO, line, engineer=WHO) as child:
        request = wait_for_pending(desk, child)
        assert state_of(desk, request) == "pending"
        code = desk.code(OWNER)
        done = desk.cli("approve", request, "--as", OWNER, "--capabilities", "exec", "--totp", code, "--json")
        stdout, _ = child.communicate(timeout=20)
        assert child.returncode == 0
    document = json.loads(stdout)
    assert (document["id"], document["state"]) == (request, "approved")
    assert document["grant"] == json.loads(done.stdout)["grant"]
    [_, grant] = json.loads(at(desk, f"status {request} --json").stdout)
    assert (grant["id"], grant["state"], grant["capabilities"]) == (document["grant"], "open", "exec")
    text = at(desk, f"status {request}").stdout.decode()
    assert f"{grant['id']}  open        {BOX}  exec  until " in text


def test_who_waits_hears_of_the_no_and_why(desk: Plant) -> None:
    with desk.running_ssh(WHO, f"{ASK} --wait", engineer=WHO) as child:
        request = wait_for_pending(desk, child)
        code = desk.code(SECOND_OWNER)
        desk.cli("deny", request, "--as", SECOND_OWNER, "--reason", "not during the test run", "--totp", code)
        stdout, stderr = child.communicate(timeout=20)
        assert child.returncode == 1
    assert stdout.decode() == f"{request} is denied: not during the test run\n"
    assert stderr.strip() == b""
    assert "(not during the test run)" in at(desk, f"status {request}").stdout.decode()


def test_who_waits_for_an_answer_that_never_comes_is_told_that_it_lapsed(template: Template) -> None:
    with Plant(template, request_lapses_s="4") as plant:
        plant.let_in(BOX)
        with plant.running_ssh("engineer.one", f"{ASK} --wait") as child:
            request = wait_for_pending(plant, child)
            stdout, _ = child.communicate(timeout=30)
        assert child.returncode == 1
        assert stdout.decode() == f"{request} is lapsed\n"
        assert state_of(plant, request) == "lapsed"


def test_going_away_while_waiting_leaves_the_request_standing(desk: Plant) -> None:
    with desk.running_ssh(WHO, f"{ASK} --wait", engineer=WHO) as child:
        request = wait_for_pending(desk, child)
        child.send_signal(signal.SIGINT)
        child.wait(10)
    assert state_of(desk, request) == "pending"


def test_interrupting_at_a_terminal_ends_the_wait_and_leaves_the_request_standing(desk: Plant) -> None:
    with Terminal(desk, WHO, f"{ASK} --wait", engineer=WHO) as terminal:
        wait_until(lambda: "leaves it standing" in terminal.stderr(), what="the wait")
        terminal.type(b"\x03")
        assert terminal.end() == 130
        request = terminal.stderr().split("\x1b[K")[1].split()[0]
    assert state_of(desk, request) == "pending"


# More time, and done
def read_rest(child: subprocess.Popen[bytes]) -> bytes:
    """What a client that is ending still says on stderr."""
    assert child.stderr is not None
    return child.stderr.read() or b""


def test_more_time_is_a_new_request_that_begins_where_the_grant_ends(desk: Plant) -> None:
    grant = desk.grant(BOX, engineer=WHO, length=timedelta(hours=3), capabilities=frozenset({EXEC}))
    done = at(desk, f'extend {grant.id} --for 30m --reason "one more cell" --json')
    made = json.loads(done.stdout)
    assert (done.returncode, made["state"]) == (0, "pending")
    with desk.db.read() as tx:
        request = request_rows.require(tx, made["id"])
    assert (request.opens, request.length) == (grant.interval.closes, timedelta(minutes=30))
    assert request.capabilities == frozenset({EXEC})


def test_handing_back_ends_the_session_within_a_second_and_lets_nobody_in_again(desk: Plant) -> None:
    who = desk.newcomer("dora")
    grant: Grant = desk.let_in(BOX, engineer=who, capabilities=frozenset({EXEC, SHELL}))
    with desk.running_ssh(BOX, "echo in; cat", engineer=who) as child:
        read_until(child, b"in\n")
        session = desk.last_session()
        done = at(desk, f"done {grant.id}", who)
        assert done.stdout.decode() == f"{grant.id} is handed back; its sessions end now\n"
        stderr = read_until(child, b"ask again", stderr=True) + read_rest(child)
        assert child.wait(10) == 255
    assert stderr.decode().splitlines()[-1] == "wicketgate: handed back; ask again with: request"
    handed_back = next(one for one in desk.entries("grant.handed_back") if one["grant_id"] == grant.id)
    desk.wait_ended(session.id)
    closed = next(one for one in desk.entries("session.closed") if one["session_id"] == session.id)
    assert closed["at_ms"] - handed_back["at_ms"] <= 1000
    again = desk.ssh(BOX, "echo ran", engineer=who)
    assert (again.returncode, again.stdout) == (255, b"")
    assert one_line(again).startswith("wicketgate: grant handed back; ")
    twice = at(desk, f"done {grant.id}", who)
    assert (twice.returncode, twice.stdout) == (1, b"")


# A terminal
def test_a_person_at_a_terminal_types_mends_and_leaves(desk: Plant) -> None:
    with Terminal(desk, WHO, engineer=WHO) as terminal:
        terminal.expect(b"wicketgate console: type help, or exit\r\nwicketgate> ")
        terminal.type(b"help\r")
        assert b"whoami\r\n" in terminal.expect(b"wicketgate> ")
        terminal.type(b"whoamx\x7fi\r")
        assert f"{WHO} ({WHO}, firm-of-{WHO}), in by certificate".encode() in terminal.expect(b"wicketgate> ")
        terminal.type("status é".encode() + b"\x7f\x7f\x7f\x7f\x7f\x7f\x7f\x7f\x7f\x7f" + b"\x1b[A\x1b[Dfiles\r")
        assert b"no releases\r\n" in terminal.expect(b"wicketgate> ")
        terminal.type(b"done everyth\x03")
        terminal.expect(b"^C\r\nwicketgate> ")
        terminal.type(b"frobnicate\r")
        terminal.expect(b"wicketgate> ")
        wait_until(lambda: "no command 'frobnicate'; see help" in terminal.stderr(), what="the answer")
        for _ in range(2):
            terminal.type(b"\r")
            terminal.expect(b"\r\nwicketgate> ")
        terminal.type(f"{ASK} --wait\r".encode())
        wait_until(lambda: "leaves it standing" in terminal.stderr(), what="the wait")
        terminal.type(b"\x03")
        terminal.expect(b"wicketgate> ")
        terminal.type(b"x\x04\x7f\x04")  # ^D ends an empty line alone
        assert terminal.end() == 130
    request = terminal.stderr().split("\x1b[K")[1].split()[0]
    assert state_of(desk, request) == "pending"


@pytest.mark.parametrize("word", [b"exit", b"quit", b"logout"])
def test_words_of_leaving_leave(desk: Plant, word: bytes) -> None:
    with Terminal(desk, WHO, engineer=WHO) as terminal:
        terminal.expect(b"wicketgate> ")
        terminal.type(word + b"\r")
        assert terminal.end() == 0


def test_a_line_without_an_end_is_bounded(desk: Plant) -> None:
    with Terminal(desk, WHO, engineer=WHO) as terminal:
        terminal.expect(b"wicketgate> ")
        for _ in range(20):
            terminal.type(b"x" * 500)
            terminal.expect(b"x")
        terminal.type(b"\r")
        terminal.expect(b"wicketgate> ")
        terminal.type(b"\x04")
        assert terminal.end() == 2
        assert "the line is longer than 4096 bytes; nothing of it was run" in terminal.stderr()


def test_commands_from_a_pipe_are_answered_in_turn_and_the_last_one_gives_the_status(desk: Plant) -> None:
    done = desk.ssh(WHO, engineer=WHO, stdin=b"files\nwhoami\nfrobnicate\n")
    assert done.returncode == 2
    assert b"no releases" in done.stdout
    assert done.stdout.index(b"no releases") < done.stdout.index(f"{WHO} ({WHO}".encode())


def test_the_printed_configuration_names_the_running_bastion(desk: Plant) -> None:
    document: dict[str, Any] = json.loads(at(desk, "config --json").stdout)
    assert f"  Port {desk.port}" in document["ssh_config"]
    authority = (desk.path / "keys/ca/host.pub").read_text().split()[:2]
    assert document["known_hosts"] == [f"@cert-authority [127.0.0.1]:{desk.port} {' '.join(authority)}"]
