"""The simulated plant: one SSH server for each device on a free loopback port, in a thread of its own.

A device lets in one account, and only by a certificate of the site's asset CA that comes from the bastion.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

import asyncssh

from broker.clock import SystemClock
from demo.controller import Console, Process, run
from demo.kestrel import ACCOUNT, Device

LOOPBACK: Final = "127.0.0.1"
START_WITHIN_S: Final = 20.0


class _Way(asyncssh.SSHServer):
    """The way into one device."""

    def __init__(self, trusted: asyncssh.SSHAuthorizedKeys) -> None:
        self._trusted = trusted
        self._conn: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conn = conn

    def begin_auth(self, username: str) -> bool:
        # The account must also be the certificate's principal: asyncssh checks that, its dates and its source address.
        if username == ACCOUNT and self._conn is not None:
            self._conn.set_authorized_keys(self._trusted)
        return True

    def password_auth_supported(self) -> bool:
        return False

    def kbdint_auth_supported(self) -> bool:
        return False


class Plant:
    """The devices while they run. ports, host_keys: by device name; a host key is its OpenSSH public line."""

    def __init__(self, devices: Sequence[Device], *, folder: Path, asset_ca: str, bastion: str = LOOPBACK) -> None:
        """folder: for the devices' files; asset_ca: the CA's public line; bastion: the one address they answer."""
        self.ports: dict[str, int] = {}
        self.host_keys: dict[str, str] = {}
        self._devices = devices
        self._folder = folder
        kind, blob, *_ = asset_ca.split()
        self._trusted = asyncssh.import_authorized_keys(f'cert-authority,from="{bastion}" {kind} {blob}\n')
        self._booted_us = SystemClock().monotonic_us()
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="plant", daemon=True)

    def __enter__(self) -> Plant:
        self._thread.start()
        if not self._ready.wait(START_WITHIN_S) or self._failure is not None:
            raise RuntimeError(f"the simulated plant did not start: {self._failure or 'it took too long'}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_WITHIN_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except (OSError, asyncssh.Error) as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        listening = [await self._listen(device) for device in self._devices]
        self._ready.set()
        await self._stop.wait()
        for one in listening:
            one.close()
            await one.wait_closed()

    async def _listen(self, device: Device) -> asyncssh.SSHAcceptor:
        files = self._folder / device.name
        files.mkdir(parents=True)
        (files / "events.log").write_text(f"{device.serial} W-0417 rack 7 cell 4 drift 74 mV\n", encoding="utf-8")
        key = asyncssh.generate_private_key("ssh-ed25519", comment=device.name)

        async def serve(process: Process) -> None:
            await run(Console(device, files, self._booted_us, process))

        def share(chan: asyncssh.SSHServerChannel[bytes]) -> asyncssh.SFTPServer:
            return asyncssh.SFTPServer(chan, chroot=str(files).encode())

        found = await asyncssh.listen(
            LOOPBACK,
            0,
            server_factory=lambda: _Way(self._trusted),
            server_host_keys=[key],
            process_factory=serve,
            sftp_factory=share,
            allow_scp=True,
            encoding="latin-1",
            agent_forwarding=False,
            x11_forwarding=False,
        )
        self.ports[device.name] = found.get_port()
        self.host_keys[device.name] = key.export_public_key("openssh").decode("ascii").strip()
        return found
