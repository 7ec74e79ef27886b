"""An owner's own code at the command line: who may act as whom is not a matter of the machine's accounts."""

from __future__ import annotations

import getpass
import sys
from datetime import timedelta
from typing import Any

import typer

from broker import identity
from broker.cli.context import local_name
from broker.cli.ending import Refused
from broker.domain.errors import BrokerError, Code
from broker.domain.ids import PersonId
from broker.identity import Seal, TryLimits
from broker.settings import Home, Settings
from broker.store import people
from broker.store.db import Database

OWNER = typer.Option(..., "--as", metavar="OWNER", help="who acts, by their handle")
TOTP = typer.Option(
    None, "--totp", metavar="CODE", help="the owner's code, for scripts; else it is asked on the terminal"
)


def prove(db: Database, settings: Settings, home: Home, handle: str, totp: str | None) -> PersonId:
    """Who acts, proved by their own code; the try is stored before it is compared. Raises Refused, BrokerError."""
    code = totp if totp is not None else _ask_code(handle)
    seal = Seal(home.read_seal_key())
    limits = TryLimits(
        per_person=settings.tries_per_person,
        per_source=settings.tries_per_source,
        window=timedelta(seconds=settings.tries_window_s),
    )
    with db.begin() as tx:
        person = people.by_handle(tx, handle)
        person_id = None if person is None else person.id
        about: dict[str, Any] = {"person_id": person_id, "name": handle, "source": local_name(), "door": "cli"}
        reserved = identity.reserve_try(tx, limits=limits, **about)
    if isinstance(reserved, identity.Locked):
        raise Refused(f"too many tries; wait until {reserved.until:%H:%M:%S} UTC")
    with db.begin() as tx:
        good = person is not None and identity.spend_code(
            tx, person_id=person.id, code=code, seal=seal, try_id=reserved
        )
        if not good:
            identity.finish_login(tx, why="wrong code", **about)
    if person is None or not good:
        raise Refused("the code was not accepted; wait for the next one")
    return person.id


def _ask_code(handle: str) -> str:
    if sys.stdin is None or not sys.stdin.isatty():
        raise BrokerError(Code.INVALID, "no terminal to ask the owner's code on; give --totp CODE")
    return getpass.getpass(f"Code of {handle}: ").strip()
