"""Each no at the SSH door as stock ssh sees it: a plain reason, nothing dialled, and an entry in the ledger."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import asyncssh
import pytest
import sqlalchemy as sa

from benchmarks.peers import account, free_port, make_key
from broker.domain.capability import EXEC, SFTP_READ, SFTP_WRITE, SHELL
from broker.domain.policy import Reason
from broker.store import inventory, schema
from broker.store import people as people_rows
from tests.e2e.site import (
    BOX,
    CLOCK,
    ENGINEER,
    PROGRAM,
    Plant,
    Template,
    add_asset,
    deaf_port,
    read_until,
    sshd_with,
    wait_until,
    was_dialled,
)

CERTIFICATE_S: Final = 8
OPEN_TIMEOUT_S: Final = 5
Ask = Callable[[], subprocess.CompletedProcess[bytes]]


def name_of(reason: Reason) -> str:
    """The handle of the engineer and the name of the asset of one case."""
    return reason.name.lower().replace("_", "-")


@dataclass(slots=True)
class Case:
    """One plant, one engineer who is nobody else's, and one asset that would notice a dial."""

    plant: Plant
    who: str
    login: str

    def ask(self, login: str = "") -> subprocess.CompletedProcess[bytes]:
        """By key and code, with a command that would tell whether it ran."""
        code = self.plant.code(self.who)
        return self.plant.ssh(login or self.login, "echo ran", code=code, engineer=self.who, bare=True)

    def ask_by_certificate(self, login: str = "") -> subprocess.CompletedProcess[bytes]:
        return self.plant.ssh(login or self.login, "echo ran", engineer=self.who)

    @contextmanager
    def connected(self) -> Iterator[Ask]:
        """A connection that is logged in and has no channel yet; gives what opens one."""
        control = ["-S", str(self.plant.folder / f"{self.who}.mux")]
        with self.plant.running_ssh(self.login, engineer=self.who, options=["-M", "-N", *control]) as master:
            wait_until(lambda: Path(control[1]).exists(), what="the connection")
            yield lambda: self.plant.ssh(self.login, "echo ran", engineer=self.who, options=control)
            master.terminate()
            master.wait(10)

    @contextmanager
    def live(self, number: int) -> Iterator[list[str]]:
        """So many live sessions at an asset that answers; gives their ids."""
        with ExitStack() as all_of_them:
            for _ in range(number):
                child = all_of_them.enter_context(self.plant.running_ssh(BOX, "echo in; cat", engineer=self.who))
                read_until(child, b"in\n")
            yield [one["id"] for one in self.plant.live() if one["person"] == self.who]


@contextmanager
def no_such_asset(case: Case) -> Iterator[Ask]:
    yield case.ask  # it stands at a site where the engineer's firm has no business


@contextmanager
def no_grant(case: Case) -> Iterator[Ask]:
    yield case.ask


@contextmanager
def person_disabled(case: Case) -> Iterator[Ask]:
    case.plant.let_in(case.login, engineer=case.who)
    with case.connected() as ask:
        case.plant.cli("person", "disable", case.who)
        yield ask


@contextmanager
def vendor_disabled(case: Case) -> Iterator[Ask]:
    case.plant.let_in(case.login, engineer=case.who)
    case.plant.cli("vendor", "disable", f"firm-of-{case.who}")
    yield case.ask_by_certificate


@contextmanager
def asset_not_ready(case: Case) -> Iterator[Ask]:
    case.plant.let_in(case.login, engineer=case.who)
    case.plant.cli("asset", "state", case.login, "quarantined")
    yield case.ask_by_certificate


@contextmanager
def revoked(case: Case) -> Iterator[Ask]:
    grant = case.plant.let_in(case.login, engineer=case.who)
    case.plant.cli("revoke", grant.id, "--reason", "enough")
    yield case.ask_by_certificate


@contextmanager
def suspended(case: Case) -> Iterator[Ask]:
    case.plant.let_in(BOX, case.login, engineer=case.who)
    with case.live(1) as [session]:
        case.plant.cli("kill", session, "--reason", "stop that")
        yield case.ask_by_certificate


