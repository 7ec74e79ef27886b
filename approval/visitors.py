"""Who is at the page: a live web session, its person as they are now, and how fresh their last code is."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from broker.domain.ids import SiteId
from broker.domain.inventory import Site
from broker.domain.isolation import Ladder
from broker.domain.people import Person, Right
from broker.store import inventory, people, web_sessions
from broker.store.db import Tx
from broker.store.web_sessions import WebSession


class NotLoggedIn(Exception):
    """No live session: the answer is the login page."""


class Forged(Exception):
    """The form does not hold this session's token."""


@dataclass(frozen=True, slots=True)
class Visit:
    """How long a session may rest, last, and act on its last code."""

    idle: timedelta
    longest: timedelta
    fresh: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Somebody logged in, as of one transaction. now: its instant; rights are the person's at that instant.

    isolation: a line for each of their sites, or all, that is isolated.
    """

    person: Person
    vendor: str | None
    session: WebSession
    now: datetime
    fresh_until: datetime
    sites: tuple[Site, ...]
    secret: str = field(repr=False)
    isolation: tuple[str, ...] = ()

    @property
    def is_engineer(self) -> bool:
        return self.person.vendor_id is not None

    @property
    def is_fresh(self) -> bool:
        """True while the last code is young enough to act on. Source: WEB-4."""
        return self.now < self.fresh_until

    def sites_with(self, *rights: Right) -> tuple[Site, ...]:
        """The sites where a role gives one of the rights."""
        return tuple(site for site in self.sites if any(self.person.may(right, site.id) for right in rights))

    def may(self, right: Right, site_id: SiteId) -> bool:
        return self.person.may(right, site_id)

    def may_anywhere(self, *rights: Right) -> bool:
        return bool(self.sites_with(*rights))

    def may_everywhere(self, *rights: Right) -> bool:
        """True for one whose roles give one of the rights at every site there is: the ledger knows no sites."""
        return bool(self.sites) and len(self.sites_with(*rights)) == len(self.sites)

    def told(self, ladder: Ladder) -> Visitor:
        """The same, knowing what is isolated: where they have a right, and what holds for all."""
        everywhere = ladder.level(None)
        shown = [f"every site is isolated, level {everywhere:d}: {ladder.reason(None)}"] if everywhere else []
        shown += [
            f"{site.name} is isolated, level {level:d}: {ladder.reason(site.name)}"
            for site in self.sites_with(*Right)
            if (level := ladder.level(site.name)) > everywhere
        ]
        return replace(self, isolation=tuple(shown))

    def require_token(self, token: str) -> None:
        """Raises Forged unless it is the session's own token. Source: WEB-4."""
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self.session.csrf.encode()):
            raise Forged


def require_visitor(tx: Tx, secret: str, visit: Visit) -> Visitor:
    """Who holds the secret, now. Raises NotLoggedIn: unknown, ended, idle too long, too old, or the person is disabled."""
    session = web_sessions.load(tx, secret, idle=visit.idle, longest=visit.longest) if secret else None
    person = None if session is None else people.load_person(tx, session.person_id)
    if session is None or person is None or not may_log_in(tx, person):
        raise NotLoggedIn
    vendor = None if person.vendor_id is None else inventory.vendor_by_id(tx, person.vendor_id)
    return Visitor(
        person=person,
        vendor=None if vendor is None else vendor.name,
        session=session,
        now=tx.now,
        fresh_until=session.proof_at + visit.fresh,
        sites=tuple(inventory.sites(tx)),
        secret=secret,
    )


def may_log_in(tx: Tx, person: Person) -> bool:
    """False for somebody disabled, and for everybody of a vendor that is."""
    if person.disabled_at is not None:
        return False
    if person.vendor_id is None:
        return True
    vendor = inventory.vendor_by_id(tx, person.vendor_id)
    return vendor is not None and vendor.disabled_at is None
