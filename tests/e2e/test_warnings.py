"""A warning reaches who works in a full-screen program, and leaves the program's picture alone."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from tests.e2e.site import BOX, Plant, Template, wait_until

VIM = shutil.which("vim") or shutil.which("vim.tiny") or "vim"
WARN_S = 6


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
