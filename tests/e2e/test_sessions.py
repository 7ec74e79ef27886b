"""A session through the bastion is the session that direct ssh gives, with a decision and a recording for each channel."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import asyncssh
import pytest

from broker.domain.capability import EXEC, SFTP_READ, SFTP_WRITE, SHELL
from broker.domain.session import EndReason
from broker.store import sessions
from recorder.format import Code
from tests.e2e.recorded import marks, said, sizes
from tests.e2e.site import BOX, COLLEAGUE, ENGINEER, Plant, Template, read_until, wait_until
from tests.e2e.terminal import Terminal

MB = 1_000_000
EVERYTHING = frozenset({SHELL, EXEC, SFTP_READ, SFTP_WRITE})


@pytest.fixture(scope="module")
def open_site(template: Template) -> Iterator[Plant]:
    """A plant whose engineer may do everything on the box; tests leave it as they find it."""
    with Plant(template) as running:
        running.let_in(BOX, capabilities=EVERYTHING)
        yield running


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def after_greeting(stderr: bytes) -> bytes:
    """What stderr holds behind the one line that the bastion says at admission."""
    first, _, rest = stderr.partition(b"\n")
    assert first.startswith(b"wicketgate: box.plant as "), stderr
    assert b"this session is recorded" in first
    return rest


# A terminal
def test_the_terminal_on_the_asset_has_the_clients_size_and_follows_it_and_both_are_recorded(open_site: Plant) -> None:
    with Terminal(open_site, BOX, columns=101, rows=31) as terminal:
        terminal.expect(b"# ")  # ssh has made the terminal raw by now: what is typed before is echoed twice
        terminal.type(b"stty size\n")
        terminal.expect(b"31 101")
        terminal.type(b"trap 'stty size' WINCH; echo tra''pped\n")
        terminal.expect(b"trapped")
        terminal.resize(132, 43)
        terminal.type(b"\n")
        terminal.expect(b"43 132")
        terminal.type(b"exit 5\n")
        assert terminal.end() == 5
    screen = open_site.streams(open_site.wait_ended())["01.screen"]
    assert sizes(screen) == [(101, 31), (132, 43)]


def test_the_greeting_is_on_stderr_and_never_in_the_terminal(open_site: Plant) -> None:
    with Terminal(open_site, BOX, "echo only-this") as terminal:
        assert terminal.end() == 0
        assert terminal.seen == b"only-this\r\n"
        assert terminal.stderr().startswith("wicketgate: box.plant as ")


def test_control_c_reaches_the_program_on_the_asset(open_site: Plant) -> None:
    program = """trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.1; done"""
    with Terminal(open_site, BOX, program) as terminal:
        terminal.expect(b"ready")
        terminal.type(b"\x03")
        terminal.expect(b"caught")
        assert terminal.end() == 3


def test_what_is_shown_and_typed_in_a_terminal_is_recorded_byte_for_byte(open_site: Plant) -> None:
    with Terminal(open_site, BOX, "echo up; cat") as terminal:
        terminal.expect(b"up\r\n")
        for line in (b"plain\n", "grün ✓\n".encode(), b"tab\tand \x1b[31mred\x1b[0m\n"):
            terminal.type(line)
            terminal.expect(line.split()[0])
        terminal.type(b"\x04")
        assert terminal.end() == 0
        shown = terminal.seen
    streams = open_site.streams(open_site.wait_ended())
    assert said(streams["01.screen"], Code.OUT) == shown
    typed = said(streams["01.typed"], Code.IN)
    assert typed == "plain\ngrün ✓\ntab\tand \x1b[31mred\x1b[0m\n\x04".encode()


def test_a_break_is_passed_on_recorded_and_ends_nothing(open_site: Plant) -> None:
    with Terminal(open_site, BOX, "echo up; cat", options=["-e", "~"]) as terminal:
        terminal.expect(b"up\r\n")
        terminal.type(b"before\n")
        terminal.expect(b"before\r\nbefore\r\n")
        terminal.type(b"~B")
        terminal.type(b"after\n")
        terminal.expect(b"after\r\nafter\r\n")
        terminal.type(b"\x04")
        assert terminal.end() == 0
    typed = open_site.streams(open_site.wait_ended())["01.typed"]
    assert [list(mark) for mark in marks(typed)] == [["break"]]


# Exit
@pytest.mark.parametrize(
    "command",
    [
        "exit 0",
        "exit 37",
        "exit 255",
        "kill -9 $$",
        "kill -TERM $$",
        "no-such-program",
        "echo out; echo err >&2",
        "exec >&- 2>&-; sleep 0.3; exit 6",  # the client has closed its half long before the status is known
    ],
)
def test_a_command_ends_as_it_does_over_direct_ssh(open_site: Plant, command: str) -> None:
    verbose = ["-v"]
    ours = open_site.ssh(BOX, command, options=verbose)
    direct = subprocess.run(
        open_site.direct_command(command, options=[*verbose, "-o", "LogLevel=DEBUG1"]),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert (ours.returncode, ours.stdout) == (direct.returncode, direct.stdout)
    said_at_end = re.compile(rb"rtype (exit-\S+) reply")
    assert said_at_end.findall(ours.stderr) == said_at_end.findall(direct.stderr) != []


@pytest.mark.parametrize(
    ("command", "recorded", "kept"),
    [("exit 37", {"exit status": "37"}, "37"), ("kill -9 $$", {"exit signal": "KILL"}, "signal KILL")],
)
def test_how_a_command_ended_is_in_its_recording_and_its_row(
    open_site: Plant, command: str, recorded: dict[str, str], kept: str
) -> None:
    open_site.ssh(BOX, command)
    session = open_site.wait_ended()
    assert session.end_reason is EndReason.DONE
    assert marks(open_site.streams(session)["01.screen"], Code.EXIT) == [recorded]
    with open_site.db.read() as tx:
        (channel,) = sessions.channels(tx, session.id)
    assert (channel.state, channel.exit) == ("closed", kept)


# Exec
def test_output_errors_and_exit_status_come_apart_and_whole(open_site: Plant) -> None:
    done = open_site.ssh(BOX, "cat; echo wrong >&2; exit 37", stdin=bytes(range(256)) * 64)
    assert (done.returncode, done.stdout) == (37, bytes(range(256)) * 64)
    assert after_greeting(done.stderr) == b"wrong\n"


def test_random_megabytes_pass_both_ways_unchanged_and_are_recorded_unchanged(open_site: Plant) -> None:
    data = os.urandom(8 * MB)
    done = open_site.ssh(BOX, "tee /dev/stderr", stdin=data, timeout_s=90)
    assert done.returncode == 0
    assert digest(done.stdout) == digest(data)
    assert digest(after_greeting(done.stderr)) == digest(data)
    streams = open_site.streams(open_site.wait_ended())
    assert digest(said(streams["01.screen"], Code.OUT)) == digest(data)
    assert digest(said(streams["01.screen"], Code.ERR)) == digest(data)
    assert digest(said(streams["01.typed"], Code.IN)) == digest(data)


@pytest.mark.parametrize("data", [b"", b"\n", b"\r", b"\r\n", b"\n\r\n", b"\0", b"a\nb\r\nc\rd", b"\xff\xfe\x04\x03"])
def test_law_10_no_byte_is_turned_into_another(open_site: Plant, data: bytes) -> None:
    done = open_site.ssh(BOX, "cat", stdin=data)
    assert (done.returncode, done.stdout) == (0, data)
    assert after_greeting(done.stderr) == b""


def test_output_goes_on_after_the_end_of_input(open_site: Plant) -> None:
    done = open_site.ssh(BOX, "wc -c; sleep 0.3; echo after; cat", stdin=b"12345")
    assert (done.returncode, done.stdout) == (0, b"5\nafter\n")


def test_the_end_of_input_arrives_while_the_client_stays(open_site: Plant) -> None:
    with open_site.running_ssh(BOX, "cat >/dev/null; echo got-the-end; sleep 60") as child:
        assert child.stdin is not None
        child.stdin.write(b"some")
        child.stdin.close()
        read_until(child, b"got-the-end")
        assert child.poll() is None


def test_a_command_that_ends_takes_its_client_with_it_while_stdin_is_open(open_site: Plant) -> None:
    with open_site.running_ssh(BOX, "echo done; exit 4") as child:
        assert child.wait(15) == 4


def test_a_client_that_goes_away_ends_the_program_and_the_session(open_site: Plant) -> None:
    flag = open_site.folder / "still-running"
    with open_site.running_ssh(
        BOX, f"trap 'rm {flag}; exit' HUP PIPE; touch {flag}; echo up; while :; do echo; sleep 0.1; done"
    ) as child:
        read_until(child, b"up")
        child.kill()
        child.wait(10)
    session = open_site.wait_ended()
    assert session.end_reason in (EndReason.CONNECTION_LOST, EndReason.DONE)
    wait_until(lambda: not flag.exists(), what="the end of the program")


def test_a_client_that_goes_away_while_only_the_exit_is_awaited_ends_the_session(open_site: Plant) -> None:
    pid = open_site.folder / "pid"
    program = f"echo $$ >{pid}.new; mv {pid}.new {pid}; exec >&- 2>&- sleep 600"
    with open_site.running_ssh(BOX, program) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.close()
        assert child.stdout.read() == b"", "both halves are closed"
        assert child.poll() is None
        child.kill()
        child.wait(10)
    assert open_site.wait_ended().end_reason in (EndReason.CONNECTION_LOST, EndReason.DONE)
    program_on_asset = Path(f"/proc/{pid.read_text().strip()}")
    wait_until(lambda: not program_on_asset.exists() or _is_orphan(program_on_asset), what="the asset's channel closed")


def _is_orphan(process: Path) -> bool:
    """True when nobody's sshd holds it any more: sshd lets a program live on that has no terminal and reads nothing."""
    return (process / "stat").read_text().rpartition(")")[2].split()[1] == "1"


