"""Live sessions, and everything by which the web ends access: kill, revoke, hand back, close a window."""

from __future__ import annotations

from datetime import timedelta

from broker import gate
from broker.domain.grant import GrantState
from broker.domain.live import Moved
from broker.domain.session import EndReason
from broker.store import grants, inventory, sessions
from tests.approval.running import ENGINEER, HOUR, OPERATOR, OWNER, Running
from tests.approval.test_deciding import alert_of, words_of
from tests.approval.visiting import Visit

MINUTE = timedelta(minutes=1)


def state_of(site: Running, grant_id: str) -> GrantState:
    with site.db.read() as tx:
        found = grants.load(tx, grant_id)
        assert found is not None
        return found.state(tx.now)


def standing_of(site: Running, visit: Visit) -> object:
    """What the bastion finds at its next look."""
    with site.db.read() as tx:
        return gate.standing(tx, [visit.id])[visit.id]


def test_the_list_says_who_is_in_until_when(site: Running) -> None:
    site.grant()
    visit = Visit(site)
    site.clock.move(30 * MINUTE)
    operator = site.client(OPERATOR)
    for path in ("/", "/sessions"):
        words = words_of(operator.get(path).text)
        assert "In now 1" in words
        assert "Engineer One , cellmaker bms-01.kestrel as service" in words
        assert "in 1 h 30 min Wed 24 Feb 2027 14:00 PST −08:00 · 22:00 UTC" in words
    visit.ends()
    words = words_of(operator.get("/sessions").text)
    assert "Nobody is connected." in words
    assert f"Ended Session Engineer Asset Opened Ended Why {visit.id}" in words


def test_a_session_page_says_what_is_open_in_it(site: Running) -> None:
    site.grant()
    visit = Visit(site)
    words = words_of(site.client(OPERATOR).get(f"/sessions/{visit.id}").text)
    for needed in (
        "live",
        "198.51.100.7",
        "bms-01.kestrel as service",
        "1 shell —",
        "Kill the session",
        "no way back in",
    ):
        assert needed in words


def test_a_kill_marks_the_session_suspends_the_grant_and_is_in_the_ledger_once(site: Running) -> None:
    grant = site.grant()
    visit = Visit(site)
    operator = site.client(OPERATOR)
    answer = site.act(operator, f"/sessions/{visit.id}/kill", reason="alarm on rack 3")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/sessions/{visit.id}")
    assert standing_of(site, visit) is EndReason.KILLED
    assert state_of(site, grant.id) is GrantState.SUSPENDED
    page = operator.get(f"/sessions/{visit.id}").text
    assert 'data-state="killed"' in page
    assert "/kill" not in page
    again = site.act(operator, f"/sessions/{visit.id}/kill", reason="again")
    assert again.status_code == 409
    assert alert_of(again)
    assert site.kinds().count("session.killed") == 1


def test_a_session_that_has_just_ended_can_still_have_its_grant_suspended(site: Running) -> None:
    grant = site.grant()
    visit = Visit(site)
    visit.ends()
    operator = site.client(OPERATOR)
    assert "Suspend the grant" in operator.get(f"/sessions/{visit.id}").text
    assert site.act(operator, f"/sessions/{visit.id}/kill", reason="too late, but out").status_code == 303
    assert state_of(site, grant.id) is GrantState.SUSPENDED


def test_a_kill_asks_for_a_fresh_code(site: Running) -> None:
    site.grant()
    visit = Visit(site)
    operator = site.client(OPERATOR)
    site.clock.move(5 * MINUTE)
    answer = site.act(operator, f"/sessions/{visit.id}/kill", reason="the reason stays")
    assert answer.status_code == 403
    assert "the reason stays</textarea>" in answer.text
    assert isinstance(standing_of(site, visit), Moved)
    code = site.code(OPERATOR)
    assert site.act(operator, f"/sessions/{visit.id}/kill", reason="now", code=code).status_code == 303
    assert standing_of(site, visit) is EndReason.KILLED


def test_revoking_ends_the_grant_for_good(site: Running) -> None:
    grant = site.grant()
    visit = Visit(site)
    owner = site.client(OWNER)
    assert site.act(owner, f"/grants/{grant.id}/revoke", reason="work is stopped").status_code == 303
    assert state_of(site, grant.id) is GrantState.REVOKED
    assert standing_of(site, visit) is EndReason.REVOKED
    again = site.act(owner, f"/grants/{grant.id}/revoke", reason="again")
    assert (again.status_code, alert_of(again)) == (409, "Grant revoked: the grant is revoked already.")
    assert site.kinds().count("grant.revoked") == 1


