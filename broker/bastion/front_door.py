"""The SSH door's listener: it can be shut while the site is isolated, and opened again at the same address."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any, Final

import asyncssh

from broker.bastion.connection import Connection
from broker.bastion.house import RunningBastion
from broker.bastion.transport import SERVER_OPTIONS
from broker.domain.errors import BrokerError, Code
from broker.settings import Address, Settings

_LISTEN_FD: Final = 3


class FrontDoor:
    """Listens for engineers. address: where, or where it would; a port chosen at the first opening is kept."""

    def __init__(self, bastion: RunningBastion, settings: Settings, host_key: Any) -> None:
        asyncssh.set_log_level(logging.WARNING)  # INFO logs commands unescaped, DEBUG codes and keystrokes
        self.address = settings.ssh
        self._options: dict[str, Any] = dict(
            server_factory=lambda: Connection(bastion),
            server_host_keys=[host_key],
            login_timeout=settings.login_timeout_s,
            **SERVER_OPTIONS,
        )
        self._inherited = _inherited_socket()
        self._acceptor: asyncssh.SSHAcceptor | None = None

    @property
    def is_open(self) -> bool:
        """Whether it listens."""
        return self._acceptor is not None

    async def open(self) -> None:
        """Listen. Raises BrokerError(UNAVAILABLE)."""
        address = self.address
        try:
            if self._inherited is not None:
                # A copy: systemd's own goes on listening while ours is shut, and whoever comes then waits unanswered.
                self._acceptor = await asyncssh.listen(sock=self._inherited.dup(), **self._options)
            else:
                self._acceptor = await asyncssh.listen(host=address.host, port=address.port, **self._options)
        except OSError as error:
            raise BrokerError(
                Code.UNAVAILABLE, f"ssh_listen {address}: {error.strerror}; choose another in settings.toml"
            ) from None
        host, port = self._acceptor.get_addresses()[0][:2]
        self.address = Address(str(host), int(port))

    def show(self, host_key: Any) -> None:
        """Have new connections see this host key with its certificate, also after the next opening."""
        self._options["server_host_keys"] = [host_key]
        if self._acceptor is not None:
            self._acceptor.update(server_host_keys=[host_key])

    def shut(self) -> None:
        """Listen no longer; connections that are open stay."""
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None


def _inherited_socket() -> socket.socket | None:
    """The listening socket systemd hands over, when it does. Source: sd_listen_fds(3)."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    return socket.socket(fileno=_LISTEN_FD)
