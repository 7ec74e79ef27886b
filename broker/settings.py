"""Settings and home: one frozen value, read once and handed down; an unknown key is an error, a secret is a file."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from broker.domain.errors import BrokerError, Code
from broker.domain.ids import quoted

_HOST_NAME: Final = re.compile(r"[A-Za-z0-9:]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?")
_HOST: Final = re.compile(r"[A-Za-z0-9_.:%-]{1,253}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
# Strict: a quoted number or true where seconds belong is a slip. One bound a type, for of two only the outer one would hold.
Seconds = Annotated[float, Field(gt=0, le=31_536_000, strict=True)]
CertificateSeconds = Annotated[float, Field(gt=0, le=28800, strict=True)]
AssetCertificateSeconds = Annotated[float, Field(gt=0, le=3600, strict=True)]
Count = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a TCP port to listen on or to dial; port 0 asks for a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True when nobody outside this machine can reach it."""
        address = plain_ip(self.host)  # 127.0.0.1.example is a name, and anybody's
        return self.host == "localhost" or (address is not None and ipaddress.ip_address(address).is_loopback)


def parse_address(text: str) -> Address:
    """Read HOST:PORT; an IPv6 address stands in brackets. Raises BrokerError(INVALID).

    >>> str(parse_address("127.0.0.1:2222"))
    '127.0.0.1:2222'
    """
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    numeric = len(port) <= 5 and port.isascii() and port.isdecimal() and int(port) <= 65535
    if not numeric or not _HOST.fullmatch(host) or (":" in host) != bracketed:
        raise BrokerError(Code.INVALID, f"address {quoted(text)}: write HOST:PORT, such as 127.0.0.1:2222")
    return Address(host, int(port))