def test_an_engineer_hands_a_grant_back(site: Running) -> None:
    grant = site.grant()
    engineer = site.client(ENGINEER)
    page = engineer.get(f"/grants/{grant.id}").text
    assert "ssh -p 2222 bms-01.kestrel@127.0.0.1" in page
    assert "/revoke" not in page
    assert site.act(engineer, f"/grants/{grant.id}/hand-back").status_code == 303
    assert state_of(site, grant.id) is GrantState.HANDED_BACK
    assert site.act(engineer, f"/grants/{grant.id}/hand-back").status_code == 409


def test_a_window_is_opened_in_the_sites_time_and_closed_early(site: Running) -> None:
    owner = site.client(OWNER)
    fields = {"opens": "2027-03-01T08:00", "closes": "2027-03-01T18:00", "pattern": "bms-*", "phase": "P2"}
    assert site.act(owner, "/windows", site="kestrel", vendor="driveworks", **fields).status_code == 303
    with site.db.read() as tx:
        opened = next(one for one in inventory.windows(tx) if one.phase == "P2")
    assert opened.interval.opens.isoformat() == "2027-03-01T16:00:00+00:00"
    assert opened.interval.closes - opened.interval.opens == 10 * HOUR
    words = words_of(owner.get("/windows").text)
    assert "driveworks at kestrel scheduled bms-* · P2" in words
    assert site.act(owner, f"/windows/{opened.id}/close").status_code == 303
    again = site.act(owner, f"/windows/{opened.id}/close")
    assert again.status_code == 409
    assert alert_of(again)


def test_closing_a_window_ends_the_sessions_in_it(site: Running) -> None:
    grant = site.grant()
    visit = Visit(site)
    assert site.act(site.client(OWNER), f"/windows/{grant.window_id}/close").status_code == 303
    assert standing_of(site, visit) is not None
    with site.db.read() as tx:
        assert sessions.load_session(tx, visit.id) is not None  # the bastion, not the web, closes it


def test_ready_is_said_only_while_the_database_answers(site: Running) -> None:
    nobody = site.stranger()
    assert [nobody.get(path).text for path in ("/healthz", "/readyz")] == ["ok\n", "ok\n"]
    with site.db.begin() as tx:
        tx.conn.exec_driver_sql("ALTER TABLE ledger_head RENAME TO elsewhere")
    answer = nobody.get("/readyz")
    assert (answer.status_code, answer.text) == (503, "the database does not answer\n")
    assert nobody.get("/healthz").status_code == 200


def test_an_owner_holds_a_session_open_and_the_page_says_until_when(site: Running) -> None:
    site.grant()
    visit = Visit(site)
    owner = site.client(OWNER)
    assert "Hold the session open" in words_of(owner.get(f"/sessions/{visit.id}").text)
    assert "Hold the session open" not in words_of(site.client(OPERATOR).get(f"/sessions/{visit.id}").text)
    answer = site.act(owner, f"/sessions/{visit.id}/hold-open", reason="the flash is at 80 %", **{"for": "10"})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/sessions/{visit.id}")
    assert "2 h 10 min , held open by the owner" in words_of(owner.get(f"/sessions/{visit.id}").text)
    assert site.kinds().count("session.held") == 1


def test_a_hold_asks_for_a_fresh_code_a_sound_length_and_the_owners_right(site: Running) -> None:
    site.grant()
    visit = Visit(site)
    page, before = f"/sessions/{visit.id}/hold-open", standing_of(site, visit)
    owner = site.client(OWNER)
    for wrong in ("", "0", "ten", "-1", "11"):
        answer = site.act(owner, page, reason="flashing", **{"for": wrong})
        assert 400 <= answer.status_code < 500, wrong
        assert alert_of(answer)
    assert site.act(site.client(OPERATOR), page, reason="flashing", **{"for": "5"}).status_code in (404, 409)
    site.clock.move(6 * MINUTE)
    assert site.act(owner, page, reason="flashing", **{"for": "5"}).status_code == 403
    assert standing_of(site, visit) == before
    assert "session.held" not in site.kinds()
