"""A CA key in an ssh-agent: it signs what it is given and gives no key away. Hardware and PKCS#11 modules come in this way.

Written anew for two messages because asyncssh signs a certificate in one call that cannot wait; it is asked in a thread.
Source: draft-miller-ssh-agent, sections 4.4 and 4.5.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from broker.domain.errors import BrokerError, Code
from broker.openssh import PublicKey

TIMEOUT_S: Final = 4.0
"""Less than the bastion waits for the signer."""
_ANSWER_MAX_BYTES: Final = 256 * 1024
_IDENTITIES, _IDENTITIES_ANSWER = 11, 12
_SIGN, _SIGN_ANSWER = 13, 14
_FLAGS: Final[Mapping[bytes, int]] = {b"rsa-sha2-256": 2, b"rsa-sha2-512": 4}


def holds(path: Path, key: PublicKey) -> bool:
    """Whether the agent has the private half. Raises BrokerError(UNAVAILABLE)."""
    kind, answer = _ask(path, bytes([_IDENTITIES]))
    if kind != _IDENTITIES_ANSWER:
        raise _away(path, "does not list its keys")
    try:
        (number,) = struct.unpack_from(">I", answer)
        rest, found = answer[4:], set()
        for _ in range(min(number, 4096)):
            blob, rest = _string(rest)
            _, rest = _string(rest)
            found.add(blob)
    except (struct.error, ValueError):
        raise _away(path, "lists its keys in another form") from None
    return key.blob in found


def sign(path: Path, key: PublicKey, data: bytes, algorithm: bytes) -> bytes:
    """The signature in SSH's wire form. Raises BrokerError(UNAVAILABLE): the agent is away, locked, or has not this key."""
    flags = struct.pack(">I", _FLAGS.get(algorithm, 0))
    kind, answer = _ask(path, bytes([_SIGN]) + _framed(key.blob) + _framed(data) + flags)
    if kind != _SIGN_ANSWER:
        raise _away(path, f"does not sign with {key.fingerprint}; load that key into it")
    try:
        return _string(answer)[0]
    except (struct.error, ValueError):
        raise _away(path, "answers in another form") from None


def _ask(path: Path, message: bytes) -> tuple[int, bytes]:
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(TIMEOUT_S)
            sock.connect(str(path))
            sock.sendall(_framed(message))
            with sock.makefile("rb") as answers:
                head = answers.read(4)
                length = int.from_bytes(head, "big")
                body = answers.read(length) if len(head) == 4 and 0 < length <= _ANSWER_MAX_BYTES else b""
    except OSError as error:
        raise _away(path, f"cannot be asked ({error.strerror or 'no answer in time'})") from None
    if not body or len(body) != length:
        raise _away(path, "hung up")
    return body[0], body[1:]


def _framed(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _string(data: bytes) -> tuple[bytes, bytes]:
    (length,) = struct.unpack_from(">I", data)
    if len(data) < 4 + length:
        raise ValueError("cut off")
    return data[4 : 4 + length], data[4 + length :]


def _away(path: Path, what: str) -> BrokerError:
    return BrokerError(Code.UNAVAILABLE, f"ca_agent {path} {what}")
