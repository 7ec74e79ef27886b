"""OpenSSH's own formats, read strictly: public keys of people and assets, and certificates at signing and at login.

Source: RFC 4253 section 6.6, RFC 8709, RFC 5656, OpenSSH PROTOCOL.certkeys and PROTOCOL.u2f; docs/rules.md CRT-2 to CRT-4. What is
not known here is refused: a certificate that another program would read differently must not open a door.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm

from broker.domain.errors import BrokerError, Code
from broker.domain.ids import quoted

_LINE_MAX: Final = 16384
_BLOB_MAX: Final = 12288
_RSA_MIN_BITS: Final = 3072
_RSA_MAX_BITS: Final = 16384
_CERT_SUFFIX: Final = "-cert-v01@openssh.com"
_CURVES: Final[Mapping[str, tuple[ec.EllipticCurve, HashAlgorithm]]] = {
    "nistp256": (ec.SECP256R1(), SHA256()),
    "nistp384": (ec.SECP384R1(), SHA384()),
    "nistp521": (ec.SECP521R1(), SHA512()),
}
_PRINCIPAL: Final = re.compile(r"[A-Za-z0-9_:\[][A-Za-z0-9._+:@\[\]-]{0,254}")
_KEY_ID: Final = re.compile(r"[ -~]{1,256}")
CRITICAL: Final = frozenset({"source-address"})
EXTENSIONS: Final = frozenset({"permit-pty"})
_FOREVER: Final = 253402300800  # the year 10000: no calendar of ours holds it, and it is no validity

_KeyObject = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A public key that may be enrolled or pinned. line: algorithm and base64, no comment; fingerprint: SHA256:..."""

    algorithm: str
    blob: bytes
    bits: int
    comment: str = ""

    @property
    def line(self) -> str:
        return f"{self.algorithm} {base64.b64encode(self.blob).decode('ascii')}"

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.blob)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate whose signature verifies and that says nothing unknown. Who the signer is, the caller judges.

    key: what it is for; type: user or host; valid: from valid_after, before valid_before; critical_options, extensions: by name.
    """

    key: PublicKey
    serial: int
    type: str
    key_id: str
    principals: tuple[str, ...]
    valid_after: datetime
    valid_before: datetime
    critical_options: Mapping[str, str]
    extensions: Mapping[str, str]
    signer: PublicKey
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """Of the key it certifies."""
        return self.key.fingerprint

    def holds(self, now: datetime) -> bool:
        """True inside [valid_after, valid_before)."""
        return self.valid_after <= now < self.valid_before


def fingerprint_of(blob: bytes) -> str:
    """A key's fingerprint as OpenSSH shows it. blob: the key's wire form."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")


def parse_public_key(line: str | bytes) -> PublicKey:
    """Read one OpenSSH public key line: algorithm, base64, and a comment if there is one.

    line: untrusted. Raises BrokerError(INVALID): options, certificates, DSA, RSA under 3072 bits and all unknown are refused.

    >>> parse_public_key("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5PvsuqLxdVKo0ar9whkMvfgFjVpZ2rpQVRAVRpUYJP me").bits
    256
    """
    text = line.decode("ascii", "replace") if isinstance(line, bytes) else line
    words = text.strip().split(None, 2) if len(text) <= _LINE_MAX else []
    if len(words) < 2 or "\n" in text.strip():
        raise _bad("a public key is one line such as: ssh-ed25519 AAAA... (the content of a file ending in .pub)")
    if words[0].endswith(_CERT_SUFFIX):
        raise _bad("this is a certificate; give the public key itself")
    return _key_of(words[0], _base64(words[1]), words[2] if len(words) > 2 else "")


def parse_key_blob(blob: bytes) -> PublicKey:
    """Read a public key's wire form. blob: untrusted. Raises BrokerError(INVALID)."""
    return _key_of(_Reader(blob).name(), blob)


def parse_certificate_line(line: str | bytes) -> Certificate:
    """Read one line as OpenSSH keeps a certificate in FILE-cert.pub. line: untrusted. Raises BrokerError(INVALID)."""
    text = line.decode("ascii", "replace") if isinstance(line, bytes) else line
    words = text.strip().split(None, 2) if len(text) <= _LINE_MAX else []
    if len(words) < 2 or not words[0].endswith(_CERT_SUFFIX) or "\n" in text.strip():
        raise _bad("a certificate is one line such as: ssh-ed25519-cert-v01@openssh.com AAAA...")
    certificate = parse_certificate(_base64(words[1]))
    if words[0] != _certificate_algorithm(certificate.key.algorithm):
        raise _bad("the certificate's first word is not its type")
    return certificate


