"""A stock ssh as a person has it before them: on a terminal of its own, typed into and read by the test."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import selectors
import signal
import struct
import subprocess
import termios
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.site import CLOCK, ENGINEER, Plant


class Terminal:
    """One ssh on a pty; its own words (stderr) go to a file, so that the terminal shows only what came for stdout.

    seen: everything that the terminal has shown so far.
    """

    def __init__(
        self,
        plant: Plant,
        login: str,
        *words: str,
        engineer: str = ENGINEER,
        options: Sequence[str] = (),
        columns: int = 80,
        rows: int = 24,
        command: Sequence[str] = (),
    ) -> None:
        """command: a whole command line, where the plant's own for this login is not the subject."""
        self.seen, self._taken = b"", 0
        self._stderr = Path(plant.folder) / f"terminal-{os.urandom(4).hex()}"
        command = command or plant.ssh_command(login, *words, engineer=engineer, options=["-tt", *options])
        self._master, far = pty.openpty()
        self._set_size(columns, rows)
        with self._stderr.open("wb") as errors:
            self.process = subprocess.Popen(
                command, stdin=far, stdout=far, stderr=errors, env=plant.environment() | {"TERM": "xterm"}
            )
        os.close(far)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(10)
        os.close(self._master)

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._master, keys)

    def expect(self, wanted: bytes, *, within_s: float = 15) -> bytes:
        """Everything shown up to the wanted bytes, counted from the last expectation. Raises AssertionError."""
        until = CLOCK.monotonic_us() + int(within_s * 1e6)
        while wanted not in self.seen[self._taken :]:
            left_s = (until - CLOCK.monotonic_us()) / 1e6
            assert left_s > 0, f"{wanted!r} did not come: {self.seen[-2000:]!r}, {self.stderr()!r}"
            assert self._read(left_s), f"{wanted!r} did not come before the end: {self.seen!r}, {self.stderr()!r}"
        end = self.seen.index(wanted, self._taken) + len(wanted)
        shown, self._taken = self.seen[self._taken : end], end
        return shown

    def resize(self, columns: int, rows: int) -> None:
        """Give the terminal another size, as dragging its corner does."""
        self._set_size(columns, rows)
        self.process.send_signal(signal.SIGWINCH)

    def stderr(self) -> str:
        """What ssh, and the bastion through it, has said beside the terminal so far."""
        return self._stderr.read_text(errors="replace")

    def told(self) -> list[str]:
        """The lines among them that are the bastion's own."""
        return [line for line in self.stderr().splitlines() if "wicketgate" in line.split(":")[0]]

    def end(self, *, within_s: float = 15) -> int:
        """The exit status; what is still shown until then is read. Raises AssertionError when it does not come."""
        until = CLOCK.monotonic_us() + int(within_s * 1e6)
        while self._read(left_s := (until - CLOCK.monotonic_us()) / 1e6):
            assert left_s > 0, f"ssh still runs: {self.seen[-2000:]!r}, {self.stderr()!r}"
        return self.process.wait(within_s)

    def _read(self, within_s: float) -> bool:
        """Take what is there; False once nobody holds the other side any more."""
        with selectors.DefaultSelector() as ready:
            ready.register(self._master, selectors.EVENT_READ)
            if not ready.select(max(0.0, within_s)):
                return True
        try:
            more = os.read(self._master, 65536)
        except OSError:  # EIO: how a pty says that its other side was closed
            return False
        self.seen += more
        return bool(more)

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def seconds_to_end(process: subprocess.Popen[bytes], *, since_us: int, within_s: float = 15) -> float:
    """When a process ended, in seconds after a moment of the monotonic clock. Raises AssertionError when it goes on."""
    fd = os.pidfd_open(process.pid)
    try:
        ended = select.select([fd], [], [], within_s)[0]
        now_us = CLOCK.monotonic_us()
    finally:
        os.close(fd)
    assert ended, f"still running after {within_s} s"
    return (now_us - since_us) / 1e6
