"""Who gets what: every route for every kind of person; what is not theirs is answered like what is not there (WEB-1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2
import pytest

from broker import desk, identity
from broker.domain.suspension import Scope
from broker.store import inventory
from tests.approval.running import (
    ADMIN,
    AUDITOR,
    COLLEAGUE,
    ENGINEER,
    EVERYBODY,
    FAR_OWNER,
    HOUR,
    INVESTIGATOR,
    NOON,
    OPERATOR,
    OTHER_ENGINEER,
    OWNER,
    SECOND_OWNER,
    Running,
    token_in,
)
from tests.approval.visiting import Visit

STRANGER: Final = "(nobody)"
OWNERS: Final = {OWNER, SECOND_OWNER}
SITE: Final = OWNERS | {OPERATOR, INVESTIGATOR, AUDITOR, ADMIN}
ENGINEERS: Final = {ENGINEER, COLLEAGUE, OTHER_ENGINEER}
ALL: Final = set(EVERYBODY)
WANTED: Final = {"asset": ["bms-01.kestrel"], "capability": ["shell"]}


@dataclass(frozen=True, slots=True)
class Entry:
    """What a route answers. made: the path of something fresh to ask for; missing: of nothing; 404 and, for strangers, 303 else."""

    answers: dict[int, set[str]]
    made: Callable[[Running], str] | None = None
    missing: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    stranger: int = 303

    def expected(self, who: str) -> int:
        if who == STRANGER:
            return self.stranger
        return next((status for status, whose in self.answers.items() if who in whose), 404)


def a_request(act: str = "") -> Callable[[Running], str]:
    return lambda site: f"/requests/{site.ask().id}{act}"


def a_grant(act: str = "") -> Callable[[Running], str]:
    return lambda site: f"/grants/{site.grant().id}{act}"


def a_session(act: str = "") -> Callable[[Running], str]:
    def made(site: Running) -> str:
        site.grant()
        return f"/sessions/{Visit(site).id}{act}"

    return made


def a_frozen_session(site: Running) -> str:
    site.grant()
    visit = Visit(site)
    with site.db.begin() as tx:
        desk.freeze(tx, session_id=visit.id, by="test", reason="wait", door="test")
    return f"/sessions/{visit.id}/unfreeze"


def a_suspension(site: Running) -> str:
    grant = site.grant()
    with site.db.begin() as tx:
        made = desk.suspend(tx, scope=Scope.GRANT, name=grant.id, by="test", reason="stop", door="test")
    return f"/suspensions/{made.id}/restore"


def a_recording(part: str = "") -> Callable[[Running], str]:
    def made(site: Running) -> str:
        site.grant()
        visit = Visit(site)
        visit.shows(b"$ ")
        visit.ends()
        return f"/recordings/{visit.id}{part}"

    return made


def a_window(act: str = "") -> Callable[[Running], str]:
    def made(site: Running) -> str:
        with site.db.begin() as tx:
            span = inventory.windows(tx)[0].interval
            window = inventory.insert_window(
                tx,
                site=inventory.load_site(tx, "kestrel"),
                vendor=inventory.load_vendor(tx, "cellmaker"),
                interval=span,
                by="test",
            )
        return f"/windows/{window.id}{act}"

    return made


def an_invitation(site: Running) -> str:
    with site.db.begin() as tx:
        return f"/enrol/{identity.invite(tx, handle=ADMIN, by='test')}"


def seen_by(whose: Iterable[str], **more: Any) -> Entry:
    return Entry({200: set(whose)}, **more)


def done_by(whose: Iterable[str], **more: Any) -> Entry:
    return Entry({303: set(whose)}, **more)


ENTRIES: Final[dict[tuple[str, str], Entry]] = {
    ("GET", "/"): seen_by(ALL),
    ("GET", "/account"): seen_by(ALL),
    ("GET", "/healthz"): seen_by(ALL, stranger=200),
    ("GET", "/readyz"): seen_by(ALL, stranger=200),
    ("GET", "/login"): seen_by(ALL, stranger=200),
    ("POST", "/login"): Entry({400: ALL}, fields={"strange": "1"}, stranger=400),
    ("POST", "/logout"): Entry({403: ALL}, fields={"token": "wrong"}),  # else it would end what the next row needs
    ("GET", "/static/{name:path}"): seen_by(ALL, made=lambda _: "/static/style.css", stranger=200),
    ("GET", "/enrol/{code}"): seen_by(ALL, made=an_invitation, missing="/enrol/none", stranger=200),
    ("POST", "/enrol/{code}"): Entry({404: ALL}, made=lambda _: "/enrol/none", fields={"sealed": ""}, stranger=404),
    ("GET", "/requests"): seen_by(ALL),
    ("GET", "/requests/new"): seen_by(ENGINEERS),
    ("POST", "/requests/new"): Entry(
        {303: {ENGINEER, COLLEAGUE}, 422: {OTHER_ENGINEER}}, fields=WANTED | {"length": "1h", "reason": "why"}
    ),
    ("GET", "/requests/{request_id}"): seen_by(SITE | {ENGINEER}, made=a_request(), missing="/requests/req-00000000"),
    ("POST", "/requests/{request_id}/approve"): Entry(
        {303: OWNERS, 403: SITE - OWNERS},
        made=a_request("/approve"),
        missing="/requests/req-00000000/approve",
        fields=WANTED | {"version": "1"},
    ),
    ("POST", "/requests/{request_id}/deny"): Entry(
        {303: OWNERS, 403: SITE - OWNERS},
        made=a_request("/deny"),
        missing="/requests/req-00000000/deny",
        fields={"version": "1", "reason": "no"},
    ),
    ("POST", "/requests/{request_id}/withdraw"): done_by(
        {ENGINEER}, made=a_request("/withdraw"), missing="/requests/req-00000000/withdraw"
    ),
    ("GET", "/grants"): seen_by(ALL),
    ("GET", "/grants/{grant_id}"): seen_by(SITE | {ENGINEER}, made=a_grant(), missing="/grants/grt-00000000"),
    ("POST", "/grants/{grant_id}/revoke"): done_by(
        OWNERS | {OPERATOR},
        made=a_grant("/revoke"),
        missing="/grants/grt-00000000/revoke",
        fields={"reason": "over"},
    ),
    ("POST", "/grants/{grant_id}/hand-back"): done_by(
        {ENGINEER}, made=a_grant("/hand-back"), missing="/grants/grt-00000000/hand-back"
    ),
    ("GET", "/sessions"): seen_by(ALL),
    ("GET", "/sessions/{session_id}"): seen_by(SITE | {ENGINEER}, made=a_session(), missing="/sessions/ses-00000000"),
    ("POST", "/sessions/{session_id}/kill"): done_by(
        OWNERS | {OPERATOR},
        made=a_session("/kill"),
        missing="/sessions/ses-00000000/kill",
        fields={"reason": "stop"},
    ),
    ("POST", "/sessions/{session_id}/freeze"): done_by(
        OWNERS | {OPERATOR},
        made=a_session("/freeze"),
        missing="/sessions/ses-00000000/freeze",
        fields={"reason": "wait"},
    ),
    ("POST", "/sessions/{session_id}/unfreeze"): done_by(
        OWNERS | {OPERATOR}, made=a_frozen_session, missing="/sessions/ses-00000000/unfreeze"
    ),
    ("POST", "/sessions/{session_id}/hold-open"): Entry(
        {303: OWNERS, 409: {OPERATOR}},
        made=a_session("/hold-open"),
        missing="/sessions/ses-00000000/hold-open",
        fields={"reason": "a flash at 80 %", "for": "5"},
    ),
    ("GET", "/suspensions"): seen_by(ALL),
    ("POST", "/suspensions/{suspension_id}/restore"): Entry(
        {303: OWNERS, 403: SITE - OWNERS}, made=a_suspension, missing="/suspensions/sus-00000000/restore"
    ),
    ("GET", "/recordings"): seen_by(OWNERS | {FAR_OWNER, INVESTIGATOR, AUDITOR}),
    ("GET", "/recordings/{recording_id}"): seen_by(
        OWNERS | {INVESTIGATOR, AUDITOR}, made=a_recording(), missing="/recordings/ses-00000000"
    ),
    ("GET", "/recordings/{recording_id}/{channel}.cast"): seen_by(
        {INVESTIGATOR}, made=a_recording("/1.cast"), missing="/recordings/ses-00000000/1.cast", stranger=404
    ),
    ("GET", "/recordings/{recording_id}/{channel}.txt"): seen_by(
        {INVESTIGATOR}, made=a_recording("/1.txt"), missing="/recordings/ses-00000000/1.txt", stranger=404
    ),
    ("GET", "/windows"): seen_by(SITE | {FAR_OWNER}),
    ("POST", "/windows"): done_by(
        OWNERS,
        fields={
            "site": "kestrel",
            "vendor": "cellmaker",
            "opens": "2027-03-01T08:00",
            "closes": "2027-03-01T18:00",
            "pattern": "*",
        },
    ),
    ("POST", "/windows/{window_id}/close"): done_by(
        OWNERS, made=a_window("/close"), missing="/windows/win-00000000/close"
    ),
    ("GET", "/ledger"): seen_by({AUDITOR}),
}


@pytest.fixture(scope="module")
def clients(standing_site: Running) -> dict[str, httpx2.Client]:
    return {who: standing_site.client(who) for who in EVERYBODY} | {STRANGER: standing_site.stranger()}


@pytest.fixture(scope="module")
def tokens(clients: dict[str, httpx2.Client]) -> dict[str, str]:
    return {STRANGER: ""} | {who: token_in(clients[who].get("/account").text) for who in EVERYBODY}


def routes_of(routes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Every method and path that the app answers, whatever way its routers are put together."""
    for route in routes:
        if (inside := getattr(route, "original_router", None)) is not None:
            yield from routes_of(inside.routes)
        else:
            yield from ((method, route.path) for method in route.methods)