def plain_ip(text: str) -> str | None:
    """An IP address as peers are compared by: v4-mapped IPv6 folded, no zone; None for anything else.

    >>> plain_ip("::ffff:192.0.2.7"), plain_ip("192.0.2.7:80")
    ('192.0.2.7', None)
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ipaddress.IPv6Address(int(address)))  # a zone may hold any text


class Settings(BaseModel):
    """All that a site may set; each key's meaning, unit and default stand beside it and in `settings.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ssh_listen: str = Field("127.0.0.1:2222", description="where engineers connect, HOST:PORT; port 0 takes a free one")
    ssh_names: tuple[str, ...] = Field((), description="host names in the host certificate; empty: the listen host")
    web_listen: str = Field(
        "127.0.0.1:8080", description="where the web pages are, HOST:PORT; plain http only on loopback"
    )
    web_origin: str = Field(
        "", description="the pages' address as people type it; empty: http:// and the listen address"
    )
    web_proxy: str = Field(
        "", description="IP address of the one proxy whose X-Forwarded-For is believed; empty: nobody's is"
    )
    web_tls_certificate: str = Field(
        "", description="PEM file of the web certificate; empty: plain http, loopback only"
    )
    web_tls_key: str = Field("", description="PEM file of its key")
    database: str = Field("", description="SQLAlchemy URL; empty: SQLite in wicketgate.db of the home")
    site_banner: str = Field(
        "Authorised access only. Every session is recorded.", description="shown before anybody logs in"
    )
    bastion_address: str = Field("", description="the address that assets see; put into asset certificates when set")
    signer_peers: tuple[str, ...] = Field(
        ("wicketgate-broker",), description="system accounts, beside root and the signer's own, that may ask it"
    )
    ca_agent: str = Field(
        "", description="socket of an ssh-agent that holds the CA keys whose private halves are not in keys/ca"
    )
    poll_s: Seconds = Field(0.25, description="how often live sessions look for a revocation, in seconds")
    warn_before_s: tuple[Seconds, ...] = Field(
        (900, 300, 60), description="warnings this long before the end, in seconds"
    )
    certificate_life_s: CertificateSeconds = Field(
        3600, description="life of a gate certificate, in seconds, at most 8 h"
    )
    certificate_source_address: bool = Field(
        True, strict=True, description="bind a gate certificate to the address it is collected from"
    )
    asset_certificate_life_s: AssetCertificateSeconds = Field(
        120, description="life of an asset certificate, in seconds, at most 1 h"
    )
    request_lapses_s: Seconds = Field(86400, description="an undecided request lapses after so many seconds")
    longest_request_s: Seconds = Field(1_209_600, description="the longest time one request may ask for, in seconds")
    longest_session_s: Seconds = Field(43200, description="the longest session, in seconds")
    sessions_per_grant_max: Count = Field(4, description="live sessions of one grant")
    sessions_per_engineer_max: Count = Field(16, description="live sessions of one engineer, at all assets")
    sessions_per_asset_max: Count = Field(16, description="live sessions at one asset, of all engineers")
    channels_per_connection_max: Count = Field(10, description="session channels of one SSH connection")
    refused_channels_max: Count = Field(50, description="refused channels until the connection is closed")
    dial_timeout_s: Seconds = Field(5, description="TCP connection to an asset, in seconds")
    open_timeout_s: Seconds = Field(15, description="from the dial to the open session, in seconds")
    clock_tolerance_s: Seconds = Field(
        5, description="nothing is admitted while the clock is further behind the ledger, in seconds"
    )
    hold_max_s: Seconds = Field(
        600, description="the longest an owner may hold a session open beyond its grant, in seconds"
    )
    login_timeout_s: Seconds = Field(60, description="time to log in, in seconds")
    idle_without_channel_s: Seconds = Field(
        60, description="a connection without a channel is closed after so many seconds"
    )
    unauthenticated_max: Count = Field(60, description="connections that have not logged in, in all")
    unauthenticated_early: Count = Field(
        20, description="from so many on, strangers' connections are refused by chance: 30 %, rising to all of them"
    )
    unauthenticated_kept: int = Field(
        10, ge=0, le=1_000_000, strict=True, description="of unauthenticated_max, kept for addresses known for 30 days"
    )
    unauthenticated_per_source_max: Count = Field(
        4, description="connections that have not logged in, of one IPv4 address or IPv6 /64"
    )
    penalty_exempt: tuple[str, ...] = Field(
        ("127.0.0.0/8", "::1/128"), description="networks that are never kept waiting for logins that failed"
    )
    tries_per_connection: Count = Field(3, description="codes on one connection")
    tries_per_person: Count = Field(5, description="failed proofs of one person in tries_window_s, over all doors")
    tries_per_source: Count = Field(20, description="failed proofs from one address in tries_window_s")
    tries_window_s: Seconds = Field(900, description="over how many seconds tries are counted")
    free_space_floor_bytes: int = Field(
        536_870_912, ge=0, le=1 << 60, strict=True, description="below it no new session starts"
    )
    free_space_floor_fraction: float = Field(0.02, ge=0, le=0.9, strict=True, description="the same, of the disk")
    web_idle_s: Seconds = Field(900, description="an unused web session ends after so many seconds")
    web_absolute_s: Seconds = Field(28800, description="every web session ends after so many seconds")
    fresh_proof_s: Seconds = Field(300, description="how long a code counts as fresh for approving and ending")
    isolation_switch_file: str = Field(
        "", description="while this file is there everything is isolated: a hard-wired input may make it; empty: none"
    )
    isolation_switch_level: int = Field(3, ge=1, le=5, strict=True, description="the level that it stands for, 1 to 5")
    totp_issuer: str = Field("wicketgate", min_length=1, max_length=64, description="name shown in the code app")

    @field_validator("ssh_listen", "web_listen")
    @classmethod
    def _is_address(cls, text: str) -> str:
        try:
            parse_address(text)
        except BrokerError as error:
            raise ValueError(error.detail) from None
        return text

    @field_validator("ca_agent")
    @classmethod
    def _is_whole_path(cls, text: str) -> str:
        if text and not text.startswith("/"):
            raise ValueError("write the whole path of the agent's socket")
        return text

    @field_validator("bastion_address")
    @classmethod
    def _is_ip_address(cls, text: str) -> str:
        return str(ipaddress.ip_address(text)) if text else text

    @field_validator("web_proxy")
    @classmethod
    def _is_one_proxy(cls, text: str) -> str:
        found = plain_ip(text)
        if text and found is None:
            raise ValueError(f"{quoted(text)}: write one IP address, such as 127.0.0.1")
        return found or ""

    @field_validator("penalty_exempt")
    @classmethod
    def _are_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for one in networks:
            try:
                ipaddress.ip_network(one)
            except ValueError:
                raise ValueError(f"{quoted(one)} is no network such as 192.0.2.0/24") from None
        return networks

    @field_validator("ssh_names")
    @classmethod
    def _are_host_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [name for name in names if not _HOST_NAME.fullmatch(name)]:
            raise ValueError(f"{quoted(wrong[0])} is no host name")
        return names

    @field_validator("web_origin")
    @classmethod
    def _is_origin(cls, text: str) -> str:
        scheme, found, rest = text.partition("://")
        if text and (scheme not in ("http", "https") or not found or not _is_host(rest)):
            raise ValueError(f"{quoted(text)}: write https://HOST or https://HOST:PORT, without a path")
        return text

    @field_validator("database")
    @classmethod
    def _is_in_one_place(cls, text: str) -> str:
        if (
            text.partition("?")[0].count("@") > 1
        ):  # what follows the first would be read as the host, and shown in errors
            raise ValueError("write @ in a password as %40")
        path = text.removeprefix("sqlite:///")
        if path != text and not path.startswith("/"):  # else each process would look in the folder it was started in
            raise ValueError("write the whole path of an SQLite file, such as sqlite:////var/lib/site/wicketgate.db")
        return text

    @field_validator("isolation_switch_file")
    @classmethod
    def _is_findable(cls, text: str) -> str:
        if text and (not text.startswith("/") or "\0" in text):
            raise ValueError("write the whole path, such as /run/isolate")
        return text

    @field_validator("totp_issuer")
    @classmethod
    def _is_one_line(cls, text: str) -> str:
        if _CONTROL.search(text) or ":" in text:  # a colon ends the issuer in the code app's label
            raise ValueError("a name on one line, without a colon")
        return text

    @model_validator(mode="after")
    def _holds_together(self) -> Settings:
        if bool(self.web_tls_certificate) != bool(self.web_tls_key):
            raise ValueError("web_tls_certificate and web_tls_key go together")
        if not self.web_tls_certificate and not self.web.is_loopback:
            raise ValueError("web_listen outside loopback needs web_tls_certificate and web_tls_key")
        return self

    @property
    def ssh(self) -> Address:
        return parse_address(self.ssh_listen)

    @property
    def web(self) -> Address:
        return parse_address(self.web_listen)

    @property
    def host_names(self) -> tuple[str, ...]:
        """The names in the host certificate and in the printed ssh_config."""
        everywhere = self.ssh.host in ("0.0.0.0", "::")  # noqa: S104 - read, not bound
        return self.ssh_names or ((socket.getfqdn(),) if everywhere else (self.ssh.host,))

    @property
    def origin(self) -> str:
        """The pages' origin for links; the running address when the port was 0 is the web process's to know."""
        return self.web_origin or f"{'https' if self.web_tls_certificate else 'http'}://{self.web}"

    @property
    def warn_before(self) -> tuple[timedelta, ...]:
        return tuple(timedelta(seconds=one) for one in self.warn_before_s)


