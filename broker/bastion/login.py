"""Who comes in: an enrolled key and then one code, or a live gate certificate alone; no third way.

Source: docs/rules.md AUT-1 to AUT-9, CRT-2 to CRT-4, asyncssh. The private names of asyncssh's
authentication in use stand here.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

import asyncssh
from asyncssh import auth
from asyncssh.constants import MSG_USERAUTH_REQUEST
from asyncssh.packet import SSHPacket

from broker.domain.errors import BrokerError, Code
from broker.domain.ids import quoted
from broker.domain.penalty import Offence
from broker.gate import Proof

log = logging.getLogger("broker.bastion.login")
PROMPT: Final = "Code: "
_LOGIN_MAX: Final = 160
REQUESTS_MAX: Final = 40
"""An agent full of keys offers and signs a dozen, and three codes come after."""


class Step(Enum):
    """What a proven key leads to."""

    REFUSED = "refused"
    MORE = "more"
    DONE = "done"


class House(Protocol):
    """What the login asks of the house: whose key, certificate or code it is."""

    tries_per_connection: int

    @property
    def notice(self) -> str: ...
    def is_gate_ca(self, key: asyncssh.SSHKey) -> bool: ...
    async def judge_key(self, login: str, blob: bytes, source: str) -> Proof | None: ...
    async def judge_certificate(self, login: str, blob: bytes, source: str) -> Proof | None: ...
    async def judge_code(self, proof: Proof, code: str) -> bool: ...


def refusal(text: str) -> asyncssh.DisconnectError:
    """End the connection with one line that says nothing about who exists."""
    return asyncssh.DisconnectError(asyncssh.DISC_PROTOCOL_ERROR, text)


class KeyStep(auth._ServerPublicKeyAuth):
    """asyncssh's public-key step, with a second factor behind a good signature; asyncssh itself has no partial success."""

    async def _start(self, packet: SSHPacket) -> None:
        peek = SSHPacket(packet.get_remaining_payload())  # signed?, algorithm, key or certificate
        peek.get_boolean()
        peek.get_string()
        self._blob = peek.get_string()
        await super()._start(packet)

    async def send_success(self) -> None:  # reached only with a good signature
        if self._conn.auth is not self:
            return  # a newer request has replaced this one; it must not finish the older one's login
        owner = self._conn.get_owner()
        if not isinstance(owner, Login):
            return await super().send_success()  # another server in this process, such as a simulated asset
        step = await owner.key_proven(self._username, self._blob)
        if step is Step.DONE:
            await super().send_success()
        else:
            self.send_failure(partial_success=step is Step.MORE)


class CodeStep(auth._ServerKbdIntAuth):
    """asyncssh's code step, with one answer to a challenge, counted as it arrives. Source: docs/rules.md AUT-3."""

    _answered = False

    def _process_info_response(self, kind: int, number: int, packet: SSHPacket) -> None:
        if self._answered:
            raise refusal("too many answers")
        self._answered = True
        super()._process_info_response(kind, number, packet)

    _packet_handlers = {auth.MSG_USERAUTH_INFO_RESPONSE: _process_info_response}  # noqa: RUF012 - as the library has it


