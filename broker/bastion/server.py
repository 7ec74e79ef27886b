"""Starting and stopping the SSH door: host key and certificate, recovery of what a crash left, listening, draining."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import uuid
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import asyncssh

from broker import gate
from broker.bastion.connection import Connection
from broker.bastion.control import control_server
from broker.bastion.host_key import HostKey
from broker.bastion.house import Machine, RunningBastion
from broker.bastion.transport import SERVER_OPTIONS
from broker.bastion.watch import Watch
from broker.clock import Clock
from broker.domain.audit import ProcessStarted
from broker.domain.errors import BrokerError, Code
from broker.gate import Finding
from broker.settings import Address, Home, Settings
from broker.signer.trusted import CaFiles, TrustedKeys
from broker.store import ledger, recordings, sessions
from broker.store.db import Database, Tx
from recorder.reader import examine

log = logging.getLogger("broker.bastion")
DRAIN_S: Final = 5.0
_LISTEN_FD: Final = 3


async def serve(
    home: Home, settings: Settings, clock: Clock, *, ready: Callable[[str], None], stop: asyncio.Event
) -> None:
    """Be the bastion until told to stop. ready: called with HOST:PORT once everything listens. Raises BrokerError."""
    db = Database.open(home.database_url(settings), clock)
    try:
        db.check_schema()
        home.recordings.mkdir(mode=0o700, parents=True, exist_ok=True)
        machine = Machine(node=socket.gethostname(), boot=uuid.uuid4().hex[:12])
        bastion = RunningBastion(home, settings, clock, db, machine, TrustedKeys(CaFiles(home, "gate")))
        await _run(bastion, home, settings, machine, ready, stop)
    finally:
        db.close()


async def _run(
    bastion: RunningBastion,
    home: Home,
    settings: Settings,
    machine: Machine,
    ready: Callable[[str], None],
    stop: asyncio.Event,
) -> None:
    host = HostKey(home, bastion.signer, bastion.clock)
    host_key = await host.shown()
    await recover(bastion.db, home, machine)
    await bastion.db.run(ledger.append, ProcessStarted(process="broker", version=version("wicketgate")))

    acts = bastion.acts
    control = control_server(
        home.control_socket,
        {"sessions": acts.list_live, "kill": acts.kill, "freeze": acts.freeze, "unfreeze": acts.unfreeze},
    )
    await bastion.strangers.load()
    await bastion.clock_alarm.look()
    acceptor = await _listen(bastion, settings, host_key)
    bastion.sync.start()
    tasks: list[asyncio.Task[None]] = []
    try:
        await control.start()
        address = acceptor.get_addresses()[0][:2]
        bastion.port = int(address[1])
        _tell_address(home.ssh_address, str(address[0]), bastion.port)
        watch = Watch(bastion.db, bastion.live_sessions, bastion.logged_in_now, poll_s=settings.poll_s)
        renewing = host.renew(lambda shown: acceptor.update(server_host_keys=[shown]))
        tasks = [asyncio.create_task(one) for one in (watch.run(), bastion.strangers.keep(), renewing)]
        # What start-up made stays for good: walking it again and again took an eighth of the work of a bulk copy.
        gc.collect()
        gc.freeze()
        ready(f"{address[0]}:{bastion.port}")
        await stop.wait()
    finally:
        acceptor.close()
        await bastion.drain(DRAIN_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await control.stop()
        bastion.signer.close()
        bastion.sync.stop()


async def _listen(bastion: RunningBastion, settings: Settings, host_key: Any) -> asyncssh.SSHAcceptor:
    asyncssh.set_log_level(logging.WARNING)  # INFO logs commands unescaped, DEBUG codes and keystrokes
    options = dict(
        server_factory=lambda: Connection(bastion),
        server_host_keys=[host_key],
        login_timeout=settings.login_timeout_s,
        **SERVER_OPTIONS,
    )
    inherited = _inherited_socket()
    if inherited is not None:
        return await asyncssh.listen(sock=inherited, **options)
    address = settings.ssh
    try:
        return await asyncssh.listen(host=address.host, port=address.port, **options)
    except OSError as error:
        raise BrokerError(
            Code.UNAVAILABLE, f"ssh_listen {address}: {error.strerror}; choose another in settings.toml"
        ) from None


def _inherited_socket() -> socket.socket | None:
    """The listening socket systemd hands over, when it does. Source: sd_listen_fds(3)."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    return socket.socket(fileno=_LISTEN_FD)


async def recover(db: Database, home: Home, machine: Machine) -> None:
    """Close what a crash of this machine's bastion left open, as interrupted; the files stay as they are. Source: E12."""

    def left_open(tx: Tx) -> list[str]:
        found = []
        for session in sessions.open_sessions_of(tx, machine.node):
            found += [one.path for one in recordings.streams(tx, session.id) if one.state == "open"]
        return found

    paths = await db.look(left_open)
    findings = await asyncio.to_thread(_examine_all, home.recordings, paths)
    closed = await db.run(gate.recover, node=machine.node, findings=findings)
    if closed:
        log.warning("%d sessions were cut by a crash and are closed as interrupted", len(closed))


def _examine_all(root: Path, paths: list[str]) -> dict[str, Finding]:
    findings = {}
    for path in paths:
        with contextlib.suppress(OSError):
            found = examine(root / path)
            findings[path] = Finding(
                length=found.length, sha256=found.sha256, state=found.state, duration_us=found.duration_us
            )
    return findings


def _tell_address(path: Path, host: str, port: int) -> None:
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(f"{Address(host, port)}\n")  # as the pages write theirs
    fresh.replace(path)
