"""What the site has: sites, vendors, assets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from broker.domain.ids import AssetId, SiteId, VendorId


class Protocol(StrEnum):
    """How the bastion speaks to an asset."""

    SSH = "ssh"
    TELNET = "telnet"
    TCP = "tcp"


class AssetAuth(StrEnum):
    """How the bastion proves itself to an asset: a certificate of minutes, or an injected secret."""

    CA = "ca"
    PASSWORD = "password"  # noqa: S105 - the name of a way to log in, not a secret
    KEY = "key"


class AssetClass(StrEnum):
    """What a mistake there can do; hazard asks for two owners."""

    ROUTINE = "routine"
    HAZARD = "hazard"


class AssetState(StrEnum):
    """Where the device stands between delivery note and operation; grants only for the last two."""

    EXPECTED = "expected"
    RECEIVED = "received"
    QUARANTINED = "quarantined"
    COMMISSIONED = "commissioned"
    OPERATIONAL = "operational"


REACHABLE_STATES = frozenset({AssetState.COMMISSIONED, AssetState.OPERATIONAL})
"""States in which an asset may be asked for and reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A place with assets and a time zone (IANA name)."""

    id: SiteId
    name: str
    time_zone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """An outside firm."""

    id: VendorId
    name: str
    disabled_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One reachable device: protocol, address, pinned host key, accounts, class.

    accounts: the first is the default. host_key: OpenSSH public key line, None until a person pinned one (then it is not dialled).
    """

    id: AssetId
    site_id: SiteId
    site: str
    name: str
    host: str
    port: int
    protocol: Protocol
    accounts: tuple[str, ...]
    auth: AssetAuth
    host_key: str | None
    tcp_ports: frozenset[int]
    asset_class: AssetClass
    state: AssetState
    zone: str | None = None
    legacy: bool = False

    @property
    def login(self) -> str:
        """The name by which an engineer asks for it: ASSET.SITE."""
        return f"{self.name}.{self.site}"
