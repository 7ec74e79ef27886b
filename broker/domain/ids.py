"""Names and ids, and the parsers that turn a stranger's text into them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NewType

from broker.domain.errors import BrokerError, Code

SiteId = NewType("SiteId", str)
VendorId = NewType("VendorId", str)
AssetId = NewType("AssetId", str)
PersonId = NewType("PersonId", str)
WindowId = NewType("WindowId", str)
AccessRequestId = NewType("AccessRequestId", str)
ApprovalId = NewType("ApprovalId", str)
GrantId = NewType("GrantId", str)
SessionId = NewType("SessionId", str)

# No colon, slash, percent sign, upper case or anything outside ASCII: scp, rsync and ssh_config must work, twins must not.
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")
_HANDLE: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_ACCOUNT: Final = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_LOGIN: Final = re.compile(r"(?:(?P<account>[a-z0-9_-]+)\+)?(?P<asset>[a-z0-9_-]+)(?:\.(?P<site>[a-z0-9_-]+))?")
_DURATION: Final = re.compile(r"([0-9]{1,6})([smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, slots=True)
class Login:
    """An SSH login name read as a wish for an asset; it does not say that the asset exists."""

    account: str | None
    asset: str
    site: str | None


def parse_name(text: str, *, what: str) -> str:
    """Read the short name of a site, vendor, zone or asset. Raises BrokerError(INVALID).

    >>> parse_name("bms-01", what="asset")
    'bms-01'
    """
    if not _NAME.fullmatch(text):
        raise BrokerError(Code.INVALID, f"{what} name {quoted(text)}: use a-z, 0-9, - and _, at most 63 characters")
    return text


def parse_handle(text: str) -> str:
    """Read a person's handle; may hold dots. Raises BrokerError(INVALID).

    >>> parse_handle("engineer.one")
    'engineer.one'
    """
    if not _HANDLE.fullmatch(text):
        raise BrokerError(Code.INVALID, f"handle {quoted(text)}: use a-z, 0-9, ., - and _, at most 64 characters")
    return text


def parse_account(text: str) -> str:
    """Read the name of an account on an asset. Raises BrokerError(INVALID).

    >>> parse_account("service")
    'service'
    """
    if not _ACCOUNT.fullmatch(text):
        raise BrokerError(Code.INVALID, f"account {quoted(text)}: use a-z, 0-9, - and _, at most 32 characters")
    return text


def parse_login(text: str) -> Login:
    """Read the SSH login name by which an engineer picks an asset: [account+]asset[.site].

    text: untrusted. Raises BrokerError(INVALID). Does not say that the asset exists or may be reached.
    Source: RFC 4252 section 5 (user name). No colon, slash or percent sign, so that scp, rsync and ssh_config work.

    >>> parse_login("service+bms-01.kestrel")
    Login(account='service', asset='bms-01', site='kestrel')
    """
    match = _LOGIN.fullmatch(text) if len(text) <= 160 else None
    if match is None:
        raise BrokerError(Code.INVALID, f"login {quoted(text)}: write ASSET.SITE or ACCOUNT+ASSET.SITE")
    return Login(**match.groupdict())


def parse_duration(text: str) -> timedelta:
    """Read a duration such as 90s, 15m, 2h, 3d; never zero. Raises BrokerError(INVALID).

    >>> parse_duration("90s")
    datetime.timedelta(seconds=90)
    """
    match = _DURATION.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise BrokerError(Code.INVALID, f"duration {quoted(text)}: write a number and s, m, h or d, such as 2h")
    try:
        return timedelta(**{_UNITS[match[2]]: int(match[1])})
    except OverflowError:  # pragma: no cover - six digits of days still fit; kept for longer patterns
        raise BrokerError(Code.INVALID, f"duration {quoted(text)} is too long") from None


def parse_instant(text: str) -> datetime:
    """Read an instant as RFC 3339 with offset; gives aware UTC. Raises BrokerError(INVALID).

    A time without an offset is refused, not guessed: nine o'clock at the site is not nine o'clock at the vendor.
    Source: RFC 3339 section 5.6.

    >>> parse_instant("2027-02-24T16:00:00-08:00").isoformat()
    '2027-02-25T00:00:00+00:00'
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise BrokerError(
            Code.INVALID, f"time {quoted(text)}: write date, time and offset, such as 2027-02-24T16:00:00-08:00"
        )
    return in_range(instant)


def in_range(instant: datetime) -> datetime:
    """The same instant in UTC. Raises BrokerError(INVALID) for a year outside 1970 to 9998: every zone must be able to show it."""
    try:
        found = instant.astimezone(UTC)
    except OverflowError:
        found = None
    if found is None or not 1970 <= found.year <= 9998:
        raise BrokerError(Code.INVALID, f"time {quoted(instant.isoformat())} is out of range")
    return found


def parse_text(text: str, *, what: str, longest: int = 2048, required: bool = True) -> str:
    """Take free text of a person: trimmed, bounded, without control characters but newline and tab.

    Raises BrokerError(INVALID). Source: docs/rules.md WEB-9, LOG-1: a length on every field.
    """
    kept = text.strip()
    if required and not kept:
        raise BrokerError(Code.INVALID, f"{what} is missing")
    if len(kept) > longest:
        raise BrokerError(Code.INVALID, f"{what} is too long: {len(kept)} characters, at most {longest}")
    if any((ch < " " and ch not in "\n\t") or "\x7f" <= ch <= "\x9f" or 0xD800 <= ord(ch) <= 0xDFFF for ch in kept):
        raise BrokerError(Code.INVALID, f"{what} holds control characters")
    return kept


def quoted(text: str, *, longest: int = 64) -> str:
    """A foreign text made safe for one line: quoted, escaped to ASCII, cut."""
    cut = text if len(text) <= longest else text[:longest] + "..."
    return ascii(cut)


def show_duration(length: timedelta) -> str:
    """A duration for people: at most two units.

    >>> show_duration(timedelta(hours=2, minutes=5))
    '2 h 5 min'
    """
    seconds = max(0, int(length.total_seconds()))
    parts = [(seconds // 86400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
    return " ".join(f"{number} {unit}" for number, unit in [part for part in parts if part[0]][:2]) or "0 s"
