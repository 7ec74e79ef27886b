"""Frozen and unfrozen: input stops at once and for good, output goes on, and a stream that waited has no hole."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from broker.domain.capability import EXEC, SFTP_READ, SFTP_WRITE, SHELL
from broker.domain.session import Session
from recorder.format import Code
from tests.e2e.recorded import marks, said
from tests.e2e.site import BOX, OWNER, PASSWORD, Plant, Template, read_until, wait_until
from tests.e2e.terminal import Terminal
from tests.e2e.test_ends import no_database, post


@pytest.fixture(scope="module")
def site(template: Template) -> Iterator[Plant]:
    with Plant(template, fresh_proof_s="3600") as running:
        yield running


@pytest.fixture(scope="module")
def web(site: Plant) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=site.web, headers={"sec-fetch-site": "same-origin"}, timeout=20) as client:
        fields = {"handle": OWNER, "password": PASSWORD, "code": site.code(OWNER), "after": "/"}
        assert client.post("/login", data=fields).status_code == 303
        yield client


def newcomer(site: Plant, name: str) -> str:
    engineer = site.newcomer(f"{name}-{os.urandom(2).hex()}")
    site.let_in(BOX, engineer=engineer, capabilities=frozenset({SHELL, EXEC, SFTP_READ, SFTP_WRITE}))
    return engineer


def recorded(site: Plant, session: Session, stream: str) -> Path:
    return next(site.home.recordings.rglob(f"{session.id}/{stream}*"))


def state_of(site: Plant, session: Session) -> str:
    return next(str(one["state"]) for one in site.live() if one["id"] == session.id)


# A program that goes on printing, and prints what it is given.
COUNT = (
    "stty -echo; echo up; (n=0; while n=$((n+1)); do echo tick $n; sleep 0.2; done) & "
    "while read -r line; do echo got $line; done"
)


def test_freeze_stops_input_keeps_output_and_unfreeze_resumes_without_what_was_typed_meanwhile(site: Plant) -> None:
    engineer = newcomer(site, "frozen")
    with Terminal(site, BOX, COUNT, engineer=engineer) as terminal:
        terminal.expect(b"up")
        session = site.last_session()
        terminal.type(b"before\n")
        terminal.expect(b"got before")
        site.cli("freeze", session.id, "--reason", "crane in the bay")
        assert state_of(site, session) == "frozen"
        terminal.type(b"during\n")
        terminal.type(b"and more\n")
        terminal.expect(b"tick")
        wait_until(lambda: "not passed on" in str(marks(recorded(site, session, "01.typed"))), what="the note of it")
        for _ in range(3):
            terminal.expect(b"tick")
        site.cli("unfreeze", session.id)
        terminal.type(b"after\n")
        terminal.expect(b"got after")
        assert b"during" not in terminal.seen
        assert b"more" not in terminal.seen
        told = [line for line in terminal.told() if "frozen" in line]
        assert [line.partition("] ")[2] for line in told] == [
            "input is frozen: crane in the bay; what you type is not passed on",
            "input is no longer frozen",
        ]
        terminal.process.terminate()
    site.wait_ended(session.id)
    screen, keys = recorded(site, session, "01.screen"), recorded(site, session, "01.typed")
    noted = [next(iter(one)) for one in marks(screen) if {"frozen", "unfrozen"} & one.keys()]
    assert noted == ["frozen", "unfrozen"]
    assert said(keys, Code.IN) == b"before\nafter\n"
    assert "".join(one["not passed on"] for one in marks(keys)) == "during\nand more\n"
    site.cli("verify", session.id)
    for kind, fields in (
        ("session.frozen", {"reason": "crane in the bay", "door": "cli"}),
        ("session.unfrozen", {"door": "cli"}),
    ):
        [entry] = [one for one in site.entries(kind) if one["session_id"] == session.id]
        assert fields.items() <= entry.items()


def test_a_stream_waits_while_it_is_frozen_and_arrives_whole(site: Plant) -> None:
    engineer = newcomer(site, "stream")
    data = os.urandom(3_000_000)
    with site.running_ssh(BOX, "echo up >&2; sha256sum", engineer=engineer) as child:
        assert child.stdin is not None
        read_until(child, b"up\n", stderr=True)
        session = site.last_session()
        site.cli("freeze", session.id)
        sender = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=child.stdin)
        child.stdin.close()
        assert sender.stdin is not None
        sender.stdin.write(data[:60_000])
        sender.stdin.flush()
        before = said(recorded(site, session, "01.typed"), Code.IN)
        assert before == b""
        site.cli("unfreeze", session.id)
        sender.stdin.write(data[60_000:])
        sender.stdin.close()
        assert read_until(child, b"-\n").split()[0].decode() == hashlib.sha256(data).hexdigest()
        assert (sender.wait(10), child.wait(10)) == (0, 0)


def test_an_upload_goes_on_after_a_freeze_and_the_file_is_whole(site: Plant, tmp_path: Path) -> None:
    engineer = newcomer(site, "upload")
    near, far = tmp_path / "near", tmp_path / "far"
    near.write_bytes(os.urandom(20_000_000))
    # -l: in kbit/s, so that the freeze comes in the middle of it.
    command = site.ssh_command(
        BOX, str(near), f"{BOX}@127.0.0.1:{far}", engineer=engineer, program="scp", options=["-l", "64000"]
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=site.environment()) as child:
        wait_until(lambda: far.exists() and far.stat().st_size > 0, what="the first bytes")
        session = site.last_session()
        site.cli("freeze", session.id)
        sizes: list[int] = []

        def stands() -> bool:
            sizes.append(far.stat().st_size)
            return len(sizes) > 20 and len(set(sizes[-20:])) == 1

        wait_until(stands, what="the standstill")
        assert child.poll() is None
        assert sizes[-1] < near.stat().st_size
        site.cli("unfreeze", session.id)
        assert child.wait(30) == 0, child.stderr
    assert far.read_bytes() == near.read_bytes()


def test_freeze_works_with_the_database_gone_and_is_kept_when_it_is_back(site: Plant) -> None:
    engineer = newcomer(site, "gone")
    with Terminal(site, BOX, COUNT, engineer=engineer) as terminal:
        terminal.expect(b"up")
        session = site.last_session()
        with no_database(site):
            site.cli("freeze", session.id, "--reason", "smoke")
            terminal.type(b"during\n")
            terminal.expect(b"tick")
            assert state_of(site, session) == "frozen"
            site.cli("unfreeze", session.id)
            terminal.type(b"between\n")
            terminal.expect(b"got between")
            site.cli("freeze", session.id, "--reason", "smoke again")
        wait_until(
            lambda: len([one for one in site.entries("session.frozen") if one["session_id"] == session.id]) == 2,
            within_s=30,
            what="the entries",
        )
        assert state_of(site, session) == "frozen", "facts written late change nothing"
        assert [one["state"] for one in site.json("sessions") if one["id"] == session.id] == ["frozen"]
        assert b"during" not in terminal.seen


def test_an_owner_freezes_and_unfreezes_in_the_web_without_scripts(site: Plant, web: httpx2.Client) -> None:
    engineer = newcomer(site, "web")
    with Terminal(site, BOX, COUNT, engineer=engineer) as terminal:
        terminal.expect(b"up")
        session = site.last_session()
        page = f"/sessions/{session.id}"
        post(web, page, "freeze")
        wait_until(lambda: state_of(site, session) == "frozen", within_s=1.5, what="the freeze")
        assert "Unfreeze the session" in web.get(page).text
        assert web.post(f"{page}/unfreeze", data={"reason": ""}).status_code == 403, "a form without its token"
        assert state_of(site, session) == "frozen"
        post(web, page, "unfreeze")
        wait_until(lambda: state_of(site, session) == "live", within_s=1.5, what="the unfreeze")
        terminal.type(b"after\n")
        terminal.expect(b"got after")
        assert f"input is frozen: by {OWNER}" in terminal.stderr()


@pytest.mark.parametrize("words", [("freeze", "ses-none"), ("unfreeze", "ses-none")])
def test_freezing_what_is_not_there_says_so(site: Plant, words: tuple[str, str]) -> None:
    done = site.cli(*words, status=3)
    assert "no live session" in done.stderr
    assert len(done.stderr.splitlines()) == 1
