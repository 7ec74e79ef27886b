"""What another site's page could make a browser send; what a foreign Host, a proxy's header or a stranger's bytes could do."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from typing import Final

import httpx2
import pytest

from approval import guard, serving
from approval.guard import Refused, check, origin_of
from broker import desk
from broker.domain.suspension import Scope
from tests.approval.running import OWNER, SECOND_OWNER, Running, token_in
from tests.approval.test_rights import ENTRIES
from tests.approval.visiting import Visit

HEADERS: Final = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
FOREIGN: Final = {
    "another site": {"sec-fetch-site": "cross-site", "origin": "https://evil.example"},
    "another port of this host": {"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:1"},
    "typed by hand, as no form is": {"sec-fetch-site": "none"},
    "another site, honest about it in one header only": {
        "sec-fetch-site": "same-origin",
        "origin": "https://evil.example",
    },
    "a sandboxed frame": {"sec-fetch-site": "same-origin", "origin": "null"},
    "an old browser on another site": {"origin": "https://evil.example"},
    "this host by another scheme": {"origin": "https://127.0.0.1"},
    "no word on where from": {},
}


@pytest.fixture(scope="module")
def acts(standing_site: Running) -> dict[str, dict[str, str | list[str]]]:
    """Every kind of act that is there to be forged, with fields that would do it."""
    asked, grant = standing_site.ask(), standing_site.grant()
    visit, other = Visit(standing_site), standing_site.grant()
    with standing_site.db.begin() as tx:
        shut_out = desk.suspend(tx, scope=Scope.GRANT, name=other.id, by="test", reason="stop", door="test")
    narrowed: dict[str, str | list[str]] = {"asset": ["bms-01.kestrel"], "capability": ["shell"]}
    times = {"opens": "2027-03-01T08:00", "closes": "2027-03-01T18:00", "pattern": "*"}
    return {
        f"/requests/{asked.id}/approve": narrowed | {"version": "1"},
        f"/requests/{asked.id}/deny": {"version": "1", "reason": "forged"},
        f"/grants/{grant.id}/revoke": {"reason": "forged"},
        f"/sessions/{visit.id}/kill": {"reason": "forged"},
        f"/sessions/{visit.id}/freeze": {"reason": "forged"},
        f"/suspensions/{shut_out.id}/restore": {},
        "/windows": {"site": "kestrel", "vendor": "cellmaker", **times},
        f"/windows/{grant.window_id}/close": {},
        "/logout": {},
    }


@pytest.fixture(scope="module")
def owner(standing_site: Running) -> httpx2.Client:
    return standing_site.client(OWNER)


@pytest.fixture(scope="module")
def token(owner: httpx2.Client) -> str:
    return token_in(owner.get("/account").text)


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_form_from_elsewhere_changes_nothing_even_with_the_token(
    kind: str,
    standing_site: Running,
    owner: httpx2.Client,
    token: str,
    acts: dict[str, dict[str, str | list[str]]],
) -> None:
    before = standing_site.rows()
    bare = httpx2.Client(base_url=standing_site.url, cookies=dict(owner.cookies), headers=FOREIGN[kind])
    with bare:
        for path, fields in acts.items():
            answer = bare.post(path, data={"token": token, **fields})
            assert (path, answer.status_code) == (path, 403)
            assert "nothing was changed" in answer.text
    assert standing_site.rows() == before


@pytest.mark.parametrize("wrong", [None, "", "x", "another's", "tökén"])
def test_a_form_without_the_sessions_own_token_changes_nothing(
    wrong: str | None, standing_site: Running, owner: httpx2.Client, acts: dict[str, dict[str, str | list[str]]]
) -> None:
    if wrong == "another's":
        wrong = token_in(standing_site.client(SECOND_OWNER).get("/account").text)
    before = standing_site.rows()
    for path, fields in acts.items():
        answer = owner.post(path, data={"code": "", **fields} | ({} if wrong is None else {"token": wrong}))
        assert (path, answer.status_code) == (path, 403)
    assert standing_site.rows() == before


def test_looking_changes_nothing(standing_site: Running, owner: httpx2.Client) -> None:
    made = [
        entry.made(standing_site) if entry.made else path
        for (method, path), entry in ENTRIES.items()
        if method == "GET"
    ]
    acts = [path for (method, path) in ENTRIES if method == "POST" and ("GET", path) not in ENTRIES]
    before = standing_site.rows()
    for path in made:
        owner.get(path)
    for path in acts:
        answer = owner.get(re.sub(r"\{\w+\}", "x", path))
        assert (path, answer.status_code) == (path, 405)
        assert "That cannot be done here." in answer.text
    assert standing_site.rows() == before


def test_a_browser_that_says_only_its_origin_is_believed(site: Running) -> None:
    client = site.client(OWNER)
    asked = site.ask()
    del client.headers["sec-fetch-site"]
    client.headers["origin"] = site.url
    assert site.act(client, f"/requests/{asked.id}/deny", version="1", reason="no").status_code == 303


@pytest.mark.parametrize("mode", ["no-cors", "cors", "navigate"])
@pytest.mark.parametrize("where", ["cross-site", "same-site"])
def test_another_sites_page_cannot_use_a_page_as_a_part_of_its_own(
    where: str, mode: str, standing_site: Running, owner: httpx2.Client
) -> None:
    headers = {"sec-fetch-site": where, "sec-fetch-mode": mode, "sec-fetch-dest": "iframe"}
    assert owner.get("/requests", headers=headers).status_code == 403
    headers = {"sec-fetch-site": where, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert owner.get("/requests", headers=headers).status_code == 200  # a link may lead here


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example", "localhost:80@x"]
)
def test_a_host_that_is_not_ours_gets_no_page(host: str, standing_site: Running) -> None:
    answer = standing_site.stranger().get("/login", headers={"host": host, "x-forwarded-host": "127.0.0.1"})
    assert answer.status_code == 421
    assert "another address" in answer.text


def test_the_probes_answer_under_any_name(standing_site: Running) -> None:
    for path in ("/healthz", "/readyz"):
        assert standing_site.stranger().get(path, headers={"host": "10.0.0.7"}).text == "ok\n"


def test_a_forwarded_header_does_not_change_who_asks(standing_site: Running) -> None:
    client = standing_site.stranger()
    client.headers["x-forwarded-for"] = "203.0.113.9"
    assert standing_site.log_in(client, OWNER).status_code == 303
    assert "203.0.113.9" not in client.get("/account").text


def test_an_origin_is_what_the_settings_say_and_on_loopback_its_three_names() -> None:
    behind = origin_of("https://Gate.Example", loopback_port=8080)
    check("POST", "/x", {"host": "gate.example", "origin": "https://gate.example"}, behind)
    check("POST", "/x", {"host": "127.0.0.1:8080", "origin": "https://gate.example"}, behind)  # a proxy's own Host
    check("POST", "/x", {"host": "[::1]:8080", "origin": "http://[::1]:8080"}, behind)
    for host, origin in (("gate.example", "http://gate.example"), ("localhost:8080", "http://127.0.0.1:8080")):
        with pytest.raises(Refused):
            check("POST", "/x", {"host": host, "origin": origin}, behind)
    with pytest.raises(Refused):
        check("GET", "/x", {"host": "localhost:8080"}, origin_of("https://gate.example", loopback_port=None))


def answers(site: Running, owner: httpx2.Client) -> Iterator[tuple[int, httpx2.Response]]:
    nobody = site.stranger()
    yield 200, owner.get("/")
    yield 200, nobody.get("/login")
    yield 200, nobody.get("/healthz")
    yield 200, nobody.get("/static/style.css")
    yield 303, nobody.get("/")
    yield 400, nobody.post("/login", data={"strange": "1"})
    yield 403, owner.post("/logout", data={"token": ""})
    yield 404, owner.get("/requests/none")
    yield 404, nobody.get("/static/../app.py")
    yield 404, nobody.get("/docs")
    yield 404, nobody.get("/openapi.json")
    yield 404, nobody.get("/metrics")
    yield 405, owner.put("/")
    yield 413, owner.post("/windows", content=b"x" * 70_000, headers={"content-type": "text/plain"})
    yield 415, owner.post("/windows", json={"site": "kestrel"})
    yield 421, nobody.get("/", headers={"host": "evil.example"})
    yield 500, nobody.get("/fails")


async def fails() -> None:
    raise RuntimeError("the reason of this incident")


def test_every_answer_carries_the_headers_errors_too(site: Running) -> None:
    site.app.add_api_route("/fails", fails)
    for status, answer in answers(site, site.client(OWNER)):
        assert (str(answer.url), answer.status_code) == (str(answer.url), status)
        assert HEADERS.items() <= dict(answer.headers).items(), answer.url
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["frame-ancestors"] == "'none'"
        assert policy["form-action"] == "'self'"
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert "server" not in answer.headers


def test_a_failure_is_a_number_outside_and_the_whole_story_in_the_log(
    site: Running, caplog: pytest.LogCaptureFixture
) -> None:
    site.app.add_api_route("/fails", fails)
    answer = site.stranger().get("/fails")
    incident = re.search(r"Incident ([0-9a-f]{8})\.", answer.text)
    assert incident is not None
    assert "the reason" not in answer.text
    assert "Traceback" not in answer.text
    assert f"incident {incident[1]}" in caplog.text
    assert "the reason of this incident" in caplog.text


def say(site: Running, data: bytes) -> bytes:
    """What the server answers to these bytes until it hangs up."""
    with socket.create_connection(site.sock_address, timeout=20) as sock:
        sock.sendall(data)
        return b"".join(iter(lambda: sock.recv(65536), b""))


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS on a plain port
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: HERE\r\nX: " + b"a" * 17_000,
        b"POST /login HTTP/1.1\r\nHost: HERE\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"POST /login HTTP/1.1\r\nHost: HERE\r\nOrigin: http://HERE\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"\0\r\n\r\n",
    ],
    ids=["tls", "two hosts", "long head", "long number", "two lengths", "zero"],
)
def test_what_is_no_http_is_refused_with_the_headers_too(data: bytes, standing_site: Running) -> None:
    answer = say(standing_site, data.replace(b"HERE", standing_site.url.removeprefix("http://").encode()))
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413")), answer
    assert b"default-src 'none'" in answer
    assert b"nosniff" in answer


def test_a_head_that_does_not_come_loses_the_connection(site: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEADER_TIMEOUT_S", 0.3)
    assert say(site, b"GET / HTTP/1.1\r\nHost: x\r\nX: a") == b""


def test_a_form_that_does_not_come_is_given_up(site: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_TIMEOUT_S", 0.3)
    host = site.url.removeprefix("http://").encode()
    head = b"POST /login HTTP/1.1\r\nHost: " + host + b"\r\nSec-Fetch-Site: same-origin\r\nContent-Length: 9\r\n\r\na="
    answer = say(site, head)
    assert answer.startswith(b"HTTP/1.1 408"), answer
    assert b"nothing was changed" in answer
