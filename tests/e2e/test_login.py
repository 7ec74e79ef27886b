"""The way in: an enrolled key and then one code, or a certificate alone; no third way, and nothing to learn from outside."""

from __future__ import annotations

import re
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import asyncssh
import httpx2
import pytest
from asyncssh.packet import String, UInt32

from benchmarks.peers import make_key
from broker import desk
from broker.store import credentials, people
from tests.e2e.site import BOX, CLOCK, ENGINEER, PASSWORD, Plant, Template, wait_until

VERBOSE = ["-v", "-o", "NumberOfPasswordPrompts=1"]
NO_CODE = ["-v", "-o", "BatchMode=yes"]
INFO_RESPONSE = 61  # RFC 4256
WAITS_S = (1, 2, 4, 8)


@pytest.fixture(scope="module")
def guarded(template: Template) -> Iterator[Plant]:
    """A plant at whose door many fail: more failures from one address than a real site would bear."""
    with Plant(template, tries_per_source="200") as running:
        yield running


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    return done.stderr.decode()


def refusals(plant: Plant, handle: str) -> list[dict[str, Any]]:
    """The ledger's entries of this person's refused logins."""
    with plant.db.read() as tx:
        whose = people.require(tx, handle).id
    return [one for one in plant.entries("login.refused") if one["person_id"] == whose]


def log_in_on_the_web(plant: Plant, handle: str, code: str, password: str = PASSWORD) -> int:
    """The status of one try at the web door; 303 lets in."""
    fields = {"handle": handle, "password": password, "code": code, "after": "/"}
    with httpx2.Client(base_url=plant.web, headers={"sec-fetch-site": "same-origin"}, timeout=20) as client:
        return int(client.post("/login", data=fields).status_code)


def wrong(code: str) -> str:
    """A code that this is not."""
    return f"{(int(code) + 1) % 1_000_000:06d}"


def counted_answers(plant: Plant, folder: Path, code: str) -> tuple[dict[str, str], Path]:
    """The environment of a client that keeps count of how often it is asked for a code."""
    count, asked = folder / "count", folder / "asked"
    count.write_text(f"#!/bin/sh\necho asked >> {asked}\nprintf '%s\\n' \"$CODE\"\n")
    count.chmod(0o700)
    asked.write_text("")
    return plant.environment(code) | {"SSH_ASKPASS": str(count)}, asked


# The two ways in
def test_a_key_and_then_one_code_let_in_over_one_connection(guarded: Plant) -> None:
    newcomer = guarded.newcomer("kim")
    done = guarded.ssh("gate", "whoami", code=guarded.code(newcomer), engineer=newcomer, options=VERBOSE)
    assert done.returncode == 0, said(done)
    assert done.stdout.decode().startswith("kim (kim, firm-of-kim), in by key+code from 127.0.0.1")
    assert 'Authenticated using "publickey" with partial success.' in said(done)
    assert re.search(r'Authenticated to \S+ .*using "keyboard-interactive"', said(done))
    given = [one for one in guarded.entries("login.given") if one["factors"] == "key+code"]
    assert given[-1]["key"] in said(done)
    assert said(done).count("Connecting to") == 1


def test_a_certificate_alone_lets_in_and_asks_for_no_code(shared: Plant) -> None:
    done = shared.ssh(BOX, "echo in", options=NO_CODE)
    assert (done.returncode, done.stdout) == (0, b"in\n"), said(done)
    assert 'using "publickey"' in said(done)
    assert "partial success" not in said(done)
    assert shared.entries("login.given")[-1]["factors"] == "certificate"


def test_the_banner_is_told_before_any_proof(template: Template) -> None:
    with Plant(template, site_banner='"Kestrel: authorised only."') as plant:
        done = plant.ssh("gate", "whoami", options=["-o", "PubkeyAuthentication=no", "-o", "BatchMode=yes"])
        assert said(done).startswith("Kestrel: authorised only.\r\n"), said(done)
        assert done.returncode == 255


# What does not let in
@pytest.mark.parametrize("login", ["gate", BOX])
def test_a_key_alone_opens_nothing(guarded: Plant, login: str) -> None:
    before = len(guarded.entries("login.given"))
    done = guarded.ssh(login, "whoami", options=NO_CODE)
    assert (done.returncode, done.stdout) == (255, b"")
    assert "Permission denied (keyboard-interactive)." in said(done)
    assert len(guarded.entries("login.given")) == before


def test_a_code_alone_opens_nothing(guarded: Plant) -> None:
    done = guarded.ssh("gate", "whoami", code=guarded.code(ENGINEER), options=["-o", "PubkeyAuthentication=no"])
    assert (done.returncode, done.stdout) == (255, b"")
    assert "Permission denied (publickey)." in said(done)