# What is passed on beside bytes
def test_the_language_is_passed_on_and_nothing_else_of_the_environment(open_site: Plant) -> None:
    sending = ["-o", "SendEnv=LANG LC_TIME FOO LD_PRELOAD"]
    command = open_site.ssh_command(BOX, "env", options=sending)
    environment = open_site.environment() | {"LANG": "en_GB.UTF-8", "LC_TIME": "de_DE", "FOO": "bar", "LD_PRELOAD": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=30)
    assert {"LANG=en_GB.UTF-8", "LC_TIME=de_DE"} <= set(done.stdout.splitlines())
    assert "FOO=" not in done.stdout


async def _says_its_signals(process: asyncssh.SSHServerProcess[bytes]) -> None:
    """A program on an asset that takes signals over SSH: says each, and ends with the second."""
    process.stdout.write(b"ready\n")
    for _ in range(2):
        try:
            await process.stdin.read()
        except asyncssh.SignalReceived as got:
            process.stdout.write(got.signal.encode() + b"\n")
    process.exit(7)


async def test_signals_reach_the_program_and_are_recorded(open_site: Plant) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    authority = f"cert-authority {open_site.home.ca_key('asset').with_suffix('.pub').read_text()}"
    asset = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[key],
        authorized_client_keys=asyncssh.import_authorized_keys(authority),
        process_factory=_says_its_signals,
        encoding=None,
    )
    async with asset:
        login = open_site.add_asset(
            f"signalled-{asset.get_port()}", asset.get_port(), key.export_public_key("openssh").decode()
        )
        granted = await asyncio.to_thread(open_site.let_in, login, engineer=COLLEAGUE)

        def is_known() -> bool:  # the bastion reads the names of assets anew every two seconds
            return open_site.ssh(login, "probe", engineer=COLLEAGUE).returncode == 7

        await asyncio.to_thread(wait_until, is_known, what="the new asset")
        conn = await asyncssh.connect(
            "127.0.0.1",
            open_site.port,
            username=login,
            config=None,
            agent_path=None,
            known_hosts=str(open_site.known_hosts),
            client_keys=[(str(open_site.keys[COLLEAGUE]), str(open_site.certificate(COLLEAGUE)))],
        )
        async with conn, asyncio.timeout(20):
            process = await conn.create_process("x", encoding=None)
            assert await process.stdout.readline() == b"ready\n", await process.stderr.read()
            process.send_signal("INT")
            assert await process.stdout.readline() == b"INT\n"
            process.send_signal("USR1")
            done = await process.wait()
            assert (done.stdout, done.exit_status) == (b"USR1\n", 7)
    session = await asyncio.to_thread(open_site.wait_ended)
    assert session.grant_id == granted.id
    assert marks(open_site.streams(session)["01.typed"]) == [{"signal": "INT"}, {"signal": "USR1"}]


