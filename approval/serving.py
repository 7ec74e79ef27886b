"""From a home to a listening service: refuse with one line what cannot work, say where it listens, end cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from approval.answers import HEADERS
from approval.app import create_app
from approval.guard import origin_of
from broker.clock import Clock, SystemClock
from broker.domain.audit import ProcessStarted
from broker.domain.errors import BrokerError, Code
from broker.notify import keep_watchdog, notify
from broker.settings import Address, Home, Settings, load_settings
from broker.store import ledger
from broker.store.db import Database, Tx

HEADER_TIMEOUT_S: Final = 10.0
HEADERS_MAX_BYTES: Final = 16 * 1024
CONNECTIONS_MAX: Final = 200
SHUTDOWN_S: Final = 5


class BoundedProtocol(H11Protocol):
    """uvicorn's own, with the deadline it lacks: the head of the first request arrives in time, or the connection goes.

    Source: WEB-13. Later requests of a connection are bounded by the keep-alive time before their first byte, and by this after.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()  # the head is in: the guard's deadline for the body begins
        elif self._deadline is None:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP at all gets the headers of every other answer. msg: the library's words, which help nobody."""
        told = {**HEADERS, "content-type": "text/plain; charset=utf-8", "connection": "close"}
        headers = [(name.encode(), value.encode()) for name, value in told.items()]
        line = b"That is no request that can be read.\n"
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=line), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _await_head(self) -> None:
        self._deadline = self.loop.call_later(HEADER_TIMEOUT_S, self._too_late)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._deadline = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


class ReadyServer(uvicorn.Server):
    """A server that says when it listens."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()


def listen(address: Address) -> socket.socket:
    """A bound socket. Raises BrokerError(UNAVAILABLE) for an address that is taken or not of this machine."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise BrokerError(
            Code.UNAVAILABLE, f"web_listen {address}: {why.lower()}; change it in settings.toml or free it"
        ) from None


def server_for(app: FastAPI, settings: Settings, *, ready: Callable[[], None] = lambda: None) -> ReadyServer:
    """The server as it runs in production and in tests alike. Raises BrokerError(INVALID) for a bad certificate."""
    tls: dict[str, Any] = {}
    if settings.web_tls_certificate:
        tls = {"ssl_certfile": settings.web_tls_certificate, "ssl_keyfile": settings.web_tls_key}
        _check_certificate(settings)
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="websockets-sansio",
        loop="asyncio",
        lifespan="off",
        proxy_headers=False,  # whom to believe is web.source_of's to say; no header makes plain http https (AUT-4)
        server_header=False,
        access_log=False,  # the ledger has the acts; an enrolment link must not be in a log
        log_config=None,
        h11_max_incomplete_event_size=HEADERS_MAX_BYTES,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=SHUTDOWN_S,
        **tls,
    )
    return ReadyServer(config, ready)


def _check_certificate(settings: Settings) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.web_tls_certificate, settings.web_tls_key)
    except (OSError, ssl.SSLError) as error:
        raise BrokerError(
            Code.INVALID, f"web_tls_certificate {settings.web_tls_certificate} or its key: {error.strerror or error}"
        ) from None


def run(home: Home, clock: Clock | None = None) -> None:
    """Serve until SIGTERM or SIGINT. Raises BrokerError with one line for whatever keeps it from starting; starts nothing then."""
    settings, clock = load_settings(home), clock or SystemClock()
    db = Database.open(home.database_url(settings), clock)
    with contextlib.closing(db):
        db.check_schema()
        with contextlib.closing(listen(settings.web)) as sock:
            port = sock.getsockname()[1]
            shown = Address(settings.web.host, port)
            scheme = "https" if settings.web_tls_certificate else "http"
            plain_loopback = port if settings.web.is_loopback else None
            origin = origin_of(settings.web_origin or f"{scheme}://{shown}", loopback_port=plain_loopback)
            app = create_app(home, settings, db, clock, origin=origin)
            server = server_for(app, settings, ready=lambda: _say_ready(home, f"{scheme}://{shown}", shown))
            with db.begin() as tx:
                _started(tx)
            _serve(server, sock)
            notify("STOPPING=1")
    home.web_address.unlink(missing_ok=True)


def _serve(server: uvicorn.Server, sock: socket.socket) -> None:
    # uvicorn raises the signal again when it has ended; then these stand, and the exit is a clean one.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)

    async def main() -> None:
        watched = asyncio.create_task(keep_watchdog())
        await server.serve(sockets=[sock])
        watched.cancel()

    asyncio.run(main())


def _say_ready(home: Home, url: str, address: Address) -> None:
    _write(home.web_address, f"{address}\n")
    notify("READY=1")
    print(f"ready web={url}", flush=True)


def _write(path: Path, text: str) -> None:
    """Whole or not at all: somebody else waits for this file and reads it at once."""
    path.parent.mkdir(mode=0o750, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(text, encoding="ascii")
    fresh.replace(path)


def _started(tx: Tx) -> None:
    from importlib.metadata import version

    ledger.append(tx, ProcessStarted(process="approval", version=version("wicketgate")))


def log_to_stderr() -> None:
    """One event one line; the service manager adds the time."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
