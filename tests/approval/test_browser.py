"""The pages in Debian's Chromium: on a phone and on a desktop, with and without JavaScript, beside a hostile page."""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, Page, expect

from broker import identity
from broker.domain.capability import EXEC, SFTP_READ, SHELL, Capability, CapabilityKind
from broker.domain.grant import GrantState
from broker.domain.session import EndReason
from tests.approval.eyes import DESKTOP, PHONE, SCREENS, Eyes
from tests.approval.running import (
    ADMIN,
    AUDITOR,
    ENGINEER,
    HOUR,
    INVESTIGATOR,
    NOON,
    OPERATOR,
    OTHER_ENGINEER,
    OWNER,
    PASSWORD,
    Running,
    token_in,
)
from tests.approval.test_deciding import grant_of, logins_of
from tests.approval.test_sessions import standing_of, state_of
from tests.approval.visiting import Visit

pytestmark = pytest.mark.e2e
BOTH: Final = ("bms-01.kestrel", "bms-02.kestrel")
IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
PROMPT: Final = b"\x1b[1;32mservice@bms-01\x1b[0m:~$ "
STATUS: Final = (
    b"rack  state     soc     dU max\r\n"
    b"   1  \x1b[32mrunning\x1b[0m   71.2 %    4 mV\r\n"
    b"   2  \x1b[32mrunning\x1b[0m   71.0 %    5 mV\r\n"
    b"   3  \x1b[33mwarning\x1b[0m   70.8 %   31 mV  cell 4 drifts\r\n"
)
BALANCED: Final = b"balancing cell 4 of rack 3 ... \x1b[32mdone\x1b[0m, dU max 6 mV\r\n"


def a_recorded_visit(site: Running) -> Visit:
    """A few seconds at a battery controller."""
    visit = Visit(site)
    visit.wait(0.3)
    visit.shows(b"bms-01  rack controller 3.8.1\r\n" + PROMPT)
    for command, said in ((b"rackctl status", STATUS), (b"rackctl balance 3 --cell 4", BALANCED)):
        for at in range(len(command)):
            visit.wait(0.03)
            visit.types(command[at : at + 1])
            visit.shows(command[at : at + 1])
        visit.types(b"\r")
        visit.shows(b"\r\n")
        visit.wait(0.3)
        visit.shows(said + PROMPT)
    visit.wait(0.5)
    visit.ends()
    return visit


def log_in(page: Page, site: Running, handle: str) -> None:
    page.get_by_label("Handle").fill(handle)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_label("Code from your phone").fill(site.code(handle))
    page.get_by_role("button", name="Log in").click()


@pytest.mark.parametrize("screen", SCREENS)
def test_an_owner_logs_in_reads_narrows_and_approves(screen: str, site: Running, browser: Browser) -> None:
    asked = site.ask(*BOTH, capabilities=frozenset({SHELL, EXEC, SFTP_READ}))
    with Eyes(site, browser, **SCREENS[screen]) as eyes:
        page = eyes.open(f"/requests/{asked.id}")
        log_in(page, site, OWNER)
        expect(page.get_by_role("heading", level=1)).to_have_text("Engineer One of cellmaker asks for 2 h")
        eyes.fits()
        page.get_by_role("checkbox", name="bms-02.kestrel").uncheck()
        page.get_by_role("checkbox", name="sftp-read").uncheck()
        page.get_by_label("for", exact=True).fill("45m")
        page.get_by_role("button", name="Approve").click()
        expect(page.get_by_text("approved").first).to_be_visible()
        eyes.fits()
    grant = grant_of(site, asked)
    assert grant is not None
    assert logins_of(site, grant) == {"bms-01.kestrel"}
    assert grant.terms.capabilities == {SHELL, EXEC}
    assert grant.interval.closes - grant.interval.opens == timedelta(minutes=45)


def test_on_a_phone_the_buttons_are_under_the_thumb_whatever_the_reason_is(site: Running, browser: Browser) -> None:
    asked = site.ask(*BOTH, reason="\n" * 900 + "a" * 900, change="C" * 64)
    with Eyes(site, browser, OWNER, **PHONE) as eyes:
        page = eyes.open(f"/requests/{asked.id}")
        page.get_by_role("heading", name="Decide").scroll_into_view_if_needed()
        page.get_by_role("checkbox", name="bms-01.kestrel").scroll_into_view_if_needed()
        for name in ("Approve", "Deny…"):
            one = page.get_by_role("button", name=name).or_(page.get_by_role("link", name=name))
            expect(one).to_be_in_viewport(ratio=1)
            box = one.bounding_box()
            assert box is not None
            assert box["height"] >= 44
            assert box["y"] > 844 / 2
        page.get_by_role("link", name="Deny…").click()
        expect(page.get_by_role("button", name="Deny")).to_be_in_viewport()


