"""What is shut out: the list of it, and an owner letting it in again, which is part of the command restore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import typer

from broker import desk
from broker.cli.context import database, done, local_time, refused, show
from broker.cli.proving import prove
from broker.domain.policy import Refusal
from broker.domain.suspension import Scope
from broker.store import suspensions as rows
from broker.suspending import name_of, subject_of

JSON = typer.Option(False, "--json", help="one JSON document on stdout, for tools")
GRANT = typer.Option(None, "--grant", metavar="G", help="a grant")
ENGINEER = typer.Option(None, "--engineer", metavar="HANDLE", help="an engineer, by their handle")
VENDOR = typer.Option(None, "--vendor", metavar="V", help="a firm, with all its engineers")
ASSET = typer.Option(None, "--asset", metavar="A.S", help="an asset, for everybody")
WINDOW = typer.Option(None, "--window", metavar="W", help="a commissioning window, with all its grants")


KILLED_SITE = typer.Option(None, "--killed-site", metavar="S", help="a site that was killed, not isolated")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("suspended")(suspended)


def let_in(named: Mapping[Scope, str | None], owners: Sequence[str], codes: Sequence[str], *, as_json: bool) -> None:
    """Let in what a kill has shut out, as one owner. named: one of them not None."""
    scopes = [(scope, name) for scope, name in named.items() if name is not None]
    if len(scopes) != 1 or len(owners) != 1 or len(codes) > 1:
        raise typer.BadParameter("name one thing that was killed, and one owner with --as")
    [(scope, name)] = scopes
    with database() as (db, settings, home):
        with db.read() as tx:
            subject_of(tx, scope, name)  # one that is not there costs no code
        owner_id = prove(db, settings, home, owners[0], codes[0] if codes else None)
        with db.begin() as tx:
            subject = desk.restore(tx, owner_id=owner_id, scope=scope, name=name, door="cli")
    if isinstance(subject, Refusal):
        raise refused(subject)
    done({"id": name, "scope": scope.value, "state": "restored"}, f"{scope.value} {name} is restored", as_json=as_json)


def suspended(as_json: bool = JSON) -> None:
    """List what is shut out until an owner restores it."""
    with database() as (db, _, _), db.read() as tx:
        found = [
            {
                "id": one.id,
                "scope": one.scope.value,
                "subject": name_of(tx, one),
                "by": one.suspended_by,
                "since": local_time(one.suspended_at),
                "reason": one.reason,
                "state": "suspended",
            }
            for one in rows.standing(tx)
        ]
    show(found, ["id", "scope", "subject", "by", "since", "reason"], as_json=as_json, none="nothing is suspended")
