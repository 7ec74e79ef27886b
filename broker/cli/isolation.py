"""Commands on the isolation ladder: they write the state file first and tell the bastion then, so no process need answer."""

from __future__ import annotations

import threading
from typing import Annotated, Any

import typer

from broker import isolation as state
from broker.cli.context import database, done, home, local_name, open_database, show
from broker.cli.ending import NOT_FOUND, Refused
from broker.cli.proving import prove
from broker.cli.restoring import ASSET, ENGINEER, GRANT, KILLED_SITE, VENDOR, WINDOW, let_in
from broker.clock import SystemClock
from broker.control_client import ask
from broker.domain.authority import IsolationRaised, IsolationRestored, SeparationNoted
from broker.domain.errors import BrokerError, Code
from broker.domain.ids import PersonId, quoted
from broker.domain.isolation import (
    EVERYWHERE,
    MEANING,
    STEPS,
    Ladder,
    Level,
    Note,
    Rung,
    noted,
    parse_level,
    parse_reason,
    parse_site,
    parse_witness,
    raised,
    restored,
    show_site,
)
from broker.domain.people import Person
from broker.domain.suspension import Scope
from broker.hook import run_and_keep
from broker.isolation import Kept
from broker.settings import Home, Settings, load_settings
from broker.store import inventory, ledger, people
from broker.store.db import Tx

JSON = typer.Option(False, "--json", help="one JSON document on stdout, for tools")
SITE = typer.Argument(metavar="SITE|--all", help="its name; or --all")
ALL = typer.Option(False, "--all", help="every site")
OWNERS = typer.Option(..., "--as", metavar="OWNER", help="who acts; twice from level 4 on")
CODES = typer.Option(
    None, "--totp", metavar="CODE", help="a code for each, in the same order; else they are asked on the terminal"
)
KNOWN_WITHIN_S = 1.0
CLOCK = SystemClock()
tree = typer.Typer(help="Show the isolation ladder.", rich_markup_mode=None, invoke_without_command=True)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("isolate")(isolate)
    app.command("restore")(restore)
    app.add_typer(tree, name="isolation")


def isolate(
    site: Annotated[str | None, SITE] = None,
    everywhere: bool = ALL,
    level: int = typer.Option(
        ..., "--level", metavar="1..5", help="1 two owners for any request, 2 freeze, 3 cut, 4 stop listening, 5 unplug"
    ),
    reason: str = typer.Option(..., "--reason", metavar="R"),
    as_json: bool = JSON,
) -> None:
    """Isolate a site, or every one, from its vendors: works with bastion, web and database down."""
    where, rung = _where(site, everywhere), parse_level(level)
    now, by, why = CLOCK.now(), local_name(), parse_reason(reason)
    here = home()
    if not here.path.is_dir():
        raise BrokerError(Code.NOT_FOUND, f"no home {here.path}")
    settings = _settings(here)
    if where != EVERYWHERE and _is_known(where) is False:
        raise Refused(f"no site {quoted(where)}; see: site list", NOT_FOUND)
    event = IsolationRaised(site=where, level=int(rung), by=by, reason=why, at=now)

    def step(kept: Kept) -> Kept:
        up = raised(kept.ladder, where, Rung(level=rung, by=by, reason=why, at=now))
        return kept.with_event(up, event)

    try:
        ladder = state.change(here, settings, step).ladder
    finally:
        told = _tell_bastion(here)  # also of what stands already: who asks twice wants it held
    ran = run_and_keep(here, settings, CLOCK, where, rung) if rung >= Level.DEAF else []
    for run in ran:
        _say(f"the hook ended with {run.exit}" if run.exit is not None else f"the hook failed: {run.output}")
    if rung >= Level.DEAF and not ran:
        _say("there is no isolation-hook for it in the home")
    held = ladder.level(None if where == EVERYWHERE else where)
    document = {"id": where, "state": f"level {held:d}", "level": int(held), "ended": told}
    text = f"{show_site(where)}: level {held:d}, {MEANING[held]}"
    done(document, text if told is None else f"{text}; {told} sessions ended now", as_json=as_json)