def _is_host(text: str) -> bool:
    try:
        return bool(parse_address(text if text.rpartition("]")[2].count(":") else f"{text}:0"))
    except BrokerError:
        return False


class Home:
    """The folder of one deployment and every path in it; says nothing of what exists."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings_path = path / "settings.toml"
        self.recordings = path / "recordings"
        self.keys = path / "keys"
        self.host_key = self.keys / "host" / "ssh_host_ed25519_key"
        self.seal_key = self.keys / "seal" / "seal.key"
        self.run = path / "run"
        self.control_socket = self.run / "control.sock"
        self.signer_socket = self.run / "signer.sock"
        self.isolation_path = path / "isolation.json"
        self.isolation_hook = path / "isolation-hook"
        self.ssh_address = self.run / "ssh.address"
        self.web_address = self.run / "web.address"

    def ca_key(self, name: str) -> Path:
        """The private key of a CA: gate, asset or host; only the signer may read it."""
        return self.keys / "ca" / name

    def database_url(self, settings: Settings) -> str:
        """The configured database, or the embedded one."""
        return settings.database or f"sqlite:///{self.path.absolute() / 'wicketgate.db'}"

    def read_seal_key(self) -> bytes:
        """The 32 bytes under which TOTP seeds are sealed. Raises BrokerError(UNAVAILABLE)."""
        try:
            key = self.seal_key.read_bytes()
        except OSError as error:
            raise BrokerError(
                Code.UNAVAILABLE, f"seal key {self.seal_key}: {error.strerror}; restore it, or mend its owner and mode"
            ) from None
        if len(key) != 32:
            raise BrokerError(
                Code.UNAVAILABLE,
                f"seal key {self.seal_key} is damaged: {len(key)} bytes instead of 32; restore it from your backup",
            )
        return key


def find_home(named: str | None, environment: Mapping[str, str] = os.environ) -> Home:
    """The home named on the command line, in WICKETGATE_HOME, at the usual place, or here."""
    usual = Path("/var/lib/wicketgate")
    return Home(Path(named or environment.get("WICKETGATE_HOME") or (usual if usual.is_dir() else "wicketgate-home")))


def parse_settings(raw: Mapping[str, Any], *, where: str) -> Settings:
    """Read settings from TOML's values. Raises BrokerError(INVALID) with one line naming key and file."""
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise BrokerError(
                Code.INVALID, f"{where}: unknown key {quoted(key)}; remove it or correct its name"
            ) from None
        told = str(first["msg"]).removeprefix("Value error, ")
        raise BrokerError(Code.INVALID, f"{where}: {key + ': ' if key else ''}{told}") from None