def parse_certificate(blob: bytes) -> Certificate:
    """Read a certificate's wire form and check its signature.

    blob: untrusted. Raises BrokerError(INVALID) for anything unknown, empty, repeated, unsorted, unbounded or left over.
    Does not say that the signer is one of ours, nor that it is valid now. Source: PROTOCOL.certkeys; CRT-2, CRT-4.
    """
    reader = _Reader(blob)
    algorithm = _plain_algorithm(reader.name())
    if not reader.string():  # the nonce: without it the signature is over text an attacker may choose
        raise _bad("the certificate has no nonce")
    key = parse_key_blob(_packed(algorithm.encode()) + reader.key_fields(algorithm))
    serial, kind = reader.uint64(), reader.uint32()
    key_id = _printable(reader.string(), what="key id", shape=_KEY_ID)
    principals = _principals(reader.string())
    after, before = _instant(reader.uint64()), _instant(reader.uint64())
    critical = _options(reader.string(), known=CRITICAL if kind == 1 else frozenset(), valued=True)
    extensions = _options(reader.string(), known=EXTENSIONS if kind == 1 else frozenset(), valued=False)
    if reader.string():
        raise _bad("the certificate's reserved field is not empty")
    signer = parse_key_blob(reader.string())
    signed = reader.taken()
    _verify(signer, reader.string(), signed)
    reader.end()
    if kind not in (1, 2) or serial >= 1 << 63 or after >= before:
        raise _bad("the certificate's type, serial or validity is none")
    return Certificate(
        key=key,
        serial=serial,
        type="user" if kind == 1 else "host",
        key_id=key_id,
        principals=principals,
        valid_after=after,
        valid_before=before,
        critical_options=critical,
        extensions=extensions,
        signer=signer,
        blob=blob,
    )


class _Reader:
    """Takes fields off a wire form; never past the end, never a length that is not there."""

    def __init__(self, data: bytes) -> None:
        if len(data) > _BLOB_MAX:
            raise _bad("the key is too long")
        self._data, self._at = data, 0

    def take(self, length: int) -> bytes:
        if length > len(self._data) - self._at:
            raise _bad("the key is cut short")
        self._at += length
        return self._data[self._at - length : self._at]

    def uint32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def uint64(self) -> int:
        return int.from_bytes(self.take(8), "big")

    def string(self) -> bytes:
        return self.take(self.uint32())

    def name(self) -> str:
        return self.string().decode("ascii", "replace")

    def mpint(self) -> int:
        raw = self.string()
        if raw[:1] > b"\x7f" or (raw[:1] == b"\x00" and raw[1:2] < b"\x80"):
            raise _bad("a number in the key is negative or padded")  # two spellings of one key would be two keys
        return int.from_bytes(raw, "big")

    def key_fields(self, algorithm: str) -> bytes:
        """The fields of that algorithm, as they stand."""
        start = self._at
        for _ in range(_FIELDS[algorithm]):
            self.string()
        return self._data[start : self._at]

    def taken(self) -> bytes:
        return self._data[: self._at]

    def end(self) -> None:
        if self._at != len(self._data):
            raise _bad("something follows the key")

    @property
    def left(self) -> bool:
        return self._at < len(self._data)


_FIELDS: Final[Mapping[str, int]] = {
    "ssh-ed25519": 1,
    "ssh-rsa": 2,
    "ecdsa-sha2-nistp256": 2,
    "ecdsa-sha2-nistp384": 2,
    "ecdsa-sha2-nistp521": 2,
    "sk-ssh-ed25519@openssh.com": 2,
    "sk-ecdsa-sha2-nistp256@openssh.com": 3,
}
"""The algorithms there are, and how many fields each has after its name. No DSA, no SHA-1 name."""


def _key_of(algorithm: str, blob: bytes, comment: str = "") -> PublicKey:
    if algorithm not in _FIELDS:
        raise _bad(f"key algorithm {quoted(algorithm)}: use ssh-ed25519, ecdsa, sk- keys, or RSA of 3072 bits or more")
    return PublicKey(algorithm=algorithm, blob=blob, bits=_load(algorithm, blob)[1], comment=comment)


