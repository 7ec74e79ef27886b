"""Forms and addresses as nobody should send them: 4xx, one clear line, nothing changed, never a 500."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlencode

import httpx2
import pytest

from tests.approval.running import ENGINEER, OWNER, Running, token_in
from tests.approval.visiting import Visit

FORM: Final = {"content-type": "application/x-www-form-urlencoded"}
HUGE: Final = "x" * 20_000
ASK: Final = {"asset": "bms-01.kestrel", "capability": "shell", "length": "1h", "reason": "why"}
WINDOW: Final = {
    "site": "kestrel",
    "vendor": "cellmaker",
    "opens": "2027-03-01T08:00",
    "closes": "2027-03-01T18:00",
    "pattern": "*",
}
APPROVE: Final = {"version": "1", "asset": "bms-01.kestrel", "capability": "shell"}


@pytest.fixture(scope="module")
def owner(standing_site: Running) -> httpx2.Client:
    return standing_site.client(OWNER)


@pytest.fixture(scope="module")
def engineer(standing_site: Running) -> httpx2.Client:
    return standing_site.client(ENGINEER)


@pytest.fixture(scope="module")
def tokens(owner: httpx2.Client, engineer: httpx2.Client) -> dict[httpx2.Client, str]:
    return {client: token_in(client.get("/account").text) for client in (owner, engineer)}


@pytest.fixture(scope="module")
def paths(standing_site: Running) -> dict[str, str]:
    asked, grant = standing_site.ask(), standing_site.grant()
    return {
        "approve": f"/requests/{asked.id}/approve",
        "deny": f"/requests/{asked.id}/deny",
        "kill": f"/sessions/{Visit(standing_site).id}/kill",
        "revoke": f"/grants/{grant.id}/revoke",
        "windows": "/windows",
        "ask": "/requests/new",
        "login": "/login",
    }


def lines_of(page: str) -> list[str]:
    """The lines by which a page says what was wrong."""
    found = re.findall(r'<p class="(?:wrong" role="alert|plain)">(.*?)</p>', page, re.DOTALL)
    return [line.strip() for line in found]


def is_one_clear_line(answer: httpx2.Response) -> bool:
    """One line; where a field's length is its matter, it is said; nothing of our inside shows."""
    lines = lines_of(answer.text)
    return len(lines) == 1 and 8 <= len(lines[0]) <= 300 and "\n" not in lines[0] and "Traceback" not in answer.text


