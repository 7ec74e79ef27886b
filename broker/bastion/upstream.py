"""The leg to an asset: dialled by an Admission and by nothing else, with a pinned host key and a key of its own for minutes."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable
from typing import Any, Final, Protocol

import asyncssh

from broker.bastion.transport import CLIENT_OPTIONS, SIGNATURES, WINDOW_BYTES, Valve, prepare
from broker.domain.ids import SessionId, quoted
from broker.domain.policy import Admission

HOST_KEY_ALGORITHMS: Final = [name for name in SIGNATURES if not name.startswith("sk-")]


class UpstreamError(Exception):
    """The asset could not be reached; text: one line for the engineer, without addresses or secrets."""


class HostKeyMismatch(UpstreamError):
    """The asset showed another key than the pinned one; shown: its OpenSSH line. No login byte was sent."""

    def __init__(self, shown: str) -> None:
        super().__init__("the asset's host key has changed; the site has been alarmed")
        self.shown = shown


class AssetSigner(Protocol):
    """The signer as the dial needs it."""

    async def asset(self, session_id: SessionId, public_key: str) -> str: ...


class _Leg(asyncssh.SSHClient):
    """The client side of one leg: knows one host key, offers one key, refuses whatever the asset asks for."""

    def __init__(self, credential: Awaitable[Any]) -> None:
        self._credential: Awaitable[Any] | None = credential
        self.shown: str | None = None
        self.valve: Valve | None = None

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self.valve = Valve(conn)
        prepare(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.valve is not None:
            self.valve.open_for_good()

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.shown = (
            key.export_public_key("openssh").decode().strip()
        )  # asked only for a key that is not the pinned one
        return False

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        return False

    async def public_key_auth_requested(self) -> Any:
        # Awaited here, after the key exchange: the signer works while the asset answers the dial.
        credential, self._credential = self._credential, None
        return None if credential is None else await credential


class AssetLeg:
    """One open connection to an asset, shared by the channels of a session."""

    def __init__(self, conn: asyncssh.SSHClientConnection, valve: Valve) -> None:
        self.conn = conn
        self.valve = valve

    async def close(self) -> None:
        """Let go of the asset at once; an orderly goodbye may wait for a peer that never reads."""
        self.conn.abort()
        await self.conn.wait_closed()


async def dial(
    admission: Admission, session_id: SessionId, signer: AssetSigner, *, dial_timeout_s: float, open_timeout_s: float
) -> AssetLeg:
    """Open the leg to the admitted asset as the admitted account. Raises UpstreamError, HostKeyMismatch for a changed key.

    One deadline from the dial to the open connection. Source: law 1, docs/rules.md AST-1 to AST-4, CRT-7.
    """
    asset = admission.asset
    pinned = asyncssh.import_public_key(asset.host_key or "")
    credential = asyncio.ensure_future(_credential(session_id, signer))
    leg: _Leg | None = None

    def make() -> _Leg:
        nonlocal leg
        leg = _Leg(credential)
        return leg

    try:
        async with asyncio.timeout(open_timeout_s):
            sock = await _connect(asset.host, asset.port, timeout_s=dial_timeout_s)
            conn = await asyncssh.connect(
                sock=sock,
                host=asset.host,
                port=asset.port,
                username=admission.account,
                client_keys=None,
                client_factory=make,
                known_hosts=([pinned], [], []),
                server_host_key_algs=_asked_for(pinned),
                preferred_auth="publickey",
                login_timeout=open_timeout_s,
                window=WINDOW_BYTES,
                **CLIENT_OPTIONS,
            )
    except asyncssh.HostKeyNotVerifiable:
        if leg is not None and leg.shown is not None:
            raise HostKeyMismatch(leg.shown) from None
        raise UpstreamError(f"{asset.login} showed no host key that was pinned") from None
    except asyncssh.PermissionDenied:
        raise UpstreamError(f"{asset.login} did not accept the bastion's certificate for {admission.account}") from None
    except asyncssh.KeyExchangeFailed as error:
        raise UpstreamError(
            f"{asset.login} shares no algorithm with the bastion: {quoted(str(error), longest=120)}"
        ) from None
    except TimeoutError:
        raise UpstreamError(f"{asset.login} did not answer in time") from None
    except (OSError, asyncssh.Error) as error:
        raise UpstreamError(f"{asset.login} cannot be reached: {quoted(_why(error), longest=80)}") from None
    finally:
        if not credential.done():
            credential.cancel()
        elif not credential.cancelled():
            credential.exception()  # looked at: the dial has already said what went wrong
    assert leg is not None and leg.valve is not None  # noqa: PT018, S101 - connect has called make and connection_made
    return AssetLeg(conn, leg.valve)


def _asked_for(pinned: asyncssh.SSHKey) -> list[str]:
    """The pinned key's own algorithms first, then the others: an asset that has only another key shows it, and is told of."""
    own = [name for name in HOST_KEY_ALGORITHMS if name.encode() in pinned.sig_algorithms]
    return own + [name for name in HOST_KEY_ALGORITHMS if name not in own]


async def _credential(session_id: SessionId, signer: AssetSigner) -> Any:
    key = asyncssh.generate_private_key("ssh-ed25519")
    public = key.export_public_key("openssh").decode().strip()
    certificate = await signer.asset(session_id, public)
    return [(key, asyncssh.import_certificate(certificate))]


async def _connect(host: str, port: int, *, timeout_s: float) -> socket.socket:
    loop = asyncio.get_running_loop()
    family, kind, protocol, _, address = (await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(timeout_s):
            await loop.sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _why(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)  # asyncio puts the address into its own text
    return getattr(error, "reason", "") or type(error).__name__
