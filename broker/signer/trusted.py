"""The public keys of a CA in the home: the one that signs, one that is to follow it, older ones that are accepted still.

Each reader looks at the files again when they have changed, so that a rotation needs no restart. Source: docs/rules.md CRT-3.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from broker.domain.errors import BrokerError, Code
from broker.openssh import PublicKey, parse_public_key
from broker.settings import Home

log = logging.getLogger("broker.signer.trusted")
CA_NAMES: Final = ("gate", "asset", "host")
_TRIES: Final = 5
Stamp = tuple[tuple[int, int, int] | None, ...]


class CaFiles:
    """The files of one CA. next_private is there only where the private keys are files too; old holds a key a line."""

    def __init__(self, home: Home, name: str) -> None:
        self.name = name
        self.folder = home.ca_key(name).parent
        self.private = home.ca_key(name)
        self.public = self.folder / f"{name}.pub"
        self.next_private = self.folder / f"{name}.next"
        self.next_public = self.folder / f"{name}.next.pub"
        self.old = self.folder / f"{name}.old.pub"

    def current(self) -> PublicKey:
        """The key that NAME.pub shows. Raises BrokerError(UNAVAILABLE)."""
        return self._read(self.public)[0]

    def following(self) -> PublicKey | None:
        """The key that was made ready to sign next. Raises BrokerError(UNAVAILABLE)."""
        return self._read(self.next_public)[0] if self.next_public.exists() else None

    def older(self) -> list[PublicKey]:
        """The keys that signed before. Raises BrokerError(UNAVAILABLE)."""
        return self._read(self.old) if self.old.exists() else []

    def stamp(self) -> Stamp:
        """Another value once any of the files is another one."""
        return tuple(_stamp(path) for path in (self.private, self.public, self.next_public, self.old))

    def every(self) -> list[PublicKey]:
        """All of them, the current first. Raises BrokerError(UNAVAILABLE)."""
        for _ in range(_TRIES):
            before = self.stamp()
            found = [self.current(), *filter(None, [self.following()]), *self.older()]
            if self.stamp() == before:  # else a rotation went on in between
                return list({one.blob: one for one in found}.values())
        raise BrokerError(Code.UNAVAILABLE, f"the {self.name} CA's files change again and again")

    def _read(self, path: Path) -> list[PublicKey]:
        try:
            found = [parse_public_key(line) for line in path.read_text(encoding="ascii").splitlines() if line.strip()]
        except OSError as error:
            raise BrokerError(
                Code.UNAVAILABLE, f"the {self.name} CA's public key {path} cannot be read: {error.strerror}"
            ) from None
        except (UnicodeDecodeError, BrokerError):
            found = []
        if not found:
            raise BrokerError(
                Code.UNAVAILABLE, f"the {self.name} CA's public key {path} is damaged; restore it from your backup"
            )
        return found


class TrustedKeys:
    """The public keys of one CA as a process knows them: looked up again when a file has changed, kept when it cannot be read."""

    def __init__(self, files: CaFiles) -> None:
        self._files = files
        self._stamp = files.stamp()
        self._keys = files.every()

    def now(self) -> Sequence[PublicKey]:
        """All of them, the current first."""
        stamp = self._files.stamp()
        if stamp != self._stamp:
            try:
                self._keys = self._files.every()
                self._stamp = stamp
            except BrokerError as error:
                log.warning("the keys known before are kept: %s", error.detail)
        return self._keys


def full_line(key: PublicKey) -> str:
    """A key as it stands in a file, with its comment."""
    return f"{key.line} {key.comment}".strip()


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
