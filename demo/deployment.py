"""A wicketgate of its own for the demo: a home made by `init`, furnished as Kestrel Flat, served by real processes."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import asyncssh

from broker import desk, enrolment
from broker.clock import Clock, SystemClock
from broker.domain.capability import USUAL
from broker.domain.ids import SiteId
from broker.domain.inventory import Site
from broker.domain.people import RoleAt
from broker.domain.policy import Refusal
from broker.domain.request import Asked
from broker.domain.window import Interval
from broker.factors import Seal
from broker.settings import Home, Settings, load_settings
from broker.store import inventory, people, windows
from broker.store.db import Database, Tx
from demo import kestrel
from demo.phones import Phones
from demo.plant import LOOPBACK, Plant

PROGRAM: Final = (sys.executable, "-m", "broker.cli")
READY_WITHIN_S: Final = 200.0  # serve itself gives each of its three processes a minute
COMMAND_WITHIN_S: Final = 60.0
DRAIN_WITHIN_S: Final = 20.0
_BY: Final = "demo"
_SOCKET_PATH_MAX: Final = 80  # of the home: a Unix socket's whole path may have 107 bytes
_PLAIN_PATH: Final = re.compile(r"[A-Za-z0-9._/-]+")  # goes into ssh_config and into commands to paste, unquoted


class Trouble(Exception):
    """The demo cannot go on; one line for the person in front of it."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """Kestrel Flat while it runs. serve: the process whose children are broker, signer and approval."""

    home: Home
    db: Database
    clock: Clock
    phones: Phones
    serve: subprocess.Popen[str]
    ssh: str
    web: str

    def ssh_config(self, handle: str) -> Path:
        """The configuration of an engineer's stock ssh: who they are, where the gate is, which CA vouches for it."""
        return self.home.path / handle / "ssh_config"

    def certificate(self, handle: str) -> Path:
        """Where an engineer's certificate belongs, for their ssh to find it."""
        return self.home.path / handle / "id_ed25519-cert.pub"

    def cli(self, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run one wicketgate command on this home to its end, whatever its end is."""
        return _cli(self.home, *words, text=text)

    def died(self) -> str:
        """Why `serve` ended, in its own last words."""
        return f"wicketgate serve ended with status {self.serve.poll()}: {_last_words(self.home.path / 'serve.log')}"


@contextmanager
def running(named: Path | None, *, keep: bool) -> Iterator[Deployment]:
    """Make the home, start the plant, then the program; at the end everything is stopped. Raises Trouble.

    named: the home's folder, which must not be there yet and stays; None: a fresh one, removed unless kept.
    """
    if shutil.which("ssh") is None:
        raise Trouble("ssh is missing; install it with: sudo apt-get install openssh-client")
    path = _choose(named)
    with ExitStack() as stack:
        if named is None and not keep:
            stack.callback(shutil.rmtree, path, ignore_errors=True)
        try:
            yield _start(Home(path), stack)
        finally:
            _deaf()  # whoever is impatient must not leave half of it running


def _start(home: Home, stack: ExitStack) -> Deployment:
    """Everything in its order; what it opens is the stack's to end. Raises Trouble."""
    clock = SystemClock()
    made = _cli(home, "init", "--ssh", f"{LOOPBACK}:0", "--web", f"{LOOPBACK}:0")
    if made.returncode:
        raise Trouble(made.stderr.strip().removeprefix("wicketgate: "))
    _set(home, bastion_address=f'"{LOOPBACK}"', totp_issuer=f'"{kestrel.SITE}"')
    settings = load_settings(home)
    asset_ca = home.ca_key("asset").with_name("asset.pub").read_text(encoding="ascii")
    plant = stack.enter_context(Plant(kestrel.DEVICES, folder=home.path / "plant", asset_ca=asset_ca))
    db = Database.open(home.database_url(settings), clock)
    stack.callback(db.close)
    phones = Phones(db, clock)
    with db.begin() as tx:
        _furnish(tx, home, settings, plant, phones)
    serve, ssh, web = stack.enter_context(_serving(home))
    _write_ssh_configs(home, ssh)
    return Deployment(home, db, clock, phones, serve, ssh, web)


def hear() -> None:
    """Let SIGTERM, and a terminal that goes away, end the demo as ^C does."""

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def _deaf() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _choose(named: Path | None) -> Path:
    if named is None:
        return Path(tempfile.mkdtemp(prefix="kestrel-"))
    path = named.absolute()
    if not _PLAIN_PATH.fullmatch(str(path)) or len(str(path)) > _SOCKET_PATH_MAX:
        raise Trouble(f"home {path}: choose at most {_SOCKET_PATH_MAX} of A-Z a-z 0-9 . _ - and /, without spaces")
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if not path.is_dir() or any(path.iterdir()):
            raise Trouble(f"home {path} is already there; name another, or remove it; nothing was changed") from None
    except OSError as error:
        raise Trouble(f"home {path}: {error.strerror}") from None
    return path


def _cli(home: Home, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, "--home", str(home.path), *words],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_WITHIN_S,
        env={**os.environ, "COLUMNS": "80"},
    )