def test_a_certificate_for_another_login_name_opens_nothing(shared: Plant) -> None:
    done = shared.ssh("other.plant", "true", options=NO_CODE)
    assert (done.returncode, done.stdout) == (255, b"")
    assert "Permission denied" in said(done)


def test_a_certificate_opens_nothing_to_whoever_has_another_key(shared: Plant, tmp_path: Path) -> None:
    own = make_key(tmp_path / "thief")
    shared.keys["thief"] = own
    stolen = ["-o", f"CertificateFile={shared.certificate()}", *NO_CODE]
    done = shared.ssh(BOX, "true", engineer="thief", options=stolen)
    assert (done.returncode, done.stdout) == (255, b"")
    assert "Permission denied (publickey)." in said(done)


def test_a_wrong_code_is_refused_and_kept_as_evidence(guarded: Plant) -> None:
    newcomer = guarded.newcomer("lee")
    done = guarded.ssh("gate", "whoami", code=wrong(guarded.code(newcomer)), engineer=newcomer, options=VERBOSE)
    assert (done.returncode, done.stdout) == (255, b"")
    assert "Permission denied (keyboard-interactive)." in said(done)
    assert [(one["door"], one["why"], one["source"]) for one in refusals(guarded, newcomer)] == [
        ("ssh", "wrong code", "127.0.0.1")
    ]


@pytest.mark.parametrize("odd", ["", "1", "12345", "1234567", "１２３４５６", "abcdef", "12 456", "-12345", "9" * 5000])
def test_what_is_no_code_is_refused_like_a_wrong_one(guarded: Plant, odd: str) -> None:
    newcomer = guarded.newcomer(f"odd{len(odd)}-{abs(hash(odd)) % 10**8}")
    done = guarded.ssh("gate", "whoami", code=odd, engineer=newcomer, options=VERBOSE)
    assert (done.returncode, done.stdout) == (255, b"")
    assert [one["why"] for one in refusals(guarded, newcomer)] == ["wrong code"]


def test_a_connection_is_closed_after_three_answers(guarded: Plant, tmp_path: Path) -> None:
    newcomer = guarded.newcomer("max")
    environment, asked = counted_answers(guarded, tmp_path, wrong(guarded.code(newcomer)))
    command = guarded.ssh_command("gate", "whoami", engineer=newcomer, options=["-o", "NumberOfPasswordPrompts=9"])
    done = subprocess.run(command, capture_output=True, timeout=30, check=False, env=environment)
    assert (done.returncode, done.stdout) == (255, b"")
    assert asked.read_text().count("asked") == 3
    assert re.search(r"(?i)disconnect|connection (closed|reset)", said(done)), said(done)


# A code is spent once, over all doors
def test_a_code_lets_in_over_ssh_once(guarded: Plant) -> None:
    newcomer = guarded.newcomer("nia")
    code = guarded.code(newcomer)
    assert guarded.console("whoami", engineer=newcomer, code=code).startswith("nia ")
    again = guarded.ssh("gate", "whoami", code=code, engineer=newcomer, options=VERBOSE)
    assert (again.returncode, again.stdout) == (255, b"")
    assert [one["why"] for one in refusals(guarded, newcomer)] == ["wrong code"]


def test_a_code_spent_on_the_web_is_refused_over_ssh_and_the_other_way_round(plant: Plant) -> None:
    first = plant.code(ENGINEER)
    assert log_in_on_the_web(plant, ENGINEER, first) == 303
    done = plant.ssh("gate", "whoami", code=first, options=VERBOSE)
    assert (done.returncode, done.stdout) == (255, b"")
    wait_until(lambda: is_rested(plant, ENGINEER), what="the wait after one failure")
    second = plant.code(ENGINEER)
    plant.console("whoami", code=second)
    assert log_in_on_the_web(plant, ENGINEER, second) != 303
    assert [(one["door"], one["why"]) for one in refusals(plant, ENGINEER)] == [("ssh", "wrong code"), ("web", "code")]


def is_rested(plant: Plant, handle: str) -> bool:
    """Whether the wait after one failed try is over."""
    return bool(CLOCK.now().timestamp() * 1000 > refusals(plant, handle)[-1]["at_ms"] + 1100)


