"""Where a CA key may be: a file of the home, a credential of the service manager, an agent, a PKCS#11 token behind one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.cli.checks import QUESTIONS
from broker.domain.errors import BrokerError, Code
from broker.openssh import parse_certificate_line, parse_public_key
from broker.settings import Settings
from broker.signer import agent
from broker.signer.keys import SigningKeys, host_key_line
from broker.signer.signing import Order, sign
from tests.e2e.site import wait_until
from tests.signer.makers import NOON, Deployment, fresh_key
from tests.signer.test_socket import granted, running

PIN = "1234"
MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")


@contextmanager
def ssh_agent(folder: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A real agent: its socket, and the environment in which ssh-add speaks to it."""
    socket = folder / "agent.sock"
    tokens = folder / "tokens"
    tokens.mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\n")
    pin = folder / "pin"
    pin.write_text(f"#!/bin/sh\necho {PIN}\n")
    pin.chmod(0o700)
    environment = {**os.environ, "SOFTHSM2_CONF": str(folder / "softhsm2.conf"), "SSH_AUTH_SOCK": str(socket)}
    environment |= {"SSH_ASKPASS": str(pin), "SSH_ASKPASS_REQUIRE": "force"}
    command = ["ssh-agent", "-D", "-a", str(socket), "-P", f"{MODULE.resolve()},{MODULE}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as child:
        try:
            wait_until(socket.exists, what="the agent")
            yield socket, environment
        finally:
            child.terminate()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a Unix socket's may not be long."""
    path = Path(tempfile.mkdtemp(prefix="wg-"))
    yield path
    shutil.rmtree(path)


def run(*command: str, env: dict[str, str]) -> None:
    subprocess.run(command, env=env, check=True, capture_output=True, timeout=30)


def an_order() -> Order:
    return Order(
        purpose="gate",
        serial=7,
        key_line=fresh_key(),
        key_id="wicketgate engineer.one grt-00000000",
        principals=("engineer.one",),
        valid_after=NOON,
        valid_before=NOON.replace(hour=13),
        source_address=None,
    )


def put_in_agent(place: Deployment, name: str, private: Path, environment: dict[str, str]) -> None:
    """The agent alone has the CA's key from here on."""
    run("ssh-add", str(private), env=environment)
    shutil.copyfile(private.with_name(private.name + ".pub"), place.home.ca_key(name).with_name(f"{name}.pub"))
    place.home.ca_key(name).unlink()


@pytest.mark.parametrize(("kind", "bits"), [("ed25519", "256"), ("ecdsa", "256"), ("ecdsa", "384"), ("rsa", "3072")])
def test_an_agents_key_signs_whatever_kind_it_is(place: Deployment, folder: Path, kind: str, bits: str) -> None:
    with ssh_agent(folder) as (socket, environment):
        private = folder / "ca"
        run("ssh-keygen", "-q", "-t", kind, "-b", bits, "-N", "", "-f", str(private), env=environment)
        put_in_agent(place, "gate", private, environment)
        key = SigningKeys(place.home, Settings(ca_agent=str(socket)), {}).of("gate")
        found = parse_certificate_line(sign(key, an_order()))
        assert found.signer.line == parse_public_key(private.with_suffix(".pub").read_text()).line


async def test_the_signer_signs_with_an_agents_key_and_says_in_a_line_when_it_cannot(
    place: Deployment, folder: Path
) -> None:
    grant = granted(place)
    asked = {"grant": grant.id, "key": place.key_line, "person": place.engineer.id, "source": "192.0.2.7"}
    with ssh_agent(folder) as (socket, environment):
        ca = parse_public_key(place.home.ca_key("gate").with_name("gate.pub").read_text())
        for name in ("gate", "gate.pub"):
            shutil.copy(place.home.ca_key("gate").with_name(name), folder)
        put_in_agent(place, "gate", folder / "gate", environment)
        place.settings = Settings(ca_agent=str(socket))
        async with running(place) as client:
            assert parse_certificate_line(await client.gate(**asked)).signer.blob == ca.blob  # type: ignore[arg-type]
            run("ssh-add", "-D", env=environment)
            with pytest.raises(BrokerError) as told:
                await client.gate(**asked)  # type: ignore[arg-type]
            assert told.value.code is Code.UNAVAILABLE
            assert told.value.detail == f"ca_agent {socket} does not sign with {ca.fingerprint}; load that key into it"
            assert await client.host(host_key_line(place.home)), "the other keys are files"
    with pytest.raises(BrokerError, match="cannot be asked"):
        agent.holds(socket, ca)


def test_a_pkcs_11_tokens_key_signs_through_the_agent(place: Deployment, folder: Path) -> None:
    """SoftHSM2 in place of a hardware token; the key was made elsewhere only because ssh-keygen can make none in it."""
    with ssh_agent(folder) as (socket, environment):
        private = folder / "ca"
        run(
            "ssh-keygen", "-q", "-t", "ecdsa", "-b", "256", "-N", "", "-m", "PKCS8", "-f", str(private), env=environment
        )
        token = ["softhsm2-util", "--token", "wicketgate", "--pin", PIN]
        run(*token, "--init-token", "--free", "--label", "wicketgate", "--so-pin", PIN, env=environment)
        run(*token, "--import", str(private), "--label", "gate", "--id", "01", env=environment)
        private.unlink()
        run("ssh-add", "-s", str(MODULE), env=environment)
        place.home.ca_key("gate").unlink()
        shutil.copyfile(private.with_suffix(".pub"), place.home.ca_key("gate").with_name("gate.pub"))
        ca = parse_public_key(private.with_suffix(".pub").read_text())
        assert agent.holds(socket, ca)
        key = SigningKeys(place.home, Settings(ca_agent=str(socket)), {}).of("gate")
        line = sign(key, an_order())
        assert parse_certificate_line(line).signer.blob == ca.blob
        (folder / "made-cert.pub").write_text(line)
        shown = subprocess.run(
            ["ssh-keygen", "-L", "-f", folder / "made-cert.pub"], capture_output=True, text=True, check=True, timeout=30
        )
        assert f"Signing CA: ECDSA {ca.fingerprint}" in shown.stdout


def test_a_credential_comes_before_the_file_of_the_home(place: Deployment, folder: Path) -> None:
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "ca-gate"), env=dict(os.environ))
    keys = SigningKeys(place.home, Settings(), {"CREDENTIALS_DIRECTORY": str(folder)})
    sealed = parse_public_key((folder / "ca-gate.pub").read_text())
    assert parse_certificate_line(sign(keys.of("gate"), an_order())).signer.blob == sealed.blob
    assert parse_certificate_line(sign(keys.of("asset"), an_order())).signer.blob != sealed.blob
    place.home.ca_key("asset").unlink()
    with pytest.raises(BrokerError, match=r"the asset CA key .* is missing"):
        keys.of("asset")


