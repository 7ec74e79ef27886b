"""Commands on sessions: the list and the end, through the control socket, so that they work with web and database down."""

from __future__ import annotations

from datetime import timedelta

import typer

from broker import desk
from broker.cli.context import database, done, home, local_time, refused, show
from broker.cli.proving import OWNER, TOTP, prove
from broker.cli.restoring import ASSET, ENGINEER, GRANT, VENDOR, WINDOW
from broker.control_client import ask
from broker.domain.errors import BrokerError, Code
from broker.domain.ids import parse_duration, quoted
from broker.domain.policy import Refusal
from broker.domain.session import Session
from broker.store import inventory, people
from broker.store import sessions as session_rows

JSON = typer.Option(False, "--json", help="one JSON document on stdout, for tools")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("sessions")(sessions)
    app.command("kill")(kill)
    app.command("freeze")(freeze)
    app.command("unfreeze")(unfreeze)
    app.command("hold-open")(hold_open)


def sessions(
    live: bool = typer.Option(False, "--live", help="only live ones, as the bastion itself holds them"),
    as_json: bool = JSON,
) -> None:
    """List the sessions."""
    columns = ["id", "state", "person", "asset", "account", "grant", "until"]
    if live:
        rows = ask(home().control_socket, {"act": "sessions"})["sessions"]
        show(rows, columns, as_json=as_json, none="no live sessions")
        return
    with database() as (db, _, _), db.read() as tx:
        handles = {one.id: one.handle for one in people.people(tx)}
        assets = {one.id: one for one in inventory.assets(tx)}
        zones = {one.id: one.time_zone for one in inventory.sites(tx)}
        kept = []
        for one in session_rows.sessions(tx):
            zone = zones[assets[one.asset_id].site_id]
            kept.append(
                {
                    "id": one.id,
                    "state": _state(one),
                    "person": handles[one.person_id],
                    "asset": assets[one.asset_id].login,
                    "account": one.account,
                    "grant": one.grant_id,
                    "source": one.source,
                    "opened_at": local_time(one.opened_at, zone),
                    "until": local_time(one.until, zone),
                    "held_until": local_time(one.held_until, zone),
                    "ended_at": local_time(one.ended_at, zone),
                    "end_reason": None if one.end_reason is None else one.end_reason.value,
                }
            )
    show(kept, [*columns, "ended_at", "end_reason"], as_json=as_json, none="no sessions")


def kill(
    session_id: str | None = typer.Argument(None, metavar="[SESSION]"),
    reason: str = typer.Option(..., "--reason", metavar="R"),
    grant: str = GRANT,
    engineer: str = ENGINEER,
    vendor: str = VENDOR,
    asset: str = ASSET,
    window: str = WINDOW,
    site: str = typer.Option(None, "--site", metavar="S", help="everything of a site"),
    as_json: bool = JSON,
) -> None:
    """End a live session, or all of a scope, and let nobody of it back in."""
    named = {"grant": grant, "engineer": engineer, "vendor": vendor, "asset": asset, "window": window, "site": site}
    scopes = {scope: name for scope, name in named.items() if name is not None}
    if len(scopes) + (session_id is not None) != 1:
        raise typer.BadParameter("name one SESSION, or one of --grant --engineer --vendor --asset --window --site")
    if session_id is not None:
        ended = ask(home().control_socket, {"act": "kill", "session": session_id, "reason": reason})
        done(ended, f"{ended['id']} killed; its grant is suspended", as_json=as_json)
        return
    [(scope, name)] = scopes.items()
    ended = ask(home().control_socket, {"act": "kill", "scope": scope, "name": name, "reason": reason})
    told = f"{scope} {name} is suspended, {ended['ended']} live sessions ended"
    told += (
        "" if ended["kept"] else "; the database does not answer: nobody at all is admitted here until it is written"
    )
    done(ended, told, as_json=as_json)


def freeze(
    session_id: str = typer.Argument(metavar="SESSION"),
    reason: str = typer.Option("", "--reason", metavar="R", help="what the engineer is told"),
    as_json: bool = JSON,
) -> None:
    """Stop a live session's input; its output goes on."""
    frozen = ask(home().control_socket, {"act": "freeze", "session": session_id, "reason": reason})
    done(frozen, f"{frozen['id']} frozen: no input passes until: unfreeze {frozen['id']}", as_json=as_json)


def unfreeze(session_id: str = typer.Argument(metavar="SESSION"), as_json: bool = JSON) -> None:
    """Let a frozen session's input through again."""
    free = ask(home().control_socket, {"act": "unfreeze", "session": session_id})
    done(free, f"{free['id']} goes on", as_json=as_json)


def _state(one: Session) -> str:
    if one.ended_at is not None:
        return "ended"
    return "live" if one.frozen_at is None else "frozen"


def hold_open(
    session_id: str = typer.Argument(metavar="SESSION"),
    length: str = typer.Option(..., "--for", metavar="T", help="how long beyond the grant's end, such as 10m"),
    owner: str = OWNER,
    reason: str = typer.Option(..., "--reason", metavar="R"),
    totp: str = TOTP,
    as_json: bool = JSON,
) -> None:
    """Let a live session go on for some minutes beyond its grant.

    As an owner of its site, at most hold_max_s; beyond the window it takes a second owner. Kill and revoke end it all the same.
    """
    asked = parse_duration(length)
    with database() as (db, settings, home):
        with db.read() as tx:
            session = session_rows.load_session(tx, session_id)  # one that is not there costs no code
            if session is None:
                raise BrokerError(Code.NOT_FOUND, f"no session {quoted(session_id)}; see: wicketgate sessions --live")
            asset = inventory.asset_by_id(tx, session.asset_id)
            place = None if asset is None else inventory.site_by_id(tx, asset.site_id)
        zone = "UTC" if place is None else place.time_zone
        owner_id = prove(db, settings, home, owner, totp)
        longest = timedelta(seconds=settings.hold_max_s)
        with db.begin() as tx:
            held = desk.hold_open(
                tx, owner_id=owner_id, session_id=session_id, length=asked, reason=reason, longest=longest, door="cli"
            )
    if isinstance(held, Refusal):
        raise refused(held)
    told = f"{session_id} is held open until {local_time(held.until, zone)}"
    if held.until < held.wanted:
        told += f", the window's end; until {local_time(held.wanted, zone)} it takes a second owner"
    until = local_time(held.until, zone)
    done({"id": session_id, "state": "held", "until": until}, told, as_json=as_json)
