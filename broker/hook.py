"""The site's own executable that runs when isolation reaches level 4, and again when it is taken back.

`isolation-hook` of the home: one file, or a folder with a file for each site. It is called with SITE (or *) and LEVEL, 0 once
restored; it must stand being called twice. Examples: docs/examples.
"""

from __future__ import annotations

import os
import selectors
import signal
import stat
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker import isolation
from broker.clock import Clock
from broker.domain.authority import IsolationHookRan
from broker.domain.isolation import EVERYWHERE, Level
from broker.settings import Home, Settings

LIMIT_S: Final = 10.0
OUTPUT_MAX_BYTES: Final = 4096
ENVIRONMENT: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C"}
_LOOK_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one hook. exit: its status, None when it was ended or not started; output: printable, cut."""

    exit: int | None
    output: str

    @property
    def good(self) -> bool:
        return self.exit == 0


def run_hooks(home: Home, site: str, level: Level, clock: Clock) -> list[Run]:
    """Run what the site has for this, one after the other; empty when it has nothing. Raises nothing."""
    return [_run(path, named, level, clock) for path, named in _hooks(home, site)]


def run_and_keep(
    home: Home, settings: Settings | None, clock: Clock, site: str, level: Level
) -> list[IsolationHookRan]:
    """Run the site's hooks and put what came of them where the ledger is told from. Raises BrokerError of the file."""
    ran = [
        IsolationHookRan(site=site, level=int(level), exit=run.exit, output=run.output, at=clock.now())
        for run in run_hooks(home, site, level, clock)
    ]
    for event in ran:
        isolation.change(home, settings, lambda kept, event=event: kept.with_event(kept.ladder, event))  # type: ignore[misc]
    return ran


def _hooks(home: Home, site: str) -> list[tuple[Path, str]]:
    path = home.isolation_hook
    if not path.is_dir():
        return [(path, site)] if os.path.lexists(path) else []
    found = {one.name: one for one in sorted(path.iterdir())}
    if site != EVERYWHERE:
        return [(found[site], site)] if site in found else []
    return [(one, name) for name, one in found.items()]


def _run(path: Path, site: str, level: Level, clock: Clock) -> Run:
    """One hook, in a process group of its own that is ended with it. Its output is read as long as it runs, and kept to 4 KiB."""
    if (wrong := _unfit(path)) is not None:
        return Run(None, f"{path.name} was not run: {wrong}")
    try:
        child = subprocess.Popen(
            [path, site, str(int(level))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=ENVIRONMENT,
            start_new_session=True,
        )
    except OSError as error:
        return Run(None, f"{path.name} was not run: {error.strerror}")
    try:
        said, ended = _follow(child, clock)
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)  # also what it left behind
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
    told = "".join(ch if ch.isprintable() or ch == "\n" else "?" for ch in said.decode("utf-8", "replace")).strip()
    return Run(child.returncode, told) if ended else Run(None, f"{told}\nended after {LIMIT_S:.0f} s".strip())


def _follow(child: subprocess.Popen[bytes], clock: Clock) -> tuple[bytes, bool]:
    """What it said, and whether it ended by itself in time. A child of its own that keeps the pipe open is not waited for."""
    assert child.stdout is not None  # noqa: S101 - asked for at the start
    until, said, speaks = clock.monotonic_us() + int(LIMIT_S * 1e6), b"", True
    os.set_blocking(child.stdout.fileno(), False)
    with selectors.DefaultSelector() as ready:
        ready.register(child.stdout, selectors.EVENT_READ)
        while True:
            over = child.poll() is not None  # before the read: what it said last is still there
            if speaks:
                ready.select(0 if over else _LOOK_S)
            else:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(_LOOK_S)
            chunk = None
            with suppress(BlockingIOError):
                chunk = os.read(child.stdout.fileno(), 65536)
            if chunk:
                said = (said + chunk)[:OUTPUT_MAX_BYTES]
            speaks = speaks and chunk != b""
            if over and not chunk:
                return said, True
            if clock.monotonic_us() >= until:
                return said, False


def _unfit(path: Path) -> str | None:
    """Why a hook must not be run: somebody else could have written it."""
    try:
        found, folder = path.stat(), path.resolve().parent.stat()
    except OSError as error:
        return error.strerror or "cannot be read"
    if not stat.S_ISREG(found.st_mode) or not os.access(path, os.X_OK):
        return "it is no executable file"
    if found.st_uid not in (0, os.geteuid()):
        return "it belongs neither to root nor to whoever runs it"
    if found.st_mode & 0o022:
        return "others may write it; chmod 755"
    if folder.st_mode & 0o002 and not folder.st_mode & stat.S_ISVTX:
        return "its folder is open to everybody; chmod 755"
    return None
