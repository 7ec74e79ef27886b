"""Enrolling by a one-time link: a key, a password, a phone; all or nothing, once."""

from __future__ import annotations

import base64
import html
import re
from datetime import timedelta
from urllib.parse import unquote

import httpx2
import pyotp
import pytest

from broker import desk, identity
from broker.enrolment import INVITATION_LIFE
from broker.store import people
from tests.approval.running import ENGINEER, OWNER, PASSWORD, Running, a_key_line
from tests.approval.test_deciding import alert_of

NEW = "another horse battery"


def invite(site: Running, handle: str = OWNER) -> str:
    with site.db.begin() as tx:
        return f"/enrol/{identity.invite(tx, handle=handle, by='test')}"


def seed_on(page: str) -> str:
    """The seed as the page spells it for a phone without a camera."""
    found = re.search(r'class="spelt">([A-Z2-7 ]+)<', page)
    assert found is not None
    return found[1].replace(" ", "")


def sealed_on(page: str) -> str:
    found = re.search(r'name="sealed" value="([^"]+)"', page)
    assert found is not None
    return html.unescape(found[1])


def fill(site: Running, page: str, **changed: str) -> dict[str, str]:
    code = pyotp.TOTP(seed_on(page)).at(site.clock.now())
    fields = {"sealed": sealed_on(page), "code": code, "key": a_key_line(), "password": NEW, "again": NEW}
    return fields | changed


def test_a_link_enrols_once_with_key_password_and_phone(site: Running) -> None:
    link, nobody = invite(site), site.stranger()
    earlier = site.client(OWNER)
    page = nobody.get(link).text
    assert "Owner One" in page
    assert "<svg" in page
    fields = fill(site, page)
    done = nobody.post(link, data=fields)
    assert done.status_code == 200
    assert "You are enrolled" in done.text
    assert earlier.get("/account").status_code == 303  # another factor: every session of before is over
    site.seed_of(OWNER, seed_on(page))
    with site.db.read() as tx:
        assert fields["key"] in {key.line for key in people.keys(tx, site.person(OWNER).id)}
    assert site.log_in(site.stranger(), OWNER, password=PASSWORD).status_code == 403
    assert (
        site.log_in(site.stranger(), OWNER, password=NEW, code=fields["code"]).status_code == 403
    )  # spent by enrolling
    site.clock.move(timedelta(minutes=1))
    assert site.log_in(site.stranger(), OWNER, password=NEW).status_code == 303
    for answer in (nobody.get(link), nobody.post(link, data=fields)):
        assert answer.status_code == 404
        assert "not valid, or no longer" in answer.text


def test_the_picture_and_the_letters_hold_the_same_seed(site: Running) -> None:
    link = invite(site)
    with site.db.read() as tx:
        person = identity.open_invitation(tx, link.removeprefix("/enrol/"))
    page = site.stranger().get(link).text
    drawn = identity.show_again(
        identity.Seal(bytes(range(32))), person, base64.urlsafe_b64decode(sealed_on(page)), issuer="wicketgate"
    )
    assert f"secret={seed_on(page)}" in unquote(drawn.totp_uri)
    assert seed_on(page) != seed_on(site.stranger().get(link).text)  # each look draws a new one; none is kept


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"code": "000000"}, "The code does not fit; is the phone&#39;s clock right?"),
        ({"code": ""}, "The code does not fit; is the phone&#39;s clock right?"),
        ({"again": "something else 12"}, "The two passwords differ."),
        ({"password": "short", "again": "short"}, "A password has 12 to 256 characters."),
        ({"password": "x" * 257, "again": "x" * 257}, "A password has 12 to 256 characters."),
        ({"key": "no key"}, ""),
        ({"key": "ssh-rsa AAAA"}, ""),
        ({"key": "-----BEGIN OPENSSH PRIVATE KEY-----"}, ""),
        ({"key": "", "password": "", "again": ""}, "Give a public key, a password, or both."),
    ],
    ids=lambda one: str(one)[:40],
)
def test_a_mistake_keeps_nothing_and_the_page_comes_back_with_the_same_seed(
    changed: dict[str, str], line: str, site: Running
) -> None:
    link, nobody = invite(site), site.stranger()
    page = nobody.get(link).text
    before = site.rows()
    answer = nobody.post(link, data=fill(site, page, **changed))
    assert answer.status_code == 400
    assert alert_of(answer)
    assert line in alert_of(answer)
    assert site.rows() == before
    assert seed_on(answer.text) == seed_on(page)
    assert nobody.post(link, data=fill(site, answer.text)).status_code == 200


@pytest.mark.parametrize("sealed", ["", "x", "AAAA", "another's"])
def test_a_seed_that_is_not_the_persons_own_is_refused(sealed: str, site: Running) -> None:
    nobody = site.stranger()
    other = nobody.get(invite(site, ENGINEER)).text
    link = invite(site)
    page = nobody.get(link).text
    before = site.rows()
    sent = sealed_on(other) if sealed == "another's" else sealed
    answer = nobody.post(link, data=fill(site, page, sealed=sent))
    assert answer.status_code == 400
    assert site.rows() == before


def test_a_link_lapses_and_a_newer_one_takes_its_place(site: Running) -> None:
    first, nobody = invite(site), site.stranger()
    second = invite(site)
    assert nobody.get(first).status_code == 404
    assert nobody.get(second).status_code == 200
    site.clock.move(INVITATION_LIFE)
    assert nobody.get(second).status_code == 404


def test_a_link_of_somebody_disabled_opens_nothing(site: Running) -> None:
    link = invite(site)
    with site.db.begin() as tx:
        desk.disable_person(tx, handle=OWNER, by="test")
    answer = site.stranger().get(link)
    assert answer.status_code in (404, 409)
    assert "<svg" not in answer.text


def test_another_site_cannot_enrol_in_somebodys_name(site: Running) -> None:
    link = invite(site)
    page = site.stranger().get(link).text
    before = site.rows()
    with httpx2.Client(
        base_url=site.url, headers={"sec-fetch-site": "cross-site", "origin": "https://e.example"}
    ) as evil:
        assert evil.post(link, data=fill(site, page)).status_code == 403
    assert site.rows() == before
