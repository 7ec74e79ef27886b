"""Capability: what a grant lets an engineer do at an asset."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from broker.domain.errors import BrokerError, Code
from broker.domain.ids import quoted


class CapabilityKind(StrEnum):
    """The kinds of door; only `tcp` takes a port."""

    SHELL = "shell"
    EXEC = "exec"
    SFTP_READ = "sftp-read"
    SFTP_WRITE = "sftp-write"
    TCP = "tcp"


@dataclass(frozen=True, slots=True, order=True)
class Capability:
    """One thing that may be done: shell, exec, sftp-read, sftp-write or tcp:PORT."""

    kind: CapabilityKind
    port: int | None = None

    def __post_init__(self) -> None:
        if (self.kind is CapabilityKind.TCP) != (self.port is not None):
            raise BrokerError(Code.INVALID, "a port belongs to tcp and to nothing else")

    def __str__(self) -> str:
        return self.kind.value if self.port is None else f"tcp:{self.port}"


SHELL: Final = Capability(CapabilityKind.SHELL)
EXEC: Final = Capability(CapabilityKind.EXEC)
SFTP_READ: Final = Capability(CapabilityKind.SFTP_READ)
SFTP_WRITE: Final = Capability(CapabilityKind.SFTP_WRITE)
USUAL: Final = frozenset({SHELL, EXEC})
"""What a request asks for when it does not say."""


def parse_capability(text: str) -> Capability:
    """Read one capability. Raises BrokerError(INVALID).

    >>> str(parse_capability("tcp:502"))
    'tcp:502'
    """
    if match := re.fullmatch(r"tcp:([0-9]{1,5})", text):
        port = int(match[1])
        if 1 <= port <= 65535:
            return Capability(CapabilityKind.TCP, port)
    elif text in (SHELL.kind, EXEC.kind, SFTP_READ.kind, SFTP_WRITE.kind):
        return Capability(CapabilityKind(text))
    raise BrokerError(Code.INVALID, f"capability {quoted(text)}: use shell, exec, sftp-read, sftp-write or tcp:PORT")


def parse_capabilities(text: str) -> frozenset[Capability]:
    """Read a comma-separated list of at least one capability. Raises BrokerError(INVALID)."""
    return frozenset(parse_capability(part.strip()) for part in text.split(","))


def show_capabilities(capabilities: Iterable[Capability]) -> str:
    """The list in a fixed order, as parse_capabilities reads it."""
    return ",".join(str(one) for one in sorted(capabilities, key=str))
