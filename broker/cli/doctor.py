"""`doctor`: is this deployment well? One line each; the settings in effect, secrets hidden."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import typer

from broker.cli.checks import QUESTIONS
from broker.cli.context import home, open_database, show
from broker.cli.ending import FAILED, clean
from broker.control_client import ask
from broker.domain.errors import BrokerError, Code
from broker.domain.inventory import REACHABLE_STATES
from broker.settings import Home, Settings, load_settings
from broker.store import inventory, ledger
from recorder.space import free_space

JSON = typer.Option(False, "--json", help="one JSON document on stdout, for tools")
_PASSWORD = re.compile(r"(://[^:/@\s]*:)\S*@|([?&](?:password|passfile|sslpassword)=)[^&\s]*")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("doctor")(doctor)


@dataclass(frozen=True, slots=True)
class _Finding:
    name: str
    good: bool
    text: str


def doctor(as_json: bool = JSON) -> None:
    """Check the deployment: one line each, and the settings in effect.

    Exit 1 if anything is wrong. Secrets are hidden.
    """
    here = home()
    try:
        settings = load_settings(here)
    except BrokerError as error:
        findings, effective = [_Finding("settings", False, error.detail)], {}
    else:
        findings, effective = _examine(here, settings), _effective(settings)
    rows: list[dict[str, Any]] = [
        {"id": one.name, "state": "ok" if one.good else "wrong", "text": one.text} for one in findings
    ]
    if as_json:
        rows.append({"id": "effective settings", "state": "shown", "settings": effective})
        show(rows, [], as_json=True, none="")
    else:
        for row in rows:
            print(f"{row['state']:<6} {row['id']}: {clean(row['text'])}")
        for key, value in effective.items():
            print(f"       {key} = {clean(str(value))}")
    raise typer.Exit(0 if all(one.good for one in findings) else FAILED)


def _examine(here: Home, settings: Settings) -> list[_Finding]:
    findings = [_Finding("settings", True, str(here.settings_path))]
    running = _try("bastion", lambda: _bastion(here))
    for question in QUESTIONS:
        if running.good and question.name.endswith(" port"):
            continue  # taken, by the one who should
        findings.append(_try(question.name, lambda asked=question: asked.ask(here, settings)))  # type: ignore[misc]
    findings.append(_try("disk", lambda: _disk(here, settings)))
    findings.append(_try("ledger", lambda: _ledger(here, settings)))
    findings.append(_try("asset host keys", lambda: _host_keys(here, settings)))
    findings.append(_Finding("running", True, running.text if running.good else "no: start it with serve"))
    return findings


def _try(name: str, asked: Callable[[], str]) -> _Finding:
    try:
        return _Finding(name, True, asked())
    except BrokerError as error:
        return _Finding(name, False, error.detail)
    except OSError as error:
        return _Finding(name, False, error.strerror or type(error).__name__)
    except (ValueError, KeyError) as error:  # rows that somebody wrote by hand
        return _Finding(name, False, f"cannot be read: {type(error).__name__}")


def _bastion(here: Home) -> str:
    live = ask(here.control_socket, {"act": "sessions"})["sessions"]
    return f"yes, {len(live)} live sessions"


def _disk(here: Home, settings: Settings) -> str:
    space = free_space(here.recordings)
    told = f"{space.bytes_free / 1e9:.1f} GB free, {space.fraction_free:.0%}"
    if space.bytes_free < settings.free_space_floor_bytes or space.fraction_free < settings.free_space_floor_fraction:
        raise BrokerError(Code.UNAVAILABLE, f"{told}: below the floor, no session starts; make room")
    return told


def _ledger(here: Home, settings: Settings) -> str:
    db = open_database(here, settings)
    try:
        with db.read() as tx:
            problem, (size, _) = ledger.verify(tx), ledger.head(tx)
    finally:
        db.close()
    if problem is not None:
        raise BrokerError(Code.CONFLICT, f"entry {problem[0]}: {problem[1]}; keep everything and investigate")
    return f"{size} entries, intact"


def _host_keys(here: Home, settings: Settings) -> str:
    db = open_database(here, settings)
    try:
        with db.read() as tx:
            found = [one for one in inventory.assets(tx) if one.state in REACHABLE_STATES]
    finally:
        db.close()
    bare = [one.login for one in found if one.host_key is None]
    if bare:
        raise BrokerError(Code.CONFLICT, f"no host key pinned for {', '.join(bare)}; pin with: asset pin")
    return f"{len(found)} reachable assets, all pinned"


def _effective(settings: Settings) -> dict[str, Any]:
    values = settings.model_dump(mode="json")
    values["database"] = _PASSWORD.sub(lambda hit: f"{hit[1]}***@" if hit[1] else f"{hit[2]}***", values["database"])
    return values
