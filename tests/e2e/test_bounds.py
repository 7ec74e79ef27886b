"""Clients and assets that do what stock ssh and sshd never do: each is bounded, told so, and harms nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from asyncssh.constants import MSG_CHANNEL_OPEN
from asyncssh.packet import String, UInt32

from broker.bastion.transport import PACKET_MIN_BYTES, WINDOW_BYTES
from broker.domain.session import EndReason
from recorder.format import Code
from tests.e2e.recorded import marks, sizes
from tests.e2e.site import BOX, CLOCK, COLLEAGUE, ENGINEER, Plant, Template, read_until, wait_until
from tests.e2e.test_backpressure import GROWTH_MAX_BYTES, STANDS_S, Memory

IDLE_S = 3
OPEN_TIMEOUT_S = 3
ECHO_MAX_S = 0.5
NOW_S = 2.0


@pytest.fixture(scope="module")
def site(template: Template) -> Iterator[Plant]:
    with Plant(template, idle_without_channel_s=str(IDLE_S), open_timeout_s=str(OPEN_TIMEOUT_S)) as running:
        running.let_in(BOX)
        running.newcomer("desk")
        running.let_in(BOX, engineer="desk")
        yield running


@asynccontextmanager
async def connected(
    site: Plant, login: str = BOX, engineer: str = ENGINEER, keeps_bytes: int = 0
) -> AsyncIterator[Any]:
    """A hand-made client of an engineer with a certificate. keeps_bytes: what its kernel keeps each way, 0 for the usual."""
    pair = (str(site.keys[engineer]), str(site.certificate(engineer)))
    sock = socket.socket()
    if keeps_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, keeps_bytes)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, keeps_bytes)
        sock.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536
        )  # with short segments the other kernel keeps little too
    sock.connect(("127.0.0.1", site.port))
    sock.setblocking(False)
    conn = await asyncssh.connect(
        sock=sock, username=login, client_keys=[pair], known_hosts=None, config=None, agent_path=None
    )
    try:
        yield conn
    finally:
        conn.abort()
        await conn.wait_closed()


async def until(true: Callable[[], bool], *, within_s: float = 15, what: str = "it") -> None:
    """As `wait_until`, while the client goes on."""
    try:
        async with asyncio.timeout(within_s):
            while not true():  # noqa: ASYNC110 - other processes give no event to wait for
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise TimeoutError(f"{what} did not come true within {within_s} s") from None


def refusals(site: Plant) -> list[tuple[str, str]]:
    return [(one["capability"], one["reason"]) for one in site.entries("channel.refused")]


class Told(asyncssh.SSHClientSession[bytes]):
    """Keeps what it is told on stderr."""

    def __init__(self) -> None:
        self.stderr = b""

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self.stderr += data if datatype else b""


async def bare_channel(conn: Any) -> tuple[Any, Told]:
    """A session channel that has asked for nothing yet."""
    chan: Any = asyncssh.SSHClientChannel(conn, asyncio.get_running_loop(), "strict", None, "strict", 2**21, 2**15)
    await chan._open(b"session")
    told = chan._session = Told()
    await chan._start_reading()
    return chan, told


@asynccontextmanager
async def echo(site: Plant) -> AsyncIterator[list[float]]:
    """A session of a colleague whose keystrokes come back; gives how long each took, in seconds."""
    took: list[float] = []
    async with connected(site, engineer=COLLEAGUE) as conn:
        cat = await conn.create_process("cat", encoding=None)

        async def type_on() -> None:
            while True:
                begun_us = CLOCK.monotonic_us()
                cat.stdin.write(b"x")
                await cat.stdout.readexactly(1)
                took.append((CLOCK.monotonic_us() - begun_us) / 1e6)
                await asyncio.sleep(0.02)

        typing = asyncio.create_task(type_on())
        try:
            await until(lambda: len(took) > 3, what="the echo")
            took.clear()
            yield took
            seen = len(took)
            await until(lambda: len(took) > seen, what="the echo at the end")
        finally:
            typing.cancel()
            await asyncio.gather(typing, return_exceptions=True)


# Packets
@pytest.mark.parametrize("login", [BOX, "desk"])
async def test_a_client_that_takes_next_to_nothing_in_a_packet_gets_no_channel(site: Plant, login: str) -> None:
    who, reason = (ENGINEER, "desk")[login == "desk"], "packets of 1 bytes are too small; 1024 at least"
    before = len(refusals(site))
    async with connected(site, login, who) as conn:
        for _ in range(6):  # more than the channels that it may have: none of them counts as one
            with pytest.raises(asyncssh.ChannelOpenError, match=reason) as refused:
                await conn.create_session(Told, "echo in", encoding=None, max_pktsize=1)
            assert refused.value.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED
        with pytest.raises(asyncssh.ChannelOpenError):
            await conn.create_session(Told, "echo in", encoding=None, max_pktsize=PACKET_MIN_BYTES - 1)
        await conn.create_session(Told, "whoami", encoding=None, max_pktsize=PACKET_MIN_BYTES)
        await until(lambda: len(refusals(site)) == before + 7, what="the entries")
    assert ("session", reason) in refusals(site)[before:]


@asynccontextmanager
async def odd_asset(
    site: Plant, name: str, session: Callable[[], Any], process: Any = None, **options: Any
) -> AsyncIterator[str]:
    """An asset that is no sshd; session: what it answers to a channel. Gives its login, granted."""

    class Asset(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return False

        def session_requested(self) -> Any:
            return session()

    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.listen(
        "127.0.0.1", 0, server_factory=Asset, server_host_keys=[key], process_factory=process, **options
    )
    try:
        login = site.add_asset(name, server.get_port(), key.export_public_key("openssh").decode())
        await asyncio.to_thread(site.let_in, BOX, login)
        yield login
    finally:
        server.close()


async def test_an_asset_that_takes_next_to_nothing_in_a_packet_is_asked_nothing(site: Plant) -> None:
    asked: list[str | None] = []

    def process(client: asyncssh.SSHServerProcess[str]) -> None:
        asked.append(client.command)
        client.exit(0)

    async with odd_asset(site, "stingy", lambda: True, process, max_pktsize=1) as login:
        done = await asyncio.to_thread(site.ssh, login, "echo in")
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"wicketgate: the asset takes packets of 1 bytes, 1024 at least" in done.stderr
    assert asked == []
    assert (await asyncio.to_thread(site.wait_ended)).end_reason is EndReason.ASSET_UNREACHABLE


async def test_an_asset_that_never_opens_the_channel_is_given_up_in_time(site: Plant) -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    async with odd_asset(site, "silent", never) as login:
        done = await asyncio.to_thread(site.ssh, login, "echo in")
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"wicketgate: silent.plant did not open the channel in time" in done.stderr
    session = await asyncio.to_thread(site.wait_ended)
    assert session.ended_at is not None
    assert session.ended_at - session.opened_at < timedelta(seconds=OPEN_TIMEOUT_S + 2)


async def test_a_client_with_a_window_without_end_that_reads_nothing_holds_the_asset_back(site: Plant) -> None:
    memory = Memory(site)
    async with connected(site) as conn:
        await conn.create_session(Told, "exec cat /dev/zero", encoding=None, window=2**32 - 1)
        conn._transport.pause_reading()
        await asyncio.sleep(STANDS_S * 2)
        assert memory.growth() < GROWTH_MAX_BYTES


# Requests
async def test_a_channel_that_asks_and_asks_and_begins_nothing_is_ended(site: Plant) -> None:
    before = len(refusals(site))
    async with connected(site) as conn:
        chan, told = await bare_channel(conn)
        for _ in range(200):
            chan._send_request(b"window-change", UInt32(80), UInt32(24), UInt32(0), UInt32(0))
        await asyncio.wait_for(chan.wait_closed(), 5)
    assert chan.get_exit_status() == 255
    assert told.stderr == b"wicketgate: too many requests before a shell or a command\r\n"
    await until(lambda: len(refusals(site)) > before, what="the entry")
    assert refusals(site)[before:] == [("session", "too many requests before a shell or a command")]


async def test_a_channel_that_begins_nothing_holds_no_connection_open(site: Plant) -> None:
    async with connected(site) as conn:
        for _ in range(2):
            await bare_channel(conn)
        await asyncio.wait_for(conn.wait_closed(), IDLE_S + 3)


async def test_a_connection_stays_while_one_channel_goes_on_and_goes_a_while_after_the_last(site: Plant) -> None:
    async with connected(site) as conn:
        begun = await conn.create_process("cat", encoding=None)
        await bare_channel(conn)
        await asyncio.sleep(IDLE_S + 1)
        begun.stdin.write(b"still here")
        assert await begun.stdout.readexactly(10) == b"still here"
        begun.stdin.write_eof()
        await asyncio.wait_for(conn.wait_closed(), IDLE_S + 3)


async def test_of_a_flood_of_sizes_the_newest_arrives_and_of_signals_a_few(site: Plant) -> None:
    async with connected(site) as conn:
        run = await conn.create_process("trap '' USR2; echo up; exec cat", encoding=None, term_type="xterm")
        assert (await run.stdout.readline()).strip() == b"up"
        chan, session = run.channel, site.last_session()
        for number in range(3000):
            chan.change_terminal_size(100 + number % 300, 30)
            chan.send_signal("USR2")
            if number % 100 == 0:
                await asyncio.sleep(0)
        chan.change_terminal_size(77, 33)
        screen, typed = (site.streams(session)[name] for name in ("01.screen", "01.typed"))
        await until(lambda: sizes(screen)[-1] == (77, 33), what="the newest size")
        assert len(sizes(screen)) + len(marks(typed)) < 200
        await until(lambda: ("signals", "more than 20 requests a second") in refusals(site), what="the entry")
        chan.write(b"goes on\n")
        assert (await run.stdout.readline()).strip() == b"goes on"
    assert refusals(site).count(("signals", "more than 20 requests a second")) == 1


async def test_a_client_that_asks_for_answers_and_reads_none_is_not_heard_any_more(site: Plant) -> None:
    memory = Memory(site)
    async with connected(site, keeps_bytes=8192) as conn:
        run = await conn.create_process("echo up; exec sleep 60", encoding=None)
        assert await run.stdout.readline() == b"up\n"
        conn._transport.pause_reading()
        waiting = conn._transport.get_write_buffer_size
        for _ in range(300):
            for _ in range(500):  # each is answered with a reason
                conn.send_packet(
                    MSG_CHANNEL_OPEN, String("nothing@example.com"), UInt32(0), UInt32(2**21), UInt32(2**15)
                )
            with contextlib.suppress(TimeoutError):
                await until(lambda: waiting() < 1_000_000, within_s=2 * STANDS_S)
            if waiting() >= 1_000_000:
                break
        assert waiting() >= 1_000_000, "held back"
        assert memory.growth() < GROWTH_MAX_BYTES


# Commands and ends
async def test_an_empty_command_is_no_shell(site: Plant) -> None:
    before = len(site.entries("session.opened"))
    async with connected(site) as conn:
        chan, told = await bare_channel(conn)
        assert await chan._make_request(b"exec", String(b""))
        await asyncio.wait_for(chan.wait_closed(), 5)
    assert chan.get_exit_status() == 255
    assert told.stderr == b"wicketgate: an empty command is not run; without a command ssh asks for a shell\r\n"
    assert len(site.entries("session.opened")) == before
    await until(lambda: ("exec", "an empty command") in refusals(site), what="the entry")


def test_a_command_that_is_not_utf_8_reaches_the_asset_as_it_is(site: Plant) -> None:
    text = b"printf '%s' '\xe9' | od -An -tx1"
    command = [*map(os.fsencode, site.ssh_command(BOX)), text]
    done = subprocess.run(command, capture_output=True, timeout=30, check=False, env=site.environment())
    assert (done.returncode, done.stdout.split()) == (0, [b"e9"]), done
    assert "\\udce9" in site.entries("channel.opened")[-1]["command"]
    opened = marks(site.streams(site.wait_ended())["01.screen"])[0]["opened"]
    assert opened["command"].encode("utf-8", "surrogateescape") == text
    asked = [*map(os.fsencode, site.ssh_command("desk", engineer="desk")), b"fil\xe9s"]
    refused = subprocess.run(asked, capture_output=True, timeout=30, check=False, env=site.environment())
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert b"no command 'fil" in refused.stderr


async def test_the_end_by_a_signal_keeps_the_assets_words_and_the_core_flag(site: Plant) -> None:
    def process(client: asyncssh.SSHServerProcess[str]) -> None:
        client.exit_with_signal("SEGV", True, "stack smashed: é")

    async with odd_asset(site, "crashing", lambda: True, process) as login, connected(site, login) as conn:
        run = await conn.create_process("anything")
        await asyncio.wait_for(run.wait_closed(), 10)
    assert run.exit_signal is not None
    assert run.exit_signal[:3] == ("SEGV", True, "stack smashed: é")
    streams = await asyncio.to_thread(lambda: site.streams(site.wait_ended()))
    assert marks(streams["01.screen"], Code.EXIT) == [
        {"exit signal": "SEGV", "core dumped": True, "message": "stack smashed: é"}
    ]


async def test_a_client_that_vanishes_in_full_course_costs_no_line_of_the_log(site: Plant) -> None:
    for _ in range(5):
        async with connected(site) as conn:
            run = await conn.create_process("exec yes", encoding=None, max_pktsize=PACKET_MIN_BYTES)
            await run.stdout.readexactly(300_000)
            vanish = struct.pack("ii", 1, 0)  # the kernel says reset, as a machine does that has lost everything
            conn.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, vanish)
        await asyncio.to_thread(site.wait_ended)
    assert "socket.send() raised" not in site.log.read_text()


# The console
def test_more_lines_than_may_wait_are_all_answered_and_the_end_ends(site: Plant) -> None:
    done = site.ssh("desk", engineer="desk", stdin=b"whoami\n" * 400, timeout_s=30)
    assert (done.returncode, done.stdout.count(b"desk (desk")) == (0, 400)


@pytest.mark.parametrize("length", [4096, 4097, 40_960])
def test_of_a_line_that_is_too_long_nothing_is_run_and_the_next_one_is(site: Plant, length: int) -> None:
    lines = [b"whoami" + b" " * (length - 6), b"x" * length + b"whoami", b"whoami"]
    done = site.ssh("desk", engineer="desk", stdin=b"\n".join(lines) + b"\n")
    too_long = b"wicketgate: the line is longer than 4096 bytes; nothing of it was run"
    assert done.stdout.count(b"desk (desk") == (2 if length == 4096 else 1)
    assert done.stderr.count(too_long) == (1 if length == 4096 else 2)
    assert done.returncode == 0


@pytest.mark.parametrize("window", [WINDOW_BYTES, 2**32 - 1])
async def test_a_console_client_that_never_reads_is_held_back(site: Plant, window: int) -> None:
    memory = Memory(site)
    async with connected(site, "desk", "desk") as conn:
        chan, _ = await conn.create_session(Told, encoding=None, window=window, term_type="xterm")
        chan.pause_reading() if window == WINDOW_BYTES else conn._transport.pause_reading()
        sent = 0
        for _ in range(400):
            chan.write(b"help\n" * 4000 + b"\x03" * 4000)
            sent += 24_000
            await asyncio.sleep(0.005)
        assert chan.get_write_buffer_size() + conn._transport.get_write_buffer_size() > sent // 2, "held back"
        assert memory.growth() < GROWTH_MAX_BYTES


# A disk that hangs
HANGING = """
import os, time
for name in ("fsync", "fdatasync"):
    def hang(fd, sync=getattr(os, name)):
        while os.path.exists(os.environ["HANGS_WHILE"]):
            time.sleep(0.05)
        sync(fd)
    setattr(os, name, hang)
