"""A home as tests find it: made by the program's own init, filled by the program's own use-cases, copied for each test."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, urlsplit

import pyotp
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from broker import desk, enrolment, gate
from broker.cli import main
from broker.cli.program import app
from broker.clock import SystemClock
from broker.domain.audit import StreamHead
from broker.domain.capability import EXEC, SHELL
from broker.domain.grant import Grant
from broker.domain.ids import PersonId, SessionId, parse_login
from broker.domain.inventory import AssetState
from broker.domain.isolation import Ladder
from broker.domain.people import Role, RoleAt
from broker.domain.policy import Narrowing
from broker.domain.request import AccessRequest, Asked
from broker.domain.session import ChannelKind, EndReason
from broker.domain.window import Interval
from broker.factors import Seal
from broker.gate import Entered, Proof
from broker.settings import Home, load_settings
from broker.store import inventory, people, windows
from broker.store.db import Database, Tx
from recorder.format import Code, Header, StreamClass
from recorder.writer import SessionClock, StreamWriter

PROGRAM = Path(sys.executable).with_name("wicketgate")
CLOCK = SystemClock()
BY = "local:test"
ENGINEER, OWNER = "engineer.one", "owner.one"
HOUR = timedelta(hours=1)
STEP_S = 30
# Root passes every mode; without its capabilities it is an account like any other.
POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.getuid() == 0 else ()


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its one document. Raises ValueError when stdout is anything else."""
        return json.loads(self.out)