def test_doctor_asks_the_agent_for_the_key_and_says_which_is_missing(place: Deployment, folder: Path) -> None:
    [ask] = [one.ask for one in QUESTIONS if one.name == "gate CA key"]
    with ssh_agent(folder) as (socket, environment):
        settings = Settings(ca_agent=str(socket))
        ca = parse_public_key(place.home.ca_key("gate").with_name("gate.pub").read_text())
        assert ask(place.home, settings) == str(place.home.ca_key("gate"))
        run("ssh-add", str(place.home.ca_key("gate")), env=environment)
        place.home.ca_key("gate").unlink()
        assert ask(place.home, settings) == f"{ca.fingerprint} in {socket}"
        run("ssh-add", "-D", env=environment)
        with pytest.raises(BrokerError) as told:
            ask(place.home, settings)
        assert told.value.detail == f"the gate CA key {ca.fingerprint} is not in ca_agent {socket}; load it there"


def test_doctor_sees_a_credential_that_only_the_signer_sees(
    place: Deployment, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [ask] = [one.ask for one in QUESTIONS if one.name == "gate CA key"]
    shutil.copy(place.home.ca_key("gate"), folder / "ca-gate")
    place.home.ca_key("gate").unlink()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    assert ask(place.home, place.settings) == f"{folder / 'ca-gate'}, a credential"
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(BrokerError, match=r"the gate CA key .* is missing; restore it"):
        ask(place.home, place.settings)
