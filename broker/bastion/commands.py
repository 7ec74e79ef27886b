"""The console's commands: what an engineer may ask of the broker, each with plain text for people and a document for tools.

Source: docs/rules.md, Faces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from broker.bastion import asking
from broker.bastion.answers import FAILED, Answer, Command, Desk, Progress, Words
from broker.domain.errors import BrokerError, Code
from broker.domain.grant import Grant, GrantState
from broker.domain.ids import quoted
from broker.domain.inventory import Asset
from broker.gate import Proof
from broker.store import grants, inventory, people, windows
from broker.store.db import Tx


async def _help(_desk: Desk, _proof: Proof, words: Sequence[str], _progress: Progress) -> Answer:
    asked = Words().parse_args(words)
    lines = [f"  {command.usage}\n      {command.meaning}" for command in COMMANDS.values()]
    document = [{"id": name, "usage": one.usage, "meaning": one.meaning} for name, one in COMMANDS.items()]
    return Answer(text="commands:\n" + "\n".join(lines), document=document, as_json=asked.json)


async def _whoami(house: Desk, proof: Proof, words: Sequence[str], _progress: Progress) -> Answer:
    asked = Words().parse_args(words)

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
    asked = Words().parse_args(words)

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


async def _cert(house: Desk, proof: Proof, words: Sequence[str], _progress: Progress) -> Answer:
    parser = Words()
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
    asked = Words().parse_args(words)

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


async def _files(_desk: Desk, _proof: Proof, words: Sequence[str], _progress: Progress) -> Answer:
    asked = Words().parse_args(words)
    return Answer(text="no releases", document=[], as_json=asked.json)


COMMANDS: Final[Mapping[str, Command]] = {
    "help": Command(_help, "help", "this list"),
    "whoami": Command(_whoami, "whoami", "who you are here, and how you came in"),
    "assets": Command(_assets, "assets", "what your firm's commissioning windows name"),
    "request": Command(
        asking.request,
        'request ASSET[,ASSET...] --for 2h --reason "..." [--from T] [--change CHG-1] [--needs shell,exec] [--wait]',
        "ask for access; an owner of the site decides",
    ),
    "status": Command(asking.status, "status [ID]", "your requests and grants"),
    "cert": Command(_cert, "cert [GRANT]", "a short-lived certificate for the key you came in with"),
    "config": Command(_config, "config", "lines for ~/.ssh/config and ~/.ssh/known_hosts"),
    "extend": Command(asking.extend, 'extend GRANT --for 1h --reason "..."', "ask for more time after a grant"),
    "done": Command(asking.done, "done GRANT", "hand a grant back; its sessions end"),
    "files": Command(_files, "files", "releases and their state"),
}