@pytest.mark.parametrize("screen", SCREENS)
def test_without_javascript_an_owner_approves_denies_and_kills(screen: str, site: Running, browser: Browser) -> None:
    first, second = site.ask(), site.ask("bms-02.kestrel")
    with Eyes(site, browser, java_script_enabled=False, **SCREENS[screen]) as eyes:
        page = eyes.page
        page.goto(site.url)
        log_in(page, site, OWNER)
        page.get_by_role("listitem").filter(has_text=first.id).get_by_role("link", name="Read and decide").click()
        page.get_by_role("button", name="Approve").click()
        grant = grant_of(site, first)
        assert grant is not None
        page.get_by_role("link", name="Waiting").click()
        page.get_by_role("listitem").filter(has_text=second.id).get_by_role("link", name="Read and decide").click()
        page.get_by_label("Reason for a no").fill("not today")
        page.get_by_role("button", name="Deny").click()
        expect(page.get_by_text("not today")).to_be_visible()
        visit = Visit(site)
        page.get_by_role("link", name="Waiting").click()
        page.get_by_role("link", name="Look or kill").click()
        page.locator("#reason").fill("alarm")
        page.get_by_role("button", name="Kill the session").click()
        expect(page.get_by_text("the bastion ends it within a second")).to_be_visible()
    assert standing_of(site, visit) is EndReason.KILLED
    assert state_of(site, grant.id) is GrantState.SUSPENDED


def a_day(site: Running) -> dict[str | None, list[str]]:
    """Something on every page; the paths by who looks at them."""
    grant = site.grant(*BOTH)
    ended = a_recorded_visit(site)
    live = Visit(site, asset="bms-02.kestrel")
    long = "w" * 500 + " \u202eevil\u202c kestr\u0435l <script>alert(1)</script>" + "\n" * 30
    odd = frozenset({SHELL, Capability(CapabilityKind.TCP, 502)})
    hostile = site.ask("pcs-01.kestrel", reason=long, opens=NOON + 20 * HOUR, capabilities=odd)
    plain = site.ask(*BOTH)
    with site.db.begin() as tx:
        codes = [identity.invite(tx, handle=who, by="test") for who in (ADMIN, OTHER_ENGINEER)]
    return {
        None: ["/login", *(f"/enrol/{code}" for code in codes)],
        OWNER: [
            "/",
            "/requests",
            f"/requests/{hostile.id}",
            f"/requests/{plain.id}",
            f"/requests/{grant.request_id}",
            "/grants",
            f"/grants/{grant.id}",
            "/sessions",
            f"/sessions/{live.id}",
            f"/sessions/{ended.id}",
            "/windows",
            "/account",
        ],
        ENGINEER: ["/", "/requests/new", "/requests", f"/requests/{plain.id}", f"/grants/{grant.id}"],
        INVESTIGATOR: ["/", "/recordings", f"/recordings/{ended.id}", f"/recordings/{live.id}"],
        OPERATOR: ["/"],
        AUDITOR: ["/ledger", f"/recordings/{ended.id}"],
    }


@pytest.mark.parametrize(("screen", "scheme"), [("phone", "light"), ("desktop", "dark")])
def test_every_page_fits_the_screen_and_no_policy_is_broken(
    screen: str, scheme: str, site: Running, browser: Browser
) -> None:
    for who, paths in a_day(site).items():
        with Eyes(site, browser, who, color_scheme=scheme, **SCREENS[screen]) as eyes:
            for path in paths:
                page = eyes.open(path)
                expect(page.get_by_role("heading", level=1)).to_have_count(1)
                assert page.locator("script:not([src]), style, [onclick], [style]:not(#player *)").count() == 0, path


def test_the_replay_really_plays_under_the_strict_policy(site: Running, browser: Browser) -> None:
    site.grant()
    visit = a_recorded_visit(site)
    with Eyes(site, browser, INVESTIGATOR, **DESKTOP) as eyes:
        page = eyes.open(f"/recordings/{visit.id}")
        play(page, until="dU max 6 mV")
        expect(page.locator("#player-note")).to_be_hidden()
    assert site.kinds().count("recording.viewed") == 1


