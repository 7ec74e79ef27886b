"""Kestrel Flat: the invented site, its firms, people and assets. Nobody and nothing in here exists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from broker.domain.inventory import AssetClass, AssetState
from broker.domain.people import Role

SITE: Final = "kestrel"
TIME_ZONE: Final = "America/Los_Angeles"
PASSWORD: Final = "salt-flat-at-noon"
ACCOUNT: Final = "service"
BATTERIES, CONVERTERS = "orrin", "skarne"
FIRMS: Final = {BATTERIES: "bms-*", CONVERTERS: "pcs-*"}
"""Each vendor, and what its commissioning window names."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One person of the cast: an engineer of a firm, or somebody of the site with a role."""

    handle: str
    name: str
    firm: str | None = None
    role: Role | None = None
    does: str = ""

    @property
    def is_a(self) -> str:
        return self.role.value if self.role is not None else f"engineer of {self.firm}"


SEOYEON: Final = Figure("orrin-engineer", "Han Seoyeon", firm=BATTERIES, does="asks, and goes in")
TAEKYUNG: Final = Figure("orrin-colleague", "Bae Taekyung", firm=BATTERIES)
MIRAE: Final = Figure("orrin-newcomer", "Mirae Castellan", firm=BATTERIES)
SIGNE: Final = Figure("skarne-engineer", "Signe Halvedal", firm=CONVERTERS)
MARGUERITE: Final = Figure("owner", "Marguerite Oyelaran", role=Role.OWNER, does="approves, and ends sessions")
DESMOND: Final = Figure("second-owner", "Desmond Farraday", role=Role.OWNER)
NADIA: Final = Figure("investigator", "Nadia Ferreira-Holt", role=Role.INVESTIGATOR, does="looks at recordings")
CAST: Final = (SEOYEON, TAEKYUNG, MIRAE, SIGNE, MARGUERITE, DESMOND, NADIA)
LEADS: Final = (SEOYEON, MARGUERITE, NADIA)
"""Whose codes are shown as pictures: those whom somebody trying the demo plays."""


@dataclass(frozen=True, slots=True)
class Device:
    """One simulated controller."""

    name: str
    model: str
    serial: str
    firmware: str
    asset_class: AssetClass = AssetClass.ROUTINE
    state: AssetState = AssetState.COMMISSIONED

    @property
    def login(self) -> str:
        return f"{self.name}.{SITE}"


BMS_21: Final = Device("bms-21", "Orrin Stack-5 SBMS", "OCS5-26-000121", "4.2.1")
BMS_22: Final = Device("bms-22", "Orrin Stack-5 SBMS", "OCS5-26-000122", "4.2.1")
BMS_80: Final = Device("bms-80", "Orrin Stack-5 SBMS", "OCS5-25-009977", "4.0.9", state=AssetState.QUARANTINED)
PCS_01: Final = Device("pcs-01", "Skarne Fjord-4000", "SKF4-2611-0001", "7.10.2", asset_class=AssetClass.HAZARD)
DEVICES: Final = (BMS_21, BMS_22, BMS_80, PCS_01)
