"""Sites, zones, vendors and assets. Each change writes its own ledger entry (law 5)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import sqlalchemy as sa

from broker.domain.audit import InventoryChanged, VendorDisabled
from broker.domain.errors import BrokerError, Code
from broker.domain.ids import AssetId, SiteId, VendorId, parse_account, parse_login, parse_name, quoted
from broker.domain.inventory import Asset, AssetAuth, AssetClass, AssetState, Protocol, Site, Vendor
from broker.store import ledger
from broker.store.db import Tx
from broker.store.schema import asset as _asset
from broker.store.schema import site as _site
from broker.store.schema import vendor as _vendor
from broker.store.schema import zone as _zone

# Windows are of the inventory for all callers; only their SQL lives in a room of its own.
from broker.store.windows import close_window as close_window
from broker.store.windows import extend_window as extend_window
from broker.store.windows import find_window as find_window
from broker.store.windows import insert_window as insert_window
from broker.store.windows import load_window as load_window
from broker.store.windows import sites_of_vendor as sites_of_vendor
from broker.store.windows import windows as windows

ASSETS: Final = sa.select(_asset, _site.c.name.label("site_name"), _zone.c.name.label("zone_name")).select_from(
    _asset.join(_site, _asset.c.site_id == _site.c.id).outerjoin(_zone, _asset.c.zone_id == _zone.c.id)
)
"""Assets with the names of their site and zone, as `asset_of` reads them."""
_BY_LOGIN: Final = ASSETS.where(_asset.c.name == sa.bindparam("asset"), _site.c.name == sa.bindparam("site"))


def insert_site(tx: Tx, *, name: str, time_zone: str, by: str) -> Site:
    """Add a site. time_zone: an IANA name. by: who, for the ledger. Raises BrokerError(INVALID, CONFLICT)."""
    try:
        ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BrokerError(
            Code.INVALID, f"time zone {quoted(time_zone)}: write an IANA name such as Europe/Berlin"
        ) from None
    site = Site(id=SiteId(tx.new_id("site")), name=parse_name(name, what="site"), time_zone=time_zone)
    if find_site(tx, name) is not None:
        raise BrokerError(Code.CONFLICT, f"there is a site {name} already")
    tx.conn.execute(sa.insert(_site).values(id=site.id, name=site.name, time_zone=site.time_zone))
    ledger.append(tx, InventoryChanged(noun="site", name=name, act="added", by=by, detail=time_zone))
    return site


def find_site(tx: Tx, name: str) -> Site | None:
    """The site of that name, if there is one."""
    row = tx.conn.execute(sa.select(_site).where(_site.c.name == name)).one_or_none()
    return None if row is None else _site_of(row)


def load_site(tx: Tx, name: str) -> Site:
    """The site of that name. Raises BrokerError(NOT_FOUND)."""
    if (site := find_site(tx, name)) is None:
        raise BrokerError(Code.NOT_FOUND, f"no such site: {quoted(name)}")
    return site


def site_by_id(tx: Tx, site_id: SiteId) -> Site | None:
    """The site of that id."""
    row = tx.conn.execute(sa.select(_site).where(_site.c.id == site_id)).one_or_none()
    return None if row is None else _site_of(row)


def sites(tx: Tx) -> list[Site]:
    """All sites by name."""
    return [_site_of(row) for row in tx.conn.execute(sa.select(_site).order_by(_site.c.name))]


def insert_zone(tx: Tx, *, site: Site, name: str, by: str) -> str:
    """Add a zone to a site; gives its id. Raises BrokerError(INVALID, CONFLICT)."""
    parse_name(name, what="zone")
    if name in zones(tx, site):
        raise BrokerError(Code.CONFLICT, f"there is a zone {name} at {site.name} already")
    zone_id = tx.new_id("zone")
    tx.conn.execute(sa.insert(_zone).values(id=zone_id, site_id=site.id, name=name))
    ledger.append(tx, InventoryChanged(noun="zone", name=f"{name}.{site.name}", act="added", by=by))
    return zone_id


def zones(tx: Tx, site: Site) -> dict[str, str]:
    """The zones of a site: id by name, in order of names."""
    found = tx.conn.execute(sa.select(_zone).where(_zone.c.site_id == site.id).order_by(_zone.c.name))
    return {row.name: row.id for row in found}


def insert_vendor(tx: Tx, *, name: str, by: str) -> Vendor:
    """Add a vendor. Raises BrokerError(INVALID, CONFLICT)."""
    vendor = Vendor(id=VendorId(tx.new_id("vnd")), name=parse_name(name, what="vendor"))
    if find_vendor(tx, name) is not None:
        raise BrokerError(Code.CONFLICT, f"there is a vendor {name} already")
    tx.conn.execute(sa.insert(_vendor).values(id=vendor.id, name=vendor.name))
    ledger.append(tx, InventoryChanged(noun="vendor", name=name, act="added", by=by))
    return vendor


def find_vendor(tx: Tx, name: str) -> Vendor | None:
    """The vendor of that name, if there is one."""
    row = tx.conn.execute(sa.select(_vendor).where(_vendor.c.name == name)).one_or_none()
    return None if row is None else _vendor_of(row)


def load_vendor(tx: Tx, name: str) -> Vendor:
    """The vendor of that name. Raises BrokerError(NOT_FOUND)."""
    if (vendor := find_vendor(tx, name)) is None:
        raise BrokerError(Code.NOT_FOUND, f"no such vendor: {quoted(name)}")
    return vendor


def vendor_by_id(tx: Tx, vendor_id: VendorId) -> Vendor | None:
    """The vendor of that id."""
    row = tx.conn.execute(sa.select(_vendor).where(_vendor.c.id == vendor_id)).one_or_none()
    return None if row is None else _vendor_of(row)


def vendors(tx: Tx) -> list[Vendor]:
    """All vendors by name."""
    return [_vendor_of(row) for row in tx.conn.execute(sa.select(_vendor).order_by(_vendor.c.name))]


def disable_vendor(tx: Tx, vendor_id: VendorId, *, by: str) -> bool:
    """Disable a vendor, once; False when it was already. Its people lose every door with it."""
    done = tx.conn.execute(
        sa.update(_vendor).where(_vendor.c.id == vendor_id, _vendor.c.disabled_at.is_(None)).values(disabled_at=tx.now)
    )
    if done.rowcount == 1:
        ledger.append(tx, VendorDisabled(vendor_id=vendor_id, by=by))
    return done.rowcount == 1


def insert_asset(
    tx: Tx,
    *,
    site: Site,
    name: str,
    host: str,
    port: int,
    by: str,
    protocol: Protocol = Protocol.SSH,
    accounts: tuple[str, ...] = (),
    auth: AssetAuth = AssetAuth.CA,
    host_key: str | None = None,
    tcp_ports: Iterable[int] = (),
    asset_class: AssetClass = AssetClass.ROUTINE,
    state: AssetState = AssetState.EXPECTED,
    zone: str | None = None,
    legacy: bool = False,
    secret: bytes | None = None,
) -> Asset:
    """Add an asset. zone: its name; secret: sealed by the caller. Raises BrokerError(INVALID, NOT_FOUND, CONFLICT)."""
    ports = frozenset(tcp_ports)
    if not all(1 <= one <= 65535 for one in (port, *ports)):
        raise BrokerError(Code.INVALID, "a port lies between 1 and 65535")
    zone_id = None if zone is None else zones(tx, site).get(zone)
    if zone is not None and zone_id is None:
        raise BrokerError(Code.NOT_FOUND, f"no such zone at {site.name}: {quoted(zone)}")
    made = Asset(
        id=AssetId(tx.new_id("ast")),
        site_id=site.id,
        site=site.name,
        name=parse_name(name, what="asset"),
        host=host,
        port=port,
        protocol=protocol,
        accounts=tuple(parse_account(one) for one in accounts),
        auth=auth,
        host_key=host_key,
        tcp_ports=ports,
        asset_class=asset_class,
        state=state,
        zone=zone,
        legacy=legacy,
    )
    if load_asset(tx, made.login) is not None:
        raise BrokerError(Code.CONFLICT, f"there is an asset {made.login} already")
    tx.conn.execute(sa.insert(_asset).values(**_columns(made), zone_id=zone_id, secret=secret))
    ledger.append(tx, InventoryChanged(noun="asset", name=made.login, act="added", by=by, detail=made.state.value))
    return made


def load_asset(tx: Tx, login: str) -> Asset | None:
    """The asset of that full name, ASSET.SITE; None when there is none, or the text is no such name."""
    try:
        wanted = parse_login(login)
    except BrokerError:
        return None
    if wanted.site is None or wanted.account is not None:
        return None
    return asset_named(tx, wanted.asset, wanted.site)


def asset_named(tx: Tx, name: str, site: str) -> Asset | None:
    """The asset of that name at the site of that name."""
    row = tx.conn.execute(_BY_LOGIN, {"asset": name, "site": site}).one_or_none()
    return None if row is None else asset_of(row)


def asset_by_id(tx: Tx, asset_id: AssetId) -> Asset | None:
    """The asset of that id."""
    row = tx.conn.execute(ASSETS.where(_asset.c.id == asset_id)).one_or_none()
    return None if row is None else asset_of(row)


def assets(tx: Tx, site: Site | None = None, *, ids: Iterable[AssetId] | None = None) -> list[Asset]:
    """Assets by site and name. site: only its own; ids: only these."""
    asked = ASSETS.order_by(_site.c.name, _asset.c.name)
    if site is not None:
        asked = asked.where(_asset.c.site_id == site.id)
    if ids is not None:
        asked = asked.where(_asset.c.id.in_(list(ids)))
    return [asset_of(row) for row in tx.conn.execute(asked)]


def assets_called(tx: Tx, name: str, site_ids: Iterable[SiteId]) -> list[Asset]:
    """The assets at these sites that a person may mean by ASSET.SITE or by ASSET; none when the text is no such name."""
    try:
        wanted = parse_login(name)
    except BrokerError:
        return []
    asked = ASSETS.where(_asset.c.name == wanted.asset, _asset.c.site_id.in_(list(site_ids)))
    if wanted.site is not None:
        asked = asked.where(_site.c.name == wanted.site)
    return [] if wanted.account is not None else [asset_of(row) for row in tx.conn.execute(asked)]


def set_asset_state(tx: Tx, asset: Asset, state: AssetState, *, by: str) -> None:
    """Move an asset to a state; a state it is in already changes nothing and is not told."""
    if asset.state is not state:
        tx.conn.execute(sa.update(_asset).where(_asset.c.id == asset.id).values(state=state.value))
        detail = f"{asset.state.value} to {state.value}"
        ledger.append(tx, InventoryChanged(noun="asset", name=asset.login, act="changed", by=by, detail=detail))


def pin_host_key(tx: Tx, asset: Asset, host_key: str, *, by: str, fingerprint: str) -> None:
    """Pin the key a person has checked. host_key: OpenSSH public key line, parsed by the caller. Source: AST-1."""
    tx.conn.execute(sa.update(_asset).where(_asset.c.id == asset.id).values(host_key=host_key))
    detail = f"host key {fingerprint}"
    ledger.append(tx, InventoryChanged(noun="asset", name=asset.login, act="changed", by=by, detail=detail))


def load_asset_secret(tx: Tx, asset_id: AssetId) -> bytes | None:
    """The sealed credential of an asset, None when it has none."""
    sealed = tx.conn.execute(sa.select(_asset.c.secret).where(_asset.c.id == asset_id)).scalar_one_or_none()
    return None if sealed is None else bytes(sealed)


def set_asset_secret(tx: Tx, asset: Asset, sealed: bytes, *, by: str) -> None:
    """Keep the credential by which the bastion enters an asset; sealed by the caller. Source: SEC-2."""
    tx.conn.execute(sa.update(_asset).where(_asset.c.id == asset.id).values(secret=sealed))
    ledger.append(tx, InventoryChanged(noun="asset", name=asset.login, act="changed", by=by, detail="credential"))


def _site_of(row: Any) -> Site:
    return Site(id=row.id, name=row.name, time_zone=row.time_zone)


def _vendor_of(row: Any) -> Vendor:
    return Vendor(id=row.id, name=row.name, disabled_at=row.disabled_at)


def asset_of(row: Any) -> Asset:
    """A row of ASSETS as the noun."""
    return Asset(
        id=row.id,
        site_id=row.site_id,
        site=row.site_name,
        name=row.name,
        host=row.host,
        port=row.port,
        protocol=Protocol(row.protocol),
        accounts=tuple(row.accounts.split(",")) if row.accounts else (),
        auth=AssetAuth(row.auth),
        host_key=row.host_key,
        tcp_ports=frozenset(int(port) for port in row.tcp_ports.split(",") if port),
        asset_class=AssetClass(row.asset_class),
        state=AssetState(row.state),
        zone=row.zone_name,
        legacy=row.legacy,
    )


def _columns(asset: Asset) -> dict[str, Any]:
    return {
        "id": asset.id,
        "site_id": asset.site_id,
        "name": asset.name,
        "host": asset.host,
        "port": asset.port,
        "protocol": asset.protocol.value,
        "accounts": ",".join(asset.accounts),
        "auth": asset.auth.value,
        "host_key": asset.host_key,
        "tcp_ports": ",".join(str(port) for port in sorted(asset.tcp_ports)),
        "asset_class": asset.asset_class.value,
        "state": asset.state.value,
        "legacy": asset.legacy,
    }
