"""Whose key, certificate or code it is: the login's questions answered from the database.

Source: docs/rules.md AUT-1, AUT-3 to AUT-5, AUT-9, CRT-1 to CRT-4.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import asyncssh

from broker import identity
from broker.bastion.clock_alarm import NOTICE, ClockAlarm
from broker.bastion.login import plain_address
from broker.clock import Clock
from broker.domain.errors import BrokerError
from broker.domain.people import Person
from broker.gate import Proof
from broker.identity import Seal, TryLimits
from broker.openssh import parse_certificate, parse_key_blob
from broker.settings import Settings
from broker.signer.trusted import TrustedKeys
from broker.store import authorities, grants, people
from broker.store.db import Database, Tx

log = logging.getLogger("broker.bastion.login")


class Judge:
    """What a login asks of the database, with the gate CA it believes: its key, and in a rotation the ones beside it."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        settings: Settings,
        seal: Seal,
        gate_ca: TrustedKeys,
        clock_alarm: ClockAlarm,
    ) -> None:
        self.tries_per_connection = settings.tries_per_connection
        self._db = db
        self._clock = clock
        self._clock_alarm = clock_alarm
        self._seal = seal
        self._gate_ca = gate_ca
        self._limits = TryLimits(
            per_person=settings.tries_per_person,
            per_source=settings.tries_per_source,
            window=timedelta(seconds=settings.tries_window_s),
        )

    def is_gate_ca(self, key: asyncssh.SSHKey) -> bool:
        """True for the CA that signs what vendors carry; whether a key of it is retired the certificate's judge says. CRT-3."""
        return self._trusts(key.public_data)

    def _trusts(self, blob: bytes) -> bool:
        return any(one.blob == blob for one in self._gate_ca.now())

    @property
    def notice(self) -> str:
        """What whoever has proved a key is told before the code is asked; most often nothing."""
        return NOTICE if self._clock_alarm.is_raised else ""

    async def judge_key(self, login: str, blob: bytes, source: str) -> Proof | None:
        """Whose key signed; a disabled person's opens nothing, and looks like an unknown one."""
        key = parse_key_blob(blob)

        def read(tx: Tx) -> tuple[Person | None, frozenset[str]]:
            return _owner(tx, key.fingerprint)

        person, names = await self._db.look(read)
        if person is None:
            return None
        await self._clock_alarm.look()
        return Proof(
            person_id=person.id,
            handle=person.handle,
            short_names=names,
            key_fingerprint=key.fingerprint,
            public_key=key.line.encode(),
            factors="key+code",
            source=source,
        )

    async def judge_certificate(self, login: str, blob: bytes, source: str) -> Proof | None:
        """Hold a gate certificate against what was issued: parsed strictly, known by serial, from its address, for this login."""
        try:
            found = parse_certificate(blob)
        except BrokerError as error:
            log.info("a certificate was refused: %s", error.detail)
            return None
        now = self._clock.now()
        if (
            found.type != "user"
            or not self._trusts(found.signer.blob)
            or not found.principals
            or login not in found.principals
        ):
            return None
        if not found.holds(now) or not _comes_from(source, found.critical_options):
            return None

        def read(tx: Tx) -> Any:
            current = self._gate_ca.now()[0].blob == found.signer.blob  # looked up only where it can be another
            gone = not current and found.signer.fingerprint in authorities.retired(tx, "gate")
            return gone, grants.load_certificate(tx, found.serial), *_owner(tx, found.key.fingerprint)

        gone, issued, person, names = await self._db.look(read)
        if gone:
            log.warning("a certificate of the retired gate CA key %s was refused", found.signer.fingerprint)
            return None
        if issued is None or issued.purpose != "gate" or person is None:
            return None
        if issued.ca_fingerprint not in (None, found.signer.fingerprint):
            return None
        if issued.key_fingerprint != found.key.fingerprint or issued.key_id != found.key_id:
            return None
        return Proof(
            person_id=person.id,
            handle=person.handle,
            short_names=names,
            key_fingerprint=found.key.fingerprint,
            public_key=found.key.line.encode(),
            factors="certificate",
            source=source,
            certificate_serial=str(found.serial),
            certificate_grant=issued.grant_id,
            certificate_until=found.valid_before,
        )

    async def judge_code(self, proof: Proof, code: str) -> bool:
        """Spend one code: the try is stored before it is compared. Source: AUT-3 to AUT-5."""
        about: dict[str, Any] = {
            "person_id": proof.person_id,
            "name": proof.person_id,
            "source": proof.source,
            "door": "ssh",
        }
        reserved = await self._db.run(identity.reserve_try, limits=self._limits, **about)
        if isinstance(reserved, identity.Locked):
            return False

        def spend(tx: Tx) -> bool:
            good = identity.spend_code(
                tx, person_id=proof.person_id, code=code, seal=self._seal, try_id=identity.TryId(reserved)
            )
            identity.finish_login(
                tx, factors=proof.factors, key=proof.key_fingerprint, why=None if good else "wrong code", **about
            )
            return good

        return await self._db.run(spend)


def _owner(tx: Tx, fingerprint: str) -> tuple[Person | None, frozenset[str]]:
    """Whose key it is, with the short names of their assets; nobody's when they are disabled."""
    person = people.key_owner(tx, fingerprint)
    if person is None or person.disabled_at is not None:
        return None, frozenset()
    return person, grants.asset_names_of(tx, person.id)


def came_in(tx: Tx, proof: Proof) -> None:
    """The ledger's entry of a login by certificate; one by code is kept where the code is spent."""
    identity.finish_login(
        tx,
        person_id=proof.person_id,
        name=proof.person_id,
        door="ssh",
        factors=proof.factors,
        source=proof.source,
        key=proof.key_fingerprint,
    )


def _comes_from(source: str, options: Mapping[str, str]) -> bool:
    """True when no address is demanded, or the peer's own is the one demanded. Source: AUT-9, CRT-4."""
    demanded = options.get("source-address")
    return demanded is None or plain_address(demanded.split("/", 1)[0]) == source