@contextmanager
def handed_back(case: Case) -> Iterator[Ask]:
    grant = case.plant.let_in(case.login, engineer=case.who)
    case.plant.console("done", grant.id, engineer=case.who)
    yield case.ask_by_certificate


@contextmanager
def not_yet(case: Case) -> Iterator[Ask]:
    case.plant.grant(case.login, engineer=case.who, opens=CLOCK.now() + timedelta(hours=1))
    yield case.ask


@contextmanager
def over(case: Case) -> Iterator[Ask]:
    grant = case.plant.grant(case.login, engineer=case.who, length=timedelta(seconds=1))
    wait_until(lambda: CLOCK.now() >= grant.interval.closes, what="the grant's end")
    yield case.ask


@contextmanager
def window_closed(case: Case) -> Iterator[Ask]:
    grant = case.plant.let_in(case.login, engineer=case.who)
    case.plant.cli("window", "close", grant.window_id)
    yield case.ask_by_certificate


@contextmanager
def outside_hours(case: Case) -> Iterator[Ask]:
    case.plant.let_in(case.login, engineer=case.who)
    now = CLOCK.now().astimezone(ZoneInfo("Europe/London"))
    hours = (
        {"daily_from": "20:00", "daily_until": "21:00"}
        if now.hour < 12
        else {"daily_from": "03:00", "daily_until": "04:00"}
    )
    with case.plant.db.begin() as tx:  # the hours have ended since: a booked day would be long to wait for
        person = people_rows.require(tx, case.who)
        mine = schema.commissioning_window.c.vendor_id == person.vendor_id
        tx.conn.execute(sa.update(schema.commissioning_window).where(mine).values(**hours))
    yield case.ask_by_certificate


@contextmanager
def not_granted(case: Case) -> Iterator[Ask]:
    case.plant.let_in(case.login, engineer=case.who, capabilities=frozenset({SHELL}))
    yield case.ask_by_certificate


@contextmanager
def account_unknown(case: Case) -> Iterator[Ask]:
    case.plant.grant(case.login, engineer=case.who)
    yield lambda: case.ask(f"nobody+{case.login}")


@contextmanager
def other_certificate(case: Case) -> Iterator[Ask]:
    case.plant.let_in(case.login, engineer=case.who)
    with case.plant.db.begin() as tx:  # another asset takes over the name that the certificate holds
        known = inventory.load_asset(tx, case.login)
        assert known is not None
        tx.conn.execute(sa.update(schema.asset).where(schema.asset.c.id == known.id).values(name="as-it-was"))
        add_asset(tx, inventory.load_site(tx, "plant"), known.name, known.port, known.host_key)
    case.plant.grant(case.login, engineer=case.who)
    yield case.ask_by_certificate


@contextmanager
def certificate_over(case: Case) -> Iterator[Ask]:
    case.plant.let_in(case.login, engineer=case.who)
    over_at = CLOCK.now() + timedelta(seconds=CERTIFICATE_S)
    with case.connected() as ask:
        wait_until(lambda: CLOCK.now() > over_at, within_s=CERTIFICATE_S + 2, what="the certificate's end")
        yield ask


@contextmanager
def too_many_sessions(case: Case) -> Iterator[Ask]:
    case.plant.let_in(BOX, case.login, engineer=case.who)
    with case.live(4) as sessions:
        assert len(sessions) == 4
        yield case.ask_by_certificate


@contextmanager
def no_host_key(case: Case) -> Iterator[Ask]:
    case.plant.let_in(case.login, engineer=case.who)
    yield case.ask_by_certificate


@contextmanager
def shut_out(case: Case) -> Iterator[Ask]:
    case.plant.let_in(case.login, engineer=case.who)
    case.plant.cli("kill", "--engineer", case.who, "--reason", "stop that")
    yield case.ask_by_certificate


@contextmanager
def frozen(case: Case) -> Iterator[Ask]:
    case.plant.let_in(BOX, engineer=case.who)
    control = ["-S", str(case.plant.folder / f"{case.who}.mux")]
    with case.plant.running_ssh(BOX, "echo in; cat", engineer=case.who, options=["-M", *control]) as child:
        read_until(child, b"in\n")
        [session] = [one["id"] for one in case.plant.live() if one["person"] == case.who]
        case.plant.cli("freeze", session, "--reason", "wait")
        yield lambda: case.plant.ssh(BOX, "echo ran", engineer=case.who, options=control)