# Files
@pytest.mark.parametrize("how", ["scp -O", "scp", "sftp", "rsync"])
def test_files_pass_both_ways_unchanged(open_site: Plant, tmp_path: Path, how: str) -> None:
    here, there, back = tmp_path / "here", tmp_path / "there", tmp_path / "back"
    data = os.urandom(3 * MB + 17)
    here.write_bytes(data)
    for source, sink in ((str(here), f"@:{there}"), (f"@:{there}", str(back))):
        _copy(open_site, how, source, sink, tmp_path)
    assert digest(there.read_bytes()) == digest(data) == digest(back.read_bytes())


def _copy(site: Plant, how: str, source: str, sink: str, folder: Path) -> None:
    """One file with a stock tool; @: stands before what is on the asset."""
    login, stdin = f"{BOX}@127.0.0.1:", b""
    if how == "rsync":
        shell = " ".join(site.ssh_command(BOX)[:-1])
        command = ["rsync", "--rsync-path=rsync", "-e", shell, source.replace("@:", login), sink.replace("@:", login)]
    elif how == "sftp":
        verb = "put" if sink.startswith("@:") else "get"
        stdin = f"{verb} {source.removeprefix('@:')} {sink.removeprefix('@:')}\n".encode()
        command = [*site.ssh_command(BOX, program="sftp"), "-b", "-", login.removesuffix(":")]
        command = [command[0], "-b", "-", *[word for word in command[1:] if word not in ("-b", "-")]]
    else:
        options = ["-O"] if how == "scp -O" else []
        words = [source.replace("@:", login), sink.replace("@:", login)]
        command = site.ssh_command(BOX, *words, program="scp", options=options)
    done = subprocess.run(
        command, input=stdin, capture_output=True, check=False, timeout=60, env=site.environment(), cwd=folder
    )
    assert done.returncode == 0, done.stderr


