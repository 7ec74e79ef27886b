"""What the console's commands share: their answers and exit codes, the parser of their words, and names for showing.

Source: docs/rules.md, Faces.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NoReturn, Protocol
from zoneinfo import ZoneInfo

from broker.clock import Clock
from broker.domain.errors import BrokerError, Code
from broker.domain.ids import GrantId
from broker.domain.inventory import Asset
from broker.domain.policy import Refusal
from broker.gate import Proof
from broker.settings import Settings
from broker.store import inventory
from broker.store.db import Database, Tx

Progress = Callable[[str], None]
FAILED, USAGE, MISSING, AWAY = 1, 2, 3, 75
EXIT_OF: Final[Mapping[Code, int]] = {
    Code.INVALID: USAGE,
    Code.NOT_FOUND: MISSING,
    Code.UNAVAILABLE: AWAY,
    Code.UNAUTHENTICATED: FAILED,
    Code.FORBIDDEN: FAILED,
    Code.CONFLICT: FAILED,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command gives back. text: for people; document: for tools; error: one line."""

    status: int = 0
    text: str = ""
    document: Any = None
    error: str = ""
    as_json: bool = False

    @classmethod
    def usage(cls, text: str) -> Answer:
        return cls(USAGE, error=text)

    @classmethod
    def from_error(cls, error: BrokerError) -> Answer:
        return cls(EXIT_OF[error.code], error=error.detail)

    @classmethod
    def refused(cls, refusal: Refusal) -> Answer:
        return cls(FAILED, error=f"{refusal.reason.value}{'; ' + refusal.hint if refusal.hint else ''}")


class CertificateSigner(Protocol):
    """The signer as the console needs it."""

    async def gate(self, *, grant: GrantId, key: str, person: str, source: str) -> str: ...
    async def keys(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class Desk:
    """What the commands work on."""

    db: Database
    clock: Clock
    settings: Settings
    signer: CertificateSigner
    port: int


@dataclass(frozen=True, slots=True)
class Command:
    """One word of the console. run: desk, who, the words after it, a way to show progress."""

    run: Callable[[Desk, Proof, Sequence[str], Progress], Awaitable[Answer]]
    usage: str
    meaning: str


class WrongWords(ValueError):
    """A command's words that its parser does not take; the text says which."""


class Words(argparse.ArgumentParser):
    """A parser that raises WrongWords instead of exiting; --json is everybody's."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        self.add_argument("--json", action="store_true")

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """As `parse_args`; where that fails, the words of a reason that lost its quotes are joined: ssh passes none on."""
        try:
            return self.parse_args(words)
        except WrongWords:
            joined = _with_whole_reason(words)
            if joined == list(words):
                raise
        return self.parse_args(joined)

    def error(self, message: str) -> NoReturn:
        raise WrongWords(" ".join(message.split()))


def split_words(line: str) -> list[str]:
    """A line as words, quotes as in a shell; an apostrophe inside a word is one. Raises ValueError for a quote left open."""
    try:
        return shlex.split(line)
    except ValueError:
        if re.search(r"(?<!\w)'", line):
            raise
        # The local shell has taken the quotes around "it's stuck" away.
        lexer = shlex.shlex(line, posix=True)
        lexer.whitespace_split, lexer.commenters, lexer.quotes = True, "", '"'
        return list(lexer)


def _with_whole_reason(words: Sequence[str]) -> list[str]:
    """The words with all those between --reason and the next option as one."""
    if "--reason" not in words:
        return list(words)
    begin = list(words).index("--reason") + 1
    end = next((at for at in range(begin, len(words)) if words[at].startswith("--")), len(words))
    return [*words[:begin], *([" ".join(words[begin:end])] if begin < end else []), *words[end:]]


@dataclass(frozen=True, slots=True)
class Known:
    """Names for showing: assets and time zones by id."""

    assets: dict[str, Asset] = field(default_factory=dict)
    zones: dict[str, str] = field(default_factory=dict)

    def names(self, ids: Sequence[str] | frozenset[Any]) -> list[str]:
        return sorted(self.assets[one].login if one in self.assets else str(one) for one in ids)

    def time(self, instant: datetime, site_id: str) -> str:
        local = instant.astimezone(ZoneInfo(self.zones.get(site_id, "UTC")))
        return f"{local:%Y-%m-%d %H:%M:%S %Z (%z)}"


def load_known(tx: Tx) -> Known:
    return Known(
        assets={asset.id: asset for asset in inventory.assets(tx)},
        zones={site.id: site.time_zone for site in inventory.sites(tx)},
    )
