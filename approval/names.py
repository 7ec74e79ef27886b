"""Ids turned into what people call things, loaded once for a page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from broker.domain.ids import AssetId, PersonId, SiteId, VendorId
from broker.domain.inventory import Asset, Site, Vendor
from broker.domain.people import Person
from broker.store import inventory, people
from broker.store.db import Tx


@dataclass(frozen=True, slots=True)
class Names:
    """People and assets that a page names, all vendors and all sites. What is gone is called by its id."""

    people: dict[PersonId, Person]
    assets: dict[AssetId, Asset]
    vendors: dict[VendorId, Vendor]
    sites: dict[SiteId, Site]

    @classmethod
    def load(cls, tx: Tx, *, people_ids: Iterable[PersonId], asset_ids: Iterable[AssetId]) -> Names:
        return cls(
            {one.id: one for one in people.people(tx, ids=set(people_ids))},
            {one.id: one for one in inventory.assets(tx, ids=set(asset_ids))},
            {one.id: one for one in inventory.vendors(tx)},
            {one.id: one for one in inventory.sites(tx)},
        )

    def person(self, person_id: PersonId) -> str:
        return self.people[person_id].name if person_id in self.people else person_id

    def handle(self, person_id: PersonId) -> str:
        return self.people[person_id].handle if person_id in self.people else person_id

    def vendor(self, vendor_id: VendorId) -> str:
        return self.vendors[vendor_id].name if vendor_id in self.vendors else vendor_id

    def vendor_of(self, person_id: PersonId) -> str:
        """The firm of an engineer, a dash for the site's own people."""
        vendor_id = self.people[person_id].vendor_id if person_id in self.people else None
        return "—" if vendor_id is None else self.vendor(vendor_id)

    def asset(self, asset_id: AssetId) -> str:
        return self.assets[asset_id].login if asset_id in self.assets else asset_id

    def logins(self, asset_ids: Iterable[AssetId]) -> list[str]:
        return sorted(self.asset(one) for one in asset_ids)

    def site(self, site_id: SiteId) -> str:
        return self.sites[site_id].name if site_id in self.sites else site_id

    def zone(self, site_id: SiteId) -> str:
        """The site's time zone."""
        return self.sites[site_id].time_zone if site_id in self.sites else "UTC"

    def zone_of_asset(self, asset_id: AssetId) -> str:
        return self.zone(self.assets[asset_id].site_id) if asset_id in self.assets else "UTC"
