"""A CA's key changes under a running site, and the signer goes away under it: through stock ssh and Debian's sshd."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.peers import account
from broker.openssh import parse_certificate_line
from tests.e2e.site import BOX, ENGINEER, PROGRAM, Plant, Template, read_until, sshd_with, wait_until
from tests.e2e.test_attacks import part

LIFE_S = 12


def signer_of(plant: Plant) -> str:
    """The fingerprint of the key that signed the engineer's certificate."""
    return parse_certificate_line(plant.certificate(ENGINEER).read_text()).signer.fingerprint


def gets_in(plant: Plant) -> bool:
    return plant.ssh(BOX, "echo in", options=["-o", "BatchMode=yes"]).stdout == b"in\n"


def test_both_gate_keys_open_the_door_until_the_last_old_certificate_is_dead(template: Template) -> None:
    with Plant(template, certificate_life_s=str(LIFE_S)) as plant:
        stolen = plant.folder / "stolen"
        shutil.copy(plant.home.ca_key("gate"), stolen)
        grant = plant.let_in()
        old = signer_of(plant)
        with plant.running_ssh(BOX, "echo up; exec cat") as child:
            read_until(child, b"up\n")
            done = plant.json("ca", "rotate", "gate")
            assert (done["state"], done["old"]) == ("rotated", old)
            assert gets_in(plant), "at once, by the certificate of the old key"
            assert [one["state"] for one in plant.json("ca", "show", "gate")["public_keys"]] == ["current", "old"]
            plant.certify(grant)
            assert signer_of(plant) == done["new"]
            assert gets_in(plant), "and by the one of the new key, without a restart"
            wait_until(lambda: plant.entries("ca.retired") != [], within_s=LIFE_S + 5, what="the end of the old key")
            assert child.stdin is not None
            child.stdin.write(b"goes on\n")
            read_until(child, b"goes on\n")
        assert [one["key"] for one in plant.entries("ca.retired")] == [old]
        assert [one["fingerprint"] for one in plant.json("ca", "show", "gate")["public_keys"]] == [done["new"]]
        plant.certify(grant)
        assert gets_in(plant)
        resign(plant, stolen)
        assert not gets_in(plant)
        wait_until(lambda: f"the retired gate CA key {old} was refused" in plant.log.read_text(), what="the line")


def resign(plant: Plant, key: Path) -> None:
    """The engineer's certificate as it is, signed by another key."""
    found = parse_certificate_line(plant.certificate(ENGINEER).read_text())
    public = plant.folder / "resigned.pub"
    public.write_text(found.key.line + "\n")
    span = f"{found.valid_after:%Y%m%d%H%M%SZ}:{found.valid_before:%Y%m%d%H%M%SZ}"
    command = ["ssh-keygen", "-q", "-s", str(key), "-I", found.key_id, "-n", ",".join(found.principals), "-V", span]
    command += ["-z", str(found.serial), "-O", "clear", "-O", "permit-pty", "-O", "source-address=127.0.0.1"]
    subprocess.run([*command, str(public)], check=True, timeout=30, capture_output=True)
    shutil.copy(plant.folder / "resigned-cert.pub", plant.certificate(ENGINEER))


def test_assets_that_were_told_beforehand_take_the_new_key_from_the_first_session_on(
    plant: Plant, template: Template, tmp_path: Path
) -> None:
    trusted = tmp_path / "trusted"
    trusted.write_text(plant.cli("ca", "show", "asset").stdout)
    with sshd_with(template, tmp_path, f"TrustedUserCAKeys={trusted}") as (port, log):
        login = plant.add_asset("told", port, template.host_key.read_text())
        plant.let_in(login)
        assert plant.ssh(login, "whoami").stdout.decode().strip() == account()
        new = plant.json("ca", "rotate", "asset", "--prepare")["new"]
        trusted.write_text(plant.cli("ca", "show", "asset").stdout)
        assert plant.ssh(login, "whoami").returncode == 0
        assert new not in log.read_text()
        assert plant.json("ca", "rotate", "asset")["new"] == new
        assert plant.ssh(login, "whoami").stdout.decode().strip() == account()
        assert new in log.read_text(), "the asset's own word for it"


def test_a_running_bastion_shows_a_certificate_of_the_new_host_key(plant: Plant) -> None:
    plant.let_in()
    plant.cli("ca", "rotate", "host")
    both = plant.cli("ca", "show", "host", "--known-hosts").stdout.splitlines()
    assert [line.split()[0] for line in both] == ["@cert-authority"] * 2
    plant.known_hosts.write_text("\n".join(both) + "\n")
    assert gets_in(plant)
    plant.known_hosts.write_text(both[0] + "\n")
    wait_until(lambda: gets_in(plant), what="a certificate that the new key alone vouches for")


@contextmanager
def parts(template: Template) -> Iterator[tuple[Plant, list[str], ExitStack]]:
    """A site whose signer can be stopped by itself: the broker beside it, and what runs the signer again."""
    plant = Plant(template)
    run = [str(PROGRAM), "--home", str(plant.path), "serve", "--only"]
    with ExitStack() as stack:
        stack.callback(plant.__exit__)
        signer = stack.enter_context(ExitStack())
        signer.enter_context(part([*run, "signer"], plant.log))
        stack.enter_context(part([*run, "broker"], plant.log))
        plant.port = int(plant.home.ssh_address.read_text().rpartition(":")[2])
        yield plant, [*run, "signer"], signer


def test_without_the_signer_what_runs_goes_on_and_nothing_new_opens(template: Template) -> None:
    with parts(template) as (plant, run, signer):
        plant.let_in()
        with plant.running_ssh(BOX, "echo up; exec cat") as child:
            read_until(child, b"up\n")
            signer.close()
            assert child.stdin is not None
            child.stdin.write(b"still here\n")
            read_until(child, b"still here\n")
            asked = plant.ssh("gate", "cert", code=plant.code(ENGINEER), bare=True)
            assert (asked.returncode, asked.stdout) == (75, b"")
            assert asked.stderr.splitlines() == [b"wicketgate: the signer does not answer; try again in a minute"]
            refused = plant.ssh(BOX, "echo in", options=["-o", "BatchMode=yes"])
            assert (refused.returncode, refused.stdout) == (255, b"")
            assert b"wicketgate: the signer does not answer; try again in a minute" in refused.stderr
            signer.enter_context(part(run, plant.log))
            assert gets_in(plant)
            fetched = plant.ssh("gate", "cert", code=plant.code(ENGINEER), bare=True)
            assert (fetched.returncode, fetched.stdout[:27]) == (0, b"ssh-ed25519-cert-v01@openss")
            child.stdin.write(b"and still\n")
            read_until(child, b"and still\n")