# Several channels, several people
def test_each_channel_of_a_shared_connection_has_its_own_row_and_streams_in_one_session(open_site: Plant) -> None:
    control = open_site.folder / "mux"
    with open_site.running_ssh(BOX, "cat; echo first-done", options=["-M", "-S", str(control)]) as master:
        assert master.stdin is not None
        master.stdin.write(b"one")
        read_until(master, b"one")
        done = [open_site.ssh(BOX, f"cat; exit {n}", options=["-S", str(control)], stdin=b"%d" % n) for n in (2, 3)]
        assert [(one.returncode, one.stdout) for one in done] == [(2, b"2"), (3, b"3")]
        assert [one.stderr for one in done] == [b"", b""], "the greeting is said once a connection"
        master.stdin.close()
        read_until(master, b"first-done")
        assert master.wait(15) == 0
    session = open_site.wait_ended()
    with open_site.db.read() as tx:
        channels = sessions.channels(tx, session.id)
    assert [(one.number, one.exit, one.command) for one in channels] == [
        (1, "0", "cat; echo first-done"),
        (2, "2", "cat; exit 2"),
        (3, "3", "cat; exit 3"),
    ]
    streams = open_site.streams(session)
    assert [said(streams[f"0{n}.typed"], Code.IN) for n in (1, 2, 3)] == [b"one", b"2", b"3"]
    assert [said(streams[f"0{n}.screen"], Code.OUT) for n in (1, 2, 3)] == [b"onefirst-done\n", b"2", b"3"]


