"""What may be signed, decided from the database, and the only callers of certificate generation.

Source: law 2, law 9, docs/rules.md CRT-1 to CRT-7, asyncssh. A certificate is asked for by grant or session id; its
principals, times and options are decided here and never by the caller.
"""

from __future__ import annotations

import base64
import ipaddress
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncssh

from broker.domain.audit import CertificateIssued
from broker.domain.errors import BrokerError, Code
from broker.domain.grant import Grant, GrantState
from broker.domain.ids import GrantId, PersonId, SessionId, quoted
from broker.domain.inventory import Asset
from broker.domain.isolation import Ladder, Level
from broker.domain.window import CommissioningWindow
from broker.openssh import Certificate, parse_certificate, parse_public_key
from broker.settings import Settings
from broker.store import authorities, grants, inventory, ledger, people, sessions, suspensions
from broker.store.db import Tx
from broker.store.grants import IssuedCertificate

EARLIER: Final = timedelta(seconds=30)
"""An asset certificate begins so much earlier: clocks of plant gear are rarely exact."""
HOST_LIFE: Final = timedelta(days=30)
_SERIAL_BITS: Final = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One certificate as decided, before it is signed. Times are whole seconds, rounded inwards."""

    purpose: str
    serial: int
    key_line: str
    key_id: str
    principals: tuple[str, ...]
    valid_after: datetime
    valid_before: datetime
    source_address: str | None
    grant_id: GrantId | None = None
    session_id: SessionId | None = None


def no(text: str) -> BrokerError:
    """A refusal of the signer: one line; nothing is signed."""
    return BrokerError(Code.FORBIDDEN, text)


def under(tx: Tx, ca: str, make: Callable[..., Order], /, *args: Any, **kwargs: Any) -> Order:
    """As make, one of the orders here, with the key that will sign kept beside the certificate. ca: its fingerprint."""
    order = make(tx, *args, **kwargs)
    authorities.note_signer(tx, order.serial, ca)
    return order


def order_gate(
    tx: Tx,
    settings: Settings,
    *,
    grant_id: GrantId,
    person_id: PersonId,
    key_line: str,
    source: str,
    ladder: Ladder,
) -> Order:
    """Decide on what a vendor carries: principals are exactly the grant's logins and the engineer's handle.

    Raises BrokerError(FORBIDDEN). The ledger entry is in this transaction, so it is there before the signature.
    """
    _refuse_late_clock(tx, settings)
    grant = grants.load(tx, grant_id)
    person = None if grant is None else people.load_person(tx, grant.person_id)
    if grant is None or person is None or person.id != person_id:
        raise no("no such grant")
    if person.disabled_at is not None:
        raise no("the engineer is disabled")
    if grant.state(tx.now) is not GrantState.OPEN:
        raise no(f"the grant is {grant.state(tx.now).value}")
    _refuse_disabled_vendor(tx, grant)
    _refuse_isolated(tx, grant, ladder)
    window = _open_window(tx, grant)
    assets = _not_suspended(tx, grant)
    key = parse_public_key(key_line)
    if key.fingerprint not in {one.fingerprint for one in people.keys(tx, person.id)}:
        raise no("the key is not enrolled")
    names = {person.handle}
    for asset in assets:
        names.add(asset.login)
        names.update(f"{account}+{asset.login}" for account in asset.accounts[1:])
    # From the second that has begun, or it could not be used at once; the life is counted from there, so it is never longer.
    begun = tx.now.replace(microsecond=0)
    after, before = _bounds(
        max(grant.interval.opens, window.start(tx.now), begun),
        min(grant.interval.closes, window.stop(tx.now), begun + timedelta(seconds=settings.certificate_life_s)),
    )
    order = Order(
        purpose="gate",
        serial=secrets.randbits(_SERIAL_BITS),
        key_line=key.line,
        key_id=f"wicketgate {person.handle} {grant.id}",
        principals=tuple(sorted(names)),
        valid_after=after,
        valid_before=before,
        source_address=_folded(source) if settings.certificate_source_address else None,
        grant_id=grant.id,
    )
    _keep(tx, order, key.fingerprint)
    return order


def order_asset(
    tx: Tx,
    settings: Settings,
    *,
    session_id: SessionId,
    key_line: str,
    ladder: Ladder,
) -> Order:
    """Decide on what the bastion shows to one asset: one account, minutes, a fresh key. Raises BrokerError(FORBIDDEN)."""
    _refuse_late_clock(tx, settings)
    session = sessions.load_session(tx, session_id)
    grant = None if session is None else grants.load(tx, session.grant_id)
    if session is None or grant is None:
        raise no("no such session")
    if session.ended_at is not None or tx.now >= session.until or grant.state(tx.now) is not GrantState.OPEN:
        raise no("the session is over")
    asset = inventory.asset_by_id(tx, session.asset_id)
    if asset is None or asset.id not in grant.terms.assets or session.account not in asset.accounts:
        raise no("the session is not one of its grant")
    if asset.id not in {one.id for one in _not_suspended(tx, grant)}:
        raise no("the asset is suspended")
    key = parse_public_key(key_line)
    if key.algorithm != "ssh-ed25519" or people.key_owner(tx, key.fingerprint) is not None:
        raise no("the key of an asset leg is a fresh ed25519 key")
    person = people.load_person(tx, session.person_id)
    if person is None or person.disabled_at is not None:
        raise no("the engineer is disabled")
    _refuse_disabled_vendor(tx, grant)
    _refuse_isolated(tx, grant, ladder)
    life = timedelta(seconds=settings.asset_certificate_life_s)
    after, before = _bounds(
        tx.now - EARLIER,
        min(session.until, grant.interval.closes, _open_window(tx, grant).stop(tx.now), tx.now + life),
    )
    order = Order(
        purpose="asset",
        serial=secrets.randbits(_SERIAL_BITS),
        key_line=key.line,
        key_id=f"wicketgate {person.handle} {session.grant_id} {session.id}",
        principals=(session.account,),
        valid_after=after,
        valid_before=before,
        source_address=settings.bastion_address or None,
        grant_id=grant.id,
        session_id=session.id,
    )
    _keep(tx, order, key.fingerprint)
    return order


def order_host(tx: Tx, settings: Settings, *, key_line: str, own_line: str) -> Order:
    """Decide on the bastion's own host certificate. own_line: the home's host key. Raises BrokerError(INVALID, FORBIDDEN)."""
    key = parse_public_key(key_line)
    if key.fingerprint != parse_public_key(own_line).fingerprint:
        raise no("that is not the bastion's host key")
    after, before = _bounds(tx.now - EARLIER, tx.now + HOST_LIFE)
    order = Order(
        purpose="host",
        serial=secrets.randbits(_SERIAL_BITS),
        key_line=key.line,
        key_id=f"wicketgate bastion {settings.host_names[0]}",
        principals=settings.host_names,
        valid_after=after,
        valid_before=before,
        source_address=None,
    )
    _keep(tx, order, key.fingerprint)
    return order


def sign(ca: asyncssh.SSHKey, order: Order) -> str:
    """Sign what was decided, parse the bytes back and compare every field. Raises BrokerError(UNAVAILABLE) on a difference.

    Every argument is given: asyncssh's defaults are any principal, for ever, with every permission.
    """
    key = asyncssh.import_public_key(order.key_line)
    algorithm = "rsa-sha2-512" if ca.algorithm == b"ssh-rsa" else ca.algorithm.decode("ascii")
    if order.purpose == "host":
        signed = ca.generate_host_certificate(
            key,
            order.key_id,
            version=1,
            serial=order.serial,
            principals=order.principals,
            valid_after=order.valid_after.timestamp(),
            valid_before=order.valid_before.timestamp(),
            sig_alg=algorithm,
            comment=order.key_id,
        )
    else:
        signed = ca.generate_user_certificate(
            key,
            order.key_id,
            version=1,
            serial=order.serial,
            principals=order.principals,
            valid_after=order.valid_after.timestamp(),
            valid_before=order.valid_before.timestamp(),
            force_command=None,
            source_address=None if order.source_address is None else [order.source_address],
            permit_x11_forwarding=False,
            permit_agent_forwarding=False,
            permit_port_forwarding=False,
            permit_pty=True,  # asyncssh and sshd refuse a terminal without it
            permit_user_rc=False,
            touch_required=True,
            sig_alg=algorithm,
            comment=order.key_id,
        )
    line = signed.export_certificate("openssh").decode("ascii").strip()
    _compare(parse_certificate(base64.b64decode(line.split()[1])), order, ca)
    return line


def _compare(found: Certificate, order: Order, ca: asyncssh.SSHKey) -> None:
    address = order.source_address
    expected: dict[str, Any] = {
        "serial": order.serial,
        "key_id": order.key_id,
        "principals": tuple(order.principals),
        "valid_after": order.valid_after,
        "valid_before": order.valid_before,
    }
    differing = [name for name, value in expected.items() if getattr(found, name) != value]
    options = {} if address is None else {"source-address": _network(address)}
    if dict(found.critical_options) != options:
        differing.append("critical options")
    if set(found.extensions) != (set() if order.purpose == "host" else {"permit-pty"}):
        differing.append("extensions")
    if found.signer.blob != ca.public_data:
        differing.append("signer")
    if found.type != ("host" if order.purpose == "host" else "user"):
        differing.append("type")
    if found.key.line != order.key_line:
        differing.append("key")
    if differing:
        raise BrokerError(
            Code.UNAVAILABLE, f"the signed certificate differs in {', '.join(differing)}; nothing was given out"
        )


def _open_window(tx: Tx, grant: Grant) -> CommissioningWindow:
    window = inventory.find_window(tx, grant.window_id)
    fits = window is not None and (window.site_id, window.vendor_id) == (grant.site_id, grant.vendor_id)
    if window is None or not fits or not window.holds(tx.now):
        raise no("the commissioning window is closed, or it is outside its daily hours")
    return window


def _refuse_late_clock(tx: Tx, settings: Settings) -> None:
    """TIM-2. Only the bastion's own name is certified all the same, so that engineers can be told."""
    if ledger.clock_behind(tx) > timedelta(seconds=settings.clock_tolerance_s):
        raise no("the clock is behind the ledger; nothing is signed until the site has set it")


