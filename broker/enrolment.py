"""How somebody comes to have a key, a code seed and a password: at the console of the site, or by a one-time link."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Final

import pyotp

from broker.domain.audit import PersonChanged
from broker.domain.errors import BrokerError, Code
from broker.domain.ids import PersonId
from broker.domain.people import Person
from broker.factors import STEP_S, Seal, hash_password, matching_step
from broker.openssh import PublicKey, parse_public_key
from broker.store import credentials, ledger, people, web_sessions
from broker.store.db import Tx

INVITATION_LIFE: Final = timedelta(hours=24)
_SEED: Final = 20  # bytes: what RFC 4226 recommends, 32 letters of base32
_NO_INVITATION: Final = "this link is not valid, or no longer; ask for a new invitation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """What a person has after enrolling. totp_uri: holds the seed, shown once, kept nowhere; key_fingerprint: of a key given."""

    handle: str
    totp_uri: str
    key_fingerprint: str | None
    person_id: str

    def __repr__(self) -> str:
        return f"Enrolment(handle={self.handle!r})"  # never the seed


@dataclass(frozen=True, slots=True, repr=False)
class Drawn:
    """A fresh seed that belongs to nobody yet. totp_uri: for the person's phone; sealed: what comes back with the first code."""

    totp_uri: str
    sealed: bytes


def draw_seed(seal: Seal, person: Person, *, issuer: str) -> Drawn:
    """Draw a code seed and show it once; nothing is kept until the person proves it with a code. Source: AUT-6."""
    seed = secrets.token_bytes(_SEED)
    return Drawn(_uri(seed, person, issuer), seal.seal(seed, person.id))


def show_again(seal: Seal, person: Person, sealed: bytes, *, issuer: str) -> Drawn:
    """The same seed once more, for a form that came back with a mistake. Raises BrokerError when it is not the person's."""
    return Drawn(_uri(seal.open(sealed, person.id), person, issuer), sealed)


def enrol(
    tx: Tx,
    *,
    handle: str,
    key_line: str | None,
    password: str | None,
    seal: Seal,
    by: str,
    issuer: str = "wicketgate",
) -> Enrolment:
    """Enrol on the site's own machine: key, password, and a new code seed in place of an earlier one.

    key_line: untrusted. Raises BrokerError(NOT_FOUND, INVALID, CONFLICT); nothing is changed then.
    """
    person = _able(people.require(tx, handle))
    seed = secrets.token_bytes(_SEED)
    # One step back, so that the code on the phone's screen is good at once; set_seed never lets the step itself go back.
    key = _keep(tx, person, key_line, password, seal.seal(seed, person.id), _step(tx) - 2, by)
    return Enrolment(
        handle=handle,
        totp_uri=_uri(seed, person, issuer),
        key_fingerprint=None if key is None else key.fingerprint,
        person_id=person.id,
    )


def invite(tx: Tx, *, handle: str, by: str, life: timedelta = INVITATION_LIFE) -> str:
    """Give out a one-time code for enrolling; earlier ones of the person are over. Raises BrokerError(NOT_FOUND, CONFLICT)."""
    person = _able(people.require(tx, handle))
    code = secrets.token_urlsafe(18)
    credentials.insert_invitation(tx, person.id, _hashed(code), made_by=by, lapses_at=tx.now + life)
    ledger.append(tx, PersonChanged(person_id=person.id, act="invited", by=by))
    return code


def open_invitation(tx: Tx, code: str) -> Person:
    """Whom the code invites. code: untrusted. Raises BrokerError(NOT_FOUND), the same for used, lapsed and unknown ones."""
    found = credentials.find_invitation(tx, _hashed(code))
    person = None if found is None else people.load_person(tx, found.person_id)
    if found is None or person is None or found.used_at is not None or found.lapses_at <= tx.now:
        raise BrokerError(Code.NOT_FOUND, _NO_INVITATION)
    return _able(person)


def accept_invitation(
    tx: Tx,
    code: str,
    *,
    key_line: str | None,
    password: str | None,
    sealed: bytes,
    first_code: str,
    seal: Seal,
) -> Person:
    """Enrol by invitation: all of it or nothing, and once. sealed: from draw_seed; first_code: proves that the phone has it.

    Raises BrokerError(NOT_FOUND, INVALID, CONFLICT).
    """
    person = open_invitation(tx, code)
    found = credentials.find_invitation(tx, _hashed(code))
    seed = seal.open(sealed, person.id)
    step = matching_step(seed, first_code, tx.now)
    if step is None:
        raise BrokerError(Code.INVALID, "the code does not fit; is the phone's clock right?")
    if key_line is None and password is None:
        raise BrokerError(Code.INVALID, "give a public key, a password, or both")
    if found is None or not credentials.use_invitation(tx, found.id):
        raise BrokerError(Code.NOT_FOUND, _NO_INVITATION)
    _keep(tx, person, key_line, password, sealed, step, person.handle)
    return person


def set_password(tx: Tx, *, person_id: PersonId, password_hash: str, by: str) -> None:
    """Keep a new password's hash; every login of theirs on the web ends. password_hash: from hash_password."""
    credentials.set_password_hash(tx, person_id, password_hash)
    web_sessions.end_all(tx, person_id)
    ledger.append(tx, PersonChanged(person_id=person_id, act="password set", by=by))


def _keep(
    tx: Tx, person: Person, key_line: str | None, password: str | None, sealed: bytes, last_step: int, by: str
) -> PublicKey | None:
    key = None if key_line is None else parse_public_key(key_line)
    if key is not None and all(one.fingerprint != key.fingerprint for one in people.keys(tx, person.id)):
        people.add_key(tx, person.id, key.line, key.fingerprint, by=by)
    if password is not None:
        set_password(tx, person_id=person.id, password_hash=hash_password(password), by=by)
    credentials.set_seed(tx, person.id, sealed, last_step=last_step)
    web_sessions.end_all(tx, person.id)
    ledger.append(tx, PersonChanged(person_id=person.id, act="enrolled", by=by))
    return key


def _able(person: Person) -> Person:
    if person.disabled_at is not None:
        raise BrokerError(Code.CONFLICT, f"{person.handle} is disabled")
    return person


def _step(tx: Tx) -> int:
    return int(tx.now.timestamp()) // STEP_S


def _uri(seed: bytes, person: Person, issuer: str) -> str:
    secret = base64.b32encode(seed).decode("ascii")
    return pyotp.TOTP(secret).provisioning_uri(name=person.handle, issuer_name=issuer)


def _hashed(code: str) -> bytes:
    return sha256(code.encode("utf-8", "replace")).digest()
