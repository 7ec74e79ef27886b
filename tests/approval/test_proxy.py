"""Behind a proxy: whose address counts and is written down, and that no header decides what is https (AUT-4, WEB-5, WEB-8)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from approval import logins
from broker.store import ledger
from tests.approval.running import OWNER, PASSWORD, SECOND_OWNER, Running, Template

HERE, CLIENT, OTHER = "127.0.0.1", "203.0.113.7", "203.0.113.8"
PAGES = "https://gate.example"


@pytest.fixture
def proxied(template: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A site whose proxy is this machine."""
    monkeypatch.setattr(logins, "NO_AFTER_S", 0.0)
    with Running(template, tmp_path / "home", origin=PAGES, proxy=HERE) as site:
        yield site


def through(site: Running, *forwarded: str) -> httpx2.Client:
    """A stranger's browser as the proxy hands its requests on; one header each."""
    client = site.stranger()
    client.headers |= {"host": "gate.example", "origin": PAGES}
    named = [*client.headers.multi_items(), *(("x-forwarded-for", one) for one in forwarded)]
    client.headers = httpx2.Headers(named)
    return client


def source_in_the_ledger(site: Running, client: httpx2.Client) -> object:
    """The source that the ledger has of a refused login."""
    assert site.log_in(client, "nobody.here", code="123456").status_code == 403
    with site.db.read() as tx:
        last = ledger.show(tx, last=1)[-1]
    assert last.kind == "login.refused"
    return last.body["source"]


@pytest.mark.parametrize(
    ("forwarded", "source"),
    [
        ((CLIENT,), CLIENT),
        (("2001:DB8::0:7",), "2001:db8::7"),
        ((f"::ffff:{CLIENT}",), CLIENT),
        ((f"{OTHER}, 10.0.0.1 ,\t{CLIENT}",), CLIENT),
        ((OTHER, CLIENT), CLIENT),
        (("<b>, ::1, " + CLIENT,), CLIENT),
        (("fe80::1%<b>",), "fe80::1"),
        ((), HERE),
        (("",), HERE),
        ((f"{CLIENT},",), HERE),
        ((f"{CLIENT}, unknown",), HERE),
        ((CLIENT, "gate.example"), HERE),
        ((f"{CLIENT}:443",), HERE),
        (("0xcb007107",), HERE),
        (("9" * 4000,), HERE),
    ],
    ids=ascii,
)
def test_of_what_the_named_proxy_says_the_last_address_counts(
    proxied: Running, forwarded: tuple[str, ...], source: str
) -> None:
    assert source_in_the_ledger(proxied, through(proxied, *forwarded)) == source


@pytest.mark.parametrize("proxy", ["", "127.0.0.2", "::1", CLIENT])
def test_nobody_but_the_named_proxy_is_believed(template: Template, tmp_path: Path, proxy: str) -> None:
    with Running(template, tmp_path / "home", origin=PAGES, proxy=proxy) as site:
        assert source_in_the_ledger(site, through(site, CLIENT)) == HERE


def test_failures_of_one_address_lock_nobody_out_at_another(proxied: Running) -> None:
    for guess in range(proxied.settings.tries_per_source):
        attacker = through(proxied, f"198.51.100.{guess}, {CLIENT}")  # what is left of the last value changes nothing
        assert proxied.log_in(attacker, "nobody.here", code="123456").status_code == 403
    assert proxied.log_in(through(proxied, CLIENT), OWNER).status_code == 403
    with proxied.db.read() as tx:
        assert ledger.show(tx, last=1)[-1].body["why"] == "locked"
    assert proxied.log_in(through(proxied, OTHER), OWNER).status_code == 303
    assert proxied.log_in(through(proxied), SECOND_OWNER).status_code == 303


def test_who_is_not_the_proxy_cannot_try_on_by_naming_other_addresses(
    template: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logins, "NO_AFTER_S", 0.0)
    with Running(template, tmp_path / "home", origin=PAGES) as site:
        for guess in range(site.settings.tries_per_source):
            assert site.log_in(through(site, f"198.51.100.{guess}"), "nobody.here", code="123456").status_code == 403
        assert site.log_in(through(site, OTHER), OWNER).status_code == 403
        with site.db.read() as tx:
            assert ledger.show(tx, last=1)[-1].body["why"] == "locked"


def test_the_session_of_a_forwarded_owner_names_the_owners_address(proxied: Running) -> None:
    client = through(proxied, CLIENT)
    answer = proxied.log_in(client, OWNER)
    secret = answer.cookies["__Host-wicketgate"]
    page = client.get("/account", headers={"cookie": f"__Host-wicketgate={secret}"})
    assert page.status_code == 200
    assert CLIENT in page.text


@pytest.mark.parametrize("said", ["http", "https"])
def test_the_origin_in_the_settings_and_no_header_decides_what_is_https(proxied: Running, said: str) -> None:
    forwarded = {"x-forwarded-proto": said, "x-forwarded-host": "evil.example", "forwarded": f"proto={said}"}
    client = through(proxied, CLIENT)
    client.headers |= forwarded
    answer = proxied.log_in(client, OWNER)
    assert answer.status_code == 303, answer.text
    name, *flags = answer.headers["set-cookie"].split(";")
    assert name.startswith("__Host-wicketgate=")
    assert {flag.strip().lower() for flag in flags} == {"secure", "httponly", "path=/", "samesite=lax"}
    assert answer.headers["strict-transport-security"] == "max-age=31536000"


def test_a_plain_site_stays_plain_whatever_a_header_says(site: Running) -> None:
    client = site.stranger()
    client.headers |= {"x-forwarded-proto": "https", "x-forwarded-host": "gate.example", "x-forwarded-for": CLIENT}
    answer = site.log_in(client, OWNER)
    assert answer.headers["set-cookie"].startswith("wicketgate=")
    assert "strict-transport-security" not in answer.headers


@pytest.mark.parametrize("host", ["gate.example", "listener"])
@pytest.mark.parametrize(
    ("origin", "site_said", "status"),
    [
        (PAGES, "same-origin", 303),
        (PAGES, "", 303),
        ("http://gate.example", "", 403),
        ("https://evil.example", "", 403),
        ("https://gate.example:8443", "", 403),
        (PAGES, "cross-site", 403),
        ("null", "", 403),
    ],
)
def test_forms_come_from_the_origin_in_the_settings(
    proxied: Running, host: str, origin: str, site_said: str, status: int
) -> None:
    """Whether the proxy keeps the Host header or puts the listener's in its place."""
    headers = {"host": proxied.url.removeprefix("http://") if host == "listener" else host, "origin": origin}
    headers |= {"sec-fetch-site": site_said} if site_said else {}
    fields = {"handle": OWNER, "password": PASSWORD, "after": "/", "code": proxied.code(OWNER)}
    with httpx2.Client(base_url=proxied.url, timeout=20, trust_env=False) as client:
        assert client.post("/login", data=fields, headers=headers).status_code == status


def test_another_host_name_is_not_served(proxied: Running) -> None:
    for host in ("evil.example", "gate.example:8443", "gate.example.evil.example"):
        answer = proxied.stranger().get("/login", headers={"host": host, "x-forwarded-host": "gate.example"})
        assert answer.status_code == 421