def play(page: Page, *, until: str) -> None:
    """Press the player's button and wait until its screen shows the text."""
    page.locator("#player .ap-overlay-start").click()
    expect(page.locator("#player")).to_contain_text(until, timeout=30_000)


@contextmanager
def a_hostile_page(text: str) -> Iterator[str]:
    """The URL of a page on another port of this machine: same site, another origin."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        serving.join(10)
        server.server_close()


def test_a_hostile_page_on_another_port_changes_nothing_and_shows_nothing(site: Running, browser: Browser) -> None:
    asked = site.ask()
    client = site.client(OWNER)
    token = token_in(client.get("/account").text)  # even if it had leaked
    fields = {"token": token, "version": "1", "asset": "bms-01.kestrel", "capability": "shell"}
    inputs = "".join(f'<input name="{name}" value="{value}">' for name, value in fields.items())
    target = f"{site.url}/requests/{asked.id}"
    text = f"""<!doctype html><form id="f" method="post" action="{target}/approve">{inputs}<button>win</button></form>
    <iframe id="i" src="{target}"></iframe><img src="{site.url}/requests">
    <script>
    window.answers = Promise.allSettled([
      fetch("{target}/approve", {{method: "POST", mode: "no-cors", credentials: "include",
        body: new URLSearchParams(new FormData(document.getElementById("f")))}}),
      fetch("{target}/approve", {{method: "POST", credentials: "include", headers: {{"content-type": "application/json"}},
        body: "{{}}"}}),
      fetch("{target}", {{credentials: "include"}}).then((answer) => answer.text()),
    ]).then((all) => all.map((one) => one.status + ":" + (one.value && one.value.type ? one.value.type : "")));
    </script>"""
    before = site.rows()
    context = browser.new_context()
    try:
        context.add_cookies([{"name": "wicketgate", "value": client.cookies["wicketgate"], "url": site.url}])
        page, sent = context.new_page(), list[tuple[str, str]]()
        page.on("request", lambda one: sent.append((one.method, one.url)))
        with a_hostile_page(text) as url:
            page.goto(url)
            answers: list[str] = page.evaluate("window.answers")
            assert answers == ["rejected:"] * 3  # the first was sent; not even its opaque answer may be held
            assert ("POST", f"{target}/approve") in sent
            assert ("GET", target) in sent
            frame = next(one for one in page.frames if one is not page.main_frame)
            assert "Engineer One" not in frame.content()
            page.get_by_role("button", name="win").click()
            expect(page.get_by_text("This form was sent from another site; nothing was changed.")).to_be_visible()
    finally:
        context.close()
    assert site.rows() == before
    assert grant_of(site, asked) is None


def colours(png: bytes) -> int:
    """How many different bytes the picture's rows hold: a blank one holds hardly any. Source: PNG, section 9 and 10."""
    data, at = b"", 8
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        data += png[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += 12 + length
    return len(set(zlib.decompress(data)))


def keep(page: Page, name: str) -> None:
    """Take the picture, see that it is one, and keep it for the README where that is asked for."""
    png = page.screenshot(animations="disabled")
    assert png.startswith(b"\x89PNG")
    assert colours(png) > 100
    assert 10_000 < len(png) < 200_000
    if os.environ.get("WICKETGATE_KEEP_SCREENSHOTS"):
        IMAGES.mkdir(exist_ok=True)
        (IMAGES / name).write_bytes(png)


def test_the_pictures_of_the_readme_are_taken_here(site: Running, browser: Browser) -> None:
    """WICKETGATE_KEEP_SCREENSHOTS=1 writes them into docs/images."""
    site.grant("bms-02.kestrel")
    Visit(site, asset="bms-02.kestrel")
    asked = site.ask(
        "bms-01.kestrel", reason="Cell 4 of rack 3 drifts since Tuesday's firmware. Balance it and watch it."
    )
    tall = PHONE | {"viewport": {"width": 390, "height": 1240}}
    with Eyes(site, browser, OWNER, device_scale_factor=1.25, **tall) as eyes:
        keep(eyes.open(f"/requests/{asked.id}"), "request-phone.png")
    site.grant()
    visit = a_recorded_visit(site)
    with Eyes(site, browser, INVESTIGATOR, **DESKTOP) as eyes:
        page = eyes.open(f"/recordings/{visit.id}")
        play(page, until="balance 3")
        keep(page, "replay-desktop.png")