def _refuse_disabled_vendor(tx: Tx, grant: Grant) -> None:
    vendor = inventory.vendor_by_id(tx, grant.vendor_id)
    if vendor is None or vendor.disabled_at is not None:
        raise no("the vendor is disabled")


def _refuse_isolated(tx: Tx, grant: Grant, ladder: Ladder) -> None:
    """Nothing is signed for a site that is cut off: neither what a vendor carries nor a leg to an asset."""
    site = inventory.site_by_id(tx, grant.site_id)
    level = ladder.level(None if site is None else site.name)
    if level >= Level.CUT:
        raise no(f"the site is isolated, level {level:d}")


def _not_suspended(tx: Tx, grant: Grant) -> list[Asset]:
    """The grant's assets that nobody has suspended. Raises BrokerError(FORBIDDEN) when something of it is, or none is left."""
    stand = suspensions.by_subject(tx)
    subjects = [grant.id, grant.person_id, grant.vendor_id, grant.window_id, grant.site_id]
    before: Grant | None = grant
    while before is not None and before.extends is not None:
        subjects.append(before.extends)
        before = grants.load(tx, before.extends)
    for subject in subjects:
        if (found := stand.get(subject)) is not None:
            raise no(f"the {found.scope.value} is suspended")
    left = [one for one in inventory.assets(tx, ids=grant.terms.assets) if one.id not in stand]
    if not left:
        raise no("the asset is suspended")
    return left


