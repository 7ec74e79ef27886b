"""What every command shares: the home, the database, output for people and for tools, and times as they are typed."""

from __future__ import annotations

import json
import os
import pwd
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from unicodedata import east_asian_width
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from broker.cli.ending import FAILED, NOT_FOUND, Refused, clean
from broker.clock import SystemClock
from broker.domain.errors import BrokerError, Code
from broker.domain.policy import Reason, Refusal, ReviewReason
from broker.domain.wall import read_time
from broker.settings import Address, Home, Settings, find_home, load_settings, parse_address
from broker.store.db import Database

_ABSENT: Final = frozenset({Reason.NO_GRANT, Reason.NO_SUCH_ASSET, ReviewReason.NO_SUCH_REQUEST})


def refused(refusal: Refusal) -> Refused:
    """A refusal of the law as the command line says it."""
    status = NOT_FOUND if refusal.reason in _ABSENT else FAILED
    return Refused(f"{refusal.reason.value}{'; ' + refusal.hint if refusal.hint else ''}", status)


def home() -> Home:
    """The home this command works on."""
    return find_home(None)


def stdin_line(what: str) -> str:
    """One line from stdin, without its end. Raises BrokerError(INVALID) when there is none."""
    try:
        line = sys.stdin.readline() if sys.stdin is not None else ""
    except UnicodeDecodeError:
        raise BrokerError(Code.INVALID, f"the {what} on stdin is not UTF-8 text") from None
    if not line:
        raise BrokerError(Code.INVALID, f"no {what} came on stdin")
    return line.rstrip("\r\n")


def read_key_file(path: Path) -> str:
    """The text of a public key file. Raises BrokerError(INVALID)."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise BrokerError(Code.INVALID, f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BrokerError(Code.INVALID, f"{path} is not a public key") from None


def local_name() -> str:
    """Who acts, for the ledger: an account of this machine, as the kernel says it and not the environment."""
    uid = os.getuid()
    try:
        return f"local:{pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"local:uid-{uid}"


@contextmanager
def database() -> Iterator[tuple[Database, Settings, Home]]:
    """The home's database, checked to be of this program's version. Raises BrokerError."""
    here = home()
    settings = load_settings(here)
    db = open_database(here, settings)
    try:
        db.check_schema()
        yield db, settings, here
    finally:
        db.close()


def open_database(here: Home, settings: Settings) -> Database:
    """The home's database. Raises BrokerError(UNAVAILABLE) for an SQLite file that is not there: SQLite would make a new one."""
    url = here.database_url(settings)
    path = url.removeprefix("sqlite:///")
    if path != url and not os.path.lexists(path):
        raise BrokerError(Code.UNAVAILABLE, f"the database {path} is missing; restore it from your backup")
    return Database.open(url, SystemClock())


def origin(settings: Settings, here: Home) -> str:
    """The pages' origin for links; of a port chosen at start, the one the running process wrote down."""
    if settings.web_origin or settings.web.port:
        return settings.origin
    found = running_address(here.web_address)
    if found is None:
        raise BrokerError(Code.UNAVAILABLE, "the web port is chosen at start; start serve first, or set web_listen")
    return f"{'https' if settings.web_tls_certificate else 'http'}://{found}"


def is_local(pages: str) -> bool:
    """True when a link into the pages opens on this machine alone."""
    return Address(urlsplit(pages).hostname or "", 0).is_loopback


def running_address(path: Path) -> Address | None:
    """Where a process said that it listens; None when it did not."""
    try:
        return parse_address(path.read_text(encoding="ascii").strip())
    except (OSError, UnicodeDecodeError, BrokerError):
        return None


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool, none: str) -> None:
    """A list: one JSON array for tools, aligned columns for people."""
    if as_json:
        print(json.dumps(list(rows), default=str))
        return
    if not rows:
        print(f"wicketgate: {none}", file=sys.stderr)
        return
    texts = [[_cell(row.get(column)) for column in columns] for row in rows]
    lines = [[column.upper() for column in columns], *texts]
    widths = [max(_width(line[at]) for line in lines) for at in range(len(columns))]
    for line in lines:
        cells = (text + " " * (width - _width(text)) for text, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())


def done(document: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """An act: one JSON object with id and state for tools, one line for people."""
    print(json.dumps(document, default=str) if as_json else text)


def instant(text: str, zone: str) -> datetime:
    """A time as typed: RFC 3339 with offset, or wall time in the site's zone. Raises BrokerError(INVALID)."""
    return read_time(text, ZoneInfo(zone))


def local_time(when: datetime | None, zone: str = "UTC") -> str | None:
    """An instant as lists show it: RFC 3339 with the site's offset, whole seconds."""
    return None if when is None else when.astimezone(ZoneInfo(zone)).isoformat(timespec="seconds")


def _width(text: str) -> int:
    """How many cells of a terminal; names of people are not all Latin."""
    return sum(2 if east_asian_width(one) in "WF" else 1 for one in text)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, (list, tuple)):
        return clean(", ".join(str(one) for one in value))
    return clean(str(value))
