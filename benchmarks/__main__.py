"""`make bench`: wicketgate against what OpenSSH alone offers, on this machine, in this run, as one table of ratios."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.gate import BenchGate, broker_pids, command_line, furnish, gate, make_home
from benchmarks.measure import echo_s, first_byte_s, input_mb_s, median, output_mb_s, p99, pss_kib
from benchmarks.peers import CIPHER, KEX, SSH_OPTIONS, account, known_host, make_key, sshd

JUMP, SCRIPT, GATE = "ssh -J (second sshd)", "sshd + ForceCommand ssh under script", "wicketgate, recording"
Paths = Mapping[str, Sequence[str]]
Row = tuple[str, str, Mapping[str, float], str, Callable[[float], bool]]


@contextlib.contextmanager
def paths(folder: Path) -> Iterator[tuple[Paths, BenchGate]]:
    """The three ways to the same asset, each as the beginning of an ssh command line."""
    key, known = make_key(folder / "id"), folder / "known"
    home = make_home(folder, longest_s=40_000)
    ca = command_line(home, "ca", "show", "asset")
    with contextlib.ExitStack() as stack:
        public = key.with_suffix(".pub")
        asset = stack.enter_context(sshd(folder / "asset", authorized=public, trusted_ca=ca))
        jump = stack.enter_context(sshd(folder / "jump", authorized=public))
        options = [*SSH_OPTIONS, "-o", f"UserKnownHostsFile={known}", "-i", str(key)]
        inner = shlex.join(["ssh", *options, "-p", str(asset), f"{account()}@127.0.0.1"])
        wrapper = folder / "forced"
        wrapper.write_text(
            "#!/bin/bash\n"
            f'printf -v far %q "$SSH_ORIGINAL_COMMAND"\n'
            f'exec script -qe -E never -O "{folder}/typescript.$$" -c "{inner} $far"\n'
        )
        wrapper.chmod(0o755)
        forced = stack.enter_context(sshd(folder / "forced.d", authorized=public, force=str(wrapper)))
        known.write_text(
            known_host(asset, folder / "asset/host")
            + known_host(jump, folder / "jump/host")
            + known_host(forced, folder / "forced.d/host")
        )
        engineer, uris = furnish(home, folder, asset_port=asset, asset_key=folder / "asset/host")
        running = stack.enter_context(gate(folder, home, engineer, uris))
        proxy = ["ssh", *options, "-p", str(jump), "-W", f"127.0.0.1:{asset}", f"{account()}@127.0.0.1"]
        through_gate = [*SSH_OPTIONS, "-o", f"UserKnownHostsFile={running.known_hosts}", "-i", str(running.key)]
        through_gate += [
            "-o",
            f"CertificateFile={running.key}-cert.pub",
            "-p",
            str(running.port),
            "box.bench@127.0.0.1",
        ]
        yield (
            {
                # ProxyCommand with -W is what -J itself starts; spelled out because -J cannot be given options for the jump.
                JUMP: [
                    "ssh",
                    *options,
                    "-o",
                    f"ProxyCommand={shlex.join(proxy)}",
                    "-p",
                    str(asset),
                    f"{account()}@127.0.0.1",
                ],
                SCRIPT: ["ssh", *options, "-p", str(forced), f"{account()}@127.0.0.1"],
                GATE: ["ssh", *through_gate],
            },
            running,
        )


def in_turn(ways: Paths, rounds: int, measure: Callable[[Sequence[str]], float]) -> dict[str, float]:
    """The median of some rounds, the paths taken in turn so that a noisy minute hits all of them."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, command in ways.items():
            taken[name].append(measure(command))
    return {name: median(values) for name, values in taken.items()}