@contextmanager
def cannot_record(case: Case) -> Iterator[Ask]:
    case.plant.let_in(case.login, engineer=case.who)
    yield case.ask_by_certificate


CASES: Final[Mapping[Reason, Callable[[Case], AbstractContextManager[Ask]]]] = {
    Reason.NO_SUCH_ASSET: no_such_asset,
    Reason.NO_GRANT: no_grant,
    Reason.PERSON_DISABLED: person_disabled,
    Reason.VENDOR_DISABLED: vendor_disabled,
    Reason.ASSET_NOT_READY: asset_not_ready,
    Reason.REVOKED: revoked,
    Reason.SUSPENDED: suspended,
    Reason.HANDED_BACK: handed_back,
    Reason.NOT_YET: not_yet,
    Reason.OVER: over,
    Reason.WINDOW_CLOSED: window_closed,
    Reason.OUTSIDE_HOURS: outside_hours,
    Reason.NOT_GRANTED: not_granted,
    Reason.ACCOUNT_UNKNOWN: account_unknown,
    Reason.OTHER_CERTIFICATE: other_certificate,
    Reason.CERTIFICATE_OVER: certificate_over,
    Reason.TOO_MANY_SESSIONS: too_many_sessions,
    Reason.SHUT_OUT: shut_out,
    Reason.FROZEN: frozen,
    Reason.NO_HOST_KEY: no_host_key,
    Reason.CANNOT_RECORD: cannot_record,
}
ELSEWHERE: Final = {Reason.ISOLATED: "test_isolation.py", Reason.CLOCK_BEHIND: "test_clock.py"}
STRICT: Final = frozenset({Reason.CERTIFICATE_OVER, Reason.CANNOT_RECORD})
"""Those that ask for settings under which nothing else would work."""
SETTINGS: Final = {"open_timeout_s": str(OPEN_TIMEOUT_S), "dial_timeout_s": "2"}


@pytest.fixture(scope="module")
def gate(template: Template) -> Iterator[Plant]:
    with Plant(template, **SETTINGS) as running:
        with running.db.begin() as tx:
            inventory.insert_site(tx, name="far", time_zone="UTC", by="test")
        yield running


@pytest.fixture(scope="module")
def strict_gate(template: Template) -> Iterator[Plant]:
    """Short certificates and no room on the disk."""
    strict = {"certificate_life_s": str(CERTIFICATE_S), "free_space_floor_bytes": str(2**60)}
    with Plant(template, **strict) as running:
        yield running


@pytest.mark.parametrize("reason", Reason, ids=name_of)
def test_every_reason_of_the_gate_is_tried(reason: Reason) -> None:
    if reason in ELSEWHERE:  # what makes these true is the whole site's, not one engineer's
        assert reason.value in (Path(__file__).parent / ELSEWHERE[reason]).read_text(encoding="utf-8")
    assert (reason in ELSEWHERE) != (reason in CASES)


@pytest.mark.parametrize("reason", CASES, ids=name_of)
def test_a_refusal_says_why_and_what_next_and_dials_nothing(reason: Reason, request: pytest.FixtureRequest) -> None:
    plant: Plant = request.getfixturevalue("strict_gate" if reason in STRICT else "gate")
    who = plant.newcomer(name_of(reason))
    with deaf_port() as trap:
        case = Case(plant, who, place(plant, reason, trap))
        with CASES[reason](case) as ask:
            opened = len(plant.entries("session.opened"))
            done = ask()
            assert (done.returncode, done.stdout) == (255, b""), done
            [line] = done.stderr.decode().splitlines()
            assert line.startswith(f"wicketgate: {reason.value}; "), line
            assert len(plant.entries("session.opened")) == opened
        assert not was_dialled(trap)
    with plant.db.read() as tx:
        person_id = people_rows.require(tx, who).id
    entries = [one for one in plant.entries("channel.refused") if one["person_id"] == person_id]
    assert [(one["reason"], one["capability"], one["source"]) for one in entries] == [
        (reason.value, "exec", "127.0.0.1")
    ]