"""
"""A sitecustomize: every fsync of the program waits for as long as a file is there."""


@pytest.fixture
def hanging(template: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Plant, Path]]:
    """A plant, and the file that makes its disk hang."""
    (tmp_path / "sitecustomize.py").write_text(HANGING)
    hangs = tmp_path / "hangs"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("HANGS_WHILE", str(hangs))
    with Plant(template) as running:
        running.let_in(BOX)
        running.let_in(BOX, engineer=COLLEAGUE)
        try:
            yield running, hangs
        finally:
            hangs.unlink(missing_ok=True)


async def test_on_a_disk_that_hangs_running_sessions_go_on_and_new_channels_wait(hanging: tuple[Plant, Path]) -> None:
    site, hangs = hanging
    async with connected(site) as conn, echo(site) as took:
        hangs.touch()
        second = asyncio.create_task(conn.run("echo second", encoding=None))
        await asyncio.sleep(1.5)
        assert not second.done(), "nothing runs before its recording is open"
        assert max(took) < ECHO_MAX_S
        hangs.unlink()
        assert (await second).stdout == b"second\n"
        third = await conn.create_process("echo up; cat", encoding=None)
        assert await third.stdout.readline() == b"up\n"
        hangs.touch()
        third.stdin.write_eof()
        await asyncio.wait_for(third.wait_closed(), NOW_S)  # what is not durable yet is no reason to stay
        await asyncio.sleep(1.0)
        assert max(took) < ECHO_MAX_S
        hangs.unlink()


def test_a_session_is_killed_at_once_on_a_disk_that_hangs_and_its_heads_follow(hanging: tuple[Plant, Path]) -> None:
    site, hangs = hanging
    with site.running_ssh(BOX, "echo up; exec cat") as child:
        read_until(child, b"up\n")
        session = site.last_session()
        hangs.touch()
        site.cli("kill", session.id, "--reason", "stop that")
        begun_us = CLOCK.monotonic_us()
        assert child.wait(10) == 255
        assert (CLOCK.monotonic_us() - begun_us) / 1e6 < NOW_S
        assert [one for one in site.entries("channel.closed") if one["session_id"] == session.id] == []
        hangs.unlink()
    site.wait_ended(session.id)
    [closed] = [one for one in site.entries("channel.closed") if one["session_id"] == session.id]
    assert closed["state"] == "closed"
    assert {one["stream"] for one in closed["heads"]} == {"01.screen", "01.typed"}
    assert site.cli("verify", session.id).returncode == 0


def test_a_second_channel_that_cannot_be_recorded_is_refused_and_the_first_goes_on(site: Plant) -> None:
    control = site.folder / "unrecorded"
    with site.running_ssh(BOX, "echo up; exec cat", options=["-M", "-S", str(control)]) as master:
        read_until(master, b"up\n")
        session = site.last_session()
        site.streams(session)["01.screen"].with_name("02.screen.wgr").touch()
        refused = site.ssh(BOX, "echo in", options=["-S", str(control)])
        assert (refused.returncode, refused.stdout) == (255, b"")
        assert b"wicketgate: cannot record; tell the site" in refused.stderr
        assert site.ssh(BOX, "echo third", options=["-S", str(control)]).stdout == b"third\n"
        assert master.stdin is not None
        master.stdin.write(b"goes on\n")
        read_until(master, b"goes on\n")
        wait_until(lambda: site.entries("recording.failed") != [], what="the alarm")
        assert site.entries("recording.failed")[-1]["session_id"] == session.id
    ended = site.wait_ended(session.id)
    assert ended.end_reason in (EndReason.DONE, EndReason.CONNECTION_LOST)