def _set(home: Home, **values: str) -> None:
    """Give settings another value, as TOML text."""
    lines = home.settings_path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.partition(" ")[0] not in values]
    kept += [f"{name} = {value}" for name, value in values.items()]
    home.settings_path.write_text("\n".join(kept) + "\n", encoding="utf-8")


def _furnish(tx: Tx, home: Home, settings: Settings, plant: Plant, phones: Phones) -> None:
    site = inventory.insert_site(tx, name=kestrel.SITE, time_zone=kestrel.TIME_ZONE, by=_BY)
    firms = {name: inventory.insert_vendor(tx, name=name, by=_BY) for name in kestrel.FIRMS}
    span = Interval(tx.now - timedelta(days=1), tx.now + timedelta(days=14))
    for name, pattern in kestrel.FIRMS.items():
        windows.insert_window(
            tx, site=site, vendor=firms[name], interval=span, pattern=pattern, phase="bring-up", by=_BY
        )
    for device in kestrel.DEVICES:
        inventory.insert_asset(
            tx,
            site=site,
            name=device.name,
            host=LOOPBACK,
            port=plant.ports[device.name],
            accounts=(kestrel.ACCOUNT,),
            host_key=plant.host_keys[device.name],
            asset_class=device.asset_class,
            state=device.state,
            by=_BY,
        )
    seal = Seal(home.read_seal_key())
    for figure in kestrel.CAST:
        vendor = None if figure.firm is None else firms[figure.firm].id
        people.insert_person(
            tx, handle=figure.handle, name=figure.name, vendor_id=vendor, roles=_roles(figure, site), by=_BY
        )
        phones.add(figure.handle, _enrol(tx, home, figure, seal, settings))


def _roles(figure: kestrel.Figure, site: Site) -> list[RoleAt]:
    where: SiteId | None = site.id
    return [] if figure.role is None else [RoleAt(figure.role, where)]


def _enrol(tx: Tx, home: Home, figure: kestrel.Figure, seal: Seal, settings: Settings) -> str:
    """Everybody gets a password and codes, engineers a key too; gives the provisioning URI."""
    line = None
    if figure.firm is not None:
        line = make_key(home.path / figure.handle / "id_ed25519", figure.handle)
    made = enrolment.enrol(
        tx,
        handle=figure.handle,
        key_line=line,
        password=kestrel.PASSWORD,
        seal=seal,
        by=_BY,
        issuer=settings.totp_issuer,
    )
    return made.totp_uri