def place(plant: Plant, reason: Reason, trap: socket.socket) -> str:
    """The asset of one case, on a port that would notice a dial; gives its login."""
    site = "far" if reason is Reason.NO_SUCH_ASSET else "plant"
    pinned = None if reason is Reason.NO_HOST_KEY else plant.template.host_key.read_text()
    with plant.db.begin() as tx:
        add_asset(tx, inventory.load_site(tx, site), name_of(reason), trap.getsockname()[1], pinned)
    return f"{name_of(reason)}.{site}"


def test_law_7_an_asset_of_a_strange_site_and_one_that_is_nowhere_are_refused_alike(gate: Plant) -> None:
    who = gate.newcomer("curious")
    with deaf_port() as trap, gate.db.begin() as tx:
        add_asset(tx, inventory.load_site(tx, "far"), "secret", trap.getsockname()[1], None)
    answers = []
    for login in ("secret.far", "nowhere.far"):
        done = gate.ssh(login, "true", code=gate.code(who), engineer=who)
        answers.append((done.returncode, done.stdout, done.stderr.decode().replace(login, "...")))
    assert answers[0] == answers[1]
    gate.let_in(BOX, engineer=who)  # a certificate, which lets in to the console without a code
    answers = []
    for login in ("secret.far", "nowhere.far"):
        done = gate.ssh(who, f"request {login} --for 1h --reason x", engineer=who)
        answers.append((done.returncode, done.stdout, done.stderr.decode().replace(login, "...")))
    assert answers[0] == answers[1]
    assert answers[0][:2] == (1, b"")


# What is never granted
@dataclass(slots=True)
class Entered:
    """The gate's plant, and what its engineer with a certificate asks for."""

    plant: Plant
    trap: socket.socket

    def entries(self, seen: int, number: int = 1) -> list[tuple[str, str]]:
        """What was refused since, with the reason, once there are so many: they are written behind the no."""
        wait_until(lambda: self.seen() >= seen + number, what=f"{number} entries")
        return [(one["capability"], one["reason"]) for one in self.plant.entries("channel.refused")[seen:]]

    def seen(self) -> int:
        return len(self.plant.entries("channel.refused"))


@pytest.fixture(scope="module")
def entered(gate: Plant) -> Iterator[Entered]:
    gate.let_in(BOX)
    with deaf_port() as trap:
        yield Entered(gate, trap)
        assert not was_dialled(trap)


def test_a_forward_over_the_clients_own_streams_is_refused_with_a_reason(entered: Entered) -> None:
    seen = entered.seen()
    done = entered.plant.ssh(BOX, options=["-W", f"127.0.0.1:{entered.trap.getsockname()[1]}"])
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"administratively prohibited: forwards are not granted here" in done.stderr
    assert entered.entries(seen) == [("direct-tcpip", "forwards are not granted here")]


@pytest.mark.parametrize("kind", ["-L", "-D"])
def test_a_forwarded_port_leads_nowhere(entered: Entered, kind: str) -> None:
    seen, port, far = entered.seen(), free_port(), entered.trap.getsockname()[1]
    forward = ["-L", f"127.0.0.1:{port}:127.0.0.1:{far}"] if kind == "-L" else ["-D", f"127.0.0.1:{port}"]
    with entered.plant.running_ssh(BOX, options=["-N", "-v", *forward]) as child:
        read_until(child, b"Entering interactive session", stderr=True)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as near:
            if kind == "-D":
                ask_by_socks(near, far)
            else:
                assert near.recv(1) == b""
        read_until(child, b"administratively prohibited: forwards are not granted here", stderr=True)
    assert entered.entries(seen) == [("direct-tcpip", "forwards are not granted here")]


