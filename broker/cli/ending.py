"""How a command ends: foreseen refusals and the exit codes of the contract, without anything that takes time to load.

0 done, 1 refused or failed, 2 wrong usage, 3 not found, 4 evidence does not verify, 5 evidence incomplete, 75 temporarily
unavailable. Source: docs/rules.md, Faces.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from broker.domain.errors import Code

FAILED: Final = 1
WRONG_USAGE: Final = 2
NOT_FOUND: Final = 3
CONTRADICTS: Final = 4
INCOMPLETE: Final = 5
INTERRUPTED: Final = 130  # as shells say it: 128 + SIGINT
EXIT_OF: Final[Mapping[Code, int]] = {
    Code.INVALID: FAILED,
    Code.UNAUTHENTICATED: FAILED,
    Code.FORBIDDEN: FAILED,
    Code.CONFLICT: FAILED,
    Code.NOT_FOUND: NOT_FOUND,
    Code.UNAVAILABLE: 75,
}


def clean(text: str) -> str:
    """A foreign text for a terminal: whatever is not printable is escaped."""
    return "".join(ch if ch.isprintable() else ch.encode("unicode_escape").decode("ascii") for ch in text)


class Refused(Exception):
    """A foreseen no in one line, with its exit code."""

    def __init__(self, text: str, status: int = FAILED) -> None:
        super().__init__(text)
        self.status = status
