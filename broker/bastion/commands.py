"""The console's commands: what an engineer may ask of the broker, each with plain text for people and a document for tools.

Source: interface.md, "The SSH door". A command changes something only through the desk or the signer.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, NoReturn, Protocol
from zoneinfo import ZoneInfo

from broker import desk
from broker.clock import Clock
from broker.domain.capability import USUAL, parse_capabilities, show_capabilities
from broker.domain.errors import BrokerError, Code
from broker.domain.grant import Grant, GrantState
from broker.domain.ids import GrantId, parse_duration, parse_instant, parse_text, quoted, show_duration
from broker.domain.inventory import Asset
from broker.domain.policy import Refusal
from broker.domain.request import AccessRequest, Asked, ShownState
from broker.gate import Proof
from broker.settings import Settings
from broker.store import grants, inventory, people, requests, windows
from broker.store.db import Database, Tx

Progress = Callable[[str], None]
FAILED, USAGE, MISSING, AWAY = 1, 2, 3, 75
EXIT_OF: Final[Mapping[Code, int]] = {
    Code.INVALID: USAGE,
    Code.NOT_FOUND: MISSING,
    Code.UNAVAILABLE: AWAY,
    Code.UNAUTHENTICATED: FAILED,
    Code.FORBIDDEN: FAILED,
    Code.CONFLICT: FAILED,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command gives back. text: for people; document: for tools; error: one line."""

    status: int = 0
    text: str = ""
    document: Any = None
    error: str = ""
    as_json: bool = False

    @classmethod
    def usage(cls, text: str) -> Answer:
        return cls(USAGE, error=text)

    @classmethod
    def from_error(cls, error: BrokerError) -> Answer:
        return cls(EXIT_OF[error.code], error=error.detail)

    @classmethod
    def refused(cls, refusal: Refusal) -> Answer:
        return cls(FAILED, error=f"{refusal.reason.value}{'; ' + refusal.hint if refusal.hint else ''}")