# The lock
def test_five_failures_over_all_doors_lock_with_growing_waits_also_after_a_restart(plant: Plant) -> None:
    handle = ENGINEER

    def fail(door: str) -> None:
        if door == "ssh":
            plant.ssh("gate", "whoami", code="not it", options=VERBOSE)
        else:
            log_in_on_the_web(plant, handle, "not it")

    def failures() -> list[dict[str, Any]]:
        return [one for one in refusals(plant, handle) if one["why"] != "locked"]

    def fails(door: str, number: int) -> bool:  # tries while the wait lasts are refused unjudged, and do not count
        fail(door)
        return len(failures()) == number

    for number, door in enumerate(("ssh", "web", "ssh", "web", "ssh"), 1):
        wait_until(partial(fails, door, number), within_s=30, what=f"failure {number}")
    doors = [one["door"] for one in failures()]
    assert doors == ["ssh", "web", "ssh", "web", "ssh"]
    with plant.db.read() as tx:
        tried = credentials.tries_of_person(tx, people.require(tx, handle).id, after=tx.now - timedelta(hours=1))
    gaps = [later.tried_at - earlier.tried_at for earlier, later in pairwise(reversed(tried))]
    assert all(gap >= timedelta(seconds=wait_s) for gap, wait_s in zip(gaps, WAITS_S, strict=True)), gaps
    good = plant.code(handle)
    assert plant.ssh("gate", "whoami", code=good, options=VERBOSE).returncode == 255
    assert log_in_on_the_web(plant, handle, good) != 303
    plant.stop()
    plant.start()
    assert plant.ssh("gate", "whoami", code=good, options=VERBOSE).returncode == 255
    assert log_in_on_the_web(plant, handle, good) != 303
    assert [one["why"] for one in refusals(plant, handle)][-4:] == ["locked"] * 4
    # Whoever has not shown the first factor is told nothing of it, and nobody else is locked out.
    newcomer = plant.newcomer("free")
    locked = plant.ssh("gate", "whoami", options=NO_CODE)
    free = plant.ssh("gate", "whoami", engineer=newcomer, options=NO_CODE)
    assert told(locked) == told(free)
    assert plant.console("whoami", engineer=newcomer).startswith("free ")