def idle_kib(command: Sequence[str], running: BenchGate, *, count: int) -> float:
    """KiB of the broker's memory (PSS) for each of some idle sessions, the first one's warm-up not counted."""
    pids = broker_pids(running.pid)
    children: list[subprocess.Popen[bytes]] = []

    def open_one() -> None:
        child = subprocess.Popen([*command, "echo x; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        children.append(child)
        assert child.stdout is not None
        if child.stdout.read(1) != b"x":
            raise RuntimeError("an idle session did not open")

    try:
        for _ in range(5):
            open_one()
        before = pss_kib(pids)
        for _ in range(count):
            open_one()
        time.sleep(2)
        return (pss_kib(pids) - before) / count
    finally:
        for child in children:
            child.kill()
            child.wait()


def measure_all(ways: Paths, running: BenchGate, *, size: int, quick: bool) -> list[Row]:
    """Every row of the table: name, unit, value by path, the bar in words, and whether our ratio meets it."""
    rounds = 3 if quick else 9
    two = {name: way for name, way in ways.items() if name != SCRIPT}
    first = in_turn(ways, rounds, lambda way: first_byte_s(way) * 1000)
    trips = {name: echo_s(way, count=200 if quick else 1000) for name, way in ways.items()}
    out = in_turn(ways, 3, lambda way: output_mb_s(way, size=size))
    into = in_turn(two, 3, lambda way: input_mb_s(way, size=size))
    idle = {GATE: idle_kib(ways[GATE], running, count=20 if quick else 100)}
    return [
        ("first byte of a command", "ms", first, "<= 0.7", lambda ratio: ratio <= 0.7),
        (
            "echo round trip, p50",
            "ms",
            {n: median(t) * 1000 for n, t in trips.items()},
            "<= 1.5",
            lambda ratio: ratio <= 1.5,
        ),
        ("echo round trip, p99", "ms", {n: p99(t) * 1000 for n, t in trips.items()}, "", lambda _: True),
        (f"exec output, {size // 1_000_000} MB", "MB/s", out, ">= 0.7", lambda ratio: ratio >= 0.7),
        (f"exec stdin, {size // 1_000_000} MB", "MB/s", into, ">= 0.7", lambda ratio: ratio >= 0.7),
        ("memory of an idle session", "KiB", idle, "<= 256 KiB", lambda kib: kib <= 256),
    ]


def table(rows: Sequence[Row]) -> list[str]:
    """The rows as a Markdown table; the ratio is wicketgate's value over that of `ssh -J`."""
    lines = [
        f"| what | {JUMP} | {SCRIPT} | {GATE} | ratio to ssh -J | bar | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, unit, values, bar, holds in rows:
        ours, theirs = values[GATE], values.get(JUMP)
        ratio = ours if theirs is None else ours / theirs
        shown = [f"{values[way]:.1f} {unit}" if way in values else "-" for way in (JUMP, SCRIPT, GATE)]
        verdict = "" if not bar else "holds" if holds(ratio) else "MISSED"
        lines.append(
            f"| {name} | {' | '.join(shown)} | {'-' if theirs is None else f'{ratio:.2f}'} | {bar} | {verdict} |"
        )
    return lines


def main() -> int:
    """Measure, print, and keep the table when asked to; exit 1 when a bar is missed."""
    words = argparse.ArgumentParser(prog="make bench", description=__doc__)
    words.add_argument("--quick", action="store_true", help="fewer rounds and 60 MB instead of 300")
    words.add_argument("--keep", type=Path, metavar="FILE", help="append the table to FILE, with machine and date")
    asked = words.parse_args()
    with tempfile.TemporaryDirectory(prefix="wicketgate-bench-") as folder, paths(Path(folder)) as (ways, running):
        rows = measure_all(ways, running, size=60_000_000 if asked.quick else 300_000_000, quick=asked.quick)
    version = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False).stderr.strip()
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}, {version}"
    lines = [f"{datetime.now(UTC):%Y-%m-%d}, {machine}, {CIPHER}, {KEX}, loopback", "", *table(rows)]  # noqa: TID251
    print("\n".join(lines))
    if asked.keep:
        with asked.keep.open("a") as kept:
            kept.write("\n## " + "\n".join(lines) + "\n")
    return int(any("MISSED" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
