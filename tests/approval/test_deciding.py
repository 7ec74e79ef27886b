"""What waits, what its page says, and a decision on it, over real HTTP."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from broker import desk
from broker.domain.capability import EXEC, SFTP_READ, SHELL
from broker.domain.grant import Grant
from broker.domain.isolation import Ladder
from broker.domain.people import Role, RoleAt
from broker.domain.policy import Narrowing
from broker.domain.request import AccessRequest
from broker.store import grants, inventory, people, requests
from tests.approval.running import ENGINEER, HOUR, NOON, OWNER, SECOND_OWNER, Running, token_in
from tests.approval.visiting import Visit

MINUTE = timedelta(minutes=1)
BOTH = ["bms-01.kestrel", "bms-02.kestrel"]


def approve(site: Running, client: httpx2.Client, asked: AccessRequest, **changed: Any) -> httpx2.Response:
    """Press Approve with everything ticked, but for what is changed."""
    with site.db.read() as tx:
        logins = [asset.login for asset in inventory.assets(tx, ids=asked.assets)]
    fields = {"version": "1", "asset": logins, "capability": [str(one) for one in asked.capabilities], "length": ""}
    return site.act(client, f"/requests/{asked.id}/approve", **fields | changed)


def grant_of(site: Running, asked: AccessRequest) -> Grant | None:
    with site.db.read() as tx:
        return grants.of_request(tx, asked.id)


def logins_of(site: Running, grant: Grant) -> set[str]:
    with site.db.read() as tx:
        return {asset.login for asset in inventory.assets(tx, ids=grant.terms.assets)}


def words_of(page: str) -> str:
    """What a page says, without its marks and with single blanks."""
    return " ".join(re.sub(r"<[^>]+>", " ", page.partition('<main id="main">')[2]).split())


def alert_of(answer: httpx2.Response) -> str:
    found = re.search(r'role="alert">(.*?)</p>', answer.text)
    return found[1] if found else ""


def test_an_owner_logs_in_reads_and_approves(site: Running) -> None:
    asked = site.ask()
    owner = site.client(OWNER)
    assert asked.id in owner.get("/").text
    done = approve(site, owner, asked)
    assert (done.status_code, done.headers["location"]) == (303, f"/requests/{asked.id}")
    assert "approved" in owner.get(f"/requests/{asked.id}").text
    assert asked.id not in owner.get("/").text
    grant = grant_of(site, asked)
    assert grant is not None
    assert grant.interval.closes - grant.interval.opens == 2 * HOUR
    assert site.kinds()[-2:] == ["approval.given", "grant.made"]


def test_the_page_says_all_that_a_decision_needs(site: Running) -> None:
    grant = site.grant("bms-02.kestrel")
    visit = Visit(site, asset="bms-02.kestrel")
    denied = site.ask("bms-02.kestrel")
    with site.db.begin() as tx:
        by = people.require(tx, OWNER).id
        desk.deny(tx, owner_id=by, request_id=denied.id, reason="not on a Sunday", door="test")
    other = site.ask("bms-02.kestrel", reason="the other one")
    asked = site.ask("bms-01.kestrel", "pcs-01.kestrel", reason="line one\nline two", opens=NOON + 20 * HOUR)
    words = words_of(site.client(OWNER).get(f"/requests/{asked.id}").text)
    for needed in (
        "Engineer One of cellmaker asks for 2 h",
        "engineer.one",
        "bms-01.kestrel routine account service · operational",
        "pcs-01.kestrel hazard account service · operational",
        "Opens Thu 25 Feb 2027 08:00 PST −08:00 · 16:00 UTC",
        "Closes Thu 25 Feb 2027 10:00 PST −08:00 · 18:00 UTC",
        "CHG-1042",
        "line one line two",
        "America/Los_Angeles",
        "A terminal: everything the account on the asset may do, typed by hand.",
        "Two owners: a hazard asset opens only after a second, different owner agrees too.",
        "1 live, 1 granted, 1 waiting",
        f"Engineer One is in bms-02.kestrel until Wed 24 Feb 2027 14:00 PST −08:00 · 22:00 UTC {visit.id}",
        f"may enter bms-02.kestrel until Wed 24 Feb 2027 14:00 PST −08:00 · 22:00 UTC {grant.id}",
        f"Engineer One asks for bms-02.kestrel {other.id}",
        "Owner One : not on a Sunday",
        "Lapses Thu 25 Feb 2027 12:00 PST −08:00 · 20:00 UTC undecided, in 1 d",
    ):
        assert needed in words, (needed, words)


def test_an_hour_that_comes_twice_is_told_apart(site: Running) -> None:
    """In the night when the site's clocks are set back, half past one is shown with its own letters and offset."""
    site.clock.move(timedelta(days=254))
    with site.db.begin() as tx:
        window = inventory.windows(tx)[0]
        span = type(window.interval)(site.clock.now(), site.clock.now() + 72 * HOUR)
        here, firm = inventory.load_site(tx, "kestrel"), inventory.load_vendor(tx, "cellmaker")
        inventory.insert_window(tx, site=here, vendor=firm, interval=span, by="test")
    for hours, shown in ((36.5, "01:30 PDT −07:00"), (37.5, "01:30 PST −08:00")):
        asked = site.ask(opens=NOON + timedelta(days=254, hours=hours))
        words = words_of(site.client(OWNER).get(f"/requests/{asked.id}").text)
        assert f"Opens Sun 7 Nov 2027 {shown}" in words, words


