"""More time while working, and rights that are taken away: what an owner or an admin decides reaches real ssh within a second."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta

import httpx2
import pytest

from broker.domain.session import EndReason
from tests.e2e.site import BOX, CLOCK, HAZARD, OWNER, PASSWORD, SECOND_OWNER, Plant, Template, read_until, wait_until

DUE_S = 1.0


@pytest.fixture(scope="module")
def site(template: Template) -> Iterator[Plant]:
    with Plant(template, warn_before_s="[1.0]", fresh_proof_s="3600") as running:
        yield running


def test_an_extension_asked_for_while_working_carries_the_session_on_and_tells_it(site: Plant) -> None:
    who = site.newcomer("longer")
    grant = site.let_in(BOX, engineer=who, length=timedelta(seconds=25))
    with site.running_ssh(BOX, "echo in; cat", engineer=who) as child:
        read_until(child, b"in\n")
        session = site.last_session()
        # A live certificate opens the console without a code: the engineer asks from a second terminal while working.
        asked = site.ssh(who, f'extend {grant.id} --for 6s --reason "one more cell" --json', engineer=who)
        request = json.loads(asked.stdout)["id"]
        assert site.live()[0]["id"] == session.id
        approved = site.json("approve", request, "--as", OWNER, "--totp", site.code(OWNER))
        began = CLOCK.monotonic_us()
        said = read_until(child, b"this session now ends in", stderr=True, within_s=DUE_S)
        assert CLOCK.monotonic_us() - began < DUE_S * 1e6
        assert re.search(rb"this session now ends in \d+ s, at \d\d:\d\d UTC", said)
        end = grant.interval.closes + timedelta(seconds=6)
        wait_until(lambda: CLOCK.now() > grant.interval.closes + timedelta(seconds=2), within_s=40, what="the old end")
        assert child.stdin is not None
        child.stdin.write(b"still here\n")
        read_until(child, b"still here\n")
        read_until(child, b"ask again with: request", stderr=True, within_s=20)
        child.wait(10)
        late_s = (CLOCK.now() - end).total_seconds()
    assert -1.0 < late_s < 2.0
    ended = site.wait_ended(session.id)
    assert ended.end_reason is EndReason.TIME_UP
    assert ended.ended_at is not None
    assert abs((ended.ended_at - end).total_seconds()) <= DUE_S
    [entry] = [one for one in site.entries("grant.extended") if one["extends"] == grant.id]
    assert entry["grant_id"] == approved["grant"]


def test_an_extension_beyond_the_window_is_refused_in_one_line(site: Plant) -> None:
    who = site.newcomer("beyond")
    site.let_in(BOX, engineer=who)
    weeks_ahead = site.grant(BOX, engineer=who, opens=CLOCK.now() + timedelta(days=29))
    refused = site.ssh(who, f'extend {weeks_ahead.id} --for 13d --reason "x"', engineer=who)
    assert (refused.returncode, refused.stdout, refused.stderr.count(b"\n")) == (1, b"", 1)
    assert b"no commissioning window covers it" in refused.stderr


def login(site: Plant, client: httpx2.Client, handle: str) -> None:
    fields = {"handle": handle, "password": PASSWORD, "code": site.code(handle), "after": "/"}
    assert client.post("/login", data=fields).status_code == 303


def test_a_right_that_is_taken_away_ends_what_its_owner_may_do_on_open_pages_and_voids_their_first_yes(
    site: Plant,
) -> None:
    who = site.newcomer("hazardous")
    site.let_in(BOX, engineer=who)
    asked = site.ssh(who, f'request {HAZARD} --for 1h --reason "x" --json', engineer=who)
    request = json.loads(asked.stdout)["id"]
    with httpx2.Client(base_url=site.web, headers={"sec-fetch-site": "same-origin"}, timeout=20) as client:
        login(site, client, SECOND_OWNER)
        page = client.get(f"/requests/{request}").text
        token = re.search(r'name="token" value="([^"]+)"', page)
        assert token is not None
        yes = {"token": token[1], "version": "1", "asset": HAZARD, "capability": ["shell", "exec"]}
        assert client.post(f"/requests/{request}/approve", data=yes).status_code == 303
        changed = site.json("person", "rights", SECOND_OWNER, "--add", "auditor@plant", "--remove", "owner@plant")
        assert (changed["roles"], changed["void"]) == (["auditor@plant"], [request])
        assert client.post(f"/requests/{request}/approve", data=yes).status_code in (403, 409)
        with site.running_ssh(BOX, "echo in; cat", engineer=who) as child:
            read_until(child, b"in\n")
            session = site.last_session()
            killing = {"token": token[1], "reason": "it is enough"}
            assert client.post(f"/sessions/{session.id}/kill", data=killing).status_code in (403, 404)
            assert [one["id"] for one in site.live() if one["person"] == who] == [session.id]
        site.json("person", "rights", SECOND_OWNER, "--add", "owner@plant", "--remove", "auditor@plant")
    first = site.json("approve", request, "--as", OWNER, "--totp", site.code(OWNER))
    assert first["state"] == "pending", "the yes that was void does not come back with the right"
    second = site.json("approve", request, "--as", SECOND_OWNER, "--totp", site.code(SECOND_OWNER))
    assert second["state"] == "approved"
    assert [one["request_id"] for one in site.entries("approval.voided")] == [request]
