"""Set-up: a second run finds all there in a moment, and what is missing is told exactly."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from broker.clock import SystemClock

TOP: Final = Path(__file__).parents[1]
SETUP: Final = TOP / ".ci/setup.sh"
NOBODY: Final = 65534
# What the script itself calls; none of the programs it looks for.
OWN: Final = ("bash", "dirname", "id", "env")
CLOCK: Final = SystemClock()


def test_the_environment_is_made_once_and_found_at_once_after(tmp_path: Path) -> None:
    """The first run may have work to do where the lock file is newer than the environment; the second has none."""
    subprocess.run([SETUP, "environment"], cwd=tmp_path, check=True, capture_output=True, timeout=170)
    begun_us = CLOCK.monotonic_us()
    done = subprocess.run([SETUP, "environment"], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    assert CLOCK.monotonic_us() - begun_us < 3_000_000
    assert (done.stdout, done.stderr) == (b"", b"")


@pytest.fixture
def bare() -> Iterator[Path]:
    """A copy of the script where any account may read it, beside a folder of programs with nothing but what it calls."""
    with tempfile.TemporaryDirectory(prefix="wg-") as folder:  # not below pytest's own, which is one account's alone
        path = Path(folder)
        path.chmod(0o755)
        (path / ".ci").mkdir()
        shutil.copy(SETUP, path / ".ci/setup.sh")
        (path / ".ci/setup.sh").chmod(0o755)
        (path / "bin").mkdir()
        for name in OWN:
            (path / "bin" / name).symlink_to(shutil.which(name) or name)
        yield path


def looked_for(bare: Path) -> subprocess.CompletedProcess[str]:
    """The script's look for the tests' tools, as an account that may install nothing."""
    setpriv = [shutil.which("setpriv") or "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    command = [*(setpriv if os.geteuid() == 0 else []), str(bare / ".ci/setup.sh"), "test-tools"]
    env = {"PATH": str(bare / "bin")}
    return subprocess.run(command, env=env, cwd=bare, capture_output=True, text=True, timeout=60)


def test_what_the_tests_need_and_is_missing_is_told_in_one_line(bare: Path) -> None:
    done = looked_for(bare)
    # sshd, PostgreSQL and the fonts are looked for at their places, not on PATH: here, where tests run, they are there.
    missing = "git openssh-client rsync chromium tmux vim-tiny systemd bsdutils procps softhsm2"
    told = f"set-up: missing: {missing}; install with: sudo apt-get install --no-install-recommends {missing}\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)


def test_of_several_programs_only_the_missing_one_is_told(bare: Path) -> None:
    for name in (
        "git",
        "ssh",
        "scp",
        "sftp",
        "rsync",
        "chromium",
        "vim",
        "systemd-analyze",
        "script",
        "ps",
        "softhsm2-util",
    ):
        (bare / "bin" / name).symlink_to(shutil.which(name) or name)
    done = looked_for(bare)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("set-up: missing: tmux; install with: ")
