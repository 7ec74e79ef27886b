"""All processes of a small site as children of one: started in order, ended together."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Final

from broker.cli.checks import Part
from broker.cli.ending import Refused
from broker.settings import Home

READY_WITHIN_S: Final = 60.0
DRAIN_WITHIN_S: Final = 10.0
_PR_SET_PDEATHSIG: Final = 1
_SYSTEMDS: Final = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})  # told by the parent, for all of them
_libc = ctypes.CDLL(None, use_errno=True)


class Child:
    """One process. ready: set once it said so; ended: its exit status, once it has one."""

    def __init__(self, part: Part, process: asyncio.subprocess.Process) -> None:
        self.part = part
        self.ready = asyncio.Event()
        self._process = process
        self.ended = asyncio.create_task(self._follow())

    @classmethod
    async def start(cls, part: Part, home: Home) -> Child:
        """Start the process; its errors go where ours go, its output is ours to read."""
        command = [sys.executable, "-m", "broker.cli", "--home", str(home.path), "serve", "--only", part.value]
        parent = os.getpid()
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if name not in _SYSTEMDS},
            preexec_fn=lambda: _bind_to(parent),
            process_group=0,  # ^C in the terminal is for the parent, which then ends them in order
        )
        return cls(part, process)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _follow(self) -> int:
        assert self._process.stdout is not None  # noqa: S101 - asked for at the start
        async for line in self._process.stdout:
            text = line.decode("utf-8", "replace").rstrip("\n")
            if text.split(" ", 1)[0] == "ready":
                self.ready.set()
            else:
                print(text, file=sys.stderr)
        return await self._process.wait()


async def run_all(home: Home, parts: Sequence[Part], tell_ready: Callable[[], None]) -> None:
    """Run these processes until SIGTERM or SIGINT. Raises Refused, naming it, when one ends by itself; then all are ended.

    tell_ready: called once, when all are ready.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    stopping = asyncio.create_task(stop.wait())
    children: list[Child] = []
    try:
        for part in parts:  # in this order: the broker asks the signer for its host certificate
            children.append(await Child.start(part, home))
            if not await _is_ready(children, stopping):
                return
        tell_ready()
        await _first_end(children, stopping)
    finally:
        stopping.cancel()
        await _end(children)
        for path in (home.ssh_address, home.web_address, home.control_socket, home.signer_socket):
            path.unlink(missing_ok=True)  # a child that was killed leaves its own behind


async def _is_ready(children: list[Child], stopping: asyncio.Task[bool]) -> bool:
    """True once the newest child is ready, False when told to stop. Raises Refused when any child ended or took too long."""
    newest = children[-1]
    ready = asyncio.create_task(newest.ready.wait())
    waited = {ready, stopping, *(child.ended for child in children)}
    await asyncio.wait(waited, timeout=READY_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    if stopping.done():
        return False
    _refuse_ended(children)
    if not newest.ready.is_set():
        raise Refused(
            f"the {newest.part.value} process was not ready within {READY_WITHIN_S:.0f} s; everything was stopped"
        )
    return True


async def _first_end(children: list[Child], stopping: asyncio.Task[bool]) -> None:
    await asyncio.wait({stopping, *(child.ended for child in children)}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        _refuse_ended(children)


def _refuse_ended(children: list[Child]) -> None:
    for child in children:
        if child.ended.done():
            status = child.ended.result()
            how = f"by signal {-status}" if status < 0 else f"with status {status}"
            when = "" if child.ready.is_set() else " before it was ready"
            raise Refused(f"the {child.part.value} process ended {how}{when}; everything was stopped")


async def _end(children: list[Child]) -> None:
    for number, within_s in ((signal.SIGTERM, DRAIN_WITHIN_S), (signal.SIGKILL, 5.0)):
        left = [child for child in children if not child.ended.done()]
        for child in left:
            child.signal(number)
        if left:
            await asyncio.wait({child.ended for child in left}, timeout=within_s)


def _bind_to(parent: int) -> None:
    """In the child, before it becomes the program: it ends with its parent, even one that was killed. Source: prctl(2)."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
