"""The story as `make demo ARGS=--story` plays it, in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.story import SCENES
from tests.demo.processes import in_session, pid_of

PROGRAM = Path(sys.executable).with_name("wicketgate")
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(660)]


@pytest.fixture
def short() -> Iterator[Path]:
    """A temporary folder with a short name: a Unix socket's path may not be long."""
    with tempfile.TemporaryDirectory(prefix="d-") as folder:
        yield Path(folder)


def start(temporary: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [PROGRAM, "demo", "--story", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
        start_new_session=True,
    )


def test_the_story_goes_as_promised_and_leaves_nothing_behind(short: Path) -> None:
    with start(short) as child:
        told, _ = child.communicate(timeout=600)
    lines = told.splitlines()
    assert child.returncode == 0, told
    assert lines[-1] == f"story: {len(SCENES)} scenes, {len(SCENES)} ok"
    assert len(SCENES) >= 8
    played = re.findall(r"^ ?(\d+) ok +\d+\.\d s  (.+)$", told, re.MULTILINE)
    assert played == [(str(number), title) for number, (title, _) in enumerate(SCENES, 1)]
    assert "Traceback" not in told
    assert in_session(child.pid) == {}
    assert list(short.iterdir()) == []


def test_a_story_without_its_broker_says_so_counts_and_fails(short: Path) -> None:
    with start(short, "--home", str(short / "home")) as child:
        assert child.stdout is not None
        told, killed = "", False
        for line in child.stdout:
            told += line
            if line.startswith(" 2 ok"):
                os.kill(pid_of(child.pid, "broker"), signal.SIGKILL)
                killed = True
    assert killed, told
    lines = told.splitlines()
    assert child.returncode == 1, told
    assert "the broker process ended by signal 9; everything was stopped" in told
    counted = re.search(r"^story: (\d+) scenes, (\d+) ok$", told, re.MULTILINE)
    assert counted is not None
    assert int(counted[1]) == len(SCENES) > int(counted[2])
    assert lines[-1] == f"the home stays: {short / 'home'}"
    assert "Traceback" not in told
    assert in_session(child.pid) == {}
    assert (short / "home" / "wicketgate.db").is_file()
