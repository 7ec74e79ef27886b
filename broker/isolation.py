"""The state of the isolation ladder on disk: `isolation.json` of the home outranks the database and works without it.

Written whole and made durable before anybody is told; what cannot be read counts as level 3 for all sites (FLT-1). Whoever
changes it holds a lock on its folder, but a lock that is not to be had stops nobody from raising: restricting comes first.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from broker.domain.authority import IsolationHookRan, IsolationRaised, SeparationNoted
from broker.domain.errors import BrokerError, Code
from broker.domain.isolation import STEPS, Ladder, Level, Note, Rung, parse_level, parse_site
from broker.settings import Home, Settings
from broker.store import ledger
from broker.store.db import Tx

BYTES_MAX: Final = 1 << 21
UNTOLD_MAX: Final = 100
LOCK_TRIES: Final = 100
LOCK_PAUSE_S: Final = 0.01
Event = IsolationRaised | IsolationHookRan | SeparationNoted
_EVENTS: Final[Mapping[str, type[Event]]] = {
    one.kind: one for one in (IsolationRaised, IsolationHookRan, SeparationNoted)
}


@dataclass(frozen=True, slots=True)
class Kept:
    """What the file holds. untold: what the ledger has not been told yet, oldest first."""

    ladder: Ladder
    untold: tuple[Event, ...] = ()

    def with_event(self, ladder: Ladder, event: Event) -> Kept:
        """The next state; of what is untold the newest is kept."""
        return Kept(ladder, (*self.untold, event)[-UNTOLD_MAX:])


def read(home: Home, settings: Settings | None) -> Kept:
    """The state as it is now; raises nothing: whatever is wrong with the file is in `ladder.damaged`, in one line.

    settings: name the switch; None where they cannot be read.
    """
    path = home.isolation_path
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # not the end of us if it is a pipe
        with os.fdopen(fd, "rb") as file:
            data = file.read(BYTES_MAX + 1) or b""
    except OSError as error:
        found = Kept(Ladder(damaged=f"{path}: {error.strerror}; it counts as level 3 for every site"))
    else:
        found = parse(data, where=str(path))
    return replace(found, ladder=replace(found.ladder, switch=switch_level(settings)))


def load(home: Home, settings: Settings) -> Ladder:
    """The ladder as it is now, for whoever decides something by it. Raises nothing."""
    return read(home, settings).ladder


def switch_level(settings: Settings | None) -> Level:
    """The level that the hard-wired switch demands: the mere presence of its file counts, and doubt about it too."""
    if settings is None or not settings.isolation_switch_file:
        return Level.NORMAL
    try:
        os.lstat(settings.isolation_switch_file)
    except FileNotFoundError:
        return Level.NORMAL
    except OSError:  # a folder that cannot be looked into: closed
        pass
    return Level(settings.isolation_switch_level)


def parse(data: bytes, *, where: str) -> Kept:
    """Read the file's bytes. Raises nothing: whatever changes what they say is damage."""
    try:
        if len(data) > BYTES_MAX:
            raise ValueError
        document = json.loads(data)
        body = document["state"]
        if document["sha256"] != sha256(ledger.canonical(body)).hexdigest() or body["version"] != 1:
            raise ValueError
        rungs = {parse_site(site): _rung(found) for site, found in body["rungs"].items()}
        return Kept(Ladder(rungs), tuple(_event(one) for one in body["untold"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, BrokerError):
        return Kept(Ladder(damaged=f"{where} is damaged; it counts as level 3 for every site"))


def render(kept: Kept) -> bytes:
    """The bytes of a state; what `parse` reads back."""
    rungs = {site: _plain(rung) for site, rung in kept.ladder.rungs.items()}
    untold = [{"kind": one.kind, **_plain(one)} for one in kept.untold]
    body = {"version": 1, "rungs": rungs, "untold": untold}
    digest = sha256(ledger.canonical(body)).hexdigest()
    return (
        json.dumps({"state": body, "sha256": digest}, indent=1, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    )


def place_of(home: Home) -> Path:
    """Where the file lies: in the home, or one link further. No second link is followed: its folder may be somebody else's."""
    path = home.isolation_path
    return path.parent / os.readlink(path) if path.is_symlink() else path


def write(home: Home, kept: Kept) -> None:
    """Put a state in the place of the old one, durably, or change nothing. Raises BrokerError(UNAVAILABLE).

    The name may be a link into a folder of its own, where processes without a right to the home may write.
    """
    path = place_of(home)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                if (
                    path.parent.stat().st_mode & stat.S_ISGID
                ):  # signer and pages read it, whatever the umask of who wrote it
                    os.fchmod(file.fileno(), 0o640)
                file.write(render(kept))
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        except BaseException:
            with suppress(OSError):
                fresh.unlink()
            raise
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise BrokerError(Code.UNAVAILABLE, f"{path} cannot be written: {error.strerror}") from None


def change(home: Home, settings: Settings | None, step: Callable[[Kept], Kept]) -> Kept:
    """Read, change, write, one after another over all processes. Raises BrokerError of the step and of `write`.

    A process that is stopped while it holds the lock is waited for one second and no longer.
    """
    with _turn(home):
        before = read(home, settings)
        after = step(before)
        if after != before:
            write(home, after)
        return replace(after, ladder=replace(after.ladder, switch=before.ladder.switch))


def tell_ledger(tx: Tx, events: tuple[Event, ...]) -> None:
    """Write down what happened while nobody could be told; what is there already is not written twice."""
    for event in events:
        instant = event.at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        if not ledger.show(tx, last=1, kind=event.kind, holding=instant):
            ledger.append(tx, event)


def without(kept: Kept, told: tuple[Event, ...]) -> Kept:
    """The state after the ledger was told."""
    return replace(kept, untold=tuple(one for one in kept.untold if one not in told))


@contextmanager
def _turn(home: Home) -> Iterator[None]:
    held = None
    with suppress(OSError):
        held = os.open(place_of(home).parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if held is not None:
            _lock(held)
        yield
    finally:
        if held is not None:
            os.close(held)


def _lock(fd: int) -> None:
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(LOCK_PAUSE_S)
        except OSError:  # a file system without locks
            return


def _plain(value: object) -> Any:
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat()
        case Rung() | Note() | IsolationRaised() | IsolationHookRan() | SeparationNoted():
            return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        case Mapping():
            return {str(name): _plain(one) for name, one in value.items()}
        case tuple():
            return [_plain(one) for one in value]
        case int():
            return int(value)
    return value


def _rung(found: Any) -> Rung:
    notes = {
        step: Note(done_by=str(one["done_by"]), seen_by=str(one["seen_by"]), at=_instant(one["at"]))
        for step, one in found["notes"].items()
        if step in STEPS
    }
    return Rung(
        level=parse_level(found["level"]),
        by=str(found["by"]),
        reason=str(found["reason"]),
        at=_instant(found["at"]),
        notes=notes,
    )


def _event(found: Any) -> Event:
    made = _EVENTS[found["kind"]]
    values = {name: one for name, one in found.items() if name != "kind"}
    values["at"] = _instant(values["at"])
    if "names" in values:
        values["names"] = tuple(values["names"])
    return made(**values)


def _instant(text: Any) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError
    return found
