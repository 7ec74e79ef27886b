"""The end is the earlier of two clocks, whatever becomes of the machine's own; and no clock that is behind the ledger admits.

All processes of the site run under libfaketime, which moves the wall clock alone, as somebody who sets it does; what can not
be set (CLOCK_MONOTONIC, CLOCK_BOOTTIME) goes on as it is.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from broker.domain.grant import Grant
from broker.domain.session import EndReason
from tests.e2e.site import BOX, CLOCK, Plant, Template, read_until, wait_until
from tests.e2e.terminal import Terminal, seconds_to_end

DUE_S = 1.0
CUT = 255
TWO_HOURS = timedelta(hours=2)
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), Path("libfaketime"))


class Clocked(Plant):
    """A plant whose machine's wall clock can be set."""

    def __init__(self, template: Template) -> None:
        super().__init__(template, sessions_per_grant_max="20", warn_before_s="[]")
        self._offset = self.folder / "offset"
        self.set_clock(timedelta(0))
        self.serve_environment = {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def __enter__(self) -> Clocked:
        super().__enter__()
        return self

    def set_clock(self, away: timedelta) -> None:
        """How far the site's wall clock is from ours, at once."""
        made = self._offset.with_suffix(".new")
        made.write_text(f"{away.total_seconds():+.0f}\n")
        made.rename(self._offset)


@pytest.fixture
def site(template: Template) -> Iterator[Clocked]:
    """One for each test: what is written under a clock that is ahead stays in its ledger."""
    with Clocked(template) as running:
        yield running


def let_in(site: Plant, name: str, *, seconds: float) -> tuple[str, Grant]:
    engineer = site.newcomer(f"{name}-{os.urandom(2).hex()}")
    return engineer, site.let_in(BOX, engineer=engineer, length=timedelta(seconds=seconds))


def left_s(closes: datetime) -> float:
    return (closes - CLOCK.now()).total_seconds()


def test_a_wall_clock_set_on_two_hours_ends_the_session_within_a_second(site: Clocked) -> None:
    engineer, _ = let_in(site, "ahead", seconds=3600)
    with Terminal(site, BOX, "echo up; exec cat", engineer=engineer) as terminal:
        terminal.expect(b"up")
        row = site.last_session()
        site.set_clock(TWO_HOURS)
        assert (
            seconds_to_end(terminal.process, since_us=CLOCK.monotonic_us()) < DUE_S + 0.2
        )  # it is looked at each second
        assert "time is up" in terminal.stderr()
    assert site.wait_ended(row.id).end_reason is EndReason.TIME_UP


def test_a_wall_clock_set_back_two_hours_lengthens_no_session_and_admits_nobody(site: Clocked) -> None:
    engineer, granted = let_in(site, "behind", seconds=12)
    control = str(site.folder / "behind")
    with Terminal(site, BOX, "echo up; exec cat", engineer=engineer, options=["-M", "-S", control]) as terminal:
        terminal.expect(b"up")
        row = site.last_session()
        site.set_clock(-TWO_HOURS)
        # A channel of a connection that was let in before the clock was set.
        again = site.ssh(BOX, "echo in", engineer=engineer, options=["-S", control])
        assert (again.returncode, again.stdout) == (CUT, b"")
        assert b"the clock is behind the ledger" in again.stderr
        terminal.type(b"still here\n")
        terminal.expect(b"still here\r\nstill here")
        wait_until(
            lambda: left_s(granted.interval.closes) <= 0, within_s=15, what="the end by the clock that cannot be set"
        )
        assert seconds_to_end(terminal.process, since_us=CLOCK.monotonic_us()) < DUE_S
        assert "time is up" in terminal.stderr()
    wait_until(lambda: not site.live(), what="the end of the session")
    assert "the clock is behind the ledger" not in terminal.seen.decode()
    site.set_clock(timedelta(0))
    assert site.wait_ended(row.id).end_reason is EndReason.TIME_UP
    assert site.entries("alarm.clock_behind")


def test_a_site_that_starts_with_its_clock_behind_admits_nobody_signs_nothing_and_says_so(site: Clocked) -> None:
    engineer, granted = let_in(site, "late", seconds=3 * 3600)
    site.cli("window", "list")
    site.stop()
    site.set_clock(-TWO_HOURS)
    site.start()
    # A certificate of today is not valid yet two hours ago, and no code is good again that was before one already taken.
    code = site.code(engineer)
    told = site.ssh(BOX, "echo in", engineer=engineer, code=code, bare=True)
    assert (told.returncode, told.stdout) == (CUT, b"")
    assert b"The site's clock is behind its own ledger" in told.stderr
    assert told.stderr.endswith(b"Permission denied (keyboard-interactive).\r\n")
    with pytest.raises(Exception, match="the clock is behind the ledger; nothing is signed"):
        site.certify(granted, engineer)
    assert "is behind the ledger" in site.log.read_text()
    assert len(site.entries("alarm.clock_behind")) == 1
    with pytest.MonkeyPatch.context() as patch:
        for name, value in site.serve_environment.items():
            patch.setenv(name, value)
        doctor = site.cli("doctor", status=1).stdout
    assert re.search(r"wrong +clock: the clock says .*nothing is admitted until you set the clock", doctor)
    site.set_clock(timedelta(0))
    site.certify(granted, engineer)
    assert site.ssh(BOX, "echo in", engineer=engineer).stdout == b"in\n"


# A machine that slept, a peer that says no more
@contextmanager
def asleep(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_process_that_slept_over_the_end_passes_no_byte_either_way_when_it_wakes(site: Clocked) -> None:
    engineer, granted = let_in(site, "asleep", seconds=10)
    typed = site.folder / "typed"
    with ExitStack() as stack:
        ticking = "echo up; while :; do echo tick; sleep 0.02; done"
        output = stack.enter_context(site.running_ssh(BOX, ticking, engineer=engineer))
        taking = stack.enter_context(site.running_ssh(BOX, f"echo up; cat >{typed}", engineer=engineer))
        read_until(output, b"tick")
        read_until(taking, b"up")
        assert output.stdout is not None
        assert taking.stdin is not None
        with asleep(site.pid_of("broker")):
            os.set_blocking(output.stdout.fileno(), False)
            while output.stdout.read(65536):  # what had passed before
                pass
            taking.stdin.write(b"too late\n")
            wait_until(lambda: left_s(granted.interval.closes) < -0.5, within_s=15, what="the end")
            rest = output.stdout.read(65536)
        woken_us = CLOCK.monotonic_us()
        os.set_blocking(output.stdout.fileno(), True)
        assert seconds_to_end(output, since_us=woken_us) < DUE_S
        assert seconds_to_end(taking, since_us=woken_us) < DUE_S
        assert not rest
        assert output.stdout.read() == b"", "the asset had said much meanwhile"
        wait_until(lambda: typed.read_bytes() == b"", what="the file")
    for one in site.json("sessions")[:2]:
        assert site.wait_ended(one["id"]).end_reason is EndReason.TIME_UP