@pytest.mark.parametrize(
    ("changed", "assets", "capabilities", "length"),
    [
        ({"asset": ["bms-02.kestrel"]}, {"bms-02.kestrel"}, {SHELL, EXEC, SFTP_READ}, 2 * HOUR),
        ({"capability": ["sftp-read"]}, set(BOTH), {SFTP_READ}, 2 * HOUR),
        ({"length": " 45 m "}, set(BOTH), {SHELL, EXEC, SFTP_READ}, 45 * MINUTE),
        (
            {"asset": ["bms-01.kestrel"], "capability": ["exec"], "length": "1h"},
            {"bms-01.kestrel"},
            {EXEC},
            HOUR,
        ),
    ],
    ids=["assets", "capabilities", "time", "all"],
)
def test_an_owner_narrows_in_the_same_act(
    changed: Mapping[str, Any], assets: set[str], capabilities: set[object], length: timedelta, site: Running
) -> None:
    asked = site.ask(*BOTH, capabilities=frozenset({SHELL, EXEC, SFTP_READ}))
    answer = approve(site, site.client(OWNER), asked, **changed)
    assert answer.status_code == 303, alert_of(answer)
    grant = grant_of(site, asked)
    assert grant is not None
    assert logins_of(site, grant) == assets
    assert grant.terms.capabilities == capabilities
    assert grant.interval.closes - grant.interval.opens == length


def test_a_request_with_a_start_is_narrowed_by_its_end_in_the_sites_time(site: Running) -> None:
    asked = site.ask(opens=NOON + 20 * HOUR)
    owner = site.client(OWNER)
    assert 'value="2027-02-25T10:00"' in owner.get(f"/requests/{asked.id}").text
    late = approve(site, owner, asked, until="2027-02-25T10:01")
    assert (late.status_code, grant_of(site, asked)) == (422, None)
    assert "Wider than what was asked" in alert_of(late)
    assert approve(site, owner, asked, until="2027-02-25T09:15").status_code == 303
    grant = grant_of(site, asked)
    assert grant is not None
    assert (grant.interval.opens, grant.interval.closes) == (NOON + 20 * HOUR, NOON + 21.25 * HOUR)


@pytest.mark.parametrize(
    "wider",
    [
        {"asset": BOTH},
        {"asset": ["bms-01.kestrel", "pcs-01.kestrel"]},
        {"capability": ["shell", "exec", "sftp-write"]},
        {"capability": ["tcp:502"]},
        {"length": "2h1m"},
        {"length": "121m"},
    ],
    ids=str,
)
def test_a_yes_is_never_wider_than_what_was_asked(wider: Mapping[str, Any], site: Running) -> None:
    asked = site.ask()
    answer = approve(site, site.client(OWNER), asked, **wider)
    assert answer.status_code in (400, 422)
    assert alert_of(answer)
    assert grant_of(site, asked) is None