def bound_requests(conn: Any) -> None:
    """End a connection that goes on asking to log in; asyncssh counts none, and most methods never reach us."""
    handlers = conn._packet_handlers
    process, left = handlers[MSG_USERAUTH_REQUEST], REQUESTS_MAX

    def process_few(own: Any, pkttype: int, pktid: int, packet: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise refusal("too many requests")
        return process(own, pkttype, pktid, packet)

    conn._packet_handlers = {**handlers, MSG_USERAUTH_REQUEST: process_few}


# Process-wide: every SSH server in this process asks through them.
auth._server_auth_handlers[b"publickey"] = KeyStep
auth._server_auth_handlers[b"keyboard-interactive"] = CodeStep


@dataclass(slots=True)
class Tries:
    """What one connection has tried so far."""

    answers: int = 0
    keys: int = 0
    failed: int = 0
    undecided: bool = False


class Login(asyncssh.SSHServer):
    """The way in of one connection. State hangs on (login name, proven key) and on nothing the client can change later."""

    KEYS_MAX: Final = 12

    def __init__(self, house: House) -> None:
        self.house = house
        self.conn: asyncssh.SSHServerConnection | None = None
        self.login: str | None = None
        self.proof: Proof | None = None
        self.source = "unknown"
        self._asked = False
        self._in = False
        self._tries = Tries()
        self._judging: set[asyncio.Task[bool]] = set()

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self.conn = conn
        peer = conn.get_extra_info("peername")
        self.source = plain_address(peer[0]) if peer else "local"
        bound_requests(conn)

    # A plain def without IO that ends in True, for every name and in every error: a falsy answer is a login without proof.
    def begin_auth(self, username: str) -> bool:
        if self.login is not None and username != self.login:
            raise refusal("one login name per connection")
        if len(username) > _LOGIN_MAX:
            raise refusal("login name too long")
        self.login = username
        return True

    def password_auth_supported(self) -> bool:
        return False

    def host_based_auth_supported(self) -> bool:
        return False

    def public_key_auth_supported(self) -> bool:
        return self.proof is None

    def kbdint_auth_supported(self) -> bool:
        return self.proof is not None

    def validate_ca_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return self.house.is_gate_ca(key)

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        # Run twice per login, and for keys merely offered. Every key may sign: whether it is enrolled is looked at behind a
        # good signature, or whoever has somebody's public key could ask here who is known (PRE-9, AUT-1).
        self._tries.keys += 1
        if self._tries.keys > self.KEYS_MAX:
            raise refusal("too many keys")
        return True

    async def key_proven(self, username: str, blob: bytes) -> Step:
        """A signature was good: who is it, and is a code still needed? username and blob are what was signed."""
        if username != self.login or self.proof is not None:
            return Step.REFUSED
        self._tries.failed += 1  # until it is known to be good
        try:
            if is_certificate(blob):
                proof = await self.house.judge_certificate(username, blob, self.source)
                step = Step.DONE
            else:
                proof = await self.house.judge_key(username, blob, self.source)
                step = Step.MORE
        except BrokerError as error:  # a key that nobody may enrol, or a database that is away
            log.info("a login was refused: %s", error.detail)
            self._tries.undecided |= error.code is Code.UNAVAILABLE
            return Step.REFUSED
        except Exception:
            log.exception("a login could not be judged")
            self._tries.undecided = True
            return Step.REFUSED
        if proof is None:
            return Step.REFUSED
        self._tries.failed -= 1
        self.proof = proof
        return step

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> Any:
        if self.proof is None or self._asked:
            raise refusal("out of order")
        if self._tries.answers >= self.house.tries_per_connection:
            raise refusal("too many answers")
        self._asked = True
        return "", self.house.notice, "", [(PROMPT, False)]

    # A plain def that hands the judging to a task of its own: a try counts whatever becomes of the connection (AUT-3).
    def validate_kbdint_response(self, username: str, responses: Sequence[str]) -> Any:
        if not self._asked or self.proof is None or self._tries.answers >= self.house.tries_per_connection:
            raise refusal("too many answers")
        self._asked = False
        self._tries.answers += 1
        judging = asyncio.ensure_future(self._judge(self.proof, responses))
        self._judging.add(judging)
        judging.add_done_callback(self._judging.discard)
        return asyncio.shield(judging)

    async def _judge(self, proof: Proof, responses: Sequence[str]) -> bool:
        try:
            good = len(responses) == 1 and await self.house.judge_code(proof, responses[0])
        except Exception:
            log.exception("a code could not be judged")
            good = False
            self._tries.undecided = True
        self._tries.failed += not good
        if not good and self._tries.answers >= self.house.tries_per_connection and self.conn is not None:
            asyncio.get_running_loop().call_later(0.2, self.conn.abort)  # after the failure has been told
        return good

    def auth_completed(self) -> None:
        self._in = True

    def offence_of(self, lost: Exception | None) -> Offence:
        """What a connection that ends without a login has done. lost: why it ended, None for an orderly end."""
        if lost is not None and not isinstance(lost, (asyncssh.Error, OSError)):
            return Offence.CRASHED
        if self._tries.undecided:  # our own trouble is nobody's offence
            return Offence.NO_TRY
        # Without a proof the login itself failed; with one, and no wrong code, somebody thought better of it.
        failed = self._tries.failed or (self.login is not None and self.proof is None)
        return Offence.FAILED if failed else Offence.NO_TRY

    @property
    def is_in(self) -> bool:
        """True once the last proof was good; nothing is looked at before."""
        return self._in and self.proof is not None


def is_certificate(blob: bytes) -> bool:
    """True for the wire form of an OpenSSH certificate, by its type string alone."""
    length = int.from_bytes(blob[:4], "big")
    return b"-cert-v0" in blob[4 : 4 + min(length, 64)]


def plain_address(text: str) -> str:
    """An address as it is compared everywhere: v4-mapped IPv6 folded, no zone."""
    try:
        address = ipaddress.ip_address(text.split("%", 1)[0])
    except ValueError:
        return quoted(text)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
