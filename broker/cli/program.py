"""The program: which commands there are, and how each of them ends: by the codes of broker/cli/ending.py, never by a traceback.

A room is loaded when a command of it is called, so that `wicketgate --help` answers at once.
"""

from __future__ import annotations

import importlib
import os
import secrets
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import typer
from typer.core import TyperGroup

from broker.cli.ending import EXIT_OF, FAILED, INTERRUPTED, WRONG_USAGE, Refused, clean
from broker.domain.errors import BrokerError

ROOMS: Final[Mapping[str, Mapping[str, str]]] = {
    "setting_up": {
        "init": "Make the home: settings, database and keys; refuses to overwrite.",
        "migrate": "Bring the database of an older release to this one.",
    },
    "authorities": {"ca": "Keys of the certificate authorities: show, rotate."},
    "running": {
        "serve": "Run in the foreground; prints ready once everything listens.",
        "demo": "Play Kestrel Flat on loopback.",
    },
    "doctor": {"doctor": "Check the deployment: one line each, and the settings in effect."},
    "inventory": {
        "site": "Places with assets and a time zone.",
        "zone": "Network zones of a site.",
        "vendor": "Outside firms.",
        "asset": "Reachable devices.",
    },
    "people": {
        "person": "Named people.",
        "invite": "Print a one-time enrolment link and code, good for 24 hours.",
        "enrol": "Enrol somebody on this machine; prints the TOTP provisioning URI, once.",
    },
    "windows": {"window": "Commissioning windows."},
    "requests": {
        "requests": "List the access requests.",
        "approve": "Approve a request as its site's owner.",
        "deny": "Deny a request as its site's owner.",
        "grants": "List the grants.",
        "revoke": "Revoke a grant; its sessions end within a second.",
    },
    "sessions": {
        "sessions": "List the sessions.",
        "kill": "End a live session, or all of a scope, and let nobody of it back in.",
        "freeze": "Stop a live session's input; its output goes on.",
        "unfreeze": "Let a frozen session's input through again.",
        "hold-open": "Let a live session go on for some minutes beyond its grant.",
    },
    "isolation": {
        "isolate": "Isolate a site, or every one, from its vendors: works with bastion, web and database down.",
        "restore": "Take a site, or what holds for every one, back to normal, or let in what a kill has shut out.",
        "isolation": "Show the isolation ladder.",
    },
    "restoring": {
        "suspended": "List what is shut out until an owner restores it.",
    },
    "evidence": {
        "recordings": "List the recordings.",
        "replay": "Play a recording in this terminal; no recorded control byte reaches it.",
        "export": "Write a recording as asciicast v2 or v3, as text, or its raw output bytes.",
        "verify": "Check recordings against the ledger.",
        "ledger": "The append-only log.",
    },
}
"""Every command by the room it is in, with its line in the list; a test holds the lines to the commands' own."""
_ROOM_OF: Final = {name: room for room, commands in ROOMS.items() for name in commands}


class _Program(TyperGroup):
    """The commands of all rooms, each loaded when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_ROOM_OF)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        room = _ROOM_OF.get(cmd_name)
        if room is None:
            return None
        made = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        importlib.import_module(f"broker.cli.{room}").add_to(made)
        return typer.main.get_group(made).commands[cmd_name]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for commands in ROOMS.values() for name, line in commands.items()])


app: Final = typer.Typer(
    name="wicketgate",
    cls=_Program,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Remote-access broker for OT sites: named engineers, approved assets, one window, everything recorded.",
)


@app.callback()
def _program(
    home: str = typer.Option(
        None,
        "--home",
        metavar="DIR",
        help="the deployment's folder; else WICKETGATE_HOME, /var/lib/wicketgate, ./wicketgate-home",
    ),
) -> None:
    if home is not None:
        if not home:  # an unset variable in a script must not reach the machine's own deployment
            raise typer.BadParameter("--home is empty")
        os.environ["WICKETGATE_HOME"] = home  # the one place where every room, and every child, looks for it


def main() -> None:
    """Run one command and exit as the contract says."""
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        status = app(prog_name="wicketgate", standalone_mode=False)
        sys.stdout.flush()
    except BrokerError as error:
        _end(EXIT_OF[error.code], error.detail)
    except Refused as refused:
        _end(refused.status, str(refused))
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        where = "wicketgate" if context is None else context.command_path
        _end(error.exit_code, f"{error.format_message().rstrip('.')}; see: {where} --help")
    except (typer.Abort, KeyboardInterrupt, EOFError):
        _end(INTERRUPTED, "stopped")
    except BrokenPipeError:
        _drop_output()
        sys.exit(FAILED)
    except UnicodeEncodeError:  # a file may be named by any bytes; what goes into the database may not
        _end(WRONG_USAGE, "a word of the command is not UTF-8 text")
    except OSError as error:  # the disk that stdout goes to, most often
        _drop_output()
        _end(FAILED, f"{error.filename or 'output'}: {error.strerror or error}")
    except Exception as error:
        incident = secrets.token_hex(4)
        if os.environ.get("WICKETGATE_DEBUG") == "1":
            traceback.print_exc()
        kind = type(error).__name__
        _end(FAILED, f"incident {incident}: {kind}; run again with WICKETGATE_DEBUG=1 and report what it prints")
    if status == INTERRUPTED:  # typer's own answer to ^C is this code without a word
        _end(INTERRUPTED, "stopped")
    sys.exit(status if isinstance(status, int) else 0)


def _drop_output() -> None:
    with suppress(OSError):  # or the interpreter complains at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(status: int, line: str) -> None:
    print(f"wicketgate: {clean(' '.join(line.split()))}", file=sys.stderr)
    sys.exit(status)