def _load(algorithm: str, blob: bytes) -> tuple[_KeyObject, int]:
    """The key as cryptography knows it, and its bits; checks that the point is on the curve and nothing is left over."""
    reader = _Reader(blob)
    if reader.name() != algorithm:
        raise _bad("the key's base64 is of another algorithm than its first word")
    made: _KeyObject
    try:
        if algorithm == "ssh-rsa":
            exponent, modulus = reader.mpint(), reader.mpint()
            bits = modulus.bit_length()
            if not _RSA_MIN_BITS <= bits <= _RSA_MAX_BITS or exponent < 3 or exponent.bit_length() > 64:
                raise _bad(
                    f"an RSA key needs {_RSA_MIN_BITS} bits or more, this one has {bits}; better use ssh-ed25519"
                )
            made = rsa.RSAPublicNumbers(exponent, modulus).public_key()
        elif "ecdsa" in algorithm:
            curve_name = reader.name()
            if not algorithm.removesuffix("@openssh.com").endswith(curve_name) or curve_name not in _CURVES:
                raise _bad("the key's curve is not the one of its algorithm")
            curve = _CURVES[curve_name][0]
            made, bits = ec.EllipticCurvePublicKey.from_encoded_point(curve, reader.string()), curve.key_size
        else:
            made, bits = ed25519.Ed25519PublicKey.from_public_bytes(reader.string()), 256
    except ValueError as error:
        raise _bad("the key holds no key") from error
    if algorithm.startswith("sk-"):
        reader.string()  # the application, such as ssh:
    reader.end()
    return made, bits


def _verify(signer: PublicKey, signature: bytes, signed: bytes) -> None:
    if signer.algorithm.startswith("sk-"):
        raise _bad("a certificate signed by a security key is not taken")
    reader = _Reader(signature)
    name, value = reader.name(), reader.string()
    reader.end()
    key = _load(signer.algorithm, signer.blob)[0]
    try:
        if isinstance(key, ed25519.Ed25519PublicKey) and name == "ssh-ed25519":
            return key.verify(value, signed)
        if isinstance(key, ec.EllipticCurvePublicKey) and name == signer.algorithm:
            parts = _Reader(value)
            pair = encode_dss_signature(parts.mpint(), parts.mpint())
            parts.end()
            return key.verify(pair, signed, ec.ECDSA(_CURVES[name.rsplit("-", 1)[1]][1]))
        if isinstance(key, rsa.RSAPublicKey) and name in ("rsa-sha2-256", "rsa-sha2-512"):
            return key.verify(value, signed, padding.PKCS1v15(), SHA256() if name.endswith("256") else SHA512())
    except InvalidSignature:
        raise _bad("the certificate's signature does not verify") from None
    raise _bad("the certificate's signature is of another kind than its signer's key")


def _principals(packed: bytes) -> tuple[str, ...]:
    reader, found = _Reader(packed), []
    while reader.left:
        found.append(_printable(reader.string(), what="principal", shape=_PRINCIPAL))
    if not found or len(set(found)) != len(found):  # an empty list would be good for any name
        raise _bad("the certificate names nobody, or somebody twice")
    return tuple(found)


def _options(packed: bytes, *, known: frozenset[str], valued: bool) -> dict[str, str]:
    reader, found = _Reader(packed), dict[str, str]()
    while reader.left:
        name, raw = reader.name(), reader.string()
        if name not in known or name in found or (found and name < max(found)):
            raise _bad(f"the certificate's option {quoted(name)} is unknown, repeated or out of order")
        inner = _Reader(raw)
        found[name] = _printable(inner.string(), what="option", shape=_KEY_ID) if valued else ""
        inner.end()
    return found


def _printable(raw: bytes, *, what: str, shape: re.Pattern[str]) -> str:
    text = raw.decode("ascii", "replace")
    if not shape.fullmatch(text):
        raise _bad(f"the certificate's {what} is empty, too long or holds odd characters")
    return text


def _instant(seconds: int) -> datetime:
    if seconds >= _FOREVER:
        raise _bad("the certificate has no end")
    return datetime.fromtimestamp(seconds, UTC)


def _plain_algorithm(name: str) -> str:
    for algorithm in _FIELDS:
        if name == _certificate_algorithm(algorithm):
            return algorithm
    raise _bad(f"certificate type {quoted(name)} is not known")


def _certificate_algorithm(algorithm: str) -> str:
    return algorithm.removesuffix("@openssh.com") + _CERT_SUFFIX


def _packed(raw: bytes) -> bytes:
    return len(raw).to_bytes(4, "big") + raw


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        raise _bad("the key's base64 cannot be read") from None


def _bad(detail: str) -> BrokerError:
    return BrokerError(Code.INVALID, detail)