def test_a_remote_forward_is_refused(entered: Entered) -> None:
    seen = entered.seen()
    remote = ["-N", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1"]
    done = entered.plant.ssh(BOX, options=remote)
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"remote port forwarding failed" in done.stderr
    assert entered.entries(seen) == [("tcpip-forward", "forwards are not granted here")]


def test_forwarded_unix_sockets_are_refused_both_ways(entered: Entered, tmp_path: Path) -> None:
    seen, near, made = entered.seen(), entered.plant.folder / "near.sock", tmp_path / "made-by-the-bastion"
    with entered.plant.running_ssh(BOX, options=["-N", "-v", "-L", f"{near}:/run/sshd.sock"]) as child:
        read_until(child, b"Entering interactive session", stderr=True)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(near))
            assert client.recv(1) == b""
        read_until(child, b"administratively prohibited: forwards are not granted here", stderr=True)
    remote = ["-N", "-o", "ExitOnForwardFailure=yes", "-R", f"{made}:127.0.0.1:1"]
    assert entered.plant.ssh(BOX, options=remote).returncode == 255
    assert [what for what, _ in entered.entries(seen, 2)] == ["direct-streamlocal", "streamlocal-forward"]
    assert not made.exists()


@contextmanager
def agent(folder: Path) -> Iterator[Path]:
    """A real ssh-agent, ended at the end."""
    path = folder / "agent"
    child = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    try:
        wait_until(path.exists, what="the agent")
        yield path
    finally:
        child.terminate()
        child.wait(10)


def test_an_agent_is_refused_with_a_reason_and_the_command_runs_without_it(entered: Entered) -> None:
    seen = entered.seen()
    with agent(entered.plant.folder) as path:
        asked = entered.plant.ssh_command(BOX, 'echo "${SSH_AUTH_SOCK-none}"', options=["-A"])
        command = [word.replace("IdentityAgent=none", f"IdentityAgent={path}") for word in asked]
        done = subprocess.run(command, capture_output=True, timeout=30, check=False, env=entered.plant.environment())
    assert (done.returncode, done.stdout) == (0, b"none\n")
    assert b"wicketgate: agent forwarding is not granted here" in done.stderr
    assert entered.entries(seen) == [("agent forwarding", "not granted here")]


def test_x11_is_refused_with_a_reason_and_the_command_runs_without_it(entered: Entered) -> None:
    seen = entered.seen()
    command = entered.plant.ssh_command(BOX, 'echo "${DISPLAY-none}"', options=["-Y"])
    environment = entered.plant.environment() | {"DISPLAY": "127.0.0.1:77"}
    done = subprocess.run(command, capture_output=True, timeout=30, check=False, env=environment)
    assert (done.returncode, done.stdout) == (0, b"none\n")
    assert b"wicketgate: X11 forwarding is not granted here" in done.stderr
    assert entered.entries(seen) == [("X11 forwarding", "not granted here")]


async def test_tunnels_are_refused_with_a_reason(entered: Entered) -> None:
    seen, plant = entered.seen(), entered.plant
    pair = (str(plant.keys[ENGINEER]), str(plant.certificate()))
    async with asyncssh.connect(
        "127.0.0.1", plant.port, username=BOX, client_keys=[pair], known_hosts=None, config=None, agent_path=None
    ) as conn:
        for dig in (conn.create_tun, conn.create_tap):
            with pytest.raises(asyncssh.ChannelOpenError, match="tunnels are not granted here"):
                await dig(asyncssh.SSHTunTapSession)
    assert [what for what, _ in entered.entries(seen, 2)] == ["tun", "tap"]


@pytest.mark.parametrize("login", [BOX, "gate"])
def test_a_subsystem_other_than_file_transfer_is_refused_with_a_reason(entered: Entered, login: str) -> None:
    seen, plant = entered.seen(), entered.plant
    code = plant.code(ENGINEER) if login == "gate" else ""
    done = plant.ssh(login, "netconf", options=["-s"], code=code)
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"wicketgate: " in done.stderr
    assert entered.entries(seen) == [("subsystem netconf", "not granted here")]


def test_language_reaches_the_asset_and_no_other_variable_does(entered: Entered) -> None:
    seen = entered.seen()
    set_env = 'SetEnv=LANG=en_GB.UTF-8 LC_TIME=C LD_PRELOAD=/tmp/x.so BASH_ENV=/tmp/x LC_ALL="$(reboot)"'
    done = entered.plant.ssh(
        BOX, 'echo "$LANG $LC_TIME ${LD_PRELOAD-no} ${BASH_ENV-no} ${LC_ALL-no}"', options=["-o", set_env]
    )
    assert (done.returncode, done.stdout) == (0, b"en_GB.UTF-8 C no no no\n"), done
    assert b"wicketgate: not passed on: 'BASH_ENV', 'LC_ALL', 'LD_PRELOAD'" in done.stderr
    assert [what for what, _ in entered.entries(seen)] == ["environment"]


