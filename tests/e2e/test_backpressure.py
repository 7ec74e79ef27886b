"""Whoever is slow slows the other side, and nothing else: the bastion's memory stays, and other sessions answer."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.site import BOX, CLOCK, Plant, Template, read_until, wait_until
from tests.e2e.terminal import Terminal

MB = 1_000_000
GROWTH_MAX_BYTES = 40 * MB
"""How much the bastion may grow by one channel, whatever its two sides do: windows, socket buffers and a batch."""
STANDS_S = 1.5
"""How long nothing may move before a stream counts as held back."""
ECHO_MAX_S = 1.0


@pytest.fixture(scope="module")
def site(template: Template) -> Iterator[Plant]:
    with Plant(template) as running:
        running.let_in(BOX)
        running.ssh(BOX, "head -c 20000000 /dev/zero")  # what is loaded and allocated once is not growth
        yield running


class Memory:
    """How the bastion's own memory has grown since this was made."""

    def __init__(self, site: Plant) -> None:
        self._path = Path(f"/proc/{site.pid_of('broker')}/smaps_rollup")
        self._before = self._now()

    def growth(self) -> int:
        """In bytes."""
        return self._now() - self._before

    def _now(self) -> int:
        found = {line.split(":")[0]: line.split()[1] for line in self._path.read_text().splitlines()[1:]}
        return int(found["Pss"]) * 1024


def wait_until_it_stands(measure: Callable[[], int], *, within_s: float = 40) -> int:
    """The measure once it has not moved for a while: the sender is held back. Raises TimeoutError."""
    last, since_us = -1, CLOCK.monotonic_us()

    def stands() -> bool:
        nonlocal last, since_us
        if (now := measure()) != last:
            last, since_us = now, CLOCK.monotonic_us()
        return CLOCK.monotonic_us() - since_us > STANDS_S * 1e6

    wait_until(stands, within_s=within_s, what="the sender held back")
    return last


def test_a_client_that_never_reads_holds_the_asset_back(site: Plant) -> None:
    memory = Memory(site)
    with site.running_ssh(BOX, "exec head -c 600000000 /dev/urandom") as child:
        read_until(child, b"wicketgate", stderr=True)
        screen = site.streams(site.last_session())["01.screen"]
        recorded = wait_until_it_stands(lambda: screen.stat().st_size)
        assert recorded < 20 * MB, "nothing is recorded that cannot be relayed"
        assert memory.growth() < GROWTH_MAX_BYTES
        child.kill()
    site.wait_ended()


def test_a_stopped_client_holds_the_asset_back_and_gets_everything_once_it_goes_on(site: Plant) -> None:
    memory = Memory(site)
    command = site.ssh_command(BOX, "echo up >&2; exec head -c 60000000 /dev/zero")
    into = site.folder / "zeros"
    with into.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE) as child:
        read_until(child, b"up\n", stderr=True)
        os.kill(child.pid, signal.SIGSTOP)
        screen = site.streams(site.last_session())["01.screen"]
        wait_until_it_stands(lambda: screen.stat().st_size)
        assert memory.growth() < GROWTH_MAX_BYTES
        os.kill(child.pid, signal.SIGCONT)
        assert child.wait(60) == 0
    assert into.stat().st_size == 60 * MB


def test_a_client_that_reads_slowly_but_steadily_gets_everything_at_its_own_speed(site: Plant) -> None:
    memory, size, got, most = Memory(site), 12 * MB, 0, 0
    with site.running_ssh(BOX, f"exec head -c {size} /dev/zero") as child:
        assert child.stdout is not None
        pausing_us = CLOCK.monotonic_us()
        while more := os.read(child.stdout.fileno(), 65536):
            got += len(more)
            wait_until(lambda: CLOCK.monotonic_us() >= pausing_us, what="the next read")  # noqa: B023 - waited for here
            pausing_us = CLOCK.monotonic_us() + 10_000
            most = max(most, memory.growth())
        assert child.wait(15) == 0
    assert got == size
    assert most < GROWTH_MAX_BYTES


def test_an_asset_that_never_reads_holds_the_client_back(site: Plant) -> None:
    memory = Memory(site)
    with ExitStack() as stack:
        source = stack.enter_context(Path("/dev/urandom").open("rb"))  # what compresses would look held back
        command = site.ssh_command(BOX, "echo up >&2; exec sleep 600")
        child = stack.enter_context(subprocess.Popen(command, stdin=source, stderr=subprocess.PIPE))
        stack.callback(child.kill)
        read_until(child, b"up\n", stderr=True)
        typed = site.streams(site.last_session())["01.typed"]
        recorded = wait_until_it_stands(lambda: typed.stat().st_size)
        assert recorded < 20 * MB
        assert memory.growth() < GROWTH_MAX_BYTES
    site.wait_ended()


def test_an_asset_that_reads_slowly_gets_everything_and_the_client_waits(site: Plant) -> None:
    memory, size, most = Memory(site), 8 * MB, 0
    data = site.folder / "slow-input"
    data.write_bytes(os.urandom(size))
    program = "n=0; while x=$(head -c 65536 | wc -c); [ $x -gt 0 ]; do n=$((n + x)); sleep 0.01; done; echo $n"
    with (
        data.open("rb") as source,
        subprocess.Popen(
            site.ssh_command(BOX, program), stdin=source, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as child,
    ):

        def is_over() -> bool:
            nonlocal most
            most = max(most, memory.growth())
            return child.poll() is not None

        wait_until(is_over, within_s=90, what="the end of the upload")
        assert child.stdout is not None
        assert (child.returncode, int(child.stdout.read())) == (0, size)
    assert most < GROWTH_MAX_BYTES


def test_another_session_answers_while_bulk_goes_both_ways(site: Plant) -> None:
    memory = Memory(site)
    with ExitStack() as stack:
        terminal = stack.enter_context(Terminal(site, BOX, "echo up; exec cat"))
        terminal.expect(b"up\r\n")
        for given, program in (("/dev/zero", "cat >/dev/null"), ("/dev/null", "exec cat /dev/zero")):
            source = stack.enter_context(Path(given).open("rb"))
            command = site.ssh_command(BOX, f"echo up >&2; {program}")
            child = stack.enter_context(
                subprocess.Popen(command, stdin=source, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            )
            stack.callback(child.kill)
            read_until(child, b"up\n", stderr=True)
        took_s = []
        for number in range(40):
            began_us = CLOCK.monotonic_us()
            terminal.type(b"echo %d\n" % number)
            terminal.expect(b"echo %d\r\necho %d\r\n" % (number, number))
            took_s.append((CLOCK.monotonic_us() - began_us) / 1e6)
        assert sorted(took_s)[len(took_s) * 9 // 10] < ECHO_MAX_S
        assert memory.growth() < 2 * GROWTH_MAX_BYTES
