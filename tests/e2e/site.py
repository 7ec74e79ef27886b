"""One site behind a really running wicketgate: made by the program, reached by stock ssh, with Debian's sshd as its assets."""

from __future__ import annotations

import asyncio
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyotp

from benchmarks.peers import account, free_port, make_key, sshd, stop, wait_for_port
from broker import desk, identity
from broker.clock import SystemClock
from broker.domain.capability import EXEC, SHELL, Capability
from broker.domain.grant import Grant
from broker.domain.inventory import AssetAuth, AssetClass, AssetState, Protocol, Site
from broker.domain.isolation import Ladder
from broker.domain.people import Role, RoleAt
from broker.domain.policy import Narrowing
from broker.domain.request import AccessRequest, Asked
from broker.domain.session import Session
from broker.domain.window import Interval
from broker.settings import Home, load_settings
from broker.signer.client import SignerClient
from broker.store import inventory, ledger, people, recordings, sessions, windows
from broker.store.db import Database, Tx

PROGRAM = Path(sys.executable).with_name("wicketgate")
CLOCK = SystemClock()
PASSWORD = "correct horse battery"
ENGINEER, COLLEAGUE, STRANGER = "engineer.one", "engineer.two", "stranger.one"
OWNER, SECOND_OWNER, INVESTIGATOR = "owner.one", "owner.two", "investigator.one"
BOX, OTHER, HAZARD, QUARANTINED = "box.plant", "other.plant", "hazard.plant", "new.plant"
STEP_S = 30
CODE_LEFT_S = 8
"""How long a code still lives when a test gets it, at the least."""


@dataclass(slots=True)
class Template:
    """A home with everybody enrolled, to be copied, and the sshd that plays its assets. seeds, keys: by handle."""

    path: Path
    sshd_port: int = 0
    host_key: Path = Path()
    seeds: dict[str, str] = field(default_factory=dict)
    keys: dict[str, Path] = field(default_factory=dict)


@contextmanager
def make_template(folder: Path) -> Iterator[Template]:
    """The program's own `init`, then people and assets; its sshd runs until the end."""
    home = folder / "home"
    init = ["--home", str(home), "init", "--ssh", "127.0.0.1:0", "--web", "127.0.0.1:0"]
    subprocess.run([str(PROGRAM), *init], check=True, capture_output=True, timeout=60)
    made = Template(home)
    ca = (home / "keys/ca/asset.pub").read_text()
    with sshd(folder / "sshd", trusted_ca=ca) as peer:
        made.sshd_port, made.host_key = peer.port, peer.host_key.with_suffix(".pub")
        db = Database.open(Home(home).database_url(load_settings(Home(home))), CLOCK)
        with db.begin() as tx:
            _fill(tx, made, folder, identity.Seal(Home(home).read_seal_key()))
        db.close()
        yield made


def _fill(tx: Tx, made: Template, folder: Path, seal: identity.Seal) -> None:
    site = inventory.insert_site(tx, name="plant", time_zone="Europe/London", by="test")
    firm = inventory.insert_vendor(tx, name="cellmaker", by="test")
    rival = inventory.insert_vendor(tx, name="driveworks", by="test")
    for login, klass, state in (
        (BOX, AssetClass.ROUTINE, AssetState.OPERATIONAL),
        (OTHER, AssetClass.ROUTINE, AssetState.OPERATIONAL),
        (HAZARD, AssetClass.HAZARD, AssetState.OPERATIONAL),
        (QUARANTINED, AssetClass.ROUTINE, AssetState.QUARANTINED),
    ):
        add_asset(tx, site, login.partition(".")[0], made.sshd_port, made.host_key.read_text(), klass, state)
    for vendor in (firm, rival):
        span = Interval(tx.now - timedelta(days=1), tx.now + timedelta(days=30))
        windows.insert_window(tx, site=site, vendor=vendor, interval=span, by="test")
    for handle, vendor in ((ENGINEER, firm), (COLLEAGUE, firm), (STRANGER, rival)):
        people.insert_person(tx, handle=handle, name=handle, vendor_id=vendor.id, by="test")
        made.keys[handle] = make_key(folder / handle.replace(".", "-"))
    for handle, role in (
        (OWNER, Role.OWNER),
        (SECOND_OWNER, Role.OWNER),
        (INVESTIGATOR, Role.INVESTIGATOR),
    ):
        people.insert_person(tx, handle=handle, name=handle, roles=[RoleAt(role, site.id)], by="test")
    for handle in (ENGINEER, COLLEAGUE, STRANGER, OWNER, SECOND_OWNER, INVESTIGATOR):
        key = made.keys.get(handle)
        line = None if key is None else key.with_suffix(".pub").read_text()
        done = identity.enrol(tx, handle=handle, key_line=line, password=PASSWORD, seal=seal, by="test")
        made.seeds[handle] = seed_in(done.totp_uri)