def test_too_many_refused_channels_end_the_connection(entered: Entered) -> None:
    port, tried = free_port(), 0
    with entered.plant.running_ssh(BOX, options=["-N", "-v", "-D", f"127.0.0.1:{port}"]) as child:
        read_until(child, b"Entering interactive session", stderr=True)
        with suppress(OSError):  # the client is gone, and its port with it
            while tried < 200:
                with socket.create_connection(("127.0.0.1", port), timeout=5) as near:
                    ask_by_socks(near, 9)
                tried += 1
        child.wait(10)
    assert 50 <= tried < 60


def ask_by_socks(near: socket.socket, port: int) -> bytes:
    """Ask a client's SOCKS door for a loopback port; what it says then."""
    near.sendall(b"\x05\x01\x00")
    near.recv(2)
    near.sendall(b"\x05\x01\x00\x01\x7f\x00\x00\x01" + port.to_bytes(2, "big"))
    return near.recv(1)


# Files
@pytest.mark.parametrize("protocol", [[], ["-O"]], ids=["sftp", "legacy"])
def test_scp_carries_a_file_there_and_back_unchanged(gate: Plant, tmp_path: Path, protocol: list[str]) -> None:
    plant, who = gate, gate.newcomer(f"files-{len(protocol)}")
    plant.let_in(BOX, engineer=who, capabilities=frozenset({EXEC, SFTP_READ, SFTP_WRITE}))
    sent, there, back = tmp_path / "sent", tmp_path / "there", tmp_path / "back"
    sent.write_bytes(os.urandom(3_000_001))
    for source, target in ((str(sent), f"{BOX}@127.0.0.1:{there}"), (f"{BOX}@127.0.0.1:{there}", str(back))):
        command = plant.ssh_command(BOX, source, target, engineer=who, options=["-q", *protocol], program="scp")
        done = subprocess.run(command, capture_output=True, timeout=60, check=False, env=plant.environment())
        assert done.returncode == 0, done
    hashes = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (sent, there, back)}
    assert len(hashes) == 1


def test_file_transfer_without_the_capability_is_refused_and_moves_nothing(entered: Entered, tmp_path: Path) -> None:
    seen, secret, taken = entered.seen(), tmp_path / "secret", tmp_path / "taken"
    secret.write_text("secret")
    command = entered.plant.ssh_command(BOX, f"{BOX}@127.0.0.1:{secret}", str(taken), program="scp")
    done = subprocess.run(command, capture_output=True, timeout=30, check=False, env=entered.plant.environment())
    assert done.returncode == 255
    assert b"wicketgate: capability not granted; sftp-read,sftp-write was not granted; ask again" in done.stderr
    assert entered.entries(seen) == [("sftp-read", "capability not granted")]
    assert not taken.exists()


def test_reading_files_is_not_leave_to_write_them(gate: Plant, tmp_path: Path) -> None:
    """Relayed as bytes, the subsystem cannot be held to reading alone: so both are asked for."""
    plant, who = gate, gate.newcomer("reader")
    plant.let_in(BOX, engineer=who, capabilities=frozenset({SFTP_READ}))
    source = tmp_path / "source"
    source.write_text("x")
    command = plant.ssh_command(BOX, str(source), f"{BOX}@127.0.0.1:{tmp_path / 'target'}", engineer=who, program="scp")
    done = subprocess.run(command, capture_output=True, timeout=30, check=False, env=plant.environment())
    assert done.returncode == 255
    assert b"sftp-write was not granted" in done.stderr
    assert not (tmp_path / "target").exists()


# Assets that are not what they should be
@dataclass(slots=True)
class Odd:
    """A plant with an asset whose host key is another one, one where nobody listens and one that never answers."""

    plant: Plant
    log: Path
    pinned: str


