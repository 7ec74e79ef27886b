"""What must be so before anything starts; `doctor` asks the same questions. Each answer is one line that says how to mend it.

Source: docs/rules.md TIM-2, FLT-1.
"""

from __future__ import annotations

import os
import socket
import ssl
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

from broker.cli.context import open_database
from broker.control_client import ask
from broker.domain.audit import ProcessStarted
from broker.domain.errors import BrokerError, Code
from broker.openssh import parse_public_key
from broker.settings import Address, Home, Settings
from broker.store import ledger

CA_NAMES: Final = ("gate", "asset", "host")
_KEY_MAX_BYTES: Final = 1 << 16
_SOCKET_PATH_MAX: Final = 107  # unix(7): 108 bytes with the zero at its end


class _Undone(Exception):
    """Takes a transaction back that was only tried."""


class Part(StrEnum):
    """The processes of a deployment."""

    BROKER = "broker"
    SIGNER = "signer"
    APPROVAL = "approval"
    RECORDER = "recorder"


EVERYTHING: Final = frozenset({Part.BROKER, Part.SIGNER, Part.APPROVAL})


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to check. ask: gives what was found in a few words; parts: the processes that cannot do without it."""

    name: str
    parts: frozenset[Part]
    ask: Callable[[Home, Settings], str]


def ask_all(home: Home, settings: Settings, parts: frozenset[Part]) -> None:
    """Raise BrokerError for the first thing that is wrong for any of these processes."""
    for question in QUESTIONS:
        if question.parts & parts:
            question.ask(home, settings)


def _writable(name: str) -> Callable[[Home, Settings], str]:
    def ask(home: Home, _settings: Settings) -> str:
        folder = home.path / name
        try:
            tempfile.TemporaryFile(dir=folder).close()  # asked by doing: a mode says nothing of a read-only disk
        except OSError as error:
            raise _bad(f"home: {folder} is not writable ({error.strerror}); mend its owner and mode") from None
        longest = len(os.fsencode(home.control_socket.absolute()))
        if longest > _SOCKET_PATH_MAX:
            raise _bad(f"home: {home.path} is too long a path for the sockets in it; choose a shorter one")
        return str(folder)

    return ask


def _private(path_of: Callable[[Home], Path], what: str) -> Callable[[Home, Settings], str]:
    def ask(home: Home, _settings: Settings) -> str:
        path = path_of(home)
        try:
            with path.open("rb") as file:
                text, mode = file.read(_KEY_MAX_BYTES), os.fstat(file.fileno()).st_mode
        except FileNotFoundError:
            raise _bad(f"{what} {path} is missing; restore it from your backup") from None
        except OSError as error:
            raise _bad(f"{what} {path} cannot be read ({error.strerror}); mend its owner and mode") from None
        try:
            key = load_ssh_private_key(text, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: under a passphrase, which nobody could type
            raise _bad(f"{what} {path} is damaged; restore it from your backup") from None
        if mode & 0o077:
            raise _bad(f"{what} {path} is open to others ({stat.filemode(mode)}); chmod 600 {path}")
        public = path.with_name(path.name + ".pub")
        if _read_public(what, public) != key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode():
            raise _bad(f"{public} is not the public half of {what}; restore both from your backup")
        return str(path)

    return ask


def _read_public(what: str, path: Path) -> str:
    try:
        return parse_public_key(path.read_text(encoding="ascii").strip()).line
    except OSError as error:
        raise _bad(f"the public half of {what}, {path}: {error.strerror}; restore it, or mend its mode") from None
    except (UnicodeDecodeError, BrokerError):
        raise _bad(f"the public half of {what}, {path}, is damaged; restore it from your backup") from None


def _ca_key(name: str) -> Callable[[Home, Settings], str]:
    def question(home: Home, settings: Settings) -> str:
        from broker.signer.agent import holds
        from broker.signer.keys import credential_path, load_ca_key, public_of
        from broker.signer.trusted import CaFiles

        files = CaFiles(home, name)
        sealed = credential_path(name)
        if sealed is not None:
            return f"{sealed}, a credential"
        if files.private.exists() or not settings.ca_agent:
            following = files.following()
            if following is not None and files.private.exists():
                if public_of(load_ca_key(home, name)).blob == following.blob:
                    return f"{files.private}; the rotation was cut off: ca rotate {name} finishes it"
                _private(lambda _: files.private, f"the {name} CA key")(home, settings)
                return f"{files.private}; the next one is ready: ca rotate {name} makes it sign"
            if not files.private.exists() and _signer_has(home, name):
                return "in a credential of the running signer"
            return _private(lambda _: files.private, f"the {name} CA key")(home, settings)
        current = files.current()
        if not holds(Path(settings.ca_agent), current):
            raise _bad(f"the {name} CA key {current.fingerprint} is not in ca_agent {settings.ca_agent}; load it there")
        return f"{current.fingerprint} in {settings.ca_agent}"

    return question


def _signer_has(home: Home, name: str) -> bool:
    """Whether a running signer signs with it: a credential is shown to the signer's own process and to nobody else."""
    with suppress(BrokerError, OSError, ValueError):
        return name in ask(home.signer_socket, {"want": "keys"}).get("keys", {})
    return False


