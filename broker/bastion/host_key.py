"""The bastion's host key and its certificate, so that no one trusts on first use; renewed while the bastion runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import asyncssh

from broker.clock import Clock
from broker.domain.errors import BrokerError, Code
from broker.openssh import parse_certificate_line
from broker.settings import Home
from broker.signer.client import SignerClient
from broker.signer.trusted import CaFiles, TrustedKeys

log = logging.getLogger("broker.bastion")
RENEW_BEFORE: Final = timedelta(days=20)
"""A certificate lives 30 days; a signer that is away has the rest of them to come back."""
LOOK_S: Final = 1.0


class HostKey:
    """The key, and the newest certificate for it."""

    def __init__(self, home: Home, signer: SignerClient, clock: Clock) -> None:
        self._home = home
        self._signer = signer
        self._clock = clock
        self._kept = home.host_key.with_name(home.host_key.name + "-cert.pub")
        self._authority = TrustedKeys(CaFiles(home, "host"))
        try:
            self._key = asyncssh.read_private_key(home.host_key)
        except (OSError, asyncssh.KeyImportError) as error:
            raise BrokerError(Code.UNAVAILABLE, f"the host key {home.host_key} cannot be read: {error}") from None

    async def shown(self) -> Any:
        """What the bastion shows: the key with a certificate of today; the last one will do, or none."""
        try:
            line = await self._signer.host(self._key.export_public_key("openssh").decode().strip())
            with contextlib.suppress(OSError):
                self._kept.write_text(line + "\n")
            return self._key, asyncssh.import_certificate(line)
        except BrokerError as error:
            log.warning("no new host certificate: %s", error.detail)
        try:
            return self._key, asyncssh.read_certificate(self._kept)
        except (OSError, asyncssh.KeyImportError):
            return self._key

    def is_due(self) -> bool:
        """True when the last certificate nears its end, or another key of the host CA signs now."""
        try:
            found = parse_certificate_line(self._kept.read_text(encoding="ascii"))
        except (OSError, UnicodeDecodeError, BrokerError):
            return True
        return (
            found.signer.blob != self._authority.now()[0].blob or found.valid_before - self._clock.now() < RENEW_BEFORE
        )

    async def renew(self, show: Callable[[Any], None]) -> None:
        """For ever: have new connections see a certificate that is good. show: takes what `shown` gives."""
        wait_s = LOOK_S
        while True:
            await asyncio.sleep(wait_s)
            if not self.is_due():
                wait_s = LOOK_S
                continue
            try:
                show(await self.shown())
            except Exception:
                log.exception("the host certificate could not be renewed")
            wait_s = LOOK_S if not self.is_due() else min(60.0, 2 * wait_s)  # the signer may be away for long
