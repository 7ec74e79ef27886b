"""Commands on requests and grants: the owner's decision on the site's own machine, with the owner's own code."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from broker import desk
from broker.cli.context import database, done, instant, local_name, local_time, refused, show
from broker.cli.proving import OWNER, TOTP, prove
from broker.domain.capability import parse_capabilities, show_capabilities
from broker.domain.errors import BrokerError, Code
from broker.domain.grant import Grant
from broker.domain.ids import quoted
from broker.domain.policy import Agreed, Narrowing, Refusal
from broker.domain.request import ShownState
from broker.isolation import load
from broker.store import grants as grant_rows
from broker.store import inventory, people
from broker.store import requests as request_rows
from broker.store.db import Tx

JSON = typer.Option(False, "--json", help="one JSON document on stdout, for tools")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for name, command in (
        ("requests", requests),
        ("approve", approve),
        ("deny", deny),
        ("grants", grants),
        ("revoke", revoke),
    ):
        app.command(name)(command)


def requests(state: Annotated[ShownState | None, typer.Option("--state")] = None, as_json: bool = JSON) -> None:
    """List the access requests."""
    with database() as (db, _, _), db.read() as tx:
        known = _Known(tx)
        rows = [
            {
                "id": one.id,
                "state": one.shown_state(tx.now).value,
                "person": known.people.get(one.person_id, one.person_id),
                "assets": [known.assets.get(asset, asset) for asset in one.assets],
                "capabilities": show_capabilities(one.capabilities),
                "opens": local_time(one.opens, known.zones.get(one.site_id, "UTC")),
                "for_s": int(one.length.total_seconds()),
                "change": one.change,
                "reason": one.reason,
                "submitted_at": local_time(one.submitted_at, known.zones.get(one.site_id, "UTC")),
            }
            for one in request_rows.requests(tx, state=state)
        ]
    columns = ["id", "state", "person", "assets", "capabilities", "opens", "for_s", "change", "reason"]
    texts = [row | {"opens": row["opens"] or "at approval"} for row in rows]
    show(rows if as_json else texts, columns, as_json=as_json, none="no requests")


def approve(
    request_id: str = typer.Argument(metavar="ID"),
    owner: str = OWNER,
    until: str = typer.Option(None, "--until", metavar="T", help="an earlier end"),
    assets: str = typer.Option(None, "--assets", help="only these of the assets asked for"),
    capabilities: str = typer.Option(None, "--capabilities", help="only these of the capabilities asked for"),
    totp: str = TOTP,
    as_json: bool = JSON,
) -> None:
    """Approve a request as its site's owner.

    As it stands or narrowed, never wider; the owner's own code is asked on the terminal.
    """
    with database() as (db, settings, home):
        with db.read() as tx:
            zone = _zone_of(tx, request_id)
        narrowing = Narrowing(
            assets=None if assets is None else frozenset(one.strip() for one in assets.split(",") if one.strip()),
            capabilities=None if capabilities is None else parse_capabilities(capabilities),
            closes=None if until is None else instant(until, zone),
        )
        owner_id = prove(db, settings, home, owner, totp)
        with db.begin() as tx:
            made = desk.approve(
                tx,
                owner_id=owner_id,
                request_id=request_id,
                narrowing=narrowing,
                ladder=load(home, settings),
                door="cli",
            )
    if isinstance(made, Refusal):
        raise refused(made)
    if isinstance(made, Agreed):
        done(
            {"id": request_id, "state": "pending"},
            f"{request_id}: your yes is kept; a second owner is needed",
            as_json=as_json,
        )
        return
    text = f"{made.id} until {local_time(made.interval.closes, zone)}"
    done({"id": request_id, "state": "approved", "grant": made.id}, f"{request_id} approved: {text}", as_json=as_json)


def deny(
    request_id: str = typer.Argument(metavar="ID"),
    owner: str = OWNER,
    reason: str = typer.Option(..., "--reason", metavar="R"),
    totp: str = TOTP,
    as_json: bool = JSON,
) -> None:
    """Deny a request as its site's owner."""
    with database() as (db, settings, home):
        with db.read() as tx:
            _zone_of(tx, request_id)  # one that is not there costs no code
        owner_id = prove(db, settings, home, owner, totp)
        with db.begin() as tx:
            made = desk.deny(tx, owner_id=owner_id, request_id=request_id, reason=reason, door="cli")
    if isinstance(made, Refusal):
        raise refused(made)
    done({"id": request_id, "state": "denied"}, f"{request_id} denied", as_json=as_json)


def grants(as_json: bool = JSON) -> None:
    """List the grants."""
    with database() as (db, _, _), db.read() as tx:
        known = _Known(tx)
        rows = [_grant_row(one, known, tx) for one in grant_rows.grants(tx)]
    columns = ["id", "state", "person", "assets", "capabilities", "opens", "closes", "request"]
    show(rows, columns, as_json=as_json, none="no grants")


def revoke(
    grant_id: str = typer.Argument(metavar="GRANT"),
    reason: str = typer.Option(..., "--reason", metavar="R"),
    as_json: bool = JSON,
) -> None:
    """Revoke a grant; its sessions end within a second."""
    with database() as (db, _, _), db.begin() as tx:
        ended = desk.revoke(tx, grant_id=grant_id, by=local_name(), reason=reason)
    if isinstance(ended, Refusal):
        raise refused(ended)
    done({"id": ended.id, "state": "revoked"}, f"{ended.id} revoked", as_json=as_json)


class _Known:
    """Names by id, for lists."""

    def __init__(self, tx: Tx) -> None:
        self.people = {one.id: one.handle for one in people.people(tx)}
        self.assets = {one.id: one.login for one in inventory.assets(tx)}
        self.zones = {one.id: one.time_zone for one in inventory.sites(tx)}


def _grant_row(one: Grant, known: _Known, tx: Tx) -> dict[str, Any]:
    zone = known.zones.get(one.site_id, "UTC")
    return {
        "id": one.id,
        "state": one.state(tx.now).value,
        "person": known.people.get(one.person_id, one.person_id),
        "assets": sorted(known.assets.get(asset, asset) for asset in one.terms.assets),
        "capabilities": show_capabilities(one.terms.capabilities),
        "opens": local_time(one.interval.opens, zone),
        "closes": local_time(one.interval.closes, zone),
        "request": one.request_id,
    }


def _zone_of(tx: Tx, request_id: str) -> str:
    request = request_rows.load(tx, request_id)
    place = None if request is None else inventory.site_by_id(tx, request.site_id)
    if place is None:
        raise BrokerError(Code.NOT_FOUND, f"no request {quoted(request_id)}; see: requests")
    return place.time_zone
