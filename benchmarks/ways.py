"""The ways to one asset that are held against each other, each as the beginning of an ssh command line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.gate import collect_certificate, command_line, furnish, make_home, serving
from benchmarks.peers import CIPHER, KEX, account, forced_wrapper, known_host, make_key, sshd
from benchmarks.table import GATE, JUMP, SCRIPT

OPTIONS: Final = f"""
Host *
  HostName 127.0.0.1
  User {account()}
  BatchMode yes
  IdentitiesOnly yes
  IdentityAgent none
  LogLevel ERROR
  ControlMaster no
  GlobalKnownHostsFile none
  StrictHostKeyChecking yes
  Ciphers {CIPHER}
  KexAlgorithms {KEX}
"""


@dataclass(frozen=True, slots=True)
class Bench:
    """ways: ssh's command line up to the remote command, by way; servers: the process whose tree stands in between."""

    ways: Mapping[str, Sequence[str]]
    servers: Mapping[str, int]


@contextlib.contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    """An asset, two bastions made of OpenSSH and one wicketgate, all on loopback; everything is stopped at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    key, config, known = make_key(folder / "id"), folder / "ssh_config", folder / "known_hosts"
    home = make_home(folder)
    ca = command_line(home, "ca", "show", "asset")
    with contextlib.ExitStack() as stack:
        public = folder / "id.pub"
        asset = stack.enter_context(sshd(folder / "asset", authorized=public, trusted_ca=ca))
        jump = stack.enter_context(sshd(folder / "jump", authorized=public))
        wrapper = forced_wrapper(folder, config)
        forced = stack.enter_context(sshd(folder / "script", authorized=public, force=str(wrapper)))
        engineer = furnish(home, folder, asset)
        port, pid = stack.enter_context(serving(home))
        hosts = [
            f"Host {name}\n  Port {peer.port}\n  IdentityFile {key}\n"
            for name, peer in (("asset", asset), ("jump", jump), ("script", forced))
        ]
        # The certificate is named, or stock ssh would show the bare key first and be asked for a code.
        shown = f"  IdentityFile {engineer.key}\n  CertificateFile {engineer.key}-cert.pub\n"
        hosts.append(f"Host gate\n  Port {port}\n{shown}  User box.bench\n")
        config.write_text("".join(hosts) + OPTIONS + f"  UserKnownHostsFile {known}\n")
        gate_key = home / "keys/host/ssh_host_ed25519_key"
        known.write_text(
            "".join(known_host(peer.port, peer.host_key) for peer in (asset, jump, forced)) + known_host(port, gate_key)
        )
        ssh = ["ssh", "-F", str(config)]
        console = [*ssh, "-l", "gate", "-o", "BatchMode=no", "gate"]
        collect_certificate(home, folder, engineer, console)
        yield Bench(
            ways={JUMP: [*ssh, "-J", "jump", "asset"], SCRIPT: [*ssh, "script"], GATE: [*ssh, "gate"]},
            servers={JUMP: jump.pid, SCRIPT: forced.pid, GATE: pid},
        )
