"""Commands on evidence: recordings, replay, export, verify, ledger. Each look is a ledger entry before any byte leaves (E18)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from broker.cli.context import database, done, local_name, local_time, show
from broker.cli.ending import CONTRADICTS, INCOMPLETE, Refused
from broker.cli.verifying import check, worst
from broker.domain.audit import RecordingViewed
from broker.domain.errors import BrokerError, Code
from broker.domain.ids import SessionId, parse_duration, parse_instant, quoted
from broker.store import inventory, people, recordings
from broker.store import ledger as ledger_rows
from broker.store.db import Database, Tx
from broker.store.recordings import Recording, Stream

JSON = typer.Option(False, "--json", help="one JSON document on stdout, for tools")
CHANNEL = typer.Option(None, "--channel", metavar="N", help="which channel; else the first with a screen")
FORMATS = ("cast", "cast3", "text", "raw")
ledger = typer.Typer(help="The append-only log.", rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for name, command in (("recordings", list_recordings), ("replay", replay), ("export", export), ("verify", verify)):
        app.command(name)(command)
    app.add_typer(ledger, name="ledger")


def list_recordings(
    session: str = typer.Option(None, "--session"),
    asset: str = typer.Option(None, "--asset", metavar="ASSET.SITE"),
    person: str = typer.Option(None, "--person", metavar="HANDLE"),
    since: str = typer.Option(None, "--since", metavar="T"),
    as_json: bool = JSON,
) -> None:
    """List the recordings."""
    with database() as (db, _, _), db.read() as tx:
        found_asset = None if asset is None else inventory.load_asset(tx, asset)
        if asset is not None and found_asset is None:
            raise BrokerError(Code.NOT_FOUND, f"no asset {quoted(asset)}")
        found = recordings.recordings(
            tx,
            session_id=None if session is None else SessionId(session),
            asset_id=None if found_asset is None else found_asset.id,
            person_id=None if person is None else people.require(tx, person).id,
            since=None if since is None else parse_instant(since),
        )
        zones = {one.id: one.time_zone for one in inventory.sites(tx)}
    rows = [_row(one, zones[one.site_id]) for one in found]
    show(
        rows,
        ["id", "state", "person", "asset", "opened_at", "duration_s", "streams"],
        as_json=as_json,
        none="no recordings",
    )


def replay(
    recording: str = typer.Argument(metavar="REC"),
    speed: float = typer.Option(1.0, "--speed", min=0.01, max=1000),
    start: str = typer.Option(None, "--from", metavar="T", help="begin at this offset, such as 90s"),
    idle: str = typer.Option(None, "--idle", metavar="D", help="shorten pauses to this, such as 2s"),
    channel: int = CHANNEL,
) -> None:
    """Play a recording in this terminal; no recorded control byte reaches it."""
    from recorder.replay import play

    start_us = 0 if start is None else _microseconds(start)
    idle_max_us = None if idle is None else _microseconds(idle)
    with database() as (db, _, home):
        stream = _screen(db, recording, channel)
        _note(db, stream, "replay")
        path = home.recordings / stream.path
    size = os.get_terminal_size() if sys.stdout.isatty() else os.terminal_size((80, 24))
    with _reading(recording):
        play(
            path,
            sys.stdout,
            sleep=time.sleep,
            speed=speed,
            start_us=start_us,
            idle_max_us=idle_max_us,
            size=(size.columns, size.lines),
        )


def export(
    recording: Annotated[str, typer.Argument(metavar="REC")],
    form: Annotated[str, typer.Option("--format", metavar="cast|cast3|text|raw")],
    out: Annotated[Path, typer.Option("-o", "--output", metavar="FILE")],
    channel: int = CHANNEL,
    as_json: bool = JSON,
) -> None:
    """Write a recording as asciicast v2 or v3, as text, or its raw output bytes."""
    from recorder import export as writing

    if form not in FORMATS:
        raise typer.BadParameter(f"format {quoted(form)}: one of {', '.join(FORMATS)}")
    with database() as (db, _, home):
        stream = _screen(db, recording, channel)
        with _new_file(out) as file:
            _note(db, stream, "export")
            path = home.recordings / stream.path
            with _reading(recording):
                if form == "raw":
                    writing.raw(path, file)
                elif form == "text":
                    writing.text(path, file)
                else:
                    writing.cast(path, file, version=2 if form == "cast" else 3)
    done({"id": recording, "state": "exported", "file": str(out)}, f"{out} written", as_json=as_json)


def verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="[REC...]")] = None,
    everything: bool = typer.Option(False, "--all", help="every recording, and the ledger"),
    as_json: bool = JSON,
) -> None:
    """Check recordings against the ledger.

    Every byte is read. Exit 0: intact; 4: contradicts the ledger or itself; 5: something is absent, or still open.
    """
    if bool(names) == everything:
        raise typer.BadParameter("name recordings, or give --all")
    with database() as (db, _, home):
        rows = check(db, home, names or [])
    show([{"id": one.name, "state": one.text} for one in rows], ["id", "state"], as_json=as_json, none="no recordings")
    raise typer.Exit(worst(rows))


@ledger.command("head")
def ledger_head(as_json: bool = JSON) -> None:
    """Print the ledger's size and its last link."""
    with database() as (db, _, _), db.read() as tx:
        size, link = ledger_rows.head(tx)
    done({"id": size, "state": "open", "link": link}, f"{size} {link}", as_json=as_json)