@dataclass(slots=True)
class Template:
    """A filled home to be copied. seeds: by handle; requests: pending ones; recording, still_open: of sessions."""

    path: Path
    seeds: dict[str, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    grant: str = ""
    window: str = ""
    recording: str = ""
    still_open: str = ""


def public_key() -> str:
    """A fresh ed25519 public key as an OpenSSH line."""
    return Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def make_template(folder: Path) -> Template:
    """One site, one vendor, one engineer, one owner, two assets, three pending requests, two recordings."""
    made = Template(folder / "home")
    init: list[str | Path] = [PROGRAM, "--home", made.path, "init", "--ssh", "127.0.0.1:0", "--web", "127.0.0.1:0"]
    subprocess.run(init, check=True, capture_output=True, timeout=60)
    home = Home(made.path)
    db = Database.open(home.database_url(load_settings(home)), CLOCK)
    try:
        with db.begin() as tx:
            _fill(tx, made, Seal(home.read_seal_key()))
        with db.begin() as tx:
            made.recording = _record(tx, home, made, finish=True)
            made.still_open = _record(tx, home, made, finish=False)
    finally:
        db.close()
    return made


def _fill(tx: Tx, made: Template, seal: Seal) -> None:
    site = inventory.insert_site(tx, name="plant", time_zone="Europe/London", by=BY)
    vendor = inventory.insert_vendor(tx, name="cellmaker", by=BY)
    for name in ("box", "other"):
        box = inventory.insert_asset(
            tx, site=site, name=name, host="127.0.0.1", port=22, by=BY, accounts=("service",), host_key=public_key()
        )
        inventory.set_asset_state(tx, box, AssetState.OPERATIONAL, by=BY)
    span = Interval(tx.now - HOUR, tx.now + 48 * HOUR)
    made.window = windows.insert_window(tx, site=site, vendor=vendor, interval=span, by=BY).id
    engineer = people.insert_person(tx, handle=ENGINEER, name="Engineer One", vendor_id=vendor.id, by=BY)
    owner = people.insert_person(tx, handle=OWNER, name="Owner One", roles=[RoleAt(Role.OWNER, site.id)], by=BY)
    for handle, line in ((ENGINEER, public_key()), (OWNER, None)):
        done = enrolment.enrol(tx, handle=handle, key_line=line, password=None, seal=seal, by=BY)
        made.seeds[handle] = parse_qs(urlsplit(done.totp_uri).query)["secret"][0]
    made.requests = [_ask(tx, engineer.id, "box.plant", "other.plant").id for _ in range(3)]
    granted = desk.approve(
        tx,
        owner_id=owner.id,
        request_id=_ask(tx, engineer.id, "box.plant").id,
        narrowing=Narrowing(),
        door="test",
        ladder=Ladder(),
    )
    assert isinstance(granted, Grant), granted
    made.grant = granted.id


def _ask(tx: Tx, person_id: PersonId, *assets: str) -> AccessRequest:
    asked = Asked(assets=assets, length=2 * HOUR, reason="cell 7 drifts", capabilities=frozenset({SHELL, EXEC}))
    made = desk.submit(
        tx, person_id=person_id, asked=asked, lapses_after=24 * HOUR, longest=14 * 24 * HOUR, door="test"
    )
    assert isinstance(made, AccessRequest), made
    return made


def _record(tx: Tx, home: Home, made: Template, *, finish: bool) -> SessionId:
    engineer = people.require(tx, ENGINEER)
    key = people.keys(tx, engineer.id)[0]
    entered = gate.enter(
        tx,
        proof=Proof(
            person_id=engineer.id,
            key_fingerprint=key.fingerprint,
            public_key=key.line.encode(),
            factors="key+code",
            source="192.0.2.7",
        ),
        login=parse_login("box.plant"),
        capability=SHELL,
        kind=ChannelKind.SHELL,
        node="elsewhere",
        can_record=True,
        ladder=Ladder(),
    )
    assert isinstance(entered, Entered), entered
    clock = SessionClock(CLOCK.monotonic_us)
    heads = []
    for klass, text in ((StreamClass.SCREEN, b"cell 7: 3.31 V\r\n"), (StreamClass.TYPED, b"show 7\r")):
        header = Header(
            v=1,
            session=entered.session_id,
            stream=f"01.{klass.value}",
            channel=1,
            klass=klass,
            kind="shell",
            node="elsewhere",
            boot="b00t",
            wall_ms=1_790_000_000_000,
            seal="none",
            after="",
        )
        writer = StreamWriter(home.recordings / entered.folder, header, clock=clock, wall_ms=lambda: 1_790_000_000_000)
        writer.put(Code.OUT if klass is StreamClass.SCREEN else Code.IN, text)
        if finish:
            head = writer.close("done")
            heads.append(StreamHead(stream=header.stream, length=head.length, sha256=head.sha256))
        else:
            writer.abandon()
    if finish:
        gate.leave_channel(tx, session_id=entered.session_id, channel=1, state="closed", exit="0", heads=heads)
        gate.leave(tx, session_id=entered.session_id, reason=EndReason.DONE)
    return entered.session_id


class Deployment:
    """A copy of the template, in a folder short enough for sockets. settings: keys of settings.toml to change, as TOML."""

    def __init__(self, template: Template, **settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="wg-"))
        self.template = template
        self.path = self.folder / "home"
        shutil.copytree(template.path, self.path)
        self.home = Home(self.path)
        self._spent = 0
        if settings:
            self.set(**settings)

    def remove(self) -> None:
        """Take the folder away."""
        shutil.rmtree(self.folder)

    def set(self, **settings: str) -> None:
        """Change keys of settings.toml; the values are TOML."""
        lines = self.home.settings_path.read_text().splitlines()
        kept = [line for line in lines if line.partition(" ")[0] not in settings]
        kept += [f"{key} = {value}" for key, value in settings.items()]
        self.home.settings_path.write_text("\n".join(kept) + "\n")

    def run(self, *words: str, stdin: bytes = b"") -> Done:
        """One command by the program's own main, in this process: the same code ends it the same way, without the start-up."""
        return run_here("--home", str(self.path), *words, stdin=stdin)

    def program(self, *words: str, stdin: str = "", before: Sequence[str] = (), **env: str) -> Done:
        """One command by the installed program. before: words in front of it, such as setpriv."""
        return run_program("--home", str(self.path), *words, stdin=stdin, before=before, **env)

    @contextmanager
    def database(self) -> Iterator[Database]:
        """The rows, as any process has them."""
        db = Database.open(self.home.database_url(load_settings(self.home)), CLOCK)
        try:
            yield db
        finally:
            db.close()

    def rows(self) -> dict[str, list[Any]]:
        """Every row of every table, the ledger's among them."""
        with sqlite3.connect(f"file:{self.path / 'wicketgate.db'}?mode=ro", uri=True) as conn:
            tables = conn.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
            found = {name: conn.execute(f'SELECT * FROM "{name}"').fetchall() for (name,) in tables}  # noqa: S608
        conn.close()
        return found

    def new_entries(self, before: dict[str, list[Any]]) -> list[str]:
        """The kinds of the ledger entries that came since."""
        return [row[1] for row in self.rows()["ledger"][len(before["ledger"]) :]]

    def code(self, handle: str = OWNER) -> str:
        """A code that was not used before; three at the most, for a code lives three steps."""
        now_step = int(CLOCK.now().timestamp()) // STEP_S
        self._spent = max(self._spent + 1, now_step - 1)
        assert self._spent <= now_step + 1
        return str(pyotp.TOTP(self.template.seeds[handle]).at(self._spent * STEP_S))

    def wrong_code(self, handle: str = OWNER) -> str:
        """Six digits that are no code of theirs within an hour."""
        now_step = int(CLOCK.now().timestamp()) // STEP_S
        totp = pyotp.TOTP(self.template.seeds[handle])
        taken = {totp.at(step * STEP_S) for step in range(now_step - 120, now_step + 120)}
        return next(f"{one:06d}" for one in range(1000) if f"{one:06d}" not in taken)

    def processes(self) -> list[int]:
        """The ids of all processes that have this home on their command line, zombies not."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != os.getpid():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if os.fsencode(self.path) in words:
                    found.append(int(entry.name))
        return found

    def sockets(self) -> list[str]:
        """What lies in run/."""
        return sorted(path.name for path in self.home.run.iterdir())


def run_here(*words: str, stdin: bytes = b"") -> Done:
    """`wicketgate WORDS` in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=errors) for errors in ("strict", "replace"))
    given = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    umask = os.umask(0o077)
    try:
        with (
            mock.patch.dict(os.environ),
            mock.patch.object(sys, "argv", ["wicketgate", *words]),
            mock.patch.object(sys, "stdin", given),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            status = _exit_status(main)
    finally:
        os.umask(umask)
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode("utf-8"))
    return Done(status, *texts)


def _exit_status(call: Callable[[], None]) -> int:
    try:
        call()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    return 0


def run_program(*words: str, stdin: str = "", before: Sequence[str] = (), **env: str) -> Done:
    """`wicketgate WORDS` as a process."""
    done = subprocess.run(
        [*before, PROGRAM, *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment(**env),
    )
    return Done(done.returncode, done.stdout, done.stderr)


def leaves() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, by its words, as the program declares it."""
    pending: list[tuple[tuple[str, ...], Any]] = [((), typer.main.get_command(app))]
    while pending:
        words, command = pending.pop()
        if hasattr(command, "list_commands"):
            context = typer.Context(command)
            pending += [((*words, name), command.get_command(context, name)) for name in command.list_commands(context)]
        else:
            yield words, command


def environment(**more: str) -> dict[str, str]:
    """The environment without a home named in it."""
    return {name: value for name, value in os.environ.items() if name != "WICKETGATE_HOME"} | more


def local(moment: datetime) -> str:
    """An instant as people type it: RFC 3339 with offset."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process that a test started, if it still runs."""
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.wait(10)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
