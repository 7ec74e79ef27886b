"""The units are what systemd takes, share one sandbox, and leave each process only its own job (law 9)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import isolation
from broker.domain.isolation import Ladder
from broker.isolation import Kept
from broker.settings import Home

UNITS = Path(__file__).parents[2] / "systemd"
SERVICES = ("broker", "signer", "approval", "recorder")
EXPOSURE_MAX = 1.5
HOME = "var/lib/wicketgate"
# What one process needs and another must not have; all other directives of the sandbox are the same in all four.
# fmt: off
OWN = frozenset({
    "Type", "WatchdogSec", "Restart", "RestartSec", "TimeoutStopSec", "TimeoutStartSec", "KillMode", "Nice",
    "IOSchedulingClass", "ExecStart", "User", "Group", "SupplementaryGroups", "ReadWritePaths",
    "ReadOnlyPaths", "InaccessiblePaths", "PrivateUsers", "PrivateNetwork", "RestrictAddressFamilies",
    "IPAddressAllow", "LimitNOFILE", "MemoryMax", "TasksMax", "UMask",
})
# fmt: on


def service(name: str) -> list[tuple[str, str]]:
    """The directives of a unit's [Service], in order."""
    text = (UNITS / f"wicketgate-{name}.service").read_text().split("\n[Service]\n")[1].split("\n[Install]\n")[0]
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(key, value) for key, _, value in (line.partition("=") for line in lines)]


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units with a program that every machine has, for verify looks whether it is there."""
    folder = tmp_path_factory.mktemp("units")
    for path in UNITS.glob("wicketgate*"):
        (folder / path.name).write_text(path.read_text().replace("/opt/wicketgate/bin/wicketgate", "/bin/true"))
    return folder


def run(*command: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, **(env or {})}, check=False
    )


def exposure(path: Path) -> float:
    """What systemd-analyze makes of a unit. Raises ValueError when it makes nothing of it."""
    told = run("systemd-analyze", "security", "--offline=yes", "--no-pager", str(path)).stdout
    if (found := re.search(r"Overall exposure level for \S+: ([0-9.]+)", told)) is None:
        raise ValueError(told)
    return float(found[1])


def test_systemd_takes_every_unit_without_a_word(copies: Path) -> None:
    units = sorted(str(path) for path in copies.iterdir())
    assert len(units) == 7
    done = run("systemd-analyze", "verify", *units, env={"SYSTEMD_UNIT_PATH": f"{copies}:"})
    ours = [line for line in done.stderr.splitlines() if "wicketgate" in line]  # the machine's own units are not ours
    assert (ours, done.returncode) == ([], 0)


def test_a_misspelt_directive_would_be_seen(copies: Path, tmp_path: Path) -> None:
    text = (copies / "wicketgate-signer.service").read_text()
    bad = tmp_path / "wicketgate-signer.service"
    bad.write_text(text.replace("ProtectHome=", "ProtectHouse="))
    assert "ProtectHouse" in run("systemd-analyze", "verify", str(bad)).stderr


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_little_exposed(name: str, copies: Path) -> None:
    assert exposure(copies / f"wicketgate-{name}.service") <= EXPOSURE_MAX


def test_a_service_without_its_sandbox_would_be_seen(tmp_path: Path) -> None:
    bare = tmp_path / "bare.service"
    bare.write_text("[Service]\nExecStart=/bin/true\nUser=nobody\n")
    assert exposure(bare) > EXPOSURE_MAX


def test_the_four_share_one_sandbox() -> None:
    shared = {name: [pair for pair in service(name) if pair[0] not in OWN] for name in SERVICES}
    assert len(shared["broker"]) >= 25
    assert all(one == shared["broker"] for one in shared.values())


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_runs_the_installed_program_as_its_own_account(name: str) -> None:
    told = dict(service(name))
    assert told["User"] == told["Group"] == f"wicketgate-{name}"
    assert told["ExecStart"] == f"/opt/wicketgate/bin/wicketgate --home /{HOME} serve --only {name}"


@pytest.mark.parametrize("name", ["broker", "signer", "approval"])
def test_a_daemon_says_when_it_is_ready_and_is_watched(name: str) -> None:
    told = dict(service(name))
    assert (told["Type"], told["WatchdogSec"], told["Restart"]) == ("notify", "30", "always")


def test_law_9_the_signer_has_no_network_and_its_callers_keep_their_names() -> None:
    told = dict(service("signer"))
    assert (told["RestrictAddressFamilies"], told["PrivateNetwork"]) == ("AF_UNIX", "yes")
    # In a user namespace SO_PEERCRED gives 65534 for every other account, and the signer would refuse the broker.
    assert told["PrivateUsers"] == "no"


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A small root with our accounts and home in it, made by systemd's own tools."""
    if os.getuid() != 0:
        pytest.skip("accounts and owners are made by root")
    folder = Path(tempfile.mkdtemp(prefix="wicketgate-root-"))
    folder.chmod(0o755)  # other accounts must be able to pass through, as they are at /
    (folder / "etc").mkdir()
    try:
        for tool in (["systemd-sysusers"], ["systemd-tmpfiles", "--create"]):
            kind = "sysusers.d" if tool == ["systemd-sysusers"] else "tmpfiles.d"
            done = run(*tool, f"--root={folder}", str(UNITS / kind / "wicketgate.conf"))
            assert done.returncode == 0, done.stderr
        init(folder / HOME)
        done = run("systemd-tmpfiles", "--create", f"--root={folder}", str(UNITS / "tmpfiles.d" / "wicketgate.conf"))
        assert (done.returncode, done.stderr) == (0, "")
        yield folder
    finally:
        shutil.rmtree(folder)