def told(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    """What the server says to a client during login, without what differs by the key itself."""
    kept = "Authenticat|Server accepts|disconnect|Permission denied|closed|banner|Next auth"
    lines = [line.strip() for line in said(done).splitlines() if re.search(kept, line)]
    return [re.sub(r"SHA256:\S+|/\S+|\[?127\.0\.0\.1\]?:\d+|\S+@127\.0\.0\.1", "...", line) for line in lines]


# Unknown, known and disabled people look alike
def test_who_is_known_shows_only_behind_a_good_signature(guarded: Plant, tmp_path: Path) -> None:
    known, disabled, unknown = guarded.newcomer("seen"), guarded.newcomer("gone"), "nobody"
    guarded.keys[unknown] = make_key(tmp_path / unknown)
    with guarded.db.begin() as tx:
        desk.disable_person(tx, handle=disabled, by="test")

    def offer(whose: str, *, signed: bool) -> subprocess.CompletedProcess[bytes]:
        key = guarded.keys[whose]
        if not signed:  # the public half alone: the client can offer it and cannot sign
            lone = tmp_path / f"{whose}-lone"
            lone.write_text(key.with_suffix(".pub").read_text())
            guarded.keys[f"{whose}-lone"] = lone
            whose = f"{whose}-lone"
        return guarded.ssh("gate", "whoami", engineer=whose, options=NO_CODE)

    offers = [told(offer(whose, signed=False)) for whose in (known, disabled, unknown)]
    assert offers[0] == offers[1] == offers[2]
    assert any("Server accepts key" in line for line in offers[0]), offers[0]
    signed = [told(offer(whose, signed=True)) for whose in (disabled, unknown)]
    assert signed[0] == signed[1]
    assert signed[0][-1].endswith("Permission denied (publickey).")
    assert "keyboard-interactive" in " ".join(told(offer(known, signed=True)))
    times_us: dict[str, list[int]] = {disabled: [], unknown: []}
    for _ in range(9):  # in turn, so that the machine's load falls on both
        for whose, kept in times_us.items():
            begun_us = CLOCK.monotonic_us()
            offer(whose, signed=True)
            kept.append(CLOCK.monotonic_us() - begun_us)
    one, other = (statistics.median(kept) for kept in times_us.values())
    assert 0.6 < one / other < 1.7, times_us


# One answer to a challenge, one name a connection: clients that stock ssh is not
class Greedy(asyncssh.SSHClient):
    """Answers one challenge many times at once."""

    def __init__(self, answers: Sequence[str]) -> None:
        self._answers = answers
        self._conn: Any = None

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self._conn = conn

    def kbdint_auth_requested(self) -> str:
        return ""

    def kbdint_challenge_received(self, name: str, instructions: str, lang: str, prompts: Any) -> list[str]:
        for answer in self._answers[:-1]:
            self._conn.send_packet(INFO_RESPONSE, UInt32(1), String(answer))
        return [self._answers[-1]]


def options(plant: Plant, engineer: str, **changed: Any) -> dict[str, Any]:
    """How a hand-made client connects to the plant."""
    how: dict[str, Any] = {"host": "127.0.0.1", "port": plant.port, "known_hosts": None, "agent_path": None}
    how |= {"username": "gate", "config": None, "client_keys": [str(plant.keys[engineer])], "gss_host": None}
    return how | changed


async def test_many_answers_to_one_challenge_close_the_connection_and_the_first_at_most_is_judged(
    guarded: Plant,
) -> None:
    newcomer = guarded.newcomer("greta")
    good = guarded.code(newcomer)
    answers = [wrong(good), *[good] * 20]
    # Its words, or the socket closed under a client that still writes: which of them comes first is the kernel's to say.
    with pytest.raises((asyncssh.DisconnectError, ConnectionError)) as told:
        await asyncssh.connect(**options(guarded, newcomer, client_factory=lambda: Greedy(answers)))
    assert isinstance(told.value, ConnectionError) or "too many answers" in str(told.value)
    # A try that the server began is finished by then or soon; one that is counted asks for a wait.
    wait_until(lambda: guarded.ssh("gate", code=good, engineer=newcomer, bare=True).returncode == 0, within_s=20)
    assert [one["why"] for one in refusals(guarded, newcomer) if one["why"] != "locked"] in ([], ["wrong code"])
    with guarded.db.read() as tx:
        whose = people.require(tx, newcomer).id
    assert len([one for one in guarded.entries("login.given") if one["person_id"] == whose]) == 1  # not spent before


async def test_several_answers_in_one_are_refused(guarded: Plant) -> None:
    newcomer = guarded.newcomer("hugo")
    good = guarded.code(newcomer)

    class Double(Greedy):
        def kbdint_challenge_received(self, name: str, instructions: str, lang: str, prompts: Any) -> list[str]:
            return [good, good]

    with pytest.raises((asyncssh.Error, OSError)):
        await asyncssh.connect(**options(guarded, newcomer, client_factory=lambda: Double([good])))
    assert guarded.console("whoami", engineer=newcomer, code=good).startswith("hugo ")


class TwoNames(asyncssh.SSHClient):
    """Proves its key under one login name and goes on under another."""

    def __init__(self, second: str) -> None:
        self._second = second
        self._conn: Any = None

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self._conn = conn

    def kbdint_auth_requested(self) -> str:
        self._conn._username = self._second
        return ""

    def kbdint_challenge_received(self, name: str, instructions: str, lang: str, prompts: Any) -> list[str]:
        raise AssertionError("a second login name was asked for a code")


@pytest.mark.parametrize("second", ["other", BOX])
async def test_a_second_login_name_closes_the_connection(guarded: Plant, second: str) -> None:
    with pytest.raises(asyncssh.DisconnectError, match="one login name per connection"):
        await asyncssh.connect(**options(guarded, ENGINEER, client_factory=lambda: TwoNames(second)))


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "root",
        "ｇａｔｅ",
        "ga\u00adte",
        "gate\u200b",
        "GATE",
        "gаte",
        "none",
        "x" * 161,
        "x" * 2000,
        "a\nb",
        "-v",
    ],
)
async def test_no_login_name_lets_in_by_itself(guarded: Plant, name: str) -> None:
    class Raw(asyncssh.SSHClient):
        def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
            conn._username = name  # as it stands, past the client's own preparation

    before = len(guarded.entries("login.given"))
    with pytest.raises(asyncssh.DisconnectError):
        await asyncssh.connect(**options(guarded, ENGINEER, client_factory=Raw, client_keys=[]))
    assert len(guarded.entries("login.given")) == before


async def test_nothing_opens_between_the_key_and_the_code(guarded: Plant) -> None:
    """A client that takes the partial success for the whole: its channel is never opened."""

    class Hasty(Greedy):
        def kbdint_challenge_received(self, name: str, instructions: str, lang: str, prompts: Any) -> list[str]:
            fields = String("session"), UInt32(0), UInt32(2**21), UInt32(2**15)
            self._conn._auth_complete = True  # or the client's own library would hold it back
            self._conn.send_packet(90, *fields)
            return ["000000"]

    before = len(guarded.entries("login.given"))
    with pytest.raises((asyncssh.Error, OSError)):
        await asyncssh.connect(**options(guarded, ENGINEER, client_factory=lambda: Hasty([""])))
    assert len(guarded.entries("login.given")) == before
    assert guarded.live() == []