def load_settings(home: Home) -> Settings:
    """Read the home's settings. Raises BrokerError(INVALID) for a bad file, NOT_FOUND for a home without one."""
    try:
        text = home.settings_path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BrokerError(Code.NOT_FOUND, f"no {home.settings_path}; make a home with: wicketgate init") from None
    except OSError as error:
        raise BrokerError(Code.INVALID, f"{home.settings_path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BrokerError(Code.INVALID, f"{home.settings_path} is not UTF-8 text") from None
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BrokerError(Code.INVALID, f"{home.settings_path}: {error}") from None
    return parse_settings(raw, where=str(home.settings_path))


def settings_text(changed: Mapping[str, Any]) -> str:
    """The commented settings file: every key with its meaning and default, the changed ones set."""
    lines = ["# wicketgate settings. A key that is commented out has the value shown. Unknown keys are an error.", ""]
    for name, field in Settings.model_fields.items():
        lines.append(f"# {field.description}")
        value = changed.get(name, field.default)
        lines.append(f"{'' if name in changed else '# '}{name} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def write_settings(home: Home, changed: Mapping[str, Any]) -> None:
    """Write a new settings file, checked first; refuses to overwrite. Raises BrokerError."""
    parse_settings(changed, where="settings")
    try:
        with home.settings_path.open("x", encoding="utf-8") as file:
            file.write(settings_text(changed))
    except FileExistsError:
        raise BrokerError(Code.CONFLICT, f"{home.settings_path} is already there; nothing was changed") from None


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    if isinstance(value, str):
        plain = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + _CONTROL.sub(lambda hit: f"\\u{ord(hit[0]):04x}", plain) + '"'
    return repr(value)
