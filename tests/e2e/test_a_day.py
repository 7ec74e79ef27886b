"""The whole story in one test: asked, approved, let in, recorded, ended by itself, replayed and verified."""

from __future__ import annotations

import json
import os
import re
import subprocess
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Browser, Page, expect

from benchmarks.peers import account, make_key
from tests.e2e.site import BOX, INVESTIGATOR, OWNER, PASSWORD, Plant, read_until, wait_until
from tests.e2e.terminal import Terminal

ENGINEER: Final = "newcomer.one"
REASON: Final = "cell 4 drifts after the firmware of Tuesday"
GRANT_S: Final = 30
PHONE: Final = {"width": 390, "height": 844}


def log_in(page: Page, plant: Plant, handle: str) -> None:
    """Password and a code from the phone, as a person types them."""
    page.goto(plant.web)
    page.get_by_label("Handle").fill(handle)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_label("Code from your phone").fill(plant.code(handle))
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_label("Password")).to_have_count(0)


def enrol(page: Page, plant: Plant, link: str) -> None:
    """By the invitation's link: the seed is read off the page, the key is pasted, the first code proves the phone."""
    page.goto(link)
    page.get_by_text("No camera?").click()
    plant.seeds[ENGINEER] = page.locator(".spelt").inner_text().replace(" ", "")
    page.get_by_label("The code it shows now").fill(plant.code(ENGINEER))
    page.get_by_label("Public key, one line").fill(plant.keys[ENGINEER].with_suffix(".pub").read_text())
    page.get_by_role("button", name="Enrol").click()
    expect(page.get_by_role("heading", name="You are enrolled")).to_be_visible()


def approve(page: Page, plant: Plant, request: str) -> None:
    """The owner reads who, what, why and when on a phone, takes time away and says yes."""
    log_in(page, plant, OWNER)
    page.get_by_role("link", name="Read and decide").click()
    page.wait_for_url(f"**/requests/{request}")
    text = page.locator("main").inner_text()
    for told in (
        ENGINEER,
        "cellmaker",
        BOX,
        "routine",
        REASON,
        "CHG-1042",
        "2 h",
        "Europe/London",
        "UTC",
        "shell",
        "exec",
    ):
        assert told in text, told
    assert "What else cellmaker has open here" in text
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.get_by_label("for", exact=True).fill(f"{GRANT_S}s")
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_text("approved").first).to_be_visible()


def config_of(plant: Plant, text: str, folder: Path) -> list[str]:
    """The lines that `config` printed, put where it says, and the options that make ssh read them from there."""
    _, _, rest = text.replace("~/.ssh/", f"{folder}/").partition(f"# {folder}/config\n")
    config, _, known_hosts = rest.partition(f"# {folder}/known_hosts\n")
    (folder / "config").write_text(config)
    (folder / "known_hosts").write_text(known_hosts)
    return ["-F", str(folder / "config"), "-o", f"UserKnownHostsFile={folder / 'known_hosts'}"]


def shown(certificate: Path) -> dict[str, list[str]]:
    """What ssh-keygen reads in a certificate: each field and its lines."""
    command = ["ssh-keygen", "-L", "-f", str(certificate)]
    told = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | {"TZ": "UTC"}).stdout
    fields: dict[str, list[str]] = {}
    name = ""
    for line in told.splitlines()[1:]:
        if line.startswith(" " * 16):
            fields[name].append(line.strip())
        else:
            name, _, value = line.strip().partition(":")
            fields[name] = [value.strip()] if value.strip() else []
    return fields