def test_every_route_says_here_who_may_use_it(standing_site: Running) -> None:
    assert set(routes_of(standing_site.app.routes)) == ENTRIES.keys()


@pytest.mark.parametrize(("method", "path"), ENTRIES, ids=lambda one: one)
def test_a_route_answers_each_person_as_the_table_says(
    method: str, path: str, standing_site: Running, clients: dict[str, httpx2.Client], tokens: dict[str, str]
) -> None:
    entry = ENTRIES[method, path]
    for who in (*EVERYBODY, STRANGER):
        asked = path if entry.made is None else entry.made(standing_site)
        answer = ask(clients[who], method, asked, {"token": tokens[who]} | entry.fields)
        assert (who, answer.status_code) == (who, entry.expected(who)), answer.text
        if who == STRANGER and answer.status_code == 303:
            assert answer.headers["location"].startswith("/login")
        if answer.status_code == 404 and entry.missing:
            nothing = ask(clients[who], method, entry.missing, {"token": tokens[who]} | entry.fields)
            assert (nothing.status_code, nothing.text) == (404, answer.text), who


def ask(client: httpx2.Client, method: str, path: str, fields: dict[str, Any]) -> httpx2.Response:
    return client.get(path) if method == "GET" else client.post(path, data=fields)


def test_lists_hold_what_is_of_ones_own_site_and_nothing_else(
    standing_site: Running, clients: dict[str, httpx2.Client]
) -> None:
    asked = standing_site.ask()
    grant = standing_site.grant()
    visit = Visit(standing_site)
    for path, name in (
        ("/requests", asked.id),
        ("/grants", grant.id),
        ("/sessions", visit.id),
        ("/recordings", visit.id),
    ):
        for who in (FAR_OWNER, COLLEAGUE, OTHER_ENGINEER):
            assert name not in clients[who].get(path).text, (who, path)
        assert name in clients[OWNER].get(path).text


def test_fresh_codes_outlast_this_file(standing_site: Running) -> None:
    """Else a 403 above could come from an old code instead of a missing right."""
    assert standing_site.clock.now() - NOON < HOUR / 12
