"""Every command once as it is meant, with the JSON that scripts rely on; the first steps by the installed program."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.clock import SystemClock
from tests.cli.deployment import HOUR, OWNER, Deployment, leaves, local, public_key, run_here, run_program

CLOCK = SystemClock()
LINK_IS_LOCAL = "wicketgate: this link works on this machine only; set web_origin\n"
LISTS = (
    "site list",
    "zone list plant",
    "vendor list",
    "asset list",
    "person list",
    "window list",
    "requests",
    "requests --state pending",
    "grants",
    "sessions",
    "recordings",
    "verify --all",
    "ledger show",
    "doctor",
)


def act(home: Path, line: str, *more: str, stdin: str = "") -> Any:
    """Run an act; it gives one object with id and state. The installed program where a shell's own ways may matter."""
    words = ("--home", str(home), *line.split(), *more, "--json")
    real = words[2] in ("init", "site", "enrol")
    done = run_program(*words, stdin=stdin) if real else run_here(*words, stdin=stdin.encode())
    assert (done.status, done.err) == (0, LINK_IS_LOCAL if words[2] == "invite" else ""), (line, done)
    told = done.json
    assert isinstance(told, dict)
    assert {"id", "state"} <= told.keys()
    return told


def test_a_site_is_set_up_with_the_program_alone(tmp_path: Path) -> None:
    home, key = tmp_path / "home", tmp_path / "key.pub"
    key.write_text(public_key() + " a comment\n")
    assert act(home, "init --ssh 127.0.0.1:2299 --web 127.0.0.1:8099") == {"id": str(home), "state": "made"}
    assert act(home, "migrate")["state"] == "current"
    assert act(home, "site add north --timezone Europe/London") == {"id": "north", "state": "added"}
    assert act(home, "zone add north ot") == {"id": "ot", "state": "added"}
    assert act(home, "vendor add cellmaker") == {"id": "cellmaker", "state": "added"}
    asset = "asset add bms.north --address 10.0.0.7:22 --account service --tcp 502,443 --class hazard --zone ot"
    assert act(home, asset, "--host-key", str(key)) == {"id": "bms.north", "state": "expected"}
    assert act(home, "asset state bms.north commissioned")["state"] == "commissioned"
    assert act(home, "asset pin bms.north", "--host-key", str(key))["state"] == "pinned"
    shown = act(home, "asset show bms.north")
    assert (shown["tcp"], shown["zone"], shown["class"], shown["accounts"]) == ([443, 502], "ot", "hazard", ["service"])
    assert act(home, "person add engineer-two --vendor cellmaker --name", "Ingenieurin Ä.") == {
        "id": "engineer-two",
        "state": "added",
    }
    assert act(home, "person add owner-two --role owner --site north --name Owner") == {
        "id": "owner-two",
        "state": "added",
    }
    invited = act(home, "invite owner-two")
    assert invited["link"] == f"http://127.0.0.1:8099/enrol/{invited['code']}"
    enrolled = act(home, "enrol engineer-two --password-stdin", "--key", str(key), stdin="correct horse battery\n")
    assert enrolled.keys() == {"id", "state", "handle", "totp_uri", "key_fingerprint"}
    assert enrolled["totp_uri"].startswith("otpauth://totp/wicketgate:engineer-two?secret=")
    assert enrolled["key_fingerprint"].startswith("SHA256:")
    window = act(home, "window open north --vendor cellmaker --from 2099-02-24 --until 2099-02-25T16:00:00+00:00")
    assert act(home, f"window close {window['id']}") == {"id": window["id"], "state": "closed"}
    assert act(home, "ca show host")["public_key"].startswith("ssh-ed25519 ")
    assert act(home, "ledger head")["id"] == act(home, "ledger verify")["id"] > 10
    assert (
        act(home, "person disable engineer-two")["state"]
        == act(home, "vendor disable cellmaker")["state"]
        == "disabled"
    )


@pytest.mark.parametrize(
    ("origin", "warned"),
    [
        ("", LINK_IS_LOCAL),
        ("http://localhost:8080", LINK_IS_LOCAL),
        ("https://[::1]", LINK_IS_LOCAL),
        ("https://127.0.0.1.gate.example", ""),
        ("https://gate.example", ""),
        ("https://192.0.2.7:8443", ""),
    ],
)
def test_an_invitation_that_works_on_this_machine_only_says_so(
    deployment: Deployment, origin: str, warned: str
) -> None:
    deployment.set(web_listen='"127.0.0.1:8099"', web_origin=f'"{origin}"')
    done = deployment.run("invite", OWNER)
    link, code = done.out.splitlines()
    assert (done.status, done.err) == (0, warned)
    assert link == f"{origin or 'http://127.0.0.1:8099'}/enrol/{code.removeprefix('code ')}"


def test_every_list_is_one_array_of_objects_with_an_id(shared: Deployment) -> None:
    for line in LISTS:
        done = shared.run(*line.split(), "--json")
        assert done.err == "", line
        assert isinstance(done.json, list), line
        assert all(isinstance(row, dict) and "id" in row for row in done.json), line
        assert line == "zone list plant" or done.json, line
        plain = shared.run(*line.split())
        assert (plain.status, "Traceback" in plain.err) == (done.status, False)