@tree.callback()
def isolation(context: typer.Context, as_json: bool = JSON) -> None:
    """Show the isolation ladder: where every site stands, why, and what is missing before it can be restored."""
    if context.invoked_subcommand is not None:
        return
    here = home()
    ladder = state.read(here, _settings(here)).ladder
    rows = [_row(site, rung) for site, rung in sorted(ladder.rungs.items())]
    if ladder.switch:
        rows.append(_bare("switch", ladder.switch, "the isolation switch is set"))
    if ladder.damaged:
        rows.append(_bare("state file", ladder.level(None), ladder.damaged))
    show(rows, ["id", "level", "by", "reason", "at", "missing"], as_json=as_json, none="nothing is isolated")


@tree.command("note")
def note(
    site: Annotated[str, typer.Argument(metavar="SITE|*", help="its name; * for what holds for every one")],
    step: Annotated[
        str, typer.Argument(metavar="STEP", help="; ".join(f"{name}: {what}" for name, what in STEPS.items()))
    ],
    done_by: str = typer.Option(..., "--done-by", metavar="NAME", help="who did it"),
    seen_by: str = typer.Option(..., "--seen-by", metavar="NAME", help="who saw it done"),
    as_json: bool = JSON,
) -> None:
    """Note one step of the checklist of physical separation (level 5), done by one and seen by another; * for every site."""
    where, here, now = parse_site(site), home(), CLOCK.now()
    made = Note(
        done_by=parse_witness(done_by, what="--done-by"), seen_by=parse_witness(seen_by, what="--seen-by"), at=now
    )
    event = SeparationNoted(site=where, step=step, names=(made.done_by, made.seen_by), at=now)

    def keep(kept: Kept) -> Kept:
        return kept.with_event(noted(kept.ladder, where, step, made), event)

    missing = state.change(here, _settings(here), keep).ladder.rungs[where].missing
    text = f"{show_site(where)}: {step} noted; " + (f"still missing: {', '.join(missing)}" if missing else "all noted")
    done({"id": where, "state": "noted", "step": step, "missing": missing}, text, as_json=as_json)


def restore(
    site: Annotated[str | None, SITE] = None,
    everywhere: bool = ALL,
    owners: list[str] = OWNERS,
    totp: list[str] = CODES,
    grant: str = GRANT,
    engineer: str = ENGINEER,
    vendor: str = VENDOR,
    asset: str = ASSET,
    window: str = WINDOW,
    killed_site: str = KILLED_SITE,
    as_json: bool = JSON,
) -> None:
    """Take a site, or what holds for every one, back to normal, or let in what a kill has shut out.

    An owner with a code, two from level 4 on.
    """
    killed: dict[Scope, str | None] = {Scope.GRANT: grant, Scope.ENGINEER: engineer, Scope.VENDOR: vendor}
    killed |= {Scope.ASSET: asset, Scope.WINDOW: window, Scope.SITE: killed_site}
    if any(name is not None for name in killed.values()):
        if site is not None or everywhere:
            raise typer.BadParameter("name an isolated SITE, or what was killed, not both")
        let_in(killed, owners, totp or [], as_json=as_json)
        return
    where, codes = _where(site, everywhere), [*(totp or [])]
    if codes and len(codes) != len(owners):
        raise BrokerError(Code.INVALID, "give --totp once for each --as")
    with database() as (db, settings, here):
        with db.read() as tx:
            level = _judge(tx, state.read(here, settings), where, [people.require(tx, one) for one in owners])
        proved = [prove(db, settings, here, one, codes[at] if codes else None) for at, one in enumerate(owners)]

        def step(kept: Kept) -> Kept:
            with db.begin() as tx:  # the ledger first: it may say more than is so, never less
                lower = _restore(tx, kept, where, proved)
            return Kept(lower)

        ladder = state.change(here, settings, step).ladder
        if level >= Level.DEAF:
            for run in run_and_keep(here, settings, CLOCK, where, Level.NORMAL):
                _say(f"the hook ended with {run.exit}" if run.exit is not None else f"the hook failed: {run.output}")
    _tell_bastion(here)
    held = ladder.level(None if where == EVERYWHERE else where)
    text = f"{show_site(where)}: restored from level {level:d}" + (
        f"; still at level {held:d} with all" if held else ""
    )
    done({"id": where, "state": f"level {held:d}", "level": int(held)}, text, as_json=as_json)


