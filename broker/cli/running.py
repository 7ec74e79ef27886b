"""Commands that run something: the deployment's processes, and Kestrel Flat."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from broker import notify
from broker.cli.alone import hold
from broker.cli.checks import EVERYTHING, Part, ask_all
from broker.cli.context import home, open_database, running_address
from broker.cli.ending import Refused
from broker.clock import SystemClock
from broker.domain.errors import BrokerError
from broker.settings import Home, Settings, load_settings


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("serve")(serve)
    app.command("demo")(demo)


def serve(
    only: Annotated[Part | None, typer.Option("--only", help="one process alone, as systemd starts them")] = None,
) -> None:
    """Run in the foreground; prints ready once everything listens.

    SIGTERM drains: sessions are told, ended and sealed.
    """
    here = home()
    try:
        if not here.path.is_dir():
            raise Refused(f"no home {here.path}; make one with: wicketgate --home {here.path} init")
        settings = load_settings(here)
        if only is Part.RECORDER:
            raise typer.Exit(_check_recordings(here, settings))
        held = hold(here, only)
        if only is None:
            os.environ.pop("LISTEN_PID", None)  # a socket handed over is the broker's; no child of ours gets it
        ask_all(here, settings, EVERYTHING if only is None else frozenset({only}))
        if only is Part.APPROVAL:
            if held is not None:
                os.set_inheritable(held, True)
            _become("approval", "--home", str(here.path))
        if only is None:
            asyncio.run(_run_all(here, settings))
        else:
            asyncio.run(_run_one(here, settings, only))
    except BrokerError as error:  # serve has no other answer than: it did not start, and why
        raise Refused(error.detail) from None
    except OSError as error:
        raise Refused(f"home {here.path}: {error.strerror or error}") from None


def demo(
    demo_home: Annotated[Path | None, typer.Option("--home", metavar="DIR", help="else a fresh folder")] = None,
    story: bool = typer.Option(False, "--story", help="play the whole story unattended"),
    keep: bool = typer.Option(False, "--keep", help="keep the home afterwards"),
) -> None:
    """Play Kestrel Flat on loopback.

    A simulated site with real SSH servers, real keys and a real database; --story plays it unattended.
    """
    words = ["--home", str(demo_home)] if demo_home is not None else []
    words += [word for word, said in (("--story", story), ("--keep", keep)) if said]
    _become("demo", *words)


def _become(module: str, *words: str) -> NoReturn:
    """Go on as another package of ours, which this one may not import: same process, so its exit code and signals are ours."""
    os.execv(sys.executable, [sys.executable, "-m", module, *words])  # noqa: S606 - the interpreter we run on


async def _run_all(here: Home, settings: Settings) -> None:
    from broker.cli.children import run_all

    def tell_ready() -> None:
        ssh = running_address(here.ssh_address) or settings.ssh
        web = running_address(here.web_address) or settings.web
        scheme = "https" if settings.web_tls_certificate else "http"
        print(f"ready ssh={ssh} web={scheme}://{web}", flush=True)
        notify.notify("READY=1")

    pinging = asyncio.create_task(notify.keep_watchdog())
    try:
        await run_all(here, (Part.SIGNER, Part.BROKER, Part.APPROVAL), tell_ready)
    finally:
        pinging.cancel()
        notify.notify("STOPPING=1")


async def _run_one(here: Home, settings: Settings, part: Part) -> None:
    logging.basicConfig(level=logging.INFO, handlers=[_one_line_handler()])
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    def ready(where: str = "") -> None:
        print(f"ready {part.value}{f'={where}' if where else ''}", flush=True)
        notify.notify("READY=1")

    async def say_stopping() -> None:
        await stop.wait()
        notify.notify("STOPPING=1")

    beside = [asyncio.create_task(notify.keep_watchdog()), asyncio.create_task(say_stopping())]
    try:
        if part is Part.SIGNER:
            from broker.signer import server as signer

            await signer.serve(here, settings, SystemClock(), ready=ready, stop=stop)
        else:
            from broker.bastion import server as bastion

            await bastion.serve(here, settings, SystemClock(), ready=ready, stop=stop)
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)


def _check_recordings(here: Home, settings: Settings) -> int:
    """Check every closed recording against the ledger; one line, and an exit code as of `verify`."""
    from broker.cli.verifying import check, worst

    db = open_database(here, settings)
    try:
        db.check_schema()
        verdicts = check(db, here, [], closed_only=True)
    finally:
        db.close()
    code = worst(verdicts)
    wrong = [one for one in verdicts if one.code]
    print(f"{len(verdicts) - len(wrong)} of {len(verdicts)} streams intact", flush=True)
    for one in wrong:
        print(f"wicketgate: {one.name}: {one.text}", file=sys.stderr)
    return code


def _one_line_handler() -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(levelname)s %(name)s: %(message)s"))
    return handler


class _OneLine(logging.Formatter):
    """One event, one line, whatever a stranger put into it; cut at 1 KiB, a traceback whole. Source: docs/rules.md LOG-1."""

    def format(self, record: logging.LogRecord) -> str:
        told = super().format(record)
        longest = 16384 if record.exc_info else 1024
        return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in told[:longest])
