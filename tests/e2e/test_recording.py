"""What was relayed is what is recorded, through kills, full disks and removed folders; and looking at it is safe."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from broker.domain.capability import EXEC, SFTP_READ, SFTP_WRITE, SHELL
from broker.domain.ids import SessionId
from broker.domain.session import EndReason, Session
from broker.store import sessions
from recorder.folder import merged
from recorder.format import Code
from tests.e2e.recorded import marks, said, sizes
from tests.e2e.site import BOX, CLOCK, PROGRAM, Plant, Template, wait_until
from tests.e2e.terminal import Terminal, seconds_to_end

CUT = 255
KILLS = 8
SEED = 20270314
FAILS_WITHIN_S = 2.0


@pytest.fixture(scope="module")
def site(template: Template) -> Iterator[Plant]:
    with Plant(template) as running:
        running.let_in(BOX, capabilities=frozenset({SHELL, EXEC, SFTP_READ, SFTP_WRITE}))
        yield running


# Byte for byte
def test_every_kind_of_traffic_is_recorded_as_it_was_relayed_and_in_one_order(site: Plant) -> None:
    program = "echo up; read line; echo got $line >&2; read line; printf 'b\\0in\\377ary'; exit 9"
    with Terminal(site, BOX, program, columns=90, rows=20) as terminal:
        terminal.expect(b"up\r\n")
        terminal.type(b"first\n")
        terminal.expect(b"got first\r\n")
        terminal.resize(91, 21)
        streams = site.streams(site.last_session())
        wait_until(lambda: len(sizes(streams["01.screen"])) == 2, what="the new size")
        terminal.type(b"second\n")
        assert terminal.end() == 9
    site.wait_ended()
    screen, typed = streams["01.screen"], streams["01.typed"]
    assert said(screen, Code.OUT) == terminal.seen, "a terminal has one way out: stderr comes with stdout"
    assert said(typed, Code.IN) == b"first\nsecond\n"
    assert sizes(screen) == [(90, 20), (91, 21)]
    assert marks(screen, Code.EXIT) == [{"exit status": "9"}]
    times = [event.t_us for _, event in merged([screen, typed])]
    assert all(earlier < later for earlier, later in pairwise(times))


def test_a_file_transfer_is_recorded_as_the_bytes_that_passed(site: Plant, tmp_path: Path) -> None:
    data = os.urandom(200_000)
    (tmp_path / "here").write_bytes(data)
    command = site.ssh_command(BOX, str(tmp_path / "here"), f"{BOX}@127.0.0.1:{tmp_path}/there", program="scp")
    subprocess.run(command, check=True, capture_output=True, timeout=60, env=site.environment())
    session = site.wait_ended()
    assert list(site.streams(session)) == ["01.wire"]
    passed = said(site.streams(session)["01.wire"], Code.TO_ASSET)
    assert len(data) < len(passed) < len(data) + 10_000
    assert data[:30_000] in passed


# kill -9
@contextmanager
def part(site: Plant, name: str) -> Iterator[subprocess.Popen[str]]:
    """One of the program's processes alone, as systemd runs it, ready; killed at the end when it still runs."""
    command = [str(PROGRAM), "--home", str(site.path), "serve", "--only", name]
    with (
        site.log.open("a") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            said_ready = process.stdout.readline()
            assert said_ready.startswith(f"ready {name}"), site.log.read_text()
            if name == "broker":
                site.port = int(said_ready.rpartition(":")[2])
            yield process
        finally:
            process.kill()


@pytest.mark.timeout(400)
def test_law_4_after_kill_9_the_recording_holds_every_byte_that_either_side_has_seen(template: Template) -> None:
    rolled = random.Random(SEED)
    site = Plant(template)
    with closing(site.db), part(site, "signer"):
        site.let_in(BOX)
        found: list[SessionId] = []
        for number in range(KILLS):
            found += _one_kill(site, rolled.randrange(1, 6_000_000), number)
        with part(site, "broker"):
            assert site.live() == []
        verdicts = json.loads(site.cli("verify", *found, "--json", status=5).stdout)
        assert [one["state"] for one in verdicts] == ["interrupted; what is there is as attested"] * 6 * KILLS
        assert {one["id"]: one["state"] for one in site.json("recordings")} == dict.fromkeys(found, "interrupted")
    shutil.rmtree(site.folder)


def _one_kill(site: Plant, moment_bytes: int, number: int) -> list[SessionId]:
    """Three sessions in full course, the bastion killed once so much has come down, and all held against its recordings."""
    here = site.folder / f"kill-{number}"
    here.mkdir()
    programs = {
        "download": "while :; do head -c 50000 /dev/urandom; echo; seq 2000; done",
        "upload": f"cat >{here}/up",
        "lines": "while :; do echo a line of text; done",
    }
    with part(site, "broker") as broker, ExitStack() as stack:
        _were_closed_as_interrupted(site)
        clients = []
        for name, program in programs.items():
            out = stack.enter_context((here / name).open("wb"))
            given = stack.enter_context(Path("/dev/urandom" if name == "upload" else "/dev/null").open("rb"))
            command = site.ssh_command(BOX, program)
            child = subprocess.Popen(command, stdin=given, stdout=out, stderr=subprocess.DEVNULL)
            clients.append(stack.enter_context(child))
            stack.callback(child.kill)
        wait_until(lambda: (here / "up").exists() and (here / "up").stat().st_size > 0, what="the upload")
        wait_until(lambda: (here / "download").stat().st_size >= moment_bytes, within_s=60, what="the download")
        wait_until(lambda: (here / "lines").stat().st_size > 0, what="the lines")
        with site.db.read() as tx:
            live = sessions.sessions(tx, live=True)
        broker.kill()
        assert [child.wait(30) for child in clients] == [CUT] * 3
    streams = [site.streams(one) for one in live]
    shown = [said(one["01.screen"], Code.OUT) for one in streams]
    for name in ("download", "lines"):
        seen = (here / name).read_bytes()
        assert any(whole.startswith(seen) for whole in shown), f"{name}: the client saw what is not recorded"
    taken = (here / "up").read_bytes()
    typed = [said(one["01.typed"], Code.IN) for one in streams]
    assert taken
    assert any(whole.startswith(taken) for whole in typed), "the asset got what is not recorded"
    shutil.rmtree(here)
    return [one.id for one in live]


def _were_closed_as_interrupted(site: Plant) -> None:
    """The bastion has started: whatever the one before it left is closed by now."""
    with site.db.read() as tx:
        assert sessions.sessions(tx, live=True) == []
        assert {one.end_reason for one in sessions.sessions(tx)} <= {EndReason.INTERRUPTED}


# Where it cannot be written
@contextmanager
def files_no_longer_than(pid: int, limit_bytes: int) -> Iterator[None]:
    """Let a process write no file beyond a length, as a full disk would."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


NOT_RECORDED = "wicketgate: the session cannot be recorded (disk); nothing unrecorded is relayed; tell the site"


def test_law_4_a_session_ends_when_its_recording_cannot_grow_and_nothing_passes_that_is_not_in_it(site: Plant) -> None:
    limit, saw = 5_000_000, site.folder / "saw"
    with files_no_longer_than(site.pid_of("broker"), limit), saw.open("wb") as out:
        command = site.ssh_command(BOX, "echo up >&2; sleep 0.2; head -c 60000000 /dev/urandom")
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE) as child:
            assert child.stderr is not None
            assert child.stderr.readline()
            assert child.stderr.readline() == b"up\n"
            session = site.last_session()
            screen = site.streams(session)["01.screen"]
            wait_until(lambda: screen.stat().st_size > limit - 300_000, within_s=30, what="the full disk")
            assert seconds_to_end(child, since_us=CLOCK.monotonic_us()) < FAILS_WITHIN_S
            assert child.returncode is None or child.returncode == CUT
            assert child.wait(10) == CUT
            assert child.stderr.read().decode().splitlines()[-1] == NOT_RECORDED
        assert site.wait_ended(session.id).end_reason is EndReason.NOT_RECORDED
    recorded = said(screen, Code.OUT)
    assert recorded.startswith(saw.read_bytes())
    assert len(recorded) <= limit
    assert session.id in [one["session_id"] for one in site.entries("recording.failed")]
    assert site.ssh(BOX, "echo again").stdout == b"again\n", "there is room again"


@pytest.mark.parametrize("how", ["removed", "moved away", "replaced by a file"])
def test_a_session_ends_when_its_recording_is_taken_away_and_no_other_begins(site: Plant, how: str) -> None:
    folder, away = site.home.recordings, site.folder / "away"
    with Terminal(site, BOX, "echo up; exec cat") as terminal:
        terminal.expect(b"up\r\n")
        session = site.last_session()
        shutil.copytree(folder, away) if how == "removed" else folder.rename(away)
        try:
            if how == "removed":
                shutil.rmtree(folder)
            elif how == "replaced by a file":
                folder.touch()
            taken_us = CLOCK.monotonic_us()
            assert seconds_to_end(terminal.process, since_us=taken_us) < FAILS_WITHIN_S
            assert terminal.end() == CUT
            assert terminal.told()[-1] == NOT_RECORDED
            refused = site.ssh(BOX, "echo in")
            assert (refused.returncode, refused.stdout) == (CUT, b"")
            assert b"wicketgate: cannot record" in refused.stderr
        finally:
            folder.unlink() if folder.is_file() else None
            shutil.rmtree(folder, ignore_errors=True)
            away.rename(folder)
    assert site.wait_ended(session.id).end_reason is EndReason.NOT_RECORDED
    assert session.id in [one["session_id"] for one in site.entries("recording.failed")]
    assert site.ssh(BOX, "echo again").stdout == b"again\n"


def test_below_the_floor_of_free_space_no_session_begins_and_the_engineer_is_told_why(template: Template) -> None:
    with Plant(template, free_space_floor_bytes=str(10**18)) as full:
        full.let_in(BOX)
        refused = full.ssh(BOX, "echo in")
        assert (refused.returncode, refused.stdout) == (CUT, b"")
        assert refused.stderr.startswith(b"wicketgate: cannot record; ")
        assert [one["reason"] for one in full.entries("channel.refused")] == ["cannot record"]
        assert full.live() == []


# Looking at it
HOSTILE = (
    b"\x1b]52;c;cHduZWQ=\x07",  # the clipboard
    b"\x1b]0;pwned\x07\x1b]2;pwned\x1b\\\x1bkpwned\x1b\\",  # the title
    b'\x1bP$q"p\x1b\\\x1b[c\x1b[6n\x1b[5n\x05',  # questions that a terminal answers into the keyboard
    b"\x9b31m\x9d52;c;cHduZWQ=\x9c\xc2\x9b1m",  # C1, as bytes and as UTF-8
    b"\x1b[?1000h\x1b[?1006h\x1b[?2004h\x1b[20t\x1b[21t",  # mouse, paste, reports
    b"\x1b[?1049h\x1b[2J\x1bc\x1b[!p",
    "\u202egnp.exe\u202c \u2066x\u2069".encode(),
)
ALLOWED = re.compile(r"\x1b\[(\d+;1H|K|[0-9;]*m|\?(1049|25|7)[hl]|2J)")


@pytest.fixture(scope="module")
def hostile(site: Plant) -> Session:
    """A recorded session in which the asset sends what attacks a terminal."""
    for number, attack in enumerate(HOSTILE):
        (site.folder / f"attack-{number}").write_bytes(b"before\r\n" + attack + b"\r\nplain words\r\n")
    done = site.ssh(BOX, f"cat {site.folder}/attack-*; echo 'beside it' >&2")
    assert all(attack in done.stdout for attack in HOSTILE)
    session = site.wait_ended()
    assert said(site.streams(session)["01.screen"], Code.OUT) == done.stdout
    return session


def test_law_10_replay_puts_no_recorded_control_on_the_terminal(site: Plant, hostile: Session) -> None:
    shown, title, clipboard = _replay_in_tmux(site, hostile.id)
    text = ALLOWED.sub("", shown.decode())
    assert "plain words" in text
    assert "beside it" in text
    odd = {ch for ch in text if not (ch.isprintable() or ch in "\r\n")}
    assert odd == set(), "only our own drawing reaches the terminal"
    assert not {"\u202e", "\u2066"} & set(text)
    assert b"pwned" not in title
    assert clipboard == b""
    assert hostile.id in [one["session_id"] for one in site.entries("recording.viewed") if one["how"] == "replay"]


def _replay_in_tmux(site: Plant, recording: str) -> tuple[bytes, bytes, bytes]:
    """What replay wrote to a terminal, and what that terminal's title and clipboard were afterwards."""
    tmux = ["tmux", "-S", str(site.folder / "tmux"), "-f", "/dev/null"]
    go, done, seen = site.folder / "go", site.folder / "done", site.folder / "seen"
    play = shlex.join([str(PROGRAM), "--home", str(site.path), "replay", recording, "--speed", "1000"])
    script = f"while ! [ -e {go} ]; do sleep 0.05; done; {play}; echo $? >{done}; read never"
    subprocess.run([*tmux, "new-session", "-d", "-x", "80", "-y", "24", "sh", "-c", script], check=True, timeout=20)
    try:
        subprocess.run([*tmux, "set-option", "-g", "set-clipboard", "on"], check=True, timeout=20)
        subprocess.run([*tmux, "pipe-pane", "-o", f"cat >{seen}"], check=True, timeout=20)
        wait_until(seen.exists, what="the pipe")
        go.touch()
        wait_until(lambda: done.exists() and done.read_text() == "0\n", within_s=60, what="the replay")
        title = subprocess.run(
            [*tmux, "display-message", "-p", "#{pane_title} #{window_name}"],
            check=True,
            capture_output=True,
            timeout=20,
        ).stdout
        clipboard = subprocess.run([*tmux, "show-buffer"], check=False, capture_output=True, timeout=20).stdout
        wait_until(lambda: seen.read_bytes().rstrip().endswith(b"beside it"), what="the last line in the pipe")
        return seen.read_bytes(), title, clipboard
    finally:
        subprocess.run([*tmux, "kill-server"], check=True, timeout=20)


@pytest.mark.parametrize("form", ["cast", "cast3", "text", "raw"])
def test_an_export_holds_what_was_recorded_and_its_making_is_in_the_ledger(
    site: Plant, hostile: Session, tmp_path: Path, form: str
) -> None:
    file = tmp_path / "out"
    site.cli("export", hostile.id, "--format", form, "-o", str(file))
    screen = site.streams(hostile)["01.screen"]
    whole = b"".join(event.data for _, event in merged([screen]) if event.code in (Code.OUT, Code.ERR))
    if form == "raw":
        assert file.read_bytes() == whole
    elif form == "text":
        lines = file.read_text().splitlines()
        assert lines.count("plain words") == 1 or "plain words" in lines
        assert all(ch.isprintable() for line in lines for ch in line)
    else:
        first, *events = [json.loads(line) for line in file.read_bytes().splitlines()]
        assert first["version"] == (2 if form == "cast" else 3)
        shown = "".join(data for _, kind, data in events if kind == "o")
        assert shown == whole.decode("utf-8", "replace")
    assert [one["session_id"] for one in site.entries("recording.viewed") if one["how"] == "export"][-1] == hostile.id