BODIES: Final[dict[str, tuple[str, str | bytes, int]]] = {
    "no version": ("approve", urlencode(APPROVE | {"version": ""}), 400),
    "version no number": ("approve", urlencode(APPROVE | {"version": "-1"}), 400),
    "version of other digits": ("approve", urlencode(APPROVE | {"version": "１"}), 400),
    "version of a thousand digits": ("approve", urlencode(APPROVE | {"version": "9" * 1000}), 400),
    "nothing ticked": ("approve", "version=1", 400),
    "no capability": ("approve", "version=1&asset=bms-01.kestrel", 400),
    "unknown capability": ("approve", urlencode(APPROVE | {"capability": "root"}), 400),
    "port too high": ("approve", urlencode(APPROVE | {"capability": "tcp:99999"}), 400),
    "asset not asked for": ("approve", urlencode(APPROVE | {"asset": "bms-02.kestrel"}), 422),
    "asset unknown": ("approve", urlencode(APPROVE | {"asset": "../../etc"}), 422),
    "capability not asked for": ("approve", urlencode(APPROVE | {"capability": "sftp-write"}), 422),
    "length no duration": ("approve", urlencode(APPROVE | {"length": "forever"}), 400),
    "longer than asked": ("approve", urlencode(APPROVE | {"length": "3h"}), 422),
    "length of many lives": ("approve", urlencode(APPROVE | {"length": "999999d"}), 422),
    "stale": ("approve", urlencode(APPROVE | {"version": "2"}), 409),
    "no reason": ("deny", "version=1&reason=+%09%0A", 400),
    "reason too long": ("deny", "version=1&reason=" + "x" * 2049, 400),
    "reason huge": ("deny", "version=1&reason=" + HUGE, 400),
    "reason with NUL": ("deny", "version=1&reason=a%00b", 400),
    "reason with escape": ("deny", "version=1&reason=a%1b%5b2Jb", 400),
    "lone surrogate": ("deny", "version=1&reason=%ed%a0%80", 400),
    "no UTF-8": ("deny", "version=1&reason=%ff%fe", 400),
    "raw bytes": ("deny", b"version=1&reason=\xff\xfe", 400),
    "raw UTF-8": ("deny", "version=1&reason=ö".encode(), 400),
    "overlong": ("deny", "version=1&reason=%c0%af", 400),
    "field twice": ("deny", "version=1&reason=a&reason=b", 400),
    "unknown field": ("deny", "version=1&reason=a&admin=1", 400),
    "unknown field of odd name": ("deny", "version=1&reason=a&%3Cb%3E%00=1", 400),
    "many fields": ("approve", "&".join(["asset=a"] * 300), 400),
    "no pairs": ("deny", "reason", 400),
    "empty": ("deny", "", 400),
    "kill without reason": ("kill", "reason=", 400),
    "kill with NUL": ("kill", "reason=%00", 400),
    "revoke without reason": ("revoke", "reason=", 400),
    "window of no vendor": ("windows", urlencode(WINDOW | {"vendor": "x"}), 400),
    "window of no site": ("windows", urlencode(WINDOW | {"site": "x"}), 404),
    "window over already": (
        "windows",
        urlencode(WINDOW | {"opens": "2020-01-01T00:00", "closes": "2020-01-02T00:00"}),
        400,
    ),
    "window that ends before it opens": ("windows", urlencode(WINDOW | {"closes": "2027-03-01T07:00"}), 400),
    "window of no time": ("windows", urlencode(WINDOW | {"opens": "soon"}), 400),
    "window of the last year": ("windows", urlencode(WINDOW | {"closes": "9999-12-31T23:59"}), 400),
    "window in the hour that is not": (
        "windows",
        urlencode(WINDOW | {"opens": "2027-03-14T02:30", "closes": "2027-03-15T00:00"}),
        400,
    ),
    "window in the hour that comes twice": ("windows", urlencode(WINDOW | {"closes": "2027-11-07T01:30"}), 400),
    "window over midnight": ("windows", urlencode(WINDOW | {"daily": "22:00-06:00"}), 400),
    "window by cron": ("windows", urlencode(WINDOW | {"daily": "0 7 * * *"}), 400),
    "ask in the hour that comes twice": ("ask", urlencode(ASK | {"opens": "2027-11-07T01:30"}), 400),
    "ask in the hour that is not": ("ask", urlencode(ASK | {"opens": "2027-03-14T02:30"}), 400),
    "window of a long pattern": ("windows", urlencode(WINDOW | {"pattern": "a" * 600}), 400),
    "ask for nothing": ("ask", urlencode(ASK | {"asset": ""}), 422),
    "ask for no capability": ("ask", "asset=bms-01.kestrel&length=1h&reason=x", 400),
    "ask for no time": ("ask", urlencode(ASK | {"length": "0h"}), 400),
    "ask for too long": ("ask", urlencode(ASK | {"length": "900d"}), 422),
    "ask in the past": ("ask", urlencode(ASK | {"opens": "2027-01-01T00:00"}), 422),
    "ask in a thousand years": ("ask", urlencode(ASK | {"opens": "3027-01-01T00:00"}), 400),
    "ask before all years": ("ask", urlencode(ASK | {"opens": "0001-01-01T00:00"}), 400),
    "ask for a port of letters": ("ask", urlencode(ASK | {"ports": "http"}), 400),
    "ask for a port not listed": ("ask", urlencode(ASK | {"ports": "503"}), 422),
    "ask without a reason": ("ask", urlencode(ASK | {"reason": " "}), 400),
    "ask with a long change": ("ask", urlencode(ASK | {"change": "C" * 65}), 400),
    "ask for many assets": ("ask", urlencode(ASK) + "&asset=bms-01.kestrel" * 65, 400),
    "ask outside every window": ("ask", urlencode(ASK | {"opens": "2027-06-01T00:00"}), 422),
    "log in with an unknown field": ("login", "handle=a&password=b&code=1&role=owner", 400),
    "log in with a huge password": ("login", "handle=a&code=1&password=" + HUGE, 400),
    "log in twice at once": ("login", "handle=a&handle=b&password=c&code=1", 400),
}