@ledger.command("show")
def ledger_show(last: int = typer.Option(50, "--last", min=1, max=100_000), as_json: bool = JSON) -> None:
    """Print the newest entries, oldest of them first."""
    with database() as (db, _, _), db.read() as tx:
        found = ledger_rows.show(tx, last=last)
    rows = [
        {"id": one.seq, "kind": one.kind, **{k: v for k, v in one.body.items() if k not in ("kind", "salt")}}
        for one in found
    ]
    texts = [{"id": row["id"], "kind": row["kind"], "entry": _entry(row)} for row in rows]
    show(rows if as_json else texts, ["id", "kind", "entry"], as_json=as_json, none="the ledger is empty")


@ledger.command("verify")
def ledger_verify(as_json: bool = JSON) -> None:
    """Check that every entry is linked to the one before: exit 0 intact, 4 not."""
    with database() as (db, _, _), db.read() as tx:
        problem, (size, link) = ledger_rows.verify(tx), ledger_rows.head(tx)
    if problem is not None:
        done({"id": problem[0], "state": "broken"}, f"entry {problem[0]}: {problem[1]}", as_json=as_json)
        raise typer.Exit(4)
    done({"id": size, "state": "intact", "link": link}, f"{size} entries, intact, {link}", as_json=as_json)


def _entry(row: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in row.items() if key not in ("id", "kind", "at_ms"))


def _row(one: Recording, zone: str) -> dict[str, Any]:
    durations = [stream.duration_us for stream in one.streams if stream.duration_us is not None]
    ended = one.session.ended_at
    length = None if ended is None else round((ended - one.session.opened_at).total_seconds(), 1)
    return {
        "id": one.id,
        "state": one.state,
        "person": one.person,
        "asset": one.asset,
        "opened_at": local_time(one.session.opened_at, zone),
        "duration_s": round(max(durations) / 1e6, 1) if durations else length,
        "streams": [stream.name for stream in one.streams],
    }


def _require(tx: Tx, name: str) -> Recording:
    found = recordings.load_recording(tx, name)
    if found is None:
        raise BrokerError(Code.NOT_FOUND, f"no recording {quoted(name)}; see: recordings")
    return found


def _screen(db: Database, name: str, channel: int | None) -> Stream:
    with db.read() as tx:
        found = _require(tx, name)
    fitting = [
        one for one in found.streams if one.stream_class in ("screen", "wire") and channel in (None, one.channel)
    ]
    if not fitting:
        raise BrokerError(Code.NOT_FOUND, f"recording {quoted(name)} has no such channel with a screen")
    return fitting[0]


def _note(db: Database, stream: Stream, how: str) -> None:
    with db.begin() as tx:
        ledger_rows.append(tx, RecordingViewed(session_id=stream.session_id, by=local_name(), how=how, door="cli"))


@contextmanager
def _reading(recording: str) -> Iterator[None]:
    """Damage in a stream as one line; what came before it has been shown or written."""
    from recorder.format import FormatError

    try:
        yield
    except FormatError as error:
        raise Refused(f"recording {recording} is damaged: {error}; see: verify {recording}", CONTRADICTS) from None
    except FileNotFoundError:
        raise Refused(f"the file of recording {recording} is missing; see: verify {recording}", INCOMPLETE) from None
    except BrokenPipeError:
        raise
    except OSError as error:  # of the recording's file, or of the disk that is written to
        raise Refused(f"recording {recording}: {error.strerror or error}") from None


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("xb")
    except FileExistsError:
        raise Refused(f"{path} is already there; nothing was changed") from None
    except OSError as error:
        raise Refused(f"{path} cannot be written: {error.strerror}") from None
    with file:
        try:
            yield file
        except (BrokerError, Refused):
            # Not noted in the ledger: nothing may leave. Damaged: what came before the damage stays, an empty file does not.
            if file.tell() == 0:
                path.unlink()
            raise


def _microseconds(text: str) -> int:
    return int(parse_duration(text).total_seconds() * 1e6)
