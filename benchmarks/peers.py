"""The far ends and the rivals: an asset's sshd, a jump sshd, and a recording jump made of sshd, ForceCommand and script."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CIPHER: Final = "aes128-gcm@openssh.com"
KEX: Final = "curve25519-sha256"


@dataclass(frozen=True, slots=True)
class Peer:
    """A running sshd: its loopback port, its host key, its process id."""

    port: int
    host_key: Path
    pid: int


def free_port() -> int:
    """A TCP port that was free a moment ago on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_key(path: Path) -> Path:
    """A fresh ed25519 key without passphrase."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f", path], check=True)
    return path


def wait_for_port(port: int, *, within_s: float = 10) -> None:
    """Return once something listens on the loopback port. Raises TimeoutError."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on port {port}")


def stop(child: subprocess.Popen[str] | subprocess.Popen[bytes], *, within_s: float) -> None:
    """End a process that we started: asked first, killed when it does not listen."""
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(within_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


@contextlib.contextmanager
def sshd(
    folder: Path, *, authorized: Path | None = None, trusted_ca: str | None = None, force: str = ""
) -> Iterator[Peer]:
    """A Debian sshd on a free loopback port, stopped by pid at the end."""
    folder.mkdir(parents=True)
    port, key = free_port(), make_key(folder / "host")
    (folder / "ca.pub").write_text(trusted_ca or "")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    lines = [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {key}",
        f"AuthorizedKeysFile {authorized or 'none'}",
        f"TrustedUserCAKeys {folder / 'ca.pub' if trusted_ca else 'none'}",
        "PidFile none",
        "UsePAM no",
        "StrictModes no",
        "PasswordAuthentication no",
        "PermitRootLogin yes",
        "PrintMotd no",
        "PrintLastLog no",
        "MaxStartups 500",
        "AcceptEnv LANG LC_*",
        "Subsystem sftp internal-sftp",
        "LogLevel ERROR",
        "SetEnv SHLVL=2",  # or bash reads the account's own .bashrc, which is part of none of the ways
        f"ForceCommand {force}" if force else "",
    ]
    (folder / "sshd_config").write_text("\n".join(lines) + "\n")
    program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:" + os.environ.get("PATH", ""))
    if program is None:
        raise FileNotFoundError("sshd is missing: apt-get install openssh-server")
    child = subprocess.Popen([program, "-D", "-e", "-f", folder / "sshd_config"], stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        yield Peer(port, key, child.pid)
    finally:
        stop(child, within_s=10)


def forced_wrapper(folder: Path, config: Path) -> Path:
    """What a bastion made of OpenSSH alone runs for its users: ssh to the asset, under script, which keeps the output."""
    wrapper = folder / "forced"
    wrapper.write_text(
        "#!/bin/bash\n"
        "[ -t 0 ] && tty=-tt\n"
        'printf -v far %q "$SSH_ORIGINAL_COMMAND"\n'
        f'exec script -qe -E never -O "{folder}/typescript.$$" -c "ssh -F {config} $tty asset $far"\n'
    )
    wrapper.chmod(0o755)
    return wrapper


def known_host(port: int, host_key: Path) -> str:
    """One known_hosts line for a loopback port."""
    kind, blob, *_ = host_key.with_name(host_key.name + ".pub").read_text().split()
    return f"[127.0.0.1]:{port} {kind} {blob}\n"


def account() -> str:
    """The account that runs this, which is also the account on the far ends."""
    return getpass.getuser()
