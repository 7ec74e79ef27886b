"""The simulated assets, seen by stock ssh: whom they let in, and that they behave as a controller does."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from demo.kestrel import ACCOUNT, BMS_21
from demo.plant import Plant

pytestmark = pytest.mark.e2e


@dataclass(frozen=True, slots=True)
class Asset:
    """One running asset. folder: with the CA `ca`, another one `other`, and the key `key` of whoever comes."""

    folder: Path
    port: int

    def sign(self, *words: str, ca: str = "ca") -> None:
        """Give the key a certificate."""
        key = str(self.folder / "key.pub")
        command = ["ssh-keygen", "-q", "-s", str(self.folder / ca), "-I", "test", *words, key]
        subprocess.run(command, check=True, capture_output=True, timeout=20)

    def ssh(self, *words: str, account: str = ACCOUNT, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        options = ["BatchMode=yes", "IdentitiesOnly=yes", "IdentityAgent=none", "StrictHostKeyChecking=yes"]
        options += [f"UserKnownHostsFile={self.folder / 'known_hosts'}", "GlobalKnownHostsFile=none"]
        command = ["ssh", "-F", "none", "-i", str(self.folder / "key"), "-p", str(self.port)]
        command += [word for option in options for word in ("-o", option)]
        return subprocess.run(
            [*command, f"{account}@127.0.0.1", *words], input=stdin, capture_output=True, timeout=30, check=False
        )


@pytest.fixture
def asset(tmp_path: Path) -> Iterator[Asset]:
    for name in ("ca", "other", "key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", tmp_path / name]
        subprocess.run(command, check=True, timeout=20)
    with Plant([BMS_21], folder=tmp_path / "plant", asset_ca=(tmp_path / "ca.pub").read_text()) as plant:
        port = plant.ports[BMS_21.name]
        (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{port} {plant.host_keys[BMS_21.name]}\n")
        yield Asset(tmp_path, port)


def test_a_certificate_of_the_asset_ca_for_the_account_from_the_bastion_is_let_in(asset: Asset) -> None:
    asset.sign("-n", ACCOUNT, "-V", "-1m:+2m", "-O", "source-address=127.0.0.1")
    done = asset.ssh("whoami")
    assert (done.returncode, done.stdout) == (0, f"{ACCOUNT}\n".encode()), done.stderr


@pytest.mark.parametrize(
    ("words", "ca", "account"),
    [
        pytest.param(["-n", "root"], "ca", ACCOUNT, id="another account's"),
        pytest.param(["-n", "root"], "ca", "root", id="an account that is not there"),
        pytest.param(["-n", ACCOUNT], "other", ACCOUNT, id="another CA's"),
        pytest.param(["-n", ACCOUNT, "-V", "-2h:-1h"], "ca", ACCOUNT, id="one that is over"),
        pytest.param(["-n", ACCOUNT, "-O", "source-address=10.61.16.10"], "ca", ACCOUNT, id="from another address"),
        pytest.param(["-h", "-n", ACCOUNT], "ca", ACCOUNT, id="a host's"),
        pytest.param(None, "ca", ACCOUNT, id="a bare key"),
    ],
)
def test_any_other_proof_is_refused(asset: Asset, words: list[str] | None, ca: str, account: str) -> None:
    if words is not None:
        asset.sign(*words, ca=ca)
    done = asset.ssh("whoami", account=account)
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"Permission denied" in done.stderr


def test_an_asset_answers_one_address_only(tmp_path: Path) -> None:
    for name in ("ca", "key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", tmp_path / name]
        subprocess.run(command, check=True, timeout=20)
    ca = (tmp_path / "ca.pub").read_text()
    with Plant([BMS_21], folder=tmp_path / "plant", asset_ca=ca, bastion="10.61.16.10") as plant:
        port = plant.ports[BMS_21.name]
        (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{port} {plant.host_keys[BMS_21.name]}\n")
        asset = Asset(tmp_path, port)
        asset.sign("-n", ACCOUNT)
        assert b"Permission denied" in asset.ssh("whoami").stderr


def test_bytes_pass_unchanged_and_exit_codes_are_a_shells(asset: Asset) -> None:
    asset.sign("-n", ACCOUNT)
    sent = bytes(range(256)) * 512 + secrets.token_bytes(100_000)
    assert asset.ssh("cat", stdin=sent).stdout == sent
    assert asset.ssh("sha256sum", stdin=sent).stdout == f"{sha256(sent).hexdigest()}  -\n".encode()
    assert asset.ssh("exit 7").returncode == 7
    unknown = asset.ssh("rm -rf /")
    assert (unknown.returncode, unknown.stderr) == (127, b"sh: rm: not found\n")
    assert asset.ssh("show 'cells").returncode == 2
    piped = asset.ssh(stdin=b"hostname\nnothing\n")
    assert (piped.returncode, piped.stdout) == (127, f"{BMS_21.name}\n".encode())


def test_files_of_the_unit_are_its_own_and_no_others(asset: Asset, tmp_path: Path) -> None:
    asset.sign("-n", ACCOUNT)
    assert asset.ssh("ls").stdout == b"events.log\n"
    assert BMS_21.serial.encode() in asset.ssh("cat events.log").stdout
    assert asset.ssh("cat ../../ca").returncode == 1
    options = ["IdentitiesOnly=yes", "IdentityAgent=none", f"UserKnownHostsFile={tmp_path / 'known_hosts'}"]
    command = ["sftp", "-q", "-F", "none", "-i", str(tmp_path / "key"), "-P", str(asset.port), "-b", "-"]
    command += [word for option in options for word in ("-o", option)]
    for name, status in (("events.log", 0), ("/../../ca", 1)):
        done = subprocess.run(
            [*command, f"{ACCOUNT}@127.0.0.1"],
            input=f"get {name} {tmp_path / 'got'}\n".encode(),
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == status, done
    assert BMS_21.serial in (tmp_path / "got").read_text()