def test_two_engineers_at_once_get_each_their_own_bytes_and_their_own_recording(open_site: Plant) -> None:
    open_site.let_in(BOX, engineer=COLLEAGUE)
    data = {ENGINEER: os.urandom(4 * MB), COLLEAGUE: os.urandom(4 * MB)}
    with ExitStack() as stack:
        children = {
            who: subprocess.Popen(
                open_site.ssh_command(BOX, f"echo {who} >&2; cat", engineer=who),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for who in data
        }
        for child in children.values():
            stack.callback(child.kill)
        loop = asyncio.new_event_loop()
        stack.callback(loop.close)

        async def both() -> list[tuple[bytes, bytes]]:
            talks = [asyncio.to_thread(children[who].communicate, data[who], 60) for who in data]
            return list(await asyncio.gather(*talks))

        came = dict(zip(data, loop.run_until_complete(both()), strict=True))
        loop.run_until_complete(loop.shutdown_default_executor())
    for who, (out, errors) in came.items():
        assert digest(out) == digest(data[who])
        assert after_greeting(errors) == f"{who}\n".encode()
    with open_site.db.read() as tx:
        newest = sorted(sessions.sessions(tx), key=lambda one: one.opened_at)[-2:]
    recorded = {digest(said(open_site.streams(one)["01.screen"], Code.OUT)) for one in newest}
    assert recorded == {digest(one) for one in data.values()}
    assert len({one.person_id for one in newest}) == 2


def test_a_grant_opens_so_many_sessions_and_no_more(open_site: Plant) -> None:
    with ExitStack() as stack:
        running = [stack.enter_context(open_site.running_ssh(BOX, "echo in; cat")) for _ in range(4)]
        for child in running:
            read_until(child, b"in")
        refused = open_site.ssh(BOX, "echo in")
        assert (refused.returncode, refused.stdout) == (255, b"")
        assert b"too many live sessions" in refused.stderr
        assert running[0].stdin is not None
        running[0].stdin.close()
        assert running[0].wait(15) == 0
        wait_until(lambda: open_site.ssh(BOX, "echo in").returncode == 0, what="room for another session")


def test_law_1_a_shared_connection_opens_no_channel_that_the_grant_does_not_name(open_site: Plant) -> None:
    open_site.let_in(BOX, capabilities=frozenset({EXEC}), engineer=COLLEAGUE)
    control = open_site.folder / "narrow"
    with open_site.running_ssh(BOX, "echo up; cat", engineer=COLLEAGUE, options=["-M", "-S", str(control)]) as master:
        read_until(master, b"up")
        shell = open_site.ssh(BOX, engineer=COLLEAGUE, options=["-S", str(control)], stdin=b"echo in\n")
        assert (shell.returncode, shell.stdout) == (255, b"")
        assert b"capability not granted" in shell.stderr
        assert open_site.ssh(BOX, "echo yes", engineer=COLLEAGUE, options=["-S", str(control)]).stdout == b"yes\n"


def test_a_revoked_grant_opens_no_further_channel_even_before_its_session_is_told(template: Template) -> None:
    with Plant(template, poll_s="600") as site:  # the live session looks at the ledger when the test is long over
        granted = site.let_in(BOX)
        control = site.folder / "mux"
        with site.running_ssh(BOX, "echo up; cat", options=["-M", "-S", str(control)]) as master:
            read_until(master, b"up")
            site.cli("revoke", granted.id, "--reason", "the work is done")
            late = site.ssh(BOX, "echo in", options=["-S", str(control)])
            assert (late.returncode, late.stdout) == (255, b"")
            assert b"grant revoked" in late.stderr
            assert master.poll() is None
        assert [one["reason"] for one in site.entries("channel.refused")] == ["grant revoked"]