def test_a_no_carries_its_reason_to_the_engineer(site: Running) -> None:
    asked = site.ask()
    owner = site.client(OWNER)
    page = f"/requests/{asked.id}"
    assert site.act(owner, f"{page}/deny", version="1", reason="not during <the> test").status_code == 303
    words = words_of(site.client(ENGINEER).get(page).text)
    assert "denied" in words
    assert "by Owner One" in words
    assert "not during &lt;the&gt; test" in words
    assert site.kinds().count("request.denied") == 1


def test_one_decision_wins_and_the_late_one_is_told(site: Running) -> None:
    asked = site.ask()
    first, second = site.client(OWNER), site.client(SECOND_OWNER)
    assert site.act(first, f"/requests/{asked.id}/deny", version="1", reason="no").status_code == 303
    late = approve(site, second, asked)
    assert late.status_code == 409
    assert "has changed since it was read" in alert_of(late)
    assert 'data-state="denied"' in late.text
    assert grant_of(site, asked) is None


def test_four_eyes_are_two_different_owners(site: Running) -> None:
    asked = site.ask("pcs-01.kestrel")
    first, second = site.client(OWNER), site.client(SECOND_OWNER)
    page = f"/requests/{asked.id}"
    assert "Approve as first of two" in first.get(page).text
    assert approve(site, first, asked).status_code == 303
    assert grant_of(site, asked) is None
    words = words_of(second.get(page).text)
    assert "Owner One agreed at Wed 24 Feb 2027 12:00" in words
    assert "Yours is the second yes" in words
    assert "You have agreed; another owner must too." in first.get("/").text
    again = approve(site, first, asked)
    assert again.status_code == 403
    assert "different owner" in alert_of(again)
    assert grant_of(site, asked) is None
    assert approve(site, second, asked).status_code == 303
    assert grant_of(site, asked) is not None


def test_the_asker_under_another_handle_approves_nothing(site: Running) -> None:
    """One human, two handles: the owner's one is of the same human as the engineer's (WEB-3, law 3)."""
    with site.db.begin() as tx:
        here = inventory.load_site(tx, "kestrel")
        human = people.require(tx, ENGINEER).human
        people.insert_person(
            tx, handle="s.han", name="S. Han", roles=[RoleAt(Role.OWNER, here.id)], human=human, by="test"
        )
        site.enrol(tx, "s.han")
    asked = site.ask()
    twin = site.client("s.han")
    assert "nobody approves what they asked for" not in twin.get("/requests").text
    answer = approve(site, twin, asked)
    assert answer.status_code == 403
    assert "Nobody approves what they asked for" in alert_of(answer)
    denied = site.act(twin, f"/requests/{asked.id}/deny", version="1", reason="x")
    assert denied.status_code == 403
    assert 'data-act="approve"' not in twin.get(f"/requests/{asked.id}").text
    assert grant_of(site, asked) is None


def test_a_decision_on_what_was_read_before_a_change_is_refused(site: Running) -> None:
    asked = site.ask()
    answer = approve(site, site.client(OWNER), asked, version="2")
    assert answer.status_code == 409
    assert alert_of(answer) == "The request has changed since it was read: read it again, then decide."


def test_an_undecided_request_lapses(site: Running) -> None:
    asked = site.ask()
    site.clock.move(24 * HOUR)
    owner = site.client(OWNER)
    page = owner.get(f"/requests/{asked.id}").text
    assert 'data-state="lapsed"' in page
    assert 'data-act="approve"' not in page
    assert asked.id not in owner.get("/").text
    answer = approve(site, owner, asked)
    assert answer.status_code == 409
    assert "Lapsed" in alert_of(answer)
    assert grant_of(site, asked) is None