def _seal_key(home: Home, _settings: Settings) -> str:
    home.read_seal_key()
    mode = home.seal_key.stat().st_mode
    if mode & 0o027:  # the group may read: two doors take codes
        raise _bad(f"seal key {home.seal_key} is open to others ({stat.filemode(mode)}); chmod 640 {home.seal_key}")
    return str(home.seal_key)


def _gate_public(home: Home, _settings: Settings) -> str:
    path = home.ca_key("gate").with_name("gate.pub")
    _read_public("the gate CA key", path)
    return str(path)


def _schema(home: Home, settings: Settings) -> str:
    db = open_database(home, settings)
    try:
        db.check_schema()
        # Asked by doing: SQLite begins to write a read-only file without a word, and a broker that cannot write admits nobody.
        with suppress(_Undone), db.begin() as tx:
            ledger.append(tx, ProcessStarted(process="check", version=""))
            raise _Undone
    except BrokerError as error:
        if not error.detail.startswith("database: "):
            raise
        # The driver's own words say what is wrong, never what to do.
        what = "is the server up and the URL in settings.toml right?"
        if home.database_url(settings).startswith("sqlite:"):
            what = "mend the owner, mode and disk of its file and folder, or restore it from your backup"
        raise _bad(f"{error.detail}; {what}") from None
    finally:
        db.close()
    return "of this release, writable"


def _clock(home: Home, settings: Settings) -> str:
    """TIM-2: with a clock behind the ledger's last entry nothing may be admitted or signed."""
    db = open_database(home, settings)
    try:
        with db.read() as tx:
            now, behind = tx.now, ledger.clock_behind(tx)
    finally:
        db.close()
    if behind.total_seconds() > settings.clock_tolerance_s:
        raise _bad(
            f"the clock says {now:%Y-%m-%d %H:%M:%S} UTC, but the ledger has an entry of "
            f"{now + behind:%Y-%m-%d %H:%M:%S} UTC; nothing is admitted until you set the clock"
        )
    return "not behind the ledger"


def _free_port(what: str, address_of: Callable[[Settings], Address]) -> Callable[[Home, Settings], str]:
    def ask(_home: Home, settings: Settings) -> str:
        address = address_of(settings)
        if what == "ssh_listen" and os.environ.get("LISTEN_PID") == str(os.getpid()):
            return "handed over by systemd"
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, kind, protocol, _, where in found:
                with socket.socket(family, kind, protocol) as sock:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    sock.bind(where)
                    sock.listen(1)
        except OSError as error:
            raise _bad(f"{what} {address}: {error.strerror}; free it, or choose another in settings.toml") from None
        except UnicodeError:  # a label of more than 63 characters
            raise _bad(f"{what} {address}: no such host; choose another in settings.toml") from None
        return f"{address} is free"

    return ask


def _web_certificate(_home: Home, settings: Settings) -> str:
    certificate, key = settings.web_tls_certificate, settings.web_tls_key
    if not certificate:
        return "none: plain http on loopback"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except OSError as error:  # ssl.SSLError is one
        raise _bad(f"web_tls_certificate {certificate} with web_tls_key {key}: {error.strerror or error}") from None
    return certificate


def _bad(detail: str) -> BrokerError:
    return BrokerError(Code.UNAVAILABLE, detail)


QUESTIONS: Final = (
    Question("run folder", EVERYTHING, _writable("run")),
    Question("recordings folder", frozenset({Part.BROKER}), _writable("recordings")),
    *(Question(f"{name} CA key", frozenset({Part.SIGNER}), _ca_key(name)) for name in CA_NAMES),
    Question("gate CA, public", frozenset({Part.BROKER}), _gate_public),
    Question("host key", frozenset({Part.BROKER}), _private(lambda home: home.host_key, "the host key")),
    Question("seal key", frozenset({Part.BROKER, Part.APPROVAL}), _seal_key),
    Question("database", EVERYTHING, _schema),
    Question(
        "clock", frozenset(), _clock
    ),  # all starts with a wrong clock, admits nobody and says so: kill and web must work
    Question("ssh port", frozenset({Part.BROKER}), _free_port("ssh_listen", lambda settings: settings.ssh)),
    Question("web certificate", frozenset({Part.APPROVAL}), _web_certificate),
    Question("web port", frozenset({Part.APPROVAL}), _free_port("web_listen", lambda settings: settings.web)),
)
"""Everything, in the order in which it is asked; a missing folder explains more than what follows from it."""
