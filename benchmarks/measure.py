"""What is measured, each from outside: the same stock ssh against every path in turn."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

CHUNK_BYTES = 65536


def first_byte_s(command: Sequence[str]) -> float:
    """Seconds from starting ssh to the first byte of a remote command's output."""
    began = time.perf_counter()
    with subprocess.Popen([*command, "echo x; exec true"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        if child.stdout.read(1) != b"x":
            raise RuntimeError(f"no answer through {' '.join(command[-3:])}")
        return time.perf_counter() - began


def echo_s(command: Sequence[str], *, count: int) -> list[float]:
    """Seconds of one byte's round trip through a remote `cat`, count times, the first twenty dropped."""
    with subprocess.Popen([*command, "exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        trips = []
        for _ in range(count + 20):
            began = time.perf_counter()
            child.stdin.write(b"x")
            if child.stdout.read(1) != b"x":
                raise RuntimeError("the echo ended early")
            trips.append(time.perf_counter() - began)
            time.sleep(0.002)
        child.stdin.close()
    return trips[20:]


def output_mb_s(command: Sequence[str], *, size: int) -> float:
    """MB/s of a remote command's output, first to last byte."""
    with subprocess.Popen(
        [*command, f"exec head -c {size} /dev/zero"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0
    ) as child:
        assert child.stdout is not None
        got, began = len(child.stdout.read(1)), time.perf_counter()
        while chunk := child.stdout.read(CHUNK_BYTES):
            got += len(chunk)
        took = time.perf_counter() - began
    if got != size:
        raise RuntimeError(f"{got} of {size} bytes arrived")
    return size / took / 1e6


def input_mb_s(command: Sequence[str], *, size: int) -> float:
    """MB/s of stdin into a remote command, from the first byte sent to the remote's count of them."""
    with subprocess.Popen(
        [*command, "echo ready; exec wc -c"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.read(6)
        zeros, left, began = bytes(CHUNK_BYTES), size, time.perf_counter()
        while left:
            left -= child.stdin.write(zeros[:left])
        child.stdin.close()
        counted = child.stdout.read(32)
        took = time.perf_counter() - began
    if int(counted) != size:
        raise RuntimeError(f"{counted!r} of {size} bytes arrived")
    return size / took / 1e6


def pss_kib(pids: Sequence[int]) -> int:
    """Proportional set size of some processes together, KiB."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def p99(values: Sequence[float]) -> float:
    """The value that one in a hundred exceeds."""
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]
