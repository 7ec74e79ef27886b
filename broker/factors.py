"""The factors themselves, without any row: codes, passwords, and the seal that keeps secrets at rest."""

from __future__ import annotations

import base64
import hmac
import secrets
from datetime import datetime
from typing import Final

import pyotp
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from broker.domain.errors import BrokerError, Code

STEP_S: Final = 30
PASSWORD_SHORTEST: Final = 12
PASSWORD_LONGEST: Final = 256
_NONCE: Final = 12
_HASHER: Final = PasswordHasher(time_cost=3, memory_cost=64 * 1024, parallelism=4)
# Of a random password nobody kept, with the hasher's own cost: an unknown name costs the same time as a known one.
_NOBODYS_HASH: Final = (
    "$argon2id$v=19$m=65536,t=3,p=4$ZdVeWiktvLvIdWM/VIRIsg$XPC9SkauUeXbDl9tf/uSh2e79t7MPny05IHmV3dVcFA"
)


class Seal:
    """Keeps secrets at rest under a key outside the database, each bound to its person. Source: AUT-6, SEC-2."""

    def __init__(self, key: bytes) -> None:
        """key: 32 random bytes. Raises BrokerError(INVALID)."""
        if len(key) != 32:
            raise BrokerError(Code.INVALID, "the seal key must have 32 bytes; restore keys/seal/seal.key")
        self._cipher = ChaCha20Poly1305(key)

    def seal(self, plain: bytes, person_id: str) -> bytes:
        """Nonce and ciphertext. person_id: or the id of the asset whose credential it is."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._cipher.encrypt(nonce, plain, person_id.encode())

    def open(self, sealed: bytes, person_id: str) -> bytes:
        """The plain bytes. Raises BrokerError(UNAVAILABLE) when the key is another one or the bytes were moved or changed."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], person_id.encode())
        except (InvalidTag, ValueError):
            raise BrokerError(
                Code.UNAVAILABLE, "a sealed secret does not open; is keys/seal/seal.key the right one?"
            ) from None

    def __repr__(self) -> str:
        return "Seal()"


def matching_step(seed: bytes, code: str, now: datetime) -> int | None:
    """The step whose code it is, among the one before, the current and the next; None when none fits. Constant time."""
    now_step = int(now.timestamp()) // STEP_S
    algorithm = pyotp.TOTP(base64.b32encode(seed).decode("ascii"))
    shaped = len(code) == 6 and code.isascii() and code.isdigit()
    given = code if shaped else "------"
    found = None
    for step in (now_step - 1, now_step, now_step + 1):
        # No early end: the time must not say which step it was.
        if hmac.compare_digest(algorithm.generate_otp(step), given):
            found = step
    return found


def hash_password(password: str) -> str:
    """The hash to keep; takes tens of milliseconds, so call it in a thread. Raises BrokerError(INVALID) if too short or long."""
    if not PASSWORD_SHORTEST <= len(password) <= PASSWORD_LONGEST:
        raise BrokerError(Code.INVALID, f"a password has {PASSWORD_SHORTEST} to {PASSWORD_LONGEST} characters")
    return _HASHER.hash(_bytes_of(password))


def check_password(stored: str | None, password: str) -> bool:
    """Whether it is the password; takes tens of milliseconds, the same for somebody unknown (None): call it in a thread."""
    try:
        right = _HASHER.verify(_NOBODYS_HASH if stored is None else stored, _bytes_of(password[:PASSWORD_LONGEST]))
    except (VerificationError, InvalidHashError):
        return False
    return right and stored is not None and len(password) <= PASSWORD_LONGEST


def _bytes_of(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")