@pytest.mark.parametrize("kind", BODIES)
def test_a_form_that_is_wrong_gets_one_line_and_changes_nothing(
    kind: str,
    standing_site: Running,
    owner: httpx2.Client,
    engineer: httpx2.Client,
    tokens: dict[httpx2.Client, str],
    paths: dict[str, str],
) -> None:
    where, body, status = BODIES[kind]
    client = engineer if where == "ask" else owner
    token = b"" if where == "login" else f"token={tokens[client]}&".encode()
    before = standing_site.rows()
    raw = body if isinstance(body, bytes) else body.encode()
    answer = client.post(paths[where], content=token + raw, headers=FORM)
    assert answer.status_code == status, (answer.status_code, lines_of(answer.text))
    assert is_one_clear_line(answer), lines_of(answer.text) or answer.text
    after = standing_site.rows()
    if status in (409, 422):  # a refusal is evidence: it stands in the ledger, and nowhere else
        assert len(after.pop("ledger")) == len(before.pop("ledger")) + 1
        del after["ledger_head"], before["ledger_head"]
    assert after == before


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded; charset=utf-16",
        "application/x-www-form-urlencodedx",
        "",
    ],
)
def test_a_form_of_another_kind_is_refused(
    kind: str, standing_site: Running, owner: httpx2.Client, tokens: dict[httpx2.Client, str], paths: dict[str, str]
) -> None:
    before = standing_site.rows()
    body = urlencode({"token": tokens[owner], "version": "1", "reason": "no"})
    answer = owner.post(paths["deny"], content=body, headers={"content-type": kind})
    assert answer.status_code == 415
    assert is_one_clear_line(answer)
    assert standing_site.rows() == before


@pytest.mark.parametrize("chunked", [False, True], ids=["told", "not told"])
def test_a_body_that_is_too_large_is_refused(chunked: bool, owner: httpx2.Client, paths: dict[str, str]) -> None:
    body = b"version=1&reason=" + b"x" * 70_000
    answer = owner.post(paths["deny"], content=iter([body]) if chunked else body, headers=FORM)
    assert answer.status_code == 413
    assert is_one_clear_line(answer)


@pytest.mark.parametrize(
    "path",
    [
        "/requests/req-1%00",
        "/requests/%ff",
        "/requests/%ed%a0%80",
        "/requests/%0d%0aSet-Cookie:%20a=b",
        "/requests/..%2f..%2fetc%2fpasswd",
        "/requests/" + "a" * 5000,
        "/sessions/' OR '1'='1",
        "/recordings/x?channel=" + "9" * 5000,
        "/recordings/x?channel=1;2",
        "/recordings/x/" + "9" * 5000 + ".cast",
        "/recordings/x/٣.cast",
        "/recordings/x/-1.cast",
        "/recordings/..%2f..%2fwicketgate.db/1.txt",
        "/static/..%2f..%2fapp.py",
        "/static/%2e%2e/%2e%2e/etc/passwd",
        "/static/vendor/LICENSES",
        "/enrol/%00",
        "/windows/x/close/",
        "/requests/",
        "/login?next=%00",
    ],
)
def test_an_address_that_nothing_stands_at_is_not_there(path: str, owner: httpx2.Client) -> None:
    answer = owner.get(path)
    assert answer.status_code == 404, answer.text
    assert is_one_clear_line(answer)


def test_a_state_that_there_is_not_is_no_filter(owner: httpx2.Client) -> None:
    for state in ("x", "pending'", "<b>"):
        assert owner.get("/requests", params={"state": state}).text == owner.get("/requests").text


def test_what_was_typed_comes_back_with_the_line(engineer: httpx2.Client, tokens: dict[httpx2.Client, str]) -> None:
    fields = ASK | {"length": "soon", "reason": 'the "<long>" story', "token": tokens[engineer]}
    answer = engineer.post("/requests/new", data=fields)
    assert answer.status_code == 400
    assert "the &#34;&lt;long&gt;&#34; story</textarea>" in answer.text
    assert re.search(r'value="bms-01.kestrel" checked', answer.text)