def _judge(tx: Tx, kept: Kept, where: str, owners: list[Person]) -> Level:
    """The level that would be left. Raises BrokerError for what is in the way, before a code is spent for nothing."""
    sites = {one.name: one.id for one in inventory.sites(tx)}
    restored(kept.ladder, where, owners, sites)
    rung = kept.ladder.rungs.get(where)
    return kept.ladder.level(None) if rung is None else rung.level


def _restore(tx: Tx, kept: Kept, where: str, proved: list[PersonId]) -> Ladder:
    owners = [one for one in (people.load_person(tx, person_id) for person_id in proved) if one is not None]
    level = _judge(tx, kept, where, owners)
    lower = restored(kept.ladder, where, owners, {one.name: one.id for one in inventory.sites(tx)})
    state.tell_ledger(tx, kept.untold)
    entry = IsolationRestored(site=where, level=int(level), owners=tuple(one.handle for one in owners), at=tx.now)
    ledger.append(tx, entry)
    return lower


def _where(site: str | None, everywhere: bool) -> str:
    if (site is None) != everywhere:
        raise typer.BadParameter("name a SITE, or --all")
    return EVERYWHERE if site is None else parse_site(site)


def _settings(here: Home) -> Settings | None:
    """The settings, for the switch; a bad file of them stops nobody from isolating."""
    try:
        return load_settings(here)
    except BrokerError as error:
        _say(error.detail)
        return None


def _is_known(site: str) -> bool | None:
    """Whether the inventory has the site; None when the database does not say so at once: then it is isolated unseen."""
    found: list[bool] = []

    def look() -> None:
        here = home()
        try:
            db = open_database(here, load_settings(here))
            try:
                with db.read() as tx:
                    found.append(site in {one.name for one in inventory.sites(tx)})
            finally:
                db.close()
        except BrokerError as error:
            _say(f"whether there is such a site is not known: {error.detail}")

    asking = threading.Thread(target=look, daemon=True)
    asking.start()
    asking.join(KNOWN_WITHIN_S)
    return found[0] if found else None


def _tell_bastion(here: Home) -> int | None:
    """Have the bastion look at once; gives how many sessions it ended, None when it does not answer: it looks by itself."""
    try:
        answer = ask(here.control_socket, {"act": "isolation"})
    except BrokerError as error:
        _say(f"{error.detail}; one that runs follows the state file by itself")
        return None
    return int(answer["ended"])


def _row(site: str, rung: Rung) -> dict[str, Any]:
    return {
        "id": site,
        "state": f"level {rung.level:d}",
        "level": int(rung.level),
        "by": rung.by,
        "reason": rung.reason,
        "at": rung.at.isoformat(timespec="milliseconds"),
        "notes": {
            step: {"done_by": one.done_by, "seen_by": one.seen_by, "at": one.at} for step, one in rung.notes.items()
        },
        "missing": rung.missing,
    }


def _bare(name: str, level: Level, reason: str) -> dict[str, Any]:
    row = {"id": name, "state": f"level {level:d}", "level": int(level), "by": None, "reason": reason}
    return row | {"at": None, "notes": {}, "missing": []}


def _say(text: str) -> None:
    typer.echo(f"wicketgate: {text}", err=True)