def _folded(source: str) -> str:
    """The collector's address: v4 written as v6 becomes v4 again, a zone is left out. Raises BrokerError(INVALID). CRT-4."""
    try:
        address = ipaddress.ip_address(source.partition("%")[0])
    except ValueError:
        raise BrokerError(Code.INVALID, f"source {quoted(source)} is no address to bind the certificate to") from None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _network(address: str) -> str:
    return str(ipaddress.ip_network(address))


def _bounds(after: datetime, before: datetime) -> tuple[datetime, datetime]:
    """Whole seconds, rounded inwards. Raises BrokerError(FORBIDDEN) when nothing is left."""
    rounded = after.replace(microsecond=0)
    first = rounded if rounded == after else rounded + timedelta(seconds=1)
    last = before.replace(microsecond=0)
    if first >= last:
        raise no("no whole second is left")
    return first.astimezone(UTC), last.astimezone(UTC)


def _keep(tx: Tx, order: Order, fingerprint: str) -> None:
    grants.insert_certificate(
        tx,
        IssuedCertificate(
            serial=order.serial,
            purpose=order.purpose,
            grant_id=order.grant_id,
            session_id=order.session_id,
            key_fingerprint=fingerprint,
            key_id=order.key_id,
            principals=order.principals,
            valid_after=order.valid_after,
            valid_before=order.valid_before,
            source_address=order.source_address,
            issued_at=tx.now,
        ),
    )
    entry = CertificateIssued(
        purpose=order.purpose,
        serial=str(order.serial),
        grant_id=order.grant_id,
        session_id=order.session_id,
        key=fingerprint,
        principals=order.principals,
        valid_after=order.valid_after,
        valid_before=order.valid_before,
        source_address=order.source_address,
    )
    ledger.append(tx, entry)
