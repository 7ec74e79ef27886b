"""A wicketgate of its own for measuring: one site, one asset, one engineer with a live certificate, through the real program."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyotp

from benchmarks.peers import account, free_port, make_key, wait_for_port

PROGRAM = Path(sys.executable).with_name("wicketgate")


@dataclass(frozen=True, slots=True)
class BenchGate:
    """A running broker: its port, the engineer's key and certificate, known_hosts, and the broker's process ids."""

    port: int
    key: Path
    known_hosts: Path
    pid: int


def command_line(home: Path, *words: str, text: str = "") -> str:
    """Run one wicketgate command and give its stdout; its own line is raised when it fails."""
    done = subprocess.run([PROGRAM, "--home", home, *words], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"wicketgate {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def make_home(folder: Path, *, longest_s: int) -> Path:
    """A home with room for a hundred connections at once, made by `init`."""
    home = folder / "home"
    command_line(home, "init", "--ssh", f"127.0.0.1:{free_port()}", "--web", f"127.0.0.1:{free_port()}")
    settings = home / "settings.toml"
    kept = [
        line
        for line in settings.read_text().splitlines()
        if not line.startswith(("sessions_per_grant_max", "per_source_"))
    ]
    more = ["sessions_per_grant_max = 500", "per_source_unauthenticated_max = 200", f"longest_session_s = {longest_s}"]
    kept = [line for line in kept if not line.startswith("longest_session_s")]
    settings.write_text("\n".join([*more, *kept]) + "\n")
    return home


def furnish(home: Path, folder: Path, *, asset_port: int, asset_key: Path) -> tuple[Path, str]:
    """Site, vendor, asset, window, people; gives the engineer's key and TOTP URI."""
    run = command_line
    run(home, "site", "add", "bench", "--timezone", "UTC")
    run(home, "vendor", "add", "maker")
    words = ["asset", "add", "box.bench", "--address", f"127.0.0.1:{asset_port}", "--account", account()]
    run(home, *words, "--host-key", str(asset_key.with_suffix(".pub")), "--class", "routine")
    run(home, "asset", "state", "box.bench", "operational")
    run(home, "person", "add", "engineer", "--name", "Engineer", "--vendor", "maker")
    run(home, "person", "add", "owner", "--name", "Owner", "--role", "owner", "--site", "bench")
    key = make_key(folder / "engineer")
    engineer = json.loads(run(home, "enrol", "engineer", "--key", str(key.with_suffix(".pub")), "--json"))
    owner = json.loads(run(home, "enrol", "owner", "--password-stdin", "--json", text="a long bench password\n"))
    now = datetime.now(UTC)  # noqa: TID251 - a benchmark lives in real time
    times = ["--from", (now - timedelta(hours=1)).isoformat(), "--until", (now + timedelta(days=1)).isoformat()]
    run(home, "window", "open", "bench", "--vendor", "maker", *times)
    return key, engineer["totp_uri"] + "\n" + owner["totp_uri"]


def console(port: int, key: Path, known_hosts: Path, code: str, *words: str, folder: Path) -> str:
    """Run one console command through stock ssh, answering the code by askpass."""
    answer = folder / "askpass"
    answer.write_text(f"#!/bin/sh\necho {code}\n")
    answer.chmod(0o700)
    environment = os.environ | {"SSH_ASKPASS": str(answer), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":none"}
    ssh = ["ssh", "-F", "none", "-p", str(port), "-i", str(key), "-o", f"UserKnownHostsFile={known_hosts}"]
    options = ["-o", "StrictHostKeyChecking=yes", "-o", "IdentityAgent=none", "-o", "CertificateFile=none"]
    done = subprocess.run(
        [*ssh, *options, "gate@127.0.0.1", *words], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"console {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


@contextlib.contextmanager
def gate(folder: Path, home: Path, key: Path, uris: str) -> Iterator[BenchGate]:
    """Serve, ask, approve, collect the certificate; stop the program by pid at the end."""
    engineer, owner = (pyotp.parse_uri(uri) for uri in uris.splitlines())
    assert isinstance(engineer, pyotp.TOTP)
    assert isinstance(owner, pyotp.TOTP)
    port = next(
        int(line.rsplit(":", 1)[1].strip('" '))
        for line in (home / "settings.toml").read_text().splitlines()
        if line.startswith("ssh_listen")
    )
    known_hosts = folder / "known_hosts"
    host_key = (home / "keys/host/ssh_host_ed25519_key.pub").read_text().split()
    known_hosts.write_text(f"[127.0.0.1]:{port} {host_key[0]} {host_key[1]}\n")
    with subprocess.Popen([PROGRAM, "--home", home, "serve"], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            if not child.stdout.readline().startswith("ready"):
                raise RuntimeError("wicketgate serve did not become ready")
            wait_for_port(port)
            asked = ["request", "box.bench", "--for", "12h", "--reason", "measuring", "--needs", "shell,exec", "--json"]
            earlier = engineer.at(datetime.now(UTC), counter_offset=-1)  # noqa: TID251
            request = json.loads(console(port, key, known_hosts, earlier, *asked, folder=folder))
            command_line(home, "approve", request["id"], "--as", "owner", "--totp", owner.now())
            certificate = console(port, key, known_hosts, engineer.now(), "cert", folder=folder)
            Path(f"{key}-cert.pub").write_text(certificate)
            yield BenchGate(port, key, known_hosts, child.pid)
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(30)


def broker_pids(parent: int) -> list[int]:
    """The broker child (not signer, not approval) of a `serve`, by its command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                ppid = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if ppid == parent and b"broker" in words:
                    found.append(int(entry.name))
    return found
