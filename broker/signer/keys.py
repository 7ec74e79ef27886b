"""The CA keys: made once by `init`, read by the signer alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import asyncssh

from broker.domain.errors import BrokerError, Code
from broker.settings import Home

CA_NAMES: Final = ("gate", "asset", "host")


def make_key(path: Path, comment: str) -> None:
    """Write a fresh ed25519 key pair, 0600 and 0644; refuses to overwrite. Raises BrokerError(CONFLICT)."""
    key = asyncssh.generate_private_key("ssh-ed25519", comment=comment)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write_new(path, key.export_private_key("openssh"), 0o600)
    _write_new(path.with_name(path.name + ".pub"), key.export_public_key("openssh"), 0o644)


def load_ca_key(home: Home, name: str) -> asyncssh.SSHKey:
    """The private key of a CA. Raises BrokerError(UNAVAILABLE) that says which is missing and how to mend it."""
    path = home.ca_key(name)
    try:
        return asyncssh.read_private_key(path)
    except FileNotFoundError:
        raise BrokerError(
            Code.UNAVAILABLE, f"the {name} CA key {path} is missing; restore it from your backup"
        ) from None
    except (OSError, asyncssh.KeyImportError) as error:
        raise BrokerError(Code.UNAVAILABLE, f"the {name} CA key {path} cannot be read: {error}") from None


def ca_line(home: Home, name: str) -> str:
    """The public key of a CA as one OpenSSH line, ready for TrustedUserCAKeys. Raises BrokerError(UNAVAILABLE)."""
    return _public_line(home.ca_key(name), f"the {name} CA's public key")


def host_key_line(home: Home) -> str:
    """The public key of the bastion, the only one that gets a host certificate. Raises BrokerError(UNAVAILABLE)."""
    return _public_line(home.host_key, "the bastion's public host key")


def _public_line(path: Path, what: str) -> str:
    public = path.with_name(path.name + ".pub")
    try:
        return public.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BrokerError(Code.UNAVAILABLE, f"{what} {public} cannot be read: {error}") from None


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    except FileExistsError:
        raise BrokerError(Code.CONFLICT, f"{path} is already there; nothing was changed") from None
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
