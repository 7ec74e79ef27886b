"""Starting and stopping the SSH door: host key and certificate, recovery of what a crash left, listening, draining."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import uuid
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Final

from broker import gate
from broker.bastion.control import control_server
from broker.bastion.front_door import FrontDoor
from broker.bastion.host_key import HostKey
from broker.bastion.house import Machine, RunningBastion
from broker.bastion.watch import Watch
from broker.clock import Clock
from broker.domain.audit import ProcessStarted
from broker.gate import Finding
from broker.settings import Address, Home, Settings
from broker.signer.trusted import CaFiles, TrustedKeys
from broker.store import ledger, recordings, sessions
from broker.store.db import Database, Tx
from recorder.reader import examine

log = logging.getLogger("broker.bastion")
DRAIN_S: Final = 5.0


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

    acts, isolating = bastion.acts, bastion.isolating
    control = control_server(
        home.control_socket,
        {
            "sessions": acts.list_live,
            "kill": acts.kill,
            "freeze": acts.freeze,
            "unfreeze": acts.unfreeze,
            "isolation": isolating.answer,
        },
    )
    await bastion.strangers.load()
    await bastion.clock_alarm.look()
    await isolating.know_sites()
    door = FrontDoor(bastion, settings, host_key)
    if not isolating.is_deaf:
        await door.open()
    bastion.sync.start()
    tasks: list[asyncio.Task[None]] = []
    try:
        await control.start()
        bastion.port = door.address.port
        _tell_address(home.ssh_address, door.address)
        watch = Watch(bastion.db, bastion.live_sessions, bastion.logged_in_now, poll_s=settings.poll_s)
        followed = (
            watch.run(),
            bastion.strangers.keep(),
            host.renew(door.show),
            isolating.follow(door),
            isolating.tell(),
        )
        tasks = [asyncio.create_task(one) for one in followed]
        # What start-up made stays for good: walking it again and again took an eighth of the work of a bulk copy.
        gc.collect()
        gc.freeze()
        ready(str(door.address) if door.is_open else f"{door.address},isolated")
        await stop.wait()
    finally:
        door.shut()
        await bastion.drain(DRAIN_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await control.stop()
        bastion.signer.close()
        bastion.sync.stop()


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


def _tell_address(path: Path, address: Address) -> None:
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(f"{address}\n")  # as the pages write theirs
    fresh.replace(path)
