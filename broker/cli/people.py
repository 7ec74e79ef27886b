"""Commands on people: who there is, how they enrol."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from broker import desk, enrolment
from broker.cli.context import database, done, is_local, local_name, origin, read_key_file, show, stdin_line
from broker.domain.errors import BrokerError, Code
from broker.domain.ids import SiteId, quoted
from broker.domain.people import Person, Role, RoleAt
from broker.identity import Seal
from broker.store import inventory, people
from broker.store.db import Tx

JSON = typer.Option(False, "--json", help="one JSON document on stdout, for tools")
person = typer.Typer(help="Named people.", rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(person, name="person")
    app.command("invite")(invite)
    app.command("enrol")(enrol)


@person.command("add")
def person_add(
    handle: str,
    name: str = typer.Option(..., "--name", metavar="N"),
    vendor_name: str = typer.Option(None, "--vendor", metavar="V"),
    role: Annotated[list[Role] | None, typer.Option("--role", help="may be given again")] = None,
    site: Annotated[
        list[str] | None, typer.Option("--site", metavar="S", help="where the roles hold; none: at every site")
    ] = None,
    human: str = typer.Option("", "--human", metavar="ID", help="the same for all handles of one human"),
    as_json: bool = JSON,
) -> None:
    """Add a person: an engineer of a vendor, or somebody of the site with roles."""
    if bool(vendor_name) == bool(role):
        raise typer.BadParameter("give either --vendor or --role: nobody is both")
    if site and not role:
        raise typer.BadParameter("--site says where a --role holds; an engineer has none")
    with database() as (db, _, _), db.begin() as tx:
        places: list[SiteId | None] = [inventory.load_site(tx, one).id for one in site or ()]
        made = people.insert_person(
            tx,
            handle=handle,
            name=name,
            by=local_name(),
            vendor_id=None if not vendor_name else inventory.load_vendor(tx, vendor_name).id,
            roles=[RoleAt(one, place) for one in role or () for place in places or [None]],
            human=human,
        )
    done({"id": made.handle, "state": "added"}, f"{made.handle} added; next: invite {made.handle}", as_json=as_json)


@person.command("list")
def person_list(as_json: bool = JSON) -> None:
    """List the people."""
    with database() as (db, _, _), db.read() as tx:
        places = {one.id: one.name for one in inventory.sites(tx)}
        firms = {one.id: one.name for one in inventory.vendors(tx)}
        rows = [
            {
                "id": one.handle,
                "name": one.name,
                "vendor": None if one.vendor_id is None else firms[one.vendor_id],
                "roles": _roles_of(one, places),
                "state": "active" if one.disabled_at is None else "disabled",
            }
            for one in people.people(tx)
        ]
    show(rows, ["id", "name", "vendor", "roles", "state"], as_json=as_json, none="nobody yet")


@person.command("rights")
def person_rights(
    handle: str,
    add: Annotated[list[str] | None, typer.Option("--add", metavar="ROLE[@SITE]", help="may be given again")] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", metavar="ROLE[@SITE]", help="without a site: the role at every site")
    ] = None,
    as_json: bool = JSON,
) -> None:
    """Give somebody of the site roles, or take some away; what they agreed to as first of two owners is void."""
    if not add and not remove:
        raise typer.BadParameter("give --add or --remove")
    with database() as (db, _, _), db.begin() as tx:
        changed, void = desk.change_rights(
            tx,
            handle=handle,
            add=[_role_at(tx, text) for text in add or ()],
            remove=[_role_at(tx, text) for text in remove or ()],
            by=local_name(),
        )
        roles = _roles_of(changed, {one.id: one.name for one in inventory.sites(tx)})
    voided = f"; void: the first yes on {', '.join(void)}" if void else ""
    document = {"id": handle, "state": "changed", "roles": roles, "void": void}
    done(document, f"{handle} is now {', '.join(roles)}{voided}", as_json=as_json)


def _role_at(tx: Tx, text: str) -> RoleAt:
    name, at, place = text.partition("@")
    if name not in tuple(Role):
        raise BrokerError(Code.INVALID, f"role {quoted(name)}: one of {', '.join(Role)}")
    return RoleAt(Role(name), inventory.load_site(tx, place).id if at and place != "*" else None)


def _roles_of(one: Person, places: Mapping[SiteId, str]) -> list[str]:
    return sorted(f"{at.role.value}@{places.get(at.site_id, '*') if at.site_id else '*'}" for at in one.roles)


@person.command("disable")
def person_disable(handle: str, as_json: bool = JSON) -> None:
    """Disable a person: their sessions end, nothing lets them in."""
    with database() as (db, _, _), db.begin() as tx:
        desk.disable_person(tx, handle=handle, by=local_name())
    done({"id": handle, "state": "disabled"}, f"{handle} disabled", as_json=as_json)


def invite(handle: str, as_json: bool = JSON) -> None:
    """Print a one-time enrolment link and code, good for 24 hours."""
    with database() as (db, settings, home):
        pages = origin(settings, home)  # first: an invitation whose link nobody can print would be half a change
        with db.begin() as tx:
            code = enrolment.invite(tx, handle=handle, by=local_name())
    link = f"{pages}/enrol/{code}"
    if is_local(pages):
        print("wicketgate: this link works on this machine only; set web_origin", file=sys.stderr)
    done({"id": handle, "state": "invited", "link": link, "code": code}, f"{link}\ncode {code}", as_json=as_json)


def enrol(
    handle: str,
    key: Annotated[Path | None, typer.Option("--key", metavar="FILE.pub")] = None,
    password_stdin: bool = typer.Option(False, "--password-stdin", help="read a web password from stdin, one line"),
    as_json: bool = JSON,
) -> None:
    """Enrol somebody on this machine; prints the TOTP provisioning URI, once."""
    line = None if key is None else read_key_file(key)
    password = stdin_line("password") if password_stdin else None
    with database() as (db, settings, home):
        seal = Seal(home.read_seal_key())
        with db.begin() as tx:
            made = enrolment.enrol(
                tx,
                handle=handle,
                key_line=line,
                password=password,
                seal=seal,
                by=local_name(),
                issuer=settings.totp_issuer,
            )
    document = {"handle": made.handle, "totp_uri": made.totp_uri, "key_fingerprint": made.key_fingerprint}
    document |= {"id": made.handle, "state": "enrolled"}
    done(document, f"{made.handle} enrolled\n{made.totp_uri}", as_json=as_json)