def make_key(path: Path, comment: str) -> str:
    """A fresh key without passphrase in a folder of its own; gives the public line."""
    path.parent.mkdir(mode=0o700)
    key = asyncssh.generate_private_key("ssh-ed25519", comment=comment)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key.export_private_key("openssh"))
    line = key.export_public_key("openssh").decode("ascii").strip()
    path.with_name(path.name + ".pub").write_text(line + "\n", encoding="ascii")
    return line


def leave_waiting(deployment: Deployment) -> str:
    """A request that waits for the owner when the demo opens; gives its id."""
    asked = Asked(
        assets=(kestrel.BMS_22.login,),
        length=timedelta(hours=1),
        reason="read the balancer log after Tuesday's firmware",
        capabilities=USUAL,
        change="CHG-1042",
    )
    with deployment.db.begin() as tx:
        made = desk.submit(
            tx,
            person_id=people.require(tx, kestrel.TAEKYUNG.handle).id,
            asked=asked,
            lapses_after=timedelta(hours=24),
            longest=timedelta(days=14),
            door=_BY,
        )
    if isinstance(made, Refusal):
        raise Trouble(f"the first request was refused: {made.reason.value}")
    return made.id


@contextmanager
def _serving(home: Home) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """`wicketgate serve`, ended by its process id; gives where it listens for ssh and for browsers. Raises Trouble."""
    log = home.path / "serve.log"
    command = [*PROGRAM, "--home", str(home.path), "serve"]
    if setpriv := shutil.which("setpriv"):  # a demo that is killed outright takes it along; it takes its own children
        command = [setpriv, "--pdeathsig", "TERM", *command]
    with log.open("w", encoding="utf-8") as errors:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            process_group=0,  # ^C in the terminal is for us; we end it in order
        )
    try:
        assert child.stdout is not None
        ready, _, _ = select.select([child.stdout], [], [], READY_WITHIN_S)
        said = child.stdout.readline().split() if ready else []
        if said[:1] != ["ready"]:
            raise Trouble(f"wicketgate serve did not become ready: {_last_words(log, lines=2)}")
        where = dict(word.split("=", 1) for word in said[1:])
        yield child, where["ssh"], where["web"]
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(DRAIN_WITHIN_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        with suppress(OSError, AttributeError):
            child.stdout.close()  # type: ignore[union-attr]


def _last_words(log: Path, *, lines: int = 1) -> str:
    """What a log ends with. lines: more than one where a process says why before its parent says that."""
    told = log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    return "; ".join(line.removeprefix("wicketgate: ") for line in told) or "it said nothing"


def _write_ssh_configs(home: Home, ssh: str) -> None:
    """What stock ssh needs so that no command ever asks about a host key."""
    port = ssh.rpartition(":")[2]
    kind, blob, *_ = home.ca_key("host").with_name("host.pub").read_text(encoding="ascii").split()
    known_hosts = home.path / "known_hosts"
    known_hosts.write_text(f"@cert-authority [{LOOPBACK}]:{port} {kind} {blob}\n", encoding="ascii")
    for figure in kestrel.CAST:
        if figure.firm is not None:
            write_ssh_config(home.path / figure.handle, known_hosts=known_hosts, port=port)


def write_ssh_config(folder: Path, *, known_hosts: Path, port: str) -> Path:
    """The ssh_config beside a key: the host `gate`, by certificate once it lies there, else by key and code."""
    lines = [
        "Host gate",
        f"  HostName {LOOPBACK}",
        f"  Port {port}",
        "  User gate",
        f"  IdentityFile {folder / 'id_ed25519'}",
        f"  CertificateFile {folder / 'id_ed25519-cert.pub'}",
        "  IdentitiesOnly yes",
        "  IdentityAgent none",
        f"  UserKnownHostsFile {known_hosts}",
        "  GlobalKnownHostsFile none",
        "  StrictHostKeyChecking yes",
        "  UpdateHostKeys no",
        "  PreferredAuthentications publickey,keyboard-interactive",
    ]
    path = folder / "ssh_config"
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
    return path
