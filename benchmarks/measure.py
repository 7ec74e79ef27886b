"""What is measured, each from outside: the same stock ssh against every way in turn, every wait with an end."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

CHUNK_BYTES: Final = 65536
WITHIN_S: Final = 60.0
WARM_UP_TRIPS: Final = 20
PAUSE_S: Final = 0.002


@contextlib.contextmanager
def started(command: Sequence[str]) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Run a command and give its stdin and stdout, unbuffered; it is killed at the end, or when it takes too long.

    Raises RuntimeError, with the command's last words, when it ends before what was wanted of it.
    """
    with tempfile.TemporaryFile() as complaints:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, bufsize=0)
        assert child.stdin is not None
        assert child.stdout is not None
        overdue = threading.Timer(WITHIN_S, child.kill)
        overdue.start()
        try:
            yield child.stdin, child.stdout
        except (Short, BrokenPipeError) as error:
            child.kill()
            child.wait()
            complaints.seek(0)
            said = complaints.read(4000).decode("utf-8", "replace").strip()
            raise RuntimeError(f"{command[-1]!r} through {command[-2]!r}: {error}; {said}") from None
        finally:
            overdue.cancel()
            child.kill()
            child.wait()
            with contextlib.suppress(OSError):
                child.stdin.close()
            child.stdout.close()


class Short(Exception):
    """The output ended, or was cut off for taking too long, before all of it had come."""


def expect(out: IO[bytes], wanted: bytes) -> None:
    """Read until the bytes have come. Raises Short at the end of the output."""
    got = b""
    while wanted not in got:
        more = out.read(CHUNK_BYTES)
        if not more:
            raise Short(f"it ended, or took {WITHIN_S:.0f} s, before {wanted!r}, after {got[-200:]!r}")
        got += more


def first_byte_s(way: Sequence[str]) -> float:
    """Seconds from starting ssh to the first byte of a remote command's output."""
    began = time.perf_counter()
    with started([*way, "echo x; exec true"]) as (_, out):
        expect(out, b"x")
        return time.perf_counter() - began


def whole_s(way: Sequence[str]) -> float:
    """Seconds from starting ssh with `true` to the end of its output."""
    began = time.perf_counter()
    with started([*way, "true"]) as (_, out):
        out.read()
        return time.perf_counter() - began


def echo_s(way: Sequence[str], *, count: int) -> list[float]:
    """Seconds of one byte's round trip through a remote terminal and `cat`, count times, the first few dropped."""
    with started([*way, "-tt", "stty raw -echo; printf begin; exec cat"]) as (into, out):
        expect(out, b"begin")
        trips = []
        for _ in range(count + WARM_UP_TRIPS):
            began = time.perf_counter()
            into.write(b"x")
            expect(out, b"x")
            trips.append(time.perf_counter() - began)
            time.sleep(PAUSE_S)
    return trips[WARM_UP_TRIPS:]


def output_mb_s(way: Sequence[str], *, size: int) -> float:
    """MB/s of a remote command's output, first to last byte."""
    with started([*way, f"exec head -c {size} /dev/zero"]) as (_, out):
        got, began = len(out.read(1)), time.perf_counter()
        while chunk := out.read(CHUNK_BYTES):
            got += len(chunk)
        took = time.perf_counter() - began
        if got != size:
            raise Short(f"{got} of {size} bytes came within {WITHIN_S:.0f} s")
    return size / took / 1e6


def input_mb_s(way: Sequence[str], *, size: int) -> float:
    """MB/s of stdin into a remote command, from the first byte sent to the remote's count of all."""
    with started([*way, "echo begin; exec wc -c"]) as (into, out):
        expect(out, b"begin\n")
        zeros, left, began = bytes(CHUNK_BYTES), size, time.perf_counter()
        while left:
            left -= into.write(zeros[:left])
        into.close()
        expect(out, f"{size}\n".encode())
        took = time.perf_counter() - began
    return size / took / 1e6


def idle_kib(way: Sequence[str], server: int, *, count: int, warm_up: int = 5) -> float:
    """KiB of memory (PSS) that each of some idle terminal sessions costs the server's processes, warm-up not counted."""
    with contextlib.ExitStack() as stack:

        def open_some(many: int) -> int:
            for _ in range(many):
                _, out = stack.enter_context(started([*way, "-tt", "printf begin; exec cat"]))
                expect(out, b"begin")
            time.sleep(2)  # what a login leaves behind is let go of
            return pss_kib(tree(server))

        before = open_some(warm_up)
        return (open_some(count) - before) / count


def tree(root: int) -> list[int]:
    """A process and all its descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def pss_kib(pids: Sequence[int]) -> int:
    """Proportional set size of some processes together, KiB; one that has ended counts nothing."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total
