"""A wicketgate of its own for measuring: one site, one asset, one engineer with a live certificate, through the real program."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pyotp

from benchmarks.peers import Peer, account, make_key, stop
from broker.settings import parse_address

PROGRAM: Final = Path(sys.executable).with_name("wicketgate")
# Room for a hundred sessions of one engineer; all else as a site gets it.
ROOMY: Final = {"sessions_per_grant_max": "500", "sessions_per_engineer_max": "500", "sessions_per_asset_max": "500"}
READY_WITHIN_S: Final = 60.0
COMMAND_WITHIN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Engineer:
    """The engineer's key, and the code generators of the engineer and of the owner."""

    key: Path
    codes: pyotp.TOTP
    owner_codes: pyotp.TOTP


def command_line(home: Path, *words: str, text: str = "") -> str:
    """Run one wicketgate command and give its stdout; its own line is raised when it fails."""
    done = subprocess.run(
        [PROGRAM, "--home", home, *words],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_WITHIN_S,
    )
    if done.returncode:
        raise RuntimeError(f"wicketgate {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def make_home(folder: Path) -> Path:
    """A home on free loopback ports, made by `init`."""
    home = folder / "home"
    command_line(home, "init", "--ssh", "127.0.0.1:0", "--web", "127.0.0.1:0")
    settings = home / "settings.toml"
    lines = [f"{key} = {value}" for key, value in ROOMY.items()]
    lines += [line for line in settings.read_text().splitlines() if line.split(" = ")[0] not in ROOMY]
    settings.write_text("\n".join(lines) + "\n")
    return home


def furnish(home: Path, folder: Path, asset: Peer) -> Engineer:
    """Site, vendor, asset, window, people."""
    run = command_line
    run(home, "site", "add", "bench", "--timezone", "UTC")
    run(home, "vendor", "add", "maker")
    words = ["asset", "add", "box.bench", "--address", f"127.0.0.1:{asset.port}", "--account", account()]
    run(home, *words, "--host-key", f"{asset.host_key}.pub", "--class", "routine")
    run(home, "asset", "state", "box.bench", "operational")
    run(home, "person", "add", "engineer", "--name", "Engineer", "--vendor", "maker")
    run(home, "person", "add", "owner", "--name", "Owner", "--role", "owner", "--site", "bench")
    key = make_key(folder / "engineer")
    engineer = json.loads(run(home, "enrol", "engineer", "--key", f"{key}.pub", "--json"))
    owner = json.loads(run(home, "enrol", "owner", "--password-stdin", "--json", text="a long bench password\n"))
    now = datetime.now(UTC)  # noqa: TID251 - a benchmark lives in real time
    times = ["--from", (now - timedelta(hours=1)).isoformat(), "--until", (now + timedelta(days=1)).isoformat()]
    run(home, "window", "open", "bench", "--vendor", "maker", *times)
    return Engineer(key, _codes(engineer["totp_uri"]), _codes(owner["totp_uri"]))


@contextlib.contextmanager
def serving(home: Path) -> Iterator[tuple[int, int]]:
    """All processes of the site, ended by pid at the end; gives the SSH port and the process id of `serve`."""
    log = home / "serve.log"
    with log.open("w") as errors:
        command = [str(PROGRAM), "--home", str(home), "serve"]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        overdue = threading.Timer(READY_WITHIN_S, child.kill)
        overdue.start()
        try:
            assert child.stdout is not None
            if not child.stdout.readline().startswith("ready"):
                raise RuntimeError(f"wicketgate serve did not become ready: {log.read_text()[-2000:].strip()}")
            overdue.cancel()
            yield parse_address((home / "run/ssh.address").read_text().strip()).port, child.pid
        finally:
            overdue.cancel()
            stop(child, within_s=30)
            assert child.stdout is not None
            child.stdout.close()


def collect_certificate(home: Path, folder: Path, engineer: Engineer, console: Sequence[str]) -> None:
    """Ask, approve, collect: the certificate lies beside the engineer's key, where ssh looks for it."""
    asked = ["request", "box.bench", "--for", "12h", "--reason", "measuring", "--needs", "shell,exec", "--json"]
    earlier = engineer.codes.at(datetime.now(UTC), counter_offset=-1)  # noqa: TID251 - a code is good once: two are needed
    request = json.loads(_console([*console, *asked], earlier, folder))
    command_line(home, "approve", request["id"], "--as", "owner", "--totp", engineer.owner_codes.now())
    certificate = _console([*console, "cert"], engineer.codes.now(), folder)
    Path(f"{engineer.key}-cert.pub").write_text(certificate)


def _console(command: Sequence[str], code: str, folder: Path) -> str:
    """Run one console command through stock ssh, answering the code by askpass."""
    answer = folder / "askpass"
    answer.write_text(f"#!/bin/sh\necho {code}\n")
    answer.chmod(0o700)
    environment = os.environ | {"SSH_ASKPASS": str(answer), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":none"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=COMMAND_WITHIN_S
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _codes(uri: str) -> pyotp.TOTP:
    codes = pyotp.parse_uri(uri)
    assert isinstance(codes, pyotp.TOTP)
    return codes