def seed_in(totp_uri: str) -> str:
    """The seed that a code app reads out of a provisioning URI."""
    return parse_qs(urlsplit(totp_uri).query)["secret"][0]


@contextmanager
def sshd_with(template: Template, folder: Path, *options: str) -> Iterator[tuple[int, Path]]:
    """The assets' sshd once more with other options (as `-o` takes them); gives its port and its verbose log."""
    port, log = free_port(), folder / "sshd.log"
    command = [shutil.which("sshd", path="/usr/sbin:" + os.environ["PATH"]) or "sshd", "-D", "-e", "-p", str(port)]
    command += ["-o", "LogLevel=VERBOSE", *(word for option in options for word in ("-o", option))]
    with log.open("wb") as file:
        child = subprocess.Popen([*command, "-f", str(template.host_key.with_name("sshd_config"))], stderr=file)
    try:
        wait_for_port(port)
        yield port, log
    finally:
        stop(child, within_s=10)


@contextmanager
def deaf_port() -> Iterator[socket.socket]:
    """A listening socket that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def was_dialled(listening: socket.socket) -> bool:
    """Whether anybody has connected: the kernel completes a connection before anybody accepts it."""
    with selectors.DefaultSelector() as ready:
        ready.register(listening, selectors.EVENT_READ)
        return bool(ready.select(0))


def add_asset(
    tx: Tx,
    site: Site,
    name: str,
    port: int,
    host_key: str | None,
    klass: AssetClass = AssetClass.ROUTINE,
    state: AssetState = AssetState.OPERATIONAL,
) -> None:
    """One more asset on loopback, whose account is the one that runs the tests."""
    inventory.insert_asset(
        tx,
        site=site,
        name=name,
        host="127.0.0.1",
        port=port,
        protocol=Protocol.SSH,
        accounts=(account(),),
        auth=AssetAuth.CA,
        host_key=None if host_key is None else " ".join(host_key.split()[:2]),
        tcp_ports={port},
        asset_class=klass,
        state=state,
        by="test",
    )


def wait_until(true: Callable[[], bool], *, within_s: float = 10.0, what: str = "it") -> None:
    """Return as soon as something is so. Raises TimeoutError."""
    until = CLOCK.monotonic_us() + int(within_s * 1e6)
    with selectors.DefaultSelector() as idle:
        while not true():
            if CLOCK.monotonic_us() > until:
                raise TimeoutError(f"{what} did not come true within {within_s} s")
            idle.select(0.02)


class Plant:
    """A copy of the template with `wicketgate serve` running on it; everything is stopped by pid at the end.

    settings: changed keys of settings.toml, as TOML text by name. The banner is off, so that stderr is what the tests are about.
    """

    def __init__(self, template: Template, **settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="wg-"))  # short: a Unix socket's path may not be long
        self.template = template
        self.path = self.folder / "home"
        shutil.copytree(template.path, self.path, symlinks=True)
        self.home = Home(self.path)
        self.seeds, self.keys = dict(template.seeds), dict(template.keys)
        settings = {"site_banner": '""', **settings}
        lines = [
            line for line in self.home.settings_path.read_text().splitlines() if line.partition(" ")[0] not in settings
        ]
        lines += [f"{name} = {value}" for name, value in settings.items()]
        self.home.settings_path.write_text("\n".join(lines) + "\n")
        self.settings = load_settings(self.home)
        self.db = Database.open(self.home.database_url(self.settings), CLOCK)
        self.log = self.folder / "serve.log"
        self._spent: dict[str, int] = {}
        self._askpass = self.folder / "askpass"
        self._askpass.write_text("#!/bin/sh\nprintf '%s\\n' \"$CODE\"\n")
        self._askpass.chmod(0o700)
        self.known_hosts = self.folder / "known_hosts"
        self.known_hosts.write_text(f"@cert-authority * {self.home.ca_key('host').with_suffix('.pub').read_text()}")
        self.serve_environment: dict[str, str] = {}
        self.process: subprocess.Popen[str] | None = None
        self.port = 0
        self.web = ""

    def __enter__(self) -> Plant:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.db.close()
        shutil.rmtree(self.folder)

    def start(self) -> None:
        """Start the program and wait for its word that everything listens."""
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [PROGRAM, "--home", self.path, "serve"],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | self.serve_environment,
            )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said.startswith("ready "), f"{said!r}: {self.log.read_text()}"
        found = dict(word.split("=", 1) for word in said.split()[1:])
        self.port, self.web = int(found["ssh"].rpartition(":")[2]), found["web"]

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop the program, if it still runs."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(number)
            process.wait(30)
            assert process.stdout is not None
            process.stdout.close()

    def pid_of(self, part: str) -> int:
        """The process id of one of the program's children: broker, signer or approval."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        words = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in children}
        return next(pid for pid, line in words.items() if part.encode() in line)

    # The command line and the database
    def cli(self, *words: str, text: str = "", status: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run one command; its exit status must be the one expected (None: any)."""
        done = subprocess.run(
            [PROGRAM, "--home", self.path, *words], input=text, capture_output=True, text=True, timeout=60, check=False
        )
        assert status is None or done.returncode == status, (words, done)
        return done

    def json(self, *words: str) -> Any:
        """What a command prints with --json."""
        return json.loads(self.cli(*words, "--json").stdout)

    def entries(self, kind: str) -> list[dict[str, Any]]:
        """The ledger's entries of one kind, oldest first."""
        with self.db.read() as tx:
            return [one.body for one in ledger.show(tx, last=100_000) if one.kind == kind]

    def add_asset(self, name: str, port: int, host_key: str | None) -> str:
        """One more asset; gives its login."""
        with self.db.begin() as tx:
            add_asset(tx, inventory.load_site(tx, "plant"), name, port, host_key)
        return f"{name}.plant"

    def newcomer(self, name: str) -> str:
        """One more enrolled engineer, of a firm of their own with a window of its own; gives the handle, which is the name."""
        self.keys[name] = make_key(self.folder / name)
        with self.db.begin() as tx:
            vendor = inventory.insert_vendor(tx, name=f"firm-of-{name}", by="test")
            span = Interval(tx.now - timedelta(days=1), tx.now + timedelta(days=30))
            site = inventory.load_site(tx, "plant")
            windows.insert_window(tx, site=site, vendor=vendor, interval=span, by="test")
            people.insert_person(tx, handle=name, name=name, vendor_id=vendor.id, by="test")
            line = self.keys[name].with_suffix(".pub").read_text()
            seal = identity.Seal(self.home.read_seal_key())
            done = identity.enrol(tx, handle=name, key_line=line, password=None, seal=seal, by="test")
        self.seeds[name] = seed_in(done.totp_uri)
        return name

    def grant(
        self,
        *assets: str,
        length: timedelta = timedelta(hours=2),
        capabilities: frozenset[Capability] = frozenset({SHELL, EXEC}),
        engineer: str = ENGINEER,
        opens: datetime | None = None,
    ) -> Grant:
        """A grant by the law itself, where asking and approving are not the subject."""
        asked = Asked(assets=assets or (BOX,), length=length, reason="test", capabilities=capabilities, opens=opens)
        with self.db.begin() as tx:
            request = desk.submit(
                tx,
                person_id=people.require(tx, engineer).id,
                asked=asked,
                lapses_after=timedelta(hours=24),
                longest=timedelta(days=14),
                door="test",
            )
            assert isinstance(request, AccessRequest), request
            made: object = None
            for owner in (OWNER, SECOND_OWNER)[: 2 if HAZARD in asked.assets else 1]:
                made = desk.approve(
                    tx,
                    owner_id=people.require(tx, owner).id,
                    request_id=request.id,
                    narrowing=Narrowing(),
                    door="test",
                    ladder=Ladder(),
                )
        assert isinstance(made, Grant), made
        return made

    def certify(self, grant: Grant, engineer: str = ENGINEER) -> None:
        """A certificate for a grant by the signer itself, where collecting is not the subject; it costs no code."""

        async def ask() -> str:
            signer = SignerClient(self.home.signer_socket)
            try:
                key = self.keys[engineer].with_suffix(".pub").read_text().strip()
                return await signer.gate(grant=grant.id, key=key, person=grant.person_id, source="127.0.0.1")
            finally:
                signer.close()

        self.certificate(engineer).write_text(asyncio.run(ask()) + "\n")

    def let_in(
        self,
        *assets: str,
        length: timedelta = timedelta(hours=2),
        capabilities: frozenset[Capability] = frozenset({SHELL, EXEC}),
        engineer: str = ENGINEER,
    ) -> Grant:
        """A grant and its certificate at once."""
        made = self.grant(*assets, length=length, capabilities=capabilities, engineer=engineer)
        self.certify(made, engineer)
        return made

    def last_session(self) -> Session:
        """The session opened last, as its row says."""
        with self.db.read() as tx:
            return max(sessions.sessions(tx), key=lambda one: one.opened_at)

    def wait_ended(self, session_id: str = "", *, within_s: float = 10) -> Session:
        """A session's row once it is closed; without an id, of the session opened last."""
        wanted = session_id or self.last_session().id

        def row() -> Session:
            with self.db.read() as tx:
                found = sessions.load_session(tx, wanted)
            assert found is not None
            return found

        wait_until(lambda: row().ended_at is not None, within_s=within_s, what=f"the end of {wanted}")
        return row()

    def streams(self, session: Session) -> dict[str, Path]:
        """The files of a session's recording by stream, such as 01.screen."""
        with self.db.read() as tx:
            return {one.name: self.home.recordings / one.path for one in recordings.streams(tx, session.id)}

    # Codes and ssh
    def code(self, handle: str) -> str:
        """A code of theirs not used before in this test, with some seconds to live; the third in a half minute is waited for."""
        now_s = CLOCK.now().timestamp()
        step = max(self._spent.get(handle, 0) + 1, int(now_s + CODE_LEFT_S) // STEP_S - 1)
        self._spent[handle] = step
        wait_until(
            lambda: CLOCK.now().timestamp() >= (step - 1) * STEP_S, within_s=2 * STEP_S, what=f"a code of {handle}"
        )
        return str(pyotp.TOTP(self.seeds[handle]).at(step * STEP_S))

    def ssh_command(
        self,
        login: str,
        *words: str,
        engineer: str = ENGINEER,
        options: Sequence[str] = (),
        program: str = "ssh",
        bare: bool = False,
    ) -> list[str]:
        """The command line of a stock client that believes the host CA and asks no question; words: the remote command.

        Shows the certificate when one was collected (`collect`), else, or when bare, the key alone.
        """
        key = self.keys[engineer]
        certificate = self.certificate(engineer)
        shown = ["-o", f"CertificateFile={certificate}"] if certificate.exists() and not bare else []
        command = [program, "-F", "none", "-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "IdentityAgent=none"]
        command += ["-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=10", *shown]
        command += ["-i", str(key), "-p" if program == "ssh" else "-P", str(self.port), *options]
        return [*command, f"{login}@127.0.0.1", *words] if program == "ssh" else [*command, *words]

    def environment(self, code: str = "") -> dict[str, str]:
        """The environment in which a stock client answers the code's prompt."""
        kept = {name: value for name, value in os.environ.items() if name not in ("SSH_AUTH_SOCK", "LANG")}
        return kept | {"SSH_ASKPASS": str(self._askpass), "SSH_ASKPASS_REQUIRE": "force", "CODE": code}

    def ssh(
        self,
        login: str,
        *words: str,
        code: str = "",
        engineer: str = ENGINEER,
        options: Sequence[str] = (),
        stdin: bytes = b"",
        timeout_s: float = 30,
        bare: bool = False,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run stock ssh to its end. code: what it answers when it is asked; bare: shows no certificate."""
        command = self.ssh_command(login, *words, engineer=engineer, options=options, bare=bare)
        return subprocess.run(
            command, input=stdin, capture_output=True, timeout=timeout_s, check=False, env=self.environment(code)
        )

    @contextmanager
    def running_ssh(
        self,
        login: str,
        *words: str,
        code: str = "",
        engineer: str = ENGINEER,
        options: Sequence[str] = (),
        bare: bool = False,
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A stock ssh that runs beside the test, its three streams as pipes, killed at the end."""
        command = self.ssh_command(login, *words, engineer=engineer, options=options, bare=bare)
        pipe = subprocess.PIPE
        with subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, env=self.environment(code)
        ) as child:
            try:
                yield child
            finally:
                child.kill()

    def direct_command(self, *words: str, options: Sequence[str] = ()) -> list[str]:
        """The same client straight to the assets' sshd, past the bastion: what ours is compared with."""
        key = self.folder / "direct"
        if not key.exists():
            make_key(key)
            signing = ["ssh-keygen", "-q", "-s", str(self.home.ca_key("asset")), "-I", "direct", "-n", account()]
            subprocess.run([*signing, str(key.with_suffix(".pub"))], check=True, timeout=30)
        command = ["ssh", "-F", "none", "-o", "IdentityAgent=none", "-o", "IdentitiesOnly=yes", "-i", str(key)]
        command += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        return [*command, "-p", str(self.template.sshd_port), *options, f"{account()}@127.0.0.1", *words]

    def console(self, *words: str, engineer: str = ENGINEER, code: str | None = None, status: int = 0) -> str:
        """One console command by key and code; gives its stdout."""
        given = self.code(engineer) if code is None else code
        done = self.ssh("gate", *words, code=given, engineer=engineer, bare=True)
        assert done.returncode == status, done
        return done.stdout.decode()

    def certificate(self, engineer: str = ENGINEER) -> Path:
        """Where `collect` keeps an engineer's certificate."""
        return self.folder / f"{engineer}-cert.pub"

    def collect(self, engineer: str = ENGINEER, grant: str = "") -> Path:
        """Collect a gate certificate through the console, for all further ssh of the engineer."""
        certificate = self.certificate(engineer)
        text = self.console("cert", *([grant] if grant else []), engineer=engineer)
        certificate.write_text(text)
        return certificate

    def live(self) -> list[dict[str, Any]]:
        """The live sessions as the bastion holds them."""
        found: list[dict[str, Any]] = self.json("sessions", "--live")
        return found


def read_until(child: subprocess.Popen[bytes], wanted: bytes, *, stderr: bool = False, within_s: float = 15) -> bytes:
    """Read a client's stdout (or stderr) until it has said something. Raises AssertionError with what it did say."""
    stream = child.stderr if stderr else child.stdout
    assert stream is not None
    said, until = b"", CLOCK.monotonic_us() + int(within_s * 1e6)
    with selectors.DefaultSelector() as ready:
        ready.register(stream, selectors.EVENT_READ)
        while wanted not in said:
            left_s = (until - CLOCK.monotonic_us()) / 1e6
            assert left_s > 0, f"{wanted!r} did not come: {said!r}"
            if ready.select(left_s):
                more = os.read(stream.fileno(), 65536)
                assert more, f"{wanted!r} did not come before the end: {said!r}"
                said += more
    return said