class CertificateSigner(Protocol):
    """The signer as the console needs it."""

    async def gate(self, *, grant: GrantId, key: str, person: str, source: str) -> str: ...
    async def keys(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class Desk:
    """What the commands work on."""

    db: Database
    clock: Clock
    settings: Settings
    signer: CertificateSigner
    port: int


@dataclass(frozen=True, slots=True)
class Command:
    """One word of the console. run: desk, who, the words after it, a way to show progress."""

    run: Callable[[Desk, Proof, Sequence[str], Progress], Awaitable[Answer]]
    usage: str
    meaning: str


class _Words(argparse.ArgumentParser):
    """A parser that answers instead of exiting; --json is everybody's."""

    def __init__(self, name: str) -> None:
        super().__init__(prog=name, add_help=False, allow_abbrev=False)
        self.add_argument("--json", action="store_true")

    def error(self, message: str) -> NoReturn:
        raise BrokerError(Code.INVALID, f"{self.prog}: {' '.join(message.split())}; usage: {COMMANDS[self.prog].usage}")


@dataclass(frozen=True, slots=True)
class _Known:
    """Names for showing: assets and time zones by id."""

    assets: dict[str, Asset] = field(default_factory=dict)
    zones: dict[str, str] = field(default_factory=dict)

    def names(self, ids: Sequence[str] | frozenset[Any]) -> list[str]:
        return sorted(self.assets[one].login if one in self.assets else str(one) for one in ids)

    def time(self, instant: datetime, site_id: str) -> str:
        local = instant.astimezone(ZoneInfo(self.zones.get(site_id, "UTC")))
        return f"{local:%Y-%m-%d %H:%M:%S %Z (%z)}"


def _load_known(tx: Tx) -> _Known:
    return _Known(
        assets={asset.id: asset for asset in inventory.assets(tx)},
        zones={site.id: site.time_zone for site in inventory.sites(tx)},
    )


async def _help(_desk: Desk, _proof: Proof, words: Sequence[str], _progress: Progress) -> Answer:
    asked = _Words("help").parse_args(words)
    lines = [f"  {command.usage}\n      {command.meaning}" for command in COMMANDS.values()]
    document = [{"id": name, "usage": one.usage, "meaning": one.meaning} for name, one in COMMANDS.items()]
    return Answer(text="commands:\n" + "\n".join(lines), document=document, as_json=asked.json)


async def _whoami(house: Desk, proof: Proof, words: Sequence[str], _progress: Progress) -> Answer:
    asked = _Words("whoami").parse_args(words)

    def read(tx: Tx) -> tuple[str, str, str]:
        person = people.load_person(tx, proof.person_id)
        if person is None:
            raise BrokerError(Code.FORBIDDEN, "no such person")
        vendor = None if person.vendor_id is None else inventory.vendor_by_id(tx, person.vendor_id)
        return person.handle, person.name, "" if vendor is None else vendor.name

    handle, name, vendor = await house.db.look(read)
    document = {"id": proof.person_id, "handle": handle, "name": name, "vendor": vendor, "factors": proof.factors}
    document |= {"source": proof.source, "key_fingerprint": proof.key_fingerprint}
    text = f"{handle} ({name}{', ' + vendor if vendor else ''}), in by {proof.factors} from {proof.source}"
    return Answer(text=text, document=document, as_json=asked.json)


async def _assets(house: Desk, proof: Proof, words: Sequence[str], _progress: Progress) -> Answer:
    asked = _Words("assets").parse_args(words)

    def read(tx: Tx) -> list[Asset]:
        person = people.load_person(tx, proof.person_id)
        if person is None or person.vendor_id is None:
            return []
        # What a commissioning window of the firm names, whether open or still to come; the rest of the site is not theirs.
        open_windows = [one for one in windows.windows(tx, vendor_id=person.vendor_id) if one.closes > tx.now]
        return [
            asset
            for asset in inventory.assets(tx)
            if any(one.site_id == asset.site_id and one.names(asset.name) for one in open_windows)
        ]

    found = await house.db.look(read)
    document = [
        {"id": one.login, "class": one.asset_class.value, "state": one.state.value, "accounts": list(one.accounts)}
        for one in found
    ]
    lines = [
        f"{one.login:<24} {one.asset_class.value:<8} {one.state.value:<13} {', '.join(one.accounts)}" for one in found
    ]
    text = "\n".join(lines) or "no assets: no commissioning window of your firm is open or booked"
    return Answer(text=text, document=document, as_json=asked.json)


async def _request(house: Desk, proof: Proof, words: Sequence[str], progress: Progress) -> Answer:
    parser = _Words("request")
    parser.add_argument("assets")
    parser.add_argument("--for", dest="length", required=True, type=str)
    parser.add_argument("--from", dest="opens", default=None)
    parser.add_argument("--reason", required=True)
    parser.add_argument("--change", default=None)
    parser.add_argument("--needs", default=None)
    parser.add_argument("--wait", action="store_true")
    asked = parser.parse_args(words)
    wish = Asked(
        assets=tuple(dict.fromkeys(name.strip() for name in asked.assets.split(",") if name.strip())),
        length=parse_duration(asked.length),
        reason=parse_text(asked.reason, what="reason"),
        capabilities=USUAL if asked.needs is None else parse_capabilities(asked.needs),
        opens=None if asked.opens is None else parse_instant(asked.opens),
        change=None if asked.change is None else parse_text(asked.change, what="change", longest=64),
    )
    made = await house.db.run(
        desk.submit,
        person_id=proof.person_id,
        asked=wish,
        lapses_after=timedelta(seconds=house.settings.request_lapses_s),
        longest=timedelta(seconds=house.settings.longest_request_s),
        door="ssh",
    )
    if isinstance(made, Refusal):
        return Answer.refused(made)
    if asked.wait:
        return await _wait(house, made, progress, as_json=asked.json)
    text = f"{made.id} is pending; an owner of the site decides. See: status {made.id}"
    return Answer(text=text, document={"id": made.id, "state": "pending"}, as_json=asked.json)


async def _wait(house: Desk, request: AccessRequest, progress: Progress, *, as_json: bool) -> Answer:
    """Follow a request until somebody or the clock decides it; going away leaves it standing."""
    mark = -1
    progress(f"{request.id} is pending; ^C leaves it standing")
    while True:
        moved = await asyncio.to_thread(house.db.change_mark)
        if moved != mark or house.clock.now() >= request.lapses_at:
            mark = moved
            state, answer = await house.db.look(_state_of, request.id)
            if state is not ShownState.PENDING:
                status = 0 if state is ShownState.APPROVED else FAILED
                document = {"id": request.id, "state": state.value, "grant": answer}
                text = f"{request.id} is {state.value}" + (f": {answer}" if answer else "")
                return Answer(status, text=text, document=document, as_json=as_json)
        await asyncio.sleep(house.settings.poll_s)


def _state_of(tx: Tx, request_id: str) -> tuple[ShownState, str]:
    request = requests.load(tx, request_id)
    if request is None:
        raise BrokerError(Code.NOT_FOUND, f"no request {quoted(request_id)} of yours")
    grant = grants.of_request(tx, request.id)
    return request.shown_state(tx.now), "" if grant is None else grant.id


async def _status(house: Desk, proof: Proof, words: Sequence[str], _progress: Progress) -> Answer:
    parser = _Words("status")
    parser.add_argument("id", nargs="?", default=None)
    asked = parser.parse_args(words)

    def read(tx: Tx) -> tuple[list[AccessRequest], list[Grant], _Known, dict[Any, str], datetime]:
        mine = requests.requests(tx, person_id=proof.person_id)
        reasons = {
            one.id: found.reason or "" for one in mine if (found := requests.load_decision(tx, one.id)) is not None
        }
        return mine, grants.grants(tx, person_id=proof.person_id), _load_known(tx), reasons, tx.now

    mine, given, known, reasons, now = await house.db.look(read)
    rows = [_request_row(one, known, reasons.get(one.id, ""), now) for one in mine]
    rows += [_grant_row(one, known, now) for one in given]
    if asked.id is not None:
        rows = [row for row in rows if asked.id in (row["id"], row.get("request"))]
        if not rows:
            return Answer(MISSING, error=f"no request or grant {quoted(asked.id)} of yours")
    text = "\n".join(_status_line(row) for row in rows) or "nothing asked yet; see: help"
    return Answer(text=text, document=rows, as_json=asked.json)


def _request_row(request: AccessRequest, known: _Known, reason: str, now: datetime) -> dict[str, Any]:
    opens = None if request.opens is None else request.opens.isoformat()
    return {
        "id": request.id,
        "state": request.shown_state(now).value,
        "assets": known.names(request.assets),
        "capabilities": show_capabilities(request.capabilities),
        "opens": opens,
        "for_s": int(request.length.total_seconds()),
        "answer": reason,
    }


def _grant_row(grant: Grant, known: _Known, now: datetime) -> dict[str, Any]:
    return {
        "id": grant.id,
        "request": grant.request_id,
        "state": grant.state(now).value,
        "assets": known.names(grant.terms.assets),
        "capabilities": show_capabilities(grant.terms.capabilities),
        "opens": grant.interval.opens.isoformat(),
        "closes": grant.interval.closes.isoformat(),
        "closes_local": known.time(grant.interval.closes, grant.site_id),
    }


def _status_line(row: Mapping[str, Any]) -> str:
    assets = ", ".join(row["assets"])
    if "closes_local" in row:
        return f"{row['id']}  {row['state']:<11} {assets}  {row['capabilities']}  until {row['closes_local']}"
    answer = f"  ({row['answer']})" if row["answer"] else ""
    length = show_duration(timedelta(seconds=row["for_s"]))
    return f"{row['id']}  {row['state']:<11} {assets}  {row['capabilities']}  for {length}{answer}"


async def _cert(house: Desk, proof: Proof, words: Sequence[str], _progress: Progress) -> Answer:
    parser = _Words("cert")
    parser.add_argument("grant", nargs="?", default=None)
    asked = parser.parse_args(words)
    if proof.factors == "certificate":
        return Answer(FAILED, error="a certificate is given out after key and code; log in without the certificate")

    def read(tx: Tx) -> tuple[list[Grant], datetime]:
        return grants.grants(tx, person_id=proof.person_id), tx.now

    given, now = await house.db.look(read)
    live = [one for one in given if one.state(now) is GrantState.OPEN and asked.grant in (None, one.id)]
    if not live:
        which = "no open grant" if asked.grant is None else f"no open grant {quoted(asked.grant)}"
        return Answer(FAILED, error=f"{which} of yours; see: status")
    chosen = max(live, key=lambda one: (one.granted_at, one.id))
    certificate = await house.signer.gate(
        grant=chosen.id, key=proof.public_key.decode(), person=proof.person_id, source=proof.source
    )
    document = {"id": chosen.id, "state": "issued", "certificate": certificate}
    return Answer(text=certificate.strip(), document=document, as_json=asked.json)


async def _config(house: Desk, proof: Proof, words: Sequence[str], _progress: Progress) -> Answer:
    asked = _Words("config").parse_args(words)

    def read(tx: Tx) -> list[str]:
        return [site.name for site in inventory.sites(tx)]

    sites = await house.db.look(read)
    host = house.settings.host_names[0]
    authority = (await house.signer.keys())["host"].splitlines()
    names = ",".join(f"[{name}]:{house.port}" if house.port != 22 else name for name in house.settings.host_names)
    known_hosts = [f"@cert-authority {names} {' '.join(line.split()[:2])}" for line in authority]
    # The asset's name is the login and the bastion is the host: no host key of an asset is ever asked about.
    lines = ["Host gate", f"  HostName {host}", f"  Port {house.port}", "  User gate", "  IdentitiesOnly yes"]
    lines += ["  IdentityFile ~/.ssh/id_ed25519", "  # collected with: ssh gate cert > ~/.ssh/id_ed25519-cert.pub"]
    lines += ["  CertificateFile ~/.ssh/id_ed25519-cert.pub", "  StrictHostKeyChecking yes"]
    examples = [f"# then, for an asset of {site}: ssh ASSET.{site}@gate" for site in sites]
    document = {"id": "config", "ssh_config": lines, "known_hosts": known_hosts}
    text = "\n".join(["# ~/.ssh/config", *lines, *examples, "# ~/.ssh/known_hosts", *known_hosts])
    return Answer(text=text, document=document, as_json=asked.json)


async def _extend(house: Desk, proof: Proof, words: Sequence[str], _progress: Progress) -> Answer:
    parser = _Words("extend")
    parser.add_argument("grant")
    parser.add_argument("--for", dest="length", required=True)
    parser.add_argument("--reason", required=True)
    asked = parser.parse_args(words)

    def read(tx: Tx) -> tuple[Grant | None, _Known]:
        return grants.load(tx, asked.grant), _load_known(tx)

    grant, known = await house.db.look(read)
    if grant is None or grant.person_id != proof.person_id:
        return Answer(MISSING, error=f"no grant {quoted(asked.grant)} of yours")
    # An extension is a new approval, never silent (law 2): a request of its own that begins where the grant ends.
    wish = Asked(
        assets=tuple(known.names(grant.terms.assets)),
        length=parse_duration(asked.length),
        reason=parse_text(asked.reason, what="reason"),
        capabilities=grant.terms.capabilities,
        opens=max(grant.interval.closes, house.clock.now()),
    )
    made = await house.db.run(
        desk.submit,
        person_id=proof.person_id,
        asked=wish,
        lapses_after=timedelta(seconds=house.settings.request_lapses_s),
        longest=timedelta(seconds=house.settings.longest_request_s),
        door="ssh",
    )
    if isinstance(made, Refusal):
        return Answer.refused(made)
    text = f"{made.id} is pending: the time after {grant.id}; an owner of the site decides"
    return Answer(text=text, document={"id": made.id, "state": "pending"}, as_json=asked.json)


async def _done(house: Desk, proof: Proof, words: Sequence[str], _progress: Progress) -> Answer:
    parser = _Words("done")
    parser.add_argument("grant")
    asked = parser.parse_args(words)
    ended = await house.db.run(desk.hand_back, person_id=proof.person_id, grant_id=GrantId(asked.grant))
    if isinstance(ended, Refusal):
        return Answer.refused(ended)
    text = f"{ended.id} is handed back; its sessions end now"
    return Answer(text=text, document={"id": ended.id, "state": "handed back"}, as_json=asked.json)


async def _files(_desk: Desk, _proof: Proof, words: Sequence[str], _progress: Progress) -> Answer:
    asked = _Words("files").parse_args(words)
    return Answer(text="no releases", document=[], as_json=asked.json)


COMMANDS: Final[Mapping[str, Command]] = {
    "help": Command(_help, "help", "this list"),
    "whoami": Command(_whoami, "whoami", "who you are here, and how you came in"),
    "assets": Command(_assets, "assets", "what your firm's commissioning windows name"),
    "request": Command(
        _request,
        'request ASSET[,ASSET...] --for 2h --reason "..." [--from T] [--change CHG-1] [--needs shell,exec] [--wait]',
        "ask for access; an owner of the site decides",
    ),
    "status": Command(_status, "status [ID]", "your requests and grants"),
    "cert": Command(_cert, "cert [GRANT]", "a short-lived certificate for the key you came in with"),
    "config": Command(_config, "config", "lines for ~/.ssh/config and ~/.ssh/known_hosts"),
    "extend": Command(_extend, 'extend GRANT --for 1h --reason "..."', "ask for more time after a grant"),
    "done": Command(_done, "done GRANT", "hand a grant back; its sessions end"),
    "files": Command(_files, "files", "releases and their state"),
}
