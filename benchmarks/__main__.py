"""`make bench`: wicketgate against what OpenSSH alone offers, on this machine, in this run, as one table of ratios."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from benchmarks.ends import ground, measure_ends
from benchmarks.measure import echo_s, first_byte_s, idle_kib, input_mb_s, output_mb_s, whole_s
from benchmarks.peers import CIPHER, KEX
from benchmarks.table import GATE, JUMP, WAYS, Bar, Of, Row, markdown, p99
from benchmarks.ways import Bench, bench


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: rounds of logins, of echoes (trips each) and of copies (bytes each), idle sessions, sessions ended."""

    logins: int
    echoes: int
    trips: int
    copies: int
    copy_bytes: int
    idle: int
    ended: int


FULL: Final = Size(logins=21, echoes=7, trips=200, copies=5, copy_bytes=300_000_000, idle=100, ended=200)
QUICK: Final = Size(logins=5, echoes=3, trips=100, copies=2, copy_bytes=60_000_000, idle=20, ended=20)


def in_turn(
    setting: Bench, names: Iterable[str], rounds: int, measure: Callable[[Sequence[str]], float]
) -> dict[str, list[float]]:
    """A value for each round by way, the ways taken in turn so that a noisy minute hits all of them."""
    taken: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in taken:
            taken[name].append(measure(setting.ways[name]))
    return taken


def measure_all(setting: Bench, size: Size, tell: Callable[[str], None]) -> list[Row]:
    """Every row of the table, the bars of the product with it."""
    mb = size.copy_bytes // 1_000_000
    plain = (JUMP, GATE)  # a terminal, which is how script records, does not carry a program's stdin as bytes
    tell("logins")
    first = in_turn(setting, WAYS, size.logins, lambda way: first_byte_s(way) * 1000)
    whole = in_turn(setting, WAYS, size.logins // 2, lambda way: whole_s(way) * 1000)
    tell("echoes")
    tails: list[float] = []

    def echo(way: Sequence[str]) -> float:
        trips = [trip * 1000 for trip in echo_s(way, count=size.trips)]
        tails.append(p99(trips))
        return statistics.median(trips)

    middles = in_turn(setting, WAYS, size.echoes, echo)
    tell("copies")
    output = in_turn(setting, WAYS, size.copies, lambda way: output_mb_s(way, size=size.copy_bytes))
    taken = in_turn(setting, plain, size.copies, lambda way: input_mb_s(way, size=size.copy_bytes))
    tell("idle sessions")
    idle = {name: [idle_kib(setting.ways[name], setting.servers[name], count=size.idle)] for name in WAYS}
    return [
        Row("first byte of a command, login included", "ms", first, Bar(0.7)),
        Row("`true`, from the start of ssh to the end of its output", "ms", whole),
        Row("echo in a terminal, p50", "ms", middles, Bar(1.5)),
        Row("echo in a terminal, p99", "ms", {name: tails[at :: len(WAYS)] for at, name in enumerate(WAYS)}),
        Row(f"exec output, {mb} MB", "MB/s", output, Bar(0.7, at_least=True)),
        Row(f"exec stdin, {mb} MB", "MB/s", taken, Bar(0.7, at_least=True)),
        Row(f"memory of each of {size.idle} idle sessions, PSS", "KiB", idle, Bar(256, of=Of.VALUE)),
    ]


def measure_in(folder: Path, size: Size, only: str | None) -> list[Row]:
    """All rows, or those of one kind; each kind has a site of its own, that nothing is left of when the next begins."""
    rows: list[Row] = []
    if only != "ends":
        with bench(folder / "ways") as setting:
            rows += measure_all(setting, size, _tell)
    if only != "ways":
        with ground(folder / "ends") as on:
            rows += measure_ends(on, size.ended, _tell)
    return rows


def _tell(what: str) -> None:
    print(what, file=sys.stderr)


def heading() -> str:
    """The day and the machine."""
    version = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False).stderr.split(",")[0].strip()
    processor = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.split(":", 1)[1].strip()
            break
    parts = [
        f"{datetime.now(UTC):%Y-%m-%d}",  # noqa: TID251 - a benchmark lives in real time
        f"{os.cpu_count()} x {processor}",
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()}",
        version,
        CIPHER,
        KEX,
        "loopback",
    ]
    return ", ".join(parts)


def main() -> int:
    """Measure, print, and keep the table when asked to; exit 1 when a bar is missed."""
    words = argparse.ArgumentParser(prog="make bench", description=__doc__)
    words.add_argument("--quick", action="store_true", help="fewer rounds, 60 MB instead of 300, 20 idle sessions")
    words.add_argument("--keep", type=Path, metavar="FILE", help="append the table to FILE, with machine and date")
    words.add_argument("--only", choices=("ways", "ends"), help="the ways to an asset, or how exactly sessions end")
    asked = words.parse_args()
    size = QUICK if asked.quick else FULL
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what was started is stopped
    try:
        with tempfile.TemporaryDirectory(prefix="wg-bench-") as folder:
            rows = measure_in(Path(folder), size, asked.only)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    lines = [heading(), "", *markdown(rows)]
    print("\n".join(lines))
    if asked.keep:
        with asked.keep.open("a") as kept:
            kept.write("\n## " + "\n".join(lines) + "\n")
    return int(any(row.missed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
