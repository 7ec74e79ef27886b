"""Commands on sessions: the list and the end, through the control socket, so that they work with web and database down."""

from __future__ import annotations

import typer

from broker.cli.context import database, done, home, local_time, show
from broker.control_client import ask
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
                    "ended_at": local_time(one.ended_at, zone),
                    "end_reason": None if one.end_reason is None else one.end_reason.value,
                }
            )
    show(kept, [*columns, "ended_at", "end_reason"], as_json=as_json, none="no sessions")


def kill(
    session_id: str = typer.Argument(metavar="SESSION"),
    reason: str = typer.Option(..., "--reason", metavar="R"),
    as_json: bool = JSON,
) -> None:
    """End a live session at once and suspend its grant."""
    ended = ask(home().control_socket, {"act": "kill", "session": session_id, "reason": reason})
    done(ended, f"{ended['id']} killed; its grant is suspended", as_json=as_json)


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