def check_certificate(certificate: Path, grant: dict[str, Any]) -> None:
    """Exactly this engineer at exactly this asset, from here, inside the grant, and nothing that forwards."""
    found = shown(certificate)
    assert found["Type"] == ["ssh-ed25519-cert-v01@openssh.com user certificate"]
    assert sorted(found["Principals"]) == sorted([ENGINEER, BOX])
    assert found["Critical Options"] == ["source-address 127.0.0.1/32"]
    assert found["Extensions"] == ["permit-pty"]
    assert found["Key ID"] == [f'"wicketgate {ENGINEER} {grant["grant_id"]}"']
    begins, ends = (datetime.fromisoformat(one + "+00:00") for one in re.findall(r"\d{4}-\S+", found["Valid"][0]))
    opens, closes = instant(grant["opens"]), instant(grant["closes"])
    assert opens.replace(microsecond=0) <= begins < ends <= closes
    assert closes - opens == timedelta(seconds=GRANT_S)


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def story(plant: Plant) -> list[str]:
    """The ledger since the engineer was added, told in a word or two an entry; the program's own asset certificates left out."""
    told = []
    for one in entries(plant):
        match one["kind"]:
            case "person.changed":
                told.append(f"person {one['act']}")
            case "login.given":
                told.append(f"{one['door']} login by {one['factors']}")
            case "recording.viewed":
                told.append(f"recording {one['how']} by {one['door']}")
            case "session.closed":
                told.append(f"session closed: {one['reason']}")
            case "channel.opened":
                told.append(f"{one['channel_kind']} opened")
            case "channel.refused":
                told.append(f"refused: {one['reason']}")
            case "certificate.issued":
                told.append(f"{one['purpose']} certificate")
            case kind:
                told.append(kind)
    begun = max(at for at, one in enumerate(told) if one == "person added")
    return told[begun:]


def entries(plant: Plant) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = plant.json("ledger", "show", "--last", "100000")
    return rows


