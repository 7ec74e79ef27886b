"""A CA's key is changed in steps: whatever ends the program in between, the home serves, and asking again finishes it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from broker.cli.checks import QUESTIONS
from broker.domain.errors import BrokerError, Code
from broker.openssh import PublicKey, parse_certificate_line
from broker.settings import Settings, write_settings
from broker.signer import rotation
from broker.signer.keys import SigningKeys, public_of
from broker.signer.signing import sign
from broker.signer.trusted import CaFiles, TrustedKeys
from broker.store import authorities, ledger
from tests.e2e.site import wait_until
from tests.signer.makers import HOUR, NOON, SOURCE, Deployment
from tests.signer.test_keys import an_order, put_in_agent, run, ssh_agent
from tests.signer.test_keys import folder as folder
from tests.signer.test_socket import granted, running

PROGRAM = Path(sys.executable).with_name("wicketgate")
DIES = """
import os, pathlib
left = [int(os.environ["DIES_AT"])]
def rename(path, target, really=pathlib.Path.rename):
    left[0] -= 1
    if left[0] < 0:
        os._exit(9)
    return really(path, target)
pathlib.Path.rename = rename
"""
"""A sitecustomize: the program is gone at its n-th rename, before it; nothing is tidied up."""


@pytest.fixture
def program(place: Deployment, tmp_path: Path) -> Path:
    """A folder in which the program dies when it is told to; the home has its settings."""
    (tmp_path / "sitecustomize.py").write_text(DIES)
    write_settings(place.home, {})
    return tmp_path


def wicketgate(place: Deployment, program: Path, *words: str, dies_at: int = 99) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(program), "DIES_AT": str(dies_at)}
    command = [str(PROGRAM), "--home", str(place.home.path), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def signs(place: Deployment, name: str = "gate") -> PublicKey:
    """The key that really signs, told by a certificate."""
    key = SigningKeys(place.home, Settings(), {}).of(name)
    return parse_certificate_line(sign(key, an_order())).signer


def rotations(place: Deployment) -> list[tuple[str, str]]:
    with place.db.read() as tx:
        return [(one.body["old"], one.body["new"]) for one in ledger.show(tx, kind="ca.rotated")]


def test_a_new_key_signs_and_the_old_one_is_shown_still(place: Deployment, program: Path) -> None:
    before, private = signs(place), place.home.ca_key("gate")
    done = wicketgate(place, program, "ca", "rotate", "gate")
    after = signs(place)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"gate CA: {after.fingerprint} signs from now on; nothing is left to do")
    assert after.fingerprint != before.fingerprint
    assert rotations(place) == [(before.fingerprint, after.fingerprint)]
    assert wicketgate(place, program, "ca", "show", "gate").stdout.splitlines() == [
        f"{after.line} wicketgate gate CA",
        f"{before.line} wicketgate gate CA",
    ]
    assert private.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in private.parent.glob("gate*")) == ["gate", "gate.old.pub", "gate.pub"]
    again = wicketgate(place, program, "ca", "rotate", "gate")
    assert again.returncode == 0
    assert [one.fingerprint for one in CaFiles(place.home, "gate").every()][1:] == [
        before.fingerprint,
        after.fingerprint,
    ]


@pytest.mark.parametrize("dies_at", range(5))
def test_wherever_it_is_cut_off_the_home_serves_and_asking_again_finishes_it(
    place: Deployment, program: Path, dies_at: int
) -> None:
    before = signs(place)
    assert wicketgate(place, program, "ca", "rotate", "gate", dies_at=dies_at).returncode == 9
    between = signs(place)
    trusted = TrustedKeys(CaFiles(place.home, "gate")).now()
    assert between.blob in {one.blob for one in trusted}, "what signs is accepted"
    assert before.blob in {one.blob for one in trusted}, "and so is what has signed"
    for question in QUESTIONS:
        if "gate CA" in question.name:
            question.ask(place.home, place.settings)  # nothing that would keep a process from starting
    assert wicketgate(place, program, "ca", "rotate", "gate").returncode == 0
    after = signs(place)
    assert CaFiles(place.home, "gate").current().blob == after.blob != before.blob
    assert rotations(place) == [(before.fingerprint, after.fingerprint)], "one fact, one entry"
    assert {one.blob for one in CaFiles(place.home, "gate").every()} == {before.blob, after.blob}
    assert [path.name for path in place.home.ca_key("gate").parent.glob("*new*")] == []


def test_a_key_that_is_prepared_is_shown_and_signs_only_when_it_is_told_to(place: Deployment, program: Path) -> None:
    before = signs(place, "asset")
    done = wicketgate(place, program, "ca", "rotate", "asset", "--prepare", "--json")
    assert (done.returncode, '"state": "prepared"' in done.stdout) == (0, True)
    assert signs(place, "asset").blob == before.blob
    shown = wicketgate(place, program, "ca", "show", "asset").stdout.splitlines()
    assert shown[0].split()[1] == before.line.split()[1]
    assert wicketgate(place, program, "ca", "rotate", "asset").returncode == 0
    assert signs(place, "asset").line.split()[1] == shown[1].split()[1]
    with place.db.read() as tx:
        assert len(ledger.show(tx, kind="ca.rotated")) == 1


def test_what_the_operator_has_to_do_for_a_key_held_elsewhere_is_one_line(
    place: Deployment, program: Path, folder: Path
) -> None:
    files = CaFiles(place.home, "gate")
    with ssh_agent(folder) as (socket, environment):
        place.home.settings_path.write_text(f'ca_agent = "{socket}"\n')
        for name in ("gate", "gate.pub"):
            shutil.copy(files.folder / name, folder)
        put_in_agent(place, "gate", folder / "gate", environment)
        before = files.current()
        refused = wicketgate(place, program, "ca", "rotate", "gate")
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
        assert f"write its public half to {files.next_public}" in refused.stderr
        run("ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", str(folder / "next"), env=environment)
        shutil.copy(folder / "next.pub", files.next_public)
        refused = wicketgate(place, program, "ca", "rotate", "gate")
        assert refused.returncode == 1
        assert "does not hold" in refused.stderr
        assert (files.current().blob, rotations(place)) == (before.blob, [])
        run("ssh-add", str(folder / "next"), env=environment)
        assert wicketgate(place, program, "ca", "rotate", "gate").returncode == 0
        key = SigningKeys(place.home, Settings(ca_agent=str(socket)), {}).of("gate")
        assert parse_certificate_line(sign(key, an_order())).signer.algorithm == "ecdsa-sha2-nistp256"
        assert [one.blob for one in files.every()] == [public_of(key).blob, before.blob]


def test_a_next_key_without_its_private_half_is_not_brought_in(place: Deployment, program: Path) -> None:
    rotation.prepare(place.home, "gate")
    files, before = CaFiles(place.home, "gate"), signs(place)
    files.next_private.unlink()
    refused = wicketgate(place, program, "ca", "rotate", "gate")
    assert (refused.returncode, "is missing; put it there" in refused.stderr) == (1, True)
    assert (signs(place).blob, rotations(place)) == (before.blob, [])


def test_a_damaged_list_of_old_keys_is_one_line(place: Deployment, program: Path) -> None:
    CaFiles(place.home, "gate").old.write_text("ssh-ed25519 !!!\n")
    shown = wicketgate(place, program, "ca", "show", "gate")
    assert (shown.returncode, shown.stderr.count("\n")) == (75, 1)
    assert "is damaged; restore it from your backup" in shown.stderr


def test_processes_that_run_keep_the_keys_they_know_when_the_files_cannot_be_read(place: Deployment) -> None:
    files = CaFiles(place.home, "gate")
    trusted = TrustedKeys(files)
    before = trusted.now()
    files.old.write_text("damaged\n")
    assert trusted.now() == before


async def test_the_running_signer_changes_over_and_retires_the_old_key_when_its_last_certificate_is_dead(
    place: Deployment, program: Path
) -> None:
    grant, before = granted(place), signs(place)
    asked = {"grant": grant.id, "key": place.key_line, "person": place.engineer.id, "source": SOURCE}

    def gone() -> frozenset[str]:
        with place.db.read() as tx:
            return authorities.retired(tx, "gate")

    async with running(place) as client:
        old = parse_certificate_line(await client.gate(**asked))  # type: ignore[arg-type]
        rotation.prepare(place.home, "gate")
        rotation.keep_old(place.home, "gate", frozenset())
        rotation.switch(place.home, "gate")
        new = parse_certificate_line(await client.gate(**asked))  # type: ignore[arg-type]
        assert old.signer.blob == before.blob != new.signer.blob
        assert [line.split()[1] for line in (await client.keys())["gate"].splitlines()] == [
            one.line.split()[1] for one in (new.signer, old.signer)
        ]
        place.clock.wall = old.valid_before - timedelta(seconds=1)
        await client.keys()
        assert gone() == frozenset()
        place.clock.wall = old.valid_before
        await asyncio.to_thread(wait_until, lambda: gone() == {before.fingerprint}, what="the end of the old key")
        assert [line.split()[1] for line in (await client.keys())["gate"].splitlines()] == [new.signer.line.split()[1]]
    assert old.valid_before == NOON + HOUR


def test_a_key_that_is_no_file_of_the_home_is_not_made_here(place: Deployment) -> None:
    place.home.ca_key("host").unlink()
    with pytest.raises(BrokerError) as told:
        rotation.prepare(place.home, "host")
    assert told.value.code is Code.CONFLICT