def test_every_command_that_lists_or_acts_speaks_json() -> None:
    mute = {words for words, command in leaves() if all("--json" not in one.opts for one in command.params)}
    assert mute == {("serve",), ("demo",), ("replay",)}  # these run; they give no document


def test_an_empty_list_is_an_empty_array_and_a_word_for_people(shared: Deployment) -> None:
    asked = ("recordings", "--since", local(CLOCK.now() + HOUR))
    assert (shared.run(*asked, "--json").out, shared.run(*asked, "--json").err) == ("[]\n", "")
    assert (shared.run(*asked).out, shared.run(*asked).err) == ("", "wicketgate: no recordings\n")


def test_times_in_lists_are_the_sites_with_offset(deployment: Deployment) -> None:
    request = deployment.run("requests", "--json").json[0]
    assert request["opens"] is None
    assert request["for_s"] == 7200
    assert "at approval" in deployment.run("requests").out
    with closing(sqlite3.connect(deployment.home.path / "wicketgate.db")) as db, db:
        db.execute("UPDATE site SET time_zone = 'Asia/Kolkata'")  # never UTC's offset, in summer or winter
    for listed, column in (
        ("window list", "closes"),
        ("requests", "submitted_at"),
        ("recordings", "opened_at"),
        ("sessions", "until"),
    ):
        rows = deployment.run(*listed.split(), "--json").json
        assert rows, listed
        assert {row[column][-6:] for row in rows} == {"+05:30"}, listed


def test_an_owner_approves_narrowed_denies_and_extends(deployment: Deployment) -> None:
    first, second, _ = deployment.template.requests
    owner = ("--as", OWNER, "--json", "--totp")
    until = CLOCK.now() + timedelta(minutes=30)
    done = deployment.run(
        *("approve", first, "--assets", "box.plant", "--capabilities", "shell", "--until", local(until)),
        *(*owner, deployment.code()),
    )
    assert (done.status, done.err, done.json.keys()) == (0, "", {"id", "state", "grant"}), done
    grant = next(row for row in deployment.run("grants", "--json").json if row["id"] == done.json["grant"])
    assert (grant["assets"], grant["capabilities"]) == (["box.plant"], "shell")
    assert grant["request"] == first
    denied = deployment.run("deny", second, "--reason", "not today", *owner, deployment.code())
    assert denied.json == {"id": second, "state": "denied"}
    longer = local(CLOCK.now() + timedelta(days=9))
    moved = deployment.run(
        "window", "extend", deployment.template.window, "--until", longer, "--reason", "rain", *owner, deployment.code()
    )
    assert moved.json == {"id": deployment.template.window, "state": "extended"}
    revoked = deployment.run("revoke", grant["id"], "--reason", "done early", "--json")
    assert revoked.json == {"id": grant["id"], "state": "revoked"}
    states = {row["id"]: row["state"] for row in deployment.run("requests", "--json").json}
    assert (states[first], states[second]) == ("approved", "denied")


def test_a_decided_request_is_not_decided_again(deployment: Deployment) -> None:
    request = deployment.template.requests[0]
    words = ("--as", OWNER, "--totp")
    assert deployment.run("deny", request, "--reason", "no", *words, deployment.code()).status == 0
    again = deployment.run("approve", request, *words, deployment.code())
    assert (again.status, again.out, again.err.count("\n")) == (1, "", 1)


@pytest.mark.parametrize(
    ("form", "holds"),
    [("cast", b'"version": 2'), ("cast3", b'"version":3'), ("text", b"cell 7: 3.31 V"), ("raw", b"3.31 V\r\n")],
)
def test_a_recording_is_exported_and_each_look_is_in_the_ledger(
    deployment: Deployment, tmp_path: Path, form: str, holds: bytes
) -> None:
    out, before = tmp_path / "out", deployment.rows()
    done = deployment.run("export", deployment.template.recording, "--format", form, "-o", str(out), "--json")
    assert done.json == {"id": deployment.template.recording, "state": "exported", "file": str(out)}
    assert holds.replace(b" ", b"") in out.read_bytes().replace(b" ", b"")
    assert deployment.new_entries(before) == ["recording.viewed"]


def test_a_replay_shows_the_screen_and_nothing_typed(deployment: Deployment) -> None:
    done = deployment.program("replay", deployment.template.recording, "--speed", "1000")
    assert (done.status, done.err) == (0, "")
    assert "cell 7: 3.31 V" in done.out
    assert "show 7" not in done.out


def test_the_host_ca_is_printed_ready_for_known_hosts(shared: Deployment) -> None:
    line = shared.run("ca", "show", "host", "--known-hosts").out
    key = (shared.path / "keys/ca/host.pub").read_text().split()[1]
    assert line == f"@cert-authority 127.0.0.1 ssh-ed25519 {key}\n"
    assert [len(shared.run("ca", "show", name).out.splitlines()) for name in ("gate", "asset", "host")] == [1, 1, 1]
