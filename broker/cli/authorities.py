"""Commands on the CA keys: what is handed out of them, and changing one while everything goes on."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from broker.cli.alone import lock
from broker.cli.context import database, done, home, local_name, open_database, running_address
from broker.cli.ending import Refused, clean
from broker.domain.authority import CaRotated
from broker.domain.errors import BrokerError
from broker.openssh import PublicKey
from broker.settings import Home, Settings, load_settings
from broker.store import authorities, ledger
from broker.store.db import Tx

JSON = typer.Option(False, "--json", help="one JSON document on stdout, for tools")
ca = typer.Typer(help="Keys of the certificate authorities: show, rotate.", rich_markup_mode=None)


class Authority(StrEnum):
    """The three CAs, never mixed: what engineers carry, what the bastion shows to assets, the bastion's own name."""

    GATE = "gate"
    ASSET = "asset"
    HOST = "host"


TO_DO: Final = {
    Authority.GATE: "nothing is left to do: the bastion takes both keys until the last old certificate is dead",
    Authority.ASSET: "put what `ca show asset` prints into the assets' TrustedUserCAKeys, if it is not there yet",
    Authority.HOST: "hand what `ca show host --known-hosts` prints to the engineers; the old line holds 30 days at most",
}
_NAME = Annotated[Authority, typer.Argument(metavar="gate|asset|host")]


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(ca, name="ca")


@ca.command("show")
def ca_show(
    name: _NAME,
    known_hosts: bool = typer.Option(False, "--known-hosts", help="as a @cert-authority line, for known_hosts"),
    as_json: bool = JSON,
) -> None:
    """Print the public keys of a CA, one a line: asset's for TrustedUserCAKeys of the assets, host's for engineers' known_hosts.

    More than one while a rotation goes on: the one that signs first.
    """
    from broker.signer.trusted import CaFiles, full_line

    if known_hosts and name is not Authority.HOST:
        raise typer.BadParameter("--known-hosts is for the host CA; only it vouches for hosts")
    here = home()
    settings = load_settings(here)
    files = CaFiles(here, name.value)
    current, following = files.current(), files.following()
    every = files.every()
    gone = _retired(here, settings, name.value) if len(every) > 1 else frozenset()
    kept = [one for one in every if one.blob == current.blob or one.fingerprint not in gone]

    def state(one: PublicKey) -> str:
        if one.blob == current.blob:
            return "current"
        return "next" if following is not None and one.blob == following.blob else "old"

    names = _names(here, settings)
    lines = [f"@cert-authority {names} {one.line}" if known_hosts else full_line(one) for one in kept]
    keys = [
        {"state": state(one), "fingerprint": one.fingerprint, "public_key": line}
        for one, line in zip(kept, lines, strict=True)
    ]
    document: dict[str, Any] = {"id": name.value, "state": "current", "public_key": lines[0], "public_keys": keys}
    done(document, "\n".join(lines), as_json=as_json)


def _retired(here: Home, settings: Settings, name: str) -> frozenset[str]:
    """The keys accepted no longer; none when the database cannot be asked: then all are shown."""
    try:
        db = open_database(here, settings)
        try:
            with db.read() as tx:
                return authorities.retired(tx, name)
        finally:
            db.close()
    except BrokerError as error:
        typer.echo(f"wicketgate: {clean(error.detail)}; retired keys are shown too", err=True)
        return frozenset()


@ca.command("rotate")
def ca_rotate(
    name: _NAME,
    prepare: bool = typer.Option(
        False, "--prepare", help="make the next key and show it; the present one goes on signing"
    ),
    as_json: bool = JSON,
) -> None:
    """Have a new key sign from now on; the old one is accepted until the last certificate of it is dead.

    With --prepare first the assets and engineers can be told before it signs. What was cut off is finished by the same command.
    """
    from broker.signer import rotation

    with database() as (db, settings, here):
        held = lock(here.ca_key(name.value).parent, "another rotation is at work")
        try:
            made = rotation.prepare(here, name.value)
            if prepare:
                text = f"{made.fingerprint} is ready and shown by: ca show {name.value}; to have it sign: ca rotate {name.value}"
                done({"id": name.value, "state": "prepared", "new": made.fingerprint}, text, as_json=as_json)
                return
            _refuse_unsigning(here, settings, name.value, made)

            def keep(tx: Tx) -> str:
                old = rotation.keep_old(here, name.value, authorities.retired(tx, name.value)).fingerprint
                if authorities.rotated_to(tx, name.value) != made.fingerprint:
                    entry = CaRotated(name=name.value, new=made.fingerprint, old=old, by=local_name())
                    ledger.append(tx, entry)
                return old

            with db.begin() as tx:
                old = keep(tx)
            rotation.switch(here, name.value)
        except OSError as error:
            raise Refused(f"{error.filename or here.keys}: {error.strerror}; run it again as root") from None
        finally:
            if held is not None:
                os.close(held)
    document = {"id": name.value, "state": "rotated", "new": made.fingerprint, "old": old}
    done(document, f"{name.value} CA: {made.fingerprint} signs from now on; {TO_DO[name]}", as_json=as_json)


def _refuse_unsigning(here: Home, settings: Settings, name: str, made: PublicKey) -> None:
    """Refuse to bring in a key with which nobody could sign."""
    from broker.signer import agent
    from broker.signer.keys import load_ca_key, public_of
    from broker.signer.trusted import CaFiles

    files = CaFiles(here, name)
    if files.next_private.exists():
        return
    if files.private.exists():
        if public_of(load_ca_key(here, name)).blob != made.blob:  # else it was cut off between its last two steps
            raise Refused(
                f"{files.next_private}, the private half of {files.next_public}, is missing; put it there, or remove both"
            )
    elif settings.ca_agent and not agent.holds(Path(settings.ca_agent), made):
        raise Refused(f"ca_agent {settings.ca_agent} does not hold {made.fingerprint}; load that key into it first")


def _names(here: Home, settings: Settings) -> str:
    running = None if settings.ssh.port else running_address(here.ssh_address)
    port = settings.ssh.port if running is None else running.port
    return ",".join(name if port in (0, 22) else f"[{name}]:{port}" for name in settings.host_names)
