"""Facts for trying the law: a site at noon with one engineer, one asset, one window, one grant."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from broker.domain.capability import EXEC, SHELL
from broker.domain.grant import Grant, Terms
from broker.domain.ids import AccessRequestId, AssetId, GrantId, PersonId, SiteId, VendorId, WindowId
from broker.domain.inventory import Asset, AssetAuth, AssetClass, AssetState, Protocol, Site, Vendor
from broker.domain.people import Person, Role, RoleAt
from broker.domain.policy import ApprovalFacts, Facts, ReviewFacts
from broker.domain.request import AccessRequest, Asked
from broker.domain.window import CommissioningWindow, Interval

NOON = datetime(2027, 2, 24, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
SITE = Site(id=SiteId("sit-1"), name="north", time_zone="Europe/London")
VENDOR = Vendor(id=VendorId("vnd-1"), name="cellmaker")
ENGINEER = Person(id=PersonId("per-1"), handle="engineer", name="An Engineer", vendor_id=VENDOR.id, human="one")
OWNER = Person(
    id=PersonId("per-2"), handle="owner", name="An Owner", roles=frozenset({RoleAt(Role.OWNER, SITE.id)}), human="two"
)
SECOND_OWNER = replace(OWNER, id=PersonId("per-3"), handle="owner2", human="three")


def an_asset(
    number: int = 1, *, klass: AssetClass = AssetClass.ROUTINE, state: AssetState = AssetState.OPERATIONAL
) -> Asset:
    return Asset(
        id=AssetId(f"ast-{number}"),
        site_id=SITE.id,
        site=SITE.name,
        name=f"bms-{number:02d}",
        host="127.0.0.1",
        port=22,
        protocol=Protocol.SSH,
        accounts=("service", "root"),
        auth=AssetAuth.CA,
        host_key="ssh-ed25519 AAAA",
        tcp_ports=frozenset({502}),
        asset_class=klass,
        state=state,
    )


def a_window(opens: datetime = NOON - 4 * HOUR, closes: datetime = NOON + 4 * HOUR) -> CommissioningWindow:
    return CommissioningWindow(
        id=WindowId("win-1"),
        site_id=SITE.id,
        vendor_id=VENDOR.id,
        interval=Interval(opens, closes),
        pattern="bms-*",
        phase="P1",
    )


def a_grant(opens: datetime = NOON - HOUR, closes: datetime = NOON + HOUR) -> Grant:
    return Grant(
        id=GrantId("grt-1"),
        request_id=AccessRequestId("req-1"),
        person_id=ENGINEER.id,
        vendor_id=VENDOR.id,
        site_id=SITE.id,
        window_id=WindowId("win-1"),
        terms=Terms(
            assets=frozenset({AssetId("ast-1")}),
            capabilities=frozenset({SHELL, EXEC}),
            interval=Interval(opens, closes),
        ),
        granted_at=opens,
    )


def some_facts(**changed: object) -> Facts:
    facts = Facts(
        person=ENGINEER,
        vendor=VENDOR,
        site=SITE,
        asset=an_asset(),
        account=None,
        grant=a_grant(),
        window=a_window(),
        capability=SHELL,
    )
    return replace(facts, **changed)  # type: ignore[arg-type]


def some_review_facts(**changed: object) -> ReviewFacts:
    facts = ReviewFacts(
        person=ENGINEER, vendor=VENDOR, assets=(an_asset(),), windows=(a_window(),), longest=timedelta(days=14)
    )
    return replace(facts, **changed)  # type: ignore[arg-type]


def an_asking(**changed: object) -> Asked:
    asked = Asked(assets=("bms-01.north",), length=HOUR, reason="calibrate", capabilities=frozenset({SHELL, EXEC}))
    return replace(asked, **changed)  # type: ignore[arg-type]


def an_access_request(**changed: object) -> AccessRequest:
    request = AccessRequest(
        id=AccessRequestId("req-1"),
        person_id=ENGINEER.id,
        vendor_id=VENDOR.id,
        site_id=SITE.id,
        assets=(AssetId("ast-1"), AssetId("ast-2")),
        capabilities=frozenset({SHELL, EXEC}),
        opens=None,
        length=2 * HOUR,
        reason="calibrate",
        change="CHG-1",
        submitted_at=NOON - HOUR,
        lapses_at=NOON + 23 * HOUR,
    )
    return replace(request, **changed)  # type: ignore[arg-type]


def some_approval_facts(**changed: object) -> ApprovalFacts:
    facts = ApprovalFacts(
        request=an_access_request(),
        asker=ENGINEER,
        owner=OWNER,
        assets=(an_asset(1), an_asset(2)),
        windows=(a_window(),),
    )
    return replace(facts, **changed)  # type: ignore[arg-type]


def instants() -> st.SearchStrategy[datetime]:
    return st.integers(-10_000, 10_000).map(lambda seconds: NOON + timedelta(seconds=seconds))


@st.composite
def intervals(draw: st.DrawFn) -> Interval:
    opens = draw(instants())
    return Interval(opens, opens + timedelta(seconds=draw(st.integers(1, 20_000))))