def init(home: Path) -> None:
    """The files that `wicketgate init` leaves, as root makes them."""
    for name in ("settings.toml", "database/wicketgate.db", "keys/ca/gate.pub", "keys/host/ssh_host_ed25519_key.pub"):
        (home / name).write_text("public")
        (home / name).chmod(0o644)
    isolation.write(Home(home), Kept(Ladder()))
    for name in (
        "keys/ca/gate",
        "keys/ca/asset",
        "keys/ca/host",
        "keys/host/ssh_host_ed25519_key",
        "keys/seal/seal.key",
    ):
        (home / name).write_text("secret")
        (home / name).chmod(0o600)


def may(root: Path, account: str, test: str, path: str) -> bool:
    """Whether an account of that root, with the groups its unit gives it, passes test(1) -r, -w or -x on a path."""
    uids = {line.split(":")[0]: int(line.split(":")[2]) for line in (root / "etc/passwd").read_text().splitlines()}
    gids = {line.split(":")[0]: int(line.split(":")[2]) for line in (root / "etc/group").read_text().splitlines()}
    told = dict(service(account))
    done = subprocess.run(
        ["/bin/sh", "-c", f'test {test} "$1"', "sh", str(root / HOME / path)],
        user=uids[told["User"]],
        group=gids[told["Group"]],
        extra_groups=[gids[name] for name in told["SupplementaryGroups"].split()],
        timeout=10,
        check=False,
        cwd="/",
    )
    return done.returncode == 0


READERS = {
    "settings.toml": {"broker", "signer", "approval", "recorder"},
    "keys/ca/gate": {"signer"},
    "keys/ca/asset": {"signer"},
    "keys/ca/host": {"signer"},
    "keys/ca/gate.pub": {"broker", "signer", "approval", "recorder"},
    "keys/host/ssh_host_ed25519_key": {"broker"},
    "keys/seal/seal.key": {"broker", "approval"},
    "database/wicketgate.db": {"broker", "signer", "approval", "recorder"},
    "isolation.json": {"broker", "signer", "approval", "recorder"},
    "recordings": {"broker", "approval", "recorder"},
    "run": {"broker", "signer", "approval"},
}
WRITERS = {
    ".": set[str](),
    "settings.toml": set[str](),
    "keys": set[str](),
    "keys/ca": set[str](),
    "keys/ca/gate.pub": {"signer"},
    "keys/host": set[str](),
    "keys/host/ssh_host_ed25519_key-cert.pub": {"broker"},
    "keys/seal": set[str](),
    "keys/seal/seal.key": set[str](),
    "database": {"broker", "signer", "approval", "recorder"},
    "database/wicketgate.db": {"broker", "signer", "approval", "recorder"},
    "isolation": {"broker"},
    "recordings": {"broker"},
    "run": {"broker", "signer", "approval"},
}


@pytest.mark.parametrize("path", READERS)
def test_law_9_only_those_whose_job_it_is_may_read(root: Path, path: str) -> None:
    assert {name for name in SERVICES if may(root, name, "-r", path)} == READERS[path]


@pytest.mark.parametrize("path", WRITERS)
def test_law_9_only_those_whose_job_it_is_may_write(root: Path, path: str) -> None:
    assert {name for name in SERVICES if may(root, name, "-w", path)} == WRITERS[path]


def test_what_is_made_in_the_shared_folders_belongs_to_the_shared_group(root: Path) -> None:
    home = root / HOME
    assert (home / "database").stat().st_mode & 0o7777 == 0o2770
    assert (home / "run").stat().st_mode & 0o7777 == 0o3770
