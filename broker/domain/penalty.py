"""What an address pays for connections that led to no login: a time in which it is not let in, which grows with each.

Source: docs/rules.md PRE-4; sshd_config(5), PerSourcePenalties.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Final

SHORTEST: Final = timedelta(seconds=15)
"""Less than that is counted and not yet enforced: somebody mistypes, a port is looked at."""
LONGEST: Final = timedelta(minutes=10)


class Offence(IntEnum):
    """Why a connection ended without a login, and what it costs in seconds."""

    NO_TRY = 1
    FAILED = 5
    TOO_SLOW = 10
    CRASHED = 90


@dataclass(frozen=True, slots=True)
class Penalty:
    """What an address owes. source: as `net_of` gives it; enforced: once it has grown to SHORTEST, until it is over."""

    source: str
    until: datetime
    enforced: bool

    def bars(self, now: datetime) -> bool:
        """True while the address is not let in; a clock that was set back lengthens nothing."""
        return self.enforced and now < self.until <= now + LONGEST


def penalised(before: Penalty | None, source: str, offence: Offence, now: datetime) -> Penalty:
    """The penalty after one more offence. now: aware UTC. What is over counts no more."""
    standing = before if before is not None and now < before.until <= now + LONGEST else None
    begins = now if standing is None else standing.until
    until = min(begins + timedelta(seconds=offence), now + LONGEST)
    return Penalty(source, until, until - now >= SHORTEST or (standing is not None and standing.enforced))


def net_of(source: str) -> str:
    """The address by which a peer is counted: an IPv4 address, the first 64 bits of an IPv6 one, other text as it is.

    >>> net_of("192.0.2.7"), net_of("2001:db8:1:2:3::4"), net_of("local")
    ('192.0.2.7', '2001:db8:1:2::/64', 'local')
    """
    try:
        address = ipaddress.ip_address(source)
    except ValueError:
        return source
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
