"""What an attacker with a key, a client of their own or a bad moment tries at the SSH door."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncssh

from benchmarks.peers import account, make_key
from broker.store import people
from tests.e2e.site import BOX, CLOCK, ENGINEER, PROGRAM, STRANGER, Plant, Template, read_until, sshd_with, wait_until


async def connect(plant: Plant, login: str, engineer: str = ENGINEER) -> asyncssh.SSHClientConnection:
    """A client that is not OpenSSH, in by the certificate collected."""
    pair = (str(plant.keys[engineer]), str(plant.certificate(engineer)))
    options: dict[str, Any] = {"known_hosts": None, "client_keys": [pair], "config": None, "agent_path": None}
    return await asyncssh.connect("127.0.0.1", plant.port, username=login, **options)


def open_rows(plant: Plant) -> int:
    """How many sessions the database believes to be live."""
    return sum(row["state"] == "live" for row in plant.json("sessions"))


def test_a_client_that_goes_while_it_is_decided_leaves_nothing_open(plant: Plant) -> None:
    plant.let_in()

    async def come_and_go(after_s: float) -> None:
        conn = await connect(plant, BOX)

        async def ask() -> None:
            await conn.create_process("cat")

        asking = asyncio.create_task(ask())
        await asyncio.sleep(after_s)  # somewhere between the request and the answer
        conn.abort()
        await asyncio.gather(asking, return_exceptions=True)

    async def all_of_them() -> None:
        for number in range(24):
            await come_and_go(0.001 * (number % 12))

    asyncio.run(all_of_them())
    wait_until(lambda: open_rows(plant) == 0, within_s=20, what="every row of theirs to be closed")
    assert plant.live() == []
    assert plant.ssh(BOX, "echo in").stdout == b"in\n", "no place of the grant is lost"
    verdicts = plant.cli("verify", "--all", status=None)
    assert "missing" not in verdicts.stdout, verdicts.stdout


def test_law_7_a_stranger_cannot_tell_which_assets_exist(plant: Plant) -> None:
    """By name, by short name, by any command: the same answer for what is not theirs and for what is not there."""
    plant.add_asset("hidden", 1, None)
    with plant.db.begin() as tx:  # of another firm, at a site that has no window for it
        people.require(tx, STRANGER)
    plant.let_in(engineer=STRANGER)

    def answers(login: str) -> tuple[int, bytes, bytes]:
        done = plant.ssh(login, "reboot", engineer=STRANGER, options=["-o", "CertificateFile=none"], code=code)
        return done.returncode, done.stdout, done.stderr.replace(login.encode(), b"LOGIN")

    code = plant.code(STRANGER)
    there = answers("hidden")
    code = plant.code(STRANGER)
    assert answers("hodden") == there


def test_a_host_key_of_another_kind_than_the_pinned_one_raises_the_alarm(
    plant: Plant, template: Template, tmp_path: Path
) -> None:
    other = make_key(tmp_path / "unused")
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", tmp_path / "ecdsa"], check=True)
    only = [f"HostKey={tmp_path / 'ecdsa'}", "HostKeyAlgorithms=ecdsa-sha2-nistp256"]
    with sshd_with(template, tmp_path, *only) as (port, log):
        login = plant.add_asset("reinstalled", port, other.with_suffix(".pub").read_text())
        plant.let_in(login)
        done = plant.ssh(login, "true")
        assert (done.returncode, done.stdout) == (255, b"")
        assert b"host key has changed" in done.stderr
        assert "Accepted" not in log.read_text()
    wait_until(lambda: bool(plant.entries("alarm.host_key_changed")), what="the alarm")
    alarm = plant.entries("alarm.host_key_changed")[-1]
    assert alarm["shown"].startswith("ecdsa-sha2-nistp256 ")


def test_a_console_ends_with_its_person(plant: Plant) -> None:
    with plant.running_ssh("gate", code=plant.code(ENGINEER), options=["-tt", "-o", "CertificateFile=none"]) as child:
        read_until(child, b"wicketgate> ")
        plant.cli("person", "disable", ENGINEER)
        assert child.wait(10) == 255


def test_who_is_refused_again_and_again_loses_the_connection(plant: Plant) -> None:
    plant.let_in()

    async def knock() -> int:
        conn = await connect(plant, BOX)
        for number in range(100):
            try:
                process = await conn.create_process(subsystem="sftp")
                await process.wait()
            except (asyncssh.Error, OSError):
                return number
        return 100

    assert asyncio.run(knock()) <= 52


def test_nobody_enters_before_a_kill_that_the_database_had_no_ear_for(plant: Plant) -> None:
    plant.let_in()
    with plant.running_ssh(BOX, "cat") as child:
        read_until(child, b"wicketgate: ", stderr=True)
        session = plant.live()[0]["id"]
        held = sqlite3.connect(plant.path / "wicketgate.db", isolation_level=None)
        held.execute("BEGIN IMMEDIATE")
        plant.cli("kill", session, "--reason", "unfamiliar commands")
        assert child.wait(10) == 255
        wait_until(lambda: "waits to be written" in plant.log.read_text(), within_s=30, what="the first try to fail")
        held.execute("ROLLBACK")
        held.close()
    done = plant.ssh(BOX, "echo in")
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"grant suspended" in done.stderr


def test_megabytes_pasted_into_the_console_hold_up_nobody(plant: Plant) -> None:
    """Nor do as many one-byte packets to a program that does not read."""
    go, done = plant.folder / "go", threading.Event()
    plant.let_in()

    async def paste() -> None:
        console, asset = await connect(plant, ENGINEER), await connect(plant, BOX)
        async with console, asset:
            prompt = await console.create_process(encoding=None)
            deaf = await asset.create_process(f"while [ ! -e {go} ]; do sleep .1; done; cat >/dev/null", encoding=None)
            prompt.stdin.write(b"whoami\n" * 40 + b"a" * 2_000_000)
            deaf.stdin.write(bytes(3_200_000))
            for _ in range(100_000):
                deaf.stdin.write(b"x")
            go.touch()
            await asyncio.to_thread(done.wait, 60)

    with plant.running_ssh(BOX, "cat") as colleague, ThreadPoolExecutor(1) as pasting:
        assert colleague.stdin is not None
        pasted, longest = pasting.submit(asyncio.run, paste()), 0
        for _ in range(400):
            began = CLOCK.monotonic_us()
            colleague.stdin.write(b"x")
            read_until(colleague, b"x", within_s=60)
            longest = max(longest, CLOCK.monotonic_us() - began)
            done.wait(0.02)
        assert go.exists()
        done.set()
        pasted.result()
    assert longest < 4_000_000, "14 and 68 s before what waits was joined and keys were read in turns"


@contextmanager
def part(command: list[str], log: Path, *fds: int) -> Iterator[None]:
    """One process of the program, ready, ended by pid."""
    with log.open("a") as file, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, pass_fds=fds) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline().startswith(b"ready"), log.read_text()
            yield
        finally:
            child.terminate()


def test_a_certificate_holds_behind_a_socket_of_both_families(template: Template) -> None:
    """As systemd hands it over: an IPv4 client is ::ffff:127.0.0.1 there."""
    plant = Plant(template)
    run = [str(PROGRAM), "--home", str(plant.path), "serve", "--only"]
    with ExitStack() as stack:
        stack.callback(plant.__exit__)
        sock = stack.enter_context(socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True))
        handed = ["bash", "-c", f'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&{sock.fileno()}', "bash", *run, "broker"]
        stack.enter_context(part([*run, "signer"], plant.log))
        stack.enter_context(part(handed, plant.log, sock.fileno()))
        plant.port = sock.getsockname()[1]
        plant.grant(length=timedelta(hours=1))
        plant.collect()
        assert plant.ssh(BOX, "whoami", options=["-o", "BatchMode=yes"]).stdout.decode().strip() == account()
