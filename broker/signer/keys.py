"""The CA's private keys: files made by `init`, credentials of the service manager, or an agent that lets go of none.

Which key signs is what the home's public half says; where its private half is, is found out. Source: docs/rules.md CRT-9.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncssh

from broker.domain.errors import BrokerError, Code
from broker.openssh import PublicKey, parse_public_key
from broker.settings import Home, Settings
from broker.signer import agent
from broker.signer.trusted import CA_NAMES as CA_NAMES
from broker.signer.trusted import CaFiles, Stamp


def make_key(path: Path, comment: str) -> None:
    """Write a fresh ed25519 key pair, 0600 and 0644; refuses to overwrite. Raises BrokerError(CONFLICT)."""
    key = asyncssh.generate_private_key("ssh-ed25519", comment=comment)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write_new(path, key.export_private_key("openssh"), 0o600)
    _write_new(path.with_name(path.name + ".pub"), key.export_public_key("openssh"), 0o644)


class SigningKeys:
    """The private keys of the three CAs, looked up again when the home's files have changed: a rotation needs no restart."""

    def __init__(self, home: Home, settings: Settings, environment: Mapping[str, str] = os.environ) -> None:
        self._files = {name: CaFiles(home, name) for name in CA_NAMES}
        self._settings = settings
        self._environment = environment
        self._found: dict[str, tuple[Stamp, asyncssh.SSHKey]] = {}

    def of(self, name: str) -> asyncssh.SSHKey:
        """The key that signs for a CA now. Raises BrokerError(UNAVAILABLE) that says how to mend it."""
        files = self._files[name]
        stamp = files.stamp()
        known = self._found.get(name)
        if known is None or known[0] != stamp:
            known = self._found[name] = stamp, self._load(files)
        return known[1]

    def _load(self, files: CaFiles) -> asyncssh.SSHKey:
        sealed = credential_path(files.name, self._environment)
        if sealed is not None:
            return _read(sealed, files.name)
        if files.private.exists() or not self._settings.ca_agent:
            return _read(files.private, files.name)
        return _held(Path(self._settings.ca_agent), files.current())


def credential_path(name: str, environment: Mapping[str, str] = os.environ) -> Path | None:
    """Where systemd has put a CA key for this process alone. Source: systemd.exec(5), LoadCredentialEncrypted=."""
    folder = environment.get("CREDENTIALS_DIRECTORY")
    path = None if folder is None else Path(folder) / f"ca-{name}"
    return path if path is not None and path.exists() else None


def load_ca_key(home: Home, name: str) -> asyncssh.SSHKey:
    """The private key of a CA that is a file of the home. Raises BrokerError(UNAVAILABLE)."""
    return _read(home.ca_key(name), name)


def _read(path: Path, name: str) -> asyncssh.SSHKey:
    try:
        return asyncssh.read_private_key(path)
    except FileNotFoundError:
        raise BrokerError(
            Code.UNAVAILABLE, f"the {name} CA key {path} is missing; restore it from your backup"
        ) from None
    except (OSError, asyncssh.KeyImportError) as error:
        raise BrokerError(Code.UNAVAILABLE, f"the {name} CA key {path} cannot be read: {error}") from None


def _held(path: Path, public: PublicKey) -> asyncssh.SSHKey:
    """A key of the library's whose signatures the agent makes."""
    key: Any = asyncssh.import_public_key(public.line)

    def sign(data: bytes, algorithm: bytes) -> bytes:
        return agent.sign(path, public, data, algorithm)

    key.sign = sign
    return key  # type: ignore[no-any-return]


def public_of(key: asyncssh.SSHKey) -> PublicKey:
    """The public half of a private key, as it is compared."""
    return parse_public_key(key.export_public_key("openssh").decode("ascii").strip())


def host_key_line(home: Home) -> str:
    """The public key of the bastion, the only one that gets a host certificate. Raises BrokerError(UNAVAILABLE)."""
    public = home.host_key.with_name(home.host_key.name + ".pub")
    try:
        return public.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BrokerError(Code.UNAVAILABLE, f"the bastion's public host key {public} cannot be read: {error}") from None


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    except FileExistsError:
        raise BrokerError(Code.CONFLICT, f"{path} is already there; nothing was changed") from None
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
