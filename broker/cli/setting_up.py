"""Commands that make a deployment: the home with its keys and its database, later releases' tables."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import typer

from broker import isolation
from broker.cli.alone import lock
from broker.cli.checks import CA_NAMES
from broker.cli.context import done, home, open_database
from broker.cli.ending import Refused
from broker.clock import SystemClock
from broker.domain.errors import BrokerError
from broker.domain.isolation import Ladder
from broker.isolation import Kept
from broker.settings import Home, Settings, load_settings, parse_settings, write_settings
from broker.store.db import Database

JSON = typer.Option(False, "--json", help="one JSON document on stdout, for tools")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("init")(init)
    app.command("migrate")(migrate)


def init(
    ssh: str = typer.Option(
        None, "--ssh", metavar="HOST:PORT", help="where engineers connect; port 0 takes a free one"
    ),
    web: str = typer.Option(None, "--web", metavar="HOST:PORT", help="where the pages are"),
    database: str = typer.Option(None, "--database", metavar="URL", help="else SQLite in the home"),
    as_json: bool = JSON,
) -> None:
    """Make the home: settings, database and keys; refuses to overwrite."""
    named = {"ssh_listen": ssh, "web_listen": web, "database": database}
    changed = {key: value for key, value in named.items() if value is not None}
    settings = parse_settings(changed, where="init")
    here = home()
    os.umask(0o077)
    try:
        with _all_or_nothing(here, settings) as fresh:
            _make(here, settings, fresh)
            write_settings(here, changed)  # last: a home without settings is no home
    except OSError as error:
        raise Refused(f"home {here.path}: {error.strerror or error}; nothing was made") from None
    done({"id": str(here.path), "state": "made"}, f"{here.path} made; next: site add, then serve", as_json=as_json)


def _make(here: Home, settings: Settings, fresh: list[Path]) -> None:
    from broker.signer.keys import make_key

    for folder in (here.keys, here.recordings, here.run):
        _folder(folder, fresh)
    # The folders of the keys belong to one process each; an installation by systemd-tmpfiles has made them already.
    for folder in (here.ca_key("gate").parent, here.host_key.parent, here.seal_key.parent):
        _folder(folder, fresh)
    keys = [(here.ca_key(name), f"wicketgate {name} CA") for name in CA_NAMES]
    for path, comment in [*keys, (here.host_key, "wicketgate bastion")]:
        fresh += [path, path.with_name(path.name + ".pub")]
        make_key(path, comment)
    fresh.append(isolation.place_of(here))
    isolation.write(here, Kept(Ladder()))
    fresh.append(here.seal_key)
    _write_new(here.seal_key, secrets.token_bytes(32))
    db = Database.open(here.database_url(settings), SystemClock())
    if (file := _sqlite_file(here, settings)) is not None:
        fresh += [file, *(file.with_name(file.name + ending) for ending in ("-wal", "-shm", "-journal"))]
    try:
        db.migrate()
    finally:
        db.close()


@contextmanager
def _all_or_nothing(here: Home, settings: Settings) -> Iterator[list[Path]]:
    """Refuse a home that is one already; take away what was made when something fails. fresh: what is ours to take away."""
    keys = [here.host_key, *(here.ca_key(name) for name in CA_NAMES)]
    ours = [
        here.settings_path,
        here.seal_key,
        isolation.place_of(here),
        *keys,
        *(path.with_name(path.name + ".pub") for path in keys),
    ]
    if (file := _sqlite_file(here, settings)) is not None:
        ours.append(file)
    fresh: list[Path] = []
    held = None
    try:
        _folder(here.path, fresh)
        held = lock(here.path, f"another init is at work on {here.path}")  # what it makes must not be taken for ours
        for path in ours:
            if os.path.lexists(path):
                raise Refused(f"{path} is already there; nothing was changed")
        yield fresh
    except BaseException:
        for path in reversed(fresh):
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
        raise
    finally:
        if held is not None:
            os.close(held)


def _sqlite_file(here: Home, settings: Settings) -> Path | None:
    url = here.database_url(settings)
    path = url.removeprefix("sqlite:///")
    return None if path == url else Path(path)


def _folder(path: Path, fresh: list[Path]) -> None:
    if not path.is_dir():
        path.mkdir(mode=0o700)
        fresh.append(path)


def _write_new(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def migrate(as_json: bool = JSON) -> None:
    """Bring the database of an older release to this one.

    Stop the services and back it up first. Does nothing when it is up to date; a newer one is refused.
    """
    here = home()
    db = open_database(here, load_settings(here))
    try:
        with suppress(BrokerError):
            db.check_schema()
            done({"id": "database", "state": "current"}, "the database is up to date", as_json=as_json)
            return
        db.migrate()
        db.check_schema()
        if not here.isolation_path.exists():  # homes of the first release have none
            isolation.write(here, Kept(Ladder()))
    finally:
        db.close()
    done({"id": "database", "state": "migrated"}, "the database has been brought to this release", as_json=as_json)
