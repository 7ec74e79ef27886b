"""Commands on what the site has: sites, zones, vendors, assets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from broker import desk
from broker.cli.context import database, done, local_name, read_key_file, show
from broker.cli.ending import Refused, clean
from broker.domain.errors import BrokerError, Code
from broker.domain.ids import parse_account, quoted
from broker.domain.inventory import Asset, AssetAuth, AssetClass, AssetState, Protocol
from broker.openssh import parse_public_key
from broker.settings import parse_address
from broker.store import inventory
from broker.store.db import Tx

JSON = typer.Option(False, "--json", help="one JSON document on stdout, for tools")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for name, room in (("site", site), ("zone", zone), ("vendor", vendor), ("asset", asset)):
        app.add_typer(room, name=name)


site = typer.Typer(help="Places with assets and a time zone.", rich_markup_mode=None)
zone = typer.Typer(help="Network zones of a site.", rich_markup_mode=None)
vendor = typer.Typer(help="Outside firms.", rich_markup_mode=None)
asset = typer.Typer(help="Reachable devices.", rich_markup_mode=None)


@site.command("add")
def site_add(name: str, timezone: str = typer.Option(..., "--timezone", metavar="ZONE"), as_json: bool = JSON) -> None:
    """Add a site; ZONE is an IANA name such as Europe/London."""
    with database() as (db, _, _), db.begin() as tx:
        made = inventory.insert_site(tx, name=name, time_zone=timezone, by=local_name())
    done({"id": made.name, "state": "added"}, f"site {made.name} added", as_json=as_json)


@site.command("list")
def site_list(as_json: bool = JSON) -> None:
    """List the sites."""
    with database() as (db, _, _), db.read() as tx:
        rows = [{"id": one.name, "timezone": one.time_zone} for one in inventory.sites(tx)]
    show(rows, ["id", "timezone"], as_json=as_json, none="no sites yet; add one with: site add NAME --timezone ZONE")


@zone.command("add")
def zone_add(
    site_name: str = typer.Argument(metavar="SITE"), name: str = typer.Argument(), as_json: bool = JSON
) -> None:
    """Add a zone to a site."""
    with database() as (db, _, _), db.begin() as tx:
        inventory.insert_zone(tx, site=inventory.load_site(tx, site_name), name=name, by=local_name())
    done({"id": name, "state": "added"}, f"zone {name} added to {site_name}", as_json=as_json)


@zone.command("list")
def zone_list(site_name: str = typer.Argument(metavar="SITE"), as_json: bool = JSON) -> None:
    """List the zones of a site."""
    with database() as (db, _, _), db.read() as tx:
        rows = [{"id": name} for name in inventory.zones(tx, inventory.load_site(tx, site_name))]
    show(rows, ["id"], as_json=as_json, none="no zones")


@vendor.command("add")
def vendor_add(name: str, as_json: bool = JSON) -> None:
    """Add a vendor."""
    with database() as (db, _, _), db.begin() as tx:
        made = inventory.insert_vendor(tx, name=name, by=local_name())
    done({"id": made.name, "state": "added"}, f"vendor {made.name} added", as_json=as_json)


@vendor.command("list")
def vendor_list(as_json: bool = JSON) -> None:
    """List the vendors."""
    with database() as (db, _, _), db.read() as tx:
        rows = [
            {"id": one.name, "state": "active" if one.disabled_at is None else "disabled"}
            for one in inventory.vendors(tx)
        ]
    show(rows, ["id", "state"], as_json=as_json, none="no vendors yet")


@vendor.command("disable")
def vendor_disable(name: str, as_json: bool = JSON) -> None:
    """Disable a vendor: sessions of its engineers end, nobody of it comes in."""
    with database() as (db, _, _), db.begin() as tx:
        desk.disable_vendor(tx, name=name, by=local_name())
    done({"id": name, "state": "disabled"}, f"vendor {name} disabled", as_json=as_json)


@asset.command("add")
def asset_add(
    login: str = typer.Argument(metavar="ASSET.SITE"),
    address: str = typer.Option(..., "--address", metavar="HOST:PORT"),
    protocol: Annotated[Protocol, typer.Option("--protocol")] = Protocol.SSH,
    account: Annotated[
        list[str] | None, typer.Option("--account", metavar="USER", help="may be given again; the first is the default")
    ] = None,
    auth: Annotated[AssetAuth, typer.Option("--auth")] = AssetAuth.CA,
    host_key: Annotated[
        Path | None, typer.Option("--host-key", metavar="FILE", help="the asset's public host key, pinned")
    ] = None,
    tcp: str = typer.Option("", "--tcp", metavar="PORT,..."),
    asset_class: Annotated[AssetClass, typer.Option("--class")] = AssetClass.ROUTINE,
    zone_name: str = typer.Option(None, "--zone", metavar="ZONE"),
    legacy: bool = typer.Option(False, "--legacy", help="allow old algorithms towards this asset"),
    as_json: bool = JSON,
) -> None:
    """Add an asset. It starts as expected; let it be reached with: asset state ASSET.SITE commissioned."""
    if protocol is not Protocol.SSH or auth is not AssetAuth.CA or legacy:
        raise Refused(
            "this release reaches assets by ssh with a certificate only; leave out --protocol, --auth and --legacy"
        )
    name, dot, site_name = login.partition(".")
    if not dot:
        raise BrokerError(Code.INVALID, f"asset {quoted(login)}: write ASSET.SITE")
    where = parse_address(address)
    with database() as (db, _, _), db.begin() as tx:
        made = inventory.insert_asset(
            tx,
            site=inventory.load_site(tx, site_name),
            name=name,
            host=where.host,
            port=where.port,
            by=local_name(),
            protocol=protocol,
            accounts=tuple(parse_account(one) for one in account or ()),
            auth=auth,
            host_key=None if host_key is None else _read_key(host_key),
            tcp_ports=_ports(tcp),
            asset_class=asset_class,
            zone=zone_name,
            legacy=legacy,
        )
    done(
        {"id": made.login, "state": made.state.value}, f"asset {made.login} added, {made.state.value}", as_json=as_json
    )


@asset.command("list")
def asset_list(as_json: bool = JSON) -> None:
    """List the assets."""
    with database() as (db, _, _), db.read() as tx:
        rows = [_row(one) for one in inventory.assets(tx)]
    show(rows, ["id", "address", "class", "state", "accounts", "host_key"], as_json=as_json, none="no assets yet")


@asset.command("show")
def asset_show(login: str = typer.Argument(metavar="ASSET.SITE"), as_json: bool = JSON) -> None:
    """Show one asset."""
    with database() as (db, _, _), db.read() as tx:
        row = _row(_require(tx, login))
    done(row, "\n".join(f"{key:<10} {clean(str(value))}" for key, value in row.items()), as_json=as_json)


@asset.command("state")
def asset_state(
    login: Annotated[str, typer.Argument(metavar="ASSET.SITE")],
    state: Annotated[AssetState, typer.Argument()],
    as_json: bool = JSON,
) -> None:
    """Say where a device stands; only commissioned and operational ones can be reached."""
    with database() as (db, _, _), db.begin() as tx:
        inventory.set_asset_state(tx, _require(tx, login), state, by=local_name())
    done({"id": login, "state": state.value}, f"asset {login} is {state.value}", as_json=as_json)


@asset.command("pin")
def asset_pin(
    login: Annotated[str, typer.Argument(metavar="ASSET.SITE")],
    host_key: Annotated[Path, typer.Option("--host-key", metavar="FILE")],
    as_json: bool = JSON,
) -> None:
    """Pin another host key, after looking at the device."""
    line = _read_key(host_key)
    fingerprint = parse_public_key(line).fingerprint
    with database() as (db, _, _), db.begin() as tx:
        inventory.pin_host_key(tx, _require(tx, login), line, by=local_name(), fingerprint=fingerprint)
    done({"id": login, "state": "pinned"}, f"asset {login}: {fingerprint} pinned", as_json=as_json)


def _row(one: Asset) -> dict[str, Any]:
    return {
        "id": one.login,
        "address": f"{one.host}:{one.port}",
        "protocol": one.protocol.value,
        "class": one.asset_class.value,
        "state": one.state.value,
        "accounts": list(one.accounts),
        "tcp": sorted(one.tcp_ports),
        "zone": one.zone,
        "host_key": None if one.host_key is None else parse_public_key(one.host_key).fingerprint,
    }


def _require(tx: Tx, login: str) -> Asset:
    found = inventory.load_asset(tx, login)
    if found is None:
        raise BrokerError(Code.NOT_FOUND, f"no asset {quoted(login)}; see: asset list")
    return found


def _read_key(path: Path) -> str:
    return parse_public_key(read_key_file(path)).line


def _ports(text: str) -> tuple[int, ...]:
    parts = [part for part in text.split(",") if part]
    if not all(len(part) <= 5 and part.isascii() and part.isdecimal() and 1 <= int(part) <= 65535 for part in parts):
        raise BrokerError(Code.INVALID, f"ports {quoted(text)}: write numbers from 1 to 65535, comma-separated")
    return tuple(int(part) for part in parts)