def test_an_old_login_acts_only_with_a_new_code(site: Running) -> None:
    asked = site.ask()
    owner = site.client(OWNER)
    assert 'name="code"' not in owner.get(f"/requests/{asked.id}").text
    site.clock.move(5 * MINUTE)
    assert 'name="code"' in owner.get(f"/requests/{asked.id}").text
    for code, line in (("", "too old"), ("000000", "does not fit")):
        answer = approve(site, owner, asked, code=code)
        assert answer.status_code == 403
        assert line in alert_of(answer)
        assert grant_of(site, asked) is None
    code = site.code(OWNER)
    site.clock.move(timedelta(seconds=5))
    assert approve(site, owner, asked, code=f"{code[:3]} {code[3:]}").status_code == 303
    again = site.ask("bms-02.kestrel")
    assert approve(site, owner, again).status_code == 303  # fresh now, for five minutes more
    site.clock.move(5 * MINUTE)
    last = site.ask("bms-02.kestrel")
    assert approve(site, owner, last, code=code).status_code == 403  # and spent


def test_a_wrong_code_for_an_act_counts_at_every_door(site: Running) -> None:
    asked = site.ask()
    owner = site.client(OWNER)
    site.clock.move(5 * MINUTE)
    for _ in range(5):
        approve(site, owner, asked, code="000000")
        site.clock.move(timedelta(seconds=10))
    locked = approve(site, owner, asked, code=site.code(OWNER))
    assert locked.status_code == 403
    assert "Too many wrong codes" in alert_of(locked)
    assert site.log_in(site.stranger(), OWNER).status_code == 403


def test_an_engineer_asks_reads_and_takes_back(site: Running) -> None:
    engineer = site.client(ENGINEER)
    page = engineer.get("/requests/new").text
    assert "bms-01.kestrel" in page
    assert "bms-09.kestrel" not in page  # received, not yet released
    fields = {"ports": "502", "length": "90m", "opens": "2027-02-25T08:00", "reason": "why", "change": "C-1"}
    answer = site.act(engineer, "/requests/new", asset=BOTH, capability=["shell"], **fields)
    assert answer.status_code == 303, alert_of(answer)
    where = answer.headers["location"]
    with site.db.read() as tx:
        asked = requests.require(tx, where.removeprefix("/requests/"))
    assert (asked.opens, asked.length, asked.change) == (NOON + 20 * HOUR, 90 * MINUTE, "C-1")
    assert sorted(str(one) for one in asked.capabilities) == ["shell", "tcp:502"]
    words = words_of(engineer.get(where).text)
    assert "waiting for an owner of kestrel" in words
    assert "Earlier requests" not in words  # what colleagues do is not theirs to see
    assert site.act(engineer, f"{where}/withdraw").status_code == 303
    assert 'data-state="withdrawn"' in engineer.get(where).text
    again = site.act(engineer, f"{where}/withdraw")
    assert (again.status_code, "withdrawn" in alert_of(again)) == (409, True)


def test_what_stands_outside_every_window_is_said_before_the_yes(site: Running) -> None:
    asked = site.ask(length=2 * HOUR)
    with site.db.begin() as tx:
        desk.close_window(tx, window_id=inventory.windows(tx)[0].id, by="test")
    owner = site.client(OWNER)
    assert "No commissioning window" in owner.get(f"/requests/{asked.id}").text
    assert approve(site, owner, asked).status_code == 422
    assert grant_of(site, asked) is None


def test_the_desk_decides_in_one_go_what_two_browsers_send_at_once(site: Running) -> None:
    """The row and its ledger entry have one winner (WEB-2)."""
    asked = site.ask()
    with site.db.begin() as tx:
        owner = people.require(tx, OWNER).id
        first = desk.approve(
            tx, owner_id=owner, request_id=asked.id, narrowing=Narrowing(), version=1, door="cli", ladder=Ladder()
        )
    assert isinstance(first, Grant)
    late = approve(site, site.client(SECOND_OWNER), asked)
    assert late.status_code == 409
    assert site.kinds().count("grant.made") == 1


def test_the_token_of_a_page_is_that_of_the_session(site: Running) -> None:
    asked = site.ask()
    owner = site.client(OWNER)
    assert token_in(owner.get(f"/requests/{asked.id}").text) == token_in(owner.get("/account").text)
