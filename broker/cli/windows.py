"""Commands on commissioning windows: when a vendor may be given access at all."""

from __future__ import annotations

import typer

from broker import desk
from broker.cli.context import database, done, instant, local_name, local_time, refused, show
from broker.cli.proving import OWNER, TOTP, prove
from broker.domain.ids import SiteId
from broker.domain.people import Right
from broker.domain.policy import Refusal, ReviewReason
from broker.domain.window import CommissioningWindow, Interval
from broker.store import inventory, people, windows
from broker.store.db import Tx

JSON = typer.Option(False, "--json", help="one JSON document on stdout, for tools")
window = typer.Typer(help="Commissioning windows.", rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(window, name="window")


@window.command("open")
def window_open(
    site_name: str = typer.Argument(metavar="SITE"),
    vendor_name: str = typer.Option(..., "--vendor", metavar="V"),
    opens: str = typer.Option(..., "--from", metavar="T"),
    closes: str = typer.Option(..., "--until", metavar="T"),
    assets: str = typer.Option("*", "--assets", metavar="PATTERN", help="asset names, comma-separated, with * and ?"),
    phase: str = typer.Option("", "--phase", metavar="NAME"),
    daily: str = typer.Option("", "--daily", metavar="HH:MM-HH:MM", help="only in these hours of each day, site time"),
    as_json: bool = JSON,
) -> None:
    """Open a commissioning window for a vendor; T with offset, or in the site's own time."""
    with database() as (db, _, _), db.begin() as tx:
        place = inventory.load_site(tx, site_name)
        made = windows.insert_window(
            tx,
            site=place,
            vendor=inventory.load_vendor(tx, vendor_name),
            interval=Interval(instant(opens, place.time_zone), instant(closes, place.time_zone)),
            pattern=assets,
            phase=phase,
            daily=daily,
            by=local_name(),
        )
    done(
        {"id": made.id, "state": "open"},
        f"window {made.id} for {vendor_name} until {local_time(made.closes, place.time_zone)}",
        as_json=as_json,
    )


@window.command("close")
def window_close(window_id: str = typer.Argument(metavar="ID"), as_json: bool = JSON) -> None:
    """Close a window early; its sessions end."""
    with database() as (db, _, _), db.begin() as tx:
        closed = desk.close_window(tx, window_id=window_id, by=local_name())
    done({"id": closed.id, "state": "closed"}, f"window {closed.id} closed", as_json=as_json)


@window.command("extend")
def window_extend(
    window_id: str = typer.Argument(metavar="ID"),
    until: str = typer.Option(..., "--until", metavar="T"),
    reason: str = typer.Option(..., "--reason", metavar="R"),
    owner: str = OWNER,
    totp: str = TOTP,
    as_json: bool = JSON,
) -> None:
    """Move a window's end out, as an owner of the site; grants made in it keep their own end."""
    with database() as (db, settings, home):
        with db.read() as tx:
            found = windows.load_window(tx, window_id)
            zone = _zone_of(tx, found.site_id)
        closes = instant(until, zone)
        owner_id = prove(db, settings, home, owner, totp)
        with db.begin() as tx:
            person = people.load_person(tx, owner_id)
            if person is None or not person.may(Right.APPROVE, found.site_id):
                raise refused(Refusal(ReviewReason.NO_RIGHT, "an owner of the site extends"))
            moved = windows.extend_window(
                tx, windows.load_window(tx, window_id), closes, by=person.handle, reason=reason
            )
    done(
        {"id": moved.id, "state": "extended"},
        f"window {moved.id} extended until {local_time(moved.closes, zone)}",
        as_json=as_json,
    )


@window.command("list")
def window_list(as_json: bool = JSON) -> None:
    """List the commissioning windows."""
    with database() as (db, _, _), db.read() as tx:
        places = {one.id: one for one in inventory.sites(tx)}
        firms = {one.id: one.name for one in inventory.vendors(tx)}
        rows = [
            {
                "id": one.id,
                "site": places[one.site_id].name,
                "vendor": firms[one.vendor_id],
                "opens": local_time(one.interval.opens, places[one.site_id].time_zone),
                "closes": local_time(one.closes, places[one.site_id].time_zone),
                "assets": one.pattern,
                "phase": one.phase,
                "daily": None if one.daily is None else str(one.daily),
                "extensions": one.extensions,
                "time_zone": places[one.site_id].time_zone,
                "state": "open" if one.holds(tx.now) else "over" if tx.now >= one.closes else _waiting(one, tx),
            }
            for one in windows.windows(tx)
        ]
    columns = ["id", "site", "vendor", "opens", "closes", "daily", "extensions", "assets", "phase", "state"]
    show(rows, columns, as_json=as_json, none="no windows yet")


def _waiting(one: CommissioningWindow, tx: Tx) -> str:
    return "booked" if tx.now < one.interval.opens else "outside its hours"


def _zone_of(tx: Tx, site_id: SiteId) -> str:
    place = inventory.site_by_id(tx, site_id)
    return "UTC" if place is None else place.time_zone