@pytest.fixture(scope="module")
def odd(template: Template, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Odd]:
    folder = tmp_path_factory.mktemp("odd")
    key = template.host_key.read_text()
    pinned = " ".join(make_key(folder / "pinned").with_suffix(".pub").read_text().split()[:2])
    with sshd_with(template, folder) as (port, log), deaf_port() as deaf:
        plant = Plant(template, **SETTINGS)
        plant.add_asset("changed", port, pinned)
        plant.add_asset("absent", free_port(), key)
        plant.add_asset("deaf", deaf.getsockname()[1], key)
        with plant:
            plant.let_in("changed.plant", "absent.plant", "deaf.plant")
            yield Odd(plant, log, pinned)


def test_a_changed_host_key_is_refused_with_an_alarm_and_no_login_reaches_the_asset(odd: Odd) -> None:
    plant = odd.plant
    done = plant.ssh("changed.plant", "echo ran")
    assert (done.returncode, done.stdout) == (255, b"")
    assert done.stderr.decode().splitlines()[1:] == [
        "wicketgate: the asset's host key has changed; the site has been alarmed"
    ]
    wait_until(lambda: bool(plant.entries("alarm.host_key_changed")), what="the alarm")
    [alarm] = plant.entries("alarm.host_key_changed")
    assert alarm["pinned"] == odd.pinned
    assert alarm["shown"].split()[:2] == plant.template.host_key.read_text().split()[:2]
    wait_until(lambda: "[preauth]" in odd.log.read_text(), what="the asset's own log of the dial")
    said = odd.log.read_text()
    assert "Connection from" in said
    assert account() not in said  # no login name was sent
    assert "Accepted" not in said


def test_an_asset_where_nobody_listens_is_told_in_one_line(odd: Odd) -> None:
    done = odd.plant.ssh("absent.plant", "echo ran")
    assert (done.returncode, done.stdout) == (255, b"")
    assert done.stderr.decode().splitlines()[1:] == ["wicketgate: absent.plant cannot be reached: 'Connection refused'"]
    assert odd.plant.wait_ended().end_reason == "asset unreachable"


def test_an_asset_that_never_answers_is_given_up_in_time(odd: Odd) -> None:
    done = odd.plant.ssh("deaf.plant", "echo ran")
    assert (done.returncode, done.stdout) == (255, b"")
    assert done.stderr.decode().splitlines()[1:] == ["wicketgate: deaf.plant did not answer in time"]
    session = odd.plant.wait_ended()
    assert session.ended_at is not None
    assert session.ended_at - session.opened_at < timedelta(seconds=OPEN_TIMEOUT_S + 1)


# Without the signer
@contextmanager
def part(plant: Plant, name: str) -> Iterator[subprocess.Popen[str]]:
    """One process alone, as systemd starts them."""
    with plant.log.open("a") as log:
        command = [str(PROGRAM), "--home", str(plant.path), "serve", "--only", name]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert child.stdout is not None
    try:
        said = child.stdout.readline()
        assert said.startswith(f"ready {name}"), f"{said!r}: {plant.log.read_text()}"
        plant.port = int(said.rpartition(":")[2]) if name == "broker" else plant.port
        yield child
    finally:
        child.terminate()
        child.wait(20)
        child.stdout.close()


def test_without_the_signer_new_sessions_are_refused_in_one_line_and_running_ones_go_on(template: Template) -> None:
    plant = Plant(template)
    with ExitStack() as broker:
        broker.callback(plant.__exit__)
        with ExitStack() as signer:
            signer.enter_context(part(plant, "signer"))
            broker.enter_context(part(plant, "broker"))
            plant.let_in(BOX)
            running = broker.enter_context(plant.running_ssh(BOX, "echo in; cat"))
            read_until(running, b"in\n")
        refused = plant.ssh(BOX, "echo ran")
        assert (refused.returncode, refused.stdout) == (255, b"")
        assert refused.stderr.decode().splitlines()[1:] == [
            "wicketgate: the signer does not answer; try again in a minute"
        ]
        asked: Any = plant.ssh("gate", "cert", code=plant.code(ENGINEER), bare=True)
        assert (asked.returncode, asked.stdout) == (75, b"")
        assert asked.stderr == b"wicketgate: the signer does not answer; try again in a minute\n"
        assert running.stdin is not None
        running.stdin.write(b"still here\n")
        read_until(running, b"still here\n")
        with part(plant, "signer"):
            assert plant.ssh(BOX, "echo back").stdout == b"back\n"
