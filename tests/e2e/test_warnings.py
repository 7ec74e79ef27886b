"""A warning reaches who works in a full-screen program and leaves its picture alone; an owner's hold gives minutes more."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from broker.domain.session import EndReason
from tests.e2e.site import BOX, CLOCK, OWNER, Plant, Template, read_until, wait_until
from tests.e2e.terminal import Terminal, seconds_to_end

VIM = shutil.which("vim") or shutil.which("vim.tiny") or "vim"
WARN_S = 6
DUE_S = 1.0


@pytest.fixture(scope="module")
def site(template: Template) -> Iterator[Plant]:
    with Plant(template, warn_before_s=f"[{WARN_S}.0]") as running:
        yield running


class Tmux:
    """A stock ssh in a terminal emulator: what that shows, and every byte that came to it."""

    def __init__(self, site: Plant, command: list[str]) -> None:
        self._words = ["tmux", "-S", str(site.folder / "tmux"), "-f", "/dev/null"]
        self._raw, go = site.folder / "raw", site.folder / "go"
        script = f"while ! [ -e {go} ]; do sleep 0.05; done; {shlex.join(command)}; echo left; read never"
        self._run("new-session", "-d", "-x", "80", "-y", "24", "sh", "-c", script)
        self._run("pipe-pane", "-o", f"cat >{self._raw}")
        wait_until(self._raw.exists, what="the pipe")
        go.touch()

    def _run(self, *words: str) -> str:
        return subprocess.run([*self._words, *words], check=True, capture_output=True, text=True, timeout=20).stdout

    def type(self, *keys: str) -> None:
        self._run("send-keys", *keys)

    def shown(self) -> str:
        """The picture, its colours, and where the cursor is."""
        return self._run("capture-pane", "-p", "-e") + self._run("display-message", "-p", "#{cursor_x},#{cursor_y}")

    def is_full_screen(self) -> bool:
        return self._run("display-message", "-p", "#{alternate_on}") == "1\n"

    def raw(self) -> bytes:
        return Path(self._raw).read_bytes()

    def end(self) -> None:
        self._run("kill-server")


@contextmanager
def at_the_asset(site: Plant, length_s: float) -> Iterator[Tmux]:
    engineer = site.newcomer(f"vim-{length_s:g}".replace(".", "-"))
    (site.folder / "go").unlink(missing_ok=True)
    (site.folder / "raw").unlink(missing_ok=True)
    site.let_in(BOX, engineer=engineer, length=timedelta(seconds=length_s))
    notes = site.folder / "notes"
    notes.write_text("".join(f"line {number} of the configuration\n" for number in range(1, 60)))
    program = f"{VIM} -u NONE -n {notes}; echo back; exec cat"
    tmux = Tmux(site, site.ssh_command(BOX, program, engineer=engineer, options=["-tt"]))
    try:
        wait_until(lambda: tmux.is_full_screen() and "line 23" in tmux.shown(), what="vim's picture")
        yield tmux
    finally:
        tmux.end()


def test_a_warning_leaves_the_picture_of_vim_as_it_is_and_is_a_line_after_it(site: Plant) -> None:
    with at_the_asset(site, WARN_S + 6) as tmux:
        tmux.type("4jrX")
        wait_until(lambda: "Xine 5" in tmux.shown(), what="the change")
        before = tmux.shown()
        assert b"]9;wicketgate" not in tmux.raw()
        wait_until(lambda: b"]9;wicketgate: this session ends in 6 s" in tmux.raw(), what="the warning")
        wait_until(lambda: b"]777;notify;wicketgate;this session ends in 6 s" in tmux.raw(), what="all of it")
        assert tmux.shown() == before
        assert tmux.is_full_screen()
        tmux.type("2x")  # and vim goes on as if nothing had been
        wait_until(lambda: "ne 5 of" in tmux.shown() and "Xine" not in tmux.shown(), what="the next change")
        tmux.type(":q!", "Enter")
        wait_until(lambda: "[wicketgate] this session ends in 6 s" in tmux.shown(), what="the line")
        assert not tmux.is_full_screen()


def test_at_the_end_who_is_in_vim_is_back_on_their_own_screen_and_reads_why(site: Plant) -> None:
    with at_the_asset(site, WARN_S + 2) as tmux:
        wait_until(lambda: "time is up" in tmux.shown(), within_s=20, what="the end")
        wait_until(lambda: "\nleft" in tmux.shown(), what="the client's end")
        assert not tmux.is_full_screen()
        assert "line 23" not in tmux.shown()


# The owner's hold
def test_a_held_session_goes_on_beyond_its_grant_opens_nothing_new_and_ends_with_the_hold(site: Plant) -> None:
    engineer = site.newcomer("held")
    code = site.code(OWNER)
    granted = site.let_in(BOX, engineer=engineer, length=timedelta(seconds=15))
    closes, control = granted.interval.closes, str(site.folder / "held.mux")
    with Terminal(site, BOX, "echo up; exec cat", engineer=engineer, options=["-M", "-S", control]) as terminal:
        terminal.expect(b"up")
        session = site.last_session()
        words = ["hold-open", session.id, "--for", "6s", "--as", OWNER, "--reason", "the flash is at 80 %"]
        held = site.json(*words, "--totp", code)
        returned_us = CLOCK.monotonic_us()
        assert (held["state"], held["until"][:19]) == ("held", _local(closes + timedelta(seconds=6)))
        wait_until(lambda: "now ends in" in terminal.stderr(), within_s=DUE_S, what="the new end")
        assert CLOCK.monotonic_us() - returned_us < DUE_S * 1e6
        wait_until(lambda: CLOCK.now() > closes, within_s=20, what="the grant's own end")
        terminal.type(b"still flashing\n")
        terminal.expect(b"still flashing\r\nstill flashing")
        new = site.ssh(BOX, "echo in", engineer=engineer, options=["-S", control])
        assert (new.returncode, new.stdout) == (255, b"")
        assert b"grant over" in new.stderr
        wait_until(lambda: CLOCK.now() > closes + timedelta(seconds=6), within_s=20, what="the end of the hold")
        assert seconds_to_end(terminal.process, since_us=CLOCK.monotonic_us()) < DUE_S
        assert "time is up" in terminal.stderr()
    assert site.wait_ended(session.id).end_reason is EndReason.TIME_UP
    (kept,) = site.entries("session.held")
    assert (kept["session_id"], kept["door"]) == (session.id, "cli")


def _local(instant: datetime) -> str:
    return instant.astimezone(ZoneInfo("Europe/London")).isoformat(timespec="seconds")[:19]


def test_a_kill_ends_a_held_session_at_once(site: Plant) -> None:
    engineer = site.newcomer("held-killed")
    code = site.code(OWNER)
    site.let_in(BOX, engineer=engineer, length=timedelta(seconds=60))
    with Terminal(site, BOX, "echo up; exec cat", engineer=engineer) as terminal:
        terminal.expect(b"up")
        session = site.last_session()
        site.cli("hold-open", session.id, "--for", "5m", "--as", OWNER, "--reason", "flash", "--totp", code)
        site.cli("kill", session.id, "--reason", "smoke")
        assert seconds_to_end(terminal.process, since_us=CLOCK.monotonic_us()) < DUE_S
    assert site.wait_ended(session.id).end_reason is EndReason.KILLED


def test_a_hold_by_a_wrong_code_or_of_no_live_session_is_refused_in_one_line(site: Plant) -> None:
    words = ["--for", "5m", "--as", OWNER, "--reason", "flash", "--totp", "000000"]
    assert site.cli("hold-open", "ses-00000000", *words, status=3).stderr.startswith("wicketgate: no session")
    engineer = site.newcomer("held-wrongly")
    site.let_in(BOX, engineer=engineer)
    with site.running_ssh(BOX, "echo up; exec cat", engineer=engineer) as child:
        read_until(child, b"up")
        session = site.last_session()
        assert "code was not accepted" in site.cli("hold-open", session.id, *words, status=1).stderr
    assert site.wait_ended(session.id).held_until is None
