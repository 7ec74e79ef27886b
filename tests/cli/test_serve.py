"""`serve`: all of it or nothing; what is wrong is said with its remedy, and what was started ends with it."""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.clock import SystemClock
from tests.cli.damage import (
    Breaks,
    add,
    another_key,
    cut,
    damaged_database,
    drop,
    mode,
    newer_schema,
    no_tables,
)
from tests.cli.deployment import POWERLESS, PROGRAM, Deployment, Template, end, environment, run_program

CLOCK = SystemClock()


def wait_until(true: Callable[[], bool], *, within_s: float = 20.0) -> None:
    """Return as soon as something is so. Raises TimeoutError."""
    until = CLOCK.monotonic_us() + int(within_s * 1e6)
    with selectors.DefaultSelector() as idle:
        while not true():
            if CLOCK.monotonic_us() > until:
                raise TimeoutError
            idle.select(0.02)


@contextmanager
def serving(deployment: Deployment, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`wicketgate serve` after its ready line; killed at the end if a test has not ended it."""
    process = subprocess.Popen(
        [PROGRAM, "--home", deployment.path, "serve", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready "), (line, process.stderr and process.stderr.read())
        process.ready = line  # type: ignore[attr-defined]
        yield process
    finally:
        end(process)
        wait_until(lambda: not deployment.processes())


HOST_KEY = "keys/host/ssh_host_ed25519_key"
# What is broken, and what the one line must hold: which it is, and how to mend it.
BROKEN: dict[str, tuple[Breaks, tuple[str, ...]]] = {
    "an unknown key": (add("poll_sec = 1"), ("settings.toml: unknown key 'poll_sec'; remove it or correct its name",)),
    "no TOML": (add("poll_s = = 1"), ("settings.toml: ", "line ")),
    "a bad value": (add("poll_s = -1"), ("settings.toml: poll_s: ", "greater than 0")),
    "a bad address": (add('bastion_address = "here"'), ("bastion_address: ", "'here'")),
    "no settings": (drop("settings.toml"), ("settings.toml; make a home with: wicketgate init",)),
    "no home": (drop(""), ("no home ", "make one with: wicketgate --home ", " init")),
    "a missing CA key": (drop("keys/ca/gate"), ("the gate CA key ", "is missing; restore it from your backup")),
    "a damaged CA key": (cut("keys/ca/asset"), ("the asset CA key ", "is damaged; restore it from your backup")),
    "an open CA key": (mode("keys/ca/host", 0o644), ("the host CA key ", "is open to others", "chmod 600 ")),
    "an unreadable CA key": (mode("keys/ca/host", 0), ("the host CA key ", "Permission denied", "mend its owner")),
    "another public key": (another_key, ("gate.pub is not the public half of the gate CA key",)),
    "no public key": (drop("keys/ca/gate.pub"), ("the public half of the gate CA key", "gate.pub", "restore it")),
    "a missing host key": (drop(HOST_KEY), ("the host key ", "is missing; restore it from your backup")),
    "a damaged host key": (cut(HOST_KEY), ("the host key ", "is damaged")),
    "a missing seal key": (drop("keys/seal/seal.key"), ("seal key ", "No such file", "restore it")),
    "a damaged seal key": (cut("keys/seal/seal.key"), ("seal key ", "is damaged: 0 bytes instead of 32; restore it")),
    "an open seal key": (mode("keys/seal/seal.key", 0o644), ("seal key ", "is open to others", "chmod 640 ")),
    "no run folder": (drop("run"), ("/run is not writable (No such file or directory)", "mend its owner and mode")),
    "a closed run folder": (mode("run", 0o500), ("/run is not writable (Permission denied)", "mend its owner")),
    "closed recordings": (mode("recordings", 0o500), ("/recordings is not writable (Permission denied)", "mend")),
    "a newer schema": (newer_schema, ("newer than this program ('9999'", "install the newer wicketgate")),
    "no tables": (no_tables, ("the database has no tables", "wicketgate migrate")),
    "a missing database": (drop("wicketgate.db"), ("wicketgate.db is missing; restore it from your backup",)),
    "a damaged database": (damaged_database, ("file is not a database", "restore it from your backup")),
    "a closed database": (mode("wicketgate.db", 0o400), ("readonly database", "mend the owner, mode")),
    "no certificate": (
        add('web_tls_certificate = "/no/cert"\nweb_tls_key = "/no/key"'),
        ("web_tls_certificate /no/cert", "No such file or directory"),
    ),
}


def refuses(deployment: Deployment, wanted: tuple[str, ...], *words: str) -> None:
    """It says so in one line, exits 1, and leaves no process, no socket and no row behind."""
    left = deployment.sockets() if deployment.home.run.is_dir() else []
    done = deployment.program("serve", *words, before=POWERLESS)
    assert (done.status, done.out) == (1, ""), done
    assert (done.err.count("\n"), done.err.startswith("wicketgate: "), "incident" in done.err) == (1, True, False), done
    assert [one for one in wanted if one not in done.err] == [], done.err
    assert deployment.processes() == []
    assert (deployment.sockets() if deployment.home.run.is_dir() else []) == left


@pytest.mark.parametrize("name", BROKEN)
def test_serve_says_what_is_wrong_and_how_to_mend_it_and_starts_nothing(name: str, template: Template) -> None:
    deployment = Deployment(template)
    breaks, wanted = BROKEN[name]
    breaks(deployment)
    try:
        refuses(deployment, wanted)
    finally:
        deployment.path.mkdir(exist_ok=True)
        deployment.remove()


@pytest.mark.parametrize("key", ["ssh_listen", "web_listen"])
def test_a_port_in_use_is_named_before_anything_starts(deployment: Deployment, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        deployment.set(**{key: f'"{where}"'})
        refuses(deployment, (f"{key} {where}: Address already in use", "choose another in settings.toml"))


def test_a_home_too_deep_for_sockets_is_refused(template: Template, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    shutil.copytree(template.path, deep)
    done = run_program("--home", str(deep), "serve")
    assert (done.status, "too long a path for the sockets in it; choose a shorter one" in done.err) == (1, True), done


@pytest.fixture(scope="module")
def running(template: Template) -> Iterator[tuple[Deployment, subprocess.Popen[str]]]:
    deployment = Deployment(template)
    with serving(deployment) as process:
        yield deployment, process
    deployment.remove()


Running = tuple[Deployment, "subprocess.Popen[str]"]


def test_ready_says_where_ssh_and_the_pages_are(running: Running) -> None:
    deployment, process = running
    found = dict(word.split("=", 1) for word in process.ready.split()[1:])  # type: ignore[attr-defined]
    host, _, port = found["ssh"].rpartition(":")
    with socket.create_connection((host, int(port)), 10) as sock:
        assert sock.recv(8) == b"SSH-2.0-"
    host, _, port = found["web"].removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), 10) as sock:
        sock.sendall(b"GET /login HTTP/1.1\r\nHost: 127.0.0.1:" + port.encode() + b"\r\n\r\n")
        assert sock.recv(15) == b"HTTP/1.1 200 OK"
    invited = deployment.run("invite", "owner.one", "--json").json
    assert invited["link"] == f"{found['web']}/enrol/{invited['code']}"
    line = deployment.run("ca", "show", "host", "--known-hosts").out
    assert line.startswith(f"@cert-authority [127.0.0.1]:{found['ssh'].rpartition(':')[2]} ")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ((), "another serve runs on "),
        (("--only", "signer"), "a signer process of this home runs already; stop it first"),
        (("--only", "broker"), "a broker process of this home runs already; stop it first"),
        (("--only", "approval"), "an approval process of this home runs already; stop it first"),
    ],
)
def test_a_second_serve_on_one_home_is_refused_and_the_first_goes_on(
    running: Running, words: tuple[str, ...], wanted: str
) -> None:
    deployment, process = running
    before = sorted(deployment.processes())
    done = deployment.program("serve", *words)
    assert (done.status, done.out, done.err.count("\n"), wanted in done.err) == (1, "", 1, True), done
    assert sorted(deployment.processes()) == before
    assert process.poll() is None
    assert deployment.run("sessions", "--live", "--json").json == []


def test_kill_and_the_live_list_need_no_database(running: Running) -> None:
    deployment, _ = running
    database, away = deployment.path / "wicketgate.db", deployment.path / "away.db"
    database.rename(away)
    try:
        assert deployment.run("sessions", "--live", "--json").json == []
        done = deployment.run("kill", "ses-none", "--reason", "smoke")
        assert (done.status, done.out, done.err) == (3, "", "wicketgate: no live session 'ses-none'\n")
        assert deployment.run("kill", "ses-none", "--reason", " ").status == 1
        assert not database.exists()
    finally:
        away.rename(database)


def test_doctor_of_a_running_deployment_is_content(running: Running) -> None:
    rows = {row["id"]: row for row in running[0].run("doctor", "--json").json}
    assert {row["id"] for row in rows.values() if row["state"] == "wrong"} == set()
    assert rows["running"]["text"] == "yes, 0 live sessions"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_leaves_no_process_and_no_socket(deployment: Deployment, number: signal.Signals) -> None:
    with serving(deployment) as process:
        assert len(deployment.processes()) == 4
        process.send_signal(number)
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
        assert deployment.processes() == []
        assert deployment.sockets() == []


def test_a_killed_parent_takes_its_children_with_it(deployment: Deployment) -> None:
    with serving(deployment) as process:
        process.kill()
        process.wait(10)
        wait_until(lambda: deployment.processes() == [])
    with serving(deployment) as again:  # whatever was left behind is in nobody's way
        again.terminate()
        assert again.wait(30) == 0


def test_a_child_that_dies_is_named_and_the_others_end_with_it(deployment: Deployment) -> None:
    with serving(deployment) as process:
        words = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in deployment.processes()}
        os.kill(next(pid for pid, line in words.items() if b"broker" in line), signal.SIGKILL)
        assert process.wait(30) == 1
        assert process.stderr is not None
        assert "wicketgate: the broker process ended by signal 9; everything was stopped\n" in process.stderr.read()
        assert deployment.processes() == []
        assert deployment.sockets() == []


def test_a_child_that_cannot_start_is_named_before_ready(deployment: Deployment) -> None:
    # Whatever the checks see is refused earlier; so the schema moves while the first child is up and the second starts.
    process = subprocess.Popen(
        [PROGRAM, "--home", deployment.path, "serve"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: (deployment.home.run / "signer.sock").exists())
        newer_schema(deployment)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (1, "")
        assert "newer than this program" in err
        assert "process ended with status 1 before it was ready; everything was stopped\n" in err
        assert (deployment.processes(), deployment.sockets()) == ([], [])
    finally:
        end(process)


def test_the_recorder_checks_closed_recordings_and_ends_as_verify_does(deployment: Deployment) -> None:
    done = deployment.program("serve", "--only", "recorder")
    assert (done.status, done.out, done.err) == (0, "2 of 2 streams intact\n", "")
    stream = next(deployment.home.recordings.rglob(f"{deployment.template.recording}/01.screen.wgr"))
    stream.write_bytes(stream.read_bytes().replace(b"3.31", b"4.31"))
    done = deployment.run("serve", "--only", "recorder")
    assert (done.status, done.out, done.err.count("\n")) == (4, "1 of 2 streams intact\n", 1)