def test_a_day_at_the_plant(plant: Plant, browser: Browser, tmp_path: Path) -> None:
    # The admin adds the engineer, who has nothing but OpenSSH and a phone, and enrols by the invitation's link.
    plant.cli("person", "add", ENGINEER, "--name", ENGINEER, "--vendor", "cellmaker")
    folder = tmp_path / "ssh"
    folder.mkdir(mode=0o700)
    plant.keys[ENGINEER] = make_key(folder / "id_ed25519")
    page = browser.new_page()
    enrol(page, plant, plant.json("invite", ENGINEER)["link"])
    page.close()

    # The engineer asks, and a running ssh waits for the answer.
    mux = ["-S", str(plant.folder / "gate.mux")]
    with plant.running_ssh(
        "gate", engineer=ENGINEER, code=plant.code(ENGINEER), options=["-M", "-N", *mux]
    ) as connection:
        wait_until(Path(mux[1]).exists, what="the connection to the console")
        line = f'request {BOX} --for 2h --reason "{REASON}" --change CHG-1042 --wait'
        with plant.running_ssh("gate", line, engineer=ENGINEER, options=mux) as waiting:
            request = read_until(waiting, b"leaves it standing", stderr=True).split()[0].decode()
            printed = plant.ssh("gate", "config", engineer=ENGINEER, options=mux).stdout.decode()

            # The owner approves on a phone, for less time than was asked.
            phone = browser.new_page(viewport=PHONE, is_mobile=True, has_touch=True)  # type: ignore[arg-type]
            approve(phone, plant, request)
            assert waiting.wait(20) == 0
            assert waiting.stdout is not None
            [grant] = plant.entries("grant.made")
            assert waiting.stdout.read().decode() == f"{request} is approved: {grant['grant_id']}\n"

        # A certificate, and lines for ssh_config that make everything else plain ssh.
        certificate = folder / "id_ed25519-cert.pub"
        certificate.write_bytes(plant.ssh("gate", "cert", engineer=ENGINEER, options=mux).stdout)
        check_certificate(certificate, grant)
        connection.terminate()
        connection.wait(10)
    options = config_of(plant, printed, folder)
    assert "StrictHostKeyChecking yes" in (folder / "config").read_text()
    ssh = ["ssh", *options, f"{BOX}@gate"]
    once = subprocess.run([*ssh, "echo $USER; exit 7"], capture_output=True, timeout=30, check=False, env=plain(plant))
    assert (once.returncode, once.stdout.decode()) == (7, f"{account()}\n"), once
    plant.wait_ended()
    with Terminal(plant, BOX, command=["ssh", "-tt", *options, f"{BOX}@gate"]) as terminal:
        terminal.type(b"PS1='box> '; clear; echo 'voltage of cell '$((2+2))' is 3.41 V'\n")
        terminal.expect(b"voltage of cell 4 is 3.41 V")
        session = plant.last_session()

        # The owner sees who is in.
        phone.goto(f"{plant.web}/sessions")
        row = phone.get_by_role("row").filter(has_text=BOX).first
        expect(row).to_contain_text(ENGINEER)
        phone.goto(f"{plant.web}/sessions/{session.id}")
        expect(phone.locator("p.over .state")).to_have_text("live")
        phone.close()

        # The grant ends by itself: a plain last line, the session closed within a second, no way back in.
        assert terminal.end(within_s=GRANT_S + 15) == 255
        closes = instant(grant["closes"])
        said = terminal.stderr().splitlines()
    last = [one for one in said if one.startswith("wicketgate: ")][-1]
    assert last == f"wicketgate: time is up ({closes:%H:%M:%S} UTC); ask again with: request"
    plant.wait_ended(session.id)
    closed = plant.entries("session.closed")[-1]
    late_ms = closed["at_ms"] - closes.timestamp() * 1000
    assert (closed["session_id"], closed["reason"]) == (session.id, "time is up")
    assert 0 <= late_ms <= 1000
    again = subprocess.run(
        [*ssh, "echo ran"], capture_output=True, timeout=60, check=False, env=plant.environment(plant.code(ENGINEER))
    )
    assert (again.returncode, again.stdout) == (255, b"")
    assert again.stderr.decode().splitlines()[-1] == "wicketgate: grant over; ask again with: request"

    # The investigator replays it in a browser and in a terminal, takes it away, and finds it intact.
    page = browser.new_page()
    log_in(page, plant, INVESTIGATOR)
    page.goto(f"{plant.web}/recordings/{session.id}")
    page.locator("#player .ap-overlay-start").click()
    expect(page.locator("#player")).to_contain_text("voltage of cell 4 is 3.41 V", timeout=30_000)
    page.close()
    assert "voltage of cell 4 is 3.41 V" in plant.cli("replay", session.id, "--speed", "1000", "--idle", "1s").stdout
    cast = tmp_path / "day.cast"
    plant.cli("export", session.id, "--format", "cast", "-o", str(cast))
    header, *events = [json.loads(one) for one in cast.read_text().splitlines()]
    assert header["version"] == 2
    assert "voltage of cell 4 is 3.41 V" in "".join(event[2] for event in events if event[1] == "o")
    assert all(row["state"].startswith("intact") for row in plant.json("verify", session.id))
    plant.cli("verify", "--all")
    plant.cli("ledger", "verify")

    # And the ledger has the whole day in order.
    told = story(plant)
    certificates = [one for one in told if one == "ssh login by certificate"]  # written beside what they open
    assert len(certificates) == 2
    assert [one for one in told if one != "ssh login by certificate"] == [
        "person added",
        "person invited",
        "person key added",
        "person enrolled",
        "ssh login by key+code",
        "request.submitted",
        "web login by password+code",
        "approval.given",
        "grant.made",
        "gate certificate",
        "session.opened",
        "exec opened",
        "asset certificate",
        "channel.closed",
        "session closed: done",
        "session.opened",
        "shell opened",
        "asset certificate",
        "channel.closed",
        "session closed: time is up",
        "ssh login by key+code",
        "refused: grant over",
        "web login by password+code",
        "recording replay by web",
        "recording replay by cli",
        "recording export by cli",
    ]


def plain(plant: Plant) -> dict[str, str]:
    """An environment in which nothing can be asked: whoever is let in, is so by the certificate alone."""
    return plant.environment() | {"SSH_ASKPASS": "/bin/false"}
